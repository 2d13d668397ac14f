"""DDPG, TD3 and SAC: how long until Pendulum is solved, and what does a step cost?

    pip install -c constraints.txt -e ".[benchmark]"
    python benchmarks/off_policy.py

First, CPU seconds of training, with our defaults and 8 environments, until the last 20 training
episodes have a mean return of -200. A run that never gets there counts as infinitely slow.

Then the cost of one environment step with one gradient step, beside Stable-Baselines3, at the sizes
that are its defaults: two hidden layers of 256 (400 and 300 in its TD3 and DDPG are given as 256
too), ReLU, batches of 256, one environment. Ours collect 16 steps and then make 16 gradient steps,
as they do by default; theirs make one after each step. The contenders take turns, so that whatever
else the machine does falls on all of them alike; everything on one thread.
"""

import argparse
import os
import time
from importlib.metadata import version

os.environ["OMP_NUM_THREADS"] = "1"  # before torch

import gymnasium as gym
import stable_baselines3 as sb3
import tables
import torch
from seeds import networks_for
from tqdm import tqdm

import metis_nb
from metis_nb import DDPG, SAC, TD3, agents, callbacks, envs, evaluate

torch.set_num_threads(1)
BAR, MOST_STEPS, TIMED_STEPS = -200, 20_000, 1_500
OURS = {"DDPG": DDPG, "TD3": TD3, "SAC": SAC}
THEIRS = {"DDPG": sb3.DDPG, "TD3": sb3.TD3, "SAC": sb3.SAC}


def to_bar(name: str, seed: int) -> dict:
    """A row: CPU seconds and steps until the bar, and the greedy return at that moment."""
    metis_nb.seed(seed)
    env = envs.make("Pendulum-v1", num_envs=8)
    networks = networks_for(name, env)
    trainer = OURS[name](env, seed=seed)
    begin = time.process_time()
    stop = callbacks.stop_at(BAR, episodes=20)
    trainer.train(*networks, MOST_STEPS, callbacks=stop, progress=False)
    return {
        "algorithm": name,
        "seed": seed,
        "cpu_seconds": round(time.process_time() - begin, 2),
        "steps": trainer.run.steps,
        "reached": bool(trainer.history[-1]["return"] >= BAR),
        "greedy_return": round(float(evaluate(env, networks[0]).mean()), 1),
    }


def our_step(name: str, seed: int) -> float:
    """CPU milliseconds for a step with its update, of this package."""
    metis_nb.seed(seed)
    env = gym.make("Pendulum-v1")
    wide = dict(hidden_sizes=(256, 256), activation=torch.nn.ReLU)
    actor = agents.actor(env, squashed=name == "SAC", deterministic=name != "SAC", **wide)
    critics = [agents.q_critic(env, **wide) for _ in range(2)]
    sizes = dict(batch_size=256, updates_per_step=1.0, learning_starts=100)
    trainer = OURS[name](env, seed=seed, **sizes)
    networks = [actor, critics[0] if name == "DDPG" else critics]
    trainer.train(*networks, 200, progress=False)
    begin = time.process_time()
    trainer.train(*networks, TIMED_STEPS, progress=False)
    return (time.process_time() - begin) / TIMED_STEPS * 1000


def their_step(name: str, seed: int) -> float:
    """The same of Stable-Baselines3."""
    settings = dict(policy_kwargs={"net_arch": [256, 256]}, learning_starts=100, batch_size=256)
    # One gradient step after each environment step: for DDPG and TD3, too, its own default.
    settings |= dict(train_freq=1, gradient_steps=1, device="cpu", seed=seed)
    model = THEIRS[name]("MlpPolicy", "Pendulum-v1", **settings)
    model.learn(200)
    begin = time.process_time()
    model.learn(TIMED_STEPS, reset_num_timesteps=False)
    return (time.process_time() - begin) / TIMED_STEPS * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 .. N-1 (default 5)")
    parser.add_argument("--save", action="store_true", help="to benchmarks/results/")
    options = parser.parse_args()
    first, cost = [], []
    with tqdm(total=options.seeds * 9, unit=" runs") as bar:
        for seed in range(options.seeds):
            for name in OURS:
                first.append(to_bar(name, seed))
                ours, theirs = round(our_step(name, seed), 3), round(their_step(name, seed), 3)
                cost.append({"algorithm": name, "seed": seed, "ours_ms": ours, "theirs_ms": theirs})
                bar.update(3)
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "gymnasium", "stable-baselines3"))
    if options.save:
        tables.save("off_policy_to_bar", first, "")
        tables.save("off_policy_steps", cost, f"{packages}; one thread")
    print(tables.to_bar(first), tables.beside_theirs(cost), sep="\n\n")


if __name__ == "__main__":
    main()
