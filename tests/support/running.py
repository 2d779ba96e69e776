"""Running the tools: inside this process, or as programs of their own where processes matter."""

import os
import re
import subprocess
import sys
from typing import Dict, List, Optional

from support.in_process import ROOT, run_inside

# One thread a process: several of them share few cores. Shell scripts find this Python.
ENV = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES='')
ENV['PATH'] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get('PATH', '')])
# Whether the tools may see a GPU; conftest.py sets it for tests that are marked so.
SEES_GPU = False
# Where the code and the modules of support/ are found.
TESTS = f'{ROOT}:{ROOT / "tests"}'
# Real images for tests, where they are.
SAMPLES = ROOT.parent / 'shared' / 'data'
# The configs of the drawn shapes, and the folder that each takes its data from.
DET = 'configs/mask_gcvit_xxt_shapes.py'
SEG = 'configs/upernet_gcvit_xxt_shapes.py'
CLS = 'configs/cls_gcvit_xxt_shapes.py'
FOLDERS = {DET: 'coco', SEG: 'ade/ADEChallengeData2016', CLS: 'imagenet'}
SHAPE_CLASSES = "('circle','square','triangle','star','cross')"
# Small heads: the code that runs is the same.
SMALL_RCNN = [
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False',
    'model.train_cfg.rpn_proposal.max_per_img=50',
    'model.test_cfg.rpn.max_per_img=20',
    'model.test_cfg.rcnn.max_per_img=20',
    'default_hooks.logger.interval=1',
]


def environment(changes: Optional[Dict[str, str]] = None) -> Dict[str, str]:
    """Environment of a process: without GPU, unless the test is one for GPUs."""
    env = {**ENV, **(changes or {})}
    if SEES_GPU:
        env.pop('CUDA_VISIBLE_DEVICES')
    return env


def start(*command, env: Optional[Dict[str, str]] = None, **kwargs) -> subprocess.Popen:
    """Start a program; a name that ends in .py is one of tools/."""
    words: List[str] = [str(word) for word in command]
    if words[0].endswith('.py'):
        words = [sys.executable, str(ROOT / 'tools' / words[0]), *words[1:]]
    else:
        words[0] = str(ROOT / 'tools' / words[0])
    return subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **kwargs,
    )


def run(*command, env: Optional[Dict[str, str]] = None, status: int = 0) -> str:
    """Run a tool to its end and return what it printed; its status must be the given.

    All but shell scripts run inside this process, see :func:`run_process`.
    """
    words = [str(word) for word in command]
    if words[0].endswith('.sh'):
        return run_process(*command, env=env, status=status)
    output, found = run_inside(words, env or {}, SEES_GPU)
    assert found == status, output[-4000:]
    return output


def run_process(*command, env: Optional[Dict[str, str]] = None, status: int = 0) -> str:
    """The same as a program of its own."""
    process = start(*command, env=env)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == status, output[-4000:]
    return output


def one_line_error(*command, env: Optional[Dict[str, str]] = None) -> str:
    """Run a tool that must end with status 2 and a one-line error; return that line."""
    output = run(*command, env=env, status=2)
    errors = [line for line in output.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1, output[-4000:]
    assert 'Traceback' not in output, output[-4000:]
    return errors[0]


def losses(output: str) -> Dict[int, float]:
    """Losses by step from the log of an iteration-based training."""
    rows = re.findall(r'Iter\(train\)\s*\[\s*(\d+)/\d+\].*?\bloss: ([\d.]+)', output)
    return {int(step): float(loss) for step, loss in rows}


def iterations(count: int) -> list:
    """Options for a short run of an iteration-based config."""
    return [
        f'train_cfg.max_iters={count}',
        f'train_cfg.val_interval={count}',
        f'default_hooks.checkpoint.interval={count}',
        'default_hooks.logger.interval=1',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'randomness.seed=0',
    ]


def falls(curve: dict) -> bool:
    """Whether the last third of the losses is lower than the first, on average."""
    values, third = [curve[i] for i in sorted(curve)], len(curve) // 3
    return sum(values[-third:]) < sum(values[:third])


def coco_options(shapes, *heads: str) -> list:
    """Where the shipped COCO configs find images here, and what makes them small."""
    options = [
        *SMALL_RCNN,
        'model.test_cfg.rcnn.score_thr=0.0',
        'train_cfg.max_epochs=1',
        'default_hooks.checkpoint.save_best=None',  # one checkpoint is enough
        'train_dataloader.dataset.indices=4',
        'val_dataloader.dataset.indices=4',
        'test_dataloader.dataset.indices=4',
        'val_dataloader.dataset.pipeline.1.scale=(160,96)',
        'test_dataloader.dataset.pipeline.1.scale=(160,96)',
    ]
    if (SAMPLES / 'coco_sample').is_dir():
        return ['--data-root', SAMPLES / 'coco_sample', '--cfg-options', *options]
    for loader in ('train', 'val', 'test'):
        options.append(f'{loader}_dataloader.dataset.metainfo.classes={SHAPE_CLASSES}')
    options += [f'model.{head}.num_classes=5' for head in heads]
    return ['--data-root', shapes / 'coco', '--cfg-options', *options]


SMALL_MULTI_SCALE = [
    'train_dataloader.dataset.pipeline.3.transforms.0.0.scales=[(96,160),(128,160)]',
    'train_dataloader.dataset.pipeline.3.transforms.1.0.scales=[(96,160)]',
    'train_dataloader.dataset.pipeline.3.transforms.1.2.scales=[(96,160)]',
]


def ade_options(shapes) -> list:
    """Where the shipped ADE20K configs find images here, and what makes them small."""
    sample = SAMPLES / 'ade_sample/ADEChallengeData2016'
    return [
        '--data-root',
        sample if sample.is_dir() else shapes / 'ade/ADEChallengeData2016',
        '--cfg-options',
        'default_hooks.checkpoint.save_best=None',
        'val_dataloader.num_workers=0',
        'val_dataloader.persistent_workers=False',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
        'model.data_preprocessor.size=(96,96)',
        'train_dataloader.dataset.pipeline.2.scale=(256,96)',
        'train_dataloader.dataset.pipeline.3.crop_size=(96,96)',
        'val_dataloader.dataset.pipeline.1.scale=(256,96)',
        'test_dataloader.dataset.pipeline.1.scale=(256,96)',
    ]
