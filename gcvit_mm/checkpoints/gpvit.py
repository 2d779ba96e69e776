"""Layout of the released GPViT checkpoints: classifiers, detectors with adapter, segmentors."""

from .layout import Layout

_RELEASED = Layout(
    "the authors' GPViT",
    marks=(r'^patch_embed\.stem\.0\.', r'^layers\.\d+\.(qkv|un_group_layer)\.'),
    rules=(
        (r'^pos_embed$', 'pos_embed.weight'),
        (r'^ln1\.', 'norm11.'),
        (r'^(level_embed$|spm\.|interactions\.|up\.)', r'adapter.\1'),
        (r'^ad_norm1\.', 'adapter.norm_s4.'),
        (r'^ad_norm2\.', 'adapter.norm_s8.'),
        (r'^ad_norm3\.', 'adapter.norm_s16.'),
        (r'^ad_norm4\.', 'adapter.norm_s32.'),
        (r'\.ffn\.dwconv\.dwconv\.', '.ffn.dwconv.'),
        # local layers
        (r'^(layers\.\d+)\.(qkv|proj)\.', r'\1.attn.\2.'),
        (r'^(layers\.\d+)\.attns\.(\d)\.get_v\.', r'\1.attn.v_convs.\2.'),
        (r'^(layers\.\d+)\.ffn\.layers\.0\.0\.', r'\1.mlp.fc1.'),
        (r'^(layers\.\d+)\.ffn\.layers\.1\.', r'\1.mlp.fc2.'),
        # group propagation
        (r'\.group_layer\.attn\.k_proj\.', '.group_attn.k.'),
        (r'\.group_layer\.', '.group_attn.'),
        (r'\.mixer\.layers\.0\.(patch|channel)_mixer\.0\.', r'.propagation.\1_mixer.fc1.'),
        (r'\.mixer\.layers\.0\.(patch|channel)_mixer\.3\.', r'.propagation.\1_mixer.fc2.'),
        (r'\.mixer\.layers\.0\.', '.propagation.'),
        (r'\.un_group_layer\.attn\.([qkv])_proj\.', r'.ungroup_attn.\1.'),
        (r'\.un_group_layer\.attn\.proj\.', '.ungroup_attn.proj.'),
        (r'\.un_group_layer\.proj\.', '.fuse.'),
        (r'\.un_group_layer\.norm2\.', '.norm2.'),
        (r'\.un_group_layer\.ffn\.layers\.0\.0\.', '.mlp.fc1.'),
        (r'\.un_group_layer\.ffn\.layers\.1\.', '.mlp.fc2.'),
        (r'\.un_group_layer\.', '.ungroup_attn.'),
        (r'^(layers\.\d+)\.dwconv\.', r'\1.conv.'),
    ),
    rest_rules=(
        (r'^neck\.attn\.k_proj\.', 'neck.attn.k.'),
        (r'^neck\.norm_query\.', 'neck.attn.norm_query.'),
    ),
)

LAYOUTS = (_RELEASED,)
