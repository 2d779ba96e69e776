"""ScalableViT: its numbers, its attention against the equations, its ablations."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gcvit_mm import ScalableViT
from gcvit_mm.backbones.scalablevit import LEMAttention, ScalableAttention
from gcvit_mm.checkpoints import CheckpointError, convert_state_dict
from gcvit_mm.layers import WindowAttention
from support.gcvit_reference import check_images
from support.scalablevit_reference import released_state

HEAD = 512 * 4096 + 4096 + 2 * 4096 + 4096 * 1000 + 1000  # the two-layer head of S


def on_meta(arch='small', **kwargs):
    """A model without memory."""
    with torch.device('meta'):
        return ScalableViT(arch, **kwargs)


def count(model):
    """Parameters in M."""
    return sum(p.numel() for p in model.parameters()) / 1e6


@pytest.fixture(scope='module')
def small():
    """ScalableViT-S with the drawn weights of a released classifier, without output norms."""
    model = ScalableViT('small').eval()
    converted = convert_state_dict(released_state(model))
    backbone = {k[9:]: v for k, v in converted.items() if k.startswith('backbone.')}
    missing, unexpected = model.load_state_dict(backbone, strict=False)
    assert not unexpected and all(key.startswith('norm') for key in missing)
    return model, converted


@pytest.mark.parametrize(
    'arch, millions', [('small', 25.794032), ('base', 74.626608), ('large', 100.985248)]
)
def test_parameters(arch, millions):
    """Counts of the released models with their final norm, without head."""
    assert count(on_meta(arch, out_indices=(3,))) == pytest.approx(millions, abs=1e-6)


@pytest.mark.parametrize('arch, gmacs', [('small', 4.09), ('base', 8.56), ('large', 14.68)])
def test_macs_of_convolutions_and_linear_layers(arch, gmacs):
    """At 224, where nothing is padded, the count is that of the release."""
    model = on_meta(arch, out_indices=(3,)).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 224, 224, device='meta'))
    products = (torch.ops.aten.bmm, torch.ops.aten.baddbmm)
    counts = counter.get_flop_counts()['Global']
    assert sum(v for k, v in counts.items() if k not in products) / 2e9 == pytest.approx(
        gmacs, abs=0.02
    )


@torch.no_grad()
def test_logits_of_the_release(small):
    """Check numbers of the authors' classifier at 224."""
    model, state = small
    feats = model(check_images(224, 224))[3]
    unnormed = nn.LayerNorm(512, eps=1e-6)
    unnormed.load_state_dict({k: state[f'backbone.norm3.{k}'] for k in ('weight', 'bias')})
    assert torch.equal(model.norm3.weight, unnormed.weight)
    hidden = F.linear(
        feats.mean((2, 3)), state['head.layers.0.fc.weight'], state['head.layers.0.fc.bias']
    )
    hidden = F.layer_norm(
        hidden, (4096,), state['head.layers.0.norm.weight'], state['head.layers.0.norm.bias'], 1e-6
    )
    logits = F.linear(
        F.gelu(hidden), state['head.layers.1.fc.weight'], state['head.layers.1.fc.bias']
    )
    expected = torch.tensor(
        [[0.35711, 0.34462, 0.73266, -0.04868], [0.09637, 0.77233, 0.17562, 0.65530]]
    )
    torch.testing.assert_close(logits[:, :4], expected, atol=2e-5, rtol=0)
    assert logits.std().item() == pytest.approx(0.645216, abs=2e-5)


@pytest.mark.parametrize(
    'size, level, first, last',
    [
        ((224, 224), 0, (-1.13268, 0.32744, 0.55807), (-5.52329, 2.18570, 0.76630)),
        ((224, 224), 3, (1.48468, 0.98223, 2.42098), (1.14370, 0.29376, 0.17264)),
        ((160, 200), 0, (0.39922, -0.01504, -0.01679), (-0.35988, 0.12207, -0.43232)),
        ((160, 200), 1, (0.37769, -0.86470, -1.03829), (6.31839, 1.36262, 0.97273)),
        ((160, 200), 2, (1.53745, -1.60035, -0.35935), (-3.43462, 1.34788, 2.48959)),
        ((160, 200), 3, (1.30824, 0.81906, 1.57539), (1.91747, 1.81697, 1.00792)),
        ((97, 131), 0, (-3.04987, 2.05223, -2.90819), (-0.71706, 0.60017, 0.22580)),
        ((97, 131), 3, (1.91523, 1.04089, 1.63303), (2.36740, 0.91908, 0.94049)),
    ],
)
@torch.no_grad()
def test_stage_outputs(small, size, level, first, last):
    """Check numbers of the stages before their output norms, odd sizes included."""
    model, _ = small
    outs = []
    hooks = [
        stage.register_forward_hook(lambda *call: outs.append(call[2][0])) for stage in model.stages
    ]
    model(check_images(*size))
    for hook in hooks:
        hook.remove()
    out = outs[level]  # (B, H, W, C)
    torch.testing.assert_close(out[0, 0, 0, :3], torch.tensor(first), atol=3e-5, rtol=0)
    torch.testing.assert_close(out[1, -1, -1, :3], torch.tensor(last), atol=3e-5, rtol=0)


