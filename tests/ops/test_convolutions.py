"""Deformable convolution, masked convolution, CARAFE and PSAMask against their definitions."""

import pytest
import torch
import torch.nn.functional as F

from support import ops_reference as reference


def gradients(y, leaves):
    """Of a sum of a result with unequal weights."""
    weights = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape)
    return torch.autograd.grad(y, leaves, weights.to(y.dtype))


# stride, padding, dilation, groups, deform_groups, kernel
STEPS = [
    (1, 1, 1, 1, 1, (3, 3)),
    (2, 1, 1, 1, 1, (3, 3)),
    (1, 2, 2, 2, 2, (3, 3)),
    (1, (0, 1), 1, 1, 2, (1, 3)),
    ((2, 1), 0, (1, 2), 2, 1, (2, 2)),
]


def pair(x):
    """A number for both axes, or two."""
    return (x, x) if isinstance(x, int) else x


def convolution(stride, padding, dilation, groups, deform_groups, kernel, dtype=torch.float64):
    """x (2, 4, 5, 6), offset, mask, weight and bias of a deformable convolution."""
    x = torch.randn(2, 4, 5, 6, dtype=dtype)
    size = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip((5, 6), pair(padding), pair(dilation), kernel, pair(stride))
    ]
    taps = deform_groups * kernel[0] * kernel[1]
    # far enough to leave the map at times
    offset = torch.randn(2, 2 * taps, *size, dtype=dtype) * 2
    mask = torch.rand(2, taps, *size, dtype=dtype)
    weight = torch.randn(4, 4 // groups, *kernel, dtype=dtype)
    bias = torch.randn(4, dtype=dtype)
    return [t.requires_grad_() for t in (x, offset, mask, weight, bias)]


@pytest.mark.parametrize('steps', STEPS)
def test_deform_conv_is_the_definition(ours, steps):
    """Values and all gradients, in float64."""
    x, offset, _, weight, _ = convolution(*steps)
    how = [*map(pair, steps[:3]), *steps[3:5]]
    y = ours.deform_conv2d(x, offset, weight, *steps[:5])
    wanted = reference.deform_conv(x, offset, None, weight, None, *how)
    torch.testing.assert_close(y, wanted)
    leaves = (x, offset, weight)
    torch.testing.assert_close(gradients(y, leaves), gradients(wanted, leaves))


@pytest.mark.parametrize('with_bias', [True, False])
@pytest.mark.parametrize('steps', STEPS)
def test_modulated_deform_conv_is_the_definition(ours, steps, with_bias):
    """Values and all gradients, in float64."""
    x, offset, mask, weight, bias = convolution(*steps)
    bias = bias if with_bias else None
    how = [*map(pair, steps[:3]), *steps[3:5]]
    y = ours.modulated_deform_conv2d(x, offset, mask, weight, bias, *steps[:5])
    wanted = reference.deform_conv(x, offset, mask, weight, bias, *how)
    torch.testing.assert_close(y, wanted)
    leaves = [t for t in (x, offset, mask, weight, bias) if t is not None]
    torch.testing.assert_close(gradients(y, leaves), gradients(wanted, leaves))


def test_deform_conv_without_offsets_is_a_convolution(ours):
    """Against torch's own; a batch that im2col_step does not divide is mmcv's error."""
    x, weight = torch.randn(3, 4, 7, 8), torch.randn(6, 4, 3, 3)
    offset = torch.zeros(3, 18, 7, 8)
    y = ours.deform_conv2d(x, offset, weight, 1, 1)
    torch.testing.assert_close(y, F.conv2d(x, weight, padding=1), rtol=1e-4, atol=1e-4)
    ours.deform_conv2d(x, offset, weight, 1, 1, 1, 1, 1, False, 1)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_deform_conv_16_bit(ours, dtype):
    """Sums are in float32."""
    leaves = [t.detach().to(dtype) for t in convolution(*STEPS[0])]
    y = ours.modulated_deform_conv2d(*leaves, 1, 1)
    wanted = ours.modulated_deform_conv2d(*(t.float() for t in leaves), 1, 1)
    assert y.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y.float(), wanted, rtol=eps, atol=eps)


def test_deform_conv_under_autocast(ours):
    """mmcv takes the type of the offsets; gradients come in the type of each leaf."""
    x = torch.randn(2, 4, 5, 6, requires_grad=True)
    layer = ours.ModulatedDeformConv2dPack(4, 4, 3, padding=1, deform_groups=2)
    with torch.autocast('cpu', torch.bfloat16):
        y = layer(x)
        y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert x.grad.dtype == torch.float32 and x.grad.isfinite().all()
    assert layer.weight.grad.dtype == torch.float32 and layer.weight.grad.abs().sum() > 0


def test_deform_conv_of_strided_maps(ours):
    """Channels-last maps and slices, and gradients that come as such."""
    x, offset, mask, weight, bias = (t.detach() for t in convolution(*STEPS[0]))
    wanted = ours.modulated_deform_conv2d(x, offset, mask, weight, bias, 1, 1)
    form = dict(memory_format=torch.channels_last)
    wide = torch.cat([offset, mask], 1).contiguous(**form)
    leaf = x.contiguous(**form).requires_grad_()
    y = ours.modulated_deform_conv2d(leaf, wide[:, :18], wide[:, 18:], weight, bias, 1, 1)
    torch.testing.assert_close(y, wanted)
    y.backward(torch.ones_like(y).contiguous(**form))
    plain = x.clone().requires_grad_()
    ours.modulated_deform_conv2d(plain, offset, mask, weight, bias, 1, 1).sum().backward()
    torch.testing.assert_close(leaf.grad, plain.grad)


