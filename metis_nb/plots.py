"""Every picture that more than one notebook draws, in colours that everybody can tell apart.

Each function draws into a matplotlib figure or axes and returns it, to be changed at will.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito (2008), "Color Universal Design".
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, RED, YELLOW, GREY = "#56B4E9", "#D55E00", "#F0E442", "#999999"
CYCLE = [BLUE, ORANGE, GREEN, PINK, SKY, RED]


def training(
    history: Any,
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
    history: Any,
    solved: float | None = None,
    ax: Axes | None = None,
    label: str = "mean of the last 20",
    color: str = BLUE,
) -> Axes:
    """The return of every finished episode, and their running mean, over environment steps."""
    ax = ax or plt.figure(figsize=(5.5, 3.2), layout="constrained").subplots()
    if history.episodes:
        steps, returns, _ = (np.array(column) for column in zip(*history.episodes, strict=True))
        ax.plot(steps, returns, ".", color=color, alpha=0.25, markersize=3, label="one episode")
        ax.plot(steps, running_mean(returns, 20), color=color, linewidth=2, label=label)
    if solved is not None:
        ax.axhline(solved, color=GREEN, linestyle="--", linewidth=1.2, label=f"solved: {solved:g}")
    ax.set(title="Return", xlabel="environment steps", ylabel="return of an episode")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, loc="best")
    thousands(ax)
    return ax


def diagnostic(
    history: Any, name: str, band: tuple[float, float] | None = None, ax: Axes | None = None
) -> Axes:
    """One column of the history over environment steps, with its healthy band shaded."""
    ax = ax or plt.figure(figsize=(4.0, 3.0), layout="constrained").subplots()
    if len(history):
        values = history[name]
        ax.plot(history["steps"], values, color=BLUE, linewidth=1.2)
        if band is not None:
            # A single wild value must not squeeze the rest into a line.
            finite = values[np.isfinite(values)]
            low, high = np.quantile(finite, [0.02, 0.98]) if len(finite) else band
            pad = 0.05 * (max(high, band[1]) - min(low, band[0]))
            ax.set_ylim(min(low, band[0]) - pad, max(high, band[1]) + pad)
    if band is not None:
        ax.axhspan(*band, color=GREEN, alpha=0.12, linewidth=0, label="healthy")
        ax.legend(fontsize=8, loc="best")
    ax.set(title=name.replace("_", " "), xlabel="environment steps")
    thousands(ax)
    return ax


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


def thousands(ax: Axes) -> None:
    """Label environment steps as 20k, 40k, ..."""
    ax.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x else "0")
    ax.locator_params(axis="x", nbins=5)
    ax.grid(alpha=0.2)
    ax.spines[["top", "right"]].set_visible(False)
