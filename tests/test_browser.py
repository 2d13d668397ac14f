"""What readers see, in a browser: players on a page, notebooks in JupyterLab and as a web page.

They need `playwright` and a Chromium or Chrome, and are skipped where one is missing; or fail
there, if METIS_NB_REQUIRE_BROWSER is set. Pictures for the eye go to METIS_NB_SCREENSHOTS.
"""

import json
import re

import gymnasium as gym
import nbformat
import numpy as np
import pytest
import torch
from nbconvert import HTMLExporter

from metis_nb import agents, envs, play
from tests.browser import (
    LAPTOP,
    NARROW,
    ROOT,
    Lab,
    Notebook,
    Player,
    copy_untrusted,
    copy_without_outputs,
    launched,
    outside,
    pale,
    screenshot,
    watched,
    write_notebook,
)


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


# --- a player on a page of its own ------------------------------------------------------------


@pytest.fixture(scope="module")
def episodes():
    """One of each layout, by name."""
    torch.manual_seed(0)
    cartpole, pendulum = envs.make("CartPole-v1"), envs.make("Pendulum-v1")
    actor, critic = agents.actor(cartpole), agents.critic(cartpole)
    swing = agents.actor(pendulum)
    return {
        "discrete": play(cartpole, actor, critic=critic, seed=1, max_steps=7),
        "continuous": play(pendulum, swing, seed=1, max_steps=9, deterministic=False),
        "side": play(cartpole, {"before": actor, "after": lambda obs: int(obs[2] > 0)}, seed=1),
        "stages": play(cartpole, [("0 steps", actor), ("90,000 steps", actor)], seed=1),
    }


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["discrete", "continuous", "side", "stages"])
def test_the_saved_page_fits_every_screen(kind, scheme, width, browser, episodes, tmp_path):
    path = episodes[kind].save(tmp_path / "episode.html")
    viewport = {"width": width, "height": 900}
    with watched(browser, viewport=viewport, color_scheme=scheme) as page:
        page.goto(path.as_uri())
        player = Player(page)
        player.root.wait_for()
        screenshot(page, f"page-{kind}-{scheme}-{width}")
        assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
        assert outside(player.root) == []
        assert pale(player.root) == []
        player.press("End")
        screenshot(page, f"page-{kind}-{scheme}-{width}-end")
        assert outside(player.root) == []
        assert pale(player.root) == []


def test_what_the_player_shows_is_what_happened(browser, episodes, tmp_path):
    episode = episodes["discrete"]
    one, other = (episode._repr_mimebundle_()["text/html"] for _ in range(2))
    path = tmp_path / "page.html"
    path.write_text(f'<meta charset="utf-8">{one}{other}', encoding="utf-8")
    with watched(browser) as page:
        page.goto(path.as_uri())
        player, second = Player(page), Player(page, 1)
        player.part("next").click()
        player.press("ArrowRight")
        assert (player.step(), player.last_step()) == (2, 7)
        assert second.step() == 0
        assert f"action {episode.actions[2]}" in player.part("title").first.inner_text()
        shown = [float(text) for text in player.bars()]
        np.testing.assert_allclose(shown, episode.probabilities[2], atol=0.006)
        assert player.picture() == episode.frames[episode.shown[2][1]]
        player.part("back").click()
        assert player.step() == 1
        player.play_to_the_end()
        said = player.part("end").inner_text().replace("\xa0", " ")
        assert said == "Stopped at max_steps after 7 steps, return 7"
        assert player.step() == 7
        assert not player.part("strip").count()


