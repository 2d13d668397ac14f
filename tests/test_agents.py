"""Networks: shapes, distributions, running statistics, action units, bad input."""

import inspect
import math
import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from metis_nb import DDQN, DQN, PPO, agents, checkpoint, envs, evaluate, play
from metis_nb.agents import RunningStatistics
from metis_nb.envs.spaces import ActionUnits, SpacesOnly, describe, spanned, told_apart


class Spaces(gym.Env):
    """An environment that is nothing but its spaces."""

    def __init__(self, obs_space, action_space):
        self.observation_space, self.action_space = obs_space, action_space


OBS = Box(-1, 1, (3,), np.float32)
WIDE = Box(np.array([-1.0, 0.0, -3.0]), np.array([3.0, 0.5, 1.0]), dtype=np.float64)


@pytest.mark.parametrize("parallel", [False, True])
def test_shapes_of_a_categorical_actor(parallel):
    actor = agents.actor(Spaces(OBS, Discrete(4)))
    network = nn.DataParallel(actor) if parallel else actor
    pi = agents.policy(network, torch.randn(7, 3))
    action = pi.sample()
    assert action.shape == pi.log_prob(action).shape == pi.entropy().shape == (7,)
    assert action.dtype == torch.int64
    assert pi.sample((5,)).shape == (5, 7)


@pytest.mark.parametrize("parallel", [False, True])
def test_shapes_of_a_gaussian_actor(parallel):
    actor = agents.actor(Spaces(OBS, WIDE))
    network = nn.DataParallel(actor) if parallel else actor
    pi = agents.policy(network, torch.randn(7, 3))
    action = pi.sample()
    assert action.shape == (7, 3)
    assert pi.log_prob(action).shape == pi.entropy().shape == (7,)
    assert pi.sample((5,)).shape == (5, 7, 3)


def test_values_have_no_second_axis():
    assert agents.critic(Spaces(OBS, WIDE))(torch.randn(7, 3)).shape == (7,)


def test_categorical_samples_follow_the_probabilities():
    logits = torch.tensor([[0.0, 1.0, -2.0]])
    pi = agents.Categorical(logits)
    samples = pi.sample((100_000,), generator=torch.Generator().manual_seed(0))
    share = torch.bincount(samples.flatten(), minlength=3) / 100_000
    assert torch.allclose(share, logits.softmax(-1)[0], atol=0.005)


def test_gaussian_samples_follow_mean_and_deviation():
    pi = agents.Gaussian(torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 2.0]]))
    samples = pi.sample((100_000,), generator=torch.Generator().manual_seed(0))[:, 0]
    assert torch.allclose(samples.mean(0), torch.tensor([1.0, -2.0]), atol=0.03)
    assert torch.allclose(samples.std(0), torch.tensor([0.5, 2.0]), atol=0.03)


def test_gaussian_log_prob_is_that_of_the_formula():
    mean, std, action = torch.randn(4, 2), torch.rand(4, 2) + 0.1, torch.randn(4, 2)
    z = (action - mean) / std
    formula = (-0.5 * z**2 - std.log() - 0.5 * np.log(2 * np.pi)).sum(-1)
    assert torch.allclose(agents.Gaussian(mean, std).log_prob(action), formula, atol=1e-5)


def test_gaussian_entropy_is_the_sum_of_that_of_each_dimension():
    std = [0.5, 2.0, 1.0]
    entropy = agents.Gaussian(torch.zeros(1, 3), torch.tensor([std])).entropy()
    by_hand = sum(0.5 * math.log(2 * math.pi * math.e * each**2) for each in std)
    assert entropy.tolist() == pytest.approx([by_hand])


def test_a_gaussian_actor_learns_the_logarithm_of_its_deviation():
    actor = agents.actor(Spaces(OBS, WIDE))
    nn.init.constant_(actor.log_std, math.log(0.3))
    pi = agents.policy(actor, torch.randn(7, 3))
    assert torch.allclose(pi.stddev, torch.full((7, 3), 0.3))


def test_sampling_with_a_generator_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    own = torch.Generator().manual_seed(0)
    agents.Categorical(torch.zeros(3, 2)).sample(generator=own)
    agents.Gaussian(torch.zeros(3, 2), torch.ones(3, 2)).sample(generator=own)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.as_made
def test_the_first_policy_is_nearly_uniform():
    env = Spaces(OBS, Discrete(4))
    probs = agents.policy(agents.actor(env), torch.randn(100, 3)).probs
    assert (probs - 0.25).abs().max() < 0.02


NUMBER = Box(-5, 5, (), np.float32)  # observations that are one number, with no axis


def test_an_observation_may_be_a_single_number():
    """It counts as (1,), for a body of one's own too."""
    env, alike = Spaces(NUMBER, WIDE), Spaces(Box(-5, 5, (1,), np.float32), WIDE)
    obs, action = torch.tensor([0.5, -2.0, 3.0]), torch.zeros(3, 3)
    for make in (agents.actor, agents.critic, agents.q_critic):
        body = nn.Linear(4, 2) if make is agents.q_critic else nn.Linear(1, 2)
        for setting in (dict(hidden_sizes=(5,)), dict(hidden_sizes=()), dict(body=body)):
            flat, column = make(env, **setting), make(alike, **setting)
            flat.obs_statistics.update(obs)
            column.obs_statistics.update(obs[:, None])
            column.body.load_state_dict(flat.body.state_dict())
            column.head.load_state_dict(flat.head.state_dict())
            more = (action,) if make is agents.q_critic else ()
            first, second = flat(obs, *more), column(obs[:, None], *more)
            for a, b in zip(*([x] if isinstance(x, torch.Tensor) else x for x in (first, second))):
                assert torch.equal(a, b)
    assert agents.actor(env).act(np.array([0.5, -2.0], np.float32)).shape == (2, 3)


@pytest.mark.parametrize("obs_shape", [(), (3,), (2, 2)])
@pytest.mark.parametrize("network", ["actor", "gaussian", "deterministic", "q_network", "dueling"])
def test_any_axes_before_those_of_an_observation_come_out_again(network, obs_shape):
    env = Spaces(Box(-1, 1, obs_shape, np.float32), WIDE)
    if network in ("actor", "q_network", "dueling"):
        env.action_space = Discrete(4, start=7)
    made = {
        "actor": lambda: agents.actor(env),
        "gaussian": lambda: agents.actor(env),
        "deterministic": lambda: agents.actor(env, deterministic=True),
        "q_network": lambda: agents.q_network(env),
        "dueling": lambda: agents.q_network(env, dueling=True),
    }[network]()
    torch.nn.init.normal_(made.head.weight)
    shape = () if isinstance(env.action_space, Discrete) else (3,)
    obs = np.random.default_rng(0).normal(size=(4, 3, *obs_shape)).astype(np.float32)
    together = made.act(obs)
    assert together.shape == (4, 3, *shape)
    for i, j in np.ndindex(4, 3):
        alone = made.act(obs[i, j])
        assert alone.shape == shape
        assert np.allclose(alone, together[i, j], atol=1e-6)
        assert np.allclose(made.act(torch.as_tensor(obs[i, j][None]))[0], alone, atol=1e-6)
    assert made.act(obs[:0, 0]).shape == (0, *shape)


@pytest.mark.as_made
def test_the_first_mean_of_a_gaussian_policy_lies_in_the_middle():
    pi = agents.policy(agents.actor(Spaces(OBS, WIDE)), torch.randn(100, 3))
    assert pi.mean.abs().max() < 0.05


# --- actions in the environment's units -------------------------------------------------------


def test_asymmetric_bounds_per_dimension():
    units = ActionUnits(WIDE)
    ends = units.to_env(torch.tensor([[-1.0, -1, -1], [1, 1, 1], [0, 0, 0], [-9, 9, 0.5]]))
    expected = [[-1.0, 0, -3], [3, 0.5, 1], [1, 0.25, -1], [-1, 0.5, 0]]
    assert torch.allclose(ends, torch.tensor(expected))


