"""The demo: the whole chain on the miniature world, its numbers in summary.json and its report."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from recordings import Score
from recordings.errors import InputError
from recordings.events import OnEvent, Stop, report
from recordings.storage import atomic_path, remove
from studies.plan import resident_memory
from studies.report import Headline, Section, write_report

from .attention_page import attention_section
from .commands import commands
from .decoding import Decoded, decode
from .decoding_page import decoding_section
from .encoding import encode, extract_features
from .encoding_page import EncoderScore, encoding_section
from .numbers import numbers_section
from .pictures import Pictured, picture
from .pictures_page import pictures_section
from .regions import SCORED
from .scoring import alignment_section, score
from .transformer import SOURCE, Attended, attend, shown_groups
from .world import World, simulate, world_section

SUMMARY, PAGE, MARK = "summary.json", "report.html", "demo.json"
MAPPED = "banded_ridge"


@dataclass(frozen=True)
class Size:
    """How much of the world the demo looks at: scenes to learn from, held-out and drawn scenes, bootstrap samples."""

    train: int
    test: int = 200
    drawn: int = 100
    bootstrap: int = 200


FULL, QUICK = Size(1000), Size(500, drawn=24, bootstrap=50)


def run(
    out: str | PathLike[str],
    quick: bool = False,
    seed: int = 0,
    device: str = "auto",
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, float]:
    """Simulate a brain, encode, decode and score it; write ``summary.json``, ``report.html`` and all artifacts.

    Features that an earlier run of the same world left in `out` are used again where stimuli and weights are the same;
    everything else is computed anew.

    Parameters
    ----------
    out : folder to write; a new one, or one that the demo wrote.
    quick : half as many scenes to learn from.
    seed : of the world and of all random draws.

    Returns
    -------
    The numbers of ``summary.json``, by name.

    Raises
    ------
    InputError : `out` holds something else. Cancelled : `stop` answered True.
    """
    with _one_thread():
        return _run(_prepared(Path(out)), QUICK if quick else FULL, seed, device, on_event, stop)


@contextmanager
def _one_thread() -> Iterator[None]:
    # The matrices are small. Where another program holds a core, threads wait for each other so long that a fit on two
    # was measured to take fifty times as long as on one.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


def _run(
    folder: Path, size: Size, seed: int, device: str, on_event: OnEvent | None, stop: Stop | None
) -> dict[str, float]:
    clock = Clock(on_event, stop)
    with clock.part("simulate"):
        world = simulate(folder, size.train, size.test, seed, on_event, stop)
    with clock.part("features"):
        features = extract_features(world, folder / "features", device, on_event, stop)
    with clock.part("encode"):
        scores = encode(world, features, folder / "models", seed, size.bootstrap, device, on_event, stop)
    with clock.part("transformer"):
        attended = attend(world, features[SOURCE], folder / "models", seed, size.bootstrap, device, on_event, stop)
    with clock.part("decode"):
        found = decode(world, features, folder / "models", seed, device, on_event, stop)
    with clock.part("pictures"):
        pictured = picture(world, size.drawn, folder / "models", seed, size.bootstrap, device, on_event, stop)
    with clock.part("score"):
        true_model = score(world, seed, size.bootstrap, on_event, stop)
    with clock.part("report"):
        sections = _sections(world, scores, attended, found, pictured, true_model)
    summary = _summary(world, scores, attended, found, pictured, true_model) | clock.seconds
    summary["peak_memory_gb"] = resident_memory() / 1e9
    sections.append(numbers_section(summary, commands()))
    with atomic_path(folder / SUMMARY, overwrite=True) as part:
        part.write_text(json.dumps(summary, indent=2) + "\n")
    _write(folder / PAGE, world, scores, found, sections, seed)
    return summary


class Clock:
    """Seconds that each part takes, as numbers of the summary."""

    parts = ("simulate", "features", "encode", "transformer", "decode", "pictures", "score", "report")

    def __init__(self, on_event: OnEvent | None, stop: Stop | None):
        self.seconds: dict[str, float] = {}
        self._on_event, self._stop = on_event, stop

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part of the demo and say that it is done."""
        start = time.perf_counter()
        yield
        self.seconds[f"seconds.{name}"] = round(time.perf_counter() - start, 2)
        report(self._on_event, self._stop, "demo", len(self.seconds), len(self.parts))


def _prepared(folder: Path) -> Path:
    """The folder, marked as the demo's, without the results of an earlier run."""
    if folder.exists() and not (folder.is_dir() and ((folder / MARK).exists() or not any(folder.iterdir()))):
        raise InputError("holds something else than a demo", where=folder, remedy="Give an empty or a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text(json.dumps({"kind": "penfield demo"}) + "\n")
    for name in (SUMMARY, PAGE):
        remove(folder / name)
    return folder


def _sections(
    world: World,
    scores: list[EncoderScore],
    attended: Attended,
    found: Decoded,
    pictured: Pictured,
    true_model: Score,
) -> list[Section]:
    recording, stimuli = world.subject.recording, world.subject.stimuli
    return [
        world_section(world),
        encoding_section(recording, scores, MAPPED, len(world.train), len(world.test)),
        attention_section(recording, attended, stimuli.select(world.test), shown_groups(world, world.test)),
        decoding_section(found, stimuli),
        pictures_section(pictured, stimuli),
        alignment_section(true_model),
    ]


def _summary(
    world: World,
    scores: list[EncoderScore],
    attended: Attended,
    found: Decoded,
    pictured: Pictured,
    true_model: Score,
) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for model in (*scores, attended.ridge, attended.transformer):
        numbers |= {f"encode.{model.key}.{roi}": model.by_roi[roi][0] for roi in SCORED}
        numbers[f"encode.{model.key}.shuffled"] = model.null.mean
        numbers[f"encode.{model.key}.shuffled_se"] = model.null.standard_error
    return numbers | {
        "encode.transformer.attention_on_object": attended.on_object,
        "encode.transformer.attention_on_object_chance": attended.by_chance,
        "encode.transformer.entropy_with_object": attended.entropy_with,
        "encode.transformer.entropy_without_object": attended.entropy_without,
        "encode.noise_ceiling_error": world.ceiling_error,
        "decode.retrieval_top1": found.identified.accuracy,
        "decode.retrieval_chance": found.identified.chance,
        "decode.retrieval_shuffled": found.identified.null.mean,
        "decode.identification_two_way": found.identified.two_way_candidates,
        **pictured.numbers(),
        "score.ceiling_fraction": true_model.center,
    }


def _write(
    path: Path, world: World, scores: list[EncoderScore], found: Decoded, sections: list[Section], seed: int
) -> None:
    mapped = next(model for model in scores if model.key == MAPPED)
    write_report(
        path,
        title="The whole chain on a miniature world",
        notice="These data are simulated. No brain was measured.",
        lead="Pictures go in, a simulated brain answers, encoders predict its answers and decoders read the pictures "
        "back out of them. Everything that was planted is known, so every method can be checked against the truth.",
        headlines=[
            Headline(f"{mapped.center:.2f}", f"noise-normalised r, {mapped.title}", "1 is the noise ceiling"),
            Headline(
                f"{100 * found.identified.accuracy:.0f} %",
                "pictures found",
                f"chance {100 * found.identified.chance:.1f} %",
            ),
            Headline(f"{world.ceiling_error:.3f}", "error of the noise ceiling", "fraction of variance"),
        ],
        sections=sections,
        facts={"Seed": str(seed), "Scenes": f"{len(world.train) + len(world.test):,}"},
    )
