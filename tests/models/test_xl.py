"""What SDXL is told of captions and sizes, against diffusers' own pipeline and a literal restatement."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import HIDDEN, POOLED, SECOND, tiny_model, tiny_sdxl
from trainer.data.buckets import told_sizes
from trainer.models import Model
from trainer.models.text import encode, tokenize
from trainer.settings import Settings

LONG = ", ".join(f"tag number {number}" for number in range(60))
CAPTIONS = ["", "a cat on a mat", "wow! sks dog, (masterpiece), 8k", LONG]


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model(family="sdxl")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from diffusers import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline.from_pretrained(str(tiny_sdxl(tmp_path_factory.mktemp("xl"))))


def test_75_tokens_are_the_pipelines(model: Model, pipeline: Any) -> None:
    captions = ["", "a cat on a mat", "sks dog, (masterpiece), 8k"]
    states, _, pooled, _ = pipeline.encode_prompt(captions, device="cpu", do_classifier_free_guidance=False)
    found = encode(model, captions, Settings())
    assert found.pooled is not None
    assert (found.states.shape, found.pooled.shape) == ((3, 77, HIDDEN + SECOND), (3, POOLED))
    torch.testing.assert_close(found.states, states, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.pooled, pooled, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def restated(model: Model, caption: str, windows: int) -> tuple[Tensor, Tensor]:
    """Kohya's way, word for word: pad or cut to 75 n + 2, cut into windows, encode each, put them together."""
    tokenizer, both, pooled = model.tokenizers[0], [], []
    for encoder, pad in zip(model.text_encoders, (49407, 0), strict=True):
        ids = tokenizer(caption, truncation=True, max_length=75 * windows + 2).input_ids
        ids += [pad] * (75 * windows + 2 - len(ids))
        states = []
        for start in range(1, 75 * windows + 1, 75):
            window = [ids[0], *ids[start : start + 75], ids[-1]]
            if pad == 0 and windows > 1:
                if window[-2] not in (49407, 0):
                    window[-1] = 49407
                if window[1] == 0:
                    window[1] = 49407
            output = encoder(torch.tensor([window]), output_hidden_states=True)
            states.append(output.hidden_states[len(output.hidden_states) - 2][0])
            pooled.append(getattr(output, "text_embeds", None))
        both.append(torch.cat([states[0][:1], *(state[1:-1] for state in states), states[-1][-1:]]))
    return torch.cat(both, dim=-1), next(one for one in pooled if one is not None)[0]


@pytest.mark.parametrize("length", [75, 150, 225])
def test_windows_are_the_references(model: Model, length: int) -> None:
    with torch.no_grad():
        found = encode(model, CAPTIONS, Settings(max_token_length=length))
    assert found.pooled is not None
    for caption, states, pooled in zip(CAPTIONS, found.states, found.pooled, strict=True):
        expected, first = restated(model, caption, length // 75)
        torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(pooled, first, atol=1e-5, rtol=1e-5)


def test_windows_of_the_second_encoder_end_as_the_reference_says(model: Model) -> None:
    ids = tokenize(model, [" ".join(["cat"] * 80)], Settings(max_token_length=225), encoder=1).ids[0]
    assert ids[0].tolist() == [49406, *[2368] * 75, 49407]  # full: closed
    assert ids[1].tolist() == [49406, *[2368] * 5, 49407, *[0] * 70]  # its own end
    assert ids[2].tolist() == [49406, 49407, *[0] * 75]  # empty: opened


def test_clip_skip_is_ignored(model: Model) -> None:
    plain, skipped = (encode(model, CAPTIONS, Settings(clip_skip=skip)).states for skip in (1, 2))
    assert torch.equal(plain, skipped)


def test_weights_multiply_the_states_of_both_encoders(model: Model) -> None:
    plain = encode(model, ["a red cat on a mat"], Settings())
    weighted = encode(model, ["a (red:1.5) cat [on] a mat"], Settings(weighted_captions=True))
    factors = torch.ones(77)
    factors[2], factors[4] = 1.5, 1 / 1.1
    torch.testing.assert_close(weighted.states[0], plain.states[0] * factors[:, None], atol=1e-5, rtol=1e-5)


# Sizes


def test_sizes_of_a_picture_that_fits_are_the_pipelines(pipeline: Any) -> None:
    """Original size, no crop, the bucket's size: in the order in which diffusers tells them."""
    theirs = pipeline._get_add_time_ids((768, 512), (0, 0), (384, 256), torch.float32, POOLED)
    assert told_sizes((512, 768), (256, 384)) == tuple(theirs[0].tolist())


@pytest.mark.parametrize(
    ("size", "bucket", "plain", "flipped"),
    [
        # Wider than its bucket: margins above and below.
        ((2000, 1000), (1152, 896), (1000, 2000, 160, 0, 896, 1152), (1000, 2000, 160, 0, 896, 1152)),
        # Taller than its bucket: margins left and right, rounded down; the other one when mirrored.
        ((1000, 1503), (832, 1216), (1503, 1000, 0, 11, 1216, 832), (1503, 1000, 0, 832 - 11 - 1216 / 1.503, 1216, 832)),
    ],
)  # fmt: skip
def test_the_crop_is_told_as_the_reference_does(
    size: tuple[int, int], bucket: tuple[int, int], plain: tuple[float, ...], flipped: tuple[float, ...]
) -> None:
    assert told_sizes(size, bucket) == pytest.approx(plain)
    assert told_sizes(size, bucket, flipped=True) == pytest.approx(flipped)


def test_sizes_reach_the_unet(model: Model) -> None:
    """The U-Net's answer depends on each of the six numbers."""
    torch.manual_seed(0)
    latents, t = torch.randn(1, 4, 8, 8), torch.tensor([500])
    told = encode(model, ["a cat"], Settings())
    base = torch.tensor([[512.0, 768.0, 0.0, 16.0, 512.0, 704.0]])
    plain = model.predict(latents, t, told, base)
    for place in range(6):
        other = base.clone()
        other[0, place] += 64
        assert not torch.allclose(model.predict(latents, t, told, other), plain, atol=1e-7), place


def test_the_folder_fixture_is_the_model(model: Model, pipeline: Any) -> None:
    assert torch.equal(model.unet.conv_in.weight, pipeline.unet.conv_in.weight)
    assert Path(pipeline.name_or_path).is_dir()
