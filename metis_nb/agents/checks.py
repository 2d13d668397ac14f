"""Does a network fit the environment, and the trainer? Errors that name the right one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

from torch import nn

from metis_nb.agents.calls import unwrap
from metis_nb.agents.contract import faults_of_actor
from metis_nb.agents.networks import (
    ActionValues,
    Actor,
    CategoricalActor,
    Critic,
    GaussianActor,
    Network,
)
from metis_nb.envs.spaces import Environment, name_of, single_spaces

Critics = Sequence[nn.Module]  # two of them
# What a reader's class may build on: it says for itself what it is.
UNFINISHED = (Network, Actor, ActionValues)
_told: WeakSet[nn.Module] = WeakSet()  # of those without `act`: each is spoken of once


def check_policy(actor: nn.Module, env: Environment) -> None:
    """Refuse an actor whose policy has no entropy or no probabilities (squashed, deterministic),
    or a network that is no actor: for trainers that learn from what their policy did.

    Raises:
        TypeError: naming it, and how to make the right one; of a network of one's own, all that
            it lacks.
    """
    _refuse_others("actor", actor, CategoricalActor, GaussianActor)
    inner = unwrap(actor)
    if isinstance(inner, Network):
        return
    if faults := faults_of_actor(inner, env):
        raise TypeError(
            f"actor is a {type(inner).__name__}, a network of your own: {'; '.join(faults)}. See "
            f"docs/networks.md. Layers alone go in as agents.actor(env, body=...)."
        )
    _speak_of_act("actor", inner)


def check_fits(name: str, network: nn.Module, env: Environment) -> None:
    """Refuse a network that was made for other spaces than those of `env`.

    Raises:
        ValueError: naming both. Networks of other classes are accepted unchecked.
    """
    inner, (obs_space, action_space) = unwrap(network), single_spaces(env)
    if not isinstance(inner, Network):
        return
    fits = inner.obs_space.shape == obs_space.shape
    if not isinstance(inner, Critic):
        fits = fits and inner.action_space == action_space
    if not fits:
        option = f", {inner.option}=True" if inner.option else ""
        raise ValueError(
            f"{name} was made for observations of shape {inner.obs_space.shape} and actions "
            f"{inner.action_space}; {name_of(env)} has {obs_space.shape} and {action_space}. "
            f"Make another: agents.{inner.made_by}(env{option})."
        )


def maker(kind: type[Network]) -> str:
    """The call that makes a network of this kind."""
    option = f", {kind.option}=True" if kind.option else ""
    return f"agents.{kind.made_by}(env{option})"


def check_kind(name: str, network: Any, *kinds: type[Network]) -> None:
    """Refuse what is no network, or is one of this package's of another kind than these.

    Raises:
        TypeError: naming it, and how to make the right one. Other classes are accepted unchecked,
            also those that fill in a class of this package that is not yet any kind (`Actor`).

    Warns:
        UserWarning: one that is to act has no `act`, without which it trains, and no more.
    """
    _refuse_others(name, network, *kinds)
    if name in ("actor", "q_network"):
        _speak_of_act(name, unwrap(network))


def _speak_of_act(name: str, network: nn.Module) -> None:
    if not hasattr(network, "act") and network not in _told:
        _told.add(network)
        warnings.warn(
            f"{name} is a {type(network).__name__} without act(obs): it trains, but evaluate and "
            f"play will ask for its actions. See docs/networks.md.",
            stacklevel=5,  # who called `train`
        )


def _refuse_others(name: str, network: object, *kinds: type[Network]) -> None:
    inner = unwrap(network) if isinstance(network, nn.Module) else network
    expected = "torch.nn.Module"
    if isinstance(inner, nn.Module):
        own = next((c for c in type(inner).__mro__ if c.__module__ == Network.__module__), None)
        if own is None or own in UNFINISHED or issubclass(own, kinds):
            return
        expected = " or ".join(kind.__name__ for kind in kinds)
    raise TypeError(
        f"{name} is a {type(inner).__name__}; expected a {expected}, such as {maker(kinds[0])}."
    )


def two_critics(critics: Critics, kind: type[Network]) -> tuple[nn.Module, nn.Module]:
    """Both of `critics`, checked.

    Raises:
        TypeError, ValueError: there are not two, they share parameters, or one is of another kind.
    """
    both = f"{maker(kind)}, {maker(kind)}."
    if not isinstance(critics, Sequence | nn.ModuleList):
        raise TypeError(
            f"critics is a {type(critics).__name__}; expected two: {both} Both go in as one "
            f"argument, a tuple: train(actor, (first, second))."
        )
    if len(critics) != 2:
        raise ValueError(f"critics holds {len(critics)}; expected two: {both}")
    for index, critic in enumerate(critics):
        check_kind(f"critics[{index}]", critic, kind)
    first, second = critics
    if {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}:
        raise ValueError(f"critics share parameters; expected two of them: {both}")
    return first, second
