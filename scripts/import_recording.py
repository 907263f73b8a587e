"""``penfield import``: a public format becomes a recording, with one command a format."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from . import console

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from recordings.readers import Reader

app = typer.Typer()
SCALARS = (str, int, float, bool, Path)


class Formats(console.Program):
    """One command a reader, with the fields of its option model as flags, built when one is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the formats."""
        from recordings.readers import READERS

        return list(READERS)

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand:
        """The command of a format; a usage error if there is no such format."""
        from recordings.readers import READERS

        if cmd_name not in READERS:
            ctx.fail(f"No format {cmd_name!r}; there are: {', '.join(READERS)}")
        return format_command(READERS[cmd_name])


formats = typer.Typer(cls=Formats, no_args_is_help=True)
app.add_typer(formats, name="import", rich_help_panel=console.DATA)


@formats.callback()
def _formats() -> None:
    """Turn a recording in a public format into a Penfield one."""


def format_command(reader: Reader) -> TyperCommand:
    """The command ``penfield import <format>``, its flags made from the reader's option model."""

    def run_import(
        run: console.Run,
        source: Annotated[Path, typer.Argument(help="File or folder to read.")],
        out: Annotated[Path, typer.Option(help="Recording to write (.zarr), or RDMs (.npz).")],
        overwrite: console.Overwrite = False,
        **options: Any,
    ) -> dict[str, Any]:
        given = {name: _parsed(reader.options.model_fields[name], value) for name, value in options.items()}
        return import_format(
            run, reader.name, source, out, overwrite, {k: v for k, v in given.items() if v is not None}
        )

    signature = inspect.signature(run_import, eval_str=True)
    fixed = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    flags = [_flag(name, field) for name, field in reader.options.model_fields.items()]
    run_import.__signature__ = signature.replace(parameters=fixed + flags)  # type: ignore[attr-defined]
    tried = "" if reader.tried_on_real_files else "Tried on files of the published layout, never on the real ones."
    run_import.__doc__ = f"{reader.summary.rstrip('.')}.\n\n{tried}"
    single = typer.Typer(add_completion=False)
    console.verb(single, reader.name, f"penfield import {reader.name} SOURCE --out recording.zarr")(run_import)
    return typing.cast(TyperCommand, typer.main.get_command(single))


def import_format(
    run: console.Run, format: str, source: Path, out: Path, overwrite: bool, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Import, save the stimuli of the source beside the recording as ``NAME-stimuli``, and say what came out."""
    from recordings.readers import import_recording
    from recordings.readers.describe import describe
    from recordings.storage import atomic_path

    folder = out.with_name(f"{out.stem}-stimuli")
    # The recording gets its name last, so that a picture that cannot be read leaves no recording without pictures.
    with atomic_path(out, overwrite=overwrite) as part:
        imported = import_recording(format, source, part, on_event=run.on_event, stop=run.stop, **options)
        if imported.stimuli is not None:
            imported.stimuli.save(folder, overwrite=overwrite)
    result = {"out": out, **describe(out)}
    return result if imported.stimuli is None else {**result, "stimuli": folder}


def _flag(name: str, field: FieldInfo) -> inspect.Parameter:
    # None stands for "not given", so that defaults stay in one place, the option model.
    required = field.is_required()
    kind, help_text = _flag_type(field.annotation), field.description or ""
    default_value = None if required else field.get_default(call_default_factory=True)
    if default_value not in (None, (), [], {}):
        help_text = f"{help_text} [default: {_shown(default_value)}]"
    annotation: Any = Annotated[kind if required else kind | None, typer.Option(help=help_text, show_default=False)]
    default = inspect.Parameter.empty if required else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _flag_type(annotation: Any) -> Any:
    """What typer should parse: the type itself, a list of it, or text where it is a mapping (name=value)."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return _flag_type(next(a for a in inner if a is not type(None)))
    if origin is tuple and Ellipsis not in inner:
        return annotation
    if origin in (list, tuple, set):
        inner_type = _flag_type(inner[0])
        return types.GenericAlias(list, (inner_type,))
    if origin in (dict, Mapping):
        return list[str]
    return annotation if annotation in SCALARS or origin is Literal else str


def _parsed(field: FieldInfo, value: Any) -> Any:
    if value in (None, [], ()):
        return None
    mapping = dict in _origins(field.annotation)
    return dict(_pair(v) for v in value) if mapping else value


def _origins(annotation: Any) -> list[Any]:
    inner = typing.get_args(annotation) if typing.get_origin(annotation) in (types.UnionType, typing.Union) else ()
    return [typing.get_origin(a) for a in (annotation, *inner)]


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE")
    return name, value


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


if __name__ == "__main__":
    from .penfield import main

    main("import")
