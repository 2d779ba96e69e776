"""RoIAlign, RoI pooling and deformable RoI pooling against their definitions and mmcv."""

import copy
import pickle
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gcvit_mm.ops import roi_align as module
from gcvit_mm.ops import roi_align_samples, roi_align_table
from gcvit_mm.ops.roi_align_samples import Geometry
from support import ops_reference as reference

# (image, x1, y1, x2, y2) on maps of 6 x 9 at a quarter of the image: 24 x 36 pixels
BOXES = {
    'ordinary': [(0, 3, 2, 30, 20), (1, 10, 5, 14, 23), (0, 1.3, 1.7, 5.2, 9.9)],
    'one': [(1, 3, 2, 30, 20)],
    'none': [],
    'out of order': [(1, 0, 0, 12, 12), (0, 0, 0, 12, 12), (1, 4, 4, 20, 20), (0, 4, 4, 9, 9)],
    'the map': [(0, 0, 0, 36, 24)],
    'partly outside': [(0, -20, -30, 10, 9), (1, 30, 20, 60, 50)],
    'outside': [(0, -90, -80, -60, -50), (0, 70, 70, 99, 80), (0, 0, 60, 36, 90)],
    'empty': [(0, 5, 5, 5, 5), (0, 5, 5, 5, 20), (1, 3, 3, 9, 9)],
    'small': [(0, 5, 5, 5.01, 5.02), (1, 17.99, 11.99, 18, 12)],
    'larger than the map': [(0, -100, -100, 150, 130), (1, 10, -200, 20, 300)],
    'on pixels': [(0, 2, 2, 30, 30), (0, 4, 4, 32, 20)],
}


def boxes(name):
    """Boxes as a tensor (R, 5)."""
    return torch.tensor(BOXES[name], dtype=torch.float64).view(-1, 5)


def values_and_gradient(function, x):
    """A function's result, and the gradient of a sum of it with unequal weights."""
    x = x.detach().clone().requires_grad_()
    y = function(x)
    weights = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape)
    y.backward(weights.to(y.dtype))
    return y.detach(), x.grad


@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('name', BOXES)
def test_is_the_definition(ours, name, mode, aligned, ratio):
    """Values and gradients, exact in float64."""
    x, rois = torch.randn(2, 2, 6, 9, dtype=torch.float64), boxes(name)
    if mode == 'max' and name in ('empty', 'small') and aligned and not ratio:
        rois = rois[(rois[:, 3:] > rois[:, 1:3]).all(1)]
    args = (rois, (2, 3), 0.25, ratio, mode, aligned)
    y, grad = values_and_gradient(lambda x: ours.roi_align(x, *args), x)
    wanted, wanted_grad = values_and_gradient(
        lambda x: reference.roi_align(x, *args) + 0 * x.sum(), x
    )
    torch.testing.assert_close(y, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grad, wanted_grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_empty_boxes_are_zero(ours, mode):
    """Adaptive sampling takes no sample of a box without width or height, or of negative ones."""
    rois = torch.tensor([(0, 5, 5, 5, 20), (0, 5, 5, 20, 5), (0, 9, 9, 3, 3), (0, 9, 3, 5, 9.0)])
    x = torch.randn(1, 3, 6, 9) + 7
    y, grad = values_and_gradient(lambda x: ours.roi_align(x, rois, 2, 0.25, 0, mode, True), x)
    assert y.abs().sum() == 0 and grad.abs().sum() == 0


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf'), 1e30])
@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_no_box_makes_nan(ours, mode, value):
    """Coordinates that are no numbers, or huge, next to a good box."""
    rois = torch.tensor([[0, 3, 2, value, 20], [0, value, 2, 9, 9], [0, 3, 2, 30, 20.0]])
    x = torch.randn(1, 2, 6, 9)
    y, grad = values_and_gradient(lambda x: ours.roi_align(x, rois, (2, 3), 0.25, 0, mode, True), x)
    assert y.isfinite().all() and grad.isfinite().all()
    torch.testing.assert_close(y[2:], ours.roi_align(x, rois[2:], (2, 3), 0.25, 0, mode, True))


def test_huge_box_is_bounded(ours):
    """A bin of a million pixels averages the map as its definition does: nearly all is outside."""
    x = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    rois = torch.tensor([[0, -1e6, -1e6, 1e6, 1e6]], dtype=torch.float64)
    y = ours.roi_align(x, rois, 1, 1.0, 0, 'avg', True)
    # samples 1 apart at half coordinates, moved by the half of 'aligned': -1 .. 8 are on the map
    assert y.item() == pytest.approx(100 / 4e12, rel=1e-3)


@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_small_portions_change_nothing(ours, monkeypatch, mode):
    """Whatever is handled at once, the result is the same."""
    x = torch.randn(2, 3, 20, 30)
    start = torch.rand(50, 2) * 200
    rois = torch.cat([torch.arange(50)[:, None] % 2, start, start + torch.rand(50, 2) * 150], 1)
    args = (rois, (3, 4), 0.1, 0, mode, True)
    whole = values_and_gradient(lambda x: ours.roi_align(x, *args), x)
    monkeypatch.setattr(module, 'FORWARD_ENTRIES', 60)
    monkeypatch.setattr(module, 'BACKWARD_ENTRIES', 60)
    monkeypatch.setattr(roi_align_samples, 'SAMPLES', 60)
    parts = values_and_gradient(lambda x: ours.roi_align(x, *args), x)
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-5)


