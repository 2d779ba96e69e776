"""Predicting from Python: what the libraries' own functions give, and bad input."""

import copy
import json
import shutil

import cv2
import mmcv
import numpy as np
import pytest
import torch

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import gcvit_mm
from gcvit_mm import CheckpointError, UserError, cli
from gcvit_mm.inference import Predictions, dataset_meta
from support.configs import read_config
from support.running import SHAPE_CLASSES, run

NAMES = dict(
    det='mask_gcvit_xxt_shapes', seg='upernet_gcvit_xxt_shapes', cls='cls_gcvit_xxt_shapes'
)


def small(kind):
    """A config of the shapes, with fewer boxes."""
    cfg = read_config(NAMES[kind])
    if kind == 'det':
        cfg.model.test_cfg.rpn.max_per_img = 20
        cfg.model.test_cfg.rcnn.score_thr = 0.0
        cfg.model.test_cfg.rcnn.max_per_img = 8
    return cfg


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """Checkpoints of models as they are built."""
    folder, paths = tmp_path_factory.mktemp('checkpoints'), {}
    for kind in NAMES:
        cfg = small(kind)
        cfg.launcher = 'none'
        cli.use_cpu(cfg)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            state = cli.build_model(cfg).state_dict()
        meta = dict(dataset_meta=dict(CLASSES=eval(SHAPE_CLASSES))) if kind == 'det' else {}
        paths[kind] = folder / f'{kind}.pth'
        torch.save(dict(state_dict=state, meta=meta), paths[kind])
    return paths


@pytest.fixture(scope='module')
def models(checkpoints):
    """A detector, a segmentor and a classifier in one process."""
    return {kind: gcvit_mm.load(small(kind), path, 'cpu') for kind, path in checkpoints.items()}


@pytest.fixture(scope='module')
def images(shapes):
    """Paths of a few images."""
    return sorted(str(path) for path in (shapes / 'coco/val2017').iterdir())[:2]


# ------------------------------------------------------------------- as the libraries have it
def test_detections_are_those_of_mmdet(models, images):
    """Boxes, scores, labels and masks equal those of mmdet's own function."""
    from mmdet.apis import inference_detector

    det = models['det']
    found = det.predict(images)
    det.model.cfg = copy.deepcopy(det.cfg)
    with DefaultScope.overwrite_default_scope('mmdet'):
        expected = inference_detector(det.model, images)
    for mine, theirs in zip(found, expected):
        theirs = theirs.pred_instances
        assert len(mine) == len(theirs) == 8
        np.testing.assert_array_equal(mine.boxes, theirs.bboxes)
        np.testing.assert_array_equal(mine.scores, theirs.scores)
        np.testing.assert_array_equal(mine.labels, theirs.labels)
        np.testing.assert_array_equal(mine.masks, theirs.masks)
        assert mine.masks.shape[1:] == mine.size == mine.image.shape[:2]
        assert mine.names[0] == eval(SHAPE_CLASSES)[mine.labels[0]]


def test_label_maps_are_those_of_mmseg(models, images):
    """The label map equals that of mmseg's own function."""
    from mmseg.apis import inference_model

    seg = models['seg']
    (mine,) = seg.predict(images[0])
    seg.model.cfg = copy.deepcopy(seg.cfg)
    with DefaultScope.overwrite_default_scope('mmseg'):
        theirs = inference_model(seg.model, images[0]).pred_sem_seg.data[0]
    np.testing.assert_array_equal(mine.label_map, theirs)
    assert mine.label_map.shape == mine.size == mine.image.shape[:2]


def test_classes_are_those_of_mmpretrain(models, images):
    """Class and scores equal those of mmpretrain's inferencer."""
    from mmpretrain import ImageClassificationInferencer

    cls = models['cls']
    (mine,) = cls.predict(images[0])
    cls.model._config = copy.deepcopy(cls.cfg)
    cls.model._dataset_meta = dict(classes=cls.classes)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        theirs = ImageClassificationInferencer(cls.model)(images[0])[0]
    np.testing.assert_allclose(mine.scores, theirs['pred_scores'], rtol=1e-6)
    assert (mine.label, mine.name) == (theirs['pred_label'], theirs['pred_class'])


