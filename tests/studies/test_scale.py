"""Studies of several subjects, in shards and on workers: the numbers of the local run, whatever happens to a worker."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from threadpoolctl import threadpool_limits

from encoders import FeatureExtractor, Features, extract
from recordings import Recording
from recordings.errors import Cancelled, CorruptImageError, FormatError, InputError
from recordings.events import Event
from studies.run import questions_of, run
from studies.scale.run import UnitsFailedError, run_scaled
from studies.scale.shards import extract_shard, join_shards, shard_ranges, stimuli_of
from studies.scale.slurm import slurm_executor
from studies.scale.units import Unit, perform
from studies.study import Study
from studies.subjects import extract_features, store_of, subject_studies

N_STIMULI, N_NEUROIDS, BROKEN = 30, 12, "s07"


def write_study(folder: Path, subjects: int, models: tuple[str, ...], *, broken: bool = False) -> Study:
    """Subjects who saw the same pictures and answer to their brightness in places, as files."""
    rng = np.random.default_rng(0)
    shown = folder / "stimuli"
    shown.mkdir(parents=True)
    pictures = rng.integers(0, 256, (N_STIMULI, 16, 16, 3), dtype=np.uint8)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(shown / f"s{number:02d}.png")
    if broken:
        (shown / f"{BROKEN}.png").write_bytes((shown / f"{BROKEN}.png").read_bytes()[:60])
    light = pictures.reshape(N_STIMULI, -1) / 255 - 0.5
    for number in range(subjects):
        responses = light @ rng.normal(size=(light.shape[1], N_NEUROIDS)) + rng.normal(size=(N_STIMULI, N_NEUROIDS))
        ids = pd.DataFrame({"stimulus_id": [f"s{i:02d}" for i in range(N_STIMULI)]})
        neuroids = pd.DataFrame({"neuroid_id": [f"n{i}" for i in range(N_NEUROIDS)], "roi": "V1"})
        Recording(responses.astype(np.float32), ids, neuroids).save(folder / f"subj{number + 1:02d}.zarr")
    lines = ['name = "scaled"', 'out = "out"', f"skip_failures = {str(broken).lower()}", "[recording]"]
    lines += [f"paths = {[f'subj{number + 1:02d}.zarr' for number in range(subjects)]}", 'stimuli = "stimuli"']
    for model in models:
        lines += ["[[features]]", f'name = "{model}"', f'model = "baseline:{model}"', 'readout = "flat"']
        lines += ["batch_size = 4", "[[encode]]", f'name = "{model}"', f'features = ["{model}"]', "shuffles = 5"]
    if len(models) > 1:
        lines += ["[[encode]]", 'name = "all"', f"features = {list(models)}", "shuffles = 5"]
    (folder / "study.toml").write_text("\n".join(lines))
    return Study.load(folder / "study.toml")


def elsewhere(study: Study, out: Path) -> Study:
    return study.model_copy(update={"out": out})


def plain(answers: dict[str, Any], study: Study) -> Any:
    """Answers without the name of the folder that they came from."""
    return json.loads(json.dumps(answers).replace(str(study.out), "OUT"))


def run_locally(study: Study) -> dict[str, Any]:
    """With as many threads as a worker has, since sums of floats depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            return run(study)
    finally:
        torch.set_num_threads(threads)


