"""The page of a study: how well its encoding models predict, by region and on the cortex, and what it has drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recordings import Recording
from recordings.surfaces import surface_maps

from .questions import Encoding, Ensembling
from .report import Headline, Section, write_report
from .report.charts import Series, bars_by_roi
from .report.cortex import DIVERGING, flat_cortex, on_fsaverage5, symmetric_limit
from .report.images import colour_bar
from .study import Study

PAGE, SCORES, PICTURES = "report.html", "scores.npz", "pictures"
ALL = "all"
_CEILING = "1 is the noise ceiling"
_LEAD = (
    "How well encoding models predict responses to stimuli that none of them has seen, neither to learn from nor to "
    "choose an epoch, a penalty or a weight by."
)
_DRAWN = "Pictures are drawn from responses to stimuli on which no decoder was fitted."


def write_study_page(folder: Path, study: Study, answers: Mapping[str, Any], recording: Recording) -> None:
    """Write ``report.html`` to the folder of a study that asks for encoding models or pictures; others have no page.

    Parameters
    ----------
    folder : of the results; ``encode/NAME/scores.npz`` and ``ensemble/NAME/scores.npz`` hold ``normalised``, float32
        (neuroid,), of which maps are drawn where the recording lies on fsaverage, fsaverage5 or fsaverage6;
        ``reconstruct/NAME/pictures`` what was drawn.
    answers : of `studies.run`, by question.
    recording : of the neuroids that were scored; its responses are not read.
    """
    parts = {f"encode.{part.name}": part for part in study.encode} | {f"ensemble.{p.name}": p for p in study.ensemble}
    if not parts and not study.reconstruct:
        (folder / PAGE).unlink(missing_ok=True)
        return
    headlines, sections = _encoding(folder, parts, answers, recording) if parts else ([], [])
    for picture in study.reconstruct:
        found = answers[f"reconstruct.{picture.name}"]
        sections.append(_drawn_section(folder / "reconstruct" / picture.name / PICTURES, picture.name, found))
        headlines += _identified(picture.name, found)
    write_report(
        folder / PAGE,
        title=study.name,
        notice=_notice(study, recording),
        lead=" ".join(([_LEAD] if parts else []) + ([_DRAWN] if study.reconstruct else [])),
        headlines=[*headlines, Headline(f"{recording.n_neuroids:,}", "neuroids", f"{len(recording.rois)} regions")],
        sections=[*sections, Section("study", "The study file", {"toml": study.to_toml()})],
        facts={"Seed": str(study.seed)},
    )


def _encoding(
    folder: Path, parts: Mapping[str, Encoding | Ensembling], answers: Mapping[str, Any], recording: Recording
) -> tuple[list[Headline], list[Section]]:
    scored = {key: answers[key] for key in parts}
    titles = _titles(parts)
    sections = [_scores_section(parts, scored, titles)]
    maps = _maps(folder, list(parts), recording)
    if maps:
        sections.append(_maps_section(maps, titles, _quantity(list(scored.values()))))
    best = max(scored, key=lambda key: np.nan_to_num(scored[key]["center"], nan=-np.inf))
    found = scored[best]
    return [
        Headline(_rounded(found["center"]), f"{_quantity([found])}, {titles[best]}", _beside(found)),
        Headline(f"{len(parts)}", "models", "on the same held-out stimuli"),
    ], sections


# Pictures --------------------------------------------------------------------------------------------------------


def _drawn_section(folder: Path, name: str, answer: Mapping[str, Any]) -> Section:
    # diffusers takes seconds to import.
    from .pictures.comparison import picture_section

    return picture_section(folder, f"reconstruct-{name}", f"Pictures: {name}", answer)


def _identified(name: str, answer: Mapping[str, Any]) -> list[Headline]:
    """Two-way identification by the first network."""
    for metric, score in answer["metrics"].items():
        if metric.startswith("two_way.") and "value" in score:
            beside = f"{metric.split('.')[1]}; chance .5"
            if "low" in score:
                beside = f"95 % interval {score['low']:.2f} to {score['high']:.2f}; {beside}"
            return [Headline(f"{score['value']:.2f}", f"pictures told apart, {name}", beside)]
    return []


def _titles(parts: Mapping[str, Encoding | Ensembling]) -> dict[str, str]:
    names = [part.name for part in parts.values()]
    return {key: part.name if names.count(part.name) == 1 else key for key, part in parts.items()}


def _notice(study: Study, recording: Recording) -> str:
    if study.recording.simulate is not None or recording.attrs.get("source") == "simulated":
        return "These data are simulated. No brain was measured."
    return f"Scores are of one recording: {study.recording.path and study.recording.path.name}."


def _quantity(scored: list[Any]) -> str:
    """What the scores of some models are, as an axis says it."""
    metrics = {"r2": "R²"}
    words = {("noise-normalised " if s["normalised"] else "") + metrics.get(s["metric"], s["metric"]) for s in scored}
    return words.pop() if len(words) == 1 else "score"


def _beside(answer: Mapping[str, Any]) -> str:
    interval = f"95 % interval {answer['low']:.2f} to {answer['high']:.2f}" if "low" in answer else ""
    return "; ".join(filter(None, [interval, _CEILING if answer["normalised"] else ""]))


def _rounded(value: float | None) -> str:
    return "none" if value is None or np.isnan(value) else f"{value:.2f}"


# Scores ----------------------------------------------------------------------------------------------------------


def _scores_section(
    parts: Mapping[str, Encoding | Ensembling], scored: Mapping[str, Any], titles: Mapping[str, str]
) -> Section:
    by_region = {key: _by_region(answer) for key, answer in scored.items()}
    rois = list(dict.fromkeys(roi for regions in by_region.values() for roi in regions))
    series = [
        Series(titles[key], {roi: _interval(score) for roi, score in regions.items()})
        for key, regions in by_region.items()
    ]
    quantity = _quantity(list(scored.values()))
    label = f"{quantity}   (1 = noise ceiling)" if all(s["normalised"] for s in scored.values()) else quantity
    return Section(
        "scores",
        "Scores by region",
        {
            "models": {titles[key]: _described(part) for key, part in parts.items()},
            "chart": bars_by_roi(series, rois, label, _chart_alt(quantity, by_region, titles)),
            "quantity": quantity,
            "rois": rois,
            "rows": [(titles[k], [_cell(regions.get(roi)) for roi in rois]) for k, regions in by_region.items()],
            "runs": {titles[key]: answer["runs"] for key, answer in scored.items() if answer.get("runs", 1) > 1},
            "nulls": {titles[key]: answer for key, answer in scored.items() if "shuffled" in answer},
            "weights": {titles[key]: answer["weights"] for key, answer in scored.items() if "weights" in answer},
        },
        template="study_scores.html.j2",
    )


def _by_region(answer: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Scores as ``center``, ``low``, ``high`` and ``spread`` by region, and at last of all neuroids."""
    regions = {
        roi: dict(zip(("low", "high"), answer["roi_interval"][roi] or (), strict=False)) | {"center": center}
        for roi, center in answer.get("roi", {}).items()
    }
    for roi, spread in answer.get("roi_spread", {}).items():
        regions[roi]["spread"] = spread
    return {**regions, ALL: answer}


