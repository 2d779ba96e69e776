"""Groups of GPViT without a pixel: the same maps, chosen groups, the tool."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from gcvit_mm import UserError, cli
from gcvit_mm.visualization import AttentionMap, Placement, attention_maps, draw, group_maps
from support.families import make
from support.running import one_line_error, run

CONFIG = 'configs/cls_gpvit_l1_300e.py'


@pytest.mark.parametrize('family', ['gpvit', 'gpvit_adapter'])
def test_groups_do_not_depend_on_a_pixel(family):
    """What is drawn for a pixel is drawn without one; all blocks with group tokens, no other."""
    kwargs = dict(num_interactions=2, hidden_dims=16) if 'adapter' in family else {}
    model, image = make(family, **kwargs), torch.randn(1, 3, 75, 101)
    found = group_maps(model, image)
    assert [(m.name, m.kind, m.groups) for m in found] == [
        ('layers.1', 'groups', 8),
        ('layers.3', 'groups', 4),
    ]
    for pixel in ((0, 0), (100, 74)):
        same = [m for m in attention_maps(model, image, pixel) if m.groups]
        for a, b in zip(found, same):
            assert torch.equal(a.values, b.values) and a.cell == b.cell and a.seen.all()
    assert len(found[0].values.unique()) > 1
    assert [m.name for m in group_maps(model, image, ['layers.3'])] == ['layers.3']


def test_chosen_groups():
    """Seen is where they are, and nowhere else."""
    model, image = make('gpvit'), torch.randn(1, 3, 75, 101)
    every = group_maps(model, image, ['layers.1'])[0].values
    chosen = every.unique()[:2].tolist()
    (found,) = group_maps(model, image, ['layers.1'], chosen)
    assert torch.equal(found.values, every)
    assert torch.equal(found.seen, sum(every == number for number in chosen).bool())
    assert 0 < found.seen.sum() < found.seen.numel()


@pytest.mark.parametrize(
    ('family', 'names', 'chosen', 'message'),
    [
        ('gcvit', None, (), 'GCViT has no group tokens: groups can be drawn for GPViT'),
        (
            'gpvit',
            ['layers.0'],
            (),
            "no layer 'layers.0' with group tokens: .* of layers.1, layers.3",
        ),
        ('gpvit', None, [5], r'layers.3 has no group 5, only 0\.\.3'),
        ('gpvit', ['layers.1'], [0, -1], r'layers.1 has no group -1, only 0\.\.7'),
    ],
)
def test_bad_input(family, names, chosen, message):
    with pytest.raises(UserError, match=message):
        group_maps(make(family), torch.randn(1, 3, 64, 64), names, chosen)
    with pytest.raises(UserError, match='Conv2d is no backbone'):
        group_maps(nn.Conv2d(3, 3, 1), torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize('chosen', [(), (1,), (3,)])
def test_chosen_groups_alone_have_colours(chosen, tmp_path):
    """Group 0 left, group 1 right; of chosen ones the rest stays grey. Large ones have numbers."""
    labels = torch.zeros(8, 16, dtype=torch.int64)
    labels[:, 8:] = 1
    seen = torch.isin(labels, torch.tensor(chosen)) if chosen else torch.ones_like(labels).bool()
    found = AttentionMap('layers.1', 'groups', labels, seen, (8, 8), groups=4)
    original = np.full((64, 128, 3), 200, np.uint8)
    placement = Placement((1.0, 1.0), (0.0, 0.0), (128, 64))
    draw(original, None, [found], placement, str(tmp_path / 'groups.png'))
    drawn = cv2.imread(str(tmp_path / 'groups.png')).astype(int)
    coloured = np.ptp(drawn, axis=-1) > 20
    halves = [half.mean() for half in np.array_split(coloured, 2, axis=1)]
    assert [share > 0.3 for share in halves] == [not chosen, 3 not in chosen]
    number = (drawn.max(-1) < 60)[drawn.shape[0] // 3 :]  # black, below the title
    halves = [half.any() for half in np.array_split(number, 2, axis=1)]
    assert halves == [not chosen, 3 not in chosen]


def test_predict_draws_groups(shapes, tmp_path):
    """Without a pixel; other models and groups that are not there end in a line."""
    pytest.importorskip('mmpretrain')
    image = sorted((shapes / 'coco/val2017').iterdir())[0]
    model = cli.build_model(cli.load_config(CONFIG))
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'ck.pth')
    command = ['predict.py', CONFIG, tmp_path / 'ck.pth', image, '--out-dir', tmp_path / 'out']
    assert 'drew 1 images' in run(*command, '--groups', 3, 7, '--layer', 'layers.4', 'layers.7')
    drawn = cv2.imread(str(tmp_path / 'out' / f'{image.stem}_groups.png'))
    height, width = cv2.imread(str(image)).shape[:2]
    assert drawn.shape[1] / drawn.shape[0] == pytest.approx(2 * width / height, rel=0.2)
    assert 'layers.10 has no group 16, only 0..15' in one_line_error(*command, '--groups', 16)
