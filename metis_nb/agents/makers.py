"""Actors and critics, made to measure for an environment or read from a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gymnasium.spaces import Discrete
from torch import nn

from metis_nb import checkpoint
from metis_nb.agents.networks import (
    Actor,
    CategoricalActor,
    Critic,
    DeterministicActor,
    GaussianActor,
    QCritic,
    QNetwork,
    SquashedGaussianActor,
)
from metis_nb.envs.spaces import Environment, SpacesOnly, check_bounded, single_spaces


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
        FileNotFoundError, ValueError: no such file, no such network in it, or one with a body of
            your own: make that again and load the trainer.
    """
    state = checkpoint.read(path)
    if state["recipes"].get(name) is None:
        known = [name for name, config in state["recipes"].items() if config is not None]
        raise ValueError(f"name={name!r}; {str(path)!r} holds {known} that can be made from it.")
    network = make(state["recipes"][name], SpacesOnly(state["spaces"]))
    network.load_state_dict(state["networks"][name])
    return network.eval()


def make(config: dict[str, Any], env: Environment) -> nn.Module:
    """The network that a `config` describes, untrained."""
    functions: dict[str, Callable[..., nn.Module]] = {
        "actor": actor,
        "critic": critic,
        "q_critic": q_critic,
        "q_network": q_network,
    }
    settings = {name: value for name, value in config.items() if name != "function"}
    settings["activation"] = getattr(nn, config["activation"])
    return functions[config["function"]](env, **settings)
