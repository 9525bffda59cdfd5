"""Models of real size with random weights: they load offline from one file, train a step, and are saved in full."""

import os
from pathlib import Path

import pytest

from benchmarks.real_size import measure


@pytest.mark.slow
@pytest.mark.skipif(
    "LOOM_LARGE_TESTS" not in os.environ, reason="takes gigabytes of disk and memory: set LOOM_LARGE_TESTS"
)
@pytest.mark.parametrize(("family", "kind", "dtype"), [("sd15", "Standard", "no"), ("sd15", "Kohya LoCon", "no"),
                                                       ("sdxl", "Standard", "bf16")])  # fmt: skip
def test_a_file_of_real_size_trains(
    tmp_path: Path, family: str, kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`measure` ends with an error when the saved layers are not those of the reference."""
    from trainer import train

    for name in ("load_model", "attach", "choose_precision"):
        monkeypatch.setattr(train, name, getattr(train, name))  # put back what `measure` replaces
    monkeypatch.setattr(train.Objective, "__call__", train.Objective.__call__)
    for name in ("backward", "step"):
        monkeypatch.setattr(train.Learner, name, getattr(train.Learner, name))
    measure(tmp_path, family, kind, 64, dtype)
