"""Exact values of Pendulum-v1: against Gymnasium's own environment and slower computations."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from metis_nb import agents, envs, exact

WORST = -16.2736044  # Pendulum's lowest reward: -(pi^2 + 0.1 * 8^2 + 0.001 * 2^2)


class Rule:
    """An actor by hand: `rule(cosine, sine, speed)`, all (B,), gives torques or indices (B,)."""

    def __init__(self, rule, discrete=False):
        self.rule, self.discrete = rule, discrete

    def act(self, obs):
        action = self.rule(*obs.T)
        return action if self.discrete else action[:, None]


# Pumps energy in, or out, and holds the pendulum near the top.
SWING = Rule(
    lambda cosine, sine, speed: torch.where(
        cosine > 0.95,
        (-10 * sine - 3 * speed).clamp(-2, 2),
        2 * torch.sign(speed * (15 * (1 - cosine) - speed.square() / 2)),
    )
)
LAZY = Rule(lambda cosine, sine, speed: 0 * speed)
DIZZY = Rule(lambda cosine, sine, speed: torch.where(speed > 0, 4, 0), discrete=True)  # of five


@pytest.fixture(scope="module")
def world():
    return exact.Pendulum(torques=5)


@pytest.fixture(scope="module")
def best(world):
    return world.optimal()


def starts(count, seed=0):
    generator = np.random.default_rng(seed)
    return generator.uniform(-np.pi, np.pi, count), generator.uniform(-8, 8, count)


def simulated(actor, angle, speed, torques=None, gamma=0.99, steps=1200):
    """The discounted return in Gymnasium's environment, from each of the states, (count,)."""
    games = [gym.make("Pendulum-v1").unwrapped for _ in angle]
    for game, *state in zip(games, angle, speed):
        game.reset()
        game.state = np.array(state)
    obs, totals = np.stack([game._get_obs() for game in games]), np.zeros(len(games))
    for step in range(steps):
        action = np.asarray(actor.act(torch.as_tensor(obs)))
        action = action if torques is None else torques[action][:, None]
        seen = [game.step(torque) for game, torque in zip(games, action)]
        obs = np.stack([row[0] for row in seen])
        totals += gamma**step * np.array([row[1] for row in seen])
    return totals


def interpolated(world, v, angle, speed):
    """V of one state, by NumPy's interpolation in one dimension after the other."""
    around = np.concatenate([world.angle - 2 * np.pi, world.angle, world.angle + 2 * np.pi])
    column = [np.interp(angle, around, np.tile(row, 3)) for row in v.T]
    return np.interp(speed, world.speed, column)


def backed_up(world, v, angle, speed, torque):
    """r + gamma V(s') of one state and torque, with Gymnasium's step."""
    game = gym.make("Pendulum-v1").unwrapped
    game.reset()
    game.state = np.array([angle, speed])
    _, reward, *_ = game.step(np.array([torque]))
    after = (game.state[0] + np.pi) % (2 * np.pi) - np.pi
    return reward + world.gamma * interpolated(world, v, after, game.state[1])


# --- the physics and the grid -----------------------------------------------------------------


def test_a_step_is_gymnasiums():
    angle, speed = starts(500)
    torque = np.random.default_rng(1).uniform(-3, 3, 500)  # also beyond the bounds
    after, speed_after, reward = exact.step(angle, speed, torque)
    seen = exact.observation(after, speed_after)
    assert (abs(speed_after) == 8).sum() > 5
    game = gym.make("Pendulum-v1").unwrapped
    game.reset()
    for i in range(500):
        game.state = np.array([angle[i], speed[i]])
        obs, expected, *_ = game.step(torque[i : i + 1])
        assert np.allclose(seen[i], obs, atol=1e-6)
        assert np.isclose(reward[i], expected, atol=1e-9)
    assert (abs(after) <= np.pi).all()


