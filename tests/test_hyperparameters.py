"""Ranges stand in the fields' types, so that a subclass's are checked too; names of version 0.1."""

from __future__ import annotations

import copy
import dataclasses
import fractions
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from metis_nb import DQN, PPO, SAC, VPG, PrioritizedReplay, ReplayBuffer, agents, envs, learning
from metis_nb.agents import RunningStatistics
from metis_nb.learning import Count, Fraction

FILES = Path(__file__).with_name("files")


@dataclass(eq=False)
class Own(PPO):
    gamma: float = 0.9  # another default; the range stays
    share: Fraction = 0.5
    copies: Count = 2
    anything: float = -1.0
    unknown: OnlyATypeCheckerKnows = None  # noqa: F821


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("gamma", 1.5, "a number from 0 to 1"),
        ("share", -0.1, "a number from 0 to 1"),
        ("share", True, "a number from 0 to 1"),
        ("copies", 2.5, "a whole number above 0"),
        ("learning_rate", -1.0, "a number of 0 or more"),
        ("clip_range", 0, "a number above 0"),
    ],
)
def test_fields_of_a_subclass_are_checked(name, value, accepted):
    env = gym.make("CartPole-v1")
    with pytest.raises(ValueError, match=f"{name}={value!r}; expected {accepted}."):
        Own(env, **{name: value})
    trainer = Own(env, rollout_steps=16, minibatch_size=16, epochs=1)
    networks = agents.actor(env), agents.critic(env)
    trainer.train(*networks, steps=16, progress=False)
    setattr(trainer, name, value)  # later, too
    with pytest.raises(ValueError, match=f"{name}={value!r}; expected {accepted}."):
        trainer.train(*networks, steps=16, progress=False)


def test_fields_of_a_class_in_a_function_are_checked():
    @dataclass(eq=False)
    class Inner(DQN):
        share: learning.Fraction = 0.5

    with pytest.raises(ValueError, match="share=2; expected a number from 0 to 1"):
        Inner(gym.make("CartPole-v1"), share=2)
    assert Inner(gym.make("CartPole-v1"), share=1).share == 1


@pytest.mark.parametrize("Trainer", [PPO, DQN, SAC, VPG])
def test_every_number_has_a_range(Trainer):
    ranges = learning.checks.ranges(Trainer)
    numbers = {f.name for f in dataclasses.fields(Trainer) if type(f.default) in (int, float)}
    optional = {"initial_alpha"} if Trainer is SAC else set()  # None: from the rewards
    assert {*ranges} == numbers | optional


@pytest.mark.parametrize(
    ("name", "given", "becomes"),
    [
        ("gamma", fractions.Fraction(1, 4), 0.25),
        ("gamma", np.float32(0.5), 0.5),
        ("learning_rate", fractions.Fraction(1, 1000), 0.001),
        ("rollout_steps", np.int8(100), 100),  # int8 overflows at 128
        ("clip_range", np.float16(0.25), 0.25),
        ("entropy_coefficient", fractions.Fraction(1, 8), 0.125),
    ],
)
def test_numbers_of_other_types_train_and_are_saved(name, given, becomes, tmp_path):
    env = gym.make("CartPole-v1")
    trained = []
    for value in (given, becomes):
        torch.manual_seed(0)
        networks = agents.actor(env), agents.critic(env)
        trainer = PPO(env, **(dict(rollout_steps=16, epochs=1, seed=0) | {name: value}))
        trainer.train(*networks, steps=32, progress=False)
        assert type(getattr(trainer, name)) is type(becomes)
        assert getattr(trainer, name) == becomes
        trained.append(torch.cat([p.flatten() for p in networks[0].parameters()]))
    assert torch.equal(*trained)
    trainer.save(tmp_path / "ppo")
    assert getattr(PPO.load(tmp_path / "ppo", env), name) == becomes


def test_what_a_reader_computes_is_left_as_it_is():
    class Falling(PPO):
        @property
        def gamma(self):
            return np.float32(0.5)

        @gamma.setter
        def gamma(self, value): ...

    assert type(Falling(gym.make("CartPole-v1")).gamma) is np.float32


def test_a_target_entropy_of_another_type(tmp_path):
    trainer = SAC(gym.make("Pendulum-v1"), target_entropy=fractions.Fraction(-3, 2))
    assert type(trainer.target_entropy) is float
    assert trainer.resolved_target_entropy == -1.5


# --- names of version 0.1 -------------------------------------------------------------------------


