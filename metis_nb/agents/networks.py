"""The networks themselves: a common beginning, and a head for each kind of actor and critic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metis_nb.agents.calls import device_of
from metis_nb.agents.distributions import Categorical, Gaussian, SquashedGaussian
from metis_nb.agents.layers import RunningStatistics, feature_size, linear, mlp
from metis_nb.envs.spaces import (
    ActionUnits,
    Environment,
    check_bounded,
    check_discrete,
    single_spaces,
)

# What the layers of a Q-network predict as 1: so many rewards of the usual size; values are sums of
# many. With 3 in place of 10, two of three trainings on CartPole forgot what they had learned.
VALUE_UNIT = 10.0
# All last layers begin with weights of 0, so an untrained network says the same to every
# observation: a policy is uniform, or in the middle; a value is 0. Otherwise the first actions and
# the first targets would depend on the units in which observations and rewards are given.
HEAD_GAIN = 0.0


class Network(nn.Module):
    """What all networks here begin with: observations standardised, then a body of layers.

    `features`: obs (B, *obs_shape) float32 -> (B, F). A head of the subclass's own goes on top. It
    begins with `HEAD_GAIN`.
    """

    made_by = ""  # the function of this module that makes one
    option = ""  # the argument of it that asks for this kind

    def __init__(
        self,
        env: Environment,
        hidden_sizes: Sequence[int],
        activation: type[nn.Module],
        body: nn.Module | None,
    ):
        super().__init__()
        self.obs_space, self.action_space = single_spaces(env)
        self.config = config(self.made_by, hidden_sizes, activation, body)
        self.obs_statistics = RunningStatistics(self.obs_space.shape)
        self.action_units = ActionUnits(self.action_space)
        self.body = body or mlp(self.input_shape, hidden_sizes, activation)
        self.feature_size = feature_size(self.body, self.input_shape)

    @property
    def input_shape(self) -> Sequence[int]:
        """Of what the body gets, for one observation: a number alone, of shape (), as (1,)."""
        return self.obs_space.shape or (1,)

    def features(self, obs: Tensor) -> Tensor:
        seen = self.obs_statistics.normalize(obs)
        return self.body(seen if seen.ndim > 1 else seen[:, None])

    def _act(self, obs: Tensor | np.ndarray, best: Callable[[Any], Tensor]) -> Any:
        """Environment actions in the kind of `obs`: what `best` makes of what `forward` gives."""
        array = not isinstance(obs, Tensor)
        if array:  # a list, perhaps, or one that torch does not take: flipped, read-only
            obs = np.array(obs, np.float32, order="C")
        shape = self.obs_space.shape
        axes = obs.ndim - len(shape)
        batch = tuple(obs.shape[: max(axes, 0)])  # one axis; more of them, or none, come out again
        if axes < 0 or tuple(obs.shape[axes:]) != shape:
            expected = ", ".join(["B", *map(str, shape)]) if shape else "B,"
            raise ValueError(
                f"obs has shape {tuple(obs.shape)}; expected ({expected}): a batch of what "
                f"{self.obs_space} describes. One observation is a batch of one: obs[None]."
            )
        rows = torch.as_tensor(obs, dtype=torch.float32, device=device_of(self))
        chosen = best(self(rows.reshape((math.prod(batch), *shape))))
        action = self.action_units.to_env(chosen.reshape((*batch, *chosen.shape[1:])))
        return self.action_units.to_numpy(action) if array else action


class Actor(Network):
    """What all actors here can do."""

    made_by = "actor"

    def distribution(self, parameters: Any) -> Categorical | Gaussian | SquashedGaussian:
        """pi(. | s), from what `forward` gives."""
        raise NotImplementedError

    def mode(self, parameters: Any) -> Tensor:
        """The best policy action, from what `forward` gives."""
        raise NotImplementedError

    @torch.no_grad()
    def act(self, obs: Tensor | np.ndarray) -> Any:
        """The best actions, as `env.step` takes them: the most probable one, or the mean.

        obs (B, *obs_shape) in, actions (B,) or (B, A) out: an array for an array, a tensor for a
        tensor, of whatever float type and on whatever device.
        """
        return self._act(obs, self.mode)


class CategoricalActor(Actor):
    """pi(a | s) for `Discrete` actions. `forward`: obs (B, *obs_shape) -> logits (B, n)."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.head = linear(self.feature_size, self.action_units.size, HEAD_GAIN)

    def forward(self, obs: Tensor) -> Tensor:
        return self.head(self.features(obs))

    def distribution(self, logits: Tensor) -> Categorical:
        return Categorical(logits)

    def mode(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1)


class GaussianActor(Actor):
    """pi(a | s) for `Box` actions, in units where [-1, 1] spans each dimension's bounds.

    `forward`: obs (B, *obs_shape) -> mean (B, A), log_std (B, A). The standard deviation is one
    learned number per action dimension, the same in every state.
    """

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.head = linear(self.feature_size, self.action_units.size, HEAD_GAIN)
        self.log_std = nn.Parameter(torch.full((self.action_units.size,), -0.5))

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.head(self.features(obs))
        return mean, self.log_std.expand_as(mean)

    def distribution(self, parameters: tuple[Tensor, Tensor]) -> Gaussian:
        mean, log_std = parameters
        return Gaussian(mean, log_std.exp())

    def mode(self, parameters: tuple[Tensor, Tensor]) -> Tensor:
        return parameters[0]


