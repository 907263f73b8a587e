"""Train the miniature backbone: ``python -m encoders.miniature.train``.

A small vision transformer learns, from freshly rendered scenes, Gabor energy and colour by patch at its second block,
silhouette and depth by patch at its fourth, and category by patch at its last, where the class token reads category,
colour, place, pose and shape. One seed gives the same weights on one machine with one number of threads. It takes
about 13 minutes on one core.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import timm
import torch
import torch.nn.functional as F
import typer
from rich.progress import Progress, TaskID
from timm.layers import build_sincos2d_pos_embed
from timm.models import VisionTransformer, save_for_hf
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn.utils import skip_init

from recordings.events import Event, OnEvent, Stop, report
from recordings.miniature import CATEGORIES, Rendered, Scenes, render
from recordings.storage import atomic_path

from . import BACKBONE
from .card import model_card
from .evaluate import evaluate, normalise
from .targets import PATCH, attributes, patch_targets

SIZE = 64
MODEL_ARGS = {"img_size": SIZE, "patch_size": PATCH, "depth": 6}
# Which block each patch map is read from.
READOUTS = {"edges": 1, "colour": 1, "form": 3, "identity": 5}
WEIGHTS = {"edges": 1.0, "colour": 0.5, "form": 0.5, "identity": 0.5, "attributes": 2.0, "category": 0.5}
TRAINING_SEED = 2001
CHUNK_BATCHES = 16
PREPROCESSING = {
    "input_size": (3, SIZE, SIZE),
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "crop_pct": 1.0,
    "interpolation": "bicubic",
}


class Heads(nn.Module):
    """Linear read-outs of the training targets from the backbone's blocks; dropped after training."""

    def __init__(self, targets: dict[str, Tensor], width: int):
        super().__init__()
        self.heads = nn.ModuleDict()
        for name, values in targets.items():
            linear = skip_init(nn.Linear, width, values.shape[-1])
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
            self.heads[name] = nn.Sequential(nn.LayerNorm(width), linear)
            self.register_buffer(f"{name}_mean", values.flatten(0, -2).mean(0))
            self.register_buffer(f"{name}_std", values.flatten(0, -2).std(0).clamp(min=1e-3))

    def loss(self, name: str, tokens: Tensor, values: Tensor) -> Tensor:
        """Mean squared error of one read-out, in units of the target's variance."""
        standardised = (values - getattr(self, f"{name}_mean")) / getattr(self, f"{name}_std")
        return F.mse_loss(self.heads[name](tokens), standardised)


def build(seed: int) -> VisionTransformer:
    """An untrained backbone with positional embeddings of the sine-cosine kind."""
    grid = SIZE // PATCH
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model("vit_tiny_patch16_224", num_classes=len(CATEGORIES), **MODEL_ARGS)
    with torch.no_grad():
        model.pos_embed[:, 1:] = build_sincos2d_pos_embed([grid, grid], model.embed_dim)
    return model


def train(
    steps: int = 1000,
    batch_size: int = 32,
    learning_rate: float = 8e-3,
    seed: int = TRAINING_SEED,
    device: str = "cpu",
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> VisionTransformer:
    """Train a backbone on scenes of the world `seed`, each seen once.

    Raises `Cancelled` if `stop` answers True; nothing is kept then.
    """
    model = build(seed).to(device).train()
    sample = Scenes.sample(256, seed=seed)
    heads = Heads(_targets(sample, render(sample)), model.embed_dim).to(device)
    # Muon (K. Jordan et al., 2024) needs several times fewer scenes than AdamW to tell the categories apart.
    optimiser = create_optimizer_v2(nn.ModuleList([model, heads]), opt="muon", lr=learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _warm_cosine(step, steps))
    for step, (images, category, targets) in enumerate(_batches(steps, batch_size, seed)):
        targets = {name: values.to(device) for name, values in targets.items()}
        losses = _losses(model, heads, images.to(device), category.to(device), targets)
        loss = torch.stack([WEIGHTS[name] * value for name, value in losses.items()]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        report(on_event, stop, "train", step + 1, steps, **{k: v.item() for k, v in losses.items()})
    return model.eval().cpu()


def save(model: VisionTransformer, path: Path, card: str) -> None:
    """Write half-precision weights, configuration and model card to `path` in timm's layout, replacing what is there.

    Raises `DiskFullError` if there is no space left; `path` is then as it was.
    """
    with atomic_path(path, overwrite=True) as folder:
        save_for_hf(
            copy.deepcopy(model).half(),
            folder,
            model_config={"label_names": list(CATEGORIES), "pretrained_cfg": {"tag": "miniature"}},
            model_args=MODEL_ARGS,
            data_config=PREPROCESSING,
            safe_serialization=True,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")


def main(
    out: Annotated[Path, typer.Option(help="Folder to write, in timm's layout.")] = BACKBONE,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    steps: Annotated[int, typer.Option(min=1)] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Scenes a step.")] = 32,
    learning_rate: float = 8e-3,
    seed: Annotated[
        int, typer.Option(min=0, help="World of the training scenes, and seed of the weights.")
    ] = TRAINING_SEED,
) -> None:
    """Train the miniature backbone, score it on scenes of another world, and write it with its model card."""
    settings = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    with Progress() as progress:
        tasks: dict[str, TaskID] = {}

        def show(event: Event) -> None:
            if event.stage not in tasks:
                tasks[event.stage] = progress.add_task(event.stage, total=event.total)
            progress.update(tasks[event.stage], completed=event.done)

        # Scored as it will be shipped, with weights rounded to half precision.
        model = train(steps, batch_size, learning_rate, seed, device, on_event=show).half().float()
        trained = evaluate(model, on_event=show)
        untrained = evaluate(build(seed).eval())
    save(model, out, model_card(settings, trained, untrained))


def _losses(
    model: VisionTransformer, heads: Heads, images: Tensor, category: Tensor, targets: dict[str, Tensor]
) -> dict[str, Tensor]:
    final, blocks = model.forward_intermediates(images, output_fmt="NLC")
    losses = {name: heads.loss(name, blocks[block], targets[name]) for name, block in READOUTS.items()}
    losses["attributes"] = heads.loss("attributes", final[:, 0], targets["attributes"])
    losses["category"] = F.cross_entropy(model.forward_head(final), category)
    return losses


def _warm_cosine(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / (0.05 * steps + 1)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _batches(steps: int, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor, dict[str, Tensor]]]:
    """Images, categories and targets of scenes never seen before."""
    total, chunk = steps * batch_size, CHUNK_BATCHES * batch_size
    for start in range(0, total, chunk):
        scenes = Scenes.sample(min(chunk, total - start), seed=seed, start=start)
        pictures = render(scenes)
        images, category = normalise(pictures.image), torch.as_tensor(scenes.category)
        targets = _targets(scenes, pictures)
        for row in range(0, len(scenes), batch_size):
            rows = slice(row, row + batch_size)
            yield images[rows], category[rows], {name: values[rows] for name, values in targets.items()}


def _targets(scenes: Scenes, pictures: Rendered) -> dict[str, Tensor]:
    return {**patch_targets(scenes, pictures), "attributes": attributes(scenes)}


if __name__ == "__main__":
    typer.run(main)