def test_what_would_not_be_called_any_more_is_refused():
    class Watched(PPO):
        healthy = {"kl": (0.0, 1.0)}  # noqa: RUF012

    with pytest.raises(
        TypeError, match=r"Watched.healthy would not be called: it is healthy_ranges"
    ):
        Watched(gym.make("CartPole-v1"))

    with pytest.raises(TypeError, match=r"Mine.draw would not be called: it is sample_indices now"):

        class Mine(ReplayBuffer):
            def draw(self, batch_size, generator): ...


@pytest.mark.parametrize("name", ["sac", "vpg", "dqn"])
def test_files_of_version_0_1_load_and_go_on(name):
    path = FILES / f"{name}_0.1.safetensors"
    if name == "sac":
        env = gym.make("Pendulum-v1")
        trainer = SAC.load(path, env)
        assert trainer.initial_alpha == 0.3
        assert trainer.memory.capacity == 64
        following = trainer.memory["next_index"]
        assert following[:-1].tolist() == [*range(1, len(following))]
        networks = trainer.actor, trainer.critics
    elif name == "dqn":
        env = gym.make("CartPole-v1")
        trainer = DQN.load(path, env, replay=PrioritizedReplay(env, 64))
        assert trainer.memory.alpha == 0.6  # not to be taken for SAC's
        networks = (trainer.q_network,)
    else:
        env = envs.make("CartPole-v1", num_envs=3)
        trainer = VPG.load(path, env)
        assert trainer.action_weight == "total_return"
        assert len(trainer.unfinished.rows) == 30
        networks = (trainer.actor,)
    rows = len(trainer.history)
    trainer.train(*networks, steps=40, progress=False)
    assert len(trainer.history) > rows
    assert agents.load(path, next(iter(trainer.run.networks)))


# --- what follows from running statistics ---------------------------------------------------------


def fresh(statistics):
    return statistics.variance.sqrt().clamp(min=1e-4)


def test_the_standard_deviation_is_never_that_of_before():
    statistics = RunningStatistics((3,))
    assert torch.equal(statistics.std, torch.ones(3))
    changes = [
        lambda: statistics.update(torch.randn(50, 3)),
        lambda: statistics.variance.fill_(4.0),
        lambda: statistics.load_state_dict(
            {"mean": torch.ones(3), "variance": torch.full((3,), 9.0), "count": torch.tensor(5)}
        ),
        lambda: setattr(statistics, "variance", torch.full((3,), 16.0)),
        lambda: statistics.double(),
    ]
    for index, change in enumerate(changes):
        _ = statistics.std, copy.deepcopy(statistics).std
        change()
        assert torch.equal(statistics.std, fresh(statistics)), index
    with torch.inference_mode():
        assert torch.equal(statistics.std, fresh(statistics))
        statistics.update(torch.randn(50, 3).double())
        assert torch.equal(statistics.std, fresh(statistics))
    assert torch.equal(statistics.std, fresh(statistics))
    other = copy.deepcopy(statistics)
    other.update(torch.randn(9, 3).double())
    assert torch.equal(other.std, fresh(other))
    assert torch.equal(statistics.std, fresh(statistics))


def test_buffers_that_are_copied_past_their_versions_are_copied_whole():
    """As in many a target network: no version tells of what is written to `.data`."""
    statistics, target = RunningStatistics((3,)), RunningStatistics((3,))
    for _ in range(2):
        statistics.update(torch.randn(50, 3))
        _ = statistics.std, target.std
        for kept, seen in zip(target.buffers(), statistics.buffers(), strict=True):
            kept.data.copy_(seen.data)
        assert torch.equal(target.std, fresh(statistics))
        assert torch.equal(target.usual_size, statistics.usual_size)
    assert {*statistics.state_dict()} == {"mean", "variance", "count"}


def test_the_unit_of_values_follows_the_rewards():
    critic = agents.q_critic(gym.make("Pendulum-v1"))
    for rewards in ([3.0, -3.0], [100.0, 100.0, 100.0]):
        critic.reward_statistics.update(torch.tensor(rewards))
        statistics = critic.reward_statistics
        usual = float((statistics.mean**2 + statistics.variance) ** 0.5)
        assert float(critic.scale) == pytest.approx(10 * usual)
    obs, action = torch.randn(4, 3, requires_grad=True), torch.zeros(4, 1)
    with torch.inference_mode():
        critic(obs, action)
    critic(obs, action).sum().backward()  # nothing of inference mode is left in the graph
    assert obs.grad is not None
