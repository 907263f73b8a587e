"""Pictures of many brains: seeds, batches, previews, cancellation, failures, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from decoders.pictures import PRESETS, DecodedInputs, Generator, ImageReconstructor, Preset, Reconstructions
from decoders.pictures import reconstructor as module
from decoders.pictures.generator import torch_generator
from recordings.errors import (
    Cancelled,
    DuplicateIdError,
    FormatError,
    InputError,
    NotFiniteError,
    ShapeError,
    TruncatedFileError,
    UnknownNameError,
)
from recordings.events import Event

from .tiny import TOKENS, WIDTH, make_inputs

Make = Callable[..., Generator]
# What each preset asks of a generator.
TAKES = {"takagi-cvpr": (), "takagi-text": (), "takagi-gan": (), "takagi-depth": ("depth2img",),
         "penfield": ("controlnet", "adapter")}  # fmt: skip
FEW: dict[str, Any] = {"steps": 5, "samples": 1}


def mostly_slow(quick: str) -> list[Any]:
    """All presets, of which only one is quick enough for every run."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name != quick else []) for name in PRESETS]


def spoil(values: np.ndarray | None, row: int) -> np.ndarray:
    assert values is not None
    spoilt = values.copy()
    spoilt[row].flat[0] = np.nan
    return spoilt


@pytest.mark.parametrize("name", mostly_slow("penfield"))
def test_a_batch_is_its_brains_one_by_one_in_any_order(make: Make, name: str) -> None:
    reconstructor = ImageReconstructor(make(*TAKES[name]), name, steps=5, samples=2)
    inputs = make_inputs(3)
    together = reconstructor.reconstruct(inputs, seed=4)
    assert together.images.shape == (3, 2, 64, 64, 3) and together.images.dtype == np.uint8
    assert np.abs(together.images[:, 0].astype(int) - together.images[:, 1]).mean() > 1
    for order in ([2, 0, 1], [1]):
        some = reconstructor.reconstruct(inputs.select(order), seed=4, batch_size=1)
        assert some.stimulus_ids == [f"scene-{k}" for k in order]
        assert np.abs(some.images.astype(int) - together.images[order]).max() <= 1
    assert np.array_equal(reconstructor.reconstruct(inputs, seed=4).images, together.images)
    other = reconstructor.reconstruct(inputs, seed=5).images
    assert np.abs(other.astype(int) - together.images).mean() > 0.005 * 255


def test_a_batch_of_eight_is_eight_single_runs(make: Make) -> None:
    reconstructor = ImageReconstructor(make("controlnet", "adapter"), **FEW)
    generator, inputs, found = reconstructor.generator, make_inputs(8), []
    decode = generator.decode
    generator.decode = lambda latents: (found.append(latents.clone()), decode(latents))[1]  # type: ignore[method-assign, assignment]
    reconstructor.reconstruct(inputs, batch_size=8)
    reconstructor.reconstruct(inputs, batch_size=1)
    assert len(found) == 9
    assert torch.allclose(found[0], torch.cat(found[1:]), atol=1e-4)


def test_brains_of_several_requests_are_drawn_together_as_each_would_be_alone(make: Make) -> None:
    reconstructor = ImageReconstructor(make("controlnet", "adapter"), steps=5, samples=2)
    inputs, keys, seeds = make_inputs(3), ["same", "same", "other"], [4, 5, 4]
    made = reconstructor.reconstruct(inputs, seed=seeds, keys=keys, batch_size=4)
    assert made.settings["seed"] == seeds
    for row, (seed, key) in enumerate(zip(seeds, keys, strict=True)):
        one = replace(inputs.select([row]), stimulus_ids=[key])
        alone = reconstructor.reconstruct(one, seed=seed).images
        assert np.array_equal(reconstructor.reconstruct(one, seed=[seed], keys=[key]).images, alone)
        assert np.abs(made.images[row].astype(int) - alone[0]).max() <= 1
    twins = replace(inputs.select([0, 0, 0]), stimulus_ids=["a", "b", "c"])
    made = reconstructor.reconstruct(twins, seed=[4, 5, 4], keys=["same"] * 3)
    assert np.abs(made.images[0].astype(int) - made.images[2]).max() <= 1
    assert np.abs(made.images[0].astype(int) - made.images[1]).mean() > 1
    for wrong in ({"seed": [1, 2]}, {"keys": ["a"]}):
        with pytest.raises(ShapeError, match="for 3 brains"):
            reconstructor.reconstruct(inputs, **wrong)
    with pytest.raises(InputError, match="seed"):
        reconstructor.reconstruct(inputs, seed=[1, 2, True])