@pytest.mark.parametrize(("angles", "speeds"), [(101, 101), (40, 7)])
def test_the_grid_holds_upright_and_still_once_and_its_observations_in_order(angles, speeds):
    world = exact.Pendulum(torques=3, angles=angles, speeds=speeds)
    assert world.angle.shape == (angles,)
    assert world.speed.shape == (speeds,)
    assert (world.angle == 0).sum() == (world.speed == 0).sum() == 1
    assert np.allclose(np.diff(world.angle), 2 * np.pi / angles)
    assert world.angle[0] + 2 * np.pi > world.angle[-1] + 1e-6  # the ends are two points
    assert world.obs.shape == (angles * speeds, 3)
    assert world.obs.dtype == torch.float32
    i, j = 3, 5
    by_hand = [np.cos(world.angle[i]), np.sin(world.angle[i]), world.speed[j]]
    assert np.allclose(world.obs[i * speeds + j], by_hand)


def test_torques_are_those_of_a_discretised_environment(world):
    env = envs.DiscretizeAction(gym.make("Pendulum-v1"), bins=5)
    assert np.allclose(world.torques, env.action_table[:, 0])
    assert exact.Pendulum(torques=env.action_table[:, 0]).torques.tolist() == [-2, -1, 0, 1, 2]


def test_values_are_read_linearly_and_around_the_circle(world, best):
    angle, speed = starts(50)
    angle[:4] = np.pi, -np.pi, np.pi - 1e-3, -np.pi + 1e-3
    by_hand = [interpolated(world, best.v, *state) for state in zip(angle, speed)]
    assert np.allclose(best.v_at(exact.observation(angle, speed)), by_hand, atol=1e-3)
    top, bottom = best.v[-1, 50], best.v[0, 50]  # the two points beside pi, without speed
    assert np.isclose(best.v_at(np.array([[-1.0, 0.0, 0.0]])), (top + bottom) / 2)
    assert np.allclose(best.v_at(world.obs), best.v.ravel(), atol=1e-3)


# --- the best values --------------------------------------------------------------------------


def test_the_best_values_fulfil_bellmans_equation(world, best):
    pick = np.random.default_rng(0)
    for _ in range(60):
        i, j = pick.integers(101), pick.integers(101)
        state = world.angle[i], world.speed[j]
        q = [backed_up(world, best.v, *state, torque) for torque in world.torques]
        assert np.allclose(best.q[i, j], q, atol=1e-6)
        assert np.isclose(best.v[i, j], max(q), atol=2 * exact.STOP)


def test_the_best_values_are_nearly_what_their_greedy_policy_earns(best):
    """Measured, of values down to -203: 0.1 in the median, 1.9 in the mean, 18 at a ridge."""
    angle, speed = starts(36)
    off = abs(best.v_at(exact.observation(angle, speed)) - simulated(best, angle, speed))
    assert np.median(off) < 0.5
    assert off.mean() < 5


def test_nothing_is_better_than_the_best(world, best):
    q_network = agents.q_network(envs.DiscretizeAction(gym.make("Pendulum-v1"), bins=5))
    for actor in (DIZZY, LAZY, q_network):
        assert (world.policy_values(actor).v <= best.v + 2 * exact.STOP).all()
        assert (world.policy_values(actor, steps=1).v <= best.v + 2 * exact.STOP).all()
    # The greedy policy is as good. With one step at a time, both make the same errors; with more,
    # `of` makes fewer: measured 0.1 in the median, 8 at 95 %.
    assert np.allclose(world.policy_values(best, steps=1).v, best.v, atol=0.1)
    better = world.policy_values(best).v - best.v
    assert abs(np.median(better)) < 0.5
    assert np.quantile(better, 0.95) < 16


def test_the_pendulum_has_no_left_and_right(best):
    assert np.allclose(best.v, best.v[::-1, ::-1], atol=2 * exact.STOP)
    assert np.allclose(best.q, best.q[::-1, ::-1, ::-1], atol=2 * exact.STOP)


def test_no_value_is_outside_what_rewards_allow(world, best):
    for values in (best, world.policy_values(DIZZY), world.policy_values(LAZY, steps=1)):
        for v in (values.v, values.q):
            assert v.max() <= 0
            assert v.min() >= WORST / (1 - 0.99)


