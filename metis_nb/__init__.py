"""Deep reinforcement learning to read, run and copy.

env = gym.make("CartPole-v1")
actor, critic = agents.actor(env), agents.critic(env)
trainer = PPO(env)
trainer.train(actor, critic)
play(env, actor)
"""

from __future__ import annotations

import random

import numpy as np
import torch

from metis_nb import agents, callbacks, envs, exact, player, plots
from metis_nb.evaluate import evaluate
from metis_nb.panels import panel, predict
from metis_nb.player import play
from metis_nb.replay import PrioritizedReplay, ReplayBuffer
from metis_nb.source import diff, show
from metis_nb.trainers.a2c import A2C
from metis_nb.trainers.ddpg import DDPG
from metis_nb.trainers.ddqn import DDQN
from metis_nb.trainers.dqn import DQN
from metis_nb.trainers.ppo import PPO
from metis_nb.trainers.sac import SAC
from metis_nb.trainers.td3 import TD3
from metis_nb.trainers.vpg import VPG

__version__ = "0.1.0"
__all__ = [
    "A2C",
    "DDPG",
    "DDQN",
    "DQN",
    "PPO",
    "SAC",
    "TD3",
    "VPG",
    "PrioritizedReplay",
    "ReplayBuffer",
    "agents",
    "callbacks",
    "device",
    "diff",
    "envs",
    "evaluate",
    "exact",
    "panel",
    "play",
    "plots",
    "predict",
    "seed",
    "show",
]


def device() -> torch.device:
    """The fastest device there is: "cuda" (NVIDIA, AMD), else "mps" (Apple), else "cpu"."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def seed(number: int) -> None:
    """Seed the global generators of Python, NumPy and torch, and the one of `play`: from them come
    the first weights of the networks, and the seeds of trainers and episodes made without one."""
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
    player.chance.seed(number)
