"""convert-data turns other people's annotations into COCO JSON, or says in a line why not."""

import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from PIL import Image

from gcvit_mm import UserError
from gcvit_mm.cli.convert_data import main
from gcvit_mm.datacheck.coco import read_coco
from gcvit_mm.datacheck.folders import check_data
from gcvit_mm.datacheck.foreign.convert import convert
from gcvit_mm.datacheck.report import Report

XML = '<annotation><filename>{file}</filename>{size}{objects}</annotation>'
SIZE = '<size><width>{}</width><height>{}</height><depth>3</depth></size>'
OBJECT = (
    '<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>'
    '<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>'
)


def write(path, content):
    """A file of text, bytes or JSON, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, (str, bytes)):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def image(path, width=40, height=30, **options):
    """A grey image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (width, height), 'grey').save(path, **options)
    return path


def xml(*objects, file='a.jpg', size=(40, 30)):
    """An annotation of Pascal VOC: objects are name, difficult and the four sides."""
    rows = ''.join(OBJECT.format(*row) for row in objects)
    return XML.format(file=file, size=SIZE.format(*size) if size else '', objects=rows)


def run(capsys, *words, status=0):
    """Run the command in this process; what it printed."""
    try:
        found = main([str(word) for word in words])
    except SystemExit as end:
        found = end.code
    output = capsys.readouterr()
    assert found == status, output
    return output.err if status else output.out


def error(capsys, *words):
    """The one line with which the command must end."""
    lines = run(capsys, *words, status=2).splitlines()
    assert len(lines) == 1 and lines[0].startswith('error: '), lines
    return lines[0]


def load(path):
    """A file of the outcome."""
    return json.loads(path.read_text())


def boxes(content):
    """Name of the class and box of every object."""
    names = {row['id']: row['name'] for row in content['categories']}
    return [(names[row['category_id']], row['bbox']) for row in content['annotations']]


@pytest.fixture
def voc(tmp_path):
    """Three images in VOC form, of which one has no object."""
    root = tmp_path / 'voc'
    for name in 'abc':
        image(root / f'JPEGImages/{name}.jpg')
    image(root / 'SegmentationClass/a.png')
    write(root / 'Annotations/a.xml', xml(('cat', 0, 1, 1, 40, 30), ('dog', 1, 3, 4, 12, 23)))
    write(root / 'Annotations/b.xml', xml())
    write(root / 'Annotations/c.xml', xml(('dog', 0, 2.5, 3, 10, 9), file='C:\\me\\c.jpg'))
    for name, text in (
        ('train', 'a\nb\n'),
        ('val', 'c\n'),
        ('trainval', 'a\nb\nc'),
        ('cat_val', 'c  1'),
    ):
        write(root / f'ImageSets/Main/{name}.txt', text)
    return root


# ------------------------------------------------------------------- what comes out
def test_voc(voc, tmp_path, capsys):
    """Pixels count from 1 and the last one belongs to the box; difficult objects are crowds."""
    said = run(capsys, voc, tmp_path / 'own')
    assert sorted(path.name for path in (tmp_path / 'own').iterdir()) == ['train.json', 'val.json']
    train, val = (load(tmp_path / f'own/{name}.json') for name in ('train', 'val'))
    assert [row['file_name'] for row in train['images']] == ['a.jpg', 'b.jpg']
    assert train['images'][0] == dict(id=1, file_name='a.jpg', width=40, height=30)
    assert boxes(train) == [('cat', [0, 0, 40, 30]), ('dog', [2, 3, 10, 20])]
    assert [(row['id'], row['area'], row['iscrowd']) for row in train['annotations']] == [
        (1, 1200, 0),
        (2, 200, 1),
    ]
    assert boxes(val) == [('dog', [1.5, 2, 8.5, 7])] and 'segmentation' not in val['annotations'][0]
    assert 'written: ' in said and '2 images (1 without objects), 2 objects: 1 cat, 1 dog' in said
    words = said[said.index('data_root') :]
    namespace = {}
    exec(words, namespace)  # what is to be pasted is Python
    assert namespace['data_root'] == f'{tmp_path}/own/' and namespace['masks'] is False
    assert namespace['classes'] == ('cat', 'dog')
    assert namespace['val'] == dict(ann_file='val.json', data_prefix=dict(img=f'{voc}/JPEGImages/'))


