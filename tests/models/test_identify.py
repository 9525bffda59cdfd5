"""What files, folders and names are found to be, and the sentence for each that cannot be trained on."""

import json
import random
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.tiny import tiny_configs, tiny_sd15, tiny_single_file
from trainer.models.identify import Identity, identify

UNET = "model.diffusion_model."
SD1 = {
    UNET + "input_blocks.0.0.weight": (2, 4, 3, 3),
    UNET + "input_blocks.1.1.proj_in.weight": (2, 2, 1, 1),
    "first_stage_model.encoder.conv_in.weight": (2, 3, 3, 3),
    "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (77, 2),
}


def odd(shape: object) -> dict[str, object]:
    return {key: {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]} for key in SD1}


def written(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, path)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd15(tmp_path_factory.mktemp("model") / "tiny", tokenizer=False)


def test_a_diffusers_folder(tiny: Path) -> None:
    found = identify(str(tiny))
    assert found == Identity("diffusers", str(tiny), tiny, "sd15", "epsilon", said_by="its scheduler says so")
    assert found.base


@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt"])
def test_a_single_file(tmp_path: Path, name: str) -> None:
    file = tiny_single_file(tmp_path / name)
    found = identify(str(file))
    assert (found.kind, found.family, found.problem) == ("single", "sd15", None)
    assert found.format == file.suffix[1:]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({UNET + "label_emb.0.0.weight": (2, 2), "conditioner.embedders.0.model.x": (1,)}, "XL (refiner)"),
        ({UNET + "input_blocks.0.0.weight": (2, 5, 3, 3)}, "with a depth map"),
        ({UNET + "input_blocks.0.0.weight": (2, 6, 3, 3)}, "a model with 6 input channels"),
        ({"model.diffusion_model.noise_refiner.0.attention.qkv.weight": (2, 2)}, "Lumina"),
        ({UNET + "input_blocks.0.0.weight": (2, 8, 3, 3)}, "InstructPix2Pix"),
        ({UNET + "joint_blocks.0.context_block.attn.qkv.weight": (2, 2)}, "Stable Diffusion 3"),
        ({UNET + "double_blocks.0.img_attn.qkv.weight": (2, 2)}, "Flux"),
    ],
)
def test_other_families_are_named(tmp_path: Path, changes: dict[str, tuple[int, ...]], what: str) -> None:
    found = identify(str(written(tmp_path / "model.safetensors", SD1 | changes)))
    assert found.problem is not None
    assert found.problem.startswith("model.safetensors is ")
    assert what in found.problem
    assert "only Stable Diffusion 1.5, Stable Diffusion 2 and Stable Diffusion XL can be trained." in found.problem


@pytest.mark.parametrize(
    ("shapes", "what"),
    [
        ({"lora_unet_x.lora_down.weight": (4, 2), "lora_unet_x.lora_up.weight": (2, 4)}, "a LoRA"),
        ({"unet.x.lora_A.weight": (4, 2)}, "a LoRA"),
        ({"lora_unet_x.hada_w1_a": (4, 2)}, "a LoRA"),
        ({"encoder.conv_in.weight": (2, 3, 3, 3), "decoder.conv_in.weight": (2, 4, 3, 3)}, "a VAE"),
        ({"control_model.input_blocks.0.0.weight": (2, 4, 3, 3)}, "a ControlNet"),
        ({"emb_params": (2, 8)}, "a textual inversion embedding"),
        ({"down_blocks.0.attentions.0.transformer_blocks.0.x": (2, 2)}, "one part of a diffusers model"),
        ({"text_model.encoder.layers.0.x": (2, 2)}, "a text encoder"),
        ({key: shape for key, shape in SD1.items() if "first_stage" not in key}, "a U-Net without its VAE"),
        ({key: shape for key, shape in SD1.items() if "cond_stage" not in key}, "a U-Net without its text encoder"),
        ({"layer": (2, 2)}, "a file of an unknown kind"),
    ],
)
def test_files_that_are_no_base_model_are_named(tmp_path: Path, shapes: dict[str, tuple[int, ...]], what: str) -> None:
    found = identify(str(written(tmp_path / "file.safetensors", shapes)))
    assert found.problem == f"file.safetensors is {what}, not a base model."
    assert found.advice
    assert not found.base


def broken(tmp_path: Path, name: str, data: bytes) -> str:
    (tmp_path / name).write_bytes(data)
    return identify(str(tmp_path / name)).problem or ""


