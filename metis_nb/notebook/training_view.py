"""The training view: what `train` shows of itself in a page. `live` draws its pictures."""

from __future__ import annotations

import base64
import io
import math
import time
from numbers import Real

from IPython.display import DisplayHandle, display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from metis_nb.learning import Run, Trainer, can_interrupt, in_notebook
from metis_nb.notebook import frontend, live, plots


class live_plot:  # noqa: N801 - it is called like a function
    """The training view: returns and diagnostics while training runs, and a button that stops it.

    In a notebook, `train` adds one by itself; pass one of your own to change it. Outside of a
    notebook, and in an `ipywidgets.Output`, it shows nothing. The last picture stays, as a PNG; it
    is all there is where outputs are made for a page (METIS_NB_STATIC=1).

    Args:
        solved: the return at which the task counts as solved; a line. None takes the environment's
            own (`env.spec.reward_threshold`), if it has one; False draws no line.
        share: the part of the training time that drawing may take, at most; between 0 and 1. The
            last picture comes on top.

    Raises:
        ValueError: an argument that is not accepted.
    """

    def __init__(self, solved: float | None = None, share: float = 0.03):
        number = isinstance(solved, Real) and solved is not True and math.isfinite(solved)
        if solved is not None and not number:
            raise ValueError(f"solved={solved!r}; expected None, a number or False.")
        if not isinstance(share, Real) or not 0 < share < 1:
            raise ValueError(f"share={share!r}; expected a number between 0 and 1, such as 0.03.")
        self.solved: float | None = solved
        self.share: float = share
        self.trainer: Trainer | None = None  # while a training is under way in a notebook

    @property
    def visible(self) -> bool:
        """Whether there is a page to show it in, which lets a picture change. Where there is
        none, `train` shows a bar."""
        return in_notebook() and not frontend.in_output_widget()

    def open(self, trainer: Trainer) -> None:
        """Show the view of a training that begins."""
        self.picture: DisplayHandle | None = None
        self.button: DisplayHandle | None = None
        self.begin = time.perf_counter()
        self.due = 0.0
        self.threshold = self._threshold(trainer)
        if not self.visible:
            return
        self.trainer = trainer
        if frontend.is_live():
            if can_interrupt():
                # Apart from the picture: a click on what is replaced at that moment would be lost.
                self.button = display(live.stop_button(), raw=True, display_id=True)
            self._draw(trainer)

    def __call__(self, trainer: Trainer) -> None:
        """Draw what is new, if the last time is long enough ago."""
        if self.trainer is not None and frontend.is_live() and time.perf_counter() >= self.due:
            self._draw(self.trainer)

    def say(self, text: str) -> bool:
        """Put `text` where the button is. False where there is none."""
        if self.button is not None:
            self.button.update({"text/plain": text}, raw=True)
        return self.button is not None

    def close(self) -> None:
        """The last picture, in place of all that only a training under way needs."""
        if self.trainer is None:
            return
        trainer, self.trainer = self.trainer, None
        self.say(self._ending(trainer.run))
        text = {"text/plain": live.summary(trainer)}
        # Nothing is drawn of a training that failed before its first update.
        drawn = {"image/png": self._png(trainer)} if trainer.history else {}
        if self.picture is not None:
            self.picture.update(drawn | text, raw=True)
        elif drawn:
            display(drawn | text, raw=True)

    def _threshold(self, trainer: Trainer) -> float | None:
        if self.solved is None:
            return getattr(live.spec_of(trainer.run.env), "reward_threshold", None)
        return None if self.solved is False else float(self.solved)

    def _draw(self, trainer: Trainer) -> None:
        begin = time.perf_counter()
        bundle = live.picture(trainer, self.threshold, begin - self.begin)
        if self.picture is None:
            self.picture = display(bundle, raw=True, display_id=True)
        else:
            self.picture.update(bundle, raw=True)
        end = time.perf_counter()
        self.due = end + max(0.25, (end - begin) * (1 / self.share - 1))

    def _ending(self, run: Run) -> str:
        seconds = time.perf_counter() - self.begin
        steps = run.steps - run.begin
        said = (
            f"{steps:,} steps in {live.clock(seconds)}, {steps / max(seconds, 1e-9):,.0f} steps/s"
        )
        if run.interrupted:
            return f"{said}; stopped by you."
        if run.stopped:
            return f"{said}; stopped by a callback."
        return f"{said}; ended by an error." if run.unfinished else f"{said}."

    def _png(self, trainer: Trainer) -> str:
        """The last picture, in base64; the same bytes for the same history."""
        known = {name for row in trainer.history for name in row}
        healthy = getattr(trainer, "healthy_ranges", {})
        healthy = {name: band for name, band in healthy.items() if name in known}
        width, height = 4.2 + 2.6 * len(healthy), 3.0  # inches
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)  # not pyplot, whose current figure is the reader's
        plots.training_curves(trainer.history, healthy, self.threshold, figure)
        # Margins that are known save drawing everything twice.
        figure.subplots_adjust(0.85 / width, 0.5 / height, 1 - 0.15 / width, 1 - 0.3 / height, 0.24)
        file = io.BytesIO()
        figure.savefig(file, dpi=90, metadata={"Software": None})
        return base64.b64encode(file.getvalue()).decode()
