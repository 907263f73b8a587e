"""Train the miniature captioner: ``python -m decoders.miniature.captioner``.

A BLIP text decoder of two layers learns to describe scenes from the tokens of `miniature:backbone`. As the tokens that
it is for come from brains, it learns from tokens pulled towards their mean, with noise that covaries over tokens and
channels as the tokens of scenes do. One seed gives the same weights on one machine with one number of threads. It
writes nothing unless the captions of scenes of another world reach `GATE`.
"""

from __future__ import annotations

import copy
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import transformers
import typer
from rich.progress import Progress, TaskID
from torch import Tensor
from transformers import BertTokenizer, BlipTextConfig, BlipTextLMHeadModel

from decoders.captions import CAPTIONER, CaptionDecoder
from decoders.pretrained import token_extractor, tokens_by_layer
from recordings.events import Event, OnEvent, Stop, report
from recordings.miniature.captions import COLOURS
from recordings.miniature.scenes import CATEGORIES
from recordings.storage import atomic_path

from .pictures import batches, draw_pictures, is_borderline, is_held_out

ENCODER, LAYER = "miniature:backbone", "blocks.3"
ARCHITECTURE = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "label_smoothing": 0.0,
}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")
PLACES = ("top", "bottom", "left", "right", "middle")
WORDS = {"category": CATEGORIES, "colour": COLOURS, "place": PLACES}
TRAINING_SEED, GATE_SEED, N_GATE = 3001, 3003, 500
GATE = {"category": 0.85, "colour": 0.90, "place": 0.85}
# A decoded token keeps between this and all of its deviation from the mean, and gets noise of up to that s.d.
LEAST_SIGNAL, MOST_NOISE = 0.5, 0.7
CLEAR = "hue over 7 degrees from another name"
# Scenes that the noise of one batch is mixed from.
_MIXED = 64


def make_tokenizer(captions: Sequence[str]) -> BertTokenizer:
    """A BERT tokenizer whose vocabulary is the words of the captions."""
    words = sorted({word for caption in captions for word in caption.split()})
    return BertTokenizer(vocab={word: k for k, word in enumerate([*SPECIAL, *words])})


def train_captioner(
    tokens: np.ndarray,
    captions: Sequence[str],
    tokenizer: BertTokenizer,
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    seed: int = 0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> BlipTextLMHeadModel:
    """A text decoder that writes the captions of tokens (n, token, channel).

    Raises `Cancelled` if `stop` answers True; nothing is kept then.
    """
    mean, scale = tokens.mean((0, 1)), tokens.std((0, 1))
    standardised = torch.as_tensor(((tokens - mean) / scale).astype(np.float16))
    centre = standardised.float().mean(0)
    words = _word_ids(tokenizer, captions)
    model = _build(tokenizer, tokens.shape[-1], seed).train()
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, steps, pct_start=0.1)
    for step, rows in enumerate(batches(len(tokens), steps, batch_size, seed)):
        others = standardised[torch.randint(len(tokens), (_MIXED,), generator=generator)]
        seen = corrupt(standardised[rows].float(), others.float(), centre, generator)
        said = words[rows]
        loss = model(
            input_ids=said,
            attention_mask=(said != tokenizer.pad_token_id).long(),
            encoder_hidden_states=seen,
            labels=said.masked_fill(said == tokenizer.pad_token_id, -100),
        ).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        report(on_event, stop, "captioner", step + 1, steps, loss=loss.item())
    _take_in_standardisation(model, mean, scale)
    return model.eval()


def corrupt(tokens: Tensor, others: Tensor, centre: Tensor, generator: torch.Generator) -> Tensor:
    """Tokens as a brain might yield them: a share of what tells them from the mean, and noise that covaries as they do.

    Parameters
    ----------
    tokens : (n, token, channel). others : (m, token, channel), scenes that the noise is mixed from.
    centre : (token, channel), mean over scenes.
    """
    n, m = len(tokens), len(others)
    mixture = torch.randn(n, m, generator=generator) / m**0.5
    noise = (mixture @ (others - centre).flatten(1)).view_as(tokens)
    share, size = torch.rand(2, n, 1, 1, generator=generator)
    return centre + (1 - (1 - LEAST_SIGNAL) * share) * (tokens - centre) + MOST_NOISE * size * noise


def words_right(captions: Sequence[str], expected: Sequence[str]) -> dict[str, np.ndarray]:
    """Whether each caption names exactly the words for category, colour and place that are expected, bool (n,) each."""
    found = [[set(text.split()) for text in texts] for texts in (captions, expected)]
    return {
        what: np.array([said & set(words) == true & set(words) for said, true in zip(*found, strict=True)])
        for what, words in WORDS.items()
    }


def score_captions(
    decoder: CaptionDecoder, n_scenes: int = N_GATE, seed: int = GATE_SEED, on_event: OnEvent | None = None
) -> dict[str, dict[str, float]]:
    """Shares of the captions of rendered scenes that name the right words, see `words_right`.

    By part of the scenes: all, those whose colour has one name (`is_borderline`), pairs that were not trained on.
    """
    pictures = draw_pictures(n_scenes, seed, held_out=None)
    captions = decoder.decode(decoder.tokens_of(pictures.image).read(), on_event=on_event)
    right = words_right(captions, pictures.captions)
    new, clear = is_held_out(pictures.scenes), ~is_borderline(pictures.scenes)
    parts = {"all": np.ones(len(new), bool), CLEAR: clear, "pairs not trained on": new}
    return {part: {what: float(r[rows].mean()) for what, r in right.items()} for part, rows in parts.items()}