def test_to_coco_is_what_mmdet_writes(models, images, shapes, tmp_path):
    """The results that mmdet's metric writes, with the ids of the file; pycocotools reads them."""
    from mmdet.evaluation import CocoMetric

    ann_file = str(shapes / 'coco/annotations/instances_val2017.json')
    found = models['det'].predict(images)
    coco = COCO(ann_file)
    ids = {row['file_name']: row['id'] for row in coco.imgs.values()}
    metric = CocoMetric(
        ann_file, ['bbox', 'segm'], format_only=True, outfile_prefix=str(tmp_path / 'out')
    )
    metric.dataset_meta = dict(classes=found[0].classes)
    for p in found:
        names = ('bboxes', 'scores', 'labels', 'masks')
        arrays = (p.boxes, p.scores, p.labels, p.masks)
        instances = InstanceData(**{k: torch.as_tensor(v) for k, v in zip(names, arrays)})
        sample = dict(pred_instances=instances, img_id=ids[p.path.split('/')[-1]])
        metric.process({}, [dict(sample, ori_shape=p.size)])
    metric.evaluate(len(found))
    expected = json.loads((tmp_path / 'out.segm.json').read_text())
    boxes = json.loads((tmp_path / 'out.bbox.json').read_text())
    mine = found.to_coco(ann_file)
    for result, theirs, box in zip(mine, expected, boxes):
        assert {k: v for k, v in result.items() if k != 'bbox'} == {
            k: v for k, v in theirs.items() if k != 'bbox'
        }
        assert result['bbox'] == pytest.approx(box['bbox'], abs=1e-4)
    assert len(mine) == len(expected) == 16
    assert len(coco.loadRes(mine).anns) == 16


def test_ground_truth_as_result_is_perfect(models, images, shapes):
    """COCO's own evaluation finds an AP of 1 for the annotations, as results: ids, boxes, masks."""
    ann_file = str(shapes / 'coco/annotations/instances_val2017.json')
    coco = COCO(ann_file)
    by_name = {row['file_name']: row['id'] for row in coco.imgs.values()}
    found = models['det'].predict(images)
    for p in found:
        truth = coco.imgToAnns[by_name[p.path.split('/')[-1]]]
        boxes = np.array([a['bbox'] for a in truth], np.float32)
        p.boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        names = [coco.cats[a['category_id']]['name'] for a in truth]
        p.labels = np.array([p.classes.index(name) for name in names])
        p.masks = np.array([coco.annToMask(a) for a in truth], bool)
        p.scores = np.ones(len(truth), np.float32)
    for kind in ('bbox', 'segm'):
        evaluation = COCOeval(coco, coco.loadRes(found.to_coco(ann_file)), kind)
        evaluation.params.imgIds = [by_name[p.path.split('/')[-1]] for p in found]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1)


def test_to_coco_without_a_file(models, images):
    """Numbers of the names of the files, or of the list; classes from 1."""
    det = models['det']
    mine = det.predict([images[0], mmcv.imread(images[0], channel_order='rgb')])
    results = mine.to_coco()
    assert {r['image_id'] for r in results} == {int(images[0].split('/')[-1][:-4]), 1}
    assert [r['category_id'] - 1 for r in results[:8]] == mine[0].labels.tolist()


# ------------------------------------------------------------------- what is given
def test_folders_and_arrays(models, images, tmp_path):
    """A folder is its images by name; an array in RGB is what its file is."""
    seg = models['seg']
    for i, path in enumerate(reversed(images)):
        shutil.copy(path, tmp_path / f'{i}.JPG')
    (tmp_path / 'notes.txt').write_text('no image')
    found = seg.predict([tmp_path, mmcv.imread(images[0], channel_order='rgb')])
    assert [p.path and p.path[-5:] for p in found] == ['0.JPG', '1.JPG', None]
    np.testing.assert_array_equal(found[1].label_map, found[2].label_map)
    assert seg.predict([]) == []


@pytest.mark.parametrize('kind', NAMES)
def test_batches(models, images, kind, monkeypatch):
    """What one by one gives; images of another size start another batch, so none is padded."""
    rgb = mmcv.imread(images[0], channel_order='rgb')[:96, :96]
    given = [rgb, rgb[::-1].copy(), rgb[:, ::-1].copy(), rgb[:48].copy(), rgb]
    model, sizes = models[kind].model, []
    whole = model.test_step

    def step(data):
        sizes.append(len(data['inputs']))
        return whole(data)

    expected = models[kind].predict(given)
    monkeypatch.setattr(model, 'test_step', step)
    found = models[kind].predict(given, batch_size=2)
    assert sizes == [2, 1, 1, 1]
    name = dict(det='boxes', seg='label_map', cls='scores')[kind]
    for mine, one in zip(found, expected):
        assert mine.size == one.size and mine.image.shape == one.image.shape
        np.testing.assert_allclose(getattr(mine, name), getattr(one, name), atol=1e-3)
    assert len(found) == len(given)
    assert not np.array_equal(getattr(found[0], name), getattr(found[1], name))


