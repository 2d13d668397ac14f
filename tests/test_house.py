"""The house as it was drawn: arrows run one way, trainers fit on a page, the core is light."""

import ast
import io
import os
import subprocess
import sys
import textwrap
import tokenize
from pathlib import Path

import pytest

import metis_nb
from metis_nb import trainers
from tools import arrows

PACKAGE = Path(metis_nb.__file__).parent
# What a server has, and what these bring. Everything else is blocked.
CORE = ("torch", "gymnasium", "numpy", "safetensors", "tqdm", "psutil")
FOR_PAGES = ("matplotlib", "PIL", "IPython", "ipywidgets", "pygments", "pygame", "jupyterlab")


def python(code, *options, **variables):
    """What a fresh interpreter prints, which stands in the repository's folder."""
    command = [sys.executable, *options, "-c", textwrap.dedent(code)]
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), **variables}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return ended


# --- arrows ---------------------------------------------------------------------------------------


def test_arrows_run_one_way():
    assert arrows.wrong() == []


def test_the_two_wings_meet_at_the_front_door_alone():
    rooms = arrows.room_arrows()
    assert {name for name, targets in rooms.items() if "notebook" in targets} == {"metis_nb"}
    assert not any("metis_nb" in targets for targets in rooms.values())


@pytest.mark.parametrize(
    ("file", "line", "says"),
    [
        ("learning/run.py", "from metis_nb.notebook import live", "imports metis_nb.notebook.live"),
        ("agents/calls.py", "from metis_nb import learning", "a circle of rooms"),
        ("agents/layers.py", "import metis_nb.agents.makers", "a circle of files"),
        ("trainers/td3.py", "from metis_nb.trainers.ddpg import DDPG", "a trainer reads alone"),
        (
            "envs/view.py",
            "def f():\n    from metis_nb import envs",
            "f imports metis_nb.envs inside",
        ),
    ],
)
def test_a_wrong_arrow_is_found(tmp_path, file, line, says):
    copy = tmp_path / "metis_nb"
    for path in PACKAGE.rglob("*.py"):
        target = copy / path.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    assert arrows.wrong(copy) == []
    with (copy / file).open("a", encoding="utf-8") as opened:
        opened.write(f"\n{line}\n")
    assert any(says in problem for problem in arrows.wrong(copy)), arrows.wrong(copy)


def test_the_map_prints_and_passes():
    shown = python("import runpy; runpy.run_path('tools/arrows.py', run_name='x')['main']([])")
    assert "no circle" in shown.stdout


# --- trainers of a page ---------------------------------------------------------------------------


def code_lines(path):
    """Lines of a file that hold code: no docstring, no comment, nothing empty."""
    text = path.read_text(encoding="utf-8")
    docs, lines = set(), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docs |= {*range(node.lineno, node.end_lineno + 1)}
    nothing = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in nothing | {tokenize.ENDMARKER}:
            lines |= {*range(token.start[0], token.end[0] + 1)}
    return len(lines - docs)


def test_code_lines_are_counted_right(tmp_path):
    file = tmp_path / "file.py"
    file.write_text('"""Doc.\n\nMore."""\n\nx = 1  # why\n# only this\ny = """a\nb"""\n')
    assert code_lines(file) == 3


@pytest.mark.parametrize("name", trainers.__all__)
def test_a_trainer_fits_on_a_page(name):
    # SAC has two kinds of action.
    assert code_lines(PACKAGE / "trainers" / f"{name.lower()}.py") <= (
        200 if name == "SAC" else 180
    )


@pytest.mark.parametrize("name", trainers.__all__)
def test_a_trainer_has_no_parent_but_object(name):
    assert getattr(trainers, name).__mro__ == (getattr(trainers, name), object)


# --- a light core ---------------------------------------------------------------------------------

BLOCK = f"""
    import importlib.abc, sys

    class Blocked(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in {FOR_PAGES}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

    sys.meta_path.insert(0, Blocked())
"""


def test_a_server_trains_saves_loads_and_evaluates_with_the_core_alone(tmp_path):
    code = (
        BLOCK
        + f"""
    import gymnasium as gym
    import metis_nb
    from metis_nb import agents, callbacks, envs, evaluate, trainers

    for name in trainers.__all__:
        Trainer = getattr(trainers, name)
        env = envs.make("CartPole-v1" if name.startswith("D") and name != "DDPG" else "Pendulum-v1")
        if name in ("DQN", "DDQN"):
            networks = [agents.q_network(env)]
        elif name == "VPG":
            networks = [agents.actor(env)]
        elif name in ("A2C", "PPO"):
            networks = [agents.actor(env), agents.critic(env)]
        else:
            kind = "squashed" if name == "SAC" else "deterministic"
            critics = [agents.q_critic(env), agents.q_critic(env)]
            networks = [agents.actor(env, **{{kind: True}})]
            networks += [critics[0]] if name == "DDPG" else [critics]
        trainer = Trainer(env)
        kept = callbacks.snapshots(2)
        trainer.train(*networks, steps=300, callbacks=[kept, callbacks.stop_at(1e9)])
        path = {str(tmp_path)!r} + f"/{{name}}.safetensors"
        trainer.save(path)
        again = Trainer.load(path, env)
        actor = agents.load(path, "q_network" if name in ("DQN", "DDQN") else "actor")
        assert (evaluate(env, actor, episodes=2) == evaluate(env, networks[0], episodes=2)).all()
    try:
        metis_nb.play
    except ImportError as error:
        print(error)
    loaded = {{name.split(".")[0] for name in sys.modules}}
    assert loaded.isdisjoint({FOR_PAGES}), loaded
    """
    )
    shown = python(code, TQDM_DISABLE="1")
    assert 'pip install "metis_nb[notebook]"' in shown.stdout
    assert shown.stdout.startswith("metis_nb.play is for notebooks and needs ")