def test_voc_is_as_pycocotools_reads_it(voc, tmp_path, capsys):
    """COCO's own reader finds the images of a class, crowds apart."""
    coco = pytest.importorskip('pycocotools.coco')
    run(capsys, voc, tmp_path / 'own')
    read = coco.COCO(str(tmp_path / 'own/train.json'))
    assert read.getImgIds(catIds=read.getCatIds(['dog'])) == [1]
    assert len(read.getAnnIds(iscrowd=False)) == 1


def yolo(root, labels, names='names: [cat, dog]\n', splits=('train',)):
    """A data set in YOLO form: a split has the same labels for its one image."""
    for split in splits:
        image(root / split / 'images/a.jpg')
        write(root / split / 'labels/a.txt', labels)
    settings = ''.join(f'{split}: ../{split}/images\n' for split in splits)
    write(root / 'data.yaml', settings + names)
    return root


def test_yolo(tmp_path, capsys):
    """Fractions become pixels; classes that do not occur keep their number."""
    root = yolo(
        tmp_path / 'yolo', '1 0.5 0.5 0.25 0.5\r\n\r\n1 0.1 0.1 0.3 0.2\n', splits=('train', 'val')
    )
    image(root / 'val/images/b.png')
    said = run(capsys, root, tmp_path / 'own')
    val = load(tmp_path / 'own/val.json')
    assert boxes(val) == [('dog', [15, 7.5, 10, 15]), ('dog', [0, 0, 10, 6])]
    assert [row['name'] for row in val['categories']] == ['cat', 'dog']
    assert [row['file_name'] for row in val['images']] == ['a.jpg', 'b.png']
    assert '1 images have no label file (taken as images without objects)' in said
    assert '2 objects reach beyond' in said


def test_yolo_without_settings(tmp_path, capsys):
    """classes.txt beside the labels, lists of images, and names as a dict do as well."""
    root = tmp_path / 'darknet'
    for split in ('train', 'valid'):
        image(root / f'images/{split}/a.jpg')
        write(root / f'labels/{split}/a.txt', '0 0.5 0.5 1 1')
    write(root / 'labels/classes.txt', '\ufeffcat\n\ndog\n')
    run(capsys, root, tmp_path / 'own')
    assert sorted(path.name for path in (tmp_path / 'own').iterdir()) == ['train.json', 'val.json']
    assert boxes(load(tmp_path / 'own/val.json')) == [('cat', [0, 0, 40, 30])]
    write(root / 'data.yaml', 'path: /elsewhere\ntrain: list.txt\nnames: {1: dog, 0: cat}')
    write(root / 'list.txt', './images\\train\\a.jpg\n./images/train/gone.jpg\n')
    said = run(capsys, root, tmp_path / 'listed')
    assert [path.name for path in (tmp_path / 'listed').iterdir()] == ['train.json']
    assert '1 listed images are missing (left out): ./images/train/gone.jpg' in said


def test_outlines_of_yolo(tmp_path, capsys):
    """Polygons give masks with the area of pycocotools; a box among them gives its corners."""
    mask = pytest.importorskip('pycocotools.mask')
    root = yolo(tmp_path / 'seg', '0 0.25 0.2 0.75 0.2 0.75 0.8\n1 0.5 0.5 0.5 0.5\n')
    said = run(capsys, root, tmp_path / 'own')
    rows = load(tmp_path / 'own/train.json')['annotations']
    assert rows[0]['segmentation'] == [[10, 6, 30, 6, 30, 24]] and rows[0]['bbox'] == [
        10,
        6,
        20,
        18,
    ]
    for row in rows:
        drawn = int(mask.area(mask.frPyObjects(row['segmentation'], 30, 40))[0])
        assert row['area'] == pytest.approx(drawn, abs=12)
    assert '1 boxes among outlines' in said and said.endswith('masks = True\n')


