"""Files of the Kohya GUI: every awkward shape is read, and everything done to it is said."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import additional
from trainer.adapters import ADAPTERS
from trainer.adapters.arguments import network_args
from trainer.declare import by_name, validate
from trainer.settings import Settings, sd_scripts
from trainer.settings.kohya import load, read


@pytest.mark.parametrize(
    ("key", "written", "meant"),
    [
        ("seed", "", None), ("seed", 0, None), ("seed", "1234", 1234),
        ("max_train_epochs", "", 0), ("learning_rate", "5e-05", 5e-5), ("keep_tokens", "0", 0), ("epoch", "1.0", 1),
        ("gradient_accumulation_steps", 1.0, 1), ("text_encoder_lr", [1e-4, 1e-5], 1e-4), ("network_dim", "32", 32),
        ("network_dim", 100000, 100000), ("caption_extension", ".txt2", ".txt2"), ("max_token_length", "225", 225),
        ("lr_scheduler_num_cycles", "", 1), ("enable_bucket", "false", False), ("max_resolution", "512x650", "512,650"),
        ("network_alpha", 0, 1.0), ("bucket_reso_steps", 1, 8), ("save_model_as", "same as source model", "safetensors"),
        ("LoRA_type", "LoCon", "LyCORIS/LoCon"), ("prior_loss_weight", 0, 0.0), ("max_grad_norm", 0, 0.0),
        ("huber_c", 0, 0.1), ("huber_scale", 0, 1.0), ("max_timestep", 0, 1000), ("noise_offset_type", "Multires", "Multires"),
    ],
)  # fmt: skip
def test_value_shapes(key: str, written: Any, meant: Any) -> None:
    report = read({key: written})
    assert not report.problems
    assert report.values[key] == meant
    assert getattr(report.settings, key) == meant


@pytest.mark.parametrize(
    ("old", "key", "value"),
    [
        ("lora_network_weights", "network_weights", "old.safetensors"),
        ("stop_text_encoder_training_pct", "stop_text_encoder_training", 20),
    ],
)
def test_renamed_keys(old: str, key: str, value: Any) -> None:
    report = read({old: value})
    assert report.values == {key: value}
    assert [change.key for change in report.changed] == [key]
    assert old in report.changed[0].why


def test_flags_of_additional_parameters_move_to_their_fields() -> None:
    report = read({"additional_parameters": "--network_train_unet_only --max_grad_norm=0 --log_prefix=xl-loha"})
    assert report.values == {"text_encoder_lr": 0.0, "max_grad_norm": 0.0, "log_prefix": "xl-loha"}
    assert report.ignored == []


def test_multires_noise_switches_the_offset_off() -> None:
    assert read({"noise_offset_type": "Multires", "noise_offset": 0.05}).values["noise_offset"] == 0
    assert read({"noise_offset_type": "Original", "noise_offset": 0.05}).values["noise_offset"] == 0.05


def test_two_zero_rates_mean_train_both() -> None:
    assert read({"text_encoder_lr": 0, "unet_lr": "0.0"}).values == {"text_encoder_lr": None, "unet_lr": None}
    assert read({"text_encoder_lr": 0, "unet_lr": 1e-4}).values == {"text_encoder_lr": 0.0, "unet_lr": 1e-4}


def test_every_key_is_accounted_for() -> None:
    raw = {
        "LoRA_type": "Standard",
        "epoch": 3,
        "xformers": True,
        "save_as_bool": False,
        "unit": 1,
        "colour": "red",
        "clip_skip": "x",
    }
    report = read(raw)
    named = {
        *report.loaded,
        *(c.key for c in report.changed),
        *(i.key for i in report.ignored),
        *(p.key for p in report.problems),
    }
    assert named == set(raw)
    assert all(item.why for item in report.ignored)


@pytest.mark.parametrize(
    ("tick", "choice"), [(True, "xformers"), ("True", "xformers"), (False, "none"), ("sdpa", "sdpa")]
)
def test_the_tick_of_xformers_became_a_choice(tick: Any, choice: str) -> None:
    assert read({"xformers": tick}).values == {"xformers": choice}


def test_loading_starts_from_the_defaults() -> None:
    assert read({"epoch": 3}).settings == Settings(epoch=3)


def test_saved_settings_load_as_they_were(tmp_path: Path) -> None:
    before = Settings(
        epoch=7,
        learning_rate=3e-4,
        text_encoder_lr=None,
        seed=None,
        sample_prompts="a\nb --w 64",
        LoRA_type="Kohya LoCon",
    )
    file = tmp_path / "umlaut ä '.json"
    file.write_text(json.dumps(before.public()), encoding="utf-8")
    report = load(file)
    assert report.settings == before
    assert not report.problems
    assert not report.ignored


def test_sd_scripts_toml(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        'resolution = "768,512"\noptimizer_type = "AdamW"\nnetwork_module = "networks.lora"\nnetwork_dim = 16\n'
        'network_args = ["conv_dim=4", "conv_alpha=2"]\noptimizer_args = ["weight_decay=0.1", "betas=0.9,0.99"]\n',
        encoding="utf-8",
    )
    found = load(file).settings
    assert (found.max_resolution, found.optimizer, found.LoRA_type) == ("768,512", "AdamW", "Kohya LoCon")
    assert (found.network_dim, found.conv_dim, found.conv_alpha) == (16, 4, 2)
    assert found.optimizer_args == "weight_decay=0.1 betas=0.9,0.99"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [*by_name(Settings), *sd_scripts.DEFAULTS, "use_wandb", "not_set", "description", "overwrite_output"]
)


@settings(max_examples=300)
@given(st.dictionaries(KEYS | st.text(max_size=12), JSON, max_size=6), st.booleans())
def test_no_object_whatever_makes_the_loader_raise(raw: dict[str, Any], of_sd_scripts: bool) -> None:
    report = read(raw, sd_scripts_file=of_sd_scripts)
    again, problems = validate(Settings, report.values)
    assert not problems
    assert again == report.settings
    assert set(report.values) <= {*report.loaded, *(item.key for item in report.changed)}


FLAGS = st.sampled_from([f"--{name}" for name in (*sd_scripts.DEFAULTS, "colour")])
WORDS = st.sampled_from(
    ["0", "1e-4", "true", "a=b", "algo=loha", "conv_dim=4", '"x y"', "'", "'a'", "--", "nan", "1e999", "-1"]
) | st.text(max_size=8)


@settings(max_examples=200)
@given(st.lists(FLAGS | WORDS, max_size=8).map(" ".join))
def test_no_text_whatever_makes_the_flags_raise(text: str) -> None:
    text = text.replace("\0", "")
    report = read({"additional_parameters": text, "LoRA_type": "Standard"})
    _, problems = validate(Settings, report.values)
    assert not problems
    said = [
        *additional.problems(Settings(additional_parameters=text)),
        *additional.notes(Settings(additional_parameters=text)),
    ]
    assert said or not text.strip()
    for item in said:
        assert not item.fix or not validate(Settings, item.fix)[1]


def test_the_family_ticks_are_settings() -> None:
    raw = {"sdxl": True, "v2": "false", "v_parameterization": False, "sdxl_no_half_vae": True, "vae": "", "LoRA_type": "Standard",
           "sdxl_cache_text_encoder_outputs": False, "train_inpainting": False}  # fmt: skip
    found = read(raw)
    assert (found.problems, found.ignored, sorted(found.loaded)) == ([], [], sorted(raw))
    assert (found.settings.sdxl, found.settings.v2, found.settings.sdxl_no_half_vae) == (True, False, True)


# LoRA types


@pytest.mark.parametrize("name", [name for name in ADAPTERS if name.startswith(("LyCORIS/", "Kohya Lo"))])
def test_every_lora_type_of_the_kohya_gui_is_itself(name: str) -> None:
    found = read({"LoRA_type": name})
    assert (found.values, found.problems, found.changed) == ({"LoRA_type": name}, [], [])


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["algo=lokr", "preset=attn-mlp", "factor=4", "conv_dim=2", "conv_alpha=1"],
         {"LoRA_type": "LyCORIS/LoKr", "LyCORIS_preset": "attn-mlp", "factor": 4, "conv_dim": 2, "conv_alpha": 1.0}),
        (["algo=diag-oft", "constraint=0.001", "rescaled=True"],
         {"LoRA_type": "LyCORIS/Diag-OFT", "constrain": 0.001, "rescaled": True, "conv_dim": 16, "conv_alpha": 8.0}),
        (["algo=dylora", "block_size=4", "dropout=0.1"],
         {"LoRA_type": "LyCORIS/DyLoRA", "unit": 4, "network_dropout": 0.1, "conv_dim": 16, "conv_alpha": 8.0}),
        (["dora_wd=True"], {"LoRA_type": "LyCORIS/LoCon", "dora_wd": True, "conv_dim": 16, "conv_alpha": 8.0}),
    ],
)  # fmt: skip
def test_arguments_of_lycoris_become_settings(arguments: list[str], wanted: dict[str, Any]) -> None:
    raw = {"network_module": "lycoris.kohya", "network_args": arguments, "network_dim": 16, "network_alpha": 8}
    found = read(raw)
    assert found.values == {**wanted, "network_dim": 16, "network_alpha": 8.0}
    assert found.problems == []
    assert [item.key for item in found.changed] == ["LoRA_type"]


@pytest.mark.parametrize(
    ("module", "kind"),
    [("networks.loha", "Kohya LoHa"), ("networks.lokr", "Kohya LoKr"), ("networks.dylora", "Kohya DyLoRA"),
     ("networks.lora_fa", "LoRA-FA")],
)  # fmt: skip
def test_network_modules_of_sd_scripts_become_lora_types(module: str, kind: str) -> None:
    """What a file does not say has the scripts' own defaults: rank 4, and no convolutions."""
    assert read({"network_module": module}).values == {"LoRA_type": kind, "network_dim": 4, "conv_dim": 0}
    rest = {"network_dim": 16, "network_args": ["conv_dim=16", "conv_alpha=4"]}
    wanted = {"LoRA_type": kind, "network_dim": 16, "conv_dim": 16}
    alpha = 1.0 if module == "networks.dylora" else 4.0  # where convolutions have the others' alpha
    assert read({"network_module": module, **rest}).values == {**wanted, "conv_alpha": alpha}