def test_files_that_are_no_model_at_all(tmp_path: Path) -> None:
    assert broken(tmp_path, "a.safetensors", b"") == "a.safetensors is empty (0 bytes)."
    assert broken(tmp_path, "b.safetensors", b"abc") == "b.safetensors is not a model."
    assert broken(tmp_path, "c.safetensors", b"\x89PNG\r\n\x1a\n" + bytes(100)) == "c.safetensors is not a model."
    assert "is a web page" in broken(tmp_path, "d.safetensors", b"<!DOCTYPE html><html>")
    assert "only a pointer" in broken(tmp_path, "e.safetensors", b"version https://git-lfs.github.com/spec/v1\n")
    assert broken(tmp_path, "f.ckpt", b"PK\x03\x04" + bytes(50)).startswith("f.ckpt is cut off or damaged")
    bad = struct.pack("<Q", 20) + b'{"a": nonsense}     ' + bytes(8)
    assert "its header is damaged" in broken(tmp_path, "g.safetensors", bad)
    for header in ('{"a": 1}', '{"a": {"shape": [1]}}', '{"a": {"shape": 1, "data_offsets": [0, 4]}}', "[1, 2]"):
        data = struct.pack("<Q", len(header)) + header.encode() + bytes(8)
        assert "not a model" in broken(tmp_path, "h.safetensors", data)


@pytest.mark.parametrize("low", [0x09, 0x20, 0x3C, 0x4B, 0x50, 0x76, 0x80])
def test_the_length_of_a_header_is_not_taken_for_something_else(tmp_path: Path, low: int) -> None:
    """Its lowest byte may be that of a web page, a zip, or an old checkpoint."""
    entry = {"data_offsets": [0, 4], "dtype": "F32", "shape": [1]}
    header = json.dumps({"model.diffusion_model.x": entry}).encode()
    length = next(number for number in range(len(header), 10_000) if number % 256 == low)
    data = struct.pack("<Q", length) + header.ljust(length) + bytes(4)
    assert broken(tmp_path, "a.safetensors", data) == (
        "a.safetensors is a model of an unknown kind; "
        "only Stable Diffusion 1.5, Stable Diffusion 2 and Stable Diffusion XL can be trained."
    )


@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt"])
def test_no_damage_is_too_odd_for_a_sentence(tmp_path: Path, name: str) -> None:
    """Bytes of the header are changed at random: it is a model, or there is a problem; nothing is raised."""
    data = tiny_single_file(tmp_path / name).read_bytes()
    places = range(3000) if name.endswith("safetensors") else [*range(3000), *range(len(data) - 3000, len(data))]
    rng = random.Random(0)
    for _ in range(300):
        changed_bytes = bytearray(data)
        for _ in range(rng.choice((1, 3, 30))):
            changed_bytes[rng.choice(places)] = rng.randrange(256)
        (tmp_path / name).write_bytes(changed_bytes)
        found = identify(str(tmp_path / name))
        assert (found.problem is None) == (found.kind == "single" and found.family == "sd15")


@pytest.mark.parametrize("kept", [0.001, 0.5, 0.999])
def test_a_truncated_file_is_named(tmp_path: Path, kept: float) -> None:
    data = tiny_single_file(tmp_path / "whole.safetensors").read_bytes()
    problem = broken(tmp_path, "cut.safetensors", data[: int(len(data) * kept)])
    assert problem.startswith("cut.safetensors is cut off: ")


@pytest.mark.parametrize("kept", [0.001, 0.5, 0.999])
def test_a_truncated_checkpoint_is_named(tmp_path: Path, kept: float) -> None:
    data = tiny_single_file(tmp_path / "whole.ckpt").read_bytes()
    assert broken(tmp_path, "cut.ckpt", data[: int(len(data) * kept)]).startswith("cut.ckpt is cut off or damaged")


@pytest.mark.parametrize("shape", [[], [1], [2, 9], [1e400], ["x"], {"a": 1}, None, [[1]], [2, -9, 3, 3]])
def test_odd_shapes_are_a_sentence(tmp_path: Path, shape: object) -> None:
    header = json.dumps(odd(shape)).encode()
    assert broken(tmp_path, "a.safetensors", struct.pack("<Q", len(header)) + header + bytes(4))


