"""What a network of one's own has to be, beside an `nn.Module`; docs/networks.md says it."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from metis_nb.agents.calls import in_eval_mode
from metis_nb.envs.spaces import Environment, single_spaces


class Policy(Protocol):
    """pi(. | s) for a batch, over policy actions: indices (B,) int64, or (B, A) float32 in which
    [-1, 1] spans the bounds. `agents.Categorical` and `agents.Gaussian` are such."""

    def sample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """One action for each row, without gradients, drawn with this generator alone."""

    def log_prob(self, action: Tensor) -> Tensor:
        """Of one action for each row: (B,)."""

    def entropy(self) -> Tensor:
        """Of each row: (B,)."""


class ActorContract(Protocol):
    """An actor for VPG, A2C and PPO."""

    def forward(self, obs: Tensor) -> Any:
        """obs (B, *obs_shape) float32, as the environment gives it -> the policy's parameters."""

    def distribution(self, parameters: Any) -> Policy:
        """The policy with these parameters."""

    def act(self, obs: Any) -> Any:
        """obs (B, *obs_shape), array or tensor -> the best environment actions, the same kind. For
        `evaluate` and `play`; training does without."""


class CriticContract(Protocol):
    """A critic V(s)."""

    def forward(self, obs: Tensor) -> Tensor:
        """obs (B, *obs_shape) float32 -> values (B,), in units of reward."""


class QCriticContract(Protocol):
    """A critic Q(s, a)."""

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """obs (B, *obs_shape) and policy actions (B, A), float32 -> values (B,)."""


def faults_of_actor(actor: nn.Module, env: Environment) -> list[str]:
    """What an actor of one's own lacks for VPG, A2C and PPO, all of it; empty where all is well."""
    faults = []
    if not hasattr(actor, "distribution"):
        faults.append(
            "it has no distribution(parameters), which makes of what forward gives the policy: "
            "agents.Categorical(logits) for Discrete actions, agents.Gaussian(mean, std) for Box"
        )
    obs_space, action_space = single_spaces(env)
    device = next(actor.parameters(), torch.zeros(())).device
    obs = torch.zeros(2, *obs_space.shape, device=device)
    rows = f"for observations {tuple(obs.shape)} float32"
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            parameters = in_eval_mode(actor, obs)
            if not faults:
                pi: Any = actor.distribution(parameters)  # type: ignore[operator]
                faults += _faults_of_policy(pi, 2, action_space.shape or (), rows)
    except Exception as error:
        faults.append(f"it does not run {rows}: {type(error).__name__}: {error}")
    if faults and not hasattr(actor, "act"):
        faults.append("it has no act(obs), which evaluate and play will ask for")
    return faults


def _faults_of_policy(pi: Any, rows: int, shape: tuple[int, ...], given: str) -> list[str]:
    name = type(pi).__name__
    missing = [each for each in ("sample", "log_prob", "entropy") if not hasattr(pi, each)]
    if missing:
        return [f"its distribution gives a {name} without {' and '.join(missing)}"]
    if "generator" not in inspect.signature(pi.sample).parameters:
        return [
            f"its distribution gives a {type(pi).__module__}.{name}, whose sample takes no "
            f"generator; agents.Categorical and agents.Gaussian do"
        ]
    action = pi.sample(generator=None)
    if action.shape != (rows, *shape):
        return [f"its actions are {tuple(action.shape)} {given}; expected {(rows, *shape)}"]
    numbers = {"log_prob": pi.log_prob(action), "entropy": pi.entropy()}
    return [
        f"its {each} is {tuple(value.shape)} {given}; expected ({rows},)"
        for each, value in numbers.items()
        if value.shape != (rows,)
    ]
