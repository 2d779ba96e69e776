"""Layouts of released GC ViT checkpoints: the authors', timm's."""

from .layout import Layout

_LICENCE = 'the released GC ViT weights are CC BY-NC-SA 4.0: no commercial use'

# The MB block: depthwise convolution, squeeze-excitation, pointwise convolution.
_NVLABS_MBCONV = (
    (r'\.conv\.0\.weight$', '.dwconv.weight'),
    (r'\.conv\.2\.fc\.0\.', '.se.fc1.'),
    (r'\.conv\.2\.fc\.2\.', '.se.fc2.'),
    (r'\.conv\.3\.weight$', '.pwconv.weight'),
)

_NVLABS = Layout(
    "the authors' GC ViT",
    marks=(r'^patch_embed\.conv_down\.', r'^levels\.0\.blocks\.'),
    rules=(
        *_NVLABS_MBCONV,
        (r'^patch_embed\.conv_down\.', 'patch_embed.down.'),
        (r'^levels\.', 'stages.'),
        (r'\.(down|downsample)\.(dwconv|se|pwconv)\.', r'.\1.mbconv.\2.'),
        (r'\.q_global_gen\.to_q_global\.', '.query_generator.blocks.'),
        (r'\.attn\.relative_position', '.attn.rel_pos.relative_position'),
        (r'^norm\.', 'norm3.'),
        (r'^head\.(weight|bias)$', r'head.fc.\1'),
    ),
    drop=(r'\.relative_position_index$',),
    licence=_LICENCE,
)


def _timm_rules() -> tuple:
    previous_stage = tuple(
        (rf'^stages\.{i + 1}\.downsample\.', f'stages.{i}.downsample.') for i in range(3)
    )
    count_from_0 = tuple(
        (rf'\.global_block\.blocks\.conv{n + 1}\.', f'.query_generator.blocks.{n}.')
        for n in range(3)
    )
    return (
        (r'^stem\.conv1\.', 'patch_embed.proj.'),
        (r'^stem\.down\.', 'patch_embed.down.'),
        *previous_stage,
        *count_from_0,
        (r'\.conv_block\.', '.mbconv.'),
        (r'\.conv_dw\.', '.dwconv.'),
        (r'\.conv_pw\.', '.pwconv.'),
        (r'\.ls([12])\.gamma$', r'.gamma\1'),
        (r'^stages\.3\.norm\.', 'norm3.'),
    )


_TIMM = Layout(
    "timm's GC ViT",
    marks=(r'^stem\.down\.conv_block\.', r'^stages\.0\.global_block\.'),
    rules=_timm_rules(),
    squeeze=(r'\.se\.fc[12]\.weight$',),
    licence=_LICENCE,
)

LAYOUTS = (_NVLABS, _TIMM)
