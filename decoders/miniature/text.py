"""The miniature generator's words: a CLIP tokenizer of the world's captions, and a CLIP text encoder to be trained."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 16
WIDTH = 128


def make_tokenizer(captions: Sequence[str]) -> CLIPTokenizer:
    """A CLIP tokenizer in which every word of the captions is one token; other words fall apart into letters."""
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = [chr(k) for k in range(33, 127)]
    trainer = trainers.BpeTrainer(
        vocab_size=2000, end_of_word_suffix="</w>", initial_alphabet=letters, show_progress=False, min_frequency=1
    )
    trained.train_from_iterator(sorted(set(captions)), trainer)
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    letters += [f"{letter}</w>" for letter in letters]
    vocabulary = dict.fromkeys([*letters, *("".join(pair) for pair in merges), START, END])
    return CLIPTokenizer(
        vocab={token: k for k, token in enumerate(vocabulary)},
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=MAX_TOKENS,
    )


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained text encoder of two layers, weights from torch's current seed."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=WIDTH,
    )
    return CLIPTextModel(config)
