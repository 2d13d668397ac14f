"""Actors and critics: plain `nn.Module`s made to measure for an environment.

    actor = agents.actor(env)      # pi(a | s): categorical for Discrete, Gaussian for Box actions
    actor = agents.actor(env, squashed=True)       # Box actions within their bounds: SAC
    actor = agents.actor(env, deterministic=True)  # a = mu(s): DDPG, TD3
    critic = agents.critic(env)    # V(s)
    critic = agents.q_critic(env)  # Q(s, a), for Box actions
    q_network = agents.q_network(env)  # Q(s, .), one value for each discrete action

All take raw observations. They keep the running mean and standard deviation of what they have
seen as buffers, so that `act`, `play` and a saved file need nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete
from torch import Tensor, nn

from metis_nb import checkpoint
from metis_nb.spaces import (
    ActionUnits,
    Environment,
    SpacesOnly,
    check_bounded,
    check_discrete,
    name_of,
    single_spaces,
)

# What the layers of a Q-network predict as 1: so many rewards of the usual size; values are sums of
# many. With 3 in place of 10, two of three trainings on CartPole forgot what they had learned.
HORIZON = 10.0

# --- the functions that people call -----------------------------------------------------------


def actor(
    env: Environment,
    *,
    hidden_sizes: Sequence[int] = (64, 64),
    activation: type[nn.Module] = nn.Tanh,
    body: nn.Module | None = None,
    squashed: bool = False,
    deterministic: bool = False,
) -> Actor | DeterministicActor:
    """A policy for `env`: pi(a | s), or a = mu(s).

    Args:
        env: gives the shapes: a `Box` observation, a `Discrete` or `Box` action.
        hidden_sizes: units of each hidden layer of the default multi-layer perceptron.
        activation: the class of the non-linearity after each hidden layer.
        body: your own network in place of the default one: normalised observations
            (B, *obs_shape) float32 in, features (B, F) out. The head is put on top.
        squashed: a Gaussian put through tanh, for `Box` actions with bounds (for SAC).
        deterministic: one action for each state, for `Box` actions with bounds (for DDPG, TD3).

    Raises:
        TypeError, ValueError: a space or an argument that is not accepted; the message names it.
    """
    if squashed and deterministic:
        raise ValueError("squashed=True and deterministic=True; expected one of them at most.")
    if squashed or deterministic:
        option = "squashed" if squashed else "deterministic"
        check_bounded(f"agents.actor(env, {option}=True)", env)
        bounded = SquashedGaussianActor if squashed else DeterministicActor
        return bounded(env, hidden_sizes, activation, body)
    _, action_space = single_spaces(env)
    kind = CategoricalActor if isinstance(action_space, Discrete) else GaussianActor
    return kind(env, hidden_sizes, activation, body)


def critic(
    env: Environment,
    *,
    hidden_sizes: Sequence[int] = (64, 64),
    activation: type[nn.Module] = nn.Tanh,
    body: nn.Module | None = None,
) -> Critic:
    """A state-value function V(s) for `env`; the arguments are those of `actor`."""
    return Critic(env, hidden_sizes, activation, body)


def q_critic(
    env: Environment,
    *,
    hidden_sizes: Sequence[int] = (64, 64),
    activation: type[nn.Module] = nn.Tanh,
    body: nn.Module | None = None,
) -> QCritic:
    """An action-value function Q(s, a) for `env`, for `Box` actions with bounds.

    Args:
        body: your own network: normalised observations, made flat, and policy actions beside them,
            (B, D + A) float32 in, features (B, F) out.
        The others are those of `actor`.

    Raises:
        TypeError, ValueError: a space or an argument that is not accepted; the message names it.
    """
    return QCritic(env, hidden_sizes, activation, body)


def q_network(
    env: Environment,
    *,
    hidden_sizes: Sequence[int] = (64, 64),
    activation: type[nn.Module] = nn.Tanh,
    body: nn.Module | None = None,
    dueling: bool = False,
) -> QNetwork:
    """Action values Q(s, .) for `env`, one for each of its `Discrete` actions.

    Args:
        dueling: V(s) and advantages from separate heads (Wang et al. 2016).
        The others are those of `actor`.

    Raises:
        TypeError, ValueError: a space or an argument that is not accepted; the message names it.
    """
    return QNetwork(env, hidden_sizes, activation, body, dueling=dueling)


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
    return network.distribution(actor(obs))


def value(critic: nn.Module, obs: Tensor) -> Tensor:
    """V(obs) of shape (B,), for obs (B, *obs_shape).

    Raises:
        ValueError: the critic gives another shape. Subtracted from targets (B,), values (B, 1)
            would silently become a table (B, B), and the critic would learn the mean.
    """
    values = critic(obs)
    if values.shape != obs.shape[:1]:
        raise ValueError(
            f"critic gives values of shape {tuple(values.shape)} for {len(obs)} observations; "
            f"expected ({len(obs)},). End its forward with .squeeze(-1)."
        )
    return values


def action_value(critic: nn.Module, obs: Tensor, action: Tensor) -> Tensor:
    """Q(obs, action) of shape (B,), for obs (B, *obs_shape) and policy actions (B, A).

    Raises:
        ValueError: the critic gives another shape; see `value`.
    """
    values = critic(obs, action)
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
    values = q_network(obs)
    if values.ndim != 2 or len(values) != len(obs):
        raise ValueError(
            f"q_network gives values of shape {tuple(values.shape)} for {len(obs)} observations; "
            f"expected ({len(obs)}, number of actions)."
        )
    return values


def unwrap(network: nn.Module) -> Any:
    """The network itself, inside `DataParallel`, `DistributedDataParallel`, `torch.compile`."""
    if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrap(network.module)
    return getattr(network, "_orig_mod", network)


def observe(
    network: nn.Module,
    obs: Tensor | None = None,
    returns: Tensor | None = None,
    rewards: Tensor | None = None,
) -> None:
    """Let a network take in what it met, (B, *obs_shape) and (B,), for its running statistics.

    A network of your own without `obs_statistics`, `return_statistics` or `reward_statistics` is
    left as it is.
    """
    for name, batch in (("obs", obs), ("return", returns), ("reward", rewards)):
        statistics = getattr(unwrap(network), f"{name}_statistics", None)
        if statistics is not None and batch is not None:
            statistics.update(batch)


def return_scale(critic: nn.Module) -> Tensor | float:
    """The standard deviation of the returns that a critic met; 1 where it keeps no count."""
    statistics = getattr(unwrap(critic), "return_statistics", None)
    return 1.0 if statistics is None else statistics.std


@torch.no_grad()
def blend(target: nn.Module, network: nn.Module, tau: float) -> None:
    """Move a target network by `tau` of the way to a network: theta' <- tau theta + (1 - tau)
    theta'. Running statistics (buffers) are taken over as they are."""
    network = unwrap(network)
    for old, new in zip(target.parameters(), network.parameters(), strict=True):
        old.lerp_(new, tau)
    for kept, seen in zip(target.buffers(), network.buffers(), strict=True):
        kept.copy_(seen)


