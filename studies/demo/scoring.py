"""The demo's alignment score: how well the model that the simulated brain was built from matches it."""

from __future__ import annotations

from alignment import predictivity
from recordings import Score
from recordings.events import OnEvent, Stop
from studies.report import Section

from .world import World


def score(world: World, seed: int, n_bootstrap: int, on_event: OnEvent | None, stop: Stop | None) -> Score:
    """Predictivity of the true scene features, each scene predicted by a fit on the others."""
    return predictivity(
        world.true_features,
        world.subject.recording,
        ceiling=world.ceiling,
        n_bootstrap=n_bootstrap,
        seed=seed,
        on_event=on_event,
        stop=stop,
    )


def alignment_section(score: Score) -> Section:
    """How close the true model comes to the noise ceiling."""
    return Section(
        "alignment",
        "Alignment: how well a model matches a brain",
        {"center": score.center, "interval": score.interval, "n_neuroids": int(score.mask.sum())},
    )
