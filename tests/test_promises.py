"""What a training promises whatever happens to it: an interrupt, a kill, a file made to do harm,
other work in the same process, many hours.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from metis_nb import DQN, PPO, SAC, agents, callbacks, checkpoint, envs, evaluate
from metis_nb.learning import run as run_module
from metis_nb.notebook import live
from tests.scripted import Scripted
from tests.test_trainers import (
    every_trainer,
    flat,
    same_state,
    short,
    small,
    trained,
)
from tools import interrupts, soak

ROOT = Path(__file__).resolve().parents[1]


def python(code, *arguments, **variables):
    """What a process of its own ends with, in which tests can be imported."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


# --- a file that was made to do harm --------------------------------------------------------------


def content_of(path):
    """The JSON of a file that was saved, and its tensors."""
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["state"]), {n: file.get_tensor(n) for n in file.keys()}


def rewrite(path, state, tensors):
    """A file of this content, as `write` would have written it."""
    text = state if isinstance(state, str) else json.dumps(state)
    save_file(tensors, path, metadata={"format": checkpoint.FORMAT, "state": text})


def find(node, *keys):
    """The [key, value] of nested data, which can be changed in it."""
    for key in keys:
        (node,) = [pair for pair in node["$dict"] if pair[0] == key]
        pair, node = node, node[1]
    return pair


class Mood(gym.Env):
    """An environment whose state can be captured, with everything that a node can be."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.generator = np.random.Generator(np.random.MT19937(3))
        self.grid = np.zeros(8, np.uint8)
        self.view, self.mode = self.grid[2:], gym.vector.AutoresetMode.SAME_STEP
        self.number, self.list = np.float32(1), [1, (2, None)]
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, bool(self.generator.random() < 0.2), False, {}


def saved_by(Trainer, env, path):
    """A file of a short training, with a memory and episodes in it."""
    trainer, networks = small(Trainer, env)
    trainer.train(*networks, steps=128, progress=False)
    trainer.save(path)
    return trainer


# In a process that has loaded such a file before, so that all that belongs to it is there: a hook
# that hears of everything that Python imports, compiles, opens or starts.
WATCHED = """
    import sys, warnings
    from metis_nb import DQN, agents
    from tests.test_promises import Mood

    good, *hostile = sys.argv[1:]
    heard, watching = [], False
    HARMLESS = ("object.__getattr__", "object.__setattr__", "sys._getframe", "builtins.id", "gc.",
                "sys.set_", "os.listdir", "array.__new__")

    def hear(event, about):
        # How much memory is left, psutil reads in a file of the system's.
        left = event == "open" and about[0] == "/proc/meminfo"
        if watching and not left and not event.startswith(HARMLESS):
            heard.append((event, [f"{each!s:.80}" for each in about]))

    sys.addaudithook(hear)

    def by_trainer(path):
        loaded = DQN.load(path, Mood())
        loaded.run.start(loaded.q_network)

    def by_agents(path):
        agents.load(path, "q_network")

    def tried(read, path):
        global watching
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            watching = True
            try:
                read(path)
                return "new episodes" if warned else "accepted"
            except Exception as error:
                said = type(error).__name__, str(error)
            finally:
                watching = False
        return f"{said[0]} {'named' if repr(path) in said[1] else said[1]}"

    for read in (by_trainer, by_agents):
        print(tried(read, good), file=sys.stderr)
        heard.clear()
    for path in hostile:
        for read in (by_trainer, by_agents):
            print(path.rsplit("/", 1)[1], "|", tried(read, path), "|", heard, flush=True)
            heard.clear()
