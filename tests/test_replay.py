"""The memories: what was put in comes out, over n steps, as often as it should; nothing else."""

import itertools
import math
import re
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from hypothesis import given
from hypothesis import strategies as st

from metis_nb import DDQN, DQN, PrioritizedReplay, ReplayBuffer, agents, envs
from metis_nb.envs import Step, TensorView
from metis_nb.learning import replay
from tests.scripted import Scripted, in_every_mode

KINDS = [ReplayBuffer, PrioritizedReplay]
every_kind = pytest.mark.parametrize("Memory", KINDS)


class Spaces(gym.Env):
    """An environment that is nothing but its spaces."""

    def __init__(self, obs_shape=(2,), action_space=None):
        self.observation_space = Box(-1, 1, obs_shape, np.float32)
        self.action_space = action_space or Discrete(3)


def step_of(obs, next_obs, reward, terminated=False, truncated=False, valid=True):
    """One step of N environments; a single number or truth counts for all of them."""
    N = len(next_obs)
    flags = [torch.as_tensor(flag).expand(N).clone() for flag in (terminated, truncated, valid)]
    return Step(obs, next_obs, torch.as_tensor(reward, dtype=torch.float32).expand(N), *flags)


def fill(memory, count):
    """Put in transitions that tell themselves apart by their reward: 0, 1, 2, ..."""
    for number in range(count):
        obs = torch.full((1, *memory.arrays["obs"].shape[1:]), float(number))
        memory.add(obs, torch.tensor([number % 3]), step_of(obs + 1, obs + 1, number))
    return memory


def everything(memory, **settings):
    """A batch of each transition once, in place of one drawn by chance."""
    index = torch.arange(len(memory))
    memory.sample_indices = lambda size, generator: (index, torch.ones(len(index)))
    batch = memory.sample(len(memory), **settings)
    del memory.sample_indices
    return batch


# --- what comes out ---------------------------------------------------------------------------


@every_kind
@given(capacity=st.integers(1, 9), count=st.integers(1, 30))
def test_it_holds_the_last_ones(Memory, capacity, count):
    memory = fill(Memory(Spaces(), capacity), count)
    assert len(memory) == min(capacity, count)
    assert sorted(memory["reward"].tolist()) == list(range(max(0, count - capacity), count))
    batch = memory.sample(40)
    assert torch.equal(batch.obs[:, 0], batch.reward)  # of one and the same transition
    assert torch.equal(batch.next_obs[:, 0], batch.reward + 1)
    assert torch.equal(batch.action, batch.reward.long() % 3)
    assert set(batch.reward.tolist()) <= set(memory["reward"].tolist())


def played(num_envs, steps, seed, breaks=0.1):
    """Steps of made-up episodes with every kind of end, as `add` takes them, and beside them the
    plain list of all transitions. Each observation is a number that no other has."""
    generator, numbers = np.random.default_rng(seed), itertools.count(1)
    new = lambda: [float(next(numbers)), float(generator.normal())]  # noqa: E731
    steps_taken, transitions = [], []
    now, episode = [new() for _ in range(num_envs)], list(range(num_envs))
    episodes, resetting = itertools.count(num_envs), [False] * num_envs
    for _ in range(steps):
        if generator.random() < breaks:  # as after an error: all begin anew, and nothing was said
            now, episode = [new() for _ in now], [next(episodes) for _ in now]
            resetting = [False] * num_envs
        rows = []
        for i in range(num_envs):
            following, action, reward = new(), int(generator.integers(3)), float(generator.normal())
            how = generator.choice(
                ["on", "terminated", "truncated", "both"], p=[0.7, 0.1, 0.1, 0.1]
            )
            terminated, truncated = how in ("terminated", "both"), how in ("truncated", "both")
            valid, over = not resetting[i], how != "on"
            if valid:
                transitions.append(
                    (episode[i], now[i], action, reward, following, terminated, truncated)
                )
            else:
                terminated = truncated = over = False
            rows.append((now[i], action, reward, following, terminated, truncated, valid))
            # Some environments reset at once, others take a step for it that is no experience.
            resetting[i] = over and generator.random() < 0.5
            now[i] = new() if over and not resetting[i] else following
            if over or not valid:
                episode[i] = next(episodes)
        obs, action, reward, next_obs, *flags = (torch.tensor(column) for column in zip(*rows))
        after = torch.tensor(now)
        steps_taken.append((obs, action, Step(after, next_obs, reward, *flags)))
    return steps_taken, transitions