def test_unbounded_dimensions_pass_through():
    low, high = np.array([-np.inf, 0.0, -2.0]), np.array([np.inf, np.inf, 2.0])
    units = ActionUnits(Box(low, high, dtype=np.float32))
    action = torch.tensor([[5.0, -1.0, 0.5]])
    assert torch.equal(units.to_env(action), torch.tensor([[5.0, 0.0, 1.0]]))


@given(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3))
def test_units_go_there_and_back(values):
    units, action = ActionUnits(WIDE), torch.tensor([values])
    assert torch.allclose(units.from_env(units.to_env(action)), action, atol=1e-5)


def in_the_environment(space, policy_action):
    units = ActionUnits(space)
    action = units.to_numpy(units.to_env(torch.tensor(policy_action)[:, None]))[:, 0]
    assert action.dtype == space.dtype
    assert all(space.contains(np.array([each], space.dtype)) for each in action)
    return action.tolist()


def test_whole_numbers_are_rounded_numbers_by_hand():
    # -9.6, -0.4, 0.6 and 9.6 of -10 .. 10.
    there = in_the_environment(Box(-10, 10, (1,), np.int64), [-0.96, -0.04, 0.06, 0.96])
    assert there == [-10, 0, 1, 10]
    assert in_the_environment(Box(-1, 1, (1,), np.int32), [-0.6, 0.4, 0.6]) == [-1, 0, 1]
    assert in_the_environment(Box(0, 255, (1,), np.uint8), [-1.0, 0.0, 1.0]) == [0, 128, 255]
    for dtype in (np.int8, np.int32, np.int64, np.uint64):  # the largest have no float32
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        assert in_the_environment(Box(low, high, (1,), dtype), [-1.0, 1.0]) == [low, high]


def test_every_whole_number_is_as_likely_but_the_ends():
    # Of 11 values on 10 units of length, each has one unit, and the ends have half of one.
    even = np.linspace(-1, 1, 100_001).tolist()
    there = in_the_environment(Box(0, 10, (1,), np.int32), even)
    share = np.bincount(there) / len(there)
    assert np.allclose(share, [0.05, *[0.1] * 9, 0.05], atol=1e-3)


def test_whole_numbers_from_every_kind_of_actor():
    env = Spaces(OBS, Box(-1, 1, (1,), np.int32))
    for option in ({}, {"squashed": True}, {"deterministic": True}):
        actor = agents.actor(env, **option)
        with torch.no_grad():
            actor.head.bias.fill_(0.7)  # 0.6 after tanh
        assert actor.act(np.zeros((1, 3), np.float32)).tolist() == [[1]]
        assert actor.act(torch.zeros(1, 3)).tolist() == [[1.0]]


def test_actions_lie_within_bounds_of_any_type():
    # As float32, 0.1 is 0.10000000149.
    assert in_the_environment(Box(-0.1, 0.1, (1,), np.float64), [-1.0, 1.0, 5.0]) == [
        -0.1,
        0.1,
        0.1,
    ]
    for dtype in (np.float16, np.float32, np.float64):
        in_the_environment(Box(-1 / 3, 0.7, (1,), dtype), [-1.0, -0.999, 0.3, 1.0])


def test_one_value_alone_is_no_nan():
    space = Box(np.array([2.0, -1.0]), np.array([2.0, 1.0]), dtype=np.float64)
    units = ActionUnits(space)
    assert units.to_env(torch.tensor([[0.3, 0.5]])).tolist() == [[2.0, 0.5]]
    back = units.from_env(torch.tensor([[2.0, 0.5]], dtype=torch.float64))
    assert back.tolist() == [[0.0, 0.5]]
    assert back.dtype == torch.float32  # which critics take


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_spaces_come_back_from_plain_data_with_their_types(dtype, tmp_path):
    if "dtype" not in inspect.signature(Discrete).parameters and dtype != np.int64:
        pytest.skip("this Gymnasium has no Discrete of another dtype")
    discrete = Discrete(3, start=2) if dtype == np.int64 else Discrete(3, start=2, dtype=dtype)
    for space in (discrete, Box(0, 5, (2,), dtype)):
        env = Spaces(OBS, space)
        checkpoint.write(tmp_path / "file", describe(env))
        back = SpacesOnly(checkpoint.read(tmp_path / "file"))
        assert back.action_space == space
        assert back.action_space.dtype == space.dtype
    about = describe(Spaces(OBS, Discrete(3)))
    del about["action"]["dtype"]  # as version 0.1 wrote it
    assert SpacesOnly(about).action_space == Discrete(3)


def test_bounds_whose_sum_is_too_large_for_float32():
    units = ActionUnits(Box(2e38, 3e38, (1,), np.float32))
    ends = units.to_env(torch.tensor([[-1.0], [0.0], [1.0]]))[:, 0].tolist()
    assert ends == pytest.approx([2e38, 2.5e38, 3e38], rel=1e-6)


def test_the_largest_float_is_no_bound_for_anyone():
    most = float(np.finfo(np.float32).max)
    box = Box(np.array([0, -most, 0], np.float32), np.array([most, 0, 1], np.float32))
    assert spanned(box).tolist() == [False, False, True]
    assert spanned(Box(3.5e38, 3.6e38, (1,), np.float64)).tolist() == [False]  # no float32
    # Passed through where there is none, and cut off at the one that there is.
    action = ActionUnits(box).to_env(torch.tensor([[-2.0, -2.0, 0.0], [2.0, 2.0, 0.0]]))
    assert action.tolist() == [[0.0, -2.0, 0.5], [2.0, 0.0, 0.5]]
    env = Spaces(OBS, box)
    with pytest.raises(ValueError, match="needs actions with bounds"):
        agents.actor(env, deterministic=True)
    with pytest.raises(ValueError, match="which has no bounds"):
        envs.DiscretizeAction(env, bins=2)


@pytest.mark.parametrize(
    ("low", "high", "dtype", "apart"),
    [  # float32 has a step of 64 at 1e9, and of 2 from 2**24 on
        (1e9, 1e9 + 1, np.float64, False),
        (1e9, 1e9 + 1000, np.float64, False),
        (1e9, 1e9 + 1100, np.float64, True),
        (-1e9, 1e9, np.float64, True),
        (1e9, 1e9, np.float64, True),  # one value alone
        (-1e-300, 1e-300, np.float64, True),  # as good as one
        (0.1, np.inf, np.float64, True),
        (2**24, 2**24 + 3, np.int32, False),
        (2**23, 2**23 + 3, np.int32, True),
        (2**60, 2**60 + 1, np.int64, False),
        (0, 255, np.uint8, True),
        (1000, 1001, np.float16, True),
        (0, 1, np.bool_, True),
        (16777216, 16777218, np.float32, True),  # its own type has no more
    ],
)
def test_bounds_that_float32_tells_apart(low, high, dtype, apart):
    assert told_apart(Box(low, high, (1,), dtype)).tolist() == [apart]


@pytest.mark.parametrize("shape", [(0,), (2, 0)])
def test_a_space_without_a_number_is_named(shape):
    for env in (Spaces(Box(-1, 1, shape), Discrete(2)), Spaces(OBS, Box(-1, 1, (0,)))):
        with pytest.raises(ValueError, match=r"without a single number; expected at least one"):
            agents.actor(env)


BYTES = Box(-128, 127, (1,), np.int8)
WHOLE = Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (1,), np.int64)
TENTH = Box(0.1, 0.7, (1,), np.float64)  # no numbers of float32


