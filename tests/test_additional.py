"""Flags typed into Additional parameters: each is moved to its field or has a sentence; none is silently without effect."""

from typing import Any

import pytest

from trainer import additional
from trainer.checks import check, notes
from trainer.settings import Settings, sd_scripts
from trainer.settings.kohya import read
from trainer.settings.loaded import KNOWN
from trainer.settings.meanings import field_of


@pytest.mark.parametrize(
    ("text", "now", "moved"),
    [
        ("--max_grad_norm=0 --network_train_unet_only", {}, {"max_grad_norm": 0.0, "text_encoder_lr": 0.0}),
        ("--network_train_text_encoder_only", {}, {"unet_lr": 0.0}),
        ("--optimizer_type Lion --optimizer_args \"weight_decay=0.1\" 'betas=0.9,0.99'", {},
         {"optimizer": "Lion", "optimizer_args": "weight_decay=0.1 betas=0.9,0.99"}),
        ("--use_8bit_adam", {"optimizer": "Lion"}, {"optimizer": "AdamW8bit"}),
        ("--use_lion_optimizer", {}, {"optimizer": "Lion"}),
        ("--network_args conv_dim=4 conv_alpha=2", {}, {"LoRA_type": "Kohya LoCon", "conv_dim": 4, "conv_alpha": 2.0}),
        ("--network_args rank_dropout=0.1", {"LoRA_type": "LyCORIS/LoKr"}, {"rank_dropout": 0.1}),
        ("--network_args algo=lokr factor=4", {}, {"LoRA_type": "LyCORIS/LoKr", "factor": 4}),
        ("--network_module lycoris.kohya --network_args algo=loha preset=attn-mlp", {},
         {"LoRA_type": "LyCORIS/LoHa", "LyCORIS_preset": "attn-mlp"}),
        ("--network_module=networks.lora_fa", {}, {"LoRA_type": "LoRA-FA"}),
        ("--text_encoder_lr 5e-5 5e-5 --unet_lr=1e-4", {}, {"text_encoder_lr": 5e-5, "unet_lr": 1e-4}),
        ("--xformers", {}, {"xformers": "xformers"}),
        ("--sdpa", {"xformers": "none"}, {"xformers": "sdpa"}),
        ("--mem_eff_attn", {}, {"mem_eff_attn": True}),
        ("--resolution 768,512", {}, {"max_resolution": "768,512"}),
        ("--no_half_vae --cache_text_encoder_outputs", {"sdxl": True},
         {"sdxl_no_half_vae": True, "sdxl_cache_text_encoder_outputs": True}),
        ("--cache_text_encoder_outputs_to_disk", {"sdxl": True},
         {"sdxl_cache_text_encoder_outputs": True, "cache_text_encoder_outputs_to_disk": True}),
        ("--lr_warmup_steps 0.05", {}, {"lr_warmup": 5.0}),
        ("--lr_warmup_steps 5%", {}, {"lr_warmup": 5.0}),
        ("--lr_warmup_steps 100", {}, {"lr_warmup_steps": 100}),
        ("--torch_compile", {}, {"dynamo_backend": "inductor"}),
        ("--torch_compile --dynamo_backend eager", {}, {"dynamo_backend": "eager"}),
        ("--seed 7 --seed 8", {}, {"seed": 8}),
        ('--vae "C:\\my models\\v.safetensors"', {}, {"vae": "C:\\my models\\v.safetensors"}),
        ("--noise_offset=0.05 --min_snr_gamma 5", {}, {"noise_offset": 0.05, "min_snr_gamma": 5.0}),
        ("--max-grad-norm=0 --Clip_Skip 2", {}, {"max_grad_norm": 0.0, "clip_skip": 2}),
        ("—max_grad_norm=0 –flip_aug", {}, {"max_grad_norm": 0.0, "flip_aug": True}),
        ('"--max_grad_norm=0" --training_comment=\'a "b" c\'', {}, {"max_grad_norm": 0.0, "training_comment": "a b c"}),
        ("--seed 3 \\\n  --clip_skip 2 ^\r\n --max_grad_norm 0 `\n --flip_aug", {},
         {"seed": 3, "clip_skip": 2, "max_grad_norm": 0.0, "flip_aug": True}),
    ],
)  # fmt: skip
def test_a_flag_with_a_field_moves_to_it(text: str, now: dict[str, Any], moved: dict[str, Any]) -> None:
    """One click: the fix is the values it means, and afterwards nothing is left to say."""
    s = Settings(additional_parameters=text, **now)
    (problem,) = additional.problems(s)
    assert problem.label == "Additional parameters"
    assert problem.fix is not None
    found = s.changed(**problem.fix)
    assert {key: getattr(found, key) for key in moved} == moved
    assert found == Settings(**{**now, **moved})
    assert not [*additional.problems(found), *additional.notes(found)]
    assert problem in list(check(s))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--lr_schedular cosine", "did you mean lr_scheduler?"),
        ("--face_crop_aug_range 2.0,4.0", "faces are not looked for"),
        ("--blocks_to_swap 3", "Stable Diffusion 3"),
        ("cosine", "belongs to no flag"),
        ("--flip_aug left", "left belongs to no flag"),
        ("--network_dim many", "must be a number; 'many' is not one"),
        ("--network_dim -4", "must be at least 1"),
        ("--min_snr_gamma", "has a field of its own: --min_snr_gamma has no value after it."),
        ("--optimizer_args --flip_aug", "--optimizer_args has no value after it"),
        ("--dataset_class evil.module", "code of other programs is not run"),
        ("--config_file /etc/passwd", "settings files are opened with Open"),
        ("; rm -rf /", "; rm -rf / belongs to no flag"),
        ("$(reboot) `id`", "$(reboot) `id` belongs to no flag"),
        ("--network_args conv_dim=4 colour=red", "network_args colour"),
        ("--network_args factor=4", "it means nothing to the LoRA type Standard"),
        ("--sample_prompts p.txt", "copy the lines of p.txt into Sample prompts"),
        ("--huggingface_token hf_x", "is kept in no file; write it into Huggingface token"),
        ("--wandb-api-key=hf_x", "is kept in no file; write it into WANDB API Key"),
        ('--training_comment "never closed', "the quote before never closed is not closed"),
    ],
)
def test_a_flag_that_cannot_be_followed_has_a_sentence(text: str, words: str) -> None:
    problem = next(additional.problems(Settings(additional_parameters=text)))
    assert words in problem.message
    assert not problem.fix or problem.fix["additional_parameters"] != text
    assert "hf_x" not in problem.message


