"""The generator's words: one token each, and the tokenizer that diffusers loads."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPTokenizer

from decoders.miniature.text import MAX_TOKENS, WIDTH, make_text_encoder, make_tokenizer
from recordings.miniature import Scenes, caption

CAPTIONS = caption(Scenes.sample(400, seed=3))


def test_each_word_is_one_token() -> None:
    tokenizer = make_tokenizer(CAPTIONS)
    for word in sorted(set(" ".join(CAPTIONS).split())):
        assert len(tokenizer.tokenize(word)) == 1, word
    assert len(tokenizer.tokenize("zebra")) > 1
    ids = tokenizer(CAPTIONS, padding="max_length").input_ids
    assert {len(row) for row in ids} == {MAX_TOKENS}
    assert len({tuple(row) for row in ids}) == len(set(CAPTIONS))


def test_the_tokenizer_reads_the_same_after_a_round_trip(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(CAPTIONS)
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    assert again(CAPTIONS).input_ids == tokenizer(CAPTIONS).input_ids


def test_text_encoder_tells_captions_apart() -> None:
    tokenizer = make_tokenizer(CAPTIONS)
    torch.manual_seed(0)
    encoder = make_text_encoder(tokenizer).eval()
    how = {"padding": "max_length", "return_tensors": "pt"}
    states = encoder(**tokenizer(["a red mug", "a blue mug"], **how)).last_hidden_state
    assert states.shape == (2, MAX_TOKENS, WIDTH)
    assert (states[0] - states[1]).abs().max() > 0.1