@pytest.mark.parametrize('kind', NAMES)
def test_bfloat16(models, images, kind, monkeypatch):
    """Near what float32 gives, and numpy can hold it."""
    model = models[kind].model
    (expected,) = models[kind].predict(images[0])
    monkeypatch.setattr(model, 'test_step', model.test_step)  # is put back
    monkeypatch.setattr(cli.devices, 'cpu_has_bfloat16', lambda: True)
    cli.predict_in_bfloat16(model, 'cpu')
    (found,) = models[kind].predict(images[0])
    if kind == 'seg':
        assert (found.label_map == expected.label_map).mean() > 0.8
        return
    assert found.scores.dtype == np.float32 and not np.array_equal(found.scores, expected.scores)
    np.testing.assert_allclose(found.scores, expected.scores, atol=0.02)


@pytest.mark.parametrize(
    ('given', 'line'),
    [
        ('nowhere.jpg', 'nowhere.jpg does not exist'),
        ([3], 'a int is no image'),
        (None, 'a NoneType is no image'),
        (np.zeros((4, 4, 3)), r'float64 is no image: give \(height, width, 3\) of uint8'),
        (np.zeros((0, 4, 3), np.uint8), r'shape \(0, 4, 3\)'),
    ],
)
def test_what_is_no_image(models, given, line):
    """One line that says what is wrong and what to give."""
    with pytest.raises(UserError, match=line):
        models['cls'].predict(given)


def test_damaged_image_and_empty_folder(models, tmp_path):
    """Both are named."""
    with pytest.raises(UserError, match=f'folder {tmp_path} has no image'):
        models['cls'].predict(tmp_path)
    (tmp_path / 'a.png').write_bytes(b'no image')
    with pytest.raises(UserError, match=r'a\.png cannot be read'):
        models['cls'].predict(tmp_path)


def test_wrong_names(checkpoints, tmp_path):
    """Config, checkpoint, device and kind of config."""
    cfg = small('cls')
    for config, checkpoint, device, line in (
        (
            'mask_gcvit_t_3',
            'x.pth',
            'cpu',
            r'no config mask_gcvit_t_3: did you mean mask_gcvit_t_3x',
        ),
        (NAMES['cls'], 'x.pth', 'cpu', r'checkpoint x\.pth does not exist'),
        (cfg, checkpoints['det'], 'cpu', 'does not fit the ImageClassifier'),
        (cfg, checkpoints['cls'], 'gpu', r"no device 'gpu' \(.*\): give 'cpu'$"),
        ('_base_/backbones/gcvit_t.py', 'x.pth', 'cpu', 'has no model'),
    ):
        with pytest.raises((UserError, CheckpointError), match=line):
            gcvit_mm.load(config, checkpoint, device)
    cfg.default_scope = 'mmpose'
    with pytest.raises(UserError, match='no config of a detector, segmentor or classifier'):
        gcvit_mm.load(cfg, checkpoints['cls'], 'cpu')


def test_load_leaves_things_alone(checkpoints):
    """Neither a config that was given, nor the scope of the process is changed."""
    cfg = small('cls')
    before = cfg.to_dict()
    gcvit_mm.load(cfg, checkpoints['cls'], 'cpu')
    assert cfg.to_dict() == before
    assert DefaultScope.get_current_instance() is None


# ------------------------------------------------------------------- drawing
@pytest.mark.parametrize('kind', NAMES)
def test_drawn_files_and_arrays(models, images, tmp_path, kind):
    """A file holds what is returned; something was drawn; the tool draws the same."""
    (found,) = models[kind].predict(images[0])
    drawn = found.draw(tmp_path / 'a.png', 0.0)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / 'a.png'))[..., ::-1], drawn)
    height, width = found.size
    assert drawn.dtype == np.uint8 and drawn.shape[1] / drawn.shape[0] == pytest.approx(
        width / height, abs=0.01
    )
    assert np.abs(mmcv.imresize(drawn, (width, height)).astype(int) - found.image).mean() > 1


