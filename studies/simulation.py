"""Subjects of the miniature world on disk, each beside what was planted in it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from recordings import Subject
from recordings.errors import InputError
from recordings.events import OnEvent, Stop
from recordings.miniature import Scenes, render
from recordings.miniature.brain import SimulatedBrain, simulate_subject
from recordings.storage import atomic_path

from .plan import Plan, extrapolate, resident_memory

TRUTH = "truth.npz"


def simulate_world(
    out: Path,
    scenes: int = 1000,
    subjects: int = 1,
    *,
    noise_ceiling: float = 0.7,
    repetitions: int = 3,
    sessions: int = 1,
    seed: int = 0,
    overwrite: bool = False,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> list[Subject]:
    """Write ``out/subject-01``, ..., all of whom saw the same scenes; a subject that is there already is refused.

    Parameters
    ----------
    scenes, subjects, repetitions, sessions : how many of each; see `simulate_subject`.
    noise_ceiling : of the mean over repetitions, fraction of variance.

    Returns
    -------
    Subjects that read from there. ``truth.npz`` in each folder holds everything planted (`SimulatedBrain.save`).
    """
    folders = [out / subject_name(number) for number in range(subjects)]
    for folder in folders:
        if folder.exists() and not overwrite:
            raise InputError("exists already", where=folder, remedy="Choose another folder or pass --overwrite")
    shown = Scenes.sample(scenes, seed=seed)
    rendered = render(shown, on_event=on_event, stop=stop)
    how: dict[str, Any] = {"noise_ceiling": noise_ceiling, "repetitions": repetitions, "sessions": sessions}
    for number, folder in enumerate(folders):
        subject = simulate_subject(shown, rendered, seed=seed, subject=number, on_event=on_event, stop=stop, **how)
        with atomic_path(folder, overwrite=overwrite) as part:
            subject.save(part)
            brain = SimulatedBrain.wire(seed, number)
            brain.neuroids["planted_noise_ceiling"] = subject.recording.neuroid("planted_noise_ceiling")
            brain.save(part / TRUTH)
    return [Subject.load(folder) for folder in folders]


def subject_name(number: int) -> str:
    """Name of a simulated subject, counted from 0."""
    return f"subject-{number + 1:02d}"


def ceiling_from_snr(snr: float, repetitions: int) -> float:
    """Noise ceiling of a mean over repetitions: snr^2 / (snr^2 + 1/n), snr a ratio of s.d. (Allen et al. 2022)."""
    return snr**2 / (snr**2 + 1 / repetitions)


def plan_world(scenes: int, subjects: int, repetitions: int = 3, seed: int = 0) -> Plan:
    """Cost of `simulate_world`, from worlds of a few scenes."""

    def simulate(n: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            simulate_world(Path(folder), n, repetitions=repetitions, seed=seed)

    fixed, one_subject = extrapolate(simulate, scenes, first=min(16, scenes))
    _, drawing = extrapolate(lambda n: render(Scenes.sample(n, seed=seed)), scenes, first=16)
    neuroids = len(SimulatedBrain.wire(seed, 0).neuroids)
    responses, images = 4 * scenes * repetitions * neuroids, scenes * 64 * 64 * 8
    seconds = fixed + drawing + subjects * max(one_subject - drawing, 0)
    return Plan(seconds, resident_memory() + 3 * responses + images, subjects * responses)
