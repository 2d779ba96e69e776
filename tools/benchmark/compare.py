"""Comparing a subject with its peers; measuring the bars of a suite, and growth with the image."""

from __future__ import annotations

from typing import Any, Callable, Iterator

import torch
from rich.console import Console

from gcvit_mm import UserError

from . import measure as benchmark
from .contenders import SAME, build, build_peer
from .runs import make_run, read_config
from .suites import FAMILIES, STEP_SHAPES, SUITES, Bar, Setting

GRADIENT_CROP = 320  # side of the part of the images on which gradients are compared


def compare(
    spec: str,
    peers: list[str],
    setting: Setting,
    mode: str,
    cfg_options: dict | None = None,
    timed: bool = True,
) -> dict:
    """Compare a subject with its peers in one mode.

    Peers that compute the same are checked first, in fp32.

    Returns:
        What ``--json`` holds of one comparison.

    Raises:
        UserError: For bad names, or a peer that does not compute the same.
    """
    training, images = mode == 'training', setting.images
    torch.manual_seed(0)
    rows, passes, models, subject = {}, {}, {}, None
    for name in [spec, *peers]:
        model = (
            build(spec, cfg_options) if subject is None else build_peer(name, subject, setting.size)
        )
        model.to(setting.device)
        model.train(training)  # not chained: mmdet's Swin returns None
        subject = model if subject is None else subject
        parity = None
        if name in SAME and name != spec:
            # timm mixes the global queries of a batch up; a crop suffices for the gradients
            sample = images[:1] if name == 'timm' else images
            sample = sample[..., :GRADIENT_CROP, :GRADIENT_CROP] if training else sample
            parity = benchmark.check_parity(subject, model, sample, training, name)
        rows[name] = dict(
            gmacs=benchmark.count_gmacs(model, setting.size) * setting.batch,
            weights_mib=benchmark.weight_memory(model),
            parity=parity,
        )
        models[name] = model
        if setting.compiled:
            model = torch.compile(model, **getattr(model, 'compile_defaults', dict(dynamic=True)))
        passes[name] = benchmark.make_pass(model, images, training, setting.dtype)
    times = {}
    if timed:
        times = benchmark.interleave(passes, setting.rounds, setting.warmups, setting.device)
    for name, row in rows.items():
        if not timed or setting.compiled:
            passes[name]()  # nothing that belongs to the first pass only
        row['pass_mib'] = benchmark.peak_memory(passes[name], models[name])
        row['memory_mib'] = row['pass_mib'] + row['weights_mib']
        row['times'] = times.get(name)
        row['time'] = benchmark.quartiles(times[name])._asdict() if timed else None
        row['images_per_s'] = setting.batch / row['time']['median'] if timed else None
    for name in peers:
        rows[name].update(ratios(rows[spec], rows[name]))
    height, width = setting.size
    return dict(
        subject=spec,
        mode=mode,
        size=[height, width],
        batch=setting.batch,
        dtype=setting.dtype,
        compiled=setting.compiled,
        rows=rows,
    )


def ratios(row: dict, peer: dict) -> dict:
    """Return the ratios of a subject over a peer."""
    found: dict[str, Any] = {'memory_ratio': row['memory_mib'] / peer['memory_mib']}
    if row['times']:
        over = benchmark.ratio(row['times'], peer['times'])
        found['time_ratio'] = over._asdict()
        found['time_per_gmac_ratio'] = over.median * peer['gmacs'] / row['gmacs']
    return found


def step_shapes() -> list[tuple[int, int]]:
    """Shapes as multi-scale training meets them: short sides 480..800, both orientations."""
    generator = torch.Generator().manual_seed(0)
    shapes = []
    for number in range(STEP_SHAPES):
        short = 480 + 32 * int(torch.randint(11, (), generator=generator))
        long = min(1333, int(short * (1.2 + 0.4 * float(torch.rand((), generator=generator)))))
        shapes.append((short, long) if number % 2 else (long, short))
    return shapes


def steps_of(path: str, shapes: list, batch: int, setting: Setting) -> Callable[[], None]:
    """What takes a training step of a config on a batch of every shape."""
    run = make_run(read_config(path, None, None), 'training', shapes, batch, setting)

    def steps() -> None:
        for _ in shapes:
            run.step()

    return steps


def measure(bar: Bar, setting: Setting) -> tuple[float, dict | None]:
    """Measure one bar; return its value and the comparison behind it."""
    setting = setting._replace(
        size=bar.size, batch=bar.batch, dtype=bar.dtype, compiled=bar.compiled
    )
    if bar.quantity in ('step', 'steps'):
        shapes = step_shapes() if bar.quantity == 'steps' else [bar.size]
        passes = {
            name: steps_of(name, shapes, bar.batch, setting)
            for name in (bar.subject, str(bar.peer))
        }
        rounds = min(setting.rounds, 5)
        times = benchmark.interleave(passes, rounds, 1, setting.device)
        return benchmark.ratio(times[bar.subject], times[str(bar.peer)]).median, dict(times=times)
    peers = [bar.peer] if bar.peer else []
    timed = bar.quantity != 'memory'
    found = compare(bar.subject, peers, setting, bar.mode, timed=timed)
    if bar.peer is None:
        return found['rows'][bar.subject]['time']['median'] * 1e3, found
    row = found['rows'][bar.peer]
    values = dict(memory=row['memory_ratio'])
    if timed:
        values['time'] = row['time_ratio']['median']
        values['time per GMAC'] = row['time_per_gmac_ratio']
        values['throughput'] = 1 / values['time']
    return values[bar.quantity], found


def run_suite(name: str, only: str | None, setting: Setting) -> Iterator[dict]:
    """Measure the bars of a suite; print and give each as it is done.

    Raises:
        UserError: If no bar has the text of ``--only``.
    """
    bars = [bar for bar in SUITES[name] if not only or only in bar.title]
    if not bars:
        raise UserError(f"--only '{only}': no bar of the suite {name} has that in its title")
    for bar in bars:
        value, found = measure(bar, setting)
        passed = bar.passes(value)
        sign = '>=' if bar.quantity == 'throughput' else '<='
        verdict = '[green]pass[/]' if passed else '[red]FAIL[/]'
        title = bar.title.replace('[', r'\[')
        Console(width=160).print(f'{verdict} {value:.2f} {sign} {bar.limit:.2f}  {title}')
        yield dict(title=bar.title, value=value, limit=bar.limit, passed=passed, comparison=found)


def grow(family: str, sides: list[int], mode: str, setting: Setting) -> dict:
    """Measure one family on squares of growing side, and fit exponents of the pixels."""
    spec, theory = FAMILIES[family]
    training = mode == 'training'
    model = build(spec).to(setting.device)
    model.train(training)
    passes = {
        str(side): benchmark.make_pass(
            model, setting._replace(size=(side, side)).images, training, setting.dtype
        )
        for side in sides
    }
    times = benchmark.interleave(passes, setting.rounds, setting.warmups, setting.device)
    pixels = [side * side for side in sides]
    curves = {
        'time': [benchmark.quartiles(times[name]).median for name in passes],
        'memory': [benchmark.peak_memory(run, model) for run in passes.values()],
        'GMACs': [benchmark.count_gmacs(model, (side, side)) for side in sides],
        'attention GMACs': [benchmark.count_gmacs(model, (side, side), True) for side in sides],
    }
    fits = {name: benchmark.exponent(pixels, values) for name, values in curves.items()}
    return dict(family=family, mode=mode, theory=theory, sides=sides, curves=curves, exponents=fits)
