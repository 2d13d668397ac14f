"""`play(env, actor)`: watch one episode, step by step, with what the networks thought.

The result displays itself: in a running notebook as a player (`player.html`, no kernel needed), on
a page that runs no script as a strip of five pictures.
"""

from __future__ import annotations

import base64
import contextlib
import html
import importlib.resources
import io
import json
import operator
import os
import secrets
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before anything imports pygame: a notebook server has neither a screen nor a sound card.
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from metis_nb import agents
from metis_nb.envs import original
from metis_nb.spaces import ActionUnits, name_of

_MAX_FRAMES = 501  # a whole CartPole episode; longer ones are thinned
_MAX_WIDTH = 600  # pixels: what the classic tasks draw, so that they keep their sharp, small frames
_PHOTO_BYTES = 16_000  # a lossless frame above this is a photograph, and lossy saves nine tenths

Choice = tuple[Any, dict[str, np.ndarray]]


@dataclass
class Episode:
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
        values: (T + 1,) V(s) of every observation, if `play` was given a critic.
        frames: the pictures, each a WebP file; equal ones are stored once.
        shown: (step, index into `frames`) for each picture, evenly thinned in long episodes.
        action_space: the environment's.
        fps: steps a second in real time.
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
    probabilities: np.ndarray | None = None
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    values: np.ndarray | None = None

    @property
    def length(self) -> int:
        """How many steps it took."""
        return len(self.rewards)

    @property
    def episode_return(self) -> float:
        """The sum of the rewards, not discounted."""
        return float(self.rewards.sum())

    @property
    def ending(self) -> str:
        """Why it ended, in words."""
        if self.terminated:
            return "terminated by the environment"
        return "truncated by the time limit" if self.truncated else "stopped at max_steps"

    def __repr__(self) -> str:
        steps = "1 step" if self.length == 1 else f"{self.length} steps"
        score = f"return {self.episode_return:z.1f}"
        return f"<Episode {self.env_id}: {steps}, {score}, {self.ending}>"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the player (`.html`), the filmstrip (`.png`) or an animation (`.gif`).

        Returns:
            The path written.

        Raises:
            ValueError: the name ends in something else.
        """
        path = Path(path)
        if path.suffix == ".html":
            page = f'<!doctype html><meta charset="utf-8"><title>{html.escape(self.env_id)}</title>'
            path.write_text(f"{page}\n{self._html()}\n", encoding="utf-8")
        elif path.suffix == ".png":
            path.write_bytes(self._filmstrip())
        elif path.suffix == ".gif":
            stride = self.shown[1][0] - self.shown[0][0]
            every = max(1, round(self.fps / stride / 25))  # 25 pictures a second are enough
            pictures = [self._picture(index) for _, index in self.shown[::-every][::-1]]
            for picture in pictures:
                picture.thumbnail((400, 400))
            pause = round(1000 * stride * every / self.fps)
            pictures[0].save(
                path, save_all=True, append_images=pictures[1:], duration=pause, loop=0
            )
        else:
            raise ValueError(f"path is {str(path)!r}; its name must end in .html, .png or .gif.")
        return path

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        bundle = {
            "image/png": base64.b64encode(self._filmstrip()).decode(),
            "text/plain": repr(self),
        }
        if os.environ.get("METIS_NB_STATIC", "") in ("", "0"):
            bundle["text/html"] = self._html()
        return bundle

    def _picture(self, index: int) -> Image.Image:
        return Image.open(io.BytesIO(self.frames[index])).convert("RGB")

    def _filmstrip(self, count: int = 5, width: int = 192, gap: int = 10) -> bytes:
        """A PNG of `count` pictures, from the first to the last, `width` pixels each."""
        which = np.unique(np.linspace(0, len(self.shown) - 1, count).round().astype(int))
        first = self._picture(0)
        height = round(width * first.height / first.width)
        font, small = ImageFont.load_default(15), ImageFont.load_default(13)
        size = (gap + count * (width + gap), height + 82)
        strip = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(strip)
        draw.text((gap, 8), repr(self)[9:-1], "#1f2328", font)
        returns = np.concatenate([[0.0], self.rewards.cumsum()])
        for place, at in enumerate(which):
            step, index = self.shown[at]
            left = gap + place * (width + gap)
            picture = self._picture(index).resize((width, height), Image.Resampling.LANCZOS)
            strip.paste(picture, (left, 34))
            draw.rectangle((left - 1, 33, left + width, 34 + height), outline="#d0d7de")
            draw.text((left, height + 40), f"step {step}", "#1f2328", font)
            caption = f"return {returns[step]:z.1f}"
            if self.values is not None:
                caption += f"   V(s) {self.values[step]:z.2f}"
            draw.text((left, height + 60), caption, "#57606a", small)
        buffer = io.BytesIO()
        strip.quantize(128, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        return buffer.getvalue()

    def _html(self) -> str:
        """The player: one self-contained piece of HTML, good in any page, any number of times."""
        data = json.dumps(self._data(), separators=(",", ":")).replace("</", "<\\/")
        strip = base64.b64encode(self._filmstrip()).decode()
        template = importlib.resources.files("metis_nb").joinpath("player.html").read_text("utf-8")
        values = {"ID": f"mnb-{uuid.uuid4().hex}", "LABEL": html.escape(repr(self)[1:-1])}
        for name, value in (values | {"STRIP": strip, "DATA": data}).items():
            template = template.replace(f"__{name}__", value)
        return template

    def _data(self) -> dict[str, Any]:
        """What the player shows, one entry for each picture. The last one has no action."""
        steps = [step for step, _ in self.shown]
        acts = steps[:-1]
        returns = np.concatenate([[0.0], self.rewards.cumsum()])
        data: dict[str, Any] = {
            "title": self.env_id,
            "ending": f"{self.ending[0].upper()}{self.ending[1:]}",
            "seed": self.seed,
            "fps": self.fps,
            "frames": [base64.b64encode(frame).decode() for frame in self.frames],
            "picture": [index for _, index in self.shown],
            "steps": steps,
            "reward": [None, *_short(self.rewards[np.array(steps[1:]) - 1])],
            "score": _short(returns[steps]),
            "action": _short(self.actions[acts].reshape(len(acts), -1)),
        }
        if isinstance(self.action_space, spaces.Discrete):
            start = int(self.action_space.start)
            data["choices"] = list(range(start, start + int(self.action_space.n)))
        elif isinstance(self.action_space, spaces.Box):
            low, high = self._bounds(self.action_space)
            data |= {"low": _short(low), "high": _short(high)}
        optional = {"probs": self.probabilities, "mean": self.mean, "std": self.std}
        data |= {name: _short(x[acts]) for name, x in optional.items() if x is not None}
        if self.values is not None:
            data["value"] = _short(self.values[steps])
        return data

    def _bounds(self, space: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the scale of each action dimension, (A,); where it has none, of what was seen."""
        seen = [self.actions.reshape(self.length, -1)]
        if self.mean is not None and self.std is not None:
            seen += [self.mean - 2 * self.std, self.mean + 2 * self.std]
        low, high = space.low.ravel(), space.high.ravel()
        low = np.where(np.isfinite(low), low, np.min(seen, axis=(0, 1)))
        high = np.where(np.isfinite(high), high, np.max(seen, axis=(0, 1)))
        return low, np.maximum(high, low + 1e-6)


