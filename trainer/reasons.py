"""Why a run ended, in words: from an exception, an exit code or the last lines of a log to a reason and a way out."""

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """What happened, and what to do about it; each a sentence or empty."""

    text: str
    advice: str = ""


LESS_MEMORY = (
    "Lower Train batch size or Max resolution, switch on Cache latents and Gradient checkpointing, "
    "choose AdamW8bit, or close other programs."
)
KNOWN: tuple[tuple[str, Reason], ...] = (
    (
        r"(CUDA|HIP|XPU|MPS).{0,40}out of memory|OutOfMemoryError|ERROR_OUT_OF_MEMORY|CUBLAS_STATUS_ALLOC_FAILED",
        Reason("The graphics card ran out of memory.", LESS_MEMORY),
    ),
    (
        r"can't allocate memory|Cannot allocate memory|\bMemoryError\b",
        Reason("The machine ran out of memory.", LESS_MEMORY),
    ),
    (
        r"No space left on device|not enough space on the disk|Disk quota exceeded",
        Reason("The disk is full.", "Free some space; everything that was saved before is still there."),
    ),
    (
        r"Read-only file system|PermissionError|Permission denied",
        Reason(
            "A file or folder may not be written.",
            "Choose another Output directory for trained model, or allow writing there.",
        ),
    ),
    (
        r"LocalEntryNotFoundError|couldn't connect to|Connection error|Name or service not known|Failed to resolve",
        Reason(
            "Something had to be downloaded and there is no connection.",
            "Connect this machine, or download it elsewhere and give its path.",
        ),
    ),
    (
        r"ModuleNotFoundError|ImportError",
        Reason("A part of the program is not installed.", "Run `python launch.py` once more; it repairs the set-up."),
    ),
)
"""Patterns of error messages, the first that fits counts."""

SIGNALS = {
    "SIGKILL": Reason("It was killed from outside, most likely because the machine ran out of memory.", LESS_MEMORY),
    "SIGTERM": Reason("It was asked to end from outside, for example because the machine was shut down."),
    "SIGINT": Reason("It was interrupted from outside."),
    "SIGHUP": Reason("Its terminal was closed."),
    "SIGSEGV": Reason("It crashed inside a native library.", "Another driver or another build of torch may help."),
    "SIGBUS": Reason("It crashed while reading a file or memory.", "The disk may be full or a model file damaged."),
    "SIGILL": Reason("It used an instruction this processor does not have.", "Another build of torch may help."),
    "SIGABRT": Reason("A native library gave up.", "The log says why."),
    "SIGFPE": Reason("It crashed inside a native library.", "The log says more."),
}
WINDOWS_CODES = {
    0xC0000005: SIGNALS["SIGSEGV"],
    0xC0000374: SIGNALS["SIGSEGV"],
    0xC00000FD: SIGNALS["SIGSEGV"],
    0xC000001D: SIGNALS["SIGILL"],
    0xC0000409: SIGNALS["SIGABRT"],
    0xC000013A: SIGNALS["SIGINT"],
    0xC0000017: Reason("The machine ran out of memory.", LESS_MEMORY),
    0xC000012D: Reason("The machine ran out of memory.", LESS_MEMORY),
}


def of_text(text: str) -> Reason | None:
    """The reason that an error message or the end of a log tells, when it is a known one."""
    return next((reason for pattern, reason in KNOWN if re.search(pattern, text, re.IGNORECASE)), None)


def of_exception(error: BaseException) -> Reason:
    """The reason for an exception: a known one in words, else its own last line."""
    line = f"{type(error).__name__}: {error}".strip().splitlines()[0].removesuffix(":")
    known = of_text(f"{type(error).__name__}: {error}")
    return Reason(f"{known.text} ({line[:300]})", known.advice) if known else Reason(line[:500])


def signal_name(code: int | None) -> str:
    """"SIGKILL" for the exit code -9 of a child; empty when it was not ended by a signal."""
    if code is None or code >= 0:
        return ""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def of_exit(code: int | None, last_words: Iterable[str] = ()) -> Reason:
    """The reason for a process that ended without saying why; `code` is None when nobody waited for it."""
    if code is not None and code & 0xFFFFFFFF in WINDOWS_CODES:
        return WINDOWS_CODES[code & 0xFFFFFFFF]
    name = signal_name(code)
    if name:
        return SIGNALS.get(name, Reason(f"It was ended by {name}."))
    words = list(last_words)
    known = of_text("\n".join(words[-8:]))
    if known:
        return known
    if code is None:
        return Reason("It is gone without a word: the machine was switched off, or the process was killed.")
    return Reason(f"It ended with exit code {code}" + (f": {words[-1][:300]}" if words else "."))