@pytest.mark.parametrize(
    ("space", "policy_action", "expected"),
    [
        (BYTES, [[-1.0], [0.2], [1.0]], [[-128], [25], [127]]),  # -0.5 + 0.2 * 127.5 = 25
        (WHOLE, [[-1.0], [1.0]], [[-(2**63)], [2**63 - 1]]),
        (TENTH, [[-9.0], [9.0]], [[0.1], [0.7]]),
        (Box(0, 1, (2,), np.bool_), [[-1.0, 1.0]], [[False, True]]),
        (Box(-2, 1, (1,), np.float16), [[-1.0], [0.0], [1.0]], [[-2.0], [-0.5], [1.0]]),
        (Discrete(3, start=-1, dtype=np.int8), [0, 1, 2], [-1, 0, 1]),
    ],
)
def test_tensors_of_actions_are_of_the_spaces_own_type(space, policy_action, expected):
    units = ActionUnits(space)
    given = units.to_tensor(units.to_env(torch.tensor(policy_action)))
    assert given.numpy().dtype == space.dtype
    assert given.tolist() == expected
    assert all(space.contains(row) for row in given.numpy())


def test_discrete_actions_that_do_not_start_at_zero():
    actor = agents.actor(Spaces(OBS, Discrete(3, start=5)))
    assert set(actor.act(torch.randn(50, 3)).tolist()) <= {5, 6, 7}
    assert ActionUnits(Discrete(3, start=5)).to_env(torch.tensor([0, 2])).tolist() == [5, 7]


def test_act_is_the_mode_within_the_bounds():
    actor = agents.actor(Spaces(OBS, WIDE))
    with torch.no_grad():
        actor.head.weight.zero_()
        actor.head.bias.copy_(torch.tensor([9.0, 0.0, -9.0]))
    action = actor.act(torch.zeros(1, 3))
    assert torch.allclose(action, torch.tensor([[3.0, 0.25, -3.0]]))


# --- running statistics -----------------------------------------------------------------------


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.floats(-1000, 1000))
def test_running_statistics_are_those_of_all_batches_together(sizes, offset):
    torch.manual_seed(0)
    batches = [torch.randn(size, 3) * 5 + offset for size in sizes]
    statistics, together = RunningStatistics((3,)), torch.cat(batches).double()
    for batch in batches:
        statistics.update(batch)
    assert int(statistics.count) == sum(sizes)
    assert torch.allclose(statistics.mean.double(), together.mean(0), atol=1e-2, rtol=1e-4)
    expected = together.var(0, correction=0).sqrt()
    assert torch.allclose(statistics.std.double(), expected, atol=2e-2, rtol=1e-3)


def test_normalising_goes_there_and_back():
    statistics, batch = RunningStatistics(()), torch.randn(50) * 7 + 100
    statistics.update(batch)
    standard = statistics.normalize(batch)
    assert abs(standard.mean()) < 1e-4
    assert torch.allclose(standard.std(correction=0), torch.tensor(1.0), atol=1e-4)
    assert torch.allclose(statistics.denormalize(standard), batch, atol=1e-3)


def test_constant_observations_do_not_blow_up():
    statistics = RunningStatistics((2,))
    statistics.update(torch.ones(10, 2) * 3)
    assert statistics.normalize(torch.tensor([[3.0, 4.0]])).tolist() == [[0.0, 10.0]]


def test_statistics_travel_with_the_state_dict():
    env = Spaces(OBS, Discrete(2))
    one, two = agents.critic(env), agents.critic(env)
    agents.update_statistics(one, torch.randn(10, 3) + 5, returns=torch.randn(10) * 100)
    two.load_state_dict(one.state_dict())
    obs = torch.randn(4, 3)
    assert torch.equal(one(obs), two(obs))
    assert agents.return_scale(two) > 10


# --- Q-networks ---------------------------------------------------------------------------------

every_head = pytest.mark.parametrize("dueling", [False, True])


@every_head
@pytest.mark.parametrize("parallel", [False, True])
def test_shapes_of_a_q_network(parallel, dueling):
    q_network = agents.q_network(Spaces(OBS, Discrete(4)), dueling=dueling)
    network = nn.DataParallel(q_network) if parallel else q_network
    assert agents.q_values(network, torch.randn(7, 3)).shape == (7, 4)
    assert agents.q_values(network, torch.randn(0, 3)).shape == (0, 4)


@pytest.mark.as_made
@every_head
def test_no_action_starts_preferred(dueling):
    """Against the values that rewards of 1 will lead to."""
    q_network = agents.q_network(Spaces(OBS, Discrete(4)), dueling=dueling)
    agents.update_statistics(q_network, rewards=torch.ones(10))
    values = q_network(torch.randn(100, 3)).detach()
    assert (values.max(1).values - values.min(1).values).max() < 1


def test_a_dueling_network_is_a_value_and_advantages_that_add_up_to_nothing():
    q_network = agents.q_network(Spaces(OBS, Discrete(3)), dueling=True)
    nn.init.normal_(q_network.head.weight)
    nn.init.normal_(q_network.value_head.weight)
    agents.update_statistics(q_network, rewards=torch.tensor([3.0, 4.0]))
    obs = torch.randn(20, 3)
    with torch.no_grad():
        values = q_network(obs)
        value = q_network.scale * q_network.value_head(q_network.features(obs))[:, 0]
        assert torch.allclose(values.mean(1), value, rtol=1e-4, atol=1e-3)
        raw = q_network.scale * q_network.head(q_network.features(obs))
        # Advantages differ from each other as the head says.
        assert torch.allclose(values[:, :1] - values, raw[:, :1] - raw, rtol=1e-4, atol=1e-3)
        # What all advantages have in common is no part of Q: it could as well be the value.
        q_network.head.bias += 7.0
        assert torch.allclose(q_network(obs), values, rtol=1e-3, atol=1e-2)
        q_network.value_head.bias += 1.0
        assert torch.allclose(q_network(obs), values + q_network.scale, rtol=1e-3, atol=1e-2)


def up_to(most):
    """Floats of any sign and size whose squares are no less than float32 can tell from 0."""
    return st.floats(1e-15, most) | st.floats(-most, -1e-15) | st.just(0.0)


@given(st.lists(up_to(1e9), min_size=1, max_size=30))
def test_the_scale_is_that_of_so_many_usual_rewards(rewards):
    """The root of their mean square, so that rewards of the same size have one too."""
    q_network = agents.q_network(Spaces(OBS, Discrete(2)))
    agents.update_statistics(q_network, rewards=torch.tensor(rewards))
    size = np.sqrt(np.mean(np.square(np.float64(rewards))))
    expected = agents.VALUE_UNIT * (size or 1)
    assert float(agents.value_scale(q_network)) == pytest.approx(expected, rel=1e-2)
    assert agents.value_scale(nn.DataParallel(q_network)) == q_network.scale


def test_values_are_in_the_environments_units():
    q_network = agents.q_network(Spaces(OBS, Discrete(2)))
    obs = torch.randn(5, 3)
    with torch.no_grad():
        agents.update_statistics(q_network, rewards=torch.full((9,), -1.0))
        values = q_network(obs)
        q_network.reward_statistics.mean.mul_(-300.0)
        assert torch.allclose(q_network(obs), 300 * values, rtol=1e-4)


def test_a_plain_network_has_the_scale_1():
    assert agents.value_scale(nn.Linear(3, 2)) == 1.0
    agents.update_statistics(nn.Linear(3, 2), torch.randn(5, 3), rewards=torch.randn(5))


@every_head
@pytest.mark.parametrize("start", [0, 5])
def test_a_q_network_acts_on_its_highest_value(start, dueling):
    q_network = agents.q_network(Spaces(OBS, Discrete(3, start=start)), dueling=dueling)
    nn.init.normal_(q_network.head.weight)
    obs = np.random.default_rng(0).normal(size=(50, 3))  # float64
    best = [int(np.argmax(q)) for q in q_network(torch.as_tensor(obs).float()).tolist()]
    assert len(set(best)) == 3
    action = q_network.act(obs)
    assert isinstance(action, np.ndarray)
    assert action.dtype == np.int64
    assert action.tolist() == [start + index for index in best]
    tensor = q_network.act(torch.as_tensor(obs))
    assert isinstance(tensor, torch.Tensor)
    assert tensor.tolist() == action.tolist()