def plain_ssa(layer, x):
    """SSA token by token from equation 4, on a map that the reduction divides."""
    b, h, w, c = x.shape
    s, heads = layer.sr_ratio, layer.num_heads
    q = layer.q(x).reshape(b, h * w, heads, -1)
    depthwise, pointwise = layer.reduction
    cells = x.reshape(b, h // s, s, w // s, s, c)
    reduced = torch.einsum('biajdc,cad->bijc', cells, depthwise.weight[:, 0]) + depthwise.bias
    reduced = reduced @ pointwise.weight[:, :, 0, 0].t() + pointwise.bias
    reduced = F.gelu(F.layer_norm(reduced, reduced.shape[-1:], layer.norm.weight, layer.norm.bias))
    k = layer.k(reduced).reshape(b, -1, heads, q.shape[-1])
    v = layer.v(reduced).reshape(b, -1, heads, c // heads)
    logits = torch.einsum('bnhd,bmhd->bhnm', q, k) * layer.scale
    out = torch.einsum('bhnm,bmhe->bnhe', logits.softmax(-1), v)
    return layer.proj(out.reshape(x.shape))


@pytest.mark.parametrize('c_ratio', [0.25, 1, 1.25])
def test_ssa_equals_the_equation(c_ratio):
    """Output and gradients equal a plain softmax, whichever of query and value is wider."""
    layer = ScalableAttention(16, 2, sr_ratio=4, c_ratio=c_ratio).double()
    assert layer.scale == pytest.approx((8 * c_ratio) ** -0.5)
    x = torch.randn(2, 8, 12, 16, dtype=torch.double, requires_grad=True)
    direction = torch.randn_like(x)
    grads = []
    for out in (layer(x), plain_ssa(layer, x)):
        (grad,) = torch.autograd.grad((out * direction).sum(), x)
        grads.append((out, grad))
    torch.testing.assert_close(grads[0], grads[1])


@torch.no_grad()
def test_ssa_attends_to_the_border():
    """A map that the reduction does not divide is padded: its last row still has a say."""
    layer = ScalableAttention(16, 2, sr_ratio=4, c_ratio=1).double()
    for p in layer.parameters():
        p.add_(torch.randn_like(p))
    x = torch.randn(1, 9, 10, 16, dtype=torch.double)
    changed = x.clone()
    changed[0, 8, 9] += 1
    assert (layer(changed)[0, 0, 0] - layer(x)[0, 0, 0]).abs().max() > 1e-6
    padded = F.pad(x, (0, 0, 0, 2, 0, 3))
    torch.testing.assert_close(layer(x), plain_ssa(layer, padded)[:, :9, :10])


def plain_iwsa(layer, x):
    """IWSA token by token: attention to the real tokens of the window, plus LIM."""
    b, h, w, c = x.shape
    heads, side = layer.num_heads, layer.window_size[0]
    q, k, v = layer.qkv(x).chunk(3, -1)
    out = torch.empty_like(x)
    for y in range(h):
        for z in range(w):
            rows = slice(y // side * side, min(y // side * side + side, h))
            cols = slice(z // side * side, min(z // side * side + side, w))
            keys = k[:, rows, cols].reshape(b, -1, heads, c // heads)
            values = v[:, rows, cols].reshape(b, -1, heads, c // heads)
            logits = torch.einsum('bhd,bmhd->bhm', q[:, y, z].reshape(b, heads, -1), keys)
            weights = (logits * (c // heads) ** -0.5).softmax(-1)
            out[:, y, z] = torch.einsum('bhm,bmhd->bhd', weights, values).reshape(b, c)
    weight, bias = layer.v_conv.weight, layer.v_conv.bias
    lim = F.conv2d(v.permute(0, 3, 1, 2), weight, bias, padding=1, groups=c)
    return layer.proj(out + lim.permute(0, 2, 3, 1))


@pytest.mark.parametrize('size', [(7, 14), (9, 11), (3, 5)])
@torch.no_grad()
def test_iwsa_equals_the_equation(size):
    """Windows with padding see real tokens only; LIM crosses window borders."""
    layer = WindowAttention(16, 2, (7, 7), rel_pos_bias=False, mask_padding=True, v_kernel=3)
    for p in layer.parameters():
        p.copy_(torch.randn_like(p))
    x = torch.randn(2, *size, 16)
    torch.testing.assert_close(layer(x), plain_iwsa(layer, x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    'kwargs, millions',
    [
        (dict(attn_kinds=('wsa', 'wsa')), 30.37),
        (dict(attn_kinds=('swsa', 'ssa')), 31.97),
        (dict(attn_kinds=('iwsa', 'iwsa')), 30.44),
        (dict(attn_kinds=('ssa', 'ssa')), 33.56),
        (dict(attn_kinds=('ssa', 'ssa'), c_ratios=1), 31.78),
        (dict(attn_kinds=('ssa', 'iwsa')), 32.00),
        (dict(interaction='none', peg=False), 31.96),
        (dict(interaction='none'), 31.97),
        (dict(interaction='lem', peg=False), 31.99),
        (dict(interaction='lim', peg=False), 31.99),
        (dict(interaction='lem'), 32.00),
        (dict(), 32.00),
    ],
    ids=str,
)
def test_ablations(kwargs, millions):
    """Rows of Tables 5a and 5b, counted with the two-layer head."""
    model = on_meta(out_indices=(3,), **kwargs)
    assert count(model) + HEAD / 1e6 == pytest.approx(millions, abs=0.0075)


@torch.no_grad()
def test_shifted_windows():
    """As Swin's: half a window further, not in the last stage; any size of images."""
    model = ScalableViT(attn_kinds=('wsa', 'swsa')).eval()
    offsets = [[block.attn.offset for block in stage.blocks[:2]] for stage in model.stages]
    assert offsets == [[0, 4]] * 3 + [[0, 0]]
    assert model(torch.randn(1, 3, 75, 90))[3].isfinite().all()


@torch.no_grad()
def test_lem_stays_in_its_window():
    """A change in one window reaches its neighbour through LIM, not through LEM."""
    x = torch.randn(1, 14, 14, 16)
    changed = x.clone()
    changed[0, 3, 6] += 1
    reach = {}
    for inside, cls in enumerate((WindowAttention, LEMAttention)):
        layer = cls(16, 2, (7, 7), rel_pos_bias=False, v_kernel=3)
        reach[inside] = (layer(changed) - layer(x)).abs().amax(-1)[0] > 1e-7
    assert reach[True][:7, :7].any() and not reach[True][:, 7:].any()
    assert reach[False][2:5, 7].all() and not reach[False][:, 8:].any()


def test_bad_values():
    """Values out of range are named with what fits."""
    with pytest.raises(ValueError, match="attn_kinds must be two of .'iwsa', 'wsa', 'swsa', 'ssa'"):
        ScalableViT(attn_kinds=('iwsa', 'swin'))
    with pytest.raises(ValueError, match='interaction must be one of'):
        ScalableViT(interaction='some')
    with pytest.raises(ValueError, match='must divide embed_dims'):
        ScalableAttention(16, 3, 2, 1)


def test_released_checkpoint_loads(small, tmp_path, capsys):
    """A file as the authors' trainer writes it loads through init_cfg, head left out."""
    import argparse

    model, _ = small
    state = released_state(model)
    path = tmp_path / 'checkpoint_best.pth'
    torch.save(dict(model=state, epoch=299, args=argparse.Namespace(lr=1e-3)), path)
    again = ScalableViT('small', init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    again.init_weights()
    assert torch.equal(again.norm3.weight, state['norm.weight'])
    assert torch.equal(again.stages[1].peg.weight, state['pos_block.1.proj.0.weight'])
    assert torch.equal(again.stages[0].downsample.proj.weight, state['patch_embeds.1.proj.weight'])
    with pytest.raises(CheckpointError, match='does not fit'):
        ScalableViT('base', init_cfg=dict(type='Pretrained', checkpoint=str(path))).init_weights()
