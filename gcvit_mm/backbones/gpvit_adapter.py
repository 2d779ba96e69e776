"""GPViT with a ViT-Adapter beside it: four maps of strides 4 to 32, for detection."""

from typing import Sequence, Tuple, Union

import torch
from mmengine.registry import MODELS
from torch import Tensor
from typing_extensions import Unpack

from ..layers import crop, pad_image, run_block
from .gpvit import GPViT, GPViTArgs
from .vit_adapter import ViTAdapter


@MODELS.register_module()
class GPViTAdapter(GPViT):
    """GPViT with a ViT-Adapter.

    Takes images of any size: they are zero-padded to multiples of 32, and the maps cropped to
    sides ceil(side / stride). Takes the arguments of :class:`GPViT` as well, but for
    ``out_indices``.

    Args:
        arch: As :class:`GPViT`; its ``depth`` is a multiple of ``num_interactions``.
        out_strides: Strides of the maps, some of (4, 8, 16, 32), ascending. (8, 16, 32) for
            RetinaNet.
        num_interactions: Exchanges between adapter and transformer.
        hidden_dims: Channels of the adapter's first convolutions.
        num_points: Points that deformable attention samples a head and level.
        adapter_mlp_ratio: Hidden channels of the adapter's feed-forward parts over C.
        deform_impl: Deformable attention by mmcv's compiled op ('mmcv', needs a GPU), in plain
            torch ('torch'), or by the former where it can run ('auto').
        gpvit_args: Other arguments of :class:`GPViT`.

    Raises:
        TypeError: For unknown arguments.
        ValueError: For values out of range.

    Example:
        >>> import torch
        >>> from gcvit_mm import GPViTAdapter
        >>> model = GPViTAdapter('L1').eval()
        >>> [tuple(out.shape) for out in model(torch.zeros(1, 3, 65, 97))]
        [(1, 216, 17, 25), (1, 216, 9, 13), (1, 216, 5, 7), (1, 216, 3, 4)]
    """

    arch_zoo = {name: GPViT.arch_zoo[name] for name in ('L1', 'L2', 'L3', 'L4')}
    not_taken = ('out_indices',)

    def __init__(
        self,
        arch: Union[str, dict] = 'L1',
        out_strides: Sequence[int] = (4, 8, 16, 32),
        num_interactions: int = 4,
        hidden_dims: int = 64,
        num_points: int = 4,
        adapter_mlp_ratio: float = 0.25,
        deform_impl: str = 'auto',
        **gpvit_args: Unpack[GPViTArgs],
    ) -> None:
        super().__init__(arch, **gpvit_args)
        settings = self.arch_settings
        if self.patch_size != 8:
            raise ValueError(f'the adapter needs patch_size=8, got {self.patch_size}')
        if num_interactions < 1 or settings['depth'] % num_interactions:
            raise ValueError(
                f"num_interactions must divide the arch's depth of {settings['depth']}, got "
                f'{num_interactions}'
            )
        each = settings['depth'] // num_interactions
        self._exchanges = [slice(k * each, (k + 1) * each) for k in range(num_interactions)]
        self.adapter = ViTAdapter(
            settings['embed_dims'],
            num_interactions,
            out_strides,
            in_channels=self.in_channels,
            hidden_dims=hidden_dims,
            num_heads=settings['group_heads'],
            num_points=num_points,
            mlp_ratio=adapter_mlp_ratio,
            drop_path=self.drop_path_rate,
            norm_cfg=self.norm_cfg,
            conv_norm_cfg=self.conv_norm_cfg,
            deform_impl=deform_impl,
            with_cp=[any(self.recomputed[layers]) for layers in self._exchanges],
        )
        self.adapter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.out_strides = self.adapter.out_strides
        self.out_channels = (settings['embed_dims'],) * len(self.out_strides)

    def _finish_layers(self, embed_dims: Sequence[int]) -> None:
        self.finish(embed_dims, norms=False)

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute the maps of ``out_strides``.

        Args:
            x: Images (B, in_channels, H, W).

        Returns:
            For every stride s a map (B, C, ceil(H / s), ceil(W / s)).

        Raises:
            ValueError: If ``x`` has another number of dimensions or channels.
        """
        self.check_image(x)
        height, width = x.shape[2:]
        x = pad_image(x, 32)
        outs = self.adapter(x, self.embed(x), self._run_layers)
        return tuple(
            crop(out, (height + s - 1) // s, (width + s - 1) // s, first=2)
            for s, out in zip(self.out_strides, outs)
        )

    def _run_layers(self, exchange: int, x: Tensor) -> Tensor:
        """Run the layers that belong to an exchange on a map (B, h, w, C)."""
        layers = self._exchanges[exchange]
        for layer, with_cp in zip(self.layers[layers], self.recomputed[layers]):
            x = run_block(layer, with_cp, x)
        return x