def play(
    env: gym.Env | gym.vector.VectorEnv | str,
    actor: nn.Module | Callable[[Any], Any],
    *,
    critic: nn.Module | None = None,
    seed: int | None = None,
    max_steps: int = 1000,
    deterministic: bool = True,
) -> Episode:
    """Play one whole episode in Gymnasium's own environment and return it, ready to be watched.

    The episode runs in a fresh copy, made from `env.spec`; the environment given is not touched,
    nor are the networks' train/eval mode and the reader's random generators. A wrapper that learns
    statistics (Gymnasium's NormalizeObservation) starts afresh there: keep them in the network.

    Args:
        env: the environment, a vector of them, or an id such as "CartPole-v1".
        actor: a network with `act(obs)` (those of `metis_nb.agents`, wrapped in DataParallel or
            not), or a function from one observation (as the environment gives it) to an action.
        critic: a network V(s), `(B, *obs_shape)` to `(B,)`, read out at every step.
        seed: of the environment and of the sampling. None draws one; it is in the result.
        max_steps: stop there if the episode has not ended, at least 1.
        deterministic: True shows the greedy actions; False samples from the policy, clipped to
            the action space's bounds. A plain function decides for itself.

    Returns:
        An `Episode`.

    Raises:
        TypeError: `env` is no environment, `actor` cannot act, or it has no policy to sample.
        ValueError: `env` cannot be made afresh or draws no pictures; a number is out of range.
        RuntimeError: the episode failed; the message names the step.
    """
    if max_steps < 1:
        raise ValueError(f"max_steps is {max_steps}; it must be at least 1.")
    seed = secrets.randbelow(2**31) if seed is None else operator.index(seed)
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be 0 or more, or None for a random one.")
    if critic is not None and not callable(critic):
        raise TypeError(f"critic is {critic!r}; give a network V(s), such as agents.critic(env).")
    game = _rendering_copy(env)
    try:
        choose = _chooser(actor, game.action_space, deterministic)
        with _undisturbed(actor, critic, seed=seed):
            return _record(game, choose, critic and agents.unwrap(critic), seed, max_steps)
    finally:
        game.close()


