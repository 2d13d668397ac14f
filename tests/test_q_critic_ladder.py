"""DDPG, TD3 and SAC climb the ladder of probes for continuous actions, and what falls off it."""

import gymnasium as gym
import pytest
import torch

import metis_nb
from metis_nb import DDPG, SAC, TD3, ReplayBuffer, agents, envs
from metis_nb.envs import probes
from metis_nb.envs.spaces import ActionUnits

pytestmark = pytest.mark.learning

# Small and soon. The noise on TD3's target makes an action that is best a little worse than it is,
# and so does the chance of SAC's: both are to be small here.
SETTINGS = dict(gamma=0.9, collect_steps=16, learning_starts=320, batch_size=64, tau=0.2)
SETTINGS |= dict(updates_per_step=0.4, learning_rate=3e-3, noise_correlation=0.0)
OWN = {DDPG: {}, TD3: dict(target_noise=0.05), SAC: dict(initial_alpha=0.01, learn_alpha=False)}


def q_critic_answers(probe, Trainer, seed=0, **settings):
    """(value of the actor's action, true value, that action, best action) for each observation."""
    games = gym.vector.SyncVectorEnv([probe] * 16)
    metis_nb.seed(seed)
    kind = next(kind for kind in OWN if issubclass(Trainer, kind))
    option, small = "squashed" if kind is SAC else "deterministic", dict(hidden_sizes=(32, 32))
    actor = agents.actor(games, **{option: True}, **small)
    critics = [agents.q_critic(games, **small) for _ in range(1 if kind is DDPG else 2)]
    trainer = Trainer(games, seed=seed, **(SETTINGS | OWN[kind] | settings))
    steps = 2_400 if any(best is not None for _, best in probe().truth(0.9).values()) else 1_200
    trainer.train(actor, critics[0] if kind is DDPG else critics, steps=steps, progress=False)
    units = ActionUnits(probe.action_space)
    for seen, (value, best) in probe().truth(gamma=0.9).items():
        obs = torch.tensor([[seen]])
        action = actor.act(obs)
        learned = critics[0](obs, units.from_env(action)).detach()
        yield float(learned), value, float(action), best


@pytest.mark.parametrize("Trainer", OWN)
@pytest.mark.parametrize("probe", probes.Q_CRITIC_LADDER)
def test_probes_get_their_known_answers(probe, Trainer):
    _, suspect = probes.Q_CRITIC_LADDER[probe]
    for learned, value, chosen, best in q_critic_answers(probe, Trainer):
        assert learned == pytest.approx(value, rel=0.05, abs=0.05), suspect
        assert best is None or chosen == pytest.approx(best, abs=0.25), suspect


def test_the_ladder_says_what_it_asks_and_what_to_suspect():
    for probe, (asks, suspect) in probes.Q_CRITIC_LADDER.items():
        assert len(asks) > 10 < len(suspect)
        assert probe.action_space == probes.MatchedTorque.action_space
        assert set(probe().truth(0.5)) >= {float(probe().reset(seed=0)[0][0])}


# --- bugs, each found by the rung that is meant for it ------------------------------------------


class CutIsEnd(ReplayBuffer):
    def add(self, obs, action, step):
        step.terminated = step.terminated | step.truncated
        return super().add(obs, action, step)


class InTheEnvironmentsUnits(ReplayBuffer):
    def add(self, obs, action, step):
        return super().add(obs, ActionUnits(self.spaces[1]).to_env(action), step)


class OtherStates(ReplayBuffer):
    """Observations that do not belong to their rewards."""

    def add(self, obs, action, step):
        return super().add(obs.roll(1, 0), action, step)


class WrongWay(DDPG):
    def actor_loss(self, actor, critic, obs):
        return -super().actor_loss(actor, critic, obs)


class NeverMoved(TD3):
    def update_targets(self, actor, critics, tau):
        pass


class ActionOfTheMemory(DDPG):
    """SARSA: the target's action is one that was taken, not the actor's."""

    def td_target(self, target_actor, target_critic, batch):
        other = batch.action[torch.randperm(len(batch.action))]
        return super().td_target(lambda obs: other, target_critic, batch)


class Undiscounted(SAC):
    def td_target(self, actor, target_critics, batch):
        batch.discount = torch.ones_like(batch.discount)
        return super().td_target(actor, target_critics, batch)


class MuchEntropy(SAC):
    """A temperature that is never low enough, or an entropy with the wrong sign."""

    def actor_loss(self, actor, critics, obs):
        loss, entropy = super().actor_loss(actor, critics, obs)
        return -loss, entropy


BROKEN = [
    (probes.EndlessTorqueReward, DDPG, dict(replay=CutIsEnd)),
    (probes.BestTorque, TD3, dict(replay=InTheEnvironmentsUnits)),
    (probes.BestTorque, WrongWay, {}),
    (probes.BestTorque, MuchEntropy, {}),
    (probes.ObservedTorqueReward, DDPG, dict(replay=OtherStates)),
    (probes.FollowedTorque, TD3, dict(replay=OtherStates)),
    (probes.DelayedTorqueReward, NeverMoved, {}),
    (probes.DelayedTorqueReward, Undiscounted, {}),
    (probes.LaterTorque, ActionOfTheMemory, {}),
]


@pytest.mark.parametrize(("probe", "Trainer", "settings"), BROKEN)
def test_what_the_probes_find(probe, Trainer, settings):
    """The first answer is wrong where its suspect is guilty, most by far."""
    if "replay" in settings:
        settings = dict(replay=settings["replay"](envs.probes.EndlessTorqueReward(), 5_000))
    learned, value, chosen, best = next(q_critic_answers(probe, Trainer, **settings))
    wrong_action = best is not None and abs(chosen - best) > 0.5
    assert wrong_action or learned != pytest.approx(value, rel=0.05, abs=0.05)


def test_an_action_that_is_not_rescaled_is_found(monkeypatch):
    """The environment gets [-1, 1], where it would take [-1, 3]: out of reach of the best, 2."""
    monkeypatch.setattr(ActionUnits, "to_env", lambda self, action: action)
    ((learned, value, chosen, best),) = q_critic_answers(probes.BestTorque, DDPG)
    assert chosen < best - 0.5
    assert learned < value - 0.15
