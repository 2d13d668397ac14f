"""An environment whose episodes are written down beforehand, and rollouts through its views."""

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

# How each episode ends, in turn: after how many steps, and in which way.
EPISODES = [(3, "terminated"), (5, "truncated"), (1, "truncated"), (4, "both"), (2, "terminated")]


class Scripted(gym.Env):
    """Observes (number of the episode, step in it); the reward is made from both."""

    observation_space = Box(-100, 100, (2,), np.float32)
    action_space = Discrete(3)

    def __init__(self, first=0):
        self.first, self.episode = first, first - 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.count = 0
        return self._obs(), {}

    def step(self, action):
        self.count += 1
        length, how = EPISODES[self.episode % len(EPISODES)]
        over = self.count == length
        reward = 1.0 + 0.5 * self.count - 0.25 * self.episode + 0.1 * self.count**2
        terminated = over and how in ("terminated", "both")
        return self._obs(), reward, terminated, over and how in ("truncated", "both"), {}

    def _obs(self):
        return np.array([self.episode, self.count], np.float32)


class TorchVector(VectorEnv):
    """A batch that speaks torch: a counter in each environment, cut off at its own limit."""

    def __init__(self, limits=(3, 4), mode=AutoresetMode.SAME_STEP, device="cpu"):
        self.num_envs = len(limits)
        self.limits = torch.tensor(limits, device=device)
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space = Box(-100, 100, (1,), np.float32)
        self.single_action_space = Discrete(2)
        self.observation_space = Box(-100, 100, (self.num_envs, 1), np.float32)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, self.num_envs)
        self.handed_out = None
        self.actions = []

    def reset(self, *, seed=None, options=None):
        if options and "reset_mask" in options:
            mask = options["reset_mask"]
            assert isinstance(mask, torch.Tensor)
            self.count = torch.where(mask, 0, self.count)
        else:
            self.count = torch.zeros_like(self.limits)
        return self._obs(), {}

    def step(self, action):
        self.actions.append(action)
        self.count = self.count + 1
        truncated = self.count >= self.limits
        info = {}
        if self.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP and truncated.any():
            info["final_obs"] = self._obs()
            self.count = torch.where(truncated, 0, self.count)
        ones = torch.ones(self.num_envs, device=self.limits.device)
        return self._obs(), ones, torch.zeros_like(truncated), truncated, info

    def _obs(self):
        self.handed_out = self.count[:, None].float()
        return self.handed_out


def in_every_mode():
    """The same scripted environment, as a single one and in each autoreset mode."""
    yield "single", Scripted()
    for mode in AutoresetMode:
        yield mode.name, SyncVectorEnv([Scripted], autoreset_mode=mode)