def slow_chain(transitions, start, length, gamma):
    """What `length` steps from transition `start` on add up to, by walking through the list."""
    mine, total, used = transitions[start][0], 0.0, 0
    for episode, _, _, reward, next_obs, terminated, truncated in transitions[start:]:
        if episode == mine:
            total += gamma**used * reward
            used, last = used + 1, (next_obs, terminated)
            if terminated or truncated or used == length:
                break
    return total, gamma**used, *last


@every_kind
@given(
    capacity=st.integers(1, 25),
    num_envs=st.integers(1, 5),
    steps=st.integers(1, 30),
    length=st.integers(1, 6),
    gamma=st.sampled_from([0.0, 0.5, 0.97, 1.0]),
    seed=st.integers(0, 10_000),
)
def test_chains_are_those_of_the_slow_definition(
    Memory, capacity, num_envs, steps, length, gamma, seed
):
    """Over several environments, episodes, steps that only reset and overwritten transitions."""
    capacity = max(capacity, num_envs)
    steps_taken, transitions = played(num_envs, steps, seed)
    memory = Memory(Spaces(), capacity)
    for obs, action, step in steps_taken:
        index = memory.add(obs, action, step)
        assert torch.equal(memory.arrays["obs"][index], obs[step.valid])
    known = {now[0]: number for number, (_, now, *_) in enumerate(transitions)}
    batch = everything(memory, length=length, gamma=gamma)
    numbers = [known[obs[0]] for obs in batch.obs.tolist()]
    assert sorted(numbers) == list(range(len(transitions)))[-capacity:]
    for row, number in enumerate(numbers):
        _, obs, action, *_ = transitions[number]
        reward, discount, next_obs, terminated = slow_chain(transitions, number, length, gamma)
        assert torch.equal(batch.obs[row], torch.tensor(obs))
        assert int(batch.action[row]) == action
        assert float(batch.reward[row]) == pytest.approx(reward, abs=1e-5)
        assert float(batch.discount[row]) == pytest.approx(discount, abs=1e-6)
        assert torch.equal(batch.next_obs[row], torch.tensor(next_obs))
        assert bool(batch.terminated[row]) == terminated


def test_chains_by_hand():
    """Rewards 1, 2, 4; gamma 1/2. The third step ends the episode, in one way or the other."""
    for how in ("terminated", "truncated"):
        memory = ReplayBuffer(Spaces((1,)), 10)
        for number, reward in enumerate([1.0, 2.0, 4.0]):
            obs, end = torch.tensor([[float(number)]]), {how: number == 2}
            memory.add(obs, torch.tensor([0]), step_of(obs + 1, obs + 1, reward, **end))
        obs = torch.tensor([[50.0]])  # the next episode
        memory.add(obs, torch.tensor([0]), step_of(obs + 1, obs + 1, 100.0))
        batch = everything(memory, length=2, gamma=0.5)
        assert batch.reward.tolist() == [2, 4, 4, 100]
        assert batch.next_obs[:, 0].tolist() == [2, 3, 3, 51]
        assert batch.discount.tolist() == [0.25, 0.25, 0.5, 0.5]
        ended = how == "terminated"  # a truncated episode goes on, unseen
        assert batch.terminated.tolist() == [False, ended, ended, False]


@pytest.mark.parametrize("how", ["terminated", "truncated"])
def test_episodes_that_look_the_same_are_not_joined(how):
    """Where every observation is 0, only the ends tell them apart. Two environments, 3 steps."""
    memory, obs = ReplayBuffer(Spaces((1,)), 12), torch.zeros(2, 1)
    for step in range(6):
        reward = torch.tensor([1.0, 100.0]) * 2**step
        ended = {how: step % 3 == 2}
        memory.add(obs, torch.tensor([0, 0]), step_of(obs, obs, reward, **ended))
    batch = everything(memory, length=5, gamma=1.0)
    expected = [1 + 2 + 4, 2 + 4, 4, 8 + 16 + 32, 16 + 32, 32]
    assert batch.reward.view(6, 2).T.tolist() == [expected, [100 * r for r in expected]]


def test_another_number_of_environments_begins_new_chains():
    memory = ReplayBuffer(Spaces((1,)), 10)
    for obs in (torch.zeros(2, 1), torch.zeros(1, 1)):
        memory.add(obs, torch.zeros(len(obs), dtype=torch.int64), step_of(obs, obs, 1.0))
    assert everything(memory, length=5).reward.tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", [name for name, _ in in_every_mode()])
