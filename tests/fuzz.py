"""Trainings that nobody thought of: drawn at random, each with what has to come of it.

    from tests.fuzz import BoxOf, Case, check
    check(Case("PPO", action=BoxOf(-1.0, 3.0, (2,), "float64")))

`cases(trainer)` draws a `Case` (hypothesis); `check` runs it and says "trained", or why it was
refused. A fault is an AssertionError: numbers that are not finite, actions outside of their space,
steps miscounted, an error or a warning from inside of torch, numpy or Gymnasium, a refusal of what
is documented to work, or none of what is not. `tests/test_fuzz.py` runs a few hundred, and
`tools/fuzz.py` any number.
"""

from __future__ import annotations

import dataclasses
import math
import random
import re
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from hypothesis import strategies as st
from torch import nn

import metis_nb
from metis_nb import PrioritizedReplay, agents, envs, evaluate, learning, trainers
from metis_nb.envs.spaces import ActionUnits

TRAINERS = ("VPG", "A2C", "PPO", "DQN", "DDQN", "DDPG", "TD3", "SAC")
ON_POLICY, Q_NETWORKS, DETERMINISTIC = ("VPG", "A2C", "PPO"), ("DQN", "DDQN"), ("DDPG", "TD3")
# Of rewards and of observations.
SCALES = (1e-8, 1e-3, 1.0, 1e3, 1e8)
MODES = tuple(mode.name for mode in AutoresetMode)
PACKAGE = Path(metis_nb.__file__).parent
OURS = (TypeError, ValueError, FloatingPointError)


# --- what a case is -------------------------------------------------------------------------------


