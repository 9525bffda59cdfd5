"""No setting is dead: one table with, for every setting, what changes when it is changed.

A row names a setting, another value, what must change, and the settings under which it counts. What must change is
seen by a function: the computed plan, the batches, what the U-Net is told, the adapter, the loss, the optimizer and its
rates, the files of a short run, the command line of several processes, and a few places of the machine.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests import trainings
from tests.adapters.made import drawn, read
from tests.data.made import noise
from tests.test_noise_and_loss import look
from tests.test_trackers import FakeWandb
from tests.tiny import listener, tiny_configs, tiny_model, tiny_sd15, tiny_sdxl, tiny_single_file
from trainer import attention, checks, compiling, execution, publish, storage, train
from trainer.adapters import attach
from trainer.curves import Curves, log_folder
from trainer.data.dataset import scan
from trainer.data.digests import Digests
from trainer.data.loader import Batches
from trainer.declare import by_name
from trainer.devices import Precision, choose_precision
from trainer.events import Event, Note, Saved, Started
from trainer.execution import prepare_surroundings
from trainer.flags import launch_of
from trainer.learner import Learner
from trainer.models import load_model
from trainer.models.configs import CONFIGS
from trainer.models.text import encode
from trainer.plan import make_plan
from trainer.processes import problems as process_problems
from trainer.report import Failure, Reporter
from trainer.settings import Settings
from trainer.workspace import workspace

CPU = torch.device("cpu")


@dataclass
class Place:
    """Where a test may write, and the monkeypatch that it may use."""

    folder: Path
    patch: pytest.MonkeyPatch
    runs: int = 0

    def fresh(self) -> Path:
        self.runs += 1
        return self.folder / f"run{self.runs}"


See = Callable[[Settings, Place], Any]


# What can be seen. Every function gives something that can be compared.


def digest(*tensors: Tensor) -> list[float]:
    """Numbers that change when any number in the tensors does."""
    return [
        float((x.double() * torch.arange(1, x.numel() + 1, dtype=torch.double).view(x.shape)).sum()) for x in tensors
    ]


def plan(s: Settings, at: Place) -> Any:
    return make_plan(s, scan(s)).as_json()


def said(s: Settings, at: Place) -> Any:
    """The sentences before a run."""
    return [(found.key, found.message) for found in (*checks.check(s), *checks.notes(s))]


def batches(s: Settings, at: Place) -> Any:
    """All batches of some epochs."""
    model: Any = tiny_model(inpainting=s.train_inpainting)
    with Reporter(at.fresh()) as report, Batches(s, scan(s), model, report, "cpu") as made:
        return [
            (batch.captions, digest(batch.latents, batch.loss_weights, batch.sizes),
             [digest(extra) for extra in (batch.loss_masks, batch.inpainting) if extra is not None])
            for epoch in range(1, 5) for batch in made.epoch(epoch)
        ]  # fmt: skip


def noted(real: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
    """`real`, of whose arguments is taken note."""

    def call(*args: Any, **options: Any) -> Any:
        note(*args, **options)
        return real(*args, **options)

    return call


def encoded_at_once(s: Settings, at: Place) -> Any:
    """How many pictures the VAE is given at a time."""
    sizes: list[int] = []
    model = tiny_model()
    real = model.vae.encode
    at.patch.setattr(model.vae, "encode", noted(real, lambda x, *more: sizes.append(len(x))))
    with Reporter(at.fresh()) as report, Batches(s, scan(s), model, report, "cpu") as made:
        list(made.epoch(1))
    return sizes


def cached(s: Settings, at: Place) -> Any:
    """How many latents are on the disk for the next run, and how many pictures that one reads."""
    at.patch.setenv("LOOM_WORKSPACE", str(at.fresh()))
    with Reporter(at.fresh()) as report, Batches(s, scan(s), tiny_model(), report, "cpu"):
        pass
    files = sorted(path for path in workspace().latents.rglob("*") if path.is_file())
    looked: list[Path] = []
    real = Digests.read
    at.patch.setattr(Digests, "read", noted(real, lambda digests, path: looked.append(path)))
    with Reporter(at.fresh()) as report, Batches(s, scan(s), tiny_model(), report, "cpu"):
        pass
    at.patch.setattr(Digests, "read", real)
    return len(files), len(looked)


def answers_on_disk(s: Settings, at: Place) -> Any:
    """The captions that the next run need not encode."""
    at.patch.setenv("LOOM_WORKSPACE", str(at.fresh()))
    run(s, at)
    return sorted(path.name for path in workspace().captions.rglob("*") if path.is_file())


def threads(s: Settings, at: Place) -> Any:
    """The threads that prepare batches, and what they have ready when an epoch is over."""
    with Reporter(at.fresh()) as report, Batches(s, scan(s), tiny_model(), report, "cpu") as made:
        list(made.epoch(1))
        ahead = made._ahead
        return ahead.workers, ahead.waiting


def told(s: Settings, at: Place) -> Any:
    """What the text encoder makes of a caption."""
    with torch.no_grad():
        return digest(encode(tiny_model(), ["a (red:1.4) cat, " + "sitting on the mat " * 40], s).states)


def model(s: Settings, at: Place) -> Any:
    """What is loaded."""
    found = load_model(s, listener(), CPU, torch.bfloat16)
    parts = (found.unet, found.vae, *found.text_encoders)
    dtypes = [str(part.dtype) for part in parts]
    return found.prediction_type, dtypes, [digest(next(part.parameters()).detach().float()) for part in parts]


def of_a_file(s: Settings, at: Place) -> Any:
    """What is loaded from a single file of tiny parts."""
    at.patch.setitem(CONFIGS, "sd15", tiny_configs(at.fresh()))
    return model(s, at)


def vae_format(s: Settings, at: Place) -> Any:
    """Of the VAE on a device that is not the processor."""
    return load_model(s, listener(), torch.device("meta"), torch.bfloat16).vae.dtype


def adapter(s: Settings, at: Place) -> Any:
    """The layers and their tensors, how they learn, and what a trained one makes of a picture, with dropouts."""
    tiny = tiny_model(family="sdxl" if s.sdxl else "sd15")
    made = attach(tiny, s, listener())
    source = torch.Generator().manual_seed(1)
    shapes = {f"{n}.{e}": list(w.shape) for n in made.layers for e, w in made.trained(n).items()}
    with torch.no_grad():
        for name in made.layers:
            for weight in made.trained(name).values():
                weight.add_(torch.randn(weight.shape, generator=source), alpha=0.1)
    made.train(True)
    torch.manual_seed(3)
    groups = [(group.name, group.scale, len(group.parameters)) for group in made.groups()]
    seen = digest(drawn(tiny.unet), *(read(encoder) for encoder in tiny.text_encoders))
    return shapes, {n: (z.rank, z.alpha) for n, z in made.sizes.items()}, groups, seen, sorted(made.state_dict())


def rates(s: Settings, at: Place) -> Any:
    """The optimizer, its options, and the rate of every group at every step."""
    precision, report = Precision(CPU), listener()
    planned = make_plan(s, scan(s))
    learner = Learner(attach(tiny_model(), s, report), s, planned, precision, report)
    seen = []
    for step in range(planned.steps):
        learner.set_rates(step)
        seen.append(learner.rates)
    options = {k: v for k, v in learner.optimizer.defaults.items() if isinstance(v, bool | int | float | tuple | str)}
    return type(learner.optimizer).__name__, options, seen, planned.stop_text_encoder_at


def loss(s: Settings, at: Place) -> Any:
    return digest(look(**s.changed(seed=5).model_dump())["loss"].reshape(1))


def velocity_loss(s: Settings, at: Place) -> Any:
    return digest(look("v_prediction", **s.changed(seed=5).model_dump())["loss"].reshape(1))


def number_format(s: Settings, at: Place) -> Any:
    """On a device that can do everything."""
    for name in ("why_not_fp8", "why_not_float8"):
        at.patch.setattr(f"trainer.devices.{name}", lambda device: None)
    at.patch.setattr("trainer.devices.supports", lambda dtype, device: None)
    found = choose_precision(s, listener())
    return found.dtype, found.trained, found.eight_bit


def kept(s: Settings, at: Place) -> Any:
    """How frozen weights are kept, by their formats and kinds, as on a device with a memory of its own."""
    at.patch.setattr(storage, "is_far", lambda s, device: s.lowvram)
    tiny = tiny_model()
    storage.Frozen(tiny, s, Precision(CPU)).store()
    parts = (tiny.unet, *tiny.text_encoders)
    return [Counter((type(m).__name__, str(p.dtype)) for m in part.modules() for p in m._parameters.values() if p is not None)
            for part in parts]  # fmt: skip


def attention_used(s: Settings, at: Place) -> Any:
    tiny = tiny_model()
    attention.choose_attention(tiny, s, listener())
    return {type(found).__name__ for found in tiny.unet.attn_processors.values()}


def compiled(s: Settings, at: Place) -> Any:
    """What PyTorch is asked to compile with."""
    asked: list[dict[str, Any]] = []
    same = noted(lambda work, **options: work, lambda work, **options: asked.append(options))
    at.patch.setattr(torch, "compile", same)
    compiling.compile_unet(tiny_model().unet, s, listener())
    return asked


def stays(s: Settings, at: Place) -> Any:
    """What leaves a graphics card once pictures and captions are encoded."""
    moved: list[str] = []

    class Part(torch.nn.Module):
        def to(self, *where: Any, **more: Any) -> Any:
            moved.append(str(where[0]))
            return self

    card: Any = SimpleNamespace(type="cuda")
    part: Any = Part()
    stub: Any = SimpleNamespace(device=card, vae=part, unet=part, text_encoders=[])
    conditioning: Any = SimpleNamespace(trained=True)
    train.make_room(s, stub, scan(s), conditioning, SimpleNamespace(), listener())  # type: ignore[arg-type]
    return moved


def remade(s: Settings, at: Place) -> Any:
    """Whether passes are made again for the gradient instead of kept."""
    tiny = tiny_model()
    conditioning: Any = SimpleNamespace(trained=True)
    train.make_room(s, tiny, scan(s), conditioning, SimpleNamespace(), listener())  # type: ignore[arg-type]
    return tiny.unet.is_gradient_checkpointing


def processor(s: Settings, at: Place) -> Any:
    at.patch.setattr(execution, "cores", lambda: 64)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        at.patch.delenv(name, raising=False)
    try:
        prepare_surroundings(s.num_cpu_threads_per_process)
        return os.environ["OMP_NUM_THREADS"]
    finally:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"


def launch(s: Settings, at: Place) -> Any:
    """Where and how many processes are started, after the extra arguments, and what is wrong with that."""
    found = launch_of(s)
    names = ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port", "gpu_ids")
    problems = [(problem.key, problem.message) for problem in process_problems(s)]
    return [getattr(found.settings, name) for name in names], found.local_size, found.on_the_processor, problems


def logs(s: Settings, at: Place) -> Any:
    with Reporter(at.folder / "run", "train", s.output_name) as report:
        return os.path.relpath(log_folder(s, report), at.folder)


def logged(s: Settings, at: Place) -> Any:
    """What Weights & Biases is told, and by whom; and the folder for TensorBoard."""
    fake = FakeWandb()
    at.patch.setitem(sys.modules, "wandb", fake)
    at.patch.delenv("WANDB_API_KEY", raising=False)
    with Reporter(at.folder / "run", "train", s.output_name) as report:
        with Curves(s, report, {"plan": "2 steps"}) as curves:
            curves.epoch(1, 0.4)
        folder = os.path.relpath(log_folder(s, report), at.folder)
    key = os.environ.pop("WANDB_API_KEY", "")
    return fake.began, sorted(map(str, fake.config)), fake.logged, key, folder


def uploads(s: Settings, at: Place) -> Any:
    """What is asked of the hub, by whom, and whether the training waits for it."""
    asked: list[Any] = []

    class Api:
        def __init__(self, **options: Any) -> None:
            asked.append(("as", options.get("token")))

        def __getattr__(self, name: str) -> Any:
            return lambda *args, **options: asked.append((name, str(args), sorted(map(str, options.items()))))

    at.patch.setattr("huggingface_hub.HfApi", Api)
    folder = at.fresh()
    file, state = folder / "a.safetensors", folder / "a-state"
    state.mkdir(parents=True)
    file.write_bytes(b"x")
    with Reporter(at.fresh()) as report, publish.Publisher(s, report) as publisher:
        publisher.publish(file, "weights")
        publisher.publish(state, "state")
        waits = publisher._pool is None if hasattr(publisher, "_pool") else s.async_upload
    return asked, waits


def fetched(s: Settings, at: Place) -> Any:
    """The state that is asked of the hub."""
    asked: list[Any] = []

    def download(*args: Any, **options: Any) -> str:
        asked.append((args, sorted(map(str, options.items()))))
        raise OSError("not here")

    at.patch.setattr("huggingface_hub.snapshot_download", download)
    try:
        publish.fetched(s, listener())
    except (Failure, OSError):
        asked.append("failed")
    return bool(asked)


def run(s: Settings, at: Place) -> Any:
    """A short training: its files, what is in them and about them, its pictures, and what it says."""
    folder = at.fresh()
    found = trainings.run(s, folder)
    out = Path(s.output_dir)
    files = {str(path.relative_to(out)): _about(path) for path in sorted(out.rglob("*")) if path.is_file()}
    for path in sorted(out.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    pictures = [Image.open(path).tobytes() for path in sorted((folder / "samples").glob("*.png"))]
    events = [_plain(event) for event in found if isinstance(event, Note | Saved | Started)]
    return files, pictures, trainings.losses(found), events


VARYING = ("ss_session_id", "ss_training_started_at", "ss_training_finished_at", "modelspec.date", "sshs_legacy_hash")


def _about(path: Path) -> Any:
    if path.suffix != ".safetensors":
        return path.suffix
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        about = {key: value for key, value in sorted((file.metadata() or {}).items()) if key not in VARYING}
        return about, {
            key: (str(file.get_tensor(key).dtype), digest(file.get_tensor(key))) for key in sorted(file.keys())
        }


def _plain(event: Event) -> Any:
    if isinstance(event, Saved):
        return event.what, event.step, Path(event.path).name
    return event.text if isinstance(event, Note) else getattr(event, "resumed_from_step", 0)


# The table.


@dataclass(frozen=True)
class Row:
    """Changing `name` from what it is in `under` to `value` changes what `see` sees."""

    name: str
    value: Any
    see: See
    under: dict[str, Any] = field(default_factory=dict)


def row(name: str, value: Any, see: See, **under: Any) -> Row:
    return Row(name, value, see, under)


LOCON = {"LoRA_type": "LyCORIS/LoCon", "conv_dim": 2}
LOKR = {"LoRA_type": "LyCORIS/LoKr", "conv_dim": 2, "network_dim": 1}
BLOCKS = ",".join(["2"] * 25)
WIDE = {"max_resolution": "128,128"}
XL = {"sdxl": True, "pretrained_model_name_or_path": "<sdxl>", "text_encoder_lr": 0}
MANY = {"num_processes": 2, "extra_accelerate_launch_args": "--cpu"}
SAMPLES = {"sample_prompts": "a cat --w 64 --h 64 --s 2 --d 1", "sample_sampler": "ddim"}
HUB = {"huggingface_repo_id": "anna/cats", "huggingface_token": "hf_x"}
SHUFFLE = {"shuffle_caption": True}
HUBER = {"loss_type": "huber", "huber_schedule": "constant"}
MULTIRES = {"noise_offset_type": "Multires", "multires_noise_iterations": 4}
OFFSET = {"noise_offset": 0.1}
STATES = {"save_every_n_steps": 1, "max_train_steps": 4, "save_state": True}
EPOCHS = {"save_every_n_epochs": 1, "epoch": 3, "train_data_dir": "<one>", "save_state": True}

TABLE: tuple[Row, ...] = (
    # Model and folders
    row("pretrained_model_name_or_path", "<other>", model),
    row("v2", True, said),
    row("v_parameterization", True, of_a_file, pretrained_model_name_or_path="<file>"),
    row("sdxl", True, said),
    row("vae", "<other>/vae", model),
    row("train_data_dir", "<one>", plan),
    row("reg_data_dir", "<reg>", plan),
    row("dataset_config", "<config>", plan),
    row("output_dir", "<elsewhere>", lambda s, at: (run(s, at), s.output_dir)),
    row("output_name", "cat-v2", run),
    row("overwrite_output", True, said, output_dir="<taken>"),
    row("logging_dir", "<elsewhere>", logs),
    row("training_comment", "trigger: cat", run),
    row("save_model_as", "ckpt", run),
    row("save_precision", "bf16", run),
    row("metadata_title", "Cats", run),
    row("metadata_author", "Anna", run),
    row("metadata_description", "Shows cats.", run),
    row("metadata_license", "CC0", run),
    row("metadata_tags", "cat, pet", run),
    row("metadata_trigger_phrase", "sks cat", run),
    # The adapter
    row("LoRA_type", "Kohya LoHa", adapter),
    row("network_weights", "<lora>", adapter, network_dim=2, network_alpha=2),
    row("dim_from_weights", True, lambda s, at: _or_failure(adapter, s, at), network_weights="<lora>", network_dim=6),
    row("network_dim", 6, adapter),
    row("network_alpha", 2, adapter),
    row("conv_dim", 3, adapter, LoRA_type="Kohya LoCon"),
    row("conv_alpha", 3, adapter, LoRA_type="Kohya LoCon"),
    row("network_dropout", 0.5, adapter),
    row("rank_dropout", 0.5, adapter),
    row("module_dropout", 0.5, adapter),
    row("scale_weight_norms", 0.001, run, max_train_steps=2),
    row("LyCORIS_preset", "attn-mlp", adapter, **LOCON),
    row("factor", 2, adapter, **LOKR),
    row("decompose_both", True, adapter, **LOKR),
    row("use_cp", True, adapter, **LOKR),
    row("use_tucker", True, adapter, **LOCON),
    row("dora_wd", True, adapter, **LOCON),
    row("use_scalar", True, adapter, **LOCON),
    row("bypass_mode", True, adapter, **LOCON, rank_dropout=0.5),
    row("train_norm", True, adapter, **LOCON),
    row("rank_dropout_scale", True, adapter, **LOCON, rank_dropout=0.5),
    row("constrain", 0.01, adapter, LoRA_type="LyCORIS/Diag-OFT", network_dim=4, conv_dim=4),
    row("rescaled", True, adapter, LoRA_type="LyCORIS/Diag-OFT", network_dim=4, conv_dim=4),
    row("train_on_input", False, adapter, LoRA_type="LyCORIS/iA3"),
    row("unit", 2, lambda s, at: run(s, at), LoRA_type="Kohya DyLoRA", conv_dim=4, max_train_steps=2),
    row("down_lr_weight", "linear", adapter),
    row("mid_lr_weight", "0.5", adapter),
    row("up_lr_weight", "0.5,0.5,0.5,1,1,1,1,1,1,1,1,1", adapter),
    row("block_lr_zero_threshold", "0.6", adapter, mid_lr_weight="0.5"),
    row("block_dims", BLOCKS, adapter),
    row("block_alphas", BLOCKS, adapter, block_dims=BLOCKS.replace("2", "4")),
    row("conv_block_dims", BLOCKS, adapter, LoRA_type="Kohya LoCon"),
    row("conv_block_alphas", BLOCKS, adapter, LoRA_type="Kohya LoCon", conv_block_dims=BLOCKS.replace("2", "4")),
    # How long, and how fast
    row("train_batch_size", 2, plan),
    row("epoch", 3, plan, max_train_steps=0),
    row("max_train_epochs", 3, plan),
    row("max_train_steps", 7, plan),
    row("seed", 6, run),
    row("learning_rate", 5e-4, rates),
    row("text_encoder_lr", 5e-5, rates),
    row("unet_lr", 5e-5, rates),
    row("loraplus_lr_ratio", 4.0, rates),
    row("loraplus_unet_lr_ratio", 4.0, rates),
    row("loraplus_text_encoder_lr_ratio", 4.0, rates),
    row("lr_scheduler", "linear", rates),
    row("lr_scheduler_type", "CosineAnnealingLR", rates, lr_scheduler="constant", lr_scheduler_args=""),
    row("lr_scheduler_args", "min_lr_rate=0.5", rates, lr_scheduler="cosine_with_min_lr"),
    row("lr_warmup", 50, rates),
    row("lr_warmup_steps", 3, rates),
    row("lr_scheduler_num_cycles", 3, rates, lr_scheduler="cosine_with_restarts"),
    row("lr_scheduler_power", 2, rates, lr_scheduler="polynomial"),
    row("optimizer", "Lion", rates),
    row("optimizer_args", "weight_decay=0.3", rates),
    row("max_grad_norm", 1e-5, run, max_train_steps=3, optimizer="SGDNesterov", learning_rate=1.0),
    row("stop_text_encoder_training", 50, rates),
    # Pictures and captions
    row("max_resolution", "128,128", plan),
    row("enable_bucket", False, plan, **WIDE),
    row("min_bucket_reso", 128, plan, **WIDE),
    row("max_bucket_reso", 192, plan, **WIDE),
    row("bucket_no_upscale", True, plan, max_resolution="256,256", max_bucket_reso=512),
    row("bucket_reso_steps", 8, plan, **WIDE),
    row("cache_latents", False, batches),
    row("cache_latents_to_disk", True, cached),
    row("skip_cache_check", True, cached, cache_latents_to_disk=True),
    row("max_data_loader_n_workers", 5, threads),
    row("persistent_data_loader_workers", False, threads),
    row("train_inpainting", True, batches),
    row("color_aug", True, batches, cache_latents=False, seed=5),
    row("random_crop", True, batches, cache_latents=False),
    row("flip_aug", True, batches),
    row("masked_loss", True, batches, train_data_dir="<clear>"),
    row("alpha_mask", False, batches, train_data_dir="<clear>", masked_loss=True),
    row("conditioning_data_dir", "<masks>", batches, train_data_dir="<clear>", masked_loss=True),
    row("prior_loss_weight", 0.5, batches, reg_data_dir="<reg>"),
    row("caption_extension", ".cap", batches),
    row("shuffle_caption", True, batches),
    row("keep_tokens", 2, batches, **SHUFFLE),
    row("keep_tokens_separator", "|||", batches, **SHUFFLE),
    row("secondary_separator", ";;;", batches, **SHUFFLE),
    row("caption_separator", ";", batches, **SHUFFLE),
    row("caption_prefix", "sks,", batches),
    row("caption_suffix", ", photo", batches),
    row("caption_dropout_rate", 0.5, batches),
    row("caption_dropout_every_n_epochs", 1, batches),
    row("caption_tag_dropout_rate", 0.5, batches),
    row("enable_wildcard", True, batches),
    row("token_warmup_step", 100, batches),
    row("token_warmup_min", 3, batches, token_warmup_step=100),
    row("clip_skip", 2, told),
    row("max_token_length", 150, told),
    row("weighted_captions", True, told),
    # Noise and loss
    row("min_snr_gamma", 1, loss),
    row("debiased_estimation_loss", True, loss),
    row("scale_v_pred_loss_like_noise_pred", True, velocity_loss),
    row("v_pred_like_loss", 0.3, loss),
    row("noise_offset_type", "Multires", loss, multires_noise_iterations=4),
    row("noise_offset", 0.1, loss),
    row("noise_offset_random_strength", True, loss, **OFFSET),
    row("adaptive_noise_scale", 0.1, loss, **OFFSET),
    row("multires_noise_iterations", 2, loss, **MULTIRES),
    row("multires_noise_discount", 0.6, loss, **MULTIRES),
    row("zero_terminal_snr", True, velocity_loss),
    row("ip_noise_gamma", 0.2, loss),
    row("ip_noise_gamma_random_strength", True, loss, ip_noise_gamma=0.2),
    row("min_timestep", 600, loss),
    row("max_timestep", 300, loss),
    row("loss_type", "l1", loss),
    row("huber_schedule", "exponential", loss, **HUBER),
    row("huber_c", 0.3, loss, **HUBER),
    row("huber_scale", 2, loss, **HUBER),
    # The machine
    row("mixed_precision", "bf16", number_format),
    row("full_fp16", True, number_format, mixed_precision="fp16"),
    row("full_bf16", True, number_format, mixed_precision="bf16"),
    row("num_cpu_threads_per_process", 3, processor),
    row("gradient_accumulation_steps", 2, plan),
    row("gradient_checkpointing", True, remade),
    row("fp8_base", True, kept),
    row("fp8_base_unet", True, kept),
    row("lowvram", True, kept),
    row("highvram", True, stays),
    row("xformers", "none", attention_used),
    row("mem_eff_attn", True, attention_used),
    row("vae_batch_size", 3, encoded_at_once),
    row("sdxl_cache_text_encoder_outputs", True, run, **XL),
    row("cache_text_encoder_outputs_to_disk", True, answers_on_disk, **XL, sdxl_cache_text_encoder_outputs=True),
    row("sdxl_no_half_vae", True, vae_format, sdxl=True, pretrained_model_name_or_path="<sdxl>"),
    row("dynamo_backend", "aot_eager", compiled),
    row("dynamo_mode", "max-autotune", compiled, dynamo_backend="inductor"),
    row("dynamo_use_fullgraph", True, compiled, dynamo_backend="aot_eager"),
    row("dynamo_use_dynamic", True, compiled, dynamo_backend="aot_eager"),
    row("num_processes", 2, plan),
    row("multi_gpu", True, launch),
    row("gpu_ids", "1", launch),
    row("num_machines", 2, launch, **MANY),
    row("machine_rank", 1, launch, **MANY, num_machines=2),
    row("main_process_ip", "10.0.0.7", launch, **MANY, num_machines=2),
    row("main_process_port", 29511, launch, **MANY),
    row("extra_accelerate_launch_args", "--num_processes 2 --cpu", launch),
    row("additional_parameters", "--network_dims=7", said),
    # What is kept
    row("save_every_n_epochs", 1, run, epoch=2, max_train_steps=0, train_data_dir="<one>"),
    row("save_every_n_steps", 1, run),
    row("save_last_n_steps", 1, run, **STATES),
    row("save_last_n_steps_state", 1, run, **STATES),
    row("save_last_n_epochs", 1, run, **EPOCHS, max_train_steps=0),
    row("save_last_n_epochs_state", 1, run, **EPOCHS, max_train_steps=0),
    row("save_state", True, run, save_every_n_steps=1),
    row("save_state_on_train_end", True, run),
    row("resume", "<state>", run),
    # Samples
    row("sample_every_n_steps", 1, run, **SAMPLES),
    row("sample_every_n_epochs", 1, run, **SAMPLES, max_train_steps=0, train_data_dir="<one>"),
    row("sample_at_first", True, run, **SAMPLES),
    row("sample_sampler", "heun", run, **SAMPLES, sample_at_first=True),
    row("sample_prompts", "a dog --w 64 --h 64 --s 2 --d 1", run, **SAMPLES, sample_at_first=True),
    # Logging
    row("log_with", "wandb", logged),
    row("wandb_api_key", "0123", logged, log_with="wandb"),
    row("wandb_run_name", "first", logged, log_with="wandb"),
    row("log_config", True, logged, log_with="wandb"),
    row("log_tracker_name", "cats", logged, log_with="wandb"),
    row("log_tracker_config", "<trackers>", logged, log_with="wandb"),
    row("log_prefix", "xl-", logged, logging_dir="<elsewhere>"),
    # The hub
    row("huggingface_repo_id", "bert/cats", uploads, **HUB),
    row("huggingface_token", "hf_y", uploads, **HUB),
    row("huggingface_repo_type", "dataset", uploads, **HUB),
    row("huggingface_repo_visibility", "public", uploads, **HUB),
    row("huggingface_path_in_repo", "v2", uploads, **HUB),
    row("save_state_to_huggingface", True, uploads, **HUB),
    row("async_upload", True, uploads, **HUB),
    row("resume_from_huggingface", "anna/cats/a-state", fetched),
)  # fmt: skip


def _or_failure(see: See, s: Settings, at: Place) -> Any:
    try:
        return see(s, at)
    except Failure as failure:
        return failure.reason


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the table's values in < > stand for."""
    top = tmp_path_factory.mktemp("everything")
    found = {
        name: top / name
        for name in ("data", "one", "reg", "clear", "masks", "elsewhere", "taken", "lora", "state", "out")
    }
    tiny_sd15(top / "model")
    tiny_sd15(top / "other", seed=7)
    tiny_sdxl(top / "sdxl")
    found |= {name: top / name for name in ("model", "other", "sdxl")}
    found["file"] = tiny_single_file(top / "file.safetensors")
    captions = [
        "a cat, grey, tired, old;;;small",
        "{one|two} cats, black ||| standing, tall, proud\na second line",
        "cat; loud, thin",
    ]
    for name, count in (("data", 3), ("one", 1), ("reg", 2), ("clear", 2)):
        inner = top / name / ("1_cat" if name != "reg" else "1_pet")
        inner.mkdir(parents=True)
        for number in range(count):
            picture = noise(*((96, 64), (64, 64), (256, 64))[number], seed=number + len(name))
            if name == "clear":
                picture.putalpha(noise(*picture.size, seed=9).convert("L"))
            picture.save(inner / f"p{number}.png")
            (inner / f"p{number}.txt").write_text(captions[number], encoding="utf-8")
            (inner / f"p{number}.cap").write_text("another caption", encoding="utf-8")
    (top / "masks").mkdir()
    for number in range(2):
        noise(*((96, 64), (64, 64))[number], seed=30 + number).save(top / "masks" / f"p{number}.png")
    config = f"[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = {json.dumps(str(top / 'one' / '1_cat'))}\nnum_repeats = 5\n"
    found["config"] = top / "set.toml"
    found["config"].write_text(config, encoding="utf-8")
    found["trackers"] = top / "trackers.toml"
    found["trackers"].write_text('[wandb]\nentity = "team"\n', encoding="utf-8")
    (top / "taken").mkdir()
    (top / "taken" / "small.safetensors").write_bytes(b"mine")
    first = trainings.settings(found["model"], found["data"], top / "first", max_train_steps=1, save_state_on_train_end=True,
                               network_dim=2, network_alpha=2, seed=4)  # fmt: skip
    trainings.run(first, top / "firstrun")
    found["lora"] = top / "first" / "small.safetensors"
    again = first.changed(output_dir=str(top / "second"), network_dim=4, network_alpha=4)
    trainings.run(again, top / "secondrun")
    (found["state"],) = (top / "second").glob("*-state")
    return found


