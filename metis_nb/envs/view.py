"""The tensor view: any Gymnasium environment as batched float32 tensors on the networks' device."""

from __future__ import annotations

import multiprocessing.connection
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from metis_nb.envs.intake import fitting, taken
from metis_nb.envs.snapshot import CannotCapture, Snapshot, differences, restore
from metis_nb.envs.spaces import ActionUnits, Environment, name_of, single_spaces

Array = Any  # np.ndarray or Tensor: where the environment lives
NAMES = ("observation", "reward", "terminated", "truncated")  # of what a step gives
OF_NUMBERS = NAMES[1:]  # one for each environment
TYPES = (np.float32, np.float32, np.bool_, np.bool_)
LARGEST = 1e15  # a thousand sums of such numbers can still be squared in float32
MOST_RESETS = 10  # in a row, of steps that were to reset an environment and did not
TENSOR_TYPES = {np.float32: torch.float32, np.bool_: torch.bool}
# Vector environments seed their N sub-environments s, s + 1, ..., s + N - 1. Seeds this far apart
# share none of them. The first half of each stride is for training, the second for evaluation.
SEED_STRIDE = 2**20
# Many environments take seeds of 32 bits: room for 4096 strides. Seeds up to here have one each.
OWN_STRIDE = 3072


def first_seed(seed: int, evaluation: bool = False) -> int:
    """What the first sub-environment is seeded with in a training, or in an evaluation, with this
    seed: below 2**32. Seeds below `OWN_STRIDE` share no sub-environment; two large ones do once
    in millions of times. A training and an evaluation never do."""
    start = seed * SEED_STRIDE
    if seed >= OWN_STRIDE:  # somewhere in the first 2**17 of one of the strides that are left
        drawn = int(np.random.SeedSequence(seed).generate_state(1)[0])
        place, offset = divmod(drawn % ((2**32 // SEED_STRIDE - OWN_STRIDE) * 2**17), 2**17)
        start = (OWN_STRIDE + place) * SEED_STRIDE + offset
    return start + SEED_STRIDE // 2 if evaluation else start


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

    Policy actions in (an index, or [-1, 1] per dimension), tensors out. What a vector environment
    that speaks torch tensors gives stays on the device. Nothing is shared with an environment: it
    may write into the actions that it got, and into whatever it handed out.

    Args:
        env: the environment. A single one counts as N = 1.
        device: where the tensors are wanted.
        seed: for the first reset; None leaves the environment's own generator as it is. Two seeds
            share no sub-environment; see `first_seed`.
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
        self.next_seed = None if seed is None else first_seed(seed)  # for one reset only
        self.finished = [] if finished is None else finished
        self.vectorised = isinstance(env, VectorEnv)
        self.num_envs: int = env.num_envs if isinstance(env, VectorEnv) else 1
        # Of what the environment gives.
        batch = (self.num_envs,) if self.vectorised else ()
        self._shape, self._obs_shape = batch, (*batch, *self.obs_space.shape)
        self.mode = autoreset_mode(env) if isinstance(env, VectorEnv) else AutoresetMode.DISABLED
        self.action_units = ActionUnits(self.action_space).to(self.device)
        self.packs = self.device.type != "cpu"  # a step travels to the device in one piece
        self.steps = 0  # environment steps so far, resets left out
        self._resets_in_a_row = 0
        self.returns_tensors = False  # known after the first reset
        self._obs: Tensor | None = None  # None: the next step needs a reset
        self.obstacle = ""  # what kept a state from being taken over
        # As it was made; at the end of a training it says what has changed since.
        self._made = self._snapshot()
        if self._made is not None:
            self._made.state = {}  # which may be large, and is not needed
        # Kept where the environment lives: in NumPy, or in tensors where it returns tensors.
        self.resetting: Array = np.zeros(self.num_envs, dtype=np.bool_)
        self.episode_return: Array = np.zeros(self.num_envs, dtype=np.float32)
        self._length: Array = np.zeros(self.num_envs, dtype=np.int64)

    @property
    def episode_length(self) -> Tensor:
        """Steps so far of the episodes under way: (N,) int64."""
        return torch.as_tensor(self._length, device=self.device)

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
        seed = self.next_seed
        if seed is not None:
            self.env.action_space.seed(seed)
        try:
            obs, _ = self.env.reset(seed=seed)
        except Exception as error:
            self._check_workers(error)
            raise
        self.next_seed = None  # only now: what an interrupt cut off is the first time again
        self.returns_tensors = self.vectorised and isinstance(obs, Tensor)
        here = self._here("observation", obs, np.float32)
        self._keep(*(0 * values for values in self._kept()))
        self._check(here, self.episode_return)
        self._obs = self._observation(here)
        return self._obs

    def step(self, action: Tensor) -> Step:
        """Take policy actions (N,) int64 or (N, A) float32, one for each environment.

        Raises:
            FloatingPointError: an observation or reward that is not finite, or of 1e15 and more,
                and at which step.
        """
        # Until the step is whole, the view counts as stopped in the middle (Ctrl-C, an error).
        self._obs, valid = None, ~self.resetting
        raw: Any = self.action_units.to_env(action)
        if not self.returns_tensors:
            raw = self.action_units.to_numpy(raw)
        elif (
            raw := self.action_units.to_tensor(raw)
        ) is action:  # of which the trainer keeps the original
            raw = action.clone()
        try:
            gave = self.env.step(raw if self.vectorised else raw[0])
        except (EOFError, ConnectionError) as error:  # a pipe to a process that is no more
            self._check_workers(error)
            raise
        obs, reward, terminated, truncated = map(self._here, NAMES, gave, TYPES)
        done, next_obs = terminated | truncated, obs
        self.steps += int(valid.sum())
        any_done = bool(done.any())
        if self.mode == AutoresetMode.NEXT_STEP:
            self._check_resets(done, valid, any_done)
            self.resetting = done
        elif any_done and self.mode == AutoresetMode.SAME_STEP:
            next_obs = self._final_obs(gave[4], obs, done)
        elif any_done:
            obs = self._reset_where(done, obs)
        self._check(next_obs, reward)
        if any_done and self.mode != AutoresetMode.NEXT_STEP:
            self._check(obs, reward)
        self._count(reward, valid, done, any_done)
        step = self._step(obs, next_obs, reward, terminated, truncated, valid)
        self._obs = step.obs
        return step

    def _count(self, reward: Array, valid: Array, done: Array, any_done: bool) -> None:
        self.episode_return += reward * valid
        self._length += valid
        if any_done:
            returns, lengths = self.episode_return[done], self._length[done]
            for episode in zip(returns.tolist(), lengths.tolist(), strict=True):
                self.finished.append((self.steps, *episode))
            self.episode_return[done], self._length[done] = 0.0, 0

    # --- to and from tensors --------------------------------------------------------------

    def _here(self, what: str, values: Any, kind: type) -> Array:
        """Values of a step, where the environment lives: of this kind, (N,) or (N, *obs_shape), and
        a copy, since some environments hand out the same array at every step."""
        shape = self._shape if what in OF_NUMBERS else self._obs_shape
        if not self.vectorised:
            return taken(what, values, shape, kind)[None]
        if not self.returns_tensors:
            return taken(what, values, shape, kind)
        if not isinstance(values, Tensor):
            values = torch.from_numpy(taken(what, values, None, kind))
        tensor = values.detach().to(self.device, TENSOR_TYPES[kind], copy=True)
        return (
            tensor if tensor.shape == shape else tensor.reshape(fitting(what, tensor.shape, shape))
        )

    def _observation(self, obs: Array) -> Tensor:
        return obs if isinstance(obs, Tensor) else torch.from_numpy(obs).to(self.device)

    def _step(self, obs: Array, next_obs: Array, *columns: Array) -> Step:
        """All of a step on the device. To a GPU it travels in one piece, since each copy waits."""
        if isinstance(obs, Tensor) or not self.packs:
            first = self._observation(obs)
            second = first if next_obs is obs else self._observation(next_obs)
            return Step(first, second, *(self._observation(column) for column in columns))
        N, shape = len(obs), obs.shape[1:]
        parts = [obs.reshape(N, -1)] + [column[:, None] for column in columns]
        if next_obs is not obs:
            parts.append(next_obs.reshape(N, -1))
        packed = torch.from_numpy(np.concatenate(parts, 1, dtype=np.float32)).to(self.device)
        sizes = [part.shape[1] for part in parts]
        first, reward, *flags = packed.split(sizes, 1)
        second = flags.pop() if next_obs is not obs else first
        terminated, truncated, valid = (flag[:, 0] > 0.5 for flag in flags)
        first, second = first.reshape(N, *shape), second.reshape(N, *shape)
        return Step(first, second, reward[:, 0], terminated, truncated, valid)

    # --- ends of episodes -----------------------------------------------------------------

    def _final_obs(self, info: dict[str, Any], obs: Array, done: Array) -> Array:
        final = info.get("final_obs", info.get("final_observation"))  # before Gymnasium 1.0
        if isinstance(obs, Tensor) and isinstance(final, Tensor):
            return torch.where(
                _column(done, obs), self._here("last observation", final, np.float32), obs
            )
        next_obs: Any = obs.clone() if isinstance(obs, Tensor) else obs.copy()
        for row in np.flatnonzero(np.asarray(done.tolist())):
            if final is None or final[row] is None:
                raise ValueError(
                    f'info["final_obs"] has nothing for environment {row}, whose episode ended. '
                    f"With AutoresetMode.SAME_STEP, which env names, it is the last observation of "
                    f"the episode: put it there, or use another mode."
                )
            last = taken("last observation", final[row], self.obs_space.shape, np.float32)
            next_obs[row] = torch.from_numpy(last) if isinstance(obs, Tensor) else last
        return next_obs

    def _reset_where(self, done: Array, obs: Array) -> Array:
        if not self.vectorised:
            first, _ = self.env.reset()
            return self._here("observation", first, np.float32)
        mask = done.clone() if isinstance(done, Tensor) else done.copy()
        fresh, _ = self.env.reset(options={"reset_mask": mask})
        fresh, where = self._here("observation", fresh, np.float32), _column(done, obs)
        if isinstance(obs, Tensor):
            return torch.where(where, fresh, obs)
        return np.where(where, fresh, obs)

    def _check_resets(self, done: Array, valid: Array, any_done: bool) -> None:
        """A step that resets an environment begins an episode; one that only ever ends is none."""
        if not any_done or not bool((stuck := done & ~valid).any()):
            self._resets_in_a_row = 0
            return
        self._resets_in_a_row += 1
        if self._resets_in_a_row == MOST_RESETS:
            raise RuntimeError(
                f"env: environment {stuck.tolist().index(True)} has ended its episode in each of "
                f"{MOST_RESETS} steps that were to reset it. By AutoresetMode.NEXT_STEP, which an "
                f"environment has where it names none, the step after the end of an episode begins "
                f"the next one, and both of its flags are False. Name the mode that it has: "
                f'env.metadata["autoreset_mode"] = AutoresetMode.DISABLED for one that waits for '
                f'reset(options={{"reset_mask": ...}}).'
            )

    def _check_workers(self, error: Exception) -> None:
        """An AsyncVectorEnv of which a process has died says no more than that a pipe broke."""
        processes = getattr(self.env.unwrapped, "processes", [])
        # One that has closed its pipe may still be about to end.
        ended = multiprocessing.connection.wait([p.sentinel for p in processes], timeout=2)
        for process in processes:
            if process.sentinel in ended:
                process.join(2)
        codes = [process.exitcode for process in processes]
        for index, code in enumerate(codes):
            if code is not None:
                raise RuntimeError(
                    f"env: the process of environment {index} of {self.num_envs} has ended (exit "
                    f"code {code}), so that {name_of(self.env)} cannot go on. Usual causes: there "
                    f"was no memory left (exit code -9), a crash in the code of the environment "
                    f"(-11), or an error in it, printed above; a SyncVectorEnv runs it in this "
                    f"process, where it can be seen. Make it anew; a trainer goes on with the new "
                    f"one by save(path) and load(path, env)."
                ) from error

    def _check(self, obs: Array, reward: Array) -> None:
        if isinstance(obs, Tensor):  # in one number: on a GPU each look waits
            fine = bool((obs.abs() < LARGEST).all() & (reward.abs() < LARGEST).all())
        else:
            fine = bool((abs(reward) < LARGEST).all() and (abs(obs) < LARGEST).all())
        if fine:
            return
        for name, values in (("observation", obs), ("reward", reward)):
            numbers = torch.as_tensor(values).reshape(self.num_envs, -1)
            bad = ~(numbers.abs() < LARGEST).all(1)
            if bool(bad.any()):
                index = int(bad.nonzero()[0, 0])
                finite = bool(numbers[index].isfinite().all())
                fault = f"beyond {LARGEST:.0e}, where float32 ends" if finite else "not finite"
                raise FloatingPointError(
                    f"env gave a {name} that is {fault} ({values[index].tolist()}) at "
                    f"environment step {self.steps}, in environment {index} of {self.num_envs}. "
                    f"Training stopped before it could reach the networks, which are as they "
                    f"were after the last update."
                )

    # --- going on later, or elsewhere -----------------------------------------------------

    def _kept(self) -> tuple[Array, Array, Array]:
        return self.resetting, self.episode_return, self._length

    def _keep(self, resetting: Any, episode_return: Any, length: Any) -> None:
        """Bookkeeping to go on with, where the environment lives."""
        values = resetting, episode_return, length
        if self.returns_tensors:
            tensors = [torch.as_tensor(value, device=self.device) for value in values]
            self.resetting, self.episode_return, self._length = tensors
        else:
            arrays = [torch.as_tensor(value).cpu().numpy() for value in values]
            self.resetting, self.episode_return, self._length = arrays
        self.resetting = self.resetting > 0

    def to(self, device: torch.device) -> None:
        """Hand out tensors on another device from now on; episodes go on."""
        self.device, self.packs = device, device.type != "cpu"
        self.action_units.to(device)
        self._obs = None if self._obs is None else self._obs.to(device)
        self._keep(*self._kept())

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on; `env` is None where it cannot be captured."""
        resetting, episode_return, length = (torch.as_tensor(v).clone() for v in self._kept())
        now, made = self._snapshot(), self._made
        first, parts = (each.parts if each else {} for each in (made, now))
        return {
            "env": now and now.state,
            "obstacle": self.obstacle,
            "made": first,
            "changed": [n for n in {**first, **parts} if first.get(n) != parts.get(n)],
            "had_run": made is not None and made.has_run,
            "obs": self._obs,
            "resetting": resetting,
            "episode_return": episode_return,
            "episode_length": length,
            "steps": self.steps,
            "speaks_torch": self.returns_tensors,
        }

    @staticmethod
    def check_state(state: Mapping[str, Any]) -> None:
        """Refuse what `state_dict` never gives.

        Raises:
            ValueError, LookupError, TypeError, AttributeError: it is no such state.
        """
        obs, kept = state["obs"], [state[f"episode_{name}"] for name in ("return", "length")]
        kept.append(state["resetting"])
        if not isinstance(state["steps"], int) or state["steps"] < 0:
            raise ValueError(f"{state['steps']!r} environment steps")
        if not isinstance(state["speaks_torch"], bool):
            raise ValueError(f"speaks_torch={state['speaks_torch']!r}")
        shapes = [each.shape for each in kept] + ([] if obs is None else [obs.shape[:1]])
        if len({*shapes}) != 1 or len(shapes[0]) != 1:
            raise ValueError(f"{len(kept[0])} environments, of which some things are missing")

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Go on from `state`; False where the environment has to start new episodes instead."""
        self.steps = int(state["steps"])
        if not self._take_over(state):
            if self.next_seed is not None:
                # New episodes, not those of the beginning again; and none of an evaluation.
                self.next_seed += self.steps % (SEED_STRIDE // 4)
            return False
        self.next_seed, self.returns_tensors = None, state["speaks_torch"]
        self._obs = state["obs"]
        self._keep(*(state[n].clone() for n in ("resetting", "episode_return", "episode_length")))
        self.to(self.device)
        return True

    def _snapshot(self) -> Snapshot | None:
        try:
            return Snapshot(self.env)
        except (CannotCapture, RecursionError) as error:
            self.obstacle = f"cannot be captured: {error}"
            return None

    def _take_over(self, state: Mapping[str, Any]) -> bool:
        """Bring the environment to `state`, if it was made as that one was."""
        if state["obs"] is None:
            self.obstacle = "no episode was under way"
        elif state["env"] is None:
            self.obstacle = state.get("obstacle", "cannot be captured")
        elif len(state["obs"]) != self.num_envs:
            self.obstacle = f"{len(state['obs'])} environments then, {self.num_envs} now"
        elif state["obs"].shape[1:] != self.obs_space.shape:
            self.obstacle = f"observations of shape {tuple(state['obs'].shape[1:])} then"
        elif self._made is not None:
            try:
                made, changed = state.get("made", {}), set(state.get("changed", ()))
                others = differences(made, changed, self._made, state.get("had_run", True))
                self.obstacle = f"it was made otherwise: {'; '.join(others[:5])}" if others else ""
                if not others:
                    restore(self.env, state["env"])
                    return True
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                self.obstacle = str(error)
        return False


def _column(done: Array, obs: Array) -> Array:
    """(N,) with as many axes as obs (N, *obs_shape) has."""
    return done.reshape(-1, *[1] * (obs.ndim - 1))


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
