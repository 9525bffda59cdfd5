"""Dockerfile and compose.yaml, as far as they can be judged without Docker: what they name exists and fits together."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import launch

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def instructions(name: str) -> list[str]:
    """The arguments of every such instruction, continued lines joined."""
    joined = re.sub(r"\\\n", " ", DOCKERFILE)
    return re.findall(rf"^{name} (.*)$", joined, re.MULTILINE)


def test_copied_files_exist_and_are_not_ignored() -> None:
    copied = [word for line in instructions("COPY") for word in line.split()[:-1] if not word.startswith("--")]
    assert {"launch.py", "pyproject.toml", "constraints.txt"} <= set(copied)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for name in [*copied, "app", "trainer", "presets"]:
        assert (ROOT / name).exists()
        assert name not in ignored


def test_secrets_and_what_was_made_here_stay_out_of_the_image() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", ".env", "workspace", "*.log"} <= set(ignored)


def test_the_image_runs_a_supported_python_as_an_ordinary_user() -> None:
    version = tuple(map(int, re.findall(r"python:(\d+)\.(\d+)", instructions("FROM")[0])[0]))
    assert launch.python_problem(version) is None
    assert instructions("USER") == ["loom"]
    assert DOCKERFILE.index("USER loom") < DOCKERFILE.index("launch.py setup")


def test_what_the_image_starts_is_a_command_of_launch() -> None:
    words = re.findall(r'"([^"]+)"', instructions("CMD")[0])
    assert words[:2] == ["python", "launch.py"]
    launch.choose_command(words[2:])
    assert "--listen" in words, "127.0.0.1 of a container cannot be reached from outside"
    assert any("launch.py setup" in line for line in instructions("RUN"))


def test_the_health_check_asks_for_something_that_needs_no_login() -> None:
    from app.gate import OPEN

    assert re.findall(r"http://127\.0\.0\.1:7860(/[\w/]+)", DOCKERFILE) == sorted(OPEN)


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_services(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["init"] is True
    assert service["ports"] == ["${LOOM_ADDRESS:-127.0.0.1}:7860:" + instructions("EXPOSE")[0]]
    assert {line.rsplit(":", 1)[1] for line in service["volumes"]} == {
        "/workspace",
        "/workspace/models",
        "/workspace/datasets",
    }
    assert set(service["build"]["args"]) == {line.partition("=")[0] for line in instructions("ARG")}
    for variable in ("LOOM_USERNAME", "LOOM_PASSWORD"):
        assert service["environment"][variable].startswith("${" + variable + ":?"), "must be set, and has no default"


def test_only_the_gpu_service_reserves_a_card_and_waits_to_be_named() -> None:
    cpu, gpu = COMPOSE["services"]["cpu"], COMPOSE["services"]["gpu"]
    assert gpu["profiles"] == ["gpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]
    assert not {"profiles", "deploy"} & set(cpu)


def test_the_folders_of_the_image_are_the_workspace() -> None:
    from trainer.workspace import VARIABLE, Workspace

    assert f"{VARIABLE}=/workspace" in DOCKERFILE
    inside = Workspace(Path("/workspace"))
    targets = {line.rsplit(":", 1)[1] for line in COMPOSE["services"]["cpu"]["volumes"]}
    assert {folder.as_posix() for folder in (inside.root, inside.models, inside.datasets)} == targets


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    text = script.read_text(encoding="utf-8")
    assert "LOOM_REQUIRE_BROWSER=1 python3 launch.py test" in text
    assert "python launch.py test" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n")


def test_git_would_not_take_what_is_made_here() -> None:
    made = [".venv/lora-loom.json", ".setup.lock", "setup.log", "workspace/runs/x/status.json", ".env"]
    sources = ["trainer/models/sd.py", "trainer/data/folders.py", "docs/page.png", "trainer/demo/base.safetensors"]
    listed = subprocess.run(
        ["git", "check-ignore", "--no-index", *made, *sources], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode > 1:
        pytest.skip("this copy is no git repository")
    assert listed.stdout.split() == made
