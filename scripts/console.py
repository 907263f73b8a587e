"""The frame of every command: common options, progress, errors in one line, tables or one JSON object.

A verb is a function that takes a `Run` and its own options and returns a dict. `verb` registers it; what it returns is
printed. Nothing here imports the rooms before a verb runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.markup import escape
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from .progress import Interruption, progress

if TYPE_CHECKING:
    from recordings.events import OnEvent, Stop

Number = TypeVar("Number", int, float)
Verb = Callable[..., dict[str, Any] | None]
COMMON = "Options of every command"
WHOLE, DATA, METHODS = "Whole studies", "What was shown and what the brain did", "Models"
SERVICE = "Over the network"
# Threads that spin while they wait make a fit on a busy machine two to three times slower; must precede torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOMS = ("recordings", "encoders", "decoders", "alignment", "studies", "service", "scripts")


class Device(StrEnum):
    """Where arithmetic is done; auto takes an accelerator if there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Standardisation(StrEnum):
    """Within what responses are standardised."""

    session = "session"


@dataclass(frozen=True)
class Run:
    """What every command knows: where to compute, with which seed, whom to tell and when to stop.

    `given` holds those of device and seed that stood on the command line. `json` : whether one JSON object is to be
    printed; for verbs that print before they end.
    """

    device: str
    seed: int
    on_event: OnEvent
    stop: Stop
    given: dict[str, Any]
    json: bool = False


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.", rich_help_panel=COMMON)]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Seed of all that is drawn at random [default: 0].", rich_help_panel=COMMON)
]
Where = Annotated[
    Device | None, typer.Option("--device", help="Where to compute [default: auto].", rich_help_panel=COMMON)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Estimate the time and memory of the run, and do not run it.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what stands at the output.")]
Recorded = Annotated[Path, typer.Option("--recording", "-r", help="Recording (.zarr) or subject folder.")]
Fitted = Annotated[Path, typer.Option("--model", "-m", help="Fitted model, a folder.")]
Rois = Annotated[list[str] | None, typer.Option("--roi", help="Region; give it once a region. All by default.")]


Standardise = Annotated[
    Standardisation | None,
    typer.Option(
        help="Give each neuroid mean 0 and variance 1 in every session, learnt on the training part; what is "
        "evaluated later is scaled alike. By default responses stay as they are."
    ),
]


class Program(TyperGroup):
    """A group of commands that turns every failure into one line on standard error and an exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line; exit code 0, 2 for bad input, 1 for a failure of ours, 130 after Ctrl-C."""
        try:
            code = super().main(args, prog_name or "penfield", complete_var, False, windows_expand_args, **extra)
        except KeyboardInterrupt:
            code = fail("stopped", 130)
        except typer.TyperException as error:
            code = _usage_error(error)
        sys.exit(code)


class Command(TyperCommand):
    """A command whose help is shown as it is written: nothing that stands in brackets is markup."""

    def __init__(self, name: str | None, **options: Any) -> None:
        super().__init__(name, **options)
        self.help = escape(self.help or "")
        for option in self.params:
            if isinstance(option, TyperArgument | TyperOption) and option.help:
                option.help = escape(option.help)


def fail(message: str, code: int) -> int:
    """Say in one line what went wrong; the exit code, for convenience."""
    line = " ".join(message.split())
    sys.stderr.write(f"penfield: {line}\n")
    return code


def _usage_error(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{error.format_message()}\n")
        return 2
    message = error.format_message().rstrip(".")
    return fail(f"{message}. See {context.command_path} --help" if context else message, error.exit_code)


def numbers(text: str | None, kind: type[Number]) -> list[Number]:
    """Numbers from ``1,10,100``; none from None."""
    try:
        return [kind(part) for part in text.split(",")] if text else []
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as 1,10,100") from error


def check_absent(out: Path, overwrite: bool) -> None:
    """Refuse early what would be refused at the end, after all the work."""
    from recordings.errors import InputError

    if out.exists() and not overwrite:
        raise InputError("exists already", where=out, remedy="Choose another name or pass --overwrite")


def group(help_text: str) -> typer.Typer:
    """A group of commands, such as ``penfield encode``."""
    options: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False, "no_args_is_help": True}
    return typer.Typer(cls=Program, help=help_text, **options)


def verb(app: typer.Typer, name: str, example: str, panel: str | None = None) -> Callable[[Callable], Callable]:
    """Register ``function(run, ...) -> dict`` as a command; its docstring is the help, `example` follows it.

    A function that returns None has printed what there is to print.
    """

    def register(function: Verb) -> Verb:
        command = _command(function)
        app.command(name, cls=Command, epilog=f"Example: {example}", rich_help_panel=panel)(command)
        return function

    return register


def _command(function: Verb) -> Callable[..., None]:
    @functools.wraps(function)
    def command(*, json: bool, device: Device | None, seed: int | None, **options: Any) -> None:
        _show_warnings_in_one_line()
        given: dict[str, Any] = {} if seed is None else {"seed": seed}
        if device is not None:
            given["device"] = device.value
        interruption = Interruption()
        with interruption.installed():
            result = _guarded(function, interruption, given, options, json)
        if result is not None:
            from .output import show

            show(result, as_json=json)

    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    keyword = inspect.Parameter.KEYWORD_ONLY
    common = [
        inspect.Parameter("device", keyword, default=None, annotation=Where),
        inspect.Parameter("seed", keyword, default=None, annotation=Seed),
        inspect.Parameter("json", keyword, default=False, annotation=Json),
    ]
    parameters = [p.replace(kind=keyword) for p in own] + common
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    del command.__wrapped__
    return command


def _guarded(
    function: Verb, interruption: Interruption, given: dict[str, Any], options: dict[str, Any], json: bool
) -> dict[str, Any] | None:
    from recordings.errors import Cancelled, PenfieldError, disk_full_as_error

    try:
        with progress() as on_event, disk_full_as_error("output"):
            device, seed = given.get("device", "auto"), given.get("seed", 0)
            return function(Run(device, seed, on_event, interruption, given, json), **options)
    except Cancelled as error:
        raise typer.Exit(fail(f"{error}. Run the same command again to go on", interruption.exit_code)) from None
    except PenfieldError as error:
        raise typer.Exit(fail(str(error), error.exit_code)) from None
    except OSError as error:
        if error.filename is None:
            raise
        raise typer.Exit(fail(f"{error.filename}: {error.strerror}", 2)) from None


def _show_warnings_in_one_line() -> None:
    # Warnings of our own are for the reader of the result; those of libraries are for their users, us.
    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if category.__module__.partition(".")[0] in ROOMS or sys.warnoptions:
            fail(f"warning: {message}", 0)

    warnings.showwarning = show
