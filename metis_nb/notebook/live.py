"""What the training view shows: a picture drawn by hand, fifty times faster than matplotlib.

Functions of a trainer and its history that give text: HTML with SVG in it, or words. Nothing here
displays anything or looks at a clock.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gymnasium as gym

from metis_nb.envs.spaces import Environment, name_of
from metis_nb.learning import RECENT, History, Trainer
from metis_nb.notebook.plots import clipped, short

# Points of one line or cloud. More could not be told apart, and each costs time and bytes.
MOST_POINTS = 300
# Pixels of a panel, and around its axes. The returns' panel is two columns and the gap wide.
NARROW, WIDE, HEIGHT, GAP = 172, 354, 206, 10
LEFT, RIGHT, TOP, BOTTOM = 38, 12, 42, 38


# --- what is known of a training ----------------------------------------------------------------


def spec_of(env: Environment) -> Any:
    """How `env` or its first sub-environment is registered; None where neither is."""
    first = next(iter(getattr(env.unwrapped, "envs", ())), None)
    return env.spec or getattr(first, "spec", None)


def title(trainer: Trainer) -> str:
    """PPO on CartPole-v1."""
    env: gym.Env | gym.vector.VectorEnv = trainer.run.env
    spec = spec_of(env)
    return f"{type(trainer).__name__} on {spec.id if spec else name_of(env)}"


def summary(trainer: Trainer) -> str:
    """A whole training in one sentence, the same on every machine."""
    episodes = trainer.history.episodes
    said = f"{title(trainer)}: {trainer.run.steps:,} steps, {len(episodes):,} episodes"
    if not episodes:
        return said
    recent = [episode[1] for episode in episodes[-RECENT:]]
    mean = sum(recent) / len(recent)
    return f"{said}, return {number(mean)} (mean of the last {len(recent)})"


@dataclass
class Moment:
    """A training as it is now, in the numbers that the view tells."""

    title: str
    done: int  # environment steps of this training
    goal: int
    share: float  # of the way, 0 to 1
    elapsed: float  # seconds
    left: float  # seconds, nan before it can be known
    speed: float  # steps per second, nan before it can be known
    episodic_return: float  # mean of the last episodes, nan before the first has ended
    solved: float | None
    diagnostics: dict[str, tuple[float, str]]  # name -> (value, where it lies)

    def facts(self) -> list[str]:
        """What stands below the bar, in places of their own."""
        return [
            f"{self.done:,} of {self.goal:,} steps",
            f"{clock(self.elapsed)} elapsed",
            f"about {clock(self.left)} left" if math.isfinite(self.left) else "– left",
            f"{self.speed:,.0f} steps/s" if math.isfinite(self.speed) else "– steps/s",
            f"return {number(self.episodic_return)}",
        ]

    def words(self) -> str:
        """All of it as one sentence, for those who do not see the picture."""
        said = f"{self.title}: {self.share:.0%}, {', '.join(self.facts())}"
        if self.solved is not None:
            said += f", solved at {self.solved:g}"
        values = (
            f"{name.replace('_', ' ')} {number(value)} {where}".strip()
            for name, (value, where) in self.diagnostics.items()
        )
        return "; ".join([said, *values]) + "."


def moment(trainer: Trainer, solved: float | None, elapsed: float) -> Moment:
    """The numbers of a training `elapsed` seconds after it began."""
    run = trainer.run
    done, goal = run.steps - run.begin, run.goal - run.begin
    speed = done / elapsed if done and elapsed > 0 else math.nan
    row = trainer.history[-1] if trainer.history else {}
    diagnostics = {}
    for name, (low, high) in getattr(trainer, "healthy_ranges", {}).items():
        value = row.get(name, math.nan)
        where = "low" if value < low else "high" if value > high else "healthy"
        diagnostics[name] = value, where if not math.isnan(value) else ""
    return Moment(
        title(trainer),
        done,
        goal,
        run.progress,
        elapsed,
        max(0, goal - done) / speed,
        speed,
        row.get("return", math.nan),
        solved,
        diagnostics,
    )


# --- the picture --------------------------------------------------------------------------------


def picture(trainer: Trainer, solved: float | None, elapsed: float) -> dict[str, str]:
    """The view of a training that goes on, as text/html and text/plain.

    Args:
        solved: the return at which the task counts as solved, or None; a line.
        elapsed: seconds since the training began.
    """
    now = moment(trainer, solved, elapsed)
    end = axis_end(trainer.run.steps, trainer.run.goal)
    panels = [returns_panel(trainer.history, now, end)]
    for name, band in getattr(trainer, "healthy_ranges", {}).items():
        panels.append(diagnostic_panel(trainer.history, name, band, now, end))
    columns = min(5, len(panels) + 1)  # one for each panel, and two for the returns
    width = columns * NARROW + (columns - 1) * GAP
    percent = f"{now.share:.0%}"
    facts = "".join(f"<span>{escape(fact)}</span>" for fact in now.facts())
    html = (
        f'<div class="mnb-live" role="img" aria-label="{escape(now.words())}"'
        f' style="max-width: {width + 26}px"><style>{STYLE}</style>'
        f'<div class="head"><b>{escape(now.title)}</b>'
        f'<div class="track"><i style="width: {100 * now.share:.1f}%"></i></div>'
        f"<b>{percent}</b></div>"
        f'<div class="facts">{facts}</div><div class="panels">{"".join(panels)}</div></div>'
    )
    return {"text/html": html, "text/plain": now.words()}


def returns_panel(history: History, now: Moment, end: float) -> str:
    """Returns as dots and their running mean over environment steps, and the line of `solved`."""
    steps = [episode[0] for episode in history.episodes]
    returns = [episode[1] for episode in history.episodes]
    shown = thinned(len(returns))
    means = []
    for i in shown:
        recent = returns[max(0, i + 1 - RECENT) : i + 1]
        means.append(sum(recent) / len(recent))
    dots = [(steps[i], returns[i]) for i in shown]
    mean = [(steps[i], value) for i, value in zip(shown, means)]
    known = [value for _, value in dots if math.isfinite(value)]
    lines = [] if now.solved is None else [now.solved]
    low, high = padded([*(known or [0.0]), *lines])
    axes = Axes(WIDE, end, low, high)
    marks = [
        f'<path class="dots" d="{axes.dots(dots)}"/>',
        f'<path class="line mean" d="{axes.line(mean)}"/>',
    ]
    if now.solved is not None:
        y = axes.y(now.solved)
        below = y < TOP + 16  # there is no room above the line
        marks.append(
            f'<path class="solved" d="M{LEFT} {y:.1f}H{WIDE - RIGHT}"/>'
            f'<text class="on" x="{LEFT + 5}" y="{y + (13 if below else -5):.1f}">'
            f"solved: {now.solved:g}</text>"
        )
    said = f"mean of the last {RECENT}; a dot is one episode"
    return axes.svg("wide", "return", number(now.episodic_return), said, "".join(marks))


def diagnostic_panel(
    history: History, name: str, band: tuple[float, float], now: Moment, end: float
) -> str:
    """One column of the history, with the band where it is healthy. Wild values lie at the edge."""
    shown = thinned(len(history))
    values = [float(history[i].get(name, math.nan)) for i in shown]
    values, low, high = clipped(values, band)
    axes = Axes(NARROW, end, low, high)
    top, bottom = axes.y(band[1]), axes.y(band[0])
    points = [(history[i]["steps"], value) for i, value in zip(shown, values)]
    marks = (
        f'<rect class="band" x="{LEFT}" y="{top:.1f}" width="{axes.width}"'
        f' height="{bottom - top:.1f}"/>'
        f'<path class="line" d="{axes.line(points)}"/>'
    )
    value, where = now.diagnostics[name]
    return axes.svg(where, name.replace("_", " "), number(value), where, marks)


class Axes:
    """One panel: where a number lies in it, and what stands around the numbers."""

    def __init__(self, size: int, end: float, low: float, high: float):
        self.size, self.width = size, size - LEFT - RIGHT
        self.end, self.low, self.high = end, low, high

    def x(self, steps: float) -> float:
        return LEFT + self.width * min(max(steps / self.end, 0), 1)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(max(share, 0), 1))

    def dots(self, points: Iterable[tuple[float, float]]) -> str:
        """A path whose round ends are the dots; one element is faster than hundreds."""
        return "".join(
            f"M{self.x(s):.1f} {self.y(v):.1f}h0" for s, v in points if not math.isnan(v)
        )

    def line(self, points: Iterable[tuple[float, float]]) -> str:
        """A path through the points, with a gap where there is no number."""
        parts, letter = [], "M"
        for steps, value in points:
            if math.isnan(value):
                letter = "M"
                continue
            parts.append(f"{letter}{self.x(steps):.1f} {self.y(value):.1f}")
            if letter == "M":
                parts.append("h0")  # so that a point alone is seen
            letter = "L"
        return "".join(parts)

    def svg(self, kind: str, name: str, value: str, said: str, marks: str) -> str:
        floor = HEIGHT - BOTTOM
        grid, labels = [], []
        for tick, label in ticks(self.low, self.high, 4):
            y = self.y(tick)
            grid.append(f"M{LEFT} {y:.1f}H{self.size - RIGHT}")
            labels.append(f'<text class="end" x="{LEFT - 5}" y="{y + 3.5:.1f}">{label}</text>')
        for tick, _ in ticks(0, self.end, 4 if self.size == WIDE else 2):
            x = self.x(tick)
            grid.append(f"M{x:.1f} {TOP}V{floor}")
            labels.append(f'<text class="mid" x="{x:.1f}" y="{floor + 14}">{short(tick)}</text>')
        name = name if len(name) < 24 else name[:23] + "…"
        return (
            f'<svg class="{kind}" viewBox="0 0 {self.size} {HEIGHT}" aria-hidden="true">'
            f'<text class="name" x="2" y="14">{escape(name)}</text>'
            f'<text x="2" y="31"><tspan class="value">{value}</tspan> {escape(said)}</text>'
            f'<path class="grid" d="{"".join(grid)}"/>{marks}'
            f'<path class="axis" d="M{LEFT} {TOP}V{floor}H{self.size - RIGHT}"/>'
            f"{''.join(labels)}"
            f'<text class="mid" x="{LEFT + self.width / 2}" y="{HEIGHT - 7}">'
            "environment steps</text></svg>"
        )


# --- numbers ------------------------------------------------------------------------------------


def thinned(length: int) -> Sequence[int]:
    """Indices of `MOST_POINTS` things at most, the last among them.

    Steps are powers of two: while a list grows, those shown stay the same for long.
    """
    step = 1
    while length / step >= MOST_POINTS:
        step *= 2
    shown = list(range(0, length, step))
    return shown if not length or shown[-1] == length - 1 else [*shown, length - 1]


def axis_end(steps: int, goal: int) -> float:
    """Where the axis of steps ends: it doubles until it is the goal, and seldom moves."""
    end = float(max(goal, steps, 1))
    while steps <= end / 2 and end / 2 >= min(goal / 8, 10_000):
        end /= 2
    return end


def padded(values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis that holds all values, with some room around them."""
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or max(0.05 * abs(high), 0.5)
    return low - room, high + room


