"""`Recording`: what the brain did, one row a presentation, one column a neuroid."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, cast

import numpy as np
import pandas as pd
import xarray as xr

from .coordinates import (
    Table,
    check_names,
    check_shape,
    constant_columns,
    coordinate_table,
    data_array,
    memberships,
    neuroid_table,
    presentation_table,
    roi_names,
)
from .errors import (
    ConstantUnitError,
    DuplicateIdError,
    EmptyROIError,
    InputError,
    MismatchedIdsError,
    ShapeError,
    TruncatedFileError,
    UnknownNameError,
)
from .events import OnEvent, Stop, report
from .space import Space
from .zarr_format import check_finite, open_group, write_group

_ROWS_PER_BLOCK = 512


class Recording:
    """Responses of neuroids (voxels, vertices, neurons) to presentations of stimuli.

    A thin wrapper around ``data``, a float32 `xarray.DataArray` with dims ``(presentation, neuroid)`` or
    ``(presentation, time, neuroid)``. The names of dims and coordinates are those of Brain-Score's assemblies.
    Loaded from disk it is lazy: values are read when asked for, block by block.

    Presentation coordinates: ``stimulus_id``, ``repetition``, ``session``, ``run`` and any other. Neuroid coordinates:
    ``neuroid_id`` and, where known, ``roi`` (several names joined by ``|``), ``hemisphere`` (L, R), ``x y z``
    (millimetres), ``i j k`` (voxel indices) or ``vertex``, ``noise_ceiling`` (fraction of variance).

    Parameters
    ----------
    values : (presentation, neuroid) or (presentation, time, neuroid), converted to float32.
    presentations : one row a presentation; ``stimulus_id`` is required, the rest is filled in: ``repetition`` counts
        appearances, ``session`` and ``run`` default to 0.
    neuroids : one row a neuroid; ``neuroid_id`` defaults to "n0", "n1", ...
    space : where the neuroids live.
    time : (time,) start of each bin in seconds; required when values have three dims.
    rois : names of all regions that the source declares, so that an empty one is told from an unknown one.
    attrs : provenance: subject, source, units, licence; JSON values.

    Raises
    ------
    ShapeError : values do not fit the tables.
    DuplicateIdError : a neuroid id, or a (stimulus, repetition) pair, occurs twice.
    """

    def __init__(
        self,
        values: Any,
        presentations: Table,
        neuroids: Table | None = None,
        *,
        space: Space | None = None,
        time: Any = None,
        rois: Sequence[str] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ):
        values = np.asarray(values, np.float32)
        presentations = presentation_table(presentations)
        neuroids = neuroid_table(neuroids, values.shape[-1] if values.ndim else 0)
        check_names(presentations, neuroids)
        check_shape(values.shape, presentations, neuroids, time)
        self.space = space or Space()
        self.declared_rois = tuple(rois) if rois is not None else roi_names(neuroids)
        self.data = data_array(values, presentations, neuroids, time, dict(attrs or {}))

    @classmethod
    def _wrap(cls, data: xr.DataArray, like: Recording) -> Recording:
        recording = cls.__new__(cls)
        recording.data, recording.space, recording.declared_rois = data, like.space, like.declared_rois
        return recording

    # What is in it -----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return int(self.data.sizes["presentation"])

    def __repr__(self) -> str:
        sizes = ", ".join(f"{dim}: {size}" for dim, size in self.data.sizes.items())
        return f"Recording({sizes}; space: {self.space.name or self.space.kind}; ROIs: {', '.join(self.rois) or '-'})"

    @property
    def n_neuroids(self) -> int:
        """Number of neuroids."""
        return int(self.data.sizes["neuroid"])

    @property
    def values(self) -> np.ndarray:
        """All values, float32, read into memory."""
        return self.read()

    @property
    def attrs(self) -> dict[str, Any]:
        """Provenance."""
        return self.data.attrs

    @property
    def stimulus_ids(self) -> np.ndarray:
        """(presentation,) the stimulus of each presentation."""
        return self.presentation("stimulus_id")

    @property
    def neuroid_ids(self) -> np.ndarray:
        """(neuroid,) unique names."""
        return self.neuroid("neuroid_id")

    @property
    def rois(self) -> tuple[str, ...]:
        """Names of the regions that have at least one neuroid here, in the order of first appearance."""
        return roi_names(self.neuroids)

    @property
    def presentations(self) -> pd.DataFrame:
        """One row a presentation, one column a coordinate."""
        return coordinate_table(self.data, "presentation")

    @property
    def neuroids(self) -> pd.DataFrame:
        """One row a neuroid, one column a coordinate."""
        return coordinate_table(self.data, "neuroid")

    def presentation(self, name: str) -> np.ndarray:
        """One presentation coordinate, (presentation,); `UnknownNameError` if there is none of that name."""
        return self._coordinate(name, "presentation")

    def neuroid(self, name: str) -> np.ndarray:
        """One neuroid coordinate, (neuroid,); `UnknownNameError` if there is none of that name."""
        return self._coordinate(name, "neuroid")

    def _coordinate(self, name: str, dim: str) -> np.ndarray:
        if name not in self.data.coords or self.data.coords[name].dims != (dim,):
            known = ", ".join(coordinate_table(self.data, dim).columns)
            raise UnknownNameError(f"no {dim} coordinate {name!r}", remedy=f"There are: {known}")
        return self.data.coords[name].values

    def read(self, presentation: Any = slice(None), neuroid: Any = slice(None)) -> np.ndarray:
        """Values at row and column indices (slices, index or boolean arrays), float32, read from disk if need be."""
        try:
            return self.data.isel(presentation=presentation, neuroid=neuroid).values
        except (RuntimeError, OSError) as error:
            # Zstandard reports a cut or damaged chunk as RuntimeError.
            raise TruncatedFileError(
                f"a chunk of the responses cannot be read ({error})",
                where=self.data.encoding.get("source"),
                remedy="Import the source again",
            ) from error

    def blocks(self, rows: int = _ROWS_PER_BLOCK) -> Iterator[np.ndarray]:
        """Values in consecutive blocks of at most `rows` presentations."""
        for start in range(0, len(self), rows):
            yield self.read(slice(start, start + rows))

    def fingerprint(self) -> str:
        """SHA-256 of neuroid ids, in order, and space: what a fitted model needs to find again."""
        ids = [str(i) for i in self.neuroid_ids]
        return hashlib.sha256(json.dumps([ids, self.space.to_dict()]).encode()).hexdigest()

    # Selection ---------------------------------------------------------------------------------------------------

    def take(self, presentation: Any = slice(None), neuroid: Any = slice(None)) -> Recording:
        """The recording at row and column indices (slices, index or boolean arrays); lazy if this one is."""
        return self._wrap(self.data.isel(presentation=presentation, neuroid=neuroid), self)

    def roi_mask(self, *names: str) -> np.ndarray:
        """(neuroid,) bool: inside any of the named regions.

        Raises
        ------
        EmptyROIError : a region that the recording declares has no neuroid.
        UnknownNameError : a region that the recording has never heard of.
        """
        if not names:
            raise InputError("no ROI named", remedy=f"There are: {', '.join(self.rois)}")
        labels = self.neuroids["roi"] if "roi" in self.data.coords else pd.Series([""] * self.n_neuroids)
        members = memberships(labels)
        mask = np.zeros(self.n_neuroids, bool)
        for name in names:
            if name not in members:
                self._raise_missing_roi(name)
            mask |= members[name]
        return mask

    def _raise_missing_roi(self, name: str) -> None:
        known, where = ", ".join(self.rois) or "none", self.data.encoding.get("source")
        if name in self.declared_rois:
            raise EmptyROIError(
                f"ROI {name!r} has no neuroid in this recording", where=where, remedy=f"Others have: {known}"
            )
        raise UnknownNameError(f"no ROI {name!r} in this recording", where=where, remedy=f"There are: {known}")

    def roi(self, *names: str) -> Recording:
        """The neuroids inside any of the named regions."""
        return self.take(neuroid=np.flatnonzero(self.roi_mask(*names)))

    def where(self, **columns: Any) -> Recording:
        """The presentations and neuroids whose coordinates equal the given values (or are among a list of them)."""
        keep = {"presentation": np.ones(len(self), bool), "neuroid": np.ones(self.n_neuroids, bool)}
        for name, wanted in columns.items():
            dim = next((d for d in keep if name in coordinate_table(self.data, d)), None)
            if dim is None:
                raise UnknownNameError(
                    f"no coordinate {name!r}", remedy=f"There are: {', '.join(map(str, self.data.coords))}"
                )
            wanted = wanted if isinstance(wanted, list | tuple | set | np.ndarray) else [wanted]
            keep[dim] &= np.isin(self.data.coords[name].values, list(wanted))
        return self.take(np.flatnonzero(keep["presentation"]), np.flatnonzero(keep["neuroid"]))

    def with_neuroid(self, **columns: Any) -> Recording:
        """The recording with neuroid coordinates added or replaced."""
        data = self.data.assign_coords({name: ("neuroid", np.asarray(c)) for name, c in columns.items()})
        return self._wrap(data, self)

    # Repetitions -------------------------------------------------------------------------------------------------

    def average_repetitions(
        self,
        path: str | PathLike[str] | None = None,
        *,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> Recording:
        """Average over the presentations of each stimulus, in the order of first appearance.

        The result has one presentation a stimulus and a coordinate ``n_repetitions``; presentation coordinates that
        differ between repetitions are dropped. With `path` the average is written there block by block and comes back
        lazy, so that a recording larger than memory works.
        """
        codes, ids = pd.factorize(self.stimulus_ids)
        table = constant_columns(self.presentations, codes)
        table["n_repetitions"] = np.bincount(codes, minlength=len(ids))

        def averages() -> Iterator[np.ndarray]:
            for start in range(0, len(ids), _ROWS_PER_BLOCK):
                report(on_event, stop, "average", start, len(ids))
                yield self._average_block(codes, start, min(start + _ROWS_PER_BLOCK, len(ids)))

        return self._rebuild(averages(), table, path)

    def _average_block(self, codes: np.ndarray, start: int, end: int) -> np.ndarray:
        rows = np.flatnonzero((codes >= start) & (codes < end))
        values, within = self.read(rows), codes[rows] - start
        sums = np.zeros((end - start, *values.shape[1:]), np.float64)
        np.add.at(sums, within, values)
        counts = np.bincount(within, minlength=end - start)
        return (sums / counts.reshape(-1, *[1] * (values.ndim - 1))).astype(np.float32)

    def map_rows(
        self,
        function: Any,
        path: str | PathLike[str] | None = None,
        *,
        rows: int = _ROWS_PER_BLOCK,
        attrs: Mapping[str, Any] | None = None,
    ) -> Recording:
        """Apply ``function(values, row_slice) -> values`` to consecutive blocks of presentations; `attrs` are added."""
        bounds = [slice(s, min(s + rows, len(self))) for s in range(0, len(self), rows)]
        return self._rebuild((function(self.read(b), b) for b in bounds), self.presentations, path, attrs)

    def _rebuild(
        self,
        blocks: Iterator[np.ndarray],
        presentations: pd.DataFrame,
        path: str | PathLike[str] | None,
        attrs: Mapping[str, Any] | None = None,
    ) -> Recording:
        time = self.data.coords["time"].values if "time" in self.data.dims else None
        fields = {"space": self.space, "time": time, "rois": self.declared_rois}
        fields["attrs"] = {**self.attrs, **(attrs or {})}
        if path is None:
            return Recording(np.concatenate(list(blocks)), presentations, self.neuroids, **cast(Any, fields))
        return write_recording(path, blocks, presentations, self.neuroids, **cast(Any, fields))

    def match(self, stimulus_ids: Iterable[str]) -> np.ndarray:
        """Row of each presentation's stimulus in a table of `stimulus_ids`, (presentation,) int.

        Raises
        ------
        MismatchedIdsError : a presentation's stimulus is not in the table.
        """
        index = pd.Index([str(i) for i in stimulus_ids])
        if index.has_duplicates:
            raise DuplicateIdError(f"stimulus id {index[index.duplicated()][0]!r} occurs twice")
        rows = index.get_indexer(pd.Index(self.stimulus_ids.astype(str)))
        if (rows < 0).any():
            missing = pd.unique(self.stimulus_ids[rows < 0])
            shown = ", ".join(map(repr, missing[:3]))
            raise MismatchedIdsError(
                f"{len(missing)} of the recording's stimuli are not in the table: {shown}"
                + (", ..." if len(missing) > 3 else ""),
                remedy="Stimuli are matched by id; check that both sides name them alike",
            )
        return rows

    def check_finite(self) -> None:
        """Raise `NotFiniteError` that names the first presentation and neuroid with NaN or infinity."""
        for number, block in enumerate(self.blocks()):
            check_finite(block, self.neuroids, number * _ROWS_PER_BLOCK)

    def check_without_time(self) -> None:
        """Raise `ShapeError` if presentations have time bins."""
        if "time" in self.data.dims:
            raise ShapeError("the recording has time bins", remedy="Average over time or select one bin")

    def constant_neuroids(self) -> np.ndarray:
        """(neuroid,) bool: one and the same value in all presentations, in each time bin."""
        low = high = self.read(slice(0, 1))[0]
        for block in self.blocks():
            low, high = np.minimum(low, block.min(0)), np.maximum(high, block.max(0))
        return (low == high).reshape(-1, self.n_neuroids).all(0)

    def check_varies(self) -> None:
        """Raise `ConstantUnitError` that names the first neuroid with one and the same value in all presentations."""
        constant = self.constant_neuroids()
        if constant.any():
            raise ConstantUnitError(
                f"neuroid {self.neuroid_ids[constant][0]!r} does not vary over {len(self)} presentations "
                f"({constant.sum()} such in all)",
                where=self.data.encoding.get("source"),
                remedy="Mask these neuroids, or pass keep_constant (--keep-constant) to predict their mean",
            )

    # On disk -----------------------------------------------------------------------------------------------------

    def save(self, path: str | PathLike[str], *, overwrite: bool = False, allow_nan: bool = False) -> Recording:
        """Write a Zarr group, whole or not at all, and return the recording that reads from it."""
        return write_recording(
            path,
            self.blocks(),
            self.presentations,
            self.neuroids,
            space=self.space,
            time=self.data.coords["time"].values if "time" in self.data.dims else None,
            rois=self.declared_rois,
            attrs=self.attrs,
            overwrite=overwrite,
            allow_nan=allow_nan,
        )

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Recording:
        """Open a recording that `save` wrote; values stay on disk until they are read.

        Raises
        ------
        FormatError : the folder is not a whole recording of this format version.
        """
        data, meta = open_group(path)
        recording = cls.__new__(cls)
        recording.space, recording.declared_rois = Space.from_dict(meta["space"]), tuple(meta["rois"])
        recording.data = data.assign_attrs(meta["attrs"])
        return recording

    # Images of the brain -----------------------------------------------------------------------------------------

    @classmethod
    def from_nifti(cls, bold: Any, mask: Any, presentations: Table, **attrs: Any) -> Recording:
        """A recording with one presentation a volume of a 4-D NIfTI image, inside a mask; see `recordings.volumes`."""
        from .volumes import recording_from_nifti

        return recording_from_nifti(bold, mask, presentations, attrs=attrs)

    def to_nifti(self, values: Any = None) -> Any:
        """Values per neuroid, (neuroid,) or (n, neuroid), or all responses, as a `nibabel.Nifti1Image`."""
        from .volumes import to_nifti

        return to_nifti(self, values)

    def to_gifti(self, values: Any) -> dict[str, Any]:
        """Values per vertex, (neuroid,) or (n, neuroid), as one `nibabel.GiftiImage` a hemisphere, keyed L and R."""
        from .surfaces import to_gifti

        return to_gifti(self, values)


def write_recording(
    path: str | PathLike[str],
    blocks: Iterable[np.ndarray],
    presentations: Table,
    neuroids: Table,
    *,
    space: Space | None = None,
    time: Any = None,
    rois: Sequence[str] | None = None,
    attrs: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    allow_nan: bool = False,
) -> Recording:
    """Stream blocks of presentations into a recording on disk and open it lazily.

    Parameters
    ----------
    path : folder to create; it appears when it is whole.
    blocks : arrays (rows, [time,] neuroid), in order, that together have one row a presentation.
    presentations, neuroids, space, time, rois, attrs : as in `Recording`.
    overwrite : replace what stands at `path`.
    allow_nan : keep NaN (undefined time bins, say) instead of raising `NotFiniteError`.
    """
    shown, units = presentation_table(presentations), neuroid_table(neuroids, len(pd.DataFrame(neuroids)))
    check_names(shown, units)
    write_group(
        path,
        blocks,
        shown,
        units,
        meta={
            "space": (space or Space()).to_dict(),
            "rois": None if rois is None else list(rois),
            "attrs": attrs or {},
        },
        time=time,
        overwrite=overwrite,
        allow_nan=allow_nan,
    )
    return Recording.load(path)
