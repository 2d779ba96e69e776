"""DINO from an image to boxes, written so that it can be traced."""

from typing import Any, Sequence, Tuple

import torch
from torch import Tensor

from ..errors import UserError
from ..ops.deform_attn import sample
from .detectors import Detector

Sizes = Sequence[Tuple[Any, Any]]


class DINO(Detector):
    """DINO (arXiv 2203.03605), on mmdet's parts; images of a batch have one size."""

    opset = 16  # GridSample

    def forward(self, image: Tensor) -> Tuple[Tensor, ...]:
        """Images (B, C, H, W), normalised -> boxes (N, 4), scores, labels and images (N,); N is B
        times the ``max_per_img`` of the config.

        Raises:
            UserError: If an image has fewer tokens than there are queries.
        """
        feats = self.feats(image)
        sizes = [(feat.shape[2], feat.shape[3]) for feat in feats]
        memory = self.encode(feats, sizes)
        least = self.model.num_queries
        if not torch.jit.is_tracing() and memory.shape[1] < least:
            height, width = image.shape[2:]
            raise UserError(
                f'images of {height}x{width} have {memory.shape[1]} tokens, and DINO chooses '
                f'{least} of them: take larger images, e.g. --size {2 * height} {2 * width}'
            )
        query, boxes = self.propose(memory, sizes)
        query, boxes = self.decode(memory, query, boxes, sizes)
        return self.results(query, boxes, *image.shape[2:])

    def encode(self, feats: Sequence[Tensor], sizes: Sizes) -> Tensor:
        """Maps (B, C, h, w) of all levels -> tokens (B, N, C), which have looked at each other."""
        model = self.model
        tokens = torch.cat([to_tokens(feat) for feat in feats], 1)
        positions = torch.cat(
            [
                to_tokens(model.positional_encoding(None, input=feat[:1])) + level
                for feat, level in zip(feats, model.level_embed)
            ],
            1,
        )
        centres = torch.cat([middles(height, width, tokens) for height, width in sizes])[None]
        # offsets are in tokens of the level that is looked at
        extents = torch.stack(
            [tokens.new_ones(2) / scale(height, width, tokens) for height, width in sizes]
        )
        for layer in model.encoder.layers:
            attended = attend(
                layer.self_attn, tokens + positions, tokens, centres, extents[:, None], sizes
            )
            tokens = layer.norms[0](tokens + attended)
            tokens = layer.norms[1](layer.ffn(tokens))
        return tokens

    def propose(self, memory: Tensor, sizes: Sizes) -> Tuple[Tensor, Tensor]:
        """Tokens (B, N, C) -> queries (B, Q, C) and the boxes (B, Q, 4) that they begin with."""
        model, last = self.model, self.model.decoder.num_layers
        boxes = torch.cat(
            [
                torch.cat([centres, torch.full_like(centres, 0.05 * 2**level)], 1)
                for level, centres in enumerate(middles(h, w, memory) for h, w in sizes)
            ]
        )
        useful = ((boxes > 0.01) & (boxes < 0.99)).all(1, keepdim=True)
        boxes = torch.log(boxes / (1 - boxes)).masked_fill(~useful, float('inf'))
        tokens = model.memory_trans_norm(
            model.memory_trans_fc(memory.masked_fill(~useful, 0.0)),
        )
        scores = model.bbox_head.cls_branches[last](tokens).amax(2)
        boxes = model.bbox_head.reg_branches[last](tokens) + boxes
        chosen = scores.topk(model.num_queries, 1)[1][..., None].expand(-1, -1, 4)
        query = model.query_embedding.weight.expand(memory.shape[0], -1, -1)
        return query, boxes.gather(1, chosen).sigmoid()

    def decode(
        self, memory: Tensor, query: Tensor, reference: Tensor, sizes: Sizes
    ) -> Tuple[Tensor, Tensor]:
        """Queries (B, Q, C) and boxes (B, Q, 4) -> queries of the last layer, and its boxes."""
        from mmdet.models.layers.transformer.utils import coordinate_to_encoding, inverse_sigmoid

        decoder = self.model.decoder
        # releases of mmdet differ in how many numbers stand for a coordinate
        numbers = decoder.ref_point_head.layers[0].in_features // 4
        for i, layer in enumerate(decoder.layers):
            before = reference
            place = decoder.ref_point_head(coordinate_to_encoding(reference, num_feats=numbers))
            query = layer.norms[0](
                layer.self_attn(query, query, query, query_pos=place, key_pos=place)
            )
            attn = layer.cross_attn
            spread = reference[..., 2:] * (0.5 / attn.num_points)
            attended = attend(
                attn,
                query + place,
                memory,
                reference[..., :2],
                spread[:, :, None, None, None],
                sizes,
            )
            query = layer.norms[1](query + attended)
            query = layer.norms[2](layer.ffn(query))
            moves = self.model.bbox_head.reg_branches[i](query)
            reference = (moves + inverse_sigmoid(reference, eps=1e-3)).sigmoid()
        query = decoder.norm(query)
        moves = self.model.bbox_head.reg_branches[i](query)
        return query, (moves + inverse_sigmoid(before)).sigmoid()

    def results(
        self, query: Tensor, reference: Tensor, height: Any, width: Any
    ) -> Tuple[Tensor, ...]:
        """Queries (B, Q, C) and boxes (B, Q, 4) as centre and size -> what ``forward`` gives."""
        head = self.model.bbox_head
        scores = head.cls_branches[self.model.decoder.num_layers - 1](query).sigmoid()
        most = head.test_cfg.get('max_per_img', self.model.num_queries)
        scores, places = scores.flatten(1).topk(most, 1)
        index, labels = places // head.num_classes, places % head.num_classes
        images = torch.arange(query.shape[0], device=query.device)[:, None].expand_as(labels)
        boxes = reference.gather(1, index[..., None].expand(-1, -1, 4)).flatten(0, 1)
        half = boxes[:, 2:] * 0.5
        corners = torch.stack([boxes[:, :2] - half, boxes[:, :2] + half], 1)  # (N, 2, 2)
        x, y = (
            (corners[..., i] * end).clamp(min=0).clamp(max=end)
            for i, end in enumerate((width, height))
        )
        boxes = torch.stack([x, y], 2).flatten(1)
        return boxes, scores.flatten(), labels.flatten(), images.flatten()


