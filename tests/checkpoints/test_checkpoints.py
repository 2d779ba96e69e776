"""Checkpoints: every released layout loads, and nothing goes wrong silently."""

import argparse
import logging
import os
import re
import sys
import types
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub, MMLogger
from mmengine.model import BaseModule
from mmengine.runner import save_checkpoint

from gcvit_mm import CheckpointError, GCViT, UserError
from gcvit_mm.checkpoints import convert_state_dict, detect_layout, read_checkpoint, unwrap
from gcvit_mm.layers import resize_bias_table
from support.gcvit_reference import nvlabs_classifier_state, nvlabs_detection_state, nvlabs_name

USUAL = (7, 7, 14, 7)


# ---------------------------------------------------------------------- helpers
def arch(**changes):
    """A small arch of the same shape as the others."""
    settings = dict(
        embed_dims=16,
        depths=(2, 2, 2, 2),
        num_heads=(1, 2, 4, 8),
        mlp_ratio=2.0,
        layer_scale=1e-5,
        window_size=USUAL,
        drop_path_rate=0.0,
    )
    return {**settings, **changes}


def build(checkpoint, init=None, **kwargs):
    """A backbone that has loaded a checkpoint the way configs have it."""
    kwargs.setdefault('arch', arch())
    init_cfg = dict(type='Pretrained', checkpoint=str(checkpoint), **(init or {}))
    model = GCViT(init_cfg=init_cfg, **kwargs)
    model.init_weights()
    return model


def failure(checkpoint, init=None, **kwargs):
    """The message of a load that fails: one line, an error the tools show without traceback."""
    with pytest.raises(CheckpointError) as error:
        build(checkpoint, init, **kwargs)
    message = str(error.value)
    assert isinstance(error.value, UserError)
    assert '\n' not in message
    return message


def own_state(**kwargs):
    """Weights in this package's layout, all of them different from fresh ones."""
    kwargs.setdefault('arch', arch())
    state = GCViT(**kwargs).state_dict()
    return {k: torch.randn(v.shape) for k, v in state.items()}


def classifier_state():
    """A classifier of the authors, with windows 7/7/14/7."""
    return nvlabs_classifier_state(GCViT(arch()), num_classes=10)


def timm_state(state):
    """The authors' weights as timm stores them (spec, section 4.2)."""
    out = {}
    for key, value in state.items():
        if key.endswith('relative_position_index'):
            continue
        if re.search(r'\.conv\.2\.fc\.[02]\.weight$', key):
            value = value[:, :, None, None]
        key = key.replace('patch_embed.proj', 'stem.conv1')
        key = key.replace('patch_embed.conv_down', 'stem.down')
        key = re.sub(
            r'levels\.(\d)\.downsample', lambda m: f'stages.{int(m[1]) + 1}.downsample', key
        )
        key = re.sub(
            r'levels\.(\d)\.q_global_gen\.to_q_global\.(\d)\.conv',
            lambda m: f'stages.{m[1]}.global_block.blocks.conv{int(m[2]) + 1}',
            key,
        )
        key = re.sub(r'((?:down|downsample))\.conv\.', r'\1.conv_block.', key)
        for theirs, timms in (
            ('0.weight', 'conv_dw.weight'),
            ('2.fc.0.weight', 'se.fc1.weight'),
            ('2.fc.2.weight', 'se.fc2.weight'),
            ('3.weight', 'conv_pw.weight'),
        ):
            key = re.sub(rf'(conv_block|conv\d)\.{re.escape(theirs)}$', rf'\1.{timms}', key)
        key = key.replace('attn.relative_position', 'attn.rel_pos.relative_position')
        key = re.sub(r'\.gamma([12])$', r'.ls\1.gamma', key)
        key = key.replace('levels.', 'stages.')
        key = re.sub(r'^norm\.', 'stages.3.norm.', key)
        out[re.sub(r'^head\.', 'head.fc.', key)] = value
    return out


