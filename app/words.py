"""Numbers as people say them, for the page: 35 s, 19 MB, 4.1 it/s. (no gradio)"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def duration(seconds: float) -> str:
    """As in 35 s, 3 min, 1 h 20 min, 2 d 3 h: what does not matter is left out."""
    seconds = max(0, round(seconds))
    if seconds < 90:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"


def size_of(count: int) -> str:
    """Bytes as "912 KB", "19 MB", "2.1 GB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            number = count / size
            return f"{number:.1f} {unit}" if number < 10 else f"{number:.0f} {unit}"
    return f"{count} bytes"


def share_of(used: int, total: int) -> str:
    """Bytes used of all there are: "3.1 of 12 GB"; without the total as `size_of`."""
    used_said, total_said = size_of(used), size_of(total)
    same = used_said.split()[-1] == total_said.split()[-1]
    return f"{used_said.split()[0] if same else used_said} of {total_said}" if total else used_said


def speed(rate: float, images: float = 0) -> str:
    """Steps per second as "4.1 it/s", or "3.2 s/it" for slow ones; and the `images` of a step when it has several."""
    steps = f"{rate:.1f} it/s" if rate >= 1 else f"{1 / rate:.1f} s/it"
    return f"{steps} · {rate * images:.1f} images/s" if images > 1 else steps


def counted(counts: Mapping[str, int]) -> str:
    """As in "5 written, 1 unreadable"."""
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def listed(names: Iterable[str]) -> str:
    """As in "one, two and three"; there must be one."""
    *before, last = names
    return f"{', '.join(before)} and {last}" if before else last
