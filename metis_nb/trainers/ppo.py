"""Proximal Policy Optimization (PPO).

Schulman, Wolski, Dhariwal, Radford, Klimov (2017): Proximal Policy Optimization Algorithms,
https://arxiv.org/abs/1707.06347. Equation numbers below are that paper's. Advantages are those of
Schulman et al. (2016), "GAE", https://arxiv.org/abs/1506.02438.

Beyond the paper: observations and returns are standardised inside the networks, so that one
setting serves tasks of any scale; so are advantages, over each rollout, with a floor to their
spread (`ADVANTAGE_FLOOR`); gradients are clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
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
    log_prob: Tensor  # (T, N) of that action, under the policy that took it
    reward: Tensor  # (T, N)
    next_obs: Tensor  # (T, N, *obs_shape) the true successor, also where an episode ended
    terminated: Tensor  # (T, N) bool: the task ended here; nothing is worth anything after it
    truncated: Tensor  # (T, N) bool: only the recording ended here, as at a time limit
    valid: Tensor  # (T, N) bool: False where the step only reset an environment


@dataclass(eq=False)
class PPO:
    """Proximal Policy Optimization with a clipped objective.

        trainer = PPO(env)
        trainer.train(actor, critic)

    Args:
        env: a `gymnasium.Env` or `gymnasium.vector.VectorEnv` with `Box` observations and
            `Discrete` or `Box` actions.
        rollout_steps: environment steps between two updates, over all environments together;
            steps that only reset one are among them. More: steadier, slower learning. Usual:
            256 to 8192.
        epochs: passes over each rollout. More use of the data, and further from the policy that
            gathered it. Usual: 3 to 20.
        minibatch_size: steps for each gradient step, about. Usual: 64 to 1024.
        learning_rate: of Adam. Usual: 1e-4 to 1e-3.
        gamma: discount of the future, per environment step.
        gae_lambda: 0 trusts the critic after one step; 1 only at the end of a rollout.
        clip_range: epsilon of equation 7. The ratio of new to old probability gains nothing from
            leaving [1 - epsilon, 1 + epsilon].
        entropy_coefficient: c2 of equation 9, a bonus for staying random. Usual: 0 to 0.01.
        max_grad_norm: clip the gradient norm to this.
        seed: seeds all randomness in training; the environment is seeded once, from it. None draws
            one from torch's global generator.

    Metrics:
        kl: how far the policy moved in the update, as seen in its last epoch, in nats (0: not at
            all). Healthy: 0 to 0.03. Above: the steps are too large to trust; lower the learning
            rate, or `epochs`. 0 all the time: nothing is learned.
        clip_fraction: share of steps whose probability ratio lies outside of the clip range, in the
            last epoch, from 0 to 1. Healthy: 0 to 0.3. Above: most steps no longer pull; lower the
            learning rate, or `epochs`.
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
    rollout_steps: Count = 2048
    epochs: Count = 10
    minibatch_size: Count = 512
    learning_rate: NonNegative = 1e-3
    gamma: Fraction = 0.99
    gae_lambda: Fraction = 0.95
    clip_range: Positive = 0.2
    entropy_coefficient: NonNegative = 0.0
    max_grad_norm: Positive = 0.5
    seed: int | None = None

    # The numbers to watch, and where we saw them when all was well.
    healthy_ranges: ClassVar = {
        "kl": (0.0, 0.03),
        "clip_fraction": (0.0, 0.3),
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
            pi = policy(actor, obs)
            action = pi.sample(generator=self.run.generator)
            step = view.step(action)
            row = obs, action, pi.log_prob(action), step.reward, step.next_obs
            rows.append(Rollout(*row, step.terminated, step.truncated, step.valid))
        return learning.stack(rows)

    @torch.no_grad()
    def advantages(self, critic: nn.Module, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Generalised advantage estimates (equations 11 and 12) and what the critic should say.

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

    def ratio(self, pi: Distribution, action: Tensor, log_prob: Tensor) -> Tensor:
        """r(theta) = pi_new(a | s) / pi_old(a | s), shape (B,), through logarithms."""
        return (pi.log_prob(action) - log_prob).exp()

    def actor_loss(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        """The clipped surrogate objective (equation 7) with its sign turned: a loss."""
        clipped = ratio.clamp(1 - self.clip_range, 1 + self.clip_range)
        return -torch.min(ratio * advantage, clipped * advantage).mean()

    def critic_loss(self, critic: nn.Module, obs: Tensor, value_target: Tensor) -> Tensor:
        """Half the mean squared error (equation 9), in standard deviations of the return."""
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
        """`epochs` passes of gradient steps over one rollout, in shuffled minibatches.

        Returns:
            Numbers to watch: means over the last epoch, and the explained variance of the value
            targets before the update.

        Raises:
            FloatingPointError: a loss or gradient that is not finite.
        """
        adam = self.prepare(actor, critic)["adam"]
        advantage, value_target = advantage[rollout.valid], value_target[rollout.valid]
        batch, size = learning.flatten(rollout), len(advantage)  # (B, ...), B
        learning.check_finite(self.run.steps, value_target=value_target.abs().max())
        explained_variance = 1 - advantage.var(correction=0) / value_target.var(correction=0)
        update_statistics(critic, returns=value_target)
        spread = advantage.std(correction=0) + ADVANTAGE_FLOOR * return_scale(critic)
        advantage = (advantage - advantage.mean()) / spread

        begin_statistics(actor, batch.obs)
        begin_statistics(critic, batch.obs)
        metrics = []
        for epoch in range(self.epochs):
            order = torch.randperm(size, generator=self.run.generator, device=advantage.device)
            for i in order.tensor_split(max(1, round(size / self.minibatch_size))):
                obs = batch.obs[i]
                pi = policy(actor, obs)
                ratio = self.ratio(pi, batch.action[i], batch.log_prob[i])
                actor_loss = self.actor_loss(ratio, advantage[i])
                critic_loss = self.critic_loss(critic, obs, value_target[i])
                loss = actor_loss + critic_loss
                if self.entropy_coefficient > 0:
                    loss = loss - self.entropy_coefficient * pi.entropy().mean()

                adam.zero_grad()
                loss.backward()
                norm = clip_grad_norm_(adam.param_groups[0]["params"], self.max_grad_norm)
                learning.check_finite(self.run.steps, loss=loss, gradient_norm=norm)
                adam.step()

                if epoch == self.epochs - 1:
                    metrics.append(self.metrics(pi, ratio, actor_loss, critic_loss))
        # Only now: old and new policy see the same normalised observations.
        update_statistics(actor, batch.obs)
        update_statistics(critic, batch.obs)
        return learning.mean(metrics) | {"explained_variance": explained_variance}

    @torch.no_grad()
    def metrics(
        self, pi: Distribution, ratio: Tensor, actor_loss: Tensor, critic_loss: Tensor
    ) -> dict[str, Tensor]:
        """Numbers to watch of one minibatch, before its gradient step."""
        return {
            # Never negative, little variance: joschu.net/blog/kl-approx.html
            "kl": (ratio - 1 - ratio.log()).mean(),
            "clip_fraction": ((ratio - 1).abs() > self.clip_range).float().mean(),
            "entropy": pi.entropy().mean(),
            "actor_loss": actor_loss,
            "critic_loss": critic_loss,
        }

    def prepare(self, actor: nn.Module, critic: nn.Module) -> learning.State:
        """The optimizer "adam" of these networks. Others than before start a new training."""
        self.check()  # a number may have been changed since
        agents.check_policy(actor, self.env)
        agents.check_kind("critic", critic, agents.Critic)
        self.actor, self.critic = actor, critic

        def state() -> learning.State:
            # As keys of a dict, parameters that both networks share are there once. eps is that of
            # OpenAI's own PPO; fused does all parameters in one go.
            parameters = dict.fromkeys([*actor.parameters(), *critic.parameters()])
            return {"adam": torch.optim.Adam(parameters, self.learning_rate, eps=1e-5, fused=True)}

        bound = self.run.bind(state, actor=actor, critic=critic)
        bound["adam"].param_groups[0]["lr"] = self.learning_rate  # it may have changed since
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
    ) -> PPO:
        """A saved trainer, with its networks in `.actor` and `.critic`, that goes on bit for bit.

        Args:
            path: what `save` wrote.
            env: an environment made like the one before.
            actor, critic: needed only where they hold a body of your own, which a file cannot.

        Raises:
            FileNotFoundError, ValueError: no such file, or it holds something else.
        """
        return learning.load(cls, path, env, actor=actor, critic=critic)
