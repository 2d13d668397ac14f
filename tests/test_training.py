"""The loop around an algorithm: history, callbacks, interruption, evaluation, plots."""

import os
import signal
import subprocess
import sys
import textwrap

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import metis_nb
from metis_nb import PPO, agents, callbacks, envs, evaluate, plots
from metis_nb.envs import TensorView
from tests.scripted import EPISODES, Scripted, TorchVector, in_every_mode


def small(env, **kwargs):
    return PPO(env, rollout_steps=128, seed=0, **kwargs), agents.actor(env), agents.critic(env)


# --- history ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, _ in in_every_mode()])
def test_episodes_are_counted_as_they_happened(name):
    trainer, actor, critic = small(dict(in_every_mode())[name])
    history = trainer.train(actor, critic, steps=300)
    steps = 0
    for index, (at, episode_return, length) in enumerate(history.episodes):
        expected, _ = EPISODES[index % len(EPISODES)]
        rewards = [1 + 0.5 * k - 0.25 * index + 0.1 * k**2 for k in range(1, expected + 1)]
        steps += expected
        assert (at, length) == (steps, expected)
        assert episode_return == pytest.approx(sum(rewards), abs=1e-4)
    assert len(history.episodes) > 80


def test_the_reward_of_a_step_that_only_resets_is_in_no_return():
    """A wrapper adds 1 to every reward, to that of such a step too."""
    env = gym.vector.SyncVectorEnv([Scripted], autoreset_mode=AutoresetMode.NEXT_STEP)
    view = TensorView(gym.wrappers.vector.TransformReward(env, lambda reward: reward + 1))
    view.reset()
    while len(view.finished) < 4:
        view.step(torch.zeros(1, dtype=torch.int64))
    for episode, (_, total, length) in enumerate(view.finished):
        assert length == EPISODES[episode][0]
        rewards = [2 + 0.5 * t - 0.25 * episode + 0.1 * t**2 for t in range(1, length + 1)]
        assert total == pytest.approx(sum(rewards), rel=1e-5)


def test_history_is_rows_and_columns():
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    history = trainer.train(actor, critic, steps=300)
    assert history is trainer.history
    assert list(history["steps"]) == [128, 256, 384]
    assert history[-1]["episodes"] == len(history.episodes)
    recent = [episode[1] for episode in history.episodes[-20:]]
    assert history["return"][-1] == pytest.approx(np.mean(recent))
    assert "return" in repr(history)
    with pytest.raises(KeyError, match=r"no column 'reward'.*it has steps, seconds"):
        history["reward"]


def test_the_return_of_a_row_is_that_of_the_last_20_episodes_before_it():
    trainer, actor, critic = small(Scripted())  # whose episodes differ, and are short
    history = trainer.train(actor, critic, steps=300)
    for row in history:
        before = [episode for episode in history.episodes if episode[0] <= row["steps"]]
        assert len(before) > 20
        assert row["episodes"] == len(before)
        assert row["return"] == pytest.approx(np.mean([total for _, total, _ in before[-20:]]))
        assert row["length"] == pytest.approx(np.mean([length for *_, length in before[-20:]]))


# --- callbacks --------------------------------------------------------------------------------


def test_a_callback_sees_every_update_and_can_stop():
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    seen = []

    def callback(trainer):
        seen.append(trainer.history[-1]["steps"])
        return len(seen) == 3

    trainer.train(actor, critic, steps=10_000, callbacks=callback)
    assert seen == [128, 256, 384]


def test_a_callback_that_returns_something_else_goes_on():
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    trainer.train(actor, critic, steps=300, callbacks=lambda trainer: "a string")
    assert trainer.run.steps == 384
    trainer.train(actor, critic, steps=300, callbacks=lambda trainer: np.True_)
    assert trainer.run.steps == 512


def test_a_class_is_no_callback():
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    with pytest.raises(TypeError, match=r"the class stop_at; expected .*stop_at\(475\)"):
        trainer.train(actor, critic, steps=128, callbacks=callbacks.stop_at)


