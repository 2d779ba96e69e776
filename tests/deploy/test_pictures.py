"""Resizing, pasting and COCO JSON without torch equal what the OpenMMLab pipelines do."""

import io
import json

import cv2
import mmcv
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

from gcvit_mm import UserError
from gcvit_mm.deploy import Prediction
from gcvit_mm.deploy.coco import coco_json, run_lengths
from gcvit_mm.deploy.metadata import Unknown, pipeline_of, pipeline_steps
from gcvit_mm.deploy.pictures import bilinear, find, paste, prepare, read
from support.running import ROOT

PIPELINES = {
    'coco': ('mmdet', [dict(type='Resize', scale=(133, 80), keep_ratio=True)]),
    'squashed': ('mmdet', [dict(type='Resize', scale=(50, 90), keep_ratio=False)]),
    'factor': ('mmdet', [dict(type='Resize', scale_factor=1.37, keep_ratio=True)]),
    'factors': ('mmdet', [dict(type='Resize', scale_factor=(0.4, 1.7))]),
    'ade': (
        'mmseg',
        [
            dict(type='Resize', scale=(204, 51), keep_ratio=True),
            dict(type='ResizeToMultiple', size_divisor=32),
        ],
    ),
    'imagenet': (
        'mmpretrain',
        [
            dict(
                type='ResizeEdge', scale=64, edge='short', backend='pillow', interpolation='bicubic'
            ),
            dict(type='CenterCrop', crop_size=55),
        ],
    ),
    'long': ('mmpretrain', [dict(type='ResizeEdge', scale=64, edge='long')]),
    'width': ('mmpretrain', [dict(type='ResizeEdge', scale=64, edge='width')]),
    'crop': ('mmpretrain', [dict(type='CenterCrop', crop_size=(300, 20))]),
}