def descendants(name: str) -> list[int]:
    """Processes that this one has started, directly or not, whose command line holds a name."""
    parents, lines = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                lines[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
    ours = {os.getpid()}
    for _ in parents:
        more = {pid for pid, parent in parents.items() if parent in ours} - ours
        if not more:
            break
        ours |= more
    return [pid for pid in sorted(ours) if name in lines.get(pid, "")]


# Study files ---------------------------------------------------------------------------------------------------------


def test_a_study_of_several_subjects_is_one_study_each(tmp_path: Path) -> None:
    study = write_study(tmp_path, 2, ("pixels", "gabor"))
    assert study.recording.several and Study.model_validate_json(study.model_dump_json()) == study
    parts = subject_studies(study)
    assert list(parts) == ["subj01", "subj02"]
    assert parts["subj02"].recording.path == tmp_path / "subj02.zarr" and not parts["subj02"].recording.several
    assert parts["subj01"].features[0].path == study.out / "features" / "pixels.zarr"
    (tmp_path / "whole.toml").write_text(study.to_toml())
    assert Study.load(tmp_path / "whole.toml") == study


def test_simulated_subjects_are_counted(tmp_path: Path) -> None:
    text = 'name = "s"\nout = "o"\n[recording]\nsimulate = { scenes = 10, subjects = 8 }\n[[features]]\nname = "p"\n'
    (tmp_path / "s.toml").write_text(text + 'model = "baseline:pixels"\n[[encode]]\nname = "p"\nfeatures = ["p"]\n')
    study = Study.load(tmp_path / "s.toml")
    assert list(subject_studies(study)) == [f"subject-0{number}" for number in range(1, 9)]


@pytest.mark.parametrize(
    ("paths", "message"), [('["a/x.zarr", "b/x.zarr"]', "two subjects are called 'x'"), ("[]", "give either path")]
)
def test_subjects_need_names_of_their_own(tmp_path: Path, paths: str, message: str) -> None:
    write_study(tmp_path, 1, ("pixels",))
    text = (tmp_path / "study.toml").read_text().replace("['subj01.zarr']", paths)
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(FormatError, match=message):
        Study.load(tmp_path / "study.toml")


# Shards --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "batch", "expected"),
    [(30, 4, [(0, 16), (16, 30)]), (3, 4, [(0, 3)]), (0, 4, []), (8, 2, [(0, 8)])],
)
def test_shards_start_at_whole_batches(n: int, batch: int, expected: list[tuple[int, int]]) -> None:
    assert shard_ranges(n, batch) == expected


def test_many_stimuli_make_no_more_shards_than_are_of_use() -> None:
    ranges = shard_ranges(73_000, 64)
    assert len(ranges) <= 64 and ranges[-1][1] == 73_000 and all(start % 64 == 0 for start, _ in ranges)


@pytest.mark.parametrize("broken", [False, True])
def test_joined_shards_are_the_store_of_one_run(tmp_path: Path, broken: bool) -> None:
    study = write_study(tmp_path, 1, ("pixels",), broken=broken)
    part = study.features[0]
    for start, stop in shard_ranges(N_STIMULI, 4):
        extract_shard(study, "pixels", start, stop)
    join_shards(study, part)
    joined = Features.load(store_of(study, part))
    whole, stimuli = elsewhere(study, tmp_path / "whole"), stimuli_of(study)
    extract_features(whole, part, stimuli)
    alone = Features.load(store_of(whole, part))
    assert list(joined.stimulus_ids) == list(alone.stimulus_ids) and len(joined) == N_STIMULI - broken
    assert np.array_equal(joined.read(), alone.read()) and joined.fingerprint() == alone.fingerprint()
    assert not list((study.out / "features").glob(".*"))


def test_a_joined_store_is_added_to_like_any_other(tmp_path: Path) -> None:
    study = write_study(tmp_path, 1, ("pixels",))
    for start, stop in shard_ranges(N_STIMULI, 4):
        extract_shard(study, "pixels", start, stop)
    join_shards(study, study.features[0])
    events: list[Event] = []
    stimuli = stimuli_of(study)
    assert stimuli is not None
    how: dict[str, Any] = {"readout": "flat", "batch_size": 4, "on_event": events.append}
    extract(FeatureExtractor.from_uri("baseline:pixels"), stimuli, store_of(study, study.features[0]), **how)
    assert sum(event.payload["computed"] for event in events) == 0


# Failures ------------------------------------------------------------------------------------------------------------


def test_an_unreadable_picture_is_named_and_the_rest_come_out(tmp_path: Path) -> None:
    study = write_study(tmp_path, 2, ("pixels",), broken=True)
    with pytest.warns(UserWarning, match=f"{BROKEN!r} is left out"):
        answers = run(study)
    assert set(answers["failures"]) == {"subj01", "subj02"}
    assert list(answers["failures"]["subj01"]) == [BROKEN] and f"{BROKEN}.png" in answers["failures"]["subj01"][BROKEN]
    table = pd.read_csv(study.out / "results.csv")
    assert list(table["subject"].unique()) == ["subj01", "subj02"] and table["r"].notna().all()
    assert json.loads((study.out / "results.json").read_text())["failures"] == answers["failures"]


def test_without_leave_an_unreadable_picture_ends_the_study(tmp_path: Path) -> None:
    study = write_study(tmp_path, 1, ("pixels",), broken=True).model_copy(update={"skip_failures": False})
    with pytest.raises(CorruptImageError, match=BROKEN):
        run(study)


