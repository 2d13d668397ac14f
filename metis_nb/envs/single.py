"""Gymnasium's own environment behind any other: what evaluation and the player use."""

from __future__ import annotations

import contextlib
import copy
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers.utils import RunningMeanStd
from torch import Tensor

from metis_nb.envs.discretize import DiscretizeAction, DiscretizeVectorAction
from metis_nb.envs.spaces import fitted

# Arguments of `gymnasium.make_vec` that are kept among those of the single environment.
VECTOR_ARGUMENTS = ("num_envs", "vectorization_mode", "vector_kwargs")
# Wrappers that take the rendered pictures for themselves.
FILM_WRAPPERS = ("HumanRendering", "RenderCollection", "RecordVideo")
# Wrappers of vectors that change nothing of what one environment is asked and answers.
FOR_BATCHES = (
    gym.wrappers.vector.RecordEpisodeStatistics,
    gym.wrappers.vector.DictInfoToList,
)
CONVERSIONS = ("ArrayConversion", "JaxToNumpy", "JaxToTorch", "NumpyToTorch", *FILM_WRAPPERS)
HOW = (
    "Give it an id, and make it by that:\n"
    '    gymnasium.register("Mine-v0", entry_point=make)  # make(**arguments) returns it, wrapped\n'
    '    env = gymnasium.make("Mine-v0")'
)


def make_single(
    env: gym.Env | gym.vector.VectorEnv | str, render_mode: str | None = None
) -> gym.Env:
    """A single environment like `env`, with its arguments and wrappers, that shares nothing with
    it: the task as it was trained on.

    What Gymnasium registered is made afresh; an environment without an id comes from the first
    function that its vector was given, or is copied, and then draws as it is able to, whatever
    `render_mode`. A wrapper of the reader's own is copied around it. Statistics that a wrapper has
    learned (Gymnasium's NormalizeObservation, NormalizeReward) are as they are in `env`, and stay
    so; of a vector whose environments each have their own, they are those of the first.

    Args:
        env: an environment, a vector of them, or a registered id.
        render_mode: how the new one draws; None: not at all.

    Raises:
        TypeError: `env` is none of these.
        ValueError: it cannot be made again or copied, or its wrappers work on whole batches.
    """
    if not isinstance(env, str | gym.Env | gym.vector.VectorEnv):
        raise TypeError(
            f"env is {env!r}, which is no environment. Use one from gymnasium.make or envs.make, "
            f'or an id such as "CartPole-v1".'
        )
    layer: Any = env
    around: list[Callable[[gym.Env], gym.Env]] = []  # from the outside in
    while isinstance(layer, gym.vector.VectorWrapper):
        around += _for_one(layer)
        layer = layer.env
    how = "" if render_mode is None else f' with render_mode="{render_mode}"'
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what cannot be made or drawn is said here
            if isinstance(env, str):
                made = _make(gym.spec(env), render_mode)
            elif isinstance(layer, gym.Env):
                made = _again(layer, render_mode)
            else:
                made = _one_of(layer, render_mode)
            return functools.reduce(lambda inner, wrap: wrap(inner), reversed(around), made)
    except Exception as error:
        text = "" if isinstance(env, str) else f" {HOW}"
        said = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"env is {env}, which cannot be made afresh{how}: {said}.{text}"
        ) from error


def env_action(action: Any, space: gym.Space) -> Any:
    """What a function chose, a tensor, an array or a number, as `env.step` takes it.

    Raises:
        ValueError: it is no action of this space.
    """
    # A copy: a function may hand out the same array at every step.
    action = action.numpy(force=True) if isinstance(action, Tensor) else np.array(action)
    if isinstance(space, spaces.Box):
        fits = action.shape == space.shape and bool(np.isfinite(action).all())
        action = fitted(action, space) if fits else action
    else:
        if isinstance(space, spaces.Discrete) and action.size == 1 and action.dtype.kind in "iub":
            action = int(action.item())
        fits = space.contains(action)
    if not fits:
        raise ValueError(f"actor chose {action!r}; the action space is {space}")
    return action


# --- wrappers -------------------------------------------------------------------------------------


def _for_one(layer: gym.vector.VectorWrapper) -> list[Callable[[gym.Env], gym.Env]]:
    """What a wrapper of a vector does to one environment, as functions that wrap one."""
    if isinstance(layer, DiscretizeVectorAction):
        return [lambda env: DiscretizeAction(env, layer.bins)]
    if type(layer) is gym.wrappers.vector.NormalizeObservation:
        epsilon = layer.epsilon
        return [lambda env: _taught(gym.wrappers.NormalizeObservation(env, epsilon), layer)]
    if type(layer) is gym.wrappers.vector.NormalizeReward:
        gamma, epsilon = layer.gamma, layer.epsilon
        return [lambda env: _taught(gym.wrappers.NormalizeReward(env, gamma, epsilon), layer)]
    inner = getattr(layer, "wrapper", None)
    if _is_gymnasiums(layer) and isinstance(inner, gym.Wrapper):  # one for each row of the batch
        return [lambda env: _copied_around(inner, env)]
    if _is_gymnasiums(layer) and (
        isinstance(layer, FOR_BATCHES) or type(layer).__name__ in CONVERSIONS
    ):
        return []
    name = type(layer).__name__
    raise ValueError(
        f"env is {layer}: {name} changes a whole batch, which one environment has not. Wrap each "
        f"one, before they are a vector:\n"
        f"    gymnasium.vector.SyncVectorEnv([make] * 16)  # make() returns one, wrapped\n"
        f'    gymnasium.make_vec("CartPole-v1", 16, vectorization_mode="sync", wrappers=[Wrapper])'
    )