class SquashedGaussianActor(Actor):
    """pi(a | s) for `Box` actions, all of them within the bounds: a Gaussian put through tanh.

    `forward`: obs (B, *obs_shape) -> mean (B, A), log_std (B, A) of the Gaussian before tanh. Both
    depend on the state.
    """

    option = "squashed"
    LOG_STD = (-5.0, 2.0)  # kept within: a density that is all but a point has no gradient

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.config = self.config and self.config | {self.option: True}
        # Of the first policy, the mean is 0 and the standard deviation 1.
        self.head = linear(self.feature_size, 2 * self.action_units.size, HEAD_GAIN)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.head(self.features(obs)).chunk(2, -1)
        return mean, log_std.clamp(*self.LOG_STD)

    def distribution(self, parameters: tuple[Tensor, Tensor]) -> SquashedGaussian:
        mean, log_std = parameters
        return SquashedGaussian(mean, log_std.exp())

    def mode(self, parameters: tuple[Tensor, Tensor]) -> Tensor:
        return parameters[0].tanh()


class DeterministicActor(Network):
    """a = mu(s) for `Box` actions, within their bounds.

    `forward`: obs (B, *obs_shape) -> policy actions (B, A) in [-1, 1].
    """

    made_by, option = "actor", "deterministic"

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.config = self.config and self.config | {self.option: True}
        # The first actions lie in the middle, where tanh has a slope.
        self.head = linear(self.feature_size, self.action_units.size, HEAD_GAIN)

    def forward(self, obs: Tensor) -> Tensor:
        return self.head(self.features(obs)).tanh()

    @torch.no_grad()
    def act(self, obs: Tensor | np.ndarray) -> Any:
        """The actions, as `env.step` takes them.

        obs (B, *obs_shape) in, actions (B, A) out: an array for an array, a tensor for a tensor, of
        whatever float type and on whatever device.
        """
        return self._act(obs, lambda action: action)


class Critic(Network):
    """V(s), in the environment's own units of reward. `forward`: obs (B, *obs_shape) -> (B,).

    The layers predict the *standardised* return; `forward` scales it back. So a task with returns
    of -1500 is as easy to fit as one with returns of 1, at the same learning rate.
    """

    made_by = "critic"

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.return_statistics = RunningStatistics(())
        self.head = linear(self.feature_size, 1, HEAD_GAIN)

    def forward(self, obs: Tensor) -> Tensor:
        return self.return_statistics.denormalize(self.head(self.features(obs)).squeeze(-1))


class ActionValues(Network):
    """What networks of action values have in common: they predict in units of `scale`."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.reward_statistics = RunningStatistics(())

    @property
    def scale(self) -> Tensor:
        """`VALUE_UNIT` rewards of the usual size: the root of their mean square."""
        return VALUE_UNIT * self.reward_statistics.usual_size


class QCritic(ActionValues):
    """Q(s, a) for `Box` actions, in the environment's own units of reward.

    `forward`: obs (B, *obs_shape), policy actions (B, A) in [-1, 1] -> (B,). The layers predict
    values in units of `scale`; `forward` scales them back.
    """

    made_by = "q_critic"

    def __init__(self, env: Environment, *arguments: Any):
        check_bounded("agents.q_critic(env)", env)
        super().__init__(env, *arguments)
        self.head = linear(self.feature_size, 1, HEAD_GAIN)

    @property
    def input_shape(self) -> Sequence[int]:
        return (int(np.prod(self.obs_space.shape)) + self.action_units.size,)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        seen = self.obs_statistics.normalize(obs).reshape(len(obs), -1)
        return self.head(self.body(torch.cat([seen, action], 1))).squeeze(-1) * self.scale


class QNetwork(ActionValues):
    """Q(s, .), in the environment's own units of reward. `forward`: obs (B, *obs_shape) -> (B, n).

    The layers predict values in units of `scale`; `forward` scales them back.
    """

    made_by = "q_network"

    def __init__(self, env: Environment, *arguments: Any, dueling: bool):
        super().__init__(env, *arguments)
        check_discrete("q_network", env)
        if self.config is not None:
            self.config["dueling"] = bool(dueling)
        self.head = linear(self.feature_size, self.action_units.size, HEAD_GAIN)
        self.value_head = linear(self.feature_size, 1, HEAD_GAIN) if dueling else None

    def forward(self, obs: Tensor) -> Tensor:
        features = self.features(obs)
        values = self.head(features)
        if self.value_head is not None:  # Wang et al. (2016), equation 9
            values = self.value_head(features) + values - values.mean(1, keepdim=True)
        return values * self.scale

    @torch.no_grad()
    def act(self, obs: Tensor | np.ndarray) -> Any:
        """The actions of the highest value, as `env.step` takes them.

        obs (B, *obs_shape) in, actions (B,) out: an array for an array, a tensor for a tensor, of
        whatever float type and on whatever device.
        """
        return self._act(obs, lambda values: values.argmax(1))


def config(
    function: str,
    hidden_sizes: Sequence[int],
    activation: type[nn.Module],
    body: nn.Module | None,
) -> dict[str, Any] | None:
    """How to make such a network again, as plain data; None if it holds code of your own."""
    sizes = list(hidden_sizes) if isinstance(hidden_sizes, Sequence) else [None]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(
            f"hidden_sizes={hidden_sizes!r}; expected whole numbers above 0, such as (64, 64)."
        )
    if not (isinstance(activation, type) and issubclass(activation, nn.Module)):
        raise TypeError(
            f"activation={activation!r}; expected a class of torch.nn, such as torch.nn.ReLU."
        )
    if body is not None or getattr(nn, activation.__name__, None) is not activation:
        return None
    return {"function": function, "hidden_sizes": sizes, "activation": activation.__name__}