def assert_loaded_classifier(model, state):
    """Every weight is the file's; the final norm became norm3; the other norms are fresh."""
    for name, p in model.named_parameters():
        if re.match(r'norm[012]\.', name):
            assert torch.equal(p, torch.full_like(p, float(name.endswith('weight')))), name
        else:
            assert torch.equal(p, state[nvlabs_name(name.replace('norm3.', 'norm.'))]), name


def assert_equal_states(got, want):
    """Compare two state dicts bit by bit."""
    assert set(got) == set(want)
    for name, value in got.items():
        assert torch.equal(value, want[name]), name


def save(folder, checkpoint, name='x.pth'):
    """Write a file and return its path."""
    path = folder / name
    torch.save(checkpoint, path)
    return path


@pytest.fixture
def log():
    """Everything that is logged, as (level, message)."""
    records = []

    class Keep(logging.Handler):
        def emit(self, record):
            # not its levelname: other packages rename the levels
            names = {logging.INFO: 'INFO', logging.WARNING: 'WARNING'}
            records.append((names.get(record.levelno), record.getMessage()))

    logger, handler = MMLogger.get_current_instance(), Keep()
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def loaded_line(log):
    """The one line that says what was loaded."""
    lines = [(level, text) for level, text in log if 'loaded ' in text]
    assert len(lines) == 1
    assert lines[0][0] == 'INFO'
    return lines[0][1]


# ---------------------------------------------------------------------- layouts
def trainer_file(state):
    """What the authors' trainer saves."""
    return dict(
        epoch=299,
        arch='gc_vit_xxtiny',
        state_dict=state,
        optimizer=dict(state={0: dict(step=torch.tensor(3.0))}, param_groups=[dict(lr=1e-3)]),
        version=2,
        args=argparse.Namespace(lr=5e-3, data_dir='data', mean=(0.5, 0.5)),
        amp_scaler=dict(scale=65536.0),
        metric=79.9,
    )


WRAPPINGS = {
    'flat': lambda state: state,
    'trainer': trainer_file,
    'model': lambda state: dict(model=state, epoch=3),
    'module.': lambda state: dict(state_dict={f'module.{k}': v for k, v in state.items()}),
    '_orig_mod.': lambda state: {f'_orig_mod.{k}': v for k, v in state.items()},
    'module._orig_mod.': lambda state: {f'module._orig_mod.{k}': v for k, v in state.items()},
    '_orig_mod.module.': lambda state: {f'_orig_mod.module.{k}': v for k, v in state.items()},
    'backbone.': lambda state: {f'backbone.{k}': v for k, v in state.items()},
    'module.backbone.': lambda state: {f'module.backbone.{k}': v for k, v in state.items()},
}


@pytest.mark.parametrize('wrapping', WRAPPINGS)
def test_authors_classifier(tmp_path, wrapping):
    """The authors' files load in whatever a trainer has wrapped around them."""
    state = classifier_state()
    model = build(save(tmp_path, WRAPPINGS[wrapping](state), 'x.pth.tar'))
    assert_loaded_classifier(model, state)


def test_authors_detection_layout(tmp_path):
    """Four output norms and windows of 24: all of it is taken."""
    state = nvlabs_detection_state(GCViT(arch(), window_size=24))
    model = build(save(tmp_path, dict(state_dict=state)), window_size=24)
    for name, p in model.named_parameters():
        assert torch.equal(p, state[nvlabs_name(name)]), name


@pytest.mark.parametrize('layer_scale', [None, 1e-5])
def test_timm_classifier(tmp_path, layer_scale):
    """timm's files load the same weights."""
    state = nvlabs_classifier_state(GCViT(arch(layer_scale=layer_scale)), num_classes=10)
    path = save(tmp_path, timm_state(state))
    model = build(path, arch=arch(layer_scale=layer_scale))
    assert_loaded_classifier(model, state)


