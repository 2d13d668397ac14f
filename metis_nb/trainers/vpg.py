"""Vanilla policy gradient (VPG), known as REINFORCE.

Williams (1992): Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement
Learning, https://doi.org/10.1007/BF00992696. Sutton, McAllester, Singh, Mansour (2000): Policy
Gradient Methods for Reinforcement Learning with Function Approximation, whose theorem 1 says that
each action need only answer for the rewards after it.

No critic: an action is weighted by what really came. Beyond the papers: many episodes for each
gradient step, from whose weights their mean is taken off (a baseline) and their spread divided out,
Adam, observations standardised inside the network, gradients clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from metis_nb import agents, learning
from metis_nb.agents import begin_statistics, policy, update_statistics
from metis_nb.envs.spaces import Environment, name_of, wrapping
from metis_nb.learning import Count, Fraction, NonNegative, Positive

WEIGHTS = ("reward_to_go", "total_return")
# Where all episodes of a batch fare alike, the baseline leaves nothing of the weights but rounding.
# Divided by its own spread alone it would push as hard as ever; this share of the spread that the
# weights had before is added to the divisor.
WEIGHT_FLOOR = 0.1
LONGEST = 100_000  # steps of one episode, after which it is taken for one that never ends


@dataclass
class Rollout:
    """T steps of N environments, one after another. Float tensors are float32."""

    obs: Tensor  # (T, N, *obs_shape) acted on
    action: Tensor  # (T, N) int64 or (T, N, A) float32, as sampled: not yet clipped to the bounds
    reward: Tensor  # (T, N)
    time: Tensor  # (T, N) int64: steps since the episode began
    done: Tensor  # (T, N) bool: the episode ended with this step
    valid: Tensor  # (T, N) bool: a step of an episode that has ended, and not learned from before


class Unfinished:
    """The steps of episodes that are still under way when a batch is full."""

    def __init__(self) -> None:
        self.rows: list[Rollout] = []

    def state_dict(self) -> dict[str, Any]:
        """As plain data, to be saved."""
        return {"rows": [vars(row) for row in self.rows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = [Rollout(**row) for row in state["rows"]]


@dataclass(eq=False)
class VPG:
    """Vanilla policy gradient: REINFORCE over batches of whole episodes. No critic.

        trainer = VPG(env)
        trainer.train(actor)

    Args:
        env: a `gymnasium.Env` or `gymnasium.vector.VectorEnv` with `Box` observations and
            `Discrete` or `Box` actions, and episodes that end. A time limit counts as an end: what
            would have come after it is not known here.
        batch_steps: a gradient step is made when episodes of so many steps together have ended.
            More: steadier, slower learning. Usual: 500 to 10,000.
        learning_rate: of Adam. Usual: 1e-3 to 1e-2.
        gamma: discount of the future, per environment step.
        action_weight: what an action is weighted by: "reward_to_go", the discounted rewards from
            its step on, or "total_return", those of its whole episode.
        baseline: whether the mean is taken off each weight: that of all steps of the batch which
            are as far into their episodes. The weight itself is one of these n, which shrinks it by
            1 - 1/n: a step that a single episode of the batch reaches teaches nothing.
        normalize: whether the weights are divided by their spread over the batch.
        entropy_coefficient: a bonus for staying random. Usual: 0 to 0.01.
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
        gradient_norm: of the loss, before it is clipped. Healthy: mostly below `max_grad_norm` or a
            few times as large. Far above it in most updates: the step size is that of the clipping,
            whatever the learning rate says.

    Raises:
        TypeError, ValueError: an environment or an argument that is not accepted.
    """

    env: Environment = field(repr=False)
    _: KW_ONLY
    batch_steps: Count = 2048
    learning_rate: NonNegative = 5e-3
    gamma: Fraction = 0.99
    action_weight: str = "reward_to_go"
    baseline: bool = True
    normalize: bool = True
    entropy_coefficient: NonNegative = 0.0
    max_grad_norm: Positive = 0.5
    seed: int | None = None

    # The numbers to watch, and where we saw them when all was well.
    healthy_ranges: ClassVar = {"kl": (0.0, 0.03)}

    def __post_init__(self) -> None:
        self.check()
        self.run = learning.Run(self.env, self.seed)
        self.unfinished = Unfinished()

    def check(self) -> None:
        """Raise ValueError for a hyperparameter that is not accepted, naming it."""
        learning.check_fields(self)
        if self.action_weight not in WEIGHTS:
            names = ", ".join(WEIGHTS)
            raise ValueError(f"action_weight={self.action_weight!r}; expected one of {names}.")

    def train(
        self,
        actor: nn.Module,
        steps: int = 300_000,
        callbacks: Sequence[learning.Callback] | learning.Callback = (),
        progress: bool = True,
    ) -> learning.History:
        """Train the actor for `steps` more environment steps (rounded up to whole batches), on
        the device where it is.

        Calling it again resumes training; another network starts afresh. Interrupting it
        (Ctrl-C, the stop button) ends it after the update under way.

        Args:
            callbacks: functions of the trainer, called after each update; True stops.
            progress: show how far it is: in a notebook a picture of returns and of the numbers in
                `healthy_ranges`, elsewhere a progress bar.

        Returns:
            The history, one row for each update; also in `trainer.history`.

        Raises:
            FloatingPointError: an observation, reward or loss that is not finite.
            ValueError: an episode that does not end.
        """
        self.prepare(actor)
        with self.run.training(self, steps, callbacks, progress) as run:
            while run.unfinished:
                rollout = self.collect(actor)
                weight = self.weights(rollout)
                metrics = self.update(actor, rollout, weight)
                run.log(**metrics)
        return self.history

    @torch.no_grad()
    def collect(self, actor: nn.Module) -> Rollout:
        """Act until episodes of `batch_steps` steps together have ended.

        Episodes still under way then are carried on into the next batch, whole. Leaving them out
        would make a batch of the short ones, for these end first.
        """
        view = self.run.start(actor)
        rows = self._carried(actor)
        finished = self.history.episodes
        before = len(finished)
        while sum(length for _, _, length in finished[before:]) < self.batch_steps:
            obs, time = view.obs, view.episode_length.clone()
            action = policy(actor, obs).sample(generator=self.run.generator)
            step = view.step(action)
            done = step.terminated | step.truncated
            rows.append(Rollout(obs, action, step.reward, time, done, step.valid))
            if int(view.episode_length.max()) > LONGEST:
                raise ValueError(
                    f"env: an episode of {name_of(self.env)} has not ended after {LONGEST:,} "
                    f"steps; VPG learns from whole episodes. Give them an end: "
                    f"{wrapping(self.env, 'gymnasium.wrappers.TimeLimit(env, 1000)')}"
                )
        rollout = learning.stack(rows)
        # Ended: there is an end at this step or after it.
        ended = rollout.done.flip(0).cumsum(0).flip(0) > 0
        under_way = rollout.valid & ~ended
        first = int(under_way.any(1).int().argmax()) if bool(under_way.any()) else len(rows)
        for t in range(first, len(rows)):
            rows[t].valid = under_way[t]
        self.unfinished.rows = rows[first:]
        rollout.valid = rollout.valid & ended
        return rollout

    def _carried(self, actor: nn.Module) -> list[Rollout]:
        """The rows of unfinished episodes, if they are the beginnings of those now under way.

        If not, as after an interrupted batch, new episodes begin: else some would lack their own.
        """
        view = self.run.start(actor)
        rows = [
            Rollout(*(tensor.to(view.device) for tensor in vars(row).values()))
            for row in self.unfinished.rows
        ]
        self.unfinished.rows = []
        steps = torch.zeros_like(view.episode_length)
        if rows:
            steps = learning.stack(rows).valid.sum(0)
        if torch.equal(steps, view.episode_length):
            return rows
        if bool(view.episode_length.any()):
            view.reset()
        return []

    def weights(self, rollout: Rollout) -> Tensor:
        """What each action is weighted by, (T, N); a baseline comes off in `update`.

        The discounted rewards from step t on, up to the end of the episode (Sutton et al. 2000),
        or, for the total return, those from its first step on (Williams 1992).
        """
        to_go = torch.zeros_like(rollout.reward)
        next_return = torch.zeros_like(rollout.reward[0])
        for t in reversed(range(len(to_go))):
            next_return = rollout.reward[t] + self.gamma * ~rollout.done[t] * next_return
            to_go[t] = next_return
        if self.action_weight == "reward_to_go":
            return to_go
        total = to_go.clone()
        for t in range(1, len(total)):
            # The row after an end may only reset: the episode then begins with the one after it.
            same = rollout.valid[t] & rollout.valid[t - 1] & ~rollout.done[t - 1]
            total[t] = torch.where(same, total[t - 1], to_go[t])
        return total

    def mean_at(self, time: Tensor, weight: Tensor) -> Tensor:
        """For each step (B,), the mean weight of all steps that are as far into their episodes."""
        total, count = weight.new_zeros(2, int(time.max()) + 1)
        total.index_add_(0, time, weight)
        count.index_add_(0, time, torch.ones_like(weight))
        return (total / count.clamp(min=1))[time]

    def actor_loss(self, log_prob: Tensor, weight: Tensor) -> Tensor:
        """-log pi(a | s) times weight: its gradient is the policy gradient with its sign turned."""
        return -(log_prob * weight).mean()

    def update(self, actor: nn.Module, rollout: Rollout, weight: Tensor) -> dict[str, Tensor]:
        """One gradient step on a batch of whole episodes, which is then thrown away.

        Returns:
            Numbers to watch.

        Raises:
            FloatingPointError: a loss or gradient that is not finite.
        """
        adam = self.prepare(actor)["adam"]
        weight, time = weight[rollout.valid], rollout.time[rollout.valid]  # (B,)
        obs, action = rollout.obs[rollout.valid], rollout.action[rollout.valid]  # (B, ...)
        floor = WEIGHT_FLOOR * agents.spread_of(weight.mean(), weight.var(correction=0))
        if self.baseline:
            weight = weight - self.mean_at(time, weight)
        if self.normalize:
            weight = weight / (weight.std(correction=0) + floor)

        begin_statistics(actor, obs)
        pi = policy(actor, obs)
        log_prob, entropy = pi.log_prob(action), pi.entropy().mean()
        actor_loss = self.actor_loss(log_prob, weight)
        loss = actor_loss
        if self.entropy_coefficient > 0:
            loss = loss - self.entropy_coefficient * entropy

        adam.zero_grad()
        loss.backward()
        norm = clip_grad_norm_(adam.param_groups[0]["params"], self.max_grad_norm)
        learning.check_finite(self.run.steps, loss=loss, gradient_norm=norm)
        adam.step()

        with torch.no_grad():
            log_ratio = policy(actor, obs).log_prob(action) - log_prob
        update_statistics(actor, obs)
        return {
            # Never negative, little variance: joschu.net/blog/kl-approx.html
            "kl": (log_ratio.exp() - 1 - log_ratio).mean(),
            "entropy": entropy.detach(),
            "actor_loss": actor_loss.detach(),
            "gradient_norm": norm,
        }

    def prepare(self, actor: nn.Module) -> learning.State:
        """The optimizer "adam" of this network, and the steps of "unfinished" episodes. Another
        network than before starts a new training."""
        self.check()  # a number may have been changed since
        agents.check_policy(actor, self.env)
        self.actor = actor

        def state() -> learning.State:
            adam = torch.optim.Adam(actor.parameters(), self.learning_rate, eps=1e-5, fused=True)
            return {"adam": adam, "unfinished": self.unfinished}

        bound = self.run.bind(state, actor=actor)
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
    def load(cls, path: str | Path, env: Environment, actor: nn.Module | None = None) -> VPG:
        """A saved trainer, with its network in `.actor`, that goes on bit for bit.

        Args:
            path: what `save` wrote.
            env: an environment made like the one before.
            actor: needed only where it holds a body of your own, which a file cannot.

        Raises:
            FileNotFoundError, ValueError: no such file, or it holds something else.
        """
        return learning.load(cls, path, env, actor=actor)
