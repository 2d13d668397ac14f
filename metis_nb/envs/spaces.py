"""What a Gymnasium environment's spaces mean for a network: shapes, counts and action units.

Networks speak two kinds of action. A *policy action* is what a network emits and a trainer stores:
an index 0 .. n-1, or a vector in which [-1, 1] spans the bounds of each dimension. An *environment
action* is what `env.step` takes. `ActionUnits` turns one into the other, in one place.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

Environment = gym.Env | gym.vector.VectorEnv
FEWEST_STEPS = 16  # that float32 has between the bounds of an action, where its type has more


def single_spaces(env: Environment) -> tuple[Box, Box | Discrete]:
    """The observation and action space of one (sub-)environment, checked.

    Raises:
        TypeError: `env` is neither a `gym.Env` nor a `gym.vector.VectorEnv`, or one of its spaces
            is of a kind that the networks do not take.
        ValueError: a space without a single number, or with bounds that float32 cannot tell apart.
    """
    if isinstance(env, gym.vector.VectorEnv):
        obs_space, action_space = env.single_observation_space, env.single_action_space
    elif isinstance(env, gym.Env):
        obs_space, action_space = env.observation_space, env.action_space
    else:
        raise TypeError(
            f"env is a {type(env).__name__}; expected a gymnasium.Env or a "
            f'gymnasium.vector.VectorEnv, such as gymnasium.make("CartPole-v1").'
        )
    if not isinstance(obs_space, Box):
        flat = ("vector." if isinstance(env, gym.vector.VectorEnv) else "") + "FlattenObservation"
        raise TypeError(
            f"env: {name_of(env)} has the observation space {obs_space}; expected a Box. Wrap it, "
            f"which makes Discrete, Tuple and Dict observations a Box: "
            f"gymnasium.wrappers.{flat}(env)."
        )
    if not isinstance(action_space, Box | Discrete):
        counts = getattr(action_space, "nvec", np.array([3, 2])).tolist()
        wrap = wrapping(
            env,
            f"gymnasium.wrappers.TransformAction(env, lambda a: "
            f"numpy.array(numpy.unravel_index(a, {counts})), "
            f"gymnasium.spaces.Discrete({math.prod(counts)}))",
        )
        raise TypeError(
            f"env: {name_of(env)} has the action space {action_space}; expected a Discrete or a "
            f"Box. Wrap it, with a function from the action that you would have to one of its own, "
            f"such as, for a MultiDiscrete: {wrap}"
        )
    if isinstance(action_space, Box) and len(action_space.shape) != 1:
        wrap = wrapping(
            env,
            f"gymnasium.wrappers.TransformAction(env, lambda a: a.reshape({action_space.shape}), "
            f"gymnasium.spaces.flatten_space(env.action_space))",
        )
        raise TypeError(
            f"env: {name_of(env)} has Box actions of shape {action_space.shape}; expected one "
            f"axis, (number of action dimensions,). Wrap it: {wrap}"
        )
    for what, space in (("observation", obs_space), ("action", action_space)):
        if 0 in (space.shape or ()):
            raise ValueError(
                f"env: {name_of(env)} has the {what} space {space}, without a single number; "
                f"expected at least one. It may be a constant: gymnasium.spaces.Box(0, 1, (1,))."
            )
    if isinstance(action_space, Box) and not told_apart(action_space).all():
        moved = wrapping(
            env,
            "gymnasium.wrappers.TransformAction(env, lambda a: a + env.action_space.low, "
            "gymnasium.spaces.Box(0, env.action_space.high - env.action_space.low, "
            "dtype=env.action_space.dtype.type))",
        )
        raise ValueError(
            f"env: {name_of(env)} has the action space {action_space}, with bounds so large and so "
            f"close together that float32, which networks speak, has next to nothing between them. "
            f"Let it begin at 0: {moved}"
        )
    return obs_space, action_space


def told_apart(space: Box) -> np.ndarray:
    """Where float32 has a number for each whole one, or some between the bounds of others."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        step = np.spacing(np.maximum(abs(low), abs(high)).astype(np.float32)).astype(np.float64)
        enough = high - low >= FEWEST_STEPS * step
    own = space.dtype.itemsize < 4 or space.dtype == np.float32  # there are no more to be had
    whole = (space.dtype.kind in "iu") & (step <= 1)
    nothing = (space.dtype.kind == "f") & (high - low < np.finfo(np.float32).tiny)
    return enough | whole | own | nothing | (space.high == space.low) | ~spanned(space)


