"""Exported files in the place of a checkpoint, for tools/test.py and tools/predict.py."""

import copy
import io
import tempfile
from contextlib import redirect_stdout
from typing import Any, Optional, Tuple

from mmengine.config import Config
from mmengine.registry import init_default_scope

from ..datacheck.folders import check_data
from ..deploy.evaluation import FileModel
from ..deploy.metadata import pipeline_of
from ..deploy.onnx import TASKS
from ..errors import UserError
from .runner import build_runner
from .terminal import import_quietly

HEADLINES = ('bbox_mAP', 'segm_mAP', 'mIoU', 'accuracy/top1')  # what papers report
SCOPES = {task: scope for scope, task in TASKS.items()}
VISUALIZERS = {
    'detector': 'gcvit_mm.visualization.detections.ReadableVisualizer',
    'segmentor': 'SegLocalVisualizer',
    'classifier': 'UniversalVisualizer',
}


def is_exported(path: str) -> bool:
    """Tell whether a path is that of an exported file."""
    return path.lower().endswith('.onnx')


def check_engine(engine: Optional[str], path: str) -> None:
    """Check that an engine is only named for an exported file.

    Raises:
        UserError: If it is named for a checkpoint.
    """
    if engine and not is_exported(path):
        raise UserError(f'--engine: runs FILE.onnx, not {path}: export it (tools/export_onnx.py)')


def open_exported(path: str, engine: Optional[str] = None) -> Tuple[Config, FileModel, dict]:
    """Open a file for drawing what it predicts.

    Args:
        path: The file.
        engine: What runs it.

    Returns:
        A config with what drawing needs, the model, class names and colours.

    Raises:
        UserError: If the file is none of ours, or does not say how pictures are resized.
    """
    model = FileModel(path, engine or 'onnxruntime')
    facts = model.predictor.facts
    cfg = Config(
        dict(
            default_scope=SCOPES[facts['task']],
            visualizer=dict(type=VISUALIZERS[facts['task']], name='visualizer'),
            test_dataloader=dict(dataset=dict(pipeline=pipeline_of(facts, path))),
        )
    )
    import_quietly(cfg)
    init_default_scope(cfg.default_scope)
    palette = facts['palette'] and [tuple(colour) for colour in facts['palette']]
    return cfg, model, dict(classes=facts['classes'], palette=palette)


def evaluate_exported(cfg: Config, args: Any) -> None:
    """Put an exported file into a config in the place of its model.

    Raises:
        UserError: If it cannot be tested as is asked.
    """
    for option in ('amp', 'tta', 'allow_partial'):
        if getattr(args, option):
            name = option.replace('_', '-')
            raise UserError(f'--{name}: goes with checkpoints, not with {args.checkpoint}')
    if args.launcher != 'none':
        raise UserError(f'{args.checkpoint} is evaluated by one process: leave --launcher out')
    replace_model(cfg, args.checkpoint, args.engine)


def replace_model(cfg: Config, path: str, engine: Optional[str] = None) -> None:
    """Put an exported file into a config in the place of its model; ``engine`` runs it."""
    kind = f'{FileModel.__module__}.{FileModel.__name__}'
    cfg.model = dict(type=kind, path=path, engine=engine or 'onnxruntime')
    hooks = cfg.get('custom_hooks') or []
    cfg.custom_hooks = [hook for hook in hooks if hook.get('type') != 'EMAHook']  # has no weights


def check_exported(runner: Any, path: str) -> None:
    """Check that an exported file fits the config that it is evaluated with.

    Args:
        runner: Runner of the config, whose model is the file.
        path: The file.

    Raises:
        UserError: If it does another task, or has other classes than the data set.
    """
    facts = runner.model.predictor.facts
    if SCOPES[facts['task']] != runner.cfg.get('default_scope'):
        raise UserError(
            f'{path} is a {facts["task"]}, exported with {facts["config"]}: '
            f'{runner.cfg.filename} is no config of one'
        )
    dataset = runner.test_dataloader.dataset
    own, wanted = facts['classes'], list(dataset.metainfo.get('classes') or [])
    if wanted and own != wanted:
        own, wanted = next((a, b) for a, b in zip([*own, None], [*wanted, None]) if a != b)
        raise UserError(
            f'{path} has other classes than the data set ({own} where that has {wanted}): name the '
            'config that it was exported with'
        )


def headlines(cfg: Config, path: str = '', engine: Optional[str] = None, model: Any = None) -> dict:
    """Evaluate an exported file, or a model, on the test set of a config, without a word.

    Args:
        cfg: The config, after :func:`gcvit_mm.cli.prepare`; it stays as it is.
        path: The file.
        engine: What runs it.
        model: A model in the place of a file.

    Returns:
        The metrics that papers report, by name: AP of boxes and masks, mIoU, accuracy.

    Raises:
        UserError: If the data is missing, or the file does not fit.
    """
    check_data(cfg, 'test_dataloader')
    cfg = copy.deepcopy(cfg)
    if model is None:
        replace_model(cfg, path, engine)
    for key in ('runner_type', 'strategy'):  # they divide a model for its training
        cfg.pop(key, None)
    # workers, forked beside the threads of engines, end in a fault
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.test_dataloader.pop('prefetch_factor', None)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        # what mmengine keeps by name would write into the folder of the run before
        cfg.merge_from_dict(dict(work_dir=folder, experiment_name=folder, visualizer=None))
        cfg.merge_from_dict(dict(launcher='none', log_level='ERROR'))
        runner = build_runner(cfg)
        if model is None:
            check_exported(runner, path)
        else:
            runner.model = model
        found = runner.test()
    return {key.split('/')[-1]: value for key, value in found.items() if key.endswith(HEADLINES)}
