"""What AUTOMATIC1111's web UI and others write into a picture: a prompt, "Negative prompt: …" and "Steps: 20, …"."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

NEGATIVE = re.compile(r"\s*Negative prompt:\s*", re.IGNORECASE)
FACTS = re.compile(r"\s*Steps:\s*\d+\s*(,|$)", re.IGNORECASE)
FACT = re.compile(r'\s*([\w][\w \-/+]*?):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')

SAMPLERS = {
    "ddim": "ddim", "plms": "pndm", "lms": "lms", "euler": "euler", "euler a": "euler_a", "heun": "heun",
    "dpm2": "dpm_2", "dpm2 a": "dpm_2_a", "dpm++ 2m": "dpmsolver++", "dpm++ 2s": "dpmsingle",
}  # fmt: skip
"""What web UIs call a sampler -> what it is called here. A schedule's name may follow: "DPM++ 2M Karras"."""

SCHEDULES = ("karras", "polyexponential", "exponential", "sgm uniform", "uniform", "simple", "normal", "automatic")


@dataclass(frozen=True)
class Described:
    """A prompt as somebody wrote it, from which line on; `negative` and `facts` as far as a picture's text has them."""

    line: int
    text: str
    negative: str | None = None
    facts: str = ""


def described(lines: Sequence[str]) -> Iterator[Described]:
    """Each prompt of a text. A line is a prompt; one that begins with # or is empty is none.

    "Negative prompt: …" belongs to the line before; so does "Steps: 20, …", and until there the negative prompt may
    go on. A prompt that goes on in the next line ends with a comma.
    """
    start = 0
    for end, line in enumerate([*lines, ""]):
        if not line.strip() or line.lstrip().startswith("#"):
            yield from _block(lines, start, end)
            start = end + 1


def _block(lines: Sequence[str], start: int, end: int) -> Iterator[Described]:
    facts = next((place for place in range(start, end) if FACTS.match(lines[place])), None)
    negatives = [place for place in range(start, end if facts is None else facts) if NEGATIVE.match(lines[place])]
    negative = negatives[0] if negatives else None
    if len(negatives) > 1:
        facts = None  # those of a later prompt
    if facts is None and negative is None:
        yield from (Described(place + 1, lines[place].strip()) for place in range(start, end))
        return
    if facts is None:
        assert negative is not None
        stop = rest = negative + 1
    else:
        stop, rest = facts, facts + 1
    last = stop if negative is None else negative  # one behind the prompt
    first = max(start, last - 1)
    while first > start and lines[first - 1].rstrip().endswith(","):
        first -= 1
    yield from (Described(place + 1, lines[place].strip()) for place in range(start, min(first, last)))
    said = None if negative is None else NEGATIVE.sub("", _joined(lines[negative:stop]), count=1)
    yield Described(first + 1, _joined(lines[first:last]), said, "" if facts is None else lines[facts])
    yield from _block(lines, rest, end)


def _joined(lines: Sequence[str]) -> str:
    return " ".join(line.strip() for line in lines)


def facts_of(line: str) -> dict[str, str]:
    """The facts of a line like "Steps: 20, Sampler: Euler a, Size: 512x768" by name in small letters."""
    return {name.strip().lower(): value.strip().strip('"') for name, value in FACT.findall(line)}


def sampler_of(name: str) -> tuple[str | None, str]:
    """What a sampler of a web UI is called here, or `None` if there is none; and the schedule that its name ends in."""
    word = name.strip().lower()
    schedule = next((schedule for schedule in SCHEDULES if word.endswith(f" {schedule}")), "")
    return SAMPLERS.get(word.removesuffix(f" {schedule}")), schedule