def test_a_click_into_the_chart_goes_there_and_repeat_begins_anew(browser, episodes, tmp_path):
    path = episodes["continuous"].save(tmp_path / "episode.html")
    with watched(browser) as page:
        page.goto(path.as_uri())
        player = Player(page)
        player.point("chart", 0.5)
        assert player.step() in (4, 5)  # of 9
        player.drag("chart", 0.5, 1.0)
        assert player.step() == 9
        for label in player.part("series").locator("option").all_inner_texts():
            player.part("series").select_option(label)
            assert player.part("legend").inner_text()
            assert "NaN" not in player.part("chart").inner_html()
        player.press("l")
        assert player.part("loop").get_attribute("aria-pressed") == "true"
        player.part("play").click()
        for _ in range(2):  # it comes by the middle, again and again
            page.wait_for_function("document.querySelector('.clock').textContent === '9 / 9'")
            page.wait_for_function("parseInt(document.querySelector('.clock').textContent) < 9")
        player.part("loop").click()
        page.wait_for_function(
            "document.querySelector('.play').getAttribute('aria-label') === 'Play'"
        )
        assert player.step() == 9


def test_the_slider_over_agents(browser, episodes, tmp_path):
    stages = episodes["stages"]
    path = stages.save(tmp_path / "episode.html")
    with watched(browser) as page:
        page.goto(path.as_uri())
        player = Player(page)
        lengths = [episode.length for episode in stages.tracks]
        assert player.last_step() == lengths[1]  # the trained one first
        player.press("End")
        slider = player.part("stage").locator("input")
        slider.press("ArrowLeft")
        assert player.part("stage").inner_text().split("\n")[-1] == "0 steps"
        assert player.last_step() == lengths[0]
        assert player.step() == min(lengths)  # as far as this episode goes
        assert player.part("agent").count() == 1
        slider.press("ArrowRight")
        assert player.step() == lengths[1]  # and the place is not lost
        assert player.part("end").count() == 1


def test_side_by_side_is_in_step(browser, episodes, tmp_path):
    both = episodes["side"]
    path = both.save(tmp_path / "episode.html")
    short, long = sorted(episode.length for episode in both.tracks)
    assert short < long
    with watched(browser) as page:
        page.goto(path.as_uri())
        player = Player(page)
        steps = player.root.locator(".facts > :first-child b")
        assert steps.all_inner_texts() == ["0", "0"]
        player.press("ArrowRight")
        assert steps.all_inner_texts() == ["1", "1"]
        player.press("End")
        player.press("ArrowLeft")
        now = [str(min(episode.length, long - 1)) for episode in both.tracks]
        assert steps.all_inner_texts() == now  # the shorter one waits at its end
        assert player.part("end").count() == 1


@pytest.mark.parametrize(
    ("style", "check", "found"),
    [
        (".mnb-player .seek { width: 1400px !important }", outside, "INPUT.seek is outside"),
        (".mnb-player .title { overflow: hidden; width: 9px }", outside, "DIV.title is cut off"),
        (".mnb-player .soft { color: #999 !important }", pale, "2.8: soft Step"),
        (".mnb-player .end { background: #0000 !important }", pale, "1.0: end Stopped"),
    ],
)
def test_the_checks_of_a_page_can_fail(style, check, found, browser, episodes, tmp_path):
    path = episodes["discrete"].save(tmp_path / "episode.html")
    with watched(browser, color_scheme="light") as page:
        page.goto(path.as_uri())
        player = Player(page)
        player.press("End")
        page.add_style_tag(content=style)
        assert found in "\n".join(check(player.root))


class Says(torch.nn.Module):
    """A Q-network of the first `number` actions' own numbers."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, obs):
        return torch.arange(float(self.number)).repeat(len(obs), 1)

    def act(self, obs):
        return self(obs).argmax(-1)


class Many(gym.Env):
    """An environment of many actions and wild rewards."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012
    observation_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, number=400, render_mode=None):
        self.action_space, self.render_mode = gym.spaces.Discrete(number), render_mode

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), -1e12, False, False, {}

    def render(self):
        return np.zeros((30, 40, 3), np.uint8)


