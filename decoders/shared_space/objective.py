"""What the network minimises: contrast of brain and stimulus (BiMixCo, then SoftCLIP), regression, and image latents.

Rows of a batch may show the same stimulus, to one subject or to several. Each stimulus stands among the candidates
once, so that no row is pushed away from its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

# Of the Beta distribution from which shares are drawn, and of the rows that are mixed (Scotti et al. 2023).
_BETA, _MIXED = 0.15, 0.5


class Mixture(NamedTuple):
    """Each row becomes ``share`` of itself and 1 - ``share`` of the row ``partner``; both (row,)."""

    partner: Tensor
    share: Tensor

    def to(self, device: torch.device) -> Mixture:
        """The same on a device."""
        return Mixture(self.partner.to(device), self.share.to(device))

    def __call__(self, values: Tensor) -> Tensor:
        """Mixed rows of (row, neuroid)."""
        share = self.share[:, None].to(values)
        return share * values + (1 - share) * values[self.partner]


def draw_mixture(n: int, rng: np.random.Generator) -> Mixture:
    """Partners and shares for n rows: half of them are mixed, with shares drawn from Beta(.15, .15)."""
    partner = torch.from_numpy(rng.permutation(n))
    share = np.where(rng.random(n) < _MIXED, rng.beta(_BETA, _BETA, n), 1.0)
    return Mixture(partner, torch.from_numpy(share.astype(np.float32)))


def stack_mixtures(mixtures: Sequence[Mixture]) -> Mixture:
    """The mixture of batches that are laid one below the other."""
    starts = np.cumsum([0, *(len(m.share) for m in mixtures)])
    partners = [m.partner + int(start) for m, start in zip(mixtures, starts, strict=False)]
    return Mixture(torch.cat(partners), torch.cat([m.share for m in mixtures]))


def bimixco(decoded: Tensor, candidates: Tensor, shown: Tensor, mixture: Mixture, temperature: float) -> Tensor:
    """InfoNCE in both directions of rows that are mixtures of two, with labels mixed alike (Scotti et al. 2023, eq. 1).

    Parameters
    ----------
    decoded : (row, feature), of mixed responses. candidates : (stimulus, feature), each stimulus once.
    shown : (row,) int, position of each row's own stimulus among the candidates.
    """
    own = nn.functional.one_hot(shown, len(candidates)).to(decoded)
    labels = mixture(own)
    return _both_ways(_correlations(decoded, candidates) / temperature, labels, labels)


def soft_clip(decoded: Tensor, candidates: Tensor, shown: Tensor, temperature: float) -> Tensor:
    """Cross-entropy in both directions with labels from the candidates' similarity (Scotti et al. 2023, eq. 2).

    Parameters are those of `bimixco`; the temperature is that of logits and labels.
    """
    between = _correlations(candidates, candidates)[shown] / temperature
    return _both_ways(_correlations(decoded, candidates) / temperature, between.softmax(1), between.softmax(0))


def annealed(start: float, end: float, progress: float) -> float:
    """From `start` to `end` along a cosine while `progress` goes from 0 to 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def _correlations(x: Tensor, y: Tensor) -> Tensor:
    # Pearson r, by which stimuli are identified afterwards.
    x, y = (nn.functional.normalize(rows - rows.mean(1, keepdim=True), dim=1) for rows in (x, y))
    return x @ y.T


def _both_ways(logits: Tensor, over_candidates: Tensor, over_rows: Tensor) -> Tensor:
    # Cross-entropy of each row among candidates, and of each candidate among rows; halves of one mean.
    rows = -(over_candidates * logits.log_softmax(1)).sum() / over_candidates.sum()
    columns = -(over_rows * logits.log_softmax(0)).sum() / over_rows.sum()
    return (rows + columns) / 2
