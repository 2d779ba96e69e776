"""Labels of detections: each is read, wherever the boxes are."""

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

pytest.importorskip('mmdet')

from hypothesis import given
from hypothesis import strategies as st
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.registry import VISUALIZERS

from gcvit_mm.visualization import detections
from gcvit_mm.visualization.detections import ReadableVisualizer, enlarged, free_place
from gcvit_mm.visualization.room import enlargement


def overlap(a, b):
    """Whether two rectangles (left, top, right, bottom) have an area in common."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@given(
    st.lists(st.tuples(st.floats(-50, 250), st.floats(-50, 250)), min_size=1, max_size=8),
    st.floats(1, 60),
    st.floats(1, 20),
)
def test_free_places(wanted, width, height):
    """Eight labels always find room here, inside and apart."""
    taken = []
    for place in wanted:
        x, y = free_place(place, (width, height), (200, 200), taken)
        new = (x, y, x + width, y + height)
        assert 0 <= x <= 200 - width and 0 <= y <= 200 - height
        assert not any(overlap(new, old) for old in taken)
        taken.append(new)


def test_free_place_is_the_wanted_or_the_nearest():
    """Nothing moves without need; where there is no room, labels do lie on each other."""
    assert free_place((10, 10), (20, 5), (100, 100), []) == (10, 10)
    assert free_place((90, 10), (20, 5), (100, 100), []) == (80, 10)
    assert free_place((12, 12), (20, 5), (100, 100), [(10, 10, 30, 15)]) == (12, 15)
    assert free_place((0, 0), (20, 5), (20, 5), [(0, 0, 20, 5)]) == (0, 0)


def sample(boxes, masks=None):
    """Predictions, three classes in turn."""
    found = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32),
        labels=torch.arange(len(boxes)) % 3,
        scores=torch.full((len(boxes),), 0.9),
    )
    if masks is not None:
        found.masks = masks
    return DetDataSample(pred_instances=found)


def build(name, **options):
    """The visualizer as a config names it; mmengine keeps one of each name."""
    kind = 'gcvit_mm.visualization.detections.ReadableVisualizer'
    drawn = VISUALIZERS.build(dict(type=kind, name=name, **options))
    drawn.dataset_meta = dict(classes=('circle', 'square', 'triangle'), palette=[(9, 9, 9)] * 3)
    return drawn


def test_labels_of_boxes_at_one_place(tmp_path, monkeypatch):
    """Five boxes on each other, at the edge of a small original; every label stands free."""
    image = np.full((160, 170, 3), 128, np.uint8)
    labels = []

    def place(wanted, size, original, taken, small):
        x, y = free_place(wanted, size, original, taken, small)
        assert taken == labels
        labels.append((x, y, x + size[0], y + size[1]))
        return x, y

    monkeypatch.setattr(detections, 'free_place', place)
    visualizer = build('crowded')
    assert type(visualizer) is ReadableVisualizer
    masks = torch.zeros(5, 160, 170, dtype=torch.bool)
    masks[:, 90:, 110:] = True
    given_sample = sample([[110, 90, 169, 159]] * 5, masks)
    out = tmp_path / 'drawn.png'
    visualizer.add_datasample('one', image, given_sample, draw_gt=False, out_file=str(out))
    assert len(labels) == 5 and visualizer.get_image().shape == (480, 510, 3)
    assert not any(overlap(a, b) for i, a in enumerate(labels) for b in labels[:i])
    assert all(a[0] >= 0 and a[1] >= 0 and a[2] <= 510 and a[3] <= 480 for a in labels)
    assert out.exists()
    # what is drawn lies where the rectangles say it does: dark boxes on grey
    assert all(
        (visualizer.get_image()[int(t) + 4 : int(b) - 4, int(le) + 4 : int(r) - 4] < 60).mean()
        > 0.4
        for le, t, r, b in labels
    )
    assert given_sample.pred_instances.bboxes.max() == 169  # the evaluation sees it after this

    labels.clear()  # the next original is empty
    visualizer.add_datasample('two', image, sample([[5, 5, 60, 60]]), draw_gt=False)
    assert len(labels) == 1


def test_large_images_keep_their_size():
    """So do all with short_side=0."""
    for options, size in ((dict(), 480), (dict(short_side=0), 64)):
        visualizer = build(f'of {size}', **options)
        image = np.zeros((size, size + 8, 3), np.uint8)
        visualizer.add_datasample('x', image, sample([[5, 5, 60, 60]]), draw_gt=False)
        assert visualizer.get_image().shape == image.shape


def test_labels_keep_off_small_objects():
    """A little away from small boxes and on large ones; where there is no room, as without."""
    small = [(30, 30, 50, 50), (52, 30, 70, 50)]
    x, y = free_place((30, 30), (40, 10), (100, 100), [], small)
    assert (x, y) == (30, 20)
    assert free_place((30, 30), (40, 10), (100, 100), [(0, 0, 100, 30)], small) == (30, 50)
    blocked = [(0, 0, 100, 100)]
    assert free_place((30, 30), (40, 10), (100, 100), [], blocked) == (30, 30)
    far = free_place((30, 30), (20, 10), (200, 200), [], [(0, 0, 160, 160)])
    assert far == (30, 30)  # a label that is moved so far belongs to nothing any more


def test_small_objects_stay_in_sight():
    """The middle of a small box is the image, that of a large one's corner is its label."""
    image = np.full((480, 480, 3), 128, np.uint8)
    visualizer = build('small')
    boxes = [[100, 100, 140, 130], [200, 200, 400, 400]]
    visualizer.add_datasample('x', image, sample(boxes), draw_gt=False)
    drawn = visualizer.get_image()
    assert (drawn[105:125, 105:135] == 128).all()
    assert (drawn[204:214, 204:240] < 60).any()