def reward_scale(q_network: nn.Module) -> Tensor | float:
    """The size of the values that a Q-network's layers predict as 1; 1 where it has none."""
    return getattr(unwrap(q_network), "scale", 1.0)


def device_of(network: nn.Module) -> torch.device:
    """Where the network's parameters are."""
    return next(network.parameters()).device


# --- the distributions that they return -------------------------------------------------------


class Categorical(torch.distributions.Categorical):
    """As in torch, but `sample` also takes a generator, so that a trainer can own its chance."""

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


# --- the networks themselves ------------------------------------------------------------------


class Network(nn.Module):
    """What all networks here begin with: observations standardised, then a body of layers.

    `features`: obs (B, *obs_shape) float32 -> (B, F). A head of the subclass's own goes on top.
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
        self.recipe = recipe(self.made_by, hidden_sizes, activation, body)
        self.obs_statistics = RunningStatistics(self.obs_space.shape)
        self.action_units = ActionUnits(self.action_space)
        self.body = body or mlp(self.input_shape, hidden_sizes, activation)
        self.feature_size = feature_size(self.body, self.input_shape)

    @property
    def input_shape(self) -> Sequence[int]:
        """Of what the body gets, for one observation."""
        return self.obs_space.shape

    def features(self, obs: Tensor) -> Tensor:
        return self.body(self.obs_statistics.normalize(obs))

    def acted(self, obs: Tensor | np.ndarray, best: Callable[[Any], Tensor]) -> Any:
        """Environment actions in the kind of `obs`: what `best` makes of what `forward` gives."""
        output = self(torch.as_tensor(obs, dtype=torch.float32, device=device_of(self)))
        action = self.action_units.to_env(best(output))
        return self.action_units.to_numpy(action) if isinstance(obs, np.ndarray) else action


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
        return self.acted(obs, self.mode)


class CategoricalActor(Actor):
    """pi(a | s) for `Discrete` actions. `forward`: obs (B, *obs_shape) -> logits (B, n)."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        # A small last layer makes the first policy nearly uniform (Andrychowicz et al. 2021).
        self.head = linear(self.feature_size, self.action_units.size, gain=0.01)

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
        self.head = linear(self.feature_size, self.action_units.size, gain=0.01)
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
        self.recipe = self.recipe and self.recipe | {self.option: True}
        # A small last layer: the first policy has a mean of 0 and a standard deviation of 1.
        self.head = linear(self.feature_size, 2 * self.action_units.size, gain=0.01)

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
        self.recipe = self.recipe and self.recipe | {self.option: True}
        # A small last layer: the first actions lie in the middle, where tanh has a slope.
        self.head = linear(self.feature_size, self.action_units.size, gain=0.01)

    def forward(self, obs: Tensor) -> Tensor:
        return self.head(self.features(obs)).tanh()

    @torch.no_grad()
    def act(self, obs: Tensor | np.ndarray) -> Any:
        """The actions, as `env.step` takes them.

        obs (B, *obs_shape) in, actions (B, A) out: an array for an array, a tensor for a tensor, of
        whatever float type and on whatever device.
        """
        return self.acted(obs, lambda action: action)


