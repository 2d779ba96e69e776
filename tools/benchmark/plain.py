"""A plain GC ViT to compare with: the formulas of the paper, one after the other.

Nothing of ``gcvit_mm.layers`` is used: attention is two matrix products with the scores between
them, the bias is gathered in every pass, and the global query is repeated for every window.
Parameters have the names of :class:`gcvit_mm.GCViT`, so that the two can share weights. Wherever
the two do the same work, they do it by the same operators of torch; nothing is slowed down.
"""

import torch
import torch.nn.functional as F
from torch import nn

QUERY_BLOCKS = (3, 2, 1, 1)


class Norm(nn.LayerNorm):
    """LayerNorm with the epsilon of GC ViT."""

    def __init__(self, dims):
        super().__init__(dims, eps=1e-5)


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, dims):
        super().__init__()
        self.fc1 = nn.Linear(dims, dims // 4, bias=False)
        self.fc2 = nn.Linear(dims // 4, dims, bias=False)

    def forward(self, x):
        pooled = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return x * torch.sigmoid(self.fc2(F.gelu(self.fc1(pooled))))[..., None, None]


class MBBlock(nn.Module):
    """Depthwise convolution, gate, pointwise convolution, residual."""

    def __init__(self, dims):
        super().__init__()
        self.dwconv = nn.Conv2d(dims, dims, 3, 1, 1, groups=dims, bias=False)
        self.se = Gate(dims)
        self.pwconv = nn.Conv2d(dims, dims, 1, bias=False)

    def forward(self, x):
        return x + self.pwconv(self.se(F.gelu(self.dwconv(x))))


class Reduce(nn.Module):
    """Norm, MB block, convolution of stride 2, norm; (B, H, W, C) in and out."""

    def __init__(self, dims, out_dims):
        super().__init__()
        self.norm1 = Norm(dims)
        self.mbconv = MBBlock(dims)
        self.reduction = nn.Conv2d(dims, out_dims, 3, 2, 1, bias=False)
        self.norm2 = Norm(out_dims)

    def forward(self, x):
        x = self.norm1(x).permute(0, 3, 1, 2)
        return self.norm2(self.reduction(self.mbconv(x)).permute(0, 2, 3, 1))


class Stem(nn.Module):
    """Image to map at stride 4."""

    def __init__(self, dims):
        super().__init__()
        self.proj = nn.Conv2d(3, dims, 3, 2, 1)
        self.down = Reduce(dims, dims)

    def forward(self, x):
        return self.down(self.proj(x).permute(0, 2, 3, 1))


class Query(nn.Module):
    """The global query of a stage: (B, H, W, C) -> (B, heads, window * window, d)."""

    def __init__(self, dims, heads, window, blocks, pools):
        super().__init__()
        self.heads, self.window, self.pools = heads, window, pools
        self.blocks = nn.ModuleList(MBBlock(dims) for _ in range(blocks))

    def forward(self, x):
        x = x.permute(0, 3, 1, 2)
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i < self.pools:
                x = F.max_pool2d(x, 3, 2, 1)
        if x.shape[2] != self.window or x.shape[3] != self.window:
            x = F.interpolate(x, (self.window, self.window), mode='bicubic')
        b, c = x.shape[:2]
        return x.permute(0, 2, 3, 1).reshape(b, -1, self.heads, c // self.heads).transpose(1, 2)


class Bias(nn.Module):
    """Table of position biases, one row for every offset between two tokens of a window."""

    def __init__(self, window, heads):
        super().__init__()
        rows = (2 * window - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, heads))
        y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing='ij')
        tokens = torch.stack([y.flatten(), x.flatten()], 1)
        offsets = tokens[:, None] - tokens[None] + window - 1
        index = offsets[..., 0] * (2 * window - 1) + offsets[..., 1]
        self.register_buffer('index', index, persistent=False)

    def forward(self):
        return self.relative_position_bias_table[self.index].permute(2, 0, 1).contiguous()


class Attention(nn.Module):
    """Attention in windows (num_windows * B, N, C), with own queries or the global one."""

    def __init__(self, dims, heads, window, takes_query):
        super().__init__()
        self.heads, self.takes_query = heads, takes_query
        self.scale = (dims // heads) ** -0.5
        self.qkv = nn.Linear(dims, (2 if takes_query else 3) * dims)
        self.rel_pos = Bias(window, heads)
        self.proj = nn.Linear(dims, dims)

    def forward(self, x, query):
        rows, n, c = x.shape
        parts = self.qkv(x).view(rows, n, -1, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        if self.takes_query:
            q, (k, v) = query.repeat_interleave(rows // query.shape[0], 0), parts
        else:
            q, k, v = parts
        scores = (q * self.scale) @ k.transpose(-2, -1)
        scores = scores + self.rel_pos()
        weights = scores.softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(rows, n, c))


class Expand(nn.Module):
    """The MLP of a block."""

    def __init__(self, dims, hidden):
        super().__init__()
        self.fc1 = nn.Linear(dims, hidden)
        self.fc2 = nn.Linear(hidden, dims)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class TransformerBlock(nn.Module):
    """Attention in windows of a padded map, MLP; each with norm and residual."""

    def __init__(self, dims, heads, window, takes_query, mlp_ratio, layer_scale):
        super().__init__()
        self.window = window
        self.norm1 = Norm(dims)
        self.attn = Attention(dims, heads, window, takes_query)
        self.norm2 = Norm(dims)
        self.mlp = Expand(dims, int(dims * mlp_ratio))
        self.gamma1 = self.gamma2 = 1.0
        if layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.full((dims,), layer_scale))
            self.gamma2 = nn.Parameter(torch.full((dims,), layer_scale))

    def attend(self, x, query):
        b, height, width, c = x.shape
        w = self.window
        x = F.pad(x, (0, 0, 0, -width % w, 0, -height % w))
        rows, cols = x.shape[1] // w, x.shape[2] // w
        x = x.view(b, rows, w, cols, w, c).transpose(2, 3).reshape(-1, w * w, c)
        x = self.attn(x, query).view(b, rows, cols, w, w, c).transpose(2, 3)
        return x.reshape(b, rows * w, cols * w, c)[:, :height, :width]

    def forward(self, x, query):
        attended = self.attend(self.norm1(x), query)
        x = x + (attended if isinstance(self.gamma1, float) else self.gamma1 * attended)
        expanded = self.mlp(self.norm2(x))
        return x + (expanded if isinstance(self.gamma2, float) else self.gamma2 * expanded)


class Stage(nn.Module):
    """A query, blocks that are local and global by turns, and the way down."""

    def __init__(self, dims, depth, heads, window, blocks, pools, mlp_ratio, layer_scale, last):
        super().__init__()
        self.query_generator = Query(dims, heads, window, blocks, pools) if depth > 1 else None
        self.blocks = nn.ModuleList(
            TransformerBlock(dims, heads, window, i % 2 == 1, mlp_ratio, layer_scale)
            for i in range(depth)
        )
        self.downsample = None if last else Reduce(dims, 2 * dims)

    def forward(self, x):
        query = None if self.query_generator is None else self.query_generator(x)
        for block in self.blocks:
            x = block(x, query)
        return x, x if self.downsample is None else self.downsample(x)


class PlainGCViT(nn.Module):
    """GC ViT by the paper, with the outputs of ours.

    Args:
        settings: Entry of ``GCViT.arch_zoo``.
        windows: Side of the windows of each stage.
        query_pools: Poolings of the query generator of each stage.
        out_indices: Stages whose maps are returned.
    """

    def __init__(self, settings, windows, query_pools, out_indices=(0, 1, 2, 3)):
        super().__init__()
        dims = settings['embed_dims']
        self.out_indices = tuple(out_indices)
        self.patch_embed = Stem(dims)
        self.stages = nn.ModuleList(
            Stage(
                dims * 2**i,
                settings['depths'][i],
                settings['num_heads'][i],
                windows[i],
                QUERY_BLOCKS[i],
                query_pools[i],
                settings['mlp_ratio'],
                settings['layer_scale'],
                last=i == self.out_indices[-1],
            )
            for i in range(self.out_indices[-1] + 1)
        )
        for i in self.out_indices:
            self.add_module(f'norm{i}', Norm(dims * 2**i))

    def forward(self, x):
        """Images (B, 3, H, W) -> maps (B, C, ceil(H / s), ceil(W / s)), s = 4, 8, 16, 32."""
        x, outs = self.patch_embed(x), []
        for i, stage in enumerate(self.stages):
            out, x = stage(x)
            if i in self.out_indices:
                norm = getattr(self, f'norm{i}')
                outs.append(norm(out).permute(0, 3, 1, 2).contiguous())
        return tuple(outs)


def plain_twin(model):
    """Build the transcription of a GCViT of ours, with its weights.

    Raises:
        ValueError: If the model has an option that the transcription lacks.
    """
    blocks = [stage.blocks[0] for stage in model.stages]
    windows = [block.attn.window_size for block in blocks]
    queries = [stage.query_generator for stage in model.stages]
    plain = (
        all(height == width for height, width in windows)
        and not any(block.attn.mask_padding for block in blocks)
        and model.in_channels == 3
    )
    if not plain or None in queries:
        raise ValueError(
            'the transcription knows square windows with a shared query, visible padding and '
            'images of three channels only'
        )
    twin = PlainGCViT(
        model.arch_settings,
        [side for side, _ in windows],
        [query.num_pools for query in queries],
        model.out_indices,
    )
    twin.load_state_dict(model.state_dict())  # strict: other options have other parameters
    return twin.train(model.training)
