"""Strength that helps a noisy brain and is refused by a clean one, where what the generator does is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from decoders.pictures import DecodedInputs, Generator, ImageReconstructor, Preset, choose_strength
from decoders.pictures import reconstructor as length
from recordings.errors import Cancelled, InputError, RepetitionError, ShapeError
from recordings.events import Event

from .tiny import TOKENS, WIDTH, make_inputs, make_scheduler, make_unet

Make = Callable[..., Generator]
N = 16
# Prototypes that the planted prior knows; text picks one.
KINDS = np.random.default_rng(5).standard_normal((4, 4, 8, 8)).astype(np.float32)


class PlantedVae:
    """Latents as pixels: the first three channels, each an 8 x 8 block."""

    dtype = torch.float32
    config = SimpleNamespace(block_out_channels=(1,) * 4, latent_channels=4, scaling_factor=1.0, get=lambda _: None)

    def decode(self, latents: torch.Tensor) -> Any:
        return SimpleNamespace(sample=(latents[:, :3] / 3).repeat_interleave(8, 2).repeat_interleave(8, 3))


class PlantedUnet(torch.nn.Module):
    """Predicts that the clean latents are the prototype which the text names, whatever the noise."""

    dtype, device = torch.float32, torch.device("cpu")
    config = make_unet().config

    def forward(self, latents: torch.Tensor, time: torch.Tensor, encoder_hidden_states: torch.Tensor, **_: Any) -> Any:
        return (torch.tensor(KINDS)[encoder_hidden_states[:, 0, :4].argmax(1)],)


@pytest.fixture
def planted(make: Make) -> Generator:
    generator = make(scheduler=make_scheduler(prediction_type="sample"))
    generator.vae, generator.unet = PlantedVae(), PlantedUnet()
    generator.__dict__["fingerprint"] = "planted"
    return generator


def brains(noise: float) -> tuple[DecodedInputs, np.ndarray]:
    """Each saw a prototype with a detail of its own that no text tells; z has both, behind noise."""
    rng = np.random.default_rng(0)
    kind = np.arange(N) % 4
    z = KINDS[kind] + rng.standard_normal((N, 4, 8, 8)).astype(np.float32)
    shown = PlantedVae().decode(torch.tensor(z)).sample
    c = np.zeros((N, TOKENS, WIDTH), np.float32)
    c[np.arange(N), 0, kind] = 1
    seen = z + noise * rng.standard_normal(z.shape).astype(np.float32)
    pixels = ((shown.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).numpy()
    return DecodedInputs([f"s{k}" for k in range(N)], z=seen, c=c), pixels


def category_network(pictures: np.ndarray) -> np.ndarray:
    """A network that sees which prototype a picture shows, and little else."""
    small = pictures[:, ::8, ::8].astype(np.float32).reshape(len(pictures), -1) / 127.5 - 1
    prototypes = KINDS[:, :3].transpose(0, 2, 3, 1).reshape(4, -1)
    return np.concatenate([small @ prototypes.T, 0.5 * small[:, :8]], 1)


def choose(generator: Generator, noise: float, order: Any = slice(None), **options: Any) -> Any:
    """Choice for brains in the order of what they saw, or in another one."""
    inputs, shown = brains(noise)
    inputs = inputs.select(order)
    reconstructor = ImageReconstructor(generator, Preset("z and c", steps=10, guidance=1))
    return choose_strength(reconstructor, inputs, shown, category_network, guidances=(1.0,), batch_size=N, **options)


@pytest.mark.slow
def test_a_clean_brain_is_left_alone_and_a_noisy_one_is_helped(planted: Generator) -> None:
    clean, noisy = choose(planted, 0.0), choose(planted, 4.0)
    assert clean.strength == 0
    assert clean.table.set_index("strength").pixcorr[0] > 0.99
    assert noisy.strength > 0
    table = noisy.table.set_index("strength")
    assert table.criterion[noisy.strength] == table.criterion.max() > table.criterion[0] + 0.1
    assert list(clean.table.columns) == ["strength", "guidance", "two_way", "pixcorr", "criterion", "n"]
    assert (clean.table.n == N).all()


@pytest.mark.slow
def test_a_shuffled_brain_gains_from_no_strength(planted: Generator) -> None:
    # Moved by one, so that no brain meets its picture or another of its prototype.
    table = choose(planted, 1.0, order=np.roll(np.arange(N), 1), strengths=(0.0, 0.5, 1.0)).table
    assert (table.two_way < 0.6).all() and (table.pixcorr < 0.2).all()


def test_guidance_is_tried_once_where_nothing_is_run_and_everywhere_else(make: Make) -> None:
    inputs, shown = make_inputs(3), np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    events: list[Event] = []
    reconstructor = ImageReconstructor(make(), "takagi-cvpr", steps=4)
    choice = choose_strength(
        reconstructor, inputs, shown, _pixels, strengths=(1.0, 0.0, 0.5), guidances=(3.0, 1.0), on_event=events.append
    )
    settings = list(zip(choice.table.strength, choice.table.guidance, strict=True))
    assert settings == [(0.0, 1.0), (0.5, 1.0), (0.5, 3.0), (1.0, 1.0), (1.0, 3.0)]
    assert (choice.strength, choice.guidance) in settings
    assert [event.done for event in events] == list(range(6)) and events[-1].total == 5
    with pytest.raises(Cancelled):
        choose_strength(reconstructor, inputs, shown, _pixels, stop=lambda: len(events) > 0)


def test_what_leaves_nothing_to_choose_is_refused(make: Make) -> None:
    generator, inputs = make(), make_inputs(3)
    shown = np.zeros((3, 64, 64, 3), np.uint8)
    reconstructor = ImageReconstructor(generator, Preset("z", steps=4))
    for given, error in (
        ({"shown": shown[:2]}, ShapeError),
        ({"shown": shown / 255}, ShapeError),
        ({"strengths": ()}, InputError),
        ({"guidances": ()}, InputError),
        ({"inputs": inputs.select([0]), "shown": shown[:1]}, RepetitionError),
    ):
        with pytest.raises(error):
            choose_strength(**({"reconstructor": reconstructor, "inputs": inputs, "shown": shown, "features": _pixels} | given))  # type: ignore[arg-type]  # fmt: skip  # noqa: E501
    noise = ImageReconstructor(generator, replace(Preset("z", steps=4), start=None, strength=1))
    with pytest.raises(InputError, match="pure noise"):
        choose_strength(noise, inputs, shown, _pixels, strengths=(0.5,))


def test_hours_of_trials_are_asked_for_knowingly(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, shown = make_inputs(3), np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    monkeypatch.setattr(length, "LONG_SIZE", 64)
    monkeypatch.setattr(length, "LONG_BRAINS", 5)
    reconstructor, calls = ImageReconstructor(make(), "takagi-cvpr", steps=4), list[None]()
    hook = reconstructor.generator.unet.register_forward_hook(lambda *_: calls.append(None))

    def choose_among(*strengths: float, **options: Any) -> int:
        how: dict[str, Any] = {"strengths": strengths, "guidances": (2.0,), **options}
        return len(choose_strength(reconstructor, inputs, shown, _pixels, **how).table)

    with pytest.raises(InputError, match=r"3 brains at 2 settings at 64 x 64 pixels .* hours.*--allow-long"):
        choose_among(0.5, 1.0)
    # One step was timed, on the first brain.
    assert len(calls) == 1
    hook.remove()
    assert choose_among(0.5, 1.0, allow_long=True) == 2 and choose_among(0.5) == 1


def _pixels(pictures: np.ndarray) -> np.ndarray:
    return pictures.reshape(len(pictures), -1).astype(np.float32)