"""


def hostile_files(folder, good):
    """name: file. Each would have something run, read or made that its reader did not ask for."""
    good_bytes = good.read_bytes()
    files = {}

    def raw(name, content):
        files[name] = folder / name
        files[name].write_bytes(content)

    def changed(name, change, part="networks"):
        state, tensors = content_of(good)
        change(state, tensors)
        files[name] = folder / f"{name} of the {part}"
        rewrite(files[name], state, tensors)

    def set_to(*keys, value):
        def change(state, tensors):
            find(state, *keys)[1] = value

        return change

    def more(*keys, name, value):
        return lambda state, tensors: find(state, *keys)[1]["$dict"].append([name, value])

    def attribute(name, node):
        """Give the captured environment an attribute."""

        def change(state, tensors):
            pairs = find(state, "run", "view", "env", "root")[1][3]["$dict"]
            pairs[:] = [pair for pair in pairs if pair[0] != name]
            pairs.append([name, node(tensors)])

        return change

    def array(tensors, values):
        name = f"hostile{len(tensors)}"
        tensors[name] = torch.as_tensor(values)
        return {"$array": name}

    # Pickles, that run `touch` where they are loaded.
    sentinel = folder / "sentinel"
    command = f"cos\nsystem\n(S'touch {sentinel}'\ntR."
    raw("pickle", command.encode())

    class Runs:
        def __reduce__(self):
            return os.system, (f"touch {sentinel}",)

    torch.save({"state": Runs()}, folder / "torch")
    files["torch"] = folder / "torch"
    raw("empty", b"")
    raw("half", good_bytes[: len(good_bytes) // 2])
    raw("a header of exabytes", (2**62).to_bytes(8, "little") + b"{}")
    raw("a header longer than the file", (2**20).to_bytes(8, "little") + b"{}")
    raw("a header that is no JSON", (4).to_bytes(8, "little") + b"{,,}")
    deep = "[" * 100_000 + "]" * 100_000
    for name, text in {
        "deep": deep,
        "deep in the header": None,
        "no JSON": "{]",
        "a number of 5000 digits": "9" * 5000,
        "two keys of one name": '{"$dict":[],"$dict":[["trainer","DQN"]]}',
        "an unknown kind": '{"$object":["os","system"]}',
        "a tensor that is not there": '{"$tensor":"nowhere"}',
        "a key that is a list": '{"$dict":[[[1],2]]}',
        "a number": "3",
        "NaN": "NaN",
    }.items():
        files[name] = folder / name
        if text is None:
            raw(name, len(deep).to_bytes(8, "little") + deep.encode())
        else:
            rewrite(files[name], text, {})
    header = {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    text = json.dumps(header).encode()
    raw("a tensor of terabytes", len(text).to_bytes(8, "little") + text + b"1234")

    recipe = "recipes", "q_network"
    for name in ("init", "Module", "Transformer", "os", "__loader__", "functional"):
        changed(f"layers of {name}", set_to(*recipe, "activation", value=name))
    changed("a function of its own", set_to(*recipe, "function", value="load"))
    changed("a body", more(*recipe, name="body", value="os.system"))
    changed("layers of exabytes", set_to(*recipe, "hidden_sizes", value=[10**9, 10**9]))
    changed("one layer of exabytes", set_to(*recipe, "hidden_sizes", value=[10**15]))
    actions = {"$dict": [["n", 10**15], ["start", 0], ["dtype", "int64"]]}
    changed("actions without end", set_to("spaces", "action", value=actions))

    # What `agents.load` has no use for.
    for name in ("run", "env", "replay"):
        change = more("hyperparameters", name=name, value="os.system")
        changed(f"the setting {name}", change, "trainer")
    for name, keys, value in [
        ("a gamma of nan", ("hyperparameters", "gamma"), float("nan")),
        ("another name", ("trainer",), "os.system"),
        ("a history of functions", ("history",), ["os.system"]),
        ("an optimizer of nothing", ("state", "adam"), {"$dict": []}),
        ("a generator that is none", ("run", "generator"), [1, 2]),
        ("a memory of more than there is", ("state", "memory", "added"), 10**9),
    ]:
        changed(name, set_to(*keys, value=value), "trainer")

    # Found at the first step; then new episodes begin.
    def generator(kind, pos=3):
        def node(tensors):
            inner = {"$dict": [["key", array(tensors, np.zeros(624, np.int64))], ["pos", pos]]}
            bits = {"$dict": [["bit_generator", kind], ["state", inner]]}
            about = [["state", bits], ["entropy", 1], ["spawn_key", []], ["pool_size", 4]]
            return ["generator", 77, {"$dict": [*about, ["spawned", 0]]}]

        return node

    def eight(tensors):
        return array(tensors, np.arange(8, dtype=np.uint8))

    def objects(tensors):
        base = ["array", 91, "|u1", [8], True, eight(tensors), "C"]
        return ["view", 92, "|O", [1], True, base, 0, [8]]

    def enum(path):
        return lambda tensors: ["enum", path, "x"]

    for name, kept, node in [
        ("numpy's tests", "generator", generator("test")),
        ("numpy's global seed", "generator", generator("seed")),
        ("a place behind the end", "generator", generator("MT19937", pos=10**6)),
        ("a place before the beginning", "generator", generator("MT19937", pos=-5)),
        ("bytes taken for objects", "view", objects),
        ("bytes taken for an object", "number", lambda t: ["scalar", "|O", eight(t)]),
        ("exabytes", "grid", lambda t: ["array", 93, "|u1", [2**60], True, eight(t), "C"]),
        ("our wing", "mode", enum("metis_nb:play")),
        ("our function", "mode", enum("metis_nb.callbacks:live_plot")),
        ("the system", "mode", enum("os:system")),
        ("a lazy module", "mode", enum("torch:_dynamo.config")),
        ("a method", "step", lambda t: ["value", "os.system"]),
        ("its class", "__class__", lambda t: ["value", "os.system"]),
        ("how it was made", "_saved_kwargs", lambda t: ["dict", 99, {"$dict": []}]),
        ("a device", "grid", lambda t: ["tensor", 94, "cuda:99", {"$tensor": eight(t)["$array"]}]),
    ]:
        changed(name, attribute(kept, node), "environment")
    return files


def test_a_hostile_file_runs_no_code_and_is_named(tmp_path):
    good = tmp_path / "good"
    saved_by(DQN, Mood(), good)
    files = hostile_files(tmp_path, good)
    ended = python(WATCHED, good, *files.values())
    assert ended.returncode == 0, ended.stderr
    lines = iter(ended.stdout.splitlines())
    for path in files.values():
        part = path.name.rpartition(" of the ")[2]
        by_trainer = "new episodes" if part == "environment" else "ValueError named"
        by_agents = "accepted" if part in ("environment", "trainer") else "ValueError named"
        # Nothing was imported, compiled, opened or started on the way.
        assert next(lines) == f"{path.name} | {by_trainer} | []"
        assert next(lines) == f"{path.name} | {by_agents} | []"
    assert not (tmp_path / "sentinel").exists()


def places(node, path=()):
    """The path to everything within nested JSON."""
    yield path
    items = enumerate(node) if isinstance(node, list) else ()
    items = node.items() if isinstance(node, dict) else items
    for key, inner in items:
        yield from places(inner, (*path, key))


@pytest.mark.parametrize("Trainer", [DQN, PPO])
def test_whatever_is_changed_in_a_file_it_loads_or_is_named(Trainer, tmp_path, recwarn):
    """100 damaged files: nothing that a file holds can lead to an error that does not name it."""
    env, path, rng = Scripted(), tmp_path / "file", random.Random(0)
    saved_by(Trainer, env, tmp_path / "good")
    text = json.dumps(content_of(tmp_path / "good")[0])
    everywhere, refused = list(places(json.loads(text))), 0
    unnamed = []
    instead = [
        None,
        True,
        -1,
        1e30,
        "x",
        [],
        [[]],
        {"$dict": []},
        {"$tuple": [1]},
        {"$array": "00000"},
    ]
    for at in rng.sample(everywhere, 100):
        state, tensors = content_of(tmp_path / "good")
        if at:
            node = state
            for key in at[:-1]:
                node = node[key]
            node[at[-1]] = rng.choice(instead)
        else:
            state = rng.choice(instead)
        rewrite(path, state, tensors)
        try:
            loaded = Trainer.load(path, env)
            loaded.run.start(flat(trained(loaded))[0])
        except ValueError as error:
            refused += f"path={str(path)!r}" in str(error)
            unnamed += [] if f"path={str(path)!r}" in str(error) else [str(error)]
    assert unnamed == []
    assert refused > 50


def test_the_hook_hears_of_code(tmp_path):
    """Else the test above could not fail: a pickle, loaded by the same process, is heard."""
    saved_by(DQN, Mood(), tmp_path / "good")
    (tmp_path / "pickle").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    code = WATCHED.replace(
        "agents.load(path", "__import__('pickle').load(open(path, 'rb')) or (path"
    )
    ended = python(code, tmp_path / "good", tmp_path / "pickle")
    heard = ended.stdout.splitlines()[1]
    for event in ("open", "pickle.find_class", "os.system"):
        assert f"('{event}'" in heard


# --- an interrupt, at any moment ------------------------------------------------------------------


@every_trainer
def test_interrupts_at_random_moments_leave_a_training_that_goes_on(Trainer, monkeypatch, capfd):
    """Eight for each trainer; `python tools/interrupts.py` makes 200, some of them by a timer."""
    monkeypatch.delenv("METIS_NB_TEST", raising=False)
    results = [each for _, each in interrupts.many(8, 1, [Trainer], timers=False)]
    assert not [each for each in results if each["faults"]]
    assert {"after the update", "raised"} <= {each["ended"] for each in results}


@pytest.mark.parametrize(
    ("Trainer", "functions", "begin", "end"),
    [
        # Half of a transition, in a memory that is full; moments that are half made; a trainer that
        # knows its networks and not what goes with them; a first step.
        (DQN, ("add", "_put"), -32, -1),
        (DQN, ("_init_group",), 1, 25),
        (PPO, ("_init_group",), 1, 25),
        (SAC, ("bind", "start", "state"), 1, 45),
        (PPO, ("bind", "start", "reset"), 1, 60),
    ],
)
def test_an_interrupt_at_every_line_of_what_changes_several_things(Trainer, functions, begin, end):
    count = interrupts.length_of(Trainer, functions)
    for line in range(count + begin if begin < 0 else begin, count + end if end < 0 else end):
        result = interrupts.interrupted(Trainer, {line: interrupts.raises}, functions=functions)
        assert result["ended"] == "raised"
        assert not result["faults"], result


@pytest.mark.parametrize("Trainer", [PPO, DQN])
def test_an_interrupt_at_every_line_of_the_start_loses_nothing_that_was_loaded(Trainer, tmp_path):
    """It goes on bit for bit all the same: its episodes, its generator, its seed."""
    whole = saved_by(Trainer, Scripted(), tmp_path / "file")
    whole.train(*trained(whole), steps=128, progress=False)
    with interrupts.Lines(functions=("start",)) as lines:
        Trainer.load(tmp_path / "file", Scripted()).run.start(torch.nn.Linear(1, 1))
    for line in range(1, lines.count + 1):
        loaded = Trainer.load(tmp_path / "file", Scripted())
        with (
            pytest.raises(KeyboardInterrupt),
            interrupts.Lines({line: interrupts.raises}, ("start",)),
        ):
            loaded.train(*trained(loaded), steps=128, progress=False)
        loaded.train(*trained(loaded), steps=128, progress=False)
        assert same_state(whole, loaded), lines.place


@pytest.mark.parametrize("where", ["open", "update", "close", "the last update"])
@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_in_a_callback(where, times, monkeypatch, capfd):
    monkeypatch.delenv("METIS_NB_TEST", raising=False)

    class Interrupting:
        def open(self, trainer):
            self.at("open")

        def __call__(self, trainer):
            self.at("update")
            self.at("the last update" if len(trainer.history) == 3 else "")

        def close(self):
            self.at("close")

        def at(self, moment):
            if moment == where and not sent:
                for _ in range(times):
                    sent.append(signal.raise_signal(signal.SIGINT))

    sent = []
    trainer, networks = small(PPO, gym.make("CartPole-v1"))
    arguments = dict(steps=384, progress=False, callbacks=Interrupting())
    if times == 2:
        with pytest.raises(KeyboardInterrupt):
            trainer.train(*networks, **arguments)
    else:
        trainer.train(*networks, **arguments)
    updates = {"open": 0, "update": 1}.get(where, 3)
    assert len(trainer.history) == updates
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    trainer.train(*networks, steps=128, progress=False)
    assert [row["steps"] for row in trainer.history] == [128 * n for n in range(1, updates + 2)]


def test_what_is_said_at_an_interrupt_ends_nothing(monkeypatch):
    """It may come in the middle of writing to the same stream, which then raises."""
    monkeypatch.delenv("METIS_NB_TEST", raising=False)

    def raises(*_, **__):
        raise RuntimeError("reentrant call")

    monkeypatch.setattr(run_module.tqdm, "write", raises)
    trainer, networks = small(PPO, gym.make("CartPole-v1"))
    interrupt = lambda trainer: signal.raise_signal(signal.SIGINT)  # noqa: E731
    trainer.train(*networks, steps=1000, callbacks=interrupt, progress=False)
    assert trainer.run.interrupted
    assert len(trainer.history) == 1


# --- a kill, at any moment ------------------------------------------------------------------------

KILLED = """
    import os, sys
    import gymnasium as gym
    from metis_nb import callbacks
    from tests.test_trainers import BATCH, small, trained

    name, path, steps = sys.argv[1:]
    Trainer = {kind.__name__: kind for kind in BATCH}[name]
    if os.path.exists(path):
        trainer = Trainer.load(path, gym.make("CartPole-v1"))
        networks = trained(trainer)
    else:
        trainer, networks = small(Trainer, gym.make("CartPole-v1"))
    print("begin", trainer.run.steps, flush=True)
    # At every update: half of the time goes into writing.
    saving = callbacks.save_every(path, 1)
    trainer.train(*networks, int(steps) - trainer.run.steps, saving, progress=False)
    print("end", flush=True)
