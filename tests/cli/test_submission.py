"""Results for a test server: in the format of COCO or ADE20K, and without annotations."""

import json
import shutil
import zipfile
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, METRICS, init_default_scope
from mmengine.structures import PixelData

from gcvit_mm import UserError, cli
from gcvit_mm.datacheck.check import check_classes
from support.configs import read_config
from support.in_process import tool
from support.running import CLS, DET, FOLDERS, SEG, one_line_error

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

VAL = 'annotations/instances_val2017.json'
TEST = 'annotations/image_info_test.json'


@pytest.fixture
def coco(shapes, tmp_path):
    """The drawn shapes with ids of categories that leave gaps, and the same set unannotated."""
    root = tmp_path / 'coco'
    shutil.copytree(shapes / 'coco', root)
    content = json.loads((root / VAL).read_text())
    for row in content['categories']:
        row['id'] = 7 * row['id'] + 3
    for row in content['annotations']:
        row['category_id'] = 7 * row['category_id'] + 3
    (root / VAL).write_text(json.dumps(content))
    del content['annotations']
    (root / TEST).write_text(json.dumps(content))
    return root


def load(name, root, **options):
    """A config of the demo on these data."""
    cfg = read_config(Path(name).stem)
    cfg.work_dir = str(root)
    cli.replace_data_root(cfg, str(root))
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    init_default_scope(cfg.default_scope)
    return cfg


def unannotated(root, **options):
    """The detector's config on the set without annotations."""
    return load(DET, root, test_dataloader__dataset__ann_file=TEST, **options)


def predictions(root, masks):
    """What a detector might say of the drawn shapes: moved, some of another class, some twice."""
    truth, draw = COCO(str(root / VAL)), np.random.default_rng(0)
    ids = truth.getCatIds()
    for image in truth.loadImgs(truth.getImgIds()):
        shape = (image['height'], image['width'])
        rows = truth.loadAnns(truth.getAnnIds(image['id'])) * 2
        boxes = [np.array(row['bbox']) + draw.normal(0, 2, 4) for row in rows]
        found = dict(
            bboxes=torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes]).float(),
            scores=torch.tensor(draw.random(len(rows))).float(),
            labels=torch.tensor(
                [(ids.index(row['category_id']) + (draw.random() < 0.2)) % 5 for row in rows]
            ),
        )
        if masks:
            moved = [np.roll(truth.annToMask(row), draw.integers(-3, 4), 1) for row in rows]
            found['masks'] = torch.tensor(np.array(moved)).bool().view(-1, *shape)
        yield dict(img_id=image['id'], ori_shape=shape, pred_instances=found)


def measured(cfg, samples):
    """What the metric of a config makes of predictions."""
    metric = METRICS.build(cfg.test_evaluator)
    metric.dataset_meta = dict(classes=cfg.metainfo.classes)
    metric.process({}, samples)
    return metric.evaluate(len(samples))


@pytest.mark.parametrize('kinds', [('bbox', 'segm'), ('bbox',)])
def test_file_has_the_ap_of_the_metric(kinds, coco, tmp_path):
    """Read back by pycocotools and compared with the annotations, as a server does."""
    samples = list(predictions(coco, 'segm' in kinds))
    expected = measured(load(DET, coco, test_evaluator__metric=list(kinds)), samples)
    path = tmp_path / 'out' / 'results.json'
    path.parent.mkdir()
    cfg = unannotated(coco)
    cli.submit(cfg, str(path), [])
    cli.preflight(cfg, 'test_dataloader')
    with cli.submission(str(path)):
        assert measured(cfg, samples) == {}
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    truth = COCO(str(coco / VAL))
    for kind in kinds:
        judge = COCOeval(truth, truth.loadRes(str(path)), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
        assert 0.1 < expected[f'coco/{kind}_mAP'] < 0.9
        for i, name in enumerate(('mAP', 'mAP_50', 'mAP_75')):
            assert judge.stats[i] == pytest.approx(expected[f'coco/{kind}_{name}'], abs=6e-4)


def test_rows_are_those_of_coco(coco, tmp_path):
    """Ids of the data set's categories, x, y, width and height, and compressed masks."""
    cfg, path = unannotated(coco), str(tmp_path / 'results.json')
    samples = list(predictions(coco, True))
    cli.submit(cfg, path, [])
    with cli.submission(path):
        measured(cfg, samples)
    rows = json.loads((tmp_path / 'results.json').read_text())
    assert len(rows) == sum(len(sample['pred_instances']['scores']) for sample in samples)
    found = samples[0]['pred_instances']
    for i, row in enumerate(rows[: len(found['scores'])]):
        x, y, w, h = row['bbox']
        assert set(row) == {'image_id', 'bbox', 'score', 'category_id', 'segmentation'}
        assert row['image_id'] == samples[0]['img_id']
        assert row['category_id'] == 7 * (int(found['labels'][i]) + 1) + 3
        assert [x, y, x + w, y + h] == pytest.approx(found['bboxes'][i].tolist(), abs=1e-3)
        assert row['score'] == pytest.approx(float(found['scores'][i]))
        assert isinstance(row['segmentation']['counts'], str)
        assert (mask_utils.decode(row['segmentation']) == found['masks'][i].numpy()).all()


def test_nothing_found_is_an_empty_list(coco, tmp_path):
    """A detector that finds nothing has results too."""
    cfg, path = unannotated(coco), str(tmp_path / 'results.json')
    samples = list(predictions(coco, True))
    for sample in samples:
        found = sample['pred_instances']
        sample['pred_instances'] = {key: value[:0] for key, value in found.items()}
    cli.submit(cfg, path, [])
    with cli.submission(path):
        measured(cfg, samples)
    assert json.loads((tmp_path / 'results.json').read_text()) == []


def test_failed_test_leaves_what_was_there(coco, tmp_path):
    """An older file stays until the new one is whole, and no part of that is left."""
    path = tmp_path / 'results.json'
    path.write_text('old')
    cfg = unannotated(coco)
    cli.submit(cfg, str(path), [])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), cli.submission(str(path)):
        (tmp_path / '.partial-results.json').mkdir()
        (tmp_path / '.partial-results.json' / 'coco.bbox.json').write_text('[')
        1 / 0  # noqa: B018
    assert path.read_text() == 'old' and sorted(tmp_path.iterdir()) == before