def test_key_points_are_passed_over(tmp_path, capsys):
    """Of a pose the box is taken."""
    names = 'names: [cat]\nkpt_shape: [2, 3]\n'
    root = yolo(tmp_path / 'pose', '0 0.5 0.5 0.5 0.5 0.1 0.1 2 0.2 0.2 1\n', names)
    run(capsys, root, tmp_path / 'own')
    assert boxes(load(tmp_path / 'own/train.json')) == [('cat', [10, 7.5, 20, 15])]


def labelme(file='..\\imgs\\a.jpg', size=(40, 30), **shapes):
    """A file of LabelMe: shapes by type."""
    rows = [
        dict(label=' cat', points=row, shape_type=kind, group_id=None)
        for kind, row in shapes.items()
    ]
    return dict(shapes=rows, imagePath=file, imageWidth=size[0], imageHeight=size[1])


def test_labelme(tmp_path, capsys):
    """Rectangles drawn in any direction, polygons in groups, circles; points have no area."""
    root = tmp_path / 'labelme'
    image(root / 'imgs/a.jpg')
    content = labelme(
        rectangle=[[20, 25], [10, 5]],
        circle=[[20, 15], [20, 5]],
        polygon=[[0, 0], [4, 0], [4, 4], [0, 4]],
        point=[[1, 1]],
    )
    for x in (10, 20):
        ring = [[x, 0], [x + 4, 0], [x + 4, 4], [x, 4]]
        content['shapes'].append(dict(label='dog', points=ring, shape_type='polygon', group_id=7))
    write(root / 'jsons/one.json', content)
    write(root / 'jsons/settings.json', dict(theme='dark'))
    said = run(capsys, root, tmp_path / 'own')
    rows = load(tmp_path / 'own/train.json')['annotations']
    assert [row['bbox'] for row in rows] == [
        [10, 5, 10, 20],
        [10, 5, 20, 20],
        [0, 0, 4, 4],
        [10, 0, 14, 4],
    ]
    assert rows[1]['area'] == pytest.approx(math.pi * 100, rel=0.01)
    assert len(rows[3]['segmentation']) == 2 and rows[3]['area'] == 32
    assert '1 shapes of type point have no area (left out)' in said
    assert '1 JSON files are none of LabelMe' in said
    run(capsys, root / 'jsons/one.json', tmp_path / 'alone')
    assert load(tmp_path / 'alone/train.json') == load(tmp_path / 'own/train.json')


def via(regions, file='a.jpg'):
    """An export of VIA with one image."""
    return {f'{file}123': dict(filename=file, size=123, regions=regions, file_attributes={})}


def region(attributes=None, **shape):
    """A region of VIA."""
    return dict(shape_attributes=shape, region_attributes=attributes or {})


SHAPES = [
    region(dict(kind='cat'), name='rect', x=10, y=5, width=10, height=20),
    region(dict(kind=dict(cat=False, dog=True)), name='circle', cx=20, cy=15, r=10),
    region(dict(kind='dog'), name='ellipse', cx=20, cy=15, rx=8, ry=4, theta=math.pi / 2),
    region(dict(kind='dog'), name='polygon', all_points_x=[0, 4, 4], all_points_y=[0, 0, 4]),
    region(dict(kind='dog'), name='polyline', all_points_x=[0, 4, 4], all_points_y=[0, 0, 4]),
    region(dict(kind=''), name='rect', x=10, y=5, width=10, height=20),
]