@dataclass(frozen=True)
class BoxOf:
    """A `Box`; bounds are one number, or one for each element in a row."""

    low: Any = -1.0
    high: Any = 1.0
    shape: tuple[int, ...] = (2,)
    dtype: str = "float32"

    def space(self) -> Box:
        low, high = (self._bound(bound) for bound in (self.low, self.high))
        return Box(low, high, self.shape, np.dtype(self.dtype).type)

    def _bound(self, bound: Any) -> Any:
        if not isinstance(bound, tuple):
            return bound
        return np.array(bound, self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class DiscreteOf:
    """A `Discrete`."""

    n: int = 2
    start: int = 0
    dtype: str = "int64"

    def space(self) -> Discrete:
        return Discrete(self.n, start=self.start, dtype=np.dtype(self.dtype).type)


@dataclass(frozen=True, eq=False)
class Case:
    """One training: an environment, a trainer, its networks. The defaults are of no interest."""

    trainer: str
    obs: BoxOf | DiscreteOf = BoxOf()
    action: BoxOf | DiscreteOf | None = None  # None: one that the trainer takes
    kind: str = "single"  # "sync", or a vector of its own: "native", "torch"
    mode: str = "NEXT_STEP"
    num_envs: int = 1
    episodes: tuple[tuple[int, str], ...] = ((3, "terminated"), (2, "truncated"))
    reward: str = "noise"
    reward_type: str = "float"
    flag_type: str = "bool"
    obs_type: str = "array"
    reward_scale: float = 1.0
    obs_scale: float = 1.0
    broken: tuple[str, int] | None = None  # what an environment gives that it should not, and when
    flatten: bool = False  # FlattenObservation, which makes Discrete observations a Box
    bins: int | None = None  # DiscretizeAction
    steps: int = 20
    settings: dict[str, Any] = field(default_factory=dict)
    bad: str | None = None  # the one of these settings that is not accepted
    replay: str | None = None
    hidden_sizes: tuple[int, ...] = (4,)
    activation: str = "Tanh"
    own_body: bool = False
    dueling: bool = False
    again: bool = False  # save, load, and go on

    def __repr__(self) -> str:
        given = [repr(self.trainer)]
        for each in dataclasses.fields(self)[1:]:
            value = getattr(self, each.name)
            if value != (each.default if each.name != "settings" else {}):
                given.append(f"{each.name}={value!r}")
        return f"Case({', '.join(given)})"

    def acts(self) -> BoxOf | DiscreteOf:
        """The action space before any wrapper."""
        if self.action is not None:
            return self.action
        return DiscreteOf() if self.trainer in Q_NETWORKS and self.bins is None else BoxOf()


# --- environments ---------------------------------------------------------------------------------


class Outside(AssertionError):
    """An environment got what is no action of its space."""


class Fuzzed(gym.Env):
    """An environment of any spaces, with episodes as they are written down; it counts for itself.

    Not to be asked after its end; actions have to lie in their space.
    """

    def __init__(self, case: Case, index: int = 0):
        self.observation_space, self.action_space = case.obs.space(), case.acts().space()
        self.episodes, self.episode = case.episodes, index - 1
        self.rewards = case.reward, case.reward_type, case.reward_scale
        self.obs_scale, self.forms = case.obs_scale, (case.flag_type, case.obs_type)
        self.broken = case.broken if index == 0 else None
        self.total, self.seen_broken, self.over = 0, False, True
        self.log: list[tuple[float, int]] = []  # (return, length) of each episode that ended

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.count, self.sum, self.over = 0, 0.0, False
        return self._formed(self._seen(self._obs("first observation"))), {}

    def step(self, action):
        assert not self.over, "a step after the end of an episode"
        if not self.action_space.contains(action):
            raise Outside(f"{action!r} ({type(action).__name__}) is not in {self.action_space}")
        self.count, self.total = self.count + 1, self.total + 1
        length, how = self.episodes[self.episode % len(self.episodes)]
        self.over = self.count == length
        reward = self._reward()
        with np.errstate(over="ignore"):
            self.sum += float(np.float32(np.asarray(reward).item()))
        if self.over:
            self.log.append((self.sum, self.count))
        terminated = self.over and how in ("terminated", "both")
        truncated = self.over and how in ("truncated", "both")
        flag = {"numpy": np.bool_, "int": int, "array": np.array}.get(self.forms[0], bool)
        obs = self._formed(self._seen(self._obs("observation")))
        return obs, reward, flag(terminated), flag(truncated), {}

    def _seen(self, obs):
        """Numbers too large to square in float32 are to be refused, as those not finite are."""
        most = np.abs(np.asarray(obs, np.float64)).max(initial=0.0)
        self.seen_broken = self.seen_broken or bool(most >= 1e15)
        return obs

    def _formed(self, obs):
        if not isinstance(obs, np.ndarray):
            return obs
        if self.forms[1] == "flipped":
            return np.flip(np.flip(obs, 0).copy(), 0) if obs.ndim else obs
        if self.forms[1] == "read-only":
            obs.flags.writeable = False
        return obs.tolist() if self.forms[1] == "list" else obs

    def _breaks(self, what):
        found = self.broken is not None and self.broken[0] == what and self.total >= self.broken[1]
        self.seen_broken = self.seen_broken or found
        return found

    def _reward(self):
        kind, form, scale = self.rewards
        draw = float(self.np_random.normal())
        number = scale * {
            "zero": 0.0,
            "constant": -2.0,
            "noise": draw,
            "offset": 1000.0 + draw,
            "sparse": float(self.over),
            "growing": 1.1 ** min(self.total, 100),
        }.get(kind, 0.0)
        if self._breaks("reward"):
            number = math.nan
        elif self._breaks("huge reward"):
            number = 1e300
        if form == "int" and math.isfinite(number) and number < 1e9:
            return int(number)
        types = {"float32": np.float32, "float64": np.float64, "array": np.array}
        with np.errstate(over="ignore"):
            return types.get(form, float)(number) if form != "column" else np.array([number])

    def _obs(self, what):
        space = self.observation_space
        if isinstance(space, Discrete):
            return space.start + space.dtype.type(self.np_random.integers(space.n))
        if space.dtype.kind in "iub":
            low, high = (bound.astype(object).ravel() for bound in (space.low, space.high))
            pairs = [(int(a), int(b)) for a, b in zip(low, high)]
            values = [a + int(self.np_random.integers(min(b - a, 255) + 1)) for a, b in pairs]
            return np.array(values, space.dtype).reshape(space.shape)
        most = float(np.finfo(space.dtype).max)
        values = self.obs_scale * self.np_random.normal(size=space.shape)
        values = np.asarray(np.clip(values, -most, most), space.dtype)
        values = np.clip(values, space.low, space.high)
        if values.size and self._breaks(what):
            values = np.full_like(values, math.nan)
        return np.asarray(values, space.dtype)


class FuzzedVector(VectorEnv):
    """The same as a vector of its own, in each autoreset mode, of arrays or of tensors."""

    def __init__(self, case: Case, tensors: bool):
        self.games = [Fuzzed(case, index) for index in range(case.num_envs)]
        self.num_envs, self.tensors = case.num_envs, tensors
        self.metadata = {"autoreset_mode": AutoresetMode[case.mode]}
        self.single_observation_space = self.games[0].observation_space
        self.single_action_space = self.games[0].action_space
        batch = gym.vector.utils.batch_space
        self.observation_space = batch(self.single_observation_space, self.num_envs)
        self.action_space = batch(self.single_action_space, self.num_envs)

    def reset(self, *, seed=None, options=None):
        mask = [True] * self.num_envs
        if options and "reset_mask" in options:
            mask = options["reset_mask"].tolist()
        else:
            self.last = [None] * self.num_envs
        for index, game in enumerate(self.games):
            if mask[index]:
                own = None if seed is None else seed + index
                self.last[index] = game.reset(seed=own)[0]
        return self._batch(self.last), {}

    def step(self, actions):
        mode = self.metadata["autoreset_mode"]
        if self.tensors:
            assert isinstance(actions, torch.Tensor)
            actions = actions.numpy()
        if not self.action_space.contains(actions):
            raise Outside(f"{actions!r} is not in {self.action_space}")
        rows, final = [], [None] * self.num_envs
        for index, game in enumerate(self.games):
            if game.over and mode == AutoresetMode.NEXT_STEP:
                rows.append((game.reset()[0], 0.0, False, False))
                continue
            obs, reward, terminated, truncated, _ = game.step(actions[index])
            if game.over and mode == AutoresetMode.SAME_STEP:
                final[index], (obs, _) = obs, game.reset()
            rows.append((obs, np.asarray(reward).item(), bool(terminated), bool(truncated)))
        obs, reward, terminated, truncated = (list(column) for column in zip(*rows))
        self.last, info = obs, {}
        if any(each is not None for each in final):
            info["final_obs"] = np.array([*final, None], dtype=object)[:-1]
            if self.tensors:
                info["final_obs"] = self._batch(
                    [old if old is not None else new for old, new in zip(final, obs)]
                )
        wrap = torch.tensor if self.tensors else np.array
        return self._batch(obs), wrap(reward), wrap(terminated), wrap(truncated), info

    def _batch(self, each):
        batch = np.stack(each)
        return torch.from_numpy(batch) if self.tensors else batch


def environment(case: Case) -> gym.Env | VectorEnv:
    """The environment of a case, wrapped as it says."""
    if case.kind == "sync":
        makers = [lambda index=index: _single(case, index) for index in range(case.num_envs)]
        return SyncVectorEnv(makers, autoreset_mode=AutoresetMode[case.mode])
    if case.kind in ("native", "torch"):
        env: Any = FuzzedVector(case, case.kind == "torch")
        return env if case.bins is None else envs.DiscretizeAction(env, case.bins)
    return _single(case, 0)


def _single(case: Case, index: int) -> gym.Env:
    env: gym.Env = Fuzzed(case, index)
    if case.flatten:
        env = gym.wrappers.FlattenObservation(env)
    return env if case.bins is None else envs.DiscretizeAction(env, case.bins)


def games(env: Any) -> list[Fuzzed]:
    """What does the counting, inside."""
    inner = env.unwrapped
    if isinstance(inner, SyncVectorEnv):
        return [each.unwrapped for each in inner.envs]
    return inner.games if isinstance(inner, FuzzedVector) else [inner]


# --- what has to come of it -----------------------------------------------------------------------


def expected_refusal(case: Case) -> str | None:
    """By the documentation alone: why this is to be refused, or None where it is to train."""
    if case.bad is not None:
        return f"hyperparameter {case.bad}"
    if isinstance(case.obs, DiscreteOf) and not case.flatten:
        return "observation space"
    action = case.acts()
    bounded = isinstance(action, DiscreteOf) or is_bounded(action)
    if case.bins is not None:
        if isinstance(action, DiscreteOf):
            return "action space"
        if not bounded:
            return "bounds"
        if case.bins ** math.prod(action.shape) > 1000:
            return "too many actions"
        action = DiscreteOf()
    if isinstance(action, BoxOf) and len(action.shape) != 1:
        return "action space"
    if 0 in getattr(case.obs, "shape", ()) or 0 in getattr(action, "shape", ()):
        return "no number"
    if isinstance(action, BoxOf) and _too_close(action):
        return "too close"
    if case.trainer in Q_NETWORKS and isinstance(action, BoxOf):
        return "action space"
    if case.trainer in DETERMINISTIC and isinstance(action, DiscreteOf):
        return "action space"
    if case.trainer not in ON_POLICY and not bounded:
        return "bounds"
    if case.trainer not in ON_POLICY:
        capacity = case.settings.get("capacity", 100_000)
        if case.settings.get("learning_starts", 1000) > capacity:
            return "learning_starts"
        if case.num_envs > capacity:
            return "capacity"
    return None


def is_bounded(box: BoxOf) -> bool:
    """Whether the bounds, and the distance between them, are less than the largest float32."""
    space = box.space()
    pairs = zip(space.low.ravel().tolist(), space.high.ravel().tolist())
    return all(max(b - a, abs(a), abs(b)) < 3.4028e38 for a, b in pairs)


def _too_close(box: BoxOf) -> bool:
    """Whether it is one of those `bounds` between which float32 has no number."""
    lows = box.low if isinstance(box.low, tuple) else (box.low,)
    highs = box.high if isinstance(box.high, tuple) else (box.high,)
    close = {"float64": [(1e9, 1e9 + 1)], "int64": [(2**40, 2**40 + 3), (2**60, 2**60 + 1)]}
    return any(pair in close.get(box.dtype, ()) for pair in zip(lows, highs))


def check(case: Case) -> str:
    """Run a case: "trained", or the kind of refusal.

    Raises:
        AssertionError: it found a fault.
    """
    expected = expected_refusal(case)
    torch.manual_seed(0)
    env = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", module="gymnasium")
            warnings.filterwarnings("ignore", message=".*(WARN|precision|casting)")
            env = environment(case)
            _train(case, env)
    except OURS as error:
        broken = env is not None and any(game.seen_broken for game in games(env))
        _check_refusal(case, error, "not finite" if broken else expected)
        return "not finite" if broken else str(expected)
    assert expected is None, f"trained, though it is to be refused: {expected}"
    assert not any(game.seen_broken for game in games(env)), "took what is not finite"
    return "trained"


def _check_refusal(case: Case, error: Exception, expected: str | None) -> None:
    """A refusal of ours, with a reason, that says what it is about."""
    frames = traceback.extract_tb(error.__traceback__)
    said = f"{type(error).__name__}: {error}"
    ours = Path(frames[-1].filename).is_relative_to(PACKAGE)
    where = f"{frames[-1].filename}:{frames[-1].lineno}"
    assert ours, f"an error of others, at {where}: {said}"
    assert expected is not None, f"refused without a reason, at {where}: {said}"
    if expected == "not finite":
        assert isinstance(error, FloatingPointError), said
        assert re.search(r"(observation|reward|value_target|loss|norm)\b.*step", said), said
        return
    if case.bad is not None or expected in case.settings:
        name = case.bad or expected
        given = (f"{name}={case.settings[name]!r}", f"{name}={case.settings[name]}")
        assert any(each in said for each in given) or name == "capacity", said
        return
    spaces = [case.obs.space(), case.acts().space()]
    if case.flatten:
        spaces.append(gym.spaces.flatten_space(spaces[0]))
    if case.bins is not None:
        spaces.append(Discrete(case.bins ** math.prod(case.acts().space().shape)))
    assert "env" in said or "Fuzzed" in said or case.trainer in said, said
    named = [*map(str, spaces), *(f"shape {space.shape}" for space in spaces), "bins="]
    assert any(name in said for name in named), said


def _train(case: Case, env: gym.Env | VectorEnv) -> None:
    Trainer = getattr(trainers, case.trainer)
    settings = dict(case.settings)
    if case.replay is not None:
        capacity = settings.pop("capacity", 1000)
        settings["replay"] = _replay(case, env, capacity)
    trainer = Trainer(env, **settings)
    trainer.train(*_networks(case, env), steps=case.steps, progress=False)
    _check_trained(case, env, trainer, case.steps)
    _check_units(env)
    _check_act(env, trainer)
    if all(length < 1000 for length, _ in case.episodes):
        actor = next(iter(trainer.run.networks.values()))
        on = env if case.kind in ("single", "sync") else _single(case, 0)
        # One of each kind of end; a first observation may be broken only later.
        returns = evaluate(on, actor, episodes=2) if case.broken is None else np.zeros(2)
        assert returns.shape == (2,), returns
        assert np.isfinite(returns).all(), returns
    if case.again:
        _check_again(case, env, trainer)


def _check_act(env: gym.Env | VectorEnv, trainer: Any) -> None:
    """What acts gives actions of the space, of one observation as of many, as array and tensor."""
    space = getattr(env, "single_action_space", env.action_space)
    obs_space = getattr(env, "single_observation_space", env.observation_space)
    actor = next(iter(trainer.run.networks.values()))
    actor.eval()
    obs = np.stack([np.zeros(obs_space.shape), np.ones(obs_space.shape)]).astype(obs_space.dtype)
    given = actor.act(obs)
    assert all(space.contains(each) for each in given), (given, space)
    alone = np.stack([actor.act(each) for each in obs])
    as_tensors = actor.act(torch.as_tensor(obs.astype(np.float32))).numpy()
    for others in (alone, as_tensors):
        assert np.allclose(given, others, rtol=1e-3, atol=1e-6), (given, others)
    assert actor.act(obs[:0]).shape == (0, *space.shape)
    actor.train()


def _check_units(env: gym.Env | VectorEnv) -> None:
    """-1 and 1 are the bounds of what is bounded, and every unit comes back from its action."""
    space = getattr(env, "single_action_space", env.action_space)
    units = ActionUnits(space)
    if isinstance(space, Discrete):
        index = torch.arange(int(space.n))
        given = units.to_numpy(units.to_env(index))
        assert given.tolist() == [int(space.start) + i for i in range(int(space.n))], given
        assert torch.equal(units.from_env(torch.as_tensor(given)), index)
        return
    for sign, wanted in ((-1, space.low), (1, space.high)):
        action = units.to_env(torch.full((1, *space.shape), float(sign)))
        for given in (units.to_numpy(action)[0], units.to_tensor(action).numpy()[0]):
            assert space.contains(given), (given, space)
            if is_bounded(_box_of(space)):
                span = space.high.astype(np.float64) - space.low.astype(np.float64)
                apart = abs(given.astype(np.float64) - wanted.astype(np.float64))
                assert (apart <= 1e-2 * span + 1e-37).all(), (given, wanted)


def _box_of(space: Box) -> BoxOf:
    low, high = (tuple(bound.ravel().tolist()) for bound in (space.low, space.high))
    return BoxOf(low, high, space.shape, str(space.dtype))


def _check_again(case: Case, env: gym.Env | VectorEnv, trainer: Any) -> None:
    """What is loaded goes on as what was saved, bit for bit."""
    other = environment(case)
    own = {}
    if case.replay is not None:
        own["replay"] = _replay(case, other, trainer.replay.capacity)
    if case.own_body:
        names = _names(case)
        own |= dict(zip(names, _networks(case, other)))
    with tempfile.TemporaryDirectory() as folder:
        trainer.save(f"{folder}/saved")
        loaded = type(trainer).load(f"{folder}/saved", other, **own)
        if not case.own_body:
            for name, network in trainer.run.networks.items():
                alone = agents.load(f"{folder}/saved", name).state_dict()
                same = (
                    torch.equal(alone[key], value) for key, value in network.state_dict().items()
                )
                assert all(same), name
    torch.manual_seed(1)
    for each in (trainer, loaded):
        arguments = [getattr(each, name) for name in _names(case)]
        each.train(*arguments, steps=case.steps, progress=False)
    _check_trained(case, env, trainer, 2 * case.steps)
    _check_trained(case, other, loaded, 2 * case.steps)
    first, second = (dict(_tensors(each)) for each in (trainer, loaded))
    assert first.keys() == second.keys(), first.keys() ^ second.keys()
    differ = [name for name in first if not torch.equal(first[name], second[name])]
    assert not differ, f"what was loaded went on otherwise: {differ}"


def _check_trained(case: Case, env: gym.Env | VectorEnv, trainer: Any, least: int) -> None:
    for name, tensor in _tensors(trainer):
        assert bool(tensor.isfinite().all()), f"{name} is not finite: {tensor}"
    inside, history = games(env), trainer.history
    total = sum(game.total for game in inside)
    assert trainer.run.steps == total, f"{trainer.run.steps} steps counted, {total} taken"
    assert total >= least, f"{total} steps of {least}"
    assert history["steps"][-1] == total, history["steps"]
    rises = np.diff(history["steps"], prepend=0)
    assert (rises > 0).all(), history["steps"]
    log = sorted((length, total) for game in inside for total, length in game.log)
    logged = sorted((length, total) for _, total, length in history.episodes)
    assert [each[0] for each in logged] == [each[0] for each in log], (logged, log)
    size = 1e-5 * (1 + max((abs(each[1]) for each in log), default=0))
    # Sorted by length, then by the return: alike but for rounding, which may change the order.
    apart = [abs(a[1] - b[1]) for a, b in zip(logged, log)]
    assert all(each <= 10 * size for each in apart), (logged, log)
    for row in history:
        for name, number in row.items():
            known = name in ("return", "length", "explained_variance")  # of none, or of no spread
            assert known or math.isfinite(number), f"{name} is {number} in the history"
    assert repr(history)
    described = learning.described_metrics(trainer)
    assert {name for row in history for name in row} <= {*described}


def _tensors(trainer: Any) -> list[tuple[str, torch.Tensor]]:
    """All numbers that a trainer keeps, by name."""
    found: list[tuple[str, torch.Tensor]] = []

    def walk(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.append((name, value.detach()))
        elif isinstance(value, dict):
            for key, each in value.items():
                walk(f"{name}.{key}", each)
        elif isinstance(value, list | tuple):
            for index, each in enumerate(value):
                walk(f"{name}.{index}", each)

    for name, network in trainer.run.networks.items():
        walk(name, dict(network.named_parameters()) | dict(network.named_buffers()))
    for name, part in trainer.run.state.items():
        walk(name, part.state_dict())
    # Bounds of actions are infinite where there are none.
    return [(name, tensor) for name, tensor in found if "action_units" not in name]


def _replay(case: Case, env: gym.Env | VectorEnv, capacity: int) -> learning.ReplayBuffer:
    kind = PrioritizedReplay if case.replay == "prioritized" else learning.ReplayBuffer
    return kind(env, capacity)


def _names(case: Case) -> list[str]:
    if case.trainer in Q_NETWORKS:
        return ["q_network"]
    critics = {"VPG": [], "TD3": ["critics"], "SAC": ["critics"]}
    return ["actor", *critics.get(case.trainer, ["critic"])]


def _networks(case: Case, env: gym.Env | VectorEnv) -> list[Any]:
    """The networks that the trainer wants, in its order."""
    obs_space = getattr(env, "single_observation_space", env.observation_space)
    action_space = getattr(env, "single_action_space", env.action_space)
    box = isinstance(action_space, Box)

    def made(maker: Callable[..., Any], wide: int = 0, **options: Any) -> Any:
        if case.own_body:
            size = int(np.prod(obs_space.shape)) + wide
            options["body"] = nn.Sequential(nn.Flatten(), nn.Linear(size, 3), nn.ReLU())
        else:
            options |= {"hidden_sizes": case.hidden_sizes}
            options |= {"activation": getattr(nn, case.activation)}
        return maker(env, **options)

    if case.trainer in Q_NETWORKS:
        return [made(agents.q_network, dueling=case.dueling)]
    kinds = dict.fromkeys(DETERMINISTIC, "deterministic") | ({"SAC": "squashed"} if box else {})
    kind = kinds.get(case.trainer)
    networks = [made(agents.actor, **({kind: True} if kind else {}))]
    if case.trainer in ("A2C", "PPO"):
        return [*networks, made(agents.critic)]
    if case.trainer == "VPG":
        return networks
    maker, wide = (agents.q_critic, math.prod(action_space.shape)) if box else (agents.q_network, 0)
    critics = [made(maker, wide) for _ in range(1 if case.trainer == "DDPG" else 2)]
    return [*networks, critics[0] if case.trainer == "DDPG" else critics]


# --- how cases are drawn --------------------------------------------------------------------------

FLOATS = ("float32", "float64", "float16")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
# Of these there are tensors of every operation.
OF_TORCH = ("float32", "float64", "float16", "int8", "int32", "int64", "uint8", "bool")


def cases(trainer: str) -> st.SearchStrategy[Case]:
    """Trainings with this trainer.

    Each is made of one number: of the many draws of a case Hypothesis would repeat most, and five
    cases of six would be variations of another. What it then cannot make smaller, `smallest` can.
    """
    return st.integers(0, 2**32 - 1).map(lambda seed: drawn(trainer, seed)).filter(is_legal)


class Draw(random.Random):
    """What draws."""

    def often(self) -> bool:
        return self.random() < 0.9

    def seldom(self) -> bool:
        return self.random() < 0.08


Some = Callable[[Draw], Any]  # draws a value


def one_of(*values: Any) -> Some:
    return lambda draw: draw.choice(values)


def whole(least: int, most: int) -> Some:
    """Whole numbers, now and then NumPy's."""
    return lambda draw: draw.choice((int, int, int, np.int64))(draw.randint(least, most))


def share(*values: float) -> Some:
    """One of these numbers, now and then of another type."""
    return lambda draw: draw.choice((lambda v: v, lambda v: v, lambda v: v, np.float32, Fraction))(
        draw.choice(values)
    )


def box(
    draw: Draw, shapes: Sequence[tuple[int, ...]], endless: bool = True, huge: bool = False
) -> BoxOf:
    """A Box of any type; `endless`: perhaps without bounds on one side or both; `huge`: perhaps
    with all its values beyond what a square in float32 holds."""
    dtype = draw.choice((*FLOATS, *FLOATS, *INTEGERS, "bool", "float32"))
    shape = draw.choice(shapes)
    if dtype == "bool":
        return BoxOf(0, 1, shape, dtype)
    pairs = bounds(dtype, endless, huge)
    low, high = draw.choice(pairs)
    if math.prod(shape) > 1 and draw.random() < 0.5:  # each element its own
        low, high = zip(*(draw.choice(pairs) for _ in range(math.prod(shape))))
    return BoxOf(low, high, shape, dtype)


def bounds(dtype: str, endless: bool, huge: bool) -> list[tuple[Any, Any]]:
    """Pairs of this type: usual, asymmetric, equal, tiny, huge, the type's own, none."""
    if dtype in INTEGERS:
        about = np.iinfo(dtype)
        pairs = [(0, 1), (0, 3), (5, 5), (1, 100), (int(about.min), int(about.max))]
        pairs += [] if dtype.startswith("uint") else [(-1, 1), (-7, 2), (-1, int(about.max))]
        pairs += [(2**40, 2**40 + 3), (2**60, 2**60 + 1)] if huge and dtype == "int64" else []
        return pairs
    about = np.finfo(dtype)
    pairs = [(-1.0, 1.0), (-2.0, 0.5), (0.0, 1.0), (3.0, 3.1), (0.1, 0.1), (0.0, 0.0)]
    pairs += [(-100.0, 7.0), (-float(about.tiny), float(about.tiny)), (1000.0, 1001.0)]
    if endless:
        pairs += [(-math.inf, math.inf), (0.0, math.inf), (-math.inf, -0.5)]
        pairs += [(float(about.min), float(about.max)), (0.0, float(about.max))]
    if dtype != "float16" and huge:
        pairs += [(1e30, 2e30), (2e38, 3.3e38), (-1e38, 2e38), (1e9, 1e9 + 6400), (1e9, 1e9 + 1)]
    return pairs


def discrete(draw: Draw) -> DiscreteOf:
    dtype = draw.choice(("int64", "int64", "int32", "int8", "uint8"))
    starts = [0, 0, 1, 100] + ([] if dtype == "uint8" else [-3])
    starts += [2**40, -(2**40)] if dtype == "int64" else []
    return DiscreteOf(draw.choice((1, 2, 3, 7)), draw.choice(starts), dtype)


VECTORS = ((1,), (2,), (3,), (5,))
ANY_SHAPE = ((2,), (1,), (), (2, 2), (1, 1), (2, 1, 2))
EMPTY = ((0,), (2, 0))


def action(draw: Draw, trainer: str) -> BoxOf | DiscreteOf:
    """Mostly what the trainer takes."""
    if not draw.often():
        return discrete(draw) if draw.random() < 0.3 else box(draw, ANY_SHAPE + EMPTY, huge=True)
    if trainer in Q_NETWORKS or (trainer not in DETERMINISTIC and draw.random() < 0.3):
        return discrete(draw)
    return box(draw, VECTORS, endless=trainer in ON_POLICY, huge=True)


UNIT = share(0, 1, 0.0, 1.0, 0.5, 0.9, 0.99)
COMMON = {
    "learning_rate": share(0.0, 1e-3, 1e-2),
    "gamma": UNIT,
    "max_grad_norm": share(1e-3, 0.5, 10),
    "seed": one_of(None, 0, 1, 4000, 2**31, 2**63 - 1, np.int64(3)),
}
ENTROPY = {"entropy_coefficient": share(0.0, 0.01, 1)}
MEMORY = {
    "capacity": whole(5, 60),
    "collect_steps": whole(1, 30),
    "updates_per_step": share(0.01, 0.3, 1, 2.5),
    "batch_size": whole(1, 40),
    "learning_starts": whole(1, 20),
}
ACTOR_CRITIC = {"tau": UNIT, "noise_correlation": UNIT}
NOISE = {"noise": share(0.0, 0.2, 100)}
OWN: dict[str, dict[str, Some]] = {
    "VPG": ENTROPY
    | {"batch_steps": whole(1, 40), "action_weight": one_of("reward_to_go", "total_return")}
    | {"baseline": one_of(True, False), "normalize": one_of(True, False)},
    "A2C": ENTROPY | {"rollout_steps": whole(1, 40), "gae_lambda": UNIT},
    "PPO": ENTROPY
    | {"rollout_steps": whole(1, 40), "gae_lambda": UNIT, "epochs": whole(1, 3)}
    | {"minibatch_size": whole(1, 50), "clip_range": share(1e-3, 0.2, 5)},
    "DQN": MEMORY
    | {"n_step": whole(1, 10), "target_interval": whole(1, 30), "epsilon": UNIT}
    | {"epsilon_steps": whole(1, 50), "decay_steps": whole(1, 50)},
    "DDPG": MEMORY | ACTOR_CRITIC | NOISE,
    "TD3": MEMORY
    | ACTOR_CRITIC
    | NOISE
    | {"target_noise": share(0.0, 0.2, 10), "target_noise_clip": share(0.0, 0.5)}
    | {"policy_delay": whole(1, 5)},
    "SAC": MEMORY
    | ACTOR_CRITIC
    | {"initial_alpha": share(1e-3, 1, 50), "learn_alpha": one_of(True, False)}
    | {"target_entropy": one_of(None, None, -5, -0.5, np.float32(-1), Fraction(-1, 2))},
}
OWN["DDQN"] = OWN["DQN"]
NEVER = (-1, math.nan, math.inf, "3", None, [1], True, -0.5, 2**70 * 1j)
# Any value is true or false, and two take more than numbers.
FREE = ("baseline", "normalize", "learn_alpha", "seed", "target_entropy")


def settings_for(draw: Draw, trainer: str) -> dict[str, Any]:
    """Hyperparameters, some of them left as they are."""
    ranges = COMMON | OWN[trainer]
    # Where nothing is said these would take too long, or nothing would be learned.
    needed = [n for n in ranges if n in MEMORY or n in ("rollout_steps", "batch_steps", "epochs")]
    others = draw.sample([*ranges], draw.randint(0, 5))
    settings = {name: ranges[name](draw) for name in dict.fromkeys([*needed, *others])}
    if "capacity" in settings and draw.random() < 0.97:
        settings["learning_starts"] = min(settings["learning_starts"], settings["capacity"])
    return settings


def drawn(trainer: str, seed: int) -> Case:
    """The training that this number stands for."""
    draw = Draw(f"{trainer}, {seed}")  # letters, so that no two are alike
    shapes = ANY_SHAPE if draw.random() < 0.3 else VECTORS
    obs: BoxOf | DiscreteOf = box(draw, shapes, huge=draw.random() < 0.1)
    flatten = draw.seldom()
    if draw.seldom():
        obs, flatten = discrete(draw), draw.often()
    elif draw.random() < 0.01:
        obs = box(draw, EMPTY)
    acts = action(draw, trainer)
    kind = draw.choice(("single", "sync", "sync", "native", "torch"))
    if kind == "torch" and not {obs.dtype, acts.dtype} <= {*OF_TORCH}:
        kind = "native"
    kind = "sync" if flatten and kind in ("native", "torch") else kind
    bins = None
    if draw.random() < 0.02 or (trainer in Q_NETWORKS and isinstance(acts, BoxOf) and draw.often()):
        bins = draw.choice((2, 3))
    hows = ("terminated", "truncated", "both")
    ends = [(draw.randint(1, 9), draw.choice(hows)) for _ in range(draw.randint(1, 4))]
    if trainer != "VPG" and draw.seldom():
        ends = [(10**9, "never")]
    alone = kind == "single"
    rewards = ("float", "float", "float32", "float64", "int", "array", "column")
    case = Case(
        trainer,
        obs=obs,
        action=acts,
        kind=kind,
        mode=draw.choice(MODES),
        num_envs=1 if alone else draw.randint(1, 5),
        episodes=tuple(ends),
        reward=draw.choice(("zero", "constant", "noise", "offset", "sparse", "growing")),
        reward_type=draw.choice(rewards if alone else rewards[:5]),
        flag_type=draw.choice(("bool", "bool", "numpy", "int", "array")) if alone else "bool",
        obs_type=draw.choice(("array", "array", "flipped", "read-only", "list"))
        if alone and not flatten
        else "array",
        reward_scale=draw.choice(SCALES),
        obs_scale=draw.choice(SCALES),
        flatten=flatten,
        bins=bins,
        steps=draw.randint(1, 80),
        settings=settings_for(draw, trainer),
        replay=None if trainer in ON_POLICY else draw.choice((None, "uniform", "prioritized")),
        hidden_sizes=draw.choice(((4,), (8, 8), (1,), ())),
        activation=draw.choice(("Tanh", "ReLU")),
        own_body=draw.seldom(),
        dueling=draw.random() < 0.5,
        again=draw.random() < 0.3,
    )
    # One reason to refuse it is enough.
    if draw.seldom() and is_legal(case) and expected_refusal(case) is None:
        return spoiled(draw, case)
    return case


def spoiled(draw: Draw, case: Case) -> Case:
    """The same with a hyperparameter that is not accepted, or numbers that are not finite."""
    if draw.random() < 0.5:
        what = draw.choice(("reward", "observation", "first observation", "huge reward"))
        return dataclasses.replace(case, broken=(what, draw.randint(0, 15)))
    bad = draw.choice([name for name in case.settings if name not in FREE])
    value = "no such" if bad == "action_weight" else draw.choice(NEVER)
    settings = case.settings | {bad: value}
    return dataclasses.replace(case, settings=settings, bad=bad, replay=None)


def is_legal(case: Case) -> bool:
    """Whether Gymnasium makes such an environment and lets it be reset and acted in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            plain = dataclasses.replace(case, broken=None, bins=None)
            env = environment(plain)
            env.reset(seed=0)
            action = env.action_space.sample()
            env.step(torch.as_tensor(action) if case.kind == "torch" else action)
        except Outside:
            return False  # Gymnasium's own sample is not in the space
        except Exception:
            return False
    return True


# --- less is more ---------------------------------------------------------------------------------


def fault_of(case: Case) -> str | None:
    """What is wrong with how a case ends, as one line; None where all is well."""
    try:
        check(case)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        inside = "" if frame.filename == __file__ else f" at {Path(frame.filename).name}"
        return f"{type(error).__name__}{inside}: {error}"
    return None


def smallest(case: Case) -> Case:
    """A case with the same fault, with as much as possible left as it is by default."""

    def kind(fault: str | None) -> str:
        return re.sub(r"[\d.,\s]+", " ", (fault or ""))[:60]

    wanted = kind(fault_of(case))
    if not wanted:
        return case
    plain = Case(case.trainer)
    for each in dataclasses.fields(case)[1:]:
        less = dataclasses.replace(case, **{each.name: getattr(plain, each.name)})
        if kind(fault_of(less)) == wanted:
            case = less
    for name in [*case.settings]:
        fewer = {key: value for key, value in case.settings.items() if key != name}
        less = dataclasses.replace(case, settings=fewer)
        if kind(fault_of(less)) == wanted:
            case = less
    return case
