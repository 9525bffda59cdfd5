"""Classes of installed packages, found by their dotted path and read in the source: nothing of them is imported.

So the page can say what is wrong with "torch.optim.AdamX" without loading torch, and no name that somebody typed runs
anything: only packages in a site-packages folder are looked at.
"""

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
INSTALLED = {"site-packages", "dist-packages"}
MOST = 60
"""How many files a name is looked for in before it counts as unclear."""


class Missing(LookupError):
    """There is no such class. `package` is what is not installed, or `module` what has other names: `names`."""

    def __init__(self, package: str = "", module: str = "", names: tuple[str, ...] = ()) -> None:
        super().__init__(package or module)
        self.package, self.module, self.names = package, module, names


class NoClass(LookupError):
    """What has this name is a function, a module or a value."""


class Unclear(LookupError):
    """The source does not tell; only importing would."""


@dataclass(frozen=True)
class Source:
    """A class as it stands in a file of the module `module`."""

    module: str
    node: ast.ClassDef

    @property
    def path(self) -> str:
        """The class by the module that defines it."""
        return f"{self.module}.{self.node.name}"


@dataclass(frozen=True)
class Call:
    """What a function takes, without `self`: `names` in order, of which `required` have no default.

    With `takes_more` it also understands names that it does not list. `defaults` are those that are plain values.
    """

    names: tuple[str, ...]
    required: tuple[str, ...]
    takes_more: bool
    defaults: Mapping[str, Any] = field(default_factory=dict, compare=False)


@cache
def find(path: str) -> Source:
    """The class that a dotted path leads to, through whatever files import it from elsewhere.

    Raises `Missing`, `NoClass` or `Unclear`.
    """
    package, *names = path.split(".")
    if not PATH.fullmatch(path) or not is_installed(package):
        raise Missing(package=package)
    module = package
    while len(names) > 1 and module_file(f"{module}.{names[0]}"):
        module = f"{module}.{names.pop(0)}"
    if len(names) > 1:
        raise Missing(module=module, names=tuple(_submodules(module)))
    found = _in_module(module, names[0], set())
    if found is None:
        raise Missing(module=module, names=class_names(module))
    return found


def is_installed(package: str) -> bool:
    """Whether a package is one that was installed, rather than Python's own or a file that lies about."""
    return _root(package) is not None


def _root(package: str) -> Path | None:
    """The file of a module or the folder of a package."""
    try:
        spec = importlib.util.find_spec(package)
    except (ValueError, ImportError):
        return None
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or [])
    root = Path(folders[0]) if folders else Path(spec.origin or "")
    return root if INSTALLED & set(root.parts) else None


@cache
def module_file(module: str) -> Path | None:
    """The Python file of a module of an installed package; names count with their case on any disk."""
    package, *names = module.split(".")
    place = _root(package)
    if place is None:
        return None
    if place.is_file():
        return place if place.suffix == ".py" and not names else None
    for name in names[:-1]:
        if name not in _entries(place):
            return None
        place = place / name
    if names:
        if f"{names[-1]}.py" in _entries(place):
            return place / f"{names[-1]}.py"
        if names[-1] not in _entries(place):
            return None
        place = place / names[-1]
    return place / "__init__.py" if "__init__.py" in _entries(place) else None


@cache
def _entries(folder: Path) -> frozenset[str]:
    return frozenset(entry.name for entry in folder.iterdir()) if folder.is_dir() else frozenset()


def _submodules(module: str) -> Iterator[str]:
    file = module_file(module)
    if file is not None and file.name == "__init__.py":
        yield from sorted(name.removesuffix(".py") for name in _entries(file.parent) if not name.startswith("_"))


@cache
def _statements(module: str) -> tuple[ast.stmt, ...]:
    """What stands in a module, also inside of its `if` and `try`."""
    file = module_file(module)
    if file is None:
        raise Unclear(module)
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise Unclear(module) from error
    return tuple(_unfolded(tree.body))