def test_the_visualizer_of_the_process_is_left_alone(models, images):
    """A run in the same process keeps its own, with its names and its backends."""
    from mmpretrain.visualization import UniversalVisualizer

    mine = UniversalVisualizer.get_instance('visualizer')
    mine.dataset_meta = dict(classes=['mine'])
    models['cls'].predict(images[0])[0].draw()
    assert UniversalVisualizer.get_instance('visualizer') is mine
    assert mine.dataset_meta == dict(classes=['mine'])


def test_score_thr(models, images):
    """Boxes below it are neither kept nor drawn."""
    (found,) = models['det'].predict(images[0])
    least = float(found.scores[3])
    assert len(models['det'].predict(images[0], least)[0]) == 4 == len(found.above(least))
    nothing = found.draw(score_thr=1.0)
    assert (found.above(2).draw() == nothing).all() and (found.draw(score_thr=0) != nothing).any()
    assert 'nothing' in repr(found.above(2)) and ' and ' not in repr(found.above(found.scores[0]))


def test_outputs_never_replace_inputs(models, images, tmp_path):
    """Not the image itself, no other that was read, and not each other."""
    shutil.copy(images[0], tmp_path / 'a.jpg')
    cls = models['cls']
    found = cls.predict(tmp_path / 'a.jpg')
    before = (tmp_path / 'a.jpg').read_bytes()
    for draw, line in (
        (lambda: found[0].draw(tmp_path / 'a.jpg'), 'would replace'),
        (lambda: found.draw(tmp_path), 'would replace'),
        (lambda: found[0].draw(tmp_path / 'a.nothing'), 'name a file that ends in'),
        (lambda: found[0].draw(tmp_path / 'none/a.png'), 'create it first'),
        (lambda: Predictions([*found, *found]).draw(tmp_path / 'b'), 'two images are called a.jpg'),
    ):
        with pytest.raises(UserError, match=line):
            draw()
    assert [path.name for path in tmp_path.iterdir()] == ['a.jpg']
    assert (tmp_path / 'a.jpg').read_bytes() == before
    assert found.draw(tmp_path / 'b') == [str(tmp_path / 'b/a.jpg')]


def test_label_map_without_names(models, images):
    """Numbers and colours of its own, where neither checkpoint nor config has any."""
    (found,) = models['seg'].predict(images[0])
    named = found.draw()
    found.classes, found.visualizer = (), dict(found.visualizer, dataset_meta={})
    assert found.draw().shape == named.shape
    assert f'% {np.bincount(found.label_map.ravel()).argmax()}' in repr(found)


def test_names_of_the_data_set():
    """Those of the data set's class, where a checkpoint has none."""
    for config, first in (('mask_gg_t_1x', 'person'), ('upernet_gg_t_160k', 'wall')):
        meta = dataset_meta(read_config(config), {})
        assert meta['classes'][0] == first and len(meta['palette']) == len(meta['classes'])
    assert dataset_meta(small('det'), dict(dataset_meta=dict(CLASSES=['a'])))['classes'] == ['a']


def test_no_boxes_no_coco(models, images, tmp_path):
    """Label maps have no COCO results; a file of other images or classes is named."""
    with pytest.raises(UserError, match='a Segmentation has no boxes'):
        models['seg'].predict(images[0]).to_coco()
    found = models['det'].predict(images[0])
    path = tmp_path / 'a.json'
    for content, line in (
        ('{}', 'is no file of COCO'),
        ('{"images": [], "categories": []}', 'has no image'),
        (
            json.dumps(
                dict(images=[dict(file_name=images[0].split('/')[-1], id=1)], categories=[])
            ),
            'has no class circle',
        ),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=line):
            found.to_coco(path)


def test_tool_draws_the_same(models, checkpoints, images, tmp_path):
    """tools/predict.py is this, for files."""
    out = tmp_path / 'drawn'
    printed = run(
        'predict.py',
        f'configs/{NAMES["cls"]}.py',
        checkpoints['cls'],
        images[0],
        '--out-dir',
        out,
        '--device',
        'cpu',
    )
    (found,) = models['cls'].predict(images[0])
    assert f'{images[0]}: {found.name} {found.scores[found.label]:.2f}' in printed
    found.draw(tmp_path / 'mine.jpg')
    (file,) = out.iterdir()
    assert file.read_bytes() == (tmp_path / 'mine.jpg').read_bytes()
