"""The distributions of actions that policies return, with the sampling that a trainer needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

Generator = torch.Generator | None
LOG_TWO = math.log(2.0)
LOG_SQRT_TWO_PI = math.log(math.sqrt(2 * math.pi))


class Categorical(torch.distributions.Categorical):
    """As in torch; `sample` also takes a generator, so that a trainer can own its randomness."""

    def __init__(self, logits: Tensor):
        super().__init__(logits=logits, validate_args=False)

    def sample(self, sample_shape: Sequence[int] = (), generator: Generator = None) -> Tensor:
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

    def sample(self, sample_shape: Sequence[int] = (), generator: Generator = None) -> Tensor:
        with torch.no_grad():
            shape = (*sample_shape, *self.mean.shape)
            noise = torch.empty(shape, device=self.mean.device).normal_(generator=generator)
            return self.mean + self.stddev * noise


class SquashedGaussian(torch.distributions.Distribution):
    """A Gaussian put through tanh, dimension by dimension: all its actions lie within [-1, 1].

    Haarnoja et al. (2018), "Soft Actor-Critic Algorithms and Applications",
    https://arxiv.org/abs/1812.05905, appendix C. `log_prob` of the actions that were drawn last is
    exact however near to 1 they are: what went into tanh is remembered. `sample` and `rsample`
    (with gradients) also take a generator, or the standard normal `noise` (B, A) itself.

    torch's own TransformedDistribution computes the same numbers, and takes half as long again.

    Args:
        mean, std: of the Gaussian, before tanh: (B, A).
    """

    arg_constraints: ClassVar = {}
    has_rsample = True

    def __init__(self, mean: Tensor, std: Tensor):
        self.gaussian_mean, self.gaussian_std = mean, std
        self._drawn: tuple[Tensor, Tensor] | None = None  # an action, and what went into tanh
        super().__init__(mean.shape[:-1], mean.shape[-1:], validate_args=False)

    @property
    def gaussian(self) -> Gaussian:
        """What is put through tanh."""
        return Gaussian(self.gaussian_mean, self.gaussian_std)

    def before_tanh(self, action: Tensor) -> Tensor:
        """What went into tanh, for actions in [-1, 1]; as it was for those drawn last.

        A number whose tanh is all but 1 is stored as 1; it comes back as what the largest number
        below 1 comes from."""
        if self._drawn is not None and self._drawn[0] is action:
            return self._drawn[1]
        most = 1 - torch.finfo(action.dtype).eps / 2
        return action.clamp(-most, most).atanh()

    @property
    def mode(self) -> Tensor:
        """tanh of the Gaussian's mean: the median, and what `act` does. (B, A)"""
        return self.gaussian_mean.tanh()

    @property
    def spread(self) -> Tensor:
        """Half of the width that the middle 68 percent of its actions cover. (B, A)"""
        mean, std = self.gaussian_mean, self.gaussian_std
        return ((mean + std).tanh() - (mean - std).tanh()) / 2

    def rsample(
        self,
        sample_shape: Sequence[int] = (),
        generator: Generator = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Actions (*sample_shape, B, A) through which gradients reach mean and std."""
        mean, std = self.gaussian_mean, self.gaussian_std.square().sqrt()
        if noise is None:
            shape = (*sample_shape, *mean.shape)
            noise = torch.empty(shape, device=mean.device).normal_(generator=generator)
        before = mean + std * noise
        action = before.tanh()
        self._drawn = action, before
        return action

    @torch.no_grad()
    def sample(
        self,
        sample_shape: Sequence[int] = (),
        generator: Generator = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Actions (*sample_shape, B, A)."""
        return self.rsample(sample_shape, generator, noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of actions (..., B, A) in [-1, 1]: (..., B), equation 26.

        The density of the Gaussian, divided by the slope of tanh."""
        before, mean, std = self.before_tanh(value), self.gaussian_mean, self.gaussian_std
        slope = log_slope_of_tanh(before)  # first: the order of sums in the backward pass
        normal = -((before - mean) ** 2) / (2 * std**2) - std.log() - LOG_SQRT_TWO_PI
        return normal.sum(-1) - slope.sum(-1)

    def entropy(self) -> Tensor:
        raise NotImplementedError(
            "The entropy of a squashed Gaussian has no formula; estimate it: -pi.log_prob(action), "
            "for action = pi.rsample()."
        )


def log_slope_of_tanh(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2), written so that it stays exact where the slope is all but 0."""
    return 2.0 * (LOG_TWO - u - F.softplus(-2.0 * u))