def test_memory_is_bounded():
    """No step of 200 boxes of all sizes on a map of 200 x 336 has more entries than allowed."""
    torch.manual_seed(0)
    start = torch.rand(200, 2) * torch.tensor([1344, 800])
    end = start + torch.rand(200, 2) * torch.tensor([1344, 800])
    rois = torch.cat([torch.zeros(200, 1), start, end], 1)
    geometry = Geometry((200, 336), (7, 7), 0.25, 0, True)
    sizes = [index.numel() for _, index, _ in module.bags(rois, geometry, module.FORWARD_ENTRIES)]
    assert max(sizes) <= module.FORWARD_ENTRIES
    # nor does the whole look at a pixel of a bin more often than once, borders aside
    pixels = ((rois[:, 3:] - rois[:, 1:3]) / 4 + 2 * 7).prod(1).sum()
    assert sum(sizes) <= pixels


@pytest.mark.parametrize('ratio', [0, 1, 3])
@pytest.mark.parametrize('aligned', [True, False])
def test_few_boxes_touch_few_pixels(ours, monkeypatch, aligned, ratio):
    """Where a table of some pixels is used, it has all that are asked for."""
    start = torch.rand(40, 2) * 900 - 50
    rois = torch.cat([torch.arange(40)[:, None] % 3, start, start + torch.rand(40, 2) * 20], 1)
    rois[-1, 1:] = float('nan')
    rois[-2, 3:] = rois[-2, 1:3] - 5
    x = torch.randn(3, 2, 90, 80)
    geometry = Geometry((90, 80), (2, 3), 0.1, ratio, aligned)
    rows = roi_align_table.touched(x, rois, geometry)
    assert 0 < len(rows) < x[:, 0].numel() / 4
    torch.testing.assert_close(roi_align_table.to_table(x, rows), roi_align_table.to_table(x)[rows])
    args = (rois, (2, 3), 0.1, ratio, 'avg', aligned)
    some = values_and_gradient(lambda x: ours.roi_align(x, *args), x)
    monkeypatch.setattr(module, 'touched', lambda *args: None)
    whole = values_and_gradient(lambda x: ours.roi_align(x, *args), x)
    torch.testing.assert_close(some, whole, rtol=1e-5, atol=1e-6)
    assert whole[0].abs().sum() > 0