@pytest.mark.parametrize('older', [False, True])
@pytest.mark.parametrize('project', [False, True])
def test_via(older, project, tmp_path, capsys):
    """Regions as a list or a dict, of an export or a project; sizes come out of the images."""
    root = tmp_path / 'via'
    image(root / 'a.jpg')
    content = via({str(i): row for i, row in enumerate(SHAPES)} if older else SHAPES)
    content = dict(_via_settings={}, _via_img_metadata=content) if project else content
    write(root / 'regions.json', content)
    said = run(capsys, root, tmp_path / 'own')
    own = load(tmp_path / 'own/train.json')
    assert boxes(own) == [
        ('cat', [10, 5, 10, 20]),
        ('dog', [10, 5, 20, 20]),
        ('dog', [16, 7, 8, 16]),
        ('dog', [0, 0, 4, 4]),
    ]
    assert own['annotations'][2]['area'] == pytest.approx(math.pi * 32, rel=0.01)
    assert '1 regions have no class' in said and '1 regions of type polyline have no area' in said


def test_class_of_via(tmp_path, capsys):
    """Several attributes: one must be named. None: all objects are of one class."""
    root = tmp_path / 'via'
    image(root / 'train/a.jpg'), image(root / 'val/a.jpg')
    shape = dict(name='rect', x=1, y=1, width=9, height=9)
    write(root / 'train/r.json', via([region(dict(kind='cat', good='yes'), **shape)]))
    write(root / 'val/r.json', via([region(dict(kind='dog'), **shape)]))
    assert 'attributes kind, good: name the one' in error(capsys, root, tmp_path / 'own')
    run(capsys, root, tmp_path / 'own', '--attribute', 'kind')
    assert boxes(load(tmp_path / 'own/val.json')) == [('dog', [1, 1, 9, 9])]
    for split in ('train', 'val'):
        write(root / split / 'r.json', via([region(**shape)]))
    run(capsys, root, tmp_path / 'balloons', '--classes', 'balloon')
    assert boxes(load(tmp_path / 'balloons/val.json')) == [('balloon', [1, 1, 9, 9])]


# ------------------------------------------------------------------- splits, classes, outputs
def test_val_fraction(tmp_path, capsys):
    """The same images for the same seed, none in both; only where there is no val split."""
    root = tmp_path / 'voc'
    for i in range(10):
        image(root / f'{i}.jpg')
        write(root / f'{i}.xml', xml(('cat', 0, 1, 1, 9, 9), file=f'{i}.jpg'))
    found = {}
    for name, seed in (('one', 0), ('two', 0), ('three', 1)):
        run(capsys, root, tmp_path / name, '--val-fraction', 0.3, '--seed', seed)
        found[name] = [
            [row['file_name'] for row in load(tmp_path / name / f'{split}.json')['images']]
            for split in ('train', 'val')
        ]
    assert found['one'] == found['two'] != found['three']
    assert [len(part) for part in found['one']] == [7, 3]
    assert len({*found['one'][0], *found['one'][1]}) == 10
    for value in (1, -0.1, 0.99):
        assert '--val-fraction' in error(capsys, root, tmp_path / 'no', '--val-fraction', value)
    said = run(capsys, root, tmp_path / 'whole')
    assert "val = dict(ann_file='train.json'" in said and '--val-fraction 0.2 sets some' in said
    assert not (tmp_path / 'no').exists()


def test_no_second_val_split(voc, tmp_path, capsys):
    """--val-fraction does not replace a split that is there."""
    line = error(capsys, voc, tmp_path / 'own', '--val-fraction', 0.5)
    assert 'there is a val split already' in line


def test_classes_in_a_given_order(voc, tmp_path, capsys):
    """--classes orders them, and leaves the others out."""
    run(capsys, voc, tmp_path / 'both', '--classes', 'dog,cat')
    assert [row['name'] for row in load(tmp_path / 'both/val.json')['categories']] == ['dog', 'cat']
    dogs = convert(str(voc), classes=['dog'])
    assert boxes(dogs.splits['train'].content) == [('dog', [2, 3, 10, 20])]
    assert any("1 objects of class 'cat' (left out)" in text for text in dogs.warnings)
    assert 'a name stands twice' in error(capsys, voc, tmp_path / 'x', '--classes', 'dog,dog')


