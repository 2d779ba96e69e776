"""docs/other_models.md is true: channels and strides, and configs of other models that fit."""

import ast
import inspect
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

import gcvit_mm
from gcvit_mm import UserError, zoo
from gcvit_mm.cli.guards import MASKING, check_channels
from support.running import ROOT

TEXT = (ROOT / 'docs/other_models.md').read_text()
README = (ROOT / 'README.md').read_text()
FRAGMENTS = re.findall(r'^```python\n(.*?)^```', TEXT, re.M | re.S)
ROWS = re.findall(r'^\| (`.*?) \| (.*?) \| ([\d, ]+) \| ([\d, ]+) \|$', f'{TEXT}\n{README}', re.M)


def numbers(cell):
    """Numbers of a cell."""
    return [int(number) for number in cell.split(', ')]


def family(row):
    """Class of the backbones of a row."""
    return zoo.backbone_names()[re.match(r'`(\w+)`', row[0])[1]][0]


def image(side=64):
    """An image without numbers."""
    return torch.zeros(1, 3, side, side, device='meta')


@pytest.mark.parametrize('row', ROWS, ids=lambda row: f'{row[0]} {row[1]}')
def test_channels_and_strides(row):
    """Each backbone of a row gives maps of these channels and strides."""
    names, indices, channels, strides = row
    chosen = re.match(r'`(.*)`(, the default)?$', indices)
    for name in re.findall(r'`(\w+)`', names):
        kwargs = {}
        if chosen and not chosen[2]:
            kwargs = dict(out_indices=ast.literal_eval(chosen[1]))
        with torch.device('meta'):
            net = gcvit_mm.create(name, **kwargs)
        assert list(net.out_channels) == numbers(channels), name
        if chosen:
            assert net.out_indices == ast.literal_eval(chosen[1]), name
        else:
            assert 'out_indices' in net.not_taken
    if row != next(r for r in ROWS if family(r) == family(row) and r[1] == indices):
        return  # strides are those of the family
    with torch.no_grad():
        maps = net(image())
    assert [m.shape[1] for m in maps] == numbers(channels)
    assert [64 // m.shape[2] for m in maps] == numbers(strides)


def test_every_backbone_has_a_row():
    """None is forgotten."""
    listed = {name for row in ROWS for name in re.findall(r'`(\w+)`', row[0])}
    assert listed == set(zoo.backbone_names())


def run_heads(model):
    """Run a model part by part, as far as its channels matter."""
    feats = model.backbone(image())
    if getattr(model, 'neck', None) is not None:
        feats = model.neck(feats)
    if hasattr(model, 'panoptic_head'):
        convs = model.panoptic_head.pixel_decoder.input_convs
        assert len(convs) + 1 == len(feats)  # the largest map has a convolution of its own
        for conv, feat in zip(convs, reversed(feats)):
            conv(feat)
        model.panoptic_head.pixel_decoder.lateral_convs[0](feats[0])
    elif hasattr(model, 'decode_head'):
        auxiliary = model.auxiliary_head
        heads = auxiliary if isinstance(auxiliary, torch.nn.ModuleList) else [auxiliary]
        for head in (model.decode_head, *heads):
            assert head(feats).shape[1] == 150
    elif hasattr(model, 'bbox_head') and not hasattr(model, 'decoder'):
        model.bbox_head(feats)
    return feats


MAPS = dict(RetinaNet=5, RTMDet=3, DINO=4, Mask2Former=4, UPerHead=4, SETRUPHead=4, MoCo=1)


@pytest.mark.parametrize(('fragment', 'kind'), list(zip(FRAGMENTS, MAPS)), ids=list(MAPS))
def test_fragments(fragment, kind, tmp_path):
    """Each is a config of the model that it says, whose parts fit each other."""
    assert len(FRAGMENTS) == len(MAPS)
    (tmp_path / 'mine.py').write_text(fragment)
    cfg = Config.fromfile(tmp_path / 'mine.py')
    pytest.importorskip(cfg.default_scope)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        with torch.device('meta'):
            model = MODELS.build(cfg.model).eval()
        assert kind in (type(model).__name__, type(getattr(model, 'decode_head', None)).__name__)
        check_channels(cfg, model)
        with torch.no_grad():
            feats = run_heads(model)
    assert len(feats) == MAPS[kind]


def test_masked_images_are_refused(tmp_path):
    """SimMIM and its like, by name: each of them calls its backbone with more than images."""
    selfsup = pytest.importorskip('mmpretrain.models.selfsup')
    for name in MASKING:
        kinds = [c for c in getattr(selfsup, name).__mro__ if 'selfsup' in c.__module__]
        source = ''.join(map(inspect.getsource, kinds))
        assert re.search(r'self\.backbone\(inputs?(\[0\])?, \w+', source), name
    (tmp_path / 'mine.py').write_text(
        "_base_ = 'mmpretrain::simmim/simmim_swin-base-w6_16xb128-amp-coslr-100e_in1k-192px.py'\n"
        "model = dict(backbone=dict(_delete_=True, type='GCViT', arch='xxtiny', out_indices=(3,)))"
    )
    cfg = Config.fromfile(tmp_path / 'mine.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'), torch.device('meta'):
        model = MODELS.build(cfg.model)
    with pytest.raises(UserError, match='model.type is SimMIM, .* GCViT takes none: .* MoCo'):
        check_channels(cfg, model)
