"""Odd settings of a config, drawn by hypothesis: used, or one line about them."""

import copy
import re

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from mmengine.config import Config

from gcvit_mm import GCViT, UserError, cli, messages
from gcvit_mm.cli import config as configs
from support.fuzzing import fuzz
from support.running import ROOT, SEG

JUNK = st.one_of(
    st.none(),
    st.integers(-5, 2000),
    st.floats(allow_nan=False),
    st.sampled_from(['', 'x', 'GCViT', [], {}, [1, 2], ['a'], dict(type='x'), dict(a=1), ()]),
)


# Settings that must be right, of every part that is built before data is read.
KEYS = [
    'model',
    'model.type',
    'model.backbone',
    'model.backbone.type',
    'model.backbone.arch',
    'model.backbone.window_size',
    'model.backbone.out_indices',
    'model.backbone.drop_path_rate',
    'model.backbone.frozen_stages',
    'model.backbone.norm_cfg',
    'model.backbone.in_channels',
    'model.backbone.no_such_argument',
    'model.decode_head',
    'model.decode_head.type',
    'model.decode_head.in_channels',
    'model.decode_head.in_index',
    'model.decode_head.channels',
    'model.decode_head.no_such_argument',
    'model.auxiliary_head.in_channels',
    'model.auxiliary_head.in_index',
    'model.data_preprocessor',
    'model.data_preprocessor.mean',
    'train_dataloader',
    'train_dataloader.batch_size',
    'train_dataloader.num_workers',
    'train_dataloader.dataset',
    'train_dataloader.dataset.metainfo.classes',
    'train_cfg.max_iters',
    'default_hooks.checkpoint',
    'optim_wrapper',
]


@pytest.fixture
def small_config():
    """Reading any config gives that of the demo, read once, with a small head."""
    pytest.importorskip('mmseg')
    pytest.importorskip('mmcv._ext', reason='the compiled ops of mmcv are not installed')
    cfg = Config.fromfile(ROOT / SEG)
    cfg.model.decode_head.channels = 16
    cfg.model.backbone.arch = {**GCViT.arch_zoo['xxtiny'], 'depths': (1, 1, 1, 1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(configs.Config, 'fromfile', lambda path: copy.deepcopy(cfg))
        yield


def says_where(line, key, value):
    """Whether a line names a setting, or shows it as (an argument of) what could not be built."""
    *_, section, last = ['', *key.split('.')]
    what, _, why = line.partition(' cannot be built: ')
    words = set(re.findall(r'\w+', why or what))
    if last in words or section in words - {'model'}:
        return True
    what = what[len('config: ') :]
    if f'{last}={value!r}'[:40] in what or what.startswith(f'{value}('):
        return True
    if isinstance(value, dict):
        return any(what.startswith(f'{v}(') or f' {k}={v!r}' in what for k, v in value.items())
    return what in map(repr, [value, *(value if isinstance(value, (list, tuple)) else [])])


@pytest.mark.parametrize(
    'line, key, value',
    [
        ('config: train_cfg.max_iters is 0: it must be 1 or more', 'train_cfg.max_iters', 0),
        ('config: None cannot be built: TypeError: no dict', 'model.decode_head', None),
        ("config: A(b=1, c='') cannot be built: ValueError: no", 'model.neck.c', ''),
        ('config: x(b=1) cannot be built: KeyError: unknown', 'model.backbone.type', 'x'),
        ('config: x(b=1) cannot be built: KeyError: unknown', 'model.backbone', dict(type='x')),
        ('config: A(b=1) cannot be built: ValueError: c must be 2', 'model.neck.c', 1),
    ],
)
def test_what_says_where(line, key, value):
    """The lines that the next test lets pass, and that it passes no others."""
    assert says_where(line, key, value)
    for other in (1, '', None, 'GCViT'):
        assert not says_where(line, 'model.decode_head.in_channels', other) or other == value


@fuzz(50)
@example(key='model.backbone.no_such_argument', value=1)
@example(key='model.decode_head.in_channels', value=[64, 128, 256, 511])
@example(key='model.auxiliary_head.in_index', value=4)
@example(key='model.backbone.in_channels', value=1)
@example(key='model.backbone.type', value='GCVit')
@example(key='train_cfg.max_iters', value=0)
@given(key=st.sampled_from(KEYS), value=JUNK)
def test_configs(small_config, key, value):
    """A setting of the wrong type, name or size is one line that says where, or the model runs."""
    try:
        cfg = cli.load_config(str(ROOT / SEG), {key: value})
        cfg.launcher = 'none'
        cli.use_cpu(cfg)
        with torch.device('meta'):
            model = cli.build_model(cfg).eval()
    except Exception as error:
        line, status = messages.explain(error)
        assert status == 2 and '\n' not in line and len(line) < 1500, line
        assert says_where(line, key, value), line
        return
    with torch.no_grad():
        channels = model.backbone.in_channels
        outs = model.backbone(torch.zeros(1, channels, 64, 64, device='meta'))
        model.decode_head(outs)
        model.auxiliary_head(outs)


def test_misspelt_sections(tmp_path):
    """An option for a section that is not there, but nearly, would change nothing in silence."""
    path = tmp_path / 'config.py'
    path.write_text('model = dict(type="x")\ntrain_dataloader = dict(batch_size=1)')
    with pytest.raises(UserError, match='did you mean train_dataloader?'):
        cli.load_config(str(path), {'train_dataloder.batch_size': 2})
    cfg = cli.load_config(str(path), {'train_dataloader.batch_size': 2, 'my_own': 3})
    assert cfg.train_dataloader.batch_size == 2 and cfg.my_own == 3
    with pytest.raises(UserError, match='--cfg-options model.type.name: '):
        cli.load_config(str(path), {'my_own': 3, 'model.type.name': 2})
