"""Callbacks: functions of the trainer that `train` calls after every update. True stops it.

    trainer.train(actor, critic, callbacks=[stop_at(475), save_every("ppo.safetensors")])

Those that are objects may also have `open(trainer)`, called once when a training begins, before its
first update, and `close()`, called when it has ended, however it ended.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from torch import nn

from metis_nb import agents
from metis_nb.learning import RECENT, Run, Trainer

# What is asked for here and lives in the notebook wing: {name: what finds it}. Filled at the front
# door, `metis_nb/__init__.py`.
elsewhere: dict[str, Callable[[], Any]] = {}


def __getattr__(name: str) -> Any:
    if name in elsewhere:
        return elsewhere[name]()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
        self._run: Run | None = None
        self._last: tuple[Any, ...] = ()  # of what the last copies are
        self._trainings: int = 0

    def open(self, trainer: Trainer) -> None:
        """Copy what a training begins with."""
        same = [*trainer.run.networks.values()] == [*self._last[1:]]
        if trainer.run is not self._run or not same:
            self._trainings += 1
        self._run, self._taken = trainer.run, 0
        self._take(trainer.run)

    def __call__(self, trainer: Trainer) -> None:
        """Copy once the next part of the training is done."""
        if trainer.run.progress * (self.count - 1) >= self._taken:
            self._take(trainer.run)

    def close(self) -> None:
        """Copy what the training has come to."""
        if self._run is not None:
            self._take(self._run)

    def _take(self, run: Run) -> None:
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

    def __call__(self, trainer: Trainer) -> bool:
        recent = [episode[1] for episode in trainer.history.episodes[-self.episodes :]]
        return len(recent) == self.episodes and sum(recent) / self.episodes >= self.value


class save_every:  # noqa: N801
    """Save the trainer to `path` whenever another `steps` environment steps have been made."""

    def __init__(self, path: str | Path, steps: int = 50_000):
        self.path, self.steps = path, steps
        self.due = steps

    def __call__(self, trainer: Trainer) -> None:
        if trainer.history[-1]["steps"] >= self.due:
            trainer.save(self.path)
            self.due = trainer.history[-1]["steps"] + self.steps