# ------------------------------------------------------------- refusals
@pytest.mark.parametrize('name', [VAL, TEST, 'annotations/instances_train2017.json', 'link.json'])
def test_annotations_are_not_replaced(name, coco):
    """Those that are tested on, and all others that the config names."""
    (coco / 'link.json').symlink_to(coco / TEST)
    before = (coco / name).read_bytes()
    with pytest.raises(UserError, match='would replace .*, which is read'):
        cli.submit(unannotated(coco), str(coco / name), [])
    assert (coco / name).read_bytes() == before


@pytest.mark.parametrize(
    'name, path, changes, words',
    [
        (DET, 'a.zip', {}, r'a\.zip: what CocoMetric writes needs a name that ends in \.json'),
        (SEG, 'a.json', {}, r'a\.json: what IoUMetric writes needs a name that ends in \.zip'),
        (DET, 'nowhere/a.json', {}, 'the folder of nowhere/a.json does not exist'),
        (DET, 'a.json', dict(test_evaluator__type='VOCMetric'), 'test_evaluator is VOCMetric'),
        (DET, 'a.json', dict(test_evaluator=None), 'test_evaluator is None'),
        (DET, 'a.json', dict(test_dataloader=None), 'test_dataloader has 0 data sets'),
    ],
)
def test_refused(name, path, changes, words, shapes, tmp_path, monkeypatch):
    """What there is no format for, and names that say another one."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        cli.submit(load(name, shapes / FOLDERS[name], **changes), path, [])


def test_classifiers_are_refused(shapes, tmp_path, capsys):
    """In one line, before anything is built; so is a name that says nothing."""
    pytest.importorskip('mmpretrain')
    torch.save({}, tmp_path / 'any.pth')
    words = ['test.py', CLS, tmp_path / 'any.pth', '--data-root', shapes / 'imagenet']
    error = one_line_error(*words, '--submit', tmp_path / 'a.json')
    assert '--submit: results are written by CocoMetric and IoUMetric' in error
    assert '--out FILE.pkl' in error
    with pytest.raises(SystemExit):
        tool('test.py').parse_args(['a.py', 'b.pth', '--submit', 'results.txt'])
    assert '--submit needs a name that ends in .json (COCO)' in capsys.readouterr().err


def test_sets_of_other_categories_are_refused(coco):
    """Labels would be numbered by the wrong names; said before the test and not after it."""
    content = json.loads((coco / TEST).read_text())
    content['categories'] = content['categories'][:3]
    (coco / TEST).write_text(json.dumps(content))
    cfg = unannotated(coco)
    cli.submit(cfg, str(coco / 'a.json'), [])
    with pytest.raises(UserError, match='image_info_test.json has no category star, cross'):
        cli.preflight(cfg, 'test_dataloader')
    cfg.test_evaluator.format_only = False
    with pytest.raises(UserError, match='has no annotations'):
        check_classes(cfg, 'test_dataloader')


# ------------------------------------------------------------- label maps
def test_label_maps(shapes, tmp_path):
    """A zip of one map for each image, numbered as in the files; the pipelines read none."""
    root = tmp_path / 'ade'
    shutil.copytree(shapes / FOLDERS[SEG], root)
    shutil.rmtree(root / 'annotations')
    cfg = load(SEG, root)
    path = tmp_path / 'results.zip'
    cli.submit(cfg, str(path), [])
    cli.preflight(cfg, 'test_dataloader')
    assert 'LoadAnnotations' not in str(cfg.tta_pipeline)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    maps = {}
    with cli.submission(str(path)):
        metric = METRICS.build(cfg.test_evaluator)
        metric.dataset_meta = dataset.metainfo
        for i, item in enumerate(dataset):
            sample = item['data_samples']
            labels = torch.arange(sample.ori_shape[0] * sample.ori_shape[1]) % 5 + (i == 0)
            labels = labels.view(1, *sample.ori_shape)
            sample.pred_sem_seg = PixelData(data=labels)
            metric.process({}, [sample.to_dict()])
            name = sample.img_path.split('/')[-1].replace('.jpg', '.png')
            maps[name] = labels[0].numpy() + 1  # 0 is what has no label
        assert metric.evaluate(len(dataset)) == {}
    assert sorted(each.name for each in tmp_path.iterdir()) == ['ade', 'results.zip']
    with zipfile.ZipFile(path) as file:
        assert sorted(file.namelist()) == sorted(maps) and len(maps) == 4
        for name, expected in maps.items():
            found = mmcv.imfrombytes(file.read(name), flag='unchanged')
            assert found.dtype == np.uint8 and (found == expected).all()


def test_tta_pipeline_without_annotations_augments_as_before(shapes, tmp_path):
    """The list that held only LoadAnnotations is gone, or nothing would be combined with it."""
    cfg = load(SEG, shapes / FOLDERS[SEG])
    cli.submit(cfg, str(tmp_path / 'a.zip'), [])
    dataset = DATASETS.build({**cfg.test_dataloader.dataset, 'pipeline': cfg.tta_pipeline})
    assert len(dataset[0]['inputs']) == 4
