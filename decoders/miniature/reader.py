"""An independent reader of pictures of the miniature world: what is shown, in which colour, where and how near.

It has only ever seen rendered scenes, some of them blurred or noisy, and shares nothing with the generator or with
`miniature:backbone`; so it can judge what a reconstruction shows.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from recordings.errors import MissingWeightsError, ShapeError
from recordings.events import OnEvent, Stop, report
from recordings.miniature import CATEGORIES, Scenes
from recordings.miniature.captions import colour_names

from ..evaluation.attributes import Attributes
from .pictures import Pictures, as_tensor, batches

_HOME = Path(__file__).parent / "reader"
SIDE = 64
_WIDTHS = (24, 48, 96, 128)


class Reader(nn.Module):
    """A convolutional network with four heads on its last maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            _stage(before, after) for before, after in zip((3, *_WIDTHS), _WIDTHS, strict=False)
        )
        self.look = nn.Linear(2 * _WIDTHS[-1], len(CATEGORIES) + 2)
        self.place = nn.Linear(_WIDTHS[-1] * 16, 2)
        self.relief = nn.Conv2d(_WIDTHS[-1] + _WIDTHS[1], 1, 3, padding=1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Pictures (n, 3, 64, 64) in [-1, 1] to category logits, hue (cosine, sine), position, nearness (n, 16, 16)."""
        maps = []
        for stage in self.stages:
            image = stage(image)
            maps.append(image)
        last = maps[-1]
        look = self.look(torch.cat([last.mean((2, 3)), last.amax((2, 3))], 1))
        fine = torch.cat([F.interpolate(last, scale_factor=4, mode="bilinear"), maps[1]], 1)
        return {
            "category": look[:, : len(CATEGORIES)],
            "hue": look[:, len(CATEGORIES) :],
            "position": self.place(last.flatten(1)),
            "nearness": self.relief(fine)[:, 0],
        }

    @torch.inference_mode()
    def read(self, image: np.ndarray, batch_size: int = 100) -> Attributes:
        """What pictures, uint8 (n, 64, 64, 3), show; nearness float32 (n, 16, 16).

        Raises
        ------
        ShapeError : pictures of another size or type.
        """
        if image.dtype != np.uint8 or image.shape[1:] != (SIDE, SIDE, 3):
            raise ShapeError(f"pictures {image.dtype} {image.shape}, expected uint8 (n, {SIDE}, {SIDE}, 3)")
        parts = [self(as_tensor(image[k : k + batch_size])) for k in range(0, len(image), batch_size)]
        found = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
        turn = np.arctan2(found["hue"][:, 1], found["hue"][:, 0]) / (2 * np.pi)
        category = np.array(CATEGORIES)[found["category"].argmax(1)]
        return Attributes(category, colour_names(turn), found["position"], found["nearness"])


@cache
def load_reader(folder: Path = _HOME) -> Reader:
    """The reader that comes with Penfield; `MissingWeightsError` if its weights are not there."""
    file = folder / "model.safetensors"
    if not file.exists():
        raise MissingWeightsError(
            "the reader's weights are missing",
            where=file,
            remedy="Make them with `python -m decoders.miniature.train`",
        )
    reader = Reader()
    reader.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(file).items()})
    return reader.eval()


def train_reader(
    pictures: Pictures,
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    seed: int = 0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> Reader:
    """A reader of the pictures; half of each batch is blurred and noisy, as generated pictures are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = Reader().to(memory_format=torch.channels_last).train()
    rng = np.random.default_rng(seed)
    truth = _truth(pictures)
    optimiser = torch.optim.AdamW(reader.parameters(), lr=learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, steps, pct_start=0.1)
    for step, rows in enumerate(batches(len(pictures), steps, batch_size, seed)):
        found = reader(_spoil(as_tensor(pictures.image[rows]), rng).contiguous(memory_format=torch.channels_last))
        losses = {name: F.mse_loss(found[name], truth[name][rows]) for name in ("hue", "position", "nearness")}
        losses["category"] = F.cross_entropy(found["category"], truth["category"][rows], label_smoothing=0.05)
        optimiser.zero_grad()
        (losses["category"] + losses["hue"] + 4 * losses["position"] + 4 * losses["nearness"]).backward()
        optimiser.step()
        schedule.step()
        report(on_event, stop, "reader", step + 1, steps, **{k: v.item() for k, v in losses.items()})
    return reader.eval()


def true_attributes(scenes: Scenes, nearness: np.ndarray) -> Attributes:
    """What n scenes with these nearness maps (n, 64, 64) really show, as the reader would tell it."""
    place = np.column_stack([scenes.x, scenes.y])
    return Attributes(scenes.category_names, colour_names(scenes.hue), place, coarse(nearness).numpy())


def coarse(nearness: np.ndarray) -> Tensor:
    """Nearness maps (n, 64, 64) at the reader's resolution, float32 (n, 16, 16)."""
    return F.avg_pool2d(torch.as_tensor(nearness.astype(np.float32))[:, None], SIDE // 16)[:, 0]


def _stage(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, stride in ((before, 2), (after, 1)):
        layers += [nn.Conv2d(width, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


def _truth(pictures: Pictures) -> dict[str, Tensor]:
    scenes, turn = pictures.scenes, 2 * np.pi * pictures.scenes.hue
    return {
        "category": torch.as_tensor(scenes.category),
        "hue": torch.as_tensor(np.column_stack([np.cos(turn), np.sin(turn)]), dtype=torch.float32),
        "position": torch.as_tensor(np.column_stack([scenes.x, scenes.y]), dtype=torch.float32),
        "nearness": coarse(pictures.nearness),
    }


def _spoil(image: Tensor, rng: np.random.Generator) -> Tensor:
    half = len(image) // 2
    blurred = gaussian_blur(image[:half], 7, float(rng.uniform(0.3, 1.6)))
    noise = torch.as_tensor(rng.standard_normal(blurred.shape, dtype=np.float32))
    return torch.cat([blurred + float(rng.uniform(0, 0.1)) * noise, image[half:]])
