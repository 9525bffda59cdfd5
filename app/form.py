"""Draws any settings as inputs from their declaration, and reads them back by name.

One `Form` holds the only mapping between components and setting names. What a browser can do alone (conditions, marks
on changed fields, sentences under inputs, folds) is done by `static/form.js` from the same declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from app import paths, states
from trainer.declare import Section, Setting, settings_of

Answer = Mapping[str, Any]
"""What a check sends to the browser: {"problems": [...], "notes": {key: sentence}, ...}."""

SEGMENTS = 3
"""Up to so many choices are shown side by side instead of in a list."""
WORDY = 14
"""... unless a choice is longer than this."""


class Form:
    """The inputs of one group of settings on the page.

    `name` prefixes the element ids: the input of `learning_rate` in the form "train" is `train-learning_rate`.
    """

    def __init__(self, name: str, settings: type[Section]) -> None:
        self.name = name
        self.settings = settings
        self.items = {item.name: item for item in settings_of(settings)}
        self.inputs: dict[str, Component] = {}
        self.bridge: gr.HTML | None = None

    def draw(self, section: type[Section], heading: bool = True) -> None:
        """Draw the settings of a section here: the usual ones in a grid, the advanced ones behind "More"."""
        items = settings_of(section)
        folded = [item for item in items if item.about.advanced]
        with gr.Column(elem_id=f"{self.name}--{section.__name__}", elem_classes=["loom-section", _span(items)]):
            if heading and section.title:
                gr.HTML(f"<h3>{section.title}</h3>", elem_classes=["loom-heading"])
            with gr.Column(elem_classes=["loom-fields"]):
                for item in items:
                    if not item.about.advanced:
                        self.field(item)
            if folded:
                gr.HTML(_more(folded), elem_classes=["loom-heading"])
                with gr.Column(elem_classes=["loom-fields", "loom-folded"]):
                    for item in folded:
                        self.field(item)

    def field(self, item: Setting) -> Component:
        """Draw one setting here."""
        component = _component(item, f"{self.name}-{item.name}")
        self.inputs[item.name] = component
        return component

    def read(self, data: Mapping[Component, Any]) -> dict[str, Any]:
        """Raw values by setting name, from what gradio hands over for inputs passed as a set."""
        return {name: data[component] for name, component in self.inputs.items() if component in data}

    def write(self, values: Mapping[str, Any]) -> dict[Component, Any]:
        """What fills the inputs with `values`; a setting that is not in them gets its default."""
        return {
            component: shown(self.items[name], values.get(name, self.items[name].default))
            for name, component in self.inputs.items()
        }

    def everything(self, *more: Component) -> set[Component]:
        """All inputs (and `more`) as a set, so that an event handler receives `{component: value}`."""
        return {*self.inputs.values(), *more}

    def changed(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the raw values that differ from the defaults."""
        return {name: value for name, value in raw.items() if name in self.items and not self._is_default(name, value)}

    def _is_default(self, name: str, value: Any) -> bool:
        default = shown(self.items[name], self.items[name].default)
        return bool(value == default) or (not isinstance(value, bool) and str(value).strip() == str(default).strip())

    def wire(self, check: Callable[[dict[str, Any]], Answer] | None = None) -> None:
        """Bring the inputs to life; call once, after everything is drawn.

        `check` receives `{"values": {name: raw value}, ...}` a moment after the last edit and answers with problems and
        notes, which appear under their inputs. It runs on the server, once for each burst of edits.
        """

        def answer(data: dict[str, Any]) -> Answer:
            return check(data) if check else {}

        def browse(data: dict[str, Any]) -> Answer:
            path, kind = str(data.get("path") or ""), str(data.get("kind") or "folder")
            return states.listing(path, str(data.get("near") or "")) if kind == "state" else paths.listing(path, kind)

        names = list(self.inputs)
        self.bridge = gr.HTML(
            "",
            html_template="",
            elem_classes=["loom-hidden"],
            js_on_load="loom.form(props.form, server)",
            server_functions=[answer, browse],
            form={
                "name": self.name,
                "names": names,
                "checks": check is not None,
                "fields": {name: describe(self.items[name]) for name in names},
            },
        )
        taker = gr.Button("apply", elem_id=f"{self.name}--apply", elem_classes=["loom-hidden"])
        # Client only: the browser keeps the values by name, and fills inputs when a fix is taken.
        inputs = [self.inputs[name] for name in names]
        taker.click(None, None, inputs, js=f"() => loom.taken('{self.name}')")
        for name, component in self.inputs.items():
            component.change(  # type: ignore[attr-defined]
                None,
                component,
                None,
                js=f"(value) => {{ loom.value('{self.name}', '{name}', value) }}",
                show_progress="hidden",
                queue=False,
            )

    def fill(self, page: gr.Blocks, opening: Callable[[str], Mapping[str, Any]]) -> None:
        """Fill the inputs whenever the page opens; call once, after `wire`.

        `opening` receives what the browser remembers (a JSON text: {"browser": id, "pending": {name: raw value} or
        null}, see `drafts.opening`) and answers with the values to show; what it leaves out gets its default.
        """

        def on_open(ticket: str) -> dict[Component, Any]:
            return self.write(opening(ticket))

        ticket = gr.Textbox(elem_classes=["loom-hidden"])
        inputs = list(self.inputs.values())
        opened = page.load(
            on_open, ticket, inputs, js=f"() => loom.ticket('{self.name}')", show_progress="hidden", queue=False
        )
        # Only after this do changes count as edits: what fills the page must not be taken for one.
        opened.then(None, inputs, None, js=f"(...values) => {{ loom.ready('{self.name}', values) }}", queue=False)