def test_what_real_environments_give(name):
    """Three steps ahead, in every autoreset mode; `Scripted` says (episode, step), so that the
    rewards, whether it ends and how can be told from the first observation."""
    view = TensorView(dict(in_every_mode())[name])
    memory = ReplayBuffer(Scripted(), 1000)
    view.reset()
    while view.steps < 150:
        obs, action = view.obs, torch.zeros(1, dtype=torch.int64)
        memory.add(obs, action, view.step(action))
    assert len(memory) == 150
    batch = everything(memory, length=3, gamma=1.0)
    lengths, terminates = [3, 5, 1, 4, 2], [True, False, False, True, True]
    for row in range(140):  # the last ones are cut off by the end of the memory
        episode, count = (int(number) for number in batch.obs[row])
        ahead = range(count + 1, min(count + 3, lengths[episode % 5]) + 1)
        reward = sum(1.0 + 0.5 * c - 0.25 * episode + 0.1 * c**2 for c in ahead)
        assert float(batch.reward[row]) == pytest.approx(reward, rel=1e-4, abs=1e-3)
        assert batch.next_obs[row].tolist() == [episode, ahead[-1]]
        ends = ahead[-1] == lengths[episode % 5] and terminates[episode % 5]
        assert bool(batch.terminated[row]) == ends


def test_box_actions_and_images():
    env = Spaces((3, 4, 4), Box(-1, 1, (2,), np.float32))
    memory = ReplayBuffer(env, 5)
    obs, action = torch.rand(4, 3, 4, 4), torch.rand(4, 2)
    memory.add(obs, action, step_of(obs, obs + 1, 1.0))
    batch = everything(memory)
    assert torch.equal(batch.obs, obs)
    assert torch.equal(batch.next_obs, obs + 1)
    assert torch.equal(batch.action, action)
    sizes = [values.shape[0] for values in vars(memory.sample(7)).values()]
    assert sizes == [7] * 8


# --- how often --------------------------------------------------------------------------------


def chi_square(counts, probabilities):
    """Pearson's statistic; for 20 classes it is above 60 once in 200,000 times."""
    expected = np.asarray(probabilities) * sum(counts)
    return float(((np.asarray(counts) - expected) ** 2 / expected).sum())


def counted(memory, batch_size, times):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([memory.sample(batch_size, generator=generator).index for _ in range(times)])
    return torch.bincount(drawn, minlength=len(memory)).numpy()


def prioritized(errors, **settings):
    memory = fill(PrioritizedReplay(Spaces(), 2 * len(errors), **settings), len(errors))
    memory.update_priorities(torch.arange(len(errors)), torch.tensor(errors))
    return memory


ERRORS = [0.01 * 1.4**k * (-1) ** k for k in range(20)]  # from 0.01 to 6, of both signs


def shares(errors, alpha):
    priorities = [(abs(error) + 1e-6) ** alpha for error in errors]
    return np.array(priorities) / sum(priorities)


@pytest.mark.parametrize("capacity", [20, 30])  # full and overwritten, and not full
def test_all_are_equally_likely(capacity):
    counts = counted(fill(ReplayBuffer(Spaces(), capacity), 20 if capacity > 20 else 47), 50, 1000)
    assert chi_square(counts, [1 / 20] * 20) < 60


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_priorities_are_probabilities(alpha):
    """One at a time, so that nothing but the probabilities counts."""
    memory = prioritized(ERRORS, alpha=alpha)
    counts = counted(memory, 1, 5000)
    assert chi_square(counts, shares(ERRORS, alpha)) < 60
    if alpha:
        assert chi_square(counts, [1 / 20] * 20) > 1000


def test_of_many_each_gets_its_share_almost_exactly():
    """One out of each of B equal parts: at most one too few or too many at either end."""
    counts = counted(prioritized(ERRORS, alpha=0.5), 1000, 1)
    assert np.abs(counts - 1000 * shares(ERRORS, 0.5)).max() < 2
    assert counts[-1] > 100  # a few hundred times as often as the first


