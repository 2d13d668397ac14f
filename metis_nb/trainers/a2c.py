"""Advantage Actor-Critic (A2C).

Mnih, Badia, Mirza, Graves, Lillicrap, Harley, Silver, Kavukcuoglu (2016): Asynchronous Methods for
Deep Reinforcement Learning, https://arxiv.org/abs/1602.01783, section 4, with the environments
stepped together in place of asynchronous ones. Advantages are those of Schulman et al. (2016),
"GAE", https://arxiv.org/abs/1506.02438; `gae_lambda=1` gives the n-step returns of the former.

Beyond the papers: observations and returns are standardised inside the networks, and advantages
over each batch with a floor to their spread (`ADVANTAGE_FLOOR`), so that the scale of rewards does
not matter; Adam in place of RMSprop, with a faster critic (the two timescales of Konda and
Tsitsiklis 1999, "Actor-Critic Algorithms"); the gradient of each network is clipped for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from metis_nb import agents, learning
from metis_nb.agents import begin_statistics, policy, return_scale, update_statistics, value
from metis_nb.envs.spaces import Environment
from metis_nb.learning import Count, Fraction, NonNegative, Positive

# Once a task is solved, advantages are small and all noise. Divided by their own spread alone they
# would push as hard as ever; this share of the returns' spread is added to the divisor.
ADVANTAGE_FLOOR = 0.1


@dataclass
class Rollout:
    """T steps of N environments, one after another. Float tensors are float32."""

    obs: Tensor  # (T, N, *obs_shape) acted on
    action: Tensor  # (T, N) int64 or (T, N, A) float32, as sampled: not yet clipped to the bounds
    reward: Tensor  # (T, N)
    next_obs: Tensor  # (T, N, *obs_shape) the true successor, also where an episode ended
    terminated: Tensor  # (T, N) bool: the task ended here; nothing is worth anything after it
    truncated: Tensor  # (T, N) bool: only the recording ended here, as at a time limit
    valid: Tensor  # (T, N) bool: False where the step only reset an environment


@dataclass(eq=False)
class A2C:
    """Advantage Actor-Critic: one gradient step for each batch of experience.

        trainer = A2C(env)
        trainer.train(actor, critic)

    Args:
        env: a `gymnasium.Env` or `gymnasium.vector.VectorEnv` with `Box` observations and
            `Discrete` or `Box` actions.
        rollout_steps: environment steps between two updates, over all environments together;
            steps that only reset one are among them. More: steadier, slower learning. Usual:
            20 to 2048.
        learning_rate: of Adam, for the actor. Usual: 1e-4 to 5e-3.
        critic_learning_rate: for the critic, which has to keep up with a policy that changes under
            it: five times the actor's made CartPole come early and stay, the same rate did not.
        gamma: discount of the future, per environment step.
        gae_lambda: 0 trusts the critic after one step; 1 only at the end of a rollout, which is
            the n-step return of the A2C paper.
        entropy_coefficient: beta of the paper, a bonus for staying random. Usual: 0 to 0.01.
        max_grad_norm: clip the gradient norm to this.
        seed: seeds all randomness in training; the environment is seeded once, from it. None draws
            one from torch's global generator.

    Metrics:
        kl: how far the policy moved in the update, in nats (0: not at all). Healthy: 0 to 0.03.
            Above: the steps are too large to trust; lower the learning rate. 0 all the time:
            nothing is learned.
        entropy: of the policy at the states of the batch, in nats: log n for n uniformly random
            actions; for `Box` actions it may be negative. Healthy: falls slowly. Falls at once: the
            policy has settled before it has tried enough; raise `entropy_coefficient`. Never falls:
            nothing is learned.
        actor_loss: what the actor descends, without unit. Healthy: near 0, of any sign: it says
            nothing about how good the policy is.
        critic_loss: half the mean squared error of the critic, in variances of the return. Healthy:
            falls at first, then stays level; it may rise as returns do. Rises without end: a lower
            learning rate.
        explained_variance: share of the variance of the value targets that the critic explains,
            before the update: 1 is all of it. Healthy: 0.5 to 1, after the first updates. Near 0 or
            below: the critic is no better than a constant, and advantages are mostly noise.

    Raises:
        TypeError, ValueError: an environment or a number that is not accepted.
    """

    env: Environment = field(repr=False)
    _: KW_ONLY
    rollout_steps: Count = 256
    learning_rate: NonNegative = 1e-3
    critic_learning_rate: NonNegative = 5e-3
    gamma: Fraction = 0.99
    gae_lambda: Fraction = 0.95
    entropy_coefficient: NonNegative = 0.0
    max_grad_norm: Positive = 0.5
    seed: int | None = None

    # The numbers to watch, and where we saw them when all was well.
    healthy_ranges: ClassVar = {
        "kl": (0.0, 0.03),
        "explained_variance": (0.5, 1.0),
    }

    def __post_init__(self) -> None:
        self.check()
        self.run = learning.Run(self.env, self.seed)

    def check(self) -> None:
        """Raise ValueError for a hyperparameter that is not accepted, naming it."""
        learning.check_fields(self)

    def train(
        self,
        actor: nn.Module,
        critic: nn.Module,
        steps: int = 300_000,
        callbacks: Sequence[learning.Callback] | learning.Callback = (),
        progress: bool = True,
    ) -> learning.History:
        """Train both networks for `steps` more environment steps (rounded up to whole rollouts),
        on the device where they are.

        Calling it again resumes training; other networks start afresh. Interrupting it
        (Ctrl-C, the stop button) ends it after the update under way.

        Args:
            callbacks: functions of the trainer, called after each update; True stops.
            progress: show how far it is: in a notebook a picture of returns and of the numbers in
                `healthy_ranges`, elsewhere a progress bar.

        Returns:
            The history, one row for each update; also in `trainer.history`.

        Raises:
            FloatingPointError: an observation, reward or loss that is not finite.
        """
        self.prepare(actor, critic)
        with self.run.training(self, steps, callbacks, progress) as run:
            while run.unfinished:
                rollout = self.collect(actor)
                advantage, value_target = self.advantages(critic, rollout)
                metrics = self.update(actor, critic, rollout, advantage, value_target)
                run.log(**metrics)
        return self.history

    @torch.no_grad()
    def collect(self, actor: nn.Module) -> Rollout:
        """Act in the environments for `rollout_steps` steps, going on where the last call ended."""
        view = self.run.start(actor)
        rows: list[Rollout] = []  # the last of them is not of resets alone
        while len(rows) * view.num_envs < self.rollout_steps or not bool(rows[-1].valid.any()):
            obs = view.obs
            action = policy(actor, obs).sample(generator=self.run.generator)
            step = view.step(action)
            row = obs, action, step.reward, step.next_obs
            rows.append(Rollout(*row, step.terminated, step.truncated, step.valid))
        return learning.stack(rows)

    @torch.no_grad()
    def advantages(self, critic: nn.Module, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Generalised advantage estimates (GAE, equation 16) and what the critic should say.

        Truncation bootstraps from V(s'); termination does not.

        Returns:
            advantage (T, N), value_target (T, N) = advantage + V(s).
        """
        shape = rollout.reward.shape
        values = value(critic, rollout.obs.flatten(0, 1)).view(shape)
        next_values = value(critic, rollout.next_obs.flatten(0, 1)).view(shape)
        delta = rollout.reward + self.gamma * next_values * ~rollout.terminated - values

        same_episode = ~(rollout.terminated | rollout.truncated)  # as the step after this one
        advantage = torch.zeros_like(delta)
        next_advantage = torch.zeros_like(delta[0])
        for t in reversed(range(len(delta))):
            discount = self.gamma * self.gae_lambda * same_episode[t]
            next_advantage = delta[t] + discount * next_advantage
            advantage[t] = next_advantage
        return advantage, advantage + values

    def actor_loss(self, log_prob: Tensor, advantage: Tensor) -> Tensor:
        """-log pi(a | s) A: its gradient is the policy gradient (section 4), its sign turned."""
        return -(log_prob * advantage).mean()

    def critic_loss(self, critic: nn.Module, obs: Tensor, value_target: Tensor) -> Tensor:
        """Half the mean squared error, in standard deviations of the return."""
        error = (value(critic, obs) - value_target) / return_scale(critic)
        return 0.5 * error.square().mean()

    def update(
        self,
        actor: nn.Module,
        critic: nn.Module,
        rollout: Rollout,
        advantage: Tensor,
        value_target: Tensor,
    ) -> dict[str, Tensor]:
        """One gradient step on one rollout, which is then thrown away.

        Returns:
            Numbers to watch; the explained variance of the value targets is before the update.

        Raises:
            FloatingPointError: a loss or gradient that is not finite.
        """
        adam = self.prepare(actor, critic)["adam"]
        advantage, value_target = advantage[rollout.valid], value_target[rollout.valid]
        obs, action = rollout.obs[rollout.valid], rollout.action[rollout.valid]  # (B, ...)
        learning.check_finite(self.run.steps, value_target=value_target.abs().max())
        explained_variance = 1 - advantage.var(correction=0) / value_target.var(correction=0)
        update_statistics(critic, returns=value_target)
        spread = advantage.std(correction=0) + ADVANTAGE_FLOOR * return_scale(critic)
        advantage = (advantage - advantage.mean()) / spread

        begin_statistics(actor, obs)
        begin_statistics(critic, obs)
        pi = policy(actor, obs)
        log_prob, entropy = pi.log_prob(action), pi.entropy().mean()
        actor_loss = self.actor_loss(log_prob, advantage)
        critic_loss = self.critic_loss(critic, obs, value_target)
        loss = actor_loss + critic_loss
        if self.entropy_coefficient > 0:
            loss = loss - self.entropy_coefficient * entropy

        adam.zero_grad()
        loss.backward()
        norms = [
            clip_grad_norm_(group["params"], self.max_grad_norm) for group in adam.param_groups
        ]
        learning.check_finite(self.run.steps, loss=loss, gradient_norm=torch.stack(norms).sum())
        adam.step()

        with torch.no_grad():
            log_ratio = policy(actor, obs).log_prob(action) - log_prob
        update_statistics(actor, obs)
        update_statistics(critic, obs)
        return {
            # Never negative, little variance: joschu.net/blog/kl-approx.html
            "kl": (log_ratio.exp() - 1 - log_ratio).mean(),
            "entropy": entropy.detach(),
            "actor_loss": actor_loss.detach(),
            "critic_loss": critic_loss.detach(),
            "explained_variance": explained_variance,
        }

    def prepare(self, actor: nn.Module, critic: nn.Module) -> learning.State:
        """The optimizer "adam" of these networks. Others than before start a new training."""
        self.check()  # a number may have been changed since
        agents.check_policy(actor, self.env)
        agents.check_kind("critic", critic, agents.Critic)
        self.actor, self.critic = actor, critic

        def state() -> learning.State:
            # Parameters that both networks share are the actor's.
            own = [p for p in critic.parameters() if p not in {*actor.parameters()}]
            groups = [{"params": [*actor.parameters()]}, {"params": own}]
            return {"adam": torch.optim.Adam(groups, self.learning_rate, eps=1e-5, fused=True)}

        bound = self.run.bind(state, actor=actor, critic=critic)
        rates = self.learning_rate, self.critic_learning_rate  # they may have changed since
        for group, rate in zip(bound["adam"].param_groups, rates):
            group["lr"] = rate
        return bound

    @property
    def history(self) -> learning.History:
        """One row for each update so far."""
        return self.run.history

    def save(self, path: str | Path) -> None:
        """Write everything to one file (safetensors: no pickle), whole or not at all."""
        learning.save(self, path)

    @classmethod
    def load(
        cls,
        path: str | Path,
        env: Environment,
        actor: nn.Module | None = None,
        critic: nn.Module | None = None,
    ) -> A2C:
        """A saved trainer, with its networks in `.actor` and `.critic`, that goes on bit for bit.

        Args:
            path: what `save` wrote.
            env: an environment made like the one before.
            actor, critic: needed only where they hold a body of your own, which a file cannot.

        Raises:
            FileNotFoundError, ValueError: no such file, or it holds something else.
        """
        return learning.load(cls, path, env, actor=actor, critic=critic)
