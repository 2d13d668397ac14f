"""What the page can do that a cell is run in."""

from __future__ import annotations

import os
from typing import Any

import ipywidgets
from IPython.display import display
from ipywidgets.widgets import widget

from metis_nb.learning import in_notebook


def is_static() -> bool:
    """Whether outputs are being made for a page that runs no script and keeps no style."""
    return os.environ.get("METIS_NB_STATIC", "") not in ("", "0")


def is_live() -> bool:
    """Whether somebody may be looking: a notebook's kernel, and outputs that may change."""
    return in_notebook() and not is_static()


def in_output_widget() -> bool:
    """Whether what is displayed now goes into an `ipywidgets.Output`, as in `with output:`. There,
    an output that is updated later stays as it was, and its buttons are dead."""
    made = getattr(widget, "_instances", None)
    if made is None:  # ipywidgets 7
        made = ipywidgets.Widget.widgets
    # It has the number of the message whose outputs it takes, for as long as it takes them.
    return any(isinstance(each, ipywidgets.Output) and each.msg_id for each in list(made.values()))


def show_widget(widget: Any, text: str) -> None:
    """Display an ipywidgets widget; `text` stands there where the page shows no widgets.

    A widget does not outlive its kernel. Reopened in JupyterLab, its place would read "Error
    displaying widget: model not found": bare text, where a living widget has elements. A style in
    an output before it writes `text` over that. Pages that take styles out lose nothing.
    """
    mark = f"mnb-widget-{widget.model_id}"
    here = f".jp-OutputArea-child:has(.{mark})"
    dead = f"{here} + .jp-OutputArea-child > .jp-OutputArea-output:not(:has(*))"
    style = (
        f"{here} {{display: none}}\n"
        f"{dead} {{visibility: hidden; font-size: 0}}\n"
        f"{dead}::after {{content: {_css_string(text)}; visibility: visible;"
        " color: var(--jp-content-font-color2); font: italic var(--jp-content-font-size1)"
        " var(--jp-content-font-family)}"
    )
    html = f'<style class="{mark}">\n{style}\n</style>'
    display({"text/html": html, "text/plain": ""}, raw=True)
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    display({"application/vnd.jupyter.widget-view+json": view, "text/plain": text}, raw=True)


def _css_string(text: str) -> str:
    """`text` in quotes for a style, with what could end the string or the style as numbers."""
    return '"' + "".join(c if c not in '"\\<\n\r\f' else f"\\{ord(c):x} " for c in text) + '"'
