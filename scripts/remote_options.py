"""What the verbs of ``penfield remote`` share: the connection, its options, and data that lie here or there."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console

if TYPE_CHECKING:
    from service.client import Client

remote = console.group("The same verbs on a server of models; see penfield serve.")

CONNECTION = "Connection"
LOCAL = "localhost:50051"
Served = Annotated[str, typer.Option("--model", "-m", help="Model of the server, NAME or NAME@VERSION.")]
Held = Annotated[
    list[str] | None, typer.Option("--stimulus", help="Stimulus of the recording; give it once each. All by default.")
]
Consent = Annotated[
    str, typer.Option(help="What the participants consented to; needed to upload recordings.", show_default=False)
]
License = Annotated[
    str, typer.Option(help="Licence, such as CC-BY-4.0; needed to upload recordings.", show_default=False)
]
Days = Annotated[
    float | None,
    typer.Option("--retention", help="Days that uploads may stay; the server's own limit by default.", min=0),
]


def _connection(name: str, annotation: Any, default: Any, help_text: str, env: str | None = None) -> inspect.Parameter:
    option = typer.Option(
        f"--{name}", help=help_text, envvar=env, rich_help_panel=CONNECTION, show_default=bool(default)
    )
    annotated = Annotated[annotation, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotated)


OPTIONS = (
    _connection("server", str, LOCAL, "HOST:PORT; over TLS if it is another machine.", "PENFIELD_SERVER"),
    _connection("token", str | None, None, "Bearer token; better in the environment.", "PENFIELD_TOKEN"),
    _connection("ca", Path | None, None, "Authorities of the server's certificate, PEM."),
    _connection("certificate", Path | None, None, "Certificate of this client, PEM, for mutual TLS."),
    _connection("key", Path | None, None, "Its private key, PEM."),
    _connection("timeout", float, 30.0, "Seconds for what is answered at once."),
    _connection("retries", int, 4, "How often what fails on the way is tried again."),
)


def verb(group: typer.Typer, name: str, example: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register ``function(client, run, ...)`` as a command that takes the options of the connection as well."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def command(run: console.Run, **options: Any) -> Any:
            from service.client import Client

            how = {option.name: options.pop(option.name) for option in OPTIONS}
            with Client(how.pop("server"), stop=run.stop, **how) as client:
                return function(client, run, **options)

        # The client's class is not imported before a verb runs, so that --help is quick.
        signature = inspect.signature(function, locals={"Client": Any}, eval_str=True)
        _, run, *own = signature.parameters.values()
        keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        command.__signature__ = inspect.Signature([run, *keyword, *OPTIONS])  # type: ignore[attr-defined]
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        console.verb(group, name, example)(command)
        return function

    return register


def on_server(
    client: Client,
    run: console.Run,
    place: str,
    kind: str,
    consent: str = "",
    license: str = "",
    days: float | None = None,
) -> str:
    """The id of data on the server; what is a path here is uploaded, unless the server has it already."""
    if place.startswith(("data:", "job:", "model:")):
        return place
    return client.upload(
        place, kind, consent=consent, license=license, retention=retention_of(days), on_event=run.on_event
    ).id


def retention_of(days: float | None) -> timedelta | None:
    """Days as a span of time."""
    return None if days is None else timedelta(days=days)