@pytest.mark.parametrize("name", sorted(metis_nb._FOR_PAGES))
def test_what_is_for_pages_says_which_extra_it_needs(name):
    code = (
        BLOCK
        + f"""
    import metis_nb
    for find in (lambda: metis_nb.{name}, lambda: exec("from metis_nb import {name}")):
        try:
            find()
        except ImportError as error:
            assert 'pip install "metis_nb[notebook]"' in str(error), error
        else:
            print("no error")
    """
    )
    assert python(code).stdout == ""


def test_importing_changes_nothing_outside():
    code = """
    import os, random, signal, sys, warnings
    import numpy, torch, gymnasium

    def outside():
        return (dict(os.environ), sys.path[:], signal.getsignal(signal.SIGINT), random.getstate(),
                str(numpy.random.get_state()), torch.get_rng_state().tolist(),
                (torch.get_num_threads(), torch.get_default_dtype()), warnings.filters[:],
                sys.displayhook, sys.excepthook,
                len(gymnasium.registry))

    before = outside()
    import metis_nb
    assert outside() == before
    from metis_nb import play, plots, panel, show, live_plot
    # What these import in turn, IPython and others, may add to the path and to filters of warnings.
    ours = [i for i, each in enumerate(before) if each not in (before[1], before[7])]
    assert [outside()[i] for i in ours] == [before[i] for i in ours]
    """
    assert python(code).stdout == ""


def test_importing_is_light():
    """By the modules that it brings, since seconds differ between machines."""
    code = """
    import sys, torch, gymnasium
    before = {*sys.modules}
    import metis_nb
    print(*sorted({name.split(".")[0] for name in {*sys.modules} - before}))
    """
    brought = {name for name in python(code).stdout.split() if name not in sys.stdlib_module_names}
    # Some versions of safetensors bring packaging.
    allowed = {"metis_nb", "packaging", *CORE}
    assert {name for name in brought if not name.startswith("_")} <= allowed


# --- first lines ----------------------------------------------------------------------------------


def test_the_first_lines_that_people_type_run_as_they_stand():
    from metis_nb import agents, play
    from metis_nb.trainers import A2C, DDPG, DDQN, DQN, PPO, SAC, TD3, VPG

    assert [
        kind.__name__ for kind in (A2C, DDPG, DDQN, DQN, PPO, SAC, TD3, VPG)
    ] == trainers.__all__
    assert callable(play)
    assert metis_nb.PPO is PPO
    assert callable(agents.actor)
    python("from metis_nb.trainers import PPO; from metis_nb import agents, play, live_plot")
    python("import metis_nb.noise, metis_nb.training; from metis_nb.training import History")
    python("import metis_nb; metis_nb.spaces.ActionUnits, metis_nb.replay.ReplayBuffer")
    python("from metis_nb import callbacks, envs; callbacks.live_plot, envs.probes.LADDER")


def test_the_five_lines_run_as_they_stand():
    """But for the number of steps, which is the default's there."""
    code = """
    import gymnasium as gym
    from metis_nb import agents, play
    from metis_nb.trainers import PPO

    env = gym.make("Pendulum-v1")
    actor, critic = agents.actor(env), agents.critic(env)
    trainer = PPO(env)
    trainer.train(actor, critic, steps=2048)
    play(env, actor)
    """
    assert python(code).stdout == ""


def test_what_does_not_exist_is_said():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = metis_nb.nothing
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = metis_nb.callbacks.nothing
    assert {*metis_nb.__all__} <= {*dir(metis_nb)}


# --- progress -------------------------------------------------------------------------------------


def test_a_terminal_shows_progress_on_stderr_so_that_output_can_be_piped():
    code = """
    from metis_nb import PPO, agents, envs
    env = envs.make("CartPole-v1")
    trainer = PPO(env)
    trainer.train(agents.actor(env), agents.critic(env), steps=40_000)
    print(len(trainer.history))
    """
    shown = python(code)
    assert shown.stdout == "20\n"
    assert "steps/s" in shown.stderr
