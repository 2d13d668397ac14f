"""Trainings drawn at random, always the same ones; `tools/fuzz.py` runs more of them."""

import collections
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, note, settings

from metis_nb import agents, envs, learning
from tests import fuzz
from tests.fuzz import BoxOf, Case, DiscreteOf, check

COUNT = 40  # of each trainer


@pytest.mark.parametrize("trainer", fuzz.TRAINERS)
def test_every_training_ends_well_or_is_refused_with_a_reason(trainer):
    ends = collections.Counter()

    @settings(
        max_examples=COUNT,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[*HealthCheck],
    )
    @given(fuzz.cases(trainer))
    def one(case):
        note(f"check({case!r})")
        ends[check(case)] += 1

    one()
    assert ends.total() >= COUNT
    # Where nearly all is refused, nothing is proven: 29 to 37 of 40 trained.
    assert ends["trained"] > 0.6 * ends.total(), ends


# --- the judge is judged --------------------------------------------------------------------------


def test_a_case_can_be_written_down_and_read_again():
    case = Case("PPO", action=BoxOf(-1.0, 3.0, (1,)), settings={"gamma": 0.5}, steps=7)
    assert repr(eval(repr(case))) == repr(case)
    assert check(case) == "trained"


@pytest.mark.parametrize(
    ("case", "end"),
    [
        (Case("VPG", obs=DiscreteOf(3)), "observation space"),
        (Case("A2C", action=BoxOf(shape=(2, 2))), "action space"),
        (Case("DQN", action=BoxOf()), "action space"),
        (Case("TD3", action=BoxOf(0.0, float("inf"))), "bounds"),
        (Case("SAC", settings={"learning_starts": 9, "capacity": 8}), "learning_starts"),
        (Case("PPO", settings={"gamma": 1.5}, bad="gamma"), "hyperparameter gamma"),
        (Case("DDQN", broken=("reward", 3)), "not finite"),
    ],
)
def test_what_is_refused(case, end):
    assert check(case) == end


def at_fault(case, match, monkeypatch, owner, name, value):
    assert check(case) == "trained"
    monkeypatch.setattr(owner, name, value)
    fault = fuzz.fault_of(case)
    assert fault is not None
    assert match in fault


BOX = Case("PPO", action=BoxOf(-2.0, 0.5))


def test_actions_outside_of_their_space_are_a_fault(monkeypatch):
    units = envs.spaces.ActionUnits
    outside = lambda self, action: action.numpy() + np.float32(9)  # noqa: E731
    at_fault(BOX, "is not in Box(-2.0, 0.5", monkeypatch, units, "to_numpy", outside)


def test_steps_miscounted_are_a_fault(monkeypatch):
    steps = property(lambda run: run.view.steps + 1 if run.view else 0)
    at_fault(BOX, "steps counted", monkeypatch, learning.Run, "steps", steps)


def test_numbers_that_are_not_finite_are_a_fault(monkeypatch):
    def spoil(self, batch):
        self.mean.fill_(float("nan"))

    settings = {"batch_steps": 1000}  # all of them before the one update
    case = dataclasses.replace(BOX, trainer="VPG", steps=1, settings=settings)
    at_fault(case, "mean is not finite", monkeypatch, agents.RunningStatistics, "update", spoil)


def test_errors_of_others_and_refusals_without_a_reason_are_a_fault(monkeypatch):
    def fails(self, *arguments):
        return torch.zeros(2) @ torch.zeros(3)

    at_fault(BOX, "RuntimeError", monkeypatch, agents.Critic, "forward", fails)

    def refuses(*arguments):
        raise ValueError("no")

    monkeypatch.undo()
    at_fault(BOX, "no", monkeypatch, learning.Run, "start", refuses)


def test_a_file_that_forgets_is_a_fault(monkeypatch):
    case = Case("DQN", settings={"learning_starts": 1, "batch_size": 2}, again=True)
    forgets = lambda self, state: None  # noqa: E731
    at_fault(
        case, "went on otherwise", monkeypatch, learning.ReplayBuffer, "load_state_dict", forgets
    )


def test_a_case_becomes_smaller_and_keeps_its_fault(monkeypatch):
    case = dataclasses.replace(
        BOX, obs=BoxOf(0, 3, (2, 1), "int8"), kind="sync", num_envs=3, settings={"gamma": 0.5}
    )
    units = envs.spaces.ActionUnits
    monkeypatch.setattr(units, "to_numpy", lambda self, action: action.numpy() + np.float32(9))
    assert repr(fuzz.smallest(case)) == repr(Case("PPO"))