def test_the_share_of_small_ones_among_a_million_is_not_lost():
    """In float32, adding 1 to a sum of 2^25 changes nothing."""
    memory = PrioritizedReplay(Spaces((1,)), 200_000, alpha=1.0)
    obs = torch.zeros(200_000, 1)
    memory.add(obs, torch.zeros(200_000, dtype=torch.int64), step_of(obs, obs, 0.0))
    memory.update_priorities(torch.arange(100_000), torch.full((100_000,), 1e4))
    memory.update_priorities(torch.arange(100_000, 200_000), torch.full((100_000,), 0.01))
    # A millionth: their sum is 10^3, that of the others 10^9.
    assert 3 <= counted(memory, 4_000_000, 1)[100_000:].sum() <= 5


def test_each_small_one_behind_a_large_one_is_drawn():
    """In float32, sums beyond 2^26 are in steps of 8: of eight small ones, seven would have no
    share."""
    memory = PrioritizedReplay(Spaces((1,)), 100_001, alpha=1.0)
    obs = torch.zeros(100_001, 1)
    memory.add(obs, torch.zeros(100_001, dtype=torch.int64), step_of(obs, obs, 0.0))
    memory.update_priorities(torch.arange(100_001), torch.ones(100_001))
    memory.update_priorities(torch.tensor([0]), torch.tensor([2.0**26]))
    small = counted(memory, 400_000, 1)[1:].nonzero()[0]
    assert len(small) > 500
    assert np.bincount(small % 8, minlength=8).min() > len(small) / 16


def test_what_has_no_priority_is_not_drawn():
    memory = prioritized([1.0] * 6)
    memory.arrays["priority"][[0, 3, 5]] = 0.0
    assert counted(memory, 100, 10)[[0, 3, 5]].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("alpha", "beta"), [(0.6, 0.4), (1.0, 1.0), (1.0, 0.0), (0.0, 0.7)])
def test_importance_weights_on_numbers_by_hand(alpha, beta):
    """w = (N P)^-beta, divided by the largest of the batch."""
    errors = [0.5, 1.0, 2.0, 8.0]
    batch = prioritized(errors, alpha=alpha, beta=beta).sample(500)
    assert set(batch.index.tolist()) == {0, 1, 2, 3}
    weights = [(4 * share) ** -beta for share in shares(errors, alpha)]
    expected = [weights[i] / max(weights) for i in batch.index.tolist()]
    assert batch.weight.tolist() == pytest.approx(expected, rel=1e-4)
    if beta == 0 or alpha == 0:
        assert torch.equal(batch.weight, torch.ones(500))
    # Fully made up for: the weighted mean over many draws is that of drawing uniformly.
    if beta == 1:
        number = batch.reward  # 0, 1, 2, 3
        mean = (batch.weight * number).sum() / batch.weight.sum()
        assert float(mean) == pytest.approx(1.5, abs=0.02)


def test_uniform_draws_all_weigh_1():
    memory = fill(ReplayBuffer(Spaces(), 9), 5)
    assert torch.equal(memory.sample(8).weight, torch.ones(8))


def test_learning_changes_the_priority_of_what_was_drawn():
    memory = prioritized([1.0] * 8, alpha=0.5)
    memory.update_priorities(torch.tensor([2, 5]), torch.tensor([-9.0, 0.0]))
    expected = [1.0, 1.0, 3.0, 1.0, 1.0, 1e-3, 1.0, 1.0]  # square roots; 0 is taken for 1e-6
    assert memory["priority"].tolist() == pytest.approx(expected, rel=1e-5)


def test_new_ones_get_the_highest_priority_that_is_held():
    memory = PrioritizedReplay(Spaces(), 3, alpha=1.0)
    fill(memory, 1)
    assert memory["priority"].tolist() == [1.0]
    memory.update_priorities(torch.tensor([0]), torch.tensor([5.0]))
    fill(memory, 1)
    assert memory["priority"].tolist() == pytest.approx([5.0, 5.0])
    memory.update_priorities(torch.tensor([0, 1]), torch.tensor([0.5, 0.25]))
    fill(memory, 1)  # not the 5 that once was
    assert memory["priority"].tolist() == pytest.approx([0.5, 0.25, 0.5], rel=1e-4)
    fill(memory, 1)  # in place of the first
    assert memory["priority"].tolist() == pytest.approx([0.5, 0.25, 0.5], rel=1e-4)


@every_kind
def test_a_generator_decides_all_chance(Memory):
    memory, before = fill(Memory(Spaces(), 50), 40), torch.get_rng_state()
    draw = lambda seed: memory.sample(30, generator=torch.Generator().manual_seed(seed)).index  # noqa: E731
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert torch.equal(before, torch.get_rng_state())