def main(
    out: Annotated[Path, typer.Option(help="Folder to write, in the layout of transformers.")] = CAPTIONER,
    steps: Annotated[int, typer.Option(min=1)] = 2000,
    batch_size: Annotated[int, typer.Option(min=1, help="Scenes a step.")] = 64,
    learning_rate: float = 2e-3,
    n_scenes: Annotated[
        int, typer.Option(min=_MIXED, help="Scenes of the training world, less those held out.")
    ] = 6000,
    seed: Annotated[
        int, typer.Option(min=0, help="World of the training scenes, seed of the weights.")
    ] = TRAINING_SEED,
) -> None:
    """Train the miniature captioner, score it on scenes of another world, and write it if it is good enough."""
    with Progress() as progress:
        tasks: dict[str, TaskID] = {}

        def show(event: Event) -> None:
            if event.stage not in tasks:
                tasks[event.stage] = progress.add_task(event.stage, total=event.total)
            progress.update(tasks[event.stage], completed=event.done)

        pictures = draw_pictures(n_scenes, seed, on_event=show)
        extractor = token_extractor(ENCODER, "cpu")
        tokens = tokens_by_layer(extractor, pictures.image, [LAYER], None, 64, show, None)[LAYER].read()
        tokenizer = make_tokenizer(pictures.captions)
        model = train_captioner(
            tokens, pictures.captions, tokenizer, steps, batch_size, learning_rate, seed, on_event=show
        )
        # Scored as it will be shipped, with weights rounded to half precision.
        decoder = CaptionDecoder(model.half().float(), tokenizer, extractor, layer=LAYER)
        scores = score_captions(decoder, on_event=show)
    reached = {what: scores["all"][what] >= least for what, least in GATE.items()}
    if not all(reached.values()):
        typer.echo(f"not good enough, nothing written: {scores['all']}, wanted {GATE}", err=True)
        raise typer.Exit(1)
    settings = {"scenes": len(pictures), "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    save(decoder, out, _card(decoder, settings | {"seed": seed}, scores))
    typer.echo(f"{out}: {scores}")


def save(decoder: CaptionDecoder, out: Path, card: str) -> None:
    """Write half-precision weights, tokenizer and model card in the layout of transformers, replacing what is there."""
    with atomic_path(out, overwrite=True) as folder:
        copy.deepcopy(decoder.text_decoder).half().save_pretrained(folder)
        decoder.tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")


def _build(tokenizer: BertTokenizer, width: int, seed: int) -> BlipTextLMHeadModel:
    config = BlipTextConfig(
        **ARCHITECTURE,
        vocab_size=len(tokenizer),
        encoder_hidden_size=width,
        bos_token_id=tokenizer.convert_tokens_to_ids("[DEC]"),
        eos_token_id=tokenizer.sep_token_id,
        sep_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
        is_decoder=True,
    )
    config.encoder_uri, config.encoder_layer = ENCODER, LAYER
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BlipTextLMHeadModel(config)


def _word_ids(tokenizer: BertTokenizer, captions: Sequence[str]) -> Tensor:
    ids = tokenizer(list(captions), padding=True, return_tensors="pt")["input_ids"]
    ids[:, 0] = tokenizer.convert_tokens_to_ids("[DEC]")
    return ids


@torch.no_grad()
def _take_in_standardisation(model: BlipTextLMHeadModel, mean: np.ndarray, scale: np.ndarray) -> None:
    # Keys and values are linear in the tokens: let them read tokens as the backbone puts them out.
    for layer in model.bert.encoder.layer:
        for linear in (layer.crossattention.self.key, layer.crossattention.self.value):
            linear.weight /= torch.as_tensor(scale)
            linear.bias -= linear.weight @ torch.as_tensor(mean)


def _card(decoder: CaptionDecoder, settings: Mapping[str, float], scores: Mapping[str, Mapping[str, float]]) -> str:
    n = sum(weight.numel() for weight in decoder.text_decoder.parameters())
    rows = "\n".join(
        f"| {part} | " + " | ".join(f"{score[what]:.3f}" for what in WORDS) + " |" for part, score in scores.items()
    )
    return f"""---
library_name: transformers
license: apache-2.0
tags: [image-to-text]
---
# miniature:captioner

A BLIP text decoder of {n / 1e6:.2f} million parameters that describes scenes of the miniature world from the tokens of
`{ENCODER}`, layer {LAYER} (65 tokens, width {decoder.width}). It says nothing about natural images.

    decoders.captions.CaptionDecoder.from_pretrained("miniature:captioner")

## Training

By `python -m decoders.miniature.captioner`, on {settings["scenes"]} scenes of world {settings["seed"]}, without the
pairs of category and colour that the miniature generator never sees: AdamW, {settings["steps"]} steps of
{settings["batch_size"]}, learning rate {settings["learning_rate"]}. Tokens keep {LEAST_SIGNAL} to 1 of their deviation
from the mean and get noise of up to {MOST_NOISE} of their standard deviation, with the covariance of the tokens of
scenes. Weights are stored in half precision.

Software: Python {platform.python_version()}, torch {torch.__version__.split("+")[0]}, transformers
{transformers.__version__}.

## Scores

Captions of {N_GATE} scenes of world {GATE_SEED} from the tokens of their pictures, by beam search with the defaults of
`CaptionDecoder`: share that name the right words and no other. The script writes the captioner only if all scenes reach
{", ".join(f"{what} {least:.2f}" for what, least in GATE.items())}.

| scenes | category | colour | place |
|---|---|---|---|
{rows}
"""


if __name__ == "__main__":
    typer.run(main)
