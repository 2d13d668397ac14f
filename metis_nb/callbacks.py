"""Callbacks: functions of the trainer that `train` calls after every update. True stops it.

trainer.train(actor, critic, callbacks=[live_plot(solved=475), stop_at(475)])
"""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

from IPython import get_ipython
from IPython.display import DisplayHandle, Image, display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from metis_nb import plots
from metis_nb.training import RECENT


class live_plot:  # noqa: N801 - it is called like a function
    """Draw returns and diagnostics while training runs; the last picture stays. Only in notebooks.

    Args:
        solved: the return at which the task counts as solved; a line.
        share: the part of the training time that drawing may take, at most.
    """

    def __init__(self, solved: float | None = None, share: float = 0.1):
        self.solved, self.share = solved, share
        self.handle: DisplayHandle | None = None
        self.trainer: Any = None
        self.due = time.perf_counter()

    def __call__(self, trainer: Any) -> None:
        self.trainer = trainer
        if getattr(get_ipython(), "kernel", None) is not None and time.perf_counter() >= self.due:
            self._draw()

    def close(self) -> None:
        """The last picture, when training ends."""
        if self.handle is not None:
            self._draw()

    def _draw(self) -> None:
        begin = time.perf_counter()
        healthy = getattr(self.trainer, "healthy", {})
        figure = Figure(figsize=(4.2 + 2.6 * len(healthy), 3.0), layout="constrained")
        FigureCanvasAgg(figure)  # not pyplot, whose current figure is the reader's
        plots.training(self.trainer.history, healthy, self.solved, figure)
        file = io.BytesIO()
        figure.savefig(file, dpi=90)
        picture = Image(file.getvalue(), format="png")
        if self.handle is None:
            self.handle = display(picture, display_id=True)
        else:
            self.handle.update(picture)
        spent = time.perf_counter() - begin
        self.due = time.perf_counter() + max(0.25, spent * (1 / self.share - 1))


class stop_at:  # noqa: N801
    """Stop when the mean return of the last `episodes` training episodes reaches `value`."""

    def __init__(self, value: float, episodes: int = RECENT):
        self.value, self.episodes = value, episodes

    def __call__(self, trainer: Any) -> bool:
        recent = [episode[1] for episode in trainer.history.episodes[-self.episodes :]]
        return len(recent) == self.episodes and sum(recent) / self.episodes >= self.value


class save_every:  # noqa: N801
    """Save the trainer to `path` whenever another `steps` environment steps have been made."""

    def __init__(self, path: str | Path, steps: int = 50_000):
        self.path, self.steps = path, steps
        self.due = steps

    def __call__(self, trainer: Any) -> None:
        if trainer.history[-1]["steps"] >= self.due:
            trainer.save(self.path)
            self.due = trainer.history[-1]["steps"] + self.steps