def test_masks_have_the_colours_of_their_classes():
    """The same each time, and those of the palette over the image."""
    image, masks = np.full((480, 480, 3), 128, np.uint8), torch.zeros(2, 480, 480, dtype=torch.bool)
    masks[0, 100:200, 100:200] = masks[1, 300:400, 300:400] = True
    drawn = []
    for name in ('first', 'second'):
        visualizer = build(name)
        visualizer.dataset_meta['palette'] = [(232, 0, 11), (0, 215, 255), (9, 9, 9)]
        boxes = [[100, 100, 200, 200], [300, 300, 400, 400]]
        visualizer.add_datasample('x', image, sample(boxes, masks), draw_gt=False)
        drawn.append(visualizer.get_image())
    np.testing.assert_array_equal(*drawn)
    for at, colour in ((160, (232, 0, 11)), (360, (0, 215, 255))):
        np.testing.assert_allclose(drawn[0][at, at], 0.8 * np.array(colour) + 0.2 * 128, atol=2)


@pytest.mark.parametrize(
    ('size', 'factor'),
    [((1, 1500), 3), ((1, 1), 480), ((160, 170), 3), ((480, 9), 10), ((500, 600), 1)],
)
def test_strips_are_not_drawn_huge(size, factor):
    """A strip is drawn no longer than 4800 pixels."""
    assert enlargement(*size) == factor


@pytest.mark.parametrize('kind', ['tensor', 'bitmap', 'polygon'])
def test_enlarged(kind):
    """Boxes and masks of every kind that mmdet has, three times larger."""
    bitmap = np.zeros((1, 10, 12), np.uint8)
    bitmap[:, 2:6, 3:9] = 1
    outline = np.array([3, 2, 9, 2, 9, 6, 3, 6], np.float32)
    masks = dict(
        tensor=torch.from_numpy(bitmap).bool(),
        bitmap=BitmapMasks(bitmap, 10, 12),
        polygon=PolygonMasks([[outline]], 10, 12),
    )[kind]
    large = enlarged(sample([[3, 2, 9, 6]], masks), 3).pred_instances
    assert large.bboxes.tolist() == [[9, 6, 27, 18]]
    found = large.masks if kind == 'tensor' else large.masks.to_ndarray()
    wanted = np.zeros((1, 30, 36))
    wanted[:, 6:18, 9:27] = 1
    assert (np.asarray(found) == wanted).mean() > 0.97  # polygons: but for the rim
    assert found.shape == wanted.shape
