"""PPO: what only it has. What it shares with the other trainers is in `test_trainers.py`."""

import math

import gymnasium as gym
import torch
from torch import nn

from metis_nb import PPO, agents, envs
from tests.scripted import Scripted


def test_the_clipped_surrogate_on_numbers_by_hand():
    trainer = PPO(Scripted(), clip_range=0.2)
    ratio = torch.tensor([0.5, 0.5, 1.5, 1.5, 1.1])
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    # min(0.5, 0.8), min(-0.5, -0.8), min(1.5, 1.2), min(-1.5, -1.2), min(2.2, 2.2)
    expected = -(0.5 - 0.8 + 1.2 - 1.5 + 2.2) / 5
    assert math.isclose(float(trainer.actor_loss(ratio, advantage)), expected, rel_tol=1e-6)


def test_where_the_clipped_surrogate_has_no_gradient():
    ratio = torch.tensor([0.5, 0.5, 1.5, 1.5, 1.0], requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    PPO(Scripted()).actor_loss(ratio, advantage).backward()
    assert torch.equal(ratio.grad * 5, torch.tensor([-1.0, 0.0, 0.0, 1.0, -1.0]))


def test_the_first_gradient_is_the_policy_gradient():
    """At ratio 1 the surrogate's gradient is that of mean(log pi * advantage)."""
    env = gym.make("Pendulum-v1")
    actor, trainer = agents.actor(env), PPO(env, rollout_steps=64)
    rollout = trainer.collect(actor)
    obs, action, log_prob = rollout.obs[:, 0], rollout.action[:, 0], rollout.log_prob[:, 0]
    advantage = torch.randn(64)
    ratio = trainer.ratio(agents.policy(actor, obs), action, log_prob)
    assert torch.allclose(ratio, torch.ones(64), atol=1e-5)
    surrogate = torch.autograd.grad(trainer.actor_loss(ratio, advantage), actor.parameters())
    objective = (agents.policy(actor, obs).log_prob(action) * advantage).mean()
    plain = torch.autograd.grad(-objective, actor.parameters())
    for a, b in zip(surrogate, plain, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_ratios_are_those_of_the_policy_now_to_the_one_that_acted():
    """At each of several steps on one rollout, by probabilities that the test works out anew."""
    env = Scripted()
    trainer = PPO(env, rollout_steps=60, epochs=4, minibatch_size=60, learning_rate=0.01)
    actor, critic = agents.actor(env), agents.critic(env)
    rollout, loss, ratios = trainer.collect(actor), trainer.actor_loss, []

    def probabilities():
        logits = actor(rollout.obs[:, 0]).detach().double()
        return logits.softmax(1).gather(1, rollout.action).squeeze(1)

    old = probabilities()

    def actor_loss(ratio, advantage):
        expected = (probabilities() / old).sort().values  # minibatches are shuffled
        assert torch.allclose(ratio.detach().double().sort().values, expected, atol=1e-5)
        ratios.append(expected)
        return loss(ratio, advantage)

    trainer.actor_loss = actor_loss
    metrics = trainer.update(actor, critic, rollout, torch.randn(60, 1), torch.randn(60, 1))
    first, *others = [float((ratio - 1).abs().max()) for ratio in ratios]
    assert first < 1e-5
    assert len(others) == 3
    assert min(others) > 1e-3
    last = ratios[-1]  # the epoch whose numbers are told
    assert math.isclose(float(metrics["kl"]), float((last - 1 - last.log()).mean()), rel_tol=1e-2)


def test_minibatches_hold_each_step_once_and_others_in_each_epoch():
    env = Scripted()
    trainer = PPO(env, rollout_steps=60, epochs=3, minibatch_size=20, learning_rate=0.0)
    actor, critic, seen = agents.actor(env), agents.critic(env), []
    loss = trainer.actor_loss
    trainer.actor_loss = lambda ratio, advantage: seen.append(advantage) or loss(ratio, advantage)
    advantage = torch.arange(60.0)[:, None]  # each is there once
    trainer.update(actor, critic, trainer.collect(actor), advantage, torch.randn(60, 1))
    epochs = [seen[:3], seen[3:6], seen[6:]]
    everything = (advantage[:, 0] - 29.5).sort().values
    for minibatches in epochs:
        values = torch.cat(minibatches)
        assert len(values) == 60
        # Standardised over all 60 at once: each is as far from the next as any other.
        steps = values.sort().values.diff()
        assert torch.allclose(steps, steps.mean().expand(59), atol=1e-5)
        assert torch.allclose(values.sort().values / steps.mean(), everything, atol=1e-3)
    firsts = [set(minibatches[0].tolist()) for minibatches in epochs]
    assert firsts[0] != firsts[1] != firsts[2]


def test_what_is_watched_on_numbers_by_hand():
    trainer, pi = PPO(Scripted(), clip_range=0.2), agents.Categorical(torch.zeros(4, 3))
    ratio, nothing = torch.tensor([0.5, 1.5, 1.1, 1.0]), torch.tensor(0.0)
    metrics = trainer.metrics(pi, ratio, nothing, nothing)
    kl = sum(r - 1 - math.log(r) for r in (0.5, 1.5, 1.1, 1.0)) / 4
    assert math.isclose(float(metrics["kl"]), kl, rel_tol=1e-5)
    assert float(metrics["clip_fraction"]) == 0.5  # on both sides
    assert math.isclose(float(metrics["entropy"]), math.log(3), rel_tol=1e-6)


def test_scaling_all_rewards_changes_little_from_the_beginning():
    """Even before the critic has met any return, whose scale it takes on."""
    actors = []
    for scale in (1.0, 1000.0):
        torch.manual_seed(0)
        env = gym.wrappers.TransformReward(gym.make("CartPole-v1"), lambda r, s=scale: r * s)
        actor, critic = agents.actor(env), agents.critic(env)
        PPO(env, seed=0, rollout_steps=256).train(actor, critic, steps=768)
        actors.append(actor)
    for a, b in zip(actors[0].parameters(), actors[1].parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-2)


def test_log_probs_are_those_of_the_actions_as_sampled():
    """Under the policy that took them, also beyond the bounds to which the environment clips."""
    env = gym.make("Pendulum-v1")
    actor = agents.actor(env)
    nn.init.constant_(actor.log_std, 1.0)
    rollout = PPO(env, rollout_steps=100).collect(actor)
    assert rollout.log_prob.shape == (100, 1)
    assert rollout.action.abs().max() > 1.5
    pi = agents.policy(actor, rollout.obs[:, 0])
    assert torch.allclose(pi.log_prob(rollout.action[:, 0]), rollout.log_prob[:, 0], atol=1e-5)


def test_reset_steps_hardly_change_the_number_of_minibatches():
    env = envs.make("CartPole-v1")
    trainer, actor, critic = PPO(env, seed=0), agents.actor(env), agents.critic(env)
    sizes = []
    loss = trainer.actor_loss
    trainer.actor_loss = lambda ratio, advantage: sizes.append(len(ratio)) or loss(ratio, advantage)
    trainer.train(actor, critic, steps=1)
    assert len(sizes) == 4 * trainer.epochs
    assert sum(sizes) < 2048 * trainer.epochs