def test_network_arguments_in_a_line_and_unknown_ones() -> None:
    found = read(
        {"network_module": "networks.lora", "network_args": '"down_lr_weight=sine+0.5" block_dims=1,2 colour=red'}
    )
    assert found.values == {
        "LoRA_type": "Standard", "network_dim": 4, "down_lr_weight": "sine+0.5", "block_dims": "1,2",
    }  # fmt: skip
    assert [(item.key, bool(item.why)) for item in found.ignored] == [("network_args colour", True)]


def test_a_network_module_beside_a_lora_type() -> None:
    found = read({"LoRA_type": "LoRA-FA", "network_module": "networks.lora", "network_args": ["conv_dim=4"]})
    assert found.values == {"LoRA_type": "LoRA-FA"}
    assert [item.key for item in found.ignored] == ["network_module", "network_args"]


def test_a_module_that_is_not_offered_is_a_problem() -> None:
    (problem,) = read({"network_module": "networks.oft", "network_dim": 4}).problems
    assert (problem.label, "networks.oft" in problem.message) == ("LoRA type", True)


def test_what_the_kohya_gui_shows_and_does_not_use() -> None:
    """LoRA-FA's convolution rank and DyLoRA's convolution alpha have no effect there, and would have one here."""
    fa = read({"LoRA_type": "LoRA-FA", "conv_dim": 8})
    assert (fa.settings.conv_dim, [item.key for item in fa.changed]) == (0, ["conv_dim"])
    sizes = {"network_dim": 8, "network_alpha": 2, "conv_dim": 8, "conv_alpha": 4}
    dylora = read({"LoRA_type": "Kohya DyLoRA", **sizes})
    assert (dylora.settings.conv_alpha, [item.key for item in dylora.changed]) == (2, ["conv_alpha"])
    for kind in ("LoRA-FA", "Kohya DyLoRA"):
        own = Settings(LoRA_type=kind, **sizes)
        assert read(own.public()).settings == own


