"""A trainer to and from one file, so that it goes on as if it had never stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from metis_nb import agents, checkpoint
from metis_nb.envs.spaces import Environment, SpacesOnly, describe, name_of, single_spaces
from metis_nb.learning.replay import ReplayBuffer
from metis_nb.learning.run import Run, Trainer, member

T = TypeVar("T", bound=Trainer)
# What has another name in files of version 0.1: hyperparameters, and parts of a trainer's state.
RENAMED_FIELDS = {"alpha": "initial_alpha", "weight": "action_weight"}
RENAMED_PARTS = {"following": "next_index", "over": "done"}


def save(trainer: Trainer, path: str | Path) -> None:
    """Write all that a trainer needs to go on as if it had never stopped."""
    run: Run = trainer.run
    networks = {name: agents.unwrap(network) for name, network in run.networks.items()}
    if not networks:
        raise RuntimeError("save() before there is anything to save: call train() first.")
    state = {
        "trainer": type(trainer).__name__,
        "environment": name_of(run.env),
        "spaces": describe(run.env),
        "hyperparameters": hyperparameters(trainer),
        "recipes": configs(networks),
        "networks": {name: dict(net.state_dict()) for name, net in networks.items()},
        "state": {name: part.state_dict() for name, part in run.state.items()},
        "run": run.state_dict(),
        "history": list(run.history),
        "episodes": run.history.episodes,
        "seconds": run.seconds,
    }
    checkpoint.write(path, state)


def configs(networks: dict[str, nn.Module]) -> dict[str, dict[str, Any] | None]:
    """How to make each network again; None for code of the reader's own, parts that two share
    among it: made from a file, each would have its own."""
    owners = Counter(id(p) for net in networks.values() for p in agents.tensors_of(net)[0])
    alone = {n: all(owners[id(p)] == 1 for p in net.parameters()) for n, net in networks.items()}
    return {n: agents.config_of(net) if alone[n] else None for n, net in networks.items()}


def load(
    kind: type[T],
    path: str | Path,
    env: Environment,
    replay: ReplayBuffer | None = None,
    **given: nn.Module | Sequence[nn.Module] | None,
) -> T:
    """A trainer of this kind, with its networks, as it was when `save` wrote it.

    Args:
        path: what `save` wrote.
        env: an environment made like the one before.
        replay: a memory for it to fill, where it had one of the reader's own.
        given: networks with code of the reader's own, by the names of `train`'s arguments.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it holds something else.
    """
    state = checkpoint.read(path)
    # Where nothing of the reader's own is in it, whatever goes wrong is the file's fault.
    own = {name: mine for name, mine in {"replay": replay, **given}.items() if mine is not None}
    with contextlib.nullcontext() if own else checkpoint.blamed(path):
        return _made_of(kind, path, state, env, own)


def _made_of(
    kind: type[T], path: str | Path, state: dict[str, Any], env: Environment, own: dict[str, Any]
) -> T:
    with checkpoint.blamed(path):
        if state["trainer"] != kind.__name__:
            raise ValueError(
                f"path={str(path)!r} holds a {state['trainer']} trainer; expected a "
                f"{kind.__name__}. Use {state['trainer']}.load."
            )
        saved = SpacesOnly(state["spaces"])
        if single_spaces(saved) != single_spaces(env):
            raise ValueError(
                f"path={str(path)!r} was trained on {state['environment']} with the spaces "
                f"{saved.observation_space} and {saved.action_space}; env={name_of(env)} has "
                f"others: {' and '.join(map(str, single_spaces(env)))}."
            )
        fields = {f.name for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
        settings = state["hyperparameters"]
        settings = {n if n in fields else RENAMED_FIELDS.get(n, n): v for n, v in settings.items()}
        if unknown := settings.keys() - (fields - {"env", "replay"}):
            raise ValueError(f"a {kind.__name__} has no {' and no '.join(sorted(unknown))}")
    memory = {"replay": own["replay"]} if "replay" in own else {}
    trainer = kind(env, **settings, **memory)  # type: ignore[call-arg]

    def network(name: str, argument: str, mine: nn.Module | None) -> nn.Module:
        if mine is not None:
            return mine
        if state["recipes"][name] is None:
            raise ValueError(
                f"path={str(path)!r} holds a network with code of your own (a body, a subclass, a "
                f"layer changed after it was made): make it again and pass it, "
                f"{kind.__name__}.load(path, env, {argument}=...)."
            )
        with checkpoint.blamed(path):
            return agents.make(state["recipes"][name], env, state["networks"][name])

    arguments: dict[str, Any] = {}
    for argument in inspect.signature(trainer.prepare).parameters:
        mine: Any = own.get(argument)
        if argument in state["recipes"]:
            arguments[argument] = network(argument, argument, mine)
        else:  # a sequence of networks, saved one by one
            names = list(members(argument, state["recipes"]))
            if mine is not None and len(mine) != len(names):
                raise ValueError(f"{argument} holds {len(mine)}; expected {len(names)}, as saved.")
            each = mine or [None] * len(names)
            arguments[argument] = [network(n, argument, net) for n, net in zip(names, each)]
    trainer.prepare(**arguments)
    run: Run = trainer.run
    for name, bound in run.networks.items():
        agents.unwrap(bound).load_state_dict(state["networks"][name])
    for name, part in run.state.items():
        part.load_state_dict(renamed(state["state"][name]))
    with checkpoint.blamed(path):
        run.history.extend(_row(row) for row in state["history"])
        run.history.episodes.extend((int(at), r + 0.0, int(n)) for at, r, n in state["episodes"])
        run.seconds = float(state["seconds"])
        run.load_state_dict(state["run"])
    return trainer


def _row(row: dict[str, float]) -> dict[str, float]:
    """One row of a history, checked."""
    if not all(isinstance(each, Real) for each in row.values()) or "steps" not in row:
        raise ValueError(f"a row of the history is {row!r:.100}")
    return row


def members(argument: str, saved: Iterable[str]) -> Iterator[str]:
    """The names of the networks of a sequence that a file holds, in order."""
    names = (member(argument, index) for index in itertools.count())
    return itertools.takewhile(lambda name: name in saved, names)


def renamed(part: Any) -> Any:
    """Nested data of an older file, with the keys of today."""
    if isinstance(part, dict):
        return {RENAMED_PARTS.get(name, name): renamed(value) for name, value in part.items()}
    return [renamed(each) for each in part] if isinstance(part, list) else part


def hyperparameters(trainer: Trainer) -> dict[str, Any]:
    """The fields of a trainer but its environment and memory, by name."""
    names = [f.name for f in dataclasses.fields(trainer) if f.init]  # type: ignore[arg-type]
    return {name: getattr(trainer, name) for name in names if name not in ("env", "replay")}
