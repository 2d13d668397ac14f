"""Probe environments: so small that the right answer is known by hand.

Each asks for one thing more than the one before, so the first that a trainer fails tells where to
look. In the manner of Andy Jones, "Debugging Reinforcement Learning Systems" (2021).

`LADDER` is for an actor and a critic, `Q_LADDER` for a Q-network, whose V(s) is its highest value
and whose action is the one that has it. A Q-network needs targets of one step (`n_step=1`) to get
all of them right: over more steps, what random actions did counts too.

`Q_CRITIC_LADDER` is for an actor of continuous actions and critics Q(s, a): V(s) is then Q(s, a) of
the action that the actor would take. All its actions are torques from -1 to 3. The soft values of
SAC hold what the policy's entropy is worth, so they are these only at a low temperature that stays:
`SAC(env, alpha=0.01, learn_alpha=False)`. Those of TD3 are of next actions with noise, which is to
be small: `TD3(env, target_noise=0.05)`.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete


class Probe(gym.Env):
    """One number is observed. `steps` long, then the episode is over."""

    asks = ""  # what a trainer needs to get it right
    suspect = ""  # what to look at if it does not
    steps = 1
    truncates = False

    observation_space = Box(-2.0, 2.0, (1,), np.float32)
    action_space: Any = Discrete(2)

    def truth(self, gamma: float) -> dict[float, tuple[float | None, float | None]]:
        """For each observation that can be met: V under the best policy, and the best action.
        None where it has no one answer: every action is as good, or V depends on the noise."""
        raise NotImplementedError

    def first(self) -> float:
        """The observation that an episode starts with."""
        return 0.0

    def reward(self, action: Any) -> float:
        """For an action on the current observation."""
        return 1.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.step_count, self.seen = 0, self.first()
        return np.array([self.seen], np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = float(self.reward(action))
        self.step_count += 1
        over = self.step_count == self.steps
        self.seen = self.following()
        obs = np.array([self.seen], np.float32)
        return obs, reward, over and not self.truncates, over and self.truncates, {}

    def following(self) -> float:
        """The observation after this step."""
        return self.seen


class ConstantReward(Probe):
    """One step, reward 1, whatever you do."""

    asks = "a critic that fits one constant"
    suspect = "the critic's loss or its optimizer"

    def truth(self, gamma: float) -> dict[float, tuple[float | None, float | None]]:
        return {0.0: (1.0, None)}


class ObservedReward(Probe):
    """One step. The observation is -1 or 1 at random, and so is the reward."""

    asks = "a critic that looks at the observation"
    suspect = "observations and targets that do not belong together"

    def first(self) -> float:
        return float(self.np_random.choice([-1.0, 1.0]))

    def reward(self, action: Any) -> float:
        return self.seen

    def truth(self, gamma: float) -> dict[float, tuple[float | None, float | None]]:
        return {-1.0: (-1.0, None), 1.0: (1.0, None)}


class DelayedReward(Probe):
    """Two steps: observation 0, then 1. The reward comes with the second."""

    asks = "values that are discounted once for each step"
    suspect = "gamma, or the order of the steps in the advantages"
    steps = 2

    def reward(self, action: Any) -> float:
        return float(self.step_count == 1)

    def following(self) -> float:
        return 1.0

    def truth(self, gamma: float) -> dict[float, tuple[float | None, float | None]]:
        return {0.0: (gamma, None), 1.0: (1.0, None)}


class EndlessReward(Probe):
    """Reward 1 for ever, but the recording is cut every 10 steps: truncated, not terminated."""

    asks = "a value that sees past a time limit"
    suspect = "truncated treated as terminated"
    steps, truncates = 10, True

    def truth(self, gamma: float) -> dict[float, tuple[float | None, float | None]]:
        return {0.0: (1 / (1 - gamma), None)}


class ChosenReward(Probe):
    """One step. Action 1 earns 1, action 0 costs 1."""

    asks = "a policy that moves toward the better action"
    suspect = "the sign of the actor's loss"

    def reward(self, action: Any) -> float:
        return 1.0 if action == 1 else -1.0

    def truth(self, gamma: float) -> dict[float, tuple[float | None, float | None]]:
        return {0.0: (1.0, 1)}


class MatchedChoice(Probe):
    """One step. The observation is -1 or 1; the action has to match it (0 for -1, 1 for 1)."""

    asks = "a policy that looks at the observation"
    suspect = "actions, observations and advantages that do not belong together"

    def first(self) -> float:
        return float(self.np_random.choice([-1.0, 1.0]))

    def reward(self, action: Any) -> float:
        return 1.0 if (action == 1) == (self.seen > 0) else -1.0

    def truth(self, gamma: float) -> dict[float, tuple[float | None, float | None]]:
        return {-1.0: (1.0, 0), 1.0: (1.0, 1)}


class LaterChoice(Probe):
    """Two steps: observation 0, then 1. In the second, action 1 earns 1 and action 0 costs 1."""

    asks = "a critic that judges the policy that it has become, not the one that it was"
    suspect = "values or advantages that mix steps of different episodes"
    steps = 2

    def reward(self, action: Any) -> float:
        return (1.0 if action == 1 else -1.0) if self.step_count == 1 else 0.0

    def following(self) -> float:
        return 1.0

    def truth(self, gamma: float) -> dict[float, tuple[float | None, float | None]]:
        return {0.0: (gamma, None), 1.0: (1.0, 1)}


class MatchedTorque(Probe):
    """One step, one continuous action in [-1, 3]. Reward: 1 - (action - observation)^2, for an
    observation of 0 or 2 at random."""

    asks = "a Gaussian policy, and action bounds that are not symmetric"
    suspect = "the log-probability, or how actions are scaled"
    action_space = Box(-1.0, 3.0, (1,), np.float32)

    def first(self) -> float:
        return float(self.np_random.choice([0.0, 2.0]))

    def reward(self, action: Any) -> float:
        return 1.0 - float(action[0] - self.seen) ** 2

    def truth(self, gamma: float) -> dict[float, tuple[float | None, float | None]]:
        return {0.0: (None, 0.0), 2.0: (None, 2.0)}


class ConstantTorqueReward(ConstantReward):
    """One step, reward 1, whatever the torque."""

    action_space = MatchedTorque.action_space


class ObservedTorqueReward(ObservedReward):
    """One step. The observation is -1 or 1 at random, and so is the reward, whatever the torque."""

    action_space = MatchedTorque.action_space


class DelayedTorqueReward(DelayedReward):
    """Two steps: observation 0, then 1. The reward comes with the second, whatever the torques."""

    action_space = MatchedTorque.action_space


class EndlessTorqueReward(EndlessReward):
    """Reward 1 for ever, whatever the torques, cut every 10 steps: truncated, not terminated."""

    action_space = MatchedTorque.action_space


class BestTorque(Probe):
    """One step, one continuous action in [-1, 3]. Reward: 1 - (action - 2)^2 / 4."""

    asks = "an actor that climbs what the critic says, to an action within the bounds"
    suspect = "the sign of the actor's loss, or how actions are scaled"
    action_space = MatchedTorque.action_space

    def reward(self, action: Any) -> float:
        return 1.0 - (float(action[0]) - 2.0) ** 2 / 4

    def truth(self, gamma: float) -> dict[float, tuple[float | None, float | None]]:
        return {0.0: (1.0, 2.0)}


class FollowedTorque(BestTorque):
    """One step. The observation is 0 or 2 at random, and the best action is as large: the reward is
    1 - (action - observation)^2 / 4."""

    asks = "an actor that looks at the observation"
    suspect = "actions, observations and values that do not belong together"

    def first(self) -> float:
        return float(self.np_random.choice([0.0, 2.0]))

    def reward(self, action: Any) -> float:
        return 1.0 - (float(action[0]) - self.seen) ** 2 / 4

    def truth(self, gamma: float) -> dict[float, tuple[float | None, float | None]]:
        return {0.0: (1.0, 0.0), 2.0: (1.0, 2.0)}


class LaterTorque(BestTorque):
    """Two steps: observation 0, then 1. In the second, the reward is 1 - (action - 2)^2 / 4."""

    asks = "a target with the value of what the actor would do next, discounted once"
    suspect = "the next action in the target, or target networks that never move"
    steps = 2

    def reward(self, action: Any) -> float:
        return super().reward(action) if self.step_count == 1 else 0.0

    def following(self) -> float:
        return 1.0

    def truth(self, gamma: float) -> dict[float, tuple[float | None, float | None]]:
        return {0.0: (gamma, None), 1.0: (1.0, 2.0)}


LADDER: list[type[Probe]] = [
    ConstantReward,
    ObservedReward,
    DelayedReward,
    EndlessReward,
    ChosenReward,
    MatchedChoice,
    MatchedTorque,
]

# For a Q-network: what each asks for, and what to look at if it is not met.
Q_LADDER: dict[type[Probe], tuple[str, str]] = {
    ConstantReward: ("a network that fits one constant", "the loss or its optimizer"),
    ObservedReward: (
        "a network that looks at the observation",
        "observations and targets that do not belong together",
    ),
    ChosenReward: (
        "a value for each action",
        "which action's value the loss takes, or that all actions are explored",
    ),
    MatchedChoice: (
        "values of actions that depend on the observation",
        "actions and observations that do not belong together in the memory",
    ),
    DelayedReward: (
        "a target with the value of what comes next, discounted once for each step",
        "gamma, next observations that do not belong to theirs, or a target network that is never "
        "renewed",
    ),
    LaterChoice: (
        "a target with the best of the next actions, whatever was done",
        "the maximum over next actions, or targets over several steps of random actions",
    ),
    EndlessReward: ("a target that sees past a time limit", "truncated treated as terminated"),
}

# For an actor of continuous actions and one or two critics Q(s, a).
Q_CRITIC_LADDER: dict[type[Probe], tuple[str, str]] = {
    ConstantTorqueReward: ("a critic that fits one constant", "its loss or its optimizer"),
    ObservedTorqueReward: (
        "a critic that looks at the observation",
        "observations and targets that do not belong together",
    ),
    BestTorque: (BestTorque.asks, BestTorque.suspect),
    FollowedTorque: (FollowedTorque.asks, FollowedTorque.suspect),
    DelayedTorqueReward: (
        "a target with the value of what comes next, discounted once for each step",
        "gamma, next observations that do not belong to theirs, or target networks that never move",
    ),
    LaterTorque: (LaterTorque.asks, LaterTorque.suspect),
    EndlessTorqueReward: (
        "a target that sees past a time limit",
        "truncated treated as terminated",
    ),
}