def test_modulated_deform_conv_with_larger_offsets(ours, both):
    """DyHead gives offsets of a larger map; mmcv reads their first numbers, and so do we."""
    from mmcv.ops import modulated_deform_conv2d

    x, _, _, weight, bias = (t.detach() for t in convolution(*STEPS[0]))
    offset, mask = (
        torch.randn(2, 18, 10, 12, dtype=torch.float64),
        torch.rand(2, 9, 10, 12).double(),
    )

    def run():
        leaves = [t.clone().requires_grad_() for t in (x, offset, mask, weight, bias)]
        y = modulated_deform_conv2d(*leaves, 1, 1)
        return [y.detach(), *gradients(y, leaves)]

    theirs, mine = both(run)
    # mmcv lays its gradients out in the same way
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize('steps', STEPS)
def test_deform_convs_are_mmcvs(both, steps):
    """The compiled operators, values and gradients, in float32."""
    from mmcv.ops import deform_conv2d, modulated_deform_conv2d

    x, offset, mask, weight, bias = convolution(*steps, dtype=torch.float32)

    def run():
        y = deform_conv2d(x, offset, weight, *steps[:5])
        z = modulated_deform_conv2d(x, offset, mask, weight, bias, *steps[:5])
        first = gradients(y, (x, offset, weight))
        return [y, z, *first, *gradients(z, (x, offset, mask, weight, bias))]

    theirs, mine = both(run)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('kernel', [(3, 3), (1, 1), (3, 5)])
def test_masked_conv(ours, kernel):
    """A convolution where the mask is, zero elsewhere; without a gradient, as in mmcv."""
    layer = ours.MaskedConv2d(3, 5, kernel, padding=tuple(k // 2 for k in kernel))
    x, mask = torch.randn(1, 3, 6, 7), torch.rand(1, 6, 7) > 0.6
    y = layer(x, mask)
    torch.testing.assert_close(y, F.conv2d(x, layer.weight, layer.bias, 1, layer.padding) * mask)
    assert layer(x, mask & False).abs().sum() == 0
    half = layer.bfloat16()(x.bfloat16(), mask)
    torch.testing.assert_close(half.float(), y, rtol=0.05, atol=0.05)


@pytest.mark.parametrize('name', ['carafe', 'carafe_naive'])
@pytest.mark.parametrize('kernel, groups, scale', [(3, 1, 2), (5, 2, 2), (1, 1, 3), (3, 2, 1)])
def test_carafe_is_the_definition(ours, monkeypatch, name, kernel, groups, scale):
    """Values and gradients, in float64."""
    x = torch.randn(2, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    masks = torch.rand(2, groups * kernel**2, 3 * scale, 4 * scale, dtype=torch.float64)
    masks.requires_grad_()
    y = getattr(ours, name)(x, masks, kernel, groups, scale)
    wanted = reference.carafe(x, masks, kernel, groups, scale)
    torch.testing.assert_close(y, wanted)
    if name == 'carafe_naive':
        with pytest.raises((AssertionError, AttributeError)):  # mmcv asks for a GPU
            gradients(y, (x, masks))
        return
    torch.testing.assert_close(gradients(y, (x, masks)), gradients(wanted, (x, masks)))


def test_carafe_naive_gradient():
    """The gradient that mmcv calls on GPUs only."""
    from gcvit_mm.ops.carafe import carafe_naive_backward

    x = torch.randn(1, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    masks = torch.rand(1, 18, 6, 8, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(1, 4, 6, 8, dtype=torch.float64)
    wanted = torch.autograd.grad(reference.carafe(x, masks, 3, 2, 2), (x, masks), grad)
    found = [torch.zeros_like(x), torch.zeros_like(masks)]
    carafe_naive_backward(grad, x.detach(), masks.detach(), *found, 3, 2, 2)
    torch.testing.assert_close(tuple(found), wanted)


def test_carafe_under_autocast(ours):
    """mmcv's layer in bfloat16, from a channels-last map."""
    layer = ours.CARAFEPack(8, 2, compressed_channels=4)
    x = torch.randn(1, 8, 4, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    wanted = layer(x)
    with torch.autocast('cpu', torch.bfloat16):
        y = layer(x)
        y.float().sum().backward()
    torch.testing.assert_close(y.float(), wanted, rtol=0.05, atol=0.05)
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0


@pytest.mark.parametrize('size', [(3, 3), (7, 9), (5, 3), (1, 21)])
@pytest.mark.parametrize('kind', ['collect', 'distribute'])
def test_psa_mask(ours, kind, size):
    """Values and gradients; masks smaller and larger than the map."""
    x = torch.randn(2, size[0] * size[1], 4, 5, dtype=torch.float64, requires_grad=True)
    y, wanted = ours.PSAMask(kind, size)(x), reference.psa_mask(x, kind, size)
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(gradients(y, x), gradients(wanted, x))
    assert ours.PSAMask(kind, size)(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize('kind', ['collect', 'distribute'])
def test_psa_mask_is_mmcvs(both, kind):
    """The compiled operator."""
    from mmcv.ops import PSAMask

    x = torch.randn(2, 63, 4, 5, requires_grad=True)

    def run():
        y = PSAMask(kind, (7, 9))(x)
        return [y, *gradients(y, x)]

    theirs, mine = both(run)
    torch.testing.assert_close(mine, theirs)
