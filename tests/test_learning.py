"""Do they learn? Probes with known answers, then real tasks. -m "not learning" leaves them out."""

import gymnasium as gym
import pytest
import torch

import metis_nb
from metis_nb import A2C, DDPG, DDQN, DQN, PPO, SAC, TD3, VPG, ReplayBuffer, agents, envs, evaluate

pytestmark = pytest.mark.learning


def train(env, steps, seed=0, trainer=PPO, **settings):
    metis_nb.seed(seed)
    actor, critic = agents.actor(env), agents.critic(env)
    history = trainer(env, seed=seed, **settings).train(actor, critic, steps=steps)
    return actor, critic, history


def answers(probe, trainer=PPO):
    """(value, true value, action, best action) for each observation of a probe."""
    games = gym.vector.SyncVectorEnv([probe] * 16)
    settings = dict(gamma=0.9, rollout_steps=512, minibatch_size=128)
    actor, critic, _ = train(games, 10_000, trainer=trainer, **settings)
    for seen, (value, best) in probe().truth(gamma=0.9).items():
        obs = torch.tensor([[seen]])
        yield float(critic(obs).detach()), value, float(actor.act(obs)), best


@pytest.mark.parametrize("probe", [*envs.probes.LADDER, envs.probes.LaterChoice])
def test_probes_get_their_known_answers(probe):
    for learned, value, chosen, best in answers(probe):
        assert value is None or learned == pytest.approx(value, rel=0.05, abs=0.05), probe.suspect
        assert best is None or chosen == pytest.approx(best, abs=0.2), probe.suspect


def test_the_probe_of_endless_reward_finds_a_truncation_taken_for_an_end():
    class Bug(PPO):
        def advantages(self, critic, rollout):
            rollout.terminated = rollout.terminated | rollout.truncated
            return super().advantages(critic, rollout)

    ((learned, value, _, _),) = answers(envs.probes.EndlessReward, Bug)
    assert learned < 0.6 * value  # about half
    assert value == pytest.approx(10)


def q_answers(probe, Trainer, **settings):
    """(highest value, true value, its action, best action) for each observation of a probe."""
    games = gym.vector.SyncVectorEnv([probe] * 16)
    metis_nb.seed(0)
    q_network = agents.q_network(games)
    settings = dict(gamma=0.9, n_step=1, learning_starts=200, target_interval=64) | settings
    Trainer(games, seed=0, **settings).train(q_network, steps=4_000)
    for seen, (value, best) in probe().truth(gamma=0.9).items():
        values = q_network(torch.tensor([[seen]])).detach()[0]
        yield float(values.max()), value, int(values.argmax()), best


@pytest.mark.parametrize("Trainer", [DQN, DDQN])
@pytest.mark.parametrize("probe", envs.probes.Q_LADDER)
def test_probes_get_their_known_answers_from_a_q_network(probe, Trainer):
    _, suspect = envs.probes.Q_LADDER[probe]
    for learned, value, chosen, best in q_answers(probe, Trainer):
        assert learned == pytest.approx(value, rel=0.05, abs=0.05), suspect
        assert best is None or chosen == best, suspect


class WrongAction(DQN):
    def update(self, q_network, batch):
        batch.action = torch.zeros_like(batch.action)
        return super().update(q_network, batch)


class NeverCopied(DQN):
    def copy_to_target(self, q_network):
        pass


class MeanForMaximum(DQN):
    def td_target(self, target, batch):
        later = target(batch.next_obs).mean(1)
        return batch.reward + batch.discount * later * ~batch.terminated


class CutIsEnd(ReplayBuffer):
    def add(self, obs, action, step):
        step.terminated = step.terminated | step.truncated
        return super().add(obs, action, step)


@pytest.mark.parametrize(
    ("probe", "Trainer", "settings"),
    [
        (envs.probes.ChosenReward, WrongAction, {}),
        (envs.probes.DelayedReward, NeverCopied, {}),
        (envs.probes.LaterChoice, MeanForMaximum, {}),
        (envs.probes.LaterChoice, DQN, dict(n_step=3)),
        (envs.probes.EndlessReward, DQN, dict(replay=CutIsEnd(envs.probes.EndlessReward(), 5_000))),
    ],
)
def test_what_the_probes_find_in_a_q_network(probe, Trainer, settings):
    """Each is far off where its suspect is guilty."""
    learned, value, *_ = next(q_answers(probe, Trainer, **settings))
    assert learned != pytest.approx(value, rel=0.3)


# How far above the bars: over ten seeds, at the 100,000 and 300,000 steps of benchmarks/README.md,
# CartPole-v1 ends at 500 in all and Pendulum-v1 at -173 to -155. These train for less.


def test_cartpole_with_many_environments():
    env = envs.make("CartPole-v1", num_envs=16)
    actor, _, _ = train(env, 60_000)
    assert evaluate(env, actor).mean() >= 475


def test_cartpole_with_one_environment():
    env = gym.make("CartPole-v1")
    actor, _, _ = train(env, 60_000)
    assert evaluate(env, actor).mean() >= 475


def test_pendulum():
    env = envs.make("Pendulum-v1", num_envs=16)
    actor, _, _ = train(env, 120_000)
    assert evaluate(env, actor).mean() >= -250


# How far above the bar: 500 with both, for each of the seeds 0 to 9.


@pytest.mark.parametrize("trainer", [A2C, VPG])
def test_cartpole_with_one_gradient_step_for_each_batch(trainer):
    env = envs.make("CartPole-v1", num_envs=16)
    metis_nb.seed(0)
    actor = agents.actor(env)
    networks = [actor] if trainer is VPG else [actor, agents.critic(env)]
    trainer(env, seed=0).train(*networks, steps=40_000)
    assert evaluate(env, actor).mean() >= 475


# How far above the bar: all six (both, seeds 0 to 2) had passed after 5,000 steps. Of six looks, 5,
# 6 and 5 were good for DQN, 1, 6 and 6 for Double DQN, whose seed 0 lost again what it had found.
# benchmarks/README.md has what they end with after 100,000 steps.


@pytest.mark.parametrize("Trainer", [DQN, DDQN])
def test_cartpole_from_a_replay_memory(Trainer):
    """Every seed is good once within 15,000 steps, most of them in half of the looks or more."""
    env, good = envs.make("CartPole-v1", num_envs=16), []
    for seed in (0, 1, 2):
        metis_nb.seed(seed)
        q_network, trainer, looks = agents.q_network(env), Trainer(env, seed=seed), []
        for _ in range(6):
            trainer.train(q_network, steps=5_000)
            looks.append(evaluate(env, q_network, episodes=50).mean())
        assert max(looks[:3]) >= 475, f"seed {seed}: {looks}"
        good.append(sum(look >= 475 for look in looks))
    assert sorted(good)[1] >= 3, good


# How far above the bar: after 20,000 steps all seeds in benchmarks/README.md end at -175 or more.
# A seed of DDPG may hang for long: of ten others, three had not swung up after 8,000 steps.


@pytest.mark.parametrize("Trainer", [DDPG, TD3, SAC])
def test_pendulum_from_a_replay_memory(Trainer):
    metis_nb.seed(0)
    env = envs.make("Pendulum-v1", num_envs=16)
    stochastic = Trainer is SAC
    actor = agents.actor(env, squashed=stochastic, deterministic=not stochastic)
    critics = [agents.q_critic(env), agents.q_critic(env)]
    networks = [actor, critics[0] if Trainer is DDPG else critics]
    Trainer(env, seed=0).train(*networks, steps=20_000 - 16)
    assert evaluate(env, actor).mean() >= -200
