"""How long until CartPole is solved? PPO beside Stable-Baselines3, in one run, on one thread.

    pip install -c constraints.txt -e ".[benchmark]"
    python benchmarks/ppo_speed.py

CPU seconds of training until the last 20 training episodes have a mean return of 475, with the
same networks everywhere (two hidden layers of 64, tanh, actor and critic apart). The contenders
take turns seed by seed, so that whatever else the machine does falls on all of them alike.
"""

import argparse
import os
import platform
import statistics
import time
from importlib.metadata import version

os.environ["OMP_NUM_THREADS"] = "1"  # before torch

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from tqdm import tqdm

import metis_nb
from metis_nb import PPO, agents, callbacks, envs

torch.set_num_threads(1)
BAR, MOST_STEPS = 475, 200_000


def ours(seed: int, num_envs: int) -> tuple[float, int, bool]:
    """(CPU seconds, environment steps, reached) of this package's PPO, with its defaults."""
    metis_nb.seed(seed)
    env = envs.make("CartPole-v1", num_envs) if num_envs > 1 else gym.make("CartPole-v1")
    actor, critic = agents.actor(env), agents.critic(env)
    trainer = PPO(env, seed=seed)
    begin = time.process_time()
    trainer.train(
        actor, critic, MOST_STEPS, callbacks=callbacks.stop_at(BAR, episodes=20), progress=False
    )
    reached = trainer.history[-1]["return"] >= BAR
    return time.process_time() - begin, trainer.run.steps, bool(reached)


class StopAt(BaseCallback):
    """The same stop for Stable-Baselines3, looked at as often: after each rollout."""

    reached = False

    def _on_step(self) -> bool:
        return not self.reached

    def _on_rollout_end(self) -> None:
        recent = [episode["r"] for episode in self.model.ep_info_buffer][-20:]
        self.reached = len(recent) == 20 and float(np.mean(recent)) >= BAR


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


def theirs(seed: int, num_envs: int, total: int, settings: dict) -> tuple[float, int, bool]:
    """(CPU seconds, environment steps, reached) of Stable-Baselines3's PPO."""
    env = make_vec_env("CartPole-v1", n_envs=num_envs, seed=seed)
    model = sb3.PPO("MlpPolicy", env, seed=seed, device="cpu", **settings)
    stop = StopAt()
    begin = time.process_time()
    model.learn(total, callback=stop)
    return time.process_time() - begin, model.num_timesteps, stop.reached


CONTENDERS = {
    "metis_nb PPO, 16 environments": lambda seed: ours(seed, 16),
    "metis_nb PPO, one environment": lambda seed: ours(seed, 1),
    "Stable-Baselines3 PPO, the zoo's settings (8)": lambda seed: theirs(seed, 8, 100_000, ZOO),
    "Stable-Baselines3 PPO, its defaults (1)": lambda seed: theirs(seed, 1, MOST_STEPS, {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 .. N-1 (default 5)")
    options = parser.parse_args()
    results: dict[str, list] = {name: [] for name in CONTENDERS}
    with tqdm(total=options.seeds * len(CONTENDERS), unit=" runs") as bar:
        for seed in range(options.seeds):
            for name, contender in CONTENDERS.items():
                results[name].append(contender(seed))
                bar.update()
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "gymnasium", "stable-baselines3"))
    print(f"{packages}; {platform.processor() or platform.machine()}; one thread\n")
    print("| contender (environments) | reached 475 | CPU seconds, median | range | steps |")
    print("|---|--:|--:|--:|--:|")
    for name, rows in results.items():
        seconds, steps, reached = zip(*rows, strict=True)
        print(
            f"| {name} | {sum(reached)} of {len(rows)} | {statistics.median(seconds):.1f} "
            f"| {min(seconds):.1f} to {max(seconds):.1f} | {statistics.median(steps):,.0f} |"
        )


if __name__ == "__main__":
    main()
