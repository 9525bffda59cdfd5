"""Captions as the U-Net sees them, against a literal restatement and against diffusers' own pipeline."""

import pytest
import torch
from torch import Tensor

from tests.tiny import listener, tiny_model
from trainer.adapters import attach
from trainer.models import Model
from trainer.models.text import encode as tell
from trainer.models.text import tokenize
from trainer.report import Failure
from trainer.settings import Settings

LONG = ", ".join(f"tag number {number}" for number in range(60))
CAPTIONS = ["", "a cat on a mat", LONG]


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


def encode(model: Model, captions: list[str], settings: Settings) -> Tensor:
    """The states alone."""
    return tell(model, captions, settings).states


def restated(model: Model, caption: str, windows: int, clip_skip: int) -> Tensor:
    """Kohya's way, word for word: pad or cut to 75 n + 2, cut into windows, encode each, put them together."""
    tokenizer, encoder = model.tokenizers[0], model.text_encoders[0]
    ids = tokenizer(caption, padding="max_length", truncation=True, max_length=75 * windows + 2).input_ids
    states = []
    for start in range(1, 75 * windows + 1, 75):
        window = torch.tensor([[ids[0], *ids[start : start + 75], ids[-1]]])
        output = encoder(window, output_hidden_states=True)
        if clip_skip:
            states.append(encoder.final_layer_norm(output.hidden_states[-clip_skip])[0])
        else:
            states.append(output.last_hidden_state[0])
    return torch.cat([states[0][:1], *(state[1:-1] for state in states), states[-1][-1:]])