@pytest.mark.parametrize(
    ("written", "meant", "changes"),
    [
        ([5e-5, 5e-5], 5e-5, 0),
        ([5e-5, 1e-5], 5e-5, 1),
        ("5e-5, 1e-5", 5e-5, 1),
        ("[5e-5,5e-5]", 5e-5, 0),
        ([3e-4], 3e-4, 0),
    ],
)
def test_one_or_two_text_encoder_rates(written: Any, meant: float, changes: int) -> None:
    found = read({"text_encoder_lr": written})
    assert (found.settings.text_encoder_lr, found.problems, len(found.changed)) == (meant, [], changes)


BLOCKS: dict[str, Any] = {
    "down_lr_weight": "0,0.5,1,1,1,1,1,1,1,1,1,1", "mid_lr_weight": "0.5", "up_lr_weight": "cosine+.25",
    "block_lr_zero_threshold": "0.1", "block_dims": ",".join(["4"] * 25), "block_alphas": ",".join(["1.5"] * 25),
    "conv_block_dims": ",".join(["2"] * 25), "conv_block_alphas": ",".join(["1"] * 25),
}  # fmt: skip


def test_blocks_are_texts_as_in_the_kohya_gui() -> None:
    assert read({"LoRA_type": "Standard", **BLOCKS}).values == {"LoRA_type": "Standard", **BLOCKS}
    assert {type(Settings(**BLOCKS).public()[key]) for key in BLOCKS} == {str}
    old = read({"conv_dims": "1,2", "conv_alphas": ""})
    assert old.values == {"conv_block_dims": "1,2"}


