"""Actors and critics: plain `nn.Module`s made to measure for an environment.

    actor = agents.actor(env)      # pi(a | s): categorical for Discrete, Gaussian for Box actions
    actor = agents.actor(env, squashed=True)       # Box actions within their bounds: SAC
    actor = agents.actor(env, deterministic=True)  # a = mu(s): DDPG, TD3
    critic = agents.critic(env)    # V(s)
    critic = agents.q_critic(env)  # Q(s, a), for Box actions
    q_network = agents.q_network(env)  # Q(s, .), one value for each discrete action

All take raw observations. They keep the running mean and standard deviation of what they have
seen as buffers, so that `act`, `play` and a saved file need nothing else.

`makers` has these functions, `networks` what they make, `layers` the parts, `distributions` what a
policy returns (the squashed density of SAC too), `calls` what trainers do with a network, `checks`
the errors for one that does not fit.
"""

from metis_nb.agents.calls import (
    action_value,
    ask,
    begin_statistics,
    device_of,
    find_moody,
    frozen_copy,
    policy,
    polyak_update,
    q_values,
    return_scale,
    tensors_of,
    unwrap,
    update_statistics,
    value,
    value_scale,
)
from metis_nb.agents.checks import Critics, check_fits, check_kind, check_policy, two_critics
from metis_nb.agents.distributions import Categorical, Gaussian, SquashedGaussian, log_slope_of_tanh
from metis_nb.agents.layers import RunningStatistics, linear, mlp, spread_of
from metis_nb.agents.makers import actor, config_of, critic, load, make, q_critic, q_network
from metis_nb.agents.networks import (
    VALUE_UNIT,
    Actor,
    CategoricalActor,
    Critic,
    DeterministicActor,
    GaussianActor,
    Network,
    QCritic,
    QNetwork,
    SquashedGaussianActor,
)

__all__ = [
    "VALUE_UNIT",
    "Actor",
    "Categorical",
    "CategoricalActor",
    "Critic",
    "Critics",
    "DeterministicActor",
    "Gaussian",
    "GaussianActor",
    "Network",
    "QCritic",
    "QNetwork",
    "RunningStatistics",
    "SquashedGaussian",
    "SquashedGaussianActor",
    "action_value",
    "actor",
    "ask",
    "begin_statistics",
    "check_fits",
    "check_kind",
    "check_policy",
    "config_of",
    "critic",
    "device_of",
    "find_moody",
    "frozen_copy",
    "linear",
    "load",
    "log_slope_of_tanh",
    "make",
    "mlp",
    "policy",
    "polyak_update",
    "q_critic",
    "q_network",
    "q_values",
    "return_scale",
    "spread_of",
    "tensors_of",
    "two_critics",
    "unwrap",
    "update_statistics",
    "value",
    "value_scale",
]
