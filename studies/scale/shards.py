"""Features of many stimuli in shards, each a store of its own, and the store that they make together.

Shards start at multiples of the batch size, so that every batch holds the stimuli that it would hold in one run: the
joined store equals that of one run bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from encoders import FeatureExtractor, extract, layers_of
from encoders.features.store import LayerStore, open_store, part_of, read_attrs
from recordings import Stimuli
from recordings.errors import ArtifactError, CorruptImageError, ImageTooLargeError
from recordings.storage import atomic_path, remove

from ..failures import extract_readable
from ..questions import FeatureSet
from ..sources import open_stimuli
from ..study import Study
from ..subjects import shown_to_all, store_of

# A model is loaded once a shard; more shards than this would not use more workers well.
MIN_BATCHES, MAX_SHARDS = 4, 64


def stimuli_of(study: Study) -> Stimuli | None:
    """The stimuli that a study's features are extracted from; None if it names none."""
    source = study.recording
    if source.several or source.simulate is not None:
        shown = shown_to_all(study)
    else:
        shown = source.stimuli or (source.path if source.path and (source.path / "stimuli").is_dir() else None)
    return None if shown is None else open_stimuli(shown)


def shard_ranges(n: int, batch_size: int) -> list[tuple[int, int]]:
    """First stimulus and end of each shard of `n` stimuli."""
    batches = -(-n // batch_size)
    size = batch_size * max(MIN_BATCHES, -(-batches // MAX_SHARDS))
    return [(start, min(start + size, n)) for start in range(0, n, size)]


def shards_folder(study: Study, part: FeatureSet) -> Path:
    """Where shards lie until they are joined."""
    store = store_of(study, part)
    return store.with_name(f".{store.name}.shards")


def extract_shard(study: Study, name: str, start: int, stop: int) -> None:
    """Features of some of a study's stimuli, in a store of their own.

    Raises
    ------
    CorruptImageError, ImageTooLargeError : a file cannot be read, and the study does not skip failures.
    """
    part = next(part for part in study.features if part.name == name)
    stimuli = stimuli_of(study)
    assert part.model is not None and stimuli is not None
    take = extract_readable if study.skip_failures else extract
    try:
        take(
            _extractor(part.model, study.device),
            stimuli.take(slice(start, stop)),
            _shard(study, part, start),
            layers=part.layers or None,
            readout=part.readout,
            store_dtype=part.dtype,
            batch_size=part.batch_size,
        )
    except (CorruptImageError, ImageTooLargeError):
        # Of a shard that is unreadable as a whole there is no store; the joined one has holes there.
        if not study.skip_failures:
            raise


def join_shards(study: Study, part: FeatureSet) -> None:
    """Make one store of the shards, all of which are extracted, and remove them.

    Raises
    ------
    CorruptImageError : no shard has a stimulus that can be read.
    ArtifactError : shards of different layers, as of another version.
    """
    stimuli = stimuli_of(study)
    assert stimuli is not None
    ranges = shard_ranges(len(stimuli), part.batch_size)
    shards = [(start, stop, _shard(study, part, start)) for start, stop in ranges]
    whole = [path for _, _, path in shards if path.exists()]
    if not whole:
        raise CorruptImageError("not one stimulus can be read", where=shards_folder(study, part))
    layers = layers_of(whole[0])
    if any(layers_of(path) != layers for path in whole):
        raise ArtifactError("shards hold different layers", where=whole[0].parent, remedy="Remove the folder")
    attrs = {name: value for name, value in read_attrs(whole[0]).items() if name not in ("format_version", "kind")}
    with atomic_path(store_of(study, part)) as joined:
        open_store(joined, attrs)
        for layer in layers:
            _join_layer(LayerStore(joined, layer), shards, stimuli.ids, LayerStore(whole[0], layer))
    remove(shards_folder(study, part))


def _join_layer(
    joined: LayerStore, shards: Sequence[tuple[int, int, Path]], ids: Sequence[str], first: LayerStore
) -> None:
    size, dtype = first.batch_size, str(first.array.dtype)
    joined.create(first.read(np.asarray([0]), None), len(ids), size, dtype, first.attrs)
    holes: list[int] = []
    for start, stop, path in shards:
        shard = LayerStore(path, joined.layer)
        if not path.exists():
            holes += range(start, stop)
            continue
        journal = shard.journal()
        for chunk, hashes in sorted(journal.items()):
            rows = chunk * size + np.arange(len(hashes))
            joined.write(start // size + chunk, shard.read(rows, None), hashes)
        holes += [start + row for row in shard.holes]
    joined.finish(list(ids), holes)


def _shard(study: Study, part: FeatureSet, start: int) -> Path:
    return shards_folder(study, part) / f"{start:08d}.zarr"


def is_begun(study: Study, part: FeatureSet) -> bool:
    """Whether one process has extracted these features already, or a part of them."""
    store = store_of(study, part)
    return store.exists() or part_of(store).exists()


@lru_cache(maxsize=1)
def _extractor(uri: str, device: str) -> FeatureExtractor:
    return FeatureExtractor.from_uri(uri, device=device)