def test_reprojection_is_image_to_image_of_the_decoded_z(make: Make) -> None:
    generator, inputs = make(), make_inputs(1)
    assert inputs.z is not None
    # Latents of 48 pixels, as Takagi's of 320 before a generator of 512.
    inputs.z = inputs.z[:, :, :6, :6]
    found = ImageReconstructor(generator, "takagi-cvpr", **FEW).reconstruct(inputs, seed=4)
    shown = Image.fromarray(generator.decode_latents(inputs.z)[0]).resize((64, 64), Image.Resampling.LANCZOS)
    pipeline = diffusers.StableDiffusionImg2ImgPipeline(
        generator.vae, generator.text_encoder, generator.tokenizer, generator.unet, generator.scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    null = torch.tensor(generator.encode_text([""]))
    theirs = pipeline(
        image=shown, prompt_embeds=torch.tensor(inputs.c), negative_prompt_embeds=null,
        strength=0.8, guidance_scale=5.0, num_inference_steps=5, generator=[torch_generator(4, "scene-0", 0)],
        output_type="np",
    )  # fmt: skip
    assert np.abs(found.images[0, 0] - 255 * theirs.images[0]).max() < 2


def test_text_alone_starts_from_noise(make: Make) -> None:
    preset = replace(PRESETS["takagi-cvpr"], name="text", start=None, reproject=False, strength=1, samples=1, steps=3)
    made = ImageReconstructor(make(), preset).reconstruct(replace(make_inputs(2), z=None))
    assert made.images.shape == (2, 1, 64, 64, 3)


def test_captions_are_encoded_and_no_text_is_the_empty_prompt(make: Make) -> None:
    generator, inputs = make(), make_inputs(2)
    assert inputs.captions is not None
    caption = ImageReconstructor(generator, "takagi-text", **FEW).reconstruct(inputs)
    c = replace(inputs, c=generator.encode_text(inputs.captions))
    assert np.array_equal(ImageReconstructor(generator, "takagi-cvpr", **FEW).reconstruct(c).images, caption.images)
    silent = Preset("silent", text=None, guidance=1, **FEW)
    empty = replace(inputs, c=np.repeat(generator.encode_text([""]), 2, 0))
    spoken = Preset("spoken", guidance=1, **FEW)
    made = [ImageReconstructor(generator, p).reconstruct(i).images for p, i in ((silent, inputs), (spoken, empty))]
    assert np.array_equal(*made)


def test_strength_zero_is_the_decoded_start(make: Make) -> None:
    generator, inputs = make(), make_inputs(3)
    assert inputs.z is not None
    made = ImageReconstructor(generator, Preset("z", **FEW), strength=[0, 0.8, 0]).reconstruct(inputs)
    assert np.array_equal(made.images[[0, 2], 0], generator.decode_latents(inputs.z[[0, 2]]))
    assert not np.array_equal(made.images[1, 0], generator.decode_latents(inputs.z[1:2])[0])


def test_every_step_is_told_with_previews_of_what_is_foreseen(make: Make) -> None:
    reconstructor = ImageReconstructor(make(), "takagi-text", steps=10, samples=1)
    events: list[Event] = []
    made = reconstructor.reconstruct(make_inputs(2), preview_every=2, on_event=events.append)
    assert [(event.done, event.total) for event in events] == [(k, 8) for k in range(1, 9)]
    assert [("preview" in event.payload) for event in events] == [False, True] * 4
    assert events[0].payload["stimulus_ids"] == ["scene-0", "scene-1"]
    previews = [event.payload["preview"] for event in events if "preview" in event.payload]
    assert all(p.shape == (2, 64, 64, 3) and p.dtype == np.uint8 for p in previews)
    assert np.array_equal(previews[-1], made.images[:, 0])
    events.clear()
    reconstructor.reconstruct(make_inputs(3), batch_size=2, on_event=events.append)
    assert [(event.done, event.total) for event in events] == [(k, 16) for k in range(1, 17)]
    assert not any("preview" in event.payload for event in events)


@pytest.mark.parametrize("name", mostly_slow("takagi-depth"))
def test_a_stop_is_heard_within_one_step_and_leaves_nothing_behind(make: Make, name: str) -> None:
    generator, inputs = make(*TAKES[name]), make_inputs(2)
    reconstructor = ImageReconstructor(generator, name, **FEW)
    whole = reconstructor.reconstruct(inputs)
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    hook = generator.unet.register_forward_hook(count)
    with pytest.raises(Cancelled):
        reconstructor.reconstruct(inputs, stop=lambda: calls == 2)
    assert calls == 2
    hook.remove()
    assert np.array_equal(reconstructor.reconstruct(inputs).images, whole.images)


@pytest.mark.parametrize("name", ["z", "c", "depth", "embedding"])
def test_a_brain_with_nan_fails_and_spares_the_rest(make: Make, name: str) -> None:
    reconstructor = ImageReconstructor(make("controlnet", "adapter"), **FEW)
    inputs = make_inputs(3)
    whole = reconstructor.reconstruct(inputs)
    some = reconstructor.reconstruct(replace(inputs, **{name: spoil(getattr(inputs, name), 1)}))
    assert some.stimulus_ids == ["scene-0", "scene-2"]
    assert some.failed == {"scene-1": f"decoded {name} is not finite"}
    assert np.abs(some.images.astype(int) - whole.images[[0, 2]]).max() <= 1
    with pytest.raises(UnknownNameError, match="not finite"):
        some.of("scene-1")
    with pytest.raises(NotFiniteError, match="scene-0"):
        reconstructor.reconstruct(replace(inputs, **{name: np.full_like(getattr(inputs, name), np.nan)}))


def test_nan_that_arises_names_its_step_and_spares_the_rest(make: Make) -> None:
    generator, inputs = make(), make_inputs(3)
    reconstructor = ImageReconstructor(generator, Preset("z", guidance=1, **FEW))
    whole, calls = reconstructor.reconstruct(inputs), 0

    def spoil_third(*arguments: Any) -> tuple[torch.Tensor]:
        nonlocal calls
        calls += 1
        (predicted,) = arguments[-1]
        if calls == 3:
            predicted = predicted.clone()
            predicted[1, 0, 0, 0] = torch.inf
        return (predicted,)

    hook = generator.unet.register_forward_hook(spoil_third)
    some = reconstructor.reconstruct(inputs)
    assert some.failed == {"scene-1": "its latents are not finite after step 3 of 4"}
    assert np.array_equal(some.images, whole.images[[0, 2]])
    hook.remove()
    hook = generator.unet.register_forward_hook(lambda *arguments: (arguments[-1][0] * torch.nan,))
    with pytest.raises(NotFiniteError, match=r"scene-0.*after step 1 of 4"):
        reconstructor.reconstruct(inputs)
    hook.remove()


def test_a_picture_that_is_not_finite_is_never_shown(make: Make) -> None:
    generator, inputs = make(), make_inputs(2)
    decode = generator.vae.decode

    def spoilt(latents: torch.Tensor) -> Any:
        decoded = decode(latents)
        decoded.sample[0] = torch.nan
        return decoded

    generator.vae.decode = spoilt
    made = ImageReconstructor(generator, Preset("z", **FEW)).reconstruct(inputs)
    assert made.stimulus_ids == ["scene-1"] and "decoded from its latents" in made.failed["scene-0"]
    reprojected = ImageReconstructor(generator, "takagi-cvpr", **FEW).reconstruct(inputs)
    assert "decoded from z" in reprojected.failed["scene-0"]


def test_bad_inputs_are_refused_before_anything_is_run(make: Make) -> None:
    generator, inputs = make("controlnet", "adapter"), make_inputs(3)
    reconstructor = ImageReconstructor(generator, **FEW)
    assert inputs.z is not None and inputs.c is not None and inputs.depth is not None and inputs.embedding is not None
    for change, error, words in (
        ({"z": None}, InputError, "penfield needs z"),
        ({"z": inputs.z[:, :3]}, ShapeError, r"z of shape \(3, 8, 8\)"),
        ({"z": inputs.z[:, :, :4]}, ShapeError, "reproject"),
        ({"z": inputs.z[:1]}, ShapeError, "z has 1 rows for 3"),
        ({"c": inputs.c[..., :4]}, ShapeError, rf"c of shape \({TOKENS}, 4\), the generator reads \({TOKENS}, {WIDTH}"),
        ({"c": inputs.c[:, :4]}, ShapeError, "c of shape"),
        ({"c": inputs.c[:1]}, ShapeError, "c has 1 rows for 3"),
        ({"depth": inputs.depth[:1]}, ShapeError, "depth has 1 rows for 3"),
        ({"depth": inputs.depth[:, None]}, ShapeError, "depth maps of shape"),
        ({"depth": np.full_like(inputs.depth, 0.5)}, InputError, "'scene-0'.*constant.*none of 3"),
        ({"depth": 30 * inputs.depth}, InputError, r"far from \[0, 1\]"),
        ({"embedding": inputs.embedding[:, :4]}, ShapeError, "embeddings of shape"),
        ({"stimulus_ids": ["a", "b", "a"]}, DuplicateIdError, "'a' occurs twice"),
    ):
        with pytest.raises(error, match=words):
            reconstructor.reconstruct(replace(inputs, **change))
    with pytest.raises(InputError, match="no brains"):
        reconstructor.reconstruct(inputs.select([]))
    with pytest.raises(TypeError, match="latents"):
        reconstructor.reconstruct(inputs, latents=inputs.z)  # type: ignore[call-arg]
    for options, words in (({"seed": 0.5}, "seed=0.5"), ({"batch_size": 0}, "batch_size=0"), ({"preview_every": -1}, "-1")):  # fmt: skip  # noqa: E501
        with pytest.raises(InputError, match=words):
            reconstructor.reconstruct(inputs, **options)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="2 values for 3 brains"):
        ImageReconstructor(generator, strength=[0.5, 0.8], steps=5).reconstruct(inputs)