def test_outputs_replace_nothing(voc, tmp_path, capsys):
    """What is there stays unless --overwrite says so; inputs stay in any case."""
    own = tmp_path / 'own'
    write(own / 'val.json', 'mine')
    assert 'val.json exists: name another folder' in error(capsys, voc, own)
    assert (own / 'val.json').read_text() == 'mine' and not (own / 'train.json').exists()
    assert 'replaced: ' in run(capsys, voc, own, '--overwrite')
    write(own / 'train.json', labelme('a.jpg', rectangle=[[1, 1], [9, 9]]))
    image(own / 'a.jpg')
    before = (own / 'train.json').read_text()
    for source in (own, own / 'train.json'):
        line = error(capsys, source, own, '--format', 'labelme', '--overwrite')
        assert 'would replace what is read' in line
    assert (own / 'train.json').read_text() == before


def test_images_are_copied(voc, tmp_path, capsys):
    """--copy-images makes DST whole; the outcome of a second run is the same."""
    own = tmp_path / 'own'
    said = run(capsys, voc, own, '--copy-images')
    assert "data_prefix=dict(img='val/')" in said
    assert (own / 'train/a.jpg').read_bytes() == (voc / 'JPEGImages/a.jpg').read_bytes()
    assert sorted(p.name for p in own.rglob('*.jpg')) == ['a.jpg', 'b.jpg', 'c.jpg']
    assert 'exists' in error(capsys, voc, own, '--copy-images')
    run(capsys, voc, voc / 'own', '--copy-images')
    before = load(voc / 'own/train.json')
    run(capsys, voc, voc / 'own', '--copy-images', '--overwrite')  # inside of the data
    assert load(voc / 'own/train.json') == before == load(own / 'train.json')


def test_beside_the_images(voc, capsys):
    """Files in the folder of the data name images by short paths."""
    said = run(capsys, voc, voc)
    assert "train = dict(ann_file='train.json', data_prefix=dict(img='JPEGImages/'))" in said


# ------------------------------------------------------------------- odd input
@pytest.mark.parametrize(
    ('content', 'words'),
    [
        ('<annotation><object>', 'a.xml cannot be read as Pascal VOC'),
        ('', 'a.xml cannot be read as Pascal VOC'),
        (xml().replace('</annotation>', '<object/></annotation>'), 'an object has no name'),
        (xml(('cat', 0, 'nan', 1, 2, 3)), 'a.xml cannot be read'),
        (xml(('cat', 0, 1, 1, 2, 3)).replace('ymax', 'bottom'), 'cat has no bndbox/ymax'),
        (xml(('cat', 0, 1, 1, 2, 3)).encode() + b'\xff', 'a.xml cannot be read'),
        (
            '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><annotation>&b;</annotation>',
            'a.xml declares a document type',
        ),
    ],
)
def test_bad_xml(content, words, tmp_path, capsys):
    """A damaged file of VOC is named."""
    root = tmp_path / 'voc'
    image(root / 'a.jpg')
    write(root / 'a.xml', content)
    line = error(capsys, root, tmp_path / 'own', '--format', 'voc')
    assert words in line and str(root / 'a.xml') in line
    assert not (tmp_path / 'own').exists()


@pytest.mark.parametrize(
    ('labels', 'words'),
    [
        ('2 0.5 0.5 0.1 0.1', 'line 1: class 2, but 2 names (cat, dog)'),
        ('0 0.5 0.5 0.1 0.1\n-1 0.5 0.5 0.1 0.1', 'line 2: class -1'),
        ('0.5 0.5 0.5 0.1 0.1', 'class 0.5'),
        ('0 20 15 10 10', '20 is no fraction of the image'),
        ('0 0.5 0.5 0.1 0.1 0.9', '5 numbers behind the class'),
        ('0 0.5 0.5', '2 numbers behind the class'),
        ('cat 0.5 0.5 0.1 0.1', 'line 1, cannot be read as YOLO'),
        ('0 0.5 inf 0.1 0.1', 'line 1, cannot be read as YOLO'),
        (b'0 0.5 0.5 0.1 0.1 \xff', 'a.txt is not UTF-8'),
    ],
)
def test_bad_labels(labels, words, tmp_path, capsys):
    """A damaged file of YOLO is named, with the line."""
    root = yolo(tmp_path / 'yolo', labels)
    line = error(capsys, root, tmp_path / 'own')
    assert words in line and 'labels/a.txt' in line


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        ('names: 3', 'neither a list nor a dict'),
        ('names: [cat', 'data.yaml cannot be read as YAML'),
        ('names: []', 'name the classes: write them'),
        ('names: {0: cat, 10000000000000: dog}', 'not 0, 1, 2, ...'),
        ('names: {a: cat}', 'data.yaml cannot be read as YAML'),
    ],
)
def test_bad_settings(settings, words, tmp_path, capsys):
    """So is a data.yaml that does not name the classes."""
    root = yolo(tmp_path / 'yolo', '0 0.5 0.5 0.1 0.1', settings)
    assert words in error(capsys, root, tmp_path / 'own', '--format', 'yolo')