# --- going on later ---------------------------------------------------------------------------


@every_kind
@given(before=st.integers(0, 12), after=st.integers(0, 8), seed=st.integers(0, 1000))
def test_a_memory_goes_on_where_its_state_was_taken(Memory, before, after, seed):
    steps_taken, _ = played(2, before + after, seed)
    memory = Memory(Spaces(), 15)
    for taken in steps_taken[:before]:
        index = memory.add(*taken)
        memory.update_priorities(index, taken[2].reward[taken[2].valid])
    other = fill(Memory(Spaces(), 15), 9)  # what it held before is gone
    other.load_state_dict(memory.state_dict())
    for taken in steps_taken[before:]:
        assert torch.equal(memory.add(*taken), other.add(*taken))
    assert len(memory) == len(other)
    if len(memory):
        batches = [
            m.sample(20, length=4, generator=torch.Generator().manual_seed(1))
            for m in (memory, other)
        ]
        for one, two in zip(*(vars(batch).values() for batch in batches)):
            assert torch.equal(one, two)


def test_the_state_leaves_out_the_room_that_is_empty():
    memory = fill(ReplayBuffer(Spaces(), 1000), 7)
    assert {len(array) for array in memory.state_dict()["arrays"].values()} == {7}


def test_a_loaded_memory_weighs_errors_as_the_one_before():
    memory = fill(PrioritizedReplay(Spaces(), 10, alpha=0.9, beta=0.2), 5)
    memory.beta = 0.5  # on the way
    other = PrioritizedReplay(Spaces(), 10)
    other.load_state_dict(memory.state_dict())
    assert (other.alpha, other.beta) == (0.9, 0.5)


@pytest.mark.parametrize("other", [ReplayBuffer(Spaces(), 10), PrioritizedReplay(Spaces(), 11)])
def test_a_state_of_another_memory_is_named(other):
    state = PrioritizedReplay(Spaces(), 10).state_dict()
    kind, capacity = type(other).__name__, other.capacity
    with pytest.raises(
        ValueError,
        match=rf"replay is a {kind} with capacity={capacity}; "
        r"expected replay=PrioritizedReplay\(env, capacity=10\)",
    ):
        other.load_state_dict(state)


@every_kind
def test_it_moves_with_all_that_it_holds(Memory):
    """To torch's device without data, the only other one that every machine has."""
    memory = fill(Memory(Spaces(), 10), 4)
    assert memory.to("cpu") is memory.to("cpu")
    assert len(memory["reward"]) == 4
    moved = memory.to("meta")
    assert moved is memory
    assert {array.device.type for array in memory.arrays.values()} == {"meta"}
    assert memory._latest.device.type == memory.device.type == "meta"


# --- memory -----------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("env", [Spaces(), Spaces((2, 3, 3), Box(-1, 1, (4,), np.float32))])
def test_nbytes_is_what_the_arrays_take(env, Memory):
    memory = Memory(env, 123)
    arrays = memory.arrays.values()
    assert memory.nbytes == sum(array.numel() * array.element_size() for array in arrays)
    assert memory.nbytes == sum(array.untyped_storage().nbytes() for array in arrays)
    fill_up = fill(Memory(Spaces(), 5), 20)  # nothing grows
    assert fill_up.nbytes == sum(a.untyped_storage().nbytes() for a in fill_up.arrays.values())


def left(monkeypatch, nbytes):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=nbytes))


@every_kind
def test_what_does_not_fit_is_refused_before_it_is_made(Memory, monkeypatch):
    needed = Memory(Spaces(), 1000).nbytes
    left(monkeypatch, needed)
    Memory(Spaces(), 1000)
    left(monkeypatch, needed - 1)
    monkeypatch.setattr(torch, "zeros", lambda *arguments, **settings: pytest.fail("made"))
    with pytest.raises(MemoryError, match=r"capacity=1,000 takes .* on cpu, which has") as error:
        Memory(Spaces(), 1000)
    monkeypatch.undo()
    # What it suggests is accepted, and leaves something for others.
    suggested = int(
        re.search(r"at most ([\d,]+) transitions", str(error.value))[1].replace(",", "")
    )
    assert 0.7 * needed < Memory(Spaces(), suggested).nbytes < 0.85 * needed


