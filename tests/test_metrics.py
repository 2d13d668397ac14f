"""Every number in a history is explained: on its trainer, and on the page made from that."""

import re

import gymnasium as gym
import pytest

from metis_nb import envs, learning, trainers
from tests.test_trainers import BATCH, networks_for, settings_for
from tools import metrics

EVERY = [getattr(trainers, name) for name in trainers.__all__]


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("Trainer", EVERY)
def test_every_number_in_a_history_is_described_and_nothing_else(Trainer, discrete):
    if discrete and Trainer.__name__ in ("DDPG", "TD3"):
        return
    env = gym.make("CartPole-v1" if discrete else "Pendulum-v1")
    if not discrete and Trainer.__name__ in ("DQN", "DDQN"):
        env = envs.DiscretizeAction(env)
    trainer = Trainer(env, seed=0, **settings_for(Trainer))
    trainer.train(*networks_for(Trainer, env), steps=600, progress=False)
    found = {name for row in trainer.history for name in row}
    assert found == {*learning.described_metrics(trainer)} == {*learning.described_metrics(Trainer)}
    assert {*trainer.healthy_ranges} <= found
    assert {*BATCH} == {*EVERY}


@pytest.mark.parametrize("Trainer", EVERY)
def test_a_description_says_what_is_healthy(Trainer):
    described = learning.described_metrics(Trainer)
    for name, text in described.items():
        what, *healthy = text.split("Healthy: ")
        assert len(what) > 10, name
        assert len(healthy) == 1, name
        assert len(healthy[0]) > 5, name
        assert text.endswith("."), name
    ranges = Trainer.healthy_ranges
    if isinstance(ranges, dict):  # else it depends on the task
        for name, (low, high) in ranges.items():
            assert re.search(rf"Healthy: {low:g} to {high:g}\b", described[name]), name


def test_a_subclass_describes_its_own():
    class Own(trainers.PPO):
        """Mine.

        Metrics:
            surprise: how much of it, in
                bits. Healthy: none.

        Raises:
            Nothing: at all.
        """

    own = learning.described_metrics(Own)
    assert own == learning.EVERY_ROW | {"surprise": "how much of it, in bits. Healthy: none."}


def test_the_page_is_the_one_that_the_docstrings_make():
    assert metrics.PAGE.read_text(encoding="utf-8") == metrics.page(), (
        "run `python tools/metrics.py --write`"
    )
