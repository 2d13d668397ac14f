"""DQN and Double DQN: what only they have, each test for both. What they share with the other
trainers is in `test_trainers.py`, and their memory in `test_replay.py`."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metis_nb import DDQN, DQN, PrioritizedReplay, ReplayBuffer, agents, envs, learning
from metis_nb.learning.replay import Batch
from tests.scripted import EPISODES, Scripted, TorchVector, in_every_mode
from tests.test_replay import Spaces
from tests.test_trainers import NEXT, REWARD, same

both = pytest.mark.parametrize("Trainer", [DQN, DDQN])


class Table(nn.Module):
    """Q(s, .) from a table; the observation is the number of the state."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values))

    def forward(self, obs):
        return self.values[obs[:, 0].long()]


class OneHot(nn.Module):
    """A body that makes a table of the head on top of it."""

    def forward(self, obs):
        return nn.functional.one_hot(obs[:, 0].round().long(), 2).float()


def batch_of(obs, action, reward, next_obs, terminated=False, discount=0.5, weight=1.0):
    """Transitions between numbered states."""
    B = len(obs)
    states = [torch.tensor(column, dtype=torch.float32)[:, None] for column in (obs, next_obs)]
    ended = torch.as_tensor(terminated).expand(B)
    numbers = [torch.as_tensor(x, dtype=torch.float32).expand(B) for x in (discount, weight)]
    index, reward = torch.arange(B), torch.tensor(reward, dtype=torch.float32)
    return Batch(states[0], torch.tensor(action), reward, states[1], ended, *numbers, index)


def tables(Trainer, values, target, env=None, **settings):
    """A trainer of a table, with a target table that says something else."""
    trainer, q_network = Trainer(env or Spaces((1,), Discrete(2)), **settings), Table(values)
    trainer.prepare(q_network)["target"].load_state_dict(Table(target).state_dict())
    return trainer, q_network


def targets(trainer, batch):
    networks = [trainer.target] if isinstance(trainer, DQN) else [trainer.q_network, trainer.target]
    return trainer.td_target(*networks, batch)


# --- targets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("Trainer", "value"), [(DQN, [20.0, 40.0]), (DDQN, [20.0, 30.0])])
def test_targets_by_hand(Trainer, value):
    """In state 1 the network prefers action 0, and its target action 1: only there they differ."""
    trainer, _ = tables(Trainer, [[1.0, 2.0], [5.0, 3.0]], [[10.0, 20.0], [30.0, 40.0]])
    ended = [False, False, True]
    discount = [0.5, 0.25, 0.5]
    batch = batch_of([0, 0, 0], [0, 1, 1], [1.0, 2.0, 3.0], [0, 1, 1], ended, discount)
    expected = [1 + 0.5 * value[0], 2 + 0.25 * value[1], 3.0]
    assert targets(trainer, batch).tolist() == expected


@both
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("name", [name for name, _ in in_every_mode()])
def test_targets_of_real_steps(name, n_step, Trainer):
    """`Scripted` says which episode and step it is in. Q is 10 for whatever comes after it."""
    env = dict(in_every_mode())[name]
    settings = dict(n_step=n_step, gamma=0.5, collect_steps=70, batch_size=500)
    trainer, q_network = tables(Trainer, [[10.0] * 3] * 100, [[10.0] * 3] * 100, env, **settings)
    trainer.collect(q_network)
    batch = trainer.sample()
    target = targets(trainer, batch)
    rows = [row for row in range(500) if batch.obs[row, 0] < 20]  # not at the memory's end
    assert len(rows) > 300
    for row in rows:
        episode, step = (int(number) for number in batch.obs[row])
        length, how = EPISODES[episode % len(EPISODES)]
        seen = range(step + 1, min(step + n_step, length) + 1)
        rewards = [1 + 0.5 * s - 0.25 * episode + 0.1 * s**2 for s in seen]
        expected = sum(reward * 0.5**k for k, reward in enumerate(rewards))
        if seen[-1] < length or how == "truncated":
            expected += 10 * 0.5 ** len(rewards)
        assert float(target[row]) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@both
