"""tools/coco_table.py on boxes whose overlap, and so whose AP, is known."""

import json

import coco_table
import pytest

from gcvit_mm.errors import UserError

SIZE = 100
BOX = [10, 20, 40, 30]


def polygon(x, y, width, height):
    """Outline of a box."""
    return [x, y, x + width, y, x + width, y + height, x, y + height]


@pytest.fixture
def files(tmp_path):
    """Annotations of two images with an object of two classes each, and none of a third."""
    images = [dict(id=i, width=SIZE, height=SIZE, file_name=f'{i}.jpg') for i in (1, 2)]
    annotations = [
        dict(
            id=2 * image + label,
            image_id=image,
            category_id=label,
            bbox=BOX,
            area=BOX[2] * BOX[3],
            iscrowd=0,
            segmentation=[polygon(*BOX)],
        )
        for image in (1, 2)
        for label in (1, 2)
    ]
    categories = [dict(id=i, name=name) for i, name in enumerate(('cat', 'dog', 'cow'), 1)]
    path = tmp_path / 'truth.json'
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))

    def write(kind, *predictions):
        rows = [
            dict(
                image_id=image,
                category_id=label,
                bbox=box,
                score=0.9,
                **(dict(segmentation=[polygon(*box)]) if kind == 'segm' else {}),
            )
            for image, label, box in predictions
        ]
        (tmp_path / f'found.{kind}.json').write_text(json.dumps(rows))

    def show(capsys):
        coco_table.main([str(path), str(tmp_path / 'found')])
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        return {row[0]: row[1:] for row in rows if row and row[0] in ('cat', 'dog', 'cow', 'all')}

    return path, write, show


def test_ap_of_boxes_and_masks(files, capsys):
    """Exact boxes: 100. An IoU of 0.6: the thresholds 0.5, 0.55 and 0.6 of ten. Half found: 51 of
    101 recalls. Masks of a class that are all missed: 0. No objects: a dash, not in the mean."""
    _, write, show = files
    narrow = [10, 20, 24, 30]  # IoU 0.6
    write('bbox', (1, 1, BOX), (2, 1, BOX), (1, 2, narrow), (2, 2, narrow))
    write('segm', (1, 1, BOX))
    rows = show(capsys)
    assert rows['cat'] == ['100.0'] * 3 + ['-', '100.0', '-'] + ['50.5'] * 3 + ['-', '50.5', '-']
    assert rows['dog'] == '30.0 100.0 0.0 - 30.0 - 0.0 0.0 0.0 - 0.0 -'.split()
    assert rows['cow'] == ['-'] * 12
    assert rows['all'] == '65.0 100.0 50.0 - 65.0 - 25.2 25.2 25.2 - 25.2 -'.split()


def test_boxes_alone_and_none_found(files, capsys):
    """A detector without masks has half the columns; one that finds nothing has zeros."""
    _, write, show = files
    write('bbox')
    none = ['0.0', '0.0', '0.0', '-', '0.0', '-']
    assert show(capsys) == dict(cat=none, dog=none, cow=['-'] * 6, all=none)


def test_files_that_do_not_fit(files):
    """One line for each of: no file, no JSON, predictions of other images."""
    path, write, _ = files
    prefix = str(path.parent / 'found')
    with pytest.raises(UserError, match='there is no .*found.bbox.json'):
        coco_table.main([str(path), prefix])
    write('bbox', (7, 1, BOX))
    with pytest.raises(UserError, match='does not fit'):
        coco_table.main([str(path), prefix])
    (path.parent / 'found.bbox.json').write_text('[{')
    with pytest.raises(UserError, match='cannot read .*found.bbox.json'):
        coco_table.main([str(path), prefix])
