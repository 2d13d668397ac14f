"""What the page can do that a cell is run in."""

from __future__ import annotations

import os
from typing import Any

from IPython import get_ipython
from IPython.display import display


def is_static() -> bool:
    """Whether outputs are being made for a page that runs no script and keeps no style."""
    return os.environ.get("METIS_NB_STATIC", "") not in ("", "0")


def is_live() -> bool:
    """Whether somebody may be looking: a notebook's kernel, and outputs that may change."""
    return getattr(get_ipython(), "kernel", None) is not None and not is_static()


def show_widget(widget: Any, text: str) -> None:
    """Display an ipywidgets widget; `text` stands there where the page shows no widgets."""
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    display({"application/vnd.jupyter.widget-view+json": view, "text/plain": text}, raw=True)
