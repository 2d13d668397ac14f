"""Double Deep Q-Network (Double DQN, DDQN).

Van Hasselt, Guez and Silver (2016): Deep Reinforcement Learning with Double Q-learning,
https://arxiv.org/abs/1509.06461: DQN (Mnih et al. 2015) with another target, in which one network
chooses the next action and the other says what it is worth (van Hasselt 2010, "Double Q-learning").

Beyond the paper: targets reach over `n_step` rewards (Sutton 1988; in DQN: Hessel et al. 2018,
"Rainbow", https://arxiv.org/abs/1710.02298): with one, as in the paper, DQN often forgot CartPole
again; the learning rate falls as one over the steps; observations and the scale of rewards are
standardised inside the network, so that neither matters; Adam in place of RMSprop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metis_nb import agents, learning
from metis_nb.agents import action_value, q_values, value_scale
from metis_nb.envs.spaces import Environment, check_discrete
from metis_nb.learning import Batch, Count, Fraction, NonNegative, Positive, ReplayBuffer


@dataclass(eq=False)
class DDQN:
    """Double Deep Q-Network: DQN that does not believe the highest of its estimates.

        q_network = agents.q_network(env)
        trainer = DDQN(env)
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
        max_grad_norm: clip the gradient norm to this.
        seed: seeds all randomness in training; the environment is seeded once, from it. None draws
            one from torch's global generator.

    Metrics:
        epsilon: share of random actions, from 0 to 1. Healthy: falls in a line from 1 to the
            trainer's `epsilon`, over `epsilon_steps`.
        q_value: mean Q(s, a) of the batch, in units of reward: what is expected from here on,
            discounted. Healthy: within the sums of discounted rewards that the memory allows, the
            band in the picture. Outside: the estimates feed on themselves; lower the learning rate,
            or raise `target_interval`.
        td_error: mean absolute error of Q(s, a) against its target, in units of reward. Healthy:
            well below the size of the q_value. As large: the critic does not keep up; it grows with
            rewards that only now are found, too.
        loss: Huber loss of Q(s, a) against its target, in units of `value_scale`, ten rewards of
            the usual size. Healthy: falls at first, then stays level. Rises without end: it
            diverges; lower the learning rate.

    Raises:
        TypeError, ValueError: an environment or a number that is not accepted.
    """

    env: Environment = field(repr=False)
    _: KW_ONLY
    replay: ReplayBuffer | None = field(default=None, repr=False)
    capacity: Count = 100_000
    collect_steps: Count = 128
    updates_per_step: Positive = 0.25
    batch_size: Count = 128
    learning_starts: Count = 1_000
    learning_rate: NonNegative = 1e-3
    decay_steps: Count = 10_000
    gamma: Fraction = 0.99
    n_step: Count = 5
    target_interval: Count = 1_000
    epsilon: Fraction = 0.05
    epsilon_steps: Count = 10_000
    max_grad_norm: Positive = 10.0
    seed: int | None = None

    def __post_init__(self) -> None:
        check_discrete("DDQN", self.env)
        self.check()
        self.run = learning.Run(self.env, self.seed)

    def check(self) -> None:
        """Raise an error for a hyperparameter that is not accepted, naming it."""
        learning.check_fields(self)
        learning.check_memory_settings(self)

    def train(
        self,
        q_network: nn.Module,
        steps: int = 100_000,
        callbacks: Sequence[learning.Callback] | learning.Callback = (),
        progress: bool = True,
    ) -> learning.History:
        """Train the network for `steps` more environment steps (rounded up to whole rounds), on the
        device where it is.

        Calling it again resumes training; another network starts afresh. Interrupting it
        (Ctrl-C, the stop button) ends it after the round under way.

        Args:
            callbacks: functions of the trainer, called after each round; True stops.
            progress: show how far it is: in a notebook a picture of returns and of the numbers in
                `healthy_ranges`, elsewhere a progress bar.

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
                run.log(epsilon=self.current_epsilon, **learning.mean(rows))
        return self.history

    @property
    def current_epsilon(self) -> float:
        """The share of random actions at this step: from 1 down to `epsilon`."""
        return 1 - (1 - self.epsilon) * min(self.run.steps / self.epsilon_steps, 1)

    @torch.no_grad()
    def collect(self, q_network: nn.Module) -> None:
        """Explore for `collect_steps` environment steps, and remember them."""
        self.prepare(q_network)
        explore = partial(self.explore, q_network)
        learning.record(self.run, self.memory, explore, self.collect_steps, [q_network])

    @torch.no_grad()
    def explore(self, q_network: nn.Module, obs: Tensor) -> Tensor:
        """Epsilon-greedy: the best action, or with `current_epsilon` a random one. (N,)"""
        values, generator = q_values(q_network, obs), self.run.generator
        (N, actions), device = values.shape, values.device
        draw = torch.rand(N, generator=generator, device=device)
        random = torch.randint(actions, (N,), generator=generator, device=device)
        return torch.where(draw < self.current_epsilon, random, values.argmax(1))

    @property
    def current_learning_rate(self) -> float:
        """The learning rate at this step: `learning_rate`, then falling as one over the steps."""
        return self.learning_rate * min(self.decay_steps / max(self.run.steps, 1), 1)

    def updates_due(self, before: int) -> int:
        """Gradient steps for the environment steps since `before`."""
        enough = len(self.memory) >= self.learning_starts
        return self.run.due(self.updates_per_step, before) if enough else 0

    def sample(self) -> Batch:
        """A batch from the memory, over `n_step` rewards."""
        size, generator = self.batch_size, self.run.generator
        return self.memory.sample(size, length=self.n_step, gamma=self.gamma, generator=generator)

    @torch.no_grad()
    def td_target(self, q_network: nn.Module, target: nn.Module, batch: Batch) -> Tensor:
        """r + gamma Q'(s', argmax_a Q(s', a)), with Q' the target network (equation 4). (B,)

        Truncation bootstraps from V(s'); termination does not.
        """
        next_action = q_values(q_network, batch.next_obs).argmax(1, keepdim=True)
        next_value = q_values(target, batch.next_obs).gather(1, next_action).squeeze(1)
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
        state = self.run.bound(q_network) or self.prepare(q_network)
        learning.set_learning_rate(state, self.current_learning_rate)
        target, memory = state["target"], state["memory"]
        td_target = self.td_target(q_network, target, batch)
        q_value = action_value(q_network, batch.obs, batch.action)
        scale = value_scale(q_network)
        loss = (batch.weight * self.loss(q_value / scale, td_target / scale)).mean()

        learning.gradient_step(self.run, "adam", loss, self.max_grad_norm)

        q_value, loss = q_value.detach(), loss.detach()
        error = td_target - q_value
        memory.update_priorities(batch.index, error / scale)
        return {"q_value": q_value.mean(), "td_error": error.abs().mean(), "loss": loss}

    def copy_to_target(self, q_network: nn.Module) -> None:
        """Make the target network what the network is now, its running statistics too."""
        self.target.load_state_dict(agents.unwrap(q_network).state_dict())

    def prepare(self, q_network: nn.Module) -> learning.State:
        """The optimizer "adam", the "target" network and the "memory" that go with this network.
        Another one than before starts a new training."""
        self.check()  # a number may have been changed since
        agents.check_kind("q_network", q_network, agents.QNetwork)
        self.q_network = q_network

        def state() -> learning.State:
            memory = learning.memory_for(self, q_network)  # the target is to know it too
            return {
                "adam": learning.adam(q_network),
                "target": agents.frozen_copy(q_network),
                "memory": memory,
            }

        bound = self.run.bind(state, q_network=q_network)
        learning.set_learning_rate(bound, self.current_learning_rate)
        return bound

    @property
    def target(self) -> nn.Module:
        """The target network: an older copy, which the targets come from."""
        return self.run.state["target"]

    @property
    def memory(self) -> ReplayBuffer:
        """All transitions that can be drawn."""
        return self.run.state["memory"]

    @property
    def healthy_ranges(self) -> dict[str, tuple[float, float]]:
        """The numbers to watch. A value outside of this band is no sum of discounted rewards."""
        if not self.run.state:
            return {}
        return {"q_value": self.memory.return_range(self.gamma)}

    @property
    def history(self) -> learning.History:
        """One row for each round so far."""
        return self.run.history

    def save(self, path: str | Path) -> None:
        """Write everything, the memory too, to one file (safetensors: no pickle), whole or not at
        all."""
        learning.save(self, path)

    @classmethod
    def load(
        cls,
        path: str | Path,
        env: Environment,
        q_network: nn.Module | None = None,
        replay: ReplayBuffer | None = None,
    ) -> DDQN:
        """A saved trainer, with its network in `.q_network`, that goes on bit for bit.

        Args:
            path: what `save` wrote.
            env: an environment made like the one before.
            q_network: needed only where it holds a body of your own, which a file cannot.
            replay: needed only where it had a memory of your own: an empty one, made like it.

        Raises:
            FileNotFoundError, ValueError: no such file, or it holds something else.
        """
        return learning.load(cls, path, env, replay, q_network=q_network)