@pytest.mark.parametrize('layout', ['channels last', 'a slice', 'transposed', 'expanded'])
def test_every_memory_format(ours, layout):
    """The map's strides do not matter."""
    x = torch.randn(2, 4, 6, 9)
    views = {
        'channels last': lambda: x.contiguous(memory_format=torch.channels_last),
        'a slice': lambda: torch.randn(2, 8, 6, 9)[:, ::2],
        'transposed': lambda: torch.randn(2, 4, 9, 6).transpose(2, 3),
        'expanded': lambda: torch.randn(1, 4, 6, 9).expand(2, -1, -1, -1),
    }
    x = views[layout]()
    args = (boxes('ordinary').float(), (2, 3), 0.25, 0, 'avg', True)
    torch.testing.assert_close(ours.roi_align(x, *args), ours.roi_align(x.contiguous(), *args))
    strided = values_and_gradient(lambda x: ours.roi_align(x, *args), x)
    plain = values_and_gradient(lambda x: ours.roi_align(x, *args), x.contiguous())
    torch.testing.assert_close(strided[1], plain[1])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_16_bit(ours, mode, dtype):
    """Sums are in float32: only the input and the result are rounded; boxes may be float32."""
    x = torch.randn(2, 4, 6, 9).to(dtype)
    args = (boxes('ordinary').float(), (2, 3), 0.25, 0, mode, True)
    y, grad = values_and_gradient(lambda x: ours.roi_align(x, *args), x)
    wanted, wanted_grad = values_and_gradient(lambda x: ours.roi_align(x, *args), x.float())
    assert y.dtype == grad.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y.float(), wanted, rtol=eps, atol=1e-6)
    torch.testing.assert_close(grad.float(), wanted_grad, rtol=4 * eps, atol=4 * eps)


def test_under_autocast(ours):
    """A bfloat16 map and float32 boxes, as between a backbone and a head."""
    x = torch.randn(2, 4, 6, 9, requires_grad=True)
    conv = torch.nn.Conv2d(4, 4, 1)
    with torch.autocast('cpu', torch.bfloat16):
        y = ours.roi_align(conv(x), boxes('ordinary').float(), 2, 0.25, 0, 'avg', True)
        y.float().sum().backward()
    assert y.dtype == torch.bfloat16 and x.grad.dtype == torch.float32
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0


def test_no_channels_and_no_pixels(ours):
    """Nothing in, nothing out."""
    rois = boxes('ordinary').float()
    for shape in ((2, 0, 6, 9), (2, 3, 0, 9)):
        x = torch.zeros(shape, requires_grad=True)
        y = ours.roi_align(x, rois, (2, 3), 0.25, 0, 'avg', True)
        y.sum().backward()
        assert y.shape == (3, shape[1], 2, 3) and y.sum() == 0 and x.grad.shape == shape


def test_images_that_are_not_there(ours):
    """A line, and no read of foreign memory."""
    x = torch.randn(2, 4, 6, 9)
    for index in (2, -1):
        with pytest.raises(ValueError, match=f'images {index} to {index}, the batch has 2'):
            ours.roi_align(x, torch.tensor([[index, 1, 1, 9, 9.0]]), 2, 0.25, 0, 'avg', True)


