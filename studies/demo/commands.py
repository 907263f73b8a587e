"""The commands that repeat the demo's numbers on the artifacts it leaves, to be run in its folder."""

from __future__ import annotations

from .decoding import DECODER, LAYER, SOURCE
from .encoding import MODELS, TRUE_MODEL, Model
from .transformer import SETTINGS, TRANSFORMER
from .world import SUBJECT

_HELD_OUT = "--split split:test"
_ATTENTIVE = f"-m models/{TRANSFORMER.key} -f features/{TRANSFORMER.source}.zarr"
_OPTIONS = {"hidden": "--hidden", "n_heads": "--heads", "epochs": "--epochs", "learning_rate": "--learning-rate"}


def commands() -> dict[str, list[str]]:
    """Command lines by what they do."""
    fitted = [model for model in MODELS if not model.baseline]
    return {
        "What is in the simulated subject": [f"penfield describe {SUBJECT}"],
        "Score the encoders that the demo fitted": [
            f"penfield encode evaluate -m models/{model.key} -f features/{model.source}.zarr -r {SUBJECT}"
            for model in (*MODELS, TRANSFORMER)
        ],
        "Fit them again, banded ridge with more draws of band weights": [
            *(_fit(model, "banded_ridge" if model.banded else "ridge") for model in fitted),
            _fit(TRANSFORMER, " ".join(["transformer", *(f"{_OPTIONS[k]} {v}" for k, v in SETTINGS.items())])),
        ],
        "Where the queries look, as arrays and over the pictures": [
            f"penfield encode attend {_ATTENTIVE} --out attention.npz",
            f"penfield encode attend {_ATTENTIVE} --stimulus scene-0-000000 --out one.npz --overlays overlays "
            f"--stimuli {SUBJECT}",
        ],
        "Look the held-out scenes up among their pictures": [
            f"penfield decode identify -m models/{DECODER} -f features/{SOURCE}.zarr --layer {LAYER} -r {SUBJECT}"
        ],
        "Score the true model": [
            f"penfield score --features features/{TRUE_MODEL}.zarr --recording {SUBJECT} --metric predictivity"
        ],
    }


def _fit(model: Model, kind: str) -> str:
    return (
        f"penfield encode fit -f features/{model.source}.zarr -r {SUBJECT} --model {kind} {_HELD_OUT} "
        f"--out again/{model.key}"
    )