@pytest.mark.parametrize("network", [nn.Flatten(0), nn.Unflatten(1, (3, 1))])
def test_action_values_of_another_shape_are_named(network):
    with pytest.raises(ValueError, match=r"q_network gives values .* for 7 obs.*\(7, number of"):
        agents.q_values(network, torch.zeros(7, 3))


def test_a_q_network_needs_discrete_actions():
    match = r"q_network needs a Discrete action space; Spaces has Box.*envs.DiscretizeAction"
    with pytest.raises(TypeError, match=match):
        agents.q_network(Spaces(OBS, WIDE))


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (Spaces(OBS, Discrete(3)), r"\(3,\) and actions Discrete\(2\).*Discrete\(3\)"),
        (Spaces(OBS, Discrete(2, start=1)), r"Discrete\(2\).*Discrete\(2, start=1\)"),
        (Spaces(Box(-1, 1, (4,), np.float32), Discrete(2)), r"\(3,\).*has \(4,\)"),
    ],
)
def test_a_q_network_of_other_spaces_is_named(other, match):
    q_network = agents.q_network(Spaces(OBS, Discrete(2)))
    agents.check_fits("q_network", q_network, Spaces(OBS, Discrete(2)))
    with pytest.raises(
        ValueError, match=rf"q_network was made for .*{match}.*agents.q_network\(env\)"
    ) as it:
        agents.check_fits("q_network", q_network, other)
    assert "Spaces has" in str(it.value)


@every_head
@pytest.mark.parametrize("Trainer", [DQN, DDQN])
def test_a_q_network_out_of_a_file(Trainer, dueling, tmp_path):
    env = gym.make("CartPole-v1")
    shape = dict(hidden_sizes=(8, 5), activation=nn.ReLU, dueling=dueling)
    q_network = agents.q_network(env, **shape)
    trainer = Trainer(env, learning_starts=100, updates_per_step=0.1)
    trainer.train(q_network, steps=256)
    trainer.save(tmp_path / "file")
    loaded = agents.load(tmp_path / "file", "q_network")
    assert not loaded.training
    assert (loaded.value_head is not None) == dueling
    obs = torch.randn(50, 4)
    assert torch.equal(loaded(obs), q_network(obs))
    assert torch.equal(loaded.act(obs), q_network.act(obs))
    with pytest.raises(ValueError, match=r"name='actor'; .* holds \['q_network'\]"):
        agents.load(tmp_path / "file")


def test_a_q_network_plays_and_is_evaluated():
    """Pushes to where the pole leans: about 40 steps. Its values go with the player."""
    env = gym.make("CartPole-v1")
    q_network = agents.q_network(env, body=nn.Flatten())
    with torch.no_grad():
        q_network.head.weight.copy_(torch.tensor([[0.0, 0, -1, 0], [0.0, 0, 1, 0]]))
    episode = play(env, q_network, critic=q_network, seed=0)
    assert (episode.actions == (episode.obs[:-1, 2] > 0)).all()
    values = q_network(torch.as_tensor(episode.obs[:-1])).detach().numpy()
    np.testing.assert_allclose(episode.q_values, values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(episode.action_values, values.max(1), rtol=1e-5, atol=1e-6)
    assert play(env, q_network, seed=0).q_values.tolist() == episode.q_values.tolist()
    returns = evaluate(env, nn.DataParallel(q_network), episodes=20)
    assert 25 < returns.mean() < 70


def test_a_q_network_has_no_policy_to_sample_from():
    env = gym.make("CartPole-v1")
    q_network = agents.q_network(env)
    with pytest.raises(TypeError, match=r"deterministic=False.*QNetwork, has none.*=True"):
        play(env, q_network, deterministic=False)
    for network in (q_network, nn.DataParallel(q_network)):
        with pytest.raises(TypeError, match=r"deterministic=False.*a QNetwork, has none.*=True"):
            evaluate(env, network, episodes=1, deterministic=False)
    assert q_network.training  # as it was


# --- Gaussians put through tanh -----------------------------------------------------------------


def by_change_of_variables(action, mean, std):
    """log p(a), in float64 NumPy: log N(u) - log |da / du| at u = atanh(a), over all dimensions."""
    before = np.arctanh(action)
    normal = -0.5 * ((before - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    return (normal - np.log((1 - action) * (1 + action))).sum(-1)


def from_edge_to_edge(count):
    """Numbers between -1 and 1, as dense near the ends as in the middle, and how far apart."""
    to_the_end = np.logspace(-14, 0, count)
    numbers = np.concatenate([to_the_end - 1, (1 - to_the_end)[::-1][1:]])
    return numbers, np.gradient(numbers)


SHAPES = [(0.0, 1.0), (0.0, 0.05), (0.7, 2.0), (-2.0, 0.3), (4.0, 1.0), (-6.0, 2.0), (9.0, 0.5)]


@pytest.mark.parametrize(("mean", "std"), SHAPES)
def test_the_density_of_a_squashed_gaussian_adds_up_to_1(mean, std):
    action, width = from_edge_to_edge(4000)
    numbers = (
        torch.tensor([[mean]], dtype=torch.float64),
        torch.tensor([[std]], dtype=torch.float64),
    )
    density = agents.SquashedGaussian(*numbers).log_prob(torch.from_numpy(action)[:, None]).exp()
    assert float(density @ torch.from_numpy(width)) == pytest.approx(1, abs=1e-3)


def test_in_two_dimensions_too():
    mean, std = torch.tensor([[0.3, -1.0]]).double(), torch.tensor([[0.5, 0.8]]).double()
    action, width = from_edge_to_edge(300)
    both = torch.cartesian_prod(torch.from_numpy(action), torch.from_numpy(action))
    density = agents.SquashedGaussian(mean, std).log_prob(both).exp()
    area = torch.from_numpy(np.outer(width, width).ravel())
    assert float(density @ area) == pytest.approx(1, abs=1e-3)


@given(
    st.lists(st.floats(-0.999, 0.999), min_size=2, max_size=2),
    st.lists(st.floats(-3, 3), min_size=2, max_size=2),
    st.lists(st.floats(0.1, 3), min_size=2, max_size=2),
)
def test_its_log_prob_is_that_of_the_change_of_variables(action, mean, std):
    expected = by_change_of_variables(np.array(action), np.array(mean), np.array(std))
    given = [torch.tensor([numbers], dtype=torch.float64) for numbers in (mean, std, action)]
    found = agents.SquashedGaussian(*given[:2]).log_prob(given[2])
    assert found.shape == (1,)
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("mean", [-60.0, -12.0, -3.0, 0.0, 5.0, 30.0])
def test_what_was_just_drawn_has_an_exact_log_prob_at_the_ends_too(mean):
    """In float32 tanh(u) is 1 from 9 on, and atanh of that infinite. By hand: the normal density of
    u over the slope of tanh there, whose logarithm is log 4 - 2 |u| - 2 log(1 + e^(-2 |u|))."""
    noise = torch.tensor([[-1.0], [0.5], [2.0]])
    pi = agents.SquashedGaussian(torch.full((3, 1), mean), torch.full((3, 1), 0.5))
    action = pi.rsample(noise=noise)
    found = pi.log_prob(action).double().numpy()
    before = mean + 0.5 * noise[:, 0].double().numpy()
    slope = np.log(4) - 2 * np.abs(before) - 2 * np.log1p(np.exp(-2 * np.abs(before)))
    normal = -0.5 * noise[:, 0].numpy() ** 2 - np.log(0.5) - 0.5 * np.log(2 * np.pi)
    assert found == pytest.approx(normal - slope, abs=1e-4)
    assert (action.abs() <= 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("end", [-1.0, 1.0])
def test_an_end_out_of_a_memory_has_the_log_prob_of_the_number_before_it(end, dtype):
    before = float(np.nextafter(np.array(1, str(dtype)[6:]), np.array(0, str(dtype)[6:])))
    u = end * 0.5 * (np.log1p(before) - np.log1p(-before))  # atanh, in float64
    by_hand = -0.5 * (u - 0.3) ** 2 - 0.5 * np.log(2 * np.pi) - np.log1p(-(before**2))
    mean = torch.full((1, 1), 0.3, dtype=dtype)
    pi = agents.SquashedGaussian(mean, torch.ones(1, 1, dtype=dtype))
    found = float(pi.log_prob(torch.tensor([[end]], dtype=dtype)))
    assert found == pytest.approx(by_hand, abs=1e-4)


def test_a_squashed_gaussian_says_what_to_do_for_its_entropy():
    torch.manual_seed(0)
    pi = agents.SquashedGaussian(torch.zeros(200_000, 1), torch.full((200_000, 1), 0.02))
    with pytest.raises(NotImplementedError, match=r"-pi.log_prob\(action\).*pi.rsample\(\)"):
        pi.entropy()
    action = pi.rsample()
    # So narrow, it is a Gaussian: half of log(2 pi e sigma^2).
    by_hand = 0.5 * np.log(2 * np.pi * np.e * 0.02**2)
    assert float(-pi.log_prob(action).mean()) == pytest.approx(by_hand, abs=0.01)


@pytest.mark.parametrize("mean", [-8.0, -1.0, 0.2, 3.0, 12.0])
@pytest.mark.parametrize("std", [0.1, 1.0])
def test_the_gradient_reaches_mean_and_std_through_the_action_that_was_drawn(mean, std):
    """Of log p(a) and of a, against finite differences in float64."""
    noise = 0.7

    def slow(mean, log_std):
        before = mean + np.exp(log_std) * noise
        slope = np.log(4) - 2 * np.abs(before) - 2 * np.log1p(np.exp(-2 * np.abs(before)))
        return -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi) - slope, np.tanh(before)

    parameters = torch.tensor([mean, np.log(std)], requires_grad=True)
    pi = agents.SquashedGaussian(parameters[:1][None], parameters[1:].exp()[None])
    action = pi.rsample(noise=torch.tensor([[noise]]))
    found = (pi.log_prob(action)[0], action[0, 0])
    for number, output in enumerate(found):
        gradient = torch.autograd.grad(output, parameters, retain_graph=True)[0]
        step = 1e-6
        for index in range(2):
            shift = step * np.eye(2)[index]
            up, down = (np.array([mean, np.log(std)]) + sign * shift for sign in (1, -1))
            expected = (slow(*up)[number] - slow(*down)[number]) / (2 * step)
            assert float(gradient[index]) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_samples_of_a_squashed_gaussian():
    mean, std = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.5, 0.2]])
    pi, generator = agents.SquashedGaussian(mean, std), torch.Generator().manual_seed(0)
    before = torch.get_rng_state()
    samples = pi.sample((100_000,), generator=generator)
    assert torch.equal(before, torch.get_rng_state())
    assert samples.shape == (100_000, 1, 2)
    inside = samples[:, 0].atanh()
    assert torch.allclose(inside.mean(0), mean[0], atol=0.01)
    assert torch.allclose(inside.std(0), std[0], atol=0.01)
    # Half of them on either side of what `act` does.
    share = (samples < pi.mode).float().mean((0, 1))
    assert torch.allclose(share, torch.tensor([0.5, 0.5]), atol=0.01)
    noise = torch.tensor([[1.0, -2.0]])
    assert torch.allclose(pi.sample(noise=noise), (mean + std * noise).tanh())
    own = [torch.Generator().manual_seed(5) for _ in range(2)]
    assert torch.equal(pi.sample(generator=own[0]), pi.rsample(generator=own[1]))
    mean.requires_grad_()
    pi = agents.SquashedGaussian(mean, std)
    assert pi.rsample().requires_grad
    assert not pi.sample().requires_grad


