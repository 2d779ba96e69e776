"""Colours of classes: they are told apart by all readers."""

import numpy as np
import pytest

from gcvit_mm.visualization.palette import COLOURS, distinct_colours
from support.configs import read_config

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
SIGHT = dict(
    normal=np.eye(3),
    protanopia=[
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    deuteranopia=[
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    tritanopia=[
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
)
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def least_difference(colours, sight):
    """The least distance of two colours in CIELAB (CIE 1976) as somebody sees them."""
    srgb = np.array(colours) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ np.array(SIGHT[sight]).T, 0, 1) @ (XYZ / XYZ.sum(1, keepdims=True)).T
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], -1)
    distance = np.linalg.norm(lab[:, None] - lab, axis=-1)
    return distance[np.triu_indices(len(lab), 1)].min()


@pytest.mark.parametrize('sight', SIGHT)
def test_five_colours(sight):
    """Well apart for everybody; a just noticeable difference is 2.3."""
    assert least_difference(distinct_colours(5), sight) > 20
    coco = [(220, 20, 60), (119, 11, 32), (0, 0, 142), (0, 0, 230), (106, 0, 228)]
    assert least_difference(distinct_colours(5), sight) > least_difference(coco, sight)


def test_many_colours():
    """Twenty differ for normal sight; then they begin anew."""
    assert least_difference(COLOURS, 'normal') > 15
    assert distinct_colours(22) == [*COLOURS, *COLOURS[:2]] and distinct_colours(0) == []


@pytest.mark.parametrize(
    ('config', 'count'),
    [
        ('mask_gcvit_xxt_shapes', 5),
        ('upernet_gcvit_xxt_shapes', 6),
        ('templates/own_detection', 2),
        ('templates/own_segmentation', 2),
    ],
)
def test_configs_name_them(config, count):
    """A colour for each class, as the data set takes them."""
    meta = read_config(config).test_dataloader.dataset.metainfo
    assert len(meta.palette) == len(meta.classes) == count
    assert [tuple(c) for c in meta.palette][-2:] == distinct_colours(5 if count > 2 else 2)[-2:]
