"""The loop against diffusers' own pipelines, and what they cannot do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from decoders.pictures import DecodedInputs, Generator, denoise
from decoders.pictures.diffusion import count_steps, ddim
from decoders.pictures.generator import torch_generator
from recordings.errors import InputError, ShapeError

from .tiny import EMBEDDING, TOKENS, WIDTH, make_inputs, make_scheduler, make_unet, make_vae

Make = Callable[..., Generator]
N, STEPS = 2, 5
# What a pipeline is built without: the text it would encode comes as embeddings.
NO_SAFETY = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def noise(n: int = N) -> list[torch.Generator]:
    return [torch_generator(3, k) for k in range(n)]


def run(generator: Generator, inputs: DecodedInputs, start: Any, **options: Any) -> torch.Tensor:
    """Latents after the last step."""
    null = torch.as_tensor(generator.encode_text([""])[0])
    options = {"steps": STEPS, "unconditional": null, "scheduler": generator.scheduler} | options
    given = options.pop("noise", None) or noise(len(inputs))
    return list(denoise(generator, torch.tensor(inputs.c), start, given, **options))[-1].latents


def call(pipeline: Any, generator: Generator, inputs: DecodedInputs, **options: Any) -> torch.Tensor:
    """Latents of a pipeline of diffusers, on the same noise."""
    pipeline.set_progress_bar_config(disable=True)
    null = torch.as_tensor(generator.encode_text([""])).expand(len(inputs), -1, -1)
    embeds = {"prompt_embeds": torch.tensor(inputs.c), "negative_prompt_embeds": null}
    made = pipeline(**embeds, num_inference_steps=STEPS, generator=noise(len(inputs)), output_type="latent", **options)
    return made.images


def parts(generator: Generator, *names: str) -> dict[str, Any]:
    return {
        name: getattr(generator, name) for name in ("vae", "unet", "scheduler", "text_encoder", "tokenizer", *names)
    }


def z(inputs: DecodedInputs) -> torch.Tensor:
    return torch.tensor(inputs.z)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_image_to_image_is_that_of_diffusers(make: Make, guidance: float) -> None:
    generator, inputs = make(), make_inputs(N)
    theirs = call(
        diffusers.StableDiffusionImg2ImgPipeline(**parts(generator), **NO_SAFETY),
        generator, inputs, image=z(inputs), strength=0.8, guidance_scale=guidance,
    )  # fmt: skip
    ours = run(generator, inputs, z(inputs), strength=0.8, guidance=guidance)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, z(inputs), atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scheduler",
    ["DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
     "DPMSolverMultistepScheduler", "HeunDiscreteScheduler"],
)  # fmt: skip
def test_other_schedulers_are_those_of_diffusers(make: Make, scheduler: str) -> None:
    options = {"skip_prk_steps": True} if scheduler == "PNDMScheduler" else {}
    if scheduler.startswith(("DPM", "Heun")):
        options["steps_offset"] = 0
    generator, inputs = make(scheduler=make_scheduler(scheduler, **options)), make_inputs(N)
    theirs = call(
        diffusers.StableDiffusionImg2ImgPipeline(**parts(generator), **NO_SAFETY),
        generator, inputs, image=z(inputs), strength=0.6, guidance_scale=3.0,
    )  # fmt: skip
    assert torch.allclose(run(generator, inputs, z(inputs), strength=0.6, guidance=3.0), theirs, atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_text_to_image_is_that_of_diffusers(make: Make, prediction: str) -> None:
    generator, inputs = make(scheduler=make_scheduler(prediction_type=prediction)), make_inputs(N)
    theirs = call(
        diffusers.StableDiffusionPipeline(**parts(generator), **NO_SAFETY), generator, inputs, guidance_scale=3.0
    )
    assert torch.allclose(run(generator, inputs, None, guidance=3.0), theirs, atol=1e-5)


def test_depth_to_image_is_that_of_diffusers(make: Make) -> None:
    generator, inputs = make("depth2img"), make_inputs(N)
    pipeline = diffusers.StableDiffusionDepth2ImgPipeline(
        **parts(generator), depth_estimator=None, feature_extractor=None
    )
    assert inputs.image is not None
    pixels = torch.tensor(inputs.image).movedim(-1, 1) / 127.5 - 1
    theirs = call(
        pipeline, generator, inputs, image=pixels, depth_map=torch.tensor(inputs.depth), strength=0.8,
        guidance_scale=3.0,
    )  # fmt: skip
    drawn = noise()
    start = generator.encode(inputs.image, drawn)
    ours = run(generator, inputs, start, noise=drawn, depth=torch.tensor(inputs.depth), strength=0.8, guidance=3.0)
    assert torch.allclose(ours, theirs, atol=1e-5)
    other = run(generator, inputs, start, depth=-torch.tensor(inputs.depth), strength=0.8, guidance=3.0)
    assert not torch.allclose(ours, other, atol=1e-3)


def test_controlnet_is_that_of_diffusers(make: Make) -> None:
    generator, inputs = make("controlnet"), make_inputs(N)
    pipeline = diffusers.StableDiffusionControlNetImg2ImgPipeline(**parts(generator, "controlnet"), **NO_SAFETY)
    depth = torch.tensor(inputs.depth)
    theirs = call(
        pipeline, generator, inputs, image=z(inputs), control_image=depth[:, None], strength=0.8, guidance_scale=3.0,
        controlnet_conditioning_scale=1.0,
    )  # fmt: skip
    ours = run(generator, inputs, z(inputs), depth=depth, strength=0.8, guidance=3.0)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, run(generator, inputs, z(inputs), strength=0.8, guidance=3.0), atol=1e-3)


def test_ip_adapter_is_that_of_diffusers(make: Make) -> None:
    generator, inputs = make("adapter"), make_inputs(N)
    embedding = torch.tensor(inputs.embedding)
    ours = run(generator, inputs, z(inputs), embedding=embedding, strength=0.8, guidance=3.0)
    # One brain at a time: of several, the pipeline lets each hear the embeddings of all.
    pipeline = diffusers.StableDiffusionImg2ImgPipeline(**parts(generator), **NO_SAFETY)
    alone = inputs.select([0])
    theirs = call(
        pipeline, generator, alone, image=z(alone), strength=0.8, guidance_scale=3.0,
        ip_adapter_image_embeds=[torch.cat([torch.zeros(1, EMBEDDING), embedding[:1]])[:, None]],
    )  # fmt: skip
    assert torch.allclose(ours[:1], theirs, atol=1e-5)
    assert not torch.allclose(ours, run(generator, inputs, z(inputs), strength=0.8, guidance=3.0), atol=1e-3)


def test_an_adapter_without_an_embedding_is_not_heard(make: Make) -> None:
    inputs, plain, adapted = make_inputs(N), make(), make("adapter")
    assert torch.equal(run(plain, inputs, z(inputs)), run(adapted, inputs, z(inputs)))
    embedding = torch.tensor(inputs.embedding)
    assert not torch.allclose(
        run(adapted, inputs, z(inputs), embedding=embedding), run(plain, inputs, z(inputs)), atol=1e-3
    )


def test_strength_and_guidance_of_each_brain_are_those_of_runs_of_their_own(make: Make) -> None:
    # A scheduler with a history, which brains must not share.
    scheduler = make_scheduler("DPMSolverMultistepScheduler", steps_offset=0)
    generator, inputs = make(scheduler=scheduler), make_inputs(4)
    strength, guidance = [0.4, 1.0, 0.4, 0.0], [1.0, 2.0, 5.0, 1.0]
    together = run(generator, inputs, z(inputs), strength=strength, guidance=guidance)
    for k in range(3):
        alone = inputs.select([k])
        drawn = [torch_generator(3, k)]
        own = run(generator, alone, z(alone), noise=drawn, strength=strength[k], guidance=guidance[k])
        assert torch.allclose(together[k], own[0], atol=1e-5)
    assert torch.equal(together[3], z(inputs)[3])


def test_latents_of_any_number_of_channels(make: Make) -> None:
    vae = make_vae(latents=16)
    inputs = make_inputs(N)
    for takes, unet in ((), make_unet(16, 16)), (("depth2img",), make_unet(17, 16)):
        generator = make(vae=vae, unet=unet)
        depth = {"depth": torch.tensor(inputs.depth)} if takes else {}
        made = run(generator, inputs, torch.randn(N, 16, 8, 8), strength=0.8, guidance=2.0, **depth)
        assert made.shape == (N, 16, 8, 8) and made.isfinite().all()


def test_the_last_estimate_is_the_result_and_earlier_ones_near_it(make: Make) -> None:
    for scheduler in (make_scheduler(), make_scheduler("PNDMScheduler", skip_prk_steps=True)):
        generator, inputs = make(scheduler=scheduler), make_inputs(N)
        found = []
        for step in denoise(generator, torch.tensor(inputs.c), z(inputs), noise(), strength=0.8, steps=STEPS, scheduler=scheduler):  # fmt: skip  # noqa: E501
            found.append((step.latents.clone(), step.estimate.clone()))
        assert torch.equal(*found[-1])
        last = found[-1][0]
        # Noise is still in the latents where it has gone from the estimate.
        assert (found[0][1] - last).std() < (found[0][0] - last).std()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_estimate_of_schedulers_that_tell_none_is_that_of_ddim(make: Make, kind: str) -> None:
    # DPM-Solver tells no estimate; before its first step it stands where DDIM does.
    inputs = make_inputs(N)
    found = []
    for name in ("DDIMScheduler", "DPMSolverMultistepScheduler"):
        scheduler = make_scheduler(name, steps_offset=0, timestep_spacing="trailing", prediction_type=kind)
        generator = make(scheduler=scheduler)
        steps = denoise(generator, torch.tensor(inputs.c), None, noise(), steps=STEPS, scheduler=scheduler)
        found.append(next(iter(steps)).estimate)
    assert torch.allclose(*found, atol=1e-4)


def test_steps_are_counted_before_they_are_run(make: Make) -> None:
    generator, inputs = make(), make_inputs(N)
    for name in ("DDIMScheduler", "PNDMScheduler", "HeunDiscreteScheduler"):
        scheduler = make_scheduler(name, **({"skip_prk_steps": True} if name[0] == "P" else {"steps_offset": 0}))
        steps = list(
            denoise(generator, torch.tensor(inputs.c), z(inputs), noise(), strength=0.6, steps=5, scheduler=scheduler)
        )
        assert len(steps) == steps[0].total == count_steps(scheduler, 0.6, 5)
    assert count_steps(generator.scheduler, 0.6, 5) == 3
    assert count_steps(generator.scheduler, [0.6, 0.2], 5) == 3
    assert count_steps(generator.scheduler, 0.0, 5) == 0


def test_the_schedulers_given_are_left_as_they_are(make: Make) -> None:
    generator, inputs = make(), make_inputs(N)
    before = dict(vars(generator.scheduler))
    run(generator, inputs, z(inputs), strength=0.8)
    assert generator.scheduler.num_inference_steps is before["num_inference_steps"] is None


def test_what_cannot_be_denoised_is_refused(make: Make) -> None:
    generator, inputs = make(), make_inputs(N)
    context = torch.zeros(N, TOKENS, WIDTH)

    def start(who: Generator = generator, **options: Any) -> None:
        next(denoise(who, context, options.pop("start", z(inputs)), noise(), **options))

    with pytest.raises(TypeError, match="latents"):
        start(latents=z(inputs))
    for options, words in (
        ({"strength": 1.2}, "strength 1.2"),
        ({"strength": float("nan")}, "strength nan"),
        ({"strength": 0.1, "steps": 5}, "less than one step"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"guidance": -1.0}, "guidance -1"),
        ({"guidance": 2.0}, "empty prompt"),
        ({"start": None, "strength": 0.5}, "pure noise"),
        ({"depth": torch.rand(N, 64, 64)}, "takes no depth"),
        ({"embedding": torch.rand(N, 10)}, "takes no image embedding"),
        ({"who": make("depth2img")}, "needs a depth map"),
        ({"who": make("depth2img"), "depth": torch.ones(N, 64, 64)}, "depth map 0 is constant"),
    ):
        with pytest.raises(InputError, match=words):
            start(**options)
    with pytest.raises(ShapeError, match="depth has 1 rows for 2 brains"):
        start(make("depth2img"), depth=torch.rand(1, 64, 64))


def test_a_brain_with_nan_spoils_no_other(make: Make) -> None:
    generator, inputs = make("controlnet", "adapter"), make_inputs(3)
    given = {"depth": torch.tensor(inputs.depth), "embedding": torch.tensor(inputs.embedding), "guidance": 2.0}
    clean = run(generator, inputs, z(inputs), **given)
    spoilt = z(inputs).clone()
    spoilt[1, 0, 0, 0] = float("nan")
    found = run(generator, inputs, spoilt, **given)
    assert not found[1].isfinite().all()
    np.testing.assert_allclose(found[[0, 2]], clean[[0, 2]], atol=1e-5)


def test_ddim_of_another_scheduler_does_not_clip_latents() -> None:
    assert ddim(make_scheduler("EulerDiscreteScheduler")).config.clip_sample is False


def test_steps_that_are_kept_stay_as_they_were(make: Make) -> None:
    generator, inputs = make(), make_inputs(2)
    kept = list(denoise(generator, torch.tensor(inputs.c), z(inputs), noise(), strength=1.0, guidance=1.0, steps=3))
    assert len(kept) > 1
    assert not torch.equal(kept[0].latents, kept[-1].latents)