def test_history_has_all_columns_from_the_first_row():
    trainer, actor, critic = small(gym.make("MountainCar-v0"))
    history = trainer.train(actor, critic, steps=256)
    assert np.isnan(history["return"][0])
    assert history["return"][1] == -200
    assert history[0].keys() == history[1].keys()


def test_stop_at_stops_at_the_return():
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    trainer.train(actor, critic, steps=100_000, callbacks=callbacks.stop_at(30))
    recent = [episode[1] for episode in trainer.history.episodes[-20:]]
    assert np.mean(recent) >= 30
    assert trainer.run.steps < 100_000


def test_stop_at_waits_for_as_many_episodes_as_it_takes_the_mean_of():
    trainer, *_ = small(Scripted())
    stop, answers = callbacks.stop_at(10, episodes=3), []
    for total in (50.0, 20.0, -50.0, 60.0, 15.0):
        trainer.history.episodes.append((0, total, 1))
        answers.append(bool(stop(trainer)))
    # Too few, too few, 20/3, 10, 25/3
    assert answers == [False, False, False, True, False]


def test_save_every_saves_every_so_often(tmp_path):
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    path = tmp_path / "file"
    trainer.train(actor, critic, steps=1000, callbacks=callbacks.save_every(path, steps=500))
    trainer.train(actor, critic, steps=256)  # not saved
    assert PPO.load(path, trainer.env).run.steps == 1024


def test_a_callback_that_raises_loses_nothing():
    trainer, actor, critic = small(gym.make("CartPole-v1"))

    def fail(trainer):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        trainer.train(actor, critic, steps=300, callbacks=fail)
    assert trainer.train(actor, critic, steps=128)[-1]["steps"] == 256


def test_live_plot_draws_nothing_outside_a_notebook():
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    trainer.train(actor, critic, steps=128, callbacks=callbacks.live_plot())
    assert not plt.get_fignums()


class Watcher:
    """A callback that notes what is called, and may raise."""

    def __init__(self, name, calls, failing=()):
        self.name, self.calls, self.failing = name, calls, failing

    def note(self, what):
        self.calls.append((self.name, what))
        if what in self.failing:
            raise RuntimeError(f"{self.name} {what}")

    def open(self, trainer):
        assert trainer.run.steps == trainer.run.begin
        self.note("open")

    def __call__(self, trainer):
        self.note("update")

    def close(self):
        self.note("close")


def test_callbacks_are_opened_before_the_first_update_and_closed_after_the_last():
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    calls = []
    trainer.train(actor, critic, steps=200, callbacks=[Watcher("a", calls), Watcher("b", calls)])
    assert [what for name, what in calls if name == "a"] == ["open", "update", "update", "close"]
    assert [name for name, what in calls if what == "open"] == ["a", "b"]
    assert [name for name, what in calls if what == "close"] == ["b", "a"]


@pytest.mark.parametrize("failing", [("close",), ("update",), ("update", "close")])
def test_every_callback_is_closed_whatever_raises(failing):
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    calls = []
    watchers = [Watcher("a", calls), Watcher("b", calls, failing), Watcher("c", calls)]
    with pytest.raises(RuntimeError, match="b "):
        trainer.train(actor, critic, steps=200, callbacks=watchers)
    assert {name for name, what in calls if what == "close"} == {"a", "b", "c"}


def test_progress_is_that_of_this_training():
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    assert trainer.run.progress == 0
    seen = []
    watch = lambda trainer: seen.append(trainer.run.progress)  # noqa: E731
    trainer.train(actor, critic, steps=256, callbacks=watch)
    trainer.train(actor, critic, steps=200, callbacks=watch)
    assert seen == [0.5, 1.0, 0.64, 1.0]
    assert (trainer.run.begin, trainer.run.goal) == (256, 456)


def test_the_bar_tells_the_return_and_the_diagnostics():
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    said = []
    look = lambda trainer: said.append(trainer.run._bar.postfix)  # noqa: E731
    trainer.train(actor, critic, steps=256, callbacks=look)
    row = trainer.history[-1]
    assert said[-1] == (
        f"return {row['return']:.1f}, kl {row['kl']:.2g}, clip fraction "
        f"{row['clip_fraction']:.2g}, explained variance {row['explained_variance']:.2g}"
    )


