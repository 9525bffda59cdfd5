"""What the text encoder makes of a caption: windows of 75 tokens, clip skip, and words that weigh more or less."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer.report import Failure

if TYPE_CHECKING:
    from trainer.models import Model
    from trainer.settings import Settings

WINDOW = 75
"""Tokens of a caption that the encoder sees at once, between the begin and the end token."""


@dataclass(frozen=True)
class Tokens:
    """Captions as numbers: `ids` [B, n, 77] windows, and `weights` [B, n, 75] of their tokens (None: all one)."""

    ids: Tensor
    weights: Tensor | None = None


def encode(model: "Model", captions: "Sequence[str] | Tokens", settings: "Settings") -> Tensor:
    """The states the U-Net attends to, [B, 75 n + 2, dim], n = `max_token_length` / 75.

    `settings.clip_skip` k takes the k-th state from the end (0 and 1: the last), through the final layer norm.
    Gradients flow when the encoder's adapter is trained.
    """
    tokens = captions if isinstance(captions, Tokens) else tokenize(model, captions, settings)
    return encode_tokens(model.text_encoders[0], tokens, settings.clip_skip)


def encode_tokens(encoder: Any, tokens: Tokens, clip_skip: int) -> Tensor:
    """As `encode`, for one encoder and captions that are tokenized already."""
    device = next(encoder.parameters()).device
    B, n, length = tokens.ids.shape
    states = _states(encoder, tokens.ids.to(device).view(B * n, length), clip_skip).view(B, n, length, -1)
    middle = states[:, :, 1:-1]
    if tokens.weights is not None:
        middle = middle * tokens.weights.to(middle).unsqueeze(-1)
    begin, end = states[:, 0, :1], states[:, -1, -1:]
    return torch.cat((begin, middle.flatten(1, 2), end), dim=1)


def _states(encoder: Any, ids: Tensor, clip_skip: int) -> Tensor:
    if clip_skip <= 1:
        last: Tensor = encoder(ids).last_hidden_state
        return last
    states = encoder(ids, output_hidden_states=True).hidden_states
    if clip_skip >= len(states):
        raise Failure(
            f"Clip skip: {clip_skip} is too much; this model's text encoder has {len(states) - 1} layers.",
            "Set Clip skip to 1 or 2.",
            key="clip_skip",
        )
    normed: Tensor = getattr(encoder, "text_model", encoder).final_layer_norm(states[-clip_skip])
    return normed


def tokenize(model: "Model", captions: Sequence[str], settings: "Settings") -> Tokens:
    """Captions as windows of token ids, longer ones cut at `max_token_length`; weights if weighted captions are on."""
    tokenizer, windows = model.tokenizers[0], settings.max_token_length // WINDOW
    if settings.weighted_captions:
        rows = [_weighted(tokenizer, caption) for caption in captions]
    else:
        rows = [[(token, 1.0) for token in _ids(tokenizer, caption)] for caption in captions]
    begin, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    length = windows * WINDOW
    ids = torch.full((len(rows), length + 1), pad)
    weights = torch.ones(len(rows), length)
    for index, row in enumerate(rows):
        row = row[:length]
        ids[index, : len(row) + 1] = torch.tensor([*(token for token, _ in row), end])
        weights[index, : len(row)] = torch.tensor([weight for _, weight in row])
    last = ids[:, length:].repeat(1, windows).unsqueeze(-1)
    middle = ids[:, :length].view(-1, windows, WINDOW)
    ids = torch.cat((torch.full_like(last, begin), middle, last), dim=-1)
    return Tokens(ids, weights.view(-1, windows, WINDOW) if settings.weighted_captions else None)


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
    return ids


def _weighted(tokenizer: Any, caption: str) -> list[tuple[int, float]]:
    from trainer.data.captions import parse_weights

    return [(token, weight) for text, weight in parse_weights(caption) for token in _ids(tokenizer, text)]
