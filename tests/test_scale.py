"""The units in which an environment gives rewards and observations make no difference.

Times a power of two, floats are rounded as before. So a training in other units is the same one to
the last bit: the same actions, weights and statistics, with values in the other unit of reward.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch

import metis_nb
from metis_nb import A2C, DDPG, DDQN, DQN, PPO, SAC, TD3, VPG, agents, envs, evaluate

LARGE, SMALL = 2.0**27, 2.0**-27  # 1.3e8 and 7.5e-9

SETTINGS = {kind: {"learning_starts": 100, "updates_per_step": 0.1} for kind in (DQN, DDQN)}
SETTINGS |= {kind: {"learning_starts": 64, "updates_per_step": 0.2} for kind in (DDPG, TD3, SAC)}
SETTINGS |= {VPG: {"batch_steps": 600}, A2C: {"rollout_steps": 64}}
SETTINGS |= {PPO: {"rollout_steps": 128, "epochs": 3, "minibatch_size": 64}}


def in_units(task, reward=1.0, obs=1.0):
    """A registered environment that gives rewards and observations as so many of its own units."""
    env = gym.make(task)
    space = gym.spaces.Box(-np.inf, np.inf, env.observation_space.shape, np.float32)
    env = gym.wrappers.TransformObservation(env, lambda seen: seen * np.float32(obs), space)
    return gym.wrappers.TransformReward(env, lambda given: float(given) * reward)


def networks_for(Trainer, env):
    discrete = isinstance(envs.spaces.single_spaces(env)[1], gym.spaces.Discrete)
    if Trainer in (DQN, DDQN):
        return [agents.q_network(env)]
    if Trainer is DDPG:
        return [agents.actor(env, deterministic=True), agents.q_critic(env)]
    critic = agents.q_network if discrete else agents.q_critic
    if Trainer is TD3:
        return [agents.actor(env, deterministic=True), [critic(env), critic(env)]]
    if Trainer is SAC:
        return [agents.actor(env, squashed=not discrete), [critic(env), critic(env)]]
    return [agents.actor(env)] if Trainer is VPG else [agents.actor(env), agents.critic(env)]


def flat(networks):
    return [net for each in networks for net in (each if isinstance(each, list) else [each])]


def trained(Trainer, task, **units):
    metis_nb.seed(3)
    env = in_units(task, **units)
    if Trainer in (DQN, DDQN) and task == "Pendulum-v1":
        env = envs.DiscretizeAction(env, bins=3)
    networks = networks_for(Trainer, env)
    # A number whose logarithm scales as exactly as it does itself there is not: SAC's is given.
    alpha = {"initial_alpha": units.get("reward", 1.0)} if Trainer is SAC else {}
    trainer = Trainer(env, seed=3, **SETTINGS[Trainer], **alpha)
    history = trainer.train(*networks, steps=1_200 if Trainer is VPG else 400, progress=False)
    return flat(networks), history


CASES = [
    (Trainer, task)
    for Trainer in (VPG, A2C, PPO, DQN, DDQN, DDPG, TD3, SAC)
    for task in ("CartPole-v1", "Pendulum-v1")
    if not (task == "CartPole-v1" and Trainer in (DDPG, TD3))
]


@pytest.mark.as_made
@pytest.mark.parametrize(
    "units", [{"reward": SMALL, "obs": LARGE}, {"reward": LARGE, "obs": SMALL}]
)
@pytest.mark.parametrize(("Trainer", "task"), CASES)
def test_a_training_in_other_units_is_the_same_training(Trainer, task, units):
    ours, history = trained(Trainer, task)
    theirs, other_history = trained(Trainer, task, **units)
    reward, obs = units["reward"], units["obs"]
    # SAC's temperature goes through a logarithm, which rounds.
    close = dict(rtol=1e-3, atol=1e-4) if Trainer is SAC else dict(rtol=0, atol=0)
    learned = False
    for one, two in zip(ours, theirs, strict=True):
        for name, weights in one.named_parameters():
            found = two.get_parameter(name)
            learned |= name.startswith("head") and bool(weights.abs().sum() > 0)
            assert torch.allclose(found, weights, **close), name
        for name in ("obs_statistics", "return_statistics", "reward_statistics"):
            if hasattr(one, name):
                own, met = getattr(one, name), getattr(two, name)
                unit = obs if name == "obs_statistics" else reward
                assert torch.allclose(met.mean / unit, own.mean, **close)
                assert torch.allclose(met.std / unit, own.std, **close)
    assert learned  # else the same would be said of a training that does nothing
    assert [*other_history["episodes"]] == [*history["episodes"]]
    # And what is said about it: numbers without a unit are the same, the others are in that unit.
    for name in history[-1].keys() - {"seconds", "return", "length"}:
        unit = reward if name in ("q_value", "td_error", "disagreement", "alpha") else 1
        assert other_history[-1][name] == pytest.approx(unit * history[-1][name], rel=2e-3), name


@pytest.mark.as_made
@pytest.mark.parametrize("Trainer", [DDPG, TD3, SAC])
def test_no_targets_or_temperature_are_left_at_the_scale_they_began_with(Trainer):
    """Before the first update, they take on that of the rewards."""
    env = in_units("Pendulum-v1", reward=SMALL)
    networks = networks_for(Trainer, env)
    trainer = Trainer(env, seed=0, learning_starts=200)
    trainer.train(*networks, steps=208, progress=False)
    size = float(trainer.memory["reward"].square().mean().sqrt())
    assert 1e-9 < size < 2e-7  # Pendulum's are up to 16
    assert trainer.history["q_value"][-1] == pytest.approx(0, abs=100 * size)
    if Trainer is SAC:
        assert float(trainer.alpha) == pytest.approx(0.3 * size, rel=0.1)


def test_rewards_of_0_leave_the_temperature_at_1():
    env = in_units("Pendulum-v1", reward=0.0)
    trainer = SAC(env, seed=0, learning_starts=200, learning_rate=0)
    trainer.train(*networks_for(SAC, env), steps=208, progress=False)
    assert float(trainer.alpha) == 1


# --- what to divide by ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        (0.0, 3e-9, 3e-9),
        (5e8, 3e8, 3e8),
        (0.0, 0.0, 1.0),  # all of them 0: as they are
        (1e8, 1.0, 1e3),  # float32 has them in steps of 8: this is rounding
        (-1e-8, 0.0, 1e-13),
    ],
)
def test_the_spread_has_no_unit_of_its_own(mean, std, expected):
    mean, variance = torch.tensor([mean]), torch.tensor([std**2])
    assert float(agents.spread_of(mean, variance)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("size", [1e-8, 0.1, 1e8])
def test_an_observation_that_never_changes_is_0_not_noise(size):
    statistics = agents.RunningStatistics((1,))
    for batch in torch.full((5, 37, 1), size):
        statistics.update(batch)
    assert float(statistics.normalize(torch.full((1, 1), size)).abs()) < 0.05


def test_what_begins_counts_once():
    """The first observations give a network their scale before it learns from them; they are
    counted after it, and no later ones count for nothing."""
    first, second = torch.tensor([[1.0], [3.0]]), torch.tensor([[7.0], [9.0]])
    statistics = agents.RunningStatistics((1,))
    statistics.begin(first)
    assert float(statistics.mean) == 2
    assert float(statistics.std) == 1
    statistics.update(first)
    statistics.begin(second)  # too late
    assert float(statistics.mean) == 2
    statistics.update(second)
    assert float(statistics.mean) == 5  # of 1, 3, 7, 9
    assert float(statistics.variance) == pytest.approx(10)
    assert int(statistics.count) == 4


@pytest.mark.as_made
@pytest.mark.parametrize("make", [agents.actor, agents.critic])
def test_what_already_says_something_keeps_saying_it(make):
    """Weights of one's own, say: the policy that learns has to be the one that acted."""
    obs = 100 * torch.randn(50, 4)
    new, own = make(gym.make("CartPole-v1")), make(gym.make("CartPole-v1"))
    torch.nn.init.normal_(own.head.weight)
    for network, begins in ((new, True), (own, False)):
        before = network(obs)
        agents.begin_statistics(torch.nn.DataParallel(network), obs)
        assert torch.equal(network(obs), before)
        assert (float(network.obs_statistics.std.mean()) > 50) == begins
        assert int(network.obs_statistics.count) == 0


