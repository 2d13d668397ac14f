"""Every picture that more than one notebook draws, in colours that everybody can tell apart.

Each function draws into a matplotlib figure or axes and returns it, to be changed at will.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metis_nb.learning import RECENT, History

# Okabe and Ito (2008), "Color Universal Design".
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, RED, YELLOW, GREY = "#56B4E9", "#D55E00", "#F0E442", "#999999"
CYCLE = [BLUE, ORANGE, GREEN, PINK, SKY, RED]


def training_curves(
    history: History,
    healthy: Mapping[str, tuple[float, float]] | None = None,
    solved: float | None = None,
    figure: Figure | None = None,
) -> Figure:
    """The returns of a training beside its diagnostics, with the band where each is healthy.

    Args:
        history: what `trainer.train` returns.
        healthy: diagnostics to draw, each with its (low, high); a trainer's own are in
            `trainer.healthy`.
        solved: the return at which the task counts as solved; a line.
        figure: one to draw into, in place of a new one.
    """
    healthy = healthy or {}
    if figure is None:
        figure = plt.figure(figsize=(4.2 + 2.6 * len(healthy), 3.0), layout="constrained")
    widths = [1.7] + [1.0] * len(healthy)
    panels = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    learning_curve(history, solved=solved, ax=panels[0])
    for panel, (name, band) in zip(panels[1:], healthy.items(), strict=True):
        diagnostic(history, name, band, ax=panel)
    return figure


def learning_curve(
    history: History,
    solved: float | None = None,
    ax: Axes | None = None,
    label: str = f"mean of the last {RECENT}",
    color: str = BLUE,
) -> Axes:
    """The return of every finished episode, and their running mean, over environment steps."""
    ax = ax or plt.figure(figsize=(5.5, 3.2), layout="constrained").subplots()
    if history.episodes:
        steps, returns, _ = (np.array(column) for column in zip(*history.episodes, strict=True))
        ax.plot(steps, returns, ".", color=color, alpha=0.25, markersize=3, label="one episode")
        ax.plot(steps, running_mean(returns, RECENT), color=color, linewidth=2, label=label)
    if solved is not None:
        ax.axhline(solved, color=GREEN, linestyle="--", linewidth=1.2, label=f"solved: {solved:g}")
    ax.set(title="Return", xlabel="environment steps", ylabel="return of an episode")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, loc="best")
    thousands(ax)
    return ax


def diagnostic(
    history: History, name: str, band: tuple[float, float] | None = None, ax: Axes | None = None
) -> Axes:
    """One column of the history over environment steps, with its healthy band shaded."""
    ax = ax or plt.figure(figsize=(4.0, 3.0), layout="constrained").subplots()
    if len(history):
        values = history[name]
        if band is not None:
            values, low, high = clipped(values, band)
            ax.set_ylim(low, high)
        ax.plot(history["steps"], values, color=BLUE, linewidth=1.2)
    if band is not None:
        ax.axhspan(*band, color=GREEN, alpha=0.12, linewidth=0, label="healthy")
        ax.legend(fontsize=8, loc="best")
    ax.set(title=name.replace("_", " "), xlabel="environment steps")
    thousands(ax)
    return ax


def clipped(values: Iterable[float], band: tuple[float, float]) -> tuple[list[float], float, float]:
    """Values for a diagnostic's panel, with the least and greatest number on its axis.

    Wild values lie at the edge: drawn to scale, they would press all others into a line.
    """
    width = band[1] - band[0]
    least, most = band[0] - 3 * width, band[1] + 3 * width
    kept = [x if math.isnan(x) else float(min(max(x, least), most)) for x in values]
    known = [x for x in kept if not math.isnan(x)]
    low, high = min([*known, band[0]]), max([*known, band[1]])
    room = 0.05 * (high - low) or 0.5
    return kept, low - room, high + room


def seeds(
    curves: Mapping[str, Sequence[Any]],
    column: str = "return",
    solved: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Several trainings of each kind: the median over seeds, and the band from least to greatest.

    Args:
        curves: name -> histories, one for each seed.
        column: of the histories.
    """
    ax = ax or plt.figure(figsize=(5.5, 3.2), layout="constrained").subplots()
    for color, (name, histories) in zip(CYCLE, curves.items(), strict=False):
        rows = min(len(history) for history in histories)
        values = np.array([history[column][:rows] for history in histories])
        steps = np.mean([history["steps"][:rows] for history in histories], axis=0)
        with np.errstate(all="ignore"):
            known = np.isfinite(values).all(0)
        ax.plot(steps, np.median(values, 0), color=color, linewidth=2, label=name)
        ax.fill_between(
            steps, values.min(0), values.max(0), where=known, color=color, alpha=0.15, linewidth=0
        )
    if solved is not None:
        ax.axhline(solved, color=GREY, linestyle="--", linewidth=1.2, label=f"solved: {solved:g}")
    number = len(next(iter(curves.values())))
    ax.set(xlabel="environment steps", ylabel=column, title=f"median and range of {number} seeds")
    ax.legend(fontsize=8)
    thousands(ax)
    return ax


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of each value and those before it, `window` at most."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return (total[end] - total[start]) / (end - start)