@pytest.mark.parametrize("Trainer", [DQN, DDQN])
def test_a_trainers_memory_is_refused_too(Trainer, monkeypatch):
    env = gym.make("CartPole-v1")
    left(monkeypatch, 1000)
    with pytest.raises(MemoryError, match="capacity=100,000 takes"):
        Trainer(env, capacity=100_000).train(agents.q_network(env), steps=10)


def test_a_gpus_own_memory_is_asked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (500, 80e9))
    stand_in = SimpleNamespace(device=torch.device("cuda"), capacity=10)
    replay.check_memory(stand_in, 500)
    with pytest.raises(MemoryError, match="on cuda, which has 500 bytes left"):
        replay.check_memory(stand_in, 501)


def test_a_large_one_says_so(monkeypatch, capsys):
    ReplayBuffer(Spaces(), 1000)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(replay, "ANNOUNCED", ReplayBuffer(Spaces(), 1000).nbytes - 1)
    ReplayBuffer(Spaces(), 1000)
    assert capsys.readouterr().out == "A memory of 1,000 transitions: 37 kB on cpu\n"
    assert replay.ANNOUNCED < 100e6


@given(st.floats(0, 9.9e14))
def test_bytes_in_words(nbytes):
    number, unit = replay.in_words(nbytes).split()
    size = float(number) * 1000 ** ["bytes", "kB", "MB", "GB", "TB"].index(unit)
    assert size == pytest.approx(nbytes, rel=0.0051)
    assert "e" not in number or nbytes < 1


def test_it_says_what_it_is():
    memory = fill(ReplayBuffer(Spaces(), 2000), 1234)
    assert repr(memory) == "<ReplayBuffer: 1,234 of 2,000 transitions, 74 kB on cpu>"


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        *[
            (dict(capacity=bad), rf"capacity={re.escape(repr(bad))}; expected a whole number")
            for bad in (0, -1, 2.5, True, "many", None)
        ],
        *[
            ({name: bad}, rf"{name}={re.escape(repr(bad))}; expected a number from 0 to 1")
            for name in ("alpha", "beta")
            for bad in (-0.1, 1.5, math.nan, "half", None)
        ],
    ],
)
def test_a_bad_setting_is_named(settings, match):
    with pytest.raises(ValueError, match=match):
        PrioritizedReplay(Spaces(), **settings)


def test_numpys_whole_numbers_are_whole_numbers():
    memory = ReplayBuffer(Spaces(), np.int64(5))
    assert type(memory.state_dict()["capacity"]) is int
    assert memory.nbytes == ReplayBuffer(Spaces(), 5).nbytes


def test_an_environment_that_is_none_is_named():
    with pytest.raises(TypeError, match="env is a str"):
        ReplayBuffer("CartPole-v1")


def test_an_empty_memory_has_nothing_to_draw():
    with pytest.raises(ValueError, match="memory is empty"):
        ReplayBuffer(Spaces(), 10).sample(1)


@pytest.mark.parametrize("bad", [0, -3, 2.5])
@pytest.mark.parametrize("name", ["batch_size", "length"])
def test_bad_numbers_of_sample_are_named(name, bad):
    memory = fill(ReplayBuffer(Spaces(), 10), 3)
    with pytest.raises(ValueError, match=rf"{name}={bad}; expected a whole number above 0"):
        memory.sample(**{"batch_size": 4, name: bad})


@pytest.mark.parametrize("name", ["obs", "action", "reward", "next_obs", "terminated"])
@pytest.mark.parametrize("num_envs", [1, 4])
def test_another_shape_is_named_and_nothing_is_put_in(num_envs, name):
    memory = ReplayBuffer(Spaces(), 10)
    obs, action = torch.zeros(num_envs, 2), torch.zeros(num_envs, dtype=torch.int64)
    step = step_of(obs, obs, 0.0)
    if name in ("obs", "action"):
        given = dict(obs=obs, action=action)
        given[name] = given[name][..., None]
        call = lambda: memory.add(**given, step=step)  # noqa: E731
    else:
        setattr(step, name, getattr(step, name)[..., None])
        call = lambda: memory.add(obs, action, step)  # noqa: E731
    with pytest.raises(ValueError, match=rf"{name} has the shape .*1\); expected \({num_envs},"):
        call()
    assert len(memory) == 0


