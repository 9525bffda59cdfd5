"""Sample pictures, equal to those of diffusers' own pipeline, and the painter that draws them in a run."""

import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny import tiny_folder, tiny_model, tiny_sd15
from trainer.adapters import attach
from trainer.conditioning import Conditioning
from trainer.declare import by_name
from trainer.devices import Precision
from trainer.models import Model, load_model
from trainer.prompts import Prompt, parse_prompts
from trainer.report import Reporter
from trainer.runfolder import PROMPTS
from trainer.sample import Painter, make_scheduler, render, sized
from trainer.samplers import NAMES, SAMPLERS
from trainer.settings import Settings

CPU = Precision(torch.device("cpu"))

# Pictures.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd15(tmp_path_factory.mktemp("model"))


def settings(folder: Path, **values: Any) -> Settings:
    return Settings(pretrained_model_name_or_path=str(folder), network_dim=4, network_alpha=4, **values)


@pytest.fixture
def model(folder: Path, report: Reporter) -> Model:
    return load_model(settings(folder), report, CPU.device, CPU.dtype)


def pipeline(folder: Path, sampler: str, model: Model) -> Any:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = make_scheduler(sampler, model.scheduler_config, model.prediction_type)
    return pipe


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_pictures_are_those_of_diffusers(sampler: str, folder: Path, model: Model) -> None:
    prompt = Prompt("a cat", "blurry", 64, 72, seed=3, guidance=4.0, steps=6, sampler=sampler)
    ours = render(model, prompt, settings(folder))
    theirs = pipeline(folder, sampler, model)(
        prompt.text, negative_prompt=prompt.negative, width=64, height=72, guidance_scale=4.0, num_inference_steps=6,
        generator=torch.Generator().manual_seed(3),
    ).images[0]  # fmt: skip
    assert ours.size == (64, 72)
    assert np.abs(array(ours) - array(theirs)).max() <= 1


def test_the_samplers_are_those_of_the_kohya_gui() -> None:
    names = (
        "ddim pndm lms euler euler_a heun dpm_2 dpm_2_a dpmsolver dpmsolver++ dpmsingle "
        "k_lms k_euler k_euler_a k_dpm_2 k_dpm_2_a"
    )
    assert by_name(Settings)["sample_sampler"].choices == tuple(names.split())


@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_steps_from_noise_to_a_picture(name: str, folder: Path, model: Model) -> None:
    picture = render(
        model, Prompt("a cat", seed=1, width=64, height=64, steps=3), settings(folder, sample_sampler="ddim")
    )
    other = render(
        model,
        Prompt("a cat", seed=1, width=64, height=64, steps=3, sampler=name),
        settings(folder, sample_sampler="ddim"),
    )
    assert (name == "ddim") == (picture.tobytes() == other.tobytes())
    chosen = render(model, Prompt("a cat", seed=1, width=64, height=64, steps=3), settings(folder, sample_sampler=name))
    assert chosen.tobytes() == other.tobytes()


