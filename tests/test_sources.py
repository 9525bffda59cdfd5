"""Classes are found by their path in the source, as importing would find them, and nothing is imported."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainer import sources
from trainer.sources import Missing, NoClass, Unclear


@pytest.mark.parametrize(
    "path",
    [
        "torch.optim.AdamW", "torch.optim.adamw.AdamW", "bitsandbytes.optim.AdEMAMix8bit", "pytorch_optimizer.CAME",
        "prodigyplus.ProdigyPlusScheduleFree", "schedulefree.RAdamScheduleFree", "transformers.Adafactor",
        "torch.optim.lr_scheduler.OneCycleLR", "lion_pytorch.Lion", "dadaptation.DAdaptAdam",
    ],
)  # fmt: skip
def test_it_is_the_class_that_importing_gives(path: str) -> None:
    found = sources.find(path)
    module, _, name = path.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    assert (found.module, found.node.name) == (kind.__module__, kind.__name__)
    assert sources.is_a(found, "torch.optim.optimizer.Optimizer") == issubclass(kind, torch.optim.Optimizer)
    made = sources.method(found, "__init__")
    assert made is not None
    takes, parameters = sources.call(made), list(inspect.signature(kind).parameters.values())
    plain = [item for item in parameters if item.kind is not inspect.Parameter.VAR_KEYWORD]
    assert list(takes.names)[: len(plain)] == [item.name for item in plain]
    assert list(takes.required) == [item.name for item in plain if item.default is inspect.Parameter.empty]


def test_only_installed_packages_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lies_about.py").write_text("class Optimizer: ...", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    for path in ("os.PathLike", "lies_about.Optimizer", "trainer.report.Reporter", "nowhere.Here", "json.JSONDecoder"):
        with pytest.raises(Missing) as caught:
            sources.find(path)
        assert caught.value.package == path.partition(".")[0]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package whose files would fail if they were imported."""
    folder = tmp_path / "site-packages" / f"odd_{tmp_path.name.replace('-', '_')}"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def write(folder: Path, **files: str) -> str:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(f"raise SystemExit\n{text}\n", encoding="utf-8")
    return folder.name


def test_names_are_followed_through_every_way_of_importing(package: Path) -> None:
    name = write(
        package,
        __init__="from .one import *\nfrom . import two\ntry:\n    from .gone import A\nexcept ImportError:\n    from .two import A\nB = A",
        one="from .two import A as C\nclass Own(C): pass",
        two="import torch\nclass A(torch.optim.Optimizer):\n    def __init__(self, params, x, *, y, z=1, **more): more['w']",
    )
    for word, place in {"C": "two.A", "Own": "one.Own", "two.A": "two.A"}.items():
        assert sources.find(f"{name}.{word}").path == f"{name}.{place}"
    own = sources.find(f"{name}.Own")
    assert sources.is_a(own, "torch.optim.optimizer.Optimizer")
    made = sources.method(own, "__init__")
    assert made is not None
    assert sources.call(made) == sources.Call(("params", "x", "y", "z", "w"), ("params", "x", "y"), False)


def test_what_the_source_does_not_tell_is_unclear(package: Path) -> None:
    name = write(
        package,
        __init__="from .a import Loop\nMade = make()\ndef function(): ...\nfrom . import a",
        a="from .b import Loop",
        b="from .a import Loop\ndef __getattr__(name): ...",
        broken="class (",
    )
    for word, error in {
        "Made": Unclear,
        "function": NoClass,
        "a": NoClass,
        "b.Any": Unclear,
        "broken.X": Unclear,
    }.items():
        with pytest.raises(error):
            sources.find(f"{name}.{word}")
    with pytest.raises(Missing):  # imports in a circle end
        sources.find(f"{name}.Loop")


def test_nothing_is_imported() -> None:
    code = (
        "import sys\nfrom trainer import sources\n"
        "sources.is_a(sources.find('torch.optim.AdamW'), 'x.Y')\nsources.classes('pytorch_optimizer', 'x.Y')\n"
        "assert not {'torch', 'pytorch_optimizer'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
