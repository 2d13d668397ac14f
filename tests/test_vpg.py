"""VPG: which steps are in a batch, what they are weighted by, and episodes that are carried on.

What it shares with the other trainers, its gradient too, is in `test_trainers.py`.
"""

import math

import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st

from metis_nb import VPG, agents
from metis_nb.trainers import vpg
from tests.scripted import EPISODES, Scripted, TorchVector, in_every_mode
from tests.test_trainers import VECTORS, Hidden, small


def three(mode):
    """Three scripted environments that share no episode and are not in step with each other."""
    firsts = [0, 1001, 2002]
    return SyncVectorEnv(
        [lambda first=first: Scripted(first) for first in firsts], autoreset_mode=mode
    )


EVERY = {
    **{name: lambda name=name: dict(in_every_mode())[name] for name, _ in in_every_mode()},
    **{f"three, {mode.name}": lambda mode=mode: three(mode) for mode in AutoresetMode},
}
every_mode = pytest.mark.parametrize("kind", EVERY)


def script(episode):
    """The rewards of that episode of `Scripted`, by its number."""
    length, _ = EPISODES[episode % len(EPISODES)]
    return [1 + 0.5 * k - 0.25 * episode + 0.1 * k**2 for k in range(1, length + 1)]


def steps_of(rollout, *columns):
    """(episode, step in it, ...) of every row that is learned from."""
    rows = [rollout.obs, *(column[..., None] for column in columns)]
    for row in torch.cat(rows, -1)[rollout.valid].tolist():
        yield int(row[0]), int(row[1]), *row[2:]


# --- batches of whole episodes ----------------------------------------------------------------


@every_mode
@pytest.mark.parametrize("batch_steps", [1, 4, 20])
def test_every_step_of_every_ended_episode_is_in_exactly_one_batch(kind, batch_steps):
    env = EVERY[kind]()
    trainer, actor = VPG(env, batch_steps=batch_steps), agents.actor(env)
    seen = []
    for _ in range(40):
        batch = sorted(steps_of(trainer.collect(actor)))
        whole = [(episode, step) for episode, _ in batch for step in range(len(script(episode)))]
        assert batch == sorted(set(whole))  # whole episodes alone, each of its steps once
        assert len(batch) >= batch_steps
        seen += {episode for episode, _ in batch}
    assert len(seen) == len(set(seen))  # no episode twice
    ended = [length for _, _, length in trainer.history.episodes]
    assert sorted(len(script(episode)) for episode in seen) == sorted(ended)  # and none lost
    for first in (0, 1001, 2002):
        own = [episode - first for episode in seen if first <= episode < first + 1000]
        assert sorted(own) == list(range(len(own)))


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_long_episodes_are_carried_on_over_many_batches(mode):
    """In half of the environments they last 20 times as long: half of the steps are theirs."""
    trainer = VPG(TorchVector(limits=(2, 40), mode=mode), batch_steps=4)
    actor, batches, learned = agents.actor(trainer.env), 0, torch.zeros(2)
    while trainer.run.steps < 800:
        learned += trainer.collect(actor).valid.sum(0)
        batches += 1
    assert batches >= 100
    assert learned[1] == 40 * (learned[1] // 40)
    assert abs(learned[0] - learned[1]) <= 40  # the one under way


@every_mode
def test_time_is_the_number_of_steps_since_the_beginning(kind):
    env = EVERY[kind]()
    trainer, actor = VPG(env, batch_steps=7), agents.actor(env)
    for _ in range(20):
        rollout = trainer.collect(actor)
        assert all(step == time for _, step, time in steps_of(rollout, rollout.time))


def test_only_rows_with_an_unfinished_episode_are_kept():
    trainer = VPG(TorchVector(limits=(2, 40)), batch_steps=4)
    for _ in range(15):
        trainer.collect(agents.actor(trainer.env))
        rows, lengths = trainer.unfinished.rows, trainer.run.view.episode_length
        assert len(rows) == lengths.max()
        if rows:
            assert torch.equal(torch.stack([row.valid for row in rows]).sum(0), lengths)
    assert len(rows) == 20


@every_mode
def test_what_is_not_learned_from_does_not_touch_the_update(kind):
    env = EVERY[kind]()
    trainer, actor = VPG(env, batch_steps=50), agents.actor(env)
    seen = 0
    for _ in range(3):
        rollout = trainer.collect(actor)
        seen += int(rollout.valid.sum())
        poison = torch.where(rollout.valid, 0.0, torch.nan)
        metrics = trainer.update(actor, rollout, trainer.weights(rollout) + poison)
        assert all(math.isfinite(float(value)) for value in metrics.values())
        assert int(actor.obs_statistics.count) == seen
    if kind in ("NEXT_STEP", "three, SAME_STEP"):  # one that resets, and one carried on
        assert not rollout.valid.all()


def test_an_episode_without_end_is_named(monkeypatch):
    monkeypatch.setattr(vpg, "LONGEST", 50)
    trainer = VPG(TorchVector(limits=(3, 10**9)), batch_steps=1000)
    with pytest.raises(ValueError, match=r"TorchVector has not ended after 50 .*TimeLimit"):
        trainer.train(agents.actor(trainer.env), steps=1000)
    assert trainer.run.steps <= 2 * 51
    env = TorchVector(limits=(50, 50))  # as long as is allowed
    VPG(env, batch_steps=100).train(agents.actor(env), steps=100)


# --- weights and baselines ----------------------------------------------------------------------


@every_mode
@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("weight", vpg.WEIGHTS)
def test_weights_are_those_of_a_loop_over_each_episode(kind, weight, gamma):
    env = EVERY[kind]()
    trainer = VPG(env, batch_steps=7, action_weight=weight, gamma=gamma)
    actor, carried = agents.actor(env), False
    for _ in range(20):
        carried |= bool(trainer.unfinished.rows)
        rollout = trainer.collect(actor)
        for episode, step, found in steps_of(rollout, trainer.weights(rollout)):
            rewards = script(episode)
            if weight == "reward_to_go":
                rewards = rewards[step:]
            expected = sum(gamma**k * reward for k, reward in enumerate(rewards))
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert carried == kind.startswith("three")


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-99, 99)), min_size=1, max_size=30))
def test_mean_at_is_the_mean_of_the_steps_at_that_time(steps):
    at = {}
    for time, weight in steps:
        at.setdefault(time, []).append(weight)
    expected = [sum(at[time]) / len(at[time]) for time, _ in steps]
    time, weight = map(torch.tensor, zip(*steps))
    found = VPG(Scripted()).mean_at(time, weight.float())
    assert torch.allclose(found, torch.tensor(expected), atol=1e-4)