def picture(height, width, seed=0):
    """A smooth picture, (H, W, 3)."""
    small = np.random.RandomState(seed).randint(0, 256, (5, 7, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize('name', PIPELINES)
@pytest.mark.parametrize('size', [(75, 101), (120, 33)])
def test_prepared_as_the_pipeline_does(name, size):
    """Sizes exactly, values to one of 255 a step: OpenCV rounds on the way."""
    scope, steps = PIPELINES[name]
    init_default_scope(scope)
    image = picture(*size)
    told = json.loads(json.dumps(pipeline_steps(steps)))
    given = dict(img=image[..., ::-1].copy(), img_shape=size, ori_shape=size)
    wanted = Compose([dict(step) for step in steps])(given)['img'][..., ::-1]
    found = prepare(image, told)
    assert found.shape == wanted.shape and found.dtype == np.uint8
    assert np.abs(found.astype(int) - wanted).max() <= len(steps)
    task = {'mmdet': 'detector', 'mmseg': 'segmentor', 'mmpretrain': 'classifier'}[scope]
    back = pipeline_of(dict(prepare=told, task=task), 'x.onnx')[1:-1]
    assert pipeline_steps(back) == told


@pytest.mark.parametrize(
    ('name', 'kinds'),
    [
        ('retinanet_gpvit_l1_3x', ['Resize']),
        ('dino_gcvit_t_1x', ['Resize']),
        ('mask_gcvit_xxt_shapes', ['Resize']),
        ('upernet_gcvit_xxt_shapes', []),
        ('segformer_gpvit_l1_160k', ['Resize', 'ResizeToMultiple']),
        ('cls_gcvit_t_300e', ['ResizeEdge', 'CenterCrop']),
        ('cls_gcvit_l_384', ['Resize']),
    ],
)
def test_pipelines_of_configs(name, kinds):
    """Those that are shipped can be described."""
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    steps = pipeline_steps(cfg.test_dataloader.dataset.pipeline)
    assert [step['type'] for step in steps] == kinds


@pytest.mark.parametrize(
    'step',
    [
        dict(type='Pad', size_divisor=32),
        dict(type='Resize', scale=(9, 9), interpolation='lanczos'),
        dict(type='Resize', scale=(9, 9), new_argument=1),
        dict(type='CenterCrop', crop_size=9, auto_pad=True),
    ],
)
def test_what_cannot_be_described(step):
    """A step, a filter or an argument that nobody here knows."""
    with pytest.raises(Unknown, match=f'{step["type"]}.* of the test pipeline'):
        pipeline_steps([dict(type='LoadImageFromFile'), step])
    with pytest.raises(UserError, match='x.onnx does not say how pictures are resized: Pad'):
        pipeline_of(dict(prepare=None, unknown='Pad()', task='detector'), 'x.onnx')


@pytest.mark.parametrize('align', [True, False])
@pytest.mark.parametrize('size', [(9, 5), (1, 1), (20, 3), (4, 31)])
def test_bilinear(align, size):
    """As torch, larger and smaller, from one row too."""
    for shape in [(3, 9, 5), (2, 1, 7)]:
        x = torch.randn(shape)
        wanted = F.interpolate(x[None], size, mode='bilinear', align_corners=align)[0]
        found = bilinear(x.numpy(), *size, align)
        torch.testing.assert_close(torch.from_numpy(found).float(), wanted, atol=1e-5, rtol=1e-5)


def test_paste():
    """As mmdet on a CPU: inside, over every border, without extent; mmdet has none outside."""
    boxes = [
        [10.2, 5.7, 50.9, 30.1],
        [-20.5, -9, 20, 11.3],
        [50, 30, 91.7, 60],
        [12, 8.5, 12, 20],
        [0, 0, 64, 40],
        [7.3, 7.3, 8.1, 8.2],
    ]
    for corners in boxes:
        grid, box = torch.rand(1, 1, 28, 28), torch.tensor([corners])
        wanted = torch.zeros(40, 64, dtype=torch.bool)
        part, place = _do_paste_mask(grid, box, 40, 64)
        wanted[place] = part[0] >= 0.5
        found = paste(grid[0, 0].numpy(), box[0].numpy(), 40, 64, 0.5)
        assert (found != wanted.numpy()).sum() <= 1, corners
    for corners in ([-30, -30, -10, -10], [200, 5, 220, 9]):
        assert not paste(np.ones((28, 28)), np.array(corners), 40, 64, 0.5).any()


@pytest.mark.parametrize(
    'mask',
    [
        np.zeros((5, 4), bool),
        np.ones((5, 4), bool),
        np.random.RandomState(0).rand(37, 53) > 0.5,
        np.pad(np.ones((300, 200), bool), ((200, 0), (100, 90))),
        np.eye(1, dtype=bool),
    ],
)
def test_run_lengths(mask):
    """Byte for byte those of pycocotools, long runs too."""
    wanted = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert run_lengths(mask) == dict(size=list(mask.shape), counts=wanted['counts'].decode())


def test_coco_json(tmp_path):
    """pycocotools reads it, whole and as results."""
    grids = np.stack([np.eye(28, dtype=np.float32), np.ones((28, 28), np.float32)])
    boxes = np.array([[1, 2, 21, 12], [5, 5, 9.5, 8]], np.float32)
    some = Prediction('a.jpg', (30, 40), np.array([0.9, 0.4]), np.array([1, 0]), ['b', 'a'], boxes)
    some.grids = grids
    none = Prediction('b.jpg', (7, 9), np.zeros(0), np.zeros(0, int), [], np.zeros((0, 4)))
    content = coco_json([some, none], ['a', 'b'], [1, 7])
    (tmp_path / 'all.json').write_text(json.dumps(content))
    coco = COCO(str(tmp_path / 'all.json'))
    assert [coco.cats[row['category_id']]['name'] for row in content['annotations']] == ['b', 'a']
    assert coco.anns[1]['bbox'] == [1, 2, 20, 10] and coco.imgs[2]['height'] == 7
    results = coco.loadRes(content['annotations'])
    for i in (0, 1):
        assert np.array_equal(results.annToMask(results.anns[i + 1]), some.mask(i))
    assert some.masks.shape == (2, 30, 40) and none.masks is None


def test_reading(tmp_path):
    """Files upright, gray, with alpha and of 16 bits, Pillow's images and arrays; what is none."""
    upright = picture(20, 30)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned = Image.fromarray(np.rot90(upright).copy())
    turned.save(tmp_path / 'turned.png', exif=exif)
    assert np.array_equal(read(str(tmp_path / 'turned.png')), upright)
    assert np.array_equal(read(Image.fromarray(upright)), upright)
    assert np.array_equal(read(upright), upright)
    Image.fromarray(upright[..., 0]).save(tmp_path / 'gray.png')
    wanted = upright[..., :1].repeat(3, 2)
    assert np.array_equal(read(tmp_path / 'gray.png'), wanted)
    assert np.array_equal(read(upright[..., 0]), wanted)
    Image.fromarray(upright).convert('RGBA').save(tmp_path / 'alpha.png')
    assert np.array_equal(read(tmp_path / 'alpha.png'), upright)
    cv2.imwrite(str(tmp_path / 'deep.png'), upright[..., 0].astype(np.uint16) * 256 + 99)
    assert np.array_equal(read(tmp_path / 'deep.png'), mmcv.imread(str(tmp_path / 'deep.png')))
    for wrong in (upright.astype(np.float32), upright[:0], upright[None]):
        with pytest.raises(UserError, match='an image is an array .*: give .height, width, 3. of'):
            read(wrong)
    content = io.BytesIO()
    Image.fromarray(upright).save(content, 'jpeg')
    (tmp_path / 'cut.jpg').write_bytes(content.getvalue()[:-300])
    (tmp_path / 'text.jpg').write_text('no picture')
    for name in ('cut.jpg', 'text.jpg'):
        with pytest.raises(UserError, match=f'image .*{name} cannot be read: it is no image, or'):
            read(str(tmp_path / name))
    with pytest.raises(UserError, match='image .*missing.jpg does not exist: check the path'):
        read(str(tmp_path / 'missing.jpg'))


def test_finding(tmp_path):
    """A file, a folder by name, an empty folder and nothing."""
    for name in ('b.JPG', 'a.png', 'notes.txt'):
        (tmp_path / name).touch()
    assert find(str(tmp_path)) == [str(tmp_path / 'a.png'), str(tmp_path / 'b.JPG')]
    assert find(str(tmp_path / 'notes.txt')) == [str(tmp_path / 'notes.txt')]
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='empty has no images'):
        find(str(tmp_path / 'empty'))
    with pytest.raises(UserError, match='nothing does not exist'):
        find(str(tmp_path / 'nothing'))
