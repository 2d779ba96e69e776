"""Detectors as one file: the boxes of torch at any size, by standard operators, without torch."""

import re
from importlib.util import find_spec

import pytest
import torch
from mmengine.config import Config

pytest.importorskip('mmdet')
if not all(find_spec(name) for name in ('onnx', 'onnxruntime')):
    pytest.skip('needs onnx and onnxruntime', allow_module_level=True)

import onnx

from gcvit_mm import UserError
from gcvit_mm.deploy import Predictor, metadata
from gcvit_mm.deploy.checking import drawn_picture, verify_detector
from gcvit_mm.deploy.onnx import export_onnx, part_to_export
from support.detectors import CONFIGS, decided, detector
from support.families import FAMILIES, FEW
from support.running import DET, run

SIZES = [(1, 96, 128), (2, 77, 131), (3, 160, 33)]


def small(family, channels, **kwargs):
    """Changes that make the backbone of a detector one of a few blocks."""
    arch = {**FAMILIES[family][1], **FEW[family], 'drop_path_rate': 0.0, '_delete_': True}
    neck = dict(in_channels=list(channels))
    return dict(backbone=dict(arch=arch, init_cfg=None, **kwargs), neck=neck)


PYRAMID = (16, 32, 64, 128)
CHANGES = {
    'mask_gcvit_xxt_shapes': small('gcvit', PYRAMID),
    'mask_gg_t_1x': small('gg', PYRAMID),
    'cascade_gcvit_t_3x': small('gcvit', PYRAMID),
    'retinanet_gpvit_l1_1x': small('gpvit_adapter', (24, 24, 24), num_interactions=1),
    'retinanet_scalablevit_s_1x': small('scalablevit', PYRAMID[1:]),
    'dino_gcvit_t_1x': small('gcvit', PYRAMID[1:]),
}


def exported(name, path, uint8=False, fixed=False, opset=17):
    """Export a small detector of a config; return it."""
    model = decided(detector(name, **CHANGES[name]))
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    part = part_to_export(cfg, model, uint8=uint8)
    size = (96, 128) if fixed else (101, 131)
    export_onnx(part, str(path), size, fixed=fixed, opset=opset)
    facts = metadata.describe(cfg, part.kind, model, {}, size if fixed else None, uint8)
    metadata.write(str(path), facts)
    return model


# Takes bytes; the least opset.
CASES = {
    'mask_gcvit_xxt_shapes': (True, 17),
    'mask_gg_t_1x': (False, 16),
    'cascade_gcvit_t_3x': (False, 17),
    'retinanet_gpvit_l1_1x': (False, 17),
    'retinanet_scalablevit_s_1x': (False, 14),
    'dino_gcvit_t_1x': (True, 16),
}


@pytest.mark.parametrize('name', CASES)
def test_finds_the_boxes_of_torch(name, tmp_path):
    """At odd sizes, in batches of one to three, by operators of ONNX alone."""
    path, (uint8, opset) = tmp_path / 'model.onnx', CASES[name]
    model = exported(name, path, uint8, opset=opset)
    found = verify_detector(model, str(path), SIZES)
    assert (
        found.undecided <= 1
        and found.boxes > 50
        and found.pixels < 0.01
        and found.score < 1e-4
        and found.iou > 0.99
    )
    graph = onnx.load(path)
    onnx.checker.check_model(graph)
    assert {node.domain for node in graph.graph.node} == {''}
    assert [(o.domain, o.version) for o in graph.opset_import] == [('', opset)]


@pytest.mark.parametrize(('name', 'least'), [('mask_gg_t_1x', 16), ('dino_gcvit_t_1x', 16)])
def test_too_old_operators(name, least, tmp_path):
    """What came later is named."""
    with pytest.raises(UserError, match=f'--opset {least - 1} is too old: .* came with {least}:'):
        exported(name, tmp_path / 'model.onnx', opset=least - 1)


def test_a_fixed_file_takes_one_picture(tmp_path):
    """Of its size, and says so of others."""
    path = tmp_path / 'model.onnx'
    model = exported('mask_gg_t_1x', path, fixed=True)
    assert verify_detector(model, str(path), SIZES[:1]).boxes > 10
    predictor = Predictor(path)
    with pytest.raises(UserError, match='takes one picture of 96x128 only, .* 1 of 77x131'):
        predictor.detect(drawn_picture(77, 131))


def test_other_weights_are_found(tmp_path):
    """A file that finds other boxes is refused, one by one."""
    path = str(tmp_path / 'model.onnx')
    model = exported('mask_gcvit_xxt_shapes', path)
    head = model.roi_head.bbox_head.fc_reg
    with torch.no_grad():
        head.bias.add_(0.5)
    with pytest.raises(UserError, match='at 1x96x128: .* finds class .* do not use this file'):
        verify_detector(model, path, SIZES[:1])
    with torch.no_grad():
        head.bias.sub_(0.5)
        model.roi_head.mask_head.conv_logits.bias.add_(0.4)
    with pytest.raises(UserError, match='the mask of class .* has IoU 0.* do not use this file'):
        verify_detector(model, path, SIZES[:1])


@pytest.fixture(scope='module')
def mask(tmp_path_factory):
    """A checkpoint of the small Mask R-CNN of the drawn shapes, and its file by the tool."""
    folder = tmp_path_factory.mktemp('mask')
    model = decided(detector('mask_gcvit_xxt_shapes'))
    meta = dict(
        dataset_meta=dict(
            CLASSES=('o', 'sq', 'tri', 'st', 'x'), PALETTE=[(9, 8, i) for i in range(5)]
        )
    )
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'model.pth')
    printed = run('export_onnx.py', DET, folder / 'model.pth', folder / 'model.onnx', *TOOL)
    return folder, printed


TOOL = ['--uint8', '--licence', 'CC0', '--cfg-options', 'model.test_cfg.rpn.max_per_img=10']


def test_the_tool(mask):
    """The file is written once it agrees, and says what it is."""
    folder, printed = mask
    assert 'image (Bx3xHxW, uint8) -> boxes, scores, labels, images, masks' in printed
    count = re.search(r'finds the (\d+) boxes of torch, .* masks with IoU', printed)[1]
    assert int(count) > 20 and '1x320x320, 2x321x357, 1x251x246' in printed
    facts = Predictor(folder / 'model.onnx').facts
    assert facts['classes'] == ['o', 'sq', 'tri', 'st', 'x'] and facts['palette'][4] == [9, 8, 4]
    assert facts['licence'] == 'CC0' and facts['model'] == 'MaskRCNN' and facts['mask_thr'] == 0.5
    assert (
        facts['category_ids'] == [1, 2, 3, 4, 5] and facts['config'] == 'mask_gcvit_xxt_shapes.py'
    )
    assert facts['prepare'][0]['scale_factor'] == [1.0, 1.0]
