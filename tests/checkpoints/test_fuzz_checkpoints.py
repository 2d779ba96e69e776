"""Odd and damaged checkpoints, drawn by hypothesis: used, or one line about them."""

import copy
import functools
import io
import os
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.runner import CheckpointLoader, load_checkpoint
from torch import nn

from gcvit_mm import CheckpointError, GCViT, cli
from gcvit_mm.checkpoints import check_whole_model, load_model, load_pretrained, read_safely
from support.families import FAMILIES, make
from support.fuzzing import fuzz
from support.running import CLS, ROOT, one_line_error


@functools.lru_cache(maxsize=None)
def backbone(family):
    """A small backbone, built once."""
    return make(family)


ARCH = dict(FAMILIES['gcvit'][1], depths=(1, 1, 1, 1), drop_path_rate=0.0)


@functools.lru_cache(maxsize=None)
def fresh():
    """The backbone that is loaded into."""
    torch.manual_seed(1)
    return GCViT(ARCH)


@functools.lru_cache(maxsize=None)
def saved(legacy=False):
    """Bytes of a checkpoint that fits it."""
    torch.manual_seed(2)
    file = io.BytesIO()
    state = {k: torch.randn(v.shape) for k, v in fresh().state_dict().items()}
    torch.save(dict(state_dict=state), file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def loads(path, **options):
    """Load a file into the backbone; whether it was taken.

    A refusal must be one line that names the file, and must have changed nothing.
    """
    model = copy.deepcopy(fresh())
    before = copy.deepcopy(model.state_dict())
    try:
        load_pretrained(model, str(path), **options)
    except CheckpointError as error:
        assert '\n' not in str(error) and str(path) in str(error), str(error)
        assert ': ' in str(error) and len(str(error)) < 1500
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        return False
    assert all(v.isfinite().all() for v in model.state_dict().values())
    return True


@fuzz(150)
@given(
    kind=st.sampled_from(['cut', 'flip', 'noise', 'insert']),
    part=st.floats(0, 0.999),
    noise=st.binary(min_size=1, max_size=200),
    legacy=st.booleans(),
)
def test_damaged_checkpoints(tmp_path_factory, kind, part, noise, legacy):
    """Files that are cut, overwritten or noise: refused by name, or whole where it matters."""
    content = saved(legacy)
    at = int(len(content) * part)
    content = dict(
        cut=content[:at],
        flip=content[:at] + noise + content[at + len(noise) :],
        noise=noise,
        insert=content[:at] + noise + content[at:],
    )[kind]
    path = tmp_path_factory.getbasetemp() / 'damaged.pth'
    path.write_bytes(content)
    taken = loads(path)
    assert not (taken and kind == 'noise')
    assert not (taken and kind == 'cut' and part < 0.9)


PLAIN = st.recursive(
    st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(['state_dict', 'model', 'meta', 'module.x', 'norm3.weight', 7]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)


@fuzz(60)
@given(content=PLAIN, wrapped=st.booleans())
def test_checkpoints_of_something_else(tmp_path_factory, content, wrapped):
    """Whatever a file holds that is no state dict: refused by name."""
    path = tmp_path_factory.getbasetemp() / 'other.pth'
    torch.save(dict(state_dict=content) if wrapped else content, path)
    assert not loads(path) and not loads(path, allow_partial=True)


TENSORS = st.one_of(
    st.lists(st.integers(0, 5), max_size=4).map(torch.zeros),
    st.sampled_from([float('nan'), float('inf')]).map(lambda value: torch.full((16,), value)),
    st.sampled_from(
        [
            torch.zeros(3, dtype=torch.complex64),
            torch.zeros(2, 2).to_sparse(),
            torch.zeros(16, dtype=torch.int64),
            torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8),
        ]
    ),
)


@fuzz(120)
@given(index=st.integers(0, 10**6), value=TENSORS, partial=st.booleans())
def test_odd_weights(tmp_path_factory, index, value, partial):
    """A weight of another shape or kind, or that is not finite, anywhere in a good file."""
    path = tmp_path_factory.getbasetemp() / 'odd.pth'
    content = torch.load(io.BytesIO(saved()))
    keys = sorted(content['state_dict'])
    key = keys[index % len(keys)]
    fits = value.shape == content['state_dict'][key].shape
    content['state_dict'][key] = value
    torch.save(content, path)
    taken = loads(path, allow_partial=partial)
    kind = value.layout is torch.strided and not (value.is_quantized or value.is_complex())
    finite = kind and bool(value.isfinite().all())
    if not finite:
        assert not taken
    elif fits or partial:
        assert taken
    elif 'relative_position_bias_table' not in key:
        assert not taken


@pytest.mark.parametrize('family', FAMILIES)
def test_every_other_family_is_refused(family, tmp_path):
    """Weights of another family, in a backbone, in a whole model and by load_from."""
    path = tmp_path / 'family.pth'
    torch.save(dict(state_dict=backbone(family).state_dict()), path)
    if family != 'gcvit':
        assert not loads(path)
    whole = torch.nn.ModuleDict(dict(backbone=fresh(), head=torch.nn.Linear(2, 2)))
    before = copy.deepcopy(whole.state_dict())
    with pytest.raises(CheckpointError, match='does not fit the ModuleDict'):
        load_model(whole, str(path))
    for resume, said in ((True, 'does not fit'), (False, 'fits 0 of ')):
        with pytest.raises(CheckpointError, match=said):
            check_whole_model(whole, torch.load(path), str(path), resume)
    assert all(torch.equal(v, before[k]) for k, v in whole.state_dict().items())


@pytest.mark.parametrize('name', ['state_dict', 'model', 'module', None])
def test_load_from_finds_the_weights(name, monkeypatch, tmp_path):
    """Whatever trainers call them; mmengine by itself knows one name, and loads nothing else."""
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    read_safely(False)
    path, weight = str(tmp_path / 'x.pth'), torch.randn(2, 3)
    state = {'module.0.weight': weight} if name == 'module' else {'0.weight': weight}
    torch.save(state if name is None else {name: state, 'epoch': 3}, path)
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    load_checkpoint(model, path)
    assert torch.equal(model[0].weight, weight)


def test_load_from_may_have_other_heads():
    """Fine-tuning starts from another head; resuming does not, nor from weights not finite."""
    whole = torch.nn.ModuleDict(dict(backbone=fresh(), head=torch.nn.Linear(2, 2)))
    state = {k: torch.zeros_like(v) for k, v in whole.state_dict().items()}
    state['head.weight'] = torch.zeros(3, 3)
    check_whole_model(whole, dict(state_dict=state), 'x.pth', resume=False)
    with pytest.raises(CheckpointError, match='head.weight: file'):
        check_whole_model(whole, dict(state_dict=state), 'x.pth', resume=True)
    state['head.weight'] = torch.full((2, 2), float('nan'))
    with pytest.raises(CheckpointError, match='x.pth: head.weight holds numbers that are not fin'):
        check_whole_model(whole, dict(state_dict=state), 'x.pth', resume=True)


class Writes:
    """Stands for any code in a pickle: reading it makes a file.

    Args:
        path: The file.
        call: How.
    """

    def __init__(self, path, call):
        self.path, self.call = str(path), call

    def __reduce__(self):
        if self.call == 'system':
            return os.system, (f'touch "{self.path}"',)
        if self.call == 'exec':
            return exec, (f'open({self.path!r}, "w")',)
        return open, (self.path, 'w')


@fuzz(30)
@given(
    call=st.sampled_from(['system', 'exec', 'open']),
    place=st.sampled_from(['state_dict', 'meta', 'message_hub', 'weight']),
    protocol=st.sampled_from(['zip', 'legacy', 'pickle']),
)
def test_code_is_never_run(tmp_path_factory, call, place, protocol):
    """Wherever a file hides a call: it is refused, unread, until it is trusted."""
    folder = tmp_path_factory.getbasetemp()
    path, trap = folder / 'code.pth', folder / 'sprung'
    content = torch.load(io.BytesIO(saved()))
    if place == 'weight':
        content['state_dict']['norm3.weight'] = Writes(trap, call)
    else:
        content[place] = Writes(trap, call)
    if protocol == 'pickle':
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=protocol == 'zip')
    assert not loads(path) and not loads(path, allow_partial=True)
    assert not trap.exists()


# ------------------------------------------------------------------ the tools as a whole
@pytest.mark.parametrize('option', ['load_from', '--resume'])
def test_training_runs_no_code_of_checkpoints(option, shapes, tmp_path):
    """mmengine's own loader runs what it cannot read safely; here that takes --trust-checkpoint."""
    pytest.importorskip('mmpretrain')
    trap, path = tmp_path / 'sprung', tmp_path / 'code.pth'
    model = cli.build_model(cli.load_config(str(ROOT / CLS)))
    content = dict(
        state_dict=model.state_dict(), meta={}, optimizer={}, message_hub=Writes(trap, 'system')
    )
    torch.save(content, path)
    words = [CLS, '--data-root', shapes / 'imagenet', '--work-dir', tmp_path / 'run']
    if option == '--resume':
        words += ['--resume', path]
    words += ['--cfg-options', 'train_cfg.max_iters=1', 'train_dataloader.num_workers=0']
    words += ['train_dataloader.persistent_workers=False']
    if option == 'load_from':
        words.append(f'load_from={path}')
    error = one_line_error('train.py', *words)
    assert str(path) in error and 'trust_checkpoint=True' in error
    assert not trap.exists()
