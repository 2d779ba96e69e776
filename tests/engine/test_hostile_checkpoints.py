"""Checkpoints that somebody made to do harm: nothing of them runs, and they end in one line."""

import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import load_from_local

from gcvit_mm import CheckpointError
from gcvit_mm.checkpoints import load_model, read_checkpoint
from gcvit_mm.engine.resuming import checkpoint_flaw
from gcvit_mm.messages import explain
from support.guarded_run import run
from support.small_run import Net, change, choose, train


@pytest.fixture(scope='module')
def original(tmp_path_factory):
    """What the fixture below copies."""
    folder = tmp_path_factory.mktemp('original')
    train(folder, seed=1)
    return folder


@pytest.fixture
def trained(original, tmp_path):
    """A work dir with the checkpoints of steps 3, 6, 9 and 12."""
    for path in original.glob('*.*'):
        shutil.copy(path, tmp_path)
    shutil.copy(original / 'last_checkpoint', tmp_path)
    return tmp_path


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


def test_own_programs_run_none_either(trained, tmp_path, monkeypatch):
    """The hook by itself, where mmengine reads files its own way."""
    trap, path = tmp_path / 'sprung', trained / 'iter_9.pth'
    code = f'open({str(trap)!r}, "w").close()'
    change(path, lambda content: content['meta'].update(config=code))
    monkeypatch.setitem(CheckpointLoader._schemes, '', load_from_local)
    train(trained, seed=1, resume=True, load_from=str(path))
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


# ------------------------------------------------------------- odd training states
def at(*keys):
    """An edit that sets what stands under some keys of a checkpoint."""

    def edit(content):
        node = content
        for key in keys[:-2]:
            node = node[key]
        node[keys[-2]] = keys[-1]

    return edit


NAN = float('nan')
ODD = dict(
    huge_iteration=at('meta', 'iter', 10**30),
    later_iteration=at('meta', 'iter', 13),
    negative_iteration=at('meta', 'iter', -3),
    nan_iteration=at('meta', 'iter', NAN),
    half_iteration=at('meta', 'iter', 2.5),
    true_iteration=at('meta', 'iter', True),
    tensor_iteration=at('meta', 'iter', torch.tensor(3)),
    no_iteration=lambda content: content['meta'].pop('iter'),
    huge_epoch=at('meta', 'epoch', 10**30),
    meta_list=at('meta', [('iter', 3)]),
    odd_seed=at('meta', 'seed', -1),
    huge_seed=at('meta', 'seed', 2**32),
    no_schedulers=at('param_schedulers', []),
    lost_schedulers=lambda content: content.pop('param_schedulers'),
    more_schedulers=lambda content: content['param_schedulers'].append({}),
    scheduler_text=at('param_schedulers', 0, 'LinearLR'),
    scheduler_step=at('param_schedulers', 0, 'last_step', 10**30),
    scheduler_nan=at('param_schedulers', 0, 'last_step', NAN),
    scheduler_values=at('param_schedulers', 0, 'base_values', []),
    no_hub=at('message_hub', 3),
    odd_hub=at('message_hub', 'runtime_info', []),
    optimizer_list=at('optimizer', []),
    no_groups=at('optimizer', 'param_groups', []),
    odd_groups=at('optimizer', 'param_groups', ['a']),
    fewer_weights=lambda content: content['optimizer']['param_groups'][0]['params'].pop(),
    other_optimizer=lambda content: content['optimizer']['param_groups'][0].pop('betas'),
    nan_rate=at('optimizer', 'param_groups', 0, 'initial_lr', NAN),
    negative_rate=at('optimizer', 'param_groups', 0, 'lr', -1.0),
    nan_moments=lambda content: content['optimizer']['state'][0]['exp_avg'].fill_(NAN),
    nan_weights=lambda content: content['state_dict']['layers.0.weight'].fill_(NAN),
    other_shape=at('state_dict', 'layers.0.weight', torch.zeros(2, 2)),
    no_steps=at('meta', 'iter', 0),
    odd_keys=at('message_hub', 'resumed_keys', dict(loss=None)),
    schedulers_number=at('param_schedulers', NAN),
    scheduler_of_momentum=at('param_schedulers', 0, 'param_name', 'momentum'),
    scheduler_end=at('param_schedulers', 0, 'end', 'later'),
    scheduler_forgot=lambda content: content['param_schedulers'][0].pop('_global_step'),
    no_states=at('optimizer', 'state', None),
    state_of_one=at('optimizer', 'state', 0, None),
    state_lacks=lambda content: content['optimizer']['state'][1].pop('exp_avg'),
    moment_none=at('optimizer', 'state', 0, 'exp_avg', None),
    moment_small=at('optimizer', 'state', 0, 'exp_avg', torch.zeros(2)),
    step_zero=at('optimizer', 'state', 0, 'step', 0),
    step_huge=at('optimizer', 'state', 0, 'step', 10**30),
    eps_text=at('optimizer', 'param_groups', 0, 'eps', '1e-8'),
    no_eps=lambda content: content['optimizer']['param_groups'][0].pop('eps'),
    betas_large=at('optimizer', 'param_groups', 0, 'betas', (1, 2)),
    amsgrad=at('optimizer', 'param_groups', 0, 'amsgrad', True),
    weights_unnumbered=at('optimizer', 'param_groups', 0, 'params', 1, ''),
    weights_twice=at('optimizer', 'param_groups', 0, 'params', 1, 0),
    counter_float=at('state_dict', 'layers.1.num_batches_tracked', torch.tensor(3.5)),
    expanded=at('state_dict', 'layers.0.weight', torch.zeros(1).expand(8, 4)),
    expanded_moments=at('optimizer', 'state', 0, 'exp_avg', torch.zeros(1).expand(8, 4)),
)


