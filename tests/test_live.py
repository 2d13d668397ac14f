"""The training view: what it shows, when it draws, what it leaves behind; and snapshots."""

import base64
import io
import math
import re
import signal
import types
import xml.etree.ElementTree as ElementTree

import gymnasium as gym
import IPython
import ipywidgets
import nbformat
import numpy as np
import pytest
import torch
from ipywidgets.widgets import widget_output
from nbclient import NotebookClient
from PIL import Image

import metis_nb
from metis_nb import PPO, agents, callbacks, envs
from metis_nb.learning import History
from metis_nb.notebook import frontend, live, training_view


def small(env=None, **kwargs):
    env = env or gym.make("CartPole-v1")
    metis_nb.seed(0)
    return PPO(env, rollout_steps=128, seed=0, **kwargs), agents.actor(env), agents.critic(env)


class Page:
    """A notebook's page: the outputs of a cell, and everything that was ever sent to it."""

    def __init__(self):
        self.outputs, self.sent = [], []

    def display(self, bundle, raw=False, display_id=None):
        assert raw
        self.sent.append(bundle)
        self.outputs.append(bundle)
        return Handle(self, len(self.outputs) - 1) if display_id else None

    @property
    def pictures(self):
        """Of the training under way, in order."""
        return [b for b in self.sent if "<svg" in b.get("text/html", "")]


class Handle:
    def __init__(self, page, index):
        self.page, self.index = page, index

    def update(self, bundle, raw=False):
        assert raw
        self.page.sent.append(bundle)
        self.page.outputs[self.index] = bundle


