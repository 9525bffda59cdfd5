"""Sets LoRA Loom up on first use, then starts it. `python launch.py --help` lists what it can do.

Only the standard library is used. Everything down to the check of the Python version must make sense to every
Python since 3.6, and the rest must at least parse there: an old Python should get a sentence, not a traceback.
"""

import contextlib
import difflib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time

OLDEST, NEWEST = (3, 11), (3, 13)


def python_problem(version: "Sequence[int]", bits: int = 64) -> "str | None":
    """Why this Python cannot be used and what to do about it, or None when it can."""
    if OLDEST <= tuple(version[:2]) <= NEWEST and bits == 64:
        return None
    supported = [f"{OLDEST[0]}.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    found = "{}.{}".format(*version[:2]) + ("" if bits == 64 else f" ({bits} bit)")
    problem = f"LoRA Loom needs Python 3.11, 3.12 or 3.13 (64 bit); this is Python {found}.\n"
    here = [name for name in ("python" + number for number in supported) if shutil.which(name)]
    if here and bits == 64:
        return problem + "This machine seems to have {0}: try `{0} launch.py`.".format(here[0])
    install = {
        "Windows": "Install Python 3.12 from python.org (64 bit), then run: py -3.12 launch.py",
        "Darwin": "Install Python 3.12 from python.org or with `brew install python@3.12`, then: python3.12 launch.py",
    }
    other = (
        "Install one, for example `sudo apt install python3.12 python3.12-venv` (Debian, Ubuntu) or "
        "`sudo dnf install python3.12` (Fedora), then run: python3.12 launch.py"
    )
    return problem + install.get(platform.system(), other)


# Here an unsuitable Python stops; what follows may use what Python 3.11 has.
if __name__ == "__main__":
    _problem = python_problem(sys.version_info[:2], 64 if sys.maxsize > 2**32 else 32)
    if _problem:
        sys.exit(_problem)

import tomllib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parent
Run = Callable[[str, list[str | Path]], None]


@dataclass(frozen=True)
class Command:
    """What one word on the command line starts: a module with its first arguments, and the extras that it needs."""

    module: tuple[str, ...]  # of none, the set-up is all there is to do
    extras: frozenset[str]
    help: str
    uses_card: bool = False
    alone: tuple[str, ...] = ()
    """What the word means when nothing follows it."""


SHARED = ("-n", "logical", "--maxprocesses", "4", "--dist", "loadfile")
"""The whole suite is shared among processes, one a core; for the few tests that somebody names one is enough."""

COMMANDS = {
    "page": Command(("app",), frozenset({"page"}), "open the page (so does no command at all)", True),
    "test": Command(
        ("pytest",), frozenset({"page", "test"}), "run the whole test suite, or: test PYTEST-ARGUMENTS", alone=SHARED
    ),
    "check": Command(("trainer", "check"), frozenset(), "check FILE [--set key=value ...]: say what would be trained"),
    "train": Command(
        ("trainer", "train"), frozenset(), "train FILE [--set key=value ...]: train without the page", True
    ),
    "demo": Command(("trainer", "demo"), frozenset(), "train the demo without the page", True),
    "setup": Command((), frozenset({"page"}), "only set up", True),
}

PAGE_OPTIONS = """\
  --listen ADDR             listen on this address instead of 127.0.0.1; needs --username and --password
  --server_port N           the port, 7860 if not given
  --username NAME           the user name and password that the page asks for; LOOM_USERNAME and LOOM_PASSWORD
  --password WORD             in the environment do the same and are not seen in the list of processes
  --share                   make a public link through gradio's servers; needs --username and --password
  --inbrowser               open the page in the browser
  --workspace DIR           where runs, presets and downloads are kept
  --allow DIR               a further folder that may be used when the page can be reached from other machines"""

HELP = """\
usage: python launch.py [--torch-index-url URL] [COMMAND] [options]

The first use sets everything up in the folder .venv beside this file.

commands:
{commands}

options of the page:
{page_options}

options of the set-up:
  --torch-index-url URL     take PyTorch from here; remembered. For NVIDIA cards on Windows, AMD cards (ROCm), Intel
                            cards (XPU), or a small build without CUDA: the address that the selector on PyTorch's
                            get-started page shows after --index-url. `default` goes back to the usual build.

FILE is a preset of LoRA Loom or of the Kohya GUI (.json), or a sd-scripts configuration (.toml).
""".format(
    commands="\n".join(f"  {word:<8}{command.help}" for word, command in COMMANDS.items()),
    page_options=PAGE_OPTIONS,
)


class Problem(Exception):
    """Something that the person who started us has to know or do; its text is all that is shown."""


def main(arguments: list[str]) -> int:
    """Set up what the command needs, then become that command."""
    try:
        torch_index_url, arguments = take_torch_index_url(arguments)
        if asks_for_help(arguments):
            print(HELP, end="")
            return 0
        command, rest = choose_command(arguments)
        Setup(ROOT, run_step).ensure(command.extras, torch_index_url)
        if command.uses_card:
            say(card_hint(ROOT / ".venv"))
        return become(ROOT, command, rest) if command.module else 0
    except Problem as problem:
        say(str(problem))
        return 2
    except OSError as error:
        say(f"The set-up could not go on: {error}")
        return 2
    except KeyboardInterrupt:
        say("\nStopped. The same command goes on from here.")
        return 130


# ---------------------------------------------------------------------------------------------- the command line


def take_torch_index_url(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The value of --torch-index-url, wherever it stands, and the other arguments."""
    rest = list(arguments)
    for position, argument in enumerate(rest):
        name, equals, value = argument.partition("=")
        if name != "--torch-index-url":
            continue
        if not equals:
            value = rest.pop(position + 1) if position + 1 < len(rest) else ""
        del rest[position]
        if value != "default" and "://" not in value:
            raise Problem(
                "--torch-index-url: needs an address that begins with https:// (the selector on PyTorch's get-started "
                "page shows it after --index-url), or the word default."
            )
        return value, rest
    return None, rest


def asks_for_help(arguments: list[str]) -> bool:
    """Whether this list is wanted; the other commands have a --help of their own."""
    first = arguments[0] if arguments else ""
    of_page = first == "page" or first.startswith("-")
    return first == "help" or (of_page and not {"-h", "--help"}.isdisjoint(arguments))


def choose_command(arguments: list[str]) -> tuple[Command, list[str]]:
    """The command and its arguments. A slip of the pen is found here, before minutes of set-up."""
    if arguments and not arguments[0].startswith("-"):
        word, rest = arguments[0], arguments[1:]
    else:
        word, rest = "page", arguments
    if word not in COMMANDS:
        raise Problem(
            "{!r} is not a command{}. There are: {}.".format(word, nearest(word, COMMANDS), ", ".join(COMMANDS))
        )
    if word == "page":
        known = re.findall(r"^  (--\w+)", PAGE_OPTIONS, re.MULTILINE)
        for option in (argument.partition("=")[0] for argument in rest if argument.startswith("--")):
            if option not in known:
                raise Problem(
                    f"{option} is not an option{nearest(option, known)}. `python launch.py --help` lists them."
                )
    return COMMANDS[word], rest or list(COMMANDS[word].alone)


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean x?` when something known looks like the word."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


# ---------------------------------------------------------------------------------------------- the set-up


class Setup:
    """Keeps `.venv` equal to what pyproject.toml and constraints.txt ask for.

    What was done is written to `.venv/lora-loom.json`. The fingerprint in it is removed before anything is changed and
    written after the last step, so a set-up that was interrupted, or whose requirements changed since, is seen.
    """

    def __init__(self, root: Path, run: Run) -> None:
        self.root, self.run = root, run
        self.venv = root / ".venv"
        self.python = venv_python(self.venv)
        self.state_file = self.venv / "lora-loom.json"

    def ensure(self, extras: frozenset[str], torch_index_url: str | None = None) -> bool:
        """Install what is missing; says whether anything had to be done."""
        if self.is_done(extras, torch_index_url):
            return False
        with only_one_at_a_time(self.root / ".setup.lock"):
            if self.is_done(extras, torch_index_url):
                return False
            self.install(extras, torch_index_url)
        return True

    def is_done(self, extras: frozenset[str], torch_index_url: str | None) -> bool:
        state = self.read_state()
        enough = extras <= set(state.get("extras", []))
        if not enough or self.address(torch_index_url, state) != state.get("torch_from"):
            return False
        version = python_version(self.python)
        return version is not None and state.get("fingerprint") == self.fingerprint(state["extras"], version)

    def install(self, extras: frozenset[str], torch_index_url: str | None) -> None:
        """The steps, in order. Each leaves the state so that the next start goes on after it."""
        state = self.read_state()
        first = not state
        everything = sorted({*state.get("extras", []), *extras})
        say(
            f"Setting up LoRA Loom in {self.venv} (once; 1 to 10 minutes, most of it downloading) ..."
            if first
            else f"Bringing the set-up in {self.venv} up to date ..."
        )
        (self.root / "setup.log").unlink(missing_ok=True)

        fresh = not self.venv_is_usable(state)
        if fresh:
            self.make_venv()
        version = python_version(self.python)
        if version is None:
            raise Problem(f"{self.python} does not start. Delete the folder {self.venv} and run this again.")

        before, address = state.get("torch_from"), self.address(torch_index_url, state)
        self.write_state({"python": version, "extras": everything, "torch_from": before})

        install = [str(self.python), "-I", "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        install += ["--progress-bar", "off"]
        constraints = ["--constraint", str(self.root / "constraints.txt")]
        # PyTorch comes first and exactly: a range, or a package that wants any torch, could bring another build.
        torch = "torch=={}".format(self.pins()["torch"])
        given = torch_index_url if torch_index_url and address else address  # as typed: it may hold a password
        source = ["--index-url", given] if address else constraints
        if not fresh and (before or "") != address:
            self.run("Exchanging PyTorch", [*install, "--force-reinstall", "--no-deps", *source, torch])
        self.run("Installing PyTorch", [*install, *source, torch])
        done = {"python": version, "extras": everything, "torch_from": address}
        self.write_state(done)
        self.run("Installing the rest", [*install, *constraints, *self.requirements(everything)])
        self.run("Trying PyTorch", [self.python, "-I", "-c", "import torch; print(torch.__version__)"])
        self.write_state({**done, "fingerprint": self.fingerprint(everything, version)})
        say("Set up.")

    # -- what is asked for

    def requirements(self, extras: Iterable[str]) -> list[str]:
        """The lines of pyproject.toml: what training needs, then each extra."""
        project = tomllib.loads((self.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        offered = project["optional-dependencies"]
        return sum((offered.get(extra, []) for extra in sorted(extras)), list(project["dependencies"]))

    def pins(self) -> dict[str, str]:
        """The exact version of every package in constraints.txt."""
        text = (self.root / "constraints.txt").read_text(encoding="utf-8")
        return dict(re.findall(r"^([\w.-]+)==([^\s;#]+)", text, re.MULTILINE))

    def fingerprint(self, extras: Iterable[str], version: str) -> str:
        asked = [version, self.requirements(extras), sorted(self.pins().items())]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

    def address(self, torch_index_url: str | None, state: dict[str, Any]) -> str:
        """Where PyTorch is to come from: as said now, else as said before; "" is the usual place. Holds no password."""
        if torch_index_url is None:
            return state.get("torch_from") or ""
        return "" if torch_index_url == "default" else re.sub(r"//[^/@]*@", "//", torch_index_url)

    # -- what is there

    def read_state(self) -> dict[str, Any]:
        try:
            state = json.loads(self.state_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def write_state(self, state: dict[str, Any]) -> None:
        temporary = self.state_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(state, indent=1), encoding="utf-8")
        temporary.replace(self.state_file)

    def venv_is_usable(self, state: dict[str, Any]) -> bool:
        """Whether `.venv` can be built upon: it starts, is of the version that it was made with, and has pip."""
        version = python_version(self.python)
        if (
            version is None
            or python_problem(tuple(map(int, version.split("."))))
            or state.get("python", version) != version
        ):
            return False
        return has_pip(self.python)

    def make_venv(self) -> None:
        """A fresh `.venv`. One that is there and broken is replaced; a folder that is something else is left alone."""
        if self.venv.exists() and any(self.venv.iterdir()) and not (self.venv / "pyvenv.cfg").exists():
            raise Problem(f"{self.venv} is in the way: it is not a virtual environment. Move it, then run this again.")
        if not have_ensurepip():
            name = "python{}.{}-venv".format(*sys.version_info[:2])
            raise Problem(
                "This Python cannot make a virtual environment: its module ensurepip is missing.\n"
                f"On Debian and Ubuntu run `sudo apt install {name}` and then this again."
            )
        self.run("Making the folder .venv", [sys.executable, "-I", "-m", "venv", "--clear", self.venv])


def venv_python(venv: Path) -> Path:
    return venv / "Scripts" / "python.exe" if os.name == "nt" else venv / "bin" / "python"


def python_version(python: Path) -> str | None:
    """`3.11`, asked of that Python itself; None when it does not start, for instance because its base was removed."""
    try:
        ask = [str(python), "-I", "-S", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        return subprocess.run(ask, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def has_pip(python: Path) -> bool:
    return subprocess.run([python, "-I", "-c", "import pip"], capture_output=True, check=False).returncode == 0


def have_ensurepip() -> bool:
    try:
        import ensurepip  # noqa: F401  Debian leaves it out of python3
    except ImportError:
        return False
    return True


# ---------------------------------------------------------------------------------------------- one step, seen


HINTS = (
    (r"No space left|Errno 28|not enough space", "The disk is full: the set-up needs up to 8 GB."),
    (
        r"NewConnection|ConnectionError|ReadTimeout|failure in name resolution|getaddrinfo failed|ProxyError",
        "The package registry could not be reached. With a connection, run the same command again.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError",
        "The connection is not trusted; behind a company proxy, set PIP_CERT to its certificate.",
    ),
    (
        r"No matching distribution found for torch",
        "There is no such PyTorch for this system: it needs Linux, Windows (x64) or macOS 14 on Apple silicon; "
        "with --torch-index-url, an address that has this version (`default` goes back to the usual one).",
    ),
    (
        r"WinError 126|WinError 1114|c10\.dll",
        "Install the Microsoft Visual C++ Redistributable (x64), then run the same command again.",
    ),
    (
        r"WinError 206|path too long|filename or extension is too long",
        "Move this folder to a shorter path, such as C:\\loom.",
    ),
    (
        r"Permission denied|WinError 5\b|Read-only file system",
        "This folder cannot be written to; close what uses it, or move it to a folder of yours.",
    ),
)


def run_step(title: str, command: list[str | Path]) -> None:
    """Run one step with its output in setup.log, and show what it is at; a failure shows its last lines and a hint."""
    log_file, started, live = ROOT / "setup.log", time.monotonic(), sys.stderr.isatty()
    last: deque[str] = deque(maxlen=200)
    if not live:
        say(f"  {title} ...")
    process = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**clean_environment(), "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
    )
    with process, log_file.open("a", encoding="utf-8") as log:
        log.write(f"== {title}\n")
        for line in process.stdout or ():
            log.write(line)
            log.flush()
            last.append(line.rstrip())
            at = re.match(r"\s*(Collecting|Downloading|Building|Installing) \S+( \(.*\))?", line)
            if live and at:
                show(f"  {title} ... {time.monotonic() - started:.0f} s   {at[0].strip()}")
    if process.returncode == 0:
        if live:
            show(f"  {title}: {time.monotonic() - started:.0f} s")
            say("")
        return
    hints = [hint for pattern, hint in HINTS if re.search(pattern, "\n".join(last), re.IGNORECASE)]
    raise Problem(
        "\n".join(
            [
                "",
                *("    " + line for line in list(last)[-12:]),
                f"{title}: this did not work. All of its output is in {log_file}",
                *(hints[:1] or ["Run the same command again; if that does not help, delete the folder .venv first."]),
            ]
        )
    )


def show(line: str) -> None:
    """Write over the current line of the terminal."""
    width = shutil.get_terminal_size().columns - 1
    sys.stderr.write("\r" + line[:width].ljust(width))
    sys.stderr.flush()


def say(text: str | None) -> None:
    """A line for the person; never on standard output, which belongs to the command (`check` prints JSON there)."""
    if text is not None:
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def only_one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock that the system releases when the process ends, however it ends."""
    try:
        file = path.open("a")
    except OSError as error:
        raise Problem(f"{path.parent}: {error.strerror}. Move LoRA Loom to a folder that you may write to.") from error
    with file:
        if not try_lock(file):
            say("Another set-up is running in this folder; waiting for it ...")
            while not try_lock(file):
                time.sleep(1)
        yield


def try_lock(file: TextIO) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # on Windows: taken; elsewhere: a file system without locks, where we have to go without
        return sys.platform != "win32"
    return True


# ---------------------------------------------------------------------------------------------- graphics cards


def card_hint(venv: Path) -> str | None:
    """What to say when there is a card that the installed build of PyTorch cannot use."""
    builds = torch_builds(venv)
    if has_nvidia_card():
        card, name = "An NVIDIA card", "cuda"
    elif has_amd_card():
        card, name = "An AMD card", "hip"
    else:
        return None
    if builds is None or name in builds:
        return None
    return (
        "{} is here, but the installed build of PyTorch cannot use it. To change that, stop and run:\n"
        "    python launch.py --torch-index-url URL\n"
        "with the address that the selector on PyTorch's get-started page shows after --index-url for {}.".format(
            card, {"cuda": "CUDA", "hip": "ROCm"}[name]
        )
    )


def has_nvidia_card() -> bool:
    system32 = Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / "nvidia-smi.exe"
    return bool(shutil.which("nvidia-smi")) or system32.exists() or Path("/proc/driver/nvidia/version").exists()


def has_amd_card() -> bool:
    return Path("/dev/kfd").exists()  # where Linux gives programs access to one; other systems have no such build


def torch_builds(venv: Path) -> set[str] | None:
    """Which of cuda, hip and xpu the installed PyTorch was built for, read without loading it; None without one."""
    for folder in ("lib/python*", "Lib"):
        for file in venv.glob(folder + "/site-packages/torch/version.py"):
            return set(re.findall(r"^(cuda|hip|xpu)\b.*= '.+'", file.read_text(encoding="utf-8"), re.MULTILINE))
    return None


# ---------------------------------------------------------------------------------------------- the command itself


def clean_environment() -> dict[str, str]:
    """Ours, without what would mix the packages of another Python into `.venv`."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def become(root: Path, command: Command, arguments: list[str]) -> int:
    """Run the command with the Python of `.venv`: in our place where the system can do that, else as a child."""
    python = venv_python(root / ".venv")
    # Our packages are found from any folder, and a folder `app` where the person stands is not taken for ours.
    environment = {**clean_environment(), "PYTHONPATH": str(root), "PYTHONSAFEPATH": "1", "PYTHONUTF8": "1"}
    line = [str(python), "-m", *command.module, *arguments]
    if command.module == ("pytest",):
        os.chdir(root)
    if os.name != "nt":
        os.execve(python, line, environment)
    child = subprocess.Popen(line, env=environment)
    while True:
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl+C reaches the child too, and it is the child that ends
            return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