@pytest.mark.parametrize("clip_skip", [0, 1, 2, 3])
@pytest.mark.parametrize("length", [75, 150, 225])
def test_windows_and_clip_skip_are_the_references(model: Model, length: int, clip_skip: int) -> None:
    found = encode(model, CAPTIONS, Settings(max_token_length=length, clip_skip=clip_skip))
    expected = torch.stack([restated(model, caption, length // 75, clip_skip) for caption in CAPTIONS])
    assert found.shape == (3, length + 2, 16)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_clip_skip_one_is_the_last_state(model: Model) -> None:
    first, none, second = (encode(model, CAPTIONS, Settings(clip_skip=skip)) for skip in (1, 0, 2))
    assert torch.equal(first, none)
    assert not torch.allclose(first, second, atol=1e-3)


def test_75_tokens_are_the_plain_pipelines(model: Model) -> None:
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=model.vae, text_encoder=model.text_encoders[0], tokenizer=model.tokenizers[0], unet=model.unet,
        scheduler=PNDMScheduler.from_config(model.scheduler_config), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    captions = ["", "a cat on a mat", "sks dog, (masterpiece), 8k"]
    expected, _ = pipeline.encode_prompt(captions, "cpu", 1, False)
    found = encode(model, captions, Settings())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [75, 225])
def test_weights_multiply_the_states_of_their_words(model: Model, length: int) -> None:
    plain = encode(model, ["a red cat on a mat"], Settings(max_token_length=length))
    weighted = encode(model, ["a (red:1.5) cat [on] a mat"], Settings(max_token_length=length, weighted_captions=True))
    factors = torch.ones(length + 2)
    factors[2], factors[4] = 1.5, 1 / 1.1  # a=1, red=2, cat=3, on=4
    torch.testing.assert_close(weighted[0], plain[0] * factors[:, None], atol=1e-5, rtol=1e-5)


def test_weights_reach_into_later_windows(model: Model) -> None:
    words = " ".join(["cat"] * 80)
    settings = Settings(max_token_length=150, weighted_captions=True)
    plain = encode(model, [f"{words} dog"], settings)
    weighted = encode(model, [f"{words} (dog:2)"], settings)
    factors = torch.ones(152)
    factors[81] = 2
    torch.testing.assert_close(weighted[0], plain[0] * factors[:, None], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [75, 150, 225])
@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_weights_across_windows_multiply_and_nothing_else(family: str, length: int) -> None:
    """Token by token, over the seams of the windows, cut where the caption is; the mean is left as it comes."""
    pieces = [("cat", 70, 1.0), ("dog", 10, 1.5), ("cat", 60, 1.0), ("red", 20, 1 / 1.1), ("cat", 90, 0.5)]
    caption = " ".join(
        ["cat"] * 70
        + ["(" + "dog " * 10 + ":1.5)"]
        + ["cat"] * 60
        + ["[" + "red " * 20 + "]"]
        + ["(" + "cat " * 90 + ":.5)"]
    )
    plain = " ".join(" ".join([word] * count) for word, count, _ in pieces)
    factors = torch.ones(length + 2)
    weights = torch.cat([torch.full((count,), weight) for _, count, weight in pieces])
    factors[1:-1] = weights[:length]
    model = tiny_model(family=family)
    found = tell(model, [caption, plain], Settings(max_token_length=length, weighted_captions=True))
    torch.testing.assert_close(found.states[0], found.states[1] * factors[:, None], atol=1e-5, rtol=1e-5)
    if found.pooled is not None:
        assert torch.equal(found.pooled[0], found.pooled[1]), "the pooled text has no weights"


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_prompts_are_weighted_as_web_uis_do_it(family: str) -> None:
    """Each encoder's states times the weights, then times what brings their mean back (the web UI's own emphasis)."""
    model = tiny_model(family=family)
    plain, weighted = tell(model, ["a red cat", "a (red:1.5) [cat]"], Settings(), as_prompts=True).states
    expected = plain.clone()
    expected[2] *= 1.5
    expected[3] /= 1.1
    widths = [16, 24] if family == "sdxl" else [16]
    for whole, before in zip(expected.split(widths, -1), plain.split(widths, -1), strict=True):
        whole *= before.mean() / whole.mean()
    torch.testing.assert_close(weighted, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(plain, tell(model, ["a red cat"], Settings()).states[0])


@pytest.mark.parametrize("family", ["sd15", "sd2"])
def test_break_goes_on_in_the_next_window(family: str) -> None:
    model = tiny_model(family=family)
    s = Settings(max_token_length=150)
    broken = tokenize(model, ["a cat BREAK a dog", "BREAKFAST"], s, as_prompts=True).ids
    cat, dog = (tokenize(model, [text], Settings()).ids[0, 0] for text in ("a cat", "a dog"))
    pad = cat[5]
    assert torch.equal(broken[0, 0, :-1], cat[:-1])
    assert torch.equal(broken[0, 1, :4], dog[:4])
    assert (broken[0, 1, 4:-1] == pad).all()
    assert torch.equal(broken[1, 0, :3], tokenize(model, ["breakfast"], s).ids[0, 0, :3])
    captions = tokenize(model, ["a cat BREAK a dog"], s).ids
    assert not torch.equal(captions[0], broken[0]), "in a caption it is a word"


def test_brackets_are_plain_text_without_weighted_captions(model: Model) -> None:
    assert tokenize(model, ["(cat:1.5)"], Settings()).weights is None
    plain, bracketed = encode(model, ["cat", "(cat:1.5)"], Settings())
    assert not torch.allclose(plain, bracketed, atol=1e-3)


def test_gradients_reach_the_text_encoders_adapter() -> None:
    model = tiny_model()
    adapter = attach(model, Settings(LoRA_type="Standard"), listener())
    encode(model, CAPTIONS, Settings(max_token_length=150)).square().sum().backward()
    assert all(weight.grad is not None for weight in adapter.text_parameters)
    assert any(weight.grad.abs().max() > 0 for weight in adapter.text_parameters if weight.grad is not None)


def test_a_clip_skip_beyond_the_layers_is_a_sentence(model: Model) -> None:
    with pytest.raises(Failure, match=r"Clip skip: 12 is too much; this model's text encoder has 3 layers\."):
        encode(model, ["a cat"], Settings(clip_skip=12))
