"""Box actions as Discrete ones: the grid, and that the rest of the package takes it."""

import copy
import functools
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn

from metis_nb import PPO, agents, envs, evaluate, play
from metis_nb.notebook import frontend
from tests.scripted import Scripted, TorchVector

TORQUES = [-2.0, -1.0, 0.0, 1.0, 2.0]  # of Pendulum-v1, for bins=5


class Recorder(Scripted):
    """Two action dimensions with other bounds each, and a record of what arrives."""

    action_space = Box(np.array([-1.0, 0.0]), np.array([3.0, 1.0]), dtype=np.float64)

    def __init__(self):
        super().__init__()
        self.arrived = []

    def step(self, action):
        assert self.action_space.contains(action)
        self.arrived.append(action.tolist())
        action[:] = np.nan  # an environment may write into what it gets
        return super().step(0)


class TorchBox(TorchVector):
    """A vector that speaks torch and takes two numbers."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.single_action_space = Recorder.action_space
        self.action_space = gym.vector.utils.batch_space(Recorder.action_space, self.num_envs)


def pendulums(mode=AutoresetMode.NEXT_STEP, num_envs=3, max_episode_steps=7):
    return gym.make_vec(
        "Pendulum-v1",
        num_envs=num_envs,
        vectorization_mode="sync",
        vector_kwargs=dict(autoreset_mode=mode),
        max_episode_steps=max_episode_steps,
    )


def both(bins=5):
    return [
        envs.DiscretizeAction(gym.make("Pendulum-v1"), bins=bins),
        envs.DiscretizeAction(envs.make("Pendulum-v1", num_envs=3), bins=bins),
    ]


# --- the grid ---------------------------------------------------------------------------------


def test_the_index_runs_over_the_product_last_dimension_fastest():
    env = envs.DiscretizeAction(Recorder(), bins=(3, 2))
    by_hand = [[-1, 0], [-1, 1], [1, 0], [1, 1], [3, 0], [3, 1]]
    assert env.action_space == Discrete(6)
    assert env.bins == (3, 2)
    assert env.action_table.dtype == np.float64
    env.reset()
    for _ in range(2):  # twice: what the environment does with an action spoils no later one
        env.unwrapped.arrived.clear()
        for index in range(6):
            env.step(index)
            env.reset()
        assert env.unwrapped.arrived == by_hand
    assert env.action_table.tolist() == by_hand


@pytest.mark.parametrize("bins", [2, 3, 11, 1000, np.int64(5)])
def test_values_are_evenly_spaced_from_bound_to_bound(bins):
    for env in both(bins):
        torques = env.action_table
        assert torques.shape == (bins, 1)
        assert torques.dtype == np.float32
        assert torques[0] == -2
        assert torques[-1] == 2
        assert np.allclose(np.diff(torques[:, 0]), 4 / (bins - 1), atol=1e-6)
        assert np.isclose(torques, 0, atol=1e-12).any() == (bins % 2 == 1)


def test_one_number_is_for_every_dimension_and_the_default_holds_the_middle():
    assert envs.DiscretizeAction(Recorder(), bins=4).bins == (4, 4)
    table = envs.DiscretizeAction(Recorder()).action_table
    assert [1.0, 0.5] in table.tolist()


def test_whole_numbers_stay_whole():
    class Notches(Scripted):
        action_space = Box(0, 10, (1,), np.int64)

    env = envs.DiscretizeAction(Notches(), bins=4)
    assert env.action_table.tolist() == [[0], [3], [7], [10]]
    assert env.action_table.dtype == np.int64


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.int64, [-(2**63), 0, 2**63 - 1]),
        (np.uint64, [0, 2**63, 2**64 - 1]),
        (np.int8, [-128, 0, 127]),  # -0.5 is rounded to the even one
        (np.bool_, [False, False, True]),  # and 0.5 too
    ],
)
def test_all_whole_numbers_of_a_type_have_a_grid(dtype, expected):
    """The largest has no float of its own: it came out as the lowest."""
    low, high = (0, 1) if dtype == np.bool_ else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    env = gym.Env()
    env.observation_space, env.action_space = Box(-1, 1, (1,)), Box(low, high, (1,), dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = envs.DiscretizeAction(env, bins=3).action_table
    assert table.dtype == dtype
    assert table[:, 0].tolist() == expected
    assert all(env.action_space.contains(action) for action in table)


@pytest.mark.parametrize("shape", [(), (2, 1)])
def test_actions_keep_their_shape(shape):
    class Shaped(Scripted):
        action_space = Box(-1, 1, shape)

    env = envs.DiscretizeAction(Shaped(), bins=3)
    assert env.action_table.shape == (3 ** np.prod(shape, dtype=int), *shape)
    assert env.action(0).shape == shape
    assert (env.action(0) == -1).all()


# --- single environments and vectors ----------------------------------------------------------


def test_a_single_environment_gets_the_torques():
    (env, _), plain = both(), gym.make("Pendulum-v1")
    assert np.array_equal(env.reset(seed=3)[0], plain.reset(seed=3)[0])
    for index in (0, 4, 2, 3, 1, 0):
        one, two = env.step(index), plain.step(np.array([TORQUES[index]], np.float32))
        assert np.array_equal(one[0], two[0])
        assert one[1:4] == two[1:4]


def indices(steps, num_envs, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, (steps, num_envs), generator=generator)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_the_view_of_a_vector_sees_what_the_torques_do_in_every_mode(mode):
    view = envs.TensorView(envs.DiscretizeAction(pendulums(mode), bins=5), seed=1)
    plain = envs.TensorView(pendulums(mode), seed=1)
    assert view.mode == mode
    assert torch.equal(view.reset(), plain.reset())
    for index in indices(20, 3):  # over two time limits
        one = view.step(index)
        two = plain.step(torch.tensor(TORQUES)[index][:, None] / 2)  # [-1, 1] spans the bounds
        for a, b in zip(vars(one).values(), vars(two).values(), strict=True):
            assert torch.equal(a, b)
    assert view.finished == plain.finished
    assert len(view.finished) >= 6


def test_wrapped_inside_or_outside_of_a_vector_is_the_same():
    wrap = functools.partial(envs.DiscretizeAction, bins=5)
    inside = envs.TensorView(envs.make("Pendulum-v1", num_envs=3, wrappers=[wrap]), seed=1)
    outside = envs.TensorView(wrap(envs.make("Pendulum-v1", num_envs=3)), seed=1)
    assert torch.equal(inside.reset(), outside.reset())
    for index in indices(10, 3):
        assert torch.equal(inside.step(index).obs, outside.step(index).obs)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_a_vector_that_returns_tensors_gets_tensors(mode):
    inner = TorchBox(mode=mode)
    view = envs.TensorView(envs.DiscretizeAction(inner, bins=(3, 2)))
    assert torch.equal(view.reset(), inner.handed_out)  # a copy: the vector may write into its own
    steps = [view.step(torch.tensor([5, i])) for i in range(4)]
    assert all(isinstance(action, torch.Tensor) for action in inner.actions)
    assert [action[1].tolist() for action in inner.actions] == [[-1, 0], [-1, 1], [1, 0], [1, 1]]
    assert all(action[0].tolist() == [3, 1] for action in inner.actions)
    assert [step.next_obs[:, 0].tolist() for step in steps] == [[1, 1], [2, 2], [3, 3], [1, 4]]


# --- made afresh, evaluated, watched ----------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1])
def test_original_is_the_discretised_original(which):
    made = envs.make_single(both()[which])
    assert isinstance(made, envs.DiscretizeAction)
    assert made.action_table[:, 0].tolist() == TORQUES
    assert made.spec.max_episode_steps == 200
    assert envs.make_single(made).action_space == Discrete(5)


def test_original_of_one_wrapped_inside_a_vector_or_below_another_wrapper():
    wrap = functools.partial(envs.DiscretizeAction, bins=5)
    made_by_hand = SyncVectorEnv([lambda: wrap(gym.make("Pendulum-v1"))] * 2)
    below = gym.wrappers.vector.RecordEpisodeStatistics(both()[1])
    inside = envs.make("Pendulum-v1", num_envs=2, wrappers=[wrap])
    single = gym.wrappers.TimeAwareObservation(both()[0])
    for env in (made_by_hand, below, inside, single):
        assert envs.make_single(env).action_space == Discrete(5)


def test_original_still_refuses_other_wrappers_of_whole_batches():
    halved = gym.wrappers.vector.TransformAction(
        envs.make("Pendulum-v1", num_envs=2), lambda action: action / 2
    )
    for env in (halved, envs.DiscretizeAction(halved)):
        with pytest.raises(ValueError, match="TransformAction changes a whole batch"):
            envs.make_single(env)


def test_an_environment_without_a_spec_is_copied():
    single = envs.DiscretizeAction(Recorder(), bins=(3, 2))
    vector = envs.DiscretizeAction(SyncVectorEnv([Recorder] * 2), bins=(3, 2))
    for env in (single, vector):
        made = envs.make_single(env)
        assert made.action_space == Discrete(6)
        made.reset()
        made.step(2)
        assert made.unwrapped.arrived == [[1, 0]]
    assert single.unwrapped.arrived == []


@pytest.mark.parametrize("remake", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_are_whole(remake):
    made = remake(both()[0])
    assert made.action_table[:, 0].tolist() == TORQUES
    assert made.action_space == Discrete(5)


class Swing(nn.Module):
    """Turns with the speed: indices 0 or 4 of five torques."""

    def __init__(self):
        super().__init__()
        self.anywhere = nn.Parameter(torch.zeros(1))

    def act(self, obs):
        return torch.where(obs[:, 2] > 0, 4, 0)


def test_evaluate_gives_the_returns_of_the_torques():
    single, vector = both()
    returns = evaluate(single, Swing(), episodes=3)
    assert np.array_equal(returns, evaluate(vector, Swing(), episodes=3))
    by_hand = []
    for index in range(3):
        env, total = gym.make("Pendulum-v1"), 0.0
        obs, _ = env.reset(seed=envs.SEED_STRIDE // 2 + index)
        for _ in range(200):
            obs, reward, *_ = env.step(np.array([2.0 if obs[2] > 0 else -2.0], np.float32))
            total += reward
        by_hand.append(total)
    assert np.allclose(returns, by_hand)


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("which", [0, 1])
def test_play_shows_a_bar_for_each_action(which, live, monkeypatch):
    monkeypatch.setattr(frontend, "is_live", lambda: live)
    env = both()[which]
    actor, q_network = agents.actor(env), agents.q_network(env)
    episode = play(env, actor, critic=agents.critic(env), seed=0, max_steps=5)
    assert episode.probabilities.shape == (5, 5)
    assert episode.action_space == Discrete(5)
    assert set(episode.actions) <= set(range(5))
    values = play(env, q_network, seed=0, max_steps=5)
    assert values.q_values.shape == (5, 5)
    assert np.array_equal(values.q_values.argmax(1), values.actions)
    for shown in (episode, values):
        assert "text/html" in shown._repr_mimebundle_()
        if live:
            assert shown.again().action_space == Discrete(5)


# --- training ---------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1])
def test_a_captured_environment_goes_on_bit_for_bit(which):
    view = envs.TensorView(both()[which], seed=5)
    view.reset()
    for index in indices(33, view.num_envs):
        view.step(index)
    state = view.state_dict()
    assert state["env"] is not None
    expected = [view.step(index).obs for index in indices(300, view.num_envs, seed=1)]
    other = envs.TensorView(both()[which], seed=9)
    other.reset()
    assert other.load_state_dict(state)
    for index, obs in zip(indices(300, view.num_envs, seed=1), expected, strict=True):
        assert torch.equal(other.step(index).obs, obs)


def test_ppo_trains_and_goes_on_from_a_file_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    whole = envs.DiscretizeAction(envs.make("Pendulum-v1", num_envs=4), bins=5)
    actor, critic = agents.actor(whole), agents.critic(whole)
    trainer = PPO(whole, seed=0, rollout_steps=128)
    before = copy.deepcopy(actor.state_dict())
    trainer.train(actor, critic, steps=256, progress=False)
    assert not torch.equal(before["head.weight"], actor.state_dict()["head.weight"])
    trainer.save(tmp_path / "ppo.safetensors")
    trainer.train(actor, critic, steps=256, progress=False)

    again = envs.DiscretizeAction(envs.make("Pendulum-v1", num_envs=4), bins=5)
    other = PPO.load(tmp_path / "ppo.safetensors", again)
    other.train(other.actor, other.critic, steps=256, progress=False)
    for one, two in zip(actor.parameters(), other.actor.parameters(), strict=True):
        assert torch.equal(one, two)


# --- bad input --------------------------------------------------------------------------------


class Boundless(Scripted):
    action_space = Box(-np.inf, 1, (1,))


class Vast(Scripted):
    action_space = Box(-3.4e38, 3.4e38, (1,))


class Limbs(Scripted):
    action_space = Box(-1, 1, (17,))


@pytest.mark.parametrize(
    ("env", "bins", "error", "match"),
    [
        (3, 5, TypeError, "env is a int"),
        (gym.make("CartPole-v1"), 5, TypeError, r"CartPole-v1 .*Discrete\(2\)"),
        (envs.make("CartPole-v1"), 5, TypeError, r"CartPole-v1 .*Discrete\(2\)"),
        (both()[0], 5, TypeError, r"Discrete\(5\)"),
        (Boundless(), 5, ValueError, "no bounds"),
        (Vast(), 5, ValueError, "no bounds"),
        (Recorder(), 1, ValueError, "bins=1; .*at least 2"),
        (Recorder(), True, ValueError, "bins=True"),
        (Recorder(), 2.5, ValueError, r"bins=2\.5"),
        (Recorder(), "11", ValueError, "bins='11'"),
        (Recorder(), None, ValueError, "bins=None"),
        (Recorder(), (3, 1), ValueError, r"bins=\(3, 1\)"),
        (Recorder(), (3, 3, 3), ValueError, "each of the 2 action dimensions"),
        (pendulums(), (3, 3), ValueError, "each of the 1 action dimensions of Pendulum-v1"),
        (Recorder(), 32, ValueError, r"1,024 actions of Recorder \(32 x 32\).*SAC"),
        (Limbs(), 11, ValueError, "505,447,028,499,293,771 actions"),
    ],
)
def test_bad_input_is_named(env, bins, error, match):
    with pytest.raises(error, match=match):
        envs.DiscretizeAction(env, bins=bins)


@pytest.mark.parametrize("action", [-1, 5, 1.0, np.array([0.3], np.float32)])
def test_what_is_no_index_is_refused(action):
    single, vector = both()
    single.reset(), vector.reset()
    with pytest.raises(ValueError, match=r"action=.*Discrete"):
        single.step(action)
    with pytest.raises((ValueError, IndexError)):
        vector.step(np.full((3, *np.shape(action)), action))
