"""`CaptionDecoder`: what was seen, in words, from image tokens that were decoded from a brain."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BlipForConditionalGeneration,
    BlipTextLMHeadModel,
    BlipVisionModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from encoders import FeatureExtractor, Features
from encoders.features.backbone import Backbone
from encoders.features.extractor import OUTPUT
from recordings import Stimuli
from recordings.artifacts import read_config
from recordings.errors import ArtifactError, InputError, MissingWeightsError
from recordings.events import OnEvent, Stop, report

from .pretrained import check_tokens, find_model, load_model, loading, token_extractor, tokens_by_layer

MINIATURE, CAPTIONER = "miniature:captioner", Path(__file__).parent / "miniature" / "captioner"
BLIP_PROMPT = "a picture of "


class CaptionDecoder:
    """Captions by a text decoder that reads image tokens, seen or decoded from a brain (Takagi & Nishimoto 2023).

    The text decoder is BLIP's (Li et al. 2022): it attends to the tokens of an image at every word. Fit a
    `LatentDecoder` to `tokens_of` the training stimuli and give what it decodes to `decode`. Words are found by beam
    search, so that the same tokens give the same caption.

    Parameters
    ----------
    text_decoder : BlipTextLMHeadModel. tokenizer : its tokenizer, with special tokens around a text as BERT has them.
    extractor, layer : the model and layer whose tokens the text decoder reads.
    prompt : beginning of every caption, not returned with it.
    num_beams, repetition_penalty : of the beam search. max_length, min_length : in tokens, with prompt and first token.

    Raises
    ------
    InputError : a setting out of range, or a prompt as long as a caption may be.
    """

    def __init__(
        self,
        text_decoder: BlipTextLMHeadModel,
        tokenizer: Any,
        extractor: FeatureExtractor,
        *,
        layer: str = OUTPUT,
        prompt: str = "",
        num_beams: int = 3,
        max_length: int = 20,
        min_length: int = 5,
        repetition_penalty: float = 1.5,
    ):
        self.text_decoder = text_decoder.to(extractor.device)
        self.tokenizer = tokenizer
        self.extractor = extractor
        self.layer = layer
        self.prompt = prompt
        self.num_beams = num_beams
        self.max_length = max_length
        self.min_length = min_length
        self.repetition_penalty = repetition_penalty
        self._check_settings()

    @classmethod
    def from_pretrained(
        cls,
        name: str = MINIATURE,
        *,
        prompt: str | None = None,
        image_size: int | None = None,
        normalise: bool = True,
        revision: str | None = None,
        device: str = "auto",
        **search: Any,
    ) -> Self:
        """A captioner by name; nothing is downloaded.

        Parameters
        ----------
        name : "miniature:captioner", or a BLIP captioner on the hub or in a folder, such as
            "Salesforce/blip-image-captioning-base".
        prompt : "a picture of " for BLIP if None, nothing for the miniature captioner.
        image_size, normalise : how BLIP sees pictures; None and True for the preprocessing of its own configuration.
            Takagi & Nishimoto take 240 pixels and False: 226 tokens of pixels in [0, 1].
        device : "cpu", "cuda", "mps", or "auto". search : num_beams and the others of the constructor.

        Raises
        ------
        MissingWeightsError : it is not on this machine; the error names the command that fetches it.
        ArtifactError : no captioner, or a damaged one. InputError : an option that the captioner cannot take.
        """
        folder = _folder(name, revision)
        if read_config(folder).get("model_type") != BlipTextLMHeadModel.config_class.model_type:
            blip, tokenizer = load_model(BlipForConditionalGeneration, folder), _tokenizer(folder)
            seen = _vision_tokens(blip.vision_model, folder, name, image_size, normalise, device)
            prompt = BLIP_PROMPT if prompt is None else prompt
            return cls(blip.text_decoder, tokenizer, seen, prompt=prompt, **search)
        if image_size is not None or not normalise:
            raise InputError("its pictures have one size", where=name, remedy="Leave out image_size and normalise")
        text_decoder, tokenizer = load_model(BlipTextLMHeadModel, folder), _tokenizer(folder)
        seen, layer = _tokens_read_by(text_decoder.config, folder, device)
        return cls(text_decoder, tokenizer, seen, layer=layer, prompt=prompt or "", **search)

    @property
    def width(self) -> int:
        """Channels of the tokens that it reads."""
        return int(self.text_decoder.config.encoder_hidden_size)

    def tokens_of(
        self,
        stimuli: Stimuli | np.ndarray,
        path: str | PathLike[str] | None = None,
        *,
        batch_size: int = 32,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> Features:
        """Image tokens of stimuli, class token first, (n, token, channel): what a decoder is to be fitted to.

        Parameters
        ----------
        stimuli : with pixels, or images uint8 (n, H, W, 3).
        path : feature store to keep them in, resumable and read from there; None holds them in memory.
        """
        return tokens_by_layer(self.extractor, stimuli, [self.layer], path, batch_size, on_event, stop)[self.layer]

    def decode(
        self,
        tokens: np.ndarray,
        stimulus_ids: Sequence[str] | None = None,
        *,
        batch_size: int = 16,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> list[str]:
        """Captions of decoded image tokens.

        Parameters
        ----------
        tokens : (n, token, channel), as `tokens_of` gives them.
        stimulus_ids : n names, for errors.
        batch_size : captions written at a time; memory grows with it times the beams.

        Raises
        ------
        ShapeError : another width or number of axes. NotFiniteError : names the stimulus whose tokens hold NaN.
        Cancelled : `stop` answered True; it is asked at every word.
        """
        tokens = check_tokens(tokens, self.width, stimulus_ids, "image tokens")
        captions: list[str] = []
        for start in range(0, len(tokens), batch_size):
            report(on_event, stop, "caption", start, len(tokens))
            captions += self._write(tokens[start : start + batch_size], _AskStop(stop, start, len(tokens)))
        report(on_event, None, "caption", len(tokens), len(tokens))
        return captions

    @torch.inference_mode()
    def _write(self, tokens: np.ndarray, criterion: StoppingCriteria) -> list[str]:
        states = torch.as_tensor(tokens, device=self.extractor.device)
        prompt = self._prompt_ids().to(states.device).expand(len(states), -1)
        written = self.text_decoder.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            encoder_hidden_states=states,
            encoder_attention_mask=torch.ones(states.shape[:2], dtype=torch.long, device=states.device),
            stopping_criteria=StoppingCriteriaList([criterion]),
            do_sample=False,
            num_beams=self.num_beams,
            max_length=self.max_length,
            min_length=self.min_length,
            repetition_penalty=self.repetition_penalty,
            eos_token_id=self.text_decoder.config.sep_token_id,
            pad_token_id=self.text_decoder.config.pad_token_id,
        )
        texts = self.tokenizer.batch_decode(written[:, prompt.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _prompt_ids(self) -> Tensor:
        # As in BLIP, a start token of its own stands where BERT has [CLS], and nothing closes the text.
        ids = torch.as_tensor(self.tokenizer(self.prompt)["input_ids"])[None, :-1]
        ids[:, 0] = self.text_decoder.config.bos_token_id
        return ids

    def _check_settings(self) -> None:
        n_prompt, longest = self._prompt_ids().shape[1], self.text_decoder.config.max_position_embeddings
        if not n_prompt < self.max_length <= longest or not 0 <= self.min_length <= self.max_length:
            raise InputError(
                f"captions of {self.min_length} to {self.max_length} tokens after a prompt of {n_prompt}",
                remedy=f"Take max_length above the prompt and up to {longest}, and min_length up to that",
            )
        if self.num_beams < 1 or not self.repetition_penalty > 0:
            raise InputError(
                f"{self.num_beams} beams, repetition_penalty {self.repetition_penalty}",
                remedy="Take at least one beam and a positive penalty; 1 penalises nothing",
            )


def _folder(name: str, revision: str | None) -> Path:
    if name != MINIATURE:
        return find_model(name, revision)
    if revision is not None:
        raise InputError("it comes with Penfield and has no revisions", where=name, remedy="Leave out revision")
    if not (CAPTIONER / "model.safetensors").is_file():
        raise MissingWeightsError(
            "the miniature captioner is not there",
            where=CAPTIONER,
            remedy="Make it with `python -m decoders.miniature.captioner`",
        )
    return CAPTIONER


def _tokenizer(folder: Path) -> Any:
    with loading(folder):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _vision_tokens(
    tower: BlipVisionModel, folder: Path, name: str, image_size: int | None, normalise: bool, device: str
) -> FeatureExtractor:
    # Positions of the patches are interpolated where pictures have another size than in training.
    changes: dict[str, Any] = {} if normalise else {"do_normalize": False}
    if image_size is not None:
        changes["size"] = {"height": image_size, "width": image_size}
    with loading(folder):
        processor = AutoImageProcessor.from_pretrained(folder, **changes)
    backbone = Backbone(
        module=tower,
        preprocess=lambda image: {"pixel_values": processor(images=image, return_tensors="pt")["pixel_values"][0]},
        forward=lambda inputs: tower(**inputs, interpolate_pos_encoding=True),
        preprocessing=f"transformers {sorted(processor.to_dict().items(), key=str)}",
    )
    return FeatureExtractor(backbone, f"transformers:{name}", device)


def _tokens_read_by(config: Any, folder: Path, device: str) -> tuple[FeatureExtractor, str]:
    try:
        uri, layer = config.encoder_uri, config.encoder_layer
    except AttributeError as error:
        raise ArtifactError(
            "a text decoder that does not say whose tokens it reads",
            where=folder,
            remedy="Give its configuration encoder_uri and encoder_layer, or build CaptionDecoder from its parts",
        ) from error
    return token_extractor(uri, device), layer


class _AskStop(StoppingCriteria):
    """Raises `Cancelled` between two words; beam search itself would go on to the end of the batch."""

    def __init__(self, stop: Stop | None, done: int, total: int):
        self.stop, self.done, self.total = stop, done, total

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        report(None, self.stop, "caption", self.done, self.total)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
