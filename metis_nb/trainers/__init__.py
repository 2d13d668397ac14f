"""The trainers: one algorithm, one file, to be read from top to bottom, independent of the others.

from metis_nb.trainers import PPO
"""

from metis_nb.trainers.a2c import A2C
from metis_nb.trainers.ddpg import DDPG
from metis_nb.trainers.ddqn import DDQN
from metis_nb.trainers.dqn import DQN
from metis_nb.trainers.ppo import PPO
from metis_nb.trainers.sac import SAC
from metis_nb.trainers.td3 import TD3
from metis_nb.trainers.vpg import VPG

__all__ = ["A2C", "DDPG", "DDQN", "DQN", "PPO", "SAC", "TD3", "VPG"]
