"""Where a pixel looks: the weights against a softmax written out, the places, the tool."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from gcvit_mm import GCViT, GGDeiT, GGTransformer, GPViT, GPViTAdapter, ScalableViT, UserError
from gcvit_mm.visualization import (
    AttentionMap,
    Placement,
    attention_maps,
    draw,
    find_blocks,
    group_map,
)
from support.running import CLS, DET, SEG, one_line_error, run

HEIGHT, WIDTH = 75, 101  # maps of 19 x 26, 10 x 13, 5 x 7, 3 x 4
GC = dict(
    embed_dims=16,
    depths=(2, 2, 2, 2),
    num_heads=(1, 2, 4, 8),
    mlp_ratio=1.0,
    layer_scale=None,
    window_size=(7, 7, 7, 7),
    drop_path_rate=0.0,
)
GG = dict(embed_dims=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), mlp_ratio=1.0)
SCALABLE = dict(
    embed_dims=(16, 32, 64, 128),
    depths=(2, 2, 2, 2),
    num_heads=(1, 2, 4, 8),
    c_ratios=(1.25, 2, 0.5, 1),
    sr_ratios=(8, 4, 2, 1),
    mlp_ratio=1.0,
    window_size=7,
    drop_path_rate=0.0,
)
DEIT = dict(embed_dims=16, depths=(2,), num_heads=2, mlp_ratio=1.0, drop_path_rate=0.0)
GP = dict(
    embed_dims=24,
    depth=3,
    num_heads=4,
    group_heads=2,
    groups={1: 5},
    mlp_ratio=1.0,
    stripe=2,
    stem_convs=0,
    drop_path_rate=0.0,
)


def make(cls, arch, **kwargs):
    """A small backbone whose attention is far from uniform."""
    arch = dict(arch, drop_path_rate=0.0)
    model = cls(arch, **kwargs).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.copy_(0.4 * torch.randn_like(parameter))
            elif name.endswith('qkv.bias'):
                parameter.copy_(torch.randn_like(parameter))
    return model


def look(model, pixel, name):
    """The map of one block, and the input of its attention."""
    seen = []
    layer = model.get_submodule(f'{name}.attn')
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args))
    image = torch.randn(1, 3, HEIGHT, WIDTH)
    (found,) = attention_maps(model, image, pixel, [name])
    hook.remove()
    return found, layer, seen[0]


def softmax(logits):
    """Softmax of a list of numbers."""
    largest = max(logits)
    exps = [math.exp(x - largest) for x in logits]
    return [e / sum(exps) for e in exps]


def brute_force_window(layer, args, token, window_of, positions):
    """Weights of a token on the tokens of its window, one by one; padding holds zeros.

    ``window_of`` says which tokens (row, column) share a window with the given, in the order of
    the window; those beyond the map are padding.
    """
    x = args[0][0].detach()
    height, width, c = x.shape
    d = c // layer.num_heads
    members = window_of(token)
    own = members.index(token)
    weight, bias = layer.qkv.weight.detach(), layer.qkv.bias.detach()

    def project(y, x_, part):
        inside = y < height and x_ < width
        value = x[y, x_] if inside else torch.zeros(c)
        return weight[part * c : (part + 1) * c] @ value + bias[part * c : (part + 1) * c]

    total = [0.0] * len(members)
    for head in range(layer.num_heads):
        part = slice(head * d, (head + 1) * d)
        if layer.own_query:
            q = project(*token, 0)[part]
        else:
            q = args[1][0, head, own].detach()
        logits = []
        for j, member in enumerate(members):
            k = project(*member, 1 if layer.own_query else 0)[part]
            logit = float(q @ k) / math.sqrt(d)
            if layer.rel_pos is not None:
                dy = positions[own][0] - positions[j][0] + layer.window_size[0] - 1
                dx = positions[own][1] - positions[j][1] + layer.window_size[1] - 1
                row = dy * (2 * layer.window_size[1] - 1) + dx
                logit += layer.rel_pos.relative_position_bias_table[row, head].item()
            beyond = member[0] >= height or member[1] >= width
            logits.append(-math.inf if layer.mask_padding and beyond else logit)
        total = [a + b / layer.num_heads for a, b in zip(total, softmax(logits))]
    real = {m: w for m, w in zip(members, total) if m[0] < height and m[1] < width}
    share = sum(real.values())
    return {m: w / share for m, w in real.items()}, 1 - share


def neighbours(side):
    """Windows of neighbouring tokens."""

    def window_of(token):
        y0, x0 = (side * (t // side) for t in token)
        return [(y0 + i, x0 + j) for i in range(side) for j in range(side)]

    return window_of


def equidistant(side, height, width):
    """Windows of every n-th token, n the dilation of the padded map."""
    dy, dx = -(-height // side), -(-width // side)

    def window_of(token):
        y0, x0 = token[0] % dy, token[1] % dx
        return [(y0 + i * dy, x0 + j * dx) for i in range(side) for j in range(side)]

    return window_of


SQUARE = [(i, j) for i in range(7) for j in range(7)]
LAST = (WIDTH - 1, HEIGHT - 1)


def check(found, expected, elsewhere):
    """The map holds the expected weights at the expected tokens and nothing else."""
    assert float(found.values.sum()) == pytest.approx(1, abs=1e-5)
    assert {tuple(t) for t in found.seen.nonzero().tolist()} == set(expected)
    assert float(found.values[~found.seen].abs().sum()) == 0
    for token, weight in expected.items():
        assert float(found.values[token]) == pytest.approx(weight, abs=1e-5)
    assert found.elsewhere == pytest.approx(elsewhere, abs=1e-5)
    spread = max(expected.values()) - min(expected.values())
    assert spread > 1e-3, 'uniform weights would not tell a wrong place'


@pytest.mark.parametrize('pixel', [(0, 0), (50, 40), LAST])
@pytest.mark.parametrize('block', [0, 1])
@pytest.mark.parametrize('stage', [0, 1, 3])
def test_gcvit_windows(stage, block, pixel):
    """Local and global blocks, windows with and without padding."""
    found, layer, args = look(make(GCViT, GC), pixel, f'stages.{stage}.blocks.{block}')
    stride = 4 * 2**stage
    token = (pixel[1] // stride, pixel[0] // stride)
    check(found, *brute_force_window(layer, args, token, neighbours(7), SQUARE))
    assert found.kind == ('global query' if block else 'local window')
    assert found.cell == (stride, stride)
    assert found.seen[token]
    if pixel == LAST:
        assert found.elsewhere > 1e-4  # the window reaches beyond the map


def test_hidden_padding_gets_nothing():
    """With mask_padding no attention goes to padding."""
    model = make(GCViT, GC, mask_padding=True)
    found, layer, args = look(model, LAST, 'stages.1.blocks.0')
    check(found, *brute_force_window(layer, args, (9, 12), neighbours(7), SQUARE))
    assert found.elsewhere == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('pixel', [(0, 0), (50, 40), LAST])
@pytest.mark.parametrize('stage', [0, 1, 2])
def test_gg_partitions(stage, pixel):
    """Tokens of a partition lie equidistant over the whole map."""
    found, layer, args = look(make(GGTransformer, GG), pixel, f'stages.{stage}.blocks.1')
    stride = 4 * 2**stage
    token = (pixel[1] // stride, pixel[0] // stride)
    window_of = equidistant(7, *args[0].shape[1:3])
    check(found, *brute_force_window(layer, args, token, window_of, SQUARE))
    assert found.kind == 'dilated partition'
    assert found.seen[token]


@pytest.mark.parametrize('stage', range(4))
def test_scalablevit_reduced_map(stage):
    """SSA: a token looks at the whole reduced map; a cell of it covers a square of tokens."""
    pixel = (70, 60)
    found, layer, args = look(make(ScalableViT, SCALABLE), pixel, f'stages.{stage}.blocks.1')
    x = args[0].detach()
    stride, ratio = 4 * 2**stage, layer.sr_ratio
    height, width = x.shape[1:3]
    token = x[0, pixel[1] // stride, pixel[0] // stride]
    padded = nn.functional.pad(x, (0, 0, 0, -width % ratio, 0, -height % ratio))
    with torch.no_grad():
        if ratio > 1:
            reduced = layer.reduction(padded.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            keys = layer.k(nn.functional.gelu(layer.norm(reduced)))[0]
        else:
            keys = layer.kv(padded)[0, ..., : x.shape[-1]]
        query = layer.q(token)
    d = len(query) // layer.num_heads
    rows, cols = keys.shape[:2]
    expected = torch.zeros(rows * cols)
    for head in range(layer.num_heads):
        part = slice(head * d, (head + 1) * d)
        logits = [float(query[part] @ k) * layer.scale for k in keys.flatten(0, 1)[:, part]]
        expected += torch.tensor(softmax(logits)) / layer.num_heads
    assert found.values.shape == (rows, cols) == (-(-height // ratio), -(-width // ratio))
    assert (found.values.flatten() - expected).abs().max() < 1e-5
    assert float(expected.max() - expected.min()) > 1e-3
    assert found.cell == (stride * ratio, stride * ratio)
    assert found.seen.all() and found.kind == 'reduced map'


def test_scalablevit_windows():
    """IWSA: neither bias nor padding."""
    found, layer, args = look(make(ScalableViT, SCALABLE), LAST, 'stages.1.blocks.0')
    check(found, *brute_force_window(layer, args, (9, 12), neighbours(7), SQUARE))


def test_ggdeit_class_token():
    """A partition of patches and the class token, whose share is told apart."""
    model = make(GGDeiT, DEIT)
    name, pixel = 'stages.0.blocks.1', (90, 70)
    found, layer, args = look(model, pixel, name)
    tokens, (height, width) = args[0][0].detach(), args[1]
    token = (pixel[1] // 16, pixel[0] // 16)
    members = [m for m in equidistant(7, height, width)(token) if m[0] < height and m[1] < width]
    with torch.no_grad():
        q, k, _ = layer.qkv(tokens).chunk(3, -1)
    rows = [1 + y * width + x for y, x in members] + [0]
    d = q.shape[1] // layer.num_heads
    total = torch.zeros(len(rows))
    for head in range(layer.num_heads):
        part = slice(head * d, (head + 1) * d)
        own = q[1 + token[0] * width + token[1], part]
        logits = [float(own @ k[row, part]) / math.sqrt(d) for row in rows]
        total += torch.tensor(softmax(logits)) / layer.num_heads
    share = float(total[:-1].sum())
    check(found, {m: float(w) / share for m, w in zip(members, total)}, 1 - share)
    assert found.elsewhere > 1e-3


@pytest.mark.parametrize('pixel', [(0, 0), (50, 40), LAST])
def test_gpvit_stripes(pixel):
    """A vertical stripe for half of the heads, a horizontal one for the rest."""
    found, layer, args = look(make(GPViT, GP), pixel, 'layers.2')
    x = args[0][0].detach()
    height, width, c = x.shape
    token = (pixel[1] // 8, pixel[0] // 8)
    with torch.no_grad():
        q, k, _ = layer.qkv(x).chunk(3, -1)
    d = c // 2 // layer.num_heads
    expected = {}
    for half in range(2):
        members = [
            (i, j)
            for i in range(height)
            for j in range(width)
            if ((j // 2 == token[1] // 2), (i // 2 == token[0] // 2))[half]
        ]
        for head in range(layer.num_heads):
            first = half * c // 2 + head * d
            part = slice(first, first + d)
            logits = [float(q[token][part] @ k[m][part]) / math.sqrt(d) for m in members]
            for member, weight in zip(members, softmax(logits)):
                expected[member] = expected.get(member, 0) + weight / (2 * layer.num_heads)
    check(found, expected, 0)


@pytest.mark.parametrize('cls', [GPViT, GPViTAdapter])
def test_gpvit_groups(cls):
    """Each token is given to the group token that takes most from it."""
    if cls is GPViTAdapter:  # its interactions are those of twelve layers
        model = make(cls, dict(GP, depth=12, groups={1: 5}))
    else:
        model = make(cls, GP)
    seen = []
    layer = model.get_submodule('layers.1').group_attn
    layer.register_forward_pre_hook(lambda _, args: seen.append(args))
    (found,) = attention_maps(model, torch.randn(1, 3, HEIGHT, WIDTH), (3, 4), ['layers.1'])
    groups, tokens = seen[0]
    with torch.no_grad():
        q, k = layer.norm_query(groups)[0], layer.k(layer.norm_key(tokens))[0]
    d = q.shape[1] // layer.num_heads
    taken = torch.zeros(len(q), len(k))
    for head in range(layer.num_heads):
        part = slice(head * d, (head + 1) * d)
        for m in range(len(q)):
            logits = (k[:, part] @ q[m, part] / math.sqrt(d)).tolist()
            taken[m] += torch.tensor(softmax(logits))
    pad = 32 if cls is GPViTAdapter else 8  # the adapter has maps of stride 32 beside
    height, width = (-(-side // pad) * pad // 8 for side in (HEIGHT, WIDTH))
    expected = [max(range(len(q)), key=lambda m: taken[m, n]) for n in range(height * width)]
    assert found.values.flatten().tolist() == expected
    assert found.values.shape == (height, width) and found.groups == 5
    assert found.cell == (8, 8)
    assert len(set(expected)) > 1


def test_group_map():
    """The mean of the heads decides, not one head."""
    weights = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.0, 0.6], [0.8, 0.4]]])
    assert group_map(weights, (1, 2)).tolist() == [[1, 1]]


@pytest.mark.parametrize(
    'cls, arch, kwargs, kinds',
    [
        (GCViT, GC, {}, 4 * ['local window', 'global query']),
        (GCViT, GC, dict(global_query='none'), 4 * ['local window']),
        (ScalableViT, SCALABLE, {}, 4 * ['local window', 'reduced map']),
        (GGTransformer, GG, {}, 4 * ['dilated partition']),
        (GGTransformer, GG, dict(gaze='attn'), 4 * ['dilated partition', 'local window']),
        (GGDeiT, DEIT, {}, ['dilated partition and class token']),
        (GPViT, dict(GP, groups={0: 3, 1: 5}), {}, ['groups', 'groups', 'stripes']),
        (GPViT, GP, dict(propagation='attention'), ['groups', 'stripes']),
        (GPViT, GP, dict(global_attn='attention'), ['all tokens', 'stripes']),
        (GPViT, GP, dict(global_attn='shift'), ['shifted window', 'stripes']),
        (GPViT, GP, dict(global_attn='conv', local_attn='window'), ['local window']),
    ],
)
def test_what_is_drawn_unasked(cls, arch, kwargs, kinds, tmp_path):
    """The last block of each kind in every stage, in the order in which they run; all draw."""
    image = torch.randn(1, 3, HEIGHT, WIDTH)
    maps = attention_maps(make(cls, arch, **kwargs), image, LAST)
    assert [found.kind for found in maps] == kinds
    for found in maps:
        if not found.groups:
            assert float(found.values.sum()) == pytest.approx(1, abs=1e-5)
            token = tuple(int(p // c) for p, c in zip(LAST[::-1], found.cell))
            assert found.seen[token]
    original = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    placement = Placement((1.0, 1.0), (0.0, 0.0), (WIDTH, HEIGHT))
    draw(original, LAST, maps, placement, str(tmp_path / 'maps.png'))
    import cv2

    drawn = cv2.imread(str(tmp_path / 'maps.png'))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 20


def test_last_blocks():
    """Of several blocks of a kind the last one of the stage is taken; others by their names."""
    model = make(GCViT, dict(GC, depths=(3, 4, 2, 2)))
    assert list(find_blocks(model))[:4] == [f'stages.{i}' for i in ('0.blocks.1', '0.blocks.2')] + [
        f'stages.{i}' for i in ('1.blocks.2', '1.blocks.3')
    ]
    wanted = ['stages.1.blocks.0', 'stages.0.blocks.2']
    assert list(find_blocks(model, wanted)) == wanted[::-1]


def test_leaves_the_backbone_alone():
    """Outputs, mode and hooks are the same afterwards."""
    model = make(GCViT, GC)
    image = torch.randn(1, 3, HEIGHT, WIDTH)
    with torch.no_grad():
        before = model(image)
    model.train()
    attention_maps(model, image, (1, 2))
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with torch.no_grad():
        after = model.eval()(image)
    assert all(torch.equal(a, b) for a, b in zip(before, after))


def test_bad_input():
    """One line that says what is wrong and what fits."""
    model, image = make(GCViT, GC), torch.zeros(1, 3, HEIGHT, WIDTH)
    with pytest.raises(UserError, match='Conv2d is no backbone of gcvit_mm'):
        attention_maps(nn.Conv2d(3, 3, 1), image, (0, 0))
    with pytest.raises(UserError, match=r"no layer 'stages.9'.* one or more of stages.0.blocks.0"):
        attention_maps(model, image, (0, 0), ['stages.9'])
    for pixel in ((WIDTH, 0), (0, HEIGHT), (-1, 0)):
        with pytest.raises(UserError, match='lies outside the one image of 101x75 pixels'):
            attention_maps(model, image, pixel)


def test_placement_of_pipelines():
    """Resizing and a centre crop: where a pixel of the file is in what the network sees."""
    resized = Placement.of(
        dict(ori_shape=(100, 200), img_shape=(200, 400), scale_factor=(2.0, 2.0))
    )
    assert resized.to_image(10, 20) == (21, 41)
    assert resized.to_original(*resized.to_image(10, 20)) == (10.5, 20.5)
    assert Placement.of(dict(ori_shape=(9, 9), img_shape=(9, 9))).to_image(3, 4) == (3.5, 4.5)
    cropped = Placement.of(
        dict(ori_shape=(100, 200), img_shape=(224, 224), scale_factor=(2.56, 2.56))
    )
    assert cropped.offset == (144, 16)
    assert cropped.holds(*cropped.to_image(100, 50))
    assert not cropped.holds(*cropped.to_image(20, 50))


@pytest.mark.parametrize('squares', [(64, 96), (40, 40)])
def test_centre_crop_of_mmpretrain(squares, tmp_path):
    """A bright square of the file is where ``to_image`` says, behind ResizeEdge and CenterCrop."""
    pytest.importorskip('mmpretrain')
    import cv2
    from mmengine.dataset import Compose
    from mmengine.registry import init_default_scope

    init_default_scope('mmpretrain')
    x, y = squares
    original = np.zeros((150, 200, 3), np.uint8)
    original[y - 4 : y + 5, x - 4 : x + 5] = 255
    cv2.imwrite(str(tmp_path / 'square.png'), original)
    pipeline = Compose(
        [
            dict(type='LoadImageFromFile'),
            dict(type='ResizeEdge', scale=256, edge='short'),
            dict(type='CenterCrop', crop_size=224),
            dict(type='PackInputs'),
        ]
    )
    data = pipeline(dict(img_path=str(tmp_path / 'square.png')))
    ys, xs = (data['inputs'][0] > 128).nonzero().float().T
    centre = Placement.of(data['data_samples'].metainfo).to_image(x, y)
    assert centre == pytest.approx((float(xs.mean()) + 0.5, float(ys.mean()) + 0.5), abs=0.6)


# ---------------------------------------------------------------------- the tool


def checkpoint(config, folder):
    """A checkpoint of the config with random weights, and the images of a folder."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    cfg = Config.fromfile(config)
    for node in (cfg.model.get('decode_head'), cfg.model.get('auxiliary_head')):
        if node:
            node.norm_cfg.type = 'BN'
    init_default_scope(cfg.default_scope)
    path = folder / 'random.pth'
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta={}), path)
    return path


