"""The verb publish: a fitted model becomes a version of a model in the repository."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import field_validator

from recordings.artifacts import CONFIG, read_config
from recordings.errors import ArtifactError
from recordings.storage import remove
from service.data.upload import flush_folder
from service.errors import ConflictError

from .base import Task, Verb
from .references import Reference

TERMS = "terms.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}")


class Publish(Verb):
    """Put a fitted model into the server's repository, as a new version of its name.

    It carries the terms of the data that it was fitted on, and goes when these are deleted.
    """

    name: ClassVar[str] = "publish"
    scope: ClassVar[str] = "admin"

    model: Reference
    """What encode fit or decode fit wrote, a job's result or uploaded."""
    to: str
    """Name in the repository, up to three parts with / between them."""

    @field_validator("to")
    @classmethod
    def _name(cls, value: str) -> str:
        parts = value.split("/")
        # A part that is a number would be taken for a version.
        if len(value) > 200 or not _NAME.fullmatch(value) or any(part.isdigit() for part in parts):
            raise ValueError("no model name; use letters, digits and ._-, at most three parts, none of them a number")
        return value

    def run(self, task: Task) -> dict[str, Any]:
        """See `publish_model`."""
        version = publish_model(task.path(self.model), task.models, self.to, {"job": task.id, **task.terms})
        return {"model": f"model:{self.to}@{version}", "name": self.to, "version": str(version)}


def publish_model(source: Path, models: Path, name: str, terms: dict[str, Any]) -> int:
    """Copy a fitted model to the next free version of a name; the version, which is there whole or not at all.

    Parameters
    ----------
    terms : written beside the model; a version that the same job has published before is not published again.

    Raises
    ------
    ArtifactError : no fitted model at `source`. ConflictError : the name is that of a model without versions, or lies
    inside another model.
    """
    if "kind" not in read_config(source):
        raise ArtifactError("holds no fitted model", where=source, remedy="Publish what encode fit or decode fit wrote")
    folder = models / name
    for place in (folder, *folder.relative_to(models).parents):
        if (models / place / CONFIG).exists():
            raise ConflictError("a model without versions has this name", where=name, remedy="Choose another name")
    if folder.is_dir() and any(p.is_dir() and not p.name.isdigit() and p.name[0] != "." for p in folder.iterdir()):
        raise ConflictError("other models lie inside this name", where=name, remedy="Choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    if (earlier := _published_by(folder, terms["job"])) is not None:
        return earlier
    part = folder / f".{uuid.uuid4().hex[:8]}.part"
    try:
        shutil.copytree(source, part, symlinks=False)
        (part / TERMS).write_text(json.dumps(terms, indent=2) + "\n")
        flush_folder(part)
        return _next_version(part, folder)
    finally:
        remove(part)


def _next_version(part: Path, folder: Path) -> int:
    while True:
        version = max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=0) + 1
        try:
            # A folder that is not empty is never replaced, so that two who publish at once get a version each.
            part.rename(folder / str(version))
        except OSError:
            if not (folder / str(version)).exists():
                raise
            continue
        return version


def _published_by(folder: Path, job: str) -> int | None:
    for path in folder.glob(f"*/{TERMS}"):
        if path.parent.name.isdigit() and json.loads(path.read_text()).get("job") == job:
            return int(path.parent.name)
    return None


def published_from(models: Path, data_id: str) -> Iterator[Path]:
    """Folders of published models that were derived from uploaded data."""
    for path in models.rglob(TERMS):
        try:
            sources = json.loads(path.read_text()).get("sources", [])
        except (OSError, ValueError, AttributeError):
            continue
        if data_id in sources:
            yield path.parent