# --- actors within bounds, and critics of what they do -------------------------------------------

BOUNDED = {"squashed": agents.SquashedGaussianActor, "deterministic": agents.DeterministicActor}
every_bounded = pytest.mark.parametrize("option", BOUNDED)


@pytest.mark.parametrize("parallel", [False, True])
def test_shapes_of_a_squashed_gaussian_actor(parallel):
    actor = agents.actor(Spaces(OBS, WIDE), squashed=True)
    pi = agents.policy(nn.DataParallel(actor) if parallel else actor, torch.randn(7, 3))
    action = pi.rsample()
    assert action.shape == pi.mode.shape == (7, 3)
    assert pi.log_prob(action).shape == (7,)
    assert pi.sample((5,)).shape == (5, 7, 3)


@pytest.mark.parametrize("parallel", [False, True])
def test_shapes_of_a_deterministic_actor_and_of_a_critic_of_actions(parallel):
    env, obs = Spaces(OBS, WIDE), torch.randn(7, 3)
    actor, critic = agents.actor(env, deterministic=True), agents.q_critic(env)
    action = actor(obs)
    assert action.shape == (7, 3)
    assert action.requires_grad
    critic = nn.DataParallel(critic) if parallel else critic
    assert agents.action_value(critic, obs, action).shape == (7,)


@every_bounded
def test_they_act_within_asymmetric_bounds(option):
    """Along the mean, or the action, put through tanh. Halves of the widths: 2, 0.25 and 2."""
    actor = agents.actor(Spaces(OBS, WIDE), **{option: True})
    nn.init.zeros_(actor.head.weight)
    with torch.no_grad():
        actor.head.bias[:3] = torch.tensor([9e9, 0.5, -0.25])
    middle, half = np.array([1, 0.25, -1]), np.array([2, 0.25, 2])
    expected = middle + half * np.tanh([9e9, 0.5, -0.25])
    action = actor.act(np.zeros((2, 3)))
    assert action.dtype == WIDE.dtype
    np.testing.assert_allclose(action, [expected, expected], rtol=1e-6)
    tensor = actor.act(torch.zeros(2, 3, dtype=torch.float64))
    np.testing.assert_allclose(tensor.numpy(), action, rtol=1e-6)
    with torch.no_grad():
        mode = actor(torch.zeros(1, 3))
        mode = actor.mode(mode) if option == "squashed" else mode
    np.testing.assert_allclose(mode[0], np.tanh([9e9, 0.5, -0.25]), rtol=1e-6)


@pytest.mark.as_made
@every_bounded
def test_the_first_actions_lie_in_the_middle(option):
    """In the middle of 100 environments' bounds, whatever is observed; with a standard deviation of
    1 before tanh where they are drawn."""
    actor, obs = agents.actor(Spaces(OBS, WIDE), **{option: True}), torch.randn(100, 3)
    middle = torch.tensor([1, 0.25, -1])
    assert ((actor.act(obs) - middle).abs() < 0.1).all()
    if option == "squashed":
        _, log_std = actor(obs)
        assert log_std.abs().max() < 0.1


def test_a_standard_deviation_stays_within_reason():
    actor = agents.actor(Spaces(OBS, WIDE), squashed=True)
    for bias in (-1e6, 1e6):
        nn.init.constant_(actor.head.bias, bias)
        _, log_std = actor(torch.zeros(1, 3))
        low, high = actor.LOG_STD
        assert log_std.tolist() == [[high if bias > 0 else low] * 3]


@every_bounded
def test_what_was_made_with_an_option_is_made_again_with_it(option):
    env = Spaces(OBS, WIDE)
    actor = agents.actor(env, hidden_sizes=(8, 5), activation=nn.ReLU, **{option: True})
    again = agents.make(actor.config, env)
    assert type(again) is type(actor) is BOUNDED[option]
    again.load_state_dict(actor.state_dict())
    assert torch.equal(again.act(torch.ones(2, 3)), actor.act(torch.ones(2, 3)))
    own = agents.actor(env, body=nn.Linear(3, 4), **{option: True})
    assert own.config is None
    other = Spaces(OBS, Box(-1, 1, (3,)))
    with pytest.raises(ValueError, match=rf"agents.actor\(env, {option}=True\)"):
        agents.check_fits("actor", own, other)