def odd_episodes():
    cartpole = envs.make("CartPole-v1")
    diverged = agents.actor(cartpole)
    with torch.no_grad():
        diverged.head.weight.fill_(torch.nan)
    actor, critic = agents.actor(cartpole), agents.critic(cartpole)
    yield "diverged", play(cartpole, diverged, critic=critic, max_steps=5)
    name = "a name that is very long indeed, so long that it fits nowhere</script><!--<script>"
    yield "names", play(cartpole, {name: actor, "🙂": actor}, max_steps=5)
    yield "five", play(cartpole, dict(zip("abcde", [actor] * 5)), critic=critic, max_steps=5)
    yield "many", play(Many(render_mode="rgb_array"), Says(400), max_steps=500)


@pytest.mark.parametrize("width", [1200, 400])
def test_odd_episodes_are_shown_too(width, browser, tmp_path):
    for name, episode in odd_episodes():
        path = episode.save(tmp_path / f"{name}.html")
        with watched(browser, viewport={"width": width, "height": 900}) as page:
            page.goto(path.as_uri())
            player = Player(page)
            player.press("ArrowRight")
            assert player.step() == 1
            screenshot(page, f"odd-{name}-{width}")
            assert [each for each in outside(player.root) if "cut off" not in each] == []
            if name == "many":  # the chosen one is in sight
                chosen, rows = (
                    player.root.locator(place).bounding_box() for place in (".chosen", ".rows")
                )
                assert rows["y"] <= chosen["y"] <= rows["y"] + rows["height"]


# What Bootstrap 3, of the classic notebook and of many web pages, would have of these classes.
BOOTSTRAP = """
.row { margin: 0 -15px } .row::before, .row::after { content: " "; display: table }
.panel { margin-bottom: 20px; background: #fff; border: 1px solid } .label { color: #fff }
"""


def test_a_page_with_styles_of_its_own_changes_nothing(browser, episodes, tmp_path):
    path = episodes["discrete"].save(tmp_path / "episode.html")
    boxes = """(root) => [...root.querySelectorAll(".live *")]
        .map((node) => [node.className, node.offsetLeft, node.offsetWidth].join())"""
    with watched(browser, color_scheme="dark") as page:
        page.goto(path.as_uri())
        player = Player(page)
        before = player.root.evaluate(boxes)
        page.add_style_tag(content=BOOTSTRAP)
        assert player.root.evaluate(boxes) == before
        assert pale(player.root) == []


def test_an_error_of_a_script_is_seen(browser):
    def look():
        with watched(browser) as page:
            page.set_content("<script>mnb_missing()</script>")
            page.wait_for_function("document.readyState === 'complete'")

    with pytest.raises(AssertionError, match="mnb_missing"):
        look()


# --- notebooks in JupyterLab ------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks")
    with Lab(folder, tmp_path_factory.mktemp("jupyter"), browser) as lab:
        yield lab


@pytest.fixture
def log(lab):
    """The server's log, which pytest shows where the test fails."""
    yield
    print(lab.log_tail())


PLAYER = ("text/html", "image/png")


@pytest.fixture(scope="module")
def ppo(lab):
    """Notebook 03 in JupyterLab, all cells run, and saved. Its kernel is still there."""
    copy_without_outputs(ROOT / "notebooks/03_ppo.ipynb", lab.folder / "03_ppo.ipynb")
    notebook = lab.open("03_ppo.ipynb")
    notebook.run_all()
    notebook.wait_until_done()
    notebook.save()
    yield notebook
    notebook.close()


def stored(notebook, *kinds):
    """How many outputs of the saved notebook have these types, and no others but text."""
    cells = nbformat.read(notebook.path, 4).cells
    outputs = [set(output.get("data", {})) for cell in cells for output in cell.get("outputs", [])]
    return sum(output - {"text/plain"} == set(kinds) for output in outputs)


