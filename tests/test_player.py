"""The episode player: what it records, what it shows, what it leaves alone, what it refuses."""

from __future__ import annotations

import base64
import copy
import io
import json
import os
import pickle
import random
import re
import sys
import threading
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import metis_nb
from metis_nb import agents
from metis_nb.notebook import episode as episode_module
from metis_nb.notebook import frontend
from metis_nb.notebook.episode import Episode
from metis_nb.notebook.player import PlayError, play

player_module = sys.modules["metis_nb.notebook.player"]


class Dots(gym.Env):
    """A square whose grey level is the step, 0 to 5, over and over. Never ends by itself."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))

    def __init__(self, actions=None, fails_at=None, render_mode=None):
        self.action_space = actions or gym.spaces.Discrete(3, start=1)
        self.fails_at, self.render_mode = fails_at, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        if self.count == self.fails_at:
            raise ZeroDivisionError("the dots ran out")
        self.count += 1
        return np.full(2, self.count, np.float32), 0.5, False, False, {}

    def render(self):
        return np.full((16, 24, 3), 40 * (self.count % 6), np.uint8)


class Blind(Dots):
    metadata = {"render_modes": []}  # noqa: RUF012


gym.register("Dots-v0", Dots)
gym.register("Blind-v0", Blind)


def balance(obs):
    return int(obs[2] + 0.3 * obs[3] > 0)


@pytest.fixture(scope="module")
def balanced() -> Episode:
    return play("CartPole-v1", balance, seed=0)


@pytest.fixture
def cartpole():
    env = gym.make("CartPole-v1")
    torch.manual_seed(0)
    return env, agents.actor(env), agents.critic(env)


def data_of(episode: Episode) -> dict:
    page = episode._repr_mimebundle_()["text/html"]
    return json.loads(re.search(r"const data = (.*);\n", page)[1].replace("<\\/", "</"))


def track_of(episode: Episode) -> dict:
    (track,) = data_of(episode)["tracks"]
    return track


# --- what is recorded -------------------------------------------------------------------------


def test_a_balancing_function_reaches_the_time_limit(balanced):
    assert balanced.length == 500
    assert balanced.episode_return == 500.0
    assert balanced.truncated
    assert not balanced.terminated
    assert balanced.obs.shape == (501, 4)
    assert balanced.actions.shape == balanced.rewards.shape == (500,)
    assert [step for step, _ in balanced.shown] == list(range(501))
    assert repr(balanced) == (
        "<Episode CartPole-v1: 500 steps, return 500.0, truncated by the time limit>"
    )


def test_frames_are_the_environments_pictures_without_loss(cartpole):
    episode = play("CartPole-v1", balance, seed=7, max_steps=3)
    env = gym.make("CartPole-v1", render_mode="rgb_array")
    obs, _ = env.reset(seed=7)
    for _, index in episode.shown:
        picture = Image.open(io.BytesIO(episode.frames[index]))
        assert picture.format == "WEBP"
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), env.render())
        obs, *_ = env.step(balance(obs))


def test_what_a_stochastic_discrete_actor_thought(cartpole):
    env, actor, critic = cartpole
    episode = play(env, actor, critic=critic, seed=1)
    obs = torch.as_tensor(episode.obs, dtype=torch.float32)
    with torch.no_grad():
        probabilities = agents.policy(actor, obs[:-1]).probs.numpy()
        values = critic(obs).numpy()
    np.testing.assert_allclose(episode.probabilities, probabilities, atol=1e-6)
    np.testing.assert_allclose(episode.values, values, atol=1e-6)
    np.testing.assert_array_equal(episode.actions, probabilities.argmax(1))
    assert episode.mean is None
    assert episode.terminated
    assert "terminated by the environment" in repr(episode)


def test_a_gaussian_policy_is_told_in_the_environments_units():
    env = gym.make("Pendulum-v1")  # torques within [-2, 2]
    actor = agents.actor(env)
    episode = play(env, actor, seed=1, max_steps=5, deterministic=False)
    assert episode.actions.shape == episode.mean.shape == episode.std.shape == (5, 1)
    with torch.no_grad():
        pi = agents.policy(actor, torch.as_tensor(episode.obs[:-1]))
    np.testing.assert_allclose(episode.mean, 2 * pi.mean, atol=1e-5)
    np.testing.assert_allclose(episode.std, 2 * pi.stddev, atol=1e-5)
    assert not np.allclose(episode.actions, episode.mean)
    data = track_of(episode)
    assert (data["low"], data["high"]) == ([-2.0], [2.0])


def test_sampled_actions_are_clipped_and_greedy_ones_are_the_networks_own():
    env = gym.make("Pendulum-v1")
    actor = agents.actor(env)
    with torch.no_grad():
        actor.log_std.fill_(3.0)
    wild = play(env, actor, seed=0, max_steps=20, deterministic=False)
    assert np.abs(wild.actions).max() == 2.0
    greedy = play(env, actor, seed=0, max_steps=20)
    acted = actor.act(torch.as_tensor(greedy.obs[:-1])).numpy()
    np.testing.assert_allclose(greedy.actions, acted, atol=1e-6)


def test_a_network_that_only_acts_and_one_inside_data_parallel(cartpole):
    class OnlyActs(nn.Module):
        def act(self, obs):
            assert obs.shape == (1, 4)
            assert obs.dtype == torch.float32
            return (obs[:, 2] > 0).long()

    only = play("CartPole-v1", OnlyActs(), seed=3)
    assert only.probabilities is None
    np.testing.assert_array_equal(only.actions, only.obs[:-1, 2] > 0)

    env, actor, critic = cartpole
    plain = play(env, actor, critic=critic, seed=3)
    wrapped = play(env, nn.DataParallel(actor), critic=nn.DataParallel(critic), seed=3)
    np.testing.assert_array_equal(plain.obs, wrapped.obs)
    np.testing.assert_array_equal(plain.values, wrapped.values)


def test_the_seed_repeats_the_episode_and_none_draws_one(cartpole):
    env, actor, _ = cartpole
    first = play(env, actor, deterministic=False)
    again = play(env, actor, deterministic=False, seed=first.seed)
    other = play(env, actor, deterministic=False)
    np.testing.assert_array_equal(first.obs, again.obs)
    assert first.frames == again.frames
    assert other.seed != first.seed


def test_long_episodes_are_thinned_evenly_and_equal_frames_kept_once():
    episode = play("Dots-v0", lambda obs: 2, max_steps=1501, seed=0)
    steps = [step for step, _ in episode.shown]
    assert steps == [*range(0, 1501, 4), 1501]  # the last one always
    assert len(episode.frames) == 4  # steps 0, 4 and 8 of six, and 1501
    assert episode.length == 1501
    assert "stopped at max_steps" in repr(episode)
    data = track_of(episode)
    assert data["score"][-1] == 0.5 * 1501
    assert len(data["score"]) == len(data["reward"]) == len(data["action"]) + 1 == len(steps)


def test_actions_of_other_kinds():
    assert play("Dots-v0", lambda obs: torch.tensor([3]), max_steps=2).actions.tolist() == [3, 3]
    assert track_of(play("Dots-v0", lambda obs: 1, max_steps=1))["choices"] == [1, 2, 3]
    many = gym.make("Dots-v0", actions=gym.spaces.MultiDiscrete([2, 5]))
    assert play(many, lambda obs: [1, 4], max_steps=2).actions.tolist() == [[1, 4], [1, 4]]
    unbounded = gym.make("Dots-v0", actions=gym.spaces.Box(-np.inf, np.inf, (2,)))
    data = track_of(play(unbounded, lambda obs: np.array([0.5, obs[0]]), max_steps=3))
    assert data["low"][1] == 0.0
    assert data["high"][1] == 2.0


# --- what it shows ----------------------------------------------------------------------------


def test_the_mime_bundle_is_small_and_self_contained(balanced):
    bundle = balanced._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert len(bundle["text/html"]) < 300_000
    assert len(bundle["image/png"]) < 15_000
    assert bundle["text/plain"] == repr(balanced)
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?https?:|@import|url\(", bundle["text/html"])
    strip = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert strip.format == "PNG"
    assert strip.width == 1020


def test_players_of_one_page_do_not_share_an_id(balanced):
    pages = [balanced._repr_mimebundle_()["text/html"] for _ in range(2)]
    ids = [set(re.findall(r"mnb-[0-9a-f]{32}", page)) for page in pages]
    assert len(ids[0]) == len(ids[1]) == 1
    assert ids[0] != ids[1]
    assert not re.search(r"__[A-Z]+__", pages[0])
    assert pages[0].count("</script>") == 1


def test_static_mode_is_read_when_displayed(balanced, monkeypatch):
    monkeypatch.setenv("METIS_NB_STATIC", "1")
    assert set(balanced._repr_mimebundle_()) == {"image/png", "text/plain"}
    monkeypatch.setenv("METIS_NB_STATIC", "0")
    assert "text/html" in balanced._repr_mimebundle_()


def test_save(tmp_path):
    episode = play("CartPole-v1", balance, seed=0, max_steps=20)
    page = episode.save(tmp_path / "episode.html")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert Image.open(episode.save(str(tmp_path / "episode.png"))).format == "PNG"
    film = Image.open(episode.save(tmp_path / "episode.gif"))
    assert film.n_frames > 5
    with pytest.raises(ValueError, match=r"episode\.avi.*\.html, \.png, \.gif or \.mp4"):
        episode.save(tmp_path / "episode.avi")


def test_save_as_mp4(tmp_path, monkeypatch):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    pair = {"one": balance, "two": lambda obs: 0}
    for episode in (play("CartPole-v1", balance, seed=0, max_steps=20), play("CartPole-v1", pair)):
        path = episode.save(tmp_path / "episode.mp4")
        frames = imageio_ffmpeg.read_frames(str(path))
        about = next(frames)
        assert about["codec"] == "h264"
        assert sum(1 for _ in frames) >= 9
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ImportError, match=r"mp4 needs.*pip install imageio-ffmpeg"):
        episode.save(tmp_path / "other.mp4")


# --- several agents ---------------------------------------------------------------------------


def test_agents_side_by_side_start_alike(cartpole):
    env, actor, critic = cartpole
    both = play(env, {"before": actor, "after": balance}, critic=critic, seed=3, max_steps=30)
    assert list(both) == ["before", "after"]
    assert len(both) == 2
    np.testing.assert_array_equal(both["before"].obs[0], both["after"].obs[0])
    alone = play(env, actor, critic=critic, seed=3, max_steps=30)
    np.testing.assert_array_equal(both["before"].obs, alone.obs)
    np.testing.assert_array_equal(both["before"].values, alone.values)
    assert repr(both).startswith("<Episodes CartPole-v1: before: ")
    data = data_of(both)
    assert data["layout"] == "side"
    assert [track["name"] for track in data["tracks"]] == ["before", "after"]
    # The first picture is the same, and there once.
    assert data["tracks"][0]["picture"][0] == data["tracks"][1]["picture"][0] == 0
    assert len(data["frames"]) < sum(len(episode.frames) for episode in both.tracks)


def test_a_list_of_agents_has_a_slider(cartpole):
    env, actor, critic = cartpole
    stages = play(env, [actor, balance], seed=3, max_steps=30)
    assert list(stages) == ["1 of 2", "2 of 2"]
    assert data_of(stages)["layout"] == "stages"
    named = play(env, [("0 steps", actor), ("90 steps", actor)], critic=[None, critic], seed=3)
    assert list(named) == ["0 steps", "90 steps"]
    assert named["0 steps"].values is None
    assert named["90 steps"].values is not None
    paired = [("0 steps", critic), ("90 steps", critic)]  # as callbacks.snapshots gathers them
    assert play(env, named_like(actor), critic=paired, seed=3)["0 steps"].values is not None


def named_like(actor):
    return [("0 steps", actor), ("90 steps", actor)]


def test_many_long_episodes_are_thinned_more():
    five = play("Dots-v0", [lambda obs: 1] * 5, max_steps=500)
    assert all(len(episode.shown) <= 251 for episode in five.tracks)
    assert [step for step, _ in five.tracks[0].shown[:3]] == [0, 2, 4]
    assert five.tracks[0].shown[-1][0] == five.tracks[0].length == 500


def test_pictures_of_several_agents(tmp_path):
    both = play("CartPole-v1", {"lean": lambda obs: 0, "balance": balance}, seed=0, max_steps=20)
    one = Image.open(both["lean"].save(tmp_path / "one.png"))
    two = Image.open(both.save(tmp_path / "two.png"))
    assert two.size == (one.width, 2 * one.height)
    film = Image.open(both.save(tmp_path / "both.gif"))
    single = Image.open(both["balance"].save(tmp_path / "single.gif"))
    assert film.width == pytest.approx(2 * single.width, rel=0.03)
    assert both.save(tmp_path / "both.html").stat().st_size < 100_000


@pytest.mark.parametrize(
    ("actor", "critic", "error", "match"),
    [
        ([], None, ValueError, "actor is empty"),
        ([("a", balance), ("a", balance)], None, ValueError, "two have the same name"),
        ("balance", None, TypeError, "actor is a str"),
        ([balance, 3], None, TypeError, "actor is a int"),
        (
            {"a": balance},
            {"b": balance},
            ValueError,
            r"critic has \['b'\].*one for each of \['a'\]",
        ),
        ([balance, balance], [balance], ValueError, "critic has.*one critic for all"),
        ({"a": balance}, {"a": 3}, TypeError, "critic is 3"),
        ({"a": balance}, {}, ValueError, "critic is empty"),
        ({1: balance, "1": balance}, None, ValueError, "two have the same name"),
    ],
)
def test_several_agents_that_do_not_fit(actor, critic, error, match):
    with pytest.raises(error, match=match):
        play("CartPole-v1", actor, critic=critic)


# --- critics of every kind --------------------------------------------------------------------


class QNetwork(nn.Module):
    """Q(s, .) of three actions, 1 .. 3: the step, and 10 more for the action that is its turn."""

    def forward(self, obs):
        turn = nn.functional.one_hot(obs[:, 0].long() % 3, 3)
        return obs[:, :1] + 10.0 * turn

    def act(self, obs):
        return self(obs).argmax(-1) + 1


def test_a_q_network_as_actor_or_critic():
    for episode in (
        play("Dots-v0", QNetwork(), max_steps=4),
        play("Dots-v0", QNetwork(), critic=nn.DataParallel(QNetwork()), max_steps=4),
        play("Dots-v0", lambda obs: int(obs[0]) % 3 + 1, critic=QNetwork(), max_steps=4),
    ):
        assert episode.actions.tolist() == [1, 2, 3, 1]
        assert episode.q_values.tolist() == [[10, 0, 0], [1, 11, 1], [2, 2, 12], [13, 3, 3]]
        assert episode.action_values.tolist() == [10, 11, 12, 13]
        assert episode.values is None
        track = track_of(episode)
        assert track["q"][1] == [1, 11, 1]
        assert track["charts"][0]["label"] == "Q(s, a)"


def test_a_critic_of_state_and_action_gets_the_policys_units():
    class Critic(nn.Module):
        def forward(self, obs, action):
            assert obs.shape == (1, 3)
            assert action.shape == (1, 1)
            return action[:, 0]

    episode = play("Pendulum-v1", lambda obs: [1.0], critic=Critic(), max_steps=3)
    assert episode.action_values.tolist() == [0.5] * 3  # torques within [-2, 2]


def test_a_critic_of_another_shape_is_named():
    with pytest.raises(PlayError, match=r"critic gives \(1, 1\).*squeeze"):
        play("CartPole-v1", balance, critic=lambda obs: obs[:, :1])


def test_discounted_returns_and_advantages():
    values = {0: 5.0, 1: 4.0, 2: 3.0}  # of steps 0, 1, 2; rewards are 0.5
    critic = lambda obs: torch.tensor([values[int(obs[0, 0])]])  # noqa: E731
    cut = play("Dots-v0", lambda obs: 1, critic=critic, max_steps=2, gamma=0.9)
    np.testing.assert_allclose(cut.discounted, [0.5 + 0.9 * (0.5 + 0.9 * 3), 0.5 + 0.9 * 3])
    np.testing.assert_allclose(cut.advantages, [0.5 + 0.9 * 4 - 5, 0.5 + 0.9 * 3 - 4])
    cut.terminated = True  # then nothing comes after it
    np.testing.assert_allclose(cut.discounted, [0.5 + 0.9 * 0.5, 0.5])
    np.testing.assert_allclose(cut.advantages, [0.5 + 0.9 * 4 - 5, 0.5 - 4])
    assert play("Dots-v0", lambda obs: 1, max_steps=2).advantages is None
    labels = [chart["label"] for chart in track_of(cut)["charts"]]
    assert labels == ["Value V(s)", "Advantage: r + γ V(s') − V(s)"]


def test_an_actor_is_no_critic(cartpole):
    env, actor, _ = cartpole
    with pytest.raises(TypeError, match="critic is a CategoricalActor, an actor"):
        play(env, actor, critic=actor)


# --- odd things that must not break it --------------------------------------------------------


def test_episodes_can_be_compared_hashed_copied_and_pickled(page, cartpole):
    env, actor, _ = cartpole
    episode = play(env, {"a": actor, "b": balance}, seed=0, max_steps=3)
    assert episode == episode
    assert len({episode, copy.deepcopy(episode)}) == 2
    again = pickle.loads(pickle.dumps(episode))
    np.testing.assert_array_equal(again["a"].obs, episode["a"].obs)
    assert again.again is None


def test_names_and_titles_may_hold_anything(cartpole):
    env, actor, _ = cartpole
    names = ["<!--<script>", "</script>", "__DATA__", "__STRIP__", 'a"b<b>', "é 🙂\n"]
    data = data_of(play(env, dict.fromkeys(names, actor), max_steps=2))
    assert [track["name"] for track in data["tracks"]] == names


def test_networks_that_say_nan_and_inf():
    class Broken(nn.Module):
        def forward(self, obs):
            return torch.tensor([[torch.nan, torch.inf, -torch.inf]])

        def act(self, obs):
            return torch.tensor([1])

    track = track_of(play("Dots-v0", Broken(), critic=lambda obs: torch.tensor([torch.nan])))
    assert track["q"][0] == [None, None, None]
    assert track["value"][0] is None


def test_a_function_that_refills_its_array():
    many = gym.make("Dots-v0", actions=gym.spaces.MultiDiscrete([9, 9]))
    action = np.zeros(2, np.int64)

    def refill(obs):
        action[:] = obs.astype(int)
        return action

    assert play(many, refill, max_steps=3).actions.tolist() == [[0, 0], [1, 1], [2, 2]]


@pytest.mark.parametrize("picture", [None, [[0.5]], np.zeros((2, 2, 3)), np.zeros((0, 2, 3), "u1")])
def test_what_is_no_picture(picture, monkeypatch):
    monkeypatch.setattr(Dots, "render", lambda self: picture)
    with pytest.raises(PlayError, match=r"env\.render\(\) gave .*expected a picture"):
        play("Dots-v0", lambda obs: 1)


@pytest.mark.parametrize("fps", [None, 0, -5, float("nan"), "fast"])
def test_a_rate_that_is_none_is_thirty(fps, monkeypatch):
    monkeypatch.setitem(Dots.metadata, "render_fps", fps)
    env = gym.make("Dots-v0", disable_env_checker=True)  # which would not have some of them
    assert play(env, lambda obs: 1, max_steps=2).fps == 30


def test_threads_that_share_a_network_leave_its_mode(cartpole):
    env, actor, _ = cartpole
    actor.train()
    workers = [threading.Thread(target=play, args=(env, actor)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(module.training for module in actor.modules())


def test_threads_draw_one_after_another_and_none_sees_a_screen(monkeypatch):
    for name in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
        monkeypatch.delenv(name, raising=False)
    inside, seen = [], []

    def draw():
        with player_module._without_screen():
            inside.append(1)
            time.sleep(0.01)  # long enough to meet the others, if they may come in
            seen.append((len(inside), os.environ.get("SDL_VIDEODRIVER")))
            inside.pop()

    workers = [threading.Thread(target=draw) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert seen == [(1, "dummy")] * 8
    assert "SDL_VIDEODRIVER" not in os.environ


def test_many_agents_have_a_small_strip_and_a_film_of_one_after_another(tmp_path):
    many = play("Dots-v0", [lambda obs: 1] * 9, max_steps=4)
    strip = Image.open(many.save(tmp_path / "many.PNG"))
    one = Image.open(many.tracks[0].save(tmp_path / "one.png"))
    assert strip.height <= 6 * one.height
    film = Image.open(many.save(tmp_path / "many.gif"))
    single = Image.open(many.tracks[0].save(tmp_path / "one.gif"))
    assert film.size == single.size
    assert film.n_frames >= 9  # equal pictures after one another are one


# --- in a notebook ----------------------------------------------------------------------------


@pytest.fixture
def page(monkeypatch):
    """What a running notebook would show: (bundle, keywords) for each display."""
    shown = []
    monkeypatch.setattr(frontend, "is_live", lambda: True)
    for module in (episode_module, player_module):
        monkeypatch.setattr(module, "display", lambda *a, **k: shown.append((a[0], k)))

    class Handle:
        def display(self, bundle, raw):
            shown.append((bundle, {"handle": self}))

        def update(self, bundle, raw):
            shown.append((bundle, {"update": self}))

    monkeypatch.setattr(episode_module, "DisplayHandle", Handle)
    monkeypatch.setattr(frontend, "show_widget", lambda widget, text: shown.append((widget, text)))
    return shown


def press(shown):
    (button,) = [each.children[0] for each, _ in shown if hasattr(each, "children")]
    button.click()
    return button


def test_new_episode_plays_another_with_the_agent_as_it_was(page, cartpole):
    env, actor, critic = cartpole
    episode = play(env, actor, critic=critic, seed=1, max_steps=6)
    with torch.no_grad():
        actor.head.weight.fill_(torch.nan)  # training goes on, and wrong
    episode._ipython_display_()
    (first, about), (box, text) = page
    assert set(first) == {"text/html", "image/png", "text/plain"}
    assert "run the cell" in text
    button = press(page)
    (second, update) = page[-1]
    assert update["update"] is about["handle"]
    assert second["text/html"] != first["text/html"]
    assert not button.disabled
    assert button.description == "New episode"
    before = torch.get_rng_state()
    worker = threading.Thread(target=button.click)  # as some kernels do
    worker.start()
    worker.join()
    assert len(page) == 4
    assert torch.equal(torch.get_rng_state(), before)


def test_new_episode_of_several_agents(page, cartpole):
    env, actor, _ = cartpole
    play(env, {"a": actor, "b": balance}, max_steps=3)._ipython_display_()
    press(page)
    assert page[-1][0]["text/plain"].startswith("<Episodes CartPole-v1: a: ")


def test_new_episode_that_fails_says_so(page):
    calls = iter([1, 1, 9])
    play("Dots-v0", lambda obs: next(calls), max_steps=2)._ipython_display_()
    button = press(page)
    box = page[1][0]
    assert "actor chose 9" in box.children[1].value
    assert not button.disabled


def test_a_second_press_meanwhile_is_dropped(page):
    inner = []

    def nosy(obs):
        if inner:
            inner.pop().click()
        return 1

    play("Dots-v0", nosy, max_steps=2)._ipython_display_()
    box = page[1][0]
    inner.append(box.children[0])
    box.children[0].click()
    assert len(page) == 3  # the player, its button, one update


def test_without_a_live_page_there_is_no_button(monkeypatch, balanced):
    shown = []
    monkeypatch.setattr(episode_module, "display", lambda bundle, raw: shown.append(bundle))
    balanced._ipython_display_()
    (bundle,) = shown
    assert "text/html" in bundle


def test_what_was_recorded_before_an_error_is_shown(page):
    env = gym.make("Dots-v0", fails_at=3)
    with pytest.raises(PlayError, match=r"step 3.*the dots ran out") as caught:
        play(env, lambda obs: 1, critic=lambda obs: obs[:, 0])
    ((shown, _),) = page
    assert shown is caught.value.episode
    assert shown.length == 3
    assert shown.values.tolist() == [0, 1, 2, 3]
    assert shown.ending == "failed: ZeroDivisionError: the dots ran out"
    assert track_of(shown)["ending"] == "Failed: ZeroDivisionError: the dots ran out"


def test_an_error_of_the_picture_or_the_critic_leaves_what_came_before(monkeypatch):
    frames = iter(range(3))
    render = Dots.render
    monkeypatch.setattr(Dots, "render", lambda self: (next(frames), render(self))[1])
    with pytest.raises(PlayError, match="step 3: StopIteration") as caught:
        play("Dots-v0", lambda obs: 1)
    assert caught.value.episode.length == 2
    monkeypatch.undo()

    def critic(obs):
        return torch.tensor([1 / (2 - obs[0, 0].item())])

    with pytest.raises(PlayError, match="step 2: ZeroDivisionError") as caught:
        play("Dots-v0", lambda obs: 1, critic=critic)
    episode = caught.value.episode
    assert episode.values.tolist()[:2] == [0.5, 1.0]
    assert np.isnan(episode.values[2])
    assert track_of(episode)["value"] == [0.5, 1.0, None]


def test_an_error_at_the_start_has_nothing_to_show(page):
    with pytest.raises(PlayError, match="step 0") as caught:
        play("Dots-v0", lambda obs: 9)
    assert caught.value.episode is None
    assert page == []


def test_seeds_nobody_gave_come_from_metis_nb_seed():
    metis_nb.seed(7)
    first = [play("Dots-v0", lambda obs: 1, max_steps=1).seed for _ in range(2)]
    metis_nb.seed(7)
    assert [play("Dots-v0", lambda obs: 1, max_steps=1).seed for _ in range(2)] == first
    assert first[0] != first[1]


# --- what it leaves alone ---------------------------------------------------------------------


def test_the_callers_things_are_left_alone(cartpole):
    env, actor, critic = cartpole
    env.reset(seed=5)
    actor.train()
    actor.body.eval()
    critic.eval()
    weights = {name: value.clone() for name, value in actor.state_dict().items()}

    def state():
        return (
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),
            random.getstate(),
            env.unwrapped.np_random.bit_generator.state,
            env.action_space.np_random.bit_generator.state,
            env.unwrapped.state.tolist(),
            [module.training for module in (*actor.modules(), *critic.modules())],
        )

    before = state()
    play(env, actor, critic=critic, deterministic=False)
    assert state() == before
    assert env.render_mode is None
    for name, value in actor.state_dict().items():
        assert torch.equal(value, weights[name])
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_dropout_is_off_while_playing():
    env = gym.make("CartPole-v1")
    body = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.9))
    actor = agents.actor(env, body=body)
    with torch.no_grad():
        actor.head.weight.normal_()
    first, again = (play(env, actor, seed=0).probabilities for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert body.training


@pytest.mark.parametrize(
    "make",
    [
        lambda: gym.make("CartPole-v1", render_mode="rgb_array"),
        lambda: gym.make("CartPole-v1", render_mode="human"),
        lambda: gym.make("CartPole-v1", render_mode="rgb_array_list"),
        lambda: gym.make_vec("CartPole-v1", num_envs=2),
        lambda: gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync"),
        lambda: gym.vector.SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2),
        lambda: gym.wrappers.vector.RecordEpisodeStatistics(gym.make_vec("CartPole-v1", 2)),
    ],
)
def test_every_kind_of_environment(make):
    env = make()
    episode = play(env, balance, seed=0, max_steps=2)
    assert episode.env_id == "CartPole-v1"
    assert episode.length == 2
    env.close()


def test_arguments_and_wrappers_of_the_environment_are_kept():
    env = gym.make("CartPole-v1", max_episode_steps=4, sutton_barto_reward=True)
    episode = play(gym.wrappers.TransformReward(env, _double), balance, seed=0)
    assert episode.rewards.tolist() == [0.0] * 4
    many = gym.make_vec("Pendulum-v1", num_envs=2, wrappers=[gym.wrappers.FlattenObservation], g=0)
    assert play(many, lambda obs: [0.0], seed=0, max_steps=3).length == 3
    short = gym.make_vec("CartPole-v1", num_envs=2, max_episode_steps=6)
    assert play(short, balance, seed=0).length == 6


def _double(reward):
    return 2 * reward


# --- what it refuses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "error", "match"),
    [
        (3, TypeError, "env is 3, which is no environment.*gymnasium.make"),
        ("NoSuchTask-v0", ValueError, "env is NoSuchTask-v0.*NoSuchTask"),
        ("Blind-v0", ValueError, "env is Blind-v0, which draws no pictures.*rgb_array"),
        (Dots(), ValueError, "draws no pictures.*Make it with render_mode"),
        (
            gym.wrappers.vector.TransformReward(gym.make_vec("CartPole-v1", 2), _double),
            ValueError,
            "(?s)TransformReward changes a whole batch.*make_vec",
        ),
    ],
)
def test_environments_that_cannot_be_shown(env, error, match):
    with pytest.raises(error, match=match):
        play(env, balance)


def test_a_wrapper_of_ones_own():
    class Mine(gym.RewardWrapper):
        def reward(self, reward):
            return 3 * float(reward)

    env = Mine(gym.make("CartPole-v1", max_episode_steps=4))
    assert play(env, balance, seed=0).rewards.tolist() == [3.0] * 4
    many = gym.vector.SyncVectorEnv([lambda: Mine(gym.make("CartPole-v1", max_episode_steps=4))])
    assert play(many, balance, seed=0).rewards.tolist() == [3.0] * 4


def test_actors_that_cannot_act(cartpole):
    _, _, critic = cartpole
    with pytest.raises(TypeError, match=r"actor is a Critic, which has no act.*agents\.actor"):
        play("CartPole-v1", critic)
    with pytest.raises(TypeError, match="actor is a int"):
        play("CartPole-v1", 3)
    with pytest.raises(TypeError, match=r"critic is 3.*agents\.critic"):
        play("CartPole-v1", balance, critic=3)

    class OnlyActs(nn.Module):
        def act(self, obs):
            return torch.zeros(1)

    with pytest.raises(TypeError, match=r"deterministic=False.*OnlyActs.*deterministic=True"):
        play("CartPole-v1", OnlyActs(), deterministic=False)


@pytest.mark.parametrize(
    ("env_id", "action", "match"),
    [
        ("CartPole-v1", 2, r"step 0.*actor chose 2.*Discrete\(2\)"),
        ("CartPole-v1", 0.5, "step 0.*actor chose"),
        ("CartPole-v1", None, "step 0.*actor chose"),
        ("Pendulum-v1", 0.5, r"step 0.*actor chose.*Box\(-2\.0, 2\.0, \(1,\)"),
        ("Pendulum-v1", [np.nan], "step 0.*actor chose.*nan"),
        ("Pendulum-v1", ["left"], "step 0"),
    ],
)
def test_actions_outside_the_space(env_id, action, match):
    with pytest.raises(PlayError, match=match):
        play(env_id, lambda obs: action)


def test_an_error_in_the_middle_names_the_step():
    env = gym.make("Dots-v0", fails_at=3)
    with pytest.raises(PlayError, match=r"step 3.*Error: the dots ran out") as caught:
        play(env, lambda obs: 1)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"max_steps": 0}, "max_steps is 0; it must be at least 1"),
        ({"seed": -1}, "seed is -1; it must be 0 or more"),
        ({"gamma": 1.5}, "gamma is 1.5; it must be from 0 to 1"),
    ],
)
def test_numbers_out_of_range(arguments, match):
    with pytest.raises(ValueError, match=match):
        play("CartPole-v1", balance, **arguments)


@pytest.mark.parametrize("given", [{}, {"SDL_AUDIODRIVER": "disk"}])
def test_pygame_needs_no_screen_and_the_readers_own_windows_stay(monkeypatch, given):
    seen = []

    class Watched(gym.Wrapper):
        def render(self):
            seen.append((os.environ["SDL_VIDEODRIVER"], os.environ["SDL_AUDIODRIVER"]))
            return super().render()

    for name in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    make = player_module._rendering_copy
    monkeypatch.setattr(player_module, "_rendering_copy", lambda env: Watched(make(env)))
    before = dict(os.environ)
    play("CartPole-v1", lambda obs: 0, max_steps=2)
    assert seen[0] == ("dummy", given.get("SDL_AUDIODRIVER", "dummy"))
    assert dict(os.environ) == before


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_squashed_actor_shows_where_it_is_and_how_wide(deterministic):
    env = gym.make("Pendulum-v1")
    actor, critic = agents.actor(env, squashed=True), agents.q_critic(env)
    episode = play(env, actor, critic=critic, max_steps=5, deterministic=deterministic, seed=0)
    pi = agents.policy(actor, torch.from_numpy(episode.obs[:-1]))
    middle = 2 * pi.sample((20_000,)).abs().quantile(0.683, 0)  # its mean is all but 0, at first
    assert np.allclose(episode.mean, 2 * pi.mode.detach(), atol=1e-5)
    assert np.allclose(episode.std, middle, atol=0.05)
    assert (abs(episode.mean) <= 2).all()
    assert episode.action_values.shape == (5,)
