"""Simulated brains: what a subject who looked at scenes would have answered, with everything planted written down."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from recordings.errors import FormatError, InputError, disk_full_as_error
from recordings.events import OnEvent, Stop, report
from recordings.recording import Recording
from recordings.subject import Subject

from .channels import N_ORIENTATIONS, RETINAS, channels, gaussian
from .cortex import REGIONS, RETINOTOPIC, SPACE, layout
from .pictures import make_stimuli
from .render import Rendered, render
from .scenes import GROUPS, Scenes

_REFERENCE = {"n": 600, "seed": 7_919}
_NOISE_STREAM, _WIRING_STREAM, _ORDER_STREAM, _CEILING_STREAM = 1, 2, 3, 4
_JITTER = 0.05
_TUNING = 1.5
# Weight of an object's look against its presence, both of unit variance.
_LOOK = 1.0
# Share of MTL's noise variance that shifts its whole code, as another object would. No average over neuroids removes
# it, so that categories are mistaken for each other.
_SHARED_NOISE = 0.5


@dataclass(frozen=True)
class SimulatedBrain:
    """One subject's wiring: planted receptive fields and tuning, from (seed, subject) alone.

    Attributes
    ----------
    neuroids : `cortex.layout` with the columns planted_x, planted_y, planted_size (receptive field, units of half the
        image, NaN without a map).
    weights : by region, (channel, neuroid) on channels standardised by the reference scenes; a neuroid's noiseless
        response has mean 0 and variance 1 over these.
    shared_noise : (source, neuroid), loadings of noise of unit variance on sources that neuroids have in common; 0
        outside MTL. The rest of each neuroid's noise is its own.
    """

    seed: int
    subject: int
    neuroids: pd.DataFrame
    weights: dict[str, np.ndarray]
    shared_noise: np.ndarray

    @classmethod
    def wire(cls, seed: int = 0, subject: int = 0) -> SimulatedBrain:
        """Draw receptive fields and tuning. Subjects share the layout and differ in both."""
        rng = np.random.default_rng([seed, subject, _WIRING_STREAM])
        neuroids = layout()
        jitter = rng.normal(0, _JITTER, (len(neuroids), 2))
        inside = np.sign(neuroids["field_x"]) * (neuroids["field_x"] + jitter[:, 0]).abs()
        neuroids["planted_x"] = inside.clip(-0.75, 0.75)
        neuroids["planted_y"] = (neuroids["field_y"] + jitter[:, 1]).clip(-0.75, 0.75)
        neuroids["planted_size"] = neuroids["region"].map({n: RETINAS[n].size for n in RETINOTOPIC})
        _, std, covariance = _reference()
        weights = {}
        for name in REGIONS:
            rows = neuroids[neuroids["region"] == name]
            raw = _receptive_fields(name, rows, rng) if name in RETINOTOPIC else _mixtures(name, len(rows), rng)
            raw = raw * (std[name][:, None] if name in RETINOTOPIC else 1)
            variance = np.einsum("cn,cd,dn->n", raw, covariance[name], raw)
            weights[name] = (raw / np.sqrt(variance)).astype(np.float32)
        shared = np.zeros((len(covariance["MTL"]), len(neuroids)), np.float32)
        shared[:, neuroids["region"] == "MTL"] = np.sqrt(_SHARED_NOISE) * _root(covariance["MTL"]).T @ weights["MTL"]
        return cls(seed, subject, neuroids.drop(columns=["field_x", "field_y"]), weights, shared)

    def respond(self, scenes: Scenes, rendered: Rendered) -> np.ndarray:
        """Noiseless responses, (n, neuroid) float32; a scene's do not depend on the others."""
        return self.read(standardised_channels(scenes, rendered))

    def read(self, features: dict[str, np.ndarray]) -> np.ndarray:
        """Noiseless responses to `standardised_channels`, (n, neuroid) float32."""
        responses = np.empty((len(features["V1"]), len(self.neuroids)), np.float32)
        for name, weights in self.weights.items():
            responses[:, self.neuroids["region"] == name] = features[name] @ weights
        return responses

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything planted to an .npz: each column of `neuroids`, ``weights.<region>``, ``shared_noise``."""
        columns = {c: self.neuroids[c].to_numpy() for c in self.neuroids}
        plain = {c: v.astype(str) if v.dtype == object else v for c, v in columns.items()}
        weights = {f"weights.{name}": w for name, w in self.weights.items()}
        fixed = {"seed": self.seed, "subject": self.subject, "shared_noise": self.shared_noise}
        with disk_full_as_error(path):
            np.savez_compressed(Path(path), **(fixed | plain | weights))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> SimulatedBrain:
        """Read what `save` wrote; `FormatError` if it is another file or a damaged one."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                planted = dict(archive)
            seed, subject, shared = (planted.pop(name) for name in ("seed", "subject", "shared_noise"))
            weights = {name: planted.pop(f"weights.{name}") for name in REGIONS}
            return cls(int(seed), int(subject), pd.DataFrame(planted), weights, shared)
        except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
            raise FormatError(
                f"not the planted truth of a simulated brain ({error!r})",
                where=path,
                remedy="Give the truth.npz beside a simulated recording",
            ) from error


