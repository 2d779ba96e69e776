"""Attention, its relative position bias, and attention inside windows."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from gcvit_mm.layers import (
    RelativePositionBias,
    WindowAttention,
    relative_position_index,
    resize_bias_table,
)
from gcvit_mm.layers.attention import attention, attention_in_parts

TABLE = 'relative_position_bias_table'


# ---------------------------------------------------------------------- references
def plain_attention(q, k, v, bias=None, scale=None):
    """Attention as the textbook has it."""
    logits = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(-1) @ v


def bias_by_loop(table, size):
    """Bias (heads, N, N), one pair of tokens after the other."""
    h, w = size
    tokens = [(y, x) for y in range(h) for x in range(w)]
    rows = [
        [(yq - yk + h - 1) * (2 * w - 1) + (xq - xk + w - 1) for yk, xk in tokens]
        for yq, xq in tokens
    ]
    return table[torch.tensor(rows)].permute(2, 0, 1)


def window_attention_by_loop(layer, x, query=None):
    """What WindowAttention should do: image by image, window by window, head by head."""
    (h, w), heads, d = layer.window_size, layer.num_heads, layer.head_dims
    batch, height, width, c = x.shape
    rows, cols = math.ceil(height / h), math.ceil(width / w)
    padded = x.new_zeros(batch, rows * h, cols * w, c)
    padded[:, :height, :width] = x
    attended = x.new_zeros(padded.shape)
    bias = None
    if layer.rel_pos is not None:
        bias = bias_by_loop(layer.rel_pos.relative_position_bias_table, (h, w))
    for b in range(batch):
        for r in range(rows):
            for col in range(cols):
                if layer.dilated:
                    spots = [(r + i * rows, col + j * cols) for i in range(h) for j in range(w)]
                else:
                    spots = [(r * h + i, col * w + j) for i in range(h) for j in range(w)]
                ys, xs = (list(axis) for axis in zip(*spots))
                projected = layer.qkv(padded[b, ys, xs])
                real = torch.ones(len(spots), dtype=torch.bool)
                if layer.mask_padding:
                    real = torch.tensor([i < height and j < width for i, j in spots])
                outs = []
                for head in range(heads):
                    part = slice(head * d, (head + 1) * d)
                    parts = [p[:, part] for p in projected.split(c, -1)]
                    if query is not None:
                        parts.insert(0, query[b, head])
                    q, k, v = parts
                    own = None if bias is None else bias[head][:, real]
                    outs.append(plain_attention(q, k[real], v[real], own))
                attended[b, ys, xs] = torch.cat(outs, -1)
    return layer.proj(attended[:, :height, :width])


def spread(module):
    """Let no weight be too small to matter."""
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(std=0.5)
    return module


# ---------------------------------------------------------------------- attention
BIASES = {
    'none': None,
    'shared': (1, 2, 49, 49),
    'per window': (3, 2, 49, 49),
    'mask': (3, 1, 49, 49),
    'keys only': (1, 1, 1, 49),
}


@pytest.mark.parametrize('dtype, atol', [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize('scale', [None, 0.5])
@pytest.mark.parametrize('kind', BIASES)
def test_equals_plain_softmax_attention(kind, scale, dtype, atol):
    """Output and the gradients of queries, keys, values and bias are those of the formula."""
    shape = BIASES[kind]
    inputs = [torch.randn(3, 2, 49, 8, dtype=dtype, requires_grad=True) for _ in range(3)]
    if shape:
        inputs.append(torch.randn(shape, dtype=dtype, requires_grad=True))
    weight = torch.randn(3, 2, 49, 8, dtype=dtype)
    got = attention(*inputs, scale=scale)
    want = plain_attention(*inputs, scale=scale)
    torch.testing.assert_close(got, want, atol=atol, rtol=0)
    got = torch.autograd.grad((got * weight).sum(), inputs)
    want = torch.autograd.grad((want * weight).sum(), inputs)
    for ours, theirs in zip(got, want):
        torch.testing.assert_close(ours, theirs, atol=20 * atol, rtol=0)
        assert ours.abs().sum() > 0


def test_equals_plain_attention_without_gradients():
    """Evaluation takes other kernels than training; they agree."""
    q, k, v = (torch.randn(4, 2, 49, 32) for _ in range(3))
    bias = RelativePositionBias((7, 7), 2).eval()
    with torch.no_grad():
        spread(bias)
        got = attention(q, k, v, bias(torch.float32))
        want = plain_attention(q, k, v, bias_by_loop(bias.relative_position_bias_table, (7, 7)))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_more_keys_than_queries():
    """Queries and keys may differ in number."""
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 9, 8), torch.randn(2, 3, 9, 8)
    bias = torch.randn(1, 3, 5, 9)
    torch.testing.assert_close(attention(q, k, v, bias), plain_attention(q, k, v, bias))


def test_bias_is_cast_to_the_queries():
    """A float32 bias goes with bfloat16 queries, as under autocast."""
    q, k, v = (torch.randn(2, 2, 16, 8) for _ in range(3))
    bias = torch.randn(1, 2, 16, 16)
    out = attention(*(t.bfloat16() for t in (q, k, v)), bias)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), plain_attention(q, k, v, bias), atol=0.05, rtol=0.05)


def test_dropout_of_attention_weights():
    """All weights dropped leave nothing; none dropped is the default."""
    q, k, v = (torch.randn(1, 1, 4, 4) for _ in range(3))
    bias = torch.randn(1, 1, 4, 4)
    assert attention(q, k, v, bias, dropout=1.0).abs().sum() == 0
    assert torch.equal(attention(q, k, v, bias), attention(q, k, v, bias))


# ---------------------------------------------------------------------- index
def test_index_of_a_7x7_window():
    """Rows of the table as the released weights have them."""
    index = relative_position_index((7, 7))
    assert index.shape == (49, 49) and index.dtype == torch.int64
    spots = {(0, 0): 84, (0, 1): 83, (1, 0): 85, (0, 7): 71, (7, 0): 97, (0, 48): 0, (48, 0): 168}
    assert {spot: index[spot].item() for spot in spots} == spots


@pytest.mark.parametrize('size', [(1, 1), (2, 2), (3, 5), (5, 3), (1, 4), (4, 1)])
def test_index_of_any_window(size):
    """One row for every offset, counted out pair by pair; all rows are in use."""
    h, w = size
    index = relative_position_index(size)
    for query in range(h * w):
        for key in range(h * w):
            dy, dx = query // w - key // w, query % w - key % w
            assert index[query, key] == (dy + h - 1) * (2 * w - 1) + dx + w - 1
    assert set(index.flatten().tolist()) == set(range((2 * h - 1) * (2 * w - 1)))


# ---------------------------------------------------------------------- bias
@pytest.mark.parametrize('size', [(7, 7), (3, 5), (14, 14), (4, 4), (1, 1)])
def test_bias_values(size):
    """Column h of the table is the bias of head h."""
    bias = RelativePositionBias(size, 3)
    rows = (2 * size[0] - 1) * (2 * size[1] - 1)
    assert bias.relative_position_bias_table.shape == (rows, 3)
    got = bias(torch.float32)[0]
    want = bias.relative_position_bias_table.t()[:, relative_position_index(size)]
    assert torch.equal(got, want)


def test_bias_values_by_loop():
    """The same without the package's own index."""
    bias = RelativePositionBias((3, 4), 2)
    want = bias_by_loop(bias.relative_position_bias_table, (3, 4))
    assert torch.equal(bias(torch.float32)[0], want)