def test_names_of_yolo_from_the_command(tmp_path, capsys):
    """Labels alone: their names are asked for."""
    root = tmp_path / 'bare'
    image(root / 'a.jpg'), write(root / 'a.txt', '1 0.5 0.5 1 1')
    assert 'give them with --classes' in error(capsys, root, tmp_path / 'own')
    run(capsys, root, tmp_path / 'own', '--classes', 'cat,dog')
    assert boxes(load(tmp_path / 'own/train.json')) == [('dog', [0, 0, 40, 30])]


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (labelme(polygon=[[1, 2], [3]]), 'cannot be read as LabelMe'),
        (labelme(cuboid=[[1, 2]]), 'unknown shape_type cuboid'),
        (dict(shapes=[dict(points=[])], imagePath='a.jpg'), "has no 'label'"),
        (labelme(circle=[[1, 1], [1e999, 2]]), 'cannot be read as LabelMe'),
        (via([dict(shape_attributes={})]), "has no 'name'"),
        (via([region(name='rect', x=1, y=1, width='wide', height=2)]), 'cannot be read as VIA'),
        (via(7), 'cannot be read as VIA'),
    ],
)
def test_bad_json(content, words, tmp_path, capsys):
    """Neither do JSON files with odd shapes pass."""
    image(tmp_path / 'in/a.jpg')
    path = write(tmp_path / 'in/odd.json', content)
    line = error(capsys, path, tmp_path / 'own')
    assert words in line and str(path) in line


def test_nothing_to_learn_from(tmp_path, capsys):
    """What comes out is asked what check-data asks: here it has no object."""
    image(tmp_path / 'in/a.jpg')
    path = write(tmp_path / 'in/a.json', labelme(polygon=[[1, 1], [9, 9]]))
    assert 'train.json: no objects at all' in error(capsys, path, tmp_path / 'own')
    warnings = convert(str(path)).warnings
    assert warnings == [f'1 outlines have less than three corners (left out): {path}']


def test_boxes_that_lie_badly(tmp_path, capsys):
    """Boxes are clipped or left out, and counted; edges by a pixel are nothing to speak of."""
    root = tmp_path / 'voc'
    image(root / 'a.jpg')
    rows = [(0, 0, 41, 31), (30, 20, 90, 90), (9, 9, 5, 20), (50, 50, 60, 60), (5, 5, 4, 9)]
    write(root / 'a.xml', xml(*(('cat', 0, *row) for row in rows)))
    said = run(capsys, root, tmp_path / 'own')
    assert boxes(load(tmp_path / 'own/train.json')) == [
        ('cat', [0, 0, 40, 30]),
        ('cat', [29, 19, 11, 11]),
    ]
    assert '2 boxes are empty or have their corners swapped (left out)' in said
    assert '1 objects are outside of their image or below a pixel (left out)' in said
    assert '1 objects reach beyond their image (clipped)' in said


