"""check-data finds what is wrong with data, names it in a line, and finds nothing in good data."""

import json
import shutil

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, VISUALIZERS, init_default_scope

from gcvit_mm import UserError, cli
from gcvit_mm.datacheck import check, datasets, drawing
from gcvit_mm.datacheck import report as reports
from gcvit_mm.datacheck.coco import box_flaw
from support.running import CLS, DET, FOLDERS, ROOT, SEG, one_line_error

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')
pytest.importorskip('mmcv._ext', reason='the compiled ops of mmcv are not installed')


@pytest.fixture
def data(shapes, tmp_path):
    """A copy of the drawn shapes that may be spoilt."""
    shutil.copytree(shapes, tmp_path / 'shapes')
    return tmp_path / 'shapes'


def load(name, data, **options):
    """A config of the demo on these data."""
    cfg = Config.fromfile(ROOT / name)
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    cli.replace_data_root(cfg, str(data / FOLDERS[name]))
    init_default_scope(cfg.default_scope)
    return cfg


def examine(name, data, monkeypatch, **options):
    """Errors and warnings, without drawing."""
    monkeypatch.setattr(check, 'draw', lambda *args: '')
    report = check.check(load(name, data, **options), 50, 'nowhere')
    return report.errors, report.warnings


@pytest.mark.parametrize('name', FOLDERS)
def test_nothing_is_wrong_with_the_shapes(name, shapes, monkeypatch):
    """Good data: not a line."""
    assert examine(name, shapes, monkeypatch) == ([], [])


# ------------------------------------------------------------- COCO
def no_width(content):
    content['images'][0].pop('width')


def twice(content):
    content['images'].append(dict(content['images'][0]))


def same_annotation(content):
    content['annotations'][1]['id'] = content['annotations'][0]['id']


def stranger(content):
    content['annotations'][0]['category_id'] = 77


def lost_image(content):
    content['annotations'][0]['image_id'] = 123456


def no_mask(content):
    content['annotations'][0].pop('segmentation')


def misspelt(content):
    content['categories'][1]['name'] = 'sqare'


def reordered(content):
    content['categories'].reverse()


def same_name(content):
    content['categories'].append(dict(id=99, name='circle'))


def no_objects(content):
    content['annotations'].clear()


def renamed(content):
    content['images'][2]['file_name'] = 'nowhere.jpg'


def resized(content):
    content['images'][3]['width'] += 50


def no_section(content):
    content.pop('categories')


def corners(content):
    for row in content['annotations']:
        x, y, w, h = row['bbox']
        row['bbox'] = [x, y, x + w, y + h]


def quoted(content):
    for row in content['annotations']:
        row['image_id'] = str(row['image_id'])


def not_a_number(content):
    content['annotations'][0]['bbox'][2] = float('nan')


@pytest.mark.parametrize(
    'spoil, expected',
    [
        (no_width, 'images without file_name, width or height: ids 1'),
        (twice, 'image ids missing or not unique: 1'),
        (same_annotation, 'annotation ids missing or not unique'),
        (stranger, '1 annotations of an unknown category: ids'),
        (lost_image, '1 annotations of an image that is not listed: ids'),
        (
            no_mask,
            '1 annotations without a mask (segmentation): add masks, or train on boxes alone',
        ),
        (quoted, "annotations: image_id is no whole number ('1', '1'"),
        (misspelt, 'has no category square (circle, sqare, triangle and 2 more)'),
        (reordered, 'categories in another order, cross, star, triangle and 2 more'),
        (same_name, 'more than one category circle'),
        (no_objects, 'no objects at all'),
        (renamed, '1 of 16 files are missing: '),
        (resized, 'its annotation '),
        (no_section, 'has no categories: it is not in COCO format'),
        (corners, 'the boxes look like two corners (x1, y1, x2, y2): write x, y, width, height'),
        (not_a_number, '1 annotations whose box is not four numbers'),
    ],
    ids=lambda value: getattr(value, '__name__', ''),
)
def test_coco_errors(spoil, expected, data, monkeypatch):
    """A spoilt annotation file is an error that names the file and what is wrong in it."""
    path = data / 'coco/annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    spoil(content)
    path.write_text(json.dumps(content))
    errors, _ = examine(DET, data, monkeypatch)
    assert len(errors) == 1, errors
    assert errors[0].startswith('train_dataloader: ') or errors[0].startswith(str(path))
    assert expected in errors[0]


def test_no_json(data, monkeypatch):
    """A file that does not parse is named with the place."""
    path = data / 'coco/annotations/instances_train2017.json'
    path.write_text(path.read_text()[:1000])
    errors, _ = examine(DET, data, monkeypatch)
    assert len(errors) == 1 and f'{path} cannot be read: ' in errors[0]