def test_mislabelled_files_are_named(tmp_path: Path) -> None:
    checkpoint = tiny_single_file(tmp_path / "a.ckpt").read_bytes()
    tensors = tiny_single_file(tmp_path / "a.safetensors").read_bytes()
    assert "give it the ending .ckpt" in broken(tmp_path, "b.safetensors", checkpoint)
    assert "give it the ending .safetensors" in broken(tmp_path, "b.ckpt", tensors)


def test_zips_that_are_no_checkpoint(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert identify(str(tmp_path / "a.ckpt")).problem == "a.ckpt is a zip file, not a model."
    with zipfile.ZipFile(tmp_path / "b.ckpt", "w") as archive:
        archive.writestr("x/constants.pkl", b"")
        archive.writestr("x/data.pkl", b"")
    assert identify(str(tmp_path / "b.ckpt")).problem == "b.ckpt is a TorchScript program, not a model."


def changed(folder: Path, part: str, **values: object) -> str:
    file = folder / part / "config.json" if part != "." else folder / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return identify(str(folder)).problem or ""


def test_folders_of_other_families(tmp_path: Path) -> None:
    assert "upscaler" in changed(tiny_configs(tmp_path / "c"), "unet", in_channels=7)
    assert "InstructPix2Pix" in changed(tiny_configs(tmp_path / "d", "sdxl"), "unet", in_channels=8)
    assert "(refiner)" in changed(tiny_configs(tmp_path / "e"), ".", _class_name="StableDiffusionXLImg2ImgPipeline")
    assert "Stable Diffusion 3;" in changed(tiny_configs(tmp_path / "f"), ".", _class_name="StableDiffusion3Pipeline")
    assert "Flux;" in changed(tiny_configs(tmp_path / "g"), ".", _class_name="FluxPipeline")


KINDS: list[tuple[str, str, bool]] = [
    ("sd15", "epsilon", False), ("sd15", "v_prediction", False), ("sd15", "epsilon", True), ("sd2", "epsilon", False),
    ("sd2", "v_prediction", False), ("sd2", "epsilon", True), ("sdxl", "epsilon", False), ("sdxl", "v_prediction", False),
    ("sdxl", "epsilon", True),
]  # fmt: skip


@pytest.mark.parametrize(("family", "prediction", "inpainting"), KINDS)
def test_a_folder_tells_everything(tmp_path: Path, family: str, prediction: str, inpainting: bool) -> None:
    """Its weights are not needed for that; a family with two text encoders is known by its U-Net."""
    found = identify(str(tiny_configs(tmp_path, family, prediction, inpainting)))
    assert (found.family, found.prediction, found.inpainting) == (family, prediction, inpainting)
    assert found.ticks == {
        "v2": family == "sd2", "sdxl": family == "sdxl", "v_parameterization": prediction == "v_prediction",
        "train_inpainting": inpainting,
    }  # fmt: skip
    assert found.why.startswith("Its configs say Stable Diffusion ")
    assert found.why.endswith(": its scheduler says so.")


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("inpainting", [False, True])
@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_a_single_file_tells_its_family(tmp_path: Path, family: str, inpainting: bool, ending: str) -> None:
    found = identify(str(tiny_single_file(tmp_path / f"a{ending}", family=family, inpainting=inpainting)))
    assert (found.kind, found.family, found.inpainting, found.problem) == ("single", family, inpainting, None)
    assert found.prediction is None
    assert found.ticks["v_parameterization"] is None
    assert "tick v_param" in found.why


def test_a_key_tells_that_a_file_predicts_velocity(tmp_path: Path) -> None:
    file = tiny_single_file(tmp_path, family="sdxl", more={"v_pred": torch.tensor([])})
    found = identify(str(file))
    assert (found.family, found.prediction, found.ticks["v_parameterization"]) == ("sdxl", "v_prediction", True)
    assert found.why == "The file's tensors say Stable Diffusion XL. It predicts velocity: it holds the key v_pred."


@pytest.mark.parametrize(
    ("lost", "what"),
    [
        ("first_stage_model.", "a U-Net without its VAE"),
        ("conditioner.", "a U-Net without its text encoder"),
        ("conditioner.embedders.1.", "a U-Net without its second text encoder"),
    ],
)
def test_an_xl_file_with_a_part_missing_is_named(tmp_path: Path, lost: str, what: str) -> None:
    from safetensors.torch import load_file

    file = tiny_single_file(tmp_path / "a.safetensors", family="sdxl")
    save_file({key: value for key, value in load_file(file).items() if not key.startswith(lost)}, file)
    assert identify(str(file)).problem == f"a.safetensors is {what}, not a base model."


def test_incomplete_folders(tmp_path: Path) -> None:
    folder = tiny_configs(tmp_path / "model")
    assert "its part unet has no weights." in (identify(str(folder)).problem or "")
    tiny_sd15(folder, tokenizer=False)
    assert identify(str(folder)).problem is None

    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-10])
    assert "vae/diffusion_pytorch_model.safetensors is cut off" in (identify(str(folder)).problem or "")
    weights.write_bytes(data)
    (folder / "unet" / "config.json").write_text("{")
    assert "cannot be read as JSON" in (identify(str(folder)).problem or "")
    (folder / "text_encoder" / "config.json").unlink()
    (folder / "unet" / "config.json").unlink()
    assert identify(str(folder)).problem is not None


