"""What the machine can do is known without loading torch into the page."""

import json
import subprocess
import sys
from dataclasses import asdict
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from trainer import hardware
from trainer.hardware import Hardware, built_for_the_processor, look


def test_asked_in_another_process_it_says_the_same() -> None:
    done = subprocess.run([sys.executable, "-m", "trainer.hardware"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == asdict(look())


@pytest.mark.parametrize(
    ("text", "processor"),
    [
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\nxpu: Optional[str] = None\n", True),
        ("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\nxpu: Optional[str] = None\n", False),
        ("cuda = None\nhip = '7.1'\nxpu = None\n", False),
        ("__version__ = '9'\n", False),
    ],
)
def test_a_build_without_accelerators_is_seen_in_its_version_file(tmp_path: Path, text: str, processor: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version.py").write_text(text, encoding="utf-8")
    spec = ModuleSpec("torch", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    assert built_for_the_processor() is processor


def test_a_torch_that_does_not_start_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(args, 1, stdout="", stderr="DLL load failed")

    monkeypatch.setattr(hardware, "built_for_the_processor", lambda: False)
    monkeypatch.setattr(subprocess, "run", broken)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "torch")
    hardware._answer.cache_clear()
    try:
        assert hardware.hardware() == Hardware()
    finally:
        hardware._answer.cache_clear()