def to_tokens(x: Tensor) -> Tensor:
    """Map (B, C, H, W) -> tokens (B, H * W, C)."""
    # not flatten(), which takes the batch for a constant behind a GroupNorm
    return x.reshape(x.shape[0], x.shape[1], -1).transpose(1, 2)


def scale(height: Any, width: Any, like: Tensor) -> Tensor:
    """Width and height of a map as a tensor (2,)."""
    sides = [torch.scalar_tensor(side, dtype=like.dtype) for side in (width, height)]
    return torch.stack(sides).to(like.device)


def middles(height: Any, width: Any, like: Tensor) -> Tensor:
    """Middles of the tokens of a map, (H * W, 2) as x, y in 0..1, row by row."""
    x, y = (
        (torch.arange(side, device=like.device).to(like.dtype) + 0.5) / side
        for side in (width, height)
    )
    grid = [x.expand(height, width), y[:, None].expand(height, width)]
    return torch.stack(grid, 2).flatten(0, 1)


def attend(
    attn: Any, query: Tensor, value: Tensor, reference: Tensor, spread: Tensor, sizes: Sizes
) -> Tensor:
    """Attend as mmcv's ``MultiScaleDeformableAttention``, without the residual.

    Args:
        attn: The module.
        query: Queries (B, Q, C), their positions added.
        value: Tokens (B, N, C) of all levels.
        reference: Middles of the points, (1 or B, Q, 2) as x, y in 0..1.
        spread: What an offset of 1 is, broadcast over (B, Q, heads, levels, points, 2).
        sizes: ``(H, W)`` of every level.

    Returns:
        Tensor (B, Q, C).
    """
    batch, queries, _ = query.shape
    shape = (attn.num_heads, attn.num_levels, attn.num_points)
    offsets = attn.sampling_offsets(query).view(batch, queries, *shape, 2)
    weights = attn.attention_weights(query).view(batch, queries, attn.num_heads, -1).softmax(-1)
    locations = reference[:, :, None, None, None] + offsets * spread
    value = attn.value_proj(value)
    values = value.view(batch, -1, attn.num_heads, value.shape[2] // attn.num_heads)
    return attn.output_proj(sample(values, sizes, locations, weights.view(batch, queries, *shape)))