ARGUMENTS: dict[str, dict[str, Any]] = {
    "Standard": BLOCKS,
    "Kohya LoCon": {"conv_dim": 4, "conv_alpha": 2.0, "rank_dropout": 0.1, "loraplus_lr_ratio": 16.0},
    "LoRA-FA": {"conv_dim": 4, "conv_alpha": 2.0, "module_dropout": 0.25, **BLOCKS},
    "Kohya DyLoRA": {"conv_dim": 0, "unit": 4, "loraplus_unet_lr_ratio": 4.0},
    "Kohya LoKr": {"conv_dim": 4, "conv_alpha": 2.0, "factor": 8, "use_tucker": True},
    "LyCORIS/LoKr": {"LyCORIS_preset": "attn-mlp", "conv_dim": 4, "conv_alpha": 2.0, "decompose_both": True},
    "LyCORIS/Diag-OFT": {"constrain": 0.001, "rescaled": True, "train_norm": True, "conv_dim": 4},
    "LyCORIS/DyLoRA": {"unit": 2, "conv_dim": 2, "conv_alpha": 1.0, "network_dropout": 0.1},
    "LyCORIS/iA3": {"train_on_input": False},
}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_what_is_written_into_a_file_is_read_back(kind: str) -> None:
    """ss_network_module and ss_network_args of a file, given as a settings file, are the settings it was made with."""
    s = Settings(LoRA_type=kind, **ARGUMENTS[kind])
    arguments = network_args(s)
    raw = {
        "network_module": ADAPTERS[kind].network_module, "network_dim": s.network_dim, "network_alpha": s.network_alpha,
        "network_args": [f"{name}={value}" for name, value in arguments.items()],
    }  # fmt: skip
    found = read(raw)
    assert not found.problems
    assert not found.ignored
    known = ADAPTERS[kind].options
    assert {key: getattr(found.settings, key) for key in known} == {key: getattr(s, key) for key in known}


def test_arguments_that_are_off_are_not_written() -> None:
    assert network_args(Settings()) == {}
    assert network_args(Settings(LoRA_type="LoRA-FA", conv_dim=0)) == {}
    assert network_args(Settings(LoRA_type="Kohya DyLoRA", conv_dim=0, network_dropout=0.5)) == {"unit": "1"}
    # Without a rank for convolutions LoCon still adapts what is not spatial in resnets.
    assert network_args(Settings(LoRA_type="Kohya LoCon", conv_dim=0)) == {"conv_dim": "0", "conv_alpha": "1.0"}


@pytest.mark.parametrize(
    "raw",
    [{"huggingface_token": "hf_x"}, {"additional_parameters": "--huggingface_token hf_x --huggingface_repo_id me/a"}],
)
def test_a_token_in_a_file_is_not_taken(raw: dict[str, str]) -> None:
    found = read({**raw, "LoRA_type": "Standard"})
    assert found.settings.huggingface_token == ""
    assert [item.why for item in found.ignored] == ["secrets are never read from a file"]
    assert "hf_x" not in repr(found)
