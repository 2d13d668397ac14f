"""The tensor view of every kind of environment, making environments, and capturing their state."""

import itertools
import os
import threading
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st

from metis_nb import DQN, PPO, agents, envs, evaluate, play
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


class Vandal:
    """Mixed into an environment: writes into all that it was given and all that it handed out."""

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed, options=options)
        self.ours = [obs, *(options or {}).values()]
        return obs, info

    def step(self, action):
        for each in getattr(self, "ours", []):
            each[:] = 7
        step = super().step(action)
        *gave, info = step
        gave += info.values()
        self.ours = [x for x in (action, *gave) if isinstance(x, np.ndarray | torch.Tensor)]
        for each in self.ours[:1]:
            each[:] = 7
        return step


class VandalOfNumbers(Vandal, Scripted):
    action_space = Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)


class VandalOfTensors(Vandal, TorchVector):
    pass


class VandalVector(Vandal, SyncVectorEnv):
    pass


def vandals_and_others():
    yield VandalOfNumbers(), Scripted(), torch.zeros(1, 2)
    for mode in AutoresetMode:
        sub_envs = [Scripted, lambda: Scripted(1)]
        pair = (kind(sub_envs, autoreset_mode=mode) for kind in (VandalVector, SyncVectorEnv))
        yield *pair, torch.tensor([1, 0])
        if mode != AutoresetMode.NEXT_STEP:
            yield VandalOfTensors(mode=mode), TorchVector(mode=mode), torch.tensor([1, 0])


@pytest.mark.parametrize("index", range(6))
def test_an_environment_that_writes_into_what_it_got_and_gave_does_no_harm(index):
    vandal, other, action = list(vandals_and_others())[index]
    given = action.clone()
    if other.action_space == Scripted.action_space:
        other.action_space = vandal.action_space
    views = TensorView(vandal), TensorView(other)
    firsts = [view.reset() for view in views]
    steps = [[view.step(action) for _ in range(12)] for view in views]  # over ends of episodes
    assert torch.equal(*firsts)
    assert torch.equal(action, given)
    for harmed, whole in zip(*steps, strict=True):
        assert all(torch.equal(vars(harmed)[name], value) for name, value in vars(whole).items())
    assert views[0].finished == views[1].finished


def test_torch_tensors_stay_tensors():
    env = TorchVector()
    view = TensorView(env)
    assert torch.equal(view.reset(), env.handed_out)
    action = torch.tensor([1, 0])
    step = view.step(action)
    assert torch.equal(step.obs, env.handed_out)
    assert torch.equal(env.actions[0], action)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_a_torch_environment_gives_true_successors(mode):
    view = TensorView(TorchVector(limits=(3, 4), mode=mode))
    view.reset()
    action = torch.zeros(2, dtype=torch.int64)
    steps = [view.step(action) for _ in range(4)]
    assert [step.next_obs[:, 0].tolist() for step in steps] == [[1, 1], [2, 2], [3, 3], [1, 4]]
    assert [step.obs[:, 0].tolist() for step in steps] == [[1, 1], [2, 2], [0, 3], [1, 0]]


def test_where_one_is_reset_the_others_stay_as_they_are():
    """Whatever the environment gives in their place."""

    class Rows(gym.vector.VectorWrapper):
        def reset(self, *, seed=None, options=None):
            mask = (options or {}).get("reset_mask", np.ones(2, bool))
            obs, info = self.env.reset(seed=seed, options=options)
            return np.where(mask[:, None], obs, np.float32(-1)), info

    makers = [Scripted, lambda: Scripted(first=1)]  # the first ends after 3 steps
    view = TensorView(Rows(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)))
    view.reset()
    steps = [view.step(torch.zeros(2, dtype=torch.int64)) for _ in range(3)]
    assert steps[-1].next_obs.tolist() == [[0, 3], [1, 3]]
    assert steps[-1].obs.tolist() == [[1, 0], [1, 3]]


