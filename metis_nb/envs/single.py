"""Gymnasium's own environment behind any other: what evaluation and the player use."""

from __future__ import annotations

import copy
import functools
import warnings
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from metis_nb.envs.discretize import DiscretizeAction, DiscretizeVectorAction

# Arguments of `gymnasium.make_vec` that are kept among those of the single environment.
VECTOR_ARGUMENTS = ("num_envs", "vectorization_mode", "vector_kwargs")
# Wrappers that take the rendered pictures for themselves.
FILM_WRAPPERS = ("HumanRendering", "RenderCollection", "RecordVideo")


def make_single(
    env: gym.Env | gym.vector.VectorEnv | str, render_mode: str | None = None
) -> gym.Env:
    """A single environment like `env`, made afresh by Gymnasium, with its arguments and wrappers.

    One that was not made from a registered id is copied, or made by the first function that its
    `SyncVectorEnv` was given; it then draws as it is able to, whatever `render_mode`.

    Args:
        env: an environment, a vector of them, or a registered id.
        render_mode: how the new one draws; None: not at all.

    Raises:
        TypeError: `env` is none of these.
        ValueError: it cannot be made again or copied, or its wrappers work on whole batches.
    """
    use = (
        'Use one from gymnasium.make or envs.make, or an id such as "CartPole-v1". A class of your '
        'own gets an id by gymnasium.register("Mine-v0", entry_point=Mine).'
    )
    if not isinstance(env, str | gym.Env | gym.vector.VectorEnv):
        raise TypeError(f"env is {env!r}, which is no environment. {use}")
    layer: Any = env
    bins = None
    while isinstance(layer, gym.vector.VectorWrapper):
        if isinstance(layer, DiscretizeVectorAction):
            bins = layer.bins
        elif isinstance(
            layer, gym.vector.VectorObservationWrapper | gym.vector.VectorActionWrapper
        ):
            raise ValueError(
                f"env is {env}: {type(layer).__name__} changes a whole batch, which one "
                f"environment has not. Wrap each one: gymnasium.make_vec(..., wrappers=[...])."
            )
        layer = layer.env
    try:
        spec = gym.spec(env) if isinstance(env, str) else _spec(env)
        made = _unregistered(env) if spec is None else _make(spec, render_mode)
        return made if bins is None else DiscretizeAction(made, bins)
    except Exception as error:
        how = "" if render_mode is None else f' with render_mode="{render_mode}"'
        raise ValueError(f"env is {env}, which cannot be made afresh{how}: {error}. {use}") from (
            error
        )


def _spec(env: Any) -> EnvSpec | None:
    # A vector put together by hand has none, but the environments in it may.
    return env.spec or getattr(getattr(env.unwrapped, "envs", [None])[0], "spec", None)


def _unregistered(env: Any) -> gym.Env:
    if isinstance(env, gym.Env):
        return copy.deepcopy(env)
    makers = getattr(env.unwrapped, "env_fns", None)
    if not makers:
        raise ValueError("it has no spec, so it was not made from a registered id")
    return makers[0]()


def _make(spec: EnvSpec, render_mode: str | None) -> gym.Env:
    spec = copy.deepcopy(spec)
    kwargs = {name: value for name, value in spec.kwargs.items() if name not in VECTOR_ARGUMENTS}
    wrappers = kwargs.pop("wrappers", None) or ()
    spec.max_episode_steps = kwargs.pop("max_episode_steps", spec.max_episode_steps)
    # An environment of your own need not know the argument.
    spec.kwargs = {name: value for name, value in kwargs.items() if name != "render_mode"}
    if render_mode is not None:
        spec.kwargs["render_mode"] = render_mode
    spec.additional_wrappers = tuple(
        wrapper for wrapper in spec.additional_wrappers if wrapper.name not in FILM_WRAPPERS
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a missing render mode is for the caller to judge
        made = gym.make(spec)
    return functools.reduce(lambda inner, wrapper: wrapper(inner), wrappers, made)