def test_images_that_do_not_fit(tmp_path, capsys):
    """Missing, damaged, resized and turned images are left out, and counted."""
    root = tmp_path / 'voc'
    turned = Image.Exif()
    turned[0x0112] = 6
    image(root / 'good.jpg')
    image(root / 'small.jpg', 20, 15)
    image(root / 'turned.jpg', exif=turned)
    image(root / 'upright.jpg', exif=turned)
    write(root / 'damaged.jpg', b'no image')
    for name in ('good', 'small', 'turned', 'damaged', 'missing'):
        write(root / f'{name}.xml', xml(('cat', 0, 1, 1, 9, 9), file='x.jpg'))
    write(root / 'upright.xml', xml(('cat', 0, 1, 1, 9, 9), size=(30, 40)))
    said = run(capsys, root, tmp_path / 'own')
    found = {
        r['file_name']: (r['width'], r['height'])
        for r in load(tmp_path / 'own/train.json')['images']
    }
    assert found == {'good.jpg': (40, 30), 'upright.jpg': (30, 40)}
    for words, name in (
        ('have another size than their annotations say', 'small.xml says 40 x 30'),
        ('are turned by their EXIF tag', 'turned.jpg'),
        ('cannot be read (left out)', 'damaged.jpg'),
        ('annotated images are missing (left out)', 'missing.xml'),
    ):
        line = next(line for line in said.splitlines() if words in line)
        assert line.startswith('warning: 1 ') and name in line
    mmcv = pytest.importorskip('mmcv')
    assert mmcv.imread(str(root / 'upright.jpg')).shape[:2] == (40, 30)  # as the pipelines do


def test_images_and_annotations_without_each_other(tmp_path, capsys):
    """Images alone are left out, never given the annotation of another split; none has two."""
    root = tmp_path / 'voc'
    for name in ('train/1', 'train/2', 'train/3', 'val/1'):
        image(root / f'{name}.jpg')
    for name in ('train/1', 'val/1', 'val/2'):
        write(root / f'{name}.xml', xml(('cat', 0, 1, 1, 9, 9), file=f'{name[-1]}.jpg'))
    said = run(capsys, root, tmp_path / 'own')
    assert f'2 images have no annotation (left out): {root}/train/2.jpg' in said
    assert f'1 annotated images are missing (left out): {root}/val/2.xml' in said
    assert len(load(tmp_path / 'own/val.json')['images']) == 1
    write(root / 'train/old/1.xml', xml())
    line = error(capsys, root, tmp_path / 'again')
    assert f'{root}/train/1.xml and {root}/train/old/1.xml: take one out' in line


def test_labels_without_images(tmp_path, capsys):
    """Label files of YOLO without an image are counted."""
    root = yolo(tmp_path / 'yolo', '0 0.5 0.5 1 1')
    write(root / 'train/labels/b.txt', '0 0.5 0.5 1 1')
    write(root / 'train/labels/classes.txt', 'cat')
    assert '1 label files have no image (left out)' in run(capsys, root, tmp_path / 'own')


def test_sizes_that_are_not_stated(tmp_path, capsys):
    """Many tools write 0 x 0, or nothing."""
    root = tmp_path / 'voc'
    for name, size in (('a', (0, 0)), ('b', None)):
        image(root / f'{name}.jpg')
        write(root / f'{name}.xml', xml(('cat', 0, 1, 1, 9, 9), size=size))
    run(capsys, root, tmp_path / 'own')
    assert len(load(tmp_path / 'own/train.json')['images']) == 2


def test_nothing_that_is_known(voc, tmp_path, capsys):
    """Folders of nothing, of two formats, of COCO, and none at all."""
    assert 'does not exist' in error(capsys, tmp_path / 'gone', tmp_path / 'own')
    (tmp_path / 'empty').mkdir()
    assert 'holds nothing of Pascal VOC, YOLO' in error(
        capsys, tmp_path / 'empty', tmp_path / 'own'
    )
    write(voc / 'labels/a.txt', '0 0.5 0.5 0.1 0.1')
    assert 'choose one with --format' in error(capsys, voc, tmp_path / 'own')
    run(capsys, voc, tmp_path / 'own', '--format', 'voc')
    line = error(capsys, tmp_path / 'own', tmp_path / 'again')
    assert 'is in COCO format already' in line
    assert 'is a file: name a folder' in error(capsys, voc, tmp_path / 'own/val.json')


