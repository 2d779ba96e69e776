"""What the GPViT tests compare with: the models as plain functions of a released state dict.

Written from a description of the models, without the package: loops over heads, stripes and
sampling points, keys and shapes as the authors' files have them. Evaluation mode.
"""

import zlib

import torch
import torch.nn.functional as F

GROUPS = {1: 64, 4: 32, 7: 32, 10: 16}
DEPTH = 12
GRID = 28  # tokens a side at 224
HEADS = 12  # of a local layer; grouping, ungrouping and deformable attention have six
POINTS = 4
BN_KEYS = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')


# ---------------------------------------------------------------------- layers
def sub(state, prefix):
    """The keys under a prefix, without it."""
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


def linear(w, name, x):
    """A linear layer; its bias may be absent."""
    y = x @ w[f'{name}.weight'].t()
    return y + w[f'{name}.bias'] if f'{name}.bias' in w else y


def conv(w, name, x, **kwargs):
    """A convolution; its bias may be absent."""
    return F.conv2d(x, w[f'{name}.weight'], w.get(f'{name}.bias'), **kwargs)


def depthwise(w, name, x):
    """A depthwise 3x3 convolution with zero padding."""
    return conv(w, name, x, padding=1, groups=x.shape[1])


def layer_norm(w, name, x, eps):
    """A layer norm over the last axis."""
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return centred / scale * w[f'{name}.weight'] + w[f'{name}.bias']


def ln5(w, name, x):
    """Layer norm with epsilon 1e-5."""
    return layer_norm(w, name, x, 1e-5)


def ln6(w, name, x):
    """Layer norm with epsilon 1e-6."""
    return layer_norm(w, name, x, 1e-6)


