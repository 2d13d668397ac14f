"""Short trainings end where they always did; see golden.py."""

import json

import pytest

from tests import golden

KNOWN = json.loads(golden.FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def now():
    return golden.run()


@pytest.mark.parametrize("name", KNOWN["summary"])
def test_a_short_training_ends_where_it_did(now, name):
    result = now["results"][name]
    # Other kernels round otherwise, and a training carries that on: hence the tolerance.
    assert result["summary"] == pytest.approx(KNOWN["summary"][name], rel=2e-4, abs=2e-4)
    if now["machine"] in KNOWN["machines"]:
        assert result["sha256"] == KNOWN["machines"][now["machine"]][name]


def test_every_trainer_is_among_them():
    names = {tuple(name.split(", ")) for name in KNOWN["summary"]}
    assert len(names) == 8 * 2 * 2 - 2 * 2  # DDPG and TD3 have continuous actions alone
    assert {name for name, _, _ in names} == {
        *("VPG", "A2C", "PPO", "DQN", "DDQN", "DDPG", "TD3", "SAC")
    }
