"""What a training leaves behind: a row of numbers for every update, and every episode."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

# Episodes behind "the return" at a moment: one number everywhere, in history, plots and callbacks.
RECENT = 20
# What stands in every row, whatever the algorithm.
EVERY_ROW = {
    "steps": "environment steps so far, over all environments together; steps that only reset one "
    "are not among them. Healthy: rises by about the same number in each row.",
    "seconds": "of training so far, in wall-clock time; callbacks and pictures do not count. "
    "Healthy: rises evenly. Ever faster: something in the environment grows as it runs.",
    "episodes": "ended so far. Healthy: rises. Stays 0: episodes have no end; wrap the environment "
    "in `gymnasium.wrappers.TimeLimit`.",
    "return": f"mean over the last {RECENT} episodes, in units of reward, not discounted; nan "
    "before the first has ended. Healthy: rises, then stays. These are episodes of training, with "
    "its exploration: `evaluate` says what the policy can do. Rises and is lost again: a lower "
    "learning rate.",
    "length": f"mean over the last {RECENT} episodes, in environment steps; nan before the first "
    "has ended. Healthy: depends on the task; at a time limit, episodes are truncated.",
}


def described_metrics(trainer: object) -> dict[str, str]:
    """What each number in a row of history is, its unit, where healthy lies, and what it means when
    it is not: name -> one line. Of a trainer or its class, from `Metrics:` in its docstring."""
    kind = trainer if isinstance(trainer, type) else type(trainer)
    sections = re.split(r"\n\n(?=\w+:\n)", inspect.getdoc(kind) or "")
    lines = [
        line for text in sections if text.startswith("Metrics:\n") for line in text.split("\n")
    ]
    found: dict[str, str] = {}
    for line in lines[1:]:
        if match := re.match(r"    (\w+): (.*)", line):
            name, found[match[1]] = match[1], match[2]
        elif found:
            found[name] += f" {line.strip()}"
    return EVERY_ROW | found


class History(list):
    """One row (a dict of numbers) for every update, in order. `history["return"]` is a column.

    Every row has the numbers in `EVERY_ROW`; the rest are the trainer's own, which
    `learning.described_metrics(trainer)` explains.

    `episodes` holds one (steps, return, length) for every finished episode.
    """

    def __init__(self, rows: Sequence[dict[str, float]] = ()):
        super().__init__(rows)
        self.episodes: list[tuple[int, float, int]] = []

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return super().__getitem__(key)
        if self and not any(key in row for row in self):
            names = ", ".join(dict.fromkeys(name for row in self for name in row))
            raise KeyError(f"no column {key!r} in the history; it has {names}")
        return np.array([row.get(key, math.nan) for row in self])

    def __repr__(self) -> str:
        if not self:
            return "<History: no updates yet>"
        row = self[-1]
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in row.items())
        return f"<History of {len(self)} updates; the last: {numbers}>"
