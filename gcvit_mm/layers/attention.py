"""Attention: one call, one relative position bias, one window attention for all families."""

from typing import Any, List, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..compat import keep_cudnn_attention_out
from .conv import convolve, depthwise_conv
from .recompute import RecomputedAttention
from .rel_pos import RelativePositionBias
from .tracing import is_compiling, known_equal
from .window import Size, crop, key_mask, merge, pad_to_windows, partition

# Windows of a batch are an axis of the grids of CUDA's kernels, which hold no more.
LARGEST_BATCH = 65535
# Once for the whole process: a switch around every call would cost more than it saves.
keep_cudnn_attention_out()


def _bias_learns(bias: Tensor) -> bool:
    learns = bias.requires_grad and torch.is_grad_enabled()
    return learns and not is_compiling() and not torch.jit.is_tracing()


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Optional[Tensor] = None,
    scale: Optional[float] = None,
    dropout: float = 0.0,
) -> Tensor:
    """Softmax attention, the one call through which every block of this package attends.

    It is ``softmax(q @ k^T * scale + bias) @ v`` on torch's fused
    ``scaled_dot_product_attention``; the softmax runs in float32 inside the fused kernels.

    Where queries and values differ in width, or theirs is no multiple of 8 on a GPU, they are
    filled up with zeros, which changes nothing but lets the fused kernels run.

    Args:
        q: Queries (B, heads, N, d).
        k: Keys (B, heads, M, d).
        v: Values (B, heads, M, e).
        bias: Added to the logits; broadcasts to (B, heads, N, M). Cast to the dtype of ``q``.
        scale: Factor on ``q @ k^T``; ``d ** -0.5`` if not given.
        dropout: Probability of dropping an attention weight.

    Returns:
        Tensor (B, heads, N, e).
    """
    d, e = q.shape[-1], v.shape[-1]
    width = max(d, e)
    if q.is_cuda:
        width = (width + 7) // 8 * 8
    if (d, e) != (width, width):
        scale = d**-0.5 if scale is None else scale
        q, k, v = (F.pad(x, (0, width - x.shape[-1])) for x in (q, k, v))
        return attention(q, k, v, bias, scale, dropout)[..., :e]
    if q.is_cuda and q.shape[0] > LARGEST_BATCH:
        return attention_in_parts(q, k, v, bias, scale, dropout, LARGEST_BATCH)
    if bias is None:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)
    bias = bias.to(q.dtype)
    if q.device.type == 'cpu' and not dropout and _bias_learns(bias):
        # the shape is asked last: it may be a symbol where nothing learns
        if bias.shape == (1, *q.shape[1:3], k.shape[2]):
            return RecomputedAttention.apply(q, k, v, bias, d**-0.5 if scale is None else scale)
    bias = bias.expand(q.shape[0], -1, -1, -1)
    return F.scaled_dot_product_attention(q, k, v, bias, dropout_p=dropout, scale=scale)


