"""`play(env, actor)`: watch an agent, step by step, with what its networks thought."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import operator
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, overload

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from IPython.display import display
from PIL import Image
from torch import nn

from metis_nb import agents
from metis_nb.envs import make_single
from metis_nb.envs.intake import taken
from metis_nb.envs.single import env_action
from metis_nb.envs.spaces import ActionUnits, name_of
from metis_nb.notebook import frontend, seeds
from metis_nb.notebook.episode import Episode, Episodes

_MAX_FRAMES = 501  # a whole CartPole episode; longer ones are thinned
_MAX_FRAMES_OF_ALL = 1255  # where several agents play: every second one of five
_MAX_WIDTH = 600  # pixels: what the classic tasks draw, so that they keep their sharp, small frames
_PHOTO_BYTES = 16_000  # a lossless frame above this is a photograph, and lossy saves nine tenths

Actor = nn.Module | Callable[[Any], Any]
Choice = tuple[Any, dict[str, np.ndarray]]


class PlayError(RuntimeError):
    """An episode that failed. `episode` is what was recorded until then, or None."""

    episode: Episode | None = None


@overload
def play(
    env: gym.Env | gym.vector.VectorEnv | str,
    actor: Actor,
    *,
    critic: nn.Module | None = None,
    seed: int | None = None,
    max_steps: int = 1000,
    deterministic: bool = True,
    gamma: float = 0.99,
) -> Episode: ...


@overload
def play(
    env: gym.Env | gym.vector.VectorEnv | str,
    actor: Mapping[str, Actor] | Sequence[Actor | tuple[str, Actor]],
    *,
    critic: Any = None,
    seed: int | None = None,
    max_steps: int = 1000,
    deterministic: bool = True,
    gamma: float = 0.99,
) -> Episodes: ...


def play(
    env: gym.Env | gym.vector.VectorEnv | str,
    actor: Any,
    *,
    critic: Any = None,
    seed: int | None = None,
    max_steps: int = 1000,
    deterministic: bool = True,
    gamma: float = 0.99,
) -> Episode | Episodes:
    """Play one whole episode in Gymnasium's own environment and return it, ready to be watched.

        play(env, actor, critic=critic)
        play(env, {"before": one, "after": another})    # side by side, from the same start
        play(env, snapshots["actor"])                   # the course of a training, with a slider

    The episode runs in a fresh copy (`envs.make_single`); the environment given is not touched,
    nor are the networks' train/eval mode and the reader's random generators. Statistics that a
    wrapper has learned (Gymnasium's NormalizeObservation) are carried over, and do not change.

    Args:
        env: the environment, a vector of them, or an id such as "CartPole-v1".
        actor: a network with `act(obs)` (those of `metis_nb.agents`, wrapped in DataParallel or
            not), or a function from one observation (as the environment gives it) to an action.
            A dict of them plays side by side; a list of them, or of (name, actor), makes a second
            slider (`callbacks.snapshots` gathers one).
        critic: a network read out at every step: V(s), `(B, *obs_shape)` to `(B,)`; a Q-network,
            `(B, *obs_shape)` to `(B, K)`; or Q(s, a), which also takes the policy's actions
            `(B, A)`. For several actors: one for all, or one each in the same form.
        seed: of the environment and of the sampling. None draws one; it is in the result.
        max_steps: stop there if the episode has not ended, at least 1.
        deterministic: True shows the greedy actions; False samples from the policy, clipped to
            the action space's bounds. A plain function decides for itself.
        gamma: the discount of the returns and advantages that are drawn beside the critic's values.

    Returns:
        An `Episode`; of several actors, `Episodes`.

    Raises:
        TypeError: `env` is no environment, `actor` cannot act, or it has no policy to sample.
        ValueError: `env` cannot be made afresh or draws no pictures; a number is out of range.
        PlayError: the episode failed; the message names the step. What was recorded until then is
            in its `episode`, and displayed in a notebook.
    """
    max_steps = operator.index(max_steps)
    if max_steps < 1:
        raise ValueError(f"max_steps is {max_steps}; it must be at least 1.")
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}; it must be from 0 to 1.")
    seed = seeds.generator.randrange(2**31) if seed is None else operator.index(seed)
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be 0 or more, or None for a random one.")
    actors = _by_name("actor", actor)
    critics = _critics(critic, actors)
    most = min(_MAX_FRAMES, _MAX_FRAMES_OF_ALL // len(actors))
    episodes = {
        name: _episode(env, each, critics[name], seed, max_steps, deterministic, gamma, name, most)
        for name, each in actors.items()
    }
    again = None
    if frontend.is_live():
        # The button shows these agents as they are now, whatever they learn meanwhile.
        frozen, judge = _frozen(actor), _frozen(critic)
        again = lambda: play(  # noqa: E731
            env, frozen, critic=judge, max_steps=max_steps, deterministic=deterministic, gamma=gamma
        )
    if not _several(actor):
        episode = episodes[""]
        episode.again = again
        return episode
    layout = "side" if isinstance(actor, Mapping) else "stages"
    return Episodes(episodes, layout, again)


def _several(given: Any) -> bool:
    single = isinstance(given, nn.Module | str) or not isinstance(given, Mapping | Sequence)
    return not single


def _by_name(argument: str, given: Any) -> dict[str, Any]:
    """Networks by their names; a single one has the name ""."""
    if not _several(given):
        return {"": given}
    if not given:
        raise ValueError(f"{argument} is empty; give at least one network or function.")
    pairs: list[tuple[Any, Any]] = [
        each if isinstance(each, tuple) and len(each) == 2 else (f"{i} of {len(given)}", each)
        for i, each in enumerate(given.items() if isinstance(given, Mapping) else given, 1)
    ]
    named = {str(name): each for name, each in pairs}
    if len(named) < len(pairs):
        raise ValueError(f"{argument}: two have the same name, in {[str(n) for n, _ in pairs]}.")
    return named


def _critics(critic: Any, actors: Mapping[str, Any]) -> dict[str, Any]:
    """A critic for each actor, by the actor's name."""
    names = list(actors)
    each = _by_name("critic", critic)
    if not _several(critic):
        each = dict.fromkeys(names, critic)
    elif isinstance(critic, Sequence) and len(each) == len(names):
        each = dict(zip(names, each.values(), strict=True))
    if each.keys() != set(names):
        raise ValueError(
            f"critic has {list(each)}; expected one critic for all, or one for each of {names}."
        )
    for one in each.values():
        if one is not None and not callable(one):
            raise TypeError(f"critic is {one!r}; give a network V(s), such as agents.critic(env).")
    return each


def _frozen(networks: Any) -> Any:
    """Copies of one or several networks, which no training reaches; functions as they are."""
    if isinstance(networks, nn.Module):
        with contextlib.suppress(Exception):  # one that cannot be copied is shown as it will be
            return copy.deepcopy(agents.unwrap(networks)).eval()
    elif isinstance(networks, Mapping):
        return {name: _frozen(each) for name, each in networks.items()}
    elif isinstance(networks, list | tuple):
        return type(networks)(map(_frozen, networks))
    return networks


def _episode(
    env: Any,
    actor: Any,
    critic: Any,
    seed: int,
    max_steps: int,
    deterministic: bool,
    gamma: float,
    name: str,
    most: int,
) -> Episode:
    with contextlib.ExitStack() as stack:
        stack.enter_context(_without_screen())
        game = _rendering_copy(env)
        stack.callback(game.close)
        choose = _chooser(actor, game.action_space, deterministic, seed)
        judge = _judge(critic, game.action_space)
        with _undisturbed(actor, critic, seed=seed):
            recording = _Recording(game, seed, gamma, name, most)
            try:
                recording.run(choose, judge, max_steps)
            except Exception as error:
                kind, at = type(error).__name__, recording.step
                failed = PlayError(f"play failed at step {at}: {kind}: {error}")
                failed.episode = recording.episode(f"{kind}: {error}")
                if failed.episode is not None and frontend.is_live():
                    display(failed.episode)
                raise failed from error
            episode = recording.episode()
            assert episode is not None
            return episode


# SDL, on which pygame draws, is one for the whole process: episodes play one after another.
_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def _without_screen() -> Iterator[None]:
    """Let pygame do without screen and sound card, which a notebook server has not; afterwards the
    reader's own windows (`render_mode="human"`) open as ever."""
    with _one_at_a_time:
        names = [name for name in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER") if name not in os.environ]
        os.environ.update(dict.fromkeys(names, "dummy"))
        try:
            yield
        finally:
            for name in names:
                os.environ.pop(name, None)


class _Recording:
    """What happens in one episode, step by step."""

    def __init__(self, game: gym.Env, seed: int, gamma: float, name: str, most: int):
        self.game, self.seed, self.gamma, self.name = game, seed, gamma, name
        self.film = _Film(most)
        self.rows: list[dict[str, Any]] = []
        self.seen: list[np.ndarray] = []
        self.values: list[float] = []
        self.step, self.terminated, self.truncated = 0, False, False

    def run(
        self,
        choose: Callable[[Any], Choice],
        judge: Callable[[Any, Any], dict[str, Any]],
        max_steps: int,
    ) -> None:
        obs, _ = self.game.reset(seed=self.seed)
        self.see(obs)
        while True:
            over = self.terminated or self.truncated or self.step == max_steps
            self.film.add(self.step, self.game, last=over)
            action, policy = choose(obs) if not over else (None, {})
            judged = judge(obs, action)
            if "value" in judged:
                self.values.append(judged.pop("value"))
            if over:
                return
            obs, reward, terminated, truncated, _ = self.game.step(copy.copy(action))
            self.terminated = bool(taken("terminated", terminated, (), np.bool_))
            self.truncated = bool(taken("truncated", truncated, (), np.bool_))
            number = float(taken("reward", reward, (), np.float64))
            self.rows.append({"actions": action, "rewards": number, **policy, **judged})
            self.see(obs)
            self.step += 1

    def see(self, obs: Any) -> None:
        space = self.game.observation_space
        if isinstance(space, spaces.Box):
            taken("observation", obs, space.shape, np.float32)  # an error of ours, if any
        self.seen.append(taken("observation", obs, None, None))

    def episode(self, failure: str = "") -> Episode | None:
        """The episode so far; None before its first step."""
        shown = self.film.shown
        if failure and self.rows:
            with contextlib.suppress(Exception):  # what failed may be the drawing itself
                if shown[-1][0] != self.step:
                    self.film.add(self.step, self.game, last=True)
        length = shown[-1][0] if shown else 0
        if length == 0:
            return None
        rows, values = self.rows[:length], self.values[: length + 1]
        frames = list(dict.fromkeys(picture for _, picture in shown))
        index = {picture: i for i, picture in enumerate(frames)}
        columns: dict[str, Any] = {n: np.stack([row[n] for row in rows]) for n in rows[0]}
        if values:
            values += [np.nan] * (length + 1 - len(values))
        return Episode(
            env_id=name_of(self.game),
            seed=self.seed,
            obs=np.stack(self.seen[: length + 1]),
            terminated=self.terminated,
            truncated=self.truncated,
            frames=frames,
            shown=[(at, index[picture]) for at, picture in shown],
            action_space=self.game.action_space,
            fps=_fps(self.game),
            gamma=self.gamma,
            values=np.array(values) if values else None,
            name=self.name,
            failure=failure,
            **columns,
        )


def _fps(game: gym.Env) -> float:
    given: Any = game.metadata.get("render_fps")
    return float(given) if isinstance(given, int | float) and 0 < given < np.inf else 30.0


class _Film:
    """Pictures of an episode of unknown length, evenly spread and at most `most` of them."""

    def __init__(self, most: int) -> None:
        self.most, self.stride = most, 1
        self.shown: list[tuple[int, bytes]] = []  # (step, picture)

    def add(self, step: int, game: gym.Env, last: bool) -> None:
        if len(self.shown) == self.most:  # full: every second picture goes
            self.shown[:], self.stride = self.shown[::2], 2 * self.stride
        if last or step % self.stride == 0:
            pixels: Any = game.render()
            self.shown.append((step, _webp(_checked(pixels))))


def _checked(pixels: Any) -> np.ndarray:
    picture = np.asarray(pixels)
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or not picture.size:
        raise ValueError(
            f"env.render() gave {type(pixels).__name__} {picture.shape} {picture.dtype}; expected "
            f"a picture, an array (H, W, 3) uint8."
        )
    return picture


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


def _chooser(actor: Any, space: Any, deterministic: bool, seed: int) -> Callable[[Any], Choice]:
    """`choose(obs)` gives an action for the environment, and what the policy thought."""
    network = agents.unwrap(actor)
    if not hasattr(network, "act"):
        if isinstance(network, nn.Module) or not callable(network):
            raise TypeError(
                f"actor is a {type(network).__name__}, which has no act(obs). Give "
                "agents.actor(env), or a function from one observation to an action."
            )
        return lambda obs: (env_action(network(obs), space), {})
    if not hasattr(network, "distribution"):
        if not deterministic:
            raise TypeError(
                "deterministic=False samples from a policy, and actor, a "
                f"{type(network).__name__}, has none. Give a stochastic actor such as "
                "agents.actor(env), or deterministic=True."
            )
        forward = getattr(type(network), "forward", nn.Module.forward)
        values = _judge(network if forward is not nn.Module.forward else None, space)

        def best(obs: Any) -> Choice:
            action = env_action(network.act(_batch(obs, network))[0], space)
            thought = values(obs, action) if isinstance(space, spaces.Discrete) else {}
            return action, {name: x for name, x in thought.items() if name != "value"}

        return best
    units = ActionUnits(space)
    generator = torch.Generator(_device(network)).manual_seed(seed)

    def choose(obs: Any) -> Choice:
        batch = _batch(obs, network)
        pi: Any = agents.policy(network, batch)
        if deterministic:
            action = network.act(batch)
        elif "generator" in inspect.signature(pi.sample).parameters:
            action = units.to_env(pi.sample(generator=generator).cpu())
        else:
            action = units.to_env(pi.sample().cpu())
        if units.discrete:
            thought = {"probabilities": pi.probs}
        else:  # to the environment's units, but not clipped: the curve may reach over a bound
            squashed = isinstance(pi, agents.SquashedGaussian)
            mean, std = (pi.mode, pi.spread) if squashed else (pi.mean, pi.stddev)
            mean, std = mean.cpu(), std.cpu()
            thought = {"mean": mean * units.scale + units.offset, "std": std * units.scale}
        return env_action(action[0], space), {k: v[0].cpu().numpy() for k, v in thought.items()}

    return choose


def _judge(critic: Any, space: Any) -> Callable[[Any, Any], dict[str, Any]]:
    """`judge(obs, action)` gives what a critic of any kind says, by the names in `Episode`; V(s)
    as "value". The last observation has no action: there, only V(s) is said."""
    if critic is None:
        return lambda obs, action: {}
    network = agents.unwrap(critic)
    if hasattr(network, "distribution"):
        raise TypeError(
            f"critic is a {type(network).__name__}, an actor; give a network V(s), such as "
            f"agents.critic(env)."
        )
    function = network.forward if isinstance(network, nn.Module) else network
    needed = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    with_action = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in needed) >= 2
    units = ActionUnits(space) if with_action else None
    count = int(space.n) if isinstance(space, spaces.Discrete) else 0

    def judge(obs: Any, action: Any) -> dict[str, Any]:
        batch = _batch(obs, network)
        if units is not None:
            if action is None:
                return {}
            taken = units.from_env(torch.as_tensor(np.asarray(action))[None])
            return {"action_values": network(batch, taken.to(batch.device)).item()}
        values = torch.as_tensor(network(batch))
        if count and values.shape == (1, count):
            if action is None:
                return {}
            q_values = values[0].cpu().numpy()
            return {"q_values": q_values, "action_values": q_values[action - int(space.start)]}
        if values.shape != (1,):
            raise ValueError(
                f"critic gives {tuple(values.shape)} for one observation; expected V(s) of shape "
                f"(1,), or Q(s, .) with one value for each discrete action. "
                f"End its forward with .squeeze(-1)."
            )
        return {"value": values.item()}

    return judge


def _device(network: Any) -> torch.device:
    """Where the network's parameters are."""
    parameters = network.parameters() if isinstance(network, nn.Module) else iter(())
    return next((p.device for p in parameters), torch.device("cpu"))


def _batch(obs: Any, network: Any) -> torch.Tensor:
    """One observation as a float32 batch of one, where the network's parameters are."""
    return torch.from_numpy(taken("observation", obs, None, np.float32)).to(_device(network))[None]


# Modes belong to the networks, which two episodes in two threads may share.
_in_eval_mode = threading.RLock()


@contextlib.contextmanager
def _undisturbed(*networks: Any, seed: int) -> Iterator[None]:
    """No gradients, eval mode, seeded torch generators; all as it was before, afterwards."""
    networks = tuple(network for network in networks if isinstance(network, nn.Module))
    with _in_eval_mode, torch.inference_mode(), _seeded(networks, seed):
        modes = [(module, module.training) for network in networks for module in network.modules()]
        try:
            for network in networks:
                network.eval()
            yield
        finally:
            for module, mode in modes:
                module.training = mode


@contextlib.contextmanager
def _seeded(networks: Sequence[nn.Module], seed: int) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # a button's thread: another cell may be using the global generators
        return
    devices = {p.device for network in networks for p in network.parameters()}
    gpus = [device.index for device in devices if device.type == "cuda"]
    with torch.random.fork_rng(devices=gpus):
        # Not torch.manual_seed, which reaches every GPU, also those that fork_rng does not restore.
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(seed)
        yield


def _rendering_copy(env: Any) -> gym.Env:
    """The environment behind `env`, made afresh so that it draws pictures."""
    game = make_single(env, render_mode="rgb_array")
    modes = game.metadata.get("render_modes", [])
    if "rgb_array" not in modes or game.render_mode != "rgb_array":
        game.close()
        how = 'Make it with render_mode="rgb_array".'
        if "rgb_array" not in modes:
            how = (
                'Its class needs metadata = {"render_modes": ["rgb_array"]}, an attribute '
                "render_mode, and a method render() that returns an array (H, W, 3) uint8."
            )
        raise ValueError(
            f"env is {env}, which draws no pictures: its render modes are {modes}, its render_mode "
            f'is {game.render_mode!r}, and play needs "rgb_array". {how}'
        )
    return game