@pytest.mark.parametrize("batch_size", [5, 8])
def test_a_batch_is_as_large_as_asked_for(batch_size, Trainer):
    env = Scripted()
    trainer = Trainer(env, batch_size=batch_size)
    trainer.collect(agents.q_network(env))
    assert len(trainer.sample().reward) == batch_size


@both
@pytest.mark.parametrize("name", [name for name, _ in in_every_mode()])
def test_the_statistics_are_those_of_the_memory(name, Trainer):
    """Steps that only reset an environment are no experience, and in neither."""
    env = dict(in_every_mode())[name]
    trainer, q_network = Trainer(env, collect_steps=70), agents.q_network(env)
    for _ in range(2):
        trainer.collect(q_network)
    assert len(trainer.memory) == 140
    for kind in ("obs", "reward"):
        statistics = getattr(q_network, f"{kind}_statistics")
        assert int(statistics.count) == 140
        assert torch.allclose(statistics.mean, trainer.memory[kind].mean(0), rtol=1e-4)
        deviation = trainer.memory[kind].std(0, correction=0)
        assert torch.allclose(statistics.std, deviation, rtol=1e-4)


# --- a problem that can be solved exactly ------------------------------------------------------


def exact_q(gamma):
    """Q*, by going through the Bellman equation until it holds."""
    q = np.zeros((2, 2))
    for _ in range(1000):
        later = {state: q[state].max() for state in (0, 1)} | {None: 0.0}
        for (state, action), reward in REWARD.items():
            ahead = [later[following] for following in NEXT[state, action]]
            q[state, action] = reward + gamma * np.mean(ahead)
    return q


@both
@pytest.mark.parametrize("kind", ["table", "network", "dueling"])
def test_the_exact_solution_of_a_problem_with_two_states(kind, Trainer):
    """Every action in every state, with each of its two equally likely successors, at once."""
    # A plain table has no scale; beyond errors of 1, Huber's loss looks for no mean.
    gamma, size = 0.7, 0.1 if kind == "table" else 1.0
    env = Spaces((1,), Discrete(2))
    if kind == "table":
        q_network = Table([[0.0, 0.0], [0.0, 0.0]])
    else:
        q_network = agents.q_network(env, body=OneHot(), dueling=kind == "dueling")
    rows = [(*pair, size * REWARD[pair], following) for pair in REWARD for following in NEXT[pair]]
    obs, action, reward, next_obs = zip(*rows)
    ended = [following is None for following in next_obs]
    batch = batch_of(obs, action, reward, [s or 0 for s in next_obs], ended, gamma)
    trainer = Trainer(env, gamma=gamma)
    for round_ in range(30):
        trainer.learning_rate = 0.3 * 0.8**round_
        for _ in range(15):
            trainer.update(q_network, batch)
        trainer.copy_to_target(q_network)
    found = q_network(torch.tensor([[0.0], [1.0]])).detach().numpy()
    np.testing.assert_allclose(found, size * exact_q(gamma), atol=0.01 * size)


# --- the loss and its gradient ------------------------------------------------------------------


@both
@given(errors=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=5))
def test_hubers_loss_piece_by_piece(errors, Trainer):
    loss = Trainer(Scripted()).loss(torch.tensor(errors) + 3, torch.full((len(errors),), 3.0))
    expected = [0.5 * e**2 if abs(e) <= 1 else abs(e) - 0.5 for e in errors]
    assert loss.tolist() == pytest.approx(expected, abs=1e-5)


@both
def test_the_gradient_by_hand(Trainer):
    """It reaches Q(s, a) only, as far as Huber lets it, times each weight. Both actions of both
    states at once; the first network has errors of 0.5, -1 (beyond 1), 1 (beyond 1) and 0."""
    trainer, q_network = tables(
        Trainer, [[1.0, 2.0], [3.0, 4.0]], [[2.0, 2.0], [2.0, 2.0]], learning_rate=0.0
    )
    weight = [1.0, 0.5, 0.25, 2.0]
    batch = batch_of([0, 0, 1, 1], [0, 1, 0, 1], [0.5, -9.0, 7.0, 3.0], [0] * 4, weight=weight)
    metrics = trainer.update(q_network, batch)
    # Targets are reward + 1: 1.5, -8, 8, 4.
    expected = [[-0.5 * 1 / 4, 1 * 0.5 / 4], [-1 * 0.25 / 4, 0.0]]
    assert torch.allclose(q_network.values.grad, torch.tensor(expected))
    losses = [0.125, 10 - 0.5, 5 - 0.5, 0.0]
    loss = sum(w * each for w, each in zip(weight, losses)) / 4
    assert float(metrics["loss"]) == pytest.approx(loss)
    assert float(metrics["td_error"]) == pytest.approx((0.5 + 10 + 5 + 0) / 4)
    assert float(metrics["q_value"]) == pytest.approx((1 + 2 + 3 + 4) / 4)


