"""SAC: what only it has, for continuous and for discrete actions. What it shares with DDPG and TD3
is in `test_ddpg_td3.py`, with all trainers in `test_trainers.py`; policies are in `test_agents.py`.
"""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from torch import nn

from metis_nb import SAC, agents
from metis_nb.learning.replay import Batch
from tests.scripted import EPISODES, Scripted
from tests.test_agents import by_change_of_variables
from tests.test_ddpg_td3 import (
    KINDS,
    ONE,
    UNEVEN,
    Plane,
    Ten,
    Told,
    Zero,
    batch_of,
    collected,
    farthest,
    many,
)
from tests.test_dqn import Table
from tests.test_replay import Spaces
from tests.test_trainers import lever, networks_for, same

THREE = Spaces((1,), Discrete(3))
both_forms = pytest.mark.parametrize("discrete", [False, True])


class TableActor(nn.Module):
    """pi(. | s) from a table of logits; the observation is the number of the state."""

    distribution = staticmethod(agents.Categorical)

    def __init__(self, probabilities):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, obs):
        return self.logits[obs[:, 0].long()]


class Bell(Zero):
    """A squashed Gaussian of this mean and standard deviation, whatever is observed."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([float(mean)]))
        self.log_std = nn.Parameter(torch.tensor([math.log(std)]))

    def forward(self, obs):
        return self.mean.expand(len(obs), -1), self.log_std.expand(len(obs), -1)

    def distribution(self, parameters):
        return agents.SquashedGaussian(parameters[0], parameters[1].exp())


PROBABILITIES = [[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]
TABLES = [[1.0, 2.0, 3.0], [-1.0, 0.0, 4.0]], [[2.0, 1.0, 3.5], [0.0, -2.0, 1.0]]
LOWER = np.array([[1.0, 1.0, 3.0], [-1.0, -2.0, 1.0]])  # of both, action by action


def soft_values(alpha):
    """Of both states, by hand."""
    pi = np.array(PROBABILITIES)
    entropy = -(pi * np.log(pi)).sum(1)
    return (pi * LOWER).sum(1) + alpha * entropy, entropy


def discrete_batch(obs, action, reward, next_obs, terminated=False, discount=0.5, weight=1.0):
    batch = batch_of(obs, action, reward, next_obs, terminated, discount, weight)
    batch.action = torch.tensor(action)
    return batch


def of_tables(**settings):
    trainer, actor = SAC(THREE, **settings), TableActor(PROBABILITIES)
    critics = [Table(values) for values in TABLES]
    trainer.prepare(actor, critics)
    return trainer, actor, critics


def of_planes(mean, std, planes, env=ONE, **settings):
    trainer, actor = SAC(env, **settings), Bell(mean, std)
    critics = [Plane(*numbers) for numbers in planes]
    trainer.prepare(actor, critics)
    trainer.run.generator = torch.Generator().manual_seed(7)
    return trainer, actor, critics


def drawn(count):
    """The standard normal numbers that `of_planes` draws next."""
    generator = torch.Generator().manual_seed(7)
    return torch.empty(count, 1).normal_(generator=generator).double().numpy()


# --- values and targets -------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.25, 2.0])
def test_the_soft_value_of_discrete_actions_is_the_sum_over_all_of_them(alpha):
    """Of what the lower critic says of each action, not of the lower of two sums."""
    trainer, actor, critics = of_tables(initial_alpha=alpha)
    value, entropy = trainer.soft_value(actor, critics, torch.tensor([[0.0], [1.0]]))
    expected = soft_values(alpha)
    assert value.tolist() == pytest.approx(expected[0], rel=1e-5)
    assert entropy.tolist() == pytest.approx(expected[1], rel=1e-5)


@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.5), (-1.0, 1.5)])
def test_the_soft_value_of_a_continuous_action_that_was_drawn(mean, std):
    """a = tanh(mean + std noise), the lower of Q1 = 1 + s + 2 a and Q2 = 1 + s - a, less
    alpha log pi(a) with the density worked out in NumPy."""
    planes = [(1.0, 1.0, 2.0), (1.0, 1.0, -1.0)]
    trainer, actor, critics = of_planes(mean, std, planes, initial_alpha=0.3)
    value, entropy = trainer.soft_value(actor, critics, torch.full((50, 1), 5.0))
    action = np.tanh(mean + std * drawn(50))
    log_prob = by_change_of_variables(action, np.array(mean), np.array(std))
    lower = np.minimum(6 + 2 * action[:, 0], 6 - action[:, 0])
    assert entropy.tolist() == pytest.approx(-log_prob, abs=1e-4)
    assert value.tolist() == pytest.approx(lower - 0.3 * log_prob, abs=1e-4)
    assert value.shape == entropy.shape == (50,)


def test_targets_by_hand():
    """r + gamma V(s'), with the entropy, by the target critics and the actor as it is."""
    trainer, actor, _ = of_tables(initial_alpha=0.5)
    targets = trainer.run.state["target_critics"]
    with torch.no_grad():
        targets[0].values += 10.0
        targets[1].values += 10.0
    batch = discrete_batch(
        [0, 0, 0], [0, 1, 2], [1, 2, 3], [0, 1, 1], [False, False, True], [0.5, 0.25, 0.5]
    )
    value = soft_values(0.5)[0] + 10
    expected = [1 + 0.5 * value[0], 2 + 0.25 * value[1], 3]
    target = trainer.td_target(actor, targets, batch)
    assert target.tolist() == pytest.approx(expected, rel=1e-5)
    assert not target.requires_grad


def test_targets_of_continuous_actions_by_hand():
    planes = [(0.0, 0.0, 0.0)] * 2
    trainer, actor, _ = of_planes(0.2, 0.4, planes, initial_alpha=0.5)
    targets = trainer.run.state["target_critics"]
    for target, numbers in zip(targets, [(1.0, 2.0, 3.0), (4.0, 2.0, -3.0)]):
        target.numbers.copy_(torch.tensor(numbers))
    batch = batch_of([9, 9, 9], [9, 9, 9], [1, 2, 3], [-1, 1.5, 0], [False, False, True])
    action = np.tanh(0.2 + 0.4 * drawn(3))
    log_prob = by_change_of_variables(action, np.array(0.2), np.array(0.4))
    state = np.array([-1, 1.5, 0])
    lower = np.minimum(1 + 2 * state + 3 * action[:, 0], 4 + 2 * state - 3 * action[:, 0])
    expected = np.array([1, 2, 3]) + 0.5 * (lower - 0.5 * log_prob) * [1, 1, 0]
    target = trainer.td_target(actor, targets, batch)
    assert target.tolist() == pytest.approx(expected, abs=1e-4)
    assert not target.requires_grad


@both_forms
@pytest.mark.parametrize("kind", KINDS)
def test_targets_of_real_steps(kind, discrete):
    """`Scripted` says which episode and step it is in. Q is 10 for whatever comes after it, and so
    is what the entropy is worth: nothing, all but, at this temperature."""
    env = KINDS[kind]() if discrete else lever(KINDS[kind]())
    settings = dict(gamma=0.5, collect_steps=140, batch_size=300, initial_alpha=1e-9)
    trainer = SAC(env, **settings)
    if discrete:
        actor, critics = agents.actor(env), [Table([[10.0] * 3] * 2000) for _ in range(2)]
    else:
        actor, critics = Bell(0.0, 1.0), [Ten(), Ten()]
    trainer.collect(actor, critics)
    batch = trainer.sample()
    target = trainer.td_target(actor, trainer.run.state["target_critics"], batch)
    for (episode, step), found in zip(batch.obs.long().tolist(), target):
        length, how = EPISODES[episode % len(EPISODES)]
        expected = 1 + 0.5 * (step + 1) - 0.25 * episode + 0.1 * (step + 1) ** 2
        expected += 0 if step + 1 == length and how != "truncated" else 0.5 * 10
        assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-4)


