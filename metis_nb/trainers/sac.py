"""Soft Actor-Critic (SAC), for continuous and for discrete actions.

Haarnoja, Zhou, Hartikainen et al. (2018): Soft Actor-Critic Algorithms and Applications,
https://arxiv.org/abs/1812.05905, algorithm 1, with the temperature of section 5. Discrete actions:
Christodoulou (2019): Soft Actor-Critic for Discrete Action Settings,
https://arxiv.org/abs/1910.07207, with a target for the entropy that can be reached.

Beyond the papers: several environments at once, observations and the scale of rewards standardised
inside the networks, exploration noise that is correlated in time, and gradients that are too long
are shortened.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from gymnasium.spaces import Discrete
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from metis_nb import training
from metis_nb.agents import (
    CategoricalActor,
    QCritic,
    QNetwork,
    SquashedGaussianActor,
    action_value,
    blend,
    check_kind,
    device_of,
    observe,
    policy,
    q_values,
    reward_scale,
    two_critics,
    unwrap,
)
from metis_nb.noise import Noise
from metis_nb.replay import Batch, ReplayBuffer, check_replay
from metis_nb.spaces import ActionUnits, Environment, check_bounded, single_spaces

Critics = Sequence[nn.Module]  # two of them


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
        alpha: the temperature at first: what one nat of entropy is worth, in units of reward.
        learn_alpha: whether it is adjusted, until the policy has the entropy asked for.
        target_entropy: the entropy asked for, in nats. None: for A dimensions of `Box` actions -A,
            in units where [-1, 1] spans the bounds (so the highest there is would be 0.69 A); for n
            `Discrete` actions half of the highest, 0.5 log n.
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
    collect_steps: int = 16
    updates_per_step: float = 0.25
    batch_size: int = 128
    learning_starts: int = 1_000
    learning_rate: float = 1e-3
    gamma: float = 0.99
    tau: float = 0.02
    noise_correlation: float = 0.9
    alpha: float = 1.0
    learn_alpha: bool = True
    target_entropy: float | None = None
    max_grad_norm: float = 10.0
    seed: int | None = None

    def __post_init__(self) -> None:
        self.discrete = isinstance(single_spaces(self.env)[1], Discrete)
        if not self.discrete:
            check_bounded("SAC", self.env)
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
            gamma="a number from 0 to 1",
            tau="a number from 0 to 1",
            noise_correlation="a number from 0 to 1",
            alpha="a number above 0",
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

        asked_for, most = self.target_entropy, self.highest_entropy
        number = isinstance(asked_for, Real) and -math.inf < asked_for < most
        if asked_for is not None and not number:
            raise ValueError(
                f"target_entropy={self.target_entropy!r}; expected None or a number below "
                f"{self.highest_entropy:.3f}, the entropy of actions that are all as likely: no "
                f"temperature would ever be high enough."
            )

    def train(
        self,
        actor: nn.Module,
        critics: Critics,
        steps: int = 20_000,
        callbacks: Sequence[training.Callback] | training.Callback = (),
        progress: bool = True,
    ) -> training.History:
        """Train all three for `steps` more environment steps (rounded up to whole rounds), on
        the device where they are.

        Calling it again goes on where it stopped, unless with other networks. Interrupting it
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
        self.prepare(actor, critics)
        with self.run.training(self, steps, callbacks, progress) as run:
            while run.unfinished:
                before = run.steps
                self.collect(actor, critics)
                if before == 0:  # else they would not know the scale of anything yet
                    self.move_targets(critics, 1.0)
                updates = range(self.updates_due(before))
                rows = [self.update(actor, critics, self.sample()) for _ in updates]
                run.log(**training.mean(rows))
        return self.history

    @torch.no_grad()
    def collect(self, actor: nn.Module, critics: Critics) -> None:
        """Act by chance, as the policy has it, for `collect_steps` environment steps, and remember
        them."""
        state = self.prepare(actor, critics)
        memory, noise = state["memory"], state["noise"]
        view = self.run.start(actor)
        seen, rewards = [], []
        goal = view.steps + self.collect_steps
        while view.steps < goal:
            obs = view.obs
            pi: Any = policy(actor, obs)  # Categorical or SquashedGaussian
            if self.discrete:
                action = pi.sample(generator=self.run.generator)
            else:
                chance = noise.sample(pi.mode, self.noise_correlation, self.run.generator)
                action = pi.sample(noise=chance)
            step = view.step(action)
            memory.add(obs, action, step)
            seen.append(obs[step.valid])
            rewards.append(step.reward[step.valid])
        obs, reward = torch.cat(seen), torch.cat(rewards)
        training.check_finite(self.run, squared_reward=reward.square().mean())
        for network in (actor, *critics):
            observe(network, obs, rewards=reward)

    def updates_due(self, before: int) -> int:
        """Gradient steps for the environment steps since `before`."""
        if len(self.memory) < self.learning_starts:
            return 0
        # Of running totals, so that no fraction is lost between rounds.
        return int(self.run.steps * self.updates_per_step) - int(before * self.updates_per_step)

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
        return expected + self.temperature * entropy, entropy

    @torch.no_grad()
    def td_target(self, actor: nn.Module, target_critics: Critics, batch: Batch) -> Tensor:
        """r + gamma V(s'), by the target critics and the actor as it is (equation 2). (B,)

        A truncated episode goes on, unseen: its last state counts. A terminated one does not.
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
        """Raises the temperature where the policy has less entropy than asked for (equation 18,
        with log alpha in place of alpha, as its authors' code has it). (B,)"""
        return log_alpha * (entropy - self.entropy_asked_for)

    def update(self, actor: nn.Module, critics: Critics, batch: Batch) -> dict[str, Tensor]:
        """One gradient step of the critics, one of the actor, one of the temperature, and the
        targets a little after them.

        Returns:
            Numbers to watch, before the step.

        Raises:
            FloatingPointError: a loss or gradient that is not finite.
        """
        state = self.run.bound(actor, *critics) or self.prepare(actor, critics)
        scale, alpha = reward_scale(critics[0]), self.temperature

        td_target = self.td_target(actor, state["target_critics"], batch)
        one, two = (self.taken(critic, batch) for critic in critics)
        losses = [self.critic_loss(q_value / scale, td_target / scale) for q_value in (one, two)]
        loss = (batch.weight * sum(losses)).mean()
        self.step("critics", loss)

        actor_loss, entropy = self.actor_loss(actor, critics, batch.obs)
        self.step("actor", actor_loss.mean() / scale)

        if self.learn_alpha:
            log_alpha = state["log_alpha"]
            self.step("alpha", self.alpha_loss(log_alpha[0], entropy).mean())

        self.move_targets(critics, self.tau)
        one, two, loss = one.detach(), two.detach(), loss.detach()
        error = td_target - one
        self.memory.learned(batch.index, error / scale)
        return {
            "q_value": one.mean(),
            "disagreement": (one - two).abs().mean(),
            "td_error": error.abs().mean(),
            "critic_loss": loss,
            "entropy": entropy.mean(),
            "alpha": alpha,
        }

    def taken(self, critic: nn.Module, batch: Batch) -> Tensor:
        """Q(s, a) of the actions that were taken. (B,)"""
        if self.discrete:
            return q_values(critic, batch.obs).gather(1, batch.action[:, None]).squeeze(1)
        return action_value(critic, batch.obs, batch.action)

    def step(self, name: str, loss: Tensor) -> None:
        """One step of this Adam down the loss; only its own parameters get gradients."""
        adam = self.run.state[f"{name}_adam"]
        parameters = adam.param_groups[0]["params"]
        adam.zero_grad()
        loss.backward(inputs=parameters)
        norm = clip_grad_norm_(parameters, self.max_grad_norm)
        training.check_finite(self.run, **{f"{name}_loss": loss, f"{name}_gradient_norm": norm})
        adam.step()

    def move_targets(self, critics: Critics, tau: float) -> None:
        """theta' <- tau theta + (1 - tau) theta', for both target critics."""
        for target, critic in zip(self.run.state["target_critics"], critics, strict=True):
            blend(target, critic, tau)

    def prepare(self, actor: nn.Module, critics: Critics) -> training.State:
        """The optimizers "actor_adam", "critics_adam" and "alpha_adam", the networks
        "target_critics", the number "log_alpha", the "memory" and the "noise" that go with these
        networks. Others than before start a new training."""
        self.check()  # a number may have been changed since
        if self.discrete:
            check_kind("actor", actor, CategoricalActor, "agents.actor(env)")
            critic_1, critic_2 = two_critics(critics, QNetwork, "agents.q_network(env)")
        else:
            maker = "agents.actor(env, squashed=True)"
            check_kind("actor", actor, SquashedGaussianActor, maker)
            critic_1, critic_2 = two_critics(critics, QCritic, "agents.q_critic(env)")
        self.actor, self.critics = actor, critics

        def adam(*networks: nn.Module) -> torch.optim.Adam:
            parameters = [parameter for network in networks for parameter in network.parameters()]
            return torch.optim.Adam(parameters, eps=1e-5, fused=True)

        def target(network: nn.Module) -> nn.Module:
            return copy.deepcopy(unwrap(network)).requires_grad_(False).eval()

        def state() -> training.State:
            memory, device = self.replay, device_of(actor)
            if memory is None:
                memory = ReplayBuffer(self.env, self.capacity, device)
            elif len(memory):  # the networks have not met what is in it
                obs, reward = memory["obs"].to(device), memory["reward"].to(device)
                for network in (actor, *critics):
                    observe(network, obs, rewards=reward)
            log_alpha = nn.ParameterList([torch.tensor(math.log(self.alpha), device=device)])
            return {
                "actor_adam": adam(actor),
                "critics_adam": adam(*critics),
                "log_alpha": log_alpha,  # before its optimizer, which moves to where it is
                "alpha_adam": adam(log_alpha),
                "target_critics": nn.ModuleList(target(critic) for critic in critics),
                "memory": memory,
                "noise": Noise(),
            }

        parts = self.run.bind(state, actor=actor, critic_1=critic_1, critic_2=critic_2)
        for name in ("actor_adam", "critics_adam", "alpha_adam"):
            for group in parts[name].param_groups:
                group["lr"] = self.learning_rate
        return parts

    @property
    def temperature(self) -> Tensor:
        """alpha, as it is now: what one nat of entropy is worth."""
        return self.run.state["log_alpha"][0].detach().exp()

    @property
    def highest_entropy(self) -> float:
        """Of actions that are all as likely, in nats."""
        size = ActionUnits(single_spaces(self.env)[1]).size
        return math.log(size) if self.discrete else math.log(2) * size

    @property
    def entropy_asked_for(self) -> float:
        """`target_entropy`, or what stands for None."""
        if self.target_entropy is not None:
            return self.target_entropy
        size = ActionUnits(single_spaces(self.env)[1]).size
        return 0.5 * math.log(size) if self.discrete else -float(size)

    @property
    def memory(self) -> ReplayBuffer:
        """All transitions that can be drawn."""
        return self.run.state["memory"]

    @property
    def healthy(self) -> dict[str, tuple[float, float]]:
        """The numbers to watch. A value outside of its band is no sum of discounted rewards and
        entropies; an entropy far from the one that was asked for is still on its way there."""
        if not self.run.state:
            return {}
        low, high = self.memory.reward_range()
        horizon = 1 / max(1 - self.gamma, 1e-9)
        asked_for, most = self.entropy_asked_for, self.highest_entropy
        alpha, near = float(self.temperature), 0.25 * (most - asked_for)
        low, high = min(low, 0) + alpha * min(asked_for, 0), max(high, 0) + alpha * max(most, 0)
        return {
            "q_value": (low * horizon, high * horizon),
            "entropy": (asked_for - near, asked_for + near),
        }

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
        given = {"actor": actor}
        if critics is not None:
            one, two = two_critics(critics, (QCritic, QNetwork), "agents.q_critic(env)")
            given |= {"critic_1": one, "critic_2": two}
        return training.load(cls, path, env, replay, **given)