@pytest.fixture(scope="module")
def seen() -> dict[str, str]:
    """Runs by their settings."""
    return {}


def test_no_setting_is_missing_and_none_is_there_twice() -> None:
    rows = Counter(row.name for row in TABLE)
    assert set(rows) == set(by_name(Settings))
    assert [name for name, count in rows.items() if count > 1] == []


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_changing_a_setting_changes_what_it_should(
    row: Row, places: dict[str, Path], seen: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path / "workspace"))
    at = Place(tmp_path, monkeypatch)

    def settings(**values: Any) -> Settings:
        usual = {"max_train_steps": 2, "seed": 4, "network_alpha": 4}
        if row.see in (plan, rates) and row.name not in ("max_train_steps",):
            usual["max_train_steps"] = 0
        named = {key: _placed(value, places) for key, value in {**usual, **row.under, **values}.items()}
        data = named.pop("train_data_dir", str(places["data"]))
        path = named.pop("pretrained_model_name_or_path", str(places["model"]))
        output = named.pop("output_dir", str(places["out"]))
        return trainings.settings(Path(path), Path(data), Path(output), **named)

    before, after = settings(), settings(**{row.name: row.value})
    assert getattr(before, row.name) != getattr(after, row.name)
    if row.see is run and repr(before) not in seen:  # many rows begin with the same run
        seen[repr(before)] = repr(row.see(before, at))
    was = seen[repr(before)] if row.see is run else repr(row.see(before, at))
    assert was != repr(row.see(after, at))


def _placed(value: Any, places: dict[str, Path]) -> Any:
    if not isinstance(value, str) or not value.startswith("<"):
        return value
    name, _, rest = value[1:].partition(">")
    return f"{places[name]}{rest}"


def _name(see: Any) -> str:
    return str(see.__name__)


@pytest.mark.parametrize(
    "see", sorted({row.see for row in TABLE if _name(row.see) != "<lambda>"}, key=_name), ids=_name
)
def test_what_is_seen_stays_the_same_while_nothing_is_changed(
    see: See, places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the table would show nothing."""
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path / "workspace"))
    s = trainings.settings(places["model"], places["data"], tmp_path / "out", max_train_steps=2, seed=4)
    assert repr(see(s, Place(tmp_path, monkeypatch))) == repr(see(s, Place(tmp_path / "again", monkeypatch)))
