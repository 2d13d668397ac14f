"""Networks: shapes, distributions, running statistics, action units, bad input."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from metis_nb import DDQN, DQN, agents, evaluate, play
from metis_nb.agents import RunningStatistics
from metis_nb.spaces import ActionUnits


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


def test_sampling_with_a_generator_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    own = torch.Generator().manual_seed(0)
    agents.Categorical(torch.zeros(3, 2)).sample(generator=own)
    agents.Gaussian(torch.zeros(3, 2), torch.ones(3, 2)).sample(generator=own)
    assert torch.equal(before, torch.get_rng_state())


def test_the_first_policy_is_nearly_uniform():
    env = Spaces(OBS, Discrete(4))
    probs = agents.policy(agents.actor(env), torch.randn(100, 3)).probs
    assert (probs - 0.25).abs().max() < 0.02


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


def test_discrete_actions_that_do_not_start_at_zero():
    actor = agents.actor(Spaces(OBS, Discrete(3, start=5)))
    assert set(actor.act(torch.randn(50, 3)).tolist()) <= {5, 6, 7}
    assert ActionUnits(Discrete(3, start=5)).to_env(torch.tensor([0, 2])).tolist() == [5, 7]


def test_act_is_the_mode_within_the_bounds():
    actor = agents.actor(Spaces(OBS, WIDE))
    with torch.no_grad():
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
    expected = together.var(0, correction=0).sqrt().clamp(min=1e-4)
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
    agents.observe(one, torch.randn(10, 3) + 5, returns=torch.randn(10) * 100)
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


@every_head
def test_no_action_is_the_favourite_of_chance(dueling):
    """Against the values that rewards of 1 will lead to."""
    q_network = agents.q_network(Spaces(OBS, Discrete(4)), dueling=dueling)
    agents.observe(q_network, rewards=torch.ones(10))
    values = q_network(torch.randn(100, 3)).detach()
    assert (values.max(1).values - values.min(1).values).max() < 1


def test_a_dueling_network_is_a_value_and_advantages_that_add_up_to_nothing():
    q_network = agents.q_network(Spaces(OBS, Discrete(3)), dueling=True)
    nn.init.normal_(q_network.head.weight)
    nn.init.normal_(q_network.value_head.weight)
    agents.observe(q_network, rewards=torch.tensor([3.0, 4.0]))
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


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30))
def test_the_scale_is_that_of_so_many_usual_rewards(rewards):
    """The root of their mean square, so that rewards of the same size have one too."""
    q_network = agents.q_network(Spaces(OBS, Discrete(2)))
    agents.observe(q_network, rewards=torch.tensor(rewards))
    size = np.sqrt(np.mean(np.square(np.float64(rewards))))
    expected = agents.HORIZON * max(size, 1e-4)
    assert float(agents.reward_scale(q_network)) == pytest.approx(expected, rel=1e-2, abs=0.02)
    assert agents.reward_scale(nn.DataParallel(q_network)) == q_network.scale


def test_values_are_in_the_environments_units():
    q_network = agents.q_network(Spaces(OBS, Discrete(2)))
    obs = torch.randn(5, 3)
    with torch.no_grad():
        agents.observe(q_network, rewards=torch.full((9,), -1.0))
        values = q_network(obs)
        q_network.reward_statistics.mean.mul_(-300.0)
        assert torch.allclose(q_network(obs), 300 * values, rtol=1e-4)


def test_a_plain_network_has_the_scale_1():
    assert agents.reward_scale(nn.Linear(3, 2)) == 1.0
    agents.observe(nn.Linear(3, 2), torch.randn(5, 3), rewards=torch.randn(5))


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
    with pytest.raises(TypeError, match="QNetwork without a distribution"):
        evaluate(env, q_network, episodes=1, deterministic=False)


# --- networks of your own ---------------------------------------------------------------------


def test_a_body_of_your_own():
    image = Box(0, 255, (3, 16, 16), np.uint8)
    body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten())
    actor = agents.actor(Spaces(image, Discrete(2)), body=body)
    assert agents.policy(actor, torch.rand(5, 3, 16, 16)).probs.shape == (5, 2)
    assert actor.recipe is None


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

    assert agents.actor(Spaces(OBS, Discrete(2)), activation=Mine).recipe is None


def test_networks_without_statistics_are_left_alone():
    plain = nn.Linear(3, 1)
    agents.observe(plain, torch.randn(5, 3), returns=torch.randn(5))
    assert agents.return_scale(plain) == 1.0


def test_a_recipe_makes_the_same_network():
    env = Spaces(OBS, WIDE)
    actor = agents.actor(env, hidden_sizes=(8, 5), activation=nn.ReLU)
    again = agents.make(actor.recipe, env)
    again.load_state_dict(actor.state_dict())
    assert torch.equal(again.act(torch.ones(2, 3)), actor.act(torch.ones(2, 3)))
    assert isinstance(again.body[1], nn.ReLU)


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