def short(number: float) -> str:
    """500, 20k or 1.5M, as a label."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:g}{unit}"
    return f"{number:g}"


def thousands(ax: Axes) -> None:
    """Label environment steps as 20k, 40k, ..."""
    ax.xaxis.set_major_formatter(lambda x, _: short(x))
    ax.locator_params(axis="x", nbins=5)
    ax.grid(alpha=0.2)
    ax.spines[["top", "right"]].set_visible(False)


# --- the map of the eight algorithms -------------------------------------------------------

ALGORITHMS = {
    "VPG": "make what paid off more probable",
    "A2C": "compare with what was expected",
    "PPO": "learn a batch many times, stay near",
    "DQN": "learn the value of every action",
    "DDQN": "do not believe the highest estimate",
    "DDPG": "climb the value by its gradient",
    "TD3": "of two estimates take the lower",
    "SAC": "stay as random as you can afford",
}


def algorithms(here: str | None = None) -> Figure:
    """The eight algorithms of the collection in reading order, a picture of its idea for each.

    Args:
        here: the name of one of them, drawn as "you are here".
    """
    if here is not None and here not in ALGORITHMS:
        raise ValueError(f"here={here!r}; expected one of {', '.join(ALGORITHMS)}.")
    figure = plt.figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(2, 4).flat
    for number, (panel, (name, idea)) in enumerate(zip(panels, ALGORITHMS.items(), strict=True), 1):
        _DRAW[name](panel)
        panel.set_title(f"{number:02d}  {name}", fontweight="bold", loc="left")
        panel.set_xlabel(idea, fontsize=9)
        panel.set(xticks=[], yticks=[])
        panel.spines[["top", "right"]].set_visible(name == here)
        if name == here:
            for spine in panel.spines.values():
                spine.set(color=RED, linewidth=3)
            panel.set_title("you are here", color=RED, loc="right", fontsize=9)
    return figure


def _vpg(ax: Axes) -> None:
    ax.bar([0, 1, 2], [1, 1, 1], color=GREY, alpha=0.4)
    ax.bar([0, 1, 2], [0.6, 1.7, 0.7], width=0.5, color=BLUE)
    ax.annotate("", (1.42, 1.7), (1.42, 1.0), arrowprops={"arrowstyle": "->", "color": RED})
    ax.set_ylabel("probability")


def _a2c(ax: Axes) -> None:
    x = np.linspace(0, 6, 50)
    expected, real = 1 + 0.3 * np.sin(x), 1 + 0.3 * np.sin(x) + 0.4 * np.sin(2.2 * x + 1)
    ax.plot(x, expected, color=BLUE)
    ax.plot(x, real, color=GREY)
    ax.fill_between(x, expected, real, where=real > expected, color=GREEN, alpha=0.4)
    ax.fill_between(x, expected, real, where=real <= expected, color=RED, alpha=0.4)
    ax.set_ylabel("return")


def _ppo(ax: Axes) -> None:
    ratio = np.linspace(0.4, 1.6, 50)
    ax.axvspan(1.2, 1.6, color=ORANGE, alpha=0.3, linewidth=0)
    ax.plot(ratio, np.minimum(ratio, 1.2), color=BLUE)
    ax.plot(1, 1, "o", color=RED)
    ax.set_ylabel("gain")


def _dqn(ax: Axes) -> None:
    ax.bar([0, 1, 2, 3], [1.2, 0.7, 1.9, 1.1], color=[BLUE, BLUE, RED, BLUE], alpha=0.8)
    ax.set_ylabel("Q(s, a)")


def _ddqn(ax: Axes) -> None:
    generator = np.random.default_rng(1)  # its own: pictures leave the reader's generators alone
    estimate = generator.normal(0, 0.5, 12)
    ax.axhline(0, color=GREEN)
    ax.plot(estimate, "o", color=BLUE, markersize=4)
    ax.plot(estimate.argmax(), estimate.max(), "o", color=RED)
    ax.set_ylabel("estimate of 0")


def _ddpg(ax: Axes) -> None:
    x = np.linspace(-1, 1, 50)
    ax.plot(x, np.exp(-3 * (x - 0.4) ** 2), color=BLUE)
    start = (-0.45, float(np.exp(-3 * 0.85**2)))
    ax.plot(*start, "o", color=RED)
    ax.annotate("", (0.1, 0.76), start, arrowprops={"arrowstyle": "->", "color": RED})
    ax.set_ylabel("Q(s, a)")


def _td3(ax: Axes) -> None:
    x = np.linspace(-1, 1, 80)
    one, two = np.exp(-3 * (x - 0.5) ** 2) + 0.1, np.exp(-3 * (x + 0.1) ** 2)
    ax.plot(x, one, color=SKY)
    ax.plot(x, two, color=ORANGE)
    ax.fill_between(x, np.minimum(one, two), color=BLUE, alpha=0.3, linewidth=0)
    ax.set_ylabel("Q(s, a)")


def _sac(ax: Axes) -> None:
    x = np.linspace(-1, 1, 80)
    for width, color in ((0.15, GREY), (0.4, BLUE)):
        density = np.exp(-((x - 0.3) ** 2) / (2 * width**2))
        ax.fill_between(x, density / width, color=color, alpha=0.5, linewidth=0)
    ax.set_ylabel("density of a")


_DRAW = {
    "VPG": _vpg,
    "A2C": _a2c,
    "PPO": _ppo,
    "DQN": _dqn,
    "DDQN": _ddqn,
    "DDPG": _ddpg,
    "TD3": _td3,
    "SAC": _sac,
}