# --- seeds ------------------------------------------------------------------------------------


def first_states(seed, num_envs=8):
    sub_envs = SyncVectorEnv([lambda: gym.make("CartPole-v1")] * num_envs)
    return {tuple(row.tolist()) for row in TensorView(sub_envs, seed=seed).reset()}


def test_seeds_share_no_sub_environment():
    assert len(first_states(0) | first_states(1) | first_states(2)) == 24
    assert first_states(1) == first_states(1)


SEEDS = [0, 1, 2, 2047, envs.view.OWN_STRIDE - 1, envs.view.OWN_STRIDE, 4096, 20_260_101]
SEEDS += [2**31 - 1, 2**32 - 1, 2**32, 2**63 - 1]


def test_seeds_fit_in_32_bits_and_overlap_nowhere():
    assert [envs.first_seed(seed) for seed in (0, 1, 2)] == [0, 2**20, 2 * 2**20]
    firsts = [envs.first_seed(seed, evaluation=side) for seed in SEEDS for side in (False, True)]
    firsts.sort()
    assert firsts[-1] + 100_000 < 2**32  # so many sub-environments, or episodes
    assert all(b - a > 1000 for a, b in itertools.pairwise(firsts))


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), st.integers(0, 10**12))
def test_training_and_evaluation_share_no_seed(training, evaluation, steps):
    first = envs.first_seed(training) + steps % (envs.SEED_STRIDE // 4)  # after a restart
    assert 0 <= first < 2**32
    # The first half of a stride is for training, the second for evaluation.
    assert first % 2**20 + 100_000 < 2**19 or training < envs.view.OWN_STRIDE
    assert envs.first_seed(evaluation, evaluation=True) % 2**20 >= 2**19


def test_thousands_of_large_seeds_share_no_sub_environment():
    random = np.random.default_rng(0).integers(2**31, size=3000)
    for seeds in (random, range(10**6, 10**6 + 3000), range(5000, 3_005_000, 1000)):
        firsts = np.sort([envs.first_seed(int(seed)) for seed in seeds])
        assert (np.diff(firsts) >= 16).mean() > 0.998


@pytest.mark.parametrize("seed", [None, 4096, 2**40])
def test_an_environment_that_takes_seeds_of_32_bits(seed):
    seen = []

    class Old(Scripted):
        def reset(self, *, seed=None, options=None):
            seen.append(seed)
            np.random.RandomState(seed)  # which refuses 2**32
            return super().reset(seed=seed)

    env = Old()
    trainer = PPO(env, rollout_steps=8, seed=seed)
    trainer.train(agents.actor(env), agents.critic(env), steps=8, progress=False)
    evaluate(env, agents.actor(env), episodes=2, seed=seed or 0)
    assert all(each is None or each < 2**32 for each in seen)


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


class Huge(Scripted):
    observation_space = Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, size, reward=0.0):
        super().__init__()
        self.size, self.reward = size, reward

    def _obs(self):
        return np.full(2, self.size, np.float32)

    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, self.reward, *rest


def test_huge_numbers_are_accepted_as_long_as_their_squares_are_numbers():
    assert len(experience(TensorView(Huge(9e14, -9e14)), 3)) == 3


@pytest.mark.parametrize("size", [1e15, -3e38])
def test_numbers_with_squares_beyond_float32_are_named(size):
    """Running statistics would take in an infinite variance, and give out nan."""
    with pytest.raises(FloatingPointError, match=r"observation that is beyond 1e\+15.*step 0"):
        TensorView(Huge(size)).reset()
    view = TensorView(Huge(0.0, size))
    view.reset()
    with pytest.raises(FloatingPointError, match=r"reward that is beyond 1e\+15.*step 1"):
        view.step(torch.tensor([0]))