def test_a_wrong_level_of_folder_says_which(tiny: Path) -> None:
    found = identify(str(tiny / "unet"))
    assert found.problem == f"unet is one part of the model in {tiny}."
    assert found.advice == f"Choose {tiny}."
    assert "no model_index.json" in (identify(str(tiny.parent)).problem or "")


def test_a_folder_with_a_file_in_it_points_at_the_file(tmp_path: Path) -> None:
    written(tmp_path / "some model.safetensors", SD1)
    assert "some model.safetensors" in identify(str(tmp_path)).advice


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd15"),
        ("CompVis/stable-diffusion-v1-4", "sd15"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
        ("stabilityai/stable-diffusion-xl-refiner-1.0", "sdxl-refiner"),
        ("stabilityai/stable-diffusion-2-1-base/blob/main/v2-1_512-ema-pruned", "sd2"),
        ("stabilityai/stable-diffusion-2", "sd2"),
        ("stabilityai/stable-diffusion-2-1/blob/main/v2-1_768-ema-pruned", "sd2"),
        ("stabilityai/stable-diffusion-2-depth", "depth"),
        ("somebody/something", None),
        ("somebody/stable-diffusion-v1-5-in-the-style-of-flux-xl", None),
    ],
)
def test_hub_names(name: str, family: str | None) -> None:
    found = identify(name)
    assert (found.kind, found.family) == ("hub", family)
    assert (found.problem is None) == (family not in ("sdxl-refiner", "depth"))


def test_hub_names_tell_what_they_predict() -> None:
    for name, velocity in (("2-1-base", False), ("2-base", False), ("2-1", True), ("2", True), ("xl-base-1.0", False)):
        assert identify(f"stabilityai/stable-diffusion-{name}").ticks["v_parameterization"] == velocity
    assert identify("runwayml/stable-diffusion-inpainting").ticks["train_inpainting"]
    assert identify("somebody/something").ticks == {}
    assert identify("somebody/something").why == ""


def test_a_model_that_moved_is_found_where_it_lives() -> None:
    found = identify("runwayml/stable-diffusion-v1-5")
    assert found.name == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert found.note == (
        "runwayml/stable-diffusion-v1-5 has moved; stable-diffusion-v1-5/stable-diffusion-v1-5 is used."
    )
    assert found.problem is None


def test_models_of_the_workspace_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path))
    models = tmp_path / "models"
    models.mkdir()
    file = written(models / "mine.safetensors", SD1)
    assert identify("mine.safetensors").path == file
    tiny_sd15(models / "stable-diffusion-v1-5", tokenizer=False)
    assert identify("runwayml/stable-diffusion-v1-5").path == models / "stable-diffusion-v1-5"


@pytest.mark.parametrize(
    "name", ["", "~nobody/model", "no such file.safetensors", "/no/such/folder", "a\0b", "x" * 5000]
)
def test_nonsense_is_a_sentence(name: str) -> None:
    found = identify(name)
    assert found.problem
    assert found.advice


def test_names_with_spaces_quotes_umlauts_and_emoji(tmp_path: Path) -> None:
    file = written(tmp_path / "mein 'schönes' modell 🎨.safetensors", SD1)
    assert identify(str(file)).problem is None
    assert identify(f'"{file}"').problem is None


def test_identifying_needs_no_torch() -> None:
    """The page asks at every keystroke and must not load torch for it."""
    import subprocess
    import sys

    code = "import sys, trainer.models.identify, trainer.adapters, trainer.formats; print('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
