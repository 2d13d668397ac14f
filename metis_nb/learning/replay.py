"""Experience replay: a memory of transitions to learn from again and again.

    replay = ReplayBuffer(env, capacity=100_000)
    replay.add(view.obs, action, view.step(action))
    batch = replay.sample(128)

The arrays are made once, on the device of the networks. The oldest transition is overwritten first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, Protocol

import psutil
import torch
from gymnasium.spaces import Discrete
from torch import Tensor, nn

from metis_nb import agents
from metis_nb.envs import Step
from metis_nb.envs.spaces import Environment, name_of, single_spaces
from metis_nb.learning.checks import check_finite, check_names, check_numbers
from metis_nb.learning.run import Run

# What a subclass could override in version 0.1, and what it is called now.
RENAMED = {"draw": "sample_indices", "learned": "update_priorities", "more": "extra_arrays"}
ANNOUNCED = 100e6  # bytes: a memory above this says how large it is, before it is made


@dataclass
class Batch:
    """B transitions. With `length=n` they reach over up to n steps of one episode."""

    obs: Tensor  # (B, *obs_shape) float32, acted on
    action: Tensor  # (B,) int64 or (B, A) float32, policy actions
    reward: Tensor  # (B,) float32, of all steps together: r + gamma r' + gamma^2 r'' ...
    next_obs: Tensor  # (B, *obs_shape) float32, the true successor after the last of the steps
    terminated: Tensor  # (B,) bool: nothing is worth anything after next_obs
    discount: Tensor  # (B,) float32, of what next_obs is worth: gamma to the number of steps
    weight: Tensor  # (B,) float32, of each transition in the loss
    index: Tensor  # (B,) int64, where in the memory it is


class OffPolicy(Protocol):
    """A trainer with a memory."""

    env: Environment
    replay: ReplayBuffer | None
    capacity: int
    learning_starts: int


class ReplayBuffer:
    """The last `capacity` transitions, each as likely to be drawn as any other.

    Lin (1992), "Self-improving reactive agents based on reinforcement learning, planning and
    teaching"; Mnih et al. (2015), https://doi.org/10.1038/nature14236.

    Args:
        env: gives the shapes of observations and actions.
        capacity: how many transitions it holds at most.
        device: where its arrays are; where the networks are is best.

    Raises:
        TypeError, ValueError: an environment or capacity that is not accepted.
        MemoryError: the machine does not have that much left; the message says how much it has.
    """

    # Arrays of a subclass's own: the shape for each transition, and the type.
    extra_arrays: ClassVar[dict[str, tuple[tuple[int, ...], torch.dtype]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        check_names(cls, RENAMED)

    def __init__(
        self, env: Environment, capacity: int = 100_000, device: torch.device | str = "cpu"
    ):
        self.capacity, self.device = capacity, torch.device(device)
        check_numbers(self, capacity="a whole number above 0")
        self.capacity = capacity = int(capacity)
        self.spaces = obs_space, action_space = single_spaces(env)
        discrete = isinstance(action_space, Discrete)
        obs_shape: tuple[int, ...] = obs_space.shape
        action_shape = () if discrete else tuple(action_space.shape or ())
        layout: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "obs": (obs_shape, torch.float32),
            "action": (action_shape, torch.int64 if discrete else torch.float32),
            "reward": ((), torch.float32),
            "next_obs": (obs_shape, torch.float32),
            "terminated": ((), torch.bool),
            "next_index": ((), torch.int64),  # of the same episode's next transition; -1: none
            **self.extra_arrays,
        }
        self.nbytes = capacity * sum(
            torch.Size(shape).numel() * dtype.itemsize for shape, dtype in layout.values()
        )
        check_memory(self, self.nbytes)
        self.arrays = {
            name: torch.zeros((capacity, *shape), dtype=dtype, device=self.device)
            for name, (shape, dtype) in layout.items()
        }
        self.arrays["next_index"].fill_(-1)
        self.added = 0  # transitions so far, those overwritten among them
        self._latest: Tensor | None = None  # (N,) where each environment's last one is
        self._change: tuple[Any, ...] | None = None  # of `add`, until all of it is done

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__}: {len(self):,} of {self.capacity:,} transitions, "
            f"{in_words(self.nbytes)} on {self.device}>"
        )

    def __getitem__(self, name: str) -> Tensor:
        """All that it holds of one kind, such as memory["reward"], in no particular order."""
        self._put()
        return self.arrays[name][: len(self)]

    def reward_range(self) -> tuple[float, float]:
        """The lowest and the highest reward that it holds."""
        rewards = self["reward"] if len(self) else torch.zeros(1)
        return float(rewards.min()), float(rewards.max())

    def return_range(
        self, gamma: float, lowest_extra: float = 0.0, highest_extra: float = 0.0
    ) -> tuple[float, float]:
        """Between what any sum of discounted rewards lies, of those that it holds; each of them
        perhaps with something extra, such as what entropy is worth."""
        low, high = self.reward_range()
        horizon = 1 / max(1 - gamma, 1e-9)
        low, high = min(low, 0) + min(lowest_extra, 0), max(high, 0) + max(highest_extra, 0)
        return low * horizon, high * horizon

    def add(self, obs: Tensor, action: Tensor, step: Step) -> Tensor:
        """Put in what one step of N environments gave; steps that only reset one are left out.

        Args:
            obs: (N, *obs_shape) what was acted on.
            action: (N,) int64 or (N, A) float32, as policy actions.
            step: what came of it; the next call goes on with the same N environments.

        Returns:
            index: (M,) int64, where the M valid ones are now.
        """
        self._put()
        N, device = len(obs), self.device
        fields = dict(obs=obs, action=action, reward=step.reward)
        fields |= dict(next_obs=step.next_obs, terminated=step.terminated)
        for name, values in fields.items():
            expected = (N, *self.arrays[name].shape[1:])
            if values.shape != expected:
                raise ValueError(
                    f"{name} has the shape {tuple(values.shape)}; expected {expected}."
                )
        valid = step.valid.to(device)
        rows: slice | Tensor = slice(None)  # of all, a slice: no copies
        fields = {name: values.to(device) for name, values in fields.items()}
        if not bool(valid.all()):
            rows = valid.nonzero()[:, 0]
            fields = {name: values[rows] for name, values in fields.items()}
        count, start = len(fields["reward"]), self.added % self.capacity
        if count > self.capacity:
            raise ValueError(
                f"capacity={self.capacity} cannot hold one step of {N} environments; expected "
                f"{N} or more."
            )
        index = torch.arange(start, start + count, device=device)
        place: slice | Tensor = slice(start, start + count)
        if start + count > self.capacity:  # round the end
            place = index = index % self.capacity

        latest = self._latest
        if latest is None or len(latest) != N:
            latest = torch.full((N,), -1, device=device)
        before = latest[rows]
        # Who began a new episode in between (an error, another training) acts on something else.
        same = self.arrays["next_obs"][before] == fields["obs"]
        linked = (before >= 0) & same[:, None].flatten(1).all(1)
        done = (step.terminated | step.truncated).to(device)[rows]
        links, latest = (before[linked], index[linked]), latest.clone()
        latest[rows] = torch.where(done, -1, index)
        self._change = links, place, fields, latest, self.added + count
        self._put()
        return index

    def _put(self) -> None:
        """Make the change that `add` found, where that is not done: an interrupt in the middle of
        it would leave half of one transition and half of another."""
        if self._change is None:
            return
        (linked, following), place, fields, latest, added = self._change
        next_index = self.arrays["next_index"]
        next_index[linked] = following
        # Then what is overwritten now, which in a small memory may be what was linked. An older
        # transition goes before the one that follows it: no link outlives both.
        next_index[place] = -1
        for name, values in fields.items():
            self.arrays[name][place] = values
        self._latest, self.added, self._change = latest, added, None

    def sample(
        self,
        batch_size: int,
        *,
        length: int = 1,
        gamma: float = 0.99,
        generator: torch.Generator | None = None,
    ) -> Batch:
        """Draw transitions, with replacement.

        Args:
            batch_size: B, how many.
            length: steps that each reaches over, fewer where its episode or the memory ends.
            gamma: discount of the rewards of later steps.

        Raises:
            ValueError: a number that is not accepted, or nothing has been put in yet.
        """
        for name, value in (("batch_size", batch_size), ("length", length)):
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name}={value!r}; expected a whole number above 0.")
        self._put()
        if not len(self):
            raise ValueError("the memory is empty; add transitions before sample().")
        index, weight = self.sample_indices(batch_size, generator)
        arrays = self.arrays
        last, reward = index, arrays["reward"][index]
        discount = torch.full_like(reward, gamma)
        for _ in range(length - 1):
            next_index = arrays["next_index"][last]
            goes_on = next_index >= 0
            last = torch.where(goes_on, next_index, last)
            reward = torch.where(goes_on, reward + discount * arrays["reward"][last], reward)
            discount = torch.where(goes_on, discount * gamma, discount)
        return Batch(
            obs=arrays["obs"][index],
            action=arrays["action"][index],
            reward=reward,
            next_obs=arrays["next_obs"][last],
            terminated=arrays["terminated"][last],
            discount=discount,
            weight=weight,
            index=index,
        )

    def sample_indices(
        self, batch_size: int, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Which transitions, (B,) int64, and their weights in the loss, (B,) float32."""
        where: dict[str, Any] = {"device": self.device}
        index = torch.randint(len(self), (batch_size,), generator=generator, **where)
        return index, torch.ones(batch_size, **where)

    def update_priorities(self, index: Tensor, error: Tensor) -> None:
        """Receives the TD error (B,) of each transition drawn; uniform replay ignores them."""

    # --- going on later, or elsewhere -------------------------------------------------------

    def to(self, device: torch.device | str) -> ReplayBuffer:
        """Move it to another device; returns itself."""
        self._put()
        if torch.device(device) != self.device:
            self.device = torch.device(device)
            self.arrays = {name: array.to(device) for name, array in self.arrays.items()}
            self._latest = None if self._latest is None else self._latest.to(device)
        return self

    def state_dict(self) -> dict[str, Any]:
        """What is in it; not the room that is still empty."""
        self._put()
        return {
            "kind": type(self).__name__,
            "capacity": self.capacity,
            "added": self.added,
            "latest": self._latest,
            "arrays": {name: array[: len(self)] for name, array in self.arrays.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hold what another one held.

        Raises:
            ValueError: that was of another kind or capacity.
        """
        kind, capacity = state["kind"], state["capacity"]
        if (kind, capacity) != (type(self).__name__, self.capacity):
            raise ValueError(
                f"replay is a {type(self).__name__} with capacity={self.capacity}; expected "
                f"replay={kind}(env, capacity={capacity}), as it was saved."
            )
        self.added, self._change = state["added"], None
        latest = state["latest"]
        self._latest = None if latest is None else latest.to(self.device, copy=True)
        for name, array in self.arrays.items():
            array[: len(self)] = state["arrays"][name].to(self.device)


class PrioritizedReplay(ReplayBuffer):
    """Transitions with a large error are drawn more often: proportional prioritisation.

    Schaul, Quan, Antonoglou and Silver (2016), "Prioritized Experience Replay",
    https://arxiv.org/abs/1511.05952, section 3.3 and algorithm 1.

    Args:
        alpha: how much the error counts; 0 draws uniformly (equation 1).
        beta: how much the weights in the loss make up for it; 1 fully (section 3.4).
        The others are those of `ReplayBuffer`.
    """

    extra_arrays: ClassVar[dict[str, tuple[tuple[int, ...], torch.dtype]]] = {
        "priority": ((), torch.float32)  # p^alpha
    }

    def __init__(
        self,
        env: Environment,
        capacity: int = 100_000,
        device: torch.device | str = "cpu",
        alpha: float = 0.6,
        beta: float = 0.4,
    ):
        self.alpha, self.beta = alpha, beta
        check_numbers(self, alpha="a number from 0 to 1", beta="a number from 0 to 1")
        super().__init__(env, capacity, device)

    def add(self, obs: Tensor, action: Tensor, step: Step) -> Tensor:
        highest = self["priority"].max() if len(self) else 1.0
        index = super().add(obs, action, step)
        self.arrays["priority"][index] = highest  # to be seen at least once, soon
        return index

    def sample_indices(
        self, batch_size: int, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        priority = self.arrays["priority"][: len(self)]
        # Float32 would lose the small ones among a million; Apple's GPUs have nothing better.
        precise = torch.float32 if self.device.type == "mps" else torch.float64
        until = priority.cumsum(0, dtype=precise)
        # One from each of B equal parts of the sum, as in appendix B.2.1.
        part = torch.rand(batch_size, generator=generator, device=self.device, dtype=precise)
        part = (torch.arange(batch_size, device=self.device) + part) / batch_size
        index = torch.searchsorted(until, part * until[-1], right=True).clamp(max=len(self) - 1)
        probability = priority[index] / until[-1].float()
        weight = (len(self) * probability) ** -self.beta
        return index, weight / weight.max()

    def update_priorities(self, index: Tensor, error: Tensor) -> None:
        self.arrays["priority"][index] = (error.detach().abs() + 1e-6) ** self.alpha

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"alpha": self.alpha, "beta": self.beta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.alpha, self.beta = state["alpha"], state["beta"]


# --- what trainers with a memory use ----------------------------------------------------------


def memory_for(trainer: OffPolicy, *networks: nn.Module) -> ReplayBuffer:
    """The memory that the trainer was given, whose content these networks have then met, or an
    empty one on their device."""
    device = agents.device_of(networks[0])
    if trainer.replay is None:
        return ReplayBuffer(trainer.env, trainer.capacity, device)
    memory = trainer.replay
    if len(memory):
        obs, reward = memory["obs"].to(device), memory["reward"].to(device)
        for network in networks:
            agents.update_statistics(network, obs, rewards=reward)
    return memory


@torch.no_grad()
def record(
    run: Run,
    memory: ReplayBuffer,
    explore: Callable[[Tensor], Tensor],
    steps: int,
    networks: Sequence[nn.Module],
) -> None:
    """Act for so many environment steps, and remember them.

    Args:
        run: has the view of the environment, which goes on where the last call ended.
        explore: policy actions (N,) or (N, A) for observations (N, *obs_shape).
        steps: over all environments together.
        networks: their running statistics take in what was met.
    """
    view = run.start(networks[0])
    met = []
    goal = view.steps + steps
    while view.steps < goal:
        obs = view.obs
        action = explore(obs)
        step = view.step(action)
        memory.add(obs, action, step)
        met.append((obs, step.reward, step.valid))
    obs, reward, valid = map(torch.cat, zip(*met))
    obs, reward = obs[valid], reward[valid]
    check_finite(run.steps, squared_reward=reward.square().mean())
    for network in networks:
        agents.update_statistics(network, obs, rewards=reward)


# --- checks -----------------------------------------------------------------------------------


def check_memory_settings(trainer: OffPolicy) -> None:
    """Refuse a memory that does not fit the environment, or is too small to begin with.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what is accepted.
    """
    capacity = trainer.capacity
    if trainer.replay is not None:
        check_replay(trainer.replay, trainer.env)
        capacity = trainer.replay.capacity
    if trainer.learning_starts > capacity:
        raise ValueError(
            f"learning_starts={trainer.learning_starts}; expected at most the {capacity} "
            f"transitions that the memory holds."
        )


def check_replay(replay: ReplayBuffer, env: Environment) -> None:
    """Refuse what is no memory, or was made for other spaces than those of `env`.

    Raises:
        TypeError, ValueError: saying what it is and what is expected.
    """
    if not isinstance(replay, ReplayBuffer):
        raise TypeError(
            f"replay={replay!r}; expected None or a memory, such as ReplayBuffer(env, 100_000)."
        )
    if replay.spaces != single_spaces(env):
        spaces, others = (" and ".join(map(str, s)) for s in (replay.spaces, single_spaces(env)))
        raise ValueError(
            f"replay was made for {spaces}; {name_of(env)} has {others}. Make another: "
            f"{type(replay).__name__}(env, capacity={replay.capacity})."
        )


def check_memory(replay: ReplayBuffer, nbytes: int) -> None:
    """Say how much memory a large buffer will take.

    Raises:
        MemoryError: it does not fit; the message says how much does.
    """
    if replay.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(replay.device)
    else:
        free = psutil.virtual_memory().available
    if nbytes > free:
        each = nbytes / replay.capacity
        raise MemoryError(
            f"capacity={replay.capacity:,} takes {in_words(nbytes)} on {replay.device}, which has "
            f"{in_words(free)} left. Expected at most {int(0.8 * free / each):,} transitions of "
            f"this environment."
        )
    if nbytes > ANNOUNCED:
        print(f"A memory of {replay.capacity:,} transitions: {in_words(nbytes)} on {replay.device}")


def in_words(nbytes: float) -> str:
    """1234567 -> "1.23 MB"."""
    nbytes = float(f"{nbytes:.3g}")  # 999,999 are a million
    power = min(int(math.log10(max(nbytes, 1)) // 3), 4)
    return f"{nbytes / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"
