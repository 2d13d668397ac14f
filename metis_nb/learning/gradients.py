"""Gradient steps, as all trainers with a memory take them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Adam, Optimizer

from metis_nb.learning.checks import check_finite
from metis_nb.learning.run import Run, State


def adam(*networks: nn.Module) -> Adam:
    """One Adam for the parameters of all these networks; see `set_learning_rate`."""
    parameters = [parameter for network in networks for parameter in network.parameters()]
    return Adam(parameters, eps=1e-5, fused=True)  # fused: all parameters in one go


def set_learning_rate(state: State, learning_rate: float) -> None:
    """Give all optimizers among `state` this learning rate, which may have changed."""
    for part in state.values():
        if isinstance(part, Optimizer):
            for group in part.param_groups:
                group["lr"] = learning_rate


def gradient_step(run: Run, name: str, loss: Tensor, max_grad_norm: float) -> None:
    """One step of an optimizer down the loss; no other parameters get gradients.

    Args:
        run: of the trainer; its state has the optimizer by this name.
        loss: a scalar.
        max_grad_norm: clip the gradient norm to this.

    Raises:
        FloatingPointError: a loss or gradient that is not finite, before it reaches a network.
    """
    optimizer = run.state[name]
    parameters = optimizer.param_groups[0]["params"]
    for parameter in parameters:
        parameter.grad = None  # what `zero_grad` does, without its hooks
    loss.backward(inputs=parameters)
    norm = total_norm(parameters)
    value, size = torch.stack([loss.detach(), norm]).tolist()  # one look: on a GPU each waits
    if not (math.isfinite(value) and math.isfinite(size)):
        whose = name.removesuffix("adam")
        check_finite(run.steps, **{f"{whose}loss": loss, f"{whose}gradient_norm": norm})
    if size > max_grad_norm - 1e-5:  # rare; the margin is that of `clip_grad_norm_`
        clip_grad_norm_(parameters, max_grad_norm)
    optimizer.step()


def total_norm(parameters: Sequence[Tensor]) -> Tensor:
    """The norm of all their gradients, put one after another. A scalar"""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
