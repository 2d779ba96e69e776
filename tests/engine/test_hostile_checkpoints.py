"""Checkpoints that somebody made to do harm: nothing of them runs, and they end in one line."""

import re
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS
from test_resume import Net, Noise, load, train

from gcvit_mm import CheckpointError, cli
from gcvit_mm.checkpoints import load_model, read_checkpoint
from gcvit_mm.messages import explain

MODELS.register_module('SmallNet', module=Net, force=True)
DATASETS.register_module('Noise', module=Noise, force=True)


@pytest.fixture
def trained(tmp_path):
    """A work dir with the checkpoints of steps 3, 6, 9 and 12."""
    train(tmp_path, seed=1)
    return tmp_path


def run(work_dir, **changes):
    """Train as the tools do, which put their guards into mmengine's runner."""
    cfg = Config(
        dict(
            model=dict(type='SmallNet'),
            work_dir=str(work_dir),
            launcher='none',
            env_cfg=dict(dist_cfg=dict(backend='gloo')),
            train_dataloader=dict(
                dataset=dict(type='Noise'),
                batch_size=4,
                num_workers=0,
                sampler=dict(type='InfiniteSampler'),
                collate_fn=dict(type='pseudo_collate'),
            ),
            train_cfg=dict(by_epoch=False, max_iters=12),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.05)),
            param_scheduler=[dict(type='LinearLR', start_factor=0.1, end=9, by_epoch=False)],
            default_hooks=dict(
                checkpoint=dict(type='SafeCheckpointHook', interval=3, by_epoch=False),
                seeds=dict(type='SeedEveryStep'),
                logger=None,
            ),
            experiment_name=f'run_{time.time_ns()}',
            log_level='ERROR',
            **changes,
        )
    )
    runner = cli.build_runner(cfg)
    runner.train()
    return runner


def change(path, edit):
    """Change the content of a checkpoint."""
    content = load(path)
    edit(content)
    torch.save(content, path)


# ------------------------------------------------------------- nothing runs
@pytest.mark.parametrize('how', ['resume', 'resume a file', 'flexible'])
def test_config_in_a_checkpoint_is_not_run(how, trained, tmp_path):
    """mmengine runs ``meta['config']`` of what it resumes, though the file is plain data."""
    trap, path = tmp_path / 'sprung', trained / 'iter_12.pth'
    code = f'open({str(trap)!r}, "w").close()\ngpu_ids = []\n'
    change(path, lambda content: content['meta'].update(config=code))
    changes = dict(resume=True)
    if how == 'resume a file':
        changes['load_from'] = str(path)
    if how == 'flexible':
        changes.update(runner_type='FlexibleRunner', strategy=dict(type='SingleDeviceStrategy'))
    runner = run(trained, **changes)
    assert runner.iter == 12  # it was resumed
    assert not trap.exists()


# ------------------------------------------------------------- nothing unfolds
class Calls:
    """Pickled as a call of something that readers of weights know."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def compressed(path):
    """A hundred megabytes of zeros in a file of a hundred kilobytes."""
    torch.save(dict(state_dict=dict(a=torch.zeros(25_000_000))), path)
    with zipfile.ZipFile(path) as source:
        parts = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as target:
        for name, data in parts.items():
            target.writestr(name, data)


UNFOLDING = dict(
    expanded=lambda path: torch.save(dict(state_dict=dict(a=torch.ones(1).expand(10**9))), path),
    elsewhere=lambda path: torch.save(dict(optimizer=[dict(a=torch.ones(1).expand(10**9))]), path),
    reserved=lambda path: torch.save(
        dict(a=Calls(np.zeros(1).__reduce__()[0], np.ndarray, (10**9,), b'f')), path
    ),
    bytes=lambda path: torch.save(dict(a=Calls(bytearray, 10**9)), path),
    bytes_legacy=lambda path: torch.save(
        dict(a=Calls(bytearray, 10**9)), path, _use_new_zipfile_serialization=False
    ),
    compressed=compressed,
)


@pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='tells the peak of memory')
@pytest.mark.parametrize('kind', UNFOLDING)
def test_small_files_stay_small(kind, tmp_path):
    """A file that would fill the memory ends in a line before it does."""
    path = tmp_path / 'small.pth'
    UNFOLDING[kind](path)
    assert path.stat().st_size < 200_000
    before = memory(peak=False)
    with pytest.raises(CheckpointError, match='small.pth .*, which no training saves: take it'):
        read_checkpoint(str(path))
    assert memory(peak=True) - before < 40e6


def memory(peak):
    """Bytes that this process has in memory; or the most since the last call that did not ask."""
    if not peak:
        Path('/proc/self/clear_refs').write_text('5')
    text = Path('/proc/self/status').read_text()
    return 1024 * int(re.search(rf'{"VmHWM" if peak else "VmRSS"}:\s+(\d+) kB', text)[1])


def test_shared_weights_and_views_are_read(tmp_path):
    """Several names for one tensor, parts of one, and buffers without numbers are usual."""
    weight = torch.randn(200, 200)
    state = dict(a=weight, b=weight, c=weight[:3], d=weight.t(), e=torch.empty(0, 3))
    for legacy in (False, True):
        path = tmp_path / 'tied.pth'
        torch.save(dict(state_dict=state), path, _use_new_zipfile_serialization=not legacy)
        found = read_checkpoint(str(path))['state_dict']
        assert all(torch.equal(found[name], value) for name, value in state.items())


def test_names_reach_no_terminal(tmp_path):
    """Control characters of names in a file are written out in messages."""
    path = tmp_path / 'names.pth'
    torch.save({'\x1b[31mred\x1b]0;title\x07\n': torch.ones(2)}, path)
    with pytest.raises(CheckpointError) as caught:
        load_model(Net(), str(path))
    line, status = explain(caught.value)
    assert status == 2 and line.isprintable() and r'\x1b[31mred' in line
