"""How the page looks: the theme, and the style sheets and scripts served with it. Nothing comes from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

STATIC = Path(__file__).resolve().parent / "static"
SHEETS = ("page.css", "monitor.css", "captioning.css")
SCRIPTS = ("form.js", "paths.js", "page.js", "monitor.js", "captioning.js")

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Ubuntu", "sans-serif")
MONO = ("ui-monospace", "SF Mono", "Cascadia Mono", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """Gradio's plain theme with the fonts of the machine; colours are set in page.css."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        font=list(SANS),
        font_mono=list(MONO),
        radius_size=gr.themes.sizes.radius_sm,
        text_size=gr.themes.sizes.text_sm,
        spacing_size=gr.themes.sizes.spacing_sm,
    )


def css() -> str:
    """All style sheets, in order."""
    return "\n".join(_text(name) for name in SHEETS)


def head() -> str:
    """The scripts, to stand in the page's head, and the icon."""
    scripts = "\n".join(_text(name) for name in SCRIPTS)
    return f'<meta name="viewport" content="width=device-width, initial-scale=1"><script>{scripts}</script>'


def mount_arguments() -> dict[str, Any]:
    """What `launch()` or `mount_gradio_app()` need besides the page itself."""
    return {"theme": theme(), "css": css(), "head": head()}


def _text(name: str) -> str:
    path = STATIC / name
    return path.read_text(encoding="utf-8") if path.exists() else ""
