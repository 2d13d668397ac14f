"""What the networks are made of: layers, and running statistics of what they have seen."""

from __future__ import annotations

from collections.abc import Sequence
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
        for name in ("_std", "_size"):  # see `_derived`; not saved, since they can be had again
            self.register_buffer(name, torch.ones(tuple(shape)), persistent=False)
        self._known: tuple[Tensor, Tensor, int, int] | None = None

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

    @torch.no_grad()
    def begin(self, batch: Tensor) -> None:
        """Before the first `update`: take on mean and standard deviation of a batch (B, *shape),
        without counting it. After it: change nothing."""
        if not self.count:
            self.update(batch)
            self.count.zero_()

    @property
    def std(self) -> Tensor:
        """Standard deviation, above 0; see `spread_of`. (*shape)"""
        return self._derived()[0]

    @property
    def usual_size(self) -> Tensor:
        """The root of the mean square: how large values are, whatever their sign. 1 where all of
        them were 0."""
        return self._derived()[1]

    def _derived(self) -> tuple[Tensor, Tensor]:
        """What follows from mean and variance. Every forward pass asks for it, and it changes only
        with them, so it is kept until they are other tensors or have been written to. It is kept
        in buffers, so that whoever copies all buffers, even past their versions, copies it too."""
        buffers = self._buffers
        mean, variance = buffers["mean"], buffers["variance"]
        assert mean is not None
        assert variance is not None
        untold = mean.is_inference() or variance.is_inference()  # such tensors count no changes
        if not untold and self._known is not None:
            known_mean, known_variance, *versions = self._known
            if known_mean is mean and known_variance is variance:
                if versions == [mean._version, variance._version]:
                    return buffers["_std"], buffers["_size"]  # type: ignore[return-value]
        std = spread_of(mean, variance)
        size = (mean.square() + variance).sqrt()
        size = torch.where(size > 0, size, 1.0)
        if not untold and not torch.is_inference_mode_enabled():
            buffers["_std"], buffers["_size"] = std, size
            self._known = (mean, variance, mean._version, variance._version)
        return std, size

    def normalize(self, batch: Tensor) -> Tensor:
        """To mean 0 and standard deviation 1, clipped to [-10, 10]."""
        return ((batch - self.mean) / self.std).clamp(-10, 10)

    def denormalize(self, batch: Tensor) -> Tensor:
        """From mean 0 and standard deviation 1 back to the original units."""
        return batch * self.std + self.mean


def spread_of(mean: Tensor, variance: Tensor) -> Tensor:
    """The standard deviation, to divide by: at least 1e-5 of the mean, since float32 tells numbers
    apart that differ by 1e-7 of their size and all below is rounding; 1 where both are 0.

    What is divided by it keeps its meaning whatever the unit is: no number here has one.
    """
    std = torch.maximum(variance.sqrt(), 1e-5 * mean.abs())
    return torch.where(std > 0, std, 1.0)


def mlp(
    obs_shape: Sequence[int], hidden_sizes: Sequence[int], activation: type[nn.Module]
) -> nn.Sequential:
    """obs (B, *obs_shape) -> features (B, hidden_sizes[-1]): linear layers with an activation."""
    sizes = [int(torch.Size(obs_shape).numel()), *hidden_sizes]
    layers: list[nn.Module] = [nn.Flatten()] if len(obs_shape) != 1 else []
    for inputs, outputs in pairwise(sizes):
        # Small biases: an observation of zeros has features, else a last layer that begins at 0
        # would never learn from it.
        layers += [linear(inputs, outputs, gain=2**0.5, bias=0.05), activation()]
    return nn.Sequential(*layers)


def linear(inputs: int, outputs: int, gain: float, bias: float = 0.0) -> nn.Linear:
    """A linear layer with orthogonal weights of the given gain, and biases up to `bias`."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.uniform_(layer.bias, -bias, bias)
    return layer


def feature_size(body: nn.Module, obs_shape: Sequence[int]) -> int:
    """F, for a body that maps (B, *obs_shape) to (B, F).

    Raises:
        ValueError: it maps them to something else.
    """
    if not isinstance(body, nn.Module):
        raise TypeError(f"body={body!r}; expected a torch.nn.Module, made (not a class).")
    parameter = next(body.parameters(), torch.zeros(()))
    modes = [(part, part.training) for part in body.modules()]
    expected = f"expected (B, F) float32 for observations {('B', *obs_shape)} float32"
    body.eval()  # so that trying it out leaves no trace in a batch norm
    try:
        with torch.no_grad():
            features = body(torch.zeros(2, *obs_shape, device=parameter.device))
        mixed = _mixing(body, obs_shape, parameter.device)
    except Exception as error:
        raise ValueError(f"body does not run: {expected}. It says: {error}") from error
    finally:
        for part, mode in modes:
            part.training = mode
    if not isinstance(features, Tensor):
        raise ValueError(f"body gives a {type(features).__name__}; {expected}.")
    if features.ndim != 2 or len(features) != 2 or features.dtype != torch.float32:
        shape = ("B", *features.shape[1:])
        raise ValueError(
            f"body gives {shape} {features.dtype}; {expected}. End it with torch.nn.Flatten()."
        )
    if mixed > 1e-3:
        raise ValueError(
            f"body mixes the rows of a batch: the features of an observation alone differ by "
            f"{mixed:.2g} from those beside others. Rows are other environments or other times, "
            f"so each has to be on its own; nn.LSTM, for one, takes them for a sequence. "
            f"A policy that remembers sees several observations at once: "
            f"gymnasium.wrappers.FrameStackObservation(env, 4). See docs/networks.md."
        )
    return features.shape[1]


@torch.no_grad()
def _mixing(body: nn.Module, obs_shape: Sequence[int], device: torch.device) -> float:
    """How far the features of a row alone are from its features in a batch, in parts of their
    size; 0 where that cannot be told."""
    rows = torch.randn(5, *obs_shape, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        with torch.random.fork_rng(devices=[]):
            together, alone, again = body(rows)[2:3], body(rows[2:3]), body(rows[2:3])
        size, noise = 1 + float(alone.abs().max()), float((alone - again).abs().max())
        mixed = float((together - alone).abs().max()) / size
    except Exception:  # numbers that such a body does not take; zeros it did
        return 0.0
    return 0.0 if noise > 0 else mixed
