"""``penfield serve``: models over gRPC; ``penfield token``: who may call."""

from __future__ import annotations

import asyncio
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from . import console

app = typer.Typer()

SECONDS_BETWEEN_LOOKS = 0.05
SECURITY, CAPACITY, WATCHING = "Who may call", "How much at once", "Watching it"


class Engine(StrEnum):
    """Where models run."""

    local = "local"
    ray = "ray"


class LogFormat(StrEnum):
    """How log lines look."""

    text = "text"
    json = "json"


class Scope(StrEnum):
    """What a token allows."""

    read = "read"
    predict = "predict"
    data = "data"
    admin = "admin"


def _option(help_text: str, panel: str | None = None, **more: Any) -> Any:
    return typer.Option(help=help_text, rich_help_panel=panel, **more)


@console.verb(app, "serve", "penfield serve --models models --data server-data", panel=console.SERVICE)
def serve(
    run: console.Run,
    models: Annotated[Path | None, _option("Folder of fitted models, a folder NAME or NAME/VERSION each.")] = None,
    data: Annotated[Path | None, _option("Folder for uploads and jobs; without it there are neither.")] = None,
    config: Annotated[Path | None, _option("Settings file (.toml); options here go before it.")] = None,
    host: Annotated[
        str | None, _option("Address to listen on [default: 127.0.0.1]; others need TLS and tokens.")
    ] = None,
    port: Annotated[int | None, _option("Port, 0 for any that is free [default: 50051].", min=0, max=65535)] = None,
    on: Annotated[Engine | None, _option("Where models run [default: local].")] = None,
    replicas: Annotated[int | None, _option("With --on ray: replicas of each model.", min=1)] = None,
    tls_cert: Annotated[Path | None, _option("Certificate chain, PEM.", SECURITY)] = None,
    tls_key: Annotated[Path | None, _option("Its private key, PEM.", SECURITY)] = None,
    client_ca: Annotated[Path | None, _option("Authorities of client certificates, PEM: mutual TLS.", SECURITY)] = None,
    tokens: Annotated[Path | None, _option("File of tokens; see penfield token.", SECURITY)] = None,
    audit_log: Annotated[Path | None, _option("File to which every call is noted, without content.", SECURITY)] = None,
    memory_budget: Annotated[
        float | None, _option("GiB for models in memory; by default most of it.", CAPACITY, metavar="GIB")
    ] = None,
    batch_size: Annotated[int | None, _option("Most rows computed together [default: 16].", CAPACITY, min=1)] = None,
    batch_wait: Annotated[
        float | None, _option("Longest wait for a batch to fill [default: 5].", CAPACITY, min=0, metavar="MS")
    ] = None,
    queue_size: Annotated[
        int | None, _option("Most requests that wait for a model [default: 64].", CAPACITY, min=1)
    ] = None,
    load: Annotated[
        list[str] | None, _option("Model to load at the start, NAME or NAME@VERSION; once each.", CAPACITY)
    ] = None,
    metrics_port: Annotated[
        int | None, _option("Port of Prometheus metrics, on loopback; 0 for any.", WATCHING, min=0, max=65535)
    ] = None,
    log_format: Annotated[LogFormat | None, _option("How log lines look [default: text].", WATCHING)] = None,
    playground: Annotated[
        int | None, _option("Port of a web page to try models, on loopback; 0 for any.", WATCHING, min=0, max=65535)
    ] = None,
    traces: Annotated[str | None, _option("OTLP endpoint of OpenTelemetry traces.", WATCHING)] = None,
) -> None:
    """Serve a folder of models over gRPC until SIGTERM or Ctrl-C, which let running calls end.

    One line on standard output says when the server is ready. A settings file may hold everything that
    service.settings.ServerSettings names; variables PENFIELD_SERVE_NAME go before it, and options before both.
    """
    from service.settings import ServerSettings

    settings = ServerSettings.load(
        config,
        models=models,
        data=data,
        host=host,
        port=port,
        on=None if on is None else on.value,
        replicas=replicas,
        tls_certificate=tls_cert,
        tls_key=tls_key,
        tls_client_ca=client_ca,
        tokens=tokens,
        audit_log=audit_log,
        device=run.given.get("device"),
        memory_budget_gb=memory_budget,
        batch_size=batch_size,
        batch_wait_ms=batch_wait,
        queue_size=queue_size,
        warm_up=load,
        metrics_port=metrics_port,
        log_format=None if log_format is None else log_format.value,
        playground_port=playground,
        traces=traces,
    )
    asyncio.run(_serve(settings, run))


