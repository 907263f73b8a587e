"""Eight brains reconstructed together beside the same eight one by one, of one and of two threads.

CPU time of all threads of the process, the two in turns; smallest and median of the repetitions after one that is not
counted. Pictures of 64 x 64 pixels by a UNet of 3.4 million untrained weights, on which time does not depend: 20 steps
at strength 0.8, so that 16 are run, with guidance, and decoding. `--generator` takes another generator, such as
"miniature:diffusion".

    python benchmarks/reconstruction_batch.py                 writes benchmarks/results/reconstruction_batch.json
    python benchmarks/reconstruction_batch.py --repeats 1     a quick look
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

# As in the command line: a thread that spins while it waits would count as work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import diffusers
import numpy as np
import torch
from provenance import RESULTS, provenance
from turns import over, print_part, take_turns

from decoders.miniature.autoencoder import ARCHITECTURE
from decoders.pictures import DecodedInputs, Generator, ImageReconstructor, Preset

OUT = RESULTS / "reconstruction_batch.json"
BRAINS, STEPS, TOKENS, WIDTH = 8, 20, 5, 64
TOGETHER, ALONE = "eight together", "eight one by one"


class EmptyPrompt(Generator):
    """A generator whose text comes decoded; the empty prompt is all zeros."""

    def encode_text(self, texts: Any) -> np.ndarray:
        return np.zeros((len(texts), TOKENS, WIDTH), np.float32)


def untrained() -> Generator:
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 112),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        norm_num_groups=8,
        attention_head_dim=8,
    )
    return EmptyPrompt(diffusers.AutoencoderKL(**ARCHITECTURE), unet, diffusers.DDIMScheduler(clip_sample=False))


def decoded(generator: Generator) -> DecodedInputs:
    rng = np.random.default_rng(0)
    tokens, width = generator.context_shape
    return DecodedInputs(
        [f"brain-{k}" for k in range(BRAINS)],
        z=rng.standard_normal((BRAINS, *generator.latent_shape)).astype(np.float32),
        c=rng.standard_normal((BRAINS, tokens or TOKENS, width)).astype(np.float32),
    )


def measure(generator: Generator, threads: int, repeats: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    preset = Preset("z and c", strength=0.8, guidance=5.0, steps=STEPS)
    reconstructor, inputs = ImageReconstructor(generator, preset), decoded(generator)
    together = reconstructor.reconstruct(inputs, batch_size=BRAINS).images.astype(int)
    alone = reconstructor.reconstruct(inputs, batch_size=1).images
    times = take_turns(
        {
            ALONE: lambda: _run(reconstructor, inputs, 1),
            TOGETHER: lambda: _run(reconstructor, inputs, BRAINS),
        },
        repeats,
    )
    cost = {kind: times[TOGETHER][kind] / times[ALONE][kind] for kind in ("seconds", "median")}
    return {
        "times": times,
        "ratios": over(times, ALONE),
        "cost of the batch, smallest": cost["seconds"],
        "cost of the batch, median": cost["median"],
        "largest difference of a pixel, of 255": int(np.abs(together - alone).max()),
    }


def _run(reconstructor: ImageReconstructor, inputs: DecodedInputs, batch_size: int) -> None:
    reconstructor.reconstruct(inputs, batch_size=batch_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--generator", help="folder or name; by default an untrained one of 3.4 million weights")
    parser.add_argument("--out", type=Path, default=OUT, help=f"JSON file; by default {OUT.name}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    origin = provenance()
    name = arguments.generator
    generator = Generator.from_pretrained(name, device="cpu") if name else untrained()
    weights = sum(parameter.numel() for parameter in generator.unet.parameters())
    results: dict[str, Any] = {"weights of the UNet": weights}
    print(f"{'CPU seconds':<44}{'smallest':>10}{'median':>10}{'times faster':>20}")
    for threads in (1, 2):
        part = f"{threads} thread" + ("s" if threads > 1 else "")
        results[part] = measure(generator, threads, arguments.repeats)
        print_part(part, results[part])
    origin["machine"] = origin["machine"].replace("1 thread used, ", "")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    earlier = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    arguments.out.write_text(json.dumps(earlier | {name or "untrained": origin | results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