def test_coco_warnings(data, monkeypatch):
    """Boxes and categories that mmdet leaves out without a word, and images with crowds only."""
    path = data / 'coco/annotations/instances_val2017.json'
    content = json.loads(path.read_text())
    first = content['images'][0]['id']
    rows = [row for row in content['annotations'] if row['image_id'] == first]
    for row in rows:
        row['iscrowd'] = 1
    others = [row for row in content['annotations'] if row['image_id'] != first]
    others[0]['bbox'] = [5, 5, 0.5, 20]
    others[1]['bbox'] = [500, 5, 10, 20]
    others[2]['bbox'] = [-30, 5, 60, 20]
    content['images'].append({**content['images'][0], 'id': 5000})
    content['categories'].append(dict(id=50, name='hexagon'))
    path.write_text(json.dumps(content))
    errors, warnings = examine(DET, data, monkeypatch)
    assert errors == []
    text = '\n'.join(warnings)
    for expected in (
        'categories left out: hexagon',
        f'1 boxes smaller than a pixel, or of no area (left out): ids {others[0]["id"]}',
        f'1 boxes outside of their image (left out): ids {others[1]["id"]}',
        f'1 boxes beyond the border of their image: ids {others[2]["id"]}',
        '1 of 5 images without objects: ids 5000',
        f'1 of 5 images with crowds only: ids {first}',
    ):
        assert expected in text
    assert len(warnings) == 6 and all(str(path) in line for line in warnings)


def test_box_flaw_agrees_with_mmdet(data):
    """What is called 'left out' is what mmdet's CocoDataset leaves out, and nothing else."""
    from mmdet.datasets import CocoDataset

    rng = np.random.default_rng(0)
    boxes = rng.uniform(-40, 140, (300, 4)) * rng.choice([0.01, 1], (300, 4))
    annotations = [
        dict(id=i, image_id=i, category_id=1, area=float(w * h), bbox=[x, y, w, h], iscrowd=0)
        for i, (x, y, w, h) in enumerate(boxes.tolist())
    ]
    images = [dict(id=i, file_name='a.jpg', width=100, height=90) for i in range(300)]
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name='a')])
    path = data / 'boxes.json'
    path.write_text(json.dumps(content))
    dataset = CocoDataset(
        ann_file=str(path),
        data_prefix=dict(img=''),
        metainfo=dict(classes=('a',)),
        lazy_init=True,
    )
    kept = [bool(row['instances']) for row in dataset.load_data_list()]
    flaws = [box_flaw(row['bbox'], row['area'], 100, 90) for row in annotations]
    assert kept == ['left out' not in flaw for flaw in flaws]
    assert 20 < sum(kept) < 280


@pytest.mark.parametrize('name', [DET, SEG, CLS])
def test_unreadable_image(name, data, monkeypatch):
    """A damaged image is named."""
    path = sorted((data / FOLDERS[name]).rglob('*.jpg'))[0]
    path.write_bytes(b'no image')
    errors, _ = examine(name, data, monkeypatch)
    assert any(f'{path} cannot be read' in error for error in errors)


# ------------------------------------------------------------- heads
def test_every_head_is_looked_at(data, monkeypatch):
    """Boxes and masks, all heads of a cascade, auxiliary heads, the preprocessor of mixup."""
    cases = [
        (DET, 'model__roi_head__bbox_head__num_classes', 'model.roi_head.bbox_head.num_classes=9'),
        (DET, 'model__roi_head__mask_head__num_classes', 'model.roi_head.mask_head.num_classes=9'),
        (SEG, 'model__auxiliary_head__num_classes', 'model.auxiliary_head.num_classes=9'),
        (CLS, 'model__head__num_classes', 'model.head.num_classes=9'),
        (CLS, 'model__data_preprocessor__num_classes', 'model.data_preprocessor.num_classes=9'),
    ]
    for name, key, expected in cases:
        errors, _ = examine(name, data, monkeypatch, **{key: 9})
        assert errors and all(expected in error for error in errors), errors
    cascade = Config.fromfile(ROOT / 'configs/cascade_gcvit_t_3x.py')
    cascade.model.roi_head.bbox_head[2].num_classes = 9
    found = dict(datasets.head_classes(cascade.model))
    assert found['model.roi_head.bbox_head.2.num_classes'] == 9
    assert list(found.values()).count(80) == 3  # two boxes and the masks


