"""Running a study: every part once, results beside the study that gave them, and on again after an interruption."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from decoders import LatentDecoder
from encoders import FeatureExtractor, Features, extract
from recordings import Recording, Stimuli
from recordings.errors import InputError, UnknownNameError
from recordings.events import OnEvent, Stop, report
from recordings.storage import atomic_path, remove

from .agreement import score_layers
from .decoding import evaluate_decoder
from .encoding import ceiling_of, fit_encoder, make_encoder, score_encoder, solver_device
from .plan import Plan, extrapolate, resident_memory
from .simulation import simulate_world
from .sources import open_layers, open_recording, open_stimuli
from .study import Alignment, Decoding, Encoding, FeatureSet, Study

STUDY, RESULTS, SUBJECT = "study.toml", "results.json", "subject-01"
# All that a run writes beside the study file.
MADE = (RESULTS, SUBJECT, "features", "encode", "decode", "align")
TRIAL_STIMULI = 40


class _Work:
    """What the questions of one study share: its data, opened, its folder, and the caller's ears."""

    def __init__(self, study: Study, n_stimuli: int | None, on_event: OnEvent | None, stop: Stop | None):
        self.study = study
        self.watched: dict[str, Any] = {"on_event": on_event, "stop": stop}
        self.recording, self.stimuli = self._source()
        if n_stimuli is not None:
            ids = list(dict.fromkeys(self.recording.stimulus_ids))[:n_stimuli]
            self.recording = self.recording.where(stimulus_id=ids)
            self.stimuli = None if self.stimuli is None else self.stimuli.select(ids)
        self.split = study.split.split(self.recording, study.seed)
        self.train, self.test = self.split.apply(self.recording, self.stimuli)
        self.features = {part.name: self._layers(part) for part in study.features}

    def _source(self) -> tuple[Recording, Stimuli | None]:
        source, seed = self.study.recording, self.study.seed
        path = source.path
        if source.simulate is not None:
            path = self.study.out / SUBJECT
            if not path.exists():
                how = source.simulate.model_dump()
                simulate_world(self.study.out, seed=seed, **how, **self.watched)
        assert path is not None
        shown = source.stimuli or (path if (path / "stimuli").is_dir() else None)
        return open_recording(path, source.rois), None if shown is None else open_stimuli(shown)

    def _layers(self, part: FeatureSet) -> dict[str, Features]:
        if part.path is not None:
            return open_layers(part.path, part.layers)
        if self.stimuli is None:
            raise InputError(
                f"features {part.name!r} need what was shown", where="study", remedy="Add stimuli to [recording]"
            )
        assert part.model is not None
        return extract(
            FeatureExtractor.from_uri(part.model, device=self.study.device),
            self.stimuli,
            self.study.out / "features" / f"{part.name}.zarr",
            layers=part.layers or None,
            readout=part.readout,
            batch_size=part.batch_size,
            **self.watched,
        )

    def named(self, reference: str) -> dict[str, Features]:
        """Layers that ``name`` or ``name/layer`` means, by a name of their own."""
        name, _, layer = reference.partition("/")
        layers = self.features[name]
        if layer and layer not in layers:
            raise UnknownNameError(f"no layer {layer!r} of {name}", remedy=f"There are: {', '.join(layers)}")
        return {f"{name}/{key}": layers[key] for key in ([layer] if layer else layers)}

    def one(self, reference: str) -> Features:
        """The single layer that a reference means."""
        layers = self.named(reference)
        if len(layers) > 1:
            raise UnknownNameError(f"{reference!r} has several layers", remedy=f"Name one: {', '.join(layers)}")
        return next(iter(layers.values()))