@both
def test_the_target_network_gets_no_gradient_and_acts_as_in_an_evaluation(Trainer):
    trainer, q_network = tables(Trainer, [[1.0, 2.0]], [[3.0, 4.0]])
    before = trainer.target.values.clone()
    for _ in range(3):
        trainer.update(q_network, batch_of([0], [0], [1.0], [0]))
    assert torch.equal(trainer.target.values, before)
    assert trainer.target.values.grad is None
    assert not trainer.target.values.requires_grad
    assert not trainer.target.training


@both
def test_dropout_draws_nothing_in_a_target(Trainer):
    """Neither in the values of the target network, nor in the choice of the other one."""
    env = Spaces((1,), Discrete(4))
    body = nn.Sequential(nn.Linear(1, 32), nn.Dropout(0.5), nn.Tanh())
    q_network, trainer = agents.q_network(env, body=body), Trainer(env, learning_starts=1)
    trainer.prepare(q_network)
    nn.init.normal_(trainer.target.head.weight)
    batch = batch_of([0.0] * 200, [0] * 200, [0.0] * 200, torch.randn(200).tolist())
    q_network.train()
    once, again = targets(trainer, batch), targets(trainer, batch)
    assert torch.equal(once, again)
    assert q_network.training


@both
def test_long_gradients_are_shortened(Trainer):
    norms = []
    for most in (1e9, 0.01):
        trainer, q_network = tables(Trainer, [[1.0, 2.0]], [[9.0, 9.0]], max_grad_norm=most)
        trainer.update(q_network, batch_of([0, 0], [0, 1], [1.0, 1.0], [0, 0]))
        norms.append(float(q_network.values.grad.norm()))
    assert norms == pytest.approx([0.5**0.5, 0.01], rel=1e-3)


def test_they_are_shortened_before_the_step_and_not_after_it():
    """Numbers by hand: 10 (3, 4) has a length of 50, a hundred times the 0.5 that is allowed."""
    run, numbers = learning.Run(Scripted(), 0), nn.Parameter(torch.tensor([3.0, 4.0]))
    run.state["sgd"] = torch.optim.SGD([numbers], lr=1.0)
    learning.gradient_step(run, "sgd", 5 * numbers.square().sum(), 0.5)
    assert numbers.tolist() == pytest.approx([2.7, 3.6], abs=1e-4)


class Told(ReplayBuffer):
    """A memory that writes down what it is told."""

    def update_priorities(self, index, error):
        self.told = index, error


@both
def test_the_memory_is_told_the_errors_in_units_of_the_scale(Trainer):
    env = Spaces((1,), Discrete(2))
    trainer, q_network = tables(
        Trainer, [[1.0, 2.0]], [[9.0, 9.0]], env, replay=Told(env, 10), learning_starts=1
    )
    q_network.scale = torch.tensor(4.0)
    trainer.update(q_network, batch_of([0, 0], [0, 1], [1.0, -20.0], [0, 0]))
    index, error = trainer.memory.told
    assert index.tolist() == [0, 1]
    assert error.tolist() == [(1 + 4.5 - 1) / 4, (-20 + 4.5 - 2) / 4]
    assert not error.requires_grad


# --- chance -------------------------------------------------------------------------------------


def at(trainer, q_network, steps):
    """As if it had trained for so many steps."""
    trainer.run.start(q_network)
    trainer.run.view.steps = steps
    return trainer


@both
def test_exploration_falls_in_a_line(Trainer):
    trainer = Trainer(Scripted(), epsilon=0.2, epsilon_steps=1000)
    q_network = agents.q_network(trainer.env)
    expected = {0: 1.0, 250: 0.8, 500: 0.6, 1000: 0.2, 1001: 0.2, 10**6: 0.2}
    for steps, share in expected.items():
        assert at(trainer, q_network, steps).current_epsilon == pytest.approx(share)


