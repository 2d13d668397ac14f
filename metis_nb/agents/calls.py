"""Calling a network: through whatever it is wrapped in, with the shape of its output checked.

Here are the few things that trainers do with a network beside a gradient step.

Dropout and BatchNorm answer in one way while they are trained and in another in eval mode, which is
what they are trained for. What acts, and what is said about actions (their probabilities, values to
bootstrap from), is asked in eval mode; values that a loss is made of, in the mode that the network
is in. A policy is always asked in eval mode: old and new probabilities are of the same policy.
"""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from metis_nb.agents.distributions import Categorical, Gaussian, SquashedGaussian


def policy(actor: nn.Module, obs: Tensor) -> Categorical | Gaussian | SquashedGaussian:
    """pi(. | obs) as a distribution over policy actions, one for each row of obs (B, *obs_shape).

    Looks through `DataParallel` and `DistributedDataParallel`, whose `forward` carries only
    tensors: the actor's `forward` gives the parameters, its `distribution` makes them one (with
    `sample(generator=)`, as `Categorical` and `Gaussian` here have it).

    Raises:
        TypeError: the network has no `distribution`, so it is no actor.
    """
    network = unwrap(actor)
    if not hasattr(network, "distribution"):
        raise TypeError(
            f"actor is a {type(network).__name__} without a distribution(parameters) method; "
            f"expected agents.actor(env). A network of your own goes in as agents.actor(env, "
            f"body=...)."
        )
    return network.distribution(in_eval_mode(actor, obs))


def value(critic: nn.Module, obs: Tensor) -> Tensor:
    """V(obs) of shape (B,), for obs (B, *obs_shape).

    Raises:
        ValueError: the critic gives another shape. Subtracted from targets (B,), values (B, 1)
            would silently become a table (B, B), and the critic would learn the mean.
    """
    values = ask(critic, obs)
    if values.shape != obs.shape[:1]:
        raise ValueError(
            f"critic gives values of shape {tuple(values.shape)} for {len(obs)} observations; "
            f"expected ({len(obs)},). End its forward with .squeeze(-1)."
        )
    return values


def action_value(critic: nn.Module, obs: Tensor, action: Tensor) -> Tensor:
    """Q(obs, action) of shape (B,), for obs (B, *obs_shape) and policy actions: (B, A) float32 for
    a critic Q(s, a), or indices (B,) int64 for a Q-network.

    Raises:
        ValueError: the critic gives another shape; see `value`.
    """
    if not action.is_floating_point():
        return q_values(critic, obs).gather(1, action[:, None]).squeeze(1)
    values = ask(critic, obs, action)
    if values.shape != obs.shape[:1]:
        raise ValueError(
            f"critic gives values of shape {tuple(values.shape)} for {len(obs)} observations; "
            f"expected ({len(obs)},). End its forward with .squeeze(-1)."
        )
    return values


def q_values(q_network: nn.Module, obs: Tensor) -> Tensor:
    """Q(obs, .) of shape (B, n), for obs (B, *obs_shape).

    Raises:
        ValueError: the network gives another shape.
    """
    values = ask(q_network, obs)
    if values.ndim != 2 or len(values) != len(obs):
        raise ValueError(
            f"q_network gives values of shape {tuple(values.shape)} for {len(obs)} observations; "
            f"expected ({len(obs)}, number of actions)."
        )
    return values


def ask(network: nn.Module, *inputs: Tensor) -> Any:
    """What a network gives: in eval mode where no gradient is wanted."""
    return network(*inputs) if torch.is_grad_enabled() else in_eval_mode(network, *inputs)


def in_eval_mode(network: nn.Module, *inputs: Tensor) -> Any:
    """What a network gives in eval mode. Most have nothing that knows of modes, and are simply
    called."""
    moody = _moody.get(network) if isinstance(network, nn.Module) else []
    if moody is None:
        moody = find_moody(network)
    if not moody:
        return network(*inputs)
    modes = [part.training for part in moody]
    try:
        for part in moody:
            part.training = False
        return network(*inputs)
    finally:
        for part, mode in zip(moody, modes):
            part.training = mode


# Of each network, the parts whose answer may depend on the mode. To look for them at each call
# would take time: `Run.bind` does, since a reader may have put in others.
_moody: WeakKeyDictionary[nn.Module, list[nn.Module]] = WeakKeyDictionary()
# Files of torch.nn in which no layer knows of modes, but for these two.
CALM = {"activation", "container", "conv", "flatten", "linear", "normalization", "padding"}
CALM_MODULES = {f"torch.nn.modules.{name}" for name in (*CALM, "pooling", "sparse")}
MOODY = (nn.RReLU, nn.MultiheadAttention)


