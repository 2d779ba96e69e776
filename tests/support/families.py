"""A small backbone of every family; a new family is added here."""

import torch

from gcvit_mm import GCViT, GGDeiT, GGTransformer, GPViT, GPViTAdapter, ScalableViT

GG = dict(embed_dims=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), mlp_ratio=2.0)
DEIT = dict(embed_dims=16, depths=(2,), num_heads=2, mlp_ratio=2.0, drop_path_rate=0.0)
SCALABLE = dict(
    embed_dims=(16, 32, 64, 128),
    depths=(2, 2, 2, 2),
    num_heads=(1, 2, 4, 8),
    c_ratios=(1.25, 2, 0.5, 1),
    sr_ratios=(8, 4, 2, 1),
    mlp_ratio=2.0,
    window_size=7,
)
GP = dict(
    embed_dims=24,
    depth=4,
    num_heads=4,
    group_heads=2,
    groups={1: 8, 3: 4},
    mlp_ratio=2.0,
    stripe=2,
    stem_convs=1,
)
FAMILIES = {
    'gcvit': (GCViT, dict(GG, layer_scale=None, window_size=(7, 7, 14, 7))),
    'scalablevit': (ScalableViT, SCALABLE),
    'gg': (GGTransformer, GG),
    'gg_deit': (GGDeiT, DEIT),
    'gpvit': (GPViT, GP),
    'gpvit_adapter': (GPViTAdapter, GP),
}


def make(family, drop_path_rate=0.0, few=None, **kwargs):
    """A small backbone of a family, with weights that all matter; ``few`` changes its arch."""
    cls, arch = FAMILIES[family]
    model = cls({**arch, 'drop_path_rate': drop_path_rate, **(few or {})}, **kwargs)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn_like(p))
    return model


def strides(family):
    """Strides of the maps."""
    return dict(gg_deit=(16,), gpvit=(8,)).get(family, (4, 8, 16, 32))


def model_stages(family):
    """Number of stages (of layers, where each is one)."""
    return 1 if family == 'gg_deit' else 4


# A block of each kind, where each takes seconds: to trace, to export.
FEW = dict(
    gcvit=dict(depths=(2, 1, 1, 1)),
    scalablevit=dict(depths=(2, 1, 1, 1)),
    gg=dict(depths=(1, 1, 1, 1)),
    gg_deit=dict(depths=(1,)),
    gpvit=dict(depth=2, groups={1: 8}),
    gpvit_adapter=dict(depth=2, groups={1: 8}),
)


def shallow(family, **kwargs):
    """A backbone of few blocks, with weights that all matter."""
    if family == 'gpvit_adapter':
        kwargs.setdefault('num_interactions', 1)
    return make(family, few=FEW[family], **kwargs)


# Two stages of the pyramids, one interaction of the adapter.
PARTS = {
    **{family: dict(out_indices=(0, 1)) for family in ('gcvit', 'scalablevit', 'gg')},
    'gpvit_adapter': dict(num_interactions=1, hidden_dims=16),
}