"""


@pytest.mark.as_made
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("Trainer", [PPO, DQN, SAC])
def test_a_training_that_is_killed_again_and_again_ends_as_one_that_was_not(Trainer, tmp_path):
    """Bit for bit, from the file that it saved last, which is whole at every moment."""
    path, rng, kills, steps = tmp_path / "file", random.Random(Trainer.__name__), 0, 128 * 30
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(KILLED), Trainer.__name__, str(path), steps]
    begins = []
    while kills < 5:
        process = subprocess.Popen([*map(str, command)], env=env, stdout=subprocess.PIPE, text=True)
        begins.append(process.stdout.readline())
        # So many times the file has changed, and then a little later: while it is written, perhaps.
        changes, seen = rng.randrange(1, 4), None
        while changes and process.poll() is None:
            now = path.stat().st_ino if path.exists() else None
            changes, seen = changes - (now != seen), now
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        process.wait()
        process.stdout.close()
        kills += 1
        if path.exists():
            checkpoint.read(path)
        # Of those who were killed in the middle, the next one removes what they left.
        assert len(os.listdir(tmp_path)) <= 2
    ended = python(KILLED, Trainer.__name__, path, steps)
    assert ended.stdout.endswith("end\n"), ended.stderr
    assert os.listdir(tmp_path) == ["file"]
    assert int(ended.stdout.split()[1]) > 0
    resumed = Trainer.load(path, gym.make("CartPole-v1"))
    whole, networks = small(Trainer, gym.make("CartPole-v1"))
    whole.train(*networks, steps=steps, progress=False)
    assert whole.run.steps == resumed.run.steps == steps
    assert same_state(whole, resumed)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_kill_in_the_middle_of_writing_leaves_no_file_for_long(tmp_path):
    """The draft of a process that is dead is removed by the next one that writes the same file;
    that of one that lives, and other files, are left alone."""
    code = """
        import os, signal, sys
        from metis_nb import checkpoint
        os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
        checkpoint.write(sys.argv[1], {"new": 1})
    """
    path = tmp_path / "file.safetensors"
    checkpoint.write(path, {"good": 1})
    for _ in range(3):
        assert python(code, path).returncode == -signal.SIGKILL
        assert len(os.listdir(tmp_path)) == 2
        assert checkpoint.read(path) == {"good": 1}
    others = [f".file.safetensors.{checkpoint.HERE}.{os.getpid()}.0123abcd"]
    others += [".file.safetensors.swp", f".other.{checkpoint.HERE}.1.0123abcd"]
    for name in others:
        (tmp_path / name).touch()
    checkpoint.write(path, {"new": 1})
    assert checkpoint.read(path) == {"new": 1}
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, *others])


# --- the same answer twice ------------------------------------------------------------------------


def other_work(folder):
    """What a reader may do in the same kernel, before and in the middle of a training."""
    torch.manual_seed(99)
    torch.rand(3), np.random.rand(3), random.random()
    np.random.seed(5)
    torch.set_default_dtype(torch.float64)
    torch.set_default_dtype(torch.float32)
    other, networks = small(PPO, gym.make("CartPole-v1"))
    other.train(*networks, steps=128, progress=False)
    other.save(folder / "other")
    PPO.load(folder / "other", gym.make("CartPole-v1"))
    evaluate("CartPole-v1", networks[0], episodes=2, deterministic=False)
    torch.manual_seed(7)


@every_trainer
def test_the_same_seed_gives_the_same_answer_after_whatever_else(Trainer, tmp_path, monkeypatch):
    """The same weights and history, to the last bit, alone and amid other work: before, between two
    updates, with a picture drawn, after an evaluation."""
    alone, networks = small(Trainer, short(Trainer))
    alone.train(*networks, steps=384, progress=False)

    other_work(tmp_path)
    amid, networks = small(Trainer, short(Trainer))
    actor = networks[0]
    drawn = []

    def between(trainer):
        other_work(tmp_path)
        evaluate(short(Trainer), actor, episodes=2)
        drawn.append(live.picture(trainer, None, 1.0))

    amid.train(*networks, steps=128, progress=False, callbacks=between)
    amid.train(*networks, steps=256, callbacks=[between, callbacks.snapshots(3)])
    assert len(drawn) == 3
    assert same_state(alone, amid)


@every_trainer
def test_two_trainings_in_turns_are_two_trainings(Trainer):
    """None of them draws a number of the other's."""
    trainings = [small(Trainer, short(Trainer)) for _ in range(2)]
    whole, networks = small(Trainer, short(Trainer))
    whole.train(*networks, steps=384, progress=False)
    for _ in range(3):
        for trainer, networks in trainings:
            trainer.train(*networks, steps=128, progress=False)
    assert all(same_state(whole, trainer) for trainer, _ in trainings)


