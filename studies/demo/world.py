"""The demo's world: scenes, one simulated subject who saw them, and the noise ceiling of its responses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from decoders.miniature.pictures import nearness
from encoders import Features
from recordings import Recording, Subject, check_split, noise_ceiling, split_by_value
from recordings.events import OnEvent, Stop
from recordings.miniature import Scenes, render
from recordings.miniature.brain import simulate_subject, true_features
from studies.report import Section
from studies.report.charts import ceilings_by_roi
from studies.report.images import photograph

from .regions import COLOURS, by_region, region_maps

_SAMPLES = 24


NOISE_CEILING, REPETITIONS = 0.7, 3
SUBJECT = "subject-01"


@dataclass(frozen=True)
class World:
    """What was simulated.

    Attributes
    ----------
    subject : single presentations, with its stimuli; the presentation coordinate ``split`` says train or test.
    train, test : stimulus ids.
    true_features : the channels that the regions read, of all scenes.
    ceiling, planted : (neuroid,) estimated and true noise ceiling of the mean over repetitions, fraction of variance.
    silhouettes : bool (scene, height, width), True on the object, of the training and then the held-out scenes.
    nearness : float16 (scene, height, width) of the same scenes, larger is nearer; see `nearness`.
    """

    subject: Subject
    train: list[str]
    test: list[str]
    true_features: Features
    ceiling: np.ndarray
    planted: np.ndarray
    silhouettes: np.ndarray
    nearness: np.ndarray

    @property
    def ceiling_error(self) -> float:
        """Mean absolute error of the estimated noise ceilings."""
        return float(np.mean(np.abs(self.ceiling - self.planted)))

    def part(self, split: str) -> Recording:
        """Single presentations of the "train" or the "test" scenes."""
        return self.subject.recording.where(split=split)


def simulate(folder: Path, n_train: int, n_test: int, seed: int, on_event: OnEvent | None, stop: Stop | None) -> World:
    """Simulate a subject who sees `n_train` + `n_test` scenes, and write it to ``folder/subject-01``."""
    scenes = Scenes.sample(n_train + n_test, seed=seed)
    rendered = render(scenes, on_event=on_event, stop=stop)
    subject = simulate_subject(
        scenes,
        rendered,
        seed=seed,
        noise_ceiling=NOISE_CEILING,
        repetitions=REPETITIONS,
        on_event=on_event,
        stop=stop,
    )
    ids = [str(name) for name in scenes.stimulus_id]
    recording = subject.recording
    ceiling = noise_ceiling(recording)
    recording = Recording(
        recording.values,
        recording.presentations.assign(split=np.where(np.isin(recording.stimulus_ids, ids[:n_train]), "train", "test")),
        recording.neuroids.assign(noise_ceiling=ceiling),
        space=recording.space,
        attrs=recording.attrs,
    )
    check_split(recording, split_by_value(recording, "split", ["test"]), subject.stimuli)
    subject = replace(subject, recording=recording).save(folder / SUBJECT, overwrite=True)
    truth = Features.from_arrays(true_features(scenes, rendered), ids, uri="truth", layer="channels")
    planted = recording.neuroid("planted_noise_ceiling")
    near = nearness(rendered.depth).astype(np.float16)
    return World(subject, ids[:n_train], ids[n_train:], truth, ceiling, planted, rendered.silhouette, near)


def world_section(world: World) -> Section:
    """Sample scenes, the planted regions on the cortex, and the noise ceiling found again."""
    recording, stimuli = world.subject.recording, world.subject.stimuli
    estimated, planted = by_region(recording, world.ceiling), by_region(recording, world.planted)
    return Section(
        "world",
        "What was simulated",
        {
            "n_train": len(world.train),
            "n_test": len(world.test),
            "repetitions": len(recording) // len(stimuli),
            "scenes": [photograph(stimuli.load(i), stimuli.captions[i]) for i in range(min(_SAMPLES, len(stimuli)))],
            "colours": COLOURS,
            "regions": region_maps(recording),
            "n_neuroids": recording.n_neuroids,
            "sizes": {name: int(recording.roi_mask(name).sum()) for name in COLOURS},
            "ceiling_error": world.ceiling_error,
            "ceilings": ceilings_by_roi(estimated, planted, _ceiling_alt(estimated, planted)),
        },
    )


def _ceiling_alt(estimated: dict[str, np.ndarray], planted: dict[str, np.ndarray]) -> str:
    found = ", ".join(f"{roi} {np.median(e):.2f} (planted {planted[roi].mean():.2f})" for roi, e in estimated.items())
    return f"Median estimated noise ceiling by region: {found}."