def test_timm_keys_of_these_tests_are_those_of_timm():
    """The names used above are not made up."""
    timm = pytest.importorskip('timm')
    with torch.device('meta'):
        theirs = timm.create_model('gcvit_small', pretrained=False)
        ours = GCViT('small', out_indices=(3,))
    state = {nvlabs_name(name).replace('norm3.', 'norm.'): p for name, p in ours.named_parameters()}
    state.update({f'head.{k}': v for k, v in theirs.head.fc.state_dict().items()})
    shapes = {k: v.shape for k, v in timm_state(state).items()}
    assert shapes == {k: v.shape for k, v in theirs.state_dict().items()}


@pytest.mark.parametrize('window_size', [None, 24, ((4, 6), (6, 4), (2, 5), 3)], ids=str)
def test_own_checkpoint(tmp_path, window_size):
    """A backbone's own weights load back bit by bit, whatever its windows."""
    state = own_state(window_size=window_size)
    model = build(save(tmp_path, dict(state_dict=state)), window_size=window_size)
    assert_equal_states(model.state_dict(), state)


def test_backbone_of_a_detector(tmp_path, log):
    """Of a whole detector the backbone is taken; necks and heads are counted as left out."""
    state = own_state()
    detector = {f'backbone.{k}': v for k, v in state.items()}
    detector.update({'neck.conv.weight': torch.zeros(1), 'rpn_head.norm3.bias': torch.zeros(1)})
    model = build(save(tmp_path, dict(state_dict=detector, meta=dict(epoch=1))))
    assert_equal_states(model.state_dict(), state)
    assert '2 of heads and unused stages left out' in loaded_line(log)


@pytest.mark.parametrize('prefix', ['teacher.backbone.', 'teacher.backbone'])
def test_prefix(tmp_path, prefix):
    """One of two backbones is chosen by its prefix, with or without the dot, as in mmengine."""
    state = own_state()
    both = {f'teacher.backbone.{k}': v for k, v in state.items()}
    both.update({f'student.backbone.{k}': torch.zeros_like(v) for k, v in state.items()})
    model = build(save(tmp_path, both), dict(prefix=prefix))
    assert_equal_states(model.state_dict(), state)


def test_prefix_that_nothing_has(tmp_path):
    """The error names it."""
    assert "no keys that begin with 'neck." in failure(
        save(tmp_path, own_state()), dict(prefix='neck.')
    )


def test_ema(tmp_path):
    """Averaged weights are taken when asked for, and only then."""
    plain, averaged = own_state(), own_state()
    path = save(tmp_path, dict(state_dict=plain, state_dict_ema=averaged, epoch=1))
    assert_equal_states(build(path).state_dict(), plain)
    assert_equal_states(build(path, dict(ema=True)).state_dict(), averaged)


def test_ema_of_a_wrapped_model(tmp_path):
    """An averaged model counts its steps beside the weights."""
    averaged = own_state()
    wrapped = {f'module.{k}': v for k, v in averaged.items()}
    wrapped['steps'] = torch.tensor(7)
    path = save(tmp_path, dict(state_dict=own_state(), model_ema=wrapped))
    assert_equal_states(build(path, dict(ema=True)).state_dict(), averaged)


def test_ema_of_mmengine(tmp_path):
    """mmengine saves the averaged weights as the weights, and the others beside them."""
    averaged, raw = own_state(), own_state()
    path = save(tmp_path, dict(state_dict=averaged, ema_state_dict=raw))
    assert_equal_states(build(path).state_dict(), averaged)
    assert_equal_states(build(path, dict(ema=True)).state_dict(), averaged)


def test_ema_that_is_not_there(tmp_path):
    """Plain weights are no substitute."""
    path = save(tmp_path, dict(state_dict=own_state()))
    assert 'no averaged weights' in failure(path, dict(ema=True))


def test_unknown_layout(tmp_path):
    """The error shows some keys and the layouts that are known."""
    message = failure(save(tmp_path, {'layer1.weight': torch.zeros(1)}))
    assert 'layer1.weight' in message
    assert "the authors' GC ViT" in message and "timm's GC ViT" in message
    with pytest.raises(CheckpointError, match='unknown checkpoint layout'):
        convert_state_dict({'layer1.weight': torch.zeros(1)})


