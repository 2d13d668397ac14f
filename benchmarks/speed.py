"""How long until CartPole is solved? Beside Stable-Baselines3, in one run, on one thread.

    pip install -c constraints.txt -e ".[benchmark]"
    python benchmarks/speed.py

CPU seconds of training until the last 20 training episodes have a mean return of 475, with the
same networks everywhere (two hidden layers of 64, tanh, actor and critic apart). The contenders
take turns seed by seed, so that whatever else the machine does falls on all of them alike. A run
that never gets there counts as infinitely slow. The policy at the stop is then evaluated over 100
greedy episodes, the same for all: quick is worth nothing if it is not good.
"""

import argparse
import os
import platform
import re
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # before torch

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import tables
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor, nn
from tqdm import tqdm

import metis_nb
from metis_nb import A2C, PPO, VPG, agents, callbacks, envs, evaluate

torch.set_num_threads(1)
BAR, MOST_STEPS = 475, 200_000


class Result(NamedTuple):
    cpu_seconds: float
    steps: int  # in the environments
    reached: bool
    greedy_return: float  # mean over 100 episodes, of the policy at the stop


def ours(kind: type, seed: int, num_envs: int) -> Result:
    """A trainer of this package, with its defaults."""
    metis_nb.seed(seed)
    env = envs.make("CartPole-v1", num_envs) if num_envs > 1 else gym.make("CartPole-v1")
    actor = agents.actor(env)
    networks = [actor] if kind is VPG else [actor, agents.critic(env)]
    trainer = kind(env, seed=seed)
    begin = time.process_time()
    trainer.train(
        *networks, MOST_STEPS, callbacks=callbacks.stop_at(BAR, episodes=20), progress=False
    )
    seconds = time.process_time() - begin
    reached = bool(trainer.history[-1]["return"] >= BAR)
    greedy_return = evaluate("CartPole-v1", actor).mean()
    return Result(round(seconds, 2), trainer.run.steps, reached, round(float(greedy_return), 1))


class StopAt(BaseCallback):
    """The same stop for Stable-Baselines3, looked at as often: after each rollout."""

    reached = False

    def _on_step(self) -> bool:
        return not self.reached

    def _on_rollout_end(self) -> None:
        recent = [episode["r"] for episode in self.model.ep_info_buffer][-20:]
        self.reached = len(recent) == 20 and float(np.mean(recent)) >= BAR


class Greedy(nn.Module):
    """A policy of Stable-Baselines3 as `evaluate` wants it, so that all play the same episodes."""

    def __init__(self, policy: nn.Module):
        super().__init__()
        self.policy = policy

    def act(self, obs: Tensor) -> Tensor:
        return self.policy._predict(obs, deterministic=True)


# The settings for CartPole-v1 in rl-baselines3-zoo, hyperparams/ppo.yml.
ZOO = dict(
    n_steps=32,
    batch_size=256,
    gae_lambda=0.8,
    gamma=0.98,
    n_epochs=20,
    ent_coef=0.0,
    learning_rate=lambda left: 1e-3 * left,
    clip_range=lambda left: 0.2 * left,
)


def theirs(kind: type, seed: int, num_envs: int, total: int, settings: dict) -> Result:
    """A trainer of Stable-Baselines3."""
    env = make_vec_env("CartPole-v1", n_envs=num_envs, seed=seed)
    model = kind("MlpPolicy", env, seed=seed, device="cpu", **settings)
    stop = StopAt()
    begin = time.process_time()
    model.learn(total, callback=stop)
    seconds = time.process_time() - begin
    greedy_return = evaluate("CartPole-v1", Greedy(model.policy)).mean()
    greedy = round(float(greedy_return), 1)
    return Result(round(seconds, 2), model.num_timesteps, stop.reached, greedy)


CONTENDERS = {
    "metis_nb VPG, 16 environments": lambda seed: ours(VPG, seed, 16),
    "metis_nb A2C, 16 environments": lambda seed: ours(A2C, seed, 16),
    "metis_nb PPO, 16 environments": lambda seed: ours(PPO, seed, 16),
    "metis_nb VPG, one environment": lambda seed: ours(VPG, seed, 1),
    "metis_nb A2C, one environment": lambda seed: ours(A2C, seed, 1),
    "metis_nb PPO, one environment": lambda seed: ours(PPO, seed, 1),
    "Stable-Baselines3 A2C, its defaults (1)": lambda s: theirs(sb3.A2C, s, 1, 500_000, {}),
    # The zoo's A2C for CartPole-v1 is the defaults with 8 environments (hyperparams/a2c.yml).
    "Stable-Baselines3 A2C, the zoo's settings (8)": lambda s: theirs(sb3.A2C, s, 8, 500_000, {}),
    "Stable-Baselines3 PPO, the zoo's settings (8)": lambda s: theirs(sb3.PPO, s, 8, 100_000, ZOO),
    "Stable-Baselines3 PPO, its defaults (1)": lambda s: theirs(sb3.PPO, s, 1, MOST_STEPS, {}),
}


def processor() -> str:
    """The processor's name, which Python itself does not know on Linux."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 .. N-1 (default 5)")
    parser.add_argument("--save", action="store_true", help="to benchmarks/results/")
    options = parser.parse_args()
    rows = []
    with tqdm(total=options.seeds * len(CONTENDERS), unit=" runs") as bar:
        for seed in range(options.seeds):
            for name, contender in CONTENDERS.items():
                rows.append({"contender": name, "seed": seed, **contender(seed)._asdict()})
                bar.update()
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "gymnasium", "stable-baselines3"))
    if options.save:
        tables.save("speed", rows, f"{packages}; {processor()}; one thread")
    print(tables.speed(rows))


if __name__ == "__main__":
    main()