class Critic(Network):
    """V(s), in the environment's own units of reward. `forward`: obs (B, *obs_shape) -> (B,).

    The layers predict the *standardised* return; `forward` scales it back. So a task with returns
    of -1500 is as easy to fit as one with returns of 1, at the same learning rate.
    """

    made_by = "critic"

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.return_statistics = RunningStatistics(())
        self.head = linear(self.feature_size, 1, gain=1.0)

    def forward(self, obs: Tensor) -> Tensor:
        return self.return_statistics.denormalize(self.head(self.features(obs)).squeeze(-1))


class ActionValues(Network):
    """What networks of action values have in common: they predict in units of `scale`."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.reward_statistics = RunningStatistics(())

    @property
    def scale(self) -> Tensor:
        """`HORIZON` rewards of the usual size: the root of their mean square."""
        statistics = self.reward_statistics
        size = (statistics.mean.square() + statistics.variance).sqrt()
        return HORIZON * size.clamp(min=1e-4)


class QCritic(ActionValues):
    """Q(s, a) for `Box` actions, in the environment's own units of reward.

    `forward`: obs (B, *obs_shape), policy actions (B, A) in [-1, 1] -> (B,). The layers predict
    values in units of `scale`; `forward` scales them back.
    """

    made_by = "q_critic"

    def __init__(self, env: Environment, *arguments: Any):
        check_bounded("agents.q_critic(env)", env)
        super().__init__(env, *arguments)
        self.head = linear(self.feature_size, 1, gain=0.01)

    @property
    def input_shape(self) -> Sequence[int]:
        return (int(np.prod(self.obs_space.shape)) + self.action_units.size,)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        seen = self.obs_statistics.normalize(obs).flatten(1)
        return self.head(self.body(torch.cat([seen, action], 1))).squeeze(-1) * self.scale


class QNetwork(ActionValues):
    """Q(s, .), in the environment's own units of reward. `forward`: obs (B, *obs_shape) -> (B, n).

    The layers predict values in units of `scale`; `forward` scales them back.
    """

    made_by = "q_network"

    def __init__(self, env: Environment, *arguments: Any, dueling: bool):
        super().__init__(env, *arguments)
        check_discrete("q_network", env)
        if self.recipe is not None:
            self.recipe["dueling"] = bool(dueling)
        # Small last layers: no action is the favourite of chance.
        self.head = linear(self.feature_size, self.action_units.size, gain=0.01)
        self.value_head = linear(self.feature_size, 1, gain=0.01) if dueling else None

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
        return self.acted(obs, lambda values: values.argmax(1))


# --- what they are made of --------------------------------------------------------------------


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
        return self.variance.sqrt().clamp(min=1e-4)

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


def recipe(
    function: str,
    hidden_sizes: Sequence[int],
    activation: type[nn.Module],
    body: nn.Module | None,
) -> dict[str, Any] | None:
    """How to make such a network again, as plain data; None where it holds code of your own."""
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


def check_fits(name: str, network: nn.Module, env: Environment) -> None:
    """Refuse a network that was made for other spaces than those of `env`.

    Raises:
        ValueError: naming both. A network that is none of ours is taken as it comes.
    """
    inner, (obs_space, action_space) = unwrap(network), single_spaces(env)
    if not isinstance(inner, Network):
        return
    fits = inner.obs_space.shape == obs_space.shape
    if not isinstance(inner, Critic):
        fits = fits and inner.action_space == action_space
    if not fits:
        option = f", {inner.option}=True" if inner.option else ""
        raise ValueError(
            f"{name} was made for observations of shape {inner.obs_space.shape} and actions "
            f"{inner.action_space}; {name_of(env)} has {obs_space.shape} and {action_space}. "
            f"Make another: agents.{inner.made_by}(env{option})."
        )


def check_kind(name: str, network: Any, kind: type | tuple[type, ...], maker: str) -> None:
    """Refuse what is no network, or a network of this module that is of another kind.

    Raises:
        TypeError: naming it, and how to make the right one. A network of a reader's own is taken
            as it comes.
    """
    inner = unwrap(network) if isinstance(network, nn.Module) else network
    if not isinstance(inner, nn.Module) or isinstance(inner, Network) != isinstance(inner, kind):
        raise TypeError(
            f"{name} is a {type(inner).__name__}; expected a torch.nn.Module, such as {maker}."
        )


def two_critics(
    critics: Any, kind: type | tuple[type, ...], maker: str
) -> tuple[nn.Module, nn.Module]:
    """Both of `critics`, checked.

    Raises:
        TypeError, ValueError: there are not two, they share parameters, or one is of another kind.
    """
    if not isinstance(critics, Sequence | nn.ModuleList):
        raise TypeError(f"critics is a {type(critics).__name__}; expected two: {maker}, {maker}.")
    if len(critics) != 2:
        raise ValueError(f"critics holds {len(critics)}; expected two: {maker}, {maker}.")
    for name, critic in zip(("critics[0]", "critics[1]"), critics):
        check_kind(name, critic, kind, maker)
    one, two = critics
    if {id(p) for p in one.parameters()} & {id(p) for p in two.parameters()}:
        raise ValueError(f"critics share parameters; expected two of them: {maker}, {maker}.")
    return one, two


def load(path: str | Path, name: str = "actor") -> Any:
    """One network out of a file that a trainer saved, for use where there is no environment.

        actor = agents.load("ppo.safetensors")
        action = actor.act(obs[None])[0]  # one observation, a NumPy array

    Raises:
        FileNotFoundError, ValueError: no such file, no such network in it, or one with a body of
            your own: make that again and load the trainer.
    """
    state = checkpoint.read(path)
    if state["recipes"].get(name) is None:
        known = [name for name, recipe in state["recipes"].items() if recipe is not None]
        raise ValueError(f"name={name!r}; {str(path)!r} holds {known} that can be made from it.")
    network = make(state["recipes"][name], SpacesOnly(state["spaces"]))
    network.load_state_dict(state["networks"][name])
    return network.eval()


def make(recipe: dict[str, Any], env: Environment) -> nn.Module:
    """The network that a `recipe` describes, untrained."""
    functions: dict[str, Callable[..., nn.Module]] = {
        "actor": actor,
        "critic": critic,
        "q_critic": q_critic,
        "q_network": q_network,
    }
    settings = {name: value for name, value in recipe.items() if name != "function"}
    settings["activation"] = getattr(nn, recipe["activation"])
    return functions[recipe["function"]](env, **settings)