@pytest.mark.parametrize(
    'size, row', [((7, 7), 56), ((14, 14), 200), ((12, 12), 144), ((3, 5), 16)]
)
def test_bias_rows_are_aligned(size, row):
    """Rows lie at multiples of 8 elements, as fused CUDA attention wants them."""
    n = size[0] * size[1]
    for mode in (True, False):
        bias = RelativePositionBias(size, 2).train(mode)(torch.bfloat16)
        assert bias.shape == (1, 2, n, n)
        assert bias.stride()[1:] == (n * row, row, 1)


def test_table_starts_small():
    """Truncated normal with standard deviation 0.02."""
    table = RelativePositionBias((14, 14), 8).relative_position_bias_table
    assert 0.019 < table.std().item() < 0.021
    assert abs(table.mean().item()) < 0.002


def test_only_the_table_is_saved():
    """The index is made from the window, never stored."""
    assert list(RelativePositionBias((7, 7), 2).state_dict()) == [TABLE]


# ---------------------------------------------------------------- in evaluation
@torch.no_grad()
def kept(bias, dtype=torch.float32):
    """The bias as evaluation sees it."""
    return bias(dtype)


def test_another_dtype_is_gathered_again():
    """A model evaluated with and without autocast gets each time what it asks for."""
    bias = RelativePositionBias((3, 3), 2).eval()
    full, half = kept(bias), kept(bias, torch.bfloat16)
    assert full.dtype == torch.float32 and half.dtype == torch.bfloat16
    torch.testing.assert_close(half, full.bfloat16())
    assert torch.equal(kept(bias), full)