def test_detect_layout():
    """Each layout is recognised by its own marks."""
    state = classifier_state()
    names = [detect_layout(s).name for s in (own_state(), state, timm_state(state))]
    assert names == ['gcvit_mm', "the authors' GC ViT", "timm's GC ViT"]


# ---------------------------------------------------------------------- conversion
def test_convert_state_dict():
    """Keys become those of a classifier with this backbone; index buffers go; values stay."""
    state = classifier_state()
    converted = convert_state_dict(state)
    backbone = {f'backbone.{k}' for k in GCViT(arch(), out_indices=(3,)).state_dict()}
    assert set(converted) == backbone | {'head.fc.weight', 'head.fc.bias'}
    assert_equal_states(convert_state_dict(timm_state(state)), converted)
    assert torch.equal(converted['head.fc.weight'], state['head.weight'])
    assert torch.equal(converted['backbone.norm3.bias'], state['norm.bias'])


def test_convert_twice_is_convert_once():
    """What is converted stays as it is, heads and necks of any library included."""
    converted = convert_state_dict(classifier_state())
    assert_equal_states(convert_state_dict(converted), converted)
    detector = dict(converted, **{'neck.conv.weight': torch.zeros(1), 'bbox_head.x': torch.ones(1)})
    assert_equal_states(convert_state_dict(detector), detector)


def test_convert_leaves_its_argument_alone():
    """The caller's dict keeps its keys and shapes."""
    state = timm_state(classifier_state())
    before = {k: v.shape for k, v in state.items()}
    convert_state_dict(state)
    assert {k: v.shape for k, v in state.items()} == before


@pytest.mark.parametrize('layout', ['nvlabs', 'timm'])
def test_converted_file_loads(tmp_path, layout):
    """The way through a converted file ends with the same weights as the direct one."""
    state = classifier_state()
    source = state if layout == 'nvlabs' else timm_state(state)
    path = save(tmp_path, dict(state_dict=convert_state_dict(source)))
    assert_loaded_classifier(build(path), state)


# ---------------------------------------------------------------------- saying what was loaded
def test_log_of_a_complete_load(tmp_path, log):
    """'loaded N of N', the model, the file and its layout."""
    state = own_state()
    path = save(tmp_path, state)
    build(path)
    line = loaded_line(log)
    assert f'loaded {len(state)} of {len(state)} weights' in line
    assert str(path) in line and "GCViT(arch='custom')" in line and 'gcvit_mm' in line
    assert 'resized' not in line and 'fresh' not in line and 'left out' not in line
    assert not [text for level, text in log if level == 'WARNING']


def test_log_of_a_classifier_load(tmp_path, log):
    """Fresh norms, resized tables and the head are told."""
    path = save(tmp_path, classifier_state())
    model = build(path, window_size=16)
    total = len(model.state_dict())
    line = loaded_line(log)
    assert f'loaded {total - 6} of {total - 6} weights' in line
    assert re.search(r'8 (position )?bias tables resized', line)
    assert re.search(r'start fresh: norm0\.weight, .*and 2 more', line)
    assert '2 of heads and unused stages left out' in line
    for i, stage in enumerate(model.stages):
        table = classifier_state()[f'levels.{i}.blocks.1.attn.relative_position_bias_table']
        got = stage.blocks[1].attn.rel_pos.relative_position_bias_table
        assert torch.equal(got, resize_bias_table(table, (16, 16), table.shape[1]))


@pytest.mark.parametrize('layout', ['nvlabs', 'timm', 'own'])
def test_licence_is_said_once(tmp_path, log, layout):
    """For released weights, on the first of two loads; not for one's own."""
    state = dict(nvlabs=classifier_state(), timm=timm_state(classifier_state()), own=own_state())[
        layout
    ]
    path = save(tmp_path, state)
    build(path)
    build(path)
    said = [text for _, text in log if 'CC BY-NC-SA' in text]
    assert len(said) == (0 if layout == 'own' else 1)


