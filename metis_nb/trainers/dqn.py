"""Deep Q-Network (DQN).

Mnih, Kavukcuoglu, Silver et al. (2015): Human-level control through deep reinforcement learning,
https://doi.org/10.1038/nature14236, algorithm 1.

Beyond the paper: targets reach over `n_step` rewards (Sutton 1988; in DQN: Hessel et al. 2018,
"Rainbow", https://arxiv.org/abs/1710.02298): with one, as in the paper, DQN often forgot CartPole
again; the learning rate falls as one over the steps; observations and the scale of rewards are
standardised inside the network, so that neither matters; Adam in place of RMSprop.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from metis_nb import training
from metis_nb.agents import device_of, observe, q_values, reward_scale, unwrap
from metis_nb.replay import Batch, ReplayBuffer, check_replay
from metis_nb.spaces import Environment, check_discrete


@dataclass(eq=False)
class DQN:
    """Deep Q-Network: learn Q(s, a) from replayed experience, and act greedily on it.

        q_network = agents.q_network(env)
        trainer = DQN(env)
        trainer.train(q_network)

    Args:
        env: a `gymnasium.Env` or `gymnasium.vector.VectorEnv` with `Box` observations and
            `Discrete` actions; `envs.DiscretizeAction` makes `Box` actions `Discrete`.
        replay: a memory of your own, perhaps filled beforehand, such as
            `PrioritizedReplay(env, 100_000)`. None: an empty `ReplayBuffer(env, capacity)`.
        capacity: transitions that the memory holds, where `replay` is None.
        collect_steps: environment steps between two rounds of updates, over all environments
            together.
        updates_per_step: gradient steps for each environment step. More: learns from less
            experience, takes longer. Usual: 0.1 to 1.
        batch_size: transitions in one gradient step.
        learning_starts: transitions in the memory before the first update.
        learning_rate: of Adam, up to `decay_steps`. Usual: 1e-4 to 1e-3.
        decay_steps: environment steps after which the learning rate falls as 1 / steps: with twice
            the experience it is half as large.
        gamma: discount of the future, per environment step.
        n_step: rewards in a target before the network's own estimate; 1 is the paper's. More: news
            travels faster, and what random actions did counts for more. Usual: 1 to 5.
        target_interval: environment steps between two copies into the target network.
        epsilon: share of random actions in the end. Usual: 0.01 to 0.1.
        epsilon_steps: environment steps over which it falls from 1, in a line.
        max_grad_norm: gradients longer than this are shortened to it.
        seed: of all chance in the training; the environment is seeded once, from it. None takes
            one from torch's global generator.

    Raises:
        TypeError, ValueError: an environment or a number that is not accepted.
    """

    env: Environment = field(repr=False)
    _: KW_ONLY
    replay: ReplayBuffer | None = field(default=None, repr=False)
    capacity: int = 100_000
    collect_steps: int = 128
    updates_per_step: float = 0.25
    batch_size: int = 128
    learning_starts: int = 1_000
    learning_rate: float = 1e-3
    decay_steps: int = 10_000
    gamma: float = 0.99
    n_step: int = 5
    target_interval: int = 1_000
    epsilon: float = 0.05
    epsilon_steps: int = 10_000
    max_grad_norm: float = 10.0
    seed: int | None = None

    def __post_init__(self) -> None:
        check_discrete("DQN", self.env)
        self.check()
        self.run = training.Run(self.env, self.seed)

    def check(self) -> None:
        """Raise an error for a hyperparameter that is not accepted, naming it."""
        training.check_numbers(
            self,
            capacity="a whole number above 0",
            collect_steps="a whole number above 0",
            updates_per_step="a number above 0",
            batch_size="a whole number above 0",
            learning_starts="a whole number above 0",
            learning_rate="a number of 0 or more",
            decay_steps="a whole number above 0",
            gamma="a number from 0 to 1",
            n_step="a whole number above 0",
            target_interval="a whole number above 0",
            epsilon="a number from 0 to 1",
            epsilon_steps="a whole number above 0",
            max_grad_norm="a number above 0",
        )
        capacity = self.capacity
        if self.replay is not None:
            check_replay(self.replay, self.env)
            capacity = self.replay.capacity
        if self.learning_starts > capacity:
            raise ValueError(
                f"learning_starts={self.learning_starts}; expected at most the {capacity} "
                f"transitions that the memory holds."
            )

    def train(
        self,
        q_network: nn.Module,
        steps: int = 100_000,
        callbacks: Sequence[training.Callback] | training.Callback = (),
        progress: bool = True,
    ) -> training.History:
        """Train the network for `steps` more environment steps (rounded up to whole rounds), on the
        device where it is.

        Calling it again goes on where it stopped, unless with another network. Interrupting it
        (Ctrl-C, the stop button) ends it after the round under way.

        Args:
            callbacks: functions of the trainer, called after each round; True stops.
            progress: show how far it is: in a notebook a picture of returns and of the numbers in
                `healthy`, elsewhere a progress bar.

        Returns:
            The history, one row for each round; also in `trainer.history`.

        Raises:
            FloatingPointError: an observation, reward or loss that is not finite.
        """
        self.prepare(q_network)
        with self.run.training(self, steps, callbacks, progress) as run:
            while run.unfinished:
                before = run.steps
                self.collect(q_network)
                if before == 0:  # else it would not know the scale of anything yet
                    self.copy_to_target(q_network)
                updates = range(self.updates_due(before))
                rows = [self.update(q_network, self.sample()) for _ in updates]
                if run.steps // self.target_interval > before // self.target_interval:
                    self.copy_to_target(q_network)
                run.log(exploration=self.exploration, **training.mean(rows))
        return self.history

    @property
    def exploration(self) -> float:
        """The share of random actions at this step: from 1 down to `epsilon`."""
        return 1 - (1 - self.epsilon) * min(self.run.steps / self.epsilon_steps, 1)

    @torch.no_grad()
    def collect(self, q_network: nn.Module) -> None:
        """Act epsilon-greedily for `collect_steps` environment steps, and remember them."""
        memory = self.prepare(q_network)["memory"]
        view = self.run.start(q_network)
        generator, device = self.run.generator, view.device
        actions = view.action_units.size
        seen, rewards = [], []
        goal = view.steps + self.collect_steps
        while view.steps < goal:
            obs = view.obs
            greedy = q_values(q_network, obs).argmax(1)
            shape = greedy.shape
            dice = torch.rand(shape, generator=generator, device=device)
            at_random = torch.randint(actions, shape, generator=generator, device=device)
            action = torch.where(dice < self.exploration, at_random, greedy)
            step = view.step(action)
            memory.add(obs, action, step)
            seen.append(obs[step.valid])
            rewards.append(step.reward[step.valid])
        obs, reward = torch.cat(seen), torch.cat(rewards)
        training.check_finite(self.run, squared_reward=reward.square().mean())
        observe(q_network, obs, rewards=reward)

    @property
    def step_size(self) -> float:
        """The learning rate at this step: `learning_rate`, then falling as one over the steps."""
        return self.learning_rate * min(self.decay_steps / max(self.run.steps, 1), 1)

    def updates_due(self, before: int) -> int:
        """Gradient steps for the environment steps since `before`."""
        if len(self.memory) < self.learning_starts:
            return 0
        # Of running totals, so that no fraction is lost between rounds.
        return int(self.run.steps * self.updates_per_step) - int(before * self.updates_per_step)

    def sample(self) -> Batch:
        """A batch from the memory, over `n_step` rewards."""
        chance = self.run.generator
        return self.memory.sample(
            self.batch_size, length=self.n_step, gamma=self.gamma, generator=chance
        )

    @torch.no_grad()
    def td_target(self, target: nn.Module, batch: Batch) -> Tensor:
        """r + gamma max_a Q(s', a), by the target network (algorithm 1). (B,)

        A truncated episode goes on, unseen: its last state counts. A terminated one does not.
        """
        next_value = q_values(target, batch.next_obs).max(1).values
        return batch.reward + batch.discount * next_value * ~batch.terminated

    def loss(self, q_value: Tensor, td_target: Tensor) -> Tensor:
        """Huber's, of each transition: beyond an error of 1 it is a line, not a parabola. (B,)"""
        return F.huber_loss(q_value, td_target, reduction="none")

    def update(self, q_network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """One gradient step on one batch.

        Returns:
            Numbers to watch, before the step.

        Raises:
            FloatingPointError: a loss or gradient that is not finite.
        """
        state = self.prepare(q_network)
        adam, target, memory = state["adam"], state["target"], state["memory"]
        td_target = self.td_target(target, batch)
        values = q_values(q_network, batch.obs)
        q_value = values.gather(1, batch.action[:, None]).squeeze(1)
        scale = reward_scale(q_network)
        loss = (batch.weight * self.loss(q_value / scale, td_target / scale)).mean()

        adam.zero_grad()
        loss.backward()
        norm = clip_grad_norm_(q_network.parameters(), self.max_grad_norm)
        training.check_finite(self.run, loss=loss, gradient_norm=norm)
        adam.step()

        q_value, loss = q_value.detach(), loss.detach()
        error = td_target - q_value
        memory.learned(batch.index, error / scale)
        return {"q_value": q_value.mean(), "td_error": error.abs().mean(), "loss": loss}

    def copy_to_target(self, q_network: nn.Module) -> None:
        """Make the target network what the network is now, its running statistics too."""
        self.target.load_state_dict(unwrap(q_network).state_dict())

    def prepare(self, q_network: nn.Module) -> training.State:
        """The optimizer "adam", the "target" network and the "memory" that go with this network.
        Another one than before starts a new training."""
        self.check()  # a number may have been changed since
        self.q_network = q_network

        def state() -> training.State:
            memory, device = self.replay, device_of(q_network)
            if memory is None:
                memory = ReplayBuffer(self.env, self.capacity, device)
            elif len(memory):  # the network has not met what is in it
                observe(q_network, memory["obs"].to(device), rewards=memory["reward"].to(device))
            return {
                "adam": torch.optim.Adam(q_network.parameters(), eps=1e-5, fused=True),
                "target": copy.deepcopy(unwrap(q_network)).requires_grad_(False).eval(),
                "memory": memory,
            }

        parts = self.run.bind(state, q_network=q_network)
        for group in parts["adam"].param_groups:
            group["lr"] = self.step_size
        return parts

    @property
    def target(self) -> nn.Module:
        """The target network: an older copy, which the targets come from."""
        return self.run.state["target"]

    @property
    def memory(self) -> ReplayBuffer:
        """All transitions that can be drawn."""
        return self.run.state["memory"]

    @property
    def healthy(self) -> dict[str, tuple[float, float]]:
        """The numbers to watch. A value outside of this band is no sum of discounted rewards."""
        if not self.run.state:
            return {}
        low, high = self.memory.reward_range()
        horizon = 1 / max(1 - self.gamma, 1e-9)
        return {"q_value": (min(low, 0.0) * horizon, max(high, 0.0) * horizon)}

    @property
    def history(self) -> training.History:
        """One row for each round so far."""
        return self.run.history

    def save(self, path: str | Path) -> None:
        """Write everything, the memory too, to one file (safetensors: no pickle), whole or not at
        all."""
        training.save(self, path)

    @classmethod
    def load(
        cls,
        path: str | Path,
        env: Environment,
        q_network: nn.Module | None = None,
        replay: ReplayBuffer | None = None,
    ) -> DQN:
        """A saved trainer, with its network in `.q_network`, that goes on bit for bit.

        Args:
            path: what `save` wrote.
            env: an environment made like the one before.
            q_network: needed only where it holds a body of your own, which a file cannot.
            replay: needed only where it had a memory of your own: an empty one, made like it.

        Raises:
            FileNotFoundError, ValueError: no such file, or it holds something else.
        """
        return training.load(cls, path, env, replay, q_network=q_network)