def test_values_that_are_known_by_hand(world, best):
    assert best.v[50, 50] == 0  # upright and still
    even = exact.Pendulum(torques=3, angles=4, speeds=3, gamma=0.9)
    hanging = even.policy_values(LAZY).v[0, 1]  # at -pi, for ever
    assert np.isclose(hanging, -(np.pi**2) / 0.1, atol=2 * exact.STOP)
    blind = exact.Pendulum(torques=3, gamma=0.0)
    angle, speed = np.meshgrid(blind.angle, blind.speed, indexing="ij")
    assert np.allclose(blind.optimal().v, -(angle**2) - 0.1 * speed**2)


# --- the values of an actor -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mean", "median"),
    # Measured, of values down to -198: 0.12 and 0.05; to -855: 0.7 and 0.2; to -885: 7.9 and 1.8.
    [("SWING", 0.5, 0.2), ("DIZZY", 2.5, 1), ("LAZY", 20, 6)],
)
def test_an_actors_values_are_nearly_what_it_earns(world, name, mean, median):
    actor, (angle, speed) = globals()[name], starts(36)
    torques = world.torques.astype(np.float32) if actor.discrete else None
    earned = simulated(actor, angle, speed, torques)
    off = abs(world.policy_values(actor).v_at(exact.observation(angle, speed)) - earned)
    assert off.mean() < mean
    assert np.median(off) < median


def test_more_steps_are_more_exact(world):
    """Measured: 2.15 with one step, 0.12 with twenty."""
    angle, speed = starts(36)
    earned, obs = simulated(SWING, angle, speed), exact.observation(angle, speed)
    off = [abs(world.policy_values(SWING, steps=k).v_at(obs) - earned).mean() for k in (1, 20)]
    assert off[1] < off[0] / 3


def test_an_actors_values_fulfil_their_equation(world):
    values, pick = world.policy_values(SWING, steps=1), np.random.default_rng(0)
    torque = SWING.act(world.obs).reshape(101, 101)
    for _ in range(40):
        i, j = pick.integers(101), pick.integers(101)
        state = world.angle[i], world.speed[j]
        expected = backed_up(world, values.v, *state, float(torque[i, j]))
        assert np.isclose(values.v[i, j], expected, atol=2 * exact.STOP)
        q = [backed_up(world, values.v, *state, torque) for torque in world.torques]
        assert np.allclose(values.q[i, j], q, atol=1e-6)


def test_the_q_of_any_torque(world):
    values = world.policy_values(SWING)
    angle, speed = starts(20)
    obs, torque = exact.observation(angle, speed), np.linspace(-2, 2, 20)[:, None]
    by_hand = [backed_up(world, values.v, *each) for each in zip(angle, speed, torque[:, 0])]
    assert np.allclose(values.q_at(obs, torque), by_hand, atol=1e-2)
    assert np.allclose(values.q_at(obs, torch.from_numpy(torque)), by_hand, atol=1e-2)
    table = values.q_at(obs)
    assert table.shape == (20, 5)
    for k, each in enumerate(world.torques):
        assert np.allclose(table[:, k], values.q_at(obs, np.full((20, 1), each)))
    assert np.allclose(values.q_at(world.obs), values.q.reshape(-1, 5), atol=1e-3)


def test_the_greedy_policy_takes_the_best_torque(world, best):
    torque = best.act(world.obs)
    assert isinstance(torque, torch.Tensor)
    assert torque.shape == (101 * 101, 1)
    q = best.q_at(world.obs)
    assert np.array_equal(best.act(world.obs.numpy()), torque.numpy())
    assert np.allclose(best.q_at(world.obs, torque), q.max(1))


def test_indices_and_torques_are_the_same_policy(world):
    torques = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    by_torque = Rule(lambda *obs: torques[DIZZY.rule(*obs)])
    assert np.array_equal(world.policy_values(DIZZY).v, world.policy_values(by_torque).v)
    beyond = Rule(lambda *obs: 50 * torques[DIZZY.rule(*obs)])  # as Gymnasium clips it
    assert np.array_equal(world.policy_values(DIZZY).v, world.policy_values(beyond).v)