def run(
    study: Study,
    *,
    overwrite: bool = False,
    n_stimuli: int | None = None,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Run a study, or what is left of it, and write ``results.json`` and the resolved ``study.toml`` to its folder.

    Features, models and answers that are there already, from the same study on the same data, are not made again.

    Parameters
    ----------
    overwrite : throw away the results of earlier runs first; other files in the folder stay.
    n_stimuli : only the first so many stimuli of the recording, for a trial.

    Returns
    -------
    Answers by question: encode.<name>, decode.<name>, align.<name>, each a dict of JSON values.

    Raises
    ------
    InputError : the folder holds another study, or overwriting would delete what the study reads.
    LeakageError : a stimulus, or the same picture under two ids, on both sides of the split.
    Cancelled : `stop` answered True; run again to go on.
    """
    _claim(study, overwrite)
    work = _Work(study, n_stimuli, on_event, stop)
    data = _fingerprint(work)
    asked: list[tuple[str, Any, Callable[[_Work, Any, Path], dict[str, Any]]]] = [
        *(("encode", part, _encode) for part in study.encode),
        *(("decode", part, _decode) for part in study.decode),
        *(("align", part, _align) for part in study.align),
    ]
    answers = {}
    for number, (kind, part, answer) in enumerate(asked):
        report(on_event, stop, "answer questions", number, len(asked))
        answers[f"{kind}.{part.name}"] = _once(study.out / kind / part.name, data, lambda f: answer(work, part, f))  # noqa: B023
    _write_json(study.out / RESULTS, {"study": study.name, "seed": study.seed, **answers})
    return answers


def plan_study(study: Study) -> Plan:
    """Cost of `run`, from running the study on a few of its stimuli in a temporary folder.

    Time is taken to grow in proportion to the number of stimuli. For a simulated recording that many are simulated.
    """
    simulate = study.recording.simulate
    source = None if study.recording.path is None else open_recording(study.recording.path, study.recording.rois)
    total = simulate.scenes if simulate else len(set(source.stimulus_ids if source else ()))
    written: dict[int, int] = {}

    def trial(n: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            small: dict[str, Any] = {"out": Path(folder)}
            if simulate:
                fewer = simulate.model_copy(update={"scenes": n})
                small["recording"] = study.recording.model_copy(update={"simulate": fewer})
            run(study.model_copy(update=small), n_stimuli=n)
            written[n] = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())

    fixed, each = extrapolate(trial, total, first=TRIAL_STIMULI)
    responses = 4 * len(source) * source.n_neuroids if source else 0
    n = max(written)
    return Plan(fixed + each, resident_memory() + 2 * responses, written[n] * total / n)


def _claim(study: Study, overwrite: bool) -> None:
    """Make the folder of results this study's own."""
    path = study.out / STUDY
    if overwrite:
        _remove_results(study)
    elif path.exists():
        if Study.load(path) != study:
            raise InputError(
                "holds the results of another study", where=study.out, remedy="Change `out`, or pass --overwrite"
            )
        return
    study.out.mkdir(parents=True, exist_ok=True)
    with atomic_path(path, overwrite=overwrite) as part:
        part.write_text(study.to_toml())


def _remove_results(study: Study) -> None:
    made = [(study.out / name).resolve() for name in MADE]
    read = (study.recording.path, study.recording.stimuli, *(part.path for part in study.features))
    for path in filter(None, read):
        if any(path.resolve().is_relative_to(place) for place in made):
            raise InputError(
                "is read by the study and would be overwritten", where=path, remedy="Let `out` be a folder of its own"
            )
    for place in made:
        remove(place)


def _once(folder: Path, data: str, answer: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """The answer in a folder if it came from the same data, else a new one."""
    stored = folder / RESULTS
    if stored.exists():
        found = json.loads(stored.read_text())
        if found["data"] == data:
            return dict(found["answer"])
    folder.mkdir(parents=True, exist_ok=True)
    given = json.loads(json.dumps(answer(folder), default=_plain))
    _write_json(stored, {"data": data, "answer": given})
    return dict(given)


def _fingerprint(work: _Work) -> str:
    """SHA-256 of responses, ids and features, so that answers from data that changed are given anew."""
    digest = hashlib.sha256(work.recording.fingerprint().encode())
    digest.update("\n".join(map(str, work.recording.stimulus_ids)).encode())
    for block in work.recording.blocks():
        digest.update(block.tobytes())
    for layers in work.features.values():
        for features in layers.values():
            digest.update(features.fingerprint().encode())
            for start in range(0, len(features), 256):
                digest.update(features.read(slice(start, start + 256)).tobytes())
    return digest.hexdigest()


def _encode(work: _Work, part: Encoding, folder: Path) -> dict[str, Any]:
    spaces = {name: layer for reference in part.features for name, layer in work.named(reference).items()}
    encoder = make_encoder(
        part.model,
        alphas=part.alphas,
        folds=part.folds,
        delays=part.delays,
        device=work.study.device,
        seed=work.study.seed,
    )
    fit_encoder(encoder, spaces, work.train, keep_constant=part.keep_constant, scratch=folder, **work.watched)
    remove(folder / "average.zarr")
    encoder.save_pretrained(folder / "model", overwrite=True)
    return score_encoder(
        encoder,
        spaces,
        work.test,
        ceiling=ceiling_of(encoder, work.recording, work.test),
        metric=part.metric,
        shuffles=part.shuffles,
        seed=work.study.seed,
    )


def _decode(work: _Work, part: Decoding, folder: Path) -> dict[str, Any]:
    features = work.one(part.features)
    decoder = LatentDecoder(
        max_neuroids=part.max_neuroids, device=solver_device(work.study.device), seed=work.study.seed
    )
    decoder.fit(work.train, features, **work.watched).save_pretrained(folder / "model", overwrite=True)
    return evaluate_decoder(folder / "model", work.test, features, seed=work.study.seed)


def _align(work: _Work, part: Alignment, folder: Path) -> dict[str, Any]:
    how = {"device": work.study.device, "seed": work.study.seed, **work.watched}
    return score_layers(work.named(part.features), work.test, metric=part.metric, **how)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    with atomic_path(path, overwrite=True) as part:
        part.write_text(json.dumps(values, indent=2, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a JSON value")
