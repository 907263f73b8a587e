"""Haxby et al. (2001) as an encoding problem: ``python -m scripts.examples.haxby_encoding DATA_DIR``.

Eight conditions, each a boxcar convolved with a haemodynamic response, predict every voxel's time course by ridge with
delays; each run is predicted from the others.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from nilearn.glm.first_level import compute_regressor

from encoders import Features, RidgeEncoder
from recordings import Recording
from recordings.readers.nifti import NiftiOptions, read_nifti
from recordings.splits import leave_one_group_out
from recordings.statistics import Null, correlate

# In volumes: ridge shapes each voxel's response from the assumed one and two later copies of it.
DELAYS = (0, 1, 2)
RESPONSE = "spm"
ALPHAS = tuple(np.logspace(-2, 5, 15))
SHUFFLES = 20


def read_volumes(folder: Path) -> Recording:
    """Volumes of the slice, linear trend and scale removed in each run."""
    contents = read_nifti(folder, NiftiOptions(unit="volume", detrend=True, scale=True))
    values = np.concatenate(list(contents.blocks))
    return Recording(values, contents.presentations, contents.neuroids, space=contents.space, attrs=contents.attrs)


def condition_design(conditions: np.ndarray, tr: float, response: str = RESPONSE) -> np.ndarray:
    """Expected BOLD response to each condition but rest in one run, (volume, condition) float32, sorted by name.

    Parameters
    ----------
    conditions : (volume,) condition of each volume. tr : seconds a volume. response : a haemodynamic response of
        nilearn.
    """
    times = np.arange(len(conditions)) * tr
    columns = []
    for name in sorted(set(conditions) - {"rest"}):
        onsets = times[conditions == name]
        events = np.vstack([onsets, np.full(len(onsets), tr), np.ones(len(onsets))])
        columns.append(compute_regressor(events, response, times)[0][:, 0])
    return np.stack(columns, axis=1).astype(np.float32)


def design_features(recording: Recording, categories: np.ndarray) -> Features:
    """The design of all runs as features of the volumes, (volume, condition)."""
    runs = recording.presentation("run")
    tr = float(recording.attrs["tr"])
    designs = np.concatenate([condition_design(categories[runs == run], tr) for run in pd.unique(runs)])
    return Features.from_arrays(designs, list(recording.stimulus_ids), uri="design:conditions", layer=RESPONSE)


def predict_runs(recording: Recording, features: Features) -> np.ndarray:
    """Each run predicted from the others, (volume, voxel) float32."""
    predicted = np.empty((len(recording), recording.n_neuroids), np.float32)
    for split in leave_one_group_out(recording, "run"):
        train, test = split.apply(recording)
        encoder = RidgeEncoder(alphas=ALPHAS, delays=DELAYS, group_by="run", standardise=False).fit(features, train)
        runs = test.presentation("run")
        predicted[split.test] = encoder.predict(features, [str(i) for i in test.stimulus_ids], runs=runs)
    return predicted


def permuted_conditions(recording: Recording, rng: np.random.Generator) -> np.ndarray:
    """Conditions with their names permuted among the blocks of each run, (volume,)."""
    categories, runs = recording.presentation("category").astype(str).astype(object), recording.presentation("run")
    renamed = categories.copy()
    for run in pd.unique(runs):
        names = sorted(set(categories[runs == run]) - {"rest"})
        for name, other in zip(names, rng.permutation(names), strict=True):
            renamed[(runs == run) & (categories == name)] = other
    return renamed


def evaluate(folder: Path, shuffles: int = SHUFFLES) -> dict[str, float]:
    """Voxel-wise r over all held-out volumes, and the same with condition names permuted within runs.

    All conditions evoke a response, so that permuted names still predict when a picture was shown: what they lack is
    what tells conditions apart.
    """
    recording = read_volumes(folder)
    responses = recording.values

    def upper(categories: np.ndarray) -> tuple[float, float]:
        r = correlate(responses, predict_runs(recording, design_features(recording, categories)))
        return float(np.nanpercentile(r, 95)), float(np.nanmedian(r))

    percentile, median = upper(recording.presentation("category").astype(str))
    scores = [upper(permuted_conditions(recording, np.random.default_rng((0, i))))[0] for i in range(shuffles)]
    null = Null(np.array(scores), percentile)
    return {
        "r_percentile_95": percentile,
        "r_median": median,
        "permuted_percentile_95": null.mean,
        "p_value": null.p_value,
        "n_voxels": recording.n_neuroids,
        "n_volumes": len(recording),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(evaluate(Path(sys.argv[1])), indent=2) + "\n")