class Taken(Scripted):
    """Writes down every action."""

    def __init__(self):
        super().__init__()
        self.actions = []

    def step(self, action):
        self.actions.append(int(action))
        return super().step(action)


@both
@pytest.mark.parametrize(
    ("epsilon", "epsilon_steps", "share"), [(0.3, 1, 0.3), (0.0, 4000, 0.5), (1.0, 1, 1.0)]
)
def test_so_many_actions_are_random(epsilon, epsilon_steps, share, Trainer):
    """All three actions are equally likely then; the greedy one is always action 1."""
    env, settings = Taken(), dict(epsilon=epsilon, epsilon_steps=epsilon_steps, seed=0)
    trainer = Trainer(env, collect_steps=4000, **settings)
    trainer.collect(Table([[0.0, 1.0, 0.0]] * 2000))
    counts = np.bincount(env.actions, minlength=3) / 4000
    # Four standard deviations are 0.03.
    expected = [share / 3, 1 - share + share / 3, share / 3]
    assert counts == pytest.approx(expected, abs=0.03)


@both
def test_without_exploration_all_actions_are_greedy(Trainer):
    env = Taken()
    trainer = Trainer(env, epsilon=0.0, epsilon_steps=1, collect_steps=200)
    at(trainer, q_network := Table([[0.0, 0.0, 1.0]] * 200), 1)
    trainer.collect(q_network)
    assert set(env.actions) == {2}


@both
def test_each_environment_has_chance_of_its_own(Trainer):
    env = TorchVector((3, 4))
    trainer = Trainer(env, epsilon=0.5, epsilon_steps=1, collect_steps=4000, seed=0)
    trainer.collect(Table([[1.0, 0.0]] * 10))
    actions = torch.stack(env.actions).double()
    assert actions.mean(0).tolist() == pytest.approx([0.25, 0.25], abs=0.04)
    # One die for both would make this 1/3.
    assert abs(np.corrcoef(actions.T)[0, 1]) < 0.1


# --- when things happen ---------------------------------------------------------------------------


@both
@pytest.mark.parametrize(("collect_steps", "num_envs"), [(100, 1), (128, 4), (700, 4)])
def test_the_target_network_is_a_copy_from_the_stated_steps(collect_steps, num_envs, Trainer):
    """Running statistics and all; and in between it stays what it was."""
    env = envs.make("CartPole-v1", num_envs=num_envs)
    settings = dict(updates_per_step=0.05, learning_starts=1, seed=0)
    trainer = Trainer(env, collect_steps=collect_steps, target_interval=300, **settings)
    q_network, seen = agents.q_network(env), [(0, {})]

    def look(trainer):
        steps, copied = trainer.run.steps, same(trainer.target, trainer.q_network)
        due = any(seen[-1][0] < multiple <= steps for multiple in range(0, 3000, 300))
        assert copied == due
        target = {name: values.clone() for name, values in trainer.target.state_dict().items()}
        if not copied and len(seen) > 1:
            assert all(torch.equal(values, seen[-1][1][name]) for name, values in target.items())
        seen.append((steps, target))

    trainer.train(q_network, steps=1500, callbacks=look)
    assert len(seen) > 2
    assert int(seen[-1][1]["obs_statistics.count"]) > 0


class Counting:
    """Counts updates and makes none."""

    def update(self, q_network, batch):
        self.count = getattr(self, "count", 0) + 1
        return {}


def test_an_update_less_trainer_still_has_its_history():
    trainer = type("CountingDQN", (Counting, DQN), {})(Scripted(), learning_starts=1)
    history = trainer.train(agents.q_network(trainer.env), steps=256)
    assert len(history) == 2
    assert trainer.count == 64