# --- losses and gradients -----------------------------------------------------------------------


def test_the_critics_gradient_by_hand():
    """It reaches Q(s, a) of the action that was taken, times each weight, of both critics. The
    target critics say 10 more."""
    memory = Told(THREE, 10)
    trainer, actor, critics = of_tables(
        learning_rate=0.0, max_grad_norm=1e9, initial_alpha=0.5, replay=memory, learning_starts=1
    )
    for critic, target_critic in zip(critics, trainer.run.state["target_critics"]):
        critic.scale = torch.tensor(2.0)
        target_critic.values += 10.0
    batch = discrete_batch([0, 1], [2, 0], [1, -5], [1, 0], [False, True], weight=[1.0, 0.5])
    metrics = trainer.update(actor, critics, batch)
    target = np.array([1 + 0.5 * (10 + soft_values(0.5)[0][1]), -5])
    loss = 0.0
    for critic, values in zip(critics, np.array(TABLES)):
        taken = values[[0, 1], [2, 0]]
        expected = np.zeros((2, 3))
        expected[[0, 1], [2, 0]] = np.array([1, 0.5]) * 2 * (taken - target) / 4 / 2
        np.testing.assert_allclose(critic.values.grad, expected, rtol=1e-4)
        loss += np.mean([1, 0.5] * (taken - target) ** 2 / 4)
    error = target - [3, -1]
    assert float(metrics["critic_loss"]) == pytest.approx(loss, rel=1e-4)
    assert float(metrics["q_value"]) == pytest.approx(1)
    assert float(metrics["td_error"]) == pytest.approx(np.abs(error).mean(), rel=1e-4)
    assert float(metrics["disagreement"]) == pytest.approx((0.5 + 1) / 2)
    assert float(metrics["entropy"]) == pytest.approx(soft_values(0.5)[1].mean(), rel=1e-4)
    assert float(metrics["alpha"]) == pytest.approx(0.5)
    assert not any(number.requires_grad for number in metrics.values())
    assert memory.told[1].tolist() == pytest.approx(error / 2, rel=1e-4)