async def _serve(settings: Any, run: console.Run) -> None:
    from service.server import Server

    server = Server(settings)
    await server.start()
    telling = asyncio.create_task(_tell_when_ready(server, run))
    try:
        # A signal that came before the server listened to signals itself.
        if run.stop():
            await server.stop()
        else:
            await server.serve_forever()
    finally:
        telling.cancel()


async def _tell_when_ready(server: Any, run: console.Run) -> None:
    while not server.ready:
        await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
    settings = server.settings
    if run.json:
        ready = {"models": str(settings.models), "host": settings.host, "port": server.port}
        ports = {"metrics_port": server.metrics_port, "playground_port": server.playground_port}
        line = json.dumps(ready | ports | {"on": settings.on})
    else:
        line = f"serving {settings.models} on {settings.host}:{server.port}"
        if server.playground_port is not None:
            line += f", playground at http://127.0.0.1:{server.playground_port}/"
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@console.verb(app, "token", "penfield token ann --scope predict --tokens tokens.toml", panel=console.SERVICE)
def token(
    run: console.Run,
    name: Annotated[str, typer.Argument(help="Whose it is; uploads and jobs belong to this name.")],
    scope: Annotated[
        list[Scope], _option("What it allows, once each: read models, predict, data (uploads and jobs), admin.")
    ],
    expires: Annotated[
        str | None, _option("Last day on which it holds, such as 2027-12-31; for ever by default.")
    ] = None,
    tokens: Annotated[Path | None, _option("File of tokens to add it to; running servers read it again.")] = None,
) -> dict[str, Any]:
    """Make a token for a caller and the lines for the server's file of tokens, which holds only its hash.

    The token is shown once. Several with one name are the same caller, so that one can be replaced by another.
    """
    from service.security.tokens import TokenFile, hash_token, new_token

    secret = new_token()
    entry = {"name": name, "sha256": hash_token(secret), "scopes": sorted({s.value for s in scope})}
    lines = _toml(entry, expires)
    _checked(lines, TokenFile)
    if tokens is not None:
        _append(tokens, lines)
    return {"token": secret, "entry": lines} | ({} if tokens is None else {"tokens": tokens})


def _toml(entry: dict[str, Any], expires: str | None) -> str:
    # JSON's strings and lists of strings are TOML's.
    lines = ["[[tokens]]", *(f"{key} = {json.dumps(value)}" for key, value in entry.items())]
    return "\n".join([*lines, *([f"expires = {expires}"] if expires else [])]) + "\n"


def _checked(lines: str, kind: Any) -> None:
    import tomllib

    from pydantic import ValidationError

    try:
        kind.model_validate(tomllib.loads(lines))
    except tomllib.TOMLDecodeError as error:
        raise typer.BadParameter("is not a day such as 2027-12-31", param_hint="--expires") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(f"{first['loc'][-1]}: {first['msg']}") from error


def _append(path: Path, lines: str) -> None:
    from recordings.storage import atomic_path
    from service.security.tokens import Tokens

    before = ""
    if path.exists():
        Tokens(path)
        before = path.read_text().rstrip() + "\n\n"
    with atomic_path(path, overwrite=True) as part:
        part.touch(mode=0o600)
        part.write_text(before + lines)


if __name__ == "__main__":
    from .penfield import main

    main("serve")
