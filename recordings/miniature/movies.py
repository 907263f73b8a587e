"""Movies: a simulated subject who watches clips, run after run, and answers with a haemodynamic lag."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.signal import lfilter

from recordings.errors import InputError
from recordings.events import OnEvent, Stop, report
from recordings.recording import Recording
from recordings.stimuli import Stimuli
from recordings.subject import Subject

from .brain import SimulatedBrain, draw_noise, standardised_channels
from .captions import caption
from .clips import Clip, clip
from .cortex import SPACE
from .render import Rendered
from .scenes import Scenes


@dataclass(frozen=True)
class Movie:
    """A subject who watched a movie, and what was planted. A segment is what was shown during one repetition time (TR).

    Attributes
    ----------
    subject : the recording, one presentation a TR, and the segments as stimuli, clips (T, 64, 64, 3) uint8.
    kernel : float32 (lag,), weight of what was shown so many TRs earlier.
    channels : by region, float32 (segment, channel): standardised channels, averaged over a segment's frames.
    drive : float32 (segment, neuroid), responses without lag and noise; linear in the channels.
    signal : float32 (segment, neuroid), responses without noise: the drive of a run convolved with the kernel.
    """

    subject: Subject
    kernel: np.ndarray
    channels: dict[str, np.ndarray]
    drive: np.ndarray
    signal: np.ndarray


def simulate_movie(
    scenes: Scenes,
    *,
    seed: int = 0,
    subject: int = 0,
    runs: int = 4,
    repetitions: int = 1,
    trs_per_clip: int = 3,
    frames_per_tr: int = 8,
    tr: float = 1.0,
    kernel: ArrayLike | None = None,
    noise_ceiling: float = 0.7,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> Movie:
    """A simulated subject who watched the clip of every scene, one after another.

    Clips are shown in the order of the scenes, cut into runs of about equal length. A repetition is a pass through all
    runs, each a run of its own with the same clips in the same order, so that a segment always has the same past.
    Before a run begins nothing drives the neuroids. V1 to V4 answer to the pixels, hidden or not; category patches as
    far as their object is seen; MTL also to an object that is hidden.

    Parameters
    ----------
    scenes : one clip each, see `clip`.
    seed, subject : wiring and noise; the noise of a TR is keyed by (seed, subject, scene, TR of the clip, repetition).
    runs : of one repetition. trs_per_clip, frames_per_tr : length of a clip.
    tr : repetition time in seconds.
    kernel : (lag,), from lag 0 on; by default SPM's canonical double gamma over 32 s, sampled every `tr`.
    noise_ceiling : explainable fraction of variance of the mean over repetitions, in (0, 1), of every neuroid that
        the movie drives at all.
    on_event, stop : progress and cancellation, per clip and per block of noise.

    Returns
    -------
    Movie. Presentation coordinates: stimulus_id (``clip-<seed>-<scene>_tr<number>``), repetition, run, onset (seconds
    since the run began), clip, category. Neuroids as `simulate_subject` gives them.

    Raises
    ------
    InputError : a noise ceiling outside (0, 1), counts below 1, more runs than scenes, or no usable kernel.
    Cancelled : `stop` answered True.
    """
    counts = {"runs": runs, "repetitions": repetitions, "trs_per_clip": trs_per_clip, "frames_per_tr": frames_per_tr}
    _check(len(scenes), noise_ceiling, tr, counts)
    response = _kernel(kernel, tr)
    brain = SimulatedBrain.wire(seed, subject)
    segments, frames, channels = _show(scenes, trs_per_clip, frames_per_tr, on_event, stop)
    run_of_clip = np.arange(len(scenes)) * runs // len(scenes)
    segments["run"] = np.repeat(run_of_clip, trs_per_clip)
    drive = brain.read(channels)
    signal = _convolve(drive, segments["run"].to_numpy(), response)
    presentations = _presentations(segments, runs, repetitions, tr)
    variance = signal.var(0, dtype=np.float64)
    # A neuroid that nothing drives has noise alone.
    noise_variance = repetitions * (1 - noise_ceiling) / noise_ceiling * np.where(variance > 0, variance, 1)
    brain.neuroids["planted_noise_ceiling"] = variance / (variance + noise_variance / repetitions)
    row = presentations.pop("segment").to_numpy()
    clip_of = row // trs_per_clip
    keys = [scenes.seed[clip_of], scenes.scene_id[clip_of], row % trs_per_clip, presentations["repetition"]]
    noise = draw_noise(brain, np.column_stack(keys), on_event, stop)
    attrs = {"source": "simulated movie", "seed": seed, "subject": subject, "tr": tr, "kernel": response.tolist()}
    recording = Recording(
        signal[row] + np.sqrt(noise_variance).astype(np.float32) * noise,
        presentations,
        brain.neuroids.drop(columns="region"),
        space=SPACE,
        attrs=attrs | {"noise_ceiling": noise_ceiling},
    )
    columns = {name: values.to_numpy() for name, values in segments.drop(columns="run").items()}
    stimuli = Stimuli.from_arrays(frames, columns.pop("stimulus_id"), **columns)
    watched = Subject(f"subject-{subject + 1:02d}", recording, stimuli, {"simulated": True})
    return Movie(watched, response, channels, drive, signal)


def _check(n_clips: int, noise_ceiling: float, tr: float, counts: dict[str, int]) -> None:
    if not 0 < noise_ceiling < 1 or not tr > 0:
        raise InputError(
            f"noise ceiling {noise_ceiling}, TR {tr} s",
            where="simulate_movie",
            remedy="Give a ceiling between 0 and 1, and a TR above 0",
        )
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{name}={count}", where="simulate_movie", remedy="It must be at least 1")
    if counts["runs"] > n_clips:
        raise InputError(
            f"{counts['runs']} runs of {n_clips} clips", where="simulate_movie", remedy="Give every run a clip"
        )


def _kernel(kernel: ArrayLike | None, tr: float) -> np.ndarray:
    if kernel is None:
        from nilearn.glm.first_level import spm_hrf

        kernel = spm_hrf(tr, oversampling=1)
    response = np.asarray(kernel, np.float32)
    if response.ndim != 1 or not np.isfinite(response).all() or not response.any():
        raise InputError(
            f"kernel of shape {response.shape}",
            where="simulate_movie",
            remedy="Give one finite weight a lag, not all of them 0",
        )
    return response


def _show(
    scenes: Scenes, trs: int, frames_per_tr: int, on_event: OnEvent | None, stop: Stop | None
) -> tuple[pd.DataFrame, np.ndarray, dict[str, np.ndarray]]:
    """The segments' table, frames (segment, T, 64, 64, 3), and channels by region, averaged over frames."""
    tables, frames, found = [], np.empty((len(scenes) * trs, frames_per_tr, 64, 64, 3), np.uint8), []
    for index in range(len(scenes)):
        report(on_event, stop, "film", index, len(scenes))
        shown = clip(scenes, index, trs * frames_per_tr)
        frames[index * trs : (index + 1) * trs] = shown.frames.reshape(trs, frames_per_tr, 64, 64, 3)
        still = scenes[np.full(len(shown.frames), index)]
        pictures = Rendered(shown.frames, np.zeros(shown.silhouette.shape, np.float32), shown.silhouette)
        channels = standardised_channels(still, pictures, 1 - shown.occluded)
        found.append({name: c.reshape(trs, frames_per_tr, -1).mean(1) for name, c in channels.items()})
        tables.append(_segments(scenes[index], shown, trs))
    channels = {name: np.concatenate([c[name] for c in found]) for name in found[0]}
    return pd.concat(tables, ignore_index=True), frames, channels