def test_kept_bias_never_holds_a_graph():
    """Gradients reach the table after an evaluation, and evaluation sees no graph after them."""
    bias = RelativePositionBias((3, 3), 2).eval()
    assert not kept(bias).requires_grad
    with_graph = bias(torch.float32)
    assert with_graph.requires_grad
    with_graph.sum().backward()
    assert bias.relative_position_bias_table.grad.abs().sum() > 0
    assert not kept(bias).requires_grad


def test_loaded_table_is_used():
    """After a load the next evaluation sees the new table."""
    bias, other = (spread(RelativePositionBias((3, 3), 2)).eval() for _ in range(2))
    before = kept(bias)
    bias.load_state_dict(other.state_dict())
    assert torch.equal(kept(bias), kept(other))
    assert not torch.equal(kept(bias), before)


def change_by_optimizer(bias):
    """A step of training."""
    optimizer = torch.optim.SGD(bias.parameters(), lr=1.0)
    bias(torch.float32).sum().backward()
    optimizer.step()


def change_in_place(bias):
    """What averaging of weights does."""
    with torch.no_grad():
        bias.relative_position_bias_table.mul_(3)


def change_data(bias):
    """What swapping weights for averaged ones does."""
    bias.relative_position_bias_table.data = bias.relative_position_bias_table.data * 3


CHANGES = [change_by_optimizer, change_in_place, change_data]


@pytest.mark.parametrize('change', CHANGES)
def test_changed_table_is_used_after_training(change):
    """Evaluate, train, evaluate: the second evaluation sees the trained table."""
    bias = RelativePositionBias((3, 3), 2).eval()
    before = kept(bias).clone()
    change(bias.train())
    after = kept(bias.eval())
    assert torch.equal(after[0], bias_by_loop(bias.relative_position_bias_table, (3, 3)))
    assert not torch.equal(after, before)


@pytest.mark.parametrize('change', CHANGES)
def test_changed_table_is_used_in_eval_mode(change):
    """A table that changes while the model stays in eval mode is not overlooked either."""
    bias = RelativePositionBias((3, 3), 2).eval()
    before = kept(bias).clone()
    change(bias)
    after = kept(bias)
    assert torch.equal(after[0], bias_by_loop(bias.relative_position_bias_table, (3, 3)))
    assert not torch.equal(after, before)


def test_copy_has_its_own_bias():
    """A copied model (weight averaging) does not look at the original's table."""
    bias = RelativePositionBias((3, 3), 2).eval()
    before = kept(bias)
    other = copy.deepcopy(bias).train()
    change_in_place(other)
    assert torch.equal(kept(other.eval()), 3 * before)
    assert torch.equal(kept(bias), before)


# ---------------------------------------------------------------------- resizing
@pytest.mark.parametrize('old, new', [(7, (16, 16)), (24, (7, 7)), (7, (12, 20)), (7, (1, 1))])
def test_resize_is_bicubic_per_head(old, new):
    """Each head's column is read as an image, row-major, and resized on its own."""
    table = torch.randn((2 * old - 1) ** 2, 3)
    got = resize_bias_table(table, new, 3)
    assert got.shape == ((2 * new[0] - 1) * (2 * new[1] - 1), 3) and got.is_contiguous()
    for head in range(3):
        image = table[:, head].reshape(1, 1, 2 * old - 1, 2 * old - 1)
        size = (2 * new[0] - 1, 2 * new[1] - 1)
        want = F.interpolate(image, size, mode='bicubic', align_corners=False, antialias=False)
        torch.testing.assert_close(got[:, head], want.flatten(), atol=1e-6, rtol=0)


