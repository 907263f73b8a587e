"""The miniature generator's denoiser: a small UNet that turns noise into latents, told by words what to draw.

It is trained with its text encoder from the start, to predict the velocity (Salimans & Ho 2022) under the noise
schedule of Stable Diffusion, rescaled to end in pure noise (Lin et al. 2024).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import CLIPTextModel, CLIPTokenizer

from recordings.events import OnEvent, Stop, report

from .pictures import batches
from .text import WIDTH, make_text_encoder

# Attention at the lower level alone costs two thirds and leaves more channels for the same time.
ARCHITECTURE = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 96),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 32,
    "norm_num_groups": 16,
}
# Share of the training without words, for classifier-free guidance (Ho & Salimans 2022).
UNCONDITIONAL = 0.1
# Words decoded from a brain are blurred: up to so many standard deviations of noise are added to them in training.
BLUR = 0.6
_EMA = 0.998


def make_scheduler() -> DDIMScheduler:
    """The noise schedule of training and sampling."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def train_denoiser(
    latents: Tensor,
    captions: Sequence[str],
    tokenizer: CLIPTokenizer,
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: str = "cpu",
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """A denoiser and its text encoder, averaged over the last steps of training.

    Parameters
    ----------
    latents : float32 (n, 4, 8, 8), scaled to unit s.d. captions : n texts.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.ModuleDict({"unet": UNet2DConditionModel(**ARCHITECTURE), "text": make_text_encoder(tokenizer)})
    model.to(device)
    ids = tokenise(tokenizer, captions).to(device)
    empty = tokenise(tokenizer, [""]).to(device)
    noisy = Noising(latents, seed, device)

    def loss(model: Any, rows: Tensor) -> Tensor:
        x, t, velocity = noisy(rows)
        dropped = torch.rand(len(rows), generator=noisy.generator, device=device) < UNCONDITIONAL
        words = torch.where(dropped[:, None], empty, ids[rows])
        context = blur(model["text"](words).last_hidden_state, noisy.generator)
        return F.mse_loss(model["unet"](x, t, context).sample, velocity)

    averaged = fit(model, loss, len(latents), steps, batch_size, learning_rate, seed, "denoiser", on_event, stop)
    return averaged["unet"].eval(), averaged["text"].eval()


class Noising:
    """Latents with noise at random times, and the velocity to be predicted, all drawn from one seed."""

    def __init__(self, latents: Tensor, seed: int, device: str):
        self.latents = latents.to(device)
        self.scheduler = make_scheduler()
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latents (row, 4, 8, 8), times (row,), velocities (row, 4, 8, 8)."""
        clean, n = self.latents[rows], self.scheduler.config.num_train_timesteps
        time = torch.randint(0, n, (len(rows),), generator=self.generator, device=clean.device)
        noise = torch.randn(clean.shape, generator=self.generator, device=clean.device)
        return self.scheduler.add_noise(clean, noise, time), time, self.scheduler.get_velocity(clean, noise, time)


def fit(
    model: nn.Module,
    loss: Callable[[Any, Tensor], Tensor],
    n: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    stage: str,
    on_event: OnEvent | None,
    stop: Stop | None,
) -> Any:
    """Minimise ``loss(model, rows)`` over what of the model takes gradients; return the moving average of the model.

    Raises `Cancelled` if `stop` answers True; nothing is kept then.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, steps, pct_start=0.03)
    averaged = AveragedModel(copy.deepcopy(model), multi_avg_fn=get_ema_multi_avg_fn(_EMA))
    model.train()
    for step, rows in enumerate(batches(n, steps, batch_size, seed)):
        value = loss(model, torch.as_tensor(rows))
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        averaged.update_parameters(model)
        report(on_event, stop, stage, step + 1, steps, loss=value.item())
    return averaged.module


def tokenise(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Token numbers, int64 (n, tokens), of n texts."""
    how = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    return tokenizer(list(captions), **how).input_ids


def blur(context: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the contexts (row, token, channel) with noise of a random strength."""
    n, device = len(context), context.device
    strength = BLUR * torch.rand(n, 1, 1, generator=generator, device=device)
    strength = strength * (torch.rand(n, 1, 1, generator=generator, device=device) < 0.5)
    spread = context.detach().std(0, correction=0)
    return context + strength * spread * torch.randn(context.shape, generator=generator, device=device)