@both
@pytest.mark.parametrize("num_envs", [1, 3, 16])
@settings(max_examples=10)
@given(
    ratio=st.one_of(st.sampled_from([0.1, 0.25, 1 / 3, 1.0, 3.0]), st.floats(0.001, 2.0)),
    collect_steps=st.integers(1, 40),
)
def test_updates_are_the_stated_share_of_the_steps(num_envs, ratio, collect_steps, Trainer):
    env = SyncVectorEnv([Scripted] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)
    trainer = type("Counting", (Counting, Trainer), {})(
        env, updates_per_step=ratio, collect_steps=collect_steps, learning_starts=1, capacity=500
    )
    q_network = agents.q_network(env, hidden_sizes=(2,))
    trainer.train(q_network, steps=60)
    trainer.train(q_network, steps=60)
    assert trainer.run.steps >= 120
    assert abs(getattr(trainer, "count", 0) - ratio * trainer.run.steps) <= 1


@both
def test_no_update_before_the_memory_holds_enough(Trainer):
    trainer = type("Counting", (Counting, Trainer), {})(
        Scripted(), collect_steps=50, learning_starts=130, updates_per_step=0.5
    )
    counts = []
    trainer.train(
        agents.q_network(trainer.env),
        steps=300,
        callbacks=lambda trainer: counts.append(getattr(trainer, "count", 0)),
    )
    assert counts == [0, 0, 25, 50, 75, 100]


@both
def test_rows_before_the_first_update_say_what_is_known(Trainer):
    trainer = Trainer(
        Scripted(), collect_steps=50, learning_starts=60, epsilon=0.1, epsilon_steps=100
    )
    history = trainer.train(agents.q_network(trainer.env), steps=150)
    assert history["epsilon"].tolist() == pytest.approx([0.55, 0.1, 0.1])
    for name in ("q_value", "td_error", "loss"):
        assert np.isfinite(history[name]).tolist() == [False, True, True]


@both
def test_the_learning_rate_falls_as_one_over_the_steps(Trainer):
    """Adam's first step moves every parameter by the learning rate."""
    rates = {0: 0.1, 500: 0.1, 1000: 0.1, 2000: 0.05, 10_000: 0.01}
    for steps, rate in rates.items():
        settings = dict(learning_rate=0.1, decay_steps=1000)
        trainer, q_network = tables(Trainer, [[1.0, 2.0]], [[3.0, 4.0]], Scripted(), **settings)
        at(trainer, q_network, steps)
        before = q_network.values.detach().clone()
        trainer.update(q_network, batch_of([0, 0], [0, 1], [1.0, -1.0], [0, 0]))
        moved = (q_network.values.detach() - before).abs()[0].tolist()
        assert moved == pytest.approx([rate, rate], rel=1e-3)


# --- scale and health ---------------------------------------------------------------------------


@both
@pytest.mark.parametrize("dueling", [False, True])
def test_scaling_all_rewards_scales_the_values_and_nothing_else(dueling, Trainer):
    found = []
    for scale in (1.0, 1024.0):  # a power of two, which rounds nothing
        torch.manual_seed(0)
        env = gym.wrappers.TransformReward(gym.make("Pendulum-v1"), lambda r, s=scale: r * s)
        env = envs.DiscretizeAction(env, bins=3)
        q_network = agents.q_network(env, dueling=dueling)
        trainer = Trainer(env, seed=0, learning_starts=100, target_interval=200)
        history = trainer.train(q_network, steps=512)
        obs = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
        found.append((q_network, q_network(obs).detach(), q_network.act(obs), history))
    (one, values, action, history), (other, *others, other_history) = found
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert values.abs().mean() > 1
    assert torch.allclose(1024 * values, others[0], rtol=1e-4)
    assert torch.equal(action, others[1])
    assert other_history["loss"][-1] == pytest.approx(history["loss"][-1], rel=1e-4)
    for name in ("q_value", "td_error"):
        assert other_history[name][-1] == pytest.approx(1024 * history[name][-1], rel=1e-4)


@both
@pytest.mark.parametrize(
    ("rewards", "band"),
    [([-2.0, 1.0, 3.0], (-20, 30)), ([1.0, 3.0], (0, 30)), ([-1.0, -2.0], (-20, 0))],
)
def test_healthy_values_are_sums_of_rewards(rewards, band, Trainer):
    """No more than the highest for ever, or nothing more if that is better."""

    class Given(Scripted):
        def step(self, action):
            obs, _, *ends = super().step(action)
            return obs, rewards[self.count % len(rewards)], *ends

    trainer = Trainer(Given(), gamma=0.9, collect_steps=60)
    assert trainer.healthy_ranges == {}
    trainer.train(agents.q_network(trainer.env), steps=60)
    assert trainer.healthy_ranges["q_value"] == pytest.approx(band)
    trainer.gamma = 1.0
    assert all(map(math.isfinite, trainer.healthy_ranges["q_value"]))