# --- interruption -----------------------------------------------------------------------------


def run_and_interrupt(code, interrupts):
    """A training in a process of its own that is sent SIGINT; its output."""
    code = textwrap.dedent(code).replace("INTERRUPTS", str(interrupts))
    env = {k: v for k, v in os.environ.items() if k != "METIS_NB_TEST"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120
    )
    return result.stdout, result.stderr


INTERRUPTED = """
    import os, signal, gymnasium as gym
    from metis_nb import PPO, agents
    env = gym.make("CartPole-v1")
    actor, critic = agents.actor(env), agents.critic(env)
    trainer = PPO(env, rollout_steps=128)
    sent = []
    class Env(gym.Wrapper):
        def step(self, action):
            if trainer.run.steps > 300 and len(sent) < INTERRUPTS:
                sent.append(os.kill(os.getpid(), signal.SIGINT))
            return super().step(action)
    trainer = PPO(Env(env), rollout_steps=128)
    try:
        trainer.train(actor, critic, steps=100_000)
        print("ended at", trainer.run.steps)
    except KeyboardInterrupt:
        print("raised at", trainer.run.steps)
    trainer.train(actor, critic, steps=128)
    print("went on to", trainer.history[-1]["steps"])
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to oneself on Windows")
def test_the_first_interrupt_ends_after_the_update():
    out, err = run_and_interrupt(INTERRUPTED, 1)
    assert "ended at 384" in out, err
    assert "went on to 512" in out


@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to oneself on Windows")
def test_the_second_interrupt_raises_at_once_and_nothing_is_lost():
    out, err = run_and_interrupt(INTERRUPTED, 2)
    assert "raised at 30" in out, err
    assert "went on to 4" in out


def test_the_handler_from_before_comes_back(monkeypatch):
    monkeypatch.delenv("METIS_NB_TEST", raising=False)
    before = signal.getsignal(signal.SIGINT)
    during = []
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    trainer.train(
        actor, critic, 128, callbacks=lambda _: during.append(signal.getsignal(signal.SIGINT))
    )
    assert signal.getsignal(signal.SIGINT) is before
    assert during[0] is not before


def test_threads_are_as_before_afterwards():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        trainer, actor, critic = small(gym.make("CartPole-v1"))
        during = []
        look = lambda _: during.append(torch.get_num_threads())  # noqa: E731
        trainer.train(actor, critic, 128, callbacks=look)
        assert during == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# --- evaluate ---------------------------------------------------------------------------------


class Leaning(torch.nn.Module):
    """Pushes the cart under the pole: a policy known to balance for 500 steps."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.0, 0.1, 1.0, 0.3]))

    def act(self, obs):
        return (obs @ self.weight > 0).long()


def test_evaluate_gives_the_returns_of_whole_episodes():
    returns = evaluate("CartPole-v1", Leaning(), episodes=5)
    assert returns.shape == (5,)
    assert (returns == 500).all()


def test_evaluate_is_what_a_plain_loop_gives():
    env = gym.make("Pendulum-v1")
    actor = agents.actor(env)
    first = 3 * envs.SEED_STRIDE + envs.SEED_STRIDE // 2
    by_hand = []
    for index in range(4):
        obs, _ = env.reset(seed=first + index)
        total, over = 0.0, False
        while not over:
            action = actor.act(torch.as_tensor(obs)[None])[0].numpy()
            obs, reward, terminated, truncated, _ = env.step(action)
            total, over = total + reward, terminated or truncated
        by_hand.append(total)
    assert np.allclose(evaluate(env, actor, episodes=4, seed=3), by_hand, rtol=1e-4)


def test_evaluate_takes_environments_of_your_own():
    actor = agents.actor(Scripted())
    returns = evaluate(gym.wrappers.TimeLimit(Scripted(), 2), actor, episodes=3)
    assert np.allclose(returns, returns[0])
    assert len(returns) == 3