def test_objectness_does_not_count():
    """An RPN has a class of its own."""
    model = dict(rpn_head=dict(num_classes=1), roi_head=dict(bbox_head=dict(num_classes=3)))
    assert dict(datasets.head_classes(model)) == {'model.roi_head.bbox_head.num_classes': 3}


# ------------------------------------------------------------- label maps
def maps_of(data, split='training'):
    """Label maps of the drawn shapes: 0 unlabelled, 1 background, 2 to 6 the shapes."""
    return sorted((data / FOLDERS[SEG] / 'annotations' / split).glob('*.png'))


def test_missing_map(data, monkeypatch):
    """Every image needs its map."""
    path = maps_of(data)[3]
    path.unlink()
    errors, _ = examine(SEG, data, monkeypatch)
    assert len(errors) == 1 and f'1 of 16 files are missing: {path}' in errors[0]


def test_map_of_another_size(data, monkeypatch):
    """A map has the pixels of its image."""
    path = maps_of(data)[0]
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(path), labels[:-2])
    errors, _ = examine(SEG, data, monkeypatch)
    height, width = labels.shape
    assert len(errors) == 1 and f'{path} has ({width}, {height - 2}) pixels' in errors[0]


def test_labels_beyond_the_classes(data, monkeypatch):
    """Six classes from 1 up: 7 is none, 255 is ignored."""
    path = maps_of(data)[0]
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    labels[0, 0], labels[0, 1] = 255, 7
    cv2.imwrite(str(path), labels)
    errors, _ = examine(SEG, data, monkeypatch)
    assert len(errors) == 1
    assert f'{path} holds 7, beyond 6 classes from 1 up and 255 (ignored)' in errors[0]


def test_coloured_map(data, monkeypatch):
    """A map of colours is none of classes."""
    path = maps_of(data)[0]
    cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_COLOR))
    errors, _ = examine(SEG, data, monkeypatch)
    assert len(errors) == 1 and f'{path} has colours' in errors[0]


def test_reduce_zero_label(data, monkeypatch):
    """Maps from 1 up without reduce_zero_label; from 0 up with it; two settings that differ."""
    off = {f'{split}_dataloader__dataset__reduce_zero_label': False for split in ('train', 'val')}
    errors, _ = examine(SEG, data, monkeypatch, **off)
    assert errors and any('holds 6, beyond 6 classes and 255' in error for error in errors)
    assert any('set reduce_zero_label=True if the classes begin at 1' in error for error in errors)
    step = {'train_dataloader__dataset__pipeline__1__reduce_zero_label': False}
    errors, _ = examine(SEG, data, monkeypatch, **step)
    assert len(errors) == 1 and 'True in the data set and False in LoadAnnotations' in errors[0]
    for path in maps_of(data):
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.where(labels == 6, 5, labels))
    errors, warnings = examine(SEG, data, monkeypatch)
    assert errors == [] and len(warnings) == 1
    assert 'reduce_zero_label ignores 0, which none of 16 maps holds' in warnings[0]
    for path in maps_of(data):
        cv2.imwrite(str(path), 0 * cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    errors, _ = examine(SEG, data, monkeypatch)
    assert len(errors) == 1 and 'no label in 16 maps but 0, which are ignored' in errors[0]


# ------------------------------------------------------------- class folders
def test_classes_in_another_order(data, monkeypatch):
    """mmpretrain counts folders in alphabetical order, whatever the config lists."""
    classes = ('triangle', 'star', 'square', 'cross', 'circle')
    loaders = ('train', 'val', 'test')
    options = {f'{split}_dataloader__dataset__metainfo__classes': classes for split in loaders}
    errors, _ = examine(CLS, data, monkeypatch, **options)
    assert errors and all('in alphabetical order (circle, cross, square' in e for e in errors)


def test_missing_and_empty_class_folders(data, monkeypatch):
    """A missing folder is an error, an empty one a warning."""
    folder = data / 'imagenet/train/cross'
    for path in folder.iterdir():
        path.unlink()
    errors, warnings = examine(CLS, data, monkeypatch)
    assert errors == []
    assert len(warnings) == 1 and '1 classes without images: cross' in warnings[0]
    folder.rmdir()
    errors, _ = examine(CLS, data, monkeypatch)
    assert len(errors) == 1 and 'has 4 class folders, the config has 5 classes' in errors[0]


def test_splits_of_other_classes(data, monkeypatch):
    """Training and validation sets name the same classes."""
    other = {'train_dataloader__dataset__metainfo__classes': ('v', 'w', 'x', 'y', 'z')}
    errors, _ = examine(CLS, data, monkeypatch, **other)
    assert any(
        error.startswith('the classes differ: train_dataloader: v, w, x') for error in errors
    )


def test_batch_size(data, monkeypatch):
    """Another number of images a step is a warning with the rate for it."""
    errors, warnings = examine(DET, data, monkeypatch, train_dataloader__batch_size=2)
    assert errors == [] and len(warnings) == 1
    cfg = load(DET, data)
    rate = cfg.optim_wrapper.optimizer.lr * 2 / cfg.auto_scale_lr.base_batch_size
    assert f'optim_wrapper.optimizer.lr={rate:.3g}' in warnings[0]


# ------------------------------------------------------------- images and programs
@pytest.mark.parametrize('name', FOLDERS)
def test_drawn_samples(name, shapes, tmp_path, capsys):
    """An image a split; labels are drawn onto what the pipeline gives."""
    cfg = load(name, shapes)
    report = check.check(cfg, 50, str(tmp_path))
    assert report.errors == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ['train.png', 'val.png']
    assert f'drawn: {tmp_path}/train.png' in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / 'train.png')).shape[1] == 16 * 80
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    visualizer = VISUALIZERS.build({**cfg.visualizer, 'vis_backends': [], 'name': str(tmp_path)})
    visualizer.dataset_meta = dataset.metainfo
    drawing.draw_one(cfg, visualizer, dataset[0], str(tmp_path / 'one.png'))
    source = cv2.imread(dataset[0]['data_samples'].img_path).astype(int)
    drawn = cv2.imread(str(tmp_path / 'one.png')).astype(int)
    if name != SEG:  # enlarged for the text
        source = cv2.resize(source.astype(np.uint8), drawn.shape[1::-1]).astype(int)
    assert drawn.shape == source.shape and (drawn != source).any()
    corner = np.abs(drawn[-8:, -8:] - source[-8:, -8:]).mean()
    assert name == SEG or corner < 12  # the colours are those of the file, not swapped