@pytest.mark.parametrize("tau", [0.0, 0.25, 1.0])
def test_target_critics_follow_each_its_own_critic_by_tau(tau):
    trainer, actor, critics = of_tables(tau=tau, learning_rate=0.1)
    targets = trainer.run.state["target_critics"]
    for number, target in enumerate(targets):
        target.values += 10.0 + number
    before = [target.values.clone() for target in targets]
    trainer.update(actor, critics, discrete_batch([0, 1], [2, 0], [1, 5], [1, 0]))
    for target, old, critic in zip(targets, before, critics, strict=True):
        expected = tau * critic.values.detach() + (1 - tau) * old
        assert torch.allclose(target.values, expected, atol=1e-5)


def test_the_actors_gradient_of_discrete_actions_by_finite_differences():
    """Of the sum over all actions, as the logits change."""
    trainer, actor, critics = of_tables(learning_rate=0.0, max_grad_norm=1e9, initial_alpha=0.7)
    for critic in critics:
        critic.scale = torch.tensor(2.0)
    trainer.update(actor, critics, discrete_batch([0, 1], [0, 0], [0, 0], [0, 0]))

    def loss(logits):
        pi = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return -(pi * (LOWER - 0.7 * np.log(pi))).sum(1).mean() / 2

    logits, step = np.log(PROBABILITIES), 1e-6
    for index in np.ndindex(2, 3):
        up, down = logits.copy(), logits.copy()
        up[index] += step
        down[index] -= step
        expected = (loss(up) - loss(down)) / (2 * step)
        assert float(actor.logits.grad[index]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("mean", "std"), [(0.2, 0.5), (-1.5, 1.2), (6.0, 0.3)])
def test_the_actors_gradient_of_continuous_actions_by_finite_differences(mean, std):
    """Through the action that was drawn, in mean and log std: of the lower critic and of the
    entropy, in float64 with the same noise."""
    planes, batch = [(1.0, 1.0, 2.0), (1.5, 1.0, -1.0)], torch.full((40, 1), 0.5)
    trainer, actor, critics = of_planes(mean, std, planes, initial_alpha=0.7)
    loss, entropy = trainer.actor_loss(actor, critics, batch)
    assert loss.shape == entropy.shape == (40,)
    assert not entropy.requires_grad
    found = torch.autograd.grad(loss.mean(), [actor.mean, actor.log_std])

    def slow(mean, log_std):
        before = mean + np.exp(log_std) * drawn(40)[:, 0]
        action = np.tanh(before)
        slope = np.log(4) - 2 * np.abs(before) - 2 * np.log1p(np.exp(-2 * np.abs(before)))
        normal = -0.5 * drawn(40)[:, 0] ** 2 - log_std - 0.5 * np.log(2 * np.pi)
        lower = np.minimum(1.5 + 2 * action, 2 - action)
        return np.mean(0.7 * (normal - slope) - lower)

    at, step = np.array([mean, np.log(std)]), 1e-6
    for gradient, way in zip(found, step * np.eye(2)):
        expected = (slow(*(at + way)) - slow(*(at - way))) / (2 * step)
        assert float(gradient) == pytest.approx(expected, rel=2e-3, abs=2e-3)


