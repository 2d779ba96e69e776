"""Sharded training: whose checkpoints are whose."""

import re
import shutil

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from gcvit_mm import cli
from gcvit_mm.checkpoints import load_model
from support import strategy_run
from support.families import make
from support.forked import run_ranks, tool
from support.running import CLS, ROOT, iterations, losses, run

ON_CPU = dict(DS_ACCELERATOR='cpu')


def with_strategy(fragment, path):
    """Write a config of a classifier that trains with a strategy; DeepSpeed clips by itself."""
    text = f'_base_ = {[str(ROOT / CLS), str(ROOT / f"configs/strategies/{fragment}.py")]}\n'
    if fragment == 'deepspeed':
        kept = [f'{key}=_base_.optim_wrapper.{key}' for key in ('optimizer', 'paramwise_cfg')]
        kept = ', '.join(["_delete_=True, type='DeepSpeedOptimWrapper'", *kept])
        text += f'optim_wrapper = dict({kept})\n'
    path.write_text(text)
    return path


def test_a_config_with_a_strategy_evaluates(shapes, tmp_path):
    """In one process, also where what the strategy needs is not installed; so is it checked."""
    both = with_strategy('deepspeed', tmp_path / 'both.py')
    model = cli.build_model(cli.load_config(str(ROOT / CLS)))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'single.pth')
    data = ['--work-dir', tmp_path, '--data-root', shapes / 'imagenet']
    assert 'ready: ' in run('train.py', both, '--check', *data)
    words = [both, tmp_path / 'single.pth', *data]
    words += ['--cfg-options', 'test_dataloader.num_workers=0']
    output = run('test.py', *words, 'test_dataloader.persistent_workers=False')
    assert re.search(r'accuracy/top1: \d', output)


def train(folder, *words, count=2):
    """Two steps of processes that train together; their status, and what they printed."""
    return run_ranks(folder, strategy_run.main, *map(str, words), count=count, env=ON_CPU)


def one_process(folder):
    """A model, its weights, and a checkpoint of them as one process writes it."""
    cfg = cli.load_config(str(ROOT / CLS))
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    torch.save(dict(model=model.state_dict()), folder / 'single.pth')
    return model, {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_trained(model, start, path, far, precision=0.0, trust=False):
    """A checkpoint of a few steps loads, and lies near the start.

    Steps of AdamW go no further than the rate: training started from these weights.
    """
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    load_model(model, str(path), trust_checkpoint=trust)
    for name, p in model.named_parameters():
        moved = (p.detach() - start[name]).abs().max().item()
        assert moved <= far + precision * start[name].abs().max().item(), name
        assert moved or precision, name


@pytest.mark.parametrize(
    ('fragment', 'saved', 'precision'),
    [
        ('ddp', 'iter_2.pth', 0.0),
        ('deepspeed', 'iter_2.pth/mp_rank_00_model_states.pt', 2**-8),
    ],
)
def test_checkpoints_are_anyones(fragment, saved, precision, shapes, tmp_path):
    """One process loads what a strategy wrote, and it starts from what one process wrote.

    mmengine's own DeepSpeedStrategy saves folders, with weights in bfloat16.
    """
    if fragment == 'deepspeed':
        pytest.importorskip('deepspeed', reason='DeepSpeed is not installed')
    model, start = one_process(tmp_path)
    words = (tmp_path / fragment, shapes / 'imagenet', 1e-4, tmp_path / 'single.pth')
    status, output = train(tmp_path, fragment, *words)
    assert status == 0, output[-4000:]
    trained = tmp_path / fragment / saved
    assert_trained(model, start, trained, 2.1e-4, precision, trust=precision > 0)


@pytest.mark.parametrize(
    ('fragment', 'said', 'precision'),
    [
        ('fsdp', r'fully_shard: [1-9]\d* blocks and the rest', 0.0),
        ('deepspeed', 'DeepSpeedZeroOptimizer', 2**-8),  # it begins with weights in bfloat16
    ],
)
def test_sharded_training_resumes(fragment, said, precision, shapes, tmp_path):
    """Losses, weights and moments as without a break; one process goes on there too.

    The checkpoint was saved once more after an evaluation, and beside a best one.
    """
    if fragment == 'deepspeed':
        pytest.importorskip('deepspeed', reason='DeepSpeed is not installed')
    config = with_strategy(fragment, tmp_path / 'config.py')
    data = ['--data-root', shapes / 'imagenet']
    options = [
        *iterations(4),
        'train_cfg.val_interval=2',
        'train_dataloader.batch_size=4',
        'val_dataloader.num_workers=0',
        'val_dataloader.persistent_workers=False',
        'default_hooks.checkpoint.interval=2',
        'log_processor.window_size=1',
        'log_processor.num_digits=7',
        'optim_wrapper.optimizer.lr=0.001',
    ]

    def train_sharded(*words):
        words = [config, '--launcher', 'pytorch', '--work-dir', tmp_path / 'run', *data, *words]
        status, output = run_ranks(tmp_path, tool, 'train.py', *map(str, words), env=ON_CPU)
        assert status == 0, output[-4000:]
        return output

    model, start = one_process(tmp_path)
    output = train_sharded('--cfg-options', *options, f'load_from={tmp_path}/single.pth')
    assert re.search(said, output)
    whole, last = losses(output), tmp_path / 'run/iter_4.pth'
    assert sorted(whole) == [1, 2, 3, 4]
    assert_trained(model, start, last, 4.2e-3, precision)
    content, last = torch.load(last, weights_only=True), last.rename(tmp_path / 'last.pth')
    first = tmp_path / 'run/iter_2.pth'
    shutil.copytree(tmp_path / 'run', tmp_path / 'single')
    output = train_sharded('--resume', first, '--cfg-options', *options)
    assert losses(output) == pytest.approx({k: whole[k] for k in (3, 4)}, abs=1e-6)
    again = torch.load(tmp_path / 'run/iter_4.pth', weights_only=True)
    assert again['meta']['iter'] == content['meta']['iter'] == 4
    for key, value in content['state_dict'].items():
        torch.testing.assert_close(again['state_dict'][key], value, atol=1e-7, rtol=1e-5)
    assert len(content['optimizer']['state']) == len(start)
    for number, state in content['optimizer']['state'].items():
        assert not torch.equal(state['exp_avg'], state['exp_avg_sq'])
        for key, value in state.items():
            found = again['optimizer']['state'][number][key]
            torch.testing.assert_close(found, value, atol=1e-9, rtol=1e-4)

    words = ['--resume', '--work-dir', tmp_path / 'single', *data, '--cfg-options', *options]
    output = run('train.py', CLS, *words)
    assert sorted(losses(output)) == [3, 4]
    assert '4 images a step (1 x 4 x 1 accumulated) instead of 8' in output
    alone = torch.load(tmp_path / 'single/iter_4.pth', weights_only=True)
    assert {int(state['step']) for state in alone['optimizer']['state'].values()} == {4}


def test_weights_of_another_model_are_refused(shapes, tmp_path):
    """load_from, which a strategy would pass over without a word."""
    torch.save(make('gpvit').state_dict(), tmp_path / 'other.pth')
    words = (tmp_path, shapes / 'imagenet', 1e-4, tmp_path / 'other.pth')
    status, output = train(tmp_path, 'ddp', *words, count=1)
    assert status == 2
    assert 'fits 0 of' in output and 'Traceback' not in output
