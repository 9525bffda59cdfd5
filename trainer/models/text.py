"""What the text encoders make of a caption: windows of 75 tokens, clip skip, and words that weigh more or less."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer.emphasis import parse_weights
from trainer.report import Failure

if TYPE_CHECKING:
    from trainer.models import Model
    from trainer.settings import Settings

WINDOW = 75
"""Tokens of a caption that the encoder sees at once, between the begin and the end token."""


@dataclass(frozen=True)
class Told:
    """What the U-Net is told of captions: `states` [B, 75 n + 2, dim] to attend to, and SDXL's `pooled` [B, p]."""

    states: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True)
class Tokens:
    """Captions as numbers: `ids` [B, n, 77] windows, and `weights` [B, n, 75] of their tokens (None: all one)."""

    ids: Tensor
    weights: Tensor | None = None


PADS: Mapping[str, tuple[int | None, ...]] = {"sd2": (0,), "sdxl": (None, 0)}
"""What fills the windows of each text encoder of a family; None is the end token. OpenCLIP's encoders know 0."""


def encode(model: "Model", captions: Sequence[str], settings: "Settings", as_prompts: bool = False) -> Told:
    """What the text encoders make of captions; n = `max_token_length` / 75. With `as_prompts`, as web UIs read prompts:
    always with weights, which leave the mean as it was, and BREAK goes on in the next window.

    Stable Diffusion 1 and 2: `settings.clip_skip` k takes the k-th state from the end (0 and 1: the last), through the
    final layer norm. SDXL (Podell et al. 2023, section 2.1): the last but one state of both encoders side by side,
    without a norm, whatever clip skip says, and the second encoder's pooled text of the first window.
    Gradients flow when an encoder's adapter is trained.
    """
    tokens = [tokenize(model, captions, settings, which, as_prompts) for which in range(len(model.text_encoders))]
    if model.family != "sdxl":
        states = _windows(_states(model.text_encoders[0], tokens[0].ids, settings.clip_skip), tokens[0], as_prompts)
        return Told(states)
    both, pooled = [], None
    for encoder, its in zip(model.text_encoders, tokens, strict=True):
        output = encoder(_flat(its.ids, encoder), output_hidden_states=True)
        both.append(_windows(output.hidden_states[-2], its, as_prompts))
        pooled = getattr(output, "text_embeds", None)
    assert pooled is not None
    return Told(torch.cat(both, dim=-1), pooled.unflatten(0, its.ids.shape[:2])[:, 0])


def _flat(ids: Tensor, encoder: Any) -> Tensor:
    return ids.flatten(0, 1).to(next(encoder.parameters()).device)


def _windows(states: Tensor, tokens: Tokens, keeps_mean: bool = False) -> Tensor:
    """[B n, 77, dim] put together to [B, 75 n + 2, dim]: the first begin, all that is between, the last end."""
    states = states.unflatten(0, tokens.ids.shape[:2])
    begin, middle, end = states[:, 0, :1], states[:, :, 1:-1].flatten(1, 2), states[:, -1, -1:]
    plain = torch.cat((begin, middle, end), dim=1)
    if tokens.weights is None:
        return plain
    weighted = torch.cat((begin, middle * tokens.weights.to(middle).flatten(1).unsqueeze(-1), end), dim=1)
    return _with_mean_of(plain, weighted) if keeps_mean else weighted


def _with_mean_of(plain: Tensor, weighted: Tensor) -> Tensor:
    """`weighted` times what gives each caption the mean that it has in `plain`, as web UIs do."""
    before, after = (states.float().mean(dim=(1, 2), keepdim=True) for states in (plain, weighted))
    return weighted * torch.where(after == 0, 1.0, before / after).to(weighted)


def _states(encoder: Any, ids: Tensor, clip_skip: int) -> Tensor:
    if clip_skip <= 1:
        last: Tensor = encoder(_flat(ids, encoder)).last_hidden_state
        return last
    states = encoder(_flat(ids, encoder), output_hidden_states=True).hidden_states
    if clip_skip >= len(states):
        raise Failure(
            f"Clip skip: {clip_skip} is too much; this model's text encoder has {len(states) - 1} layers.",
            "Set Clip skip to 1 or 2.",
            key="clip_skip",
        )
    normed: Tensor = getattr(encoder, "text_model", encoder).final_layer_norm(states[-clip_skip])
    return normed


def tokenize(
    model: "Model", captions: Sequence[str], settings: "Settings", encoder: int = 0, as_prompts: bool = False
) -> Tokens:
    """Captions as windows of token ids, longer ones cut at `max_token_length`; weights if weighted captions are on.

    The ids are those of the encoder number `encoder`: they differ in what fills the windows.
    """
    tokenizer, windows = model.tokenizers[0], settings.max_token_length // WINDOW
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    pad = PADS.get(model.family, (None,))[encoder]
    pad = tokenizer.pad_token_id if pad is None else pad
    has_weights = settings.weighted_captions or as_prompts
    if as_prompts:
        rows = [_in_windows([_weighted(tokenizer, part) for part in BREAK.split(text)], end, pad) for text in captions]
    elif has_weights:
        rows = [_weighted(tokenizer, caption) for caption in captions]
    else:
        rows = [[(token, 1.0) for token in _ids(tokenizer, caption)] for caption in captions]
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
    if pad != end and windows > 1:
        _end_each_window(ids, end, pad)
    return Tokens(ids, weights.view(-1, windows, WINDOW) if has_weights else None)


BREAK = re.compile(r"\s*\bBREAK\b\s*")
"""What ends a window of a prompt before it is full."""


def _in_windows(parts: list[list[tuple[int, float]]], end: int, pad: int) -> list[tuple[int, float]]:
    """The tokens of all parts, each part from the beginning of a window on."""
    row: list[tuple[int, float]] = []
    for part in parts:
        if room := -len(row) % WINDOW:
            row += [(end, 1.0), *[(pad, 1.0)] * (room - 1)]
        row += part
    return row


def is_plain(prompt: str) -> bool:
    """Whether a prompt is read as a caption is: nothing in it weighs more or less, and no window ends early."""
    return parse_weights(prompt) == [(prompt, 1.0)] and not BREAK.search(prompt)


def _end_each_window(ids: Tensor, end: int, pad: int) -> None:
    """With a pad of its own, a full window closes with the end token, and an empty one begins with it."""
    full = (ids[..., -2] != end) & (ids[..., -2] != pad)
    ids[..., -1] = torch.where(full, end, ids[..., -1])
    ids[..., 1] = torch.where(ids[..., 1] == pad, end, ids[..., 1])


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
    return ids


def _weighted(tokenizer: Any, caption: str) -> list[tuple[int, float]]:
    return [(token, weight) for text, weight in parse_weights(caption) for token in _ids(tokenizer, text)]
