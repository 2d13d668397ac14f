"""What an error message says to do is done, to the letter; then it works."""

import re

import gymnasium
import gymnasium as gym
import numpy
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple

from metis_nb import A2C, DQN, SAC, TD3, VPG, agents, envs, evaluate, play

OBS = Box(-1, 1, (3,), np.float32)


class Five(gym.Env):
    """Five steps, whose reward is 1; every action has to be one of the space's own."""

    observation_space, action_space = OBS, Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.count += 1
        return self.observation_space.sample(), 1.0, self.count == 5, False, {}


class Unbounded(Five):
    action_space = Box(-np.inf, np.inf, (2,), np.float32)


class Table(Five):
    action_space = Box(-2, 3, (2, 2), np.float32)


class Far(Five):
    action_space = Box(1e9, 1e9 + 1, (2,), np.float64)


class FarAndWhole(Five):
    action_space = Box(2**40, 2**40 + 3, (2,), np.int64)


class Several(Five):
    action_space = MultiDiscrete([2, 3])


class Numbered(Five):
    observation_space = Discrete(4)


class Nested(Five):
    observation_space = Dict({"a": Discrete(3), "b": Tuple([OBS, OBS])})


class Endless(Five):
    def step(self, action):
        return self.observation_space.sample(), 1.0, False, False, {}


KINDS = (Five, Unbounded, Table, Far, FarAndWhole, Several, Numbered, Nested, Endless)
WORLDS = {
    "alone": lambda kind: kind(),
    "with an id": lambda kind: gym.make(f"{kind.__name__}-v0"),
    "a vector": lambda kind: gym.vector.SyncVectorEnv([kind] * 3),
    "a vector with an id": lambda kind: envs.make(f"{kind.__name__}-v0", num_envs=3),
}


@pytest.fixture(params=WORLDS)
def world(request):
    """Makes an environment of a class: alone, registered, and in vectors."""
    for kind in KINDS:
        gym.register(f"{kind.__name__}-v0", entry_point=kind)
    yield WORLDS[request.param]
    for kind in KINDS:
        del gym.registry[f"{kind.__name__}-v0"]


def done(message, env, make):
    """What the code at the end of a message makes."""
    code = re.search(r"(gymnasium\.(vector|wrappers|make_vec).*)$", message)[1].removesuffix(".")
    names = {"gymnasium": gymnasium, "numpy": numpy, "env": env, "make": make}
    if ", where make() makes one and wrap = " in code:
        code, wrap = code.split(", where make() makes one and wrap = ")
        names["wrap"] = eval(wrap, names)
    return eval(code, names)


@pytest.mark.parametrize(
    "use",
    [
        lambda env: agents.actor(env, squashed=True),
        lambda env: agents.actor(env, deterministic=True),
        agents.q_critic,
        SAC,
        TD3,
        envs.DiscretizeAction,
    ],
)
def test_actions_get_bounds(use, world):
    env = world(Unbounded)
    with pytest.raises(ValueError, match="bounds") as raised:
        use(env)
    bounded = done(str(raised.value), env, Unbounded)
    use(bounded)
    actor = agents.actor(bounded, squashed=True)
    critics = [agents.q_critic(bounded) for _ in range(2)]
    SAC(bounded, seed=0, learning_starts=20).train(actor, critics, steps=40, progress=False)
    assert evaluate(bounded, actor, episodes=2).tolist() == [5, 5]


@pytest.mark.parametrize("kind", [Numbered, Nested])
def test_observations_are_made_flat(kind, world):
    env = world(kind)
    with pytest.raises(TypeError, match="expected a Box") as raised:
        agents.actor(env)
    trained_and_judged(done(str(raised.value), env, kind))


@pytest.mark.parametrize("kind", [Far, FarAndWhole])
def test_actions_that_float32_cannot_tell_apart_begin_at_0(kind, world):
    env = world(kind)
    for use in (agents.actor, agents.q_critic, SAC, VPG):
        with pytest.raises(ValueError, match="next to nothing between them") as raised:
            use(env)
    moved = done(str(raised.value), env, kind)
    trained_and_judged(moved)
    space = getattr(moved, "single_action_space", moved.action_space)
    assert (space.low == 0).all()
    assert (space.high == (1 if kind is Far else 3)).all()


@pytest.mark.parametrize("kind", [Several, Table])
def test_actions_are_mapped(kind, world):
    env = world(kind)
    with pytest.raises(TypeError, match="action") as raised:
        agents.actor(env)
    trained_and_judged(done(str(raised.value), env, kind))


def trained_and_judged(env):
    actor = agents.actor(env)
    A2C(env, seed=0, rollout_steps=8).train(actor, agents.critic(env), steps=48, progress=False)
    assert evaluate(env, actor, episodes=3).tolist() == [5, 5, 5]


def test_box_actions_are_made_discrete(world):
    env = gym.make("Pendulum-v1")
    with pytest.raises(TypeError, match=r"envs\.DiscretizeAction\(env\)"):
        DQN(env)
    DQN(envs.DiscretizeAction(env))
    DQN(envs.DiscretizeAction(envs.make("Pendulum-v1", num_envs=2)))


def test_episodes_get_an_end(world, monkeypatch):
    env = world(Endless)
    actor = agents.actor(env)
    with pytest.raises(ValueError, match="has not ended") as raised:
        evaluate(env, actor, episodes=1, max_steps=2000)
    assert evaluate(done(str(raised.value), env, Endless), actor, episodes=1).tolist() == [1000]
    monkeypatch.setattr("metis_nb.trainers.vpg.LONGEST", 1500)
    with pytest.raises(ValueError, match="has not ended") as raised:
        VPG(env, seed=0, batch_steps=10).train(actor, steps=50, progress=False)
    limited = done(str(raised.value), env, Endless)
    VPG(limited, seed=0, batch_steps=10).train(actor, steps=50, progress=False)


def test_an_environment_learns_to_draw():
    with pytest.raises(ValueError, match="draws no pictures") as raised:
        play(Five(), lambda obs: 0)
    words = 'metadata = {"render_modes": ["rgb_array"]}, an attribute render_mode, and a method'
    assert words in str(raised.value)

    class Drawn(Five):
        metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
        render_mode = "rgb_array"

        def render(self):
            return np.zeros((20, 30, 3), np.uint8)

    assert play(Drawn(), lambda obs: 0, seed=0).length == 5

    class Asked(Drawn):
        def __init__(self, render_mode=None):
            self.render_mode = render_mode

    with pytest.raises(ValueError, match='Make it with render_mode="rgb_array"'):
        play(Asked(), lambda obs: 0)
    assert play(Asked(render_mode="rgb_array"), lambda obs: 0, seed=0).length == 5