def check_discrete(trainer: str, env: Environment) -> None:
    """Refuse an environment whose actions are not `Discrete`, for a trainer of this name.

    Raises:
        TypeError: naming what it has, and what to use instead.
    """
    _, action_space = single_spaces(env)
    if not isinstance(action_space, Discrete):
        raise TypeError(
            f"{trainer} needs a Discrete action space; {name_of(env)} has {action_space}. Wrap it: "
            f"envs.DiscretizeAction(env). Or use a trainer for Box actions, such as PPO."
        )


def check_bounded(what: str, env: Environment) -> None:
    """Refuse an environment whose actions are not a `Box` with two bounds for each dimension, for
    what goes by this name.

    Raises:
        TypeError, ValueError: naming what it has, and what to use instead.
    """
    _, action_space = single_spaces(env)
    if not isinstance(action_space, Box):
        raise TypeError(
            f"{what} needs a Box action space; {name_of(env)} has {action_space}. Use a trainer "
            f"for Discrete actions, such as DQN, SAC or PPO."
        )
    if not spanned(action_space).all():
        raise ValueError(
            f"{what} needs actions with bounds; {name_of(env)} has {action_space}. Use PPO, which "
            f"does without, or give it bounds of your own: {bounding(env, action_space)}"
        )


def spanned(space: Box) -> np.ndarray:
    """Which elements of a Box have two bounds, and not merely by the largest float there is."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    most = np.finfo(np.float32).max
    with np.errstate(over="ignore"):
        return (high - low < most) & (abs(low) <= most) & (abs(high) <= most)


def wrapping(env: Environment, wrapper: str) -> str:
    """The code that puts a wrapper around `env`, for an error that advises it. `wrapper` is the
    code for a single environment, `env`; of a vector each is wrapped, before they are one."""
    if not isinstance(env, gym.vector.VectorEnv):
        return wrapper
    if env.spec is None:
        return (
            f"gymnasium.vector.SyncVectorEnv([lambda: wrap(make())] * {env.num_envs}), where "
            f"make() makes one and wrap = lambda env: {wrapper}"
        )
    return (
        f'gymnasium.make_vec("{env.spec.id}", {env.num_envs}, vectorization_mode="sync", '
        f"wrappers=[lambda env: {wrapper}])"
    )


def bounding(env: Environment, space: Box) -> str:
    """The code that gives the actions of an environment bounds."""
    box = f"gymnasium.spaces.Box(-1, 1, {space.shape})"
    return wrapping(env, f"gymnasium.wrappers.TransformAction(env, lambda a: a, {box})")


def name_of(env: Environment) -> str:
    """The environment's registered id, or its class name where it has none."""
    spec = getattr(env, "spec", None)
    return spec.id if spec is not None else type(env).__name__


def describe(env: Environment) -> dict[str, Any]:
    """The spaces of one (sub-)environment as plain data, for a file."""
    obs_space, action_space = single_spaces(env)
    return {"observation": _describe(obs_space), "action": _describe(action_space)}