@pytest.mark.parametrize("reward", [1e300, np.float64(1e300), np.array(1e300)])
def test_a_number_too_large_for_float32_is_named_without_a_warning(reward):
    view = TensorView(Huge(0.0, reward))
    view.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FloatingPointError, match="reward that is not finite"):
            view.step(torch.tensor([0]))


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.float64, np.float16, np.bool_])
def test_a_vector_of_tensors_gets_actions_of_its_spaces_type(dtype):
    env = TorchVector()
    env.single_action_space = Box(0, 1, (2,), dtype)
    env.action_space = gym.vector.utils.batch_space(env.single_action_space, 2)
    view = TensorView(env)
    view.reset()
    view.step(torch.tensor([[-1.0, 1.0], [-0.9, 7.0]]))
    (given,) = env.actions
    assert env.action_space.contains(given.numpy())
    assert given[0].tolist() == [0, 1]


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


# --- what environments give ---------------------------------------------------------------------


def one_number(value):
    return np.array([value])


def tensors_that_ask_for_gradients(value):
    return torch.tensor(value, requires_grad=torch.as_tensor(value).is_floating_point())


def flipped(value):
    array = np.array(value)
    return np.ascontiguousarray(array[::-1])[::-1] if array.ndim else array


def strided(value):
    array = np.array(value)
    return np.repeat(array, 2, axis=0)[::2] if array.ndim else array


def read_only(value):
    array = np.array(value)
    array.flags.writeable = False
    return array


def swapped(value):
    array = np.array(value)
    return array.astype(array.dtype.newbyteorder())


def as_list(value):
    return np.asarray(value).tolist()


OBSERVATIONS = [flipped, strided, read_only, swapped, as_list, tensors_that_ask_for_gradients]
NUMBERS = [one_number, lambda v: [[v]], tensors_that_ask_for_gradients, np.float16, np.array]


class Converted(gym.Wrapper):
    def __init__(self, env, obs, number):
        super().__init__(env)
        self.obs, self.number = obs, number

    def reset(self, **arguments):
        obs, info = self.env.reset(**arguments)
        return self.obs(obs), info

    def step(self, action):
        obs, *numbers, info = self.env.step(action)
        return self.obs(obs), *map(self.number, numbers), info


KINDS = [*((kind, float) for kind in OBSERVATIONS), *((as_list, kind) for kind in NUMBERS)]


@pytest.mark.parametrize("kinds", KINDS)
def test_what_an_environment_gives_is_taken_in_every_kind(kinds):
    plain, odd = TensorView(Scripted()), TensorView(Converted(Scripted(), *kinds))
    assert torch.equal(plain.reset(), odd.reset())
    for _ in range(30):
        step, other = (view.step(torch.zeros(1, dtype=torch.int64)) for view in (plain, odd))
        for name, value in vars(step).items():
            given = vars(other)[name]
            assert given.dtype == value.dtype
            assert (
                torch.allclose(given, value, rtol=1e-3)
                if name == "reward"
                else (torch.equal(given, value))
            )
    assert [f[::2] for f in odd.finished] == [f[::2] for f in plain.finished]


@pytest.mark.parametrize("kinds", KINDS)
def test_evaluation_and_the_player_take_it_in_too(kinds):
    class Drawn(Converted):
        def __init__(self):
            super().__init__(Scripted(), *kinds)

        def render(self):
            return np.zeros((8, 8, 3), np.uint8)

    env = Drawn()
    env.unwrapped.render_mode, env.unwrapped.metadata = "rgb_array", {"render_modes": ["rgb_array"]}
    actor = agents.actor(env)
    # Rewards of the first episode, by hand: 1.6, 2.4 and 3.4.
    assert evaluate(env, actor, episodes=1) == pytest.approx([7.4], rel=1e-3)
    assert play(env, actor, seed=0).episode_return == pytest.approx(7.4, rel=1e-3)