@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 4), (64, 64, 1)])
def test_pictures_to_start_from_are_rgb(make: Make, shape: tuple[int, ...]) -> None:
    inputs = replace(make_inputs(2), image=np.zeros((2, *shape), np.uint8))
    with pytest.raises(ShapeError, match="8-bit RGB"):
        ImageReconstructor(make(), "takagi-gan", **FEW).reconstruct(inputs)


def test_unscaled_latents_are_warned_of(make: Make) -> None:
    inputs, reconstructor = make_inputs(2), ImageReconstructor(make(), Preset("z", **FEW))
    assert inputs.z is not None
    for factor, sd in ((8, "8"), (0.05, "0.05")):
        with pytest.warns(UserWarning, match=f"s.d. of {sd}"):
            reconstructor.reconstruct(replace(inputs, z=factor * inputs.z / inputs.z.std()))


def test_depth_goes_only_where_it_is_taken(make: Make) -> None:
    inputs = make_inputs(2)
    with pytest.raises(InputError, match="takes no depth"):
        ImageReconstructor(make("adapter"), **FEW).reconstruct(inputs)
    with pytest.raises(InputError, match="by depth2img, the generator takes controlnet"):
        ImageReconstructor(make("controlnet"), "takagi-depth", **FEW).reconstruct(inputs)
    with pytest.raises(InputError, match="needs a depth map"):
        ImageReconstructor(make("depth2img"), "takagi-gan", **FEW).reconstruct(inputs)
    with pytest.raises(InputError, match="takes no image embedding"):
        ImageReconstructor(make("controlnet"), **FEW).reconstruct(inputs)


