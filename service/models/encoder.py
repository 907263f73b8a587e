"""`EncoderModel`: a fitted encoder with the networks whose features it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from encoders import Encoder, Ensemble, Features, TransformerEncoder, load_encoder
from recordings.errors import ArtifactError, InputError, PenfieldError, ShapeError
from studies.encoding import ROWS, select_features

from ..items import EncodeItem
from ..repository import ModelEntry
from .description import Description, Units, read_card
from .memory import bytes_of, is_out_of_memory
from .spaces import FeaturesOfFit, Recipe, Wanted, describe_space, find_recipe, wanted_spaces

# As many stimuli as `encoders.extract` shows a network at a time, so that a lone request gives the same bits.
CHUNK = 32


class EncoderModel:
    """An encoder that answers requests.

    Parameters
    ----------
    entry : whose folder holds it. device : where networks and, for transformers, the encoder run.

    Raises
    ------
    ArtifactError : no encoder there.
    """

    def __init__(self, entry: ModelEntry, device: str = "auto"):
        self.entry = entry
        self.encoder: Encoder = load_encoder(entry.folder)
        _move(self.encoder, device)
        self.units = Units.of(self.encoder.recording_)
        self.spaces = wanted_spaces(self.encoder)
        self._extractors: dict[tuple[str, str], Any] = {}
        # A model whose networks are not here still answers those who send features.
        self._recipes = {space.label: self._find(space, device) for space in self.spaces}

    @property
    def memory_bytes(self) -> int:
        """Of weights and networks."""
        networks = [extractor.backbone.module for extractor in self._extractors.values()]
        return self.entry.bytes_on_disk + sum(map(bytes_of, networks))

    def describe(self) -> Description:
        """What it takes and gives."""
        card, license = read_card(self.entry.folder)
        features = tuple(describe_space(space, self._recipes[space.label]) for space in self.spaces)
        delays = tuple(self.encoder.delays or ())
        how: dict[str, Any] = {"rois": self.units.sizes(), "card": card, "license": license, "delays": delays}
        return Description(self.entry, self.units, self.memory_bytes, features, **how)

    def warm_up(self) -> None:
        """Run once, so that the first request finds everything in place."""
        found = [recipe for recipe in self._recipes.values() if isinstance(recipe, Recipe)]
        if len(found) == len(self.spaces):
            first = found[0]
            grey = np.full((64, 64, 3), 127, np.uint8)
            n = first.clip
            item = EncodeItem(clips=[np.stack([grey] * n)]) if n else EncodeItem(images=[grey])
        else:
            item = EncodeItem(features={s.label: np.zeros((1, *s.shape), np.float32) for s in self.spaces})
        for result in self.encode([item]):
            if isinstance(result, Exception):
                raise result

    def encode(self, batch: Sequence[EncodeItem], chunk: int = CHUNK) -> list[np.ndarray | Exception]:
        """Responses to the stimuli of each item, float32 (stimulus, unit), or why there are none.

        Alone, an item gives what `encoders.extract` and `Encoder.predict` give, bit for bit.

        Parameters
        ----------
        chunk : stimuli that networks see at a time.
        """
        results: list[Any] = [None] * len(batch)
        ready: list[tuple[int, np.ndarray, dict[str, np.ndarray]]] = []
        shown = self._features_of_pictures(batch, results, chunk)
        for number, item in enumerate(batch):
            if results[number] is None:
                try:
                    values = shown.get(number) or self._checked(item)
                    ready.append((number, self.units.columns(item.rois), values))
                except PenfieldError as error:
                    results[number] = error
        if ready:
            predicted = self._predict([values for *_, values in ready])
            for (number, columns, _), rows in zip(ready, predicted, strict=True):
                results[number] = np.ascontiguousarray(rows[:, columns])
        return results

    # Features ----------------------------------------------------------------------------------------------------

    def _find(self, space: Wanted, device: str) -> Recipe | PenfieldError:
        try:
            return find_recipe(space, self._extractors, device)
        except PenfieldError as error:
            return error

    def _features_of_pictures(
        self, batch: Sequence[EncodeItem], results: list[Any], chunk: int
    ) -> dict[int, dict[str, np.ndarray]]:
        """Features by space of each item that shows something, by its number; failures go to `results`."""
        numbers = [number for number, item in enumerate(batch) if item.features is None]

        def compute(some: Sequence[int]) -> None:
            values = self._show([stimulus for number in some for stimulus in batch[number].stimuli], chunk)
            ends = np.cumsum([len(batch[number]) for number in some])
            for number, end in zip(some, ends, strict=True):
                found[number] = {label: v[end - len(batch[number]) : end] for label, v in values.items()}

        found: dict[int, dict[str, np.ndarray]] = {}
        # Clips of one length and pictures, each among their like.
        for some in _alike(numbers, lambda number: {s.shape[:-3] for s in batch[number].stimuli}):
            _isolating(compute, some, results)
        return found

    def _show(self, stimuli: Sequence[np.ndarray], chunk: int) -> dict[str, np.ndarray]:
        """Features of stimuli by space; layers of one network are read in one pass."""
        found: dict[str, np.ndarray] = {}
        for group in _alike(self.spaces, lambda space: self._pass_of(space)):
            recipes = [self._recipe(space) for space in group]
            first = recipes[0]
            layers = list(dict.fromkeys(recipe.layer for recipe in recipes))
            values = first.extractor(stimuli, layers, first.readout, chunk, first.n_frames)
            for space, recipe in zip(group, recipes, strict=True):
                made = recipe.finish(values[recipe.layer])
                if made.shape[1:] != recipe.shape:
                    raise ShapeError(
                        f"stimuli whose features have the shape {made.shape[1:]}, those of the fit {recipe.shape}",
                        where="stimuli",
                        remedy="Show what the model was fitted on: pictures, or clips of the same length",
                    )
                found[space.label] = made
        return found

    def _pass_of(self, space: Wanted) -> tuple[Any, ...]:
        recipe = self._recipe(space)
        return id(recipe.extractor), recipe.readout, recipe.n_frames

    def _recipe(self, space: Wanted) -> Recipe:
        recipe = self._recipes[space.label]
        if not isinstance(recipe, Recipe):
            # Raised again and again, one error would collect the frames of all calls.
            raise type(recipe)(recipe.what, where=recipe.where, remedy=recipe.remedy)
        return recipe

    def _checked(self, item: EncodeItem) -> dict[str, np.ndarray]:
        """The item's own features, which must be of the spaces and shapes of the fit."""
        assert item.features is not None
        labels = [space.label for space in self.spaces]
        given, told = self._labelled(item.features), self._labelled(item.fingerprints)
        if given.keys() != set(labels):
            raise InputError(
                f"features named {', '.join(map(repr, given))}", where="features", remedy=f"Give {', '.join(labels)}"
            )
        for space in self.spaces:
            where = f"features {space.label}" if space.label else "features"
            if told.get(space.label) not in (None, "", space.fingerprint):
                raise ArtifactError(
                    "of another feature space than that of the fit", where=where, remedy="DescribeModel names it"
                )
            if not space.fits(given[space.label].shape[1:]):
                raise ShapeError(
                    f"a row of the shape {given[space.label].shape[1:]}", where=where, remedy=f"Give {space.shape}"
                )
        return given

    def _labelled(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """By label; a model of one space takes any name."""
        if len(self.spaces) == 1 and len(values) == 1:
            return {self.spaces[0].label: next(iter(values.values()))}
        return dict(values)

    # Prediction --------------------------------------------------------------------------------------------------

    def _predict(self, items: Sequence[Mapping[str, np.ndarray]]) -> list[np.ndarray]:
        sizes = [len(next(iter(values.values()))) for values in items]
        ids = [str(row) for row in range(sum(sizes))]
        features: dict[str, Features] = {
            space.label: FeaturesOfFit(
                np.concatenate([values[space.label] for values in items]).astype(np.float32, copy=False),
                ids,
                space.fingerprint,
            )
            for space in self.spaces
        }
        given = select_features(self.encoder, features)
        if self.encoder.delays:
            runs = np.repeat(np.arange(len(sizes)), sizes)
            return np.split(self.encoder.predict(given, ids, runs=runs), np.cumsum(sizes)[:-1])
        parts = [self.encoder.predict(given, ids[start : start + ROWS]) for start in range(0, len(ids), ROWS)]
        return np.split(np.concatenate(parts), np.cumsum(sizes)[:-1])


def _move(encoder: Encoder, device: str) -> None:
    if isinstance(encoder, Ensemble):
        for member in encoder.members.values():
            _move(member, device)
    elif isinstance(encoder, TransformerEncoder):
        encoder.device = device


def _alike(items: Sequence[Any], key: Callable[[Any], Any]) -> list[list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for item in items:
        found = key(item)
        groups.setdefault(frozenset(found) if isinstance(found, set) else found, []).append(item)
    return list(groups.values())


def _isolating(compute: Callable[[Sequence[int]], None], numbers: Sequence[int], results: list[Any]) -> None:
    """Compute for all at once; where that fails, one by one, so that only those fail that must."""
    try:
        compute(numbers)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if len(numbers) == 1:
            results[numbers[0]] = error
            return
        for number in numbers:
            _isolating(compute, [number], results)