def _described(part: Encoding | Ensembling) -> str:
    if isinstance(part, Ensembling):
        return f"ensemble of {', '.join(part.members)}, weighed neuroid by neuroid"
    routing = part.routing or ("roi" if part.model == "transformer" else "")
    model = part.model.replace("_", " ") + (f", routing {routing}" if routing else "")
    return f"{model}, on {', '.join(part.features)}"


def _interval(score: Mapping[str, Any]) -> tuple[float, float, float]:
    found = [score.get(name) for name in ("center", "low", "high")]
    center, low, high = (np.nan if value is None else float(value) for value in found)
    return center, low, high


def _cell(score: Mapping[str, Any] | None) -> dict[str, str]:
    if score is None:
        return {"score": "none", "interval": "", "spread": ""}
    center, low, high = _interval(score)
    return {
        "score": _rounded(center),
        "interval": "" if np.isnan(low) else f"{low:.2f} to {high:.2f}",
        "spread": f"± {score['spread']:.3f}" if "spread" in score else "",
    }


def _chart_alt(quantity: str, by_region: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    parts = [
        f"{titles[key]}: " + ", ".join(f"{roi} {_rounded(score['center'])}" for roi, score in regions.items())
        for key, regions in by_region.items()
    ]
    return f"{quantity} by region. " + "; ".join(parts) + "."


# Maps ------------------------------------------------------------------------------------------------------------


def _maps(folder: Path, keys: list[str], recording: Recording) -> dict[str, dict[str, np.ndarray]]:
    """Scores at the vertices of fsaverage5 by question and hemisphere; nothing where the neuroids do not lie there."""
    if recording.space.kind != "surface" or not recording.space.name.startswith("fsaverage"):
        return {}
    found = {}
    for key in keys:
        path = folder / key.replace(".", "/", 1) / SCORES
        if path.exists():
            with np.load(path, allow_pickle=False) as archive:
                found[key] = on_fsaverage5(surface_maps(recording, archive["normalised"]))
    return {key: maps for key, maps in found.items() if maps is not None}


def _maps_section(maps: Mapping[str, dict[str, np.ndarray]], titles: Mapping[str, str], quantity: str) -> Section:
    first, *others = maps
    differences = {key: {side: maps[key][side] - maps[first][side] for side in maps[key]} for key in others}
    limit = symmetric_limit(np.concatenate([v for by_side in differences.values() for v in by_side.values()] or [[]]))
    scale: dict[str, Any] = {"cmap": DIVERGING, "low": -limit, "high": limit}
    return Section(
        "maps",
        "Maps",
        {
            "first": titles[first],
            "quantity": quantity,
            "bar": colour_bar("viridis", 0, 1, quantity),
            "maps": {titles[key]: flat_cortex(values, f"{quantity} of {titles[key]}") for key, values in maps.items()},
            "difference_bar": colour_bar(DIVERGING, -limit, limit, f"difference in {quantity}"),
            "differences": {
                f"{titles[key]} − {titles[first]}": flat_cortex(values, f"{titles[key]} minus {titles[first]}", **scale)
                for key, values in differences.items()
            },
        },
        template="study_maps.html.j2",
    )
