"""What a running environment holds comes back exactly, or is named as what does not."""

import collections
import datetime
import enum
import functools
import sys
import types

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.vector import SyncVectorEnv

from metis_nb import PPO, agents, checkpoint, envs
from metis_nb.envs.snapshot import CannotCapture, Snapshot, capture, restore
from tests.scripted import Scripted


class Mood(enum.Enum):
    CALM = 1
    WILD = 2


def there_and_back(tmp_path, change, other=None):
    """Another environment, brought through a file to the state of one that `change` was done to."""
    env, other = Scripted(), Scripted() if other is None else other
    change(env)
    checkpoint.write(tmp_path / "file", Snapshot(env).state)
    restore(other, checkpoint.read(tmp_path / "file"))
    again = Snapshot(other)  # what was restored can be captured
    checkpoint.write(tmp_path / "file", again.state)
    return other


EXACT = {
    "numbers": [1, 2.5, True, None, float("inf"), 10**30, "x", (1, "y", ()), {1: 2, (3, "z"): []}],
    "arrays": [
        np.arange(6, dtype=np.int8).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(3, dtype=">f4"),
        np.array(["2026-01-01"], "datetime64[D]"),
        np.array([1 + 2j]),
        np.array([b"S", b"F"]),
        np.array(2.5),
        np.zeros((0, 3), np.uint16),
        np.float16(0.1),
        np.longdouble(1) / 3,
        np.int64(7),
    ],
    "tensors": [torch.arange(3), torch.tensor(2.5)],
    "deque": collections.deque([1, np.float32(2)], maxlen=2),
    "members": [Mood.WILD, gym.vector.AutoresetMode.SAME_STEP],
}


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, list | tuple | collections.deque):
        assert len(a) == len(b)
        assert getattr(a, "maxlen", 0) == getattr(b, "maxlen", 0)
        return all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray | np.generic):
        assert a.dtype == b.dtype
        assert a.dtype.byteorder == b.dtype.byteorder
        assert a.shape == b.shape
        assert a.strides == b.strides
        if a.dtype == np.longdouble:  # of its 16 bytes, some hold nothing
            return bool((a == b).all())
        return a.tobytes() == b.tobytes()
    return bool((a == b).all()) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("name", EXACT)
def test_values_come_back_with_their_types(name, tmp_path):
    back = there_and_back(tmp_path, lambda env: setattr(env, "it", EXACT[name]))
    assert same(back.it, EXACT[name])


def test_views_of_one_array_are_so_again(tmp_path):
    def change(env):
        env.grid = np.arange(12.0).reshape(3, 4)
        env.row, env.back, env.bytes = env.grid[1], env.grid[:, ::-1], env.grid.view(np.uint8)
        env.fixed = env.grid[2:]
        env.fixed.flags.writeable = False

    env = there_and_back(tmp_path, change)
    assert env.back.tolist() == env.grid[:, ::-1].tolist()
    env.row[2] = -1
    assert env.grid[1].tolist() == [4, 5, -1, 7]
    assert env.back[1].tolist() == [7, -1, 5, 4]
    assert env.bytes.view(np.float64)[1, 2] == -1
    assert not env.fixed.flags.writeable
    assert env.grid.flags.writeable


def test_one_object_under_two_names_is_one_again(tmp_path):
    def change(env):
        env.generator = np.random.default_rng(5)
        env.other, env.list, env.array = env.generator, [1], np.zeros(2)
        env.holds = {"list": env.list, "array": env.array}
        env.list.append(env.list)  # and it holds itself
        env.me = env
        env.generator.spawn(2)

    env = there_and_back(tmp_path, change)
    expected = np.random.default_rng(5)
    spawned = [child.random() for child in expected.spawn(3)]
    assert env.other is env.generator
    assert [env.generator.random(), env.other.random()] == expected.random(2).tolist()
    assert env.generator.spawn(1)[0].random() == spawned[2]
    assert env.holds["list"] is env.list is env.list[1]
    assert env.holds["array"] is env.array
    assert env.me is env


