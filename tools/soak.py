"""Does a training that goes on for hours take ever more memory?

    python tools/soak.py --minutes 20 --out soak.jsonl
    python tools/soak.py --minutes 1 --trainers PPO SAC --jobs 2

Each trainer runs in a process of its own, with small networks and a memory that is full before
anything is measured. Every few seconds it is evaluated, saved and loaded, its networks are copied
and its picture is drawn, its history is cut short, and its resident memory is noted. The first
quarter is left out. What the rows of the history take by then is known, and taken off; a line is
fitted to the rest. "flat": along that
line it grew by less than 5 MiB or 2 %, whichever is more. One JSON line for each trainer; those
that --out has already, for so many minutes, are not run again. The exit code is 1 where one grows.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
MIB = 2**20
NAMES = ("VPG", "A2C", "PPO", "DQN", "DDQN", "DDPG", "TD3", "SAC")
CAPACITY = 1_000  # full after a second or two
KEPT = 200  # rows of the history, and episodes
LEAST = 12  # measurements, however slow the machine is: a line through few says little


def made(name: str) -> tuple[Any, list]:
    """A trainer with little to do in each update, and its small networks."""
    import metis_nb
    from metis_nb import agents, envs

    metis_nb.seed(0)
    box, small = name in ("DDPG", "TD3", "SAC"), {"hidden_sizes": (16,)}
    env = envs.make("Pendulum-v1" if box else "CartPole-v1", num_envs=4)
    settings: dict[str, Any] = {"VPG": {"batch_steps": 256}}.get(name, {"rollout_steps": 256})
    if name in ("DQN", "DDQN") or box:
        settings = {"capacity": CAPACITY, "learning_starts": 200, "collect_steps": 64}
    kind: dict[str, Any] = {"DDPG": {"deterministic": True}, "TD3": {"deterministic": True}}
    kind["SAC"] = {"squashed": True}
    if name in ("DQN", "DDQN"):
        networks: list = [agents.q_network(env, **small)]
    else:
        networks = [agents.actor(env, **small, **kind.get(name, {}))]
    if name in ("A2C", "PPO"):
        networks.append(agents.critic(env, **small))
    if box:
        critics = [agents.q_critic(env, **small) for _ in range(1 if name == "DDPG" else 2)]
        networks.append(critics[0] if name == "DDPG" else critics)
    return getattr(metis_nb, name)(env, seed=0, **settings), networks


def bytes_of(history: Any) -> int:
    """What the rows and episodes of a history take: all of them are like the last."""
    row, episode = history[-1], (history.episodes or [()])[-1]
    size, number = sys.getsizeof, sys.getsizeof(1.0)
    numbers = sum(size(value) for value in row.values())
    each = size(episode) + number * len(episode)
    lists = size(history) + size(history.episodes)
    return len(history) * (size(row) + numbers) + len(history.episodes) * each + lists


def soak(
    name: str, minutes: float, more: Sequence[Callable] = (), every: float | None = None
) -> dict[str, Any]:
    """Train for so long, and say how memory went.

    Args:
        more: callbacks, such as one that leaks, to see that it is found.
        every: seconds between two measurements. None: 10, or less where the time is short.
    """
    import numpy as np
    import psutil

    from metis_nb import agents, callbacks, evaluate
    from metis_nb.notebook import live

    trainer, networks = made(name)
    process, points, seconds = psutil.Process(), [], 60 * minutes
    every = every or min(10.0, seconds / 40)
    trainer.train(*networks, steps=2 * CAPACITY, progress=False)  # fills the memory
    begin, due = time.perf_counter(), 0.0

    def look(trainer: Any) -> bool | None:
        nonlocal due
        now = time.perf_counter() - begin
        if now < due:
            return None
        due = now + every
        path = Path(folder) / "file.safetensors"
        trainer.save(path)
        agents.load(path, "q_network" if name in ("DQN", "DDQN") else "actor")
        loaded = type(trainer).load(path, trainer.env)
        assert loaded.run.steps == trainer.run.steps
        evaluate(trainer.env, networks[0], episodes=2, max_steps=100_000)
        live.picture(trainer, None, now)
        del loaded
        gc.collect()
        # A long history is what was asked for, and so are the larger files and pictures of it.
        del trainer.history[:-KEPT], trainer.history.episodes[:-KEPT]
        points.append((now, process.memory_info().rss, bytes_of(trainer.history)))
        return ended() or None

    def ended() -> bool:
        return len(points) >= LEAST and points[-1][0] >= seconds

    with tempfile.TemporaryDirectory() as folder:
        while not ended():  # many trainings, each with its own snapshots
            given = [callbacks.snapshots(2), look, *more]
            trainer.train(*networks, steps=20_000, callbacks=given, progress=False)

    at, resident, explained = np.array(points).T
    after = at >= at[-1] / 4
    hours, unexplained = at[after] / 3600, (resident - explained)[after] / MIB
    slope = float(np.polyfit(hours, unexplained, 1)[0])
    growth = slope * float(hours[-1] - hours[0])
    allowed = max(5.0, 0.02 * float(unexplained[0]))
    return {
        "trainer": name,
        "minutes": minutes,
        "verdict": "flat" if growth < allowed else "grows",
        "MiB per hour": round(slope, 2),
        "growth MiB": round(growth, 2),
        "allowed MiB": round(allowed, 2),
        "history MiB": round(float(explained[-1] - explained[after][0]) / MIB, 2),
        "total growth MiB": round(float(resident[-1] - resident[after][0]) / MIB, 2),
        "resident MiB": round(float(resident[-1]) / MIB, 1),
        "measurements": len(points),
        "steps": trainer.run.steps,
    }


def in_its_own_process(name: str, minutes: float) -> dict[str, Any]:
    """The result of one trainer, whose memory is no other's."""
    command = [sys.executable, str(Path(__file__).resolve()), "--only", name]
    env = {"OMP_NUM_THREADS": "1", **os.environ}
    ended = subprocess.run(
        [*command, "--minutes", str(minutes)], env=env, stdout=subprocess.PIPE, text=True
    )
    if ended.returncode:
        return {"trainer": name, "minutes": minutes, "verdict": f"ended with {ended.returncode}"}
    return json.loads(ended.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--trainers", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--out", type=Path, help="a file of JSON lines, which are added to")
    parser.add_argument("--jobs", type=int, default=1, help="trainers at a time")
    parser.add_argument("--only", choices=NAMES, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.only:
        print(json.dumps(soak(chosen.only, chosen.minutes)))
        return 0
    lines = chosen.out.read_text().splitlines() if chosen.out and chosen.out.exists() else []
    done = [json.loads(line) for line in lines]
    done = [
        each
        for each in done
        if each["minutes"] == chosen.minutes and each["verdict"] in ("flat", "grows")
    ]
    left = [name for name in chosen.trainers if name not in {each["trainer"] for each in done}]
    results = [each for each in done if each["trainer"] in chosen.trainers]
    with concurrent.futures.ThreadPoolExecutor(chosen.jobs) as pool:
        waiting = [pool.submit(in_its_own_process, name, chosen.minutes) for name in left]
        for future in concurrent.futures.as_completed(waiting):
            results.append(future.result())
            print(json.dumps(results[-1]), flush=True)
            if chosen.out:
                with chosen.out.open("a") as file:
                    file.write(json.dumps(results[-1]) + "\n")
    return int(any(each["verdict"] != "flat" for each in results))


if __name__ == "__main__":
    sys.exit(main())