@pytest.mark.parametrize("deterministic", [True, False])
def test_an_evaluation_is_the_same_however_many_environments_there_are(deterministic):
    """Whether of an environment, a vector of any size, or an id; amid other draws."""
    actor = agents.actor(gym.make("CartPole-v1"))
    kinds = [
        "CartPole-v1",
        gym.make("CartPole-v1"),
        envs.make("CartPole-v1", num_envs=5),
    ]
    found = []
    for env in kinds:
        torch.rand(3), np.random.rand(3)
        found.append(evaluate(env, actor, episodes=20, seed=3, deterministic=deterministic))
    assert all(np.array_equal(each, found[0]) for each in found)
    other = evaluate(kinds[0], actor, episodes=20, seed=4, deterministic=deterministic)
    assert not np.array_equal(other, found[0])


# --- hours ----------------------------------------------------------------------------------------

SOAKED = """
    import json, sys
    import numpy as np
    from tools import soak
    kept, size = [], int(sys.argv[2])
    def leak(trainer):
        if size and len(kept) < 300:
            kept.append(np.ones(size))

    print(json.dumps(soak.soak(sys.argv[1], 0.1, [leak])))
"""


@pytest.mark.parametrize(("size", "verdict"), [(0, "flat"), (200_000, "grows")])
def test_a_soak_is_flat_and_finds_a_leak(size, verdict):
    """Six seconds; `python tools/soak.py` has hours of them. The leak: 1.5 MiB at each update."""
    ended = python(SOAKED, "A2C", size)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result["verdict"] == verdict, result
    assert result["measurements"] > 10