def test_one_generator_of_all_sub_environments(tmp_path):
    def vector():
        shared = np.random.default_rng(3)
        env = SyncVectorEnv([Scripted, Scripted])
        for each in env.envs:
            each.shared = shared
        return env

    env, other = vector(), vector()
    env.envs[0].shared.random(5)
    checkpoint.write(tmp_path / "file", capture(env))
    restore(other, checkpoint.read(tmp_path / "file"))
    assert other.envs[0].shared is other.envs[1].shared
    assert other.envs[0].shared.random() == env.envs[0].shared.random()


def counter():
    count, seen = 0, [0]

    def step():
        nonlocal count
        count += 1
        seen[0] -= 1
        return count, seen[0]

    return step


def test_what_a_closure_holds_comes_back(tmp_path):
    other = Scripted()
    other.count = counter()

    def change(env):
        env.count = counter()
        env.count(), env.count()

    assert there_and_back(tmp_path, change, other).count() == (3, -3)


def test_a_space_samples_on(tmp_path):
    def change(env):
        env.pool = Box(-1, 1, (2,), seed=4)
        env.pool.sample()

    other = Scripted()
    other.pool = Box(-1, 1, (2,), seed=9)
    expected = Box(-1, 1, (2,), seed=4)
    expected.sample()
    sampled = there_and_back(tmp_path, change, other).pool.sample()
    assert sampled.tolist() == expected.sample().tolist()


Point = collections.namedtuple("Point", "x y")


class Callable:
    def __call__(self):
        return 0


def tuple_of_itself():
    inner = []
    inner.append((inner, 1))
    return inner[0]


def tensor_and_array():
    tensor = torch.zeros(3)
    return [tensor, tensor.numpy()]


WHOLE = torch.zeros(4)
NOT_EXACT = {
    "a namedtuple": Point(1, 2),
    "a defaultdict": collections.defaultdict(list),
    "an OrderedDict": collections.OrderedDict(a=1),
    "a date": datetime.date(2026, 1, 1),
    "a set": {1},
    "a structured array": np.zeros(2, [("x", "f4")]),
    "an array of objects": np.array([None, []], object),
    "a subclass of ndarray": np.ma.zeros(2),
    "an array over other memory": np.frombuffer(b"12345678"),
    "a tensor and its array": tensor_and_array(),
    "two views of a tensor": [WHOLE[:2], WHOLE[2:]],
    "a tensor and its detached self": [WHOLE, WHOLE.detach()],
    "a parameter": torch.nn.Parameter(torch.zeros(1)),
    "a tuple that holds itself": tuple_of_itself(),
    "an object": types.SimpleNamespace(x=1),
    "a callable object": Callable(),
    "a module of torch": torch.nn.Linear(1, 1),
    "a method of a generator": np.random.default_rng(0).random,
    "a method of an object": Callable().__call__,
    "a partial with state": functools.partial(print, []),
    "a function with a list as default": lambda seen=[]: seen,
    "an old generator": np.random.RandomState(0),
}


@pytest.mark.parametrize("name", NOT_EXACT)
def test_what_cannot_be_captured_is_named(name):
    env = gym.wrappers.TimeLimit(Scripted(), 5)
    env.unwrapped.it = NOT_EXACT[name]
    assert capture(env) is None
    with pytest.raises(
        CannotCapture, match=r"^Scripted\.it holds (a|the function)|shares its memory$"
    ):
        Snapshot(env)


def test_slots_are_no_place_to_look():
    class Slots(Scripted):
        __slots__ = ("hidden",)

    with pytest.raises(CannotCapture, match="slots"):
        Snapshot(Slots())


def test_what_is_only_used_is_left_as_it_is():
    env = Scripted()
    env.kind, env.module, env.function, env.ufunc = Mood, sys, len, np.add
    env.partial, env.method, env.plain = functools.partial(len), env.reset, counter
    restore(env, capture(env))
    assert env.plain is counter
    assert env.method.__self__ is env


def test_an_environment_of_another_build_is_refused_before_anything_changes():
    env, other = gym.wrappers.TimeLimit(Scripted(), 5), Scripted()
    env.unwrapped.count = 3
    other.count = 1
    with pytest.raises(ValueError, match=r"TimeLimit was captured; Scripted is in its place"):
        restore(other, capture(env))
    assert other.count == 1


# --- the environment given is the environment trained in --------------------------------------


