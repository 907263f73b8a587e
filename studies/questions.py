"""What a study can ask, as the tables of its file: features, encoding and decoding models, pictures, alignment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from encoders.routings import RIDGE_ROUTINGS

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Part(BaseModel):
    """Base of the tables of a study file: a misspelt key is an error, not an ignored line."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FeatureSet(Part):
    """Features by name: extracted with a model, or read from a store.

    model : extractor URI, such as ``miniature:backbone``. layers : by module path; all of a store's by default.
    readout : tokens, cls, pooled, flat or projected. dtype : in which the store holds them.
    path : an existing store, instead of `model`.
    """

    name: Name
    model: str | None = None
    path: Path | None = None
    layers: tuple[str, ...] = ()
    readout: str = "pooled"
    dtype: Literal["float32", "float16"] = "float32"
    batch_size: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.model is None) == (self.path is None):
            raise ValueError("give either model or path")
        return self


class Transformer(Part):
    """Options of `encoders.TransformerEncoder`, which explains them; delays, seed and device stand elsewhere."""

    hidden: int | None = Field(default=None, ge=1)
    n_heads: int = Field(default=16, ge=1)
    n_layers: int = Field(default=1, ge=1)
    n_self_attention: int = Field(default=0, ge=0)
    feedforward: int = Field(default=1024, ge=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    fold_keys: bool = False
    position: Literal["fourier", "sine"] = "fourier"
    grid: tuple[int, int] | None = None
    haemodynamics: Literal["fir", "query"] = "fir"
    epochs: int = Field(default=15, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    schedule: Literal["constant", "step", "cosine"] = "cosine"
    step_epochs: int = Field(default=4, ge=1)
    clip: float = Field(default=0.1, gt=0)
    patience: int | None = Field(default=None, ge=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    validation: float = Field(default=0.1, gt=0, lt=1)
    refit: bool = True


class Encoding(Part):
    """An encoding model fitted on the training part and scored on the held-out part.

    model, routing : see `studies.encoding.make_encoder`; "transformer" routes by "roi" unless told otherwise.
    features : names of feature sets, ``name`` or ``name/layer``; a band each for banded ridge, side by side otherwise.
    alphas, folds : of ridge. transformer : options of the transformer.
    runs : fits with seeds of their own, whose scores are averaged.
    delays : rows by which features are delayed (finite impulse response), for movies and time series.
    keep_constant : predict the mean of neuroids that do not vary, instead of refusing them.
    """

    name: Name
    model: Literal["ridge", "kernel_ridge", "banded_ridge", "transformer"] = "ridge"
    routing: Literal["cls", "pooled", "flattened", "gaussian", "spatial_roi", "spatial", "roi", "vertex"] | None = None
    features: tuple[str, ...] = Field(min_length=1)
    alphas: tuple[float, ...] = ()
    folds: int | None = Field(default=None, ge=2)
    transformer: Transformer | None = None
    runs: int = Field(default=1, ge=1)
    delays: tuple[int, ...] = ()
    keep_constant: bool = False
    metric: Literal["r", "r2"] = "r"
    shuffles: int = Field(default=100, ge=0)

    @model_validator(mode="after")
    def _options_of_its_model(self) -> Self:
        network = self.model == "transformer"
        if self.routing is not None and (self.routing in RIDGE_ROUTINGS) == network:
            raise ValueError(f"routing {self.routing!r} is of model {'ridge' if network else 'transformer'!r}")
        if self.routing is not None and self.model not in ("ridge", "transformer"):
            raise ValueError(f"model {self.model!r} takes no routing")
        if network and (self.alphas or self.folds):
            raise ValueError("alphas and folds are of ridge; the transformer has a table [encode.transformer]")
        if not network and self.transformer is not None:
            raise ValueError(f"a table [encode.transformer] goes with model = 'transformer', not {self.model!r}")
        if self.runs > 1 and self.model in ("ridge", "kernel_ridge"):
            raise ValueError(f"{self.model} has no seed: all runs would be the same")
        return self


class Ensembling(Part):
    """A weighted sum of encoding models, learnt on stimuli kept from all of them (`ensemble` in [split]).

    members : names of encoding models; each run of one is a member. temperature : see `encoders.Ensemble`.
    """

    name: Name
    members: tuple[str, ...] = Field(min_length=1)
    temperature: float = Field(default=40.0, ge=0)
    metric: Literal["r", "r2"] = "r"
    shuffles: int = Field(default=100, ge=0)


class Decoding(Part):
    """A decoder from responses to features, scored by identification and retrieval of the held-out stimuli.

    max_neuroids : read at most so many, the most reliable on the training part.
    """

    name: Name
    features: str
    max_neuroids: int | None = Field(default=None, ge=1)


class Reconstruction(Part):
    """Pictures of the held-out stimuli, drawn from what is decoded from their responses, and scored.

    preset : what is decoded and how it becomes a picture, see `decoders.pictures.PRESETS`; with `captions` tokens are
        decoded too, so that pictures have words beside them.
    rois : regions by target; the preset's by default, and all neuroids where the recording does not have these.
    generator, controlnet, ip_adapter, captioner, embedding, depth, invert, invert_layers : the models whose states are
        decoded, see `studies.pictures.targets.Sources`.
    strength, guidance : numbers, "auto", or the preset's; tuned : training stimuli for "auto". steps, samples : the
        preset's by default. allow_long : draw what takes hours. components, rescale, reliability, max_neuroids : of the
        decoder; reliability 0 reads the neuroids of unrepeated stimuli as well.
    networks : that compare pictures, see `decoders.evaluate_pictures`; the miniature backbone by default. by : column
        of the stimuli within and across which they are told apart. shuffles : for the null.
    text_networks : extractor URIs that compare decoded with true captions, with `captions` or a preset that decodes
        them.
    """

    name: Name
    preset: str = "penfield"
    captions: bool = False
    rois: dict[str, tuple[str, ...]] = {}
    generator: str = "miniature:diffusion"
    controlnet: str | None = None
    ip_adapter: str | None = None
    captioner: str = "miniature:captioner"
    embedding: str = "miniature:backbone"
    depth: str | None = None
    invert: str = "miniature:backbone"
    invert_layers: tuple[str, ...] = ()
    strength: float | Literal["auto"] | None = None
    guidance: float | Literal["auto"] | None = None
    tuned: int = Field(default=50, ge=2)
    steps: int | None = Field(default=None, ge=1)
    samples: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=8, ge=1)
    allow_long: bool = False
    components: int | None = Field(default=None, ge=1)
    rescale: bool = True
    reliability: float = Field(default=0.05, ge=0, le=1)
    max_neuroids: int | None = Field(default=None, ge=1)
    networks: tuple[str, ...] = ()
    text_networks: tuple[str, ...] = ()
    by: str | None = None
    shuffles: int = Field(default=100, ge=1)


class Alignment(Part):
    """How well features and the held-out responses agree, by RSA or by predictivity."""

    name: Name
    metric: Literal["rsa", "predictivity"] = "rsa"
    features: str