@pytest.mark.parametrize("name", ["squashed", "deterministic", "q_critic"])
@pytest.mark.parametrize(
    ("space", "error", "match"),
    [
        (
            Discrete(2),
            TypeError,
            r"needs a Box action space; Spaces has Discrete\(2\).*such as DQN",
        ),
        (Box(-np.inf, np.inf, (2,)), ValueError, "needs actions with bounds.*PPO.*TransformAction"),
        (
            Box(np.float32([-1, 0]), np.float32([1, np.inf])),
            ValueError,
            "needs actions with bounds",
        ),
        (Box(-3e38, 3e38, (1,)), ValueError, "needs actions with bounds"),
    ],
)
def test_they_need_actions_with_bounds(space, error, match, name):
    env, call = Spaces(OBS, space), "q_critic(env)" if name == "q_critic" else f"{name}=True"
    with pytest.raises(error, match=match) as it:
        agents.q_critic(env) if name == "q_critic" else agents.actor(env, **{name: True})
    assert call in str(it.value)


def test_both_options_at_once_are_named():
    with pytest.raises(ValueError, match=r"squashed=True and deterministic=True; expected one"):
        agents.actor(Spaces(OBS, WIDE), squashed=True, deterministic=True)


def test_a_critic_sees_the_observation_as_it_is_standardised_and_the_action_as_it_is():
    """With a body that adds up all that it gets."""

    class Sum(nn.Module):
        def forward(self, seen):
            return seen.sum(1, keepdim=True)

    env = Spaces(Box(-9, 9, (2, 2), np.float32), WIDE)
    critic = agents.q_critic(env, body=Sum())
    nn.init.ones_(critic.head.weight)
    obs = torch.randn(50, 2, 2) * 3 + 7
    agents.update_statistics(critic, obs, rewards=torch.tensor([3.0, -4.0]))
    action = torch.rand(50, 3) * 2 - 1
    standard = (obs - obs.mean(0)) / obs.std(0, correction=0)
    scale = agents.VALUE_UNIT * 12.5**0.5  # the root of the mean of 9 and 16
    expected = scale * (standard.flatten(1).sum(1) + action.sum(1))
    assert torch.allclose(critic(obs, action), expected, rtol=1e-3, atol=1e-2)
    assert float(agents.value_scale(nn.DataParallel(critic))) == pytest.approx(scale)


def test_a_critic_has_a_slope_in_the_action():
    env = Spaces(OBS, WIDE)
    critic, action = agents.q_critic(env), torch.zeros(5, 3, requires_grad=True)
    critic(torch.randn(5, 3), action).sum().backward()
    assert (action.grad.abs().sum(0) > 0).all()


@pytest.mark.parametrize("shape", [(7, 1), (1, 7), ()])
def test_a_critic_of_actions_with_another_shape_is_named(shape):
    critic = lambda obs, action: torch.zeros(shape)  # noqa: E731
    with pytest.raises(ValueError, match=rf"{re.escape(str(shape))} for 7 obs.*\(7,\).*squeeze"):
        agents.action_value(critic, torch.zeros(7, 3), torch.zeros(7, 2))


def test_they_are_evaluated_and_play():
    """One that always pushes one way does so, and one with chance samples where it is asked to."""
    env = gym.make("Pendulum-v1")
    actor = agents.actor(env, deterministic=True)
    nn.init.constant_(actor.head.bias, 9.0)
    episode = play(env, actor, seed=0, max_steps=5)
    assert episode.actions == pytest.approx(np.full((5, 1), 2.0))
    squashed = agents.actor(env, squashed=True)
    returns = evaluate(env, squashed, episodes=2)
    assert returns.shape == (2,)
    sampled = evaluate(env, nn.DataParallel(squashed), episodes=2, deterministic=False)
    assert (sampled != returns).all()


def test_a_deterministic_actor_has_no_policy_to_sample_from():
    env = gym.make("Pendulum-v1")
    actor = agents.actor(env, deterministic=True)
    match = r"deterministic=False.*a DeterministicActor, has none.*agents.actor\(env\).*=True"
    for network in (actor, nn.DataParallel(actor)):
        with pytest.raises(TypeError, match=match):
            evaluate(env, network, episodes=1, deterministic=False)
    with pytest.raises(TypeError, match=r"DeterministicActor without a distribution"):
        agents.policy(actor, torch.zeros(1, 3))


# --- target networks ------------------------------------------------------------------------------


def shaken(network):
    """The network with other numbers in all its parameters and buffers."""
    with torch.no_grad():
        for values in network.state_dict().values():
            values.add_(torch.randn(values.shape).to(values.dtype) + 3)
    return network


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("tau", [0.0, 0.25, 1.0])
def test_a_target_moves_by_tau_of_the_way(tau, parallel):
    env = Spaces(OBS, WIDE)
    target, network = agents.q_critic(env), shaken(agents.q_critic(env))
    before = {name: values.clone() for name, values in target.state_dict().items()}
    same = dict(target.named_parameters())
    agents.polyak_update(target, nn.DataParallel(network) if parallel else network, tau)
    names = dict(target.named_parameters())
    for name, values in target.state_dict().items():
        new = network.state_dict()[name]
        expected = tau * new + (1 - tau) * before[name] if name in names else new
        assert torch.allclose(values.double(), expected.double(), atol=1e-5), name
        if tau != 0.25 or name not in names:
            exact = new if tau == 1 or name not in names else before[name]
            assert torch.equal(values, exact), name
        assert not torch.equal(new, before[name])
    assert all(names[name] is same[name] for name in names)  # in place
    assert all(p.grad_fn is None for p in target.parameters())


# --- networks of the wrong kind ---------------------------------------------------------------

KIND = agents.QCritic


@pytest.mark.parametrize(
    "wrong",
    [agents.critic, agents.q_network, agents.actor, lambda env: "critic", lambda env: nn.Flatten],
)
def test_a_network_of_another_kind_is_named(wrong):
    network = wrong(Spaces(OBS, Discrete(2)))
    name = type(network).__name__
    kind = "QCritic" if isinstance(network, nn.Module) else "torch.nn.Module"
    match = rf"critic is a {name}; expected a {kind}, such as agents.q_critic\(env\)\."
    with pytest.raises(TypeError, match=match):
        agents.check_kind("critic", network, KIND)
    if isinstance(network, nn.Module):
        with pytest.raises(TypeError, match=match):
            agents.check_kind("critic", nn.DataParallel(network), KIND)


def test_a_network_of_ones_own_is_taken_as_it_comes():
    agents.check_kind("critic", nn.Linear(3, 1), KIND)
    agents.check_kind("critic", agents.q_critic(Spaces(OBS, WIDE)), KIND)
    agents.check_kind("critic", nn.DataParallel(agents.q_critic(Spaces(OBS, WIDE))), KIND)


def test_a_class_that_only_begins_with_ours_is_taken_as_it_comes():
    class Mine(agents.Actor):
        pass

    class Twisted(agents.SquashedGaussianActor):
        pass

    agents.check_policy(Mine(Spaces(OBS, WIDE), (8,), nn.Tanh, None), Spaces(OBS, WIDE))
    with pytest.raises(TypeError, match="actor is a Twisted; expected a CategoricalActor or Gauss"):
        agents.check_policy(Twisted(Spaces(OBS, WIDE), (8,), nn.Tanh, None), Spaces(OBS, WIDE))


