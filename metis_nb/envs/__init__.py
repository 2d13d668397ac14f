"""Environments: a door to Gymnasium's, and the view of any of them that trainers use."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from metis_nb.envs.discretize import DiscretizeAction
from metis_nb.envs.single import make_single
from metis_nb.envs.view import SEED_STRIDE, Step, TensorView, first_seed

__all__ = [
    "SEED_STRIDE",
    "DiscretizeAction",
    "Step",
    "TensorView",
    "first_seed",
    "make",
    "make_single",
]


def make(env_id: str, num_envs: int = 16, **kwargs: Any) -> VectorEnv:
    """`num_envs` copies of a Gymnasium environment that step together.

    Many environments at once cost a network hardly more than one, so training is several times
    faster than with `gymnasium.make`. Uses Gymnasium's batched implementation of the task where it
    has one (CartPole), and copies stepped one after another in this process elsewhere.

    Args:
        env_id: a registered id, such as "CartPole-v1".
        num_envs: how many copies.
        kwargs: passed on to `gymnasium.make_vec`, such as `max_episode_steps=200`.
    """
    if not isinstance(num_envs, Integral) or num_envs < 1:
        raise ValueError(f"num_envs={num_envs!r}; expected a whole number above 0, such as 16.")
    return gym.make_vec(env_id, num_envs=int(num_envs), **kwargs)
