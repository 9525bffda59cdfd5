"""pyproject.toml, constraints.txt and the machine agree: everything that is installed is pinned, and as pinned."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from launch import COMMANDS, NEWEST, OLDEST, Setup, run_step

ROOT = Path(__file__).resolve().parent.parent
SETUP = Setup(ROOT, run_step)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = {canonicalize_name(name): Version(version) for name, version in SETUP.pins().items()}
# The extras that some command installs; what people install by themselves is not pinned.
EXTRAS = frozenset[str]().union(*(command.extras for command in COMMANDS.values()))
ASKED = [Requirement(line) for line in SETUP.requirements(EXTRAS)]
# What PyTorch brings for a graphics card differs from build to build; it pins that itself.
CARDS = ("nvidia-", "cuda-", "triton", "pytorch-triton", "intel-", "rocm", "onemkl-", "tbb", "umf", "tcmlib", "dpcpp-")


def needed(requirement: Requirement, seen: set[tuple[str, str]]) -> Iterator[NormalizedName]:
    """The names of what a requirement brings on this machine, itself included."""
    name = canonicalize_name(requirement.name)
    for extra in sorted(requirement.extras) or [""]:
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        yield name
        for line in distribution(name).requires or []:
            inner = Requirement(line)
            if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                yield from needed(inner, seen)


@pytest.mark.parametrize("requirement", ASKED, ids=lambda requirement: requirement.name)
def test_every_requirement_has_a_pin_in_its_range(requirement: Requirement) -> None:
    assert PINS[canonicalize_name(requirement.name)] in requirement.specifier


def test_everything_that_is_installed_is_pinned_and_as_pinned() -> None:
    seen: set[tuple[str, str]] = set()
    names = {name for asked in ASKED if not asked.marker or asked.marker.evaluate() for name in needed(asked, seen)}
    names = {name for name in names if not name.startswith(CARDS)}
    assert len(names) > 80
    for name in sorted(names):
        assert name in PINS, f"{name} is installed and not in constraints.txt"
        installed = Version(distribution(name).version)
        assert Version(installed.public) == PINS[name], f"{name} {installed} is installed, {PINS[name]} is pinned"


def test_nothing_is_pinned_that_nobody_needs() -> None:
    elsewhere = {"audioop-lts", "colorama", "bitsandbytes", "hf-xet"}  # needed by some systems and Pythons only
    seen: set[tuple[str, str]] = set()
    here = {name for asked in ASKED if not asked.marker or asked.marker.evaluate() for name in needed(asked, seen)}
    assert set(PINS) - here - elsewhere == set()


def test_pins_are_exact_and_sorted() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(PINS)
    assert lines == sorted(lines, key=str.lower)


def test_the_python_versions_are_the_same_everywhere() -> None:
    """launch.py refuses what pyproject.toml does not admit, and both name what is tested."""
    from packaging.specifiers import SpecifierSet

    admitted = SpecifierSet(PROJECT["requires-python"])
    for minor in range(5, 20):
        assert (OLDEST <= (3, minor) <= NEWEST) == (f"3.{minor}.4" in admitted)
    named = {line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if "Python :: 3." in line}
    assert named == {f"3.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1)}


@pytest.mark.parametrize("name", ["timm", "open-clip-torch", "torchvision", "torchaudio", "torchao"])
def test_packages_that_bring_another_torch_stay_out(name: str) -> None:
    assert canonicalize_name(name) not in PINS
    with pytest.raises(PackageNotFoundError):
        distribution(name)


def test_every_command_asks_for_extras_that_exist() -> None:
    for command in COMMANDS.values():
        assert command.extras <= set(PROJECT["optional-dependencies"])
