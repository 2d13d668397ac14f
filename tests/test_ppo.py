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
