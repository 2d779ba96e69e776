"""What the ScalableViT tests compare with: the authors' key names and reproducible weights."""

import re
import zlib

import numpy as np
import torch

_TO_RELEASED = (
    (r'^patch_embed\.', 'patch_embeds.0.'),
    *((rf'^stages\.{i}\.downsample\.', f'patch_embeds.{i + 1}.') for i in range(3)),
    (r'^stages\.(\d+)\.peg\.', r'pos_block.\1.proj.0.'),
    (r'^stages\.(\d+)\.blocks\.(\d+)\.', r'stages.\1.\2.'),
    (r'\.attn\.v_conv\.', '.attn.lim_func.'),
    (r'\.attn\.norm\.', '.attn.norm_act.0.'),
)


def released_name(name: str) -> str:
    """Key of a parameter in the authors' files."""
    for pattern, replacement in _TO_RELEASED:
        name = re.sub(pattern, replacement, name)
    return name


def draw(name: str, shape) -> torch.Tensor:
    """Weights of a parameter, from its name in the authors' layout."""
    r = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    if r.ndim >= 2:
        r = r / np.sqrt(np.prod(shape[1:]))
    elif name.endswith('weight'):
        r = 1 + 0.1 * r
    else:
        r = 0.1 * r
    return torch.from_numpy(r.astype(np.float32))


def released_state(model, hidden: int = 4096, num_classes: int = 1000) -> dict:
    """Drawn weights of a classifier with the two-layer head, in the authors' layout."""
    state = {}
    for name, p in model.named_parameters():
        if not name.startswith('norm'):
            state[released_name(name)] = draw(released_name(name), p.shape)
    width = model.embed_dims[-1]
    shapes = {
        'norm.weight': (width,),
        'norm.bias': (width,),
        'head.0.weight': (hidden, width),
        'head.0.bias': (hidden,),
        'head.1.weight': (hidden,),
        'head.1.bias': (hidden,),
        'head.3.weight': (num_classes, hidden),
        'head.3.bias': (num_classes,),
    }
    state.update({name: draw(name, shape) for name, shape in shapes.items()})
    return state
