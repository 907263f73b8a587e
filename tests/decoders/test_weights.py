"""Published generators by name: absent ones name the way to get them, and that way brings safetensors alone."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants

from decoders.pictures import Generator
from decoders.pictures.folders import find_folder
from decoders.pretrained import find_model
from decoders.weights import cached_pipelines, fetch_pipeline, find_pipeline, pipeline_status, verify_pipeline
from encoders import FeatureExtractor
from recordings.errors import ArtifactError, MissingWeightsError, UnknownNameError

from ..encoders.hub import COMMIT, serve

SD1 = "diffusers:stable-diffusion-v1-5/stable-diffusion-v1-5"
SD2_DEPTH = "diffusers:stabilityai/stable-diffusion-2-depth"

# Published configurations; what is not named is diffusers' default, made for Stable Diffusion 1.
PUBLISHED_UNET: dict[str, dict[str, Any]] = {
    SD1: {"in_channels": 4, "cross_attention_dim": 768, "attention_head_dim": 8},
    SD2_DEPTH: {
        "in_channels": 5, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
}  # fmt: skip
PUBLISHED_TEXT: dict[str, dict[str, Any]] = {
    SD1: {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "hidden_act": "quick_gelu"},
    SD2_DEPTH: {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "hidden_act": "gelu"},
}
SCHEDULER = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "skip_prk_steps": True,
    "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": "epsilon",
}  # fmt: skip
REDUCTION = 32  # of all widths


def save_reduced(folder: Path, uri: str, tokenizer: Any) -> Path:
    """A pipeline of the published configuration at a 32nd of its width, weights at random."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    published = PUBLISHED_UNET[uri]
    # Heads are few enough to divide the reduced width; their published number is what makes 64 or 40 channels of them.
    heads = published["attention_head_dim"]
    changes = {"cross_attention_dim": published["cross_attention_dim"] // REDUCTION, "norm_num_groups": 2}
    changes["attention_head_dim"] = 2 if isinstance(heads, int) else [max(1, h // 5) for h in heads]
    channels = [c // REDUCTION for c in (320, 640, 1280, 1280)]
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=channels, layers_per_block=1, **(published | changes)
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=[c // REDUCTION for c in (128, 256, 512, 512)],
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=4, layers_per_block=1, norm_num_groups=2, sample_size=64, scaling_factor=0.18215,
    )  # fmt: skip
    text = PUBLISHED_TEXT[uri]
    widths = {name: text[name] // REDUCTION for name in ("hidden_size", "intermediate_size")}
    config = CLIPTextConfig(
        **(text | widths | {"num_attention_heads": 2}), num_hidden_layers=1, vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    Generator(vae, unet, diffusers.PNDMScheduler(**SCHEDULER), CLIPTextModel(config), tokenizer).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n")
    return folder


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from decoders.miniature.text import make_tokenizer

    return make_tokenizer(["a red mug on the left", "a blue chair"])


@pytest.fixture(scope="module", params=[SD1, SD2_DEPTH])
def published(request: pytest.FixtureRequest, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """A URI and a folder of its components at reduced width."""
    folder = tmp_path_factory.mktemp("published") / "pipeline"
    return request.param, save_reduced(folder, request.param, tokenizer)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def hub(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Path]]:
    """Repositories to be filled by the test, served on loopback to an empty cache."""
    from huggingface_hub import constants

    repositories: dict[str, Path] = {}
    with serve(repositories) as (address, _):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield repositories


def make_small(folder: Path, *, unet: str = "diffusion_pytorch_model.safetensors") -> Path:
    """A pipeline of a scheduler and a UNet that is one number, beside what must not be fetched."""
    from safetensors.torch import save_file

    index = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"]}
    index |= {"unet": ["diffusers", "UNet2DConditionModel"], "safety_checker": ["diffusers", "Checker"]}
    for part in ("unet", "scheduler", "safety_checker"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / "config.json").write_text("{}")
    (folder / "model_index.json").write_text(json.dumps(index | {"vae": [None, None]}))
    (folder / "README.md").write_text("---\nlicense: openrail++\n---\n")
    for name in (unet, "diffusion_pytorch_model.fp16.safetensors"):
        save_file({"w": torch.arange(3.0)}, folder / "unet" / name)
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "all-in-one.ckpt").write_bytes(b"a pickle")
    save_file({"w": torch.zeros(1)}, folder / "safety_checker" / "model.safetensors")
    save_file({"w": torch.zeros(1)}, folder / "all-in-one.safetensors")
    return folder


def test_published_components_load_and_encode(published: tuple, rng: np.random.Generator) -> None:
    uri, folder = published
    generator = Generator.from_pretrained(folder, device="cpu")
    assert generator.takes_depth == ("depth2img" if uri == SD2_DEPTH else None)
    assert generator.unet.config.cross_attention_dim == PUBLISHED_UNET[uri]["cross_attention_dim"] // REDUCTION
    assert generator.encode_text(["a red mug"]).shape[2] == generator.context_shape[1]
    assert generator.encode_images(rng.integers(0, 256, (1, 64, 64, 3), np.uint8)).shape == (1, 4, 8, 8)
    assert generator.scheduler.config.prediction_type == "epsilon"
    assert pipeline_status(f"diffusers:{folder}").licence == "creativeml-openrail-m"


@pytest.mark.slow
def test_published_name_is_fetched_and_loaded(published: tuple, hub: dict[str, Path]) -> None:
    uri, folder = published
    name = uri.removeprefix("diffusers:")
    hub[name] = folder
    with pytest.raises(MissingWeightsError, match=f"`penfield models fetch {re.escape(uri)}`"):
        Generator.from_pretrained(name, device="cpu")
    status = fetch_pipeline(uri)
    assert status.present and status.revision == COMMIT and cached_pipelines() == [uri]
    assert (
        Generator.from_pretrained(name, device="cpu").fingerprint
        == Generator.from_pretrained(folder, device="cpu").fingerprint
    )


@pytest.mark.parametrize("uri", [SD1, SD2_DEPTH])
def test_absent_generator_names_model_folder_and_command(cache: Path, uri: str) -> None:
    with pytest.raises(MissingWeightsError) as error:
        find_pipeline(uri)
    assert str(cache) in str(error.value) and f"`penfield models fetch {uri}`" in str(error.value)
    status = pipeline_status(uri)
    assert not status.present and status.origin == uri.removeprefix("diffusers:")
    with pytest.raises(MissingWeightsError):
        verify_pipeline(uri)
    with pytest.raises(MissingWeightsError, match="HF_HUB_OFFLINE"):
        fetch_pipeline(uri)


def test_fetch_brings_what_is_read_and_nothing_else(hub: dict[str, Path], tmp_path: Path) -> None:
    hub["org/small"] = make_small(tmp_path / "small")
    status = fetch_pipeline(f"diffusers:org/small@{COMMIT}")
    assert list(status.files) == ["unet/diffusion_pytorch_model.safetensors"]
    assert status.files["unet/diffusion_pytorch_model.safetensors"]["matches_origin"] is True
    assert status.licence == "openrail++"
    folder = Path(status.folder)
    here = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    assert here == [
        "README.md", "model_index.json", "scheduler/config.json", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip


def test_fetch_of_half_precision_shards_and_single_models(hub: dict[str, Path], tmp_path: Path) -> None:
    half = make_small(tmp_path / "half")
    (half / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    hub["org/half"] = half
    assert list(fetch_pipeline("diffusers:org/half").files) == ["unet/diffusion_pytorch_model.fp16.safetensors"]
    shards = [f"diffusion_pytorch_model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    controlnet = tmp_path / "controlnet"
    (controlnet / "extra").mkdir(parents=True)
    (controlnet / "config.json").write_text(json.dumps({"_class_name": "ControlNetModel"}))
    for shard in shards:
        (controlnet / shard).write_bytes((half / "unet" / "diffusion_pytorch_model.fp16.safetensors").read_bytes())
    index = controlnet / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}))
    hub["org/controlnet"] = controlnet
    assert list(fetch_pipeline("diffusers:org/controlnet").files) == shards
    (controlnet / shards[1]).unlink()
    with pytest.raises(MissingWeightsError, match="lacks a part"):
        find_pipeline(f"diffusers:{controlnet}")


def test_a_generator_fetched_in_part_names_the_command(
    published: tuple, hub: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import snapshot_download

    uri, folder = published
    name = uri.removeprefix("diffusers:")
    hub[name] = folder
    command = f"`penfield models fetch {re.escape(uri)}`"
    for patterns, lacking in (
        (["model_index.json", "*/config.json", "scheduler/*", "tokenizer/*"], "(vae|unet|text_encoder) lacks"),
        (["vae/*", "text_encoder/*"], "unet lacks"),
    ):
        snapshot_download(name, allow_patterns=patterns, endpoint=constants.ENDPOINT)
        for given in (name, uri):
            with pytest.raises(MissingWeightsError, match=f"{lacking}.*{command}"):
                Generator.from_pretrained(given, device="cpu")
        with pytest.raises(MissingWeightsError, match=command):
            find_pipeline(uri)
    snapshot_download(name, allow_patterns="unet/*", endpoint=constants.ENDPOINT)
    assert Generator.from_pretrained(uri, device="cpu").name == uri


def test_single_models_fetched_in_part_name_the_command(hub: dict[str, Path], tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download
    from safetensors.torch import save_file

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    save_file({"w": torch.zeros(1)}, tmp_path / "model" / "model.safetensors")
    hub["org/controlnet"] = hub["org/blip"] = tmp_path / "model"
    hf_hub_download("org/controlnet", "config.json", endpoint=constants.ENDPOINT)
    with pytest.raises(
        MissingWeightsError, match=r"it lacks a part .*`penfield models fetch diffusers:org/controlnet@main`"
    ):
        find_folder("org/controlnet@main")
    hf_hub_download("org/blip", "config.json", endpoint=constants.ENDPOINT)
    with pytest.raises(MissingWeightsError, match="`penfield models fetch transformers:org/blip`"):
        find_model("org/blip")
    (
        Path(hf_hub_download("org/blip", "model.safetensors", endpoint=constants.ENDPOINT)).parent / "config.json"
    ).unlink()
    with pytest.raises(
        MissingWeightsError, match=r"config\.json is missing.*`penfield models fetch transformers:org/blip`"
    ):
        find_model("org/blip")
    hf_hub_download("org/blip", "config.json", endpoint=constants.ENDPOINT)
    assert (find_model("org/blip") / "config.json").exists()
    with pytest.raises(UnknownNameError, match="Leave out the scheme"):
        find_model("transformers:org/blip")


def test_a_folder_that_is_not_whole_is_to_be_copied_again(tmp_path: Path) -> None:
    folder = make_small(tmp_path / "small")
    for file in (folder / "unet").iterdir():
        file.unlink()
    with pytest.raises(MissingWeightsError, match=r"unet lacks.*Copy the whole folder"):
        find_pipeline(f"diffusers:{folder}")


def test_pickles_pointers_damage_and_absent_parts_are_refused(hub: dict[str, Path], tmp_path: Path) -> None:
    folder = make_small(tmp_path / "small")
    hub["org/small"] = folder
    fetched = Path(fetch_pipeline("diffusers:org/small").folder) / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(fetched.read_bytes())
    content[-1] ^= 1
    fetched.resolve().write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged"):
        verify_pipeline("diffusers:org/small")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    with pytest.raises(ArtifactError, match="pointer"):
        find_pipeline(f"diffusers:{folder}")
    for file in (folder / "unet").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(ArtifactError, match="pickled"):
        find_pipeline(f"diffusers:{folder}")
    with pytest.raises(MissingWeightsError, match="holds none of"):
        fetch_pipeline("diffusers:org/small@other")
    (folder / "unet" / "diffusion_pytorch_model.bin").unlink()
    assert not pipeline_status(f"diffusers:{folder}").present
    with pytest.raises(MissingWeightsError, match="unet"):
        find_pipeline(f"diffusers:{folder}")


@pytest.mark.slow
def test_commands_take_generators(
    hub: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from scripts.penfield import main

    hub["org/small"] = make_small(tmp_path / "small")

    def run(*words: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["penfield"])
        with pytest.raises(SystemExit) as ended:
            main("models", *words, "--json")
        assert not ended.value.code
        return json.loads(capsys.readouterr().out)

    assert run("fetch", "diffusers:org/small")["present"]
    assert run("verify", "diffusers:org/small")["files"]["unet/diffusion_pytorch_model.safetensors"]["matches_origin"]
    listed = {row["uri"]: row["present"] for row in run("list")["models"]}
    assert listed["diffusers:org/small"] and listed[SD1] is False and "transformers:org/small" not in listed


def test_generators_compute_no_features() -> None:
    with pytest.raises(UnknownNameError, match="image generator"):
        FeatureExtractor.from_uri(SD1)
    with pytest.raises(UnknownNameError, match="OWNER/NAME"):
        find_pipeline("stabilityai/stable-diffusion-2-depth")