@pytest.mark.parametrize('kind', ODD)
@pytest.mark.parametrize('named', [True, False])
def test_odd_states_end_in_a_line(kind, named, trained):
    """Named by --resume, or the last of a folder: one line, status 2, and nothing is trained."""
    path = trained / 'iter_12.pth'
    change(path, ODD[kind])
    for name in ('iter_3.pth', 'iter_6.pth', 'iter_9.pth'):
        (trained / name).unlink()
    with pytest.raises(CheckpointError) as caught:
        run(trained, resume=True, **(dict(load_from=str(path)) if named else {}))
    line, status = explain(caught.value)
    assert status == 2 and str(path) in line and line.startswith('--resume: ') and len(line) < 500


def test_how_it_computes_is_the_configs_business(trained):
    """Ways to compute are not taken from a file; an optimizer that knows less is named."""
    path = trained / 'iter_9.pth'
    change(path, lambda content: content['optimizer']['param_groups'][0].update(fused=(1, 2)))
    with pytest.raises(CheckpointError, match='an optimizer with an odd fused'):
        run(trained, resume=True, load_from=str(path))
    change(path, lambda content: content['optimizer']['param_groups'][0].update(fused=True))
    runner = run(trained, resume=True, load_from=str(path))
    assert not runner.optim_wrapper.param_groups[0]['fused']


@pytest.mark.parametrize(
    'kind', ['huge_iteration', 'nan_iteration', 'nan_weights', 'nan_moments', 'other_shape']
)
def test_odd_states_are_passed_over(kind, trained):
    """--resume without a file takes the one before."""
    change(trained / 'iter_12.pth', ODD[kind])
    chosen, said = choose(trained)
    assert chosen == 'iter_9.pth' and 'not resumed' in said and 'iter_12.pth' in said


def test_every_flipped_byte_is_found_or_harmless(tmp_path):
    """A small checkpoint with each of its bytes changed is named, or is what it was."""
    whole, path = tmp_path / 'whole.pth', tmp_path / 'iter_1.pth'
    content = dict(
        meta=dict(iter=1, epoch=0),
        state_dict=dict(weight=torch.arange(3.0)),
        message_hub=dict(log_scalars={}, runtime_info={}, resumed_keys={}),
        optimizer=dict(state={}, param_groups=[]),
    )
    torch.save(content, whole)
    assert checkpoint_flaw(str(whole)) == ''
    data = whole.read_bytes()
    found = 0
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        if checkpoint_flaw(str(path)):
            found += 1
        else:
            again = read_checkpoint(str(path))
            assert torch.equal(again['state_dict'].pop('weight'), torch.arange(3.0)), place
            assert again == dict(content, state_dict={}), place
    assert found > len(data) // 4