def test_without_guidance_there_is_one_prediction(folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    real = model.unet.forward

    def forward(x: torch.Tensor, *rest: Any, **more: Any) -> Any:
        sizes.append(len(x))
        return real(x, *rest, **more)

    monkeypatch.setattr(model.unet, "forward", forward)
    render(model, Prompt("a cat", width=64, height=64, seed=1, guidance=1.0, steps=2), settings(folder))
    render(model, Prompt("a cat", width=64, height=64, seed=1, guidance=2.0, steps=2), settings(folder))
    assert sizes == [1, 1, 2, 2]


def test_v_prediction_is_passed_on(model: Model) -> None:
    assert make_scheduler("euler_a", model.scheduler_config, "v_prediction").config.prediction_type == "v_prediction"


def test_drawing_uses_no_randomness_but_the_prompts_seed(folder: Path, model: Model) -> None:
    prompt = Prompt("a cat", width=64, height=64, seed=9, steps=3, sampler="euler_a")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = render(model, prompt, settings(folder))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert one.tobytes() == render(model, prompt, settings(folder)).tobytes()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_can_start_from_pure_noise(sampler: str, folder: Path, model: Model) -> None:
    scheduler = make_scheduler(sampler, model.scheduler_config, "v_prediction", zero_snr=True)
    scheduler.set_timesteps(8)
    assert int(scheduler.timesteps[0]) == 999
    assert scheduler.alphas_cumprod[-1] == pytest.approx(2**-24, rel=0.05)
    s = settings(folder, zero_terminal_snr=True, sample_sampler=sampler)
    assert render(model, Prompt("a cat", width=64, height=64, seed=9, steps=2), s).size == (64, 64)


@pytest.mark.parametrize(
    ("sampler", "kind"), [("euler", "EulerDiscreteScheduler"), ("dpmsolver++", "DPMSolverMultistepScheduler")]
)
def test_zero_terminal_snr_is_what_diffusers_makes_of_it(sampler: str, kind: str, model: Model) -> None:
    from diffusers import schedulers

    ours = make_scheduler(sampler, model.scheduler_config, "v_prediction", zero_snr=True)
    names = ("beta_start", "beta_end", "beta_schedule", "prediction_type", "timestep_spacing")
    options = {name: ours.config[name] for name in names}
    theirs = getattr(schedulers, kind)(**options, rescale_betas_zero_snr=True)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(10)
    assert torch.equal(torch.as_tensor(ours.timesteps), torch.as_tensor(theirs.timesteps))
    assert torch.allclose(torch.as_tensor(ours.sigmas), torch.as_tensor(theirs.sigmas), rtol=0.02)


def test_decoding_falls_back_to_tiles_when_memory_is_short(
    folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, used = model.vae.decode, []

    def decode(latents: torch.Tensor, **options: Any) -> Any:
        used.append(model.vae.use_tiling)
        if not model.vae.use_tiling:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(latents, **options)

    monkeypatch.setattr(model.vae, "decode", decode)
    picture = render(model, Prompt("a cat", width=128, height=64, seed=9, steps=1), settings(folder))
    assert picture.size == (128, 64)
    assert used == [False, True]
    assert not model.vae.use_tiling


def test_long_prompts_are_read_as_in_training(folder: Path, model: Model) -> None:
    long = "a cat, " * 60
    short_read, long_read = (
        render(model, Prompt(long, width=64, height=64, seed=9, steps=2), settings(folder, max_token_length=length))
        for length in (75, 150)
    )
    assert short_read.tobytes() != long_read.tobytes()


def test_weights_in_prompts_change_the_picture_and_brackets_can_be_plain(folder: Path, model: Model) -> None:
    def drawn(text: str, negative: str = "", **values: Any) -> bytes:
        prompt = Prompt(text, negative, width=64, height=64, seed=9, steps=2)
        return render(model, prompt, settings(folder, **values)).tobytes()

    plain = drawn("a red cat")
    assert drawn("a (red:1.0) cat") == plain
    assert drawn("a red cat", weighted_captions=True) == plain
    assert (
        len(
            {
                plain,
                drawn("a (red:1.3) cat"),
                drawn("a [red] cat"),
                drawn("a red cat", "(dog:1.4)"),
                drawn(r"a \(red\) cat"),
            }
        )
        == 5
    )
    assert drawn("a (red:1.3) cat", weighted_captions=True) == drawn("a (red:1.3) cat")


# The run's painter.


def painter(folder: Path, model: Model, report: Reporter, prompts: str, **values: Any) -> Painter:
    s = settings(folder, sample_prompts=prompts, output_name="small", **values)
    adapter = attach(model, s, report)
    learner: Any = SimpleNamespace(adapter=adapter, precision=CPU, optimizer=torch.optim.SGD(adapter.unet_parameters))
    return Painter(s, report, model, Conditioning(model, s, CPU, adapter), learner)


def test_prompts_without_a_seed_keep_the_one_they_get(folder: Path, model: Model, report: Reporter) -> None:
    first = painter(folder, model, report, "a cat\na dog\na cat --d 4")
    seeds = [prompt.seed for prompt in first.prompts]
    assert len(set(seeds)) == 3
    assert seeds[2] == 4
    again = painter(folder, load_model(settings(folder), report, CPU.device, CPU.dtype), report, "a cat\na dog")
    assert [prompt.seed for prompt in again.prompts] == seeds[:2]


def test_the_newest_prompts_are_drawn(folder: Path, model: Model, report: Reporter) -> None:
    from trainer import events
    from trainer.checkpoint import Progress

    first = painter(folder, model, report, "a cat --w 64 --h 64 --s 1")
    first.draw(Progress(step=1))
    (report.folder / PROMPTS).write_text("a bird --w 64 --h 64 --s 1 --g 2\nan owl --w x\n", "utf-8")
    for step in (2, 3):
        first.draw(Progress(step=step))
    (report.folder / PROMPTS).write_text("", "utf-8")
    first.draw(Progress(step=4))
    found = events.read(report.folder / "events.jsonl")[0]
    drawn = [(event.step, event.prompt) for event in found if isinstance(event, events.Sample)]
    assert drawn == [(1, "a cat"), (2, "a bird"), (3, "a bird")]
    seeds = {event.seed for event in found if isinstance(event, events.Sample)}
    assert len(seeds) == 1, "a prompt's place decides"
    assert [event.text for event in found if isinstance(event, events.Note)] == [
        "Sample prompts: Line 2: --w must be followed by a whole number, not 'x'. It is left out.",
        "Sample prompts: Line 1: --g has no effect: it is the guidance of Flux models.",
    ], "said once"


@pytest.mark.parametrize(("values", "steps"), [({}, [2, 4]), ({"sample_every_n_epochs": 2}, [5])])
def test_by_epochs_wins_over_by_steps(
    folder: Path,
    model: Model,
    report: Reporter,
    monkeypatch: pytest.MonkeyPatch,
    values: dict[str, int],
    steps: list[int],
) -> None:
    from trainer import events, sample
    from trainer.checkpoint import Progress

    monkeypatch.setattr(sample, "render", lambda *others: Image.new("RGB", (8, 8)))
    drawing = painter(folder, model, report, "a cat", sample_every_n_steps=2, **values)
    for step in range(1, 6):
        drawing.after_step(Progress(step=step))
    drawing.after_epoch(Progress(step=5, epoch=2))
    found = events.read(report.folder / "events.jsonl")[0]
    assert [event.step for event in found if isinstance(event, events.Sample)] == steps


def test_trouble_with_one_picture_is_a_note(
    folder: Path, model: Model, report: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer import events, sample
    from trainer.checkpoint import Progress

    def draw(model: Model, prompt: Prompt, *others: Any) -> Image.Image:
        if prompt.text == "huge":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(sample, "render", draw)
    painter(folder, model, report, "huge\nsmall --d 5").draw(Progress(step=12))
    found = events.read(report.folder / "events.jsonl")[0]
    notes = [event.text for event in found if isinstance(event, events.Note)]
    assert notes == [
        "Sample 1 could not be drawn: there was not enough memory for it; make it smaller with --w and --h."
    ]
    (drawn,) = (event for event in found if isinstance(event, events.Sample))
    assert (drawn.index, drawn.step, drawn.seed) == (1, 12, 5)
    path = report.folder / drawn.path
    assert path.name.startswith("small_000012_01_")
    text = Image.open(path).text["parameters"]  # type: ignore[attr-defined]
    (again,) = parse_prompts(text).prompts
    assert again == Prompt("small", seed=5, width=512, height=512, sampler="euler_a"), "it can be used as a prompt"


def test_a_disk_that_is_full_and_errors_of_any_kind_are_notes_too(
    folder: Path, model: Model, report: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other pictures are drawn, and no half of a picture is left lying about."""
    from trainer import events, sample
    from trainer.checkpoint import Progress

    real = Path.open

    def full(path: Path, mode: str = "r", *others: Any, **more: Any) -> Any:
        if "_01_" in path.name and "w" in mode:
            real(path, mode, *others, **more).write(b"half a picture")
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, mode, *others, **more)

    def draw(model: Model, prompt: Prompt, *others: Any) -> Image.Image:
        if prompt.text == "odd":
            raise IndexError("list index out of range")
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(sample, "render", draw)
    monkeypatch.setattr(Path, "open", full)
    painter(folder, model, report, "odd\na cat\na dog").draw(Progress(step=3))
    monkeypatch.undo()
    found = events.read(report.folder / "events.jsonl")[0]
    notes = [event.text for event in found if isinstance(event, events.Note)]
    assert notes[0] == "Sample 1 could not be drawn: list index out of range."
    assert notes[1].startswith("Sample 2 could not be drawn: The disk is full")
    assert [event.prompt for event in found if isinstance(event, events.Sample)] == ["a dog"]
    (picture,) = report.samples.iterdir()
    assert "_02_" in picture.name


# Other families.

FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "sd2 v": ("StableDiffusionPipeline", {"family": "sd2", "prediction": "v_prediction"}, {}),
    "sdxl": ("StableDiffusionXLPipeline", {"family": "sdxl"}, {}),
    "sdxl v": ("StableDiffusionXLPipeline", {"family": "sdxl", "prediction": "v_prediction"}, {}),
    "inpainting": ("StableDiffusionInpaintPipeline", {"inpainting": True}, {"train_inpainting": True}),
    "sdxl inpainting": (
        "StableDiffusionXLInpaintPipeline", {"family": "sdxl", "inpainting": True}, {"train_inpainting": True}
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "sampler"), [*((kind, "euler_a") for kind in FAMILIES), ("sd2 v", "ddim")])
def test_pictures_of_other_families_are_those_of_diffusers(
    kind: str, sampler: str, tmp_path: Path, report: Reporter
) -> None:
    import diffusers

    name, which, values = FAMILIES[kind]
    folder = tiny_folder(tmp_path / "model", **which)
    s = settings(folder, **values)
    model = load_model(s, report, CPU.device, CPU.dtype)
    ours = render(model, Prompt("a cat", "blurry", 64, 96, seed=3, guidance=4.0, steps=4, sampler=sampler), s)

    pipe = getattr(diffusers, name).from_pretrained(str(folder), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = make_scheduler(sampler, model.scheduler_config, model.prediction_type)
    whole = {}
    if "inpainting" in kind:
        whole = {"image": Image.new("RGB", (64, 96)), "mask_image": Image.new("L", (64, 96), 255), "strength": 1.0}
    theirs = pipe(
        "a cat", negative_prompt="blurry", width=64, height=96, guidance_scale=4.0, num_inference_steps=4,
        generator=torch.Generator().manual_seed(3), **whole,
    ).images[0]  # fmt: skip
    assert np.abs(array(ours) - array(theirs)).max() <= 1
    assert array(ours).std() > 1


@pytest.mark.parametrize(("family", "prediction", "side"), [("sdxl", "epsilon", 1024), ("sd2", "v_prediction", 768),
                                                            ("sd2", "epsilon", 512), ("sd15", "epsilon", 512)])  # fmt: skip
def test_a_prompt_without_a_size_gets_the_models_own(family: str, prediction: str, side: int) -> None:
    from trainer.models.configs import CONFIGS

    model = tiny_model(family=family, prediction=prediction)
    config = json.loads((CONFIGS[family] / "unet" / "config.json").read_text(encoding="utf-8"))
    model.unet.register_to_config(sample_size=config["sample_size"])
    found = sized(Prompt("a cat", width=96), model)
    assert (found.width, found.height) == (96, side)
    assert sized(Prompt("a cat", width=96, height=64), model).height == 64


def test_a_vae_that_overflows_in_half_precision_goes_on_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family="sdxl", inpainting=True)
    model.vae.half()
    used: list[torch.dtype] = []
    for name in ("encode", "decode"):
        real = getattr(model.vae, name)

        def overflow(x: torch.Tensor, real: Any = real, name: str = name, **options: Any) -> Any:
            used.append(model.vae.dtype)
            return real(x * float("inf") if model.vae.dtype == torch.float16 else x, **options)

        monkeypatch.setattr(model.vae, name, overflow)
    s = Settings()
    picture = render(model, Prompt("a cat", width=64, height=64, seed=9, steps=1), s)
    assert used == [torch.float16, torch.float32, torch.float32]
    assert array(picture).std() > 1