def test_settings_that_contradict_each_other_are_refused(make: Make) -> None:
    generator = make()
    with pytest.raises(UnknownNameError, match="takagi-cvpr"):
        ImageReconstructor(generator, "nobody")
    for options, words in (
        ({"strength": 1.5}, "strength 1.5"),
        ({"strength": -0.1}, "strength -0.1"),
        ({"strength": [0.5, float("nan")]}, "strength nan"),
        ({"strength": 0.1, "steps": 5}, "less than one step"),
        ({"steps": True}, "steps=True"),
        ({"samples": 0}, "samples=0"),
        ({"guidance": -1}, "guidance -1"),
        ({"guidance": float("inf")}, "guidance inf"),
    ):
        with pytest.raises(InputError, match=words):
            ImageReconstructor(generator, "takagi-cvpr", **options)  # type: ignore[arg-type]
    for fields, words in (
        ({"start": "noise"}, "start='noise'"),
        ({"start": None}, "strength 0.8 without a start"),
        ({"start": "image", "reproject": True}, "reproject without z"),
        ({"text": None}, "nothing to guide towards"),
        ({"scheduler": "pndm"}, "scheduler='pndm'"),
    ):
        with pytest.raises(InputError, match=words):
            Preset("mine", **fields)  # type: ignore[arg-type]


