"""What the GC ViT tests compare with: the authors' key names, reproducible weights and inputs.

The check numbers were produced with the authors' code; the weights behind them are drawn from
the name of each parameter, so that anyone can make them again.
"""

import zlib

import numpy as np
import torch

_TO_NVLABS = (
    ('.mbconv.', '.'),
    ('patch_embed.down.', 'patch_embed.conv_down.'),
    ('.dwconv.', '.conv.0.'),
    ('.se.fc1.', '.conv.2.fc.0.'),
    ('.se.fc2.', '.conv.2.fc.2.'),
    ('.pwconv.', '.conv.3.'),
    ('stages.', 'levels.'),
    ('.query_generator.blocks.', '.q_global_gen.to_q_global.'),
    ('.attn.rel_pos.', '.attn.'),
)


def nvlabs_name(name: str) -> str:
    """Key of a parameter in the authors' files."""
    for ours, theirs in _TO_NVLABS:
        name = name.replace(ours, theirs)
    return name


def draw(name: str, shape) -> torch.Tensor:
    """Weights of a parameter, from its name in the authors' layout."""
    r = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    if name.endswith('relative_position_bias_table'):
        r = 0.5 * r
    elif name.rpartition('.')[2].startswith('gamma'):
        r = 0.5 + 0.1 * r
    elif r.ndim >= 2:
        r = r / np.sqrt(np.prod(shape[1:]))
    elif name.endswith('weight'):
        r = 1 + 0.1 * r
    else:
        r = 0.1 * r
    return torch.from_numpy(r.astype(np.float32))


def nvlabs_detection_state(model) -> dict:
    """Drawn weights for a backbone, in the authors' layout with four output norms."""
    return {(n := nvlabs_name(name)): draw(n, p.shape) for name, p in model.named_parameters()}


def nvlabs_classifier_state(model, num_classes: int = 1000) -> dict:
    """Drawn weights for a classifier, index buffers included, in the authors' layout."""
    state = {}
    for name, p in model.named_parameters():
        if name.startswith('norm'):
            continue
        name = nvlabs_name(name)
        state[name] = draw(name, p.shape)
        if name.endswith('relative_position_bias_table'):
            n = ((int(p.shape[0] ** 0.5) + 1) // 2) ** 2
            index = name.replace('bias_table', 'index')
            state[index] = torch.zeros(n, n, dtype=torch.int64)
    width = model.embed_dims[-1]
    shapes = {
        'norm.weight': (width,),
        'norm.bias': (width,),
        'head.weight': (num_classes, width),
        'head.bias': (num_classes,),
    }
    state.update({name: draw(name, shape) for name, shape in shapes.items()})
    return state


def check_images(height: int, width: int) -> torch.Tensor:
    """Two very different images: noise and stripes."""
    x = np.random.RandomState(7).standard_normal((2, 3, height, width))
    x[1] = 2 * np.sin(0.2 * np.arange(width))
    return torch.from_numpy(x.astype(np.float32))