# --- temperature --------------------------------------------------------------------------------


@both_forms
@pytest.mark.parametrize(("more", "way"), [(0.3, 1), (-0.3, -1)])
def test_too_little_entropy_raises_the_temperature_and_too_much_lowers_it(more, way, discrete):
    """Adam's first step moves log alpha by the learning rate, and towards it all later ones do."""
    if discrete:
        trainer, actor, critics = of_tables(initial_alpha=0.5, learning_rate=0.01)
        batch = discrete_batch([0, 1], [0, 0], [0, 0], [0, 0])
        entropy = soft_values(0.5)[1].mean()
    else:
        planes = [(0.0, 0.0, 0.0)] * 2
        trainer, actor, critics = of_planes(0.0, 0.3, planes, initial_alpha=0.5, learning_rate=0.01)
        batch = batch_of([0] * 5000, [0] * 5000, [0] * 5000, [0] * 5000)
        # About that of a Gaussian, which tanh makes a little smaller.
        entropy = 0.5 * math.log(2 * math.pi * math.e * 0.3**2) - 0.08
    trainer.target_entropy = float(entropy + more)
    metrics = trainer.update(actor, critics, batch)
    assert float(metrics["entropy"]) == pytest.approx(entropy, abs=0.05)
    assert float(metrics["alpha"]) == pytest.approx(0.5)  # before the step
    assert float(trainer.alpha) == pytest.approx(0.5 * math.exp(0.01 * way), rel=1e-3)
    for _ in range(3):
        trainer.update(actor, critics, batch)
    assert (float(trainer.alpha) - 0.5 * math.exp(0.02 * way)) * way > 0


def test_the_loss_of_the_temperature_by_hand():
    trainer, *_ = of_tables(target_entropy=0.6)
    log_alpha = torch.tensor(0.3, requires_grad=True)
    loss = trainer.alpha_loss(log_alpha, torch.tensor([0.5, 1.0]))
    assert loss.tolist() == pytest.approx([0.3 * -0.1, 0.3 * 0.4])
    assert float(torch.autograd.grad(loss.mean(), log_alpha)[0]) == pytest.approx(0.15)


@both_forms
def test_a_temperature_that_is_not_to_be_learned_stays(discrete):
    env = gym.make("CartPole-v1")
    env = env if discrete else lever(env)
    soon = dict(collect_steps=64, learning_starts=64, updates_per_step=0.1, batch_size=16)
    trainer = SAC(env, initial_alpha=0.3, learn_alpha=False, seed=0, **soon)
    history = trainer.train(*networks_for(SAC, env), steps=192)
    assert float(trainer.alpha) == pytest.approx(0.3)
    assert history["alpha"].tolist() == pytest.approx([0.3] * 3)
    trainer.learn_alpha = True
    trainer.train(trainer.actor, trainer.critics, steps=64)
    assert abs(float(trainer.alpha) - 0.3) > 1e-4


@both_forms
def test_the_temperature_is_adjusted_until_the_policy_has_the_entropy_asked_for(discrete):
    """Whatever it was at first, and although some actions are better: the critics are right about
    that. The highest entropy would be 1.1 for three discrete actions, 0.69 for a continuous one."""
    asked_for = 0.8 if discrete else 0.0
    for alpha in (0.3, 3.0):
        settings = dict(target_entropy=asked_for, initial_alpha=alpha, learning_rate=0.03)
        if discrete:
            trainer, actor, critics = of_tables(**settings)
            for critic in critics:
                nn.init.constant_(critic.values, 1.0)
                critic.values.data[0, 2] = 3.0
            batch = discrete_batch([0, 0, 0], [0, 1, 2], [1, 1, 3], [0, 0, 0], True)
        else:
            trainer, actor, critics = of_planes(0.0, 1.0, [(0.0, 0.0, 1.0)] * 2, **settings)
            way = np.linspace(-1, 1, 100)
            batch = batch_of([0] * 100, way, way, [0] * 100, True)
        entropies = [float(trainer.update(actor, critics, batch)["entropy"]) for _ in range(400)]
        # It swings around it, less and less.
        assert np.mean(entropies[-200:]) == pytest.approx(asked_for, abs=0.07)