def test_evaluate_switches_dropout_off_and_on_again():
    env = gym.make("CartPole-v1")
    body = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.Dropout(0.5))
    actor = agents.actor(env, body=body)
    one, two = (evaluate(env, actor, episodes=5) for _ in range(2))
    assert np.array_equal(one, two)
    assert actor.training


def test_evaluate_samples_if_asked_to():
    env = envs.make("Pendulum-v1", num_envs=2)
    actor = agents.actor(env)
    before = torch.get_rng_state()
    greedy = evaluate(env, actor, episodes=3)
    sampled = evaluate(env, actor, episodes=3, deterministic=False)
    assert not np.allclose(greedy, sampled)
    assert np.array_equal(sampled, evaluate(env, actor, episodes=3, deterministic=False))
    assert torch.equal(before, torch.get_rng_state())


def test_evaluate_samples_in_the_environments_units():
    """A policy that hardly varies does the same, drawn or not; half of the way to a torque of 2."""
    env = gym.make("Pendulum-v1")
    actor = agents.actor(env)
    with torch.no_grad():
        actor.head.weight.zero_()
        actor.head.bias.fill_(0.5)
        actor.log_std.fill_(-20.0)
    sampled = evaluate(env, actor, episodes=2, deterministic=False)
    assert np.allclose(sampled, evaluate(env, lambda obs: [1.0], episodes=2), rtol=1e-3)


def test_evaluate_takes_a_plain_function():
    def balance(obs):
        return int(obs @ np.array([0.0, 0.1, 1.0, 0.3]) > 0)

    returns = evaluate("CartPole-v1", balance, episodes=3)
    assert (returns == 500).all()
    assert np.array_equal(returns, evaluate("CartPole-v1", Leaning(), episodes=3))
    first = envs.SEED_STRIDE // 2
    by_hand = 0.0
    env = gym.make("Pendulum-v1")
    env.reset(seed=first)
    for _ in range(200):
        by_hand += env.step(np.array([0.5], np.float32))[1]
    for half in (lambda obs: [0.5], lambda obs: torch.tensor([0.5])):
        assert evaluate(env, half, episodes=1)[0] == by_hand
    with pytest.raises(ValueError, match=r"actor chose .*2.*the action space is Discrete\(2\)"):
        evaluate("CartPole-v1", lambda obs: 2, episodes=1)


class Counted(Scripted):
    """Knows how many of its kind are open."""

    made = 0
    opened = 0

    def __init__(self):
        super().__init__()
        Counted.made += 1
        Counted.opened += 1

    def reset(self, *, seed=None, options=None):
        self.episode = -1  # each is the first of the script: 3 steps
        return super().reset(seed=seed)

    def close(self):
        Counted.opened -= 1


def test_evaluate_uses_few_environments_again_and_closes_them():
    made = Counted.made
    many = gym.vector.SyncVectorEnv([Counted])
    opened = Counted.opened
    returns = evaluate(many, agents.actor(many), episodes=100)
    # Rewards 1 + 0.5 t + 0.1 t^2 for t = 1, 2, 3.
    assert np.allclose(returns, 3 + 0.5 * 6 + 0.1 * 14)
    assert Counted.made - made <= 1 + 16
    assert Counted.opened == opened


def test_episode_i_is_the_same_however_many_there_are():
    actor = agents.actor(gym.make("CartPole-v1"))
    actor.forward = lambda obs: torch.stack([-obs[:, 2], obs[:, 2]], 1)  # to where the pole leans
    many = evaluate("CartPole-v1", actor, episodes=50)
    assert len(set(many.tolist())) > 5
    assert np.array_equal(many[:20], evaluate("CartPole-v1", actor, episodes=20))
    env, first = gym.make("CartPole-v1"), envs.SEED_STRIDE // 2
    for index in (0, 15, 16, 49):
        obs, total, over = env.reset(seed=first + index)[0], 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(actor.act(obs[None])[0])
            total, over = total + reward, terminated or truncated
        assert many[index] == total