def test_an_error_of_the_data_comes_back_from_a_worker(tmp_path: Path) -> None:
    study = write_study(tmp_path, 1, ("pixels",), broken=True).model_copy(update={"skip_failures": False})
    error = perform(Unit(study.model_dump_json(), "shard", "features", "pixels", 0, 16).to_json())
    assert error is not None and f"{BROKEN}.png" in error


def test_jobs_take_only_options_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no jobs on 'local'"):
        slurm_executor(tmp_path, {"cluster": "local", "colour": "red"})


# Workers -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray_of_two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray with two workers, who can import a model that kills whoever loads it."""
    from studies.scale.ray_cluster import ray_cluster

    folder = tmp_path_factory.mktemp("path")
    (folder / "deadly.py").write_text("import os\n\ndef build():\n    os._exit(1)\n")
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        with ray_cluster(2):
            yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Any]:
    """8 subjects x 3 models, one picture of which is corrupt, and what the local run answers."""
    study = write_study(tmp_path_factory.mktemp("whole"), 8, ("pixels", "gabor"), broken=True)
    return study, plain(run_locally(study), study)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ray_gives_the_local_numbers_though_a_worker_dies(
    whole: tuple[Study, Any], ray_of_two: None, tmp_path: Path
) -> None:
    study, expected = elsewhere(whole[0], tmp_path / "out"), whole[1]
    killed, seen = [], []

    def kill_one(event: Event) -> None:
        seen.append(event)
        if event.stage == "answer questions" and event.done == 8 and event.total == 24 and not killed:
            killed.extend(descendants("ray::scaled")[:1])
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    answers = run_scaled(study, "ray", on_event=kill_one)
    assert killed, "no worker was at work"
    assert plain(answers, study) == expected
    assert (study.out / "results.csv").read_bytes() == (whole[0].out / "results.csv").read_bytes()
    assert all(list(found) == [BROKEN] for found in answers["failures"].values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ray_goes_on_where_it_was_stopped(whole: tuple[Study, Any], ray_of_two: None, tmp_path: Path) -> None:
    two = whole[0].recording.model_copy(update={"paths": whole[0].recording.paths[:2]})
    study = whole[0].model_copy(update={"out": tmp_path / "out", "recording": two})
    seen: list[Event] = []
    with pytest.raises(Cancelled):
        run_scaled(
            study, "ray", on_event=seen.append, stop=lambda: seen[-1].stage == "answer questions" if seen else False
        )
    assert store_of(study, study.features[0]).exists() and not (study.out / "results.json").exists()
    answers = run_scaled(study, "ray")
    names = [f"{subject}.{kind}.{name}" for subject in ("subj01", "subj02") for kind, name in questions_of(study)]
    assert {name: plain(answers, study)[name] for name in names} == {name: whole[1][name] for name in names}


@pytest.mark.slow
def test_a_unit_that_always_kills_its_worker_is_given_up(ray_of_two: None, tmp_path: Path) -> None:
    study = write_study(tmp_path, 1, ("pixels",))
    deadly = study.features[0].model_copy(update={"name": "deadly", "model": "python:deadly:build"})
    study = study.model_copy(update={"features": (*study.features, deadly)})
    with pytest.raises(UnitsFailedError, match="lost 3 times") as caught:
        run_scaled(study, "ray")
    assert {failure.attempts for failure in caught.value.failures} == {3}
    assert list((study.out / "features" / ".pixels.zarr.shards").iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_jobs_give_the_local_numbers_though_one_is_killed(whole: tuple[Study, Any], tmp_path: Path) -> None:
    two = whole[0].recording.model_copy(update={"paths": whole[0].recording.paths[:2]})
    study = whole[0].model_copy(update={"out": tmp_path / "out", "recording": two})
    killed: list[int] = []

    def kill_one() -> bool:
        if not killed:
            killed.extend(descendants("submitit.core._submit")[:1])
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
        return False

    answers = run_scaled(study, "slurm", workers=2, jobs={"cluster": "local"}, stop=kill_one)
    assert killed, "no job was at work"
    names = [f"{subject}.{kind}.{name}" for subject in ("subj01", "subj02") for kind, name in questions_of(study)]
    assert {name: plain(answers, study)[name] for name in names} == {name: whole[1][name] for name in names}
    assert not (study.out / ".jobs").exists()
