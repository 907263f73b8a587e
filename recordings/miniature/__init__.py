"""The miniature world: procedural scenes with images, depth, captions, meshes and clips, and
subjects who saw them.

It lets every method run on a laptop without a network, against a truth that is known. It is never to be mistaken for
real data.
"""

from __future__ import annotations

from .brain import SimulatedBrain, simulate_subject, true_features
from .captions import caption
from .clips import Clip, clip
from .meshes import mesh, sdf
from .movies import Movie, simulate_movie
from .pictures import make_stimuli
from .render import Rendered, render
from .scenes import CATEGORIES, GROUPS, Scenes

__all__ = [
    "CATEGORIES",
    "GROUPS",
    "Clip",
    "Movie",
    "Rendered",
    "Scenes",
    "SimulatedBrain",
    "caption",
    "clip",
    "make_stimuli",
    "mesh",
    "render",
    "sdf",
    "simulate_movie",
    "simulate_subject",
    "true_features",
]