def batch_norm(w, name, x):
    """Batch norm of a map (B, C, H, W) by its stored statistics."""
    mean, var, weight, bias = (
        w[f'{name}.{k}'][:, None, None] for k in ('running_mean', 'running_var', 'weight', 'bias')
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def conv_bn_relu(w, i, x, prefix, **kwargs):
    """The i-th module of a sequence is a convolution, the next a batch norm."""
    return batch_norm(w, f'{prefix}.{i + 1}', conv(w, f'{prefix}.{i}', x, **kwargs)).relu()


def to_map(x, size):
    """Tokens (B, N, C) to a map (B, C, h, w)."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], *size)


def to_tokens(x):
    """A map (B, C, h, w) to tokens (B, N, C)."""
    return x.flatten(2).transpose(1, 2)


def attention(q, k, v, heads):
    """Softmax attention, head by head."""
    d = q.shape[-1] // heads
    out = []
    for head in range(heads):
        part = slice(head * d, head * d + d)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) * d**-0.5).softmax(-1)
        out.append(weights @ v[..., part])
    return torch.cat(out, -1)


def ffn(w, x):
    """Two linear layers, expansion 4."""
    return linear(w, 'layers.1', F.gelu(linear(w, 'layers.0.0', x)))


# ---------------------------------------------------------------------- plain backbone
def local_block(w, x, size):
    """Attention in stripes two wide: vertical in the first half of the channels, else horizontal.

    On an odd side the last stripe is one wide.
    """
    half = x.shape[-1] // 2
    q, k, v = linear(w, 'qkv', ln6(w, 'norm1', x)).chunk(3, -1)
    branches = []
    for branch in (0, 1):
        part = slice(branch * half, branch * half + half)
        maps = [to_map(t[..., part], size) for t in (q, k, v)]
        stripes = []
        for start in range(0, size[1 - branch], 2):
            stripe = slice(start, start + 2)
            parts = [m[:, :, :, stripe] if branch == 0 else m[:, :, stripe] for m in maps]
            shape = parts[0].shape[2:]
            out = to_map(attention(*(to_tokens(m) for m in parts), HEADS // 2), shape)
            stripes.append(out + depthwise(w, f'attns.{branch}.get_v', parts[2]))
        branches.append(torch.cat(stripes, 3 - branch))
    x = x + linear(w, 'proj', to_tokens(torch.cat(branches, 1)))
    x = x + ffn(sub(w, 'ffn.'), ln6(w, 'norm2', x))
    return to_tokens(depthwise(w, 'dw', to_map(x, size)))


def group(w, x):
    """Group tokens that have gathered from the image tokens, (B, M, C)."""
    q = ln5(w, 'group_layer.norm_query', w['group_token']).expand(len(x), -1, -1)
    kv = ln5(w, 'group_layer.norm_key', x)
    return attention(q, linear(w, 'group_layer.attn.k_proj', kv), kv, HEADS // 2)


def mix(w, y):
    """One layer of an MLP mixer over the group tokens."""
    z = ln5(w, 'norm1', y).transpose(1, 2)
    z = linear(w, 'patch_mixer.3', F.gelu(linear(w, 'patch_mixer.0', z)))
    y = y + z.transpose(1, 2)
    z = ln5(w, 'norm2', y)
    return y + linear(w, 'channel_mixer.3', F.gelu(linear(w, 'channel_mixer.0', z)))


def ungroup(w, x, y):
    """Image tokens that have read the group tokens."""
    q, kv = ln5(w, 'norm_query', x), ln5(w, 'norm_key', y)
    q, k, v = (
        linear(w, 'attn.q_proj', q),
        linear(w, 'attn.k_proj', kv),
        linear(w, 'attn.v_proj', kv),
    )
    u = linear(w, 'attn.proj', attention(q, k, v, HEADS // 2))
    z = linear(w, 'proj', torch.cat([x, u], -1))
    return z + ffn(sub(w, 'ffn.'), ln5(w, 'norm2', z))


def gp_block(w, x, size):
    """Group, propagate, ungroup, depthwise convolution."""
    y = mix(sub(w, 'mixer.layers.0.'), group(w, x))
    z = to_map(ungroup(sub(w, 'un_group_layer.'), x, y), size)
    return to_tokens(batch_norm(w, 'dwconv.1', depthwise(w, 'dwconv.0', z)).relu())


def layer(w, i, x, size):
    """The i-th layer, whichever it is."""
    w = sub(w, f'layers.{i}.')
    return (gp_block if 'group_token' in w else local_block)(w, x, size)


def embed(w, image):
    """Tokens with position embedding, and the size of their grid."""
    x = conv_bn_relu(w, 0, image, 'patch_embed.stem', stride=2, padding=3)
    i = 0
    while f'patch_embed.convs.{i}.weight' in w:
        x = conv_bn_relu(w, i, x, 'patch_embed.convs', padding=1)
        i += 3
    x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
    x = conv(w, 'patch_embed.projection', x, stride=4)
    size = tuple(x.shape[2:])
    pos = w['pos_embed']
    side = round(pos.shape[1] ** 0.5)
    if size != (side, side):
        pos = to_map(pos, (side, side))
        pos = to_tokens(F.interpolate(pos, size, mode='bicubic', align_corners=False))
    return to_tokens(x) + pos, size


def depth_of(w):
    """Number of layers in a state dict."""
    return 1 + max(int(k.split('.')[1]) for k in w if k.startswith('layers.'))


def plain(w, image, out_indices=None):
    """Maps (B, C, h, w) of the plain backbone.

    Args:
        w: State dict without prefix.
        image: (B, 3, H, W).
        out_indices: Layers; all but the last have norms of their own. The last by default.
    """
    depth = depth_of(w)
    x, size = embed(w, image)
    maps = []
    for i in range(depth):
        x = layer(w, i, x, size)
        if i in (out_indices or (depth - 1,)):
            maps.append(to_map(ln6(w, 'ln1' if i == depth - 1 else f'norm{i}', x), size))
    return tuple(maps)


# ---------------------------------------------------------------------- classifier
def group_neck(w, x):
    """Class token that reads a map: (B, C)."""
    q = ln5(w, 'norm_query', w['group_token']).expand(len(x), -1, -1)
    x = to_tokens(x)
    return attention(q, linear(w, 'attn.k_proj', x), x, HEADS // 2)[:, 0]


def logits(w, image):
    """Class scores; a file without neck averages."""
    x = plain(sub(w, 'backbone.'), image)[0]
    neck = sub(w, 'neck.')
    return linear(w, 'head.fc', group_neck(neck, x) if neck else x.mean((2, 3)))


# ---------------------------------------------------------------------- adapter
def sample(value, shapes, locations, weights):
    """The sum of multi-scale deformable attention, pixel by pixel of the bilinear kernel.

    Args:
        value: (B, S, heads, D), levels one after the other.
        shapes: (height, width) of each level.
        locations: (B, Q, heads, levels, points, 2), x and y in [0, 1] of the map.
        weights: (B, Q, heads, levels, points).

    Returns:
        (B, Q, heads * D).
    """
    batch, _, heads, d = value.shape
    out = value.new_zeros(batch, locations.shape[1], heads, d)
    start = 0
    for level, (height, width) in enumerate(shapes):
        part = value[:, start : start + height * width]
        start += height * width
        for point in range(locations.shape[4]):
            x = locations[:, :, :, level, point, 0] * width - 0.5
            y = locations[:, :, :, level, point, 1] * height - 0.5
            weight = weights[:, :, :, level, point]
            for dx in (0, 1):
                for dy in (0, 1):
                    col, row = x.floor() + dx, y.floor() + dy
                    share = (1 - (x - col).abs()) * (1 - (y - row).abs())
                    inside = (col >= 0) & (col < width) & (row >= 0) & (row < height)
                    at = (row * width + col).where(inside, torch.zeros_like(col)).long()
                    picked = part.gather(1, at[..., None].expand(-1, -1, -1, d))
                    out = out + picked * (weight * share * inside)[..., None]
    return out.flatten(2)


def centres(shapes):
    """Cell centres of grids, one grid after the other: (N, 2), x and y in [0, 1]."""
    rows = [
        [(col + 0.5) / width, (row + 0.5) / height]
        for height, width in shapes
        for row in range(height)
        for col in range(width)
    ]
    return torch.tensor(rows, dtype=torch.double)


def deform_attn(w, query, points, feat, shapes):
    """Multi-scale deformable attention of queries at points (Q, 2) to the levels in feat."""
    batch, queries, c = query.shape
    heads, levels = HEADS // 2, len(shapes)
    value = linear(w, 'value_proj', feat).reshape(batch, -1, heads, c // heads)
    offsets = linear(w, 'sampling_offsets', query)
    offsets = offsets.reshape(batch, queries, heads, levels, POINTS, 2)
    weights = linear(w, 'attention_weights', query).reshape(batch, queries, heads, -1).softmax(-1)
    sizes = torch.tensor([[width, height] for height, width in shapes], dtype=torch.double)
    locations = points.to(query)[:, None, None, None] + offsets / sizes.to(query)[:, None]
    weights = weights.reshape(batch, queries, heads, levels, POINTS)
    return linear(w, 'output_proj', sample(value, shapes, locations, weights))


def injector(w, x, c, shapes):
    """Image tokens read the three levels of the adapter."""
    query, feat = ln6(w, 'query_norm', x), ln6(w, 'feat_norm', c)
    return x + w['gamma'] * deform_attn(sub(w, 'attn.'), query, centres(shapes[:1]), feat, shapes)


def extractor(w, c, x, shapes):
    """The adapter's tokens read the image tokens, then a convolutional FFN."""
    query, feat = ln6(w, 'query_norm', c), ln6(w, 'feat_norm', x)
    c = c + deform_attn(sub(w, 'attn.'), query, centres(shapes), feat, shapes[:1])
    hidden = linear(w, 'ffn.fc1', ln6(w, 'ffn_norm', c))
    levels, start = [], 0
    for height, width in shapes:
        part = to_map(hidden[:, start : start + height * width], (height, width))
        levels.append(to_tokens(depthwise(w, 'ffn.dwconv.dwconv', part)))
        start += height * width
    return c + linear(w, 'ffn.fc2', F.gelu(torch.cat(levels, 1)))


def adapter(w, image):
    """Maps of the adapter backbone at strides 4, 8, 16, 32, or without the first.

    Args:
        w: State dict without prefix; three levels where it has no `up`.
        image: (B, 3, H, W), padded here to multiples of 32.
    """
    height, width = image.shape[2:]
    image = F.pad(image, (0, -width % 32, 0, -height % 32))
    spm = sub(w, 'spm.')
    c1 = conv_bn_relu(spm, 0, image, 'stem', stride=2, padding=1)
    c1 = conv_bn_relu(spm, 3, c1, 'stem', padding=1)
    c1 = conv_bn_relu(spm, 6, c1, 'stem', padding=1)
    c1 = F.max_pool2d(c1, 3, 2, 1)
    c2 = conv_bn_relu(spm, 0, c1, 'conv2', stride=2, padding=1)
    c3 = conv_bn_relu(spm, 0, c2, 'conv3', stride=2, padding=1)
    c4 = conv_bn_relu(spm, 0, c3, 'conv4', stride=2, padding=1)
    levels = [conv(spm, f'fc{i}', m) for i, m in ((2, c2), (3, c3), (4, c4))]
    shapes = [tuple(m.shape[2:]) for m in levels]
    c = torch.cat([to_tokens(m) + e for m, e in zip(levels, w['level_embed'])], 1)

    x, size = embed(w, image)
    assert size == shapes[0]
    blocks = 1 + max(int(k.split('.')[1]) for k in w if k.startswith('interactions.'))
    share = depth_of(w) // blocks
    for k in range(blocks):
        block = sub(w, f'interactions.{k}.')
        x = injector(sub(block, 'injector.'), x, c, shapes)
        for i in range(k * share, k * share + share):
            x = layer(w, i, x, size)
        c = extractor(sub(block, 'extractor.'), c, x, shapes)
        extra = 0
        while f'extra_extractors.{extra}.query_norm.weight' in block:
            c = extractor(sub(block, f'extra_extractors.{extra}.'), c, x, shapes)
            extra += 1

    x = to_map(x, size)
    outs, start = [], 0
    for rows, cols in shapes:
        outs.append(to_map(c[:, start : start + rows * cols], (rows, cols)))
        start += rows * cols
    strides = [8, 16, 32]
    if 'up.weight' in w:
        up = F.conv_transpose2d(outs[0], w['up.weight'], w['up.bias'], stride=2)
        outs.insert(0, up + conv(spm, 'fc1', c1))
        strides.insert(0, 4)
    maps = []
    for stride, out in zip(strides, outs):
        if stride != 8:
            scale = 8 / stride
            out = out + F.interpolate(x, scale_factor=scale, mode='bilinear', align_corners=False)
        else:
            out = out + x
        out = batch_norm(w, f'ad_norm{strides.index(stride) + 5 - len(strides)}', out)
        maps.append(out[:, :, : -(-height // stride), : -(-width // stride)])
    return tuple(maps)


# ---------------------------------------------------------------------- weights and files
def draw(name, shape):
    """Weights of a parameter or a buffer, from its name; nothing is zero or neutral."""
    kind = name.rpartition('.')[2]
    if kind == 'num_batches_tracked':
        return torch.tensor(1000)
    gen = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    r = torch.randn(shape, generator=gen)
    if kind == 'running_var':
        return 0.5 + r.abs()
    if name.endswith('sampling_offsets.bias'):
        return 3 * r
    if kind in ('pos_embed', 'level_embed', 'group_token', 'gamma'):
        return 0.5 * r
    if r.ndim >= 2:
        return r / r[0].numel() ** 0.5
    return 1 + 0.2 * r if kind == 'weight' else 0.2 * r


def _bn(name, c):
    return {f'{name}.{k}': () if k == 'num_batches_tracked' else (c,) for k in BN_KEYS}


def _norm(*names, c):
    return {f'{name}.{k}': (c,) for name in names for k in ('weight', 'bias')}


def _layer(name, out, *rest):
    return {f'{name}.weight': (out, *rest), f'{name}.bias': (out,)}


def _ffn(name, c):
    return {**_layer(f'{name}.layers.0.0', 4 * c, c), **_layer(f'{name}.layers.1', c, 4 * c)}


def _conv_bn(name, out, inputs, kernel):
    return {f'{name}.conv.weight': (out, inputs, kernel, kernel), **_bn(f'{name}.bn', out)}


def backbone_shapes(c, convs=0, depth=DEPTH, groups=None, norms=(), final=True, grid=GRID):
    """Keys and shapes of a plain backbone.

    Args:
        c: Channels, 216 in L1, 348, 432, 624.
        convs: Further convolutions in the stem, 0 in L1, 1, 1, 2.
        depth: Layers.
        groups: Group tokens of each GP layer.
        norms: Layers with output norms of their own (segmentation).
        final: Whether `ln1` is there.
        grid: Side of the position embedding.
    """
    half, groups = c // 2, GROUPS if groups is None else groups
    out = {'pos_embed': (1, grid**2, c), 'patch_embed.stem.0.weight': (64, 3, 7, 7)}
    out.update(_bn('patch_embed.stem.1', 64))
    for j in range(convs):
        out[f'patch_embed.convs.{3 * j}.weight'] = (64, 64, 3, 3)
        out.update(_bn(f'patch_embed.convs.{3 * j + 1}', 64))
    out.update(_layer('patch_embed.projection', c, 64, 4, 4))
    for i in range(depth):
        p = f'layers.{i}'
        if i not in groups:
            out.update(_norm(f'{p}.norm1', f'{p}.norm2', c=c))
            out.update(_layer(f'{p}.qkv', 3 * c, c))
            out.update(_layer(f'{p}.proj', c, c))
            for branch in (0, 1):
                out.update(_layer(f'{p}.attns.{branch}.get_v', half, 1, 3, 3))
            out.update(_ffn(f'{p}.ffn', c))
            out[f'{p}.dw.weight'] = (c, 1, 3, 3)
            continue
        m, mixer, un = groups[i], f'{p}.mixer.layers.0', f'{p}.un_group_layer'
        out[f'{p}.group_token'] = (1, m, c)
        out.update(_norm(f'{p}.group_layer.norm_query', f'{p}.group_layer.norm_key', c=c))
        out.update(_layer(f'{p}.group_layer.attn.k_proj', c, c))
        out.update(_layer(f'{mixer}.patch_mixer.0', half, m))
        out.update(_layer(f'{mixer}.patch_mixer.3', m, half))
        out.update(_layer(f'{mixer}.channel_mixer.0', 4 * c, c))
        out.update(_layer(f'{mixer}.channel_mixer.3', c, 4 * c))
        out.update(_norm(f'{mixer}.norm1', f'{mixer}.norm2', c=c))
        out.update(_norm(f'{un}.norm_query', f'{un}.norm_key', f'{un}.norm2', c=c))
        for name in ('q_proj', 'k_proj', 'v_proj', 'proj'):
            out.update(_layer(f'{un}.attn.{name}', c, c))
        out.update(_layer(f'{un}.proj', c, 2 * c))
        out.update(_ffn(f'{un}.ffn', c))
        out[f'{p}.dwconv.0.weight'] = (c, 1, 3, 3)
        out.update(_bn(f'{p}.dwconv.1', c))
    out.update(_norm(*(['ln1'] if final else []), *(f'norm{i}' for i in norms), c=c))
    return out


def adapter_shapes(c, levels=4, blocks=4, **kwargs):
    """Keys and shapes of an adapter backbone, those of the plain backbone included."""
    out = {**backbone_shapes(c, final=False, **kwargs), 'level_embed': (3, c)}
    for i, inputs in ((0, 3), (3, 64), (6, 64)):
        out[f'spm.stem.{i}.weight'] = (64, inputs, 3, 3)
        out.update(_bn(f'spm.stem.{i + 1}', 64))
    for i, inputs, width in ((2, 64, 128), (3, 128, 256), (4, 256, 256)):
        out[f'spm.conv{i}.0.weight'] = (width, inputs, 3, 3)
        out.update(_bn(f'spm.conv{i}.1', width))
        out.update(_layer(f'spm.fc{i}', c, width, 1, 1))
        out.update(_bn(f'ad_norm{i}', c))
    if levels == 4:
        out.update(_layer('spm.fc1', c, 64, 1, 1))
        out.update({'up.weight': (c, c, 2, 2), 'up.bias': (c,)})
        out.update(_bn('ad_norm1', c))

    def attn(name, count):
        for proj in ('value_proj', 'output_proj'):
            out.update(_layer(f'{name}.attn.{proj}', c, c))
        weights = HEADS // 2 * POINTS * count
        out.update(_layer(f'{name}.attn.sampling_offsets', 2 * weights, c))
        out.update(_layer(f'{name}.attn.attention_weights', weights, c))
        out.update(_norm(f'{name}.query_norm', f'{name}.feat_norm', c=c))

    for k in range(blocks):
        p = f'interactions.{k}'
        out[f'{p}.injector.gamma'] = (c,)
        attn(f'{p}.injector', 3)
        extra = [f'{p}.extra_extractors.{i}' for i in range(2)] if k == blocks - 1 else []
        for name in [f'{p}.extractor', *extra]:
            attn(name, 1)
            hidden = int(c * 0.25)
            out.update(_norm(f'{name}.ffn_norm', c=c))
            out.update(_layer(f'{name}.ffn.fc1', hidden, c))
            out.update(_layer(f'{name}.ffn.dwconv.dwconv', hidden, 1, 3, 3))
            out.update(_layer(f'{name}.ffn.fc2', c, hidden))
    return out


def classifier_shapes(c, classes=1000, neck=True, **kwargs):
    """Keys and shapes of a classifier, with or without the authors' pooling by attention."""
    out = {f'backbone.{k}': v for k, v in backbone_shapes(c, **kwargs).items()}
    if neck:
        out['neck.group_token'] = (1, 1, c)
        out.update(_norm('neck.norm_query', c=c))
        out['neck.attn.k_proj.weight'] = (c, c)
    return {**out, **_layer('head.fc', classes, c)}


def mask_rcnn_shapes(c, **kwargs):
    """Keys and shapes of Mask R-CNN on four levels, for COCO."""
    out = {f'backbone.{k}': v for k, v in adapter_shapes(c, 4, **kwargs).items()}
    for i in range(4):
        out.update(_conv_bn(f'neck.lateral_convs.{i}', 256, c, 1))
        out.update(_conv_bn(f'neck.fpn_convs.{i}', 256, 256, 3))
        out.update(_conv_bn(f'roi_head.bbox_head.shared_convs.{i}', 256, 256, 3))
        out.update(_layer(f'roi_head.mask_head.convs.{i}.conv', 256, 256, 3, 3))
    out.update(_layer('rpn_head.rpn_conv', 256, 256, 3, 3))
    out.update(_layer('rpn_head.rpn_cls', 3 * 1, 256, 1, 1))
    out.update(_layer('rpn_head.rpn_reg', 3 * 4, 256, 1, 1))
    out.update(_layer('roi_head.bbox_head.shared_fcs.0', 1024, 256 * 7 * 7))
    out.update(_layer('roi_head.bbox_head.fc_cls', 81, 1024))
    out.update(_layer('roi_head.bbox_head.fc_reg', 320, 1024))
    out.update(_layer('roi_head.mask_head.upsample', 256, 256, 2, 2))
    return {**out, **_layer('roi_head.mask_head.conv_logits', 80, 256, 1, 1)}


def retinanet_shapes(c, **kwargs):
    """Keys and shapes of RetinaNet on three levels, for COCO."""
    out = {f'backbone.{k}': v for k, v in adapter_shapes(c, 3, **kwargs).items()}
    for i in range(5):
        out.update(_conv_bn(f'neck.fpn_convs.{i}', 256, 256, 3))
    for i in range(3):
        out.update(_conv_bn(f'neck.lateral_convs.{i}', 256, c, 1))
    for i in range(4):
        for branch in ('cls', 'reg'):
            out.update(_layer(f'bbox_head.{branch}_convs.{i}.conv', 256, 256, 3, 3))
    out.update(_layer('bbox_head.retina_cls', 9 * 80, 256, 3, 3))
    return {**out, **_layer('bbox_head.retina_reg', 9 * 4, 256, 3, 3)}


def upernet_shapes(c, **kwargs):
    """Keys and shapes of UperNet with its auxiliary head, for ADE20K."""
    out = {f'backbone.{k}': v for k, v in backbone_shapes(c, norms=(2, 5, 8), **kwargs).items()}
    for i in range(4):
        out.update(_conv_bn(f'decode_head.psp_modules.{i}.1', 512, c, 1))
    for i in range(3):
        out.update(_conv_bn(f'decode_head.lateral_convs.{i}', 512, c, 1))
        out.update(_conv_bn(f'decode_head.fpn_convs.{i}', 512, 512, 3))
    out.update(_conv_bn('decode_head.bottleneck', 512, c + 2048, 3))
    out.update(_conv_bn('decode_head.fpn_bottleneck', 512, 2048, 3))
    out.update(_layer('decode_head.conv_seg', 150, 512, 1, 1))
    out.update(_conv_bn('auxiliary_head.convs.0', 256, c, 3))
    return {**out, **_layer('auxiliary_head.conv_seg', 150, 256, 1, 1)}


def segformer_shapes(c, **kwargs):
    """Keys and shapes of the SegFormer head on four maps, for ADE20K."""
    out = {f'backbone.{k}': v for k, v in backbone_shapes(c, norms=(2, 5, 8), **kwargs).items()}
    for i in range(4):
        out.update(_conv_bn(f'decode_head.convs.{i}', 256, c, 1))
    out.update(_conv_bn('decode_head.fusion_conv', 256, 1024, 1))
    return {**out, **_layer('decode_head.conv_seg', 150, 256, 1, 1)}


def state_of(shapes):
    """Drawn weights for keys and shapes."""
    return {name: draw(name, shape) for name, shape in shapes.items()}


def released_file(state, prefix='module.'):
    """A checkpoint as the authors' trainer writes it."""
    return dict(
        meta=dict(epoch=12, iter=1000, mmcv_version='1.4.8'),
        state_dict={prefix + name: value for name, value in state.items()},
        optimizer=dict(state={}, param_groups=[]),
    )


def double(state):
    """The same weights in float64."""
    return {k: v.double() if v.is_floating_point() else v for k, v in state.items()}
