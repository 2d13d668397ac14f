"""What a training promises whatever happens to it: an interrupt, a kill, a file made to do harm,
other work in the same process, many hours.
"""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

from metis_nb import DQN, PPO, SAC, agents, callbacks, checkpoint, envs, evaluate
from tests.scripted import Scripted
from tests.test_trainers import (
    BATCH,
    every_trainer,
    flat,
    same_state,
    settings_for,
    short,
    small,
    told,
    trained,
    world,
)

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
            assert f"path={str(path)!r}" in str(error)
            refused += 1
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
