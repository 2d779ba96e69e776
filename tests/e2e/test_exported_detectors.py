"""Detectors as one file: the boxes of torch at any size, by standard operators, without torch."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

pytest.importorskip('mmdet')
if not all(find_spec(name) for name in ('onnx', 'onnxruntime')):
    pytest.skip('needs onnx and onnxruntime', allow_module_level=True)

import onnx

from gcvit_mm import UserError
from gcvit_mm.deploy import Predictor, metadata
from gcvit_mm.deploy.checking import by_torch, compare, drawn_picture, verify_detector
from gcvit_mm.deploy.onnx import export_onnx, part_to_export
from support.detectors import CONFIGS, decided, detector
from support.families import FAMILIES, FEW
from support.running import DET, ENV, SEG, one_line_error, run

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
    'mask_gcvit_xxt_shapes': (True, 16),
    'cascade_gcvit_t_3x': (False, 17),
    'retinanet_gpvit_l1_1x': (False, 17),
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
    colours = [(9, 80, 50 * i) for i in range(5)]
    meta = dict(dataset_meta=dict(CLASSES=NAMES, PALETTE=colours))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'model.pth')
    words = [DET, folder / 'model.pth', folder / 'model.onnx', '--uint8', '--licence', 'CC0']
    printed = run('export_onnx.py', *words, '--size', 120, 160, '--cfg-options', FEWER)
    return folder, printed


NAMES = ('circle', 'square', 'triangle', 'star', 'cross')
FEWER = 'model.test_cfg.rpn.max_per_img=20'


def test_the_tool(mask):
    """The file is written once it agrees, and says what it is."""
    folder, printed = mask
    assert 'image (Bx3xHxW, uint8) -> boxes, scores, labels, images, masks' in printed
    count = re.search(r'finds the (\d+) boxes of torch, .* masks with IoU', printed)[1]
    assert int(count) > 20 and '1x120x160, 2x121x197, 1x101x126' in printed
    facts = Predictor(folder / 'model.onnx').facts
    assert facts['classes'] == list(NAMES) and facts['palette'][4] == [9, 80, 200]
    assert facts['licence'] == 'CC0' and facts['model'] == 'MaskRCNN' and facts['mask_thr'] == 0.5
    assert facts['category_ids'] == [1, 2, 3, 4, 5]
    assert facts['config'] == 'mask_gcvit_xxt_shapes.py'
    assert facts['prepare'][0]['scale_factor'] == [1.0, 1.0]


def evaluated(model, shapes, folder, *options):
    """Bounding box and mask AP that tools/test.py prints."""
    loader = 'test_dataloader'
    words = ['--work-dir', folder, '--data-root', shapes / 'coco', '--cfg-options', FEWER]
    words += [f'{loader}.num_workers=0', f'{loader}.persistent_workers=False', *options]
    printed = run('test.py', DET, model, *words)
    return [float(re.search(rf'coco/{kind}_mAP: (\S+)', printed)[1]) for kind in ('bbox', 'segm')]


def test_the_metric_of_the_config(mask, shapes, tmp_path):
    """tools/test.py: AP of the file is that of the checkpoint, on what the checkpoint predicts."""
    folder, path = mask[0], tmp_path / 'truth.json'
    truth = json.loads((shapes / 'coco/annotations/instances_val2017.json').read_text())
    predictor = Predictor(folder / 'model.onnx', score_thr=0.3)
    images = [shapes / 'coco/val2017' / image['file_name'] for image in truth['images']]
    # as truth serves what is likely, by the file itself: a metric needs some that is found
    found = predictor.coco(predictor([str(image) for image in images]))
    assert len(found['annotations']) > 20
    for row in found['annotations']:
        row['image_id'] = truth['images'][row['image_id'] - 1]['id']
    truth['annotations'] = found['annotations']
    path.write_text(json.dumps(truth))
    options = [f'test_evaluator.ann_file={path}', f'test_dataloader.dataset.ann_file={path}']
    by_file = evaluated(folder / 'model.onnx', shapes, tmp_path / 'run', *options)
    by_torch = evaluated(folder / 'model.pth', shapes, tmp_path / 'run', *options)
    assert min(by_torch) > 0.9 and by_file == pytest.approx(by_torch, abs=0.001)


def test_drawing(mask, shapes, tmp_path):
    """tools/predict.py draws what it draws for the checkpoint."""
    image = sorted((shapes / 'coco/val2017').iterdir())[0]
    printed = run('predict.py', mask[0] / 'model.onnx', image, '--out-dir', tmp_path / 'file')
    assert f'drew 1 images into {tmp_path / "file"}' in printed
    words = [DET, mask[0] / 'model.pth', image, '--out-dir', tmp_path / 'torch']
    run('predict.py', *words, '--cfg-options', FEWER)
    drawn = [np.asarray(Image.open(tmp_path / name / image.name)) for name in ('file', 'torch')]
    plain = np.asarray(Image.open(image).resize(drawn[0].shape[1::-1]))
    same = (np.abs(drawn[0].astype(int) - drawn[1]).max(2) < 40).mean()
    assert same > 0.99 > (np.abs(drawn[0].astype(int) - plain).max(2) < 40).mean()


WITHOUT_TORCH = """
import sys
gone = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'cv2', 'pycocotools')
sys.modules.update(dict.fromkeys(gone))  # importing them fails
import json
import numpy as np
from gcvit_mm.deploy import Predictor