@pytest.mark.as_made
@pytest.mark.parametrize("Trainer", [VPG, A2C, PPO])
def test_every_step_is_counted_once(Trainer):
    env = gym.make("CartPole-v1")
    networks = networks_for(Trainer, env)
    trainer = Trainer(env, seed=0, **SETTINGS[Trainer])
    trainer.train(*networks, steps=500, progress=False)
    unfinished = sum(len(row.obs) for row in trainer.unfinished.rows) if Trainer is VPG else 0
    for network in flat(networks):
        assert int(network.obs_statistics.count) == trainer.run.steps - unfinished


# --- and they learn -------------------------------------------------------------------------------


@pytest.mark.learning
@pytest.mark.parametrize(("reward", "obs"), [(1e-8, 1e8), (1e8, 1e-8), (1e-4, 1.0), (1.0, 1e-5)])
@pytest.mark.parametrize("Trainer", [PPO, A2C])
def test_cartpole_in_other_units(Trainer, reward, obs):
    metis_nb.seed(0)
    games = gym.vector.SyncVectorEnv([lambda: in_units("CartPole-v1", reward, obs)] * 16)
    networks = networks_for(Trainer, games)
    Trainer(games, seed=0).train(*networks, steps=100_000, progress=False)
    assert evaluate(games, networks[0], episodes=20).mean() / reward >= 475
