"""The tensor view of every kind of environment, making environments, and capturing their state."""

import threading

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.spaces import Box
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from metis_nb import envs
from metis_nb.envs.snapshot import capture, restore
from metis_nb.envs.view import TensorView
from tests.scripted import EPISODES, Scripted, TorchVector, in_every_mode

NAMES = [name for name, _ in in_every_mode()]


def experience(view, rows):
    """The first `rows` valid transitions of environment 0, as plain tuples."""
    view.reset()
    seen = []
    while len(seen) < rows:
        obs = view.obs[0].tolist()
        step = view.step(torch.zeros(view.num_envs, dtype=torch.int64))
        if step.valid[0]:
            ends = (bool(step.terminated[0]), bool(step.truncated[0]))
            seen.append((obs, step.reward[0].item(), step.next_obs[0].tolist(), *ends))
    return seen


@pytest.mark.parametrize("name", NAMES)
def test_every_mode_shows_the_script(name):
    seen = experience(TensorView(dict(in_every_mode())[name]), 40)
    row = 0
    for episode in range(12):
        length, how = EPISODES[episode % len(EPISODES)]
        for count in range(length):
            if row == len(seen):
                return
            obs, _, next_obs, terminated, truncated = seen[row]
            assert obs == [episode, count]
            assert next_obs == [episode, count + 1]  # the true successor, never the next start
            over = count + 1 == length
            assert terminated == (over and how != "truncated")
            assert truncated == (over and how != "terminated")
            row += 1


def test_all_modes_agree():
    first, *others = [experience(TensorView(env), 60) for _, env in in_every_mode()]
    assert all(other == first for other in others)


@pytest.mark.parametrize("name", NAMES)
def test_steps_count_experience_only(name):
    view = TensorView(dict(in_every_mode())[name])
    view.reset()
    valid = sum(int(view.step(torch.zeros(1, dtype=torch.int64)).valid) for _ in range(50))
    assert view.steps == valid
    assert (valid == 50) == (name != "NEXT_STEP")


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_sub_environments_end_at_different_times(mode):
    makers = [lambda: Scripted(0), lambda: Scripted(1), lambda: Scripted(3)]
    view = TensorView(SyncVectorEnv(makers, autoreset_mode=mode))
    seen = experience(view, 30)
    assert seen == experience(TensorView(Scripted(0)), 30)
    assert view.obs.shape == (3, 2)


def test_tensors_are_float32_and_flags_bool():
    view = TensorView(gym.make("Pendulum-v1"))
    view.reset()
    step = view.step(torch.zeros(1, 1))
    assert step.obs.dtype == step.next_obs.dtype == step.reward.dtype == torch.float32
    assert step.terminated.dtype == step.truncated.dtype == step.valid.dtype == torch.bool
    assert step.obs.shape == (1, 3)
    assert step.reward.shape == (1,)


def test_actions_arrive_in_the_environments_units():
    class Recorder(Scripted):
        action_space = Box(np.array([-1.0, 0.0]), np.array([3.0, 0.5]), dtype=np.float64)

        def step(self, action):
            self.action = action
            assert self.action_space.contains(action)
            return super().step(action)

    env = Recorder()
    view = TensorView(env)
    view.reset()
    view.step(torch.tensor([[0.5, -7.0]]))
    assert env.action.tolist() == [2.0, 0.0]


def test_an_environment_that_reuses_its_array_does_no_harm():
    class Reusing(Scripted):
        array = np.zeros(2, np.float32)

        def _obs(self):
            self.array[:] = (self.episode, self.count)
            return self.array

    view = TensorView(Reusing())
    first = view.reset()
    view.step(torch.zeros(1, dtype=torch.int64))
    assert first.tolist() == [[0.0, 0.0]]


# --- an environment that speaks torch ---------------------------------------------------------


def test_torch_tensors_pass_without_a_copy():
    env = TorchVector()
    view = TensorView(env)
    assert view.reset().data_ptr() == env.handed_out.data_ptr()
    action = torch.tensor([1, 0])
    step = view.step(action)
    assert step.obs.data_ptr() == env.handed_out.data_ptr()
    assert env.actions[0] is action


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_a_torch_environment_gives_true_successors(mode):
    view = TensorView(TorchVector(limits=(3, 4), mode=mode))
    view.reset()
    action = torch.zeros(2, dtype=torch.int64)
    steps = [view.step(action) for _ in range(4)]
    assert [step.next_obs[:, 0].tolist() for step in steps] == [[1, 1], [2, 2], [3, 3], [1, 4]]
    assert [step.obs[:, 0].tolist() for step in steps] == [[1, 1], [2, 2], [0, 3], [1, 0]]