class Lengths(gym.Env):
    """Episodes of `length` steps, and so much reward for each."""

    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length=50, bonus=0.0):
        self.limit, self.bonus = length, bonus

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.t += 1
        obs = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return obs, self.bonus, False, self.t >= self.limit, {}


def limited(steps):
    return lambda: gym.wrappers.TimeLimit(Lengths(), steps)


def scaled(factor):
    return lambda: gym.wrappers.TransformReward(Lengths(10), lambda reward: reward + factor)


def wrapped(*limits):
    return lambda: functools.reduce(gym.wrappers.TimeLimit, limits, Lengths())


OTHERS = {
    "an argument": (Lengths, lambda: Lengths(10), "Lengths.limit (50 then, 10 now)"),
    "a time limit": (limited(40), limited(10), "_max_episode_steps (40 then, 10 now)"),
    "a closure": (scaled(0), scaled(1.0), "TransformReward.func"),
    "a wrapper more": (Lengths, limited(10), "TimeLimit"),
    "a wrapper less": (limited(10), lambda: Lengths(10), "TimeLimit"),
    "registered": (
        lambda: gym.make("CartPole-v1"),
        lambda: gym.make("CartPole-v1", max_episode_steps=10),
        "_max_episode_steps (500 then, 10 now)",
    ),
    "a batch": (
        lambda: envs.make("CartPole-v1", num_envs=2),
        lambda: envs.make("CartPole-v1", num_envs=2, max_episode_steps=10),
        "max_episode_steps (500 then, 10 now)",
    ),
    "in a vector": (
        lambda: SyncVectorEnv([Lengths] * 2),
        lambda: SyncVectorEnv([lambda: Lengths(10)] * 2),
        "Lengths.limit (50 then, 10 now)",
    ),
}


def trained(env):
    torch.manual_seed(0)
    trainer = PPO(env, rollout_steps=32, epochs=1, seed=0)
    trainer.train(agents.actor(env), agents.critic(env), steps=32, progress=False)
    return trainer


@pytest.mark.parametrize("run_before", [False, True])
@pytest.mark.parametrize("name", OTHERS)
def test_the_environment_given_is_trained_in(name, run_before, tmp_path):
    before, after, what = OTHERS[name]
    trained(before()).save(tmp_path / "file")
    env = after()
    if run_before:
        env.reset(seed=3)
        env.step(env.action_space.sample())
    loaded = PPO.load(tmp_path / "file", env)
    with pytest.warns(UserWarning, match="new episodes") as said:
        loaded.train(loaded.actor, loaded.critic, steps=64, progress=False)
    assert what in str(said[0].message)
    assert name != "in a vector" or str(said[0].message).count(what) == 1
    assert len(said) == 1
    new = [episode for episode in loaded.history.episodes if episode[0] > 32]
    assert new
    assert all(length <= 10 for _, _, length in new)


@pytest.mark.parametrize("run_before", [False, True])
@pytest.mark.parametrize("name", OTHERS)
def test_an_environment_made_alike_goes_on(name, run_before, tmp_path, recwarn):
    before = OTHERS[name][0]
    trainer = trained(before())
    trainer.save(tmp_path / "file")
    env = before()
    if run_before:
        env.reset(seed=3)
        env.step(env.action_space.sample())
    loaded = PPO.load(tmp_path / "file", env)
    for each in (trainer, loaded):
        each.train(each.actor, each.critic, steps=64, progress=False)
    assert not [str(w.message) for w in recwarn if "new episodes" in str(w.message)]
    pairs = zip(trainer.actor.parameters(), loaded.actor.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_what_cannot_be_captured_is_said_at_loading(tmp_path):
    env = Scripted()
    env.engine = types.SimpleNamespace(x=1)
    trained(env).save(tmp_path / "file")
    loaded = PPO.load(tmp_path / "file", env)
    with pytest.warns(UserWarning, match=r"Scripted\.engine holds a SimpleNamespace"):
        loaded.train(loaded.actor, loaded.critic, steps=32, progress=False)


def test_another_environment_of_a_trainer_is_refused():
    trainer = trained(Lengths())
    trainer.env = Lengths(10)
    with pytest.raises(ValueError, match=r"env was changed .* PPO\.load\(path, env\)"):
        trainer.train(trainer.actor, trainer.critic, steps=32, progress=False)