def test_an_error_leaves_modes_and_environments_as_they_were():
    class Boom(Counted):
        def step(self, action):
            if self.count == 2:
                raise RuntimeError("boom")
            return super().step(action)

    many = gym.vector.SyncVectorEnv([Boom])
    body = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Dropout(0.5))
    actor = agents.actor(many, body=body)
    actor.body[0].eval()
    before, opened = [module.training for module in actor.modules()], Counted.opened
    with pytest.raises(RuntimeError, match="boom"):
        evaluate(many, actor, episodes=20)
    assert [module.training for module in actor.modules()] == before
    assert Counted.opened == opened


def test_an_episode_without_end_is_named():
    class Endless(Scripted):
        def step(self, action):
            return self._obs(), 1.0, False, False, {}

    actor = agents.actor(Endless())
    with pytest.raises(ValueError, match="Endless has not ended after max_steps=1,000 ") as raised:
        evaluate(Endless(), actor, episodes=2, max_steps=1000)
    assert "gymnasium.wrappers.TimeLimit(env, 1000)" in str(raised.value)
    limited = gym.wrappers.TimeLimit(Endless(), 1000)
    assert evaluate(limited, actor, episodes=2, max_steps=1000).tolist() == [1000, 1000]
    longer = gym.wrappers.TimeLimit(Endless(), 1500)
    assert evaluate(longer, actor, episodes=1).tolist() == [1500]


def test_evaluate_judges_with_the_statistics_that_were_trained_with():
    env = gym.wrappers.NormalizeReward(gym.make("CartPole-v1"))
    env.return_rms.var = np.float64(16.0)
    plain = evaluate("CartPole-v1", Leaning(), episodes=20)
    assert np.allclose(evaluate(env, Leaning(), episodes=20), plain / 4)
    assert env.return_rms.var == 16.0


def test_whole_numbers_may_be_numpys():
    one = evaluate("CartPole-v1", Leaning(), episodes=np.int64(2), seed=np.int32(1))
    assert np.array_equal(one, evaluate("CartPole-v1", Leaning(), episodes=2, seed=1))
    assert envs.make("CartPole-v1", num_envs=np.int64(3)).num_envs == 3


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (dict(episodes=0), ValueError, "episodes=0"),
        (dict(episodes=2.0), ValueError, "episodes=2.0"),
        (dict(max_steps=0), ValueError, "max_steps=0"),
        (dict(seed=-1), ValueError, "seed=-1"),
        (dict(actor=torch.nn.Linear(4, 2)), TypeError, r"without an act\(obs\) method"),
        (dict(env=TorchVector()), ValueError, "no spec"),
    ],
)
def test_bad_arguments_of_evaluate_are_named(arguments, error, match):
    arguments = {"env": "CartPole-v1", "actor": Leaning()} | arguments
    with pytest.raises(error, match=match):
        evaluate(**arguments)


# --- plots, seed, device ----------------------------------------------------------------------


def test_plots_are_labelled():
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    history = trainer.train(actor, critic, steps=500)
    figure = plots.training_curves(history, trainer.healthy_ranges, solved=475)
    assert len(figure.axes) == 1 + len(trainer.healthy_ranges)
    ax = plots.seeds({"one": [history, history]}, solved=475)
    for panel in [*figure.axes, ax]:
        assert panel.get_title()
        assert panel.get_xlabel() == "environment steps"
    plt.close("all")


def test_plots_of_nothing_are_empty_pictures():
    assert plots.training_curves(metis_nb.learning.History(), PPO.healthy_ranges).axes
    plt.close("all")


def test_running_mean_is_the_plain_one():
    values = np.random.default_rng(0).normal(size=50)
    expected = [values[max(0, i - 6) : i + 1].mean() for i in range(50)]
    assert np.allclose(plots.running_mean(values, 7), expected)


def test_seed_decides_networks_and_trainings():
    results = []
    for _ in range(2):
        metis_nb.seed(7)
        env = gym.make("CartPole-v1")
        actor, critic = agents.actor(env), agents.critic(env)
        PPO(env, rollout_steps=128).train(actor, critic, steps=256)
        results.append(actor.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(results[0].values(), results[1].values()))


def test_device_is_one_that_works():
    assert torch.zeros(3, device=metis_nb.device()).sum() == 0