# --- seeds ------------------------------------------------------------------------------------


def first_states(seed, num_envs=8):
    sub_envs = SyncVectorEnv([lambda: gym.make("CartPole-v1")] * num_envs)
    return {tuple(row.tolist()) for row in TensorView(sub_envs, seed=seed).reset()}


def test_seeds_share_no_sub_environment():
    assert len(first_states(0) | first_states(1) | first_states(2)) == 24
    assert first_states(1) == first_states(1)


def test_the_environment_is_seeded_once():
    seeds = []

    class Counting(Scripted):
        def reset(self, *, seed=None, options=None):
            seeds.append(seed)
            return super().reset(seed=seed)

    view = TensorView(Counting(), seed=3)
    experience(view, 20)
    view.reset()
    assert seeds[0] == 3 * envs.SEED_STRIDE
    assert len(seeds) > 3
    assert set(seeds[1:]) == {None}


# --- what is not finite, and other bad input --------------------------------------------------


class Faulty(Scripted):
    """Gives a number that is not finite at its seventh step."""

    what, total = "reward", 0

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        self.total += 1
        if self.total == 7 and self.what == "reward":
            reward = float("nan")
        if self.total == 7 and self.what == "observation":
            obs = np.array([0.0, np.inf], np.float32)
        return obs, reward, terminated, truncated, info


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_what_is_not_finite_is_named_with_its_step(what):
    env = Faulty()
    env.what = what
    with pytest.raises(FloatingPointError, match=rf"{what} .* environment step 7\b"):
        experience(TensorView(env), 20)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_which_sub_environment_is_named(mode):
    view = TensorView(SyncVectorEnv([Scripted, Faulty, Scripted], autoreset_mode=mode))
    with pytest.raises(FloatingPointError, match="environment 1 of 3"):
        experience(view, 20)


def test_huge_but_finite_numbers_are_accepted():
    class Huge(Scripted):
        observation_space = Box(-np.inf, np.inf, (2,), np.float32)

        def _obs(self):
            return np.full(2, 3e38, np.float32)

    assert len(experience(TensorView(Huge()), 3)) == 3


def test_a_view_stopped_in_the_middle_asks_for_a_reset():
    view = TensorView(Faulty())
    with pytest.raises(FloatingPointError):
        experience(view, 20)
    assert not view.running
    with pytest.raises(RuntimeError, match="reset"):
        _ = view.obs


def test_an_unknown_autoreset_mode_is_named():
    with pytest.raises(ValueError, match=r"'sometimes'; expected one of .*NEXT_STEP"):
        TensorView(TorchVector(mode="sometimes"))


def test_the_mode_is_that_of_this_environment_not_of_the_last_one_made():
    made = [SyncVectorEnv([Scripted], autoreset_mode=mode) for mode in AutoresetMode]
    assert [TensorView(env).mode for env in made] == list(AutoresetMode)


@pytest.mark.parametrize("num_envs", [0, -1, 1.5, "many"])
def test_a_bad_number_of_environments_is_named(num_envs):
    with pytest.raises(ValueError, match="num_envs="):
        envs.make("CartPole-v1", num_envs=num_envs)


def test_make_passes_arguments_on():
    assert envs.make("Pendulum-v1", num_envs=3, g=5.0).envs[0].unwrapped.g == 5.0
    assert envs.make("CartPole-v1").num_envs == 16


# --- capturing and restoring ------------------------------------------------------------------


