"""Segmentors and classifiers as files that predict: label maps and classes of torch."""

import re
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')
if not all(find_spec(name) for name in ('onnx', 'onnxruntime')):
    pytest.skip('needs onnx and onnxruntime', allow_module_level=True)

from gcvit_mm import UserError, cli
from gcvit_mm.deploy import Predictor, metadata
from gcvit_mm.deploy.checking import drawn_picture
from gcvit_mm.deploy.onnx import export_onnx, part_to_export
from gcvit_mm.visualization.palette import distinct_colours
from support.families import FAMILIES, FEW
from support.running import CLS, FOLDERS, ROOT, SEG, run

ARCH = {**FAMILIES['gcvit'][1], **FEW['gcvit'], 'drop_path_rate': 0.0}
WIDTHS = [16, 32, 64, 128]
NO_WORKERS = ['test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False']


def small(config, **changes):
    """A small model of a config."""
    cfg = Config.fromfile(ROOT / config)
    cfg.merge_from_dict(changes)
    cfg.launcher = 'none'
    cli.use_cpu(cfg)
    cfg.model.backbone.update(arch=ARCH, init_cfg=None)
    if config == SEG:
        cfg.model.decode_head.update(in_channels=WIDTHS, channels=16)
        cfg.model.auxiliary_head.update(in_channels=WIDTHS[2], channels=8)
    else:
        cfg.model.head.in_channels = WIDTHS[-1]
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    for name, p in model.named_parameters():
        if 'head' in name:
            torch.nn.init.normal_(p, std=0.3)
    return cfg, model


def file_of(cfg, model, path, uint8=False):
    """Export it, without a check; what predicts from it."""
    part = part_to_export(cfg, model, uint8=uint8)
    export_onnx(part, str(path), (97, 131))
    metadata.write(str(path), metadata.describe(cfg, part.kind, model, {}, uint8=uint8))
    return Predictor(path)


def in_torch(cfg, model, path):
    """What the model predicts for the file of a picture, by the pipeline of its config."""
    from mmengine.dataset import Compose

    steps = cfg.test_dataloader.dataset.pipeline
    pipeline = Compose([step for step in steps if 'Annotations' not in step['type']])
    data = pipeline(dict(img_path=str(path), img_id=0))
    with torch.no_grad():
        return model.test_step(pseudo_collate([data]))[0]


RESIZED = {
    'test_dataloader.dataset.pipeline': [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(2048, 130), keep_ratio=True),
        dict(type='ResizeToMultiple', size_divisor=32),
        dict(type='PackSegInputs'),
    ]
}
SLIDING = {'model.test_cfg': dict(mode='slide', crop_size=(64, 96), stride=(40, 50))}


@pytest.mark.parametrize('changes', [{}, RESIZED, SLIDING, {**RESIZED, **SLIDING}])
def test_label_maps(changes, tmp_path):
    """At the size of the picture, resized, in sliding windows that overlap, and both."""
    cfg, model = small(SEG, **changes)
    predictor = file_of(cfg, model, tmp_path / 'seg.onnx', uint8=bool(changes))
    assert predictor.classes[0] == 'background'
    assert predictor.facts['palette'][1] == list(distinct_colours(1)[0])
    for i, (height, width) in enumerate([(90, 121), (61, 50)]):
        path = tmp_path / f'{i}.png'
        Image.fromarray(drawn_picture(height, width, i)).save(path)
        (found,) = predictor(str(path))
        wanted = in_torch(cfg, model, path).pred_sem_seg.data[0].numpy()
        assert found.label_map.shape == wanted.shape == (height, width)
        assert len(np.unique(wanted)) > 2 and (found.label_map == wanted).mean() > 0.99
    with pytest.raises(UserError, match='is a segmentor: COCO JSON is for boxes'):
        predictor.coco([found])


CROPPED = {
    'test_dataloader.dataset.pipeline': [
        dict(type='LoadImageFromFile'),
        dict(type='ResizeEdge', scale=80, edge='short', backend='pillow', interpolation='bicubic'),
        dict(type='CenterCrop', crop_size=64),
        dict(type='PackInputs'),
    ]
}


def test_classes(tmp_path):
    """Scores of all classes, for a list, a folder, arrays and Pillow images."""
    cfg, model = small(CLS, **CROPPED)
    predictor = file_of(cfg, model, tmp_path / 'cls.onnx')
    (tmp_path / 'pictures').mkdir()
    pictures = [drawn_picture(90, 121, i) for i in range(3)]
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / 'pictures' / f'{i}.png')
    found = predictor(tmp_path / 'pictures')
    assert [prediction.path[-5:] for prediction in found] == ['0.png', '1.png', '2.png']
    for prediction in found:
        wanted = in_torch(cfg, model, prediction.path)
        np.testing.assert_allclose(prediction.probabilities, wanted.pred_score, atol=2e-3)
        assert prediction.labels == wanted.pred_label.numpy()
        assert prediction.names == [predictor.classes[prediction.labels[0]]]
    again = predictor([*pictures[:2], Image.fromarray(pictures[2])])
    for a, b in zip(found, again):
        np.testing.assert_allclose(a.probabilities, b.probabilities, atol=1e-6)
    with pytest.raises(UserError, match='takes pictures of 3 channels, not 4'):
        predictor(pictures[0].repeat(2, 2)[..., :4])


@pytest.mark.parametrize(('config', 'metric'), [(SEG, 'mIoU'), (CLS, 'accuracy/top1')])
def test_the_metric_of_the_config(config, metric, shapes, tmp_path):
    """mIoU and accuracy of the file are those of the checkpoint."""
    cfg = Config.fromfile(ROOT / config)
    cfg.launcher = 'none'
    cli.use_cpu(cfg)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    run('export_onnx.py', config, tmp_path / 'model.pth', tmp_path / 'model.onnx', '--size', 64, 64)
    words = ['--data-root', shapes / FOLDERS[config], '--work-dir', tmp_path / 'run']
    words += ['--cfg-options', *NO_WORKERS]
    values = []
    for name in ('model.pth', 'model.onnx'):
        printed = run('test.py', config, tmp_path / name, *words)
        values.append(float(re.findall(rf'\b{metric}: (\S+)', printed)[-1]))
    assert values[1] == pytest.approx(values[0], abs=0.1)


def test_drawing(shapes, tmp_path):
    """tools/predict.py takes files of these too."""
    image = sorted((shapes / 'coco/val2017').iterdir())[0]
    for config, name in ((SEG, 'seg.onnx'), (CLS, 'cls.onnx')):
        file_of(*small(config), tmp_path / name)
        printed = run('predict.py', tmp_path / name, image, '--out-dir', tmp_path / name[:3])
        assert 'drew 1 images' in printed
        drawn = np.asarray(Image.open(tmp_path / name[:3] / image.name))
        plain = np.asarray(Image.open(image).resize(drawn.shape[1::-1])).astype(int)
        assert np.abs(drawn - plain).mean() > 2
