"""Deep Deterministic Policy Gradient (DDPG).

Lillicrap, Hunt, Pritzel et al. (2016): Continuous control with deep reinforcement learning,
https://arxiv.org/abs/1509.02971, algorithm 1.

Beyond the paper: several environments at once, observations and the scale of rewards standardised
inside the networks (the paper has batch normalisation), one learning rate for both networks, and
gradient clipping.
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
from metis_nb.agents import action_value, value_scale
from metis_nb.envs.spaces import Environment, check_bounded
from metis_nb.learning import Batch, Count, Fraction, NonNegative, Positive, ReplayBuffer


@dataclass(eq=False)
class DDPG:
    """Deep Deterministic Policy Gradient: learn Q(s, a), and let the actor climb it.

        actor, critic = agents.actor(env, deterministic=True), agents.q_critic(env)
        trainer = DDPG(env)
        trainer.train(actor, critic)

    Args:
        env: a `gymnasium.Env` or `gymnasium.vector.VectorEnv` with `Box` observations and `Box`
            actions with bounds.
        replay: a memory of your own, perhaps filled beforehand, such as
            `PrioritizedReplay(env, 100_000)`. None: an empty `ReplayBuffer(env, capacity)`.
        capacity: transitions that the memory holds, where `replay` is None.
        collect_steps: environment steps between two rounds of updates, over all environments
            together.
        updates_per_step: gradient steps for each environment step. More: learns from less
            experience, takes longer. Usual: 0.25 to 4.
        batch_size: transitions in one gradient step.
        learning_starts: transitions in the memory before the first update; until then, actions
            are uniformly random.
        learning_rate: of both Adams. Usual: 1e-4 to 1e-3.
        gamma: discount of the future, per environment step.
        tau: how far the target networks move toward the networks with each gradient step, from 0
            to 1. Usual: 0.005 to 0.02.
        noise: standard deviation of the exploration noise, where [-1, 1] spans an action's bounds.
            Usual: 0.1 to 0.3.
        noise_correlation: of the noise of one step with the last: 0 is white noise, 0.85 the
            paper's. More: pushes longer in one direction, which a heavy body needs.
        max_grad_norm: clip the gradient norm to this.
        seed: seeds all randomness in training; the environment is seeded once, from it. None draws
            one from torch's global generator.

    Metrics:
        q_value: mean Q(s, a) of the batch, in units of reward: what is expected from here on,
            discounted. Healthy: within the sums of discounted rewards that the memory allows, the
            band in the picture. Outside: the estimates feed on themselves; lower the learning rate
            or `tau`.
        td_error: mean absolute error of Q(s, a) against its target, in units of reward. Healthy:
            well below the size of the q_value. As large: the critic does not keep up; it grows with
            rewards that only now are found, too.
        critic_loss: mean squared error of Q(s, a) against its target, both in units of
            `value_scale`, ten rewards of the usual size. Healthy: falls at first, then stays level.
            Rises without end: it diverges; lower the learning rate.

    Raises:
        TypeError, ValueError: an environment or a number that is not accepted.
    """

    env: Environment = field(repr=False)
    _: KW_ONLY
    replay: ReplayBuffer | None = field(default=None, repr=False)
    capacity: Count = 100_000
    collect_steps: Count = 16
    updates_per_step: Positive = 0.5
    batch_size: Count = 128
    learning_starts: Count = 1_000
    learning_rate: NonNegative = 1e-3
    gamma: Fraction = 0.99
    tau: Fraction = 0.02
    noise: NonNegative = 0.2
    noise_correlation: Fraction = 0.9
    max_grad_norm: Positive = 10.0
    seed: int | None = None

    def __post_init__(self) -> None:
        check_bounded("DDPG", self.env)
        self.check()
        self.run = learning.Run(self.env, self.seed)

    def check(self) -> None:
        """Raise an error for a hyperparameter that is not accepted, naming it."""
        learning.check_fields(self)
        learning.check_memory_settings(self)

    def train(
        self,
        actor: nn.Module,
        critic: nn.Module,
        steps: int = 20_000,
        callbacks: Sequence[learning.Callback] | learning.Callback = (),
        progress: bool = True,
    ) -> learning.History:
        """Train both networks for `steps` more environment steps (rounded up to whole rounds), on
        the device where they are.

        Calling it again resumes training; other networks start afresh. Interrupting it
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
        self.prepare(actor, critic)
        with self.run.training(self, steps, callbacks, progress) as run:
            while run.unfinished:
                before = run.steps
                self.collect(actor, critic)
                if before == 0:  # else they would not know the scale of anything yet
                    self.update_targets(actor, critic, 1.0)
                updates = range(self.updates_due(before))
                rows = [self.update(actor, critic, self.sample()) for _ in updates]
                run.log(**learning.mean(rows))
        return self.history

    @torch.no_grad()
    def collect(self, actor: nn.Module, critic: nn.Module) -> None:
        """Explore for `collect_steps` environment steps, and remember them."""
        self.prepare(actor, critic)
        explore, networks = partial(self.explore, actor), [actor, critic]
        learning.record(self.run, self.memory, explore, self.collect_steps, networks)

    @torch.no_grad()
    def explore(self, actor: nn.Module, obs: Tensor) -> Tensor:
        """mu(s) with noise; uniformly random actions until learning starts. (N, A)"""
        action, state = agents.ask(actor, obs), self.run.state
        noise = state["noise"].sample(action, self.noise_correlation, self.run.generator)
        if len(self.memory) < self.learning_starts:
            return torch.erf(noise / 2**0.5)  # uniform from -1 to 1
        return (action + self.noise * noise).clamp(-1, 1)

    def updates_due(self, before: int) -> int:
        """Gradient steps for the environment steps since `before`."""
        enough = len(self.memory) >= self.learning_starts
        return self.run.due(self.updates_per_step, before) if enough else 0

    def sample(self) -> Batch:
        """A batch from the memory."""
        return self.memory.sample(self.batch_size, gamma=self.gamma, generator=self.run.generator)

    @torch.no_grad()
    def td_target(self, target_actor: nn.Module, target_critic: nn.Module, batch: Batch) -> Tensor:
        """r + gamma Q'(s', mu'(s')), by the target networks (algorithm 1). (B,)

        Truncation bootstraps from V(s'); termination does not.
        """
        next_action = target_actor(batch.next_obs)
        next_value = action_value(target_critic, batch.next_obs, next_action)
        return batch.reward + batch.discount * next_value * ~batch.terminated

    def critic_loss(self, q_value: Tensor, td_target: Tensor) -> Tensor:
        """Squared errors, of each transition. (B,)"""
        return F.mse_loss(q_value, td_target, reduction="none")

    def actor_loss(self, actor: nn.Module, critic: nn.Module, obs: Tensor) -> Tensor:
        """-Q(s, mu(s)): its gradient is the deterministic policy gradient (equation 6). (B,)"""
        return -action_value(critic, obs, actor(obs))

    def update(self, actor: nn.Module, critic: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """One gradient step of the critic, one of the actor, and the targets a little after them.

        Returns:
            Numbers to watch, before the step.

        Raises:
            FloatingPointError: a loss or gradient that is not finite.
        """
        state = self.run.bound(actor, critic) or self.prepare(actor, critic)
        scale = value_scale(critic)

        td_target = self.td_target(state["target_actor"], state["target_critic"], batch)
        q_value = action_value(critic, batch.obs, batch.action)
        loss = (batch.weight * self.critic_loss(q_value / scale, td_target / scale)).mean()
        learning.gradient_step(self.run, "critic_adam", loss, self.max_grad_norm)

        actor_loss = self.actor_loss(actor, critic, batch.obs).mean() / scale
        learning.gradient_step(self.run, "actor_adam", actor_loss, self.max_grad_norm)

        self.update_targets(actor, critic, self.tau)
        q_value, loss = q_value.detach(), loss.detach()
        error = td_target - q_value
        self.memory.update_priorities(batch.index, error / scale)
        return {"q_value": q_value.mean(), "td_error": error.abs().mean(), "critic_loss": loss}

    def update_targets(self, actor: nn.Module, critic: nn.Module, tau: float) -> None:
        """theta' <- tau theta + (1 - tau) theta', for both target networks."""
        agents.polyak_update(self.run.state["target_actor"], actor, tau)
        agents.polyak_update(self.run.state["target_critic"], critic, tau)

    def prepare(self, actor: nn.Module, critic: nn.Module) -> learning.State:
        """The optimizers "actor_adam" and "critic_adam", the networks "target_actor" and
        "target_critic", the "memory" and the "noise" that go with these networks. Others than
        before start a new training."""
        self.check()  # a number may have been changed since
        agents.check_kind("actor", actor, agents.DeterministicActor)
        agents.check_kind("critic", critic, agents.QCritic)
        self.actor, self.critic = actor, critic

        def state() -> learning.State:
            memory = learning.memory_for(self, actor, critic)  # targets are to know it too
            return {
                "actor_adam": learning.adam(actor),
                "critic_adam": learning.adam(critic),
                "target_actor": agents.frozen_copy(actor),
                "target_critic": agents.frozen_copy(critic),
                "memory": memory,
                "noise": learning.Noise(),
            }

        bound = self.run.bind(state, actor=actor, critic=critic)
        learning.set_learning_rate(bound, self.learning_rate)
        return bound

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
        actor: nn.Module | None = None,
        critic: nn.Module | None = None,
        replay: ReplayBuffer | None = None,
    ) -> DDPG:
        """A saved trainer, with its networks in `.actor` and `.critic`, that goes on bit for bit.

        Args:
            path: what `save` wrote.
            env: an environment made like the one before.
            actor, critic: needed only where they hold a body of your own, which a file cannot.
            replay: needed only where it had a memory of your own: an empty one, made like it.

        Raises:
            FileNotFoundError, ValueError: no such file, or it holds something else.
        """
        return learning.load(cls, path, env, replay, actor=actor, critic=critic)
