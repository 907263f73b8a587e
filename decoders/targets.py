"""What a generator starts from, as features of stimuli for a decoder to learn: latents, text, depth, embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from encoders import FeatureExtractor, Features
from encoders.features.extractor import weights_fingerprint
from encoders.features.features import check_finite
from encoders.features.store import LayerStore, open_store
from recordings import Stimuli
from recordings.errors import InputError, MismatchedIdsError, ShapeError
from recordings.events import OnEvent, Stop, report
from recordings.storage import atomic_path

DepthSource = Callable[[np.ndarray], np.ndarray] | np.ndarray | str
_PIXELS, _CAPTIONS = "pixels", "captions"


class ImageGenerator(Protocol):
    """What is needed of a generator: `decoders.pictures.Generator`, or anything with its encoders."""

    vae: Any
    text_encoder: Any

    def encode_images(self, images: np.ndarray, /, *, sample: bool = False, seed: int = 0) -> np.ndarray: ...

    def encode_text(self, texts: list[str], /) -> np.ndarray: ...


class _Target:
    """How one target is computed: from "pixels" or "captions" of a batch, by `compute`."""

    def __init__(self, reads: str, compute: Callable[[Any, slice], np.ndarray], **attrs: Any):
        self.reads, self.compute, self.attrs = reads, compute, attrs


def make_targets(
    stimuli: Stimuli,
    names: Sequence[str],
    *,
    generator: ImageGenerator | None = None,
    depth: DepthSource | None = None,
    embedding: FeatureExtractor | None = None,
    tokens: FeatureExtractor | None = None,
    layers: FeatureExtractor | None = None,
    embedding_readout: Literal["cls", "projected"] = "cls",
    tokens_layer: str | None = None,
    captions: Mapping[str, Sequence[str]] | None = None,
    path: str | PathLike[str] | None = None,
    batch_size: int = 64,
    overwrite: bool = False,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, Features]:
    """Targets of a decoder by name, float32, for all stimuli in their order.

    ========== ============================== ==========================================================================
    name       shape                          what
    ========== ============================== ==========================================================================
    z          (n, channel x rows x columns)  latents of the generator's autoencoder, scaled, flattened; the mean of the
                                              posterior, so that a stimulus has one target
    c          (n, token, channel)            states of the generator's text encoder, the mean over a stimulus' captions
    depth      (n, H, W)                      nearness, larger is nearer
    embedding  (n, width)                     the class token of the last block, or the model's own embedding
    tokens     (n, token, channel)            all tokens of a layer, class token first
    a layer    (n, feature)                   what this layer of `layers` puts out, flattened
    ========== ============================== ==========================================================================

    z and c are Takagi & Nishimoto's (2023), tokens and depth those of their follow-up (arXiv 2306.11536).

    Parameters
    ----------
    depth : maps pictures uint8 (n, H, W, 3) to (n, H, W); or the maps themselves, (stimulus, H, W); or "truth", of
        stimuli that are scenes of the miniature world (`recordings.miniature.make_stimuli`).
    embedding_readout : "cls", which the miniature IP-Adapter reads, or "projected", which those of CLIP read.
    tokens_layer : by default the last block; for captions ``CaptionDecoder.layer``, with its extractor as `tokens`.
    captions : several captions of each stimulus by its id; by default the one that `stimuli` has.
    path : folder that gets a store ``path/name`` a target, written batch by batch; without it targets are in memory.
    batch_size : stimuli at a time.

    Raises
    ------
    InputError : a target whose source was not given. MismatchedIdsError : a stimulus without captions.
    ShapeError : pictures of several sizes, or depth of another shape. UnknownNameError : no such layer.
    NotFiniteError : names the first stimulus with a NaN or infinite value.
    """
    if not names or not len(stimuli):
        raise InputError(
            "no target, or no stimulus", remedy="Name one or more of z, c, depth, embedding, tokens, layers"
        )
    texts = _captions(stimuli, captions) if "c" in names else []
    sources = {
        name: _source(name, stimuli, generator, depth, (embedding, embedding_readout), (tokens, tokens_layer), layers)
        for name in dict.fromkeys(names)
    }
    found = {}
    for name, source in sources.items():
        content = stimuli if source.reads == _PIXELS else texts
        blocks = _blocks(name, source, content, stimuli, batch_size, on_event, stop)
        attrs = {"layer": name, **source.attrs}
        if path is None:
            found[name] = Features.from_arrays(np.concatenate(list(blocks)), stimuli.ids, **attrs)
        else:
            found[name] = _write(Path(path) / name, blocks, stimuli.ids, attrs, batch_size, overwrite)
    return found


def _source(
    name: str,
    stimuli: Stimuli,
    generator: ImageGenerator | None,
    depth: DepthSource | None,
    embedding: tuple[FeatureExtractor | None, str],
    tokens: tuple[FeatureExtractor | None, str | None],
    layers: FeatureExtractor | None,
) -> _Target:
    if name in ("z", "c"):
        return _of_generator(name, _given(generator, name, "a generator"))
    if name == "depth":
        return _of_depth(_given(depth, name, "depth"), stimuli)
    if name == "embedding":
        return _of_embedding(_given(embedding[0], name, "an extractor as embedding"), embedding[1])
    if name == "tokens":
        return _of_tokens(_given(tokens[0], name, "an extractor as tokens"), tokens[1])
    extractor = _given(layers, name, "an extractor as layers")
    extractor.check_layer(name)
    return _Target(
        _PIXELS, lambda images, _: extractor(list(images), [name], "flat")[name], **_model_attrs(extractor, "flat")
    )


def _given(source: Any, name: str, what: str) -> Any:
    if source is None:
        raise InputError(f"target {name!r} needs {what}", where="make_targets", remedy="Give it, or drop the target")
    return source


def _of_generator(name: str, generator: ImageGenerator) -> _Target:
    if name == "c":
        text = {"uri": "generator", "readout": "text", "weights": weights_fingerprint(generator.text_encoder)}
        return _Target(_CAPTIONS, lambda texts, _: _mean_over_captions(generator, texts), **text)

    def encode(images: np.ndarray, _: slice) -> np.ndarray:
        return generator.encode_images(images).reshape(len(images), -1)

    return _Target(_PIXELS, encode, uri="generator", readout="latent", weights=weights_fingerprint(generator.vae))


def _mean_over_captions(generator: ImageGenerator, texts: Sequence[Sequence[str]]) -> np.ndarray:
    states = generator.encode_text([text for group in texts for text in group])
    groups = np.split(states, np.cumsum([len(group) for group in texts])[:-1])
    return np.stack([group.mean(0) for group in groups])


def _of_embedding(extractor: FeatureExtractor, readout: str) -> _Target:
    if readout not in ("cls", "projected"):
        raise InputError(f"no embedding {readout!r}", where="make_targets", remedy='Take "cls" or "projected"')
    (key,) = extractor.resolve_layers(None, readout)
    return _Target(
        _PIXELS, lambda images, _: extractor(list(images), None, readout)[key], **_model_attrs(extractor, readout)
    )


def _of_tokens(extractor: FeatureExtractor, layer: str | None) -> _Target:
    (layer,) = extractor.resolve_layers(None if layer is None else [layer], "flat")
    shape = extractor.layer_shapes()[layer]
    if len(shape) != 2:
        raise ShapeError(f"layer {layer!r} puts out {shape}, not tokens", where=extractor.uri, remedy="Take a ViT")

    def read(images: np.ndarray, _: slice) -> np.ndarray:
        # The read-out "tokens" leaves out the class token, which caption models read. Where pictures of another size
        # than the blank one give more tokens, channels stay.
        return extractor(list(images), [layer], "flat")[layer].reshape(len(images), -1, shape[-1])

    return _Target(_PIXELS, read, **_model_attrs(extractor, f"all tokens of {layer}"))


def _model_attrs(extractor: FeatureExtractor, readout: str) -> dict[str, Any]:
    return {
        "uri": extractor.uri,
        "weights": extractor.weights,
        "preprocessing": extractor.backbone.preprocessing,
        "compute_dtype": extractor.dtype,
        "readout": readout,
    }


def _of_depth(depth: DepthSource, stimuli: Stimuli) -> _Target:
    if isinstance(depth, str):
        if depth != "truth":
            raise InputError(f"no depth {depth!r}", where="make_targets", remedy='Give a function, maps or "truth"')
        return _Target(_PIXELS, lambda images, rows: _true_depth(stimuli.take(rows)), uri="scenes")
    if callable(depth):
        return _Target(_PIXELS, lambda images, _: depth(images), uri=getattr(depth, "uri", "depth"))
    maps = np.asarray(depth)
    if maps.ndim != 3 or len(maps) != len(stimuli):
        raise ShapeError(f"depth maps of shape {maps.shape} for {len(stimuli)} stimuli", remedy="Give (stimulus, H, W)")
    return _Target(_PIXELS, lambda images, rows: maps[rows], uri="arrays")


def _true_depth(stimuli: Stimuli) -> np.ndarray:
    # Here, since other stimuli need no renderer.
    from recordings.miniature import Scenes, render

    from .miniature.pictures import nearness

    return nearness(render(Scenes.from_frame(stimuli.table), stimuli.load(0).shape[0]).depth)


def _captions(stimuli: Stimuli, captions: Mapping[str, Sequence[str]] | None) -> list[list[str]]:
    if captions is None:
        return [[text] for text in stimuli.captions]
    missing = [i for i in stimuli.ids if not captions.get(i)]
    if missing:
        raise MismatchedIdsError(f"no caption of stimulus {missing[0]!r} ({len(missing)} in all)", where="captions")
    return [list(captions[i]) for i in stimuli.ids]


def _blocks(
    name: str,
    source: _Target,
    content: Any,
    stimuli: Stimuli,
    batch_size: int,
    on_event: OnEvent | None,
    stop: Stop | None,
) -> Iterator[np.ndarray]:
    for start in range(0, len(stimuli), batch_size):
        report(on_event, stop, f"target {name}", start, len(stimuli))
        rows = slice(start, min(start + batch_size, len(stimuli)))
        given = content[rows] if source.reads == _CAPTIONS else _stack(stimuli, rows)
        values = np.asarray(source.compute(given, rows), np.float32)
        if len(values) != rows.stop - start or values.ndim not in (2, 3):
            raise ShapeError(f"shape {values.shape} for {rows.stop - start} stimuli", where=f"target {name!r}")
        check_finite(values, stimuli.ids[rows], f"target {name!r}")
        yield values


def _stack(stimuli: Stimuli, rows: slice) -> np.ndarray:
    pictures = [stimuli.load(i) for i in range(rows.start, rows.stop)]
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1 or len(pictures[0].shape) != 3:
        raise ShapeError(
            f"pictures of shapes {sorted(shapes)}", where="stimuli", remedy="Resize pictures to one size beforehand"
        )
    return np.stack(pictures)


def _write(
    path: Path, blocks: Iterator[np.ndarray], ids: list[str], attrs: dict[str, Any], batch_size: int, overwrite: bool
) -> Features:
    layer = str(attrs.pop("layer"))
    with atomic_path(path, overwrite=overwrite) as part:
        open_store(part, {"uri": attrs.pop("uri")})
        store = LayerStore(part, layer)
        for chunk, values in enumerate(blocks):
            if chunk == 0:
                store.create(values[:1], len(ids), min(batch_size, len(ids)), "float32", attrs)
            store.write(chunk, values, [hashlib.sha256(row.tobytes()).hexdigest() for row in values])
        store.finish(ids)
    return Features.load(path, layer)