def test_other_encodings(tmp_path, capsys):
    """A file that says how it is encoded is read so; names of classes stay as they are."""
    root = tmp_path / 'voc'
    image(root / 'ä.jpg')
    text = '<?xml version="1.0" encoding="latin-1"?>' + xml(('Käfer', 0, 1, 1, 9, 9), file='ä.jpg')
    write(root / 'ä.xml', text.encode('latin-1'))
    run(capsys, root, tmp_path / 'own')
    assert boxes(load(tmp_path / 'own/train.json')) == [('Käfer', [0, 0, 9, 9])]


def test_hidden_files_and_links_that_turn_back(voc, tmp_path, capsys):
    """Files of a Mac beside others, and a link to the folder itself, are passed over."""
    write(voc / 'Annotations/._a.xml', b'\0\5\x16\7')
    write(voc / '__MACOSX/Annotations/b.xml', b'\0\5\x16\7')
    (voc / 'again').symlink_to(voc)
    run(capsys, voc, tmp_path / 'own')
    assert len(load(tmp_path / 'own/train.json')['images']) == 2


JUNK = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    'label',
                    'points',
                    'shape_type',
                    'regions',
                    'name',
                    'shape_attributes',
                    'x',
                    'filename',
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(junk=JUNK, form=st.sampled_from(['labelme', 'via']))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_json_is_read_or_refused(junk, form, tmp_path):
    """Whatever stands in a JSON file: an outcome, or an error for the user."""
    if not (tmp_path / 'a.jpg').exists():
        image(tmp_path / 'a.jpg')
    content = dict(shapes=junk, imagePath='a.jpg') if form == 'labelme' else via(junk)
    path = write(tmp_path / 'junk.json', content)
    try:
        converted = convert(str(path), form)
    except UserError as refused:
        assert str(path) in str(refused)
    else:
        rows = converted.splits['train'].content['annotations']
        assert np.isfinite([value for row in rows for value in row['bbox']]).all()


# ------------------------------------------------------------------- configs that name them
def dataset(root, ann_file='train.json'):
    """A config of a data set."""
    node = dict(
        type='CocoDataset', data_root=f'{root}/', ann_file=ann_file, data_prefix=dict(img='')
    )
    return Config(dict(train_dataloader=dict(dataset=node)))


@pytest.mark.parametrize('ann_file', ['train.json', 'Annotations'])
def test_a_config_that_names_a_folder_of_voc(ann_file, voc):
    """The command that converts it is named."""
    with pytest.raises(
        UserError, match=r'of Pascal VOC: python -m gcvit_mm convert-data \S+/voc DST'
    ):
        check_data(dataset(voc, ann_file), 'train_dataloader')


def test_a_config_that_names_a_folder_of_yolo(tmp_path):
    """Of YOLO too; where nothing is known, the old line stands."""
    yolo(tmp_path / 'yolo', '0 0.5 0.5 0.1 0.1')
    with pytest.raises(UserError, match='of YOLO: python -m gcvit_mm convert-data'):
        check_data(dataset(tmp_path / 'yolo'), 'train_dataloader')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='does not exist: put the data there'):
        check_data(dataset(tmp_path / 'empty'), 'train_dataloader')


def test_a_config_that_names_other_files(voc, tmp_path):
    """JSON of LabelMe, XML, and lists of VOC in the place of COCO JSON."""
    for path, words in (
        (write(tmp_path / 'me/a.json', labelme()), 'of LabelMe: '),
        (voc / 'Annotations/a.xml', 'of Pascal VOC: '),
        (
            voc / 'ImageSets/Main/train.txt',
            f'of Pascal VOC: python -m gcvit_mm convert-data {voc} ',
        ),
    ):
        report = Report()
        assert read_coco(str(path), report, root=str(voc)) == {}
        assert len(report.errors) == 1 and words in report.errors[0]
