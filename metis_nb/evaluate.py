"""`evaluate(env, actor)`: how good is a policy? Whole episodes in Gymnasium's own environment."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from metis_nb import agents, envs
from metis_nb.envs.intake import taken
from metis_nb.envs.spaces import ActionUnits, single_spaces


def evaluate(
    env: gym.Env | gym.vector.VectorEnv | str,
    actor: nn.Module,
    *,
    episodes: int = 100,
    seed: int = 0,
    deterministic: bool = True,
) -> np.ndarray:
    """The returns of whole episodes, not discounted: (episodes,) float64.

    Runs in fresh copies of the environment, one for each episode, all at once: so long and short
    episodes count alike, and the environment and the networks' own randomness are left alone.

    Args:
        env: an environment, a vector of them, or a registered id.
        actor: any network with `act(obs)`; wrapped in `DataParallel` or not.
        episodes: how many.
        seed: of the episodes' first states. Episode i is the same for every actor, and none is
            one that a trainer meets.
        deterministic: the most probable action (or the mean, or the one of the highest value);
            False samples from the policy, for a network that has one.

    Raises:
        TypeError, ValueError: an argument that is not accepted.
    """
    if not isinstance(episodes, int) or episodes < 1:
        raise ValueError(f"episodes={episodes!r}; expected a whole number above 0, such as 100.")
    if not hasattr(agents.unwrap(actor), "act"):
        raise TypeError(
            f"actor is a {type(actor).__name__} without an act(obs) method; expected a network "
            f"such as agents.actor(env)."
        )
    network, device = agents.unwrap(actor), agents.device_of(actor)
    if not deterministic and not hasattr(network, "distribution"):
        raise TypeError(
            f"deterministic=False samples from a policy, and actor, a {type(network).__name__}, "
            f"has none; expected an actor with a distribution(parameters) method, such as "
            f"agents.actor(env), or deterministic=True."
        )
    modes = [(module, module.training) for module in network.modules()]
    network.eval()  # no dropout; as it was, afterwards
    generator = torch.Generator(device).manual_seed(seed)
    games = [envs.make_single(env) for _ in range(episodes)]
    obs_space, action_space = single_spaces(games[0])
    units = ActionUnits(action_space).to(device)
    first = envs.first_seed(seed, evaluation=True)  # none that a trainer uses
    obs = [game.reset(seed=first + index)[0] for index, game in enumerate(games)]
    returns = np.zeros(episodes)
    running = list(range(episodes))
    while running:
        each = (obs[index] for index in running)
        batch = np.stack([taken("observation", x, obs_space.shape, np.float32) for x in each])
        with torch.inference_mode():
            seen = torch.from_numpy(batch).to(device)
            if deterministic:
                action = network.act(seen)
            else:
                action = units.to_env(agents.policy(actor, seen).sample(generator=generator))
        for index, choice in zip(list(running), units.to_numpy(action), strict=True):
            obs[index], reward, terminated, truncated, _ = games[index].step(choice)
            returns[index] += taken("reward", reward, (), np.float64)
            flags = ("terminated", terminated), ("truncated", truncated)
            if any(taken(*flag, (), np.bool_) for flag in flags):
                running.remove(index)
                games[index].close()
    for module, mode in modes:
        module.training = mode
    return returns