predictor = Predictor(sys.argv[1])
(found,) = predictor(sys.argv[2])
arrays = {key: getattr(found, key) for key in ('boxes', 'scores', 'labels', 'masks')}
np.savez(sys.argv[3], **arrays)
print(json.dumps(predictor.coco([found])['annotations'][0]))
import gcvit_mm

try:
    gcvit_mm.GCViT
except ImportError as error:
    print(error)
"""


def test_without_torch(mask, tmp_path):
    """numpy, Pillow and onnxruntime are enough, and find what torch does in the same picture."""
    folder = mask[0]
    picture = drawn_picture(90, 121, 5)
    Image.fromarray(picture).save(tmp_path / 'picture.png')
    words = ['-c', WITHOUT_TORCH, folder / 'model.onnx', tmp_path / 'picture.png']
    command = [sys.executable, *map(str, words), str(tmp_path / 'found.npz')]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert json.loads(lines[0])['segmentation']['size'] == [90, 121]
    assert 'gcvit_mm.GCViT needs torch, mmengine and mmcv' in lines[1]
    model = detector('mask_gcvit_xxt_shapes', test_cfg=dict(rpn=dict(max_per_img=20)))
    model.load_state_dict(torch.load(folder / 'model.pth')['state_dict'])
    (wanted,) = by_torch(model.eval(), [picture])
    facts = dict(score_thr=0.05, max_per_img=20, iou_thr=0.3)
    assert compare(wanted, dict(np.load(tmp_path / 'found.npz')), facts).boxes > 10


def test_what_does_not_fit(mask, shapes, tmp_path):
    """A line each: no model, none of ours, another task, other classes, options of checkpoints."""
    folder = mask[0]
    data = ['--data-root', shapes / 'coco', '--work-dir', tmp_path]
    (tmp_path / 'text.onnx').write_text('no model')
    line = one_line_error('test.py', DET, tmp_path / 'text.onnx', *data)
    assert 'text.onnx: onnxruntime cannot read it' in line
    foreign = onnx.load(folder / 'model.onnx')
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / 'foreign.onnx')
    image = tmp_path / 'a.png'
    Image.fromarray(drawn_picture(40, 50)).save(image)
    words = [tmp_path / 'foreign.onnx', image, '--out-dir', tmp_path / 'drawn']
    assert 'foreign.onnx is no model of gcvit_mm' in one_line_error('predict.py', *words)
    foreign.metadata_props.add(key='gcvit_mm', value='"9.9"')
    foreign.metadata_props.add(key='format', value='99')
    onnx.save(foreign, tmp_path / 'foreign.onnx')
    assert 'gcvit_mm 9.9, which is newer' in one_line_error('predict.py', *words)
    file = folder / 'model.onnx'
    line = one_line_error('predict.py', file, image, '--out-dir', tmp_path, '--attention', '3,3')
    assert '--attention: goes with checkpoints' in line
    line = one_line_error('predict.py', file, tmp_path / 'no.png', '--out-dir', tmp_path)
    assert 'no.png does not exist' in line
    ade = ['--data-root', shapes / 'ade/ADEChallengeData2016', '--work-dir', tmp_path]
    line = one_line_error('test.py', SEG, file, *ade)
    assert 'model.onnx is a detector, exported with mask_gcvit_xxt_shapes.py' in line
    other = onnx.load(file)
    facts = {prop.key: prop for prop in other.metadata_props}
    facts['classes'].value = facts['classes'].value.replace('star', 'moon')
    onnx.save(other, tmp_path / 'other.onnx')
    line = one_line_error('test.py', DET, tmp_path / 'other.onnx', *data)
    assert 'other classes than the data set (moon where that has star)' in line
    line = one_line_error('test.py', DET, file, *data, '--allow-partial')
    assert '--allow-partial: goes with checkpoints' in line
