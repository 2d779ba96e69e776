"""Exported files in the place of a checkpoint, for tools/test.py and tools/predict.py."""

from typing import Any, Optional, Tuple

from mmengine.config import Config
from mmengine.registry import init_default_scope

from ..deploy.evaluation import FileModel
from ..deploy.metadata import pipeline_of
from ..deploy.onnx import TASKS
from ..errors import UserError

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
    init_default_scope(cfg.default_scope)
    palette = facts['palette'] and [tuple(colour) for colour in facts['palette']]
    return cfg, model, dict(classes=facts['classes'], palette=palette)


def evaluate_exported(cfg: Config, args: Any) -> None:
    """Put an exported file into a config in the place of its model.

    Raises:
        UserError: If it cannot be tested as is asked.
    """
    for option in ('tta', 'allow_partial'):
        if getattr(args, option):
            name = option.replace('_', '-')
            raise UserError(f'--{name}: goes with checkpoints, not with {args.checkpoint}')
    if args.launcher != 'none':
        raise UserError(f'{args.checkpoint} is evaluated by one process: leave --launcher out')
    kind = f'{FileModel.__module__}.{FileModel.__name__}'
    cfg.model = dict(type=kind, path=args.checkpoint, engine=args.engine or 'onnxruntime')
    hooks = cfg.get('custom_hooks') or []
    cfg.custom_hooks = [hook for hook in hooks if hook.get('type') != 'EMAHook']  # has no weights


def check_exported(runner: Any, args: Any) -> None:
    """Check that an exported file fits the config that it is evaluated with.

    Args:
        runner: Runner of the config, whose model is the file.
        args: Arguments of tools/test.py.

    Raises:
        UserError: If it does another task, or has other classes than the data set.
    """
    path, facts = args.checkpoint, runner.model.predictor.facts
    if SCOPES[facts['task']] != runner.cfg.get('default_scope'):
        raise UserError(
            f'{path} is a {facts["task"]}, exported with {facts["config"]}: {args.config} is no '
            'config of one'
        )
    dataset = runner.test_dataloader.dataset
    own, wanted = facts['classes'], list(dataset.metainfo.get('classes') or [])
    if wanted and own != wanted:
        own, wanted = next((a, b) for a, b in zip([*own, None], [*wanted, None]) if a != b)
        raise UserError(
            f'{path} has other classes than the data set ({own} where that has {wanted}): name the '
            'config that it was exported with'
        )