def assert_plays(page, index):
    """The player plays, and follows mouse and keys."""
    player = Player(page, index)
    player.press("Home")
    assert player.step() == 0
    seen = {player.step(): (player.picture(), player.facts())}
    player.part("play").click()
    player.part("clock").filter(has_text=re.compile(r"^([3-9]|\d\d+) / ")).wait_for()
    player.press("ArrowLeft")  # also pauses; a click might come after the end, and start again
    assert player.part("play").get_attribute("aria-label") == "Play"
    seen[player.step()] = player.picture(), player.facts()

    last, before = player.last_step(), player.step()
    player.press("ArrowRight")
    assert before < player.step() <= before + 2  # one picture, which may stand for two steps
    seen[player.step()] = player.picture(), player.facts()
    player.press("Home")  # a short episode may already have been in the middle
    player.point("seek", 0.5)
    assert player.step() == pytest.approx(last / 2, abs=0.1 * last)
    seen[player.step()] = player.picture(), player.facts()
    player.drag("seek", 0.5, 0.8)
    assert player.step() == pytest.approx(0.8 * last, abs=0.1 * last)
    seen[player.step()] = player.picture(), player.facts()
    player.press("End")
    assert player.step() == last
    seen[player.step()] = player.picture(), player.facts()
    assert len(seen) >= 4
    assert all(facts[0] == str(step) for step, (_, facts) in seen.items())
    assert len({picture for picture, _ in seen.values()}) > 2  # a pole in balance stands still


