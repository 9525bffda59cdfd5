"""Whole training runs on a tiny model: golden losses, exact resuming, and everything a run must obey and survive."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import trainings
from tests.tiny import tiny_sd15
from tests.trainings import losses, make_pictures, tensors
from trainer import checkpoint, events, learner, train
from trainer.events import Event, Phase, Sample, Saved, Step
from trainer.report import Failure, Stopped
from trainer.settings import Settings

Make = Callable[..., Settings]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd15(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _every_command_is_heard_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.report.LOOK_EVERY", 0.0)


@pytest.fixture
def make(model: Path, data: Path, tmp_path: Path) -> Make:
    def settings(**values: Any) -> Settings:
        return trainings.settings(model, data, tmp_path / "out", **values)

    return settings


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, f"{len(different)} of {len(one)} tensors differ, such as {different[0]}"


def assert_changed(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert any(not torch.equal(one[name], other[name]) for name in one)


# What is learnt.

GOLDEN = {
    "Standard": [
        1.1426897, 1.1674093, 1.1556468, 1.0977452, 1.0756383, 1.0408399, 1.0781546, 0.8432618, 1.113976, 1.0779572,
        1.1358964, 1.0668894, 0.8379748, 1.1244237, 1.1226792, 1.0160553, 0.7037598, 1.0412441, 1.0263902, 1.0973043,
    ],
    "Kohya LoCon": [
        1.1426897, 1.1658723, 1.1537194, 1.0951836, 1.0727966, 1.0332885, 1.0718058, 0.8408394, 1.1021936, 1.0700145,
        1.1253669, 1.0579772, 0.8261247, 1.106249, 1.1115155, 1.0112967, 0.6990671, 1.0298064, 1.0165304, 1.0864881,
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", GOLDEN)
def test_golden_losses(kind: str, make: Make, tmp_path: Path) -> None:
    """Twenty steps of U-Net and text encoder. A change that should not alter results must not alter these."""
    s = make(LoRA_type=kind, conv_dim=2, train_batch_size=2, max_train_steps=20, learning_rate=2e-3, min_snr_gamma=5)
    found = losses(trainings.run(s, tmp_path / "run"))
    assert found == pytest.approx(GOLDEN[kind], abs=1e-5)


def test_the_same_seed_gives_the_same_file(make: Make, tmp_path: Path) -> None:
    varied = {"network_dropout": 0.2, "shuffle_caption": True, "caption_dropout_rate": 0.3, "flip_aug": True}
    s = make(max_train_steps=4, **varied)
    trainings.run(s, tmp_path / "one")
    one = tensors(tmp_path / "out" / "small.safetensors")
    trainings.run(s, tmp_path / "two")
    assert_equal(one, tensors(tmp_path / "out" / "small.safetensors"))
    trainings.run(s.changed(seed=7), tmp_path / "three")
    assert_changed(one, tensors(tmp_path / "out" / "small.safetensors"))


def test_without_a_seed_the_run_names_one_that_repeats_it(make: Make, tmp_path: Path) -> None:
    found = trainings.run(make(max_train_steps=2, seed=None), tmp_path / "one")
    seed = next(event.text for event in found if isinstance(event, events.Note) and event.key == "seed")
    again = trainings.run(make(max_train_steps=2, seed=int(seed.removeprefix("Seed: "))), tmp_path / "two")
    assert losses(found) == losses(again)


def test_it_learns(make: Make, tmp_path: Path) -> None:
    s = make(epoch=12, train_batch_size=4, learning_rate=1e-2, LoRA_type="Kohya LoCon", conv_dim=8, conv_alpha=8)
    found = losses(trainings.run(s, tmp_path / "run"))
    assert sum(found[-8:]) < 0.9 * sum(found[:8])


def test_accumulation_is_a_larger_batch(model: Path, tmp_path: Path) -> None:
    """Two batches of one picture and one batch of two give the same mean gradient when they are of the same things."""
    data = make_pictures(tmp_path / "data", count=1, repeats=4)
    s = trainings.settings(model, data, tmp_path / "out", learning_rate=1e-3, epoch=2)
    found = trainings.run(s.changed(gradient_accumulation_steps=3), tmp_path / "run")
    # 4 batches an epoch in groups of 3: a step of three and one of one, each a mean.
    assert [event.step for event in found if isinstance(event, Step)] == [1, 2, 3, 4]
    single = losses(trainings.run(s, tmp_path / "single"))
    assert losses(found)[0] != single[0]
    assert 0.3 < losses(found)[0] / single[0] < 3


def test_gradient_checkpointing_changes_nothing(make: Make, tmp_path: Path) -> None:
    s = make(max_train_steps=4, network_dropout=0.1, module_dropout=0.1)
    plain = losses(trainings.run(s, tmp_path / "plain"))
    saving = losses(trainings.run(s.changed(gradient_checkpointing=True), tmp_path / "saving"))
    assert saving == pytest.approx(plain, abs=1e-6)


def test_only_what_has_a_rate_is_trained(make: Make, tmp_path: Path) -> None:
    trainings.run(make(max_train_steps=2, text_encoder_lr=0), tmp_path / "unet")
    saved = tensors(tmp_path / "out" / "small.safetensors")
    assert all(saved[key].count_nonzero() == 0 for key in saved if key.startswith("lora_te") and "lora_up" in key)
    assert any(saved[key].count_nonzero() for key in saved if key.startswith("lora_unet") and "lora_up" in key)
    trainings.run(make(max_train_steps=2, unet_lr=0), tmp_path / "text")
    saved = tensors(tmp_path / "out" / "small.safetensors")
    assert all(saved[key].count_nonzero() == 0 for key in saved if key.startswith("lora_unet") and "lora_up" in key)
    assert any(saved[key].count_nonzero() for key in saved if key.startswith("lora_te") and "lora_up" in key)


def test_stop_text_encoder_training_stops_it(make: Make, tmp_path: Path) -> None:
    s = make(max_train_steps=8, stop_text_encoder_training=50, save_every_n_steps=2)
    found = trainings.run(s, tmp_path / "run")
    two, four, six = (tensors(tmp_path / "out" / f"small-step{step:08d}.safetensors") for step in (2, 4, 6))
    last = tensors(tmp_path / "out" / "small.safetensors")
    text = [key for key in last if key.startswith("lora_te") and "alpha" not in key]
    unet = [key for key in last if key.startswith("lora_unet") and "alpha" not in key]
    assert_changed({key: two[key] for key in text}, {key: four[key] for key in text})
    assert_equal({key: four[key] for key in text}, {key: six[key] for key in text})
    assert_equal({key: four[key] for key in text}, {key: last[key] for key in text})
    assert_changed({key: six[key] for key in unet}, {key: last[key] for key in unet})
    rates = [set(event.lr) for event in found if isinstance(event, Step)]
    assert rates == [{"unet", "textencoder"}] * 4 + [{"unet"}] * 4


def test_after_the_stop_nothing_of_the_text_encoder_is_computed(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.models import text

    asked: list[str] = []
    real = text.encode

    def encode(model: Any, captions: Any, s: Any, **more: Any) -> Any:
        asked.append("with gradient" if torch.is_grad_enabled() else "without")
        return real(model, captions, s, **more)

    monkeypatch.setattr(text, "encode", encode)
    trainings.run(make(max_train_steps=24, stop_text_encoder_training=25), tmp_path / "run")
    assert asked[:6] == ["with gradient"] * 6
    assert set(asked[6:]) == {"without"}
    assert len(asked[6:]) == 4  # each caption once


def test_captions_are_encoded_once_when_the_text_encoder_rests(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.models import text

    asked: list[str] = []
    real = text.encode

    def encode(model: Any, captions: Any, s: Any, **more: Any) -> Any:
        asked.extend(captions)
        return real(model, captions, s, **more)

    monkeypatch.setattr(text, "encode", encode)
    s = make(epoch=2, text_encoder_lr=0, caption_dropout_rate=0.2, sample_prompts="a dog --w 64 --h 64 --s 2",
             sample_every_n_epochs=1)  # fmt: skip
    trainings.run(s, tmp_path / "run")
    assert sorted(asked) == sorted(["", "a dog", *(f"a cat, number {number}, in noise" for number in range(4))])


@pytest.mark.parametrize("option", [{"min_snr_gamma": 1}, {"noise_offset": 0.3}, {"scale_weight_norms": 0.01},
                                    {"max_grad_norm": 0.001, "optimizer": "SGDNesterov", "learning_rate": 1.0},
                                    {"rank_dropout": 0.5}, {"module_dropout": 0.5}, {"clip_skip": 2},
                                    {"max_token_length": 150}, {"lr_scheduler": "linear"}, {"lr_warmup": 50},
                                    {"color_aug": True, "cache_latents": False}])  # fmt: skip
def test_options_matter(option: dict[str, Any], make: Make, tmp_path: Path) -> None:
    base: dict[str, Any] = {
        "max_train_steps": 4,
        **{key: option[key] for key in ("optimizer", "learning_rate") if key in option},
    }
    trainings.run(make(**base), tmp_path / "plain")
    plain = tensors(tmp_path / "out" / "small.safetensors")
    trainings.run(
        make(**base, output_name="other", **{k: v for k, v in option.items() if k not in base}), tmp_path / "o"
    )
    assert_changed(plain, tensors(tmp_path / "out" / "other.safetensors"))


def test_regularisation_pictures_count_as_much_as_is_said(make: Make, tmp_path: Path) -> None:
    reg = make_pictures(tmp_path / "reg", concept="animal", repeats=1, seed=1)
    names = {"reg_data_dir": str(reg), "max_train_steps": 8, "train_batch_size": 1, "learning_rate": 1e-9}
    full = losses(trainings.run(make(**names), tmp_path / "full"))
    half = losses(trainings.run(make(**names, prior_loss_weight=0.5), tmp_path / "half"))
    ratios = sorted({round(some / whole, 4) for some, whole in zip(half, full, strict=True)})
    assert ratios == [0.5, 1.0]


# Stopping and going on.

RESUMABLE: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation inside an epoch": {"gradient_accumulation_steps": 3, "train_batch_size": 1, "epoch": 6},
    "accumulation in mid-epoch": {"gradient_accumulation_steps": 2, "train_batch_size": 1, "max_train_steps": 10},
    "8-bit": {"optimizer": "AdamW8bit", "network_dim": 64},
    "prodigy": {"optimizer": "Prodigy", "learning_rate": 1.0, "optimizer_args": "decouple=True weight_decay=0.01"},
    "schedule-free": {"optimizer": "AdamWScheduleFree", "lr_warmup": 20},
    "adafactor": {"optimizer": "Adafactor"},
    "optimizer by its path": {"optimizer": "pytorch_optimizer.AdaBelief", "optimizer_args": "weight_decay=0.01"},
    "prodigy and schedule-free": {"optimizer": "prodigyplus.ProdigyPlusScheduleFree", "learning_rate": 1.0},
    "scheduler by its path": {
        "lr_scheduler_type": "torch.optim.lr_scheduler.OneCycleLR", "lr_scheduler_args": "pct_start=0.4 max_lr=2e-3",
    },
    "locon and dropouts": {
        "LoRA_type": "Kohya LoCon", "network_dropout": 0.2, "rank_dropout": 0.1, "module_dropout": 0.1,
        "scale_weight_norms": 1.0,
    },
    "varied pictures": {
        "cache_latents": False, "color_aug": True, "flip_aug": True, "shuffle_caption": True, "caption_dropout_rate": 0.2,
    },
    "radam schedule-free, sampled": {
        "optimizer": "RAdamScheduleFree", "sample_every_n_steps": 2, "sample_prompts": "a cat --w 64 --h 64 --s 1",
    },
    "varied captions and noise": {
        "enable_wildcard": True, "caption_prefix": "{one|two|three},", "shuffle_caption": True, "token_warmup_step": 0.8,
        "caption_tag_dropout_rate": 0.3, "noise_offset": 0.1,
        "noise_offset_random_strength": True, "ip_noise_gamma": 0.1, "ip_noise_gamma_random_strength": True,
        "random_crop": True, "cache_latents": False, "max_resolution": "64,64",
    },
    "text encoder stops before": {"stop_text_encoder_training": 25},
    "text encoder stops after": {"stop_text_encoder_training": 75},
    "text encoder stops there": {"stop_text_encoder_training": 50},
}  # fmt: skip


@pytest.mark.parametrize("name", RESUMABLE)
def test_a_stopped_run_goes_on_exactly(name: str, make: Make, tmp_path: Path) -> None:
    s = make(**{"max_train_steps": 12, "lr_scheduler": "cosine", **RESUMABLE[name]})
    stop_and_go_on(s, 6, tmp_path)


def test_stopped_at_30_and_resumed_is_60_at_once(make: Make, tmp_path: Path) -> None:
    s = make(max_train_steps=60, train_batch_size=1, gradient_accumulation_steps=1, lr_warmup=10)
    stop_and_go_on(s, 30, tmp_path)


def stop_and_go_on(s: Settings, step: int, tmp_path: Path) -> None:
    whole = trainings.run(s.changed(output_name="whole"), tmp_path / "whole")
    with pytest.raises(Stopped, match=f"step {step}"):
        trainings.run(s, tmp_path / "first", at={step: "stop"})
    first = events.read(tmp_path / "first" / "events.jsonl")[0]
    assert (tmp_path / "out" / f"small-step{step:08d}.safetensors").is_file()
    state = [event.path for event in first if isinstance(event, Saved) and event.what == "state"][-1]
    assert Path(state).parent == tmp_path / "out"
    second = trainings.run(s.changed(resume=state), tmp_path / "second")
    assert losses(first) + losses(second) == losses(whole)
    assert [event.average for event in second if isinstance(event, Step)] == [
        event.average for event in whole if isinstance(event, Step)
    ][step:]
    assert_equal(tensors(tmp_path / "out" / "whole.safetensors"), tensors(tmp_path / "out" / "small.safetensors"))


def test_a_run_that_is_killed_goes_on_from_the_state_for_emergencies(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = make(max_train_steps=8)
    trainings.run(s.changed(output_name="whole"), tmp_path / "whole")
    assert not list((tmp_path / "whole" / "state").iterdir())
    monkeypatch.setattr(checkpoint, "PAUSE", 0.0)

    def die(event: Event) -> None:
        if isinstance(event, Step) and event.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainings.run(s, tmp_path / "run", listen=die)
    (state,) = (tmp_path / "run" / "state").iterdir()
    assert state.name == "small-step00000004-state"
    trainings.run(s.changed(resume=str(state)), tmp_path / "again")
    assert_equal(tensors(tmp_path / "out" / "whole.safetensors"), tensors(tmp_path / "out" / "small.safetensors"))


def test_more_epochs_can_be_added_to_a_finished_run(make: Make, tmp_path: Path) -> None:
    s = make(epoch=1, save_state=True, lr_scheduler="constant")
    trainings.run(s, tmp_path / "one")
    more = s.changed(resume=str(tmp_path / "out" / "small-state"))
    with pytest.raises(Failure, match="nothing is left to train") as failed:
        trainings.run(more, tmp_path / "none")
    assert "Epoch" in failed.value.advice
    found = trainings.run(more.changed(epoch=2), tmp_path / "two")
    assert [event.step for event in found if isinstance(event, Step)] == list(range(9, 17))


# Commands.


def test_save_sample_pause_and_resume(make: Make, tmp_path: Path) -> None:
    s = make(max_train_steps=6, sample_prompts="a cat --w 64 --h 64 --s 2")
    plain = losses(trainings.run(s, tmp_path / "plain"))

    def listen(event: Event) -> None:
        if isinstance(event, Phase) and event.name == "paused":
            trainings.command(tmp_path / "run", "resume")

    found = trainings.run(s, tmp_path / "run", at={2: "save", 3: "sample", 4: "pause"}, listen=listen)
    assert losses(found) == plain
    assert [Path(event.path).name for event in found if isinstance(event, Saved) and event.what == "weights"] == [
        "small-step00000002.safetensors", "small.safetensors",
    ]  # fmt: skip
    assert [event.step for event in found if isinstance(event, Sample)] == [3]
    order = [event.name if isinstance(event, Phase) else f"step {event.step}" for event in found
             if isinstance(event, Phase | Step) and getattr(event, "name", "") in ("", "paused")]  # fmt: skip
    assert order[order.index("paused") - 1] == "step 4"
    assert order[order.index("paused") + 1] == "step 5"


def test_a_stop_while_paused_saves_everything(make: Make, tmp_path: Path) -> None:
    def listen(event: Event) -> None:
        if isinstance(event, Phase) and event.name == "paused":
            trainings.command(tmp_path / "run", "stop")

    with pytest.raises(Stopped):
        trainings.run(make(max_train_steps=6), tmp_path / "run", at={3: "pause"}, listen=listen)
    assert (tmp_path / "out" / "small-step00000003.safetensors").is_file()
    assert checkpoint.open_state(tmp_path / "out" / "small-step00000003-state").step == 3


# What is written.


def test_names_and_moments_of_files(make: Make, tmp_path: Path) -> None:
    s = make(epoch=3, train_batch_size=4, save_every_n_epochs=1, save_every_n_steps=2, save_state=True,
             sample_every_n_epochs=2, sample_at_first=True, sample_prompts="a cat --w 64 --h 64 --s 2 --d 5")  # fmt: skip
    found = trainings.run(s, tmp_path / "run")
    steps = [event.step for event in found if isinstance(event, Step)][-1] // 3
    assert steps == 2
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    stems = ["small", "small-000001", "small-000002", "small-step00000002", "small-step00000004"]
    assert names == sorted([f"{stem}.safetensors" for stem in stems] + [f"{stem}-state" for stem in stems])
    samples = [event for event in found if isinstance(event, Sample)]
    assert [(event.step, event.epoch) for event in samples] == [(0, 0), (4, 2)]
    assert all((tmp_path / "run" / event.path).is_file() for event in samples)
    name = Path(samples[1].path).name
    assert name.startswith("small_e000002_00_")
    assert name.endswith("_5.png")
    assert not list((tmp_path / "out").glob(".*"))


def test_samples_leave_no_trace(make: Make, tmp_path: Path) -> None:
    varied = {"network_dropout": 0.3, "module_dropout": 0.1, "max_train_steps": 4}
    trainings.run(make(**varied), tmp_path / "plain")
    prompts = "a cat --w 64 --h 64 --s 3\na dog --w 64 --h 64 --s 2 --ss ddim"
    looked = make(**varied, output_name="looked", sample_prompts=prompts, sample_every_n_steps=1, sample_at_first=True)
    found = trainings.run(looked, tmp_path / "looked")
    assert len([event for event in found if isinstance(event, Sample)]) == 10
    assert_equal(tensors(tmp_path / "out" / "small.safetensors"), tensors(tmp_path / "out" / "looked.safetensors"))


def test_files_and_samples_of_a_schedule_free_optimizer_are_the_average(make: Make, tmp_path: Path) -> None:
    """x = (y - (1 - β) z) / β is used, y is trained (Defazio et al. 2024, section 4.1); a state holds y and z."""
    s = make(max_train_steps=4, optimizer="AdamWScheduleFree", learning_rate=0.05, text_encoder_lr=0, save_state=True,
             sample_prompts="a cat --w 64 --h 64 --s 2", sample_every_n_steps=4)  # fmt: skip
    found = trainings.run(s, tmp_path / "run")
    file, state = tmp_path / "out" / "small.safetensors", tmp_path / "out" / "small-state"
    x, y = (
        sum(
            float(weight.double().sum()) for name, weight in tensors(path).items() if re.search(r"unet.*\.weight", name)
        )
        for path in (file, state / "model.safetensors")
    )
    kept = torch.load(state / "optimizer.bin", weights_only=True)["optimizer"]["state"]
    z = sum(float(one["z"].double().sum()) for one in kept.values())
    assert abs(x - y) > 1e-2
    assert x == pytest.approx((y - 0.1 * z) / 0.9, abs=1e-4)

    s = make(max_train_steps=1, network_weights=str(file), output_name="other", text_encoder_lr=0, sample_at_first=True,
             sample_prompts=s.sample_prompts)  # fmt: skip
    of_file = trainings.run(s, tmp_path / "other")
    from PIL import Image

    last, first = (
        Image.open(tmp_path / folder / event.path).tobytes()
        for folder, events_ in (("run", found), ("other", of_file)) for event in events_ if isinstance(event, Sample)
    )  # fmt: skip
    assert last == first, "what is drawn is what is saved"


def test_the_first_sample_is_the_base_models(make: Make, tmp_path: Path) -> None:
    """And later ones change as it learns; the same prompt keeps its noise."""
    s = make(max_train_steps=6, learning_rate=1e-2, sample_prompts="a cat --w 64 --h 64 --s 3", sample_every_n_steps=6,
             sample_at_first=True)  # fmt: skip
    found = trainings.run(s, tmp_path / "run")
    first, last = (event for event in found if isinstance(event, Sample))
    assert first.seed == last.seed
    assert (tmp_path / "run" / first.path).read_bytes() != (tmp_path / "run" / last.path).read_bytes()
    trainings.run(make(max_train_steps=1, learning_rate=1e-9, sample_prompts=s.sample_prompts, sample_at_first=True),
                  tmp_path / "other")  # fmt: skip
    from PIL import Image

    (other,) = (tmp_path / "other" / "samples").iterdir()
    assert Image.open(other).tobytes() == Image.open(tmp_path / "run" / first.path).tobytes()


def test_a_bad_prompt_is_a_note(make: Make, tmp_path: Path) -> None:
    s = make(
        max_train_steps=1, sample_prompts="a cat --w wide\n# rest\na cat --w 64 --h 64 --s 1", sample_at_first=True
    )
    found = trainings.run(s, tmp_path / "run")
    notes = [event.text for event in found if isinstance(event, events.Note) and event.key == "sample_prompts"]
    assert len(notes) == 1
    assert "Line 1" in notes[0]
    assert "'wide'" in notes[0]
    assert len([event for event in found if isinstance(event, Sample)]) == 1


def test_curves_have_the_names_people_know(make: Make, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    s = make(epoch=2, train_batch_size=4, optimizer="Prodigy", learning_rate=1.0, logging_dir=str(tmp_path / "logs"))
    found = trainings.run(s, tmp_path / "run-name")
    curves = EventAccumulator(str(tmp_path / "logs" / "run-name"))
    curves.Reload()
    assert set(curves.Tags()["scalars"]) == {
        "loss/current", "loss/average", "loss/epoch", "lr/unet", "lr/textencoder", "lr/d*lr/unet", "lr/d*lr/textencoder",
    }  # fmt: skip
    shown = [(point.step, point.value) for point in curves.Scalars("loss/current")]
    assert shown == [(event.step, pytest.approx(event.loss)) for event in found if isinstance(event, Step)]


def test_an_output_folder_that_fails_loses_nothing(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    found = trainings.run(make(max_train_steps=1, output_dir=str(tmp_path / "file" / "out")), tmp_path / "run")
    saved = next(event for event in found if isinstance(event, Saved) and event.what == "weights")
    assert Path(saved.path) == tmp_path / "run" / "output" / "small.safetensors"
    assert any(
        event.level == "warning" and "instead" in event.text for event in found if isinstance(event, events.Note)
    )


def test_without_an_output_folder_the_run_keeps_its_file(make: Make, tmp_path: Path) -> None:
    trainings.run(make(max_train_steps=1, output_dir=""), tmp_path / "run")
    assert (tmp_path / "run" / "output" / "small.safetensors").is_file()


def test_what_the_learning_rate_curve_shows_is_what_is_used(make: Make, tmp_path: Path) -> None:
    from trainer.schedules import curve

    s = make(max_train_steps=10, lr_scheduler="cosine_with_restarts", lr_scheduler_num_cycles=2, lr_warmup=20)
    found = trainings.run(s, tmp_path / "run")
    used = [(event.step - 1, event.lr["unet"]) for event in found if isinstance(event, Step)]
    assert used == curve(s, 10)


# What goes wrong.


@pytest.mark.parametrize(("factor", "word"), [(torch.nan, "nan"), (torch.inf, "inf"), (1e6, r"[\d.]+e\+0[56]")])
def test_a_loss_that_is_no_number_or_explodes_ends_the_run_and_names_the_pictures(
    factor: float, word: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = train.Objective.__call__

    def loss_of(objective: Any, batch: Any, step: int, place: int) -> torch.Tensor:
        return real(objective, batch, step, place) * (factor if step == 2 else 1)

    monkeypatch.setattr(train.Objective, "__call__", loss_of)
    with pytest.raises(Failure, match=rf"loss became {word} at step 3\b.*cat\d\.bmp") as failed:
        trainings.run(make(epoch=4, save_every_n_steps=1), tmp_path / "run")
    assert "Learning rate" in failed.value.advice
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "small-step00000001.safetensors",
        "small-step00000002.safetensors",
    ]
    (state,) = (tmp_path / "run" / "state").iterdir()
    for path in (tmp_path / "out" / "small-step00000002.safetensors", state / "model.safetensors"):
        assert all(weight.isfinite().all() for weight in tensors(path).values())


@pytest.mark.parametrize("steps", [3, 6], ids=["in the last step", "on the way"])
def test_weights_that_are_no_numbers_are_not_saved_though_the_loss_is_one(
    steps: int, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gradient without sense spoils the weights a step before the loss shows it; older files stay where they are."""
    real, count = learner.Learner.step, 0

    def step(self: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            self.parameters[0].grad[0] = torch.nan
        real(self)

    monkeypatch.setattr(learner.Learner, "step", step)
    s = make(max_train_steps=steps, save_every_n_steps=1, save_last_n_steps=1)
    with pytest.raises(Failure, match="After step 3 the trained weights are no numbers") as failed:
        trainings.run(s, tmp_path / "run")
    assert "Learning rate" in failed.value.advice
    (state,) = (tmp_path / "run" / "state").iterdir()
    for path in (tmp_path / "out" / "small-step00000002.safetensors", state / "model.safetensors"):
        assert all(weight.isfinite().all() for weight in tensors(path).values())
    assert not (tmp_path / "out" / "small.safetensors").exists()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(),
                                   RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory")])  # fmt: skip
def test_out_of_memory_says_what_to_try(
    error: Exception, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(train.Objective, "__call__", fail)
    with pytest.raises(Failure, match="not enough memory for training") as failed:
        trainings.run(make(train_batch_size=4), tmp_path / "run")
    assert failed.value.advice.index("Train batch size") < failed.value.advice.index("Gradient checkpointing")


def test_other_errors_are_not_dressed_up(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(train.Objective, "__call__", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        trainings.run(make(), tmp_path / "run")


def test_half_precision_on_the_processor_is_a_note(make: Make, tmp_path: Path) -> None:
    found = trainings.run(make(max_train_steps=1, mixed_precision="fp16"), tmp_path / "run")
    note = next(event for event in found if isinstance(event, events.Note) and event.key == "mixed_precision")
    assert "float32" in note.text


@pytest.mark.parametrize(
    ("values", "key", "said"),
    [
        ({"optimizer_args": "frobnicate=1"}, "optimizer_args", "frobnicate"),
        ({"train_data_dir": "no/such/folder"}, "train_data_dir", "no picture"),
        ({"resume": "no/such/folder"}, "resume", "not a training state"),
    ],
)
def test_what_cannot_start_is_a_sentence(
    values: dict[str, str], key: str, said: str, make: Make, tmp_path: Path
) -> None:
    with pytest.raises(Failure, match=said) as failed:
        trainings.run(make(**values), tmp_path / "run")
    assert failed.value.key == key
    assert not (tmp_path / "out").exists()
