"""Actors and critics, made to measure for an environment or read from a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from gymnasium.spaces import Discrete
from torch import nn

from metis_nb import checkpoint
from metis_nb.agents.calls import unwrap
from metis_nb.agents.networks import (
    Actor,
    CategoricalActor,
    Critic,
    DeterministicActor,
    GaussianActor,
    Network,
    QCritic,
    QNetwork,
    SquashedGaussianActor,
)
from metis_nb.envs.spaces import Environment, SpacesOnly, check_bounded, single_spaces

# Where torch has activations, and what else is put between two layers. A file makes nothing else by
# its name: a Transformer has 44 million weights.
ACTIVATIONS = [f"torch.nn.modules.{name}" for name in ("activation", "dropout", "linear")]


def actor(
    env: Environment,
    *,
    hidden_sizes: Sequence[int] = (64, 64),
    activation: type[nn.Module] = nn.Tanh,
    body: nn.Module | None = None,
    squashed: bool = False,
    deterministic: bool = False,
) -> Actor | DeterministicActor:
    """A policy for `env`: pi(a | s), or a = mu(s).

    Args:
        env: gives the shapes: a `Box` observation, a `Discrete` or `Box` action.
        hidden_sizes: units of each hidden layer of the default multi-layer perceptron.
        activation: the class of the non-linearity after each hidden layer.
        body: your own network in place of the default one: normalised observations
            (B, *obs_shape) float32 in, features (B, F) out. The head is put on top.
        squashed: a Gaussian put through tanh, for `Box` actions with bounds (for SAC).
        deterministic: one action for each state, for `Box` actions with bounds (for DDPG, TD3).

    Raises:
        TypeError, ValueError: a space or an argument that is not accepted; the message names it.
    """
    if squashed and deterministic:
        raise ValueError("squashed=True and deterministic=True; expected one of them at most.")
    if squashed or deterministic:
        option = "squashed" if squashed else "deterministic"
        check_bounded(f"agents.actor(env, {option}=True)", env)
        bounded = SquashedGaussianActor if squashed else DeterministicActor
        return bounded(env, hidden_sizes, activation, body)
    _, action_space = single_spaces(env)
    kind = CategoricalActor if isinstance(action_space, Discrete) else GaussianActor
    return kind(env, hidden_sizes, activation, body)


def critic(
    env: Environment,
    *,
    hidden_sizes: Sequence[int] = (64, 64),
    activation: type[nn.Module] = nn.Tanh,
    body: nn.Module | None = None,
) -> Critic:
    """A state-value function V(s) for `env`; the arguments are those of `actor`."""
    return Critic(env, hidden_sizes, activation, body)


def q_critic(
    env: Environment,
    *,
    hidden_sizes: Sequence[int] = (64, 64),
    activation: type[nn.Module] = nn.Tanh,
    body: nn.Module | None = None,
) -> QCritic:
    """An action-value function Q(s, a) for `env`, for `Box` actions with bounds.

    Args:
        body: your own network: normalised observations, made flat, and policy actions beside them,
            (B, D + A) float32 in, features (B, F) out.
        The others are those of `actor`.

    Raises:
        TypeError, ValueError: a space or an argument that is not accepted; the message names it.
    """
    return QCritic(env, hidden_sizes, activation, body)


def q_network(
    env: Environment,
    *,
    hidden_sizes: Sequence[int] = (64, 64),
    activation: type[nn.Module] = nn.Tanh,
    body: nn.Module | None = None,
    dueling: bool = False,
) -> QNetwork:
    """Action values Q(s, .) for `env`, one for each of its `Discrete` actions.

    Args:
        dueling: V(s) and advantages from separate heads (Wang et al. 2016).
        The others are those of `actor`.

    Raises:
        TypeError, ValueError: a space or an argument that is not accepted; the message names it.
    """
    return QNetwork(env, hidden_sizes, activation, body, dueling=dueling)


def load(path: str | Path, name: str = "actor") -> Any:
    """One network out of a file that a trainer saved, for use where there is no environment.

        actor = agents.load("ppo.safetensors")
        action = actor.act(obs[None])[0]  # one observation, a NumPy array

    Raises:
        FileNotFoundError, ValueError: no such file, no such network in it, or one with code of
            your own (a body, another layer, a subclass): make that again and load the trainer.
    """
    state = checkpoint.read(path)
    with checkpoint.blamed(path):
        configs, trainer = state["recipes"], state["trainer"]
        if name in configs and configs[name] is None:
            argument = "critics" if name.startswith("critic_") else name
            raise ValueError(
                f"name={name!r}: path={str(path)!r} holds a network with code of your own, which a "
                f"file cannot make (a body, a subclass, a layer changed after it was made). Make "
                f"it again and load the trainer with it: {trainer}.load(path, env, {argument}=...)."
            )
        if name not in configs:
            known = [name for name, config in configs.items() if config is not None]
            raise ValueError(
                f"name={name!r}; path={str(path)!r} holds {known} that can be made from it."
            )
        weights = state["networks"][name]
        network = make(configs[name], SpacesOnly(state["spaces"]), weights)
        network.load_state_dict(weights)
        return network.eval()


def make(
    config: dict[str, Any], env: Environment, weights: dict[str, torch.Tensor] | None = None
) -> nn.Module:
    """The network that a `config` describes, untrained; `weights` are those that it is to get.

    Raises:
        ValueError: it describes no network that `config_of` would, or one too large for `weights`.
    """
    functions: dict[str, Callable[..., nn.Module]] = {
        "actor": actor,
        "critic": critic,
        "q_critic": q_critic,
        "q_network": q_network,
    }
    settings = {name: value for name, value in config.items() if name != "function"}
    activation = vars(nn).get(config["activation"])
    if getattr(activation, "__module__", "") not in ACTIVATIONS:
        raise ValueError(f"activation={config['activation']!r}; expected an activation of torch.nn")
    if weights is not None:  # before they are made: they may be more than there is memory for
        room = sum(tensor.numel() for tensor in weights.values())
        choices = int(getattr(single_spaces(env)[1], "n", 1))
        outputs = choices if config["function"] in ("actor", "q_network") else 1
        sizes = [*config["hidden_sizes"], outputs]
        if any(one * two > room for one, two in pairwise([1, *sizes])):
            raise ValueError(f"layers of {sizes} units; the file has {room} numbers for them.")
    return functions[config["function"]](env, **{**settings, "activation": activation})


def config_of(network: nn.Module) -> dict[str, Any] | None:
    """How to make this network again, as plain data; None if it holds code of your own.

    Its `config` says how it was made. Whatever was changed since would be lost: a layer swapped, a
    head replaced, a hook added, a part frozen. So one is made by that config and held beside it;
    where they differ in anything but the numbers that a file keeps, None is the answer.
    """
    network = unwrap(network)
    if not isinstance(network, Network) or network.config is None:
        return None
    env: gym.Env = gym.Env()
    env.observation_space, env.action_space = network.obs_space, network.action_space
    with torch.random.fork_rng(devices=[]):  # saving changes no random number
        plain = make(network.config, env)
    same = _alike(plain, network) and _ties(plain) == _ties(network)
    return network.config if same else None


# What every module has and a policy does not depend on.
PASSING = {"training", "_known", "_compiled_call_impl", "_parameters", "_buffers", "_modules"}


def _alike(plain: Any, other: Any) -> bool:
    """Whether two modules are made alike, down to their last part: all but weights and counts."""
    if type(plain) is not type(other):
        return False
    if plain is None:
        return True
    mine, its = (
        {name: value for name, value in vars(each).items() if name not in PASSING}
        for each in (plain, other)
    )
    # Hooks are among these, and a function put in place of a method.
    if mine.keys() != its.keys() or not all(mine[name] == its[name] for name in mine):
        return False
    for kind in ("_parameters", "_buffers"):
        first, second = getattr(plain, kind), getattr(other, kind)
        if first.keys() != second.keys() or not all(
            _same_tensor(first[name], second[name]) for name in first
        ):
            return False
    # The file does not keep these; those with an underscore follow from what it keeps.
    fixed = [name for name in plain._non_persistent_buffers_set if not name.startswith("_")]
    if not all(torch.equal(plain._buffers[n], other._buffers[n].cpu()) for n in fixed):
        return False
    parts, others = plain._modules, other._modules
    return [*parts] == [*others] and all(_alike(parts[name], others[name]) for name in parts)


def _same_tensor(plain: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if plain is None or other is None:
        return plain is other
    hooks = other._backward_hooks
    shape = plain.shape == other.shape and plain.dtype == other.dtype
    return (
        type(plain) is type(other)
        and shape
        and not hooks
        and (plain.requires_grad == other.requires_grad)
    )


def _ties(network: nn.Module) -> list[int]:
    """Which parameters are one and the same: for each, the place where it stands first."""
    places: dict[int, int] = {}
    named = network.named_parameters(remove_duplicate=False)
    return [places.setdefault(id(p), len(places)) for _, p in named]
