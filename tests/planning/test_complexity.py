"""Counting multiply-accumulates."""

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config

from gcvit_mm import UserError
from gcvit_mm.planning.complexity import build_on_meta, count_macs, count_macs_both_ways
from support.configs import read_config

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')


def test_macs_of_windows_24():
    """The released setting costs 351 G; a count that ignored attention would not show it."""
    model = build_on_meta(read_config('mask_gcvit_t_w24_3x'))
    assert count_macs(model, (800, 1280))['total'] == pytest.approx(351, rel=0.005)


def test_macs_of_a_known_layer():
    """One linear layer is counted as in x out, once a token."""
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Conv2d(3, 8, 1)
            self.head = nn.Conv2d(8, 2, 3, padding=1)

    with torch.device('meta'):
        model = Model()
    macs = count_macs(model, (10, 20))
    assert macs['backbone'] == pytest.approx(200 * 3 * 8 / 1e9)
    assert macs['head'] == pytest.approx(200 * 8 * 2 * 9 / 1e9)


def test_macs_of_dino():
    """mmdet's DINO with four scales and ResNet-50 has the 279 G of its paper (Table 1)."""
    model = build_on_meta(get_config('mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'))
    assert count_macs(model, (800, 1280))['total'] == pytest.approx(279, rel=0.003)


def test_parts_of_dino():
    """Layer by layer as the papers of DINO and Deformable DETR describe them."""
    config = read_config('dino_gcvit_t_1x')
    height, width, c, queries, classes, hidden = 800, 1280, 256, 900, 80, 2048
    tokens = sum(height * width // stride**2 for stride in (8, 16, 32))
    tokens += 13 * 20  # stride 64: a convolution of stride 2 rounds up
    points = 8 * 4 * 4  # heads, levels, points
    counted, without = count_macs_both_ways(build_on_meta(config), (height, width))

    mlp = 2 * c * hidden
    deformable = c * (c + 3 * points)  # output, offsets along x and y, weights
    sampled = 4 * 4 * c  # a value of every channel at all levels and points of its head
    encoder = 6 * tokens * (c * c + deformable + mlp)
    assert without['encoder'] == pytest.approx(encoder / 1e9)
    assert counted['encoder'] - without['encoder'] == pytest.approx(6 * tokens * sampled / 1e9)

    box = 2 * c * c + 4 * c  # three layers
    selection = tokens * (c * c + classes * c + box)
    assert counted['query_selection'] == pytest.approx(selection / 1e9)

    position = 4 * c * c + c * c  # c sines of each coordinate of a box, two layers
    decoder = 6 * (queries * (4 * c * c + deformable + mlp + position + box) + tokens * c * c)
    assert without['decoder'] == pytest.approx(decoder / 1e9)
    products = 6 * queries * (2 * queries * c + sampled)
    assert counted['decoder'] - without['decoder'] == pytest.approx(products / 1e9)

    assert counted['bbox_head'] == pytest.approx(6 * queries * (classes * c + box) / 1e9)
    parts = ('backbone', 'neck', 'encoder', 'query_selection', 'decoder', 'bbox_head')
    assert tuple(counted) == (*parts, 'total')
    assert counted['total'] == pytest.approx(sum(counted[part] for part in parts))


def test_dino_needs_as_many_tokens_as_queries():
    """Where mmdet cannot choose 900 of them, and what stands in its way is named."""
    model = build_on_meta(read_config('dino_gcvit_t_1x'))
    with pytest.raises(UserError, match='64x64 has fewer tokens than 900 queries'):
        count_macs(model, (64, 64))


def test_other_transformers_are_refused():
    """DETR has an encoder and a decoder too, of another kind."""
    model = build_on_meta(Config(dict(get_config('mmdet::detr/detr_r50_8xb2-150e_coco.py'))))
    with pytest.raises(UserError, match='DETR: how to count its encoder and decoder'):
        count_macs(model, (64, 64))


def test_sampled_values_of_the_adapter():
    """GPViT's adapter: one product for each sampled value, in the count with attention only."""
    from gcvit_mm.layers.deform_attn import DeformableAttention

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = Sampling(64, num_heads=4, num_levels=2, num_points=3)
            self.head = torch.nn.Identity()

    class Sampling(DeformableAttention):
        def forward(self, image):
            tokens = torch.zeros(1, 10 * 20 + 5 * 10, 64, device='meta')
            reference = torch.zeros(7, 2, device='meta')
            return super().forward(tokens[:, :7], reference, tokens, [(10, 20), (5, 10)])

    with torch.device('meta'):
        model = Model()
    counted, without = count_macs_both_ways(model, (10, 20))
    layers = 250 * 64 * 64 + 7 * (64 * 64 + 64 * 3 * 4 * 2 * 3)
    assert without['total'] == pytest.approx(layers / 1e9)
    assert counted['total'] - without['total'] == pytest.approx(7 * 2 * 3 * 64 / 1e9)
