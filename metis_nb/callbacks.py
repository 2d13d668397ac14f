"""Callbacks: functions of the trainer that `train` calls after every update. True stops it.

trainer.train(actor, critic, callbacks=[stop_at(475), save_every("ppo.safetensors")])

Those that are objects may also have `open(trainer)`, called once when a training begins, before its
first update, and `close()`, called when it has ended, however it ended.
"""

from __future__ import annotations

import base64
import copy
import io
import math
import time
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from IPython.display import DisplayHandle, display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from metis_nb import agents, frontend, live, plots
from metis_nb.training import RECENT, can_interrupt


class live_plot:  # noqa: N801 - it is called like a function
    """The training view: returns and diagnostics while training runs, and a button that stops it.

    In a notebook, `train` adds one by itself; pass one of your own to change it. Outside of a
    notebook it shows nothing. The last picture stays, as a PNG; it is all there is where outputs
    are made for a page (METIS_NB_STATIC=1).

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
        self.trainer: Any = None  # while a training is under way in a notebook

    def open(self, trainer: Any) -> None:
        """Show the view of a training that begins."""
        self.picture: DisplayHandle | None = None
        self.button: DisplayHandle | None = None
        self.begin = time.perf_counter()
        self.due = 0.0
        self.threshold = self._threshold(trainer)
        if not live.in_notebook():
            return
        self.trainer = trainer
        if frontend.is_live():
            if can_interrupt():
                # Apart from the picture: a click on what is replaced at that moment would be lost.
                self.button = display(live.stop_button(), raw=True, display_id=True)
            self._draw()

    def __call__(self, trainer: Any) -> None:
        """Draw what is new, if the last time is long enough ago."""
        if self.trainer is not None and frontend.is_live() and time.perf_counter() >= self.due:
            self._draw()

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

    def _threshold(self, trainer: Any) -> float | None:
        if self.solved is None:
            return getattr(live.spec_of(trainer.run.env), "reward_threshold", None)
        return None if self.solved is False else float(self.solved)

    def _draw(self) -> None:
        begin = time.perf_counter()
        bundle = live.picture(self.trainer, self.threshold, begin - self.begin)
        if self.picture is None:
            self.picture = display(bundle, raw=True, display_id=True)
        else:
            self.picture.update(bundle, raw=True)
        end = time.perf_counter()
        self.due = end + max(0.25, (end - begin) * (1 / self.share - 1))

    def _ending(self, run: Any) -> str:
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

    def _png(self, trainer: Any) -> str:
        """The last picture, in base64; the same bytes for the same history."""
        known = {name for row in trainer.history for name in row}
        healthy = getattr(trainer, "healthy", {})
        healthy = {name: band for name, band in healthy.items() if name in known}
        width, height = 4.2 + 2.6 * len(healthy), 3.0  # inches
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)  # not pyplot, whose current figure is the reader's
        plots.training(trainer.history, healthy, self.threshold, figure)
        # Margins that are known save drawing everything twice.
        figure.subplots_adjust(0.85 / width, 0.5 / height, 1 - 0.15 / width, 1 - 0.3 / height, 0.24)
        file = io.BytesIO()
        figure.savefig(file, dpi=90, metadata={"Software": None})
        return base64.b64encode(file.getvalue()).decode()


class snapshots(Mapping[str, list[tuple[str, nn.Module]]]):  # noqa: N801
    """Keep copies of the networks along a training, to see later how they came to what they do.

        kept = snapshots()
        trainer.train(actor, critic, callbacks=kept)
        kept["actor"]  # [("after 0 steps", network), ("after 20,480 steps", network), ...]
        play(env, kept["actor"], critic=kept["critic"])

    The first copy is made before the first update, the last at the end, the rest evenly in between.
    They do not change any more: in eval mode, without gradients, on the networks' device. Going on
    with a training adds to them; so does another training, whose labels say so.

    Args:
        count: copies of each network for one training of full length; 2 or more.

    Raises:
        ValueError: another count.
        KeyError: on access, a name that no network has.
    """

    def __init__(self, count: int = 5):
        if not isinstance(count, Integral) or count < 2:
            raise ValueError(f"count={count!r}; expected a whole number of 2 or more.")
        self.count: int = int(count)
        self.kept: dict[str, list[tuple[str, nn.Module]]] = {}
        self._run: Any = None
        self._last: tuple[Any, ...] = ()  # of what the last copies are
        self._trainings: int = 0

    def open(self, trainer: Any) -> None:
        """Copy what a training begins with."""
        same = [*trainer.run.networks.values()] == [*self._last[1:]]
        if trainer.run is not self._run or not same:
            self._trainings += 1
        self._run, self._taken = trainer.run, 0
        self._take()

    def __call__(self, trainer: Any) -> None:
        """Copy once the next part of the training is done."""
        if trainer.run.progress * (self.count - 1) >= self._taken:
            self._take()

    def close(self) -> None:
        """Copy what the training has come to."""
        self._take()

    def _take(self) -> None:
        run = self._run
        self._taken = math.floor(run.progress * (self.count - 1) + 1e-9) + 1
        now = (run.steps, *run.networks.values())
        if len(now) == len(self._last) and all(a is b for a, b in zip(now[1:], self._last[1:])):
            if now[0] == self._last[0]:
                return  # where one training ends, the next one begins
        self._last = now
        label = f"after {run.steps:,} steps"
        if self._trainings > 1:
            label = f"training {self._trainings}, {label}"
        for name, network in run.networks.items():
            same = copy.deepcopy(agents.unwrap(network)).eval().requires_grad_(False)
            self.kept.setdefault(name, []).append((label, same))

    def __getitem__(self, name: str) -> list[tuple[str, nn.Module]]:
        if name not in self.kept:
            there = (
                f"there are {', '.join(self.kept)}"
                if self.kept
                else ("there are none yet: pass it to train, callbacks=...")
            )
            raise KeyError(f"no snapshots of {name!r}; {there}")
        return self.kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    def __repr__(self) -> str:
        if not self.kept:
            return "<snapshots: none yet>"
        labels = [label for label, _ in next(iter(self.kept.values()))]
        return f"<snapshots of {', '.join(self.kept)}, {len(labels)} each: {'; '.join(labels)}>"


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