def _describe(space: Box | Discrete) -> dict[str, Any]:
    if isinstance(space, Discrete):
        return {"n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
    return {"low": space.low, "high": space.high, "dtype": str(space.dtype)}


class SpacesOnly(gym.Env):
    """What `describe` described: an environment of spaces, to make networks for."""

    def __init__(self, spaces: dict[str, Any]):
        self.observation_space = self._space(spaces["observation"])
        self.action_space = self._space(spaces["action"])

    @staticmethod
    def _space(about: dict[str, Any]) -> Box | Discrete:
        if "n" in about:
            settings = {"start": about["start"]}
            if about.get("dtype", "int64") != "int64":  # in older files, and Gymnasium's, it is
                settings["dtype"] = np.dtype(about["dtype"]).type
            return Discrete(about["n"], **settings)
        return Box(about["low"], about["high"], dtype=np.dtype(about["dtype"]).type)


class ActionUnits(nn.Module):
    """Turns policy actions into environment actions, by the bounds of each dimension.

    Discrete: index 0 .. n-1 <-> `start` .. `start + n - 1`. Box: [-1, 1] <-> [low, high] per
    dimension, clipped to the bounds; a dimension that is unbounded on either side is passed
    through (and clipped to the bound that it has). Where actions are whole numbers, rounded.
    """

    size: int  # number of actions, or of action dimensions
    low: Tensor
    high: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, space: Box | Discrete):
        super().__init__()
        self.discrete = isinstance(space, Discrete)
        self.space: Any = space
        self.dtype = space.dtype
        # Of this type already, bounds and all, when `to_env` is done with them.
        self.fits = self.discrete or space.dtype == np.float32
        self.whole = space.dtype.kind in "iub"
        if isinstance(space, Discrete):
            self.size, self.start = int(space.n), int(space.start)
            return
        self.size, self.start = len(space.low), 0
        with np.errstate(over="ignore"):
            low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        bounded = spanned(space)
        with np.errstate(invalid="ignore", over="ignore"):
            scale = np.where(bounded, (high - low) / 2, 1.0)
            offset = np.where(bounded, high / 2 + low / 2, 0.0)  # their sum may be too large
        # Not persistent: they belong to the environment, and a saved file need not repeat them.
        for name, value in dict(low=low, high=high, scale=scale, offset=offset).items():
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32), False)

    @property
    def max_entropy(self) -> float:
        """Of uniformly random policy actions, in nats: log n, or log 2 for each dimension."""
        return math.log(self.size) if self.discrete else math.log(2) * self.size

    def to_env(self, action: Tensor) -> Tensor:
        """Policy actions (B,) int64 or (B, A) float32 -> environment actions of the same shape."""
        if self.discrete:
            return action + self.start if self.start else action
        action = torch.clamp(action * self.scale + self.offset, self.low, self.high)
        return action.round() if self.whole else action

    def to_numpy(self, action: Tensor) -> np.ndarray:
        """Environment actions as `env.step` takes them: the space's own dtype, on the CPU. A copy,
        into which an environment may write."""
        values = action.cpu().numpy()
        return values.astype(self.dtype) if self.fits else fitted(values, self.space)

    def to_tensor(self, action: Tensor) -> Tensor:
        """Environment actions as a vector of tensors takes them: the space's own type, where they
        are."""
        kind = torch.from_numpy(np.empty(0, self.dtype)).dtype
        if action.dtype == kind or self.discrete:
            return action.to(kind)
        # As in `fitted`: rounded to float32, a bound may lie a hair outside.
        bounds = self.space.low, self.space.high
        low, high = (torch.as_tensor(bound, device=action.device) for bound in bounds)
        action = torch.where(action >= self.high, high, action.to(kind))
        return torch.where(action <= self.low, low, action)

    def from_env(self, action: Tensor) -> Tensor:
        """The inverse of `to_env`, for actions within the bounds."""
        if self.discrete:
            return action - self.start
        # A dimension with one value alone has a scale of 0: in the middle of nothing.
        scale = self.scale.masked_fill(self.scale == 0, 1.0)
        return (action.to(self.offset.dtype) - self.offset) / scale


def fitted(action: np.ndarray, space: Box) -> np.ndarray:
    """Actions (A,) or (B, A) of any type in the space's own: a float32 may lie a hair outside of
    bounds that are float64. Whole numbers are rounded, not cut off."""
    if space.dtype.kind not in "iub":
        return np.clip(action.astype(space.dtype), space.low, space.high)
    values = np.rint(action.astype(np.float64))
    with np.errstate(invalid="ignore"):  # the largest whole numbers have no float of their own
        whole = values.astype(space.dtype)
    whole = np.where(values >= space.high.astype(np.float64), space.high, whole)
    return np.where(values <= space.low.astype(np.float64), space.low, whole)