def test_the_loss_on_numbers_by_hand():
    log_prob, weight = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([3.0, -1.0, 2.0])
    loss = VPG(Scripted()).actor_loss(log_prob, weight)
    assert float(loss) == pytest.approx(-(-3 + 2 - 1) / 3)


# --- unfinished episodes, saved and lost ------------------------------------------------------


@pytest.mark.parametrize("kind", VECTORS)
def test_unfinished_episodes_are_saved(kind, tmp_path):
    trainer, (actor,) = small(VPG, VECTORS[kind]())
    trainer.train(actor, steps=300)
    kept = len(trainer.unfinished.rows)
    assert kept > 1
    trainer.save(tmp_path / "file")
    loaded = VPG.load(tmp_path / "file", VECTORS[kind]())
    assert len(loaded.unfinished.rows) == kept
    for one, two in zip(trainer.unfinished.rows, loaded.unfinished.rows, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(two).values()))
    first, second = trainer.collect(actor), loaded.collect(loaded.actor)
    assert torch.equal(first.action, second.action)
    assert torch.equal(first.valid, second.valid)


def test_they_are_dropped_where_the_environment_starts_anew(tmp_path):
    def hidden():
        return SyncVectorEnv([lambda first=first: Hidden(Scripted(first)) for first in (0, 1001)])

    trainer, (actor,) = small(VPG, hidden())
    while not trainer.unfinished.rows:
        trainer.train(actor, steps=1)
    trainer.save(tmp_path / "file")
    loaded = VPG.load(tmp_path / "file", hidden())
    with pytest.warns(UserWarning, match="new episodes"):
        batch = sorted(steps_of(loaded.collect(loaded.actor)))
    assert batch[0] == (0, 0)
    assert {step for episode, step in batch if episode == 1001} == set(range(5))


@every_mode
@pytest.mark.parametrize("within", [True, False])
def test_after_an_interrupted_batch_episodes_are_still_whole(kind, within, monkeypatch):
    """Interrupted within a step of the environment, or between two of them."""
    env = EVERY[kind]()
    trainer, actor = VPG(env, batch_steps=20), agents.actor(env)
    calls, batches = 0, 0

    def interrupt(*_):
        nonlocal calls
        calls += 1
        if calls % 53 == 0:
            raise KeyboardInterrupt

    if within:
        step = env.step
        monkeypatch.setattr(env, "step", lambda action: interrupt() or step(action))
    else:
        actor.register_forward_pre_hook(interrupt)
    for _ in range(60):
        try:
            batch = sorted(steps_of(trainer.collect(actor)))
        except KeyboardInterrupt:
            continue
        whole = [(episode, step) for episode, _ in batch for step in range(len(script(episode)))]
        assert batch == sorted(set(whole))
        batches += 1
    assert 20 < batches < 58


def test_rows_of_an_earlier_episode_of_the_same_length_are_not_taken_for_its_beginning():
    """After 3 steps the second has gone 3 of 5, and after 18 it has again."""
    env = SyncVectorEnv([Scripted, lambda: Scripted(1)], autoreset_mode=AutoresetMode.SAME_STEP)
    trainer, actor = VPG(env, batch_steps=3), agents.actor(env)
    trainer.collect(actor)
    lengths = trainer.run.view.episode_length.tolist()

    def interrupt(*_):
        if trainer.run.steps == 2 * 18:
            raise KeyboardInterrupt

    hook = actor.register_forward_pre_hook(interrupt)
    trainer.batch_steps = 1000
    with pytest.raises(KeyboardInterrupt):
        trainer.collect(actor)
    hook.remove()
    assert trainer.run.view.episode_length.tolist() == lengths == [0, 3]
    trainer.batch_steps = 20
    batch = sorted(steps_of(trainer.collect(actor)))
    whole = {(episode, step) for episode, _ in batch for step in range(len(script(episode)))}
    assert set(batch) == whole
