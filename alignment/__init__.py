"""How well a model and a brain agree.

`rsa` compares geometries through dissimilarity matrices (`rdm`), against what people agree on (`rdm_noise_ceiling`);
`predictivity` asks how well features predict responses to unseen stimuli, against their noise ceiling.
"""

from __future__ import annotations

from .predictivity import predictivity
from .rdm import category_rdm, rdm
from .rsa import RSA, Ceiling, rdm_noise_ceiling, rsa

__all__ = ["RSA", "Ceiling", "category_rdm", "predictivity", "rdm", "rdm_noise_ceiling", "rsa"]