def find_moody(network: nn.Module) -> list[nn.Module]:
    """The parts of a network whose answer may depend on train or eval mode."""
    if not isinstance(network, nn.Module):  # a function of the reader's
        return []

    def calm(part: nn.Module) -> bool:
        file = type(part).__module__
        known = file in CALM_MODULES or file.startswith("metis_nb.")
        wrapper = isinstance(part, WRAPPERS) or "_orig_mod" in part._modules
        return wrapper or (known and not isinstance(part, MOODY))

    _moody[network] = [part for part in network.modules() if not calm(part)]
    return _moody[network]


WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrap(network: Any) -> Any:
    """The network itself, inside `DataParallel`, `DistributedDataParallel`, `torch.compile`. What
    is no module is returned as it is."""
    if isinstance(network, WRAPPERS):
        return unwrap(network.module)
    # `torch.compile` keeps it as a module. (`getattr` with a default is slow on modules.)
    return network._modules.get("_orig_mod", network) if isinstance(network, nn.Module) else network


def update_statistics(
    network: nn.Module,
    obs: Tensor | None = None,
    returns: Tensor | None = None,
    rewards: Tensor | None = None,
) -> None:
    """Update the running statistics of a network with what it met: obs (B, *obs_shape), returns
    and rewards (B,).

    A network of your own without `obs_statistics`, `return_statistics` or `reward_statistics` is
    left as it is.
    """
    for name, batch in (("obs", obs), ("return", returns), ("reward", rewards)):
        statistics = getattr(unwrap(network), f"{name}_statistics", None)
        if statistics is not None and batch is not None:
            statistics.update(batch)


def begin_statistics(network: nn.Module, obs: Tensor) -> None:
    """A new network takes on the scale of the first obs (B, *obs_shape) before it learns from them;
    their `update_statistics` comes after.

    New is what has met nothing and says the same to every observation (its last layer is 0), so
    this does not change what it says: an actor stays the one that acted. Others are left alone.
    """
    inner = unwrap(network)
    statistics, head = (getattr(inner, name, None) for name in ("obs_statistics", "head"))
    if statistics is None or head is None or statistics.count:
        return
    if not any(bool(weights.any()) for weights in head.parameters()):
        statistics.begin(obs)


def return_scale(critic: nn.Module) -> Tensor | float:
    """The standard deviation of the returns that a critic met; 1 where it keeps no count."""
    statistics = getattr(unwrap(critic), "return_statistics", None)
    return 1.0 if statistics is None else statistics.std


def value_scale(q_network: nn.Module) -> Tensor | float:
    """The size of the values that a Q-network's layers predict as 1; 1 where it has none."""
    return getattr(unwrap(q_network), "scale", 1.0)


def frozen_copy(network: nn.Module) -> nn.Module:
    """A copy of a network that no gradient reaches, in eval mode: a target network."""
    return copy.deepcopy(unwrap(network)).requires_grad_(False).eval()


@torch.no_grad()
def polyak_update(target: nn.Module, network: nn.Module, tau: float) -> None:
    """Move a target network toward a network: theta' <- tau theta + (1 - tau) theta'.

    Running statistics (buffers) are copied. Polyak and Juditsky (1992), "Acceleration of Stochastic
    Approximation by Averaging"; Lillicrap et al. (2016), algorithm 1.
    """
    (old, kept), (new, seen) = tensors_of(target), tensors_of(unwrap(network))
    if len(old) != len(new) or len(kept) != len(seen):
        raise ValueError("target and network have different parameters or buffers; copy it anew.")
    if old:  # these functions want at least one tensor
        torch._foreach_lerp_(old, new, tau)
    if kept:
        torch._foreach_copy_(kept, seen)


def tensors_of(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """All parameters and all buffers, each once. `parameters()` and `buffers()` put every name
    together on the way, which is slow where it happens at each gradient step."""
    parameters: list[Tensor | None] = []
    buffers: list[Tensor | None] = []
    modules: list[nn.Module | None] = [network]
    for module in modules:  # which grows on the way
        if module is not None:
            parameters += module._parameters.values()
            buffers += module._buffers.values()
            modules += module._modules.values()
    found = ({id(t): t for t in each if t is not None} for each in (parameters, buffers))
    first, second = found
    return [*first.values()], [*second.values()]


def device_of(network: nn.Module) -> torch.device:
    """Where the network's parameters are."""
    return next(network.parameters()).device