def describe(item: Setting) -> dict[str, Any]:
    """A setting as the browser needs to know it."""
    return {
        "label": item.label,
        "help": item.about.help,
        "default": shown(item, item.default),
        "when": {name: _options(wanted) for name, wanted in (item.about.when or {}).items()},
        "kind": item.about.kind,
        "type": item.type.__name__,
        "range": _range(item),
        "advanced": item.about.advanced,
        "secret": item.about.secret,
        "choices": list(item.choices or ()),
        "words": " ".join((item.about.aside, item.name.replace("_", " "), *item.about.kohya)),
    }


def shown(item: Setting, value: Any) -> Any:
    """A value as its input shows it: ticks stay ticks, everything else is the text a person would type."""
    if item.type is bool:
        return bool(value) if not isinstance(value, str) else value.strip().lower() in ("true", "1", "yes", "on")
    if value is None:
        return ""
    text = short(value) if isinstance(value, float) else str(value)
    if item.choices is not None and not item.about.custom and text not in item.choices:
        return shown(item, item.default) if text != str(item.default) else text
    return text


def short(number: float) -> str:
    """The shortest usual way to write a number: 1e-4, 0.05, 1."""
    plain = f"{number:.12g}"
    if "e" not in plain and len(plain) < 6:
        return plain
    mantissa, exponent = f"{number:.12e}".split("e")
    scientific = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return scientific if len(scientific) < len(plain) else plain


def _component(item: Setting, elem_id: str) -> Component:
    """The input for a setting, by its type, choices and kind."""
    common: dict[str, Any] = {
        "label": item.whole_label,
        "info": item.about.help,
        "elem_id": elem_id,
        "interactive": True,
        "value": shown(item, item.default),
    }
    if item.type is bool:
        return gr.Checkbox(**common, elem_classes=["loom-field", "loom-tick"])
    if item.choices is not None:
        return _choice(item, common)
    several = item.about.kind == "lines"
    return gr.Textbox(
        **common,
        type="password" if item.about.secret else "text",
        lines=3 if several else 1,
        max_lines=12 if several else 1,
        placeholder="" if item.type is str else "not set" if item.optional else str(shown(item, item.default)),
        html_attributes=gr.InputHTMLAttributes(autocomplete="off", spellcheck=False, autocapitalize="off"),
        elem_classes=["loom-field", *_size(item)],
    )


def _size(item: Setting) -> list[str]:
    """Texts need more room than numbers: several lines and comments a whole row, paths two columns."""
    if item.about.kind == "lines" or item.name.endswith("comment"):
        return ["loom-wide"]
    return ["loom-two"] if item.about.kind else []


def _span(items: Iterable[Setting]) -> str:
    """How many of the three columns a section takes: small ones share a row."""
    items = list(items)
    here = [item for item in items if not item.about.advanced]
    return f"loom-span-{3 if len(here) > 2 or any(map(_size, items)) else len(here) or 1}"


def _choice(item: Setting, common: dict[str, Any]) -> Component:
    choices = item.choices or ()
    if len(choices) <= SEGMENTS and not item.about.custom and max(map(len, choices)) <= WORDY:
        return gr.Radio(list(choices), **common, elem_classes=["loom-field", "loom-segments"])
    return gr.Dropdown(list(choices), **common, allow_custom_value=item.about.custom, elem_classes=["loom-field"])


def _range(item: Setting) -> list[float] | None:
    """[low, high, step] where dragging makes sense: a step is declared and both ends are known."""
    low = item.ge if item.ge is not None else item.gt
    high = item.about.soft_max if item.about.soft_max is not None else item.le if item.le is not None else item.lt
    step = item.about.step
    if step is None or low is None or high is None:
        return None
    return [low, high - step if high == item.lt else high, step]


def _options(wanted: Any) -> list[Any]:
    options = wanted if isinstance(wanted, tuple | list | set | frozenset) else (wanted,)
    return [option if isinstance(option, bool) else str(option) for option in options]


def _more(folded: Iterable[Setting]) -> str:
    labels = ", ".join(item.label for item in folded)
    return (
        '<button type="button" class="loom-more" aria-expanded="false">'
        f"<span>More</span> <small>{labels}</small></button>"
    )