def _is_gymnasiums(layer: Any) -> bool:
    return type(layer).__module__.split(".")[0] in ("gymnasium", "metis_nb")


def _layers(env: gym.Env) -> Iterator[gym.Env]:
    """From the outermost wrapper to the environment itself."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
    yield env


def _taught(env: gym.Env, learned: Any) -> gym.Env:
    """A wrapper with the statistics of another, which it keeps."""
    for name, value in vars(learned).items():
        if isinstance(value, RunningMeanStd):
            setattr(env, name, copy.deepcopy(value))
    return _frozen(env)


def _frozen(env: gym.Env) -> gym.Env:
    for layer in _layers(env):
        if hasattr(type(layer), "update_running_mean") or "update_running_mean" in vars(layer):
            layer.update_running_mean = False  # type: ignore[attr-defined]
    return env


def _taught_all(env: gym.Env, learned: gym.Env) -> gym.Env:
    """An environment, each of whose wrappers has the statistics of the one like it in another."""
    teachers = list(_layers(learned))
    for layer in _layers(env):
        for index, teacher in enumerate(teachers):
            if type(teacher) is type(layer):
                _taught(layer, teacher)
                del teachers[: index + 1]
                break
    return env


def _copied_around(wrapper: gym.Wrapper, env: gym.Env) -> gym.Env:
    """A copy of a wrapper, with all that it has learned, around another environment."""
    # Where both are one, it is the whole that counts.
    instead = {id(wrapper.unwrapped): env.unwrapped} | {id(wrapper.env): env}
    made = copy.deepcopy(wrapper, instead)
    made._cached_spec = None
    return _frozen(made)


# --- environments ---------------------------------------------------------------------------------


def _again(
    env: gym.Env, render_mode: str | None, base: Callable[[], gym.Env] | None = None
) -> gym.Env:
    """One like `env`. `base` makes the environment within, where it has no id."""
    spec = env.unwrapped.spec
    if spec is None and base is None:
        return _frozen(copy.deepcopy(env))
    if not isinstance(env, gym.Wrapper):
        made = _make(spec, render_mode) if spec is not None else base and base()
        assert made is not None
        return made.unwrapped
    gymnasiums = all(_is_gymnasiums(layer) for layer in [*_layers(env)][:-1])
    if spec is not None and gymnasiums and (whole := env.spec) is not None:
        return _taught_all(_make(whole, render_mode), env)
    if spec is not None:
        # What is behind the id may have put the wrapper there: then it does so again.
        made = _make(spec, render_mode)
        if [*map(type, _layers(made))] == [*map(type, _layers(env))]:
            return _taught_all(made, env)
        made.close()
    inner = _again(env.env, render_mode, base)
    if not _is_gymnasiums(env):
        return _copied_around(env, inner)
    if type(env).__name__ in FILM_WRAPPERS:
        return inner
    arguments: dict[str, Any] = getattr(env, "_saved_kwargs", {})
    return _taught(type(env)(inner, **arguments), env)


def _one_of(vector: gym.vector.VectorEnv, render_mode: str | None) -> gym.Env:
    """One environment of a vector without wrappers."""
    makers = getattr(vector, "env_fns", None)
    if not isinstance(makers, list | tuple):  # older versions of Gymnasium keep what is used up
        makers = None
    living = getattr(vector, "envs", None)
    if living:
        try:
            return _again(living[0], render_mode, makers[0] if makers else None)
        except Exception:
            if not makers:
                raise
            return _taught_all(makers[0](), living[0])
    if vector.spec is not None:
        made = _make(vector.spec, render_mode)
    elif makers:
        made = makers[0]()
    else:
        raise ValueError("it has no spec, so it was not made from a registered id")
    for layer in _layers(made):  # in processes of their own; these tell what they have learned
        for name, value in vars(layer).items():
            if isinstance(value, RunningMeanStd):
                setattr(layer, name, copy.deepcopy(vector.get_attr(name)[0]))  # type: ignore[attr-defined]
                _frozen(layer)
    return made


def _make(spec: EnvSpec, render_mode: str | None) -> gym.Env:
    spec = copy.copy(spec)
    kwargs = {name: value for name, value in spec.kwargs.items() if name not in VECTOR_ARGUMENTS}
    wrappers = kwargs.pop("wrappers", None) or ()
    spec.max_episode_steps = kwargs.pop("max_episode_steps", spec.max_episode_steps)
    spec.kwargs = {}
    for name, value in kwargs.items():
        with contextlib.suppress(Exception):  # a lock, a socket: what has no copy is shared
            kwargs[name] = copy.deepcopy(value)
    # An environment of your own need not know the argument.
    kwargs.pop("render_mode", None)
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    spec.additional_wrappers = tuple(
        wrapper for wrapper in spec.additional_wrappers if wrapper.name not in FILM_WRAPPERS
    )
    made = gym.make(spec, **kwargs)
    return functools.reduce(lambda inner, wrapper: wrapper(inner), wrappers, made)