def test_load_inside_a_model(tmp_path):
    """A detector's init_weights reaches the backbone's init_cfg."""

    class Detector(BaseModule):
        def __init__(self, checkpoint):
            super().__init__()
            init_cfg = dict(type='Pretrained', checkpoint=str(checkpoint))
            self.backbone = GCViT(arch(), init_cfg=init_cfg)

    state = own_state()
    detector = Detector(save(tmp_path, state))
    detector.init_weights()
    assert_equal_states(detector.backbone.state_dict(), state)


def test_init_cfg_in_a_list(tmp_path):
    """A list with one 'Pretrained' is the same thing."""
    state = own_state()
    init_cfg = [dict(type='Pretrained', checkpoint=str(save(tmp_path, state)))]
    model = GCViT(arch(), init_cfg=init_cfg)
    model.init_weights()
    assert_equal_states(model.state_dict(), state)


def test_frozen_stages_are_loaded_and_stay_frozen(tmp_path):
    """Loading fills frozen parts and does not thaw them."""
    state = own_state()
    model = build(save(tmp_path, state), frozen_stages=2)
    assert_equal_states(model.state_dict(), state)
    assert not model.stages[1].blocks[0].mlp.fc1.weight.requires_grad
    assert model.stages[2].blocks[0].mlp.fc1.weight.requires_grad


# ---------------------------------------------------------------------- what does not fit
QKV = 'levels.1.blocks.0.attn.qkv.weight'


def without_a_key(state):
    """A file with a hole."""
    del state[QKV]
    return r'1 missing \(stages\.1\.blocks\.0\.attn\.qkv\.weight\)'


def with_another_key(state):
    """A file with something unknown."""
    state['levels.1.blocks.0.attn.extra'] = torch.zeros(3)
    return r'1 unexpected \(stages\.1\.blocks\.0\.attn\.extra\)'


def with_another_shape(state):
    """A file with a weight that does not fit."""
    state[QKV] = torch.zeros(5, 7)
    return (
        r'1 of another shape \(e\.g\. stages\.1\.blocks\.0\.attn\.qkv\.weight: '
        r'file \(5, 7\), model \(96, 32\)\)'
    )


def with_other_heads(state):
    """A table that is square but has other heads."""
    state['levels.1.blocks.0.attn.relative_position_bias_table'] = torch.zeros(169, 5)
    return r'1 of another shape \(.*bias_table: file \(169, 5\), model \(169, 2\)\)'


def with_half_a_norm(state):
    """Fresh are norms that a file never had, not one that lost its bias."""
    del state['norm.bias']
    return r'1 missing \(norm3\.bias\)'


DAMAGES = [
    without_a_key,
    with_another_key,
    with_another_shape,
    with_other_heads,
    with_half_a_norm,
]


@pytest.mark.parametrize('damage', DAMAGES)
def test_what_does_not_fit_is_an_error(tmp_path, damage):
    """The error names the keys, the model, the file, and how to waive it."""
    state = classifier_state()
    what = damage(state)
    path = save(tmp_path, state)
    message = failure(path)
    assert re.search(what, message)
    assert str(path) in message and "GCViT(arch='custom')" in message
    assert 'allow_partial=True' in message


@pytest.mark.parametrize('damage', DAMAGES)
def test_allow_partial_waives_it(tmp_path, log, damage):
    """What fits is loaded, the rest is told in a warning."""
    state = classifier_state()
    what = damage(state)
    path = save(tmp_path, state)
    model = build(path, dict(allow_partial=True))
    total = len(model.state_dict())
    short = 0 if damage is with_another_key else 1
    assert f'loaded {total - 6 - short} of {total - 6} weights' in loaded_line(log)
    waived = [text for level, text in log if level == 'WARNING' and 'CC BY' not in text]
    assert len(waived) == 1 and re.search(f'allow_partial: .*{what}', waived[0])
    kept = 'levels.3.blocks.1.mlp.fc2.weight'
    assert torch.equal(model.stages[3].blocks[1].mlp.fc2.weight, state[kept])