def test_labels_of_the_unresized_image(shapes, tmp_path):
    """Test pipelines read labels after resizing: the image is drawn in their size."""
    double = dict(val_dataloader__dataset__pipeline__1__scale_factor=2.0)
    cfg = load(DET, shapes, **double)
    assert drawing.labels_unresized(cfg.val_dataloader.dataset)
    assert not drawing.labels_unresized(cfg.train_dataloader.dataset)
    report = reports.Report()
    path = drawing.draw(cfg, 'val_dataloader', str(tmp_path), report)
    assert report.errors == [] and cv2.imread(path) is not None


def test_failing_pipeline(shapes, tmp_path):
    """A pipeline that raises is an error with what it says."""
    cfg = load(DET, shapes)
    cfg.train_dataloader.dataset.pipeline[0] = dict(type='LoadImageFromFile', imdecode_backend='x')
    report = check.check(cfg, 50, str(tmp_path))
    assert len(report.errors) == 1
    assert report.errors[0].startswith('train_dataloader: its pipeline fails: ')


def test_training_checks_classes_first(data):
    """tools/train.py stops before anything is built; the fast check agrees with the whole one."""
    path = data / 'coco/annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    misspelt(content)
    path.write_text(json.dumps(content))
    error = one_line_error('train.py', DET, '--check', '--data-root', data / 'coco')
    assert 'has no category square' in error and 'metainfo.classes' in error
    for name in (SEG, CLS):
        check.check_classes(load(name, data), 'train_dataloader', 'val_dataloader')
    with pytest.raises(UserError, match='auxiliary_head.num_classes=3'):
        cfg = load(SEG, data, model__auxiliary_head__num_classes=3)
        check.check_classes(cfg, 'train_dataloader')


def test_large_annotation_files_are_left_to_check_data(data, monkeypatch):
    """The fast check does not read hundreds of megabytes."""
    path = data / 'coco/annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    misspelt(content)
    path.write_text(json.dumps(content))
    cfg = load(DET, data)
    with pytest.raises(UserError, match='no category square'):
        check.check_classes(cfg, 'train_dataloader')
    monkeypatch.setattr(check, 'SMALL_FILE', 1e-5)
    check.check_classes(cfg, 'train_dataloader')


def test_wrapped_datasets_are_found():
    """Data sets inside of RepeatDataset and ConcatDataset."""
    inner = [dict(type='A', ann_file='a'), dict(type='B', data_prefix='b', pipeline=[])]
    wrapped = dict(
        type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=inner)
    )
    cfg = Config(dict(train_dataloader=dict(dataset=wrapped)))
    assert list(datasets.find_datasets(cfg, 'train_dataloader')) == inner