# --- networks and memories of one's own ---------------------------------------------------------


@both
def test_a_plain_network_is_taken_as_it_comes(Trainer, tmp_path):
    env = gym.make("CartPole-v1")
    network = lambda: nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))  # noqa: E731
    q_network = network()
    before = q_network[0].weight.clone()
    trainer = Trainer(env, seed=0, learning_starts=100)
    trainer.train(q_network, steps=256)
    assert not torch.equal(before, q_network[0].weight)
    trainer.save(tmp_path / "file")
    loaded = Trainer.load(tmp_path / "file", env, network())
    assert same(loaded.q_network, q_network)
    assert same(loaded.target, trainer.target)


@both
def test_a_memory_of_your_own_goes_on_bit_for_bit(Trainer, tmp_path):
    env = lambda: envs.make("CartPole-v1", num_envs=4)  # noqa: E731
    memory = lambda: PrioritizedReplay(env(), 500, alpha=0.7)  # noqa: E731
    settings = dict(seed=0, learning_starts=100, updates_per_step=0.1)
    trainer = Trainer(env(), replay=memory(), **settings)
    q_network = agents.q_network(trainer.env)
    trainer.train(q_network, steps=400)
    trainer.save(tmp_path / "file")
    trainer.train(q_network, steps=400)
    with pytest.raises(ValueError, match=r"expected replay=PrioritizedReplay\(env, capacity=500\)"):
        Trainer.load(tmp_path / "file", env())
    loaded = Trainer.load(tmp_path / "file", env(), replay=memory())
    loaded.train(loaded.q_network, steps=400)
    assert same(q_network, loaded.q_network)
    assert same(trainer.target, loaded.target)
    assert torch.equal(trainer.memory["priority"], loaded.memory["priority"])


@both
def test_the_weights_of_a_memory_enter_the_loss(Trainer):
    """Weights of 0 leave nothing to learn."""

    class Weightless(ReplayBuffer):
        def sample_indices(self, batch_size, generator):
            index, weight = super().sample_indices(batch_size, generator)
            return index, 0 * weight

    env = gym.make("CartPole-v1")
    q_network = agents.q_network(env)
    before = [p.clone() for p in q_network.parameters()]
    trainer = Trainer(env, replay=Weightless(env, 500), learning_starts=100)
    history = trainer.train(q_network, steps=256)
    assert history["loss"][-1] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, q_network.parameters(), strict=True))


# --- bad input ----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("env", [gym.make("Pendulum-v1"), envs.make("Pendulum-v1", num_envs=2)])
def test_box_actions_are_refused_with_a_way_out(env, Trainer):
    match = (
        rf"^{Trainer.__name__} needs a Discrete action space; Pendulum-v1 has Box.*"
        r"envs.DiscretizeAction\(env\)"
    )
    with pytest.raises(TypeError, match=match):
        Trainer(env)
    Trainer(envs.DiscretizeAction(env))


@both
def test_values_with_another_shape_are_named(Trainer):
    class Flat(nn.Linear):
        def forward(self, obs):
            return super().forward(obs)[:, 0]

    env = gym.make("CartPole-v1")
    with pytest.raises(ValueError, match=r"q_network gives values of shape \(1,\).*\(1, number of"):
        Trainer(env).train(Flat(4, 1), steps=128)


@both
def test_observations_of_one_number_and_actions_that_start_anywhere(Trainer):
    """The memory holds an index, the environment gets its own numbers."""

    class Shifted(Scripted):
        observation_space = Box(-100, 100, (1, 2), np.float32)
        action_space = Discrete(3, start=5)

        def step(self, action):
            assert self.action_space.contains(action)
            return super().step(action)

        def _obs(self):
            return super()._obs()[None]

    trainer = Trainer(Shifted(), learning_starts=50, seed=0)
    trainer.train(agents.q_network(trainer.env), steps=128)
    assert set(trainer.memory["action"].tolist()) == {0, 1, 2}