def test_module(ours):
    """RoIAlign as a layer: copied, pickled, in inference mode; no second gradient, as in mmcv."""
    layer = ours.RoIAlign(2, 0.25)
    layer = pickle.loads(pickle.dumps(copy.deepcopy(layer)))
    x, rois = torch.randn(2, 4, 6, 9, requires_grad=True), boxes('ordinary').float()
    with torch.inference_mode():
        inferred = layer(x, rois)
    y = layer(x, rois)
    torch.testing.assert_close(inferred, y.detach())
    (grad,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


coordinate = st.floats(-60, 60, width=32)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), *[coordinate] * 4), min_size=1, max_size=3),
    st.sampled_from(['avg', 'max']),
    st.booleans(),
    st.sampled_from([0, 1, 3]),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_any_box(rows, mode, aligned, ratio, bins):
    """Against the definition, in float64; boxes of a positive size."""
    rois = torch.tensor(rows, dtype=torch.float64)
    low, high = torch.minimum(rois[:, 1:3], rois[:, 3:]), torch.maximum(rois[:, 1:3], rois[:, 3:])
    rois = torch.cat([rois[:, :1], low, high + 0.125], 1)
    x = torch.linspace(-2, 3, 2 * 5 * 7, dtype=torch.float64).sin().view(2, 1, 5, 7)
    output = x.new_zeros(len(rois), 1, *bins)
    empty = [torch.zeros_like(output) for _ in range(2)]
    module.roi_align_forward(x, rois, output, *empty, *bins, 0.25, ratio, mode == 'avg', aligned)
    wanted = reference.roi_align(x, rois, bins, 0.25, ratio, mode, aligned)
    torch.testing.assert_close(output, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_is_mmcvs(both, dtype, mode, aligned, ratio):
    """The compiled operator on a contiguous map."""
    x = torch.randn(2, 8, 25, 30, dtype=dtype)
    start = torch.rand(60, 2) * 90 - 10
    rois = torch.cat([torch.arange(60)[:, None] % 2, start, start + torch.rand(60, 2) * 80], 1)
    args = (rois.to(dtype), (7, 7), 0.25, ratio, mode, aligned)
    from mmcv.ops import roi_align

    theirs, mine = both(lambda: values_and_gradient(lambda x: roi_align(x, *args), x))
    bound = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(mine, theirs, rtol=bound, atol=bound)


def test_compiled_one_is_given_contiguous_maps(both):
    """mmcv's own kernel ignores strides: what is asked of it goes through a contiguous copy."""
    from mmcv.ops import roi_align

    x = torch.randn(2, 8, 25, 30).contiguous(memory_format=torch.channels_last)
    args = (boxes('ordinary').float(), 7, 0.25, 0, 'avg', True)
    theirs, mine = both(lambda: roi_align(x, *args))
    torch.testing.assert_close(theirs, mine, rtol=1e-5, atol=1e-5)
    raw = sys.modules['mmcv._ext']._compiled
    output, empty = torch.zeros_like(theirs), torch.zeros(0)
    raw.roi_align_forward(x, args[0], output, empty, empty, 7, 7, 0.25, 0, 1, True)
    if torch.allclose(output, theirs, atol=1e-3):
        pytest.fail('mmcv reads strides now: the copy can go')


@pytest.mark.parametrize('name', BOXES)
def test_roi_pool_is_the_definition(ours, name):
    """Values and gradients of RoI max pooling."""
    x, rois = torch.randn(2, 3, 6, 9, dtype=torch.float64), boxes(name)
    y, grad = values_and_gradient(lambda x: ours.roi_pool(x, rois, (2, 3), 0.25), x)
    wanted, wanted_grad = values_and_gradient(
        lambda x: reference.roi_pool(x, rois, (2, 3), 0.25) + 0 * x.sum(), x
    )
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(grad, wanted_grad)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_roi_pool_16_bit(ours, dtype):
    """Nothing is rounded."""
    x, rois = torch.randn(2, 3, 6, 9).to(dtype), boxes('ordinary').float()
    y = ours.roi_pool(x, rois, (2, 3), 0.25)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), ours.roi_pool(x.float(), rois, (2, 3), 0.25))


@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('moved', [True, False])
def test_deform_roi_pool_is_the_definition(ours, moved, ratio):
    """Values, and gradients of maps and offsets."""
    x = torch.randn(2, 2, 6, 9, dtype=torch.float64, requires_grad=True)
    rois = torch.cat([boxes('ordinary'), boxes('partly outside'), boxes('empty')[2:]])
    offset = (
        torch.randn(len(rois), 2, 2, 3, dtype=torch.float64).requires_grad_() if moved else None
    )
    leaves = [x, offset] if moved else [x]
    y = ours.deform_roi_pool(x, rois, offset, (2, 3), 0.25, ratio, 0.1)
    wanted = reference.deform_roi_pool(x, rois, offset, (2, 3), 0.25, ratio, 0.1)
    torch.testing.assert_close(y, wanted)
    weights = torch.randn_like(y)
    grads = [torch.autograd.grad(z, leaves, weights) for z in (y, wanted)]
    torch.testing.assert_close(*grads)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_gpu_is_cpu(ours, mode, dtype):
    """The same numbers on both."""
    x, rois = torch.randn(2, 8, 25, 30).to(dtype), boxes('ordinary').float()
    results = []
    for device in ('cpu', 'cuda'):
        leaf = x.to(device).requires_grad_()
        y = ours.roi_align(leaf, rois.to(device), 7, 0.25, 0, mode, True)
        weights = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape)
        y.backward(weights.to(leaf))
        results.append((y.detach().cpu(), leaf.grad.cpu()))
    bound = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(results[1], results[0], rtol=bound, atol=bound)
