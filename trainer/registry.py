"""A table of named things that also counts as the list of their names (choices of a setting, help, docs)."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Rows by name, looked up without regard to case; `aliases` are accepted but not listed."""

    def __init__(self, kind: str, rows: Mapping[str, T], aliases: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self.rows = dict(rows)
        self.aliases = {alias.lower(): name for alias, name in (aliases or {}).items()}
        self._lower = {name.lower(): name for name in rows}

    def name(self, name: str) -> str | None:
        """The listed spelling of `name`, or None when there is no such row."""
        key = name.strip().lower()
        return self._lower.get(key) or self.aliases.get(key)

    def __getitem__(self, name: str) -> T:
        listed = self.name(name)
        if listed is None:
            raise KeyError(f"There is no {self.kind} named {name!r}. Known: {', '.join(self.rows)}.")
        return self.rows[listed]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.name(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)
