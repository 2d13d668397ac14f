"""A running environment's state as plain data, so that a saved training can go on mid-episode.

Gymnasium has no such thing. What makes an environment go on as it would have is in the attributes
of its layers (wrappers, sub-environments, the innermost one): numbers, arrays and random
generators. Where a layer holds anything else, it cannot be captured, and `capture` says so.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
from torch import Tensor

# What an environment is made of, as against what changes while it runs.
FIXED_NAMES = {"spec", "_cached_spec", "metadata", "_metadata", "_saved_kwargs", "env_fns"}
FIXED_TYPES = (gym.Space, enum.Enum, type)
PLAIN_TYPES = (bool, int, float, str, np.ndarray, np.generic, Tensor, type(None))


class CannotCapture(Exception):
    """An attribute that is neither plain data nor a fixed part."""


def capture(env: Any) -> dict[str, Any] | None:
    """The state of `env` as nested dicts and lists of numbers, strings and arrays.

    None where that is not possible, as with a physics engine that keeps its state to itself.
    """
    try:
        return _capture(env)
    except CannotCapture:
        return None


def restore(env: Any, state: dict[str, Any]) -> None:
    """Bring `env`, built the same way, to a captured state."""
    for name, (kind, value) in state.items():
        if kind == "env":
            restore(getattr(env, name), value)
        elif kind == "envs":
            for inner, inner_state in zip(getattr(env, name), value, strict=True):
                restore(inner, inner_state)
        elif kind == "generator":
            generator = np.random.Generator(getattr(np.random, value["bit_generator"])())
            generator.bit_generator.state = value
            setattr(env, name, generator)
        elif kind == "deque":
            setattr(env, name, deque(value["items"], maxlen=value["maxlen"]))
        else:
            setattr(env, name, value)


def _capture(env: Any) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, value in vars(env).items():
        if name in FIXED_NAMES or isinstance(value, FIXED_TYPES) or _is_fixed(value):
            continue
        if isinstance(value, gym.Env | gym.vector.VectorEnv):
            state[name] = ["env", _capture(value)]
        elif isinstance(value, list | tuple) and value and isinstance(value[0], gym.Env):
            state[name] = ["envs", [_capture(inner) for inner in value]]
        elif isinstance(value, np.random.Generator):
            state[name] = ["generator", value.bit_generator.state]
        elif isinstance(value, deque) and _is_plain(list(value)):
            state[name] = ["deque", {"items": list(value), "maxlen": value.maxlen}]
        elif _is_plain(value):
            state[name] = ["plain", _copy(value)]
        else:
            raise CannotCapture(f"{type(env).__name__}.{name}")
    return state


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str | int) and _is_plain(item) for key, item in value.items())
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype != object
    return isinstance(value, PLAIN_TYPES)


def _is_fixed(value: Any) -> bool:
    # Windows and clocks of a renderer draw the state; they are not part of it.
    return callable(value) or type(value).__module__.split(".")[0] == "pygame"


def _copy(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_copy(item) for item in value)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.copy()
    return value.clone() if isinstance(value, Tensor) else value
