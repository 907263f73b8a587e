"""A plain training step of the transformer brain encoder, as its paper describes it, to measure Penfield against.

Written from the description alone (Adeli, Minni & Kriegeskorte 2025, arXiv 2505.17329): a frozen ViT-B/14 in the loop
whose last block's query vectors are the tokens, one decoder layer of 25 queries a hemisphere, a read-out of every
vertex of a hemisphere from each of its queries, masked by region and summed, a loss per hemisphere, AdamW and a clipped
gradient. Nothing here is made slow on purpose: the backbone runs without gradients and with fused attention.
"""

from __future__ import annotations

import math

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN, HEADS, FEEDFORWARD, PATCH = 768, 16, 1024, 14
GRID = (31, 31)
LEARNING_RATE, WEIGHT_DECAY, CLIP = 5e-4, 1e-4, 0.1
VERTICES = {"L": 19_004, "R": 20_544}
# About what a subject of the Natural Scenes Dataset has in one hemisphere; all other vertices are the 25th region.
ROI_SIZES = {
    "V1v": 700, "V1d": 750, "V2v": 650, "V2d": 650, "V3v": 600, "V3d": 600, "hV4": 500,
    "EBA": 2200, "FBA-1": 400, "FBA-2": 500, "mTL-bodies": 120,
    "OFA": 350, "FFA-1": 450, "FFA-2": 400, "mTL-faces": 100, "aTL-faces": 150,
    "OPA": 1300, "PPA": 1000, "RSC": 700,
    "OWFA": 450, "VWFA-1": 600, "VWFA-2": 450, "mfs-words": 350, "mTL-words": 200,
}  # fmt: skip


def region_labels(n_vertices: int, rng: np.random.Generator) -> np.ndarray:
    """Region of each vertex of a hemisphere, int (vertex,), 0 to 24, in patches of neighbours as on a surface."""
    share = min(1.0, n_vertices / VERTICES["L"])
    sizes = [max(1, int(size * share)) for size in ROI_SIZES.values()]
    sizes.append(n_vertices - sum(sizes))
    pieces = [(region, piece) for region, size in enumerate(sizes) for piece in np.array_split(np.arange(size), 2)]
    order = rng.permutation(len(pieces))
    return np.concatenate([np.full(len(pieces[i][1]), pieces[i][0]) for i in order])


class FrozenBackbone(nn.Module):
    """ViT-B/14 with random weights: images (B, 3, 434, 434) to the last block's query vectors (B, 961, 768)."""

    def __init__(self) -> None:
        super().__init__()
        size = tuple(PATCH * n for n in GRID)
        self.model = timm.create_model("vit_base_patch14_dinov2", pretrained=False, img_size=size, num_classes=0)
        self.model.eval().requires_grad_(False)
        self.model.blocks[-1].attn.qkv.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self.queries = output[:, self.model.num_prefix_tokens :, :HIDDEN]

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        self.model.forward_features(images)
        return self.queries


class OriginalEncoder(nn.Module):
    """Every query times every vertex of its hemisphere, then a mask.

    Parameters
    ----------
    regions : region of each vertex of the left and of the right hemisphere, int (vertex,).
    dropout : of attention weights, feed-forward layer and residuals.
    """

    def __init__(self, regions: tuple[np.ndarray, np.ndarray], dropout: float = 0.1) -> None:
        super().__init__()
        self.n_queries = [int(r.max()) + 1 for r in regions]
        self.register_buffer("position", detr_position(*GRID, HIDDEN))
        self.query = nn.Embedding(sum(self.n_queries), HIDDEN)
        self.attention = nn.MultiheadAttention(HIDDEN, HEADS, dropout, batch_first=True)
        self.norm1, self.norm2, self.norm = (nn.LayerNorm(HIDDEN) for _ in range(3))
        self.expand, self.contract = nn.Linear(HIDDEN, FEEDFORWARD), nn.Linear(FEEDFORWARD, HIDDEN)
        self.dropout = nn.Dropout(dropout)
        for weight in (p for p in self.parameters() if p.ndim > 1):
            nn.init.xavier_uniform_(weight)
        self.readouts = nn.ModuleList(nn.Linear(HIDDEN, len(r)) for r in regions)
        for side, (region, n) in enumerate(zip(regions, self.n_queries, strict=True)):
            self.register_buffer(f"mask{side}", F.one_hot(torch.as_tensor(region), n).T.float())

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """Tokens (B, 961, 768) to responses of the left and of the right hemisphere, (B, vertex)."""
        target = tokens.new_zeros(len(tokens), sum(self.n_queries), HIDDEN)
        asked = self.norm1(target) + self.query.weight
        found, _ = self.attention(asked, tokens + self.position, tokens)
        hidden = target + self.dropout(found)
        inner = self.dropout(F.relu(self.expand(self.norm2(hidden))))
        hidden = self.norm(hidden + self.dropout(self.contract(inner)))
        sides = zip(hidden.split(self.n_queries, 1), self.readouts, (self.mask0, self.mask1), strict=True)
        return [(readout(queries) * mask).sum(1) for queries, readout, mask in sides]


def detr_position(rows: int, columns: int, channels: int) -> Tensor:
    """Sine code of a grid, (token, channels): half of the channels for the row, half for the column."""
    share = channels // 2
    period = 10_000 ** (2 * (torch.arange(share) // 2) / share)

    def code(size: int) -> Tensor:
        angle = torch.arange(1, size + 1)[:, None] / size * 2 * math.pi / period
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], 2).flatten(1)

    row, column = code(rows)[:, None].expand(-1, columns, -1), code(columns)[None].expand(rows, -1, -1)
    return torch.cat([row, column], 2).flatten(0, 1)


def hemisphere_loss(
    predicted: list[Tensor] | tuple[Tensor, ...], measured: list[Tensor] | tuple[Tensor, ...]
) -> Tensor:
    """Mean squared error of the left hemisphere plus that of the right."""
    return torch.stack([F.mse_loss(p, y) for p, y in zip(predicted, measured, strict=True)]).sum()


def make_optimiser(encoder: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(encoder.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)


def train_step(
    encoder: OriginalEncoder,
    optimiser: torch.optim.AdamW,
    inputs: Tensor,
    measured: list[Tensor],
    backbone: FrozenBackbone | None = None,
) -> None:
    """One step on images (with a backbone) or on tokens."""
    tokens = inputs if backbone is None else backbone(inputs)
    loss = hemisphere_loss(encoder(tokens), measured)
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(encoder.parameters(), CLIP)
    optimiser.step()
