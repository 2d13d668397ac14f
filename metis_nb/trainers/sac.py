"""Soft Actor-Critic (SAC), for continuous and for discrete actions.

Haarnoja, Zhou, Hartikainen et al. (2018): Soft Actor-Critic Algorithms and Applications,
https://arxiv.org/abs/1812.05905, algorithm 1, with the temperature of section 5. Discrete actions:
Christodoulou (2019): Soft Actor-Critic for Discrete Action Settings,
https://arxiv.org/abs/1910.07207, with a target for the entropy that can be reached.

Beyond the papers: several environments at once, observations and the scale of rewards standardised
inside the networks, exploration noise that is correlated in time, and gradient clipping.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from gymnasium.spaces import Discrete
from torch import Tensor, nn

from metis_nb import agents, learning
from metis_nb.agents import Critics, action_value, policy, q_values, value_scale
from metis_nb.envs.spaces import ActionUnits, Environment, check_bounded, single_spaces
from metis_nb.learning import Batch, Count, Fraction, NonNegative, Positive, ReplayBuffer

# The temperature at first, as a share of the size of rewards.
INITIAL_ALPHA = 0.3


@dataclass(eq=False)
class SAC:
    """Soft Actor-Critic: earn as much as you can, and stay as random as you can afford.

        actor = agents.actor(env, squashed=True)
        critics = agents.q_critic(env), agents.q_critic(env)
        trainer = SAC(env)
        trainer.train(actor, critics)

    With discrete actions, `agents.actor(env)` and two of `agents.q_network(env)`.

    Args:
        env: a `gymnasium.Env` or `gymnasium.vector.VectorEnv` with `Box` observations and
            `Discrete` actions, or `Box` actions with bounds.
        replay: a memory of your own, perhaps filled beforehand, such as
            `PrioritizedReplay(env, 100_000)`. None: an empty `ReplayBuffer(env, capacity)`.
        capacity: transitions that the memory holds, where `replay` is None.
        collect_steps: environment steps between two rounds of updates, over all environments
            together.
        updates_per_step: gradient steps for each environment step. More: learns from less
            experience, takes longer. Usual: 0.25 to 4.
        batch_size: transitions in one gradient step.
        learning_starts: transitions in the memory before the first update.
        learning_rate: of all Adams. Usual: 1e-4 to 1e-3.
        gamma: discount of the future, per environment step.
        tau: how far the target networks move toward the networks with each gradient step, from 0
            to 1. Usual: 0.005 to 0.02.
        noise_correlation: of what is drawn from the policy at one step with the last, for `Box`
            actions: 0 is the paper's. More: pushes longer in one direction, which a heavy body
            needs.
        initial_alpha: the temperature at first: what one nat of entropy is worth, in units of
            reward. None: `INITIAL_ALPHA` of the size of rewards, the root of the mean square of
            those before the first update.
        learn_alpha: whether the temperature is adjusted until the policy has the target entropy.
        target_entropy: in nats. None: for A dimensions of `Box` actions -A,
            in units where [-1, 1] spans the bounds (so the highest there is would be 0.69 A); for n
            `Discrete` actions half of the highest, 0.5 log n.
        max_grad_norm: clip the gradient norm to this.
        seed: seeds all randomness in training; the environment is seeded once, from it. None draws
            one from torch's global generator.

    Metrics:
        q_value: mean Q(s, a) of the batch, in units of reward: what is expected from here on,
            discounted. Healthy: within the sums of discounted rewards and entropies that the memory
            allows, the band in the picture. Outside: the estimates feed on themselves; lower the
            learning rate or `tau`.
        disagreement: mean absolute difference between the two critics, in units of reward. Healthy:
            well below the size of the q_value. As large: the lower of two is then a guess far too
            low; more data, or a lower learning rate.
        td_error: mean absolute error of Q(s, a) against its target, in units of reward. Healthy:
            well below the size of the q_value. As large: the critic does not keep up; it grows with
            rewards that only now are found, too.
        critic_loss: sum of both critics' mean squared errors against their target, with values in
            units of `value_scale`, ten rewards of the usual size. Healthy: falls at first, then
            stays level. Rises without end: it diverges; lower the learning rate.
        entropy: of the policy at the states of the batch, in nats; see `target_entropy`. Healthy:
            within a quarter of the way from its target to the highest there is. Far above: the
            temperature is still on its way down. Far below: the policy has settled too early; the
            temperature rises.
        alpha: the temperature: what one nat of entropy is worth, in units of reward. Healthy:
            settles, mostly below where it began. Grows without end: the target entropy cannot be
            reached. Falls to nothing: exploration has all but ended.

    Raises:
        TypeError, ValueError: an environment or a number that is not accepted.
    """

    env: Environment = field(repr=False)
    _: KW_ONLY
    replay: ReplayBuffer | None = field(default=None, repr=False)
    capacity: Count = 100_000
    collect_steps: Count = 16
    updates_per_step: Positive = 0.25
    batch_size: Count = 128
    learning_starts: Count = 1_000
    learning_rate: NonNegative = 1e-3
    gamma: Fraction = 0.99
    tau: Fraction = 0.02
    noise_correlation: Fraction = 0.9
    initial_alpha: learning.PositiveOrNone = None
    learn_alpha: bool = True
    target_entropy: float | None = None
    max_grad_norm: Positive = 10.0
    seed: int | None = None

    def __post_init__(self) -> None:
        space = single_spaces(self.env)[1]
        self.discrete, self.units = isinstance(space, Discrete), ActionUnits(space)
        if not self.discrete:
            check_bounded("SAC", self.env)
        self.check()
        self.run = learning.Run(self.env, self.seed)

    def check(self) -> None:
        """Raise an error for a hyperparameter that is not accepted, naming it."""
        learning.check_fields(self)
        learning.check_memory_settings(self)

        target, most = self.target_entropy, self.units.max_entropy
        if target is not None and not (isinstance(target, Real) and -math.inf < target < most):
            raise ValueError(
                f"target_entropy={target!r}; expected None or a number below {most:.3f}, the "
                f"entropy of uniformly random actions: no temperature would be high enough."
            )
        self.target_entropy = None if target is None else float(target)

    def train(
        self,
        actor: nn.Module,
        critics: Critics,
        steps: int = 20_000,
        callbacks: Sequence[learning.Callback] | learning.Callback = (),
        progress: bool = True,
    ) -> learning.History:
        """Train all three for `steps` more environment steps (rounded up to whole rounds), on
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
        self.prepare(actor, critics)
        with self.run.training(self, steps, callbacks, progress) as run:
            while run.unfinished:
                before = run.steps
                self.collect(actor, critics)
                if before == 0 or len(self.memory) < self.learning_starts:
                    self.take_scale(critics)
                updates = range(self.updates_due(before))
                rows = [self.update(actor, critics, self.sample()) for _ in updates]
                run.log(**learning.mean(rows))
        return self.history

    @torch.no_grad()
    def collect(self, actor: nn.Module, critics: Critics) -> None:
        """Explore for `collect_steps` environment steps, and remember them."""
        self.prepare(actor, critics)
        explore, networks = partial(self.explore, actor), [actor, *critics]
        learning.record(self.run, self.memory, explore, self.collect_steps, networks)

    @torch.no_grad()
    def explore(self, actor: nn.Module, obs: Tensor) -> Tensor:
        """Actions sampled from the policy: indices (N,), or (N, A)."""
        pi: Any = policy(actor, obs)  # Categorical or SquashedGaussian
        generator, state = self.run.generator, self.run.state
        if self.discrete:
            return pi.sample(generator=generator)
        return pi.sample(noise=state["noise"].sample(pi.mode, self.noise_correlation, generator))

    def take_scale(self, critics: Critics) -> None:
        """Before the first update, the targets and the temperature learn how large rewards are."""
        self.update_targets(critics, 1.0)
        size = self.memory["reward"].square().mean().sqrt()
        if self.initial_alpha is None and size > 0:
            self.run.state["log_alpha"][0].data.copy_((INITIAL_ALPHA * size).log())

    def updates_due(self, before: int) -> int:
        """Gradient steps for the environment steps since `before`."""
        enough = len(self.memory) >= self.learning_starts
        return self.run.due(self.updates_per_step, before) if enough else 0

    def sample(self) -> Batch:
        """A batch from the memory."""
        return self.memory.sample(self.batch_size, gamma=self.gamma, generator=self.run.generator)

    def soft_value(self, actor: nn.Module, critics: Critics, obs: Tensor) -> tuple[Tensor, Tensor]:
        """V(s), with what the policy's entropy is worth, and that entropy (equation 3). (B,), (B,)

        With discrete actions a sum over all of them, exact; else of one action, drawn so that
        gradients reach the actor through it (appendix C).
        """
        pi: Any = policy(actor, obs)  # Categorical or SquashedGaussian
        if self.discrete:
            lower = torch.min(*(q_values(critic, obs) for critic in critics))
            expected, entropy = (pi.probs * lower).sum(1), pi.entropy()
        else:
            action = pi.rsample(generator=self.run.generator)
            expected = torch.min(*(action_value(critic, obs, action) for critic in critics))
            entropy = -pi.log_prob(action)
        return expected + self.alpha * entropy, entropy

    @torch.no_grad()
    def td_target(self, actor: nn.Module, target_critics: Critics, batch: Batch) -> Tensor:
        """r + gamma V(s'), by the target critics and the actor as it is (equation 2). (B,)

        Truncation bootstraps from V(s'); termination does not.
        """
        next_value, _ = self.soft_value(actor, target_critics, batch.next_obs)
        return batch.reward + batch.discount * next_value * ~batch.terminated

    def critic_loss(self, q_value: Tensor, td_target: Tensor) -> Tensor:
        """Squared errors, of each transition (equation 5). (B,)"""
        return F.mse_loss(q_value, td_target, reduction="none")

    def actor_loss(self, actor: nn.Module, critics: Critics, obs: Tensor) -> tuple[Tensor, Tensor]:
        """-V(s): more value and more entropy (equation 9), and that entropy. (B,), (B,)"""
        value, entropy = self.soft_value(actor, critics, obs)
        return -value, entropy.detach()

    def alpha_loss(self, log_alpha: Tensor, entropy: Tensor) -> Tensor:
        """Raises the temperature where the policy has less entropy than its target (equation 18,
        with log alpha in place of alpha, as its authors' code has it). (B,)"""
        return log_alpha * (entropy - self.resolved_target_entropy)

    def update(self, actor: nn.Module, critics: Critics, batch: Batch) -> dict[str, Tensor]:
        """One gradient step of the critics, one of the actor, one of the temperature, and the
        targets a little after them.

        Returns:
            Numbers to watch, before the step.

        Raises:
            FloatingPointError: a loss or gradient that is not finite.
        """
        state = self.run.bound(actor, *critics) or self.prepare(actor, critics)
        scale, alpha = value_scale(critics[0]), self.alpha

        td_target = self.td_target(actor, state["target_critics"], batch)
        first, second = (action_value(critic, batch.obs, batch.action) for critic in critics)
        target = td_target / scale
        loss = self.critic_loss(first / scale, target) + self.critic_loss(second / scale, target)
        critic_loss = (batch.weight * loss).mean()
        learning.gradient_step(self.run, "critics_adam", critic_loss, self.max_grad_norm)

        actor_loss, entropy = self.actor_loss(actor, critics, batch.obs)
        loss = actor_loss.mean() / scale
        learning.gradient_step(self.run, "actor_adam", loss, self.max_grad_norm)

        if self.learn_alpha:
            alpha_loss = self.alpha_loss(state["log_alpha"][0], entropy).mean()
            learning.gradient_step(self.run, "alpha_adam", alpha_loss, self.max_grad_norm)

        self.update_targets(critics, self.tau)
        error = td_target - first.detach()
        self.memory.update_priorities(batch.index, error / scale)
        return {
            "q_value": first.detach().mean(),
            "disagreement": (first - second).detach().abs().mean(),
            "td_error": error.abs().mean(),
            "critic_loss": critic_loss.detach(),
            "entropy": entropy.mean(),
            "alpha": alpha,
        }

    def update_targets(self, critics: Critics, tau: float) -> None:
        """theta' <- tau theta + (1 - tau) theta', for both target critics."""
        for target, critic in zip(self.run.state["target_critics"], critics, strict=True):
            agents.polyak_update(target, critic, tau)

    def prepare(self, actor: nn.Module, critics: Critics) -> learning.State:
        """The optimizers "actor_adam", "critics_adam" and "alpha_adam", the networks
        "target_critics", the number "log_alpha", the "memory" and the "noise" that go with these
        networks. Others than before start a new training."""
        self.check()  # a number may have been changed since
        actors = agents.SquashedGaussianActor, agents.CategoricalActor
        agents.check_kind("actor", actor, actors[self.discrete])
        agents.two_critics(critics, (agents.QCritic, agents.QNetwork)[self.discrete])
        self.actor, self.critics = actor, critics

        def state() -> learning.State:
            memory = learning.memory_for(self, actor, *critics)  # targets are to know it too
            log_alpha = nn.ParameterList([torch.tensor(self.initial_alpha or 1.0).log()])
            return {
                "actor_adam": learning.adam(actor),
                "critics_adam": learning.adam(*critics),
                # Before its optimizer, which moves to where it is.
                "log_alpha": log_alpha.to(agents.device_of(actor)),
                "alpha_adam": learning.adam(log_alpha),
                "target_critics": nn.ModuleList(map(agents.frozen_copy, critics)),
                "memory": memory,
                "noise": learning.Noise(),
            }

        bound = self.run.bind(state, actor=actor, critics=critics)
        learning.set_learning_rate(bound, self.learning_rate)
        return bound

    @property
    def alpha(self) -> Tensor:
        """The temperature as it is now: what one nat of entropy is worth, in units of reward."""
        return self.run.state["log_alpha"][0].detach().exp()

    @property
    def resolved_target_entropy(self) -> float:
        """`target_entropy`, or what stands for None, in nats."""
        usual = 0.5 * self.units.max_entropy if self.discrete else -float(self.units.size)
        return usual if self.target_entropy is None else self.target_entropy

    @property
    def memory(self) -> ReplayBuffer:
        """All transitions that can be drawn."""
        return self.run.state["memory"]

    @property
    def healthy_ranges(self) -> dict[str, tuple[float, float]]:
        """The numbers to watch. A value outside of its band is no sum of discounted rewards and
        entropies; an entropy far from the one that was asked for is still on its way there."""
        if not self.run.state:
            return {}
        target, most = self.resolved_target_entropy, self.units.max_entropy
        alpha, near = float(self.alpha), 0.25 * (most - target)
        return {
            "q_value": self.memory.return_range(self.gamma, alpha * target, alpha * most),
            "entropy": (target - near, target + near),
        }

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
        critics: Critics | None = None,
        replay: ReplayBuffer | None = None,
    ) -> SAC:
        """A saved trainer, with its networks in `.actor` and `.critics`, that goes on bit for bit.

        Args:
            path: what `save` wrote.
            env: an environment made like the one before.
            actor, critics: needed only where they hold a body of your own, which a file cannot.
            replay: needed only where it had a memory of your own: an empty one, made like it.

        Raises:
            FileNotFoundError, ValueError: no such file, or it holds something else.
        """
        return learning.load(cls, path, env, replay, actor=actor, critics=critics)
