"""``penfield simulate``: subjects of the miniature world, with everything that was planted written down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import console

app = typer.Typer()


@console.verb(app, "simulate", "penfield simulate --out world --scenes 200 --subjects 2", panel=console.DATA)
def simulate(
    run: console.Run,
    out: Annotated[Path, typer.Option(help="Folder to write subject-01, subject-02, ... into.")],
    scenes: Annotated[int, typer.Option(min=2, help="Scenes that every subject sees.")] = 1000,
    subjects: Annotated[int, typer.Option(min=1, help="Subjects, each wired in a way of their own.")] = 1,
    repetitions: Annotated[int, typer.Option(min=1, help="Times that each scene is shown.")] = 3,
    sessions: Annotated[int, typer.Option(min=1, help="Sessions that presentations are spread over.")] = 1,
    snr: Annotated[
        float | None,
        typer.Option(min=0.01, help="Signal over noise of one presentation, in s.d.; by default a ceiling of .7."),
    ] = None,
    overwrite: console.Overwrite = False,
    dry_run: console.DryRun = False,
) -> dict[str, Any]:
    """Simulate subjects that look at scenes of the miniature world, with a known truth.

    Each subject's folder holds its recording, the pictures, and in truth.npz all that was planted: receptive fields,
    tuning, weights and noise ceilings.
    """
    from studies.simulation import ceiling_from_snr, plan_world, simulate_world

    if dry_run:
        return plan_world(scenes, subjects, repetitions, run.seed).to_dict()
    noise_ceiling = 0.7 if snr is None else ceiling_from_snr(snr, repetitions)
    made = simulate_world(
        out,
        scenes,
        subjects,
        noise_ceiling=noise_ceiling,
        repetitions=repetitions,
        sessions=sessions,
        seed=run.seed,
        overwrite=overwrite,
        on_event=run.on_event,
        stop=run.stop,
    )
    first = made[0].recording
    return {
        "out": out,
        "subjects": [subject.subject_id for subject in made],
        "noise_ceiling": noise_ceiling,
        "shape": dict(first.data.sizes),
        "rois": {name: int(first.roi_mask(name).sum()) for name in first.rois},
    }


if __name__ == "__main__":
    from .penfield import main

    main("simulate")
