"""The distributions of actions that policies return, with the sampling that a trainer needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Categorical(torch.distributions.Categorical):
    """As in torch; `sample` also takes a generator, so that a trainer can own its randomness."""

    def __init__(self, logits: Tensor):
        super().__init__(logits=logits, validate_args=False)

    def sample(self, sample_shape: Sequence[int] = (), generator: Any = None) -> Tensor:
        # The largest of logits + Gumbel noise is a sample; faster than `torch.multinomial`.
        shape = (*sample_shape, *self.logits.shape)
        noise = torch.empty(shape, device=self.logits.device).exponential_(generator=generator)
        return (self.logits - noise.log()).argmax(-1)


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
        super().__init__(Gaussian(mean, std), tanh, validate_args=False)

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
        base = self.base_dist
        if noise is None:
            shape = (*sample_shape, *base.mean.shape)
            noise = torch.empty(shape, device=base.mean.device).normal_(generator=generator)
        return self.transforms[0](base.mean + base.stddev * noise)

    @torch.no_grad()
    def sample(
        self, sample_shape: Sequence[int] = (), generator: Any = None, noise: Tensor | None = None
    ) -> Tensor:
        return self.rsample(sample_shape, generator, noise)
