"""Layout of the released ScalableViT checkpoints."""

from .layout import Layout

_LICENCE = "the authors' ScalableViT weights carry no licence: ask the authors before using them"

_RELEASED = Layout(
    "the authors' ScalableViT",
    marks=(r'^patch_embeds\.0\.proj\.', r'^pos_block\.0\.'),
    rules=(
        (r'^patch_embeds\.0\.', 'patch_embed.'),
        *((rf'^patch_embeds\.{i + 1}\.', f'stages.{i}.downsample.') for i in range(3)),
        (r'^stages\.(\d+)\.(\d+)\.', r'stages.\1.blocks.\2.'),
        (r'^pos_block\.(\d+)\.proj\.0\.', r'stages.\1.peg.'),
        (r'\.attn\.lim_func\.', '.attn.v_conv.'),
        (r'\.attn\.norm_act\.0\.', '.attn.norm.'),
        (r'^norm\.', 'norm3.'),
        (r'^head\.(weight|bias)$', r'head.fc.\1'),
        (r'^head\.0\.', 'head.layers.0.fc.'),
        (r'^head\.1\.', 'head.layers.0.norm.'),
        (r'^head\.3\.', 'head.layers.1.fc.'),
    ),
    licence=_LICENCE,
)

LAYOUTS = (_RELEASED,)