@pytest.mark.parametrize('config, pixel', [(DET, '30,50'), (SEG, '30,50'), (CLS, '30,30')])
def test_predict_draws_attention(config, pixel, shapes, tmp_path):
    """One PNG an image for detectors, segmentors and classifiers, of the blocks asked for."""
    pytest.importorskip('mmcv._ext', reason='the compiled ops of mmcv are not installed')
    for package in ('mmdet', 'mmseg', 'mmpretrain'):
        pytest.importorskip(package)
    import cv2

    images = sorted((shapes / 'coco/val2017').iterdir())[:2]
    layers = ['stages.2.blocks.5', 'stages.0.blocks.0']
    command = ['predict.py', config, checkpoint(config, tmp_path), *images, '--attention', pixel]
    output = run(*command, '--out-dir', tmp_path, *(['--layer', *layers] if config == DET else []))
    assert 'drew 2 images' in output
    for image in images:
        source = cv2.imread(str(image))
        drawn = cv2.imread(str(tmp_path / f'{image.stem}_attention.png'))
        panels = 2 if config == DET else 8  # eight: a local and a global block of each stage
        wanted = min(panels, 4) / max(panels // 4, 1) * source.shape[1] / source.shape[0]
        assert drawn.shape[1] / drawn.shape[0] == pytest.approx(wanted, rel=0.2)
        assert (drawn[..., 0] != drawn[..., 2]).mean() > 0.02  # colours over the grey


def test_tool_rejects_bad_input(shapes, tmp_path):
    """A pixel outside, a wrong layer, a foreign backbone: one line each."""
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv._ext', reason='the compiled ops of mmcv are not installed')
    image = sorted((shapes / 'coco/val2017').iterdir())[0]
    command = ['predict.py', DET, checkpoint(DET, tmp_path), image, '--out-dir', tmp_path]
    error = one_line_error(*command, '--attention', '5000,3')
    assert re.search(r'pixel 5000,3 lies outside .* give X within 0\.\.\d+ and Y within', error)
    error = one_line_error(*command, '--attention', '5,3', '--layer', 'stages.0.block.1')
    assert "no layer 'stages.0.block.1'" in error and 'stages.3.blocks.1' in error
    foreign = ['model.backbone._delete_=True', 'model.backbone.type=ResNet']
    foreign += ['model.backbone.depth=18', 'model.neck.in_channels=[64,128,256,512]']
    error = one_line_error(*command, '--attention', '5,3', '--cfg-options', *foreign)
    assert 'ResNet is no backbone of gcvit_mm' in error


def test_bar_of_weights(tmp_path):
    """Right of a panel, as high, from the least colour to the largest; groups have none."""
    import cv2

    original, placement = np.full((50, 100, 3), 255, np.uint8), Placement((1, 1), (0, 0), (100, 50))
    values = torch.zeros(5, 10)
    values[2, 2:5] = torch.tensor([0.5, 0.3, 0.2])
    heights = []
    for groups in (0, 4):
        shown = AttentionMap('x', 'kind', values, values > 0, (10.0, 10.0), 0.0, groups=groups)
        draw(original, None, [shown], placement, str(tmp_path / 'x.png'))
        drawn = cv2.imread(str(tmp_path / 'x.png'))
        right = drawn[:, int(0.8 * drawn.shape[1]) :].astype(int)
        coloured = np.ptp(right, axis=-1) > 60
        heights.append(coloured.any(1).sum() / drawn.shape[0])
        if not groups:
            rows = coloured.any(1).nonzero()[0]
            top, bottom = (right[row][coloured[row]].mean(0) for row in rows[[3, -4]])
            assert top[1] > top[0] and bottom[0] > bottom[2] and bottom[0] > bottom[1]  # BGR
    assert heights[0] > 0.5 and heights[1] == 0


@pytest.mark.parametrize('given', ['middle', '5', '5,', '5;3', '-1,3', '1.5,3', '1,2,3'])
def test_pixels_that_are_none(given, shapes):
    """What is no pair of whole numbers is called so."""
    from predict import parse_pixel

    images = [str(path) for path in sorted((shapes / 'coco/val2017').iterdir())[:1]]
    with pytest.raises(UserError, match=f"--attention: '{given}' is no pixel: give X,Y"):
        parse_pixel(given, images)
    assert parse_pixel(' 7, 9', images) == (7, 9)
