"""``penfield remote upload``, ``data``, ``jobs`` and ``score``: long work on a server, on data that were sent there."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin

import typer

from . import console
from .features import Readout
from .remote_options import Consent, Days, License, on_server, remote, retention_of, verb
from .score import Compare, Metric

if TYPE_CHECKING:
    from service.client import Client

data = console.group("What this caller has on the server.")
jobs = console.group("Long verbs as jobs of a server, which go on without this command.")
remote.add_typer(data, name="data")
remote.add_typer(jobs, name="jobs")

Id = Annotated[str, typer.Argument(help="Id of the job.")]
DATA_COLUMNS = ("id", "name", "kind", "size", "license", "expires")
JOB_COLUMNS = ("id", "verb", "state", "stage", "done", "total", "attempts", "created")


class Kind(StrEnum):
    """What data are."""

    recording = "recording"
    stimuli = "stimuli"
    features = "features"
    rdms = "rdms"
    file = "file"


@verb(remote, "upload", "penfield remote upload rec.zarr --kind recording --consent research --license CC-BY-4.0")
def upload(
    client: Client,
    run: console.Run,
    path: Annotated[Path, typer.Argument(help="File or folder.")],
    kind: Annotated[Kind, typer.Option(help="What it is.")],
    consent: Consent = "",
    license: License = "",
    days: Days = None,
) -> dict[str, Any]:
    """Send a file or folder to the server, under its terms. What broke off goes on; what is there is not sent again."""
    return client.upload(
        path, kind.value, consent=consent, license=license, retention=retention_of(days), on_event=run.on_event
    ).to_dict()


@verb(data, "list", "penfield remote data list")
def list_data(client: Client, run: console.Run) -> dict[str, Any]:
    """List uploads with their terms."""
    found = [stored.to_dict() for stored in client.data()]
    return {"data": [{name: stored[name] for name in DATA_COLUMNS} for stored in found]}


@verb(data, "delete", "penfield remote data delete data:0123456789abcdef")
def delete(
    client: Client, run: console.Run, id: Annotated[str, typer.Argument(help="Id, as data list tells it.")]
) -> dict[str, Any]:
    """Delete data at once, with all that jobs derived from them."""
    return {"deleted": id, "jobs": client.delete(id)}


@verb(jobs, "list", "penfield remote jobs list")
def list_jobs(client: Client, run: console.Run) -> dict[str, Any]:
    """List jobs, newest first."""
    found = [status.to_dict() for status in client.jobs()]
    return {"jobs": [{name: status[name] for name in JOB_COLUMNS} for status in found]}


@verb(
    jobs,
    "submit",
    "penfield remote jobs submit 'encode fit' features=data:0123456789abcdef recording=data:fedcba9876543210",
)
def submit(
    client: Client,
    run: console.Run,
    name: Annotated[str, typer.Argument(metavar="VERB", help="Verb of the command line, such as 'encode fit'.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            help="Its options as NAME=VALUE with _ for -, each value text or JSON; a name that is given several times "
            "has a list. Paths are said as data:ID, job:ID or model:NAME."
        ),
    ] = None,
    once: Annotated[
        str | None, typer.Option(help="Name under which submitting again gives the same job.", metavar="NAME")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end, and print what the verb prints.")] = False,
) -> dict[str, Any]:
    """Queue a verb as a job of the server."""
    asked = _arguments(name, arguments or []) | ({"seed": run.seed} if "seed" in run.given else {})
    job = client.submit(name, once, **asked)
    return job.result(run.on_event) if wait else job.status().to_dict()


@verb(jobs, "watch", "penfield remote jobs watch 0123456789abcdef")
def watch(client: Client, run: console.Run, id: Id) -> dict[str, Any]:
    """Show how far a job is until it ends; leaving does not stop it."""
    return client.job(id).watch(run.on_event).to_dict()


@verb(jobs, "cancel", "penfield remote jobs cancel 0123456789abcdef")
def cancel(client: Client, run: console.Run, id: Id) -> dict[str, Any]:
    """Stop a job at its next step. Submitting it again goes on with it."""
    return client.job(id).cancel().to_dict()


@verb(jobs, "fetch", "penfield remote jobs fetch 0123456789abcdef --out fitted")
def fetch(
    client: Client,
    run: console.Run,
    id: Id,
    out: Annotated[Path, typer.Option(help="Folder for the files that the job wrote.")],
    overwrite: console.Overwrite = False,
) -> dict[str, Any]:
    """Wait for a job's end, write its files here, and print what its verb prints."""
    return client.job(id).fetch(out, overwrite=overwrite, on_event=run.on_event)


@verb(remote, "score", "penfield remote score --model miniature:backbone -r data:0123456789abcdef --metric rsa")
def score(
    client: Client,
    run: console.Run,
    metric: Annotated[Metric, typer.Option(help="Representational similarity, or cross-validated prediction.")],
    features: Annotated[str | None, typer.Option(help="Feature store to score, here or data:ID.")] = None,
    model: Annotated[str | None, typer.Option(help="Model URI to score instead of a feature store.")] = None,
    layer: Annotated[list[str] | None, typer.Option(help="Layer; once a layer. As in penfield score.")] = None,
    readout: Annotated[Readout, typer.Option(help="How a model's activation becomes a row.")] = Readout.flat,
    stimuli: Annotated[str | None, typer.Option(help="What the model is shown, here or data:ID.")] = None,
    recording: Annotated[str | None, typer.Option("--recording", "-r", help="Recording, here or data:ID.")] = None,
    rdms: Annotated[str | None, typer.Option(help="RDMs to score against, here or data:ID.")] = None,
    roi: Annotated[list[str] | None, typer.Option(help="Regions of the recording; all by default.")] = None,
    compare: Annotated[Compare, typer.Option(help="How RDMs are compared.")] = Compare.spearman,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Score pixels, Gabor energies and the untrained model as well.")
    ] = False,
    consent: Consent = "",
    license: License = "",
    days: Days = None,
) -> dict[str, Any]:
    """Score every layer of a model against a recording or RDMs, on a server; what lies here is uploaded first."""
    if (features is None) == (model is None) or (recording is None) == (rdms is None):
        raise typer.BadParameter("needs one of --features and --model, and one of --recording and --rdms")
    given = {"features": features, "stimuli": stimuli, "recording": recording, "rdms": rdms}
    places: dict[str, Any] = {
        kind: on_server(client, run, place, kind, consent, license, days)
        for kind, place in given.items()
        if place is not None
    }
    return client.score(
        metric=metric.value,
        model=model,
        **places,
        layers=layer or (),
        seed=run.seed,
        on_event=run.on_event,
        readout=readout.value,
        roi=list(roi or ()),
        compare=compare.value,
        baselines=baselines,
    )


def _arguments(verb: str, given: list[str]) -> dict[str, Any]:
    found: dict[str, list[Any]] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE")
        found.setdefault(name.replace("-", "_"), []).append(_value(value))
    return {n: v if len(v) > 1 or _takes_several(verb, n, v[0]) else v[0] for n, v in found.items()}


def _takes_several(verb: str, name: str, value: Any) -> bool:
    """Whether the one value given is the first of a list, as far as the verb is known here."""
    from service.verbs import VERBS

    field = VERBS[verb].model_fields.get(name) if verb in VERBS else None
    return field is not None and get_origin(field.annotation) is tuple and not isinstance(value, list)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
