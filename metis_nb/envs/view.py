"""The tensor view: any Gymnasium environment as batched float32 tensors on the networks' device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from metis_nb.envs.snapshot import capture, restore
from metis_nb.envs.spaces import ActionUnits, Environment, single_spaces

# Vector environments seed their N sub-environments s, s + 1, ..., s + N - 1. Seeds this far apart
# share none of them.
SEED_STRIDE = 2**20


@dataclass
class Step:
    """What one step of N environments gave. Tensors on the view's device.

    Where an episode ended, `next_obs` is its true last observation and `obs` the first of the
    next episode; elsewhere they are equal. `valid` is False for a step that only reset a
    sub-environment (`AutoresetMode.NEXT_STEP`): it is no experience.
    """

    obs: Tensor  # (N, *obs_shape) float32, to act on next
    next_obs: Tensor  # (N, *obs_shape) float32, the successor of the observation acted on
    reward: Tensor  # (N,) float32
    terminated: Tensor  # (N,) bool
    truncated: Tensor  # (N,) bool
    valid: Tensor  # (N,) bool


class TensorView:
    """Any `gym.Env` or `gym.vector.VectorEnv`, in any autoreset mode, as N environments.

    Policy actions in (an index, or [-1, 1] per dimension), tensors out. A vector environment that
    speaks torch tensors on the device is passed straight through, without a copy; it must not
    write into tensors that it has handed out.

    Args:
        env: the environment. A single one counts as N = 1.
        device: where the tensors are wanted.
        seed: for the first reset; None leaves the environment's own chance as it is. Two seeds
            share no sub-environment.
        finished: a list that gets (environment steps so far, return, length) of every episode
            that ends.
    """

    def __init__(
        self,
        env: Environment,
        device: torch.device | str = "cpu",
        seed: int | None = None,
        finished: list[tuple[int, float, int]] | None = None,
    ):
        self.obs_space, self.action_space = single_spaces(env)
        self.env, self.device = env, torch.device(device)
        self.next_seed = None if seed is None else seed * SEED_STRIDE  # for one reset only
        self.finished = [] if finished is None else finished
        self.vectorised = isinstance(env, VectorEnv)
        self.num_envs: int = env.num_envs if isinstance(env, VectorEnv) else 1
        self.mode = autoreset_mode(env) if isinstance(env, VectorEnv) else AutoresetMode.DISABLED
        self.action_units = ActionUnits(self.action_space).to(self.device)
        self.steps = 0  # environment steps so far, resets left out
        self.returns_tensors = False  # known after the first reset
        self._obs: Tensor | None = None  # None: the next step needs a reset
        self.resetting = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self.episode_return = torch.zeros(self.num_envs, device=self.device)
        self.episode_length = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)

    @property
    def running(self) -> bool:
        """Whether episodes are under way; if not, `reset` is due."""
        return self._obs is not None

    @property
    def obs(self) -> Tensor:
        """What to act on next: (N, *obs_shape)."""
        if self._obs is None:
            raise RuntimeError("the environment is not running: call reset() first.")
        return self._obs

    def reset(self) -> Tensor:
        """Start new episodes everywhere; returns obs (N, *obs_shape). Seeds the first time only."""
        seed, self.next_seed = self.next_seed, None
        if seed is not None:
            self.env.action_space.seed(seed)
        obs, _ = self.env.reset(seed=seed)
        self.returns_tensors = isinstance(obs, Tensor)
        self._obs = self._observation(obs if self.vectorised else np.asarray(obs)[None])
        for values in (self.resetting, self.episode_return, self.episode_length):
            values.zero_()
        self._check(self._obs, self.episode_return)
        return self._obs

    def step(self, action: Tensor) -> Step:
        """Take policy actions (N,) int64 or (N, A) float32, one for each environment.

        Raises:
            FloatingPointError: an observation or reward that is not finite, and at which step.
        """
        # Until the step is whole, the view counts as stopped in the middle (Ctrl-C, an error).
        self._obs, valid = None, ~self.resetting
        action = self.action_units.to_env(action)
        if self.vectorised:
            raw = action if self.returns_tensors else self.action_units.to_numpy(action)
            obs, reward, terminated, truncated, info = self.env.step(raw)
        else:
            only = self.action_units.to_numpy(action)[0]
            obs, reward, terminated, truncated, info = self.env.step(only)
            obs = np.asarray(obs)[None]
        next_obs = self._observation(obs)
        reward = self._tensor(reward, torch.float32)
        terminated = self._tensor(terminated, torch.bool)
        truncated = self._tensor(truncated, torch.bool)
        done, obs = terminated | truncated, next_obs
        self.steps += int(valid.sum())
        any_done = bool(done.any())
        if self.mode == AutoresetMode.NEXT_STEP:
            self.resetting = done
        elif any_done and self.mode == AutoresetMode.SAME_STEP:
            next_obs = self._final_obs(info, obs, done)
        elif any_done:
            obs = self._reset_where(done, obs)
        self._check(next_obs, reward)
        if any_done and self.mode != AutoresetMode.NEXT_STEP:
            self._check(obs, reward)
        self._count(reward, valid, done, any_done)
        self._obs = obs
        return Step(obs, next_obs, reward, terminated, truncated, valid)

    def _count(self, reward: Tensor, valid: Tensor, done: Tensor, any_done: bool) -> None:
        self.episode_return += torch.where(valid, reward, 0.0)
        self.episode_length += valid
        if any_done:
            returns, lengths = self.episode_return[done], self.episode_length[done]
            for episode in zip(returns.tolist(), lengths.tolist(), strict=True):
                self.finished.append((self.steps, *episode))
            self.episode_return[done], self.episode_length[done] = 0.0, 0

    # --- to and from tensors --------------------------------------------------------------

    def _observation(self, obs: Any) -> Tensor:
        if isinstance(obs, Tensor):
            return obs.to(self.device, torch.float32)  # no copy where it is so already
        # A copy: some environments hand out the same array at every step.
        return torch.from_numpy(np.array(obs, dtype=np.float32)).to(self.device)

    def _tensor(self, values: Any, dtype: torch.dtype) -> Tensor:
        if isinstance(values, Tensor):
            return values.to(self.device, dtype)
        kind = np.float32 if dtype == torch.float32 else np.bool_
        return torch.from_numpy(np.array(values, dtype=kind).reshape(-1)).to(self.device)

    # --- ends of episodes -----------------------------------------------------------------

    def _final_obs(self, info: dict[str, Any], obs: Tensor, done: Tensor) -> Tensor:
        final = info["final_obs"]
        if isinstance(final, Tensor):
            where = done.reshape(-1, *[1] * (obs.ndim - 1))
            return torch.where(where, self._observation(final), obs)
        rows = done.nonzero()[:, 0].tolist()
        next_obs = obs.clone()
        next_obs[rows] = self._observation(np.stack([final[row] for row in rows]))
        return next_obs

    def _reset_where(self, done: Tensor, obs: Tensor) -> Tensor:
        if not self.vectorised:
            first, _ = self.env.reset()
            return self._observation(np.asarray(first)[None])
        mask = done if self.returns_tensors else done.cpu().numpy()
        fresh, _ = self.env.reset(options={"reset_mask": mask})
        return torch.where(done.reshape(-1, *[1] * (obs.ndim - 1)), self._observation(fresh), obs)

    def _check(self, obs: Tensor, reward: Tensor) -> None:
        # One sum says whether all is well, at the cost of one look; which and where comes after.
        if np.isfinite(float(obs.sum() + reward.sum())):
            return
        for name, values in (("observation", obs), ("reward", reward)):
            bad = ~values.reshape(self.num_envs, -1).isfinite().all(1)
            if bool(bad.any()):
                index = int(bad.nonzero()[0, 0])
                raise FloatingPointError(
                    f"env gave a {name} that is not finite ({values[index].tolist()}) at "
                    f"environment step {self.steps}, in environment {index} of {self.num_envs}. "
                    f"Training stopped before it could reach the networks, which are as they "
                    f"were after the last update."
                )

    # --- going on later, or elsewhere -----------------------------------------------------

    def to(self, device: torch.device) -> None:
        """Hand out tensors on another device from now on; episodes go on."""
        self.device = device
        self.action_units.to(device)
        self._obs = None if self._obs is None else self._obs.to(device)
        self.resetting = self.resetting.to(device)
        self.episode_return = self.episode_return.to(device)
        self.episode_length = self.episode_length.to(device)

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on; `env` is None where it cannot be captured."""
        return {
            "env": capture(self.env),
            "obs": self._obs,
            "resetting": self.resetting,
            "episode_return": self.episode_return.clone(),
            "episode_length": self.episode_length.clone(),
            "steps": self.steps,
            "returns_tensors": self.returns_tensors,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Go on from `state`; False where the environment has to start new episodes instead."""
        self.steps = state["steps"]
        if state["obs"] is None or state["env"] is None or len(state["obs"]) != self.num_envs:
            if self.next_seed is not None:
                self.next_seed += self.steps  # new episodes, not those of the beginning again
            return False
        restore(self.env, state["env"])
        self.next_seed, self.returns_tensors = None, state["returns_tensors"]
        self._obs, self.resetting = state["obs"], state["resetting"]
        self.episode_return, self.episode_length = state["episode_return"], state["episode_length"]
        self.to(self.device)
        return True


def autoreset_mode(env: VectorEnv) -> AutoresetMode:
    """The vector environment's autoreset mode.

    Raises:
        ValueError: it names a mode that Gymnasium does not have.
    """
    # Before Gymnasium 1.4 all vector environments of a class shared one metadata, so that the mode
    # in it was that of the last one made: where the environment itself knows, it is right.
    default = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    mode = getattr(env.unwrapped, "autoreset_mode", default)
    try:
        return AutoresetMode(mode)
    except ValueError:
        known = ", ".join(f"AutoresetMode.{mode.name}" for mode in AutoresetMode)
        raise ValueError(
            f'env.metadata["autoreset_mode"] is {mode!r}; expected one of {known}.'
        ) from None
