"""A whole training step, and a whole evaluation: what each part takes, by turns with others."""

from __future__ import annotations

from typing import Any, Callable

import torch

from gcvit_mm.planning.predict import find_load

from . import measure as benchmark
from .clock import REST, Part
from .runs import OBJECTS, Run, make_run, read_config
from .suites import Setting

SIDES = dict(cpu=2048, cuda=8192)  # of the matrices whose product is timed
PRODUCT = 'product of matrices'


def measure_steps(
    subject: str,
    peers: list[str],
    setting: Setting,
    mode: str,
    size: tuple | None,
    batch: int | None,
    cfg_options: dict | None = None,
    data_root: str | None = None,
) -> dict:
    """Time the steps of configs by turns, part by part.

    Drawn pictures have the size and the number of the subject's, for all configs: the largest that
    its pipeline makes. An evaluation is given one picture. Every round takes each step twice, as
    it is and under the clock, and one product of matrices.

    Args:
        subject: Config file.
        peers: What it is compared with: config files, or names such as 'mmdet::FOLDER/FILE.py'.
        setting: Device, precision, rounds.
        mode: 'training', or 'forward' for evaluations.
        size: Height and width of drawn pictures, in the place of the subject's.
        batch: Pictures of a training step, in the place of the subject's.
        cfg_options: Changes to the subject.
        data_root: Folder of real pictures, which are read by each config's own pipeline.

    Returns:
        What ``--json`` holds of one mode: ``product_gmacs_per_s``, and ``rows`` with one for each
        config: what :func:`row_of` gives, ``images_per_s``, of peers ``ratio`` (the subject's time
        over theirs, quartiles).

    Raises:
        UserError: If a config cannot be read, or its data is not there.
    """
    training = mode == 'training'
    configs = {
        name: read_config(name, cfg_options if name == subject else None, data_root)
        for name in (subject, *peers)
    }
    count = (batch or configs[subject].train_dataloader.batch_size) if training else 1
    if not data_root:
        load = find_load(configs[subject], size, OBJECTS)
        size = load.train if training else load.test
    sizes = [size] if size else None
    runs = {name: make_run(cfg, mode, sizes, count, setting) for name, cfg in configs.items()}
    gmacs = {name: run.gmacs() for name, run in runs.items()}
    passes = {name: run.step for name, run in runs.items()}
    passes.update({f'{name}, timed': run.timed for name, run in runs.items()})
    passes[PRODUCT] = product(setting.device, setting.dtype)
    times = benchmark.interleave(passes, setting.rounds, setting.warmups, setting.device)
    rate = SIDES[setting.device] ** 3 / 1e9 / benchmark.quartiles(times[PRODUCT]).median
    rows = {}
    for name, run in runs.items():
        row = row_of(run, times[name], gmacs[name], rate)
        row['images_per_s'] = count / row['time']['median']
        if name != subject:
            row['ratio'] = benchmark.ratio(times[subject], times[name])._asdict()
        rows[name] = row
    return dict(
        subject=subject,
        mode=mode,
        pictures=data_root or 'drawn',
        size=list(size) if size else None,
        batch=count,
        dtype=setting.dtype,
        product_gmacs_per_s=rate,
        rows=rows,
    )


def product(device: str, dtype: str) -> Callable[[], Any]:
    """A product of square matrices, which a device computes as fast as it can."""
    side = SIDES[device]
    matrix = torch.randn(side, side, device=device, dtype=benchmark.DTYPES[dtype])
    return lambda: matrix @ matrix


def row_of(run: Run, times: list[float], gmacs: dict[Part, float], rate: float) -> dict:
    """What was measured of one config.

    Args:
        run: Its steps, whose last rounds count.
        times: Seconds of as many steps as count, without the clock.
        gmacs: GMACs of its parts.
        rate: GMACs/s of the product of matrices.

    Returns:
        ``parts``: for each ``name``, ``backward``, ``time`` (quartiles in s), ``share`` of the sum
        of the medians, ``gmacs``, and ``of_product``: how much of ``rate`` it reached (``None``
        without GMACs). ``time`` of the step without the clock, ``timed``: of the sum of its parts
        (quartiles in s); ``times``: those of all rounds. ``objects`` that an evaluation found.
    """
    rounds = run.rounds[-len(times) :]
    found = dict.fromkeys(part for spent in rounds for part in spent)
    heads = list(dict.fromkeys(part.head for part in found))
    # backward passes behind all that is forward, what no part claims last, a head before its losses
    order = sorted(
        found, key=lambda x: (x.backward, x.name == REST, heads.index(x.head), x.name != x.head)
    )
    spent = {part: benchmark.quartiles([one.get(part, 0.0) for one in rounds]) for part in order}
    whole = sum(value.median for value in spent.values())
    parts = []
    for part, value in spent.items():
        macs = gmacs.get(part, 0.0)
        parts.append(
            dict(
                name=part.name,
                backward=part.backward,
                time=value._asdict(),
                share=value.median / whole,
                gmacs=macs,
                of_product=macs / value.median / rate if macs and value.median else None,
            )
        )
    row: dict[str, Any] = dict(
        parts=parts,
        time=benchmark.quartiles(times)._asdict(),
        timed=benchmark.quartiles([sum(one.values()) for one in rounds])._asdict(),
        times=times,
    )
    if isinstance(run.results, list) and hasattr(run.results[0], 'pred_instances'):
        row['objects'] = len(run.results[0].pred_instances)
    return row
