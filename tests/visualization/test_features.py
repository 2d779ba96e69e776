"""Feature maps: their values against hooks of torch's own, the axes, the sheet, the tool."""

import cv2
import numpy as np
import predict
import pytest
import torch
from torch import nn

from gcvit_mm import UserError, cli
from gcvit_mm.visualization import FeatureMap, Placement, draw_features, feature_maps
from support.families import make
from support.running import CLS, one_line_error, run


class Model(nn.Module):
    """A backbone and a neck that gives vectors."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(2, 2)

    def extract_feat(self, x):
        return self.neck(self.backbone(x)[-1])


def output(model, image, name):
    """What a layer gives, by a hook."""
    found = []
    layer = model.get_submodule(name)
    handle = layer.register_forward_hook(lambda module, args, out: found.append(out))
    with torch.no_grad():
        model.eval().extract_feat(image)
    handle.remove()
    return found[0]


@pytest.mark.parametrize(
    ('family', 'name', 'stride', 'channels'),
    [
        ('scalablevit', 'stages.0.blocks.1', 4, 3),
        ('scalablevit', 'stages.1.blocks.0.attn', 8, 3),
        ('scalablevit', 'patch_embed.proj', 4, 1),
        ('gcvit', 'stages.0.blocks.1', 4, 3),
        ('gpvit', 'layers.1', 8, 3),
        ('gpvit', 'layers.1.ungroup_attn', 8, 2),
        ('gg_deit', 'stages.0.blocks.1', 16, 2),
    ],
)
@pytest.mark.parametrize('size', [(64, 64), (75, 101)])
def test_values(family, name, stride, channels, size):
    """The mean of the channels, in whichever order the layer has its axes.

    At 64 pixels the first maps are 16 x 16 x 16: their sizes do not tell the axes.
    """
    model, image, name = Model(make(family)), torch.randn(1, 3, *size), f'backbone.{name}'
    (found,) = feature_maps(model, image, [name])
    cells = tuple(-(-side // stride) for side in size)
    mean = output(model, image, name).mean(channels).flatten()
    expected = mean[-cells[0] * cells[1] :].view(cells)  # without a class token before them
    assert found.cell == (stride, stride)
    assert torch.equal(found.values, expected)
    assert found.values.std() > 0


def test_leaves_the_model_alone():
    """Mode and hooks are the same afterwards; maps come in the order of the names."""
    model = Model(make('scalablevit')).train()
    names = ['backbone.stages.2.blocks.1', 'backbone.stages.0.blocks.0']
    assert [m.name for m in feature_maps(model, torch.randn(1, 3, 64, 96), names)] == names
    assert model.training and model.backbone.training
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('backbone.stages.2.block.1', 'did you mean backbone.stages.2.blocks.1?'),
        ('stages.2.blocks.1', 'did you mean backbone.stages.2.blocks.1?'),
        ('', "backbone and neck have no layer '': did you mean"),
        ('head', "backbone and neck have no layer 'head'"),
        ('backbone.stages.2', 'backbone.stages.2 gives several maps: name a layer inside it'),
        ('backbone.stages.2.blocks', 'does not run by itself'),
        ('neck', 'neck gives no map, but a tensor (1, 128)'),
        ('neck.0', 'neck.0 gives no map, but a tensor (1, 128, 1, 1)'),
        ('backbone.stages.0.blocks.0.attn.qkv', 'gives no map'),
    ],
)
def test_layers_that_cannot_be_drawn(name, message):
    """One line that names the layer."""
    with pytest.raises(UserError) as caught:
        feature_maps(Model(make('scalablevit')), torch.randn(1, 3, 64, 96), [name])
    assert message in str(caught.value) and '\n' not in str(caught.value)


def test_bare_backbone():
    """Its layers are called as it calls them, and give what they give in a model."""
    backbone, image = make('gcvit'), torch.randn(1, 3, 75, 101)
    name = 'stages.0.blocks.1'
    (alone,) = feature_maps(backbone, image, [name])
    (inside,) = feature_maps(Model(backbone), image, [f'backbone.{name}'])
    assert torch.equal(alone.values, inside.values)
    with pytest.raises(UserError, match='the backbone has no layer .* did you mean stages.0.blo'):
        feature_maps(backbone, image, [f'backbone.{name}'])


def test_model_without_parts():
    model = nn.Linear(2, 2)
    model.extract_feat = model.forward
    with pytest.raises(UserError, match="have no layer 'backbone': the model has neither"):
        feature_maps(model, torch.zeros(1, 2), ['backbone'])


def test_sheet(tmp_path):
    """A row a model, the original first; what padding gave neither shows nor sets the colours."""
    original = np.full((50, 100, 3), (200, 30, 30), np.uint8)
    placement = Placement((1.0, 1.0), (0.0, 0.0), (100, 50))
    values = torch.zeros(8, 16)
    values[:, 8:] = 1.0  # the right half, from pixel 64 on
    values[7:] = 100.0  # rows from pixel 56 on: padding
    rows = [
        (f'model {number}', placement, [FeatureMap('layer', values * number, (8, 8))])
        for number in (1, 2)
    ]
    draw_features(original, rows, str(tmp_path / 'sheet.png'))
    drawn = cv2.imread(str(tmp_path / 'sheet.png')).astype(int)
    height, width = drawn.shape[:2]
    least, largest = np.array([84, 1, 68]), np.array([37, 231, 253])  # viridis, BGR
    for colour in (least, largest):
        ys, xs = np.nonzero(np.abs(drawn - colour).max(-1) <= 3)
        assert xs.min() > 0.45 * width
        assert ys.min() < height / 2 < ys.max()  # in both rows
    red = np.abs(drawn - np.array([30, 30, 200])).max(-1) <= 3
    assert red[:, : width // 2].any() and not red[:, width // 2 + 30 :].any()


# ---------------------------------------------------------------------- the tool
def save(path, options=None):
    """A checkpoint of random weights for the classifier of the drawn shapes."""
    model = cli.build_model(cli.load_config(CLS, options))
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


def test_predict_draws_features(shapes, tmp_path):
    """Two models in one sheet, one with other settings; a misspelt layer is one line."""
    pytest.importorskip('mmpretrain')
    image = sorted((shapes / 'coco/val2017').iterdir())[0]
    local = ['--cfg-options', 'model.backbone.global_query=none']
    options = {'model.backbone.global_query': 'none'}
    paths = save(tmp_path / 'mine.pth'), save(tmp_path / 'local.pth', options)
    command = ['predict.py', CLS, paths[0], image, '--out-dir', tmp_path / 'out', '--features']
    command += ['backbone.stages.0.blocks.1', 'backbone.stages.2.blocks.5']
    output = run(*command, '--beside', CLS, paths[1], local[1])
    assert 'drew 1 images' in output and 'local.pth' in output
    drawn = cv2.imread(str(tmp_path / 'out' / f'{image.stem}_features.png'))
    height, width = cv2.imread(str(image)).shape[:2]
    assert drawn.shape[1] / drawn.shape[0] == pytest.approx(3 / 2 * width / height, rel=0.2)
    error = one_line_error(*command, 'backbone.stages.0.block.1')
    assert f"{CLS}: backbone and neck have no layer 'backbone.stages.0.block.1'" in error
    assert error.endswith('did you mean backbone.stages.0.blocks.1?')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ('--beside a.py b.pth', '--beside: goes with --features only'),
        ('--features x --attention 3,3', 'give one of --attention, --groups, --features'),
        ('--features x --groups', 'give one of'),
        ('--features x --layer y', '--layer: goes with --attention X,Y or --groups only'),
        ('--layer y', '--layer: goes with'),
    ],
)
def test_options_that_do_not_go_together(options, message):
    argv = ['a.py', 'b.pth', 'c.png', '--out-dir', 'out', *options.split()]
    with pytest.raises(UserError, match=message):
        predict.check_arguments(predict.parse_args(argv))


def test_several_models(capsys):
    """Each with its own settings; words that are none end in a line."""
    argv = 'a.py b.pth c.png --out-dir out --features x --beside d.py e.pth'.split()
    more = '--beside f.py g.pth model.a=1 model.b=(1,2)'.split()
    first, second = predict.parse_args([*argv, *more]).beside
    assert first == ('d.py', 'e.pth', {})
    assert second == ('f.py', 'g.pth', {'model.a': 1, 'model.b': (1, 2)})
    assert predict.Source('x/a_b.py', 'runs/one/last.pth').title == 'a_b\none/last.pth'
    for words, message in ((argv[:-1], 'its checkpoint'), ([*argv, 'b'], 'b is no KEY=VALUE')):
        with pytest.raises(SystemExit) as stop:
            predict.parse_args(words)
        assert stop.value.code == 2 and message in capsys.readouterr().err