class Clock:
    """Time that passes only where somebody says so."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def page(monkeypatch):
    """As in a notebook that somebody looks at."""
    page = Page()
    monkeypatch.delenv("METIS_NB_STATIC", raising=False)
    kernel = types.SimpleNamespace(kernel=object())
    monkeypatch.setattr(IPython, "get_ipython", lambda: kernel)
    monkeypatch.setattr(frontend, "is_live", lambda: not frontend.is_static())
    monkeypatch.setattr(training_view, "display", page.display)
    return page


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(training_view, "time", clock)
    return clock


def kinds(page):
    return [set(bundle) for bundle in page.outputs]


# --- when it is there ---------------------------------------------------------------------------


def test_a_notebook_shows_the_view_by_itself_and_no_bar(page, capsys):
    trainer, actor, critic = small()
    trainer.train(actor, critic, steps=300)
    assert page.pictures
    assert kinds(page)[-1] == {"image/png", "text/plain"}
    assert sum("image/png" in bundle for bundle in page.sent) == 1
    assert capsys.readouterr().out == ""


def test_in_an_output_widget_there_is_a_plain_bar(page, monkeypatch):
    """What is displayed there cannot be updated: the picture froze, and the button was dead."""
    parent = {"header": {"msg_id": "7"}}
    kernel = types.SimpleNamespace(get_parent=lambda: parent, _parent_header=parent)
    shell = types.SimpleNamespace(kernel=kernel, showtraceback=print)
    monkeypatch.setattr(widget_output, "get_ipython", lambda: shell)
    trainer, actor, critic = small()
    bars = []
    output = ipywidgets.Output()
    for _ in range(2):
        with output:
            assert frontend.in_output_widget()
            trainer.train(
                actor, critic, 300, callbacks=lambda trainer: bars.append(trainer.run._bar.disable)
            )
    assert bars
    assert not any(bars)
    assert not page.sent
    assert not frontend.in_output_widget()
    trainer.train(actor, critic, 300)
    assert page.pictures


def test_a_view_that_is_given_is_the_only_one(page):
    trainer, actor, critic = small()
    given = [lambda trainer: None, callbacks.live_plot(solved=123)]
    trainer.train(actor, critic, steps=300, callbacks=given)
    assert sum("image/png" in bundle for bundle in page.outputs) == 1
    assert all("solved: 123" in picture["text/html"] for picture in page.pictures)
    assert len(given) == 2


def test_without_progress_nothing_is_shown(page, capsys):
    trainer, actor, critic = small()
    trainer.train(actor, critic, steps=300, progress=False)
    assert not page.sent
    assert capsys.readouterr().out == ""


def test_outside_a_notebook_nothing_is_displayed(monkeypatch):
    monkeypatch.setattr(training_view, "display", lambda *_, **__: pytest.fail("displayed"))
    trainer, actor, critic = small()
    trainer.train(actor, critic, steps=128, callbacks=callbacks.live_plot())


def test_one_view_serves_several_trainings(page):
    trainer, actor, critic = small()
    view = callbacks.live_plot()
    trainer.train(actor, critic, steps=256, callbacks=view)
    trainer.train(actor, critic, steps=256, callbacks=view)
    assert ["image/png" in bundle for bundle in page.outputs].count(True) == 2
    assert "512 steps" in page.outputs[-1]["text/plain"]
    assert any("0 of 256 steps" in bundle["text/plain"] for bundle in page.pictures)


@pytest.mark.parametrize(
    ("make", "solved", "expected"),
    [
        (lambda: gym.make("CartPole-v1"), None, 475),
        (lambda: gym.make("Acrobot-v1"), None, -100),
        (lambda: envs.make("CartPole-v1", num_envs=2), None, 475),
        (lambda: gym.vector.SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2), None, 475),
        (lambda: gym.make("Pendulum-v1"), None, None),
        (lambda: gym.make("Pendulum-v1"), -250, -250),
        (lambda: gym.make("CartPole-v1"), 200, 200),
        (lambda: gym.make("CartPole-v1"), 0, 0),
        (lambda: gym.make("CartPole-v1"), False, None),
    ],
)
def test_the_solved_line_is_the_environments_unless_told(page, make, solved, expected):
    trainer, actor, critic = small(make())
    trainer.train(actor, critic, steps=16, callbacks=callbacks.live_plot(solved=solved))
    html = page.pictures[0]["text/html"]
    if expected is None:
        assert "solved" not in without_style(html)
    else:
        assert f"solved: {expected}<" in html
        assert f"solved at {expected};" in page.pictures[0]["text/plain"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (dict(share=0), "share=0"),
        (dict(share=1), "share=1"),
        (dict(share="much"), "share='much'"),
        (dict(solved=True), "solved=True"),
        (dict(solved="475"), "solved='475'"),
        (dict(solved=math.nan), "solved=nan"),
    ],
)
def test_bad_arguments_of_live_plot_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        callbacks.live_plot(**arguments)


# --- how often it draws -------------------------------------------------------------------------


def updates(clock, monkeypatch, page, cost, share, update=0.01, count=2000):
    """How many pictures `count` updates of `update` seconds bring, where each takes `cost`."""
    drawn = live.picture

    def slow(*args):
        clock.now += cost
        return drawn(*args)

    monkeypatch.setattr(live, "picture", slow)
    trainer, actor, critic = small()
    trainer.train(actor, critic, steps=128, progress=False)
    view = callbacks.live_plot(share=share)
    view.open(trainer)
    for _ in range(count):
        clock.now += update
        view(trainer)
    return len(page.pictures)


def test_four_pictures_a_second_at_most(clock, monkeypatch, page):
    assert updates(clock, monkeypatch, page, cost=0.0, share=0.5) in range(70, 82)  # in 20 s


def test_drawing_keeps_to_its_share(clock, monkeypatch, page):
    number = updates(clock, monkeypatch, page, cost=0.1, share=0.02)
    assert 0.1 * number <= 0.02 * (clock.now - 100) + 0.1
    assert number >= 4


# --- what it shows ------------------------------------------------------------------------------


def without_style(html):
    return re.sub(r"<style>.*?</style>", "", html, flags=re.S)


class Learner:
    """A trainer that has already come to some history."""

    def __init__(self, returns, rows, healthy, goal=80_000):
        history = History(rows)
        history.episodes.extend((50 * (i + 1), r, 50) for i, r in enumerate(returns))
        env = gym.make("CartPole-v1")
        self.run = PPO(env).run
        self.run.history, self.history, self.healthy_ranges = history, history, healthy
        self.run.goal = goal

    def picture(self, solved=475.0):
        bundle = live.picture(self, solved, 12.0)
        return ElementTree.fromstring(bundle["text/html"]), bundle


def rows(values, name="kl"):
    return [{"steps": 2048 * (i + 1), "return": 1.0, name: v} for i, v in enumerate(values)]


HISTORIES = {
    "empty": ([], []),
    "one": ([20.0], [0.01]),
    "constant": ([500.0] * 100, [0.01] * 30),
    "long": (list(np.linspace(10, 500, 50_000)), list(np.linspace(0, 0.02, 3000))),
    "wild": ([1e30, -1e30, 5.0] * 9, [1e9, -1e9, 0.01] * 9),
    "nan": ([20.0] * 30, [math.nan, 0.01, math.nan, math.nan, 0.02]),
    "only nan": ([], [math.nan] * 5),
    "infinite": ([math.inf, 1.0, -math.inf], [math.inf, -math.inf, 0.01]),
    "tiny": ([1e-9, 2e-9], [1e-12, 2e-12]),
}


@pytest.mark.parametrize("case", HISTORIES)
@pytest.mark.parametrize("solved", [475.0, None])
def test_every_history_gives_a_picture_whose_points_are_inside(case, solved):
    returns, values = HISTORIES[case]
    learner = Learner(returns, rows(values), {"kl": (0.0, 0.03)})
    root, bundle = learner.picture(solved)
    panels = root.findall(".//svg")
    assert len(panels) == 2
    for panel, size in zip(panels, (live.WIDE, live.NARROW)):
        for path in panel.findall("path"):
            numbers = re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path.get("d"))
            assert len(numbers) <= 2 * live.MOST_POINTS
            for x, y in numbers:
                assert live.LEFT <= float(x) <= size - live.RIGHT
                assert live.TOP <= float(y) <= live.HEIGHT - live.BOTTOM
    assert "nan" not in without_style(bundle["text/html"]).replace("nan ", "")
    assert "inf" not in without_style(bundle["text/html"])
    assert len(bundle["text/html"]) < 40_000


def test_points_lie_where_their_numbers_are():
    learner = Learner([0.0, 100.0], rows([0.0, 0.03]), {"kl": (0.0, 0.03)}, goal=4096)
    root, _ = learner.picture(solved=None)
    returns, kl = root.findall(".//svg")
    dots = re.findall(r"M([\d.]+) ([\d.]+)h0", returns.find("path[@class='dots']").get("d"))
    assert len(dots) == 2
    assert float(dots[0][0]) < float(dots[1][0])
    assert float(dots[0][1]) > float(dots[1][1])  # down is more
    band = kl.find("rect[@class='band']")
    line = re.findall(r"[ML]([\d.]+) ([\d.]+)", kl.find("path[@class='line']").get("d"))
    top, bottom = float(band.get("y")), float(band.get("y")) + float(band.get("height"))
    assert float(line[0][1]) == pytest.approx(bottom, abs=0.11)  # kl 0: the band's lower end
    assert float(line[1][1]) == pytest.approx(top, abs=0.11)


def test_a_line_has_gaps_where_there_are_no_numbers():
    learner = Learner([], rows([0.01, math.nan, 0.02, 0.02]), {"kl": (0.0, 0.03)})
    root, _ = learner.picture()
    path = root.findall(".//svg")[1].find("path[@class='line']").get("d")
    assert re.sub(r"[^MLh]", "", path) == "MhMhL"


@pytest.mark.parametrize(
    ("value", "where"), [(0.01, "healthy"), (0.2, "high"), (-0.1, "low"), (math.nan, "")]
)
def test_a_diagnostic_says_where_it_lies(value, where):
    root, bundle = Learner([], rows([value]), {"kl": (0.0, 0.03)}).picture()
    panel = root.findall(".//svg")[1]
    assert panel.get("class") == where
    assert "".join(panel.findall("text")[1].itertext()) == f"{live.number(value)} {where}"
    assert f"kl {live.number(value)} {where}".strip() in bundle["text/plain"]


def test_a_diagnostic_that_nobody_logged_is_an_empty_panel():
    root, _ = Learner([1.0], rows([0.01]), {"kl": (0.0, 0.03), "never": (0.0, 1.0)}).picture()
    assert root.findall(".//svg")[2].find("path[@class='line']").get("d") == ""


def test_words_hold_what_the_picture_shows():
    learner = Learner([100.0] * 30, rows([0.01] * 10), {"kl": (0.0, 0.03)})
    root, bundle = learner.picture()
    assert root.get("role") == "img"
    assert root.get("aria-label") == bundle["text/plain"]
    for part in (
        "Learner on CartPole-v1",
        "80,000 steps",
        "0:12 elapsed",
        "solved at 475",
        "kl 0.01",
    ):
        assert part in bundle["text/plain"]


def test_names_cannot_break_out_of_the_page():
    name = '<b>"&'
    root, bundle = Learner([1.0], rows([0.01], name), {name: (0.0, 0.03)}).picture()
    assert root.findall(".//svg")[1].find("text").text == name
    assert name in bundle["text/plain"]


def test_every_picture_has_the_same_structure():
    def structure(element):
        return element.tag, element.get("class"), [structure(child) for child in element]

    def frame(learner):
        root, _ = learner.picture()
        for panel in root.findall(".//svg"):
            panel[:] = []  # marks and ticks differ
            panel.set("class", "")
        return structure(root)

    healthy_ranges = {"kl": (0.0, 0.03)}
    empty, full = (
        Learner([], [], healthy_ranges),
        Learner([9.0] * 99, rows([0.01] * 30), healthy_ranges),
    )
    assert frame(empty) == frame(full)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-500, 12), (0, 0.03), (1e-7, 3e-7), (-1600, 0), (0, 2e6), (0, 5e12)]
)
def test_ticks_are_few_round_and_apart(low, high):
    found = live.ticks(low, high, 4)
    values, labels = zip(*found)
    assert 2 <= len(found) <= 6
    assert low <= values[0] + 1e-9 * high
    assert values[-1] <= high * (1 + 1e-9)
    assert len(set(labels)) == len(labels)
    assert max(map(len, labels)) <= 6


def test_numbers_and_times_are_short():
    assert [live.number(x) for x in (487.23, -1234.5, 0.0123, 0.5, 2e7, math.nan, math.inf)] == [
        "487.2",
        "−1,234",
        "0.0123",
        "0.50",
        "2.0e+07",
        "–",
        "∞",
    ]
    assert [live.clock(x) for x in (7, 750, 3900)] == ["0:07", "12:30", "1:05:00"]


@pytest.mark.parametrize("length", [0, 1, 299, 300, 301, 12_345])
def test_thinning_keeps_the_last(length):
    shown = live.thinned(length)
    assert len(shown) <= live.MOST_POINTS + 1
    assert not length or (shown[0], shown[-1]) == (0, length - 1)


def test_the_axis_of_steps_ends_at_the_goal_or_at_half_of_it():
    ends = [live.axis_end(steps, 80_000) for steps in (0, 11_000, 30_000, 41_000, 80_000, 81_920)]
    assert ends == [10_000, 20_000, 40_000, 80_000, 80_000, 81_920]
    assert live.axis_end(5_000, 3_000_000) < 12_000  # also early in a long training, one sees it


# --- what it leaves behind ----------------------------------------------------------------------


def test_the_last_output_is_one_png_and_a_summary(page):
    trainer, actor, critic = small()
    trainer.train(actor, critic, steps=300)
    bundle = page.outputs[-1]
    image = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert image.format == "PNG"
    assert image.width > 800
    mean = np.mean([episode[1] for episode in trainer.history.episodes[-20:]])
    assert bundle["text/plain"] == (
        f"PPO on CartPole-v1: 384 steps, {len(trainer.history.episodes)} episodes, "
        f"return {live.number(mean)} (mean of the last {min(20, len(trainer.history.episodes))})"
    )
    assert not any("text/html" in output for output in page.outputs)


def test_static_pages_get_the_last_picture_alone_and_the_same_bytes(page, monkeypatch):
    monkeypatch.setenv("METIS_NB_STATIC", "1")
    for _ in range(2):
        trainer, actor, critic = small()
        trainer.train(actor, critic, steps=300)
    assert len(page.sent) == 2
    assert page.sent[0] == page.sent[1]
    assert set(page.sent[0]) == {"image/png", "text/plain"}


def test_a_training_that_fails_is_drawn_and_fails(page):
    trainer, actor, critic = small()

    def fail(trainer):
        if trainer.run.steps > 200:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        trainer.train(actor, critic, steps=3000, callbacks=fail)
    assert "image/png" in page.outputs[-1]
    assert "256 steps" in page.outputs[-1]["text/plain"]


def test_a_training_that_fails_at_once_leaves_no_picture_of_nothing(page):
    trainer, actor, critic = small()
    trainer.collect = lambda actor: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.train(actor, critic, steps=3000)
    assert page.outputs[-1] == {"text/plain": "PPO on CartPole-v1: 0 steps, 0 episodes"}


# --- the stop button ----------------------------------------------------------------------------


def test_the_button_is_apart_and_goes_at_the_end(page, monkeypatch):
    monkeypatch.delenv("METIS_NB_TEST", raising=False)
    trainer, actor, critic = small()
    trainer.train(actor, critic, steps=300)
    assert "<button" in page.sent[0]["text/html"]
    assert kinds(page) == [{"text/plain"}, {"image/png", "text/plain"}]
    assert page.outputs[0]["text/plain"].startswith("384 steps in 0:")


def test_an_interrupt_is_answered_where_the_button_was(page, monkeypatch, capsys):
    monkeypatch.delenv("METIS_NB_TEST", raising=False)
    trainer, actor, critic = small()
    trainer.train(actor, critic, 3000, callbacks=lambda _: signal.raise_signal(signal.SIGINT))
    assert any("Interrupt again" in bundle["text/plain"] for bundle in page.sent)
    assert page.outputs[0]["text/plain"].endswith("; stopped by you.")
    assert trainer.run.steps == 128
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("variable", ["METIS_NB_TEST", "METIS_NB_STATIC"])
def test_there_is_no_button_where_nobody_could_press_it(page, monkeypatch, variable):
    monkeypatch.delenv("METIS_NB_TEST", raising=False)
    monkeypatch.setenv(variable, "1")
    trainer, actor, critic = small()
    trainer.train(actor, critic, steps=300)
    assert not any("<button" in bundle.get("text/html", "") for bundle in page.sent)
    assert len(page.outputs) == 1


def test_the_button_is_well_formed_labelled_and_each_has_an_id_of_its_own():
    one, two = (ElementTree.fromstring(live.stop_button()["text/html"]) for _ in range(2))
    assert one.get("id") != two.get("id")
    button = one.find("button")
    assert button.get("aria-label")
    assert button.get("hidden")  # until the page turns out to be a Jupyter Server's
    assert one.find("span").text


# --- a real kernel ------------------------------------------------------------------------------

CELL = """
import gymnasium as gym
from metis_nb import PPO, agents
env = gym.make("CartPole-v1")
trainer = PPO(env, rollout_steps=128, seed=0)
trainer.train(agents.actor(env), agents.critic(env), steps=600)
print("ended at", trainer.run.steps);
"""


def test_a_kernel_ends_with_one_picture_and_no_button(monkeypatch):
    monkeypatch.delenv("METIS_NB_STATIC", raising=False)
    monkeypatch.delenv("METIS_NB_TEST", raising=False)
    kernelspec = {"name": "python3", "display_name": "Python 3"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernelspec})
    notebook.cells = [nbformat.v4.new_code_cell(CELL)]
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = [o for o in notebook.cells[0].outputs if o.get("name") != "stderr"]
    summary, picture, said = outputs
    assert dict(summary.data).keys() == {"text/plain"}
    assert summary.data["text/plain"].startswith("640 steps in ")
    assert dict(picture.data).keys() == {"image/png", "text/plain"}
    assert "640 steps" in picture.data["text/plain"]
    assert said.text == "ended at 640\n"


# --- snapshots ----------------------------------------------------------------------------------


def test_snapshots_lie_evenly_from_the_start_to_the_end():
    trainer, actor, critic = small()
    before = {name: value.clone() for name, value in actor.state_dict().items()}
    kept = callbacks.snapshots(count=5)
    trainer.train(actor, critic, steps=1024, callbacks=kept)
    assert list(kept) == ["actor", "critic"]
    labels = [label for label, _ in kept["actor"]]
    assert labels == [
        "after 0 steps",
        "after 256 steps",
        "after 512 steps",
        "after 768 steps",
        "after 1,024 steps",
    ]
    assert labels == [label for label, _ in kept["critic"]]
    first, last = kept["actor"][0][1], kept["actor"][-1][1]
    assert all(torch.equal(value, before[name]) for name, value in first.state_dict().items())
    now = actor.state_dict()
    assert all(torch.equal(value, now[name]) for name, value in last.state_dict().items())
    assert "after 256 steps; after 512 steps" in repr(kept)


def test_snapshots_change_no_more_and_training_does_not_see_them():
    runs = []
    for given in ((), callbacks.snapshots()):
        trainer, actor, critic = small()
        trainer.train(actor, critic, steps=512, callbacks=given)
        runs.append(actor.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(runs[0].values(), runs[1].values()))
    last = given["actor"][-1][1]
    then = {name: value.clone() for name, value in last.state_dict().items()}
    trainer.train(actor, critic, steps=256)
    assert all(torch.equal(value, then[name]) for name, value in last.state_dict().items())
    assert actor.training
    assert not last.training
    assert not any(p.requires_grad for p in last.parameters())
    assert all(p.requires_grad for p in actor.parameters())


def test_snapshots_of_a_training_that_ends_early_have_its_end():
    trainer, actor, critic = small()
    kept = callbacks.snapshots(count=3)
    stop = lambda trainer: trainer.run.steps >= 256  # noqa: E731
    trainer.train(actor, critic, steps=100_000, callbacks=[kept, stop])
    assert [label for label, _ in kept["actor"]] == ["after 0 steps", "after 256 steps"]


def test_a_second_training_adds_its_snapshots():
    trainer, actor, critic = small()
    kept = callbacks.snapshots(count=2)
    trainer.train(actor, critic, steps=256, callbacks=kept)
    trainer.train(actor, critic, steps=256, callbacks=kept)
    assert [label for label, _ in kept["actor"]] == [
        "after 0 steps",
        "after 256 steps",
        "after 512 steps",
    ]


def test_updates_longer_than_the_distance_of_snapshots_give_one_each():
    trainer, actor, critic = small()
    kept = callbacks.snapshots(count=50)
    trainer.train(actor, critic, steps=300, callbacks=kept)
    labels = [label for label, _ in kept["actor"]]
    assert labels == ["after 0 steps", "after 128 steps", "after 256 steps", "after 384 steps"]


def test_snapshots_of_two_trainings_have_names_of_their_own():
    kept = callbacks.snapshots(count=2)
    for _ in range(2):
        trainer, actor, critic = small()
        trainer.train(actor, critic, steps=256, callbacks=kept)
    labels = [label for label, _ in kept["actor"]]
    assert labels[:2] == ["after 0 steps", "after 256 steps"]
    assert labels[2:] == ["training 2, after 0 steps", "training 2, after 256 steps"]


def test_snapshots_name_what_they_hold():
    kept = callbacks.snapshots()
    with pytest.raises(KeyError, match="none yet"):
        kept["actor"]
    assert repr(kept) == "<snapshots: none yet>"
    trainer, actor, critic = small()
    trainer.train(actor, critic, steps=128, callbacks=kept)
    with pytest.raises(KeyError, match=r"no snapshots of 'q'; there are actor, critic"):
        kept["q"]


@pytest.mark.parametrize("count", [1, 0, 2.5, "five"])
def test_bad_counts_of_snapshots_are_named(count):
    with pytest.raises(ValueError, match=f"count={count!r}"):
        callbacks.snapshots(count=count)
