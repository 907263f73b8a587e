"""The demo's transformer encoder: queries of regions attend to tokens; its score beside ridge, and where it looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from encoders import Features, RidgeEncoder
from encoders.attention import AttentionMaps, TransformerEncoder
from recordings import Recording
from recordings.ceilings import MINIMUM_CEILING
from recordings.events import OnEvent, Stop, report
from recordings.miniature import GROUPS
from recordings.statistics import bootstrap_interval, correlate
from studies.encoding import solver_device

from .encoding import Model, score_model
from .encoding_page import EncoderScore
from .regions import SCORED
from .world import World

SOURCE = "tokens"
PATCHES = tuple(GROUPS)
FLATTENED = Model(
    "flattened_ridge",
    "flattened ridge",
    "all tokens of the three layers side by side, every place with weights of its own",
    SOURCE,
)
TRANSFORMER = Model(
    "transformer",
    "transformer",
    "one query a region and hemisphere attends to the same tokens; neuroids read what their query has gathered",
    SOURCE,
)
# One thread fits this in about 40 seconds.
SETTINGS: dict[str, Any] = {"hidden": 384, "n_heads": 8, "epochs": 12, "learning_rate": 1e-3}
# Training scenes by which a head is chosen.
N_LOOKS = 300


@dataclass(frozen=True)
class Patch:
    """What the queries of a category patch, left and right, look at; means of the two.

    Attributes
    ----------
    name : of the patch. n_with : held-out scenes with its object, n_without : those without.
    on_object : share of scenes with the object in which the peak of attention, averaged over heads, lies on it.
    by_chance : the same for a peak put anywhere. on_others : as `on_object`, on the objects of the other scenes.
    mass : share of attention on the object. area : share of the picture that the object covers.
    entropy_with, entropy_without : mean entropy, where the object is there and where not, of the head that differed
        most in the training scenes; 1 is attention spread evenly.
    """

    name: str
    n_with: int
    n_without: int
    on_object: float
    by_chance: float
    on_others: float
    mass: float
    area: float
    entropy_with: float
    entropy_without: float


@dataclass(frozen=True)
class Attended:
    """The transformer encoder beside ridge on the same tokens, and its attention to the held-out scenes.

    Attributes
    ----------
    ridge, transformer : their scores.
    gain : region to (mean, low, high), transformer minus ridge, with an interval over scenes, which both share.
    maps : attention to the held-out scenes, one query a region and hemisphere, head by head.
    patches : what the category patches look at.
    """

    ridge: EncoderScore
    transformer: EncoderScore
    gain: dict[str, tuple[float, float, float]]
    maps: AttentionMaps
    patches: list[Patch]

    @property
    def on_object(self) -> float:
        """Share of held-out scenes with a patch's object in which that patch's attention peaks on it."""
        return _mean_over_scenes(self.patches, "on_object")

    @property
    def by_chance(self) -> float:
        """The same for a peak put anywhere."""
        return _mean_over_scenes(self.patches, "by_chance")

    @property
    def entropy_with(self) -> float:
        """Mean entropy of the chosen heads, over patches, where the object is there."""
        return float(np.mean([patch.entropy_with for patch in self.patches]))

    @property
    def entropy_without(self) -> float:
        """The same where it is not."""
        return float(np.mean([patch.entropy_without for patch in self.patches]))


def attend(
    world: World,
    tokens: Mapping[str, Features],
    folder: Path,
    seed: int,
    n_bootstrap: int,
    device: str,
    on_event: OnEvent | None,
    stop: Stop | None,
) -> Attended:
    """Fit ridge and the transformer encoder to the tokens of the training scenes, save it below `folder`, score both.

    Parameters
    ----------
    tokens : by layer, (stimulus, token, channel).
    """
    train, test = (world.part(split).average_repetitions() for split in ("train", "test"))
    ids = list(test.stimulus_ids.astype(str))
    report(on_event, stop, "attend", 0, 3, model=FLATTENED.key)
    # Not saved: a fit in kernel form holds the features that it was fitted on, 150 MB of them.
    ridge = RidgeEncoder(solver="kernel", device=solver_device(device))
    flattened = ridge.fit(tokens, train, on_event=on_event, stop=stop).predict(tokens, ids)
    report(on_event, stop, "attend", 1, 3, model=TRANSFORMER.key)
    encoder = TransformerEncoder("roi", **SETTINGS, seed=seed, device=device)
    encoder.fit(tokens, train, on_event=on_event, stop=stop)
    encoder.save_pretrained(folder / TRANSFORMER.key, overwrite=True)
    attended = encoder.predict(tokens, ids)
    report(on_event, stop, "attend", 2, 3)
    maps, training = (
        encoder.attention(tokens, part, per_head=True, on_event=on_event, stop=stop)
        for part in (world.test, world.train[:N_LOOKS])
    )
    how = (test, world.ceiling, n_bootstrap, seed)
    return Attended(
        score_model(FLATTENED, flattened, *how),
        score_model(TRANSFORMER, attended, *how),
        gains(flattened, attended, *how),
        maps,
        watch(maps, training, world),
    )


def gains(
    before: np.ndarray, after: np.ndarray, test: Recording, ceiling: np.ndarray, n_bootstrap: int, seed: int
) -> dict[str, tuple[float, float, float]]:
    """Gain in mean noise-normalised r by region, with its 95 % bootstrap interval over stimuli: (mean, low, high).

    Parameters
    ----------
    before, after : predictions (stimulus, neuroid), rows as in `test`, which is averaged over repetitions.
    ceiling : (neuroid,) fraction of variance; neuroids below `MINIMUM_CEILING` are left out.
    """
    found = {}
    for roi in SCORED:
        inside = test.roi_mask(roi) & (ceiling >= MINIMUM_CEILING)
        parts = (test.values[:, inside], before[:, inside], after[:, inside], np.sqrt(ceiling[inside]))
        gain = partial(_mean_gain, *parts)
        interval = bootstrap_interval(gain, len(test), n_resamples=n_bootstrap, seed=seed)
        found[roi] = (gain(np.arange(len(test))), *interval)
    return found


def _mean_gain(y: np.ndarray, before: np.ndarray, after: np.ndarray, reachable: np.ndarray, rows: np.ndarray) -> float:
    gain = correlate(y[rows], after[rows]) - correlate(y[rows], before[rows])
    return float(np.nanmean(gain / reachable))


def watch(maps: AttentionMaps, training: AttentionMaps, world: World) -> list[Patch]:
    """Whether patches look at their objects.

    One head may look at an object that another looks away from, so that the entropy of their mean says little. The head
    is chosen on training scenes, and told about on held-out ones.

    Parameters
    ----------
    maps, training : of the held-out and of some training scenes, head by head, with queries "L PATCH" and "R PATCH".
    """
    groups, masks = shown_groups(world, maps.stimulus_ids), silhouettes_of(world, maps.stimulus_ids)
    known = shown_groups(world, training.stimulus_ids)
    return [_watched(_of_patch(maps, name), _of_patch(training, name), name, groups, known, masks) for name in PATCHES]


def _of_patch(maps: AttentionMaps, name: str) -> AttentionMaps:
    return maps.select(queries=[f"L {name}", f"R {name}"])


def _watched(
    maps: AttentionMaps, training: AttentionMaps, name: str, groups: np.ndarray, known: np.ndarray, masks: np.ndarray
) -> Patch:
    there = groups == name
    ids = np.asarray(maps.stimulus_ids)
    shown, others = maps.select(ids[there].tolist()), maps.select(ids[~there].tolist())
    on_object, by_chance = shown.peak_on(masks[there])
    on_others, _ = others.peak_on(masks[~there])
    mass, area = shown.mass_on(masks[there])
    before = training.entropy(relative=True)
    heads = (before[known != name].mean(0) - before[known == name].mean(0)).argmax(-1)
    entropy = np.take_along_axis(maps.entropy(relative=True), heads[None, :, None], -1)
    return Patch(
        name,
        int(there.sum()),
        int((~there).sum()),
        float(on_object.mean()),
        by_chance,
        float(on_others.mean()),
        float(mass.mean()),
        float(area.mean()),
        float(entropy[there].mean()),
        float(entropy[~there].mean()),
    )


def shown_groups(world: World, stimulus_ids: Sequence[str]) -> np.ndarray:
    """(scene,) name of the patch whose object each scene shows, "" for none."""
    group = world.subject.stimuli.select(stimulus_ids).table["group"].astype(str).to_numpy()
    return np.where(np.isin(group, PATCHES), group, "")


def silhouettes_of(world: World, stimulus_ids: Sequence[str]) -> np.ndarray:
    """bool (scene, height, width), True on the object."""
    row = {name: k for k, name in enumerate([*world.train, *world.test])}
    return world.silhouettes[[row[name] for name in stimulus_ids]]


def _mean_over_scenes(patches: list[Patch], what: str) -> float:
    return float(np.average([getattr(p, what) for p in patches], weights=[p.n_with for p in patches]))
