"""The read-out fitted anew by ridge, once routing and features of each region are learnt."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from recordings.events import OnEvent, Stop, report

from ..solvers import AlphaEdgeWarning, ridge_cv
from .predictor import Predictor
from .queries import Regions
from .readouts import GroupedReadout
from .stream import TokenStream
from .targets import StandardisedResponses

_ALPHAS = tuple(np.logspace(-2, 6, 17).tolist())
_BYTES = 512 * 2**20


def refit_readout(
    module: Predictor,
    regions: Regions,
    streams: Sequence[TokenStream],
    targets: Sequence[StandardisedResponses],
    *,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> None:
    """Replace the read-out of every region by ridge from what its query gathers, with a penalty a neuroid.

    One weight decay for all neuroids suits none of them when their noise differs. Penalties are those that predict the
    validation part best from the training part; weights then come from both.

    Parameters
    ----------
    module : trained, with a query a region. streams, targets : of the training and the validation part.
    """
    readout = module.readout
    assert isinstance(readout, GroupedReadout)
    lengths = [target.shape[0] for target in targets]
    folds = [(np.arange(lengths[0]), np.arange(lengths[0], sum(lengths)))]
    weights, biases = [], []
    for number, gathered in _by_region(module, streams, len(regions.names)):
        report(on_event, stop, "refit", number, len(regions.names))
        members = regions.members(number)
        Y = np.concatenate([target.columns(members) for target in targets])
        with warnings.catch_warnings():
            # The grid ends where ridge is least squares, and where it is the mean; either may be right for a neuroid.
            warnings.simplefilter("ignore", AlphaEdgeWarning)
            fit = ridge_cv(gathered, Y, _ALPHAS, folds=folds, solver="primal", device=str(readout.weight.device))
        weights.append(np.asarray(fit.weights).T)
        biases.append(fit.intercept)
    with torch.no_grad():
        readout.weight.copy_(torch.as_tensor(np.concatenate(weights)))
        readout.bias.copy_(torch.as_tensor(np.concatenate(biases)))


def _by_region(module: Predictor, streams: Sequence[TokenStream], n_regions: int) -> Iterator[tuple[int, np.ndarray]]:
    """What each region's query gathers from all presentations, (n, d); as many regions a pass as memory allows."""
    n = sum(len(stream) for stream in streams)
    width = module.readout.weight.shape[1]
    step = max(1, _BYTES // (4 * n * width))
    for first in range(0, n_regions, step):
        queries = slice(first, min(first + step, n_regions))
        found = [_gathered(module, stream, queries) for stream in streams]
        for number in range(queries.start, queries.stop):
            yield number, np.concatenate([part[:, number - first] for part in found])


@torch.inference_mode()
def _gathered(module: Predictor, stream: TokenStream, queries: slice) -> np.ndarray:
    device = next(module.parameters()).device
    parts = []
    for batch in stream.in_order():
        shown = None if batch.shown is None else batch.shown.to(device)
        memory = module.memory([tokens.to(device) for tokens in batch.tokens], shown)
        parts.append(module.gather(memory, queries).cpu().numpy())
    return np.concatenate(parts)