def _record(
    game: gym.Env, choose: Callable[[Any], Choice], critic: Any, seed: int, max_steps: int
) -> Episode:
    film = _Film()
    rows: list[dict[str, Any]] = []
    values: list[float] = []
    step, terminated, truncated = 0, False, False
    try:
        obs, _ = game.reset(seed=seed)
        seen = [np.array(obs)]
        while True:
            over = terminated or truncated or step == max_steps
            film.add(step, game, last=over)
            if critic is not None:
                values.append(critic(_batch(obs, critic)).item())
            if over:
                break
            action, policy = choose(obs)
            obs, reward, terminated, truncated, _ = game.step(action)
            step += 1
            seen.append(np.array(obs))
            rows.append({"actions": action, "rewards": float(reward), **policy})
    except Exception as error:
        kind = type(error).__name__
        raise RuntimeError(f"play failed at step {step}: {kind}: {error}") from error
    frames = list(dict.fromkeys(picture for _, picture in film.shown))
    index = {picture: i for i, picture in enumerate(frames)}
    return Episode(
        env_id=name_of(game),
        seed=seed,
        obs=np.stack(seen),
        terminated=bool(terminated),
        truncated=bool(truncated),
        frames=frames,
        shown=[(at, index[picture]) for at, picture in film.shown],
        action_space=game.action_space,
        fps=float(game.metadata.get("render_fps") or 30),
        values=np.array(values) if values else None,
        **{name: np.stack([row[name] for row in rows]) for name in rows[0]},
    )


class _Film:
    """Pictures of an episode of unknown length, evenly spread and at most `_MAX_FRAMES`."""

    def __init__(self) -> None:
        self.stride = 1
        self.shown: list[tuple[int, bytes]] = []  # (step, picture)

    def add(self, step: int, game: gym.Env, last: bool) -> None:
        if len(self.shown) == _MAX_FRAMES:  # full: every second picture goes
            self.shown, self.stride = self.shown[::2], 2 * self.stride
        if last or step % self.stride == 0:
            self.shown.append((step, _webp(np.asarray(game.render()))))


