"""Scores of a study's encoding models, ensembles and pictures as one table, a row a score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from recordings.storage import atomic_path

from .questions import Encoding, Ensembling, Reconstruction
from .study import Study

TABLE = "results.csv"
ALL = "all"


def results_table(study: Study, answers: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row a question and region, and one for all neuroids together (``all``).

    Columns: encode, name of the question; model ("ensemble" for one); routing; features, or the members; roi; metric;
    n, neuroids that count; r, mean over these of the metric over its noise ceiling; low, high, its 95 % interval
    over stimuli; ceiling, their mean noise ceiling; spread, standard deviation of r over runs; runs. Empty where there
    is none.

    A [[reconstruct]] has a row a score of its pictures: model "reconstruct", routing its preset, features what was
    decoded, metric the name of the score, n the pictures, and r the score.
    """
    rows = []
    parts: list[Encoding | Ensembling] = [*study.encode, *study.ensemble]
    for part in parts:
        answer = answers[f"{'encode' if isinstance(part, Encoding) else 'ensemble'}.{part.name}"]
        runs = answer.get("runs", 1)
        for roi in answer.get("roi", {}):
            rows.append(_about(part) | {"roi": roi, "metric": part.metric, **_of_region(answer, roi), "runs": runs})
        rows.append(_about(part) | {"roi": ALL, "metric": part.metric, **_of_all(answer), "runs": runs})
    for drawn in study.reconstruct:
        rows += _of_pictures(drawn, answers[f"reconstruct.{drawn.name}"])
    return pd.DataFrame(rows)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table, whole or not at all; six digits of a number."""
    with atomic_path(path, overwrite=True) as part:
        table.to_csv(part, index=False, float_format="%.6g")


def _about(part: Encoding | Ensembling) -> dict[str, str]:
    if isinstance(part, Ensembling):
        return {"encode": part.name, "model": "ensemble", "routing": "", "features": " ".join(part.members)}
    routing = part.routing or ("roi" if part.model == "transformer" else "")
    return {"encode": part.name, "model": part.model, "routing": routing, "features": " ".join(part.features)}


def _of_pictures(part: Reconstruction, answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    about = {"encode": part.name, "model": "reconstruct", "routing": part.preset, "roi": ALL}
    about["features"] = " ".join(answer["decoder"]["targets"])
    return [
        about
        | {"metric": name, "n": answer["n_pictures"], "r": score["value"], "runs": 1}
        | {bound: score.get(bound) for bound in ("low", "high")}
        for name, score in answer["metrics"].items()
        if "value" in score
    ]


def _of_region(answer: Mapping[str, Any], roi: str) -> dict[str, Any]:
    low, high = answer["roi_interval"][roi] or (None, None)
    return {
        "n": round(answer["roi_n"][roi]),
        "r": answer["roi"][roi],
        "low": low,
        "high": high,
        "ceiling": answer.get("roi_ceiling", {}).get(roi),
        "spread": answer.get("roi_spread", {}).get(roi),
    }


def _of_all(answer: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {"n": round(answer["n_neuroids"] - answer["n_masked"]), "r": answer["center"]}
    return numbers | {name: answer.get(name) for name in ("low", "high", "ceiling", "spread")}
