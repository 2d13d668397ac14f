"""A grid of Box actions as Discrete ones, for an algorithm that chooses among actions (DQN)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import VectorEnv
from torch import Tensor

from metis_nb.envs.spaces import Environment, bounding, fitted, name_of, spanned

# More than these, and one output of a network for each is no longer the way.
MOST_ACTIONS = 1000


class DiscretizeAction(gym.ActionWrapper, gym.utils.RecordConstructorArgs):
    """An environment with `Box` actions as one with `Discrete` actions, a grid of them.

        env = envs.DiscretizeAction(gym.make("Pendulum-v1"), bins=11)   # torques -2, -1.6, ... 2
        env = envs.DiscretizeAction(envs.make("Pendulum-v1"), bins=11)  # the same for a vector

    Each dimension gets evenly spaced values, both bounds among them. An action is one value of
    each dimension; the index runs over all combinations, the last dimension fastest.

    Args:
        env: an environment, or a vector of them, with a bounded `Box` action space.
        bins: how many values, at least 2: a number for all dimensions, or one for each. With an odd
            number, the middle of the bounds is one of them.

    Attributes:
        action_table: (n, *action_shape), the environment's action for each index.
        bins: how many values each dimension has.

    Raises:
        TypeError: `env` is no environment, or its actions are no `Box`.
        ValueError: the `Box` has no bounds, `bins` is not accepted, or there are too many actions.
    """

    def __new__(cls, env: Environment | None = None, bins: int | Sequence[int] = 11) -> Any:
        # Gymnasium's wrappers of vectors are another family. Copying calls this without arguments.
        if isinstance(env, VectorEnv):
            return DiscretizeVectorAction(env, bins)
        return super().__new__(cls)

    def __init__(self, env: Environment, bins: int | Sequence[int] = 11):
        self.action_table, self.bins = grid(env, bins)
        gym.utils.RecordConstructorArgs.__init__(self, bins=self.bins)  # so that env.spec knows
        super().__init__(env)  # type: ignore[arg-type]  # no vector, after __new__
        self.action_space = Discrete(len(self.action_table))

    def action(self, action: Any) -> np.ndarray:
        """An index 0 .. n-1 -> an action of the environment inside, *action_shape."""
        if not self.action_space.contains(action):
            raise ValueError(f"action={action!r}; the action space is {self.action_space}.")
        return self.action_table[action].copy()  # an environment may write into what it gets


class DiscretizeVectorAction(gym.vector.VectorActionWrapper):
    """What `DiscretizeAction` makes of a vector environment; arguments and attributes are its."""

    def __init__(self, env: VectorEnv, bins: int | Sequence[int] = 11):
        super().__init__(env)
        self.action_table, self.bins = grid(env, bins)
        self.single_action_space = Discrete(len(self.action_table))
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, env.num_envs)

    def actions(self, actions: Any) -> Any:
        """Indices (N,) -> actions of the environments inside, (N, *action_shape): a tensor of a
        tensor, which is not checked (that would wait for the GPU), else an array."""
        if isinstance(actions, Tensor):
            return torch.as_tensor(self.action_table, device=actions.device)[actions]
        actions = np.asarray(actions)
        if not self.action_space.contains(actions):
            raise ValueError(f"actions={actions!r}; the action space is {self.action_space}.")
        return self.action_table[actions]


def grid(env: Environment, bins: Any) -> tuple[np.ndarray, tuple[int, ...]]:
    """All combinations of evenly spaced values of each action dimension, (n, *action_shape), and
    how many values each dimension has. The errors are those of `DiscretizeAction`."""
    if not isinstance(env, gym.Env | VectorEnv):
        raise TypeError(
            f"env is a {type(env).__name__}; expected a gymnasium.Env or a "
            f'gymnasium.vector.VectorEnv, such as gymnasium.make("Pendulum-v1").'
        )
    space = env.single_action_space if isinstance(env, VectorEnv) else env.action_space
    if not isinstance(space, Box):
        raise TypeError(
            f"env: {name_of(env)} has the action space {space}; expected a Box. "
            f"Discrete actions need no DiscretizeAction."
        )
    low, high = space.low.ravel().astype(float), space.high.ravel().astype(float)
    if not spanned(space).all():
        raise ValueError(
            f"env: {name_of(env)} has the action space {space}, which has no bounds that a grid "
            f"could span. Give it some: {bounding(env, space)}"
        )
    each = list(bins) if np.ndim(bins) else [bins] * len(low)
    if len(each) != len(low) or not all(isinstance(n, int | np.integer) and n >= 2 for n in each):
        raise ValueError(
            f"bins={bins!r}; expected a whole number of at least 2, or one for each of the "
            f"{len(low)} action dimensions of {name_of(env)}."
        )
    counts = tuple(int(n) for n in each)
    if (total := math.prod(counts)) > MOST_ACTIONS:
        raise ValueError(
            f"bins={bins!r} makes {total:,} actions of {name_of(env)} "
            f"({' x '.join(map(str, counts))}); at most {MOST_ACTIONS:,} are accepted. "
            f"Use fewer bins, or an algorithm for continuous actions (SAC, TD3, DDPG) without "
            f"DiscretizeAction."
        )
    values = [np.linspace(*axis) for axis in zip(low, high, counts)]
    table = np.array(list(itertools.product(*values))).reshape(total, *space.shape)
    return fitted(table, space), counts