def attention_in_parts(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Optional[Tensor],
    scale: Optional[float],
    dropout: float,
    most: int,
) -> Tensor:
    """:func:`attention`, at most ``most`` of the batch at a time."""
    count = q.shape[0]
    shared = bias is None or bias.shape[0] != count
    biases = [bias] * -(-count // most) if shared else bias.split(most)  # type: ignore[union-attr]
    parts = zip(q.split(most), k.split(most), v.split(most), biases)
    return torch.cat([attention(*part, scale, dropout) for part in parts])


def check_heads(embed_dims: int, num_heads: int) -> None:
    """Check that channels divide among heads.

    Raises:
        ValueError: If they do not.
    """
    if num_heads < 1 or embed_dims % num_heads:
        raise ValueError(f'embed_dims ({embed_dims}) must be a multiple of num_heads ({num_heads})')


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Tokens (B, N, C) -> heads (B, heads, N, C / heads)."""
    return x.view(*x.shape[:2], num_heads, -1).transpose(1, 2)


def split_qkv(x: Tensor, num_heads: int, parts: int = 3) -> List[Tensor]:
    """Tokens (B, N, parts * C) -> queries, keys, values (B, heads, N, C / heads) each."""
    return [split_heads(part, num_heads) for part in x.chunk(parts, -1)]


def join_heads(x: Tensor) -> Tensor:
    """Heads (B, heads, N, d) -> tokens (B, N, heads * d)."""
    return x.transpose(1, 2).flatten(2)


class GlobalAttention(nn.Module):
    """Plain attention among all tokens of a map.

    Args:
        embed_dims: Channels C.
        num_heads: Attention heads.
    """

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__()
        check_heads(embed_dims, num_heads)
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor (B, ..., C) -> (B, ..., C)."""
        q, k, v = split_qkv(self.qkv(x.flatten(1, -2)), self.num_heads)
        return self.proj(join_heads(attention(q, k, v))).view(x.shape)


class WindowAttention(nn.Module):
    """Multi-head attention inside the windows of a map.

    The map is zero-padded to a multiple of the window, cut, attended, put together and
    cropped. Padded tokens hold zeros before the projection to keys and values, so their keys
    and values are the projection's bias and real tokens attend to them, as in the published
    models; ``mask_padding`` hides them instead.

    Args:
        embed_dims: Channels C of the map.
        num_heads: Number of heads; divides ``embed_dims``.
        window_size: Window ``(height, width)`` in tokens.
        own_query: Project the query from the map. With ``False`` the query is an argument of
            ``forward``, and the layer projects keys and values only.
        qkv_bias: Give the projection to queries, keys and values a bias.
        rel_pos_bias: Add a learned relative position bias to the logits.
        mask_padding: Hide padded tokens from the real ones.
        dilated: Windows of equidistant instead of neighbouring tokens.
        attn_drop_rate: Dropout of attention weights.
        proj_drop_rate: Dropout after the output projection.
        v_kernel: Side of a depthwise convolution over the values, whose result is added to
            that of the attention before the projection; 0 for none. It runs on the whole map
            with zeros beyond its border.

    Raises:
        ValueError: If ``embed_dims`` is not a multiple of ``num_heads``.
    """

    offset = 0  # rows and columns by which the first windows begin before the map

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: Size,
        own_query: bool = True,
        qkv_bias: bool = True,
        rel_pos_bias: bool = True,
        mask_padding: bool = False,
        dilated: bool = False,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        v_kernel: int = 0,
    ) -> None:
        super().__init__()
        check_heads(embed_dims, num_heads)
        self.num_heads = num_heads
        self.head_dims = embed_dims // num_heads
        self.window_size = window_size
        self.own_query = own_query
        self.mask_padding = mask_padding
        self.dilated = dilated
        self.attn_drop_rate = attn_drop_rate
        # One matrix: rows in the order (query,) key, value, each head contiguous.
        self.projections = 3 if own_query else 2
        self.qkv = nn.Linear(embed_dims, self.projections * embed_dims, bias=qkv_bias)
        self.rel_pos = RelativePositionBias(window_size, num_heads) if rel_pos_bias else None
        self.v_conv = depthwise_conv(embed_dims, v_kernel) if v_kernel else None
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)

    def forward(self, x: Tensor, query: Optional[Tensor] = None) -> Tensor:
        """Attend inside windows.

        Args:
            x: Map (B, H, W, C), any H and W.
            query: With ``own_query=False``: one query (B, heads, N, d) an image, N the tokens
                of a window, used by all windows of its own image.

        Returns:
            Map (B, H, W, C).

        Raises:
            ValueError: If a query is given to a layer that makes its own, or missing.
        """
        if (query is None) != self.own_query:
            raise ValueError(
                'query must be given if and only if the layer was built with own_query=False'
            )
        height, width = x.shape[1:3]
        x = pad_to_windows(x, self.window_size)
        hp, wp = x.shape[1:3]
        windows = partition(x, self.window_size, self.dilated)  # (B, nW, N, C)
        q, k, v = self._project(windows, query)  # (B * nW, heads, N, d) each
        dropout = self.attn_drop_rate if self.training else 0.0
        out = attention(q, k, v, self._bias(q, height, width, hp, wp), dropout=dropout)
        out = self._to_map(out, windows, hp, wp)
        if self.v_conv is not None:
            values = crop(self._to_map(v, windows, hp, wp), height, width)
            out = crop(out, height, width) + self._convolve(self.v_conv, values)
        return crop(self.proj_drop(self.proj(out)), height, width)

    def _convolve(self, conv: nn.Module, values: Tensor) -> Tensor:
        """Run the convolution of the values on their map (B, H, W, C)."""
        return convolve(conv, values)

    def _to_map(self, heads: Tensor, windows: Tensor, hp: int, wp: int) -> Tensor:
        """Heads (B * nW, heads, N, d) -> map (B, hp, wp, C)."""
        joined = join_heads(heads).view(windows.shape)
        return merge(joined, self.window_size, hp, wp, self.dilated)

    def _project(self, windows: Tensor, query: Optional[Tensor]) -> List[Tensor]:
        num = windows.shape[1]
        parts = split_qkv(
            self.qkv(windows).flatten(0, 1), self.num_heads, self.projections
        )  # (B * nW, heads, N, d) each
        if query is None:
            return parts
        # Windows are ordered image by image: the query of image b serves rows b*nW ... .
        q = query.to(parts[0].dtype).unsqueeze(1).expand(-1, num, -1, -1, -1)
        return [q.reshape(-1, *query.shape[1:]), *parts]

    def _bias(self, q: Tensor, height: int, width: int, hp: int, wp: int) -> Optional[Tensor]:
        """What is added to the logits: position bias, mask, their sum, or nothing."""
        bias = None if self.rel_pos is None else self.rel_pos(q.dtype)
        mask = self._mask(q, height, width, hp, wp)
        if bias is None or mask is None:
            return mask if bias is None else bias
        if not q.is_cuda:
            return bias + mask
        # rows of the sum stay as long as those of the bias, see RelativePositionBias
        longer = (0, -bias.shape[-1] % 8)
        return (F.pad(bias, longer) + F.pad(mask[:, :, :1], longer))[..., : bias.shape[-1]]

    def _mask(self, q: Tensor, height: int, width: int, hp: int, wp: int) -> Optional[Tensor]:
        """Mask (B * nW, 1, N, N) of what is hidden in a map that was padded to hp x wp."""
        if not self.mask_padding or known_equal((hp, wp), (height, width)):
            return None
        return key_mask(q, height, width, self.window_size, self.dilated)


class ShiftedWindowAttention(WindowAttention):
    """Window attention whose first windows begin before the map; the padding is always hidden.

    This gives what Swin's rolled map with its mask of pairs gives, from more windows (81 instead of
    64 at 56x56) and a mask of keys, which torch's fused attention takes.

    Args:
        offset: Rows and columns by which the first windows begin before the map. Windows moved
            by s tokens, in the words of Swin, begin ``window - s`` tokens before it.
        args: Those of :class:`WindowAttention`.
        kwargs: Those of :class:`WindowAttention`.
    """

    def __init__(self, *args: Any, offset: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.offset = offset

    def forward(self, x: Tensor, query: Optional[Tensor] = None) -> Tensor:
        """Attend inside windows, see :meth:`WindowAttention.forward`."""
        x = super().forward(F.pad(x, (0, 0, self.offset, 0, self.offset, 0)), query)
        return crop(x, x.shape[1], x.shape[2], self.offset)

    def _mask(self, q: Tensor, height: int, width: int, hp: int, wp: int) -> Optional[Tensor]:
        return key_mask(q, height, width, self.window_size, self.dilated, self.offset)
