"""Makes importing gradio take about half as long; import this before gradio.

Each time gradio is imported it writes editor stubs (.pyi) for its components into its own installation, which takes
longer than the rest of the import, and nobody reads them here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MODULE, WRITER = "gradio.component_meta", "create_or_modify_pyi"
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_SSR_MODE": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Nothing is reported to anybody, nothing is kept beside the run folders, nothing else is started."""


class _WithoutStubs(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != MODULE:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        if hasattr(module, WRITER):
            setattr(module, WRITER, _write_nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def _write_nothing(*_: object) -> None:
    pass


def prepare() -> None:
    """Switch off what a first import of gradio would do beside importing."""
    os.environ.update(QUIET)
    if "gradio" not in sys.modules:
        sys.meta_path.insert(0, _WithoutStubs())
