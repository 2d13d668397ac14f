"""The distributions of actions that policies return, with the sampling that a trainer needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_TWO = math.log(2.0)
LOG_SQRT_TWO_PI = math.log(math.sqrt(2 * math.pi))


class Categorical(torch.distributions.Categorical):
    """As in torch; `sample` also takes a generator, so that a trainer can own its randomness."""

    def __init__(self, logits: Tensor):
        super().__init__(logits=logits, validate_args=False)

    def sample(self, sample_shape: Sequence[int] = (), generator: Any = None) -> Tensor:
        # The largest of logits + Gumbel noise is a sample; faster than `torch.multinomial`.
        shape = (*sample_shape, *self.logits.shape)
        noise = torch.empty(shape, device=self.logits.device).exponential_(generator=generator)
        return (self.logits - noise.log()).argmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of actions (B,): (B,). More dimensions as in torch."""
        if value.shape != self.logits.shape[:-1]:
            return super().log_prob(value)
        return self.logits.gather(-1, value[..., None]).squeeze(-1)


class Gaussian(torch.distributions.Independent):
    """A normal distribution with independent dimensions: `log_prob` and `entropy` are summed over
    the action's dimensions, (B, A) -> (B,). `sample` also takes a generator."""

    def __init__(self, mean: Tensor, std: Tensor):
        normal = torch.distributions.Normal(mean, std, validate_args=False)
        super().__init__(normal, 1, validate_args=False)

    def sample(self, sample_shape: Sequence[int] = (), generator: Any = None) -> Tensor:
        with torch.no_grad():
            shape = (*sample_shape, *self.mean.shape)
            noise = torch.empty(shape, device=self.mean.device).normal_(generator=generator)
            return self.mean + self.stddev * noise


class SquashedGaussian(torch.distributions.TransformedDistribution):
    """A Gaussian put through tanh, dimension by dimension: all its actions lie within [-1, 1].

    Haarnoja et al. (2018), "Soft Actor-Critic Algorithms and Applications",
    https://arxiv.org/abs/1812.05905, appendix C. `log_prob` of the actions that were drawn last is
    exact however near to 1 they are: torch remembers what went into tanh. `sample` and `rsample`
    (with gradients) also take a generator, or the standard normal `noise` (B, A) itself.
    """

    def __init__(self, mean: Tensor, std: Tensor):
        tanh = torch.distributions.TanhTransform(cache_size=1)
        gaussian = Gaussian(mean, std)
        super().__init__(gaussian, tanh, validate_args=False)
        self.normal = gaussian.base_dist

    @property
    def mode(self) -> Tensor:
        """tanh of the Gaussian's mean: the median, and what `act` does. (B, A)"""
        return self.base_dist.mean.tanh()

    @property
    def spread(self) -> Tensor:
        """Half of the width that the middle 68 percent of its actions cover. (B, A)"""
        mean, std = self.base_dist.mean, self.base_dist.stddev
        return ((mean + std).tanh() - (mean - std).tanh()) / 2

    def rsample(
        self, sample_shape: Sequence[int] = (), generator: Any = None, noise: Tensor | None = None
    ) -> Tensor:
        mean, std = self.normal.loc, self.base_dist.stddev
        if noise is None:
            shape = (*sample_shape, *mean.shape)
            noise = torch.empty(shape, device=mean.device).normal_(generator=generator)
        return self.transforms[0](mean + std * noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of actions (..., B, A) in [-1, 1]: (..., B). As torch computes it, without
        asking its way through three classes, which takes as long as the numbers."""
        before = self.transforms[0].inv(value)
        mean, std = self.normal.loc, self.normal.scale
        slope = 2.0 * (LOG_TWO - before - F.softplus(-2.0 * before))  # log of 1 - tanh^2
        normal = -((before - mean) ** 2) / (2 * std**2) - std.log() - LOG_SQRT_TWO_PI
        return normal.sum(-1) - slope.sum(-1)

    @torch.no_grad()
    def sample(
        self, sample_shape: Sequence[int] = (), generator: Any = None, noise: Tensor | None = None
    ) -> Tensor:
        return self.rsample(sample_shape, generator, noise)
