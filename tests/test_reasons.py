"""Why a run ended, in words a person can act on."""

import signal

import pytest

from trainer import reasons


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.", "graphics card"),
        ("RuntimeError: HIP error: out of memory", "graphics card"),
        ("RuntimeError: MPS backend out of memory (MPS allocated: 9 GB)", "graphics card"),
        ("RuntimeError: [enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory", "machine ran out"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("OSError: [WinError 112] There is not enough space on the disk", "disk is full"),
        ("PermissionError: [Errno 13] Permission denied: '/x'", "may not be written"),
        ("OSError: We couldn't connect to 'https://huggingface.co' to load the files", "no connection"),
        ("ModuleNotFoundError: No module named 'peft'", "not installed"),
    ],
)
def test_known_messages_have_a_sentence_and_a_way_out(text: str, word: str) -> None:
    found = reasons.of_text(text)
    assert found is not None
    assert word in found.text
    assert found.advice


def test_an_unknown_exception_keeps_its_own_words() -> None:
    assert reasons.of_text("ValueError: the memory of the elephant") is None
    assert reasons.of_exception(ValueError("first line\nsecond line")).text == "ValueError: first line"
    assert reasons.of_exception(AssertionError()).text == "AssertionError"
    assert len(reasons.of_exception(ValueError("x" * 10_000)).text) <= 500


@pytest.mark.parametrize("name", [name for name in ("SIGKILL", "SIGTERM", "SIGSEGV", "SIGABRT") if hasattr(signal, name)])
def test_signals_are_named_and_explained(name: str) -> None:
    code = -getattr(signal, name)
    assert reasons.signal_name(code) == name
    assert reasons.of_exit(code, ["whatever"]) == reasons.SIGNALS[name]


def test_exit_codes() -> None:
    assert reasons.signal_name(0) == reasons.signal_name(None) == ""
    assert "exit code 7: bye" in reasons.of_exit(7, ["hello", "bye"]).text
    assert "memory" in reasons.of_exit(1, ["Traceback", "MemoryError"]).text
    assert "native library" in reasons.of_exit(0xC0000005).text
    assert "native library" in reasons.of_exit(0xC0000005 - 2**32).text  # as some Pythons tell it
    assert "switched off" in reasons.of_exit(None).text
