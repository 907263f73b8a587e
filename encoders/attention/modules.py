"""Routings: how queries gather a picture's tokens, by attention, by a fixed map, or by a Gaussian receptive field.

A routing turns tokens into its memory once (`memory`), and lets any of its queries gather from it (`gather`), so that
many queries can be served part by part.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .position import position_code, token_centres

# Adam moves a parameter by about the learning rate a step; maps must move further than weights to find their place.
_MAP_GAIN = 10.0
_PLACE_GAIN = 3.0
_SMALLEST, _LARGEST = 0.05, 2.0


class Attention(nn.Module):
    """Decoder of learned queries that attend to tokens (Adeli et al. 2025, section 3; DETR's decoder, pre-norm).

    Keys come from tokens plus a code of their place, values from tokens. The first layer's queries are the same
    for every picture; a deeper layer's also hold what the layer before has gathered.

    Parameters
    ----------
    n_queries : learned queries. channels : C of the tokens. grid : of the tokens.
    hidden : d, split among `n_heads`. n_layers : decoder layers.
    n_self_attention : layers in which tokens attend to each other before queries attend to them.
    feedforward : width of the feed-forward layer; 0 leaves it out.
    dropout : of feed-forward layers and residuals. attention_dropout : of attention weights; above 0 it rules out the
        fused kernels.
    fold_keys : bring queries to the tokens' space instead of tokens to the queries'; the same numbers, fewer operations
        where queries times heads are well below d (four heads: 1.8 times faster; sixteen: slower). One layer only.
    position : code of places, see `position_code`.
    """

    position: Tensor

    def __init__(
        self,
        n_queries: int,
        channels: int,
        grid: tuple[int, ...],
        *,
        hidden: int,
        n_heads: int,
        n_layers: int = 1,
        n_self_attention: int = 0,
        feedforward: int = 1024,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        fold_keys: bool = False,
        position: str = "fourier",
    ) -> None:
        super().__init__()
        self.n_heads, self.fold_keys, self.attention_dropout = n_heads, fold_keys, attention_dropout
        self.channels = hidden
        # Small, so that queries attend to every place at first; they hardly leave a place they began with by chance.
        self.query = nn.Parameter(0.1 * torch.randn(n_queries, hidden))
        self.register_buffer("position", position_code(position, grid, channels), persistent=False)
        self.tokens = nn.ModuleList(
            nn.TransformerEncoderLayer(
                channels, _heads_that_divide(channels, n_heads), feedforward or channels, dropout,
                batch_first=True, norm_first=True,
            )
            for _ in range(n_self_attention)
        )  # fmt: skip
        self.layers = nn.ModuleList(
            _DecoderLayer(channels, hidden, feedforward, dropout, first=number == 0) for number in range(n_layers)
        )
        self.norm = nn.LayerNorm(hidden)

    def memory(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """Keys and values of each layer, (B, head, T, d / head), or the tokens themselves where keys are folded.

        `mask` (B, T) is False at tokens that nothing may attend to; it follows at the end.
        """
        if mask is not None:
            # Before a run begins nothing is shown, and a softmax over nothing would be NaN.
            mask = mask | ~mask.any(1, keepdim=True)
        for layer in self.tokens:
            tokens = layer(tokens + self.position, src_key_padding_mask=None if mask is None else ~mask)
        if self.fold_keys:
            found: tuple[Tensor, ...] = (tokens,)
        else:
            keyed = tokens + self.position
            found = tuple(
                m for layer in self._decoder for m in (self._split(layer.key(keyed)), self._split(layer.value(tokens)))
            )
        return found if mask is None else (*found, mask)

    def gather(self, memory: tuple[Tensor, ...], queries: slice = slice(None)) -> Tensor:
        """What the given queries gather, (B, query, d)."""
        return self.norm(self._run(memory, queries)[0])

    def weights(self, memory: tuple[Tensor, ...], queries: slice | Tensor = slice(None)) -> Tensor:
        """Attention of the last layer, (B, query, head, T), summing to 1 over tokens."""
        return self._run(memory, queries, last_weights=True)[1]

    def contributions(self, memory: tuple[Tensor, ...], queries: Tensor, read: Tensor) -> Tensor:
        """What each token adds to what is read with weights `read` (v, d) from queries (v,) or (1,); (B, v, T).

        Through the last layer's values, output projection and final norm, without its feed-forward layer.
        """
        hidden, attention = self._run(memory, queries, last_weights=True)
        layer = self._decoder[-1]
        values = self._split(layer.value(memory[0])) if self.fold_keys else memory[2 * len(self.layers) - 1]
        through_norm = read * self.norm.weight
        through_norm = through_norm - through_norm.mean(1, keepdim=True)
        of_value = (through_norm @ layer.out.weight).unflatten(1, (self.n_heads, -1))
        scale = (hidden.var(-1, unbiased=False) + self.norm.eps).sqrt()
        added = torch.einsum("bhte,vhe,bvht->bvt", values, of_value, attention.expand(-1, len(read), -1, -1))
        return added / scale[..., None]

    def _run(
        self, memory: tuple[Tensor, ...], queries: slice | Tensor, last_weights: bool = False
    ) -> tuple[Tensor, Tensor]:
        """What queries have gathered before the final norm, and the last layer's attention if asked for."""
        asked = self.query[queries]
        memory, mask = (memory[:-1], memory[-1][:, None, None]) if memory[-1].dtype == torch.bool else (memory, None)
        gathered, seen = None, asked.new_empty(0)
        for number, layer in enumerate(self._decoder):
            query = layer.query(asked if gathered is None else layer.norm1(gathered) + asked)
            if self.fold_keys:
                found, seen = self._folded(layer, query, memory[0], mask)
            else:
                query = self._split(query.expand(len(memory[0]), -1, -1) if query.ndim == 2 else query)
                key, value = memory[2 * number : 2 * number + 2]
                p = self.attention_dropout if self.training else 0.0
                found = _joined(F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=p))
                if last_weights and number == len(self.layers) - 1:
                    seen = _softmax(query @ key.mT / math.sqrt(query.shape[-1]), mask).transpose(1, 2)
            gathered = layer(found, gathered)
        assert gathered is not None
        return gathered, seen

    def _folded(
        self, layer: _DecoderLayer, query: Tensor, tokens: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Attention of image-independent queries, with the key's and the value's projections moved onto the queries.

        The key's bias adds the same to all tokens and leaves the softmax as it is.
        """
        heads = query.unflatten(-1, (self.n_heads, -1))
        key = layer.key.weight.unflatten(0, (self.n_heads, -1))
        folded = torch.einsum("qhe,hec->hqc", heads, key) / math.sqrt(heads.shape[-1])
        n = folded.shape[0] * folded.shape[1]
        flat = folded.reshape(n, -1)
        logits = tokens @ flat.T + self.position @ flat.T
        weights = _softmax(logits.mT.unflatten(1, (self.n_heads, -1)), mask)
        if self.training and self.attention_dropout:
            weights = F.dropout(weights, self.attention_dropout)
        pooled = (weights.flatten(1, 2) @ tokens).unflatten(1, (self.n_heads, -1))
        value = layer.value.weight.unflatten(0, (self.n_heads, -1))
        found = torch.einsum("bhqc,hec->bqhe", pooled, value).flatten(2) + layer.value.bias
        return found, weights.transpose(1, 2)

    @property
    def _decoder(self) -> list[_DecoderLayer]:
        return cast("list[_DecoderLayer]", list(self.layers))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)


class _DecoderLayer(nn.Module):
    """Cross-attention's projections, and what follows it: residual, norm and feed-forward layer."""

    def __init__(self, channels: int, hidden: int, feedforward: int, dropout: float, first: bool) -> None:
        super().__init__()
        self.query, self.out = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.key, self.value = nn.Linear(channels, hidden, bias=False), nn.Linear(channels, hidden)
        self.norm1 = nn.Identity() if first else nn.LayerNorm(hidden)
        self.norm2 = nn.LayerNorm(hidden) if feedforward else nn.Identity()
        self.expand = nn.Linear(hidden, feedforward) if feedforward else None
        self.contract = nn.Linear(feedforward, hidden) if feedforward else None
        self.dropout = nn.Dropout(dropout)
        for weight in (p for p in self.parameters() if p.ndim > 1):
            nn.init.xavier_uniform_(weight)

    def forward(self, found: Tensor, gathered: Tensor | None) -> Tensor:
        found = self.dropout(self.out(found))
        hidden = found if gathered is None else gathered + found
        if self.expand is None or self.contract is None:
            return hidden
        inner = self.dropout(F.relu(self.expand(self.norm2(hidden))))
        return hidden + self.dropout(self.contract(inner))


class SpatialMap(nn.Module):
    """One softmax map a query over the places of the grid, the same for every picture: space and features factorised.

    Parameters
    ----------
    n_queries : maps. channels : C of the tokens, which are pooled as they are. grid : of the tokens.
    """

    n_heads = 1

    def __init__(self, n_queries: int, channels: int, grid: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = channels
        self.logits = nn.Parameter(torch.zeros(n_queries, math.prod(grid)))

    def maps(self, queries: slice | Tensor = slice(None)) -> Tensor:
        """(query, T), summing to 1 over tokens."""
        return (_MAP_GAIN * self.logits[queries]).softmax(-1)

    def memory(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """The tokens; those that `mask` (B, T) rules out count as 0."""
        return (tokens if mask is None else tokens * mask[..., None],)

    def gather(self, memory: tuple[Tensor, ...], queries: slice = slice(None)) -> Tensor:
        """Tokens pooled by the given queries' maps, (B, query, C)."""
        return self.maps(queries) @ memory[0]

    def weights(self, memory: tuple[Tensor, ...], queries: slice | Tensor = slice(None)) -> Tensor:
        """The maps, (B, query, 1, T)."""
        return self.maps(queries)[None, :, None].expand(len(memory[0]), -1, -1, -1)


class GaussianField(SpatialMap):
    """One Gaussian receptive field a query (St-Yves & Naselaris 2018): centre and s.d., in units of half the image.

    The s.d. lies between a twentieth of half the image and the whole image. Frames of a clip share the field.
    """

    centres: Tensor

    def __init__(self, n_queries: int, channels: int, grid: tuple[int, ...]) -> None:
        nn.Module.__init__(self)
        self.channels = channels
        self.place = nn.Parameter(torch.zeros(n_queries, 2))
        # Wide fields first: a narrow one that starts far from its place has no slope to follow.
        self.extent = nn.Parameter(torch.full((n_queries,), 0.6 / _PLACE_GAIN))
        self.register_buffer("centres", torch.as_tensor(token_centres(grid)), persistent=False)

    def fields(self, queries: slice | Tensor = slice(None)) -> tuple[Tensor, Tensor]:
        """Centres (query, 2) and standard deviations (query,)."""
        bounded = torch.sigmoid(_PLACE_GAIN * self.extent[queries])
        return _PLACE_GAIN * self.place[queries], _SMALLEST * (_LARGEST / _SMALLEST) ** bounded

    def maps(self, queries: slice | Tensor = slice(None)) -> Tensor:
        centre, sigma = self.fields(queries)
        square = (centre[:, None] - self.centres).square().sum(-1)
        return (-0.5 * square / sigma[:, None] ** 2).softmax(-1)


def _softmax(logits: Tensor, mask: Tensor | None) -> Tensor:
    return (logits if mask is None else logits.masked_fill(~mask, -torch.inf)).softmax(-1)


def _joined(heads: Tensor) -> Tensor:
    return heads.transpose(-3, -2).flatten(-2)


def _heads_that_divide(channels: int, wanted: int) -> int:
    return max(n for n in range(1, wanted + 1) if channels % n == 0)