def test_more_environments_than_it_can_hold_are_named():
    memory, obs = ReplayBuffer(Spaces(), 3), torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"capacity=3 cannot hold one step of 4 environments"):
        memory.add(obs, torch.zeros(4, dtype=torch.int64), step_of(obs, obs, 0.0))


# --- a memory of one's own --------------------------------------------------------------------

trainers = pytest.mark.parametrize("Trainer", [DQN, DDQN])


@trainers
@pytest.mark.parametrize("bad", [100_000, "big", [1, 2], ReplayBuffer])
def test_what_is_no_memory_is_named(bad, Trainer):
    with pytest.raises(TypeError, match=r"replay=.*; expected None or a memory, such as"):
        Trainer(gym.make("CartPole-v1"), replay=bad)


@trainers
def test_a_memory_of_other_spaces_is_named(Trainer):
    other = PrioritizedReplay(gym.make("Acrobot-v1"), 2000)
    with pytest.raises(
        ValueError,
        match=r"replay was made for .*\(6,\).*; CartPole-v1 has .*\(4,\).*Make another: "
        r"PrioritizedReplay\(env, capacity=2000\)",
    ):
        Trainer(gym.make("CartPole-v1"), replay=other)


@trainers
def test_a_memory_that_never_holds_enough_to_begin_is_named(Trainer):
    env = gym.make("CartPole-v1")
    match = r"learning_starts=1000; expected at most the 500 transitions that the memory holds"
    for settings in (dict(capacity=500), dict(replay=ReplayBuffer(env, 500))):
        with pytest.raises(ValueError, match=match):
            Trainer(env, learning_starts=1000, **settings)
    Trainer(env, learning_starts=1000, replay=ReplayBuffer(env, 1000), capacity=5)


def experience(env, steps, memory):
    """Put in what a random policy meets."""
    view = TensorView(env, seed=5)
    view.reset()
    while view.steps < steps:
        obs = view.obs
        action = torch.randint(2, (view.num_envs,))
        memory.add(obs, action, view.step(action))
    return memory


@trainers
@every_kind
def test_a_memory_filled_beforehand_is_learned_from_at_once(Memory, Trainer):
    env = envs.make("CartPole-v1", num_envs=4)
    memory = experience(env, 400, Memory(env, 1000))
    obs, reward, count = memory["obs"].clone(), memory["reward"].clone(), len(memory)
    q_network = agents.q_network(env)
    settings = dict(learning_starts=400, collect_steps=40, updates_per_step=0.1)
    trainer = Trainer(env, replay=memory, seed=0, **settings)
    assert trainer.prepare(q_network)["memory"] is memory
    statistics = q_network.obs_statistics
    assert int(statistics.count) == int(q_network.reward_statistics.count) == count
    assert torch.allclose(statistics.mean, obs.mean(0), atol=1e-6)
    assert torch.allclose(q_network.reward_statistics.mean, reward.mean(), atol=1e-6)
    assert torch.equal(trainer.target.obs_statistics.mean, statistics.mean)  # it has met it too
    before = q_network.head.weight.clone()
    history = trainer.train(q_network, steps=40)
    assert math.isfinite(history[0]["loss"])
    assert not torch.equal(before, q_network.head.weight)
    assert len(memory) == int(statistics.count) >= count + 40


@trainers
def test_what_the_trainer_learned_reaches_the_priorities(Trainer):
    env = gym.make("CartPole-v1")
    memory = PrioritizedReplay(env, 500)
    trainer = Trainer(env, replay=memory, seed=0, learning_starts=64, collect_steps=64)
    trainer.train(agents.q_network(env), steps=128)
    assert len(memory["priority"].unique()) > 20


@trainers
def test_an_error_joins_no_two_episodes(Trainer):
    """After it the environment begins anew, and the memory holds what came before."""

    class Faulty(Scripted):
        total = 0

        def step(self, action):
            self.total += 1
            if self.total == 42:
                raise RuntimeError("broken")
            return super().step(action)

    env = Faulty()
    q_network = agents.q_network(env)
    trainer = Trainer(env, seed=0, collect_steps=60, learning_starts=1000)
    with pytest.raises(RuntimeError, match="broken"):
        trainer.train(q_network, steps=60)
    trainer.train(q_network, steps=60)
    batch = everything(trainer.memory, length=5)
    assert len(batch.obs) == 101
    assert torch.equal(batch.obs[:, 0], batch.next_obs[:, 0])  # of the same episode