def test_hours_on_a_cpu_are_asked_for_knowingly(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    reconstructor = ImageReconstructor(make(), "takagi-text", **FEW)
    monkeypatch.setattr(module, "LONG_SIZE", 64)
    monkeypatch.setattr(module, "LONG_BRAINS", 2)
    reconstructor.reconstruct(make_inputs(2))
    calls: list[Any] = []
    hook = reconstructor.generator.unet.register_forward_hook(lambda *_: calls.append(None))
    with pytest.raises(InputError, match=r"3 brains at 64 x 64 pixels on the CPU take up to \S+ hours.*--allow-long"):
        reconstructor.reconstruct(make_inputs(3))
    assert len(calls) == 1
    hook.remove()
    assert len(reconstructor.reconstruct(make_inputs(3), allow_long=True)) == 3


def test_inputs_from_decoded_targets(make: Make) -> None:
    inputs, generator = make_inputs(2), make()
    assert inputs.z is not None and inputs.c is not None
    decoded = {"z": inputs.z.reshape(2, -1), "c": inputs.c, "tokens": np.zeros((2, 5, 3))}
    found = DecodedInputs.from_decoded(inputs.stimulus_ids, decoded, generator, captions=["a", "b"])
    assert found.z is not None and np.array_equal(found.z, inputs.z) and found.captions == ["a", "b"]
    found.check(generator)
    with pytest.raises(ShapeError, match="z of 255 numbers"):
        DecodedInputs.from_decoded(inputs.stimulus_ids, {"z": decoded["z"][:, 1:]}, generator)


def test_reconstructions_come_back_from_their_folder(make: Make, tmp_path: Path) -> None:
    inputs = make_inputs(3)
    inputs.stimulus_ids = ["a/b", "c", "ü"]
    inputs.z = spoil(inputs.z, 1)
    made = ImageReconstructor(make(), Preset("z", steps=2, samples=2)).reconstruct(inputs, seed=3)
    made.save(tmp_path / "made")
    back = Reconstructions.load(tmp_path / "made")
    assert back.stimulus_ids == ["a/b", "ü"] and np.array_equal(back.images, made.images)
    assert back.failed == made.failed and back.settings["seed"] == 3
    assert back.settings["preset"]["strength"] == 0.8 and len(back.settings["fingerprint"]) == 64
    assert np.array_equal(back.of("ü"), made.images[1])
    with pytest.raises(InputError, match="exists already"):
        made.save(tmp_path / "made")
    picture = tmp_path / "made" / "000001-01.png"
    picture.write_bytes(picture.read_bytes()[:50])
    with pytest.raises(TruncatedFileError, match=r"000001-01\.png"):
        Reconstructions.load(tmp_path / "made")
    with pytest.raises(FormatError, match=r"reconstructions\.json"):
        Reconstructions.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stimulus_ids": None}, "no stimulus_ids"),
        ({"failed": None}, "no failed"),
        ({"settings": None}, "no settings"),
        ({"shape": None}, "no shape"),
        ({"shape": [2, 1, "a", 8, 3]}, "shape"),
        ({"shape": [2, 8, 8, 3]}, "shape"),
        ({"stimulus_ids": ["a"]}, r"shape \[2, 1, 8, 8, 3\] for 1 stimulus_ids"),
        ({"kind": None}, "'kind'"),
        ({"format_version": 99}, "format 99"),
    ],
)
def test_a_table_without_an_entry_names_its_file_and_the_way_out(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    Reconstructions(["a", "b"], np.zeros((2, 1, 8, 8, 3), np.uint8), {}, {}).save(tmp_path / "made")
    table = tmp_path / "made" / "reconstructions.json"
    changed = json.loads(table.read_text()) | change
    table.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))
    with pytest.raises(FormatError, match=words) as error:
        Reconstructions.load(tmp_path / "made")
    assert error.value.where == str(table) and "penfield decode image" in str(error.value)


def test_strength_of_each_brain_is_kept_of_those_that_came_out(make: Make) -> None:
    inputs = make_inputs(4)
    inputs.z = spoil(inputs.z, 1)
    made = ImageReconstructor(make(), "takagi-cvpr", strength=[0.2, 0.4, 0.6, 0.8], guidance=3, **FEW).reconstruct(
        inputs
    )
    assert made.stimulus_ids == ["scene-0", "scene-2", "scene-3"]
    assert made.settings["preset"]["strength"] == [0.2, 0.6, 0.8] and made.settings["preset"]["guidance"] == 3