def test_resize_keeps_the_centre_and_the_symmetry():
    """Offset (0, 0) stays in the middle; a table that mirrors keeps doing so."""
    table = torch.randn(13, 13, 2)
    table = (table + table.flip(0) + table.flip(1) + table.flip(0, 1)).reshape(169, 2)
    image = resize_bias_table(table, (16, 16), 2).view(31, 31, 2)
    torch.testing.assert_close(image, image.flip(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(image, image.flip(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(image[15, 15], table[84], atol=1e-5, rtol=0)


def test_resize_to_the_same_size_changes_nothing():
    """The identity is no interpolation of its neighbours."""
    table = torch.randn(169, 2)
    torch.testing.assert_close(resize_bias_table(table, (7, 7), 2), table, atol=1e-6, rtol=0)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_resize_computes_in_float32(dtype):
    """The type of the file stays, the arithmetic does not depend on it."""
    table = torch.randn(169, 2).to(dtype)
    got = resize_bias_table(table, (16, 16), 2)
    assert got.dtype == dtype
    assert torch.equal(got, resize_bias_table(table.float(), (16, 16), 2).to(dtype))


@pytest.mark.parametrize('shape', [(168, 2), (16, 2), (27, 2), (169,), (13, 13, 2)])
def test_resize_refuses_what_is_no_square_table(shape):
    """The error shows the shape."""
    with pytest.raises(ValueError, match=r'belongs to no square window'):
        resize_bias_table(torch.zeros(shape), (7, 7), 2)


def test_resize_refuses_other_heads():
    """The error names both numbers."""
    with pytest.raises(ValueError, match='the table has 4 heads, the model 2'):
        resize_bias_table(torch.zeros(169, 4), (16, 16), 2)


@pytest.mark.parametrize('size', [(16, 16), (5, 9)])
def test_strict_load_resizes(size):
    """A table for windows of 7 fits other windows; the caller's state dict stays as it was."""
    source = RelativePositionBias((7, 7), 2)
    state = {TABLE: source.relative_position_bias_table.detach().clone()}
    target = RelativePositionBias(size, 2)
    target.load_state_dict(state, strict=True)
    loaded = target.relative_position_bias_table
    assert torch.equal(loaded, resize_bias_table(state[TABLE], size, 2))
    assert loaded.is_contiguous() and loaded.requires_grad
    assert state[TABLE].shape == (169, 2)


@pytest.mark.parametrize('size', [(7, 7), (5, 9), (9, 5)])
def test_equal_tables_are_loaded_bit_by_bit(size):
    """Nothing is interpolated where the shapes agree, rectangular or not."""
    source, target = RelativePositionBias(size, 2), RelativePositionBias(size, 2)
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.relative_position_bias_table, source.relative_position_bias_table)


@pytest.mark.parametrize('shape', [(169, 3), (168, 2), (45, 2)])
def test_unfit_table_is_reported_by_the_load(shape):
    """Other heads, or a table of no square window: torch's own error, shapes included."""
    target = RelativePositionBias((5, 5), 2)
    with pytest.raises(RuntimeError, match=rf'size mismatch.*\[{shape[0]}, {shape[1]}\]'):
        target.load_state_dict({TABLE: torch.zeros(shape)}, strict=False)


# ---------------------------------------------------------------------- inside windows
# map, window, further arguments
WINDOWS = {
    'fits': ((6, 9), (3, 3), {}),
    'padded': ((7, 8), (3, 3), {}),
    'smaller than the window': ((2, 3), (4, 4), {}),
    'rectangular': ((7, 9), (2, 4), {}),
    'vertical stripes': ((5, 6), (5, 2), {}),
    'horizontal stripes': ((5, 6), (2, 6), {}),
    'dilated': ((6, 8), (3, 2), dict(dilated=True)),
    'dilated, padded': ((5, 7), (3, 3), dict(dilated=True)),
    'no position bias': ((7, 8), (3, 3), dict(rel_pos_bias=False)),
    'no projection bias': ((7, 8), (3, 3), dict(qkv_bias=False)),
    'masked': ((7, 8), (3, 3), dict(mask_padding=True)),
    'masked, smaller': ((2, 3), (4, 4), dict(mask_padding=True)),
    'masked, rectangular': ((7, 9), (2, 4), dict(mask_padding=True)),
    'masked, dilated': ((5, 7), (3, 3), dict(mask_padding=True, dilated=True)),
    'masked, no position bias': ((7, 8), (3, 3), dict(mask_padding=True, rel_pos_bias=False)),
}


@pytest.mark.parametrize('own_query', [True, False], ids=['own query', 'given query'])
@pytest.mark.parametrize('kind', WINDOWS)
def test_equals_a_loop_over_windows(kind, own_query):
    """Output and all gradients are those of attention computed window by window."""
    (height, width), size, kwargs = WINDOWS[kind]
    layer = spread(WindowAttention(8, 2, size, own_query=own_query, **kwargs)).double()
    x = torch.randn(2, height, width, 8, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    query = None
    if not own_query:
        query = torch.randn(2, 2, size[0] * size[1], 4, dtype=torch.float64, requires_grad=True)
        inputs.append(query)
    got, want = layer(x, query), window_attention_by_loop(layer, x, query)
    assert got.shape == x.shape
    torch.testing.assert_close(got, want, atol=1e-10, rtol=0)
    weight = torch.randn_like(got)
    got = torch.autograd.grad((got * weight).sum(), inputs)
    want = torch.autograd.grad((want * weight).sum(), inputs)
    for ours, theirs in zip(got, want):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


@torch.no_grad()
def test_padding_is_seen_unless_hidden():
    """Padded tokens matter at the border alone; hidden, or where none exist, they do not."""
    plain = spread(WindowAttention(8, 2, (3, 3)))
    hidden = WindowAttention(8, 2, (3, 3), mask_padding=True)
    hidden.load_state_dict(plain.state_dict())
    x = torch.randn(2, 7, 8, 8)
    gap = (plain(x) - hidden(x)).abs().amax((0, 3))
    assert gap[:6, :6].max() < 1e-5
    assert gap[6:].min() > 1e-3 and gap[:, 6:].min() > 1e-3
    x = torch.randn(2, 6, 9, 8)
    torch.testing.assert_close(plain(x), hidden(x), atol=1e-5, rtol=0)


@torch.no_grad()
def test_hidden_padding_equals_attention_over_a_small_map():
    """A masked window that holds a whole small map is attention over that map alone."""
    layer = spread(WindowAttention(8, 2, (4, 4), rel_pos_bias=False, mask_padding=True))
    x = torch.randn(3, 2, 3, 8)
    small = WindowAttention(8, 2, (2, 3), rel_pos_bias=False)
    small.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), small(x), atol=1e-5, rtol=0)


@torch.no_grad()
def test_each_image_is_attended_with_its_own_query():
    """A batch is its images one by one; an image does not see the query of another."""
    layer = spread(WindowAttention(8, 2, (3, 3), own_query=False))
    x, query = torch.randn(3, 7, 8, 8), torch.randn(3, 2, 9, 4)
    out = layer(x, query)
    singles = torch.cat([layer(x[i : i + 1], query[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(out, singles, atol=1e-5, rtol=0)
    query[1] = torch.randn(2, 9, 4)
    changed = layer(x, query)
    torch.testing.assert_close(changed[[0, 2]], out[[0, 2]], atol=1e-5, rtol=0)
    assert (changed[1] - out[1]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize('own_query', [True, False])
@torch.no_grad()
def test_convolution_of_the_values(own_query):
    """It runs over the whole map, window borders and padding apart, and is added to the heads."""
    layer = spread(WindowAttention(8, 2, (3, 3), own_query=own_query, v_kernel=3))
    plain = WindowAttention(8, 2, (3, 3), own_query=own_query)
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if 'v_conv' not in k})
    x = torch.randn(2, 7, 8, 8)
    query = None if own_query else torch.randn(2, 2, 9, 4)
    values = layer.qkv(x)[..., -8:]
    local = layer.v_conv(values.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    want = plain(x, query) + F.linear(local, layer.proj.weight)
    torch.testing.assert_close(layer(x, query), want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_kept_bias_gives_the_same_output():
    """The second image in eval mode, with the bias kept, is treated like the first."""
    layer = spread(WindowAttention(8, 2, (3, 3))).eval()
    x = torch.randn(1, 7, 8, 8)
    assert torch.equal(layer(x), layer(x))
    torch.testing.assert_close(layer(x), layer.train()(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize('name', ['attn_drop_rate', 'proj_drop_rate'])
def test_dropout_acts_in_training_only(name):
    """Evaluation is deterministic and equals a layer without dropout."""
    layer = spread(WindowAttention(8, 2, (3, 3), **{name: 0.5}))
    without = WindowAttention(8, 2, (3, 3))
    without.load_state_dict(layer.state_dict())
    x = torch.randn(1, 6, 6, 8)
    assert not torch.allclose(layer(x), layer(x))
    torch.testing.assert_close(layer.eval()(x), without.eval()(x))


def test_projections_without_a_use_do_not_exist():
    """A layer with a given query projects keys and values only."""
    assert WindowAttention(8, 2, (3, 3)).qkv.weight.shape == (24, 8)
    assert WindowAttention(8, 2, (3, 3), own_query=False).qkv.weight.shape == (16, 8)
    assert WindowAttention(8, 2, (3, 3), rel_pos_bias=False).rel_pos is None


def test_heads_must_divide_channels():
    """The error names both."""
    with pytest.raises(ValueError, match=r'embed_dims \(10\).*num_heads \(4\)'):
        WindowAttention(10, 4, (3, 3))


@pytest.mark.parametrize('own_query', [True, False])
def test_query_is_given_exactly_where_needed(own_query):
    """A query too many or too few is an error."""
    layer = WindowAttention(8, 2, (3, 3), own_query=own_query)
    query = torch.randn(1, 2, 9, 4) if own_query else None
    with pytest.raises(ValueError, match='query must be given if and only if'):
        layer(torch.randn(1, 6, 6, 8), query)


def test_bfloat16_gradients_are_finite():
    """Mixed precision with hidden padding trains without NaN."""
    layer = spread(WindowAttention(8, 2, (3, 3), mask_padding=True))
    x = (30 * torch.randn(2, 7, 8, 8)).requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        out = layer(x)
    out.float().square().mean().backward()
    assert out.dtype == torch.bfloat16 and out.isfinite().all()
    for p in (x, *layer.parameters()):
        assert p.grad.isfinite().all()


@pytest.mark.parametrize('kind', ['none', 'shared', 'own'])
def test_large_batches_go_in_parts(kind):
    """What CUDA's grids cannot hold is cut along the batch; gradients are those of the whole."""
    q, k, v = (torch.randn(7, 2, 9, 8, requires_grad=True) for _ in range(3))
    rows = {'none': None, 'shared': 1, 'own': 7}[kind]
    bias = None if rows is None else torch.randn(rows, 2, 9, 9, requires_grad=True)
    leaves = [q, k, v] if bias is None else [q, k, v, bias]
    whole = attention(q, k, v, bias)
    parts = attention_in_parts(q, k, v, bias, None, 0.0, 3)
    torch.testing.assert_close(parts, whole)
    for found, wanted in zip(
        torch.autograd.grad(parts.square().sum(), leaves),
        torch.autograd.grad(whole.square().sum(), leaves),
    ):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('side', [8, 24])
def test_windows_on_which_cudnn_failed(side):
    """Windows of 64 and 576 tokens (N % 128 == 64): finite gradients, equal to float64's."""
    n = side * side
    drawn = [torch.randn(2, 1, n, 32) for _ in range(3)] + [torch.randn(1, 1, n, n)]
    grads = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.to(dtype).requires_grad_() for t in drawn]
        grads.append(torch.autograd.grad(attention(*leaves).square().sum(), leaves))
    for found, wanted in zip(*grads):
        torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-3)


def test_cudnn_attention_is_left_out():
    """One switch for the process, made when the package is imported."""
    if not hasattr(torch.backends.cuda, 'cudnn_sdp_enabled'):
        pytest.skip('this torch has no attention of cuDNN')
    assert not torch.backends.cuda.cudnn_sdp_enabled()
