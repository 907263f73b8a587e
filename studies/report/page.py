"""The page: sections, each with a template of its own, put into one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import jinja2

from recordings.storage import atomic_path

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Section:
    """One section of the report.

    Attributes
    ----------
    key : anchor, and the name of its template, ``templates/KEY.html.j2``, unless `template` names another.
    title : heading, also in the list of contents.
    content : what the template draws from.
    """

    key: str
    title: str
    content: Mapping[str, Any] = field(default_factory=dict)
    template: str = ""


@dataclass(frozen=True)
class Headline:
    """One of the few numbers at the top: value, what it is, and what to compare it with."""

    value: str
    label: str
    beside: str


def write_report(
    path: str | PathLike[str],
    title: str,
    notice: str,
    lead: str,
    headlines: Sequence[Headline],
    sections: Sequence[Section],
    facts: Mapping[str, str],
) -> Path:
    """Write a report that needs no other file and no network.

    Parameters
    ----------
    path : of the HTML file; replaced if it is there.
    notice : one statement that no reader may miss, such as that the data are simulated.
    lead : what was done, in a few sentences.
    facts : name to value, in the foot of the page: seed, sizes.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    css = (_TEMPLATES / "report.css").read_text()
    html = environment.get_template("page.html.j2").render(
        title=title,
        notice=notice,
        lead=lead,
        headlines=headlines,
        sections=sections,
        facts={"Penfield": version("penfield"), **facts},
        css=css,
    )
    with atomic_path(path, overwrite=True) as part:
        part.write_text(html)
    return Path(path)


def number(value: float) -> str:
    """A number with as many places as say something: 0.612, 0.0049, 84.2, 1,200."""
    if float(value).is_integer() and abs(value) >= 1:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.4f}" if abs(value) < 0.1 else f"{value:.3f}"
