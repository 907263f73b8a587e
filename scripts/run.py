"""``penfield run``: a study file to its results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import console

app = typer.Typer()


@console.verb(app, "run", "penfield run study.toml", panel=console.WHOLE)
def run(
    run: console.Run,
    study: Annotated[Path, typer.Argument(help="Study file (.toml).")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Throw away earlier results in the study's folder first.")
    ] = False,
    dry_run: console.DryRun = False,
) -> dict[str, Any]:
    """Run a study file, or what is left of it after an interruption. It repeats to the same numbers.

    A study file names name, seed, device and out; [recording] with path (and stimuli, rois) or simulate; [split] with
    by (stimulus, a coordinate, or a column of the stimuli) and test or held_out, and ensemble; [[features]] with name,
    and model (layers, readout, dtype) or path; and what is asked: [[encode]] (name, model, routing, features, alphas,
    folds, delays, runs, metric, shuffles, and a table [encode.transformer] of its options), [[ensemble]] (name,
    members, temperature, metric, shuffles), [[decode]] (name, features, max_neuroids), [[reconstruct]] (name, preset,
    rois by target, captions, strength, guidance, tuned, steps, samples, networks, text_networks, by; generator,
    captioner and the other models; components, rescale, reliability, max_neuroids) and [[align]] (name, metric,
    features). --seed and --device go before the file's own.

    The folder `out` gets results.json, results.csv with a row a score, and report.html.
    """
    from studies.run import plan_study
    from studies.run import run as run_study
    from studies.study import Study

    asked = Study.load(study).model_copy(update=run.given)
    if dry_run:
        return plan_study(asked).to_dict()
    answers = run_study(asked, overwrite=overwrite, on_event=run.on_event, stop=run.stop)
    return {"study": asked.name, "out": asked.out, **answers}


if __name__ == "__main__":
    from .penfield import main

    main("run")