@pytest.mark.parametrize(
    ("env", "highest"),
    [
        (Spaces((1,), Discrete(3)), math.log(3)),
        (Spaces((1,), Discrete(4, start=2)), math.log(4)),
        (Spaces((1,), UNEVEN), 3 * math.log(2)),
    ],
)
def test_an_entropy_that_cannot_be_reached_is_refused(env, highest):
    assert SAC(env).units.max_entropy == pytest.approx(highest)
    assert SAC(env).resolved_target_entropy < highest  # what stands for None
    assert SAC(env, target_entropy=highest - 0.01).resolved_target_entropy == highest - 0.01
    for much in (highest, highest + 1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=rf"target_entropy={much}; .*below {highest:.3f}"):
            SAC(env, target_entropy=much)
    trainer = SAC(env)
    trainer.target_entropy = 5.0
    with pytest.raises(ValueError, match=r"target_entropy=5\.0; expected"):
        trainer.prepare(*networks_for(SAC, env))


def test_the_highest_entropy_is_that_of_actions_that_are_all_as_likely():
    """Of a uniform density from -1 to 1, log 2: a policy that is nearly so comes near it."""
    trainer, actor, critics = of_planes(0.0, 0.9, [(0.0, 0.0, 0.0)] * 2)
    _, entropy = trainer.soft_value(actor, critics, torch.zeros(50_000, 1))
    assert trainer.units.max_entropy - 0.02 < float(entropy.detach().mean())
    assert float(entropy.detach().mean()) < trainer.units.max_entropy


# --- collecting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("correlation", [0.0, 0.85])
def test_actions_are_those_of_the_policy_from_the_first_step_on(correlation):
    """Whatever the correlation in time, at every moment. 1% of fair samples are farther away than
    1.63 / sqrt(n)."""
    policy = Bell(0.4, 0.6)
    action = collected(SAC, policy, 5000, 6, 10**5, noise_correlation=correlation)[..., 0]
    inside = (np.arctanh(np.clip(action, -1 + 1e-7, 1 - 1e-7)) - 0.4) / 0.6
    normal = np.vectorize(lambda x: 0.5 * (1 + math.erf(x / 2**0.5)))
    for row in inside:
        assert farthest(row, normal) < 1.63 / 5000**0.5
    found = np.corrcoef(inside[:-1].ravel(), inside[1:].ravel())[0, 1]
    assert found == pytest.approx(correlation, abs=0.03)


def test_discrete_actions_follow_the_probabilities():
    env = many(4000)
    env.single_action_space = Discrete(3)
    env.action_space = gym.vector.utils.batch_space(Discrete(3), 4000)
    trainer = SAC(env, collect_steps=4000, seed=0)
    trainer.collect(TableActor([PROBABILITIES[0]] * 9), [Table([[0.0] * 3] * 9) for _ in range(2)])
    share = torch.bincount(trainer.memory["action"], minlength=3) / 4000
    assert share.tolist() == pytest.approx(PROBABILITIES[0], abs=0.03)
    assert torch.equal(torch.stack(env.actions).flatten(), trainer.memory["action"])


def test_discrete_actions_that_start_anywhere():
    class Shifted(Scripted):
        action_space = Discrete(3, start=5)

        def step(self, action):
            assert self.action_space.contains(action)
            return super().step(action)

    settings = dict(collect_steps=64, learning_starts=64, updates_per_step=0.1, batch_size=16)
    trainer = SAC(Shifted(), seed=0, **settings)
    trainer.train(*networks_for(SAC, trainer.env), steps=128)
    assert set(trainer.memory["action"].tolist()) == {0, 1, 2}


# --- the rest -----------------------------------------------------------------------------------


