"""What `play` returns: whole episodes that display themselves, and can be saved.

In a running notebook an episode is a player (`player.html`: pictures and numbers in one piece of
HTML, no kernel needed); on a page that runs no script, a strip of pictures.
"""

from __future__ import annotations

import base64
import contextlib
import html
import importlib.resources
import io
import json
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import ipywidgets
import numpy as np
from gymnasium import spaces
from IPython.display import DisplayHandle, display
from PIL import Image, ImageDraw, ImageFont

from metis_nb.notebook import frontend

INK, SOFT, LINE = "#1f2328", "#57606a", "#d0d7de"  # of the still pictures


class Film:
    """How one or several episodes are displayed and saved. `Episode` and `Episodes` are films."""

    again: Callable[[], Film] | None
    layout = "one"  # or "side" by side, or "stages": one at a time, chosen by a slider

    @property
    def tracks(self) -> list[Episode]:
        """The episodes shown, in order."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "again": None}  # what it would play with stays behind

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the player (`.html`), a strip of pictures (`.png`) or a film (`.gif`, `.mp4`).

        Returns:
            The path written.

        Raises:
            ValueError: the name ends in something else.
            ImportError: an `.mp4` needs the library imageio-ffmpeg, which is not installed.
        """
        path = Path(path)
        kind = path.suffix.lower()
        if kind == ".html":
            title = html.escape(self.tracks[0].env_id)
            page = '<!doctype html><html lang="en"><meta charset="utf-8">'
            page += '<meta name="viewport" content="width=device-width">'
            page += '<meta name="color-scheme" content="light dark"><title>'
            path.write_text(f"{page}{title}</title>\n{self._html()}\n", encoding="utf-8")
        elif kind == ".png":
            path.write_bytes(self._filmstrip())
        elif kind == ".gif":
            pictures, fps = self._pictures(most_a_second=25, most_pixels=400)
            pause, later = round(1000 / fps), pictures[1:]
            pictures[0].save(path, save_all=True, append_images=later, duration=pause, loop=0)
        elif kind == ".mp4":
            _write_mp4(path, *self._pictures(most_a_second=60, most_pixels=1200))
        else:
            raise ValueError(
                f"path is {str(path)!r}; its name must end in .html, .png, .gif or .mp4."
            )
        return path

    # --- in a notebook ------------------------------------------------------------------------

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        bundle = {
            "image/png": base64.b64encode(self._filmstrip()).decode(),
            "text/plain": repr(self),
        }
        if not frontend.is_static():
            bundle["text/html"] = self._html()
        return bundle

    def _ipython_display_(self) -> None:
        bundle = self._repr_mimebundle_()
        if self.again is None or not frontend.is_live():
            display(bundle, raw=True)
            return
        handle = DisplayHandle()
        handle.display(bundle, raw=True)
        frontend.show_widget(_button(self.again, handle), "New episode: run the cell again.")

    def _html(self) -> str:
        """The player: one self-contained piece of HTML, good in any page, any number of times."""
        # No "<" in a script: "</script>" would end it, and "<!--" begin a comment.
        data = json.dumps(self._data(), separators=(",", ":")).replace("<", "\\u003c")
        strip = base64.b64encode(self._filmstrip()).decode()
        template = (
            importlib.resources.files("metis_nb.notebook")
            .joinpath("player.html")
            .read_text("utf-8")
        )
        values = {"ID": f"mnb-{uuid.uuid4().hex}", "LABEL": html.escape(repr(self)[1:-1])}
        values |= {"STRIP": strip, "DATA": data}
        return re.sub("__(ID|LABEL|STRIP|DATA)__", lambda name: values[name[1]], template)

    def _data(self) -> dict[str, Any]:
        """What the player shows; equal pictures of all episodes are there once."""
        tracks, frames = [], dict[bytes, int]()
        for episode in self.tracks:
            track = episode._track()
            places = [frames.setdefault(frame, len(frames)) for frame in episode.frames]
            track["picture"] = [places[index] for _, index in episode.shown]
            tracks.append(track)
        first = self.tracks[0]
        return {
            "title": first.env_id,
            "seed": first.seed,
            "fps": first.fps,
            "layout": self.layout,
            "frames": [base64.b64encode(frame).decode() for frame in frames],
            "tracks": tracks,
        }

    # --- as pictures --------------------------------------------------------------------------

    def _filmstrip(self, count: int = 5) -> bytes:
        """A PNG: for each episode, or six of them, `count` pictures from its first to its last."""
        shown = [self.tracks[i] for i in _evenly(len(self.tracks), 6)]
        width = 192 if len(shown) < 3 else 152
        rows = [episode._strip(count, width) for episode in shown]
        strip = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
        for place, row in enumerate(rows):
            strip.paste(row, (0, sum(row.height for row in rows[:place])))
        buffer = io.BytesIO()
        strip.quantize(128, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        return buffer.getvalue()

    def _pictures(self, most_a_second: int, most_pixels: int) -> tuple[list[Image.Image], float]:
        """Pictures for a film, and how many of them a second: episodes side by side beside each
        other, those along a training one after another."""
        groups = (
            [[episode] for episode in self.tracks] if self.layout == "stages" else [self.tracks]
        )
        stride = min(e.shown[1][0] - e.shown[0][0] for e in self.tracks)
        every = stride * max(1, round(self.tracks[0].fps / stride / most_a_second))
        pictures = []
        for group in groups:
            last = max(episode.length for episode in group)
            for step in range(last % every, last + 1, every):
                pictures.append(self._beside(group, step, most_pixels))
        return pictures, self.tracks[0].fps / every

    def _beside(self, group: list[Episode], step: int, most_pixels: int) -> Image.Image:
        """The pictures of a step beside each other, under the names of the agents."""
        parts = [episode._picture_at(step) for episode in group]
        parts = [_named(part, e.name) if e.name else part for part, e in zip(parts, group)]
        joined = Image.new("RGB", (sum(p.width for p in parts), parts[0].height), "white")
        for place, part in enumerate(parts):
            joined.paste(part, (sum(p.width for p in parts[:place]), 0))
        joined.thumbnail((most_pixels * min(2, len(parts)), most_pixels))
        return joined


@dataclass(eq=False)
class Episode(Film):
    """One whole episode. The last line of a cell displays it; `save` writes it to a file.

    T is the number of steps, A the action's dimensions, K the number of discrete actions.

    Attributes:
        env_id: the environment, such as "CartPole-v1".
        seed: what `play(..., seed=)` needs to show the same episode again.
        obs: (T + 1, *obs_shape), the last one included.
        actions: (T,) int or (T, *action_shape) float, in the environment's own units.
        rewards: (T,) float.
        terminated, truncated: how it ended. Both are False where `max_steps` cut it off.
        probabilities: (T, K) of each discrete action, if the actor has them.
        mean, std: (T, A) of the Gaussian policy, if the actor has one.
        values: (T + 1,) V(s) of every observation, if `play` was given such a critic.
        q_values: (T, K) Q(s, .) of each discrete action, from a Q-network as actor or critic.
        action_values: (T,) Q(s, a) of the action taken, from any kind of Q-critic.
        frames: the pictures, each a WebP file; equal ones are stored once.
        shown: (step, index into `frames`) for each picture, evenly thinned in long episodes.
        action_space: the environment's.
        fps: steps a second in real time.
        gamma: the discount behind `advantages` and `discounted`.
        name: the agent's, where several play.
        failure: what stopped it, where an error did.
    """

    env_id: str
    seed: int
    obs: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool
    truncated: bool
    frames: list[bytes]
    shown: list[tuple[int, int]]
    action_space: gym.Space
    fps: float
    gamma: float = 0.99
    probabilities: np.ndarray | None = None
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    values: np.ndarray | None = None
    q_values: np.ndarray | None = None
    action_values: np.ndarray | None = None
    name: str = ""
    failure: str = ""
    again: Callable[[], Film] | None = field(default=None, repr=False)

    @property
    def length(self) -> int:
        """How many steps it took."""
        return len(self.rewards)

    @property
    def episode_return(self) -> float:
        """The sum of the rewards, not discounted."""
        return float(self.rewards.sum())

    @property
    def discounted(self) -> np.ndarray:
        """(T,) the discounted return that followed each step. Where the episode was cut, the
        value of the last observation stands for what would have come (0 without a critic)."""
        following = 0.0
        if self.values is not None and not self.terminated:
            following = float(self.values[-1])
        returns = np.zeros(self.length)
        for t in reversed(range(self.length)):
            returns[t] = following = self.rewards[t] + self.gamma * following
        return returns

    @property
    def advantages(self) -> np.ndarray | None:
        """(T,) how much better each step was than the critic expected, seen from the next step:
        r + gamma V(s') - V(s). None without a critic V(s)."""
        if self.values is None:
            return None
        following = self.values[1:].copy()
        if self.terminated:
            following[-1] = 0.0
        return self.rewards + self.gamma * following - self.values[:-1]

    @property
    def ending(self) -> str:
        """Why it ended, in words."""
        if self.failure:
            return f"failed: {self.failure}"
        if self.terminated:
            return "terminated by the environment"
        return "truncated by the time limit" if self.truncated else "stopped at max_steps"

    @property
    def tracks(self) -> list[Episode]:
        return [self]

    def __repr__(self) -> str:
        return f"<Episode {self.env_id}: {self._summary()}>"

    def _summary(self) -> str:
        steps = "1 step" if self.length == 1 else f"{self.length} steps"
        return f"{steps}, return {self.episode_return:z.1f}, {self.ending}"

    # --- as pictures --------------------------------------------------------------------------

    def _picture(self, index: int) -> Image.Image:
        return Image.open(io.BytesIO(self.frames[index])).convert("RGB")

    def _picture_at(self, step: int) -> Image.Image:
        """The last picture up to `step`."""
        return self._picture([index for at, index in self.shown if at <= step][-1])

    def _strip(self, count: int, width: int, gap: int = 10) -> Image.Image:
        """`count` pictures, from the first to the last, `width` pixels each, and what they are."""
        which = _evenly(len(self.shown), count)
        first = self._picture(0)
        height = round(width * first.height / first.width)
        font, small = ImageFont.load_default(15), ImageFont.load_default(13)
        strip = Image.new("RGB", (gap + count * (width + gap), height + 82), "white")
        draw = ImageDraw.Draw(strip)
        draw.text((gap, 8), f"{self.name or self.env_id}: {self._summary()}", INK, font)
        returns = np.concatenate([[0.0], self.rewards.cumsum()])
        for place, at in enumerate(which):
            step, index = self.shown[at]
            left = gap + place * (width + gap)
            picture = self._picture(index).resize((width, height), Image.Resampling.LANCZOS)
            strip.paste(picture, (left, 34))
            draw.rectangle((left - 1, 33, left + width, 34 + height), outline=LINE)
            draw.text((left, height + 40), f"step {step}", INK, font)
            caption = f"return {returns[step]:z.1f}"
            if self.values is not None:
                caption += f"   V(s) {self.values[step]:z.2f}"
            elif self.action_values is not None and step < self.length:
                caption += f"   Q(s, a) {self.action_values[step]:z.2f}"
            draw.text((left, height + 60), caption, SOFT, small)
        return strip

    # --- as data for the player ---------------------------------------------------------------

    def _track(self) -> dict[str, Any]:
        """What the player shows, one entry for each picture. The last one has no action."""
        steps = np.array([step for step, _ in self.shown])
        acts = steps[:-1]
        returns = np.concatenate([[0.0], self.rewards.cumsum()])
        track: dict[str, Any] = {
            "name": self.name,
            "ending": f"{self.ending[0].upper()}{self.ending[1:]}",
            "steps": steps.tolist(),
            "reward": [None, *_short(self.rewards[steps[1:] - 1])],
            "score": _short(returns[steps]),
            "action": _short(self.actions[acts].reshape(len(acts), -1)),
        }
        if isinstance(self.action_space, spaces.Discrete):
            start = int(self.action_space.start)
            track["choices"] = list(range(start, start + int(self.action_space.n)))
        elif isinstance(self.action_space, spaces.Box):
            low, high = self._bounds(self.action_space)
            track |= {"low": _short(low), "high": _short(high)}
        optional = {"probs": self.probabilities, "mean": self.mean, "std": self.std}
        optional |= {"q": self.q_values, "qa": self.action_values}
        track |= {name: _short(x[acts]) for name, x in optional.items() if x is not None}
        if self.values is not None:
            track["value"] = _short(self.values[steps])
        track["charts"] = self._charts(acts)
        return track

    def _charts(self, acts: np.ndarray) -> list[dict[str, Any]]:
        """Lines over the episode, beside those the player makes of `_track` itself."""
        charts = []
        came = {
            "other": _short(self.discounted[acts]),
            "otherLabel": "the discounted return that followed",
        }
        if self.values is not None:
            charts.append({"label": "Value V(s)", "values": _short(self.values[acts]), **came})
        if self.action_values is not None:
            values = _short(self.action_values[acts])
            charts.append({"label": "Q(s, a)", "values": values, **came})
        advantages = self.advantages
        if advantages is not None:
            label = "Advantage: r + γ V(s') − V(s)"
            charts.append({"label": label, "values": _short(advantages[acts])})
        return charts

    def _bounds(self, space: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the scale of each action dimension, (A,); where it has none, of what was seen."""
        seen = [self.actions.reshape(self.length, -1)]
        if self.mean is not None and self.std is not None:
            seen += [self.mean - 2 * self.std, self.mean + 2 * self.std]
        low, high = space.low.ravel(), space.high.ravel()
        low = np.where(np.isfinite(low), low, np.min(seen, axis=(0, 1)))
        high = np.where(np.isfinite(high), high, np.max(seen, axis=(0, 1)))
        return low, np.maximum(high, low + 1e-6)


@dataclass(eq=False)
class Episodes(Film):
    """Episodes of several agents from the same start. `episodes["before"]` is one of them.

    Attributes:
        episodes: an `Episode` for each agent, by its name, in order.
        layout: "side" by side, in step; or "stages": one at a time, chosen by a slider.
    """

    episodes: dict[str, Episode]
    layout: str
    again: Callable[[], Film] | None = field(default=None, repr=False)

    @property
    def tracks(self) -> list[Episode]:
        return list(self.episodes.values())

    def __getitem__(self, name: str) -> Episode:
        return self.episodes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.episodes)

    def __len__(self) -> int:
        return len(self.episodes)

    def __repr__(self) -> str:
        each = "; ".join(f"{name}: {e._summary()}" for name, e in self.episodes.items())
        return f"<Episodes {self.tracks[0].env_id}: {each}>"


def _button(again: Callable[[], Film], handle: DisplayHandle) -> ipywidgets.Widget:
    """A button that puts a new episode in the place of the one that `handle` shows."""
    button = ipywidgets.Button(description="New episode", icon="refresh", tooltip="Another start")
    said = ipywidgets.Label()
    # On some kernels a press is handled on a thread of its own, and may meet the one before it.
    lock = threading.Lock()

    def press(_: Any) -> None:
        if not lock.acquire(blocking=False):
            return
        button.disabled, button.description, said.value = True, "Playing …", ""
        try:
            handle.update(again()._repr_mimebundle_(), raw=True)
        except Exception as error:
            said.value = str(error)
        finally:
            button.disabled, button.description = False, "New episode"
            lock.release()

    button.on_click(press)
    return ipywidgets.HBox([button, said])


def _evenly(length: int, most: int) -> list[int]:
    """Indices of at most `most` of `length` things, the first and the last among them."""
    places = np.linspace(0, length - 1, min(most, length)).round()
    return [int(place) for place in places]


def _named(picture: Image.Image, name: str) -> Image.Image:
    """The picture with a name above it."""
    height = round(picture.width / 12)
    framed = Image.new("RGB", (picture.width + 4, picture.height + height), "white")
    framed.paste(picture, (2, height))
    font = ImageFont.load_default(0.6 * height)
    ImageDraw.Draw(framed).text((8, 0.15 * height), name, INK, font)
    return framed


def _write_mp4(path: Path, pictures: list[Image.Image], fps: float) -> None:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ImportError(
            "save: an .mp4 needs the library imageio-ffmpeg. Please install it (pip install "
            "imageio-ffmpeg), or save a .gif."
        ) from error
    # The codec wants even numbers of pixels.
    width, height = (max(2, size // 2 * 2) for size in pictures[0].size)
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=fps, quality=7, macro_block_size=2
    )
    with contextlib.closing(writer):
        writer.send(None)
        for picture in pictures:
            writer.send(picture.crop((0, 0, width, height)).tobytes())


def _short(numbers: np.ndarray) -> list[Any]:
    """Nested lists with five significant digits: what a reader can see, at half the size. What is
    no number is None."""
    if numbers.dtype.kind in "iub":
        return numbers.tolist()
    if numbers.ndim > 1:
        return [_short(row) for row in numbers]
    return [float(f"{x:.5g}") if np.isfinite(x) else None for x in numbers]
