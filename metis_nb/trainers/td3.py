"""Twin Delayed Deep Deterministic Policy Gradient (TD3).

Fujimoto, van Hoof and Meger (2018): Addressing Function Approximation Error in Actor-Critic
Methods, https://arxiv.org/abs/1802.09477, algorithm 1: DDPG (Lillicrap et al. 2016) with the lower
of two critics in the target, noise on the target's action, and a slower actor.

Beyond the paper: several environments at once, observations and the scale of rewards standardised
inside the networks, exploration noise that is correlated in time, and gradients that are too long
are shortened.
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
from metis_nb.agents import (
    DeterministicActor,
    QCritic,
    action_value,
    blend,
    check_kind,
    device_of,
    observe,
    reward_scale,
    two_critics,
    unwrap,
)
from metis_nb.noise import Noise
from metis_nb.replay import Batch, ReplayBuffer, check_replay
from metis_nb.spaces import Environment, check_bounded

Critics = Sequence[nn.Module]  # two of them


@dataclass(eq=False)
class TD3:
    """Twin Delayed DDPG: DDPG that believes the lower of two critics.

        actor = agents.actor(env, deterministic=True)
        critics = agents.q_critic(env), agents.q_critic(env)
        trainer = TD3(env)
        trainer.train(actor, critics)

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
        learning_starts: transitions in the memory before the first update; until then, all actions
            are as likely.
        learning_rate: of both Adams. Usual: 1e-4 to 1e-3.
        gamma: discount of the future, per environment step.
        tau: how far the target networks move toward the networks with each gradient step, from 0
            to 1. Usual: 0.005 to 0.02.
        noise: standard deviation of the exploration noise, where [-1, 1] spans an action's bounds.
            Usual: 0.1 to 0.3.
        noise_correlation: of the noise of one step with the last: 0 is white noise (the paper's),
            0.85 that of DDPG's paper. More: pushes longer in one direction, which a heavy body
            needs.
        target_noise: standard deviation of the noise on the target's action.
        target_noise_clip: and how large it is at most.
        policy_delay: gradient steps of the critics for each of the actor and the targets.
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
    updates_per_step: float = 0.5
    batch_size: int = 128
    learning_starts: int = 1_000
    learning_rate: float = 1e-3
    gamma: float = 0.99
    tau: float = 0.02
    noise: float = 0.2
    noise_correlation: float = 0.9
    target_noise: float = 0.2
    target_noise_clip: float = 0.5
    policy_delay: int = 2
    max_grad_norm: float = 10.0
    seed: int | None = None

    def __post_init__(self) -> None:
        check_bounded("TD3", self.env)
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
            noise="a number of 0 or more",
            noise_correlation="a number from 0 to 1",
            target_noise="a number of 0 or more",
            target_noise_clip="a number of 0 or more",
            policy_delay="a whole number above 0",
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
                    self.move_targets(actor, critics, 1.0)
                rows = []
                for number in self.updates_due(before):
                    delayed = number % self.policy_delay == 0
                    rows.append(self.update(actor, critics, self.sample(), delayed))
                run.log(**training.mean(rows))
        return self.history

    @torch.no_grad()
    def collect(self, actor: nn.Module, critics: Critics) -> None:
        """Act with noise for `collect_steps` environment steps, and remember them."""
        state = self.prepare(actor, critics)
        memory, noise = state["memory"], state["noise"]
        view = self.run.start(actor)
        seen, rewards = [], []
        goal = view.steps + self.collect_steps
        while view.steps < goal:
            obs = view.obs
            action = actor(obs)
            chance = noise.sample(action, self.noise_correlation, self.run.generator)
            if len(memory) < self.learning_starts:
                action = torch.erf(chance / 2**0.5)  # uniform from -1 to 1
            else:
                action = (action + self.noise * chance).clamp(-1, 1)
            step = view.step(action)
            memory.add(obs, action, step)
            seen.append(obs[step.valid])
            rewards.append(step.reward[step.valid])
        obs, reward = torch.cat(seen), torch.cat(rewards)
        training.check_finite(self.run, squared_reward=reward.square().mean())
        for network in (actor, *critics):
            observe(network, obs, rewards=reward)

    def updates_due(self, before: int) -> range:
        """The numbers of the gradient steps for the environment steps since `before`."""
        if len(self.memory) < self.learning_starts:
            return range(0)
        # Running totals, so that no fraction is lost between rounds.
        first, last = (int(steps * self.updates_per_step) for steps in (before, self.run.steps))
        return range(first, last)

    def sample(self) -> Batch:
        """A batch from the memory."""
        return self.memory.sample(self.batch_size, gamma=self.gamma, generator=self.run.generator)

    @torch.no_grad()
    def next_action(self, target_actor: nn.Module, next_obs: Tensor) -> Tensor:
        """mu'(s') with clipped noise: a target is to hold for similar actions too (section 5.3).
        (B, A)"""
        action = target_actor(next_obs)
        noise = torch.empty_like(action).normal_(generator=self.run.generator)
        clip = self.target_noise_clip
        return (action + (self.target_noise * noise).clamp(-clip, clip)).clamp(-1, 1)

    @torch.no_grad()
    def td_target(self, target_actor: nn.Module, target_critics: Critics, batch: Batch) -> Tensor:
        """r + gamma min(Q1'(s', a'), Q2'(s', a')), by the target networks (algorithm 1). (B,)

        A truncated episode goes on, unseen: its last state counts. A terminated one does not.
        """
        next_action = self.next_action(target_actor, batch.next_obs)
        one, two = (action_value(q, batch.next_obs, next_action) for q in target_critics)
        return batch.reward + batch.discount * torch.min(one, two) * ~batch.terminated

    def critic_loss(self, q_value: Tensor, td_target: Tensor) -> Tensor:
        """Squared errors, of each transition. (B,)"""
        return F.mse_loss(q_value, td_target, reduction="none")

    def actor_loss(self, actor: nn.Module, critics: Critics, obs: Tensor) -> Tensor:
        """-Q1(s, mu(s)): its gradient is the deterministic policy gradient. (B,)"""
        return -action_value(critics[0], obs, actor(obs))

    def update(
        self, actor: nn.Module, critics: Critics, batch: Batch, delayed: bool = True
    ) -> dict[str, Tensor]:
        """One gradient step of the critics and, where `delayed`, one of the actor, and the targets
        a little after them.

        Returns:
            Numbers to watch, before the step.

        Raises:
            FloatingPointError: a loss or gradient that is not finite.
        """
        state = self.run.bound(actor, *critics) or self.prepare(actor, critics)
        scale = reward_scale(critics[0])

        td_target = self.td_target(state["target_actor"], state["target_critics"], batch)
        one, two = (action_value(critic, batch.obs, batch.action) for critic in critics)
        losses = [self.critic_loss(q_value / scale, td_target / scale) for q_value in (one, two)]
        loss = (batch.weight * sum(losses)).mean()
        self.step("critics", loss)

        if delayed:
            actor_loss = self.actor_loss(actor, critics, batch.obs).mean() / scale
            self.step("actor", actor_loss)
            self.move_targets(actor, critics, self.tau)

        one, two, loss = one.detach(), two.detach(), loss.detach()
        error = td_target - one
        self.memory.learned(batch.index, error / scale)
        return {
            "q_value": one.mean(),
            "disagreement": (one - two).abs().mean(),
            "td_error": error.abs().mean(),
            "critic_loss": loss,
        }

    def step(self, name: str, loss: Tensor) -> None:
        """One step of this Adam down the loss; only its own parameters get gradients."""
        adam = self.run.state[f"{name}_adam"]
        parameters = adam.param_groups[0]["params"]
        adam.zero_grad()
        loss.backward(inputs=parameters)
        norm = clip_grad_norm_(parameters, self.max_grad_norm)
        training.check_finite(self.run, **{f"{name}_loss": loss, f"{name}_gradient_norm": norm})
        adam.step()

    def move_targets(self, actor: nn.Module, critics: Critics, tau: float) -> None:
        """theta' <- tau theta + (1 - tau) theta', for all target networks."""
        blend(self.run.state["target_actor"], actor, tau)
        for target, critic in zip(self.run.state["target_critics"], critics, strict=True):
            blend(target, critic, tau)

    def prepare(self, actor: nn.Module, critics: Critics) -> training.State:
        """The optimizers "actor_adam" and "critics_adam", the networks "target_actor" and
        "target_critics", the "memory" and the "noise" that go with these networks. Others than
        before start a new training."""
        self.check()  # a number may have been changed since
        check_kind("actor", actor, DeterministicActor, "agents.actor(env, deterministic=True)")
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
            return {
                "actor_adam": adam(actor),
                "critics_adam": adam(*critics),
                "target_actor": target(actor),
                "target_critics": nn.ModuleList(target(critic) for critic in critics),
                "memory": memory,
                "noise": Noise(),
            }

        parts = self.run.bind(state, actor=actor, critic_1=critic_1, critic_2=critic_2)
        for name in ("actor_adam", "critics_adam"):
            for group in parts[name].param_groups:
                group["lr"] = self.learning_rate
        return parts

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
        actor: nn.Module | None = None,
        critics: Critics | None = None,
        replay: ReplayBuffer | None = None,
    ) -> TD3:
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
            one, two = two_critics(critics, QCritic, "agents.q_critic(env)")
            given |= {"critic_1": one, "critic_2": two}
        return training.load(cls, path, env, replay, **given)