def _webp(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as a WebP file: lossless, for drawings that is a tenth of a JPEG."""
    image = Image.fromarray(pixels)
    if image.width > _MAX_WIDTH:
        size = (_MAX_WIDTH, round(image.height * _MAX_WIDTH / image.width))
        image = image.resize(size, Image.Resampling.LANCZOS)
    lossless, lossy = io.BytesIO(), io.BytesIO()
    image.save(lossless, "WEBP", lossless=True, quality=20, method=1)
    if lossless.tell() <= _PHOTO_BYTES:
        return lossless.getvalue()
    image.save(lossy, "WEBP", quality=75, method=1)
    return lossy.getvalue()


def _chooser(actor: Any, space: Any, deterministic: bool) -> Callable[[Any], Choice]:
    """`choose(obs)` gives an action for the environment, and what the policy thought."""
    network = agents.unwrap(actor)
    if not hasattr(network, "act"):
        if isinstance(network, nn.Module) or not callable(network):
            raise TypeError(
                f"actor is a {type(network).__name__}, which has no act(obs). Give "
                "agents.actor(env), or a function from one observation to an action."
            )
        return lambda obs: (_for_env(network(obs), space), {})
    if not hasattr(network, "distribution"):
        if not deterministic:
            raise TypeError(
                "deterministic=False samples from a policy, and actor, a "
                f"{type(network).__name__}, has none. Give a stochastic actor such as "
                "agents.actor(env), or deterministic=True."
            )
        return lambda obs: (_for_env(network.act(_batch(obs, network))[0], space), {})
    units = ActionUnits(space)

    def choose(obs: Any) -> Choice:
        batch = _batch(obs, network)
        pi: Any = agents.policy(network, batch)
        action = network.act(batch) if deterministic else units.to_env(pi.sample().cpu())
        if units.discrete:
            thought = {"probabilities": pi.probs}
        else:  # to the environment's units, but not clipped: the curve may reach over a bound
            mean, std = pi.mean.cpu(), pi.stddev.cpu()
            thought = {"mean": mean * units.scale + units.offset, "std": std * units.scale}
        return _for_env(action[0], space), {k: v[0].cpu().numpy() for k, v in thought.items()}

    return choose


def _for_env(action: Any, space: gym.Space) -> Any:
    """`action`, a tensor, an array or a number, as `env.step` takes it."""
    action = np.asarray(action.cpu() if isinstance(action, torch.Tensor) else action)
    if isinstance(space, spaces.Box):
        fits = action.shape == space.shape and bool(np.isfinite(action).all())
        action = action.astype(space.dtype) if fits else action
    else:
        if isinstance(space, spaces.Discrete) and action.size == 1 and action.dtype.kind in "iub":
            action = int(action.item())
        fits = space.contains(action)
    if not fits:
        raise ValueError(f"actor chose {action!r}; the action space is {space}")
    return action


def _batch(obs: Any, network: Any) -> torch.Tensor:
    """One observation as a float32 batch of one, where the network's parameters are."""
    parameters = network.parameters() if isinstance(network, nn.Module) else iter(())
    device = next((p.device for p in parameters), torch.device("cpu"))
    return torch.as_tensor(np.asarray(obs, np.float32), device=device)[None]


@contextlib.contextmanager
def _undisturbed(*networks: Any, seed: int) -> Iterator[None]:
    """No gradients, eval mode, seeded torch generators; all as it was before, afterwards."""
    networks = tuple(network for network in networks if isinstance(network, nn.Module))
    modes = [(module, module.training) for network in networks for module in network.modules()]
    devices = {p.device for network in networks for p in network.parameters()}
    gpus = [device.index for device in devices if device.type == "cuda"]
    with torch.inference_mode(), torch.random.fork_rng(devices=gpus):
        # Not torch.manual_seed, which reaches every GPU, also those that fork_rng does not restore.
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(seed)
        try:
            for network in networks:
                network.eval()
            yield
        finally:
            for module, mode in modes:
                module.training = mode


def _rendering_copy(env: Any) -> gym.Env:
    """The environment behind `env`, made afresh so that it draws pictures."""
    game = original(env, render_mode="rgb_array")
    modes = game.metadata.get("render_modes", [])
    if "rgb_array" not in modes or game.render_mode != "rgb_array":
        game.close()
        raise ValueError(
            f"env is {env}, which draws no pictures: its render modes are {modes}, its render_mode "
            f'is {game.render_mode!r}, and play needs "rgb_array". Make it with '
            f'render_mode="rgb_array".'
        )
    return game


def _short(numbers: np.ndarray) -> list[Any]:
    """Nested lists with five significant digits: what a reader can see, at half the size."""
    if numbers.dtype.kind in "iub":
        return numbers.tolist()
    return [float(f"{x:.5g}") if np.ndim(x) == 0 else _short(x) for x in numbers]