def simulate_subject(
    scenes: Scenes,
    rendered: Rendered | None = None,
    *,
    seed: int = 0,
    subject: int = 0,
    noise_ceiling: float | tuple[float, float] = 0.7,
    repetitions: int = 3,
    sessions: int = 1,
    session_offset: float = 0.0,
    session_gain: float = 0.0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> Subject:
    """A simulated subject who saw every scene `repetitions` times, in shuffled order.

    Response = noiseless response + Gaussian noise of variance repetitions (1 - NC) / NC, so that the mean over all
    repetitions has the noise ceiling NC. Half the noise of MTL is shared (`SimulatedBrain.shared_noise`).

    Parameters
    ----------
    scenes, rendered : what was shown; rendered here if not given.
    seed, subject : wiring, order and noise follow from these; noise is keyed by (seed, subject, scene, repetition).
    noise_ceiling : NC, fraction of variance in (0, 1), of the mean over repetitions; of two, each neuroid's own is
        drawn uniformly from between them.
    sessions : how many sessions the presentations are spread over.
    session_offset, session_gain : s.d. over sessions of an added constant and of a relative gain, neuroid by neuroid.

    Returns
    -------
    Subject; its neuroids carry planted_x, planted_y, planted_size and planted_noise_ceiling, the last for the variance
    that the shown scenes really have.

    Raises
    ------
    InputError : a noise ceiling outside (0, 1), or fewer than one repetition or session.
    """
    low, high = (float(limit) for limit in np.broadcast_to(noise_ceiling, 2))
    if not 0 < low <= high < 1 or repetitions < 1 or not 1 <= sessions <= len(scenes) * repetitions:
        raise InputError(
            f"noise ceiling {noise_ceiling}, {repetitions} repetitions, {sessions} sessions",
            where="simulate_subject",
            remedy="Give a ceiling between 0 and 1, and at least one repetition and session",
        )
    rendered = render(scenes, on_event=on_event, stop=stop) if rendered is None else rendered
    brain = SimulatedBrain.wire(seed, subject)
    signal = brain.respond(scenes, rendered)
    ceiling = np.random.default_rng([seed, subject, _CEILING_STREAM]).uniform(low, high, signal.shape[1])
    noise_variance = repetitions * (1 - ceiling) / ceiling
    shown = signal.var(0, dtype=np.float64)
    brain.neuroids["planted_noise_ceiling"] = shown / (shown + noise_variance / repetitions)
    table = _presentations(scenes, repetitions, sessions, np.random.default_rng([seed, subject, _ORDER_STREAM]))
    shown_as = np.column_stack([scenes.seed[table["row"]], scenes.scene_id[table["row"]], table["repetition"]])
    noise = draw_noise(brain, shown_as, on_event, stop)
    values = signal[table["row"]] + np.sqrt(noise_variance).astype(np.float32) * noise
    values = _drift(values, table["session"].to_numpy(), session_offset, session_gain, brain)
    recording = Recording(
        values.astype(np.float32),
        table.drop(columns="row"),
        brain.neuroids.drop(columns="region"),
        space=SPACE,
        attrs={"source": "simulated", "seed": seed, "subject": subject, "noise_ceiling": noise_ceiling},
    )
    return Subject(
        f"subject-{subject + 1:02d}", recording, make_stimuli(scenes, rendered=rendered), {"simulated": True}
    )


def true_features(scenes: Scenes, rendered: Rendered, regions: tuple[str, ...] = tuple(REGIONS)) -> np.ndarray:
    """The channels that the simulated regions read, standardised, side by side, (n, channel) float32."""
    features = standardised_channels(scenes, rendered)
    return np.concatenate([features[name] for name in regions], 1)


def standardised_channels(scenes: Scenes, rendered: Rendered, seen: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """`channels` by region, flattened to (n, channel) and standardised by the reference scenes."""
    mean, std, _ = _reference()
    flat = {name: c.reshape(len(scenes), -1) for name, c in channels(scenes, rendered, seen).items()}
    return {name: (c - mean[name]) / std[name] for name, c in flat.items()}


@lru_cache(1)
def _reference() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    # Constants of the world, so that a scene's response does not depend on what else is simulated.
    scenes = Scenes.sample(_REFERENCE["n"], seed=_REFERENCE["seed"])
    found = {k: c.reshape(len(scenes), -1).astype(np.float64) for k, c in channels(scenes, render(scenes)).items()}
    mean = {k: c.mean(0) for k, c in found.items()}
    std = {k: np.maximum(c.std(0), 1e-6) for k, c in found.items()}
    covariance = {k: np.cov(((c - mean[k]) / std[k]).T, bias=True) for k, c in found.items()}
    single = {k: v.astype(np.float32) for k, v in mean.items()}, {k: v.astype(np.float32) for k, v in std.items()}
    return *single, covariance


def _receptive_fields(name: str, rows: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    # Weights on raw channels, (bump x channel, neuroid): place times tuning.
    retina = RETINAS[name]
    place = gaussian(retina.centres, rows[["planted_x", "planted_y"]].to_numpy(), retina.spread / 32)
    tuning = _tuning(name, len(rows), rng)
    return np.einsum("bn,cn->bcn", place, tuning).reshape(-1, len(rows))


def _tuning(name: str, n: int, rng: np.random.Generator) -> np.ndarray:
    if name in ("V1", "V2"):
        preferred = np.pi * np.arange(N_ORIENTATIONS)[:, None] / N_ORIENTATIONS - rng.uniform(0, np.pi, n)
        return np.exp(_TUNING * np.cos(2 * preferred))
    if name == "V3":
        # The two maps have different units; each gets a share of the variance between a third and two thirds.
        _, std, _ = _reference()
        share = rng.uniform(1 / 3, 2 / 3, n)
        scale = std["V3"].reshape(-1, 2).mean(0)
        return np.stack([share / scale[0], (1 - share) / scale[1]])
    return rng.normal(size=(3, n))


def _mixtures(name: str, n: int, rng: np.random.Generator) -> np.ndarray:
    weights = rng.normal(size=(_reference()[0][name].size, n))
    if name == "MTL":
        return weights
    # A patch answers to its group, a little to the others, and as much to how its own object looks.
    presence, look = weights[: len(GROUPS)], weights[len(GROUPS) :]
    presence *= 0.1
    presence[list(GROUPS).index(name)] += 1
    look *= _LOOK / np.linalg.norm(look, axis=0)
    return weights


def _presentations(scenes: Scenes, repetitions: int, sessions: int, rng: np.random.Generator) -> pd.DataFrame:
    # Each repetition is one pass through all scenes, in an order of its own.
    rows = np.concatenate([rng.permutation(len(scenes)) for _ in range(repetitions)])
    session = np.arange(len(rows)) * sessions // len(rows)
    return pd.DataFrame(
        {
            "row": rows,
            "stimulus_id": scenes.stimulus_id[rows],
            "repetition": np.repeat(np.arange(repetitions), len(scenes)),
            "session": session,
            "run": np.repeat(np.arange(repetitions), len(scenes)),
            "category": scenes.category_names[rows],
        }
    )


def draw_noise(
    brain: SimulatedBrain, keys: np.ndarray, on_event: OnEvent | None = None, stop: Stop | None = None
) -> np.ndarray:
    """Noise of unit variance, (presentation, neuroid) float32, each row keyed by a row of whole numbers (n, k)."""
    noise = np.empty((len(keys), len(brain.neuroids)), np.float32)
    sources = np.empty((len(keys), len(brain.shared_noise)), np.float32)
    for k, key in enumerate(keys.tolist()):
        if k % 256 == 0:
            report(on_event, stop, "simulate", k, len(keys))
        rng = np.random.default_rng([brain.seed, brain.subject, _NOISE_STREAM, *key])
        rng.standard_normal(dtype=np.float32, out=noise[k])
        rng.standard_normal(dtype=np.float32, out=sources[k])
    noise *= np.sqrt(1 - (brain.shared_noise**2).sum(0))
    noise += sources @ brain.shared_noise
    return noise


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(0))).astype(np.float32)


def _drift(values: np.ndarray, session: np.ndarray, offset: float, gain: float, brain: SimulatedBrain) -> np.ndarray:
    if not offset and not gain:
        return values
    draws = [
        np.random.default_rng([brain.seed, brain.subject, _ORDER_STREAM, int(s)]).normal(size=(2, values.shape[1]))
        for s in range(int(session.max()) + 1)
    ]
    offsets, gains = np.stack(draws, 1).astype(np.float32)
    return values * (1 + gain * gains[session]) + offset * offsets[session]