def ticks(low: float, high: float, count: int) -> list[tuple[float, str]]:
    """About `count` round numbers from low to high, each with its label."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(f for f in (1, 2, 4, 5, 10) if rough <= f * power * 1.0001)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    values = [i * step for i in range(first, last + 1)]
    most = max(map(abs, values), default=0.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))

    def label(value: float) -> str:
        if not value:
            return "0"
        if most >= 1e9 or decimals > 3:
            return re.sub(r"e([+-])0?", r"e\1", f"{value:.2g}").replace("e+", "e")
        return short(value) if most >= 1e4 else f"{value:.{decimals}f}"

    return [(value, label(value).replace("-", "−")) for value in values]


def number(value: float) -> str:
    """A number of some four digits, for a reader."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-4:
        return f"{value:.1e}".replace("-", "−")
    decimals = 0 if size >= 1000 or not size else 1 if size >= 10 else 2 if size >= 0.1 else 4
    return f"{value:,.{decimals}f}".replace("-", "−")


def clock(seconds: float) -> str:
    """0:07, 12:30 or 1:05:00."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


# --- the stop button ----------------------------------------------------------------------------


def kernel_id() -> str | None:
    """By what name the server knows this kernel; None where no server started it."""
    try:
        from ipykernel.connect import get_connection_file

        found = re.search(r"kernel-([\w-]+)\.json$", get_connection_file())
    except (ImportError, RuntimeError):  # no ipykernel, or one inside another program
        return None
    return found[1] if found else None


def stop_button() -> dict[str, str]:
    """A button that interrupts this kernel, as the notebook's own stop square does.

    A click cannot reach a kernel at work as a widget's message: it would wait for the cell's end.
    So the page asks the server. Where there is no Jupyter Server behind the page (Colab, VS Code),
    the button stays hidden, and a text says where to press instead.
    """
    hint = "To end the training early, press the notebook's own stop button."
    html = STOP.replace("__ID__", f"mnb-stop-{uuid.uuid4().hex[:12]}")
    html = html.replace("__STYLE__", STYLE).replace("__HINT__", escape(hint))
    html = html.replace("__KERNEL__", json.dumps(kernel_id()))
    return {"text/html": html, "text/plain": hint}


# JupyterLab's colours where they exist, else VS Code's, else our own by the system's theme. It is
# in every output, since each has to stand alone.
DARK = (
    "--own-bg:#161b22;--own-fg:#e6edf3;--own-soft:#9198a1;--own-line:#3d444d;--own-track:#2b323b;"
    "--blue:#56b4e9;--green:#2bc49a;--red:#f0883e"
)
LIGHT = (
    "--own-bg:#ffffff;--own-fg:#1f2328;--own-soft:#57606a;--own-line:#d0d7de;--own-track:#eaeef2;"
    "--blue:#0072b2;--green:#00795a;--red:#c45500"
)
STYLE = (
    f".mnb-live{{{LIGHT}}}"
    f"@media (prefers-color-scheme:dark){{.mnb-live{{{DARK}}}}}"
    ':is([data-jp-theme-light="true"],.vscode-light,[theme="light"]) '
    f".mnb-live{{{LIGHT}}}"
    ':is([data-jp-theme-light="false"],.vscode-dark,[theme="dark"]) '
    f".mnb-live{{{DARK}}}"
    """