@pytest.mark.parametrize("make", [agents.actor, agents.q_network])
def test_networks_for_a_discretised_environment(world, make):
    network = make(envs.DiscretizeAction(gym.make("Pendulum-v1"), bins=5))
    nn.init.orthogonal_(network.head.weight)  # so that it chooses this here and that there
    index = network.act(world.obs)
    assert len(index.unique()) > 1
    by_hand = Rule(lambda *obs: torch.tensor(world.torques)[network.act(torch.stack(obs, 1))])
    assert np.array_equal(world.policy_values(network).v, world.policy_values(by_hand).v)
    assert np.array_equal(
        world.policy_values(nn.DataParallel(network)).v, world.policy_values(by_hand).v
    )


def test_the_actor_is_left_as_it_is(world):
    body = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.BatchNorm1d(8))
    actor = agents.actor(gym.make("Pendulum-v1"), body=body)
    before = [tensor.clone() for tensor in actor.state_dict().values()]
    one, two = world.policy_values(actor).v, world.policy_values(actor).v
    assert np.array_equal(one, two)  # no dropout
    assert all(module.training for module in actor.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, actor.state_dict().values()))


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (dict(torques=1), "torques=1"),
        (dict(torques=True), "torques=True"),
        (dict(torques=[]), r"torques=\[\]"),
        (dict(torques=[0.0, 2.5]), r"torques=.*from -2 to 2"),
        (dict(torques=[0.0, float("nan")]), "torques="),
        (dict(torques=[[0.0], [1.0]]), "torques="),
        (dict(gamma=1.0), r"gamma=1\.0"),
        (dict(gamma=-0.1), "gamma="),
        (dict(angles=2), "angles=2"),
        (dict(speeds=10.5), r"speeds=10\.5"),
    ],
)
def test_a_bad_world_is_named(settings, match):
    with pytest.raises(ValueError, match=match):
        exact.Pendulum(**settings)


def discretised(bins):
    return envs.DiscretizeAction(gym.make("Pendulum-v1"), bins=bins)


@pytest.mark.parametrize(
    ("actor", "match"),
    [
        (Rule(lambda *obs: torch.full_like(obs[0], 5, dtype=int), True), r"0 to 4|torques=6"),
        (Rule(lambda *obs: torch.full_like(obs[0], -1, dtype=int), True), "indices -1 to -1"),
        (agents.q_network(discretised(7)), r"made for 7 actions.*torques=7"),
        (agents.actor(discretised(3)), "made for 3 actions"),  # though its indices would fit
        (Rule(lambda *obs: obs[0], discrete=True), r"\(10201,\) float32"),
        (Rule(lambda *obs: obs[0] * float("nan")), "finite"),
        (Rule(lambda *obs: torch.zeros(10201, 2), discrete=True), r"\(10201, 2\)"),
    ],
)
def test_an_actor_that_does_not_fit_is_named(world, actor, match):
    with pytest.raises(ValueError, match=match):
        world.policy_values(actor)


def test_other_bad_input_is_named(world, best):
    with pytest.raises(TypeError, match="without an act"):
        world.policy_values(agents.critic(gym.make("Pendulum-v1")))
    with pytest.raises(ValueError, match="steps=0"):
        world.policy_values(LAZY, steps=0)
    for obs in (np.zeros(3), np.zeros((4, 2))):
        with pytest.raises(ValueError, match="obs has the shape"):
            best.v_at(obs)
    with pytest.raises(ValueError, match=r"action has the shape \(4,\)"):
        best.q_at(np.zeros((4, 3)), np.zeros(4))


def test_speeds_beyond_the_bounds_count_as_the_bounds(best):
    for sine, sign in itertools.product((0.0, 1.0), (-1, 1)):
        inside, beyond = (np.array([[0.0, sine, sign * speed]]) for speed in (8.0, 9.0))
        assert best.v_at(inside) == best.v_at(beyond)
