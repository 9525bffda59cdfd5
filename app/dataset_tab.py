"""The Data sets tab. Its words are in `static/datasets.html`; what it does is fetched when it first opens."""

from __future__ import annotations

import gradio as gr

from app.dataset_routes import STATIC, router, version

SCRIPTS = ("datasets.js", "gallery.js")
LOADER = """
const load = () => {
  if (document.body.dataset.tabtop !== "panel-datasets" || loom.datasets) return;
  loom.datasets = { address: "ADDRESS" };
  const from = (name) => `ADDRESS/static/${name}?v=VERSION`;
  document.head.append(loom.element("link", { rel: "stylesheet", href: from("datasets.css") }));
  for (const name of SCRIPTS) document.head.append(loom.element("script", { src: from(name), async: false }));
};
document.addEventListener("loom-open", load);
load();
"""


def datasets_tab() -> None:
    """One piece of HTML; nothing is asked of the server before somebody opens the tab."""
    script = LOADER.replace("ADDRESS", router.prefix).replace("VERSION", version()).replace("SCRIPTS", f"{[*SCRIPTS]}")
    gr.HTML((STATIC / "datasets.html").read_text(encoding="utf-8"), js_on_load=script)