@pytest.mark.parametrize(
    'changes, what',
    [
        (dict(depths=(2, 2, 4, 2)), r'\d+ missing \(stages\.2\.blocks\.2\..* and \d+ more\)'),
        (dict(depths=(2, 2, 1, 2)), r'\d+ unexpected \(stages\.2\.'),
        (dict(embed_dims=32), r'\d+ of another shape'),
        (dict(layer_scale=None), r'16 unexpected \(.*gamma'),
    ],
    ids=['deeper', 'shallower', 'wider', 'no layer scale'],
)
def test_wrong_arch_is_an_error(tmp_path, changes, what):
    """Weights of another variant are not loaded by halves."""
    path = save(tmp_path, classifier_state())
    assert re.search(what, failure(path, arch=arch(**changes)))


def test_nothing_is_changed_by_a_load_that_fails(tmp_path):
    """An error leaves the model as it was."""
    state = classifier_state()
    del state[QKV]
    init_cfg = dict(type='Pretrained', checkpoint=str(save(tmp_path, state)))
    model = GCViT(arch(), init_cfg=init_cfg)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError):
        model.init_weights()
    assert_equal_states(model.state_dict(), before)


def test_nothing_loaded_is_always_an_error(tmp_path):
    """Also with allow_partial: not a single weight fits."""
    state = own_state(arch=arch(embed_dims=32, num_heads=(2, 4, 8, 16)))
    message = failure(save(tmp_path, state), dict(allow_partial=True))
    assert 'of another shape' in message


def test_unknown_keys_of_init_cfg_are_errors(tmp_path):
    """A typo in init_cfg is not swallowed."""
    with pytest.raises((TypeError, UserError), match='allow_partly'):
        build(save(tmp_path, own_state()), dict(allow_partly=True))


# ---------------------------------------------------------------------- other models
@pytest.mark.parametrize('out_indices', [(0,), (1, 2), (0, 3), (3,)], ids=str)
@pytest.mark.parametrize('layout', ['classifier', 'own'])
def test_part_of_the_stages_loads_a_full_checkpoint(tmp_path, log, out_indices, layout):
    """Stages and norms that out_indices leaves out are no complaint."""
    state = classifier_state() if layout == 'classifier' else own_state()
    model = build(save(tmp_path, state), out_indices=out_indices)
    own = {k: v for k, v in model.state_dict().items() if not k.startswith('norm')}
    for name, value in own.items():
        assert torch.equal(value, state[name if layout == 'own' else nvlabs_name(name)]), name
    line = loaded_line(log)
    if out_indices[-1] < 3:
        assert 'of heads and unused stages left out' in line
    warnings = [text for level, text in log if level == 'WARNING' and 'CC BY' not in text]
    assert [text for text in warnings if 'leaves the rest out' not in text] == []


def test_full_model_refuses_a_part(tmp_path):
    """Missing stages are an error, not a fresh start."""
    path = save(tmp_path, own_state(out_indices=(1,)))
    assert re.search(r'\d+ missing \(stages\.1\.downsample', failure(path))


@pytest.mark.parametrize('stored, channels', [(3, 1), (3, 4), (1, 3), (4, 3)])
@torch.no_grad()
def test_other_channels_see_a_gray_image_alike(tmp_path, log, stored, channels):
    """An image whose channels are all equal gives the same maps, however many there are."""
    source = GCViT(arch(), in_channels=stored).eval()
    path = save(tmp_path, source.state_dict())
    model = build(path, in_channels=channels).eval()
    weight = model.patch_embed.proj.weight
    assert weight.shape == (16, channels, 3, 3)
    gray = torch.randn(2, 1, 64, 64)
    want = source(gray.expand(-1, stored, -1, -1))
    for a, b in zip(model(gray.expand(-1, channels, -1, -1)), want):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    note = rf'patch_embed\.proj\.weight averaged over {stored} .*repeated for {channels}'
    assert re.search(note, loaded_line(log))


def test_equal_channels_are_loaded_as_they_are(tmp_path, log):
    """Nothing is averaged where the channels agree."""
    state = own_state(in_channels=4)
    model = build(save(tmp_path, state), in_channels=4)
    assert torch.equal(model.patch_embed.proj.weight, state['patch_embed.proj.weight'])
    assert 'averaged over' not in loaded_line(log)


