"""What each place adds to a neuroid's predicted response: attention times what the neuroid reads from the values."""

from __future__ import annotations

import torch
from torch import Tensor

from .modules import Attention, SpatialMap
from .predictor import Predictor
from .queries import Regions


def contributions(module: Predictor, regions: Regions, memory: tuple[Tensor, ...], neuroids: Tensor) -> Tensor:
    """Contribution of each token to the standardised responses of some neuroids, (B, v, T).

    For neuroid v that reads weights w from query q, token t adds w' J O V_h x_t a_qht summed over heads h: its value,
    through the output projection O and the layer norm J, times its attention (Kobayashi et al. 2020). For a static map
    m it is w' x_t m_vt. Contributions and a constant add up to the response; of attention that holds without a
    feed-forward layer, whose part, like that of earlier layers, is left out otherwise.

    Of a finite impulse response each delay of each row is a picture, (B x delay, v, T), read with the weights of the
    neuroid's strongest delay; delays that reach beyond their run are left out.

    Parameters
    ----------
    memory : of the tokens, see `Predictor.memory`. neuroids : (v,) int, all of one region where queries are a region's.
    """
    queries = neuroids if module.by_neuroid else torch.as_tensor(regions.index[neuroids[:1].cpu().numpy()])
    read = module.read_weights(neuroids)
    if module.fir:
        present, memory = memory[-1].flatten(), memory[:-1]
        delays = read.unflatten(1, (-1, module.routing.channels))
        strongest = delays.norm(dim=2).argmax(1)
        read = delays[torch.arange(len(delays)), strongest]
        return _of_routing(module.routing, memory, queries, read)[present]
    return _of_routing(module.routing, memory, queries, read)


def _of_routing(routing: Attention | SpatialMap, memory: tuple[Tensor, ...], queries: Tensor, read: Tensor) -> Tensor:
    if isinstance(routing, Attention):
        return routing.contributions(memory, queries, read)
    return (memory[0] @ read.T).mT * routing.maps(queries)
