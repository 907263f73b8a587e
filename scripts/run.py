"""``penfield run``: a study file to its results."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from . import console

app = typer.Typer()


class Engine(StrEnum):
    """Where a study runs: in this process, on Ray workers, or as SLURM jobs."""

    local = "local"
    ray = "ray"
    slurm = "slurm"


def _job_options(given: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--job")
        options[name] = int(value) if value.isdigit() else value
    return options


@console.verb(app, "run", "penfield run study.toml", panel=console.WHOLE)
def run(
    run: console.Run,
    study: Annotated[Path, typer.Argument(help="Study file (.toml).")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Throw away earlier results in the study's folder first.")
    ] = False,
    on: Annotated[
        Engine, typer.Option("--on", help="Where to compute: this process, Ray workers, or SLURM jobs.")
    ] = Engine.local,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Workers of Ray (all CPUs by default) or SLURM jobs at a time (8)."),
    ] = None,
    job: Annotated[
        list[str] | None,
        typer.Option("--job", help="Option of SLURM jobs as submitit names it: timeout_min=60, slurm_partition=gpu."),
    ] = None,
    dry_run: console.DryRun = False,
) -> dict[str, Any]:
    """Run a study file, or what is left of it after an interruption. It repeats to the same numbers.

    A study file names name, seed, device, out and skip_failures; [recording] with path or paths of several subjects
    (and stimuli, rois) or simulate; [split] with
    by (stimulus, a coordinate, or a column of the stimuli) and test or held_out, and ensemble; [[features]] with name,
    and model (layers, readout, dtype) or path; and what is asked: [[encode]] (name, model, routing, features, alphas,
    folds, delays, runs, metric, shuffles, and a table [encode.transformer] of its options), [[ensemble]] (name,
    members, temperature, metric, shuffles), [[decode]] (name, features, max_neuroids), [[reconstruct]] (name, preset,
    rois by target, captions, strength, guidance, tuned, steps, samples, networks, text_networks, by; generator,
    captioner and the other models; components, rescale, reliability, max_neuroids) and [[align]] (name, metric,
    features). --seed and --device go before the file's own.

    The folder `out` gets results.json, results.csv with a row a score, and report.html; of several subjects each gets
    these in subjects/NAME. With --on ray or slurm all of that is the same: workers share the work, one that is lost is
    replaced, and what is done is kept. Ray starts on this machine, or joins the cluster that RAY_ADDRESS names.
    """
    from studies.run import plan_study
    from studies.run import run as run_study
    from studies.study import Study

    asked = Study.load(study).model_copy(update=run.given)
    if dry_run:
        return plan_study(asked).to_dict()
    how: dict[str, Any] = {"overwrite": overwrite, "on_event": run.on_event, "stop": run.stop}
    if on is Engine.local:
        if workers or job:
            raise typer.BadParameter("--workers and --job go with --on ray or --on slurm")
        answers = run_study(asked, **how)
    else:
        from studies.scale import run_scaled

        if on is Engine.ray and job:
            raise typer.BadParameter("--job goes with --on slurm")
        answers = run_scaled(
            asked, "ray" if on is Engine.ray else "slurm", workers=workers, jobs=_job_options(job or []), **how
        )
    return {"study": asked.name, "out": asked.out, **answers}


if __name__ == "__main__":
    from .penfield import main

    main("run")