def test_all_of_the_notebook_runs(ppo, log):
    counts = ppo.counts()
    assert counts == list(range(1, len(counts) + 1))
    cells = [cell for cell in nbformat.read(ppo.path, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == counts
    kinds = [output.output_type for cell in cells for output in cell.outputs]
    assert "error" not in kinds
    assert ppo.errors == []


def test_its_players_play_in_both_themes(ppo, log):
    for dark in (True, False):
        ppo.theme(dark)
        for index in range(stored(ppo, *PLAYER)):
            assert_plays(ppo.page, index)
            root = Player(ppo.page, index).root
            screenshot(root, f"lab-{index}-{'dark' if dark else 'light'}")
            assert outside(root) == []
            assert pale(root) == []
    assert ppo.errors == []


def test_new_episode_plays_another_in_the_same_place(ppo, log):
    player = Player(ppo.page, 0)
    players = ppo.page.locator('.mnb-player[data-ready="1"]')
    before, count = player.note(), players.count()
    assert re.fullmatch(r"\d+ steps, seed \d+", before)
    button = ppo.cell(1).get_by_role("button", name="New episode")
    button.click()
    # A new seed says that the new player is there; the button is enabled again after that.
    ppo.wait(
        f"""[...document.querySelectorAll(".jp-CodeCell")[1].querySelectorAll(".note")]
            .some((note) => note.textContent && note.textContent !== {json.dumps(before)})""",
        "another episode",
    )
    button.and_(ppo.page.locator(":enabled")).wait_for()
    assert players.count() == count
    assert_plays(ppo.page, 0)
    assert ppo.errors == []


def test_a_slider_of_a_panel_draws_anew(ppo, log):
    picture = ppo.cell(3).locator(".jp-RenderedImage img").first
    before = picture.get_attribute("src")
    ppo.cell(3).get_by_role("slider").first.press("ArrowRight")
    ppo.wait(
        f"""document.querySelectorAll(".jp-CodeCell")[3].querySelector(".jp-RenderedImage img")
            .src !== {json.dumps(before)}""",
        "another picture",
    )
    assert "clip range = 0.25" in ppo.cell(3).inner_text()


def test_a_saved_notebook_plays_without_a_kernel(ppo, lab, log):
    (lab.folder / "saved.ipynb").write_bytes(ppo.path.read_bytes())
    saved = lab.open("saved.ipynb", kernel=False)
    for index in range(stored(saved, *PLAYER)):
        assert_plays(saved.page, index)
    assert not saved.value("!!kernel")
    figures = stored(saved, "image/png")
    assert figures >= 6
    saved.page.wait_for_function(
        """(count) => [...document.querySelectorAll(".jp-RenderedImage img")]
            .filter((image) => image.naturalWidth > 100).length === count""",
        arg=figures,
    )
    # Widgets need a kernel. What to do stands in their place, and no error.
    saved.page.add_style_tag(content=".jp-Cell { content-visibility: visible !important }")
    texts = saved.page.locator(".jp-Notebook .jp-Cell").all_inner_texts()
    assert all(texts)  # also those of cells out of sight
    assert "Error displaying widget" not in "".join(texts)
    assert "Loading widget" not in "".join(texts)
    screenshot(saved.page, "lab-saved")
    saved.close()


def test_a_notebook_of_someone_else_shows_pictures_and_runs_nothing(ppo, lab, log):
    copy_untrusted(ppo.path, lab.folder / "untrusted.ipynb")
    untrusted = lab.open("untrusted.ipynb", kernel=False)
    strips = untrusted.page.locator('.jp-OutputArea-output img[alt^="Episode"]')
    for index in range(stored(untrusted, *PLAYER)):
        strip = strips.nth(index)
        strip.scroll_into_view_if_needed()
        assert strip.evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 800
        screenshot(untrusted.page, f"lab-untrusted-{index}")
    assert untrusted.page.locator("[data-ready]").count() == 0
    assert untrusted.page.locator(".jp-OutputArea-output script").count() == 0
    # What is left of the player without its style and script may not stand there, dead.
    dead = untrusted.page.locator(".jp-OutputArea-output").locator("button, input, select")
    assert dead.count() == 0
    untrusted.close()


def test_as_a_web_page_the_players_play(ppo, browser, tmp_path):
    path = tmp_path / "03_ppo.html"
    path.write_text(HTMLExporter().from_filename(str(ppo.path))[0], encoding="utf-8")
    for viewport in (LAPTOP, NARROW):
        with watched(browser, viewport=viewport) as page:
            page.goto(path.as_uri(), wait_until="domcontentloaded")
            for index in range(stored(ppo, *PLAYER)):
                assert_plays(page, index)
                root = Player(page, index).root
                screenshot(root, f"nbconvert-{index}-{viewport['width']}")
                assert outside(root) == []
                assert pale(root) == []


# --- a training that is watched and stopped ---------------------------------------------------

TRAINING = """
from metis_nb import PPO, agents, envs
env = envs.make("CartPole-v1")
trainer = PPO(env)
actor, critic = agents.actor(env), agents.critic(env)
history = trainer.train(actor, critic, steps=5_000_000)
"""
VIEW = ".mnb-live:not(.stop)"


def content(notebook, number):
    """What the training view of a code cell shows now; "" while there is none."""
    show = "(nodes) => nodes.map((node) => node.outerHTML).join()"
    return notebook.cell(number).locator(VIEW).evaluate_all(show)


def wait_for_another(notebook, number, before):
    """Wait until the training view shows something else than `before`."""
    notebook.wait(
        f"""[...document.querySelectorAll(".jp-CodeCell")[{number}].querySelectorAll("{VIEW}")]
            .map((node) => node.outerHTML).join() !== {json.dumps(before)}""",
        "a training view that changes",
    )


def press_stop(notebook):
    notebook.page.locator(".mnb-live.stop button").click()


@pytest.mark.parametrize("stop", [press_stop, Notebook.interrupt])
def test_a_training_is_watched_and_stopped_and_the_next_cell_runs(stop, lab, log):
    name = f"{stop.__name__}.ipynb"
    write_notebook(lab.folder / name, TRAINING, "print('steps:', trainer.run.steps)")
    notebook = lab.open(name)
    notebook.run_all()
    wait_for_another(notebook, 0, "")
    before = content(notebook, 0)
    wait_for_another(notebook, 0, before)
    screenshot(notebook.page, f"lab-training-{stop.__name__}")
    stop(notebook)
    notebook.wait_until_done(timeout=120_000)
    assert notebook.counts() == [1, 2]
    steps = re.search(r"steps: (\d+)", notebook.cell(1).inner_text())
    assert 0 < int(steps[1]) < 5_000_000
    assert not notebook.page.locator(".mnb-live.stop button:visible").count()
    screenshot(notebook.page, f"lab-stopped-{stop.__name__}")
    notebook.close()
