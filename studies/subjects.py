"""A study of several subjects: the same questions to each, in a folder of its own that is a study by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from encoders import FeatureExtractor, Features, extract
from recordings.events import OnEvent, Stop

from .failures import extract_readable
from .questions import FeatureSet
from .simulation import simulate_world, subject_name
from .sources import open_stimuli
from .study import Study

SUBJECTS, FEATURES = "subjects", "features"


def subject_folders(study: Study) -> dict[str, Path]:
    """Where the recording of each subject is, by the subject's name."""
    source = study.recording
    if source.simulate is None:
        return {path.stem: path for path in source.paths}
    names = [subject_name(number) for number in range(source.simulate.subjects)]
    return {name: study.out / name for name in names}


def subject_studies(study: Study) -> dict[str, Study]:
    """The study of each subject, by the subject's name.

    Features of stimuli that all of them saw are read from ``features`` in the folder of the whole study.
    """
    features = study.features
    if shown_to_all(study) is not None:
        features = tuple(stored_features(study, part) for part in features)
    return {
        name: study.model_copy(
            update={
                "name": f"{study.name}.{name}",
                "out": study.out / SUBJECTS / name,
                "recording": study.recording.model_copy(update={"path": path, "paths": (), "simulate": None}),
                "features": features,
            }
        )
        for name, path in subject_folders(study).items()
    }


def shown_to_all(study: Study) -> Path | None:
    """The stimuli that all subjects saw; None where each subject's folder brings its own."""
    if study.recording.simulate is not None:
        return study.recording.stimuli or study.out / subject_name(0)
    return study.recording.stimuli


def store_of(study: Study, part: FeatureSet) -> Path:
    """Where a study keeps the features of a model."""
    return study.out / FEATURES / f"{part.name}.zarr"


def stored_features(study: Study, part: FeatureSet) -> FeatureSet:
    """The feature set, read from where the study keeps it."""
    if part.path is not None:
        return part
    # The embedding of a model's own is one layer, whatever layers are named beside it.
    layers = () if part.readout == "projected" else part.layers
    return FeatureSet(name=part.name, path=store_of(study, part), layers=layers)


def simulate_subjects(study: Study, on_event: OnEvent | None = None, stop: Stop | None = None) -> None:
    """Simulate the subjects of a study that are not there yet."""
    simulate = study.recording.simulate
    if simulate is None or all(path.exists() for path in subject_folders(study).values()):
        return
    # What stands there of a simulation that was interrupted comes out the same again.
    simulate_world(study.out, seed=study.seed, overwrite=True, on_event=on_event, stop=stop, **simulate.model_dump())


def extract_shared(study: Study, on_event: OnEvent | None = None, stop: Stop | None = None) -> None:
    """Extract features of the stimuli that all subjects saw."""
    shown = shown_to_all(study)
    for part in study.features if shown is not None else ():
        if part.path is None:
            assert shown is not None
            extract_features(study, part, open_stimuli(shown), on_event=on_event, stop=stop)


def extract_features(
    study: Study, part: FeatureSet, stimuli: Any, *, on_event: OnEvent | None = None, stop: Stop | None = None
) -> dict[str, Features]:
    """Features of a study's stimuli by layer, in the study's folder; what is there already is not computed again."""
    assert part.model is not None
    take = extract_readable if study.skip_failures else extract
    return take(
        FeatureExtractor.from_uri(part.model, device=study.device),
        stimuli,
        store_of(study, part),
        layers=part.layers or None,
        readout=part.readout,
        store_dtype=part.dtype,
        batch_size=part.batch_size,
        on_event=on_event,
        stop=stop,
    )


def by_subject(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One table of several subjects, the subject's name in its first column."""
    named = [table.assign(subject=name) for name, table in tables.items() if len(table)]
    if not named:
        return pd.DataFrame()
    whole = pd.concat(named, ignore_index=True)
    return whole[["subject", *whole.columns.drop("subject")]]