@both_forms
def test_healthy_numbers(discrete):
    """Values of no more than the highest reward and the highest entropy for ever; an entropy near
    the one asked for."""

    class Given(Scripted):
        def step(self, action):
            obs, _, *ends = super().step(action)
            return obs, [-2.0, 1.0, 3.0][self.count % 3], *ends

    env = Given() if discrete else lever(Given())
    asked_for = 0.5 if discrete else -1.0
    trainer = SAC(env, gamma=0.9, collect_steps=60, initial_alpha=0.5, target_entropy=asked_for)
    assert trainer.healthy_ranges == {}
    trainer.train(*networks_for(SAC, env), steps=60)
    most, least = math.log(3 if discrete else 2), 0.0 if discrete else -1.0
    low, high = trainer.healthy_ranges["q_value"]
    assert low == pytest.approx(10 * (-2 + 0.5 * least))
    assert high == pytest.approx(10 * (3 + 0.5 * most))
    low, high = trainer.healthy_ranges["entropy"]
    assert low < asked_for < high < most
    trainer.gamma = 1.0
    assert all(map(math.isfinite, trainer.healthy_ranges["q_value"]))


def test_networks_of_another_kind_are_named():
    """In its discrete form; for the other see `test_ddpg_td3.py`."""
    env = gym.make("CartPole-v1")
    actor, critics = networks_for(SAC, env)
    box = lever(gym.make("CartPole-v1"))
    with pytest.raises(
        TypeError, match=r"actor is a SquashedGaussianActor; .* agents.actor\(env\)\."
    ):
        SAC(env).train(agents.actor(box, squashed=True), critics, steps=1)
    for wrong in (agents.q_critic(box), agents.critic(env), actor):
        match = rf"critics\[1\] is a {type(wrong).__name__}; .* such as agents.q_network\(env\)"
        with pytest.raises(TypeError, match=match):
            SAC(env).train(actor, [critics[0], wrong], steps=1)
    with pytest.raises(
        TypeError, match=r"critics is a QNetwork; .*two: agents.q_network\(env\), ag"
    ):
        SAC(env).train(actor, critics[0], steps=1)


def test_the_temperature_moves_to_another_device_before_its_optimizer():
    """An optimizer moves what it remembers to where its parameters are by then."""
    env = lever(Scripted())
    soon = dict(collect_steps=32, learning_starts=32, updates_per_step=0.1, batch_size=8)
    trainer = SAC(env, seed=0, **soon)
    trainer.train(*networks_for(SAC, env), steps=32)
    order, state = [], trainer.run.state

    def noting(name, call):
        return lambda *given: (order.append(name), call(*given))[1]

    state["log_alpha"].to = noting("log_alpha", state["log_alpha"].to)
    adam = state["alpha_adam"]
    adam.load_state_dict = noting("alpha_adam", adam.load_state_dict)
    trainer.run.generator = None  # as after a move: a new one is made for the device
    trainer.run.start(trainer.actor)
    assert order == ["log_alpha", "alpha_adam"]


def test_plain_critics_are_taken_as_they_come(tmp_path):
    """An actor of one's own has a distribution, critics need nothing."""
    env = gym.make("CartPole-v1")

    class Mine(nn.Linear):
        distribution = staticmethod(agents.Categorical)

    def networks():
        return Mine(4, 2), [nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)) for _ in range(2)]

    actor, critics = networks()
    soon = dict(collect_steps=64, learning_starts=64, updates_per_step=0.1, batch_size=16)
    trainer = SAC(env, seed=0, **soon)
    trainer.train(actor, critics, steps=128)
    trainer.save(tmp_path / "file")
    loaded = SAC.load(tmp_path / "file", env, *networks())
    assert same(loaded.actor, actor)
    assert same(list(loaded.critics), critics)
    assert torch.equal(loaded.alpha, trainer.alpha)
    with pytest.raises(TypeError, match=r"Linear without a distribution\(parameters\) method"):
        SAC(env).train(nn.Linear(4, 2), critics, steps=1)


def test_a_batch_of_one_is_a_batch():
    """No sum or squeeze takes its only row away."""
    for env in (ONE, THREE):
        actor, critics = networks_for(SAC, env)
        trainer = SAC(env)
        obs, ones = torch.zeros(1, 1), torch.ones(1)
        action = torch.zeros(1, dtype=torch.int64) if env is THREE else torch.zeros(1, 1)
        ended = torch.zeros(1, dtype=torch.bool)
        batch = Batch(obs, action, ones, obs, ended, ones, ones, torch.arange(1))
        metrics = trainer.update(actor, critics, batch)
        assert all(math.isfinite(float(number)) for number in metrics.values())
        assert trainer.td_target(actor, trainer.run.state["target_critics"], batch).shape == (1,)
