"""Tokens appear in no file: of a run from the command line, with a tracker and a hub that both fail loudly, and of the page."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app import drafts, presets
from tests import trainings
from tests.tiny import tiny_sd15
from trainer.runfolder import write_json
from trainer.settings import Settings
from trainer.settings.saved import to_kohya

ROOT = Path(__file__).parents[1]
TYPED, FROM_ENVIRONMENT, FROM_FILE = (
    ("hf_Typed", "key0Typed"),
    ("hf_Environment", "key0Environment"),
    ("hf_File", "key0File"),
)
SECRETS = (*TYPED, *FROM_ENVIRONMENT, *FROM_FILE)
TRACKER = """
import os
from types import SimpleNamespace
Image = define_metric = lambda *words, **options: None
def init(**options):
    return SimpleNamespace(log=log, finish=lambda: None, config={}, summary={}, define_metric=define_metric)
def log(values):
    raise RuntimeError(f"the key {os.environ.get('WANDB_API_KEY')} is refused")
"""


def holding(*folders: Path) -> list[str]:
    """Files that hold a secret, in any encoding that text files have."""
    words = [word.encode(encoding) for word in SECRETS for encoding in ("utf-8", "utf-16-le")]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return [file.name for file in files if any(word in file.read_bytes() for word in words)]


def test_a_run_writes_no_token(tmp_path: Path) -> None:
    package, preset = tmp_path / "packages" / "wandb" / "__init__.py", tmp_path / "given" / "preset.json"
    package.parent.mkdir(parents=True)
    package.write_text(TRACKER, encoding="utf-8")
    preset.parent.mkdir()
    model, pictures = tiny_sd15(tmp_path / "model"), trainings.make_pictures(tmp_path / "data")
    s = trainings.settings(
        model, pictures, tmp_path / "out", max_train_steps=1, save_state_on_train_end=True, sample_every_n_steps=1,
        sample_prompts="a cat --w 64 --h 64 --s 1", log_with="all", log_config=True, huggingface_repo_id="me/lora",
    )  # fmt: skip
    write_json(preset, {**to_kohya(s), "huggingface_token": FROM_FILE[0], "wandb_api_key": FROM_FILE[1]})
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "WANDB_"))} | {
        "HF_TOKEN": FROM_ENVIRONMENT[0], "WANDB_API_KEY": FROM_ENVIRONMENT[1],
        "PYTHONPATH": f"{package.parents[1]}{os.pathsep}{ROOT}", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "trainer", "train", str(preset), "--workspace", str(tmp_path / "work")]
    command += ["--huggingface_token", TYPED[0], f"--wandb_api_key={TYPED[1]}"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    log = next((tmp_path / "work").rglob("log.txt")).read_text(encoding="utf-8")
    assert "the key … is refused" in log, "the tracker has said its key"
    assert "could not be uploaded" in log, "the hub was asked"
    assert (tmp_path / "out" / "small-state").is_dir()
    assert holding(tmp_path / "work", tmp_path / "out", tmp_path / "data") == []


def test_the_page_writes_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path))
    flags = f"--seed 3 --huggingface_token {TYPED[0]} --wandb_api_key={TYPED[1]}"
    s = Settings(huggingface_token=TYPED[0], wandb_api_key=TYPED[1], additional_parameters=flags)
    kept = presets.save("mine", s)
    drafts.save("aaaaaaaa11111111", "train", Settings, s.model_dump())
    assert kept.is_file()
    assert len(list((tmp_path / "drafts").iterdir())) == 1
    assert holding(tmp_path) == []
