"""Addresses of the shipped configs in mmengine and mmpretrain."""

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config, get_model
from mmengine.registry import DefaultScope

from gcvit_mm import UserError, addresses
from gcvit_mm.utils import register_all_modules
from support.running import ROOT

NAMES = ('mask_gg_t_1x', 'gcvit_mm::mask_gg_t_1x', 'gcvit_mm::mask_gg_t_1x.py')


def test_config_path(tmp_path, monkeypatch):
    """A file that exists, or a shipped one by name; the nearest name otherwise."""
    expected = str(ROOT / 'configs/mask_gg_t_1x.py')
    for name in (*NAMES, expected):
        assert addresses.config_path(name) == expected
    assert addresses.config_path('_base_/backbones/gg_t.py').endswith('backbones/gg_t.py')
    for name in ('configs/mask_gg_t_2x.py', 'gcvit_mm::mask_gg_t_2x'):
        with pytest.raises(UserError, match=f'no config {name}: did you mean mask_gg_t_1x?'):
            addresses.config_path(name)
    with pytest.raises(UserError, match='list_models'):
        addresses.config_path('')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'mask_gg_t_1x').write_text('mine')  # a file of this name comes first
    assert addresses.config_path('mask_gg_t_1x') == 'mask_gg_t_1x'


def test_home_of_a_wheel(tmp_path, monkeypatch):
    """What a wheel has brought along comes before what lies beside the package."""
    monkeypatch.setattr(addresses, '__file__', str(tmp_path / 'gcvit_mm/addresses.py'))
    assert addresses.home() == tmp_path
    (tmp_path / 'gcvit_mm/.mim/configs').mkdir(parents=True)
    assert addresses.home() == tmp_path / 'gcvit_mm/.mim'


# ------------------------------------------------------------------- mmengine
@pytest.mark.parametrize('name', ['mask_gg_t_1x', 'upernet_gcvit_xxt_shapes', 'cls_gg_t_300e'])
def test_base(tmp_path, name):
    """A config of the user's that takes a shipped one as its base is that, with what it changes."""
    pytest.importorskip('mmdet')
    pytest.importorskip('mmseg')
    mine = tmp_path / 'mine.py'
    mine.write_text(f"_base_ = 'gcvit_mm::{name}.py'\nmodel = dict(backbone=dict(with_cp=True))\n")
    cfg, expected = Config.fromfile(mine), Config.fromfile(ROOT / f'configs/{name}.py')
    expected.merge_from_dict(dict(model=dict(backbone=dict(with_cp=True))))
    assert cfg.to_dict() == expected.to_dict()


def test_base_of_parts(tmp_path):
    """Parts have their path; other packages and files are found as before."""
    pytest.importorskip('mmdet')
    (tmp_path / 'other.py').write_text('other = 1')
    mine = tmp_path / 'mine.py'
    bases = ['gcvit_mm::_base_/backbones/gg_t.py', 'mmdet::_base_/default_runtime.py', './other.py']
    mine.write_text(f'_base_ = {bases}\nchannels = _base_.channels\n')
    cfg = Config.fromfile(mine)
    assert (cfg.channels, cfg.other, cfg.default_scope) == ([96, 192, 384, 768], 1, 'mmdet')
    mine.write_text("_base_ = 'gcvit_mm::mask_gg_t_1'")
    with pytest.raises(UserError, match='did you mean mask_gg_t_1x'):
        Config.fromfile(mine)


@pytest.mark.parametrize(
    ('name', 'library', 'model'),
    [
        ('mask_gcvit_xxt_shapes', 'mmdet', 'MaskRCNN'),
        ('upernet_gcvit_xxt_shapes', 'mmseg', 'EncoderDecoder'),
        ('cls_gcvit_xxt_shapes', 'mmpretrain', 'ImageClassifier'),
    ],
)
def test_hub(name, library, model):
    """mmengine's functions build it with its own library, whatever the scope, and leave that."""
    pytest.importorskip(library)
    cfg = get_config(f'gcvit_mm::{name}.py')
    assert cfg.filename == str(ROOT / f'configs/{name}.py') and cfg.default_scope == library
    with torch.device('meta'):
        built = get_model(f'gcvit_mm::{name}')
    assert type(built).__name__ == model and type(built).__module__.split('.')[0] == library
    assert DefaultScope.get_current_instance() is None


def test_hub_has_no_weights():
    """None were released of whole models: said instead of an assertion."""
    with pytest.raises(UserError, match='no weights of whole models were released'):
        get_config('gcvit_mm::mask_gg_t_1x.py', pretrained=True)
    with pytest.raises(ValueError, match='please specify the package name'):
        get_config('mask_gg_t_1x.py')  # others as before
    register_all_modules(init_default_scope=False)


# ------------------------------------------------------------------- mmpretrain
def test_mmpretrain_knows_the_classifiers():
    """By name, built as it builds its own; detectors are not among them."""
    mmpretrain = pytest.importorskip('mmpretrain')
    shipped = [name for name in addresses.shipped_configs() if name.startswith('cls_')]
    found = mmpretrain.list_models('cls_')
    assert found == [name for name in shipped if not name.endswith('_shapes')]
    assert mmpretrain.list_models() == sorted(set(mmpretrain.list_models()))
    with torch.device('meta'):
        model = mmpretrain.get_model('cls_gcvit_xxt_300e', backbone=dict(out_indices=(1, 3)))
    assert type(model).__name__ == 'ImageClassifier' and model.backbone.out_indices == (1, 3)
