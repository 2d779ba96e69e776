"""What one block costs, against the formulas of the papers."""

import pytest
import torch

from gcvit_mm import GPViT
from gcvit_mm.planning.blocks import BLOCKS, count_blocks
from gcvit_mm.planning.complexity import count_call


def counts(channels, size):
    """Multiply-accumulates by block, with the products of attention and without."""
    costs = count_blocks([channels], [size])
    assert [cost.block for cost in costs] == list(BLOCKS)
    return {c.block: (round(c.gmacs * 1e9), round(c.gmacs_without * 1e9)) for c in costs}


@pytest.mark.parametrize('channels', [216, 348])
@pytest.mark.parametrize('size', [(224, 224), (448, 672)])
def test_formulas(channels, size):
    """Equations 1 and 2 of the Swin paper and an MLP of ratio 4; GPViT's equations 2 to 6."""
    c, h, w = channels, size[0] // 8, size[1] // 8
    n, mlp = h * w, 8 * h * w * c * c
    found = counts(channels, size)
    assert found['attention'] == (4 * n * c * c + 2 * n * n * c + mlp, 4 * n * c * c + mlp)
    assert found['windows of 7'][0] == 4 * n * c * c + 2 * 49 * n * c + mlp
    # half of the channels in stripes of 2h tokens, half in 2w; one 3x3 over values, one behind
    stripes = 4 * n * c * c + (2 * h + 2 * w) * n * c + mlp + 2 * 9 * n * c
    assert found['stripes of 2'][0] == stripes
    for m in (16, 32, 64):
        grouping = n * c * c + 2 * n * m * c
        mixer = 2 * m * (c // 2) * c + 8 * m * c * c
        ungrouping = 2 * n * c * c + 2 * m * c * c + 2 * n * m * c
        rest = 2 * n * c * c + mlp + 9 * n * c
        assert found[f'GP block, {m} groups'][0] == grouping + mixer + ungrouping + rest


def test_blocks_add_up_to_the_model():
    """GPViT-L1 has 5.8 G at 224 (Table 8): eight layers of stripes, four with groups, the stem."""
    found = {name: with_attention for name, (with_attention, _) in counts(216, (224, 224)).items()}
    blocks = 8 * found['stripes of 2'] + sum(
        found[f'GP block, {groups} groups'] for groups in (64, 32, 32, 16)
    )
    with torch.device('meta'):
        model = GPViT('L1').eval()
    image = torch.zeros(1, 3, 224, 224, device='meta')
    stem = count_call(model.embed, image)[1] * 1e9
    assert blocks + stem == pytest.approx(count_call(model, image)[1] * 1e9)
    assert count_call(model, image)[2] == pytest.approx(5.8, abs=0.05)  # without the products


def test_padding_of_windows_is_counted():
    """29 tokens a side are 35 in windows of 7."""
    found = counts(216, (232, 232))['windows of 7'][0]
    inside, padded, c = 29 * 29, 35 * 35, 216
    assert found == 4 * padded * c * c + 2 * 49 * padded * c + 8 * inside * c * c