def test_a_soak_is_resumed_and_its_exit_code_tells(tmp_path, monkeypatch, capsys):
    ran = []

    def process(name, minutes):
        ran.append(name)
        verdict = "grows" if name == "SAC" else "flat"
        return {"trainer": name, "minutes": minutes, "verdict": verdict}

    monkeypatch.setattr(soak, "in_its_own_process", process)
    arguments = ["--minutes", "2", "--out", str(tmp_path / "out"), "--trainers"]
    assert soak.main([*arguments, "PPO", "DQN"]) == 0
    assert soak.main([*arguments, "PPO", "SAC", "DQN"]) == 1
    assert soak.main([*arguments, "PPO"]) == 0
    assert soak.main([*arguments, "SAC"]) == 1
    assert sorted(ran) == ["DQN", "PPO", "SAC"]
    lines = (tmp_path / "out").read_text().splitlines()
    assert [json.loads(line)["trainer"] for line in lines[-1:]] == ["SAC"]


# --- a network of one's own -----------------------------------------------------------------------


def test_an_actor_that_lacks_only_act_is_spoken_of_once_and_trains():
    class Mine(torch.nn.Module):
        distribution = staticmethod(agents.Categorical)

        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)

        def forward(self, obs):
            return self.layer(obs)

    trainer, (_, critic) = small(PPO, gym.make("CartPole-v1"))
    mine = Mine()
    with pytest.warns(UserWarning, match=r"actor is a Mine without act\(obs\)") as said:
        trainer.train(mine, critic, steps=256, progress=False)
    assert [each.filename for each in said] == [__file__]
    assert len(trainer.history) == 2


def test_a_small_critic_of_many_actions_is_loaded(tmp_path):
    """Sizes that a file declares are compared with its weights; a critic has one output."""
    env = envs.DiscretizeAction(gym.make("Pendulum-v1"), bins=50)
    networks = [make(env, hidden_sizes=(4,)) for make in (agents.actor, agents.critic)]
    trainer = PPO(env, seed=0, rollout_steps=8)
    trainer.train(*networks, steps=8, progress=False)
    trainer.save(tmp_path / "saved")
    loaded = PPO.load(tmp_path / "saved", env)
    for ours, theirs in zip(networks, (loaded.actor, loaded.critic), strict=True):
        for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(one, two)


# --- docs/promises.md -----------------------------------------------------------------------------


def test_every_promise_names_tests_that_exist():
    lines = (ROOT / "docs/promises.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| **")]
    assert len(rows) >= 20
    for row in rows:
        names = re.findall(r"`(tests/\w+\.py)::(\w+)`", row)
        assert names, f"no test holds: {row}"
        for file, name in names:
            assert f"def {name}(" in (ROOT / file).read_text(), f"{file} has no {name}"