def test_two_critics_are_two():
    one, two, other = (agents.q_critic(Spaces(OBS, WIDE)) for _ in range(3))
    for critics in ((one, two), [one, two], nn.ModuleList([one, two])):
        assert agents.two_critics(critics, KIND) == (one, two)
    twice = r"agents.q_critic\(env\), agents.q_critic\(env\)\."
    value = agents.critic(Spaces(OBS, WIDE))
    shared = nn.Linear(6, 4)
    twins = [agents.q_critic(Spaces(OBS, WIDE), body=shared) for _ in range(2)]
    for critics, error, match in [
        (one, TypeError, f"critics is a QCritic; expected two: {twice}"),
        ({one, two}, TypeError, f"critics is a set; expected two: {twice}"),
        ([one], ValueError, f"critics holds 1; expected two: {twice}"),
        ([], ValueError, f"critics holds 0; expected two: {twice}"),
        ([one, two, other], ValueError, f"critics holds 3; expected two: {twice}"),
        ([value, two], TypeError, r"critics\[0\] is a Critic; .* such as agents.q_critic\(env\)"),
        ([one, value], TypeError, r"critics\[1\] is a Critic; .* such as agents.q_critic\(env\)"),
        ([one, one], ValueError, f"critics share parameters; expected two of them: {twice}"),
        ([one, nn.DataParallel(one)], ValueError, "critics share parameters"),
        (twins, ValueError, "critics share parameters"),
    ]:
        with pytest.raises(error, match=match):
            agents.two_critics(critics, KIND)


# --- networks of your own ---------------------------------------------------------------------


def test_a_body_of_your_own():
    image = Box(0, 255, (3, 16, 16), np.uint8)
    body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten())
    actor = agents.actor(Spaces(image, Discrete(2)), body=body)
    assert agents.policy(actor, torch.rand(5, 3, 16, 16)).probs.shape == (5, 2)
    assert actor.config is None


def test_a_body_that_does_not_fit_is_named():
    image = Box(0, 255, (3, 16, 16), np.uint8)
    with pytest.raises(
        ValueError, match=r"body gives \('B', 4, 7, 7\).*expected \(B, F\).*Flatten"
    ):
        agents.actor(Spaces(image, Discrete(2)), body=nn.Conv2d(3, 4, 3, stride=2))


@pytest.mark.parametrize(
    ("body", "error", "match"),
    [
        (nn.Linear(7, 8), ValueError, r"body does not run: .*\('B', 3\).*It says"),
        (nn.Linear(3, 8).double(), ValueError, "body does not run"),
        (nn.LSTM(3, 8), ValueError, "body gives a tuple"),
        (nn.Linear, TypeError, "not a class"),
        (lambda obs: obs, TypeError, "expected a torch.nn.Module"),
    ],
)
def test_other_bodies_that_do_not_fit_are_named(body, error, match):
    with pytest.raises(error, match=match):
        agents.critic(Spaces(OBS, Discrete(2)), body=body)


class Sequence(nn.Module):
    """Takes the batch for time."""

    def __init__(self):
        super().__init__()
        self.memory = nn.LSTM(3, 8)

    def forward(self, obs):
        return self.memory(obs)[0]


class Centred(nn.Linear):
    def forward(self, obs):
        features = super().forward(obs)
        return features - features.mean(0)


@pytest.mark.parametrize("body", [Sequence, lambda: Centred(3, 8)])
def test_a_body_that_mixes_the_rows_of_a_batch_is_refused(body):
    before = torch.get_rng_state()
    made = body()
    torch.set_rng_state(before)
    for make in (agents.actor, agents.critic, agents.q_network):
        with pytest.raises(ValueError, match=r"mixes the rows of a batch.*FrameStack"):
            make(Spaces(OBS, Discrete(2)), body=made)
    assert torch.equal(torch.get_rng_state(), before)
    stacked = gym.wrappers.FrameStackObservation(gym.make("CartPole-v1"), 4)  # as it says
    assert agents.actor(stacked).act(np.zeros((1, 4, 4))).shape == (1,)


@pytest.mark.parametrize(
    "body",
    [
        lambda: nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)),
        lambda: nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.GELU()),
        lambda: nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 2), nn.Flatten()),
    ],
)
def test_a_body_whose_rows_are_on_their_own_is_taken(body):
    assert agents.critic(Spaces(OBS, Discrete(2)), body=body())(torch.zeros(4, 3)).shape == (4,)


def test_what_acts_is_asked_in_eval_mode():
    body = nn.Sequential(nn.Linear(3, 32), nn.BatchNorm1d(32), nn.Dropout(0.5))
    body[1].eval()  # one part is in another mode than the others
    env, obs = Spaces(OBS, Discrete(2)), torch.randn(6, 3)
    actor, critic = agents.actor(env, body=body), agents.critic(env, body=body)
    modes = [part.training for part in actor.modules()]
    with torch.no_grad():
        by_hand = actor.head(body[0](obs) / (1 + body[1].eps) ** 0.5)  # of a batch norm as made
    for asked in (actor, nn.DataParallel(actor)):
        assert torch.allclose(agents.policy(asked, obs).probs, by_hand.softmax(1), atol=1e-6)
    with torch.no_grad():
        one, two = (agents.value(critic, obs) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(agents.value(critic, obs), agents.value(critic, obs))  # is learned from
    assert [part.training for part in actor.modules()] == modes


def test_networks_of_ours_have_no_part_that_knows_of_modes():
    """So that nothing has to be switched at each step."""
    for network in (
        agents.actor(Spaces(OBS, WIDE), activation=nn.GELU),
        agents.q_network(Spaces(OBS, Discrete(2)), dueling=True),
        agents.q_critic(Spaces(OBS, WIDE)),
    ):
        assert agents.find_moody(network) == []
        assert agents.find_moody(nn.DataParallel(network)) == []


class Bare(nn.Module):
    def __init__(self, inputs=3):
        super().__init__()
        self.layer = nn.Linear(inputs, 2)

    def forward(self, obs):
        return self.layer(obs)


class Torchs(Bare):
    def distribution(self, logits):
        return torch.distributions.Categorical(logits=logits)


class Flat(Bare):
    def distribution(self, logits):
        return agents.Categorical(logits[0])


class Own(Bare):
    def distribution(self, logits):
        return agents.Categorical(logits)

    def act(self, obs):
        best = self(torch.as_tensor(obs, dtype=torch.float32)).argmax(1)
        return best if isinstance(obs, torch.Tensor) else best.numpy()


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (Bare, ["no distribution(parameters)", "agents.Categorical(logits)", "no act(obs)"]),
        (lambda: Bare(5), ["no distribution", "does not run", "(2, 3)", "no act(obs)"]),
        (Torchs, ["sample takes no generator; agents.Categorical", "no act(obs)"]),
        (Flat, ["actions are () for observations (2, 3) float32; expected (2,)"]),
    ],
)
def test_all_that_an_actor_of_ones_own_lacks_is_said_at_once(make, parts):
    with pytest.raises(TypeError, match="a network of your own") as raised:
        agents.check_policy(make(), Spaces(OBS, Discrete(2)))
    for part in parts:
        assert part in str(raised.value)
    before = torch.get_rng_state()
    agents.check_policy(own := Own(), Spaces(OBS, Discrete(2)))
    assert own.training
    torch.set_rng_state(before)


def test_an_actor_that_has_what_the_contract_asks_for_trains_is_judged_and_plays():
    env = gym.make("CartPole-v1")
    actor = Own(4)
    PPO(env, seed=0, rollout_steps=64).train(actor, agents.critic(env), 128, progress=False)
    assert evaluate(env, actor, episodes=2).shape == (2,)
    assert play(env, actor, seed=0).length > 1


def test_act_takes_what_gymnasium_gives():
    actor = agents.actor(Spaces(OBS, WIDE))
    obs = np.random.default_rng(0).normal(size=(5, 3))  # float64
    action = actor.act(obs)
    assert isinstance(action, np.ndarray)
    assert action.dtype == WIDE.dtype
    tensor = actor.act(torch.as_tensor(obs))
    assert np.allclose(action, tensor.numpy())


def test_a_network_that_is_no_actor_is_named():
    with pytest.raises(TypeError, match=r"actor is a Critic without a distribution.*body="):
        agents.policy(agents.critic(Spaces(OBS, WIDE)), torch.zeros(1, 3))


