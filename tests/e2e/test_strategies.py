"""Sharded training: whose checkpoints are whose."""

import os
import re
import subprocess
import sys

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from gcvit_mm import cli
from gcvit_mm.checkpoints import load_model
from support.families import make
from support.running import CLS, ENV, ROOT, TESTS, run


def test_a_config_with_a_strategy_evaluates(shapes, tmp_path):
    """In one process, also where what the strategy needs is not installed."""
    leaf, fragment = ROOT / CLS, ROOT / 'configs/strategies/deepspeed.py'
    both = tmp_path / 'both.py'
    both.write_text(
        f"_base_ = ['{leaf}', '{fragment}']\noptim_wrapper = dict(type='DeepSpeedOptimWrapper')\n"
    )
    model = cli.build_model(cli.load_config(str(leaf)))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'single.pth')
    words = [both, tmp_path / 'single.pth', '--work-dir', tmp_path, '--data-root']
    words += [shapes / 'imagenet', '--cfg-options', 'test_dataloader.num_workers=0']
    output = run('test.py', *words, 'test_dataloader.persistent_workers=False')
    assert re.search(r'accuracy/top1: \d', output)


def train(fragment, *words):
    """Two processes, two steps; what they printed."""
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    command += ['--nproc_per_node', '2', str(ROOT / 'tests/support/strategy_run.py'), fragment]
    paths = [TESTS, os.environ.get('PYTHONPATH', '')]
    env = dict(ENV, PYTHONPATH=os.pathsep.join(filter(None, paths)), DS_ACCELERATOR='cpu')
    done = subprocess.run(
        [*command, *map(str, words)],
        env=env,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ('fragment', 'saved', 'precision'),
    [
        ('ddp', 'iter_2.pth', 0.0),
        ('fsdp', 'iter_2.pth', 0.0),
        ('deepspeed', 'iter_2.pth/mp_rank_00_model_states.pt', 2**-8),  # in bfloat16
    ],
)
def test_checkpoints_are_anyones(fragment, saved, precision, shapes, tmp_path):
    """One process loads what a strategy wrote, and it starts from what one process wrote."""
    if fragment == 'deepspeed':
        pytest.importorskip('deepspeed', reason='DeepSpeed is not installed')
    cfg = cli.load_config(str(ROOT / CLS))
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    torch.save(dict(model=model.state_dict()), tmp_path / 'single.pth')
    start = {name: p.detach().clone() for name, p in model.named_parameters()}

    words = (tmp_path / fragment, shapes / 'imagenet', 1e-4, tmp_path / 'single.pth')
    status, output = train(fragment, *words)
    assert status == 0, output[-4000:]
    trained = tmp_path / fragment / saved
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    load_model(model, str(trained), trust_checkpoint=True)
    for name, p in model.named_parameters():
        # two steps of AdamW go no further than twice the rate: it started from these weights
        moved = (p.detach() - start[name]).abs().max().item()
        assert moved <= 2.1e-4 + precision * start[name].abs().max().item(), name
        assert moved or precision, name
    if fragment == 'fsdp':
        content = torch.load(trained, weights_only=False)
        assert len(content['optimizer']['state']) == len(start)


def test_weights_of_another_model_are_refused(shapes, tmp_path):
    """load_from, which a strategy would pass over without a word."""
    torch.save(make('gpvit').state_dict(), tmp_path / 'other.pth')
    words = (tmp_path, shapes / 'imagenet', 1e-4, tmp_path / 'other.pth')
    status, output = train('ddp', *words)
    assert status != 0
    assert 'fits 0 of' in output and 'Traceback' not in output.partition('torch/distributed')[0]
