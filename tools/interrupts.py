"""Interrupt trainings at random moments, and look at what each leaves behind.

    python tools/interrupts.py               200 of them, over all trainers
    python tools/interrupts.py --count 2000 --seed 1

Each training is sent SIGINT at a line of code of ours, or of torch's optimizers, that was drawn
beforehand; every second one is sent another SIGINT at a line soon after it, which raises
KeyboardInterrupt there; every fourth gets its first one from a timer instead. Whatever the moment,
the networks are finite, the history is whole, every transition in the memory is one of the
environment's, and training goes on.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

import metis_nb  # noqa: E402
from tests.scripted import EPISODES, Scripted  # noqa: E402
from tests.test_trainers import BATCH, WITH_A_MEMORY, fitted, flat, networks_for  # noqa: E402

# Lines of these are where an interrupt may come; those of numpy and the like are left out.
WHERE = (str(Path(metis_nb.__file__).parent), str(Path(torch.optim.__file__).parent))
STEPS = 96  # of one training, three updates or more
SMALL = {"learning_starts": 24, "updates_per_step": 0.1, "capacity": 40, "batch_size": 8}
SMALL_BATCHES = {Trainer: {BATCH[Trainer]: 32} for Trainer in BATCH}


def trained_for(Trainer: Any) -> tuple[Any, list]:
    """A trainer whose memory is full before its training ends, and its networks."""
    torch.manual_seed(0)
    env = fitted(Trainer, Scripted())
    settings = SMALL_BATCHES[Trainer] | (SMALL if Trainer in WITH_A_MEMORY else {})
    if Trainer.__name__ == "PPO":
        settings |= {"epochs": 2}
    trainer = Trainer(env, seed=0, **settings)
    return trainer, networks_for(Trainer, env, hidden_sizes=(8,))


class Lines:
    """Counts the lines that run, and calls `at[n]()` before line n."""

    def __init__(self, at: dict[int, Callable[[], None]] | None = None, functions: Any = ()):
        self.count, self.at = 0, at or {}
        self.functions = functions  # the names of those that count; empty: all
        self.place = ""

    def __enter__(self) -> Lines:
        sys.settrace(self.trace)
        return self

    def __exit__(self, *_: Any) -> None:
        sys.settrace(None)

    def trace(self, frame: Any, event: str, _: Any) -> Any:
        code = frame.f_code
        here = code.co_filename.startswith(WHERE)
        return (
            self.line if here and (not self.functions or code.co_name in self.functions) else None
        )

    def line(self, frame: Any, event: str, _: Any) -> Any:
        if event == "line":
            self.count += 1
            if self.count in self.at:
                self.place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                self.at[self.count]()
        return self.line


def send() -> None:
    """A real interrupt. Python takes note of it before the next instruction or so."""
    signal.raise_signal(signal.SIGINT)


def faults(trainer: Any, networks: list) -> list[str]:
    """What is wrong with a trainer that was interrupted."""
    found = []
    tensors = [t for net in flat(networks) for t in net.state_dict().values()]
    if not all(bool(t.isfinite().all()) for t in tensors):
        found.append("a network is not finite")
    rows, run = trainer.history, trainer.run
    steps = [row["steps"] for row in rows]
    if steps != sorted(set(steps)) or (steps and steps[-1] > run.steps):
        found.append(f"rows at the steps {steps}, of {run.steps}")
    numbers = collections.Counter(tuple(row) for row in rows)
    memory = run.state.get("memory")
    # With a memory, two kinds: before it learns, and since.
    if len(numbers) > (2 if type(trainer) in WITH_A_MEMORY else 1):
        found.append(f"rows of {len(numbers)} kinds")
    ended = [(at, length) for at, _, length in rows.episodes]
    if ended != sorted(ended, key=lambda each: each[0]) or not {n for _, n in ended} <= {
        n for n, _ in EPISODES
    }:
        found.append(f"episodes {ended}")
    if rows and rows[-1]["episodes"] > len(rows.episodes):
        found.append("rows count episodes that are not there")
    return found + (faults_of(memory) if memory is not None else [])


def faults_of(memory: Any) -> list[str]:
    """Transitions that no step of `Scripted` gave, which can be told from what they hold."""
    found = []
    memory["reward"]  # puts in what an interrupt cut off
    kept = {name: array[: len(memory)].numpy() for name, array in memory.arrays.items()}
    for index in range(len(memory)):
        (episode, count), (later, following) = kept["obs"][index], kept["next_obs"][index]
        length, how = EPISODES[int(episode) % len(EPISODES)]
        reward = 1.0 + 0.5 * following - 0.25 * episode + 0.1 * following**2
        real = later == episode and following == count + 1 <= length
        real &= bool(np.isclose(kept["reward"][index], reward, atol=1e-4))
        over = following == length and how in ("terminated", "both")
        real &= bool(kept["terminated"][index]) == over
        after = kept["next_index"][index]
        if after >= 0:
            real &= bool(after < len(memory) and following < length)
            real = real and bool((kept["obs"][after] == kept["next_obs"][index]).all())
        if not real:
            found.append(f"the memory holds at {index} what never was")
    if len(memory) != min(memory.added, memory.capacity):
        found.append("the memory holds another number")
    return found


def raises() -> None:
    """What a second SIGINT does."""
    raise KeyboardInterrupt


def interrupted(
    Trainer: Any, at: dict[int, Callable[[], None]], timed: float = 0.0, functions: Any = ()
) -> dict:
    """Train, interrupt, and go on.

    Args:
        at: what happens before which line.
        timed: seconds after which a SIGINT is sent, too.
        functions: the names of those whose lines count; empty: all.

    Returns:
        "place": of the last interrupt; "ended": how; "faults": what was wrong then, and after
        going on.
    """
    trainer, networks = trained_for(Trainer)
    lines, ended = Lines(at, functions), "whole"
    if timed:
        before = signal.signal(signal.SIGALRM, lambda *_: send())
        signal.setitimer(signal.ITIMER_REAL, timed)
    try:
        with lines:
            trainer.train(*networks, steps=STEPS, progress=False)
    except KeyboardInterrupt:
        ended = "raised"
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    if trainer.run.interrupted and ended == "whole":
        ended = "after the update"
    wrong = faults(trainer, networks)
    met, rows = trainer.run.steps, len(trainer.history)
    if ended == "after the update" and not (rows and trainer.history[-1]["steps"] == met):
        wrong.append("the update under way was not finished")
    try:
        trainer.train(*networks, steps=2 * STEPS, progress=False)
    except Exception as error:
        return {"place": lines.place, "ended": ended, "faults": [*wrong, f"later: {error!r}"]}
    wrong += [f"later: {each}" for each in faults(trainer, networks)]
    if trainer.run.steps < met + 2 * STEPS or len(trainer.history) <= rows:
        wrong.append("training did not go on")
    if trainer.history[-1]["steps"] != trainer.run.steps:
        wrong.append("the last row is not at the last step")
    return {"place": lines.place, "ended": ended, "faults": wrong}


def length_of(Trainer: Any, functions: Any = ()) -> int:
    """How many lines a training has that nobody interrupts."""
    trainer, networks = trained_for(Trainer)
    with Lines(functions=functions) as lines:
        trainer.train(*networks, steps=STEPS, progress=False)
    return lines.count


def many(
    count: int, seed: int, trainers: Any = tuple(BATCH), timers: bool = True
) -> list[tuple[str, dict]]:
    """`count` interrupted trainings, over these trainers in turn."""
    rng, lengths, results = random.Random(seed), {}, []
    for index in range(count):
        Trainer = trainers[index % len(trainers)]
        if Trainer not in lengths:
            lengths[Trainer] = length_of(Trainer)
        turn, first = index // len(trainers), rng.randrange(1, lengths[Trainer])
        by_timer = timers and turn % 4 == 2 and hasattr(signal, "setitimer")
        timed = rng.uniform(0.001, 0.3) if by_timer else 0.0
        at = {} if timed else {first: send}
        if turn % 2:
            at[first + rng.randrange(1, 300)] = send
        results.append((Trainer.__name__, interrupted(Trainer, at, timed)))
    return results


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    os.environ.pop("METIS_NB_TEST", None)  # which leaves an interrupt to a test runner
    results = many(chosen.count, chosen.seed)
    wrong = [(name, each) for name, each in results if each["faults"]]
    for name, each in wrong:
        print(f"{name} at {each['place']} ({each['ended']}): {'; '.join(each['faults'][:3])}")
    ended = collections.Counter(each["ended"] for _, each in results)
    said = ", ".join(f"{number} {how}" for how, number in ended.most_common())
    print(f"{len(results)} interrupts ({said}): {len(wrong)} with faults")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