def test_ablations_refuse_what_they_cannot_use(tmp_path):
    """Without global attention the released weights do not fit, and that is said."""
    path = save(tmp_path, classifier_state())
    assert 'query_generator' in failure(path, global_query='none')
    assert 'relative_position_bias_table' in failure(path, rel_pos_bias=False)


# ---------------------------------------------------------------------- files
def test_missing_file(tmp_path):
    """The error names the path."""
    path = tmp_path / 'nothing.pth'
    assert f'{path} does not exist' in failure(path)


def truncated(path):
    """The file of a download that was cut."""
    torch.save(own_state(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def legacy_truncated(path):
    """The same in torch's older format."""
    torch.save(own_state(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    """A file without a byte."""
    path.write_bytes(b'')


def web_page(path):
    """A login page saved in place of the file."""
    path.write_text('<!DOCTYPE html><html>Sign in</html>')


@pytest.mark.parametrize('trust', [False, True])
@pytest.mark.parametrize('damage', [truncated, legacy_truncated, empty, web_page])
def test_damaged_file(tmp_path, damage, trust):
    """The error names the file and says that it is damaged."""
    path = tmp_path / 'x.pth'
    damage(path)
    message = failure(path, dict(trust_checkpoint=trust))
    assert str(path) in message and 'damaged' in message and 'trust' not in message


@pytest.mark.parametrize(
    'content, what',
    [
        (torch.zeros(3), 'holds a Tensor instead of weights'),
        ([torch.zeros(3)], 'holds a list instead of weights'),
        (dict(epoch=3, metric=0.5), 'holds no weights'),
        (dict(state_dict={}), 'holds no weights'),
    ],
    ids=['tensor', 'list', 'no tensors', 'empty'],
)
def test_file_without_weights(tmp_path, content, what):
    """A readable file that is no checkpoint."""
    assert what in failure(save(tmp_path, content))


class MakesAFolder:
    """Stands for any code in a pickle: reading it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


class Attribute:
    """An attribute, looked up while the pickle is read."""

    def __init__(self, owner, name):
        self.owner, self.name = owner, name

    def __reduce__(self):
        return getattr, (self.owner, self.name)


class MakesAFolderByDetour(MakesAFolder):
    """The same out of parts that look harmless: Namespace and getattr."""

    def __reduce__(self):
        run = Attribute(Attribute(getattr, '__self__'), 'exec')
        inner = argparse.Namespace(**{'__setstate__': run})
        code = f'import os; os.mkdir({self.folder!r})'
        return getattr, (argparse.Namespace(inner=inner), 'inner'), code


@pytest.mark.parametrize('kind', [MakesAFolder, MakesAFolderByDetour])
def test_code_in_a_checkpoint_is_not_run(tmp_path, kind):
    """Objects are refused unread; the error names the option that reads them all the same."""
    state, folder = own_state(), tmp_path / 'made by the checkpoint'
    path = save(tmp_path, dict(state_dict=state, extra=kind(folder)))
    with pytest.raises(CheckpointError) as error:
        build(path)
    assert not folder.exists()
    message = str(error.value)
    assert str(path) in message and 'trust_checkpoint=True' in message and '\n' not in message


def test_code_in_a_trusted_checkpoint_is_run(tmp_path):
    """trust_checkpoint=True means what it says, and the weights load."""
    state, folder = own_state(), tmp_path / 'made by the checkpoint'
    path = save(tmp_path, dict(state_dict=state, extra=MakesAFolder(folder)))
    model = build(path, dict(trust_checkpoint=True))
    assert folder.exists()
    assert_equal_states(model.state_dict(), state)


class Known:
    """An object of a package that will be gone."""


def test_trusted_checkpoint_of_a_package_that_is_not_installed(tmp_path, monkeypatch):
    """Objects whose package cannot be imported are one line, not a traceback."""
    package = types.ModuleType('not_installed')
    package.Known = Known
    monkeypatch.setattr(Known, '__module__', 'not_installed')
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, 'not_installed', package)
        path = save(tmp_path, dict(state_dict=own_state(), extra=Known()))
    message = failure(path, dict(trust_checkpoint=True))
    assert str(path) in message and 'not_installed' in message


def test_mmengine_checkpoint_is_read_safely(tmp_path):
    """A whole checkpoint of a Runner, with the history of its losses, needs no trust."""
    hub = MessageHub.get_instance('test_checkpoints')
    for step in range(3):
        hub.update_scalar('train/loss', 1.0 / (step + 1))
    hub.update_info('iter', 3)
    assert isinstance(hub.get_scalar('train/loss'), HistoryBuffer)
    state = own_state()
    parameters = [torch.nn.Parameter(torch.randn(3))]
    optimizer = torch.optim.AdamW(parameters)
    parameters[0].sum().backward()
    optimizer.step()
    path = tmp_path / 'iter_3.pth'
    checkpoint = dict(
        meta=dict(epoch=1, iter=3, cfg='model = dict()', seed=0, experiment_name='x'),
        state_dict={f'backbone.{k}': v for k, v in state.items()},
        message_hub=hub.state_dict(),
        optimizer=optimizer.state_dict(),
        param_schedulers=[dict(last_step=3, milestones=Counter([8, 11]))],
    )
    save_checkpoint(checkpoint, str(path))
    assert_equal_states(build(path).state_dict(), state)
    history = read_checkpoint(str(path))['message_hub']['log_scalars']['train/loss']
    assert history.mean() == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_numbers_of_the_other_numpy(tmp_path):
    """numpy 1 and 2 have different names for the same; a file of either needs no trust."""
    path = save(tmp_path, dict(state_dict=own_state(), best=np.float64(1.5), curve=np.arange(3)))
    names = [b'numpy.core.multiarray', b'numpy._core.multiarray']
    own, other = names if np.__version__ < '2' else names[::-1]
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(tmp_path / 'other.pth', 'w') as file:
        for name, data in content.items():
            if name.endswith('data.pkl'):
                assert own in data
                data = data.replace(own, other)
            file.writestr(name, data)
    read = read_checkpoint(str(tmp_path / 'other.pth'))
    assert read['best'] == 1.5 and read['curve'].tolist() == [0, 1, 2]


def test_unwrap_prefers_the_weights():
    """Beside weights, an optimizer's own tensors are not mistaken for them."""
    weights = {'a': torch.zeros(1)}
    assert unwrap(dict(optimizer=dict(x=torch.ones(1)), state_dict=weights)) == weights
    assert unwrap(dict(model=weights, epoch=1)) == weights
    assert unwrap(dict(weights, epoch=1)) == weights


# ---------------------------------------------------------------------- addresses
@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty folder in place of torch.hub's, and nobody who answers."""
    previous = torch.hub._hub_dir
    torch.hub.set_dir(str(tmp_path / 'hub'))
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    yield tmp_path / 'hub' / 'checkpoints'
    torch.hub._hub_dir = previous


URL = 'http://127.0.0.1:9/folder/gcvit_x.pth.tar?download=true'


def test_unreachable_address(hub):
    """The error names the file, where to put it, and how to train without it."""
    message = failure(URL)
    assert URL in message
    assert f'put it at {hub / "gcvit_x.pth.tar"}' in message
    assert 'train from scratch' in message and 'init_cfg=None' in message
    assert not (hub / 'gcvit_x.pth.tar').exists()


def test_file_put_there_is_used(hub):
    """A file fetched by hand replaces the download."""
    state = classifier_state()
    hub.mkdir(parents=True)
    save(hub, trainer_file(state), 'gcvit_x.pth.tar')
    assert_loaded_classifier(build(URL), state)


def test_damaged_file_put_there_is_named(hub):
    """A cut download is named by its place on this machine, where it must be replaced."""
    hub.mkdir(parents=True)
    truncated(hub / 'gcvit_x.pth.tar')
    assert f'{hub / "gcvit_x.pth.tar"} is damaged' in failure(URL)
