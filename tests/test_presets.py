"""Every preset that comes with the program says what it is for, changes only what it names, and could be trained."""

import json
import re
from pathlib import Path

import pytest

from app.presetbar import STAYS
from app.presets import available
from tests.data.made import write
from tests.tiny import tiny_folder
from trainer.checks import check
from trainer.settings import Settings
from trainer.settings.kohya import load

ROOT = Path(__file__).parents[1]
PRESETS = sorted((ROOT / "presets").glob("*.json"))
SET = [
    f"{family} {kind} {size} GB"
    for family in ("SD1.5", "SDXL")
    for kind in ("character", "style", "object")
    for size in (8, 12, 24)
]


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_loads_whole(path: Path) -> None:
    report = load(path)
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert len(report.description) > 80
    assert not report.problems
    assert not report.ignored
    assert not report.changed
    assert set(report.values) == set(raw) - {"description"}


def test_there_is_one_for_each_family_kind_and_card() -> None:
    assert {*SET, "demo"} <= {path.stem for path in PRESETS}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: tiny_folder(folder / name, family) for name, family in (("SD1.5", "sd15"), ("SDXL", "sdxl"))}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write(folder / "10_cat", one=(96, 64), two=(64, 96))
    return folder


@pytest.mark.parametrize("name", SET)
def test_a_preset_could_be_trained(name: str, models: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    """With a model of its family, your folders and nothing else, there is no problem with it."""
    family = name.split()[0]
    values = load(ROOT / "presets" / f"{name}.json").values
    assert not set(values) & set(STAYS)
    s = Settings(
        **values,
        pretrained_model_name_or_path=str(models[family]),
        train_data_dir=str(pictures),
        output_dir=str(tmp_path),
    )
    assert [str(problem) for problem in check(s)] == []


@pytest.mark.parametrize("name", SET)
def test_a_preset_keeps_to_what_all_of_them_say(name: str) -> None:
    """Four pictures a step; what is cached is neither shuffled nor dropped nor trained."""
    s = load(ROOT / "presets" / f"{name}.json").settings
    assert s.train_batch_size * s.gradient_accumulation_steps == 4
    assert s.sdxl == name.startswith("SDXL")
    assert s.network_alpha * 2 == s.network_dim
    if s.sdxl_cache_text_encoder_outputs:
        assert (s.shuffle_caption, s.caption_dropout_rate, s.text_encoder_lr, s.stop_text_encoder_training) == (
            False,
            0.0,
            0.0,
            0,
        )


@pytest.mark.parametrize("name", SET)
def test_the_table_of_memory_is_about_these_numbers(name: str) -> None:
    page = (ROOT / "docs" / "presets.md").read_text(encoding="utf-8")
    (row,) = (line.split("|")[2:-1] for line in page.splitlines() if line.startswith(f"| {name} |"))
    precision, pixels, batch, rank, checkpointing, *sizes = (cell.strip() for cell in row)
    s = load(ROOT / "presets" / f"{name}.json").settings
    assert precision == s.mixed_precision + ", fp8 base" * s.fp8_base
    assert s.max_resolution == f"{pixels},{pixels}"
    assert batch == f"{s.train_batch_size} × {s.gradient_accumulation_steps}"
    assert rank == f"{s.network_dim}" + f" + {s.conv_dim}" * (s.LoRA_type == "Kohya LoCon")
    assert checkpointing == ("yes" if s.gradient_checkpointing else "no")
    *parts, total = (float(re.sub(r"[^\d.]", "", size)) for size in sizes)
    assert total == pytest.approx((sum(parts) + 1536) / 1024, abs=0.1)
    assert total < float(name.split()[2]) * 0.8


def test_the_page_lists_small_cards_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path))
    names = [name.removesuffix(" (built in)") for name, _ in available()]
    assert [name for name in names if name.startswith("SDXL style")] == [
        "SDXL style 8 GB",
        "SDXL style 12 GB",
        "SDXL style 24 GB",
    ]
