"""What the suites measure, and the bars it has to meet."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MODES = ('forward', 'training')  # training: forward and backward
STEP_SHAPES = 20


class Setting(NamedTuple):
    """How contenders run."""

    size: tuple = (800, 1280)
    batch: int = 1
    dtype: str = 'fp32'
    compiled: bool = False
    device: str = 'cpu'
    rounds: int = 9
    warmups: int = 5

    @property
    def images(self) -> Tensor:
        """A batch of noise."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, 3, *self.size)
        return torch.randn(shape, generator=generator).to(self.device)


class Bar(NamedTuple):
    """One figure that has to stay below its limit (a throughput: above)."""

    subject: str
    peer: str | None
    # 'time', 'time per GMAC', 'memory', 'throughput', 'step', 'steps': ratios; 'ms'
    quantity: str
    limit: float
    mode: str = 'forward'
    size: tuple = (800, 1280)
    batch: int = 1
    dtype: str = 'fp32'
    compiled: bool = False

    @property
    def title(self) -> str:
        """What is measured, in words."""
        height, width = self.size
        over = f' over {self.peer}' if self.peer else ''
        how = f'{self.mode}, {self.batch}x3x{height}x{width}, {self.dtype}'
        how += ', compiled' if self.compiled else ''
        if self.quantity == 'step':
            how = f'with heads and AdamW, {self.batch}x3x{height}x{width}, {self.dtype}'
        if self.quantity == 'steps':
            how = f'AdamW steps of {self.batch} images, {self.dtype}, {STEP_SHAPES} shapes'
        return f'{self.subject}{over}: {self.quantity} ({how})'

    def passes(self, value: float) -> bool:
        """Whether a value is on the right side of the limit."""
        return value >= self.limit if self.quantity == 'throughput' else value <= self.limit


W24 = "GCViT(arch='tiny', window_size=24, query_pools=(3, 2, 1, 0))"
W16 = "GCViT(arch='tiny', window_size=16, query_pools=(3, 2, 1, 0))"
W7 = "GCViT(arch='tiny')"
W7_CLS = "GCViT(arch='tiny', out_indices=(3,))"
W24_RECOMPUTED = W24[:-1] + ', with_cp=True)'
CPU_STEP = dict(mode='training', batch=2)
GPU = dict(mode='training', batch=2, dtype='bf16')
SUITES = {
    'cpu': [
        Bar(W24, 'transcription', 'time', 0.60),
        Bar(W16, 'transcription', 'time', 0.80),
        Bar(W16, 'mmdet-swin-t', 'time', 1.40),
        Bar(W24, 'transcription', 'memory', 0.70, mode='training'),
        Bar(W7, 'mmdet-swin-t', 'time', 1.12),
        Bar(W7_CLS, 'timm', 'time', 0.90, size=(224, 224)),
        Bar("ScalableViT(arch='small')", 'mmdet-swin-t', 'time per GMAC', 1.10),
        Bar("GGTransformer(arch='tiny')", 'mmdet-swin-t', 'time per GMAC', 1.10),
        Bar("GPViT(arch='L1')", 'mmdet-swin-t', 'time per GMAC', 1.20),
        Bar(W24_RECOMPUTED, W24, 'memory', 0.50, mode='training'),
    ],
    'training': [
        Bar(W16, 'mmdet-swin-t', 'time', 1.40, mode='training'),
        Bar(W7, 'mmdet-swin-t', 'time', 1.20, mode='training'),
        Bar(W16, 'mmdet-swin-t', 'time', 1.50, mode='training', dtype='bf16'),
        Bar(W7, 'mmdet-swin-t', 'time', 1.25, mode='training', dtype='bf16'),
        Bar("ScalableViT(arch='small')", 'mmdet-swin-t', 'time per GMAC', 1.15, mode='training'),
        Bar("GGTransformer(arch='tiny')", 'mmdet-swin-t', 'time per GMAC', 1.10, mode='training'),
        Bar("GPViT(arch='L1')", 'mmdet-swin-t', 'time per GMAC', 1.25, mode='training'),
        Bar(
            'configs/mask_gcvit_t_1x.py',
            'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
            'step',
            1.20,
            size=(480, 640),
            **CPU_STEP,
        ),
        Bar(
            'configs/upernet_gcvit_t_160k.py',
            'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
            'step',
            1.15,
            size=(512, 512),
            **CPU_STEP,
        ),
        Bar(W16, 'mmdet-swin-t', 'memory', 1.10, mode='training'),
        Bar(W7_CLS, 'timm', 'time', 0.85, mode='training', size=(224, 224)),
        Bar(W7_CLS, 'mmdet-swin-t', 'time', 1.25, mode='training', size=(224, 224)),
    ],
    'gpu': [
        Bar(W24, 'transcription', 'time', 0.50, **GPU),
        Bar(W16, 'transcription', 'time', 0.55, **GPU),
        Bar(W7, 'transcription', 'time', 0.77, **GPU),
        Bar(W24, 'transcription', 'memory', 0.70, **GPU),
        # Four times the memory traffic of a perfectly fused forward pass on an H100.
        Bar(W24, None, 'ms', 4 * 1.3, batch=2, dtype='bf16', compiled=True),
        Bar(W7, 'mmdet-swin-t', 'throughput', 0.80, size=(224, 224), batch=128, dtype='bf16'),
        Bar(
            'configs/mask_gcvit_t_3x.py',
            'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py',
            'steps',
            1.15,
            **GPU,
        ),
    ],
}
# Families of --growth: what runs, and the power of the pixels that its attention takes.
FAMILIES = {
    'GC ViT-T': (W7, '1'),
    'GC ViT-T, windows 16': (W16, '1'),
    'GG-T': ("GGTransformer(arch='tiny')", '1'),
    'GPViT-L1': ("GPViT(arch='L1')", '1.5 (stripes)'),
    'ScalableViT-S': ("ScalableViT(arch='small')", '1 (IWSA), 2 (SSA)'),
}
