"""What the networks are made of: layers, and running statistics of what they have seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class RunningStatistics(nn.Module):
    """Mean and standard deviation of all that was seen so far, each kept as a buffer.

    Merges batches exactly (Chan, Golub and LeVeque 1983), so the order of the batches is of no
    consequence. Before the first `update` it changes nothing: mean 0, standard deviation 1.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        self.register_buffer("mean", torch.zeros(tuple(shape)))
        self.register_buffer("variance", torch.ones(tuple(shape)))
        self.register_buffer("count", torch.tensor(0, dtype=torch.int64))
        self._derived: dict[str, tuple[Tensor, Tensor, tuple[int, int], Tensor]] = {}

    @torch.no_grad()
    def update(self, batch: Tensor) -> None:
        """Take in a batch (B, *shape)."""
        new, total = len(batch), self.count + len(batch)
        variance, mean = torch.var_mean(batch, dim=0, correction=0)
        weight, shift = new / total, mean - self.mean
        # In place: a compiled or parallel module keeps hold of its buffers.
        self.variance.mul_(1 - weight).add_(weight * variance)
        self.variance.add_(weight * (1 - weight) * shift.square())
        self.mean.add_(weight * shift)
        self.count.copy_(total)

    @property
    def std(self) -> Tensor:
        """Standard deviation, at least 1e-4. (*shape)"""
        return self.derived("std", lambda mean, variance: variance.sqrt().clamp(min=1e-4))

    def derived(self, name: str, compute: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """What follows from mean and variance. It is asked for in every forward pass, and changes
        only with them: kept until they are other tensors, or have been written to."""
        mean, variance = self._buffers["mean"], self._buffers["variance"]
        assert mean is not None
        assert variance is not None
        if mean.is_inference() or torch.is_inference_mode_enabled():  # these count no changes
            return compute(mean, variance)
        now = (mean._version, variance._version)
        known = self._derived.get(name)
        if known and known[0] is mean and known[1] is variance and known[2] == now:
            return known[3]
        value = compute(mean, variance)
        self._derived[name] = (mean, variance, now, value)
        return value

    def normalize(self, batch: Tensor) -> Tensor:
        """To mean 0 and standard deviation 1, clipped to [-10, 10]."""
        return ((batch - self.mean) / self.std).clamp(-10, 10)

    def denormalize(self, batch: Tensor) -> Tensor:
        """From mean 0 and standard deviation 1 back to the original units."""
        return batch * self.std + self.mean


def mlp(
    obs_shape: Sequence[int], hidden_sizes: Sequence[int], activation: type[nn.Module]
) -> nn.Sequential:
    """obs (B, *obs_shape) -> features (B, hidden_sizes[-1]): linear layers with an activation."""
    sizes = [int(torch.Size(obs_shape).numel()), *hidden_sizes]
    layers: list[nn.Module] = [nn.Flatten()] if len(obs_shape) != 1 else []
    for inputs, outputs in pairwise(sizes):
        layers += [linear(inputs, outputs, gain=2**0.5), activation()]
    return nn.Sequential(*layers)


def linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """A linear layer with orthogonal weights of the given gain and zero biases."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def feature_size(body: nn.Module, obs_shape: Sequence[int]) -> int:
    """F, for a body that maps (B, *obs_shape) to (B, F).

    Raises:
        ValueError: it maps them to something else.
    """
    if not isinstance(body, nn.Module):
        raise TypeError(f"body={body!r}; expected a torch.nn.Module, made (not a class).")
    parameter, training = next(body.parameters(), torch.zeros(())), body.training
    expected = f"expected (B, F) float32 for observations {('B', *obs_shape)} float32"
    body.eval()  # so that trying it out leaves no trace in a batch norm
    try:
        with torch.no_grad():
            features = body(torch.zeros(2, *obs_shape, device=parameter.device))
    except Exception as error:
        raise ValueError(f"body does not run: {expected}. It says: {error}") from error
    finally:
        body.train(training)
    if not isinstance(features, Tensor):
        raise ValueError(f"body gives a {type(features).__name__}; {expected}.")
    if features.ndim != 2 or len(features) != 2 or features.dtype != torch.float32:
        shape = ("B", *features.shape[1:])
        raise ValueError(
            f"body gives {shape} {features.dtype}; {expected}. End it with torch.nn.Flatten()."
        )
    return features.shape[1]
