"""Train the miniature generator and its reader: ``python -m decoders.miniature.train --work DIR``.

Its parts are trained after one another, each on the ones before: autoencoder, denoiser with text encoder, ControlNet,
denoiser that sees depth, IP-Adapter, and the independent reader. A part that `DIR` holds is not trained again, so that
a run that was stopped goes on. They are shipped only if they pass the gate, scored as they are shipped: rounded to half
precision, on scenes of another world. One seed gives the same weights on one machine with one number of threads.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers import AutoencoderKL, UNet2DConditionModel
from rich.progress import Progress, TaskID
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from recordings.events import Event, OnEvent, Stop
from recordings.storage import atomic_path

from .autoencoder import encode, train_autoencoder
from .card import model_card
from .conditioning import Words, train_ip_adapter, train_on_depth
from .denoiser import make_scheduler, train_denoiser
from .evaluate import evaluate, failures
from .looks import look_of
from .pictures import Pictures, draw_pictures
from .reader import Reader, train_reader
from .ship import PARTS, ship
from .text import make_tokenizer

HOME = Path(__file__).parent
# Worlds of the generator and of the reader, so that they share no scene.
SEED, READER_SEED = 3001, 3005
N_SCENES = {"autoencoder": 28_000, "denoiser": 40_000, "reader": 20_000}
STEPS = {
    "autoencoder": 3000,
    "denoiser": 6000,
    "controlnet": 1000,
    "depth_unet": 800,
    "ip_adapter": 800,
    "reader": 1500,
}


class Workshop:
    """The parts that a folder holds; one that is asked for and not there is trained and kept.

    Parameters
    ----------
    folder : where parts are kept. steps : of each part.
    """

    def __init__(self, folder: Path, steps: dict[str, int], on_event: OnEvent | None, stop: Stop | None):
        self.folder = folder
        self.steps = steps
        self.watched: dict[str, Any] = {"on_event": on_event, "stop": stop}
        self._pictures: Pictures | None = None

    def pictures(self) -> Pictures:
        """What the generator learns from."""
        if self._pictures is None:
            self._pictures = draw_pictures(N_SCENES["denoiser"], SEED, **self.watched)
        return self._pictures

    def vae(self) -> AutoencoderKL:
        def make(path: Path) -> None:
            pictures = draw_pictures(N_SCENES["autoencoder"], SEED, **self.watched)
            train_autoencoder(pictures, self.steps["autoencoder"], **self.watched).save_pretrained(path)

        vae = AutoencoderKL.from_pretrained(self._made("vae", make))
        return vae.eval().to(memory_format=torch.channels_last)

    def latents(self) -> Tensor:
        """Scaled latents of the pictures, float32 (n, 4, 8, 8)."""

        def make(path: Path) -> None:
            vae = self.vae()
            latents = encode(vae, self.pictures().image) * vae.config.scaling_factor
            save_file({"z": latents.contiguous()}, path)

        return load_file(self._made("latents.safetensors", make))["z"]

    def denoiser(self) -> tuple[UNet2DConditionModel, CLIPTextModel, CLIPTokenizer]:
        def make(path: Path) -> None:
            captions = self.pictures().captions
            tokenizer = make_tokenizer(captions)
            steps = self.steps["denoiser"]
            unet, text_encoder = train_denoiser(self.latents(), captions, tokenizer, steps, **self.watched)
            parts = {"unet": unet, "text_encoder": text_encoder, "tokenizer": tokenizer, "scheduler": make_scheduler()}
            for name, part in parts.items():
                part.save_pretrained(path / name)

        folder = self._made("denoiser", make)
        return (
            UNet2DConditionModel.from_pretrained(folder / "unet"),
            CLIPTextModel.from_pretrained(folder / "text_encoder"),
            CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        )

    def controlnet(self) -> Path:
        return self._made("controlnet", self._told_depth("controlnet"))

    def depth_unet(self) -> Path:
        return self._made("depth_unet", self._told_depth("depth_unet"))

    def _told_depth(self, kind: str) -> Callable[[Path], None]:
        def make(path: Path) -> None:
            unet, text_encoder, tokenizer = self.denoiser()
            words = Words(text_encoder, tokenizer, self.pictures().captions)
            shown = (words, self.latents(), self.pictures().nearness)
            train_on_depth(kind, unet, *shown, self.steps[kind], **self.watched).save_pretrained(path)

        return make

    def ip_adapter(self) -> Path:
        def make(path: Path) -> None:
            unet, text_encoder, tokenizer = self.denoiser()
            words = Words(text_encoder, tokenizer, self.pictures().captions)
            looks = look_of(self.pictures().image)
            weights = train_ip_adapter(unet, words, self.latents(), looks, self.steps["ip_adapter"], **self.watched)
            flat = {f"{part}.{key}": value for part, keys in weights.items() for key, value in keys.items()}
            path.mkdir()
            save_file({k: v.contiguous() for k, v in flat.items()}, path / "ip_adapter.safetensors")

        return self._made("ip_adapter", make)

    def reader(self) -> Reader:
        def make(path: Path) -> None:
            pictures = draw_pictures(N_SCENES["reader"], READER_SEED, held_out=None, **self.watched)
            trained = train_reader(pictures, self.steps["reader"], **self.watched).state_dict()
            save_file({name: values.contiguous() for name, values in trained.items()}, path)

        reader = Reader()
        reader.load_state_dict(load_file(self._made("reader.safetensors", make)))
        return reader.eval()

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        path = self.folder / name
        if not path.exists():
            with atomic_path(path) as part:
                make(part)
        return path


def main(
    work: Annotated[Path, typer.Option(help="Folder where parts are kept between runs.")],
    steps: Annotated[str, typer.Option(help='Steps of parts, as JSON: {"denoiser": 100}.')] = "{}",
) -> None:
    """Train what the folder lacks, score everything on scenes of another world, and ship it if it passes the gate."""
    work.mkdir(parents=True, exist_ok=True)
    with Progress() as progress:
        tasks: dict[str, TaskID] = {}

        def show(event: Event) -> None:
            if event.stage not in tasks:
                tasks[event.stage] = progress.add_task(event.stage, total=event.total)
            progress.update(tasks[event.stage], completed=event.done)

        shop = Workshop(work, STEPS | json.loads(steps), show, None)
        with atomic_path(work / "shipped", overwrite=True) as part:
            ship(shop, part)
        scores = evaluate(work / "shipped", on_event=show)
    (work / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    missed = failures(scores)
    if missed:
        typer.echo(f"Not shipped: {', '.join(missed)}", err=True)
        raise typer.Exit(1)
    card = model_card(scores, STEPS | json.loads(steps), N_SCENES, SEED)
    (work / "shipped" / "diffusion" / "README.md").write_text(card, encoding="utf-8")
    for name in PARTS:
        with atomic_path(HOME / name, overwrite=True) as place:
            shutil.copytree(work / "shipped" / name, place)


if __name__ == "__main__":
    typer.run(main)
