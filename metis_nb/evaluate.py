"""`evaluate(env, actor)`: how good is a policy? Whole episodes in Gymnasium's own environment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from numbers import Integral
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from metis_nb import agents, envs
from metis_nb.envs.intake import taken
from metis_nb.envs.single import env_action
from metis_nb.envs.spaces import ActionUnits, name_of, single_spaces, wrapping

AT_ONCE = 16  # environments; more would take memory, and hardly less time


def evaluate(
    env: gym.Env | gym.vector.VectorEnv | str,
    actor: nn.Module | Callable[[Any], Any],
    *,
    episodes: int = 100,
    seed: int = 0,
    deterministic: bool = True,
    max_steps: int = 100_000,
) -> np.ndarray:
    """The returns of whole episodes, not discounted: (episodes,) float64.

    Runs in fresh copies of the environment, a few at once, each of which plays one episode after
    another; so long and short episodes count alike, and the environment and the networks' own
    randomness are left alone. Statistics that wrappers have learned (Gymnasium's
    NormalizeObservation) are carried over and do not change; see `envs.make_single`.

    Args:
        env: an environment, a vector of them, or a registered id.
        actor: any network with `act(obs)`, wrapped in `DataParallel` or not; or a function from
            one observation (as the environment gives it) to an action.
        episodes: how many.
        seed: of the episodes' first states. Episode i is the same for every actor, and none is
            one that a trainer meets.
        deterministic: the most probable action (or the mean, or the one of the highest value);
            False samples from the policy, for a network that has one: with one seed the same
            actions each time, whatever kind of `env` it is; episodes that are played at once draw
            in turn, so another number of `episodes` gives others. A plain function decides for
            itself.
        max_steps: of one episode, after which it is taken for one that never ends.

    Raises:
        TypeError, ValueError: an argument that is not accepted, or an episode without end.
    """
    for name, value, least in (("episodes", episodes, 1), ("max_steps", max_steps, 1)):
        if not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name}={value!r}; expected a whole number above 0, such as 100.")
    if not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"seed={seed!r}; expected a whole number, 0 or more.")
    episodes, seed = int(episodes), int(seed)
    first = envs.first_seed(seed, evaluation=True)  # none that a trainer uses
    with contextlib.ExitStack() as closing:
        choose_for = _chooser(actor, seed, deterministic, closing)
        games = []
        for _ in range(min(episodes, AT_ONCE)):
            games.append(envs.make_single(env))
            closing.callback(games[-1].close)
        choose = choose_for(games[0])
        returns, lengths = np.zeros(episodes), np.zeros(episodes, dtype=int)
        # Which environment plays which episode, and what it is to act on.
        running = list(enumerate(games))
        obs = [game.reset(seed=first + index)[0] for index, game in running]
        following = len(games)
        while running:
            actions = choose(obs)
            still, seen = [], []
            for (index, game), action in zip(running, actions, strict=True):
                then, reward, terminated, truncated, _ = game.step(action)
                returns[index] += taken("reward", reward, (), np.float64)
                lengths[index] += 1
                flags = ("terminated", terminated), ("truncated", truncated)
                if any(taken(*flag, (), np.bool_) for flag in flags):
                    if following == episodes:
                        continue
                    index, following = following, following + 1
                    then, _ = game.reset(seed=first + index)
                elif lengths[index] >= max_steps:
                    limit = "gymnasium.wrappers.TimeLimit(env, 1000)"
                    limited = limit if isinstance(env, str) else wrapping(env, limit)
                    raise ValueError(
                        f"env: an episode of {name_of(game)} has not ended after max_steps="
                        f"{max_steps:,} steps. Allow longer episodes, evaluate(..., max_steps="
                        f"1_000_000), or give them an end: {limited}"
                    )
                still.append((index, game))
                seen.append(then)
            running, obs = still, seen
    return returns


Choose = Callable[[list[Any]], Any]  # observations of several environments -> an action for each


def _chooser(
    actor: Any, seed: int, deterministic: bool, closing: contextlib.ExitStack
) -> Callable[[gym.Env], Choose]:
    """Checks the actor; then, for an environment, `choose(obs)` gives an action for each of obs.
    A network is in eval mode (no dropout) until `closing` ends, and then as it was."""
    network: Any = agents.unwrap(actor)
    if not isinstance(network, nn.Module) and callable(network) and not hasattr(network, "act"):
        return lambda game: lambda obs: [env_action(actor(o), game.action_space) for o in obs]
    if not hasattr(network, "act"):
        raise TypeError(
            f"actor is a {type(actor).__name__} without an act(obs) method; expected a network "
            f"such as agents.actor(env), or a function from one observation to an action."
        )
    if not deterministic and not hasattr(network, "distribution"):
        raise TypeError(
            f"deterministic=False samples from a policy, and actor, a {type(network).__name__}, "
            f"has none; expected an actor with a distribution(parameters) method, such as "
            f"agents.actor(env), or deterministic=True."
        )
    device = agents.device_of(actor)
    generator = torch.Generator(device).manual_seed(seed)
    for module in network.modules():
        closing.callback(setattr, module, "training", module.training)
    network.eval()

    def choose_for(game: gym.Env) -> Choose:
        obs_space, action_space = single_spaces(game)
        units = ActionUnits(action_space).to(device)

        def choose(obs: list[Any]) -> np.ndarray:
            each = (taken("observation", o, obs_space.shape, np.float32) for o in obs)
            seen = torch.from_numpy(np.stack([*each])).to(device)
            with torch.inference_mode():
                if deterministic:
                    action = network.act(seen)
                else:
                    action = units.to_env(agents.policy(actor, seen).sample(generator=generator))
            return units.to_numpy(action)

        return choose

    return choose_for