@pytest.mark.parametrize("space", [Discrete(1), Box(np.float32([2, -1]), np.float32([2, 1]))])
def test_the_player_takes_actions_without_a_choice(space):
    class Drawn(Scripted):
        action_space, render_mode, metadata = space, "rgb_array", {"render_modes": ["rgb_array"]}

        def render(self):
            return np.zeros((8, 8, 3), np.uint8)

    env = Drawn()
    discrete = isinstance(space, Discrete)
    critic = agents.q_network(env) if discrete else agents.q_critic(env)
    episode = play(env, critic if discrete else agents.actor(env), critic=critic, seed=0)
    assert episode.episode_return == pytest.approx(7.4)
    assert np.isfinite(episode.action_values).all()
    assert discrete or (episode.actions[:, 0] == 2).all()
    assert "nan" not in repr(episode._track())


@pytest.mark.parametrize("kind", OBSERVATIONS[:-1])
def test_act_takes_observations_in_every_kind(kind):
    actor = agents.actor(gym.make("Pendulum-v1"))
    obs = np.array([[0.1, -0.2, 3.0], [1.0, 0.0, -1.0]], np.float32)
    given = kind(obs)
    action = actor.act(given)
    assert isinstance(action, np.ndarray)
    assert np.array_equal(action, actor.act(np.array(given, np.float32)))


def test_act_names_an_observation_of_another_shape():
    actor = agents.actor(gym.make("Pendulum-v1"))
    with pytest.raises(ValueError, match=r"obs has shape \(2, 4\); expected \(B, 3"):
        actor.act(np.zeros((2, 4), np.float32))


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("axes", [(-1, 1), (1, -1)])
def test_rewards_and_flags_with_a_second_axis(axes, num_envs, kind):
    class Column(SyncVectorEnv):
        def reset(self, **arguments):
            obs, info = super().reset(**arguments)
            return torch.as_tensor(obs) if kind == "torch" else obs, info

        def step(self, actions):
            obs, *numbers, info = super().step(np.asarray(actions))
            numbers = [number.reshape(axes) for number in numbers]
            if kind == "torch":
                obs, *numbers = map(torch.as_tensor, (obs, *numbers))
            return obs, *numbers, info

    makers = [lambda first=first: Scripted(first) for first in range(num_envs)]
    views = [TensorView(cls(makers, autoreset_mode="SameStep")) for cls in (SyncVectorEnv, Column)]
    for view in views:
        view.reset()
    for _ in range(20):
        plain, odd = (vars(view.step(torch.zeros(num_envs).long())) for view in views)
        assert all(torch.equal(odd[name], value) for name, value in plain.items())
    assert views[0].finished == views[1].finished


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("when", ["reset", "step"])
def test_an_observation_of_another_shape_than_its_space_is_named(when, parallel):
    class Other(Scripted):
        def _obs(self):
            wrong = self.count == (0 if when == "reset" else 1)
            return np.zeros(3 if wrong else 2, np.float32)

    class OtherVector(SyncVectorEnv):
        def __init__(self):
            super().__init__([Scripted] * 2)

        def reset(self, **arguments):
            obs, info = super().reset(**arguments)
            return obs[:, :1] if when == "reset" else obs, info

        def step(self, actions):
            obs, *rest = super().step(actions)
            return obs[:, :1], *rest

    env = OtherVector() if parallel else Other()
    critic = agents.critic(env)
    with pytest.raises(ValueError, match=r"env gave the observation with shape .*expected \(2,"):
        PPO(env, rollout_steps=8, seed=0).train(agents.actor(env), critic, steps=8, progress=False)


@pytest.mark.parametrize("reward", [np.zeros(2), "much", [[1.0], [2.0]]])
def test_a_reward_that_is_not_one_number_is_named(reward):
    env = Converted(Scripted(), np.array, lambda value: reward)
    with pytest.raises(ValueError, match="env gave the reward"):
        experience(TensorView(env), 3)