def test_what_is_so_anyway_is_a_note_and_stops_nothing() -> None:
    s = Settings(additional_parameters="--console_log_file=here.txt")
    assert not list(additional.problems(s))
    (note,) = additional.notes(s)
    assert "log.txt in its folder" in note.message
    assert note.fix == {"additional_parameters": ""}
    assert note in list(notes(s))


def test_moving_leaves_what_has_no_field() -> None:
    s = Settings(additional_parameters='--clip_skip 2 --console_log_file "a b" --colour red')
    move, unknown = additional.problems(s)
    assert move.fix == {"clip_skip": 2, "additional_parameters": '--console_log_file "a b" --colour red'}
    assert unknown.fix == {"additional_parameters": '--clip_skip 2 --console_log_file "a b"'}


@pytest.mark.parametrize("option", sorted({*sd_scripts.DEFAULTS, *sd_scripts.OTHER_MODELS}))
def test_every_option_of_sd_scripts_is_understood(option: str) -> None:
    """A field, or a sentence of its own; and never both."""
    secret = option in ("huggingface_token", "wandb_api_key")
    assert bool(field_of(option)) + bool(sd_scripts.refusal(option)) + secret == 1
    said = list(additional.problems(Settings(additional_parameters=f"--{option}")))
    said += additional.notes(Settings(additional_parameters=f"--{option}"))
    assert said
    assert not any("no such setting" in item.message for item in said)


def test_an_option_is_not_refused_where_there_is_a_setting() -> None:
    tables = (sd_scripts.ALWAYS, sd_scripts.NOT_HERE)
    assert not [name for table in tables for name in table if name in KNOWN]
    assert not set(sd_scripts.ALWAYS) & set(sd_scripts.NOT_HERE)
    assert {*sd_scripts.ALWAYS, *sd_scripts.NOT_HERE, *sd_scripts.BECOMES} <= set(sd_scripts.DEFAULTS)


def test_flags_of_a_file_win_over_its_fields() -> None:
    raw = {
        "additional_parameters": "--max_grad_norm=0 --sdpa",
        "max_grad_norm": 1,
        "xformers": "xformers",
        "LoRA_type": "Standard",
    }
    assert read(raw).values == {"max_grad_norm": 0.0, "xformers": "sdpa", "LoRA_type": "Standard"}


@pytest.mark.parametrize(
    "text",
    [
        "--huggingface_token hf_x", "--huggingface_token=hf_x", '--huggingface_token "hf_x"', "--wandb_api_key='hf_x'",
        '"--huggingface_token=hf_x"', "--huggingface-token hf_x", "—wandb_api_key hf_x", "--HUGGINGFACE_TOKEN   hf_x",
        "--huggingface_token \n hf_x", '--huggingface_token="hf_x and more"',
    ],
)  # fmt: skip
def test_a_token_among_flags_is_written_to_no_file(text: str) -> None:
    """Not even before anything is started: a preset is saved, a draft is kept."""
    for whole in (text, f"--seed 3 {text}", f"{text} --seed 3", f"--seed 3 {text} --clip_skip 2"):
        s = Settings(additional_parameters=whole)
        kept = s.public()["additional_parameters"]
        assert "hf_x" not in kept
        assert ("--seed 3" in kept) == ("--seed" in whole)
        assert not any("hf_x" in problem.message for problem in additional.problems(s))


@pytest.mark.parametrize(
    "text", ["--seed 3", "--training_comment 'my huggingface_token is safe'", "--wandb_run_name x"]
)
def test_what_is_no_secret_is_written_as_it_stands(text: str) -> None:
    assert Settings(additional_parameters=text).public()["additional_parameters"] == text