.mnb-live{--bg:var(--jp-layout-color1,var(--vscode-editor-background,var(--own-bg)));
--fg:var(--jp-ui-font-color1,var(--vscode-editor-foreground,var(--own-fg)));
--soft:var(--jp-ui-font-color2,var(--own-soft));--line:var(--jp-border-color2,var(--own-line));
--track:var(--jp-layout-color2,var(--own-track));
box-sizing:border-box;margin:4px 0;padding:10px 12px;
border:1px solid var(--line);border-radius:8px;background:var(--bg);color:var(--fg);
font:13px/1.4 var(--jp-ui-font-family,system-ui,sans-serif);font-variant-numeric:tabular-nums}
.mnb-live .head{display:flex;gap:12px;align-items:center;white-space:nowrap}
.mnb-live .head b:first-child{overflow:hidden;text-overflow:ellipsis}
.mnb-live .head b:last-child{min-width:42px;text-align:right}
.mnb-live .track{flex:1;min-width:60px;height:8px;overflow:hidden;
border-radius:4px;background:var(--track)}
.mnb-live .track i{display:block;height:100%;background:var(--blue)}
.mnb-live .facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(96px,1fr));gap:0 10px;
margin:4px 0 8px;color:var(--soft);font-size:12px;white-space:nowrap}
.mnb-live .facts span:first-child{grid-column:span 2}
.mnb-live .panels{display:grid;gap:10px;
grid-template-columns:repeat(auto-fit,minmax(min(150px,46%),1fr))}
.mnb-live svg{display:block;width:100%;height:auto;max-width:none;overflow:visible}
.mnb-live svg.wide{grid-column:span 2}
.mnb-live svg text{fill:var(--soft);font-size:11px}
.mnb-live svg .name{fill:var(--fg);font-size:12.5px;font-weight:600}
.mnb-live svg .value{fill:var(--blue);font-size:12.5px;font-weight:600}
.mnb-live svg.low .value,.mnb-live svg.high .value{fill:var(--red)}
.mnb-live svg .mid{text-anchor:middle}.mnb-live svg .end{text-anchor:end}
.mnb-live svg path{fill:none;stroke-linecap:round;stroke-linejoin:round}
.mnb-live svg .grid{stroke:var(--line);stroke-width:1;opacity:.55}
.mnb-live svg .axis{stroke:var(--soft);stroke-width:1;opacity:.7}
.mnb-live svg .dots{stroke:var(--blue);stroke-width:3;opacity:.4}
.mnb-live svg .line{stroke:var(--blue);stroke-width:1.6}.mnb-live svg .mean{stroke-width:2.2}
.mnb-live svg .solved{stroke:var(--green);stroke-width:1.4;stroke-dasharray:5 4;stroke-linecap:butt}
.mnb-live svg .on{fill:var(--green);font-weight:600;
stroke:var(--bg);stroke-width:3px;paint-order:stroke}
.mnb-live svg .band{fill:var(--green);opacity:.16}
.mnb-live.stop{display:flex;align-items:center;min-height:32px;padding:0;border:0;background:none}
.mnb-live [hidden]{display:none!important}
.mnb-live button{display:flex;gap:8px;align-items:center;padding:4px 12px;
font:inherit;cursor:pointer;border:1px solid var(--soft);border-radius:6px;
background:var(--bg);color:var(--fg)}
.mnb-live button i{width:10px;height:10px;border-radius:2px;background:var(--red)}
.mnb-live button:hover{background:var(--track)}.mnb-live button:disabled{cursor:default;opacity:.7}
.mnb-live button:focus-visible{outline:2px solid var(--blue);outline-offset:2px}
.mnb-live .hint{color:var(--soft);font-size:12px}
"""
)

STOP = """<div id="__ID__" class="mnb-live stop" data-lm-suppress-shortcuts="true">
<style>__STYLE__</style>
<button type="button" hidden="hidden" aria-label="Stop the training after the update under way"
title="Stop after the update under way; the cell ends normally"><i></i><span>Stop</span></button>
<span class="hint" role="status">__HINT__</span>
<script>
(() => {
  const root = document.getElementById("__ID__"), kernel = __KERNEL__;
  const page = document.getElementById("jupyter-config-data");
  if (!root || !page || !kernel) return;
  const config = JSON.parse(page.textContent);
  if (!config.baseUrl) return;
  const button = root.querySelector("button"), hint = root.querySelector(".hint");
  const offer = (yes) => { button.hidden = !yes; hint.hidden = yes; };
  button.addEventListener("click", async () => {
    button.disabled = true;
    button.querySelector("span").textContent = "Stopping…";
    button.setAttribute("aria-label", "Stopping…");
    const headers = {}, cookie = document.cookie.match(/(?:^|; *)_xsrf=([^;]*)/);
    if (cookie) headers["X-XSRFToken"] = decodeURIComponent(cookie[1]);
    if (config.token) headers.Authorization = "token " + config.token;
    const address = config.baseUrl + "api/kernels/" + kernel + "/interrupt";
    try {
      const answer = await fetch(address, { method: "POST", headers, credentials: "same-origin" });
      if (!answer.ok) offer(false);
    } catch {
      offer(false);
    }
  });
  offer(true);
})();
</script></div>"""