def test_trying_out_a_body_leaves_no_trace():
    body = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8))
    agents.critic(Spaces(OBS, Discrete(2)), body=body)
    assert body.training
    assert int(body[1].num_batches_tracked) == 0


def test_an_activation_of_your_own_is_no_recipe():
    class Mine(nn.Module):
        def forward(self, x):
            return x.sin()

    assert agents.actor(Spaces(OBS, Discrete(2)), activation=Mine).config is None


def test_statistics_are_those_of_the_network_within_a_wrapper():
    critic, obs = agents.critic(Spaces(OBS, WIDE)), torch.randn(7, 3)
    agents.update_statistics(nn.DataParallel(critic), obs, returns=torch.arange(7.0))
    assert int(critic.obs_statistics.count) == int(critic.return_statistics.count) == 7
    assert float(critic.return_statistics.mean) == pytest.approx(3)


@pytest.mark.parametrize("make", [agents.actor, agents.critic, agents.q_network])
def test_layers_see_observations_as_they_are_standardised(make):
    network, obs = make(Spaces(OBS, Discrete(4))), torch.randn(50, 3)
    nn.init.orthogonal_(network.head.weight)
    before = network(obs)
    far = 100 + 5 * obs
    agents.update_statistics(network, far)
    mean, std = far.mean(0), far.std(0, correction=0)
    assert not torch.allclose(network(obs), before, atol=1e-2)
    # What is as far from what it met as `obs` was from 0.
    assert torch.allclose(network(mean + std * obs), before, atol=1e-3)


def test_a_critic_predicts_standardised_returns_and_answers_in_units_of_reward():
    critic = agents.critic(Spaces(OBS, WIDE))
    agents.update_statistics(critic, returns=torch.tensor([70.0, 130.0]))  # 100, give or take 30
    nn.init.zeros_(critic.head.weight)
    for standardised, value in ((0.0, 100.0), (1.0, 130.0), (-2.0, 40.0)):
        nn.init.constant_(critic.head.bias, standardised)
        assert critic(torch.randn(4, 3)).tolist() == pytest.approx([value] * 4)


def test_networks_without_statistics_are_left_alone():
    plain = nn.Linear(3, 1)
    agents.update_statistics(plain, torch.randn(5, 3), returns=torch.randn(5))
    assert agents.return_scale(plain) == 1.0


def test_a_recipe_makes_the_same_network():
    env = Spaces(OBS, WIDE)
    actor = agents.actor(env, hidden_sizes=(8, 5), activation=nn.ReLU)
    again = agents.make(actor.config, env)
    again.load_state_dict(actor.state_dict())
    assert torch.equal(again.act(torch.ones(2, 3)), actor.act(torch.ones(2, 3)))
    assert isinstance(again.body[1], nn.ReLU)


class Upside(agents.CategoricalActor):
    def forward(self, obs):
        return -super().forward(obs)


def _made(change):
    def make(env):
        actor = agents.actor(env)
        change(actor)
        return actor

    return make


# Each is another policy, or is trained in another way, than what its config alone would make.
CHANGED = {
    "a subclass": lambda env: Upside(env, (64, 64), nn.Tanh, None),
    "an activation": _made(lambda a: a.body.__setitem__(1, nn.ReLU())),
    "its setting": _made(lambda a: a.body.__setitem__(1, nn.Hardtanh())),
    "a head": _made(lambda a: setattr(a, "head", nn.Sequential(nn.Linear(64, 2), nn.Tanh()))),
    "a bias": _made(lambda a: setattr(a, "head", nn.Linear(64, 2, bias=False))),
    "a layer more": _made(lambda a: a.body.add_module("more", nn.Tanh())),
    "a module that is called elsewhere": _made(lambda a: a.add_module("memory", nn.Tanh())),
    "a hook": _made(lambda a: a.register_forward_hook(lambda net, seen, out: -out)),
    "a hook of a part": _made(lambda a: a.head.register_forward_pre_hook(lambda net, seen: None)),
    "a hook of a weight": _made(lambda a: a.head.weight.register_hook(lambda slope: 0 * slope)),
    "a forward": _made(lambda a: setattr(a, "forward", lambda obs: -a.head(a.features(obs)))),
    "a constant": _made(lambda a: setattr(a, "temperature", 0.5)),
    "a type": _made(lambda a: a.double()),
    "a frozen layer": _made(lambda a: a.body.requires_grad_(False)),
    "tied weights": _made(lambda a: setattr(a.body[2], "bias", a.body[0].bias)),
    "a norm of the weights": _made(lambda a: nn.utils.parametrizations.weight_norm(a.head)),
    "the units of actions": _made(lambda a: setattr(a.action_units, "start", 1)),
}


@pytest.mark.parametrize("change", CHANGED)
def test_what_was_changed_is_code_of_ones_own(change):
    env = Spaces(OBS, Discrete(2))
    actor = CHANGED[change](env)
    assert agents.config_of(actor) is None
    assert agents.config_of(nn.DataParallel(actor)) is None


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.PReLU, nn.GELU])
def test_what_was_only_used_has_its_config(activation):
    discrete, box = Spaces(OBS, Discrete(2)), Spaces(OBS, WIDE)
    setting = dict(activation=activation, hidden_sizes=(8,))
    for network in [
        agents.actor(discrete, **setting),
        agents.actor(box, **setting),
        agents.actor(box, squashed=True, **setting),
        agents.actor(box, deterministic=True, **setting),
        agents.critic(box, **setting),
        agents.q_critic(box, **setting),
        agents.q_network(discrete, dueling=True, **setting),
    ]:
        assert agents.config_of(network) == network.config is not None
        seen = torch.randn(5, 3)
        inputs = (seen, torch.zeros(5, 3)) if isinstance(network, agents.QCritic) else (seen,)
        agents.update_statistics(network, seen, torch.randn(5), torch.randn(5))
        outputs = network(*inputs)
        sum(
            part.sum() for part in (outputs if isinstance(outputs, tuple) else [outputs])
        ).backward()
        network.eval()
        network.register_forward_hook(lambda *given: None).remove()
        torch.manual_seed(0)
        drawn = torch.rand(())
        torch.manual_seed(0)
        assert agents.config_of(nn.DataParallel(network)) == network.config
        assert torch.rand(()) == drawn  # to save is to change no random number


def test_a_network_of_another_class_has_no_config_of_ours():
    network = nn.Linear(3, 2)
    network.config = {"hidden_size": 3}  # as Hugging Face's have
    assert agents.config_of(network) is None


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (dict(hidden_sizes=(64, 0)), ValueError, r"hidden_sizes=\(64, 0\).*such as"),
        (dict(hidden_sizes=(6.4,)), ValueError, r"hidden_sizes"),
        (dict(hidden_sizes=64), ValueError, r"hidden_sizes=64"),
        (dict(activation="relu"), TypeError, r"activation='relu'.*torch.nn.ReLU"),
        (dict(activation=nn.ReLU()), TypeError, r"activation"),
    ],
)
def test_bad_arguments_are_named(arguments, error, match):
    with pytest.raises(error, match=match):
        agents.actor(Spaces(OBS, Discrete(2)), **arguments)


@pytest.mark.parametrize(
    ("env", "match"),
    [
        (Spaces(Discrete(5), Discrete(2)), r"observation space Discrete\(5\).*FlattenObservation"),
        (Spaces(OBS, MultiDiscrete([2, 2])), r"action space MultiDiscrete.*expected a Discrete"),
        (Spaces(OBS, Box(-1, 1, (2, 2))), r"Box actions of shape \(2, 2\)"),
        ("CartPole-v1", r"env is a str; expected a gymnasium.Env"),
    ],
)
def test_spaces_that_do_not_fit_are_named(env, match):
    with pytest.raises(TypeError, match=match):
        agents.actor(env)


def test_a_critic_that_is_a_plain_function_is_asked_too():
    with torch.no_grad():
        assert agents.value(lambda obs: obs.sum(1), torch.ones(3, 2)).tolist() == [2.0, 2.0, 2.0]
