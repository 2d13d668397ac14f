"""Do the trainers' defaults solve their tasks, seed after seed? Judged on the policy at the end.

    python benchmarks/seeds.py --jobs 2

Trains seeds 0 .. 9 with every algorithm on every task, with 16 environments and with one, and
evaluates each final policy over 100 greedy episodes. MountainCarContinuous-v0 has its own settings.
A run that is already in the file is not run
again, so the script can be stopped and called again. Exit code 1 where fewer than nine tenths of
the seeds solve a task.
"""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: each process has one core

import gymnasium as gym
import tables
from gymnasium.spaces import Discrete
from tasks import TASKS
from tqdm import tqdm

import metis_nb
from metis_nb import A2C, DDPG, DDQN, DQN, PPO, SAC, TD3, VPG, agents, envs, evaluate
from metis_nb.envs.spaces import Environment, single_spaces

TRAINERS = {kind.__name__: kind for kind in (VPG, A2C, PPO, DQN, DDQN, DDPG, TD3, SAC)}
# A problem of exploration: a random push has to find the flag before there is anything to learn.
# This is what it takes: noise that pushes one way for longer, and for more than a few episodes.
SETTINGS: dict[str, dict[str, float]] = {
    "MountainCarContinuous-v0": {
        "learning_rate": 3e-3,
        "noise_correlation": 0.95,
        "learning_starts": 10_000,
    }
}
# These train with random actions among their own, so that their training episodes say too little:
# every so many steps their greedy policy plays, until it has reached the bar.
EVALUATED_EVERY = {"DQN": 2_500, "DDQN": 2_500}
KINDS = {"16 environments": lambda task: envs.make(task, num_envs=16), "one environment": gym.make}
KIND_NAMES = dict(zip(["vector", "single"], KINDS))  # as given to --kinds


def networks_for(algorithm: str, env: Environment) -> list:
    """What the trainer's `train` wants."""
    discrete = isinstance(single_spaces(env)[1], Discrete)
    if algorithm in ("DQN", "DDQN"):
        return [agents.q_network(env)]
    if algorithm == "DDPG":
        return [agents.actor(env, deterministic=True), agents.q_critic(env)]
    if algorithm == "TD3":
        actor = agents.actor(env, deterministic=True)
        return [actor, [agents.q_critic(env), agents.q_critic(env)]]
    if algorithm == "SAC":
        critic = agents.q_network if discrete else agents.q_critic
        return [agents.actor(env, squashed=not discrete), [critic(env), critic(env)]]
    return [agents.actor(env)] if algorithm == "VPG" else [agents.actor(env), agents.critic(env)]


def run(algorithm: str, task: str, kind: str, seed: int) -> dict:
    """One training from beginning to end, and what came of it."""
    bar, steps = TASKS[algorithm][task]
    metis_nb.seed(seed)
    env = KINDS[kind](task)
    if algorithm in EVALUATED_EVERY and task == "Pendulum-v1":
        env = envs.DiscretizeAction(env)
    networks = networks_for(algorithm, env)
    reached: dict = {}
    evaluated = {"steps": 0, "cpu_seconds": 0.0}
    begin = time.process_time()

    def watch(trainer: Any) -> None:
        row, now = trainer.history[-1], time.process_time()
        if reached:
            return
        if every := EVALUATED_EVERY.get(algorithm):
            if row["steps"] < evaluated["steps"] + every:
                return
            solved = evaluate(env, networks[0], episodes=20, seed=1).mean() >= bar
        else:
            solved = row["episodes"] >= 20 and row["return"] >= bar
        if solved:
            reached.update(steps=row["steps"], cpu_seconds=now - begin - evaluated["cpu_seconds"])
        evaluated["steps"] = row["steps"]
        evaluated["cpu_seconds"] += time.process_time() - now

    trainer = TRAINERS[algorithm](env, seed=seed, **SETTINGS.get(task, {}))
    # A training ends with a whole rollout: this one within `steps`, not just after.
    within = steps - getattr(trainer, "rollout_steps", getattr(trainer, "collect_steps", 10_000))
    trainer.train(*networks, steps=within, callbacks=watch, progress=False)
    cpu_seconds = time.process_time() - begin - evaluated["cpu_seconds"]
    if trainer.run.stopped:  # by Ctrl-C, after the update under way: that is half a training
        raise RuntimeError("interrupted: this run counts for nothing")
    returns = evaluate(env, networks[0], episodes=100)
    return {
        "algorithm": algorithm,
        "task": task,
        "kind": kind,
        "seed": seed,
        "return": round(float(returns.mean()), 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "steps": trainer.run.steps,
        "steps_to_bar": reached.get("steps"),
        "cpu_seconds_to_bar": round(reached["cpu_seconds"], 1) if reached else None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, help="seeds 0 .. N-1 (default 10)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once, a core for each")
    tasks = list({task: None for each in TASKS.values() for task in each})
    parser.add_argument("--algorithms", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=tasks)
    parser.add_argument("--kinds", nargs="+", choices=KIND_NAMES, default=list(KIND_NAMES))
    parser.add_argument("--out", type=Path, default=tables.RESULTS / "seeds.jsonl")
    options = parser.parse_args()

    results = []
    if options.out.exists():
        results = [json.loads(line) for line in options.out.read_text().splitlines()]
    done = {(r["algorithm"], r["task"], r["kind"], r["seed"]) for r in results}
    kinds = [KIND_NAMES[name] for name in options.kinds]
    every = product(options.algorithms, options.tasks, kinds, range(options.seeds))
    wanted = [what for what in every if what[1] in TASKS[what[0]]]
    with ProcessPoolExecutor(options.jobs) as pool, options.out.open("a") as file:
        futures = [pool.submit(run, *what) for what in wanted if what not in done]
        try:
            for future in tqdm(as_completed(futures), total=len(futures), unit=" runs"):
                results.append(future.result())
                file.write(json.dumps(results[-1]) + "\n")
                file.flush()
        finally:  # after an error or Ctrl-C, start no more runs, which nobody would write down
            pool.shutdown(cancel_futures=True)

    wanted_now = set(wanted)
    results = [
        r for r in results if (r["algorithm"], r["task"], r["kind"], r["seed"]) in wanted_now
    ]
    print(tables.seeds(results), tables.seed_by_seed(results), sep="\n\n")
    return 0 if tables.solved(results) else 1


if __name__ == "__main__":
    sys.exit(main())