def _unfolded(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            yield from _unfolded(node.body)
            yield from _unfolded([*getattr(node, "orelse", []), *getattr(node, "finalbody", [])])
            for handler in getattr(node, "handlers", []):
                yield from _unfolded(handler.body)


def _origin(module: str, node: ast.ImportFrom) -> str:
    """The module that an import takes names from."""
    if not node.level:
        return node.module or ""
    file = module_file(module)
    parts = module.split(".")
    up = node.level - (file is not None and file.name == "__init__.py")
    return ".".join(parts[: len(parts) - up] + ([node.module] if node.module else []))


def _in_module(module: str, name: str, seen: set[tuple[str, str]]) -> Source | None:
    """The class that `name` means in a module; None when it means nothing there. `seen` is where it was looked for."""
    if (module, name) in seen:
        return None
    seen.add((module, name))
    if len(seen) > MOST:
        raise Unclear(module)
    stars = []
    for node in _statements(module):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return Source(module, node)
        if isinstance(node, ast.FunctionDef) and node.name in (name, "__getattr__"):
            raise NoClass(name) if node.name == name else Unclear(module)
        if isinstance(node, ast.Assign | ast.AnnAssign) and name in _targets(node):
            if isinstance(node.value, ast.Name):
                return _in_module(module, node.value.id, seen)
            raise Unclear(module)
        if isinstance(node, ast.Import) and any((item.asname or item.name) == name for item in node.names):
            raise NoClass(name)
        if isinstance(node, ast.ImportFrom):
            origin = _origin(module, node)
            if node.names[0].name == "*":
                stars.append(origin)
            for item in node.names:
                if (item.asname or item.name) == name:
                    if module_file(f"{origin}.{item.name}"):
                        raise NoClass(name)
                    return _in_module(origin, item.name, seen)
    for origin in stars:
        found = _in_module(origin, name, seen) if module_file(origin) else None
        if found is not None:
            return found
    return None


def _targets(node: ast.Assign | ast.AnnAssign) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return {target.id for target in targets if isinstance(target, ast.Name)}


@cache
def class_names(module: str) -> tuple[str, ...]:
    """The names in a module that look like those of classes."""
    found: list[str] = []
    modules = [module]
    for place in modules:
        for node in _statements(place) if module_file(place) else ():
            if isinstance(node, ast.ClassDef):
                found.append(node.name)
            elif isinstance(node, ast.ImportFrom) and node.names[0].name != "*":
                found += [item.asname or item.name for item in node.names]
            elif isinstance(node, ast.ImportFrom) and len(modules) < MOST and _origin(place, node) not in modules:
                modules.append(_origin(place, node))
    return tuple(dict.fromkeys(name for name in found if name[:1].isupper()))


def classes(module: str, base: str) -> tuple[str, ...]:
    """The names in a module that stand for classes made of `base`."""

    def fits(name: str) -> bool:
        try:
            return bool(is_a(find(f"{module}.{name}"), base))
        except LookupError:
            return False

    return tuple(name for name in class_names(module) if fits(name))


# What a class is like.


def bases(source: Source) -> Iterator[Source | None]:
    """The classes that a class is made of, nearest first and each with its own; None for one that cannot be found."""
    for node in source.node.bases:
        try:
            base = _meant(source.module, node)
        except LookupError:
            yield None
            continue
        if base is not None:
            yield base
            yield from bases(base)


def _meant(module: str, node: ast.expr) -> Source | None:
    """The class that an expression such as `Optimizer` or `torch.optim.Optimizer` means; None for Python's own."""
    words = ast.unparse(node).split(".")
    if len(words) == 1:
        found = _in_module(module, words[0], set())
        if found is None and words[0] not in ("object", "Generic"):
            raise Unclear(module)
        return found
    return find(".".join(words))


def is_a(source: Source, path: str) -> bool | None:
    """Whether a class is made of the one that `path` defines; None when the source does not tell."""
    found = [source, *bases(source)]
    if any(base is not None and base.path == path for base in found):
        return True
    return None if None in found else False


def method(source: Source, name: str) -> ast.FunctionDef | None:
    """A method of a class, its own or one it inherits."""
    for base in (source, *bases(source)):
        for node in base.node.body if base is not None else ():
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return node
    return None


def call(function: ast.FunctionDef) -> Call:
    """What a method takes."""
    told = function.args
    plain = [item.arg for item in (*told.posonlyargs, *told.args)][1:]
    alone = [item.arg for item in told.kwonlyargs]
    needed = plain[: len(plain) - len(told.defaults)]
    needed += [name for name, default in zip(alone, told.kw_defaults, strict=True) if default is None]
    more = told.kwarg.arg if told.kwarg else ""
    named, passed_on = _read_from(function, more) if more else ((), False)
    written = [*zip(reversed(plain), reversed(told.defaults), strict=False), *zip(alone, told.kw_defaults, strict=True)]
    return Call((*plain, *alone, *named), tuple(needed), passed_on, dict(_plain_values(written)))


def _plain_values(written: list[tuple[str, ast.expr | None]]) -> Iterator[tuple[str, Any]]:
    for name, node in written:
        try:
            yield name, ast.literal_eval(node) if node is not None else None
        except (ValueError, TypeError):
            continue


def _read_from(function: ast.FunctionDef, more: str) -> tuple[tuple[str, ...], bool]:
    """(names that are looked up in `**more`; whether it is used as a whole as well)."""
    names, whole = [], 0
    for node in ast.walk(function):
        whole += isinstance(node, ast.Name) and node.id == more
        key: ast.expr | None = None
        if isinstance(node, ast.Subscript) and _is(node.value, more):
            key = node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is(node.func.value, more):
            key = node.args[0] if node.args else None
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            names.append(key.value)
            whole -= 1
    return tuple(dict.fromkeys(names)), whole > 0


def text(function: ast.FunctionDef) -> str:
    """The source of a method, in one style."""
    return ast.unparse(function)


def _is(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