def _segments(scene: Scenes, shown: Clip, trs: int) -> pd.DataFrame:
    name = f"clip-{scene.seed[0]}-{scene.scene_id[0]:06d}"
    x, y = shown.position.reshape(trs, -1, 2).mean(1).T
    moving = scene[np.zeros(trs, int)].replace(x=x, y=y)
    return pd.DataFrame(
        {
            "stimulus_id": [f"{name}_tr{number:02d}" for number in range(trs)],
            "caption": caption(moving),
            "category": scene.category_names[0],
            "clip": name,
            "tr": range(trs),
            "x": x,
            "y": y,
            "occluded": shown.occluded.reshape(trs, -1).mean(1),
        }
    )


def _convolve(drive: np.ndarray, run: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    signal = np.empty_like(drive)
    for number in np.unique(run):
        rows = run == number
        signal[rows] = lfilter(kernel, [1.0], drive[rows], axis=0)
    return signal


def _presentations(segments: pd.DataFrame, runs: int, repetitions: int, tr: float) -> pd.DataFrame:
    once = segments[["stimulus_id", "run", "clip", "category"]].copy()
    once["onset"] = tr * once.groupby("run").cumcount()
    once["segment"] = np.arange(len(once))
    passes = [once.assign(repetition=r, run=once["run"] + r * runs) for r in range(repetitions)]
    return pd.concat(passes, ignore_index=True)
