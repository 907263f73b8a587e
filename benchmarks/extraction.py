"""Feature extraction beside a bare timm loop: same model, same images on disk, same batch, same threads.

The bare loop opens each image with Pillow, applies timm's own transform, runs the model and keeps the mean of the last
block's patch tokens in memory. Penfield does the same, hashes each image, and writes a checked store. Both take turns
in one process; `ratio` is that of the median times, `cpu_ratio` that of the median CPU times, which other work on the
machine disturbs less. An image has the size that the model takes, so that decoding is cheap.

    python -m benchmarks.extraction                    ViT-S/16, 256 images of 224 x 224, batches of 32
    python -m benchmarks.extraction --quick            ViT-Ti/16, 64 images, batches of 16
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

from encoders.features import FeatureExtractor, extract
from recordings import Stimuli


def write_images(folder: Path, n: int, size: int) -> None:
    """Smooth random JPEGs."""
    rng = np.random.default_rng(0)
    for i in range(n):
        coarse = Image.fromarray(rng.integers(0, 255, (14, 14, 3), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{i:04d}.jpg", quality=90)


def bare_loop(
    model: torch.nn.Module, transform: Callable[[Image.Image], torch.Tensor], files: list[Path], batch: int, device: str
) -> np.ndarray:
    """Patch means of the last block, float32 (n, channel)."""
    kept: list[torch.Tensor] = []
    n_prefix = model.num_prefix_tokens
    handle = model.get_submodule(f"blocks.{len(model.blocks) - 1}").register_forward_hook(
        lambda module, inputs, output: kept.append(output[:, n_prefix:].mean(1).float().cpu())
    )
    with torch.inference_mode():
        for start in range(0, len(files), batch):
            images = [transform(Image.open(f).convert("RGB")) for f in files[start : start + batch]]
            model(torch.stack(images).to(device))
    handle.remove()
    return torch.cat(kept).numpy()


@contextmanager
def stopwatch(seconds: list[float], cpu_seconds: list[float]) -> Iterator[None]:
    """Append how long the block took, by the clock and in CPU time of all threads."""
    started, cpu_started = time.perf_counter(), time.process_time()
    yield
    seconds.append(time.perf_counter() - started)
    cpu_seconds.append(time.process_time() - cpu_started)


def compare(name: str, n: int, batch: int, repeats: int, device: str) -> dict[str, float | str | int]:
    """Seconds of each, and what they have in common: the largest difference of their features."""
    extractor = FeatureExtractor.from_uri(f"untrained:timm:{name}", device=device)
    model = extractor.backbone.module
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    times: dict[str, list[float]] = {"bare": [], "penfield": []}
    cpu: dict[str, list[float]] = {"bare": [], "penfield": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "images")
        folder.mkdir()
        write_images(folder, n, config["input_size"][-1])
        files = sorted(folder.iterdir())
        bare_loop(model, transform, files[:batch], batch, device)
        extract(extractor, Stimuli.from_folder(folder).take(slice(0, batch)), Path(temporary, "warm.zarr"))
        for repeat in range(repeats):
            with stopwatch(times["bare"], cpu["bare"]):
                expected = bare_loop(model, transform, files, batch, device)
            store = Path(temporary, f"{repeat}.zarr")
            with stopwatch(times["penfield"], cpu["penfield"]):
                features = extract(extractor, Stimuli.from_folder(folder), store, batch_size=batch)
            print(f"bare {times['bare'][-1]:.2f} s, penfield {times['penfield'][-1]:.2f} s", file=sys.stderr)
        difference = float(np.abs(features[extractor.default_layer].read() - expected).max())
    cpu_ratio = statistics.median(cpu["bare"]) / statistics.median(cpu["penfield"])
    bare, own = statistics.median(times["bare"]), statistics.median(times["penfield"])
    return {
        "model": name, "n_images": n, "batch": batch, "device": device, "threads": torch.get_num_threads(),
        "bare_images_per_second": n / bare, "penfield_images_per_second": n / own, "ratio": bare / own,
        "cpu_ratio": cpu_ratio, "largest_difference": difference,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model")
    parser.add_argument("--images", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    name = arguments.model or ("vit_tiny_patch16_224" if arguments.quick else "vit_small_patch16_224")
    n = arguments.images or (64 if arguments.quick else 256)
    batch = arguments.batch or (16 if arguments.quick else 32)
    print(json.dumps(compare(name, n, batch, arguments.repeats, arguments.device)))


if __name__ == "__main__":
    main()
