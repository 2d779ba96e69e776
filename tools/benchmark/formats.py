"""One model in all formats: time, size and metric of torch and of exported files."""

from __future__ import annotations

import os
from typing import Any, Callable, Iterator, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from gcvit_mm import UserError, cli
from gcvit_mm.checkpoints import load_model
from gcvit_mm.datacheck.folders import check_data
from gcvit_mm.deploy.checking import drawn_picture
from gcvit_mm.deploy.engines import ENGINES
from gcvit_mm.deploy.int8 import is_quantised
from gcvit_mm.deploy.onnx import part_to_export
from gcvit_mm.deploy.predictor import Predictor
from gcvit_mm.messages import described

from . import measure as benchmark
from .suites import Setting

TORCH = 'torch'
NO_INT8 = 'none of the files has 8 bits: make one with export_onnx.py --int8'


class Format(NamedTuple):
    """A model in one format."""

    run: Callable[[], Any]  # for one image
    evaluate: Callable[[], dict]  # metrics on the test set
    megabytes: float


class Sources(NamedTuple):
    """What is compared."""

    files: list[str]
    cfg: Config
    checkpoint: str


def read_words(words: list[str], options: dict | None, data_root: str | None) -> Sources:
    """Read FILE.onnx ... CONFIG CHECKPOINT.

    Raises:
        UserError: If one is missing or not there.
    """
    *files, config, checkpoint = words if len(words) > 2 else ['', '', '']
    if not all(map(cli.is_exported, files)) or not config.endswith('.py'):
        raise UserError(f'--formats {" ".join(words)}: give FILE.onnx ... CONFIG CHECKPOINT')
    if len(set(files)) < len(files):
        raise UserError('--formats: name each file once')
    cfg = cli.load_config(config, options)
    for path in (*files, checkpoint):
        cli.check_file(path, 'file')
    if data_root:
        cli.replace_data_root(cfg, data_root)
    cfg.launcher = 'none'
    cli.use_cpu(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return Sources(files, cfg, checkpoint)


def of_torch(sources: Sources, image: np.ndarray, uint8: bool, compiled: bool) -> Format:
    """The model in torch; compiled: its backbone, as ``compile=True`` of a config does it."""
    whole: Any = MODELS.build(sources.cfg.model)
    load_model(whole, sources.checkpoint)
    whole.eval()
    megabytes = benchmark.weight_memory(whole) * benchmark.MIB / 1e6
    if compiled:
        defaults = getattr(whole.backbone, 'compile_defaults', dict(dynamic=True))
        whole.backbone.compile(**defaults)
    part = part_to_export(sources.cfg, whole, uint8=uint8)
    tensor = torch.from_numpy(image)

    def run() -> None:
        with torch.no_grad():
            part(tensor)

    return Format(run, lambda: cli.headlines(sources.cfg, model=whole), megabytes)


def of_file(sources: Sources, path: str, name: str, picture: np.ndarray) -> Format:
    """An exported file in an engine."""
    predictor = Predictor(path, threads=torch.get_num_threads(), engine=name)
    image, engine = predictor.inputs([picture]), predictor.engine
    return Format(
        lambda: engine.run(image),
        lambda: cli.headlines(sources.cfg, path, name),
        os.path.getsize(path) / 1e6,
    )


def contenders(
    sources: Sources, picture: np.ndarray, only: str | None
) -> Iterator[tuple[str, Callable[[], Format]]]:
    """Rows of the table, and what builds them; torch is always among them."""
    first = Predictor(sources.files[0])
    image, uint8 = first.inputs([picture]), first.facts['input'] == 'uint8'
    rows: dict[str, Callable[[], Format]] = {
        TORCH: lambda: of_torch(sources, image, uint8, False),
        f'{TORCH}, compiled': lambda: of_torch(sources, image, uint8, True),
    }
    eight = False
    for path in sources.files:
        quantised = is_quantised(Predictor(path).facts)
        eight |= quantised
        for name in ENGINES:
            title = f'{name}{", int8" if quantised else ""}'
            title = title if title not in rows else f'{title} {path}'
            rows[title] = lambda path=path, name=name: of_file(sources, path, name, picture)  # type: ignore[misc]

    def missing() -> Format:
        raise UserError(NO_INT8)

    if not eight:
        rows['int8'] = missing
    for title, build in rows.items():
        if title == TORCH or not only or only in title:
            yield title, build


def compare_formats(
    sources: Sources, setting: Setting, only: str | None, with_metric: bool
) -> list[dict]:
    """Time all formats by turns on one drawn picture, then evaluate each.

    Args:
        sources: What is compared.
        setting: Size of the picture, rounds.
        only: Text in the names of the rows wanted.
        with_metric: Whether to evaluate.

    Returns:
        A row for each format: ``name``, ``megabytes``, ``time`` and ``ratio`` (quartiles, in s and
        over torch), ``metrics``; ``problem`` says why something is missing.

    Raises:
        UserError: If the test set is not there.
    """
    if with_metric:
        check_data(sources.cfg, 'test_dataloader')
    picture = drawn_picture(*setting.size)
    rows: dict[str, dict] = {}
    formats: dict[str, Format] = {}
    for name, build in contenders(sources, picture, only):
        rows[name] = dict(name=name, problem='')
        try:
            found = build()
            found.run()
        except Exception as error:  # a format that fails is a row that says why
            rows[name]['problem'] = described(error)
            continue
        formats[name] = found
        rows[name].update(megabytes=found.megabytes)
    passes = {name: found.run for name, found in formats.items()}
    times = benchmark.interleave(passes, setting.rounds, setting.warmups, 'cpu')
    for name, seconds in times.items():
        rows[name].update(time=benchmark.quartiles(seconds)._asdict())
        if TORCH in times:
            rows[name].update(ratio=benchmark.ratio(seconds, times[TORCH])._asdict())
    if with_metric:
        for name, found in formats.items():
            try:
                rows[name].update(metrics=found.evaluate())
            except Exception as error:
                rows[name]['problem'] = described(error)
    return list(rows.values())
