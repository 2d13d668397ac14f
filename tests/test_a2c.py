"""A2C: what only it has. What it shares with the other trainers is in `test_trainers.py`."""

import gymnasium as gym
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from torch import nn

from metis_nb import A2C, agents, envs
from tests.scripted import Scripted, TorchVector
from tests.test_trainers import learn, small


def test_the_actor_loss_on_numbers_by_hand():
    log_prob, advantage = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([3.0, -1.0, 2.0])
    loss = A2C(Scripted()).actor_loss(log_prob, advantage)
    assert float(loss) == pytest.approx(-(-3 + 2 - 1) / 3)


def test_the_critic_moves_to_the_targets_and_the_actor_to_the_better_action():
    env = Scripted()
    trainer = A2C(env, rollout_steps=64, learning_rate=1e-2)
    actor, critic = agents.actor(env), agents.critic(env)
    rollout = trainer.collect(actor)
    obs = rollout.obs[:, 0]
    target = 7 + obs[:, 1:]  # the step within its episode
    advantage = torch.where(rollout.action == 2, 1.0, -1.0)
    probability = lambda: agents.policy(actor, obs).probs[:, 2].mean()  # noqa: E731
    error = lambda: (critic(obs) - target[:, 0]).abs().mean()  # noqa: E731
    before = float(probability().detach())
    trainer.update(actor, critic, rollout, advantage, target)
    first = float(error().detach())
    for _ in range(20):
        trainer.update(actor, critic, rollout, advantage, target)
    assert float(probability().detach()) > before + 0.3
    assert float(error().detach()) < 0.5 * first


def test_one_gradient_step_for_each_rollout():
    trainer, networks = small(A2C, gym.make("CartPole-v1"))
    trainer.train(*networks, steps=128 * 5)
    (steps,) = {int(state["step"]) for state in trainer.run.state["adam"].state.values()}
    assert steps == len(trainer.history) == 5


def parts(shared):
    """A trainer and, by name, the parameters of actor and critic and those they may share."""
    env = gym.make("CartPole-v1")
    bodies = [nn.Sequential(nn.Linear(4, 8), nn.Tanh()) for _ in range(2)]
    actor = agents.actor(env, body=bodies[0])
    critic = agents.critic(env, body=bodies[0 if shared else 1])
    both = dict(actor=[actor.head.weight], critic=[critic.head.weight])
    both["shared" if shared else "actor"] = [bodies[0][0].weight]
    return A2C(env, rollout_steps=128, seed=0), actor, critic, both


@pytest.mark.parametrize("still", ["learning_rate", "critic_learning_rate"])
@pytest.mark.parametrize("shared", [False, True])
def test_each_network_has_its_learning_rate_and_what_they_share_the_actors(shared, still):
    trainer, actor, critic, parameters = parts(shared)
    trainer.train(actor, critic, steps=128)
    setattr(trainer, still, 0.0)  # on the way
    before = {name: [p.clone() for p in some] for name, some in parameters.items()}
    trainer.train(actor, critic, steps=128)
    moved = {
        name
        for name, some in parameters.items()
        if not all(torch.equal(a, b) for a, b in zip(some, before[name], strict=True))
    }
    actors = {"actor", "shared"} & parameters.keys()
    assert moved == ({"critic"} if still == "learning_rate" else actors)


def test_a_loud_critic_does_not_quieten_the_actor():
    """The gradient of each network is clipped for itself."""

    class Loud(A2C):
        def critic_loss(self, critic, obs, value_target):
            return 1e6 * super().critic_loss(critic, obs, value_target)

    gradients, norms = [], []
    for kind in (A2C, Loud):
        torch.manual_seed(0)
        env = gym.make("CartPole-v1")
        actor, critic = agents.actor(env), agents.critic(env)
        trainer = kind(env, rollout_steps=128, seed=0, max_grad_norm=0.05)
        learn(trainer, actor, critic, trainer.collect(actor))
        gradients.append(torch.cat([p.grad.flatten() for p in actor.parameters()]))
        norms.append(torch.cat([p.grad.flatten() for p in critic.parameters()]).norm())
    assert torch.equal(*gradients)
    assert float(gradients[0].norm()) == pytest.approx(0.05, rel=1e-3)
    assert [float(norm) for norm in norms] == pytest.approx([0.05, 0.05], rel=1e-3)


def test_small_advantages_push_little_where_returns_are_large():
    """All the same once they are as large as the returns: the floor is a tenth of their spread."""
    sizes = []
    for size in (1.0, 100.0):
        torch.manual_seed(0)
        env = Scripted()
        trainer = A2C(env, rollout_steps=60, seed=0, max_grad_norm=1e9, entropy_coefficient=0.0)
        actor, critic = agents.actor(env), agents.critic(env)
        agents.update_statistics(critic, returns=100 * torch.randn(10_000))
        rollout = trainer.collect(actor)
        advantage = size * torch.randn(60, 1)
        trainer.update(actor, critic, rollout, advantage, 100 * torch.randn(60, 1))
        sizes.append(torch.cat([p.grad.flatten() for p in actor.parameters()]).norm())
    # Divided by about 1 + 10, and by about 100 + 10.
    assert float(sizes[1] / sizes[0]) == pytest.approx(100 * 11 / 110, rel=0.1)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_rollouts_that_would_only_reset(steps):
    """Where all environments end at once, the next step of each is no experience."""
    env = SyncVectorEnv([Scripted] * 2)
    trainer, actor, critic = A2C(env, rollout_steps=steps), agents.actor(env), agents.critic(env)
    trainer.train(actor, critic, steps=60)
    assert trainer.run.steps >= 60
    assert all(p.isfinite().all() for p in [*actor.parameters(), *critic.parameters()])


def test_a_single_step_at_a_time_is_possible():
    env = TorchVector()
    A2C(env, rollout_steps=2).train(agents.actor(env), agents.critic(env), steps=20)
    env = envs.make("CartPole-v1", num_envs=16)  # one row for each rollout
    trainer = A2C(env, rollout_steps=16)
    trainer.train(agents.actor(env), agents.critic(env), steps=640)
    assert len(trainer.history) >= 40