class Last(SyncVectorEnv):
    """Gives the last observation of an episode under a name of its own, or not at all."""

    def __init__(self, key, kind=np.asarray):
        self.key, self.kind = key, kind
        super().__init__([Scripted, lambda: Scripted(1)], autoreset_mode="SameStep")

    def step(self, actions):
        *step, info = super().step(actions)
        if "final_obs" in info:
            final = info.pop("final_obs")
            if self.key:
                info[self.key] = self.kind(final)
        return *step, info


@pytest.mark.parametrize("kind", [np.asarray, list])
@pytest.mark.parametrize("key", ["final_obs", "final_observation"])
def test_the_last_observation_under_either_name(key, kind):
    assert experience(TensorView(Last(key, kind)), 30) == experience(TensorView(Scripted()), 30)


def test_a_last_observation_that_is_missing_is_named():
    with pytest.raises(ValueError, match=r'info\["final_obs"\] has nothing for environment 0,'):
        experience(TensorView(Last("")), 30)


def test_a_vector_that_only_resets_ends_in_an_error():
    class NeverResets(TorchVector):
        def step(self, action):
            obs, reward, terminated, truncated, info = super().step(action)
            return obs, reward, terminated, truncated | (self.count[0] > 5), info

    env = NeverResets(mode=AutoresetMode.NEXT_STEP)
    trainer = DQN(env, learning_starts=50, capacity=100, seed=0)
    with pytest.raises(RuntimeError, match=r"environment [01] has ended .*NEXT_STEP"):
        trainer.train(agents.q_network(env), steps=200, progress=False)


class Dies(Scripted):
    how = "exit"

    def step(self, action):
        if self.episode == 2 and self.how == "exit":
            os._exit(3)
        if self.episode == 2:
            raise ValueError("lost")
        return super().step(action)


class Fails(Dies):
    how = "error"


@pytest.mark.parametrize("kind", [Dies, Fails])
def test_a_worker_that_has_died_is_named(kind):
    """At once, where it died without a word; an error of its own comes first."""
    env = AsyncVectorEnv([Scripted, kind])
    try:
        trainer = PPO(env, rollout_steps=64, seed=0)
        networks = agents.actor(env), agents.critic(env)
        died = r"process of environment 1 of 2 has ended \(exit code 3\).*no memory left"
        error, said = (ValueError, "lost") if kind is Fails else (RuntimeError, died)
        with pytest.raises(error, match=said):
            trainer.train(*networks, steps=64, progress=False)
        with pytest.raises(RuntimeError, match="process of environment 1 of 2 has ended"):
            trainer.train(*networks, steps=64, progress=False)
    finally:
        for process in env.processes:
            process.terminate()
        env.closed = True  # waiting for the one that has died would fail


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
        (TorchVector(), ValueError, r"(?s)has no spec.*gymnasium.register"),
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


class Soft(gym.ActionWrapper):
    """CartPole with a push of any strength: a wrapper that is itself what an id stands for."""

    metadata = gym.make("CartPole-v1").metadata  # older versions of Gymnasium look here

    def __init__(self, **settings):
        super().__init__(gym.make("CartPole-v1", **settings))
        self.action_space = Box(-1.0, 1.0, (1,), np.float32)

    def action(self, action):
        return int(action[0] > 0)


@pytest.mark.parametrize("kind", ["alone", "vector"])
def test_a_wrapper_behind_an_id_is_there_once(kind):
    gym.register("Soft-v0", entry_point=Soft)
    try:
        env = gym.make("Soft-v0") if kind == "alone" else envs.make("Soft-v0", num_envs=2)
        made, layers = envs.make_single(env), 0
        inner = made
        while isinstance(inner, gym.Wrapper):
            layers, inner = layers + isinstance(inner, Soft), inner.env
        assert layers == 1
        assert evaluate(env, agents.actor(env), episodes=2).min() >= 8
    finally:
        del gym.registry["Soft-v0"]