def walk(view, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(steps):
        if view.action_units.discrete:
            size = (view.num_envs,)
            action = torch.randint(view.action_units.size, size, generator=generator)
        else:
            action = torch.rand(view.num_envs, view.action_units.size, generator=generator)
        step = view.step(action)
        rows.append(torch.cat([step.obs.flatten(), step.reward, step.valid.float()]))
    return torch.stack(rows)


MAKERS = {
    "CartPole": lambda: gym.make("CartPole-v1"),
    "Pendulum": lambda: gym.make("Pendulum-v1"),
    "Acrobot": lambda: gym.make("Acrobot-v1"),
    "16 CartPoles": lambda: envs.make("CartPole-v1"),
    "4 Pendulums": lambda: envs.make("Pendulum-v1", num_envs=4),
    "4 Acrobots, SAME_STEP": lambda: gym.make_vec(
        "Acrobot-v1",
        num_envs=4,
        vectorization_mode="sync",
        vector_kwargs=dict(autoreset_mode=AutoresetMode.SAME_STEP),
    ),
    "wrapped": lambda: gym.wrappers.RecordEpisodeStatistics(
        gym.wrappers.TimeAwareObservation(gym.make("CartPole-v1"))
    ),
    "toy text": lambda: gym.wrappers.FlattenObservation(gym.make("FrozenLake-v1")),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_captured_environment_goes_on_bit_for_bit(name):
    view = TensorView(MAKERS[name](), seed=5)
    view.reset()
    walk(view, 33)  # into the middle of episodes
    state = view.state_dict()
    assert state["env"] is not None
    expected = walk(view, 300, seed=1)  # over several resets
    other = TensorView(MAKERS[name](), seed=9)
    other.reset()
    walk(other, 7)
    assert other.load_state_dict(state)
    assert torch.equal(walk(other, 300, seed=1), expected)


def test_capturing_does_not_disturb():
    one, two = (TensorView(gym.make("CartPole-v1"), seed=5) for _ in range(2))
    one.reset(), two.reset()
    walk(one, 33), walk(two, 33)
    capture(one.env)
    assert torch.equal(walk(one, 100), walk(two, 100))


def test_what_cannot_be_captured_says_so():
    class Engine:
        pass

    env = Scripted()
    env.engine = Engine()
    assert capture(env) is None


def test_restoring_keeps_no_tie_to_the_state():
    env = gym.make("Pendulum-v1")
    env.reset(seed=0)
    state = capture(env)
    other = gym.make("Pendulum-v1")
    restore(other, state)
    before = np.array(other.unwrapped.state)
    env.step(np.array([1.0], np.float32))
    assert (other.unwrapped.state == before).all()


# --- Gymnasium's own environment behind another -----------------------------------------------


def test_original_keeps_arguments_and_wrappers():
    made = envs.make_single(envs.make("Pendulum-v1", num_envs=4, g=5.0))
    assert made.unwrapped.g == 5.0
    wrapped = gym.wrappers.TimeAwareObservation(gym.make("CartPole-v1", max_episode_steps=30))
    assert envs.make_single(wrapped).observation_space == wrapped.observation_space
    assert envs.make_single(wrapped).spec.max_episode_steps == 30


def test_original_of_an_unregistered_environment_is_a_copy():
    env = gym.wrappers.TimeLimit(Scripted(), 3)
    env.reset()
    env.step(0)
    made = envs.make_single(env)
    assert made.unwrapped is not env.unwrapped
    made.reset()
    assert env.unwrapped.count == 1  # left alone
    assert isinstance(envs.make_single(SyncVectorEnv([Scripted] * 2)), Scripted)


def test_an_environment_need_not_know_render_mode():
    gym.register("test/Scripted-v0", entry_point=Scripted)
    try:
        assert isinstance(envs.make_single("test/Scripted-v0").unwrapped, Scripted)
    finally:
        del gym.registry["test/Scripted-v0"]


class Twice(gym.RewardWrapper):
    """As every course writes one."""

    def reward(self, reward):
        return 2 * float(reward)


class Locked(Twice):
    """Has no copy."""

    def __init__(self, env):
        super().__init__(env)
        self.lock = threading.Lock()


def returns(game, seed=7):
    """Of one episode in which the cart is always pushed to the right."""
    game.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        _, reward, terminated, truncated, _ = game.step(1)
        total, over = total + reward, terminated or truncated
    return total


WRAPPED = {
    "one": lambda: Twice(gym.make("CartPole-v1")),
    "between Gymnasium's": lambda: gym.wrappers.ClipReward(
        Twice(gym.wrappers.DtypeObservation(gym.make("CartPole-v1"), np.float64)), max_reward=2.0
    ),
    "in a vector": lambda: SyncVectorEnv([lambda: Twice(gym.make("CartPole-v1"))] * 2),
    "through make_vec": lambda: gym.make_vec(
        "CartPole-v1", 2, vectorization_mode="sync", wrappers=[Twice]
    ),
    "around a vector": lambda: gym.wrappers.vector.ClipReward(
        SyncVectorEnv([lambda: Twice(gym.make("CartPole-v1"))] * 2), max_reward=2.0
    ),
    "without a copy, in a vector": lambda: SyncVectorEnv([lambda: Locked(gym.make("CartPole-v1"))]),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapper_of_ones_own_is_around_it(name):
    env = WRAPPED[name]()
    env.reset(seed=0)
    made = envs.make_single(env)
    assert returns(made) == 2 * returns(gym.make("CartPole-v1"))
    names = str(made)
    assert "TimeLimit" in names
    assert names.count("Twice") + names.count("Locked") == 1


def normalized(env):
    """An environment that standardises, with statistics that are known: mean 10, variance 4."""
    env = gym.wrappers.NormalizeReward(gym.wrappers.NormalizeObservation(env))
    return taught(env, env.env)


def normalized_vector(env):
    env = gym.wrappers.vector.NormalizeObservation(env)
    env = gym.wrappers.vector.NormalizeReward(env)
    return taught(env, env.env)


def taught(rewards, observations):
    observations.obs_rms.mean, observations.obs_rms.var = np.full(4, 10.0), np.full(4, 4.0)
    rewards.return_rms.var = np.float64(25.0)
    return rewards


NORMALIZED = {
    "registered": lambda: normalized(gym.make("CartPole-v1")),
    "without an id": lambda: normalized(CartPoleEnv()),
    "around one's own": lambda: normalized(Twice(gym.make("CartPole-v1"))),
    "in a vector": lambda: SyncVectorEnv([lambda: normalized(gym.make("CartPole-v1"))] * 2),
    "in a vector, without an id": lambda: SyncVectorEnv([lambda: normalized(CartPoleEnv())] * 2),
    "in processes": lambda: AsyncVectorEnv([lambda: normalized(gym.make("CartPole-v1"))]),
    "around a vector": lambda: normalized_vector(envs.make("CartPole-v1", num_envs=2)),
}


@pytest.mark.parametrize("name", NORMALIZED)
def test_what_wrappers_have_learned_is_carried_over_and_stays(name):
    env = NORMALIZED[name]()
    made, plain = envs.make_single(env), gym.make("CartPole-v1")
    for seed in range(2):
        obs, raw = made.reset(seed=seed)[0], plain.reset(seed=seed)[0]
        for _ in range(5):
            assert np.allclose(obs, (raw - 10) / 2)
            obs, reward, *_ = made.step(0)
            raw, *_ = plain.step(0)
            assert np.isclose(reward, (2 if "own" in name else 1) / 5)
    if not isinstance(env, gym.vector.VectorEnv):
        assert env.return_rms.var == 25.0  # left alone
        assert env.update_running_mean
        assert made.return_rms is not env.return_rms
    env.close()


def test_wrappers_of_a_vector_are_around_the_single_one():
    many = gym.wrappers.vector.FlattenObservation(gym.make_vec("FrozenLake-v1", 2))
    assert envs.make_single(many).reset(seed=0)[0].tolist() == [1] + 15 * [0]
    assert "TimeLimit" in str(envs.make_single(many))
    many = gym.wrappers.vector.RecordEpisodeStatistics(gym.make_vec("CartPole-v1", 2))
    assert envs.make_single(many).spec.id == "CartPole-v1"
    many = gym.wrappers.vector.RescaleAction(gym.make_vec("Pendulum-v1", 2), -3.0, 1.0)
    made = envs.make_single(many)
    assert made.action_space == many.single_action_space
    pendulum = gym.make("Pendulum-v1")
    for env in (made, pendulum):
        env.reset(seed=0)
    # -1 is the middle of [-3, 1]: no torque.
    assert np.allclose(made.step(np.array([-1.0]))[0], pendulum.step(np.array([0.0]))[0])


def test_a_wrapper_of_whole_batches_says_how_to_wrap_each():
    batches = gym.wrappers.vector.TransformReward(envs.make("CartPole-v1"), lambda r: 2 * r)
    with pytest.raises(ValueError, match="TransformReward changes a whole batch") as raised:
        envs.make_single(batches)
    words = str(raised.value)
    assert "SyncVectorEnv([make] * 16)" in words
    assert 'make_vec("CartPole-v1", 16, vectorization_mode="sync", wrappers=[Wrapper])' in words
    twice = 2 * returns(gym.make("CartPole-v1"))
    make = lambda: Twice(gym.make("CartPole-v1"))  # noqa: E731
    assert returns(envs.make_single(gym.vector.SyncVectorEnv([make] * 16))) == twice
    many = gym.make_vec("CartPole-v1", 16, vectorization_mode="sync", wrappers=[Twice])
    assert returns(envs.make_single(many)) == twice


def test_what_has_no_copy_says_how_to_give_it_an_id():
    with pytest.raises(ValueError, match=r"cannot be made afresh.*TypeError.*lock") as raised:
        envs.make_single(Locked(gym.make("CartPole-v1")))
    assert 'gymnasium.register("Mine-v0", entry_point=make)' in str(raised.value)
    assert 'env = gymnasium.make("Mine-v0")' in str(raised.value)

    def make(**arguments):
        return Locked(gym.make("CartPole-v1", **arguments))

    gym.register("Mine-v0", entry_point=make)
    try:
        env = gym.make("Mine-v0")
        assert returns(envs.make_single(env)) == 2 * returns(gym.make("CartPole-v1"))
        assert envs.make_single(env, "rgb_array").render_mode == "rgb_array"
        many = envs.make("Mine-v0", num_envs=2)
        assert returns(envs.make_single(many)) == 2 * returns(gym.make("CartPole-v1"))
    finally:
        del gym.registry["Mine-v0"]


def test_an_argument_that_has_no_copy_is_shared():
    class Client(Scripted):
        def __init__(self, client=None, words=()):
            super().__init__()
            self.client, self.words = client, words

    gym.register("Client-v0", entry_point=Client, max_episode_steps=9)
    try:
        client, words = threading.Lock(), ["a"]
        made = envs.make_single(gym.make("Client-v0", client=client, words=words))
        assert made.unwrapped.client is client
        assert made.unwrapped.words == words
        assert made.unwrapped.words is not words
        assert "TimeLimit" in str(made)
    finally:
        del gym.registry["Client-v0"]


@pytest.mark.parametrize(
    ("env", "error", "match"),
    [
        (TorchVector(), ValueError, "has no spec.*gymnasium.register"),
        ("NoSuchTask-v0", ValueError, "NoSuchTask"),
        (3, TypeError, "env is 3"),
    ],
)
def test_original_names_what_it_cannot_make(env, error, match):
    with pytest.raises(error, match=match):
        envs.make_single(env)


@pytest.mark.parametrize("name", dict(in_every_mode()))
def test_a_step_that_travels_in_one_piece_is_the_same(name):
    """As to a GPU, where each copy waits."""

    def steps(packs):
        view = TensorView(dict(in_every_mode())[name])
        view.packs = packs
        view.reset()
        return [vars(view.step(torch.zeros(view.num_envs).long())) for _ in range(40)]

    assert len(steps(True)) == 40
    for packed, plain in zip(steps(True), steps(False), strict=True):
        for field, value in plain.items():
            assert packed[field].dtype == value.dtype
            assert torch.equal(packed[field], value), field


def test_images_travel_in_one_piece():
    class Images(Scripted):
        observation_space = Box(0, 255, (4, 3, 2), np.uint8)

        def _obs(self):
            return np.full((4, 3, 2), 10 * self.episode + self.count, np.uint8)

    makers = [lambda: Images(0), lambda: Images(1)]
    views = [TensorView(SyncVectorEnv(makers, autoreset_mode="SameStep")) for _ in range(2)]
    views[0].packs = True
    for view in views:
        view.reset()
    for _ in range(12):
        packed, plain = (vars(view.step(torch.zeros(2).long())) for view in views)
        assert packed["next_obs"].shape == (2, 4, 3, 2)
        assert all(torch.equal(packed[field], plain[field]) for field in plain)
