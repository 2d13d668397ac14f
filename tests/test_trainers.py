"""What all trainers share: the gradient of an exact return, the same advantages and promises.

What only one of them has is in a file of its own, `test_ppo.py` and so on.
"""

import dataclasses
import importlib
import itertools
import math
import re
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from metis_nb import A2C, DDPG, DDQN, DQN, PPO, SAC, TD3, VPG, PrioritizedReplay, agents, envs
from tests.scripted import Scripted, TorchVector, in_every_mode

# What each calls the experience between two updates, and which networks it trains.
BATCH = {PPO: "rollout_steps", A2C: "rollout_steps", VPG: "batch_steps"}
BATCH |= dict.fromkeys((DQN, DDQN, DDPG, TD3, SAC), "collect_steps")
NETWORKS = {PPO: ["actor", "critic"], A2C: ["actor", "critic"], VPG: ["actor"]}
NETWORKS |= {DQN: ["q_network"], DDQN: ["q_network"], DDPG: ["actor", "critic"]}
NETWORKS |= {Trainer: ["actor", "critic_1", "critic_2"] for Trainer in (TD3, SAC)}
WITH_A_MEMORY = [DQN, DDQN, DDPG, TD3, SAC]
every_trainer = pytest.mark.parametrize("Trainer", BATCH)
with_an_actor = pytest.mark.parametrize("Trainer", [PPO, A2C, VPG])
with_a_critic = pytest.mark.parametrize("Trainer", [PPO, A2C])
with_a_memory = pytest.mark.parametrize("Trainer", WITH_A_MEMORY)
with_box_actions = pytest.mark.parametrize("Trainer", [PPO, A2C, VPG, DDPG, TD3, SAC])


def actions_of(env):
    return getattr(env, "single_action_space", env.action_space)


def network_for(Trainer, name, env, **settings):
    """The network that the trainer calls so. SAC wants others for Box than for Discrete actions."""
    box = isinstance(actions_of(env), Box)
    if name == "actor":
        kind = {DDPG: "deterministic", TD3: "deterministic", SAC: "squashed" if box else None}
        settings |= {kind[Trainer]: True} if kind.get(Trainer) else {}
        return agents.actor(env, **settings)
    if name.startswith("critic") and Trainer in WITH_A_MEMORY:
        return (agents.q_critic if box else agents.q_network)(env, **settings)
    return getattr(agents, name)(env, **settings)


def networks_for(Trainer, env, **settings):
    """The networks that the trainer wants, in its order."""
    return as_given(
        {name: network_for(Trainer, name, env, **settings) for name in NETWORKS[Trainer]}
    )


def as_given(networks):
    """Named networks as `train` takes them: two critics in one list."""
    critics = [network for name, network in networks.items() if name.startswith("critic_")]
    others = [network for name, network in networks.items() if not name.startswith("critic_")]
    return others + ([critics] if critics else [])


def flat(networks):
    """All networks, one after the other."""
    return [net for each in networks for net in (flat(each) if isinstance(each, list) else [each])]


def settings_for(Trainer, steps=128):
    """So much experience for each update; of a memory, soon and with few updates."""
    soon = dict(learning_starts=64, updates_per_step=0.05, capacity=5000)
    soon |= dict(target_interval=200) if Trainer in (DQN, DDQN) else dict(batch_size=64)
    return {BATCH[Trainer]: steps} | (soon if Trainer in WITH_A_MEMORY else {})


def make(Trainer, env, steps=128, **settings):
    return Trainer(env, **(settings_for(Trainer, steps) | settings))


def small(Trainer, env, **settings):
    """A trainer with little experience for each update, and the networks to train."""
    torch.manual_seed(0)
    return make(Trainer, env, seed=0, **settings), networks_for(Trainer, env)


def fitted(Trainer, env):
    """The environment with actions that the trainer takes: for a Q-network, no Box but a grid, and
    for a critic of continuous actions no numbers of actions but a lever."""
    box = isinstance(actions_of(env), Box)
    if box:
        return envs.DiscretizeAction(env, bins=3) if Trainer in (DQN, DDQN) else env
    return lever(env) if Trainer in (DDPG, TD3) else env


LEVER = Box(-1.0, 3.0, (1,), np.float32)


class Lever(gym.ActionWrapper):
    """Discrete actions by a lever: each has an equal part of its way."""

    def __init__(self, env):
        super().__init__(env)
        self.action_space = LEVER

    def action(self, action):
        assert LEVER.contains(action)
        return int(notch(self.env.action_space, action[0]))


class Levers(gym.vector.VectorActionWrapper):
    """The same for a vector, of tensors too."""

    def __init__(self, env):
        super().__init__(env)
        self.single_action_space = LEVER
        self.action_space = gym.vector.utils.batch_space(LEVER, env.num_envs)

    def actions(self, actions):
        assert actions.shape == (self.num_envs, 1)
        whole = notch(self.env.single_action_space, actions[:, 0])
        return whole.long() if isinstance(actions, torch.Tensor) else whole.astype(np.int64)


def notch(space, position):
    return space.start + ((position + 1) / 4 * space.n).clip(0, space.n - 1) // 1


def lever(env):
    return Levers(env) if isinstance(env, gym.vector.VectorEnv) else Lever(env)


def short(Trainer, cls=None):
    """Episodes of 8 steps, so that every trainer makes its updates after exactly 128."""
    env = gym.make("Pendulum-v1", max_episode_steps=8)
    return fitted(Trainer, cls(env) if cls else env)


def same(one, two):
    """Whether two networks, or two lists of them, are the same to the last bit."""
    if isinstance(one, list):
        return all(same(a, b) for a, b in zip(one, two, strict=True))
    pairs = zip(one.state_dict().items(), two.state_dict().items(), strict=True)
    return all(torch.equal(a, b) for (_, a), (_, b) in pairs)


def trained(trainer):
    """The networks that it trains, as `train` takes them."""
    return as_given(trainer.run.networks)


def told(trainer):
    """All rows of the history but for the time that it took, and all episodes."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in trainer.history]
    return rows, trainer.history.episodes


def alike(one, two):
    """Whether nested states, such as those of optimizers and memories, are the same to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(alike(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(alike, one, two))
    return one == two or (one != one and two != two)  # nan: no episode has ended yet


def same_state(one, two):
    """Whether two trainers are the same in all that they remember: networks, optimizers, target
    networks, replay memory and history."""
    states = [{k: part.state_dict() for k, part in t.run.state.items()} for t in (one, two)]
    networks = same(flat(trained(one)), flat(trained(two)))
    return networks and alike(*states) and alike(told(one), told(two))


def learn(trainer, actor, critic, rollout, factor=1.0):
    """One update; `factor` is multiplied to the advantages, or weights, before it."""
    if isinstance(trainer, VPG):
        return trainer.update(actor, rollout, trainer.weights(rollout) * factor)
    advantage, target = trainer.advantages(critic, rollout)
    return trainer.update(actor, critic, rollout, advantage * factor, target)


# --- the gradient of a return that can be computed exactly -------------------------------------

# A game with two states and two actions, over after three steps at the latest. A die with eight
# sides decides each step: all throws once are the expectation, to the last digit.
REWARD = {(0, 0): 1.0, (0, 1): -0.5, (1, 0): 2.0, (1, 1): 0.25}
NEXT = {(0, 0): (0, 1), (0, 1): (1, 1), (1, 0): (0, None), (1, 1): (1, None)}  # equally likely
QUARTERS = [[1, 2], [3, 1], [2, 3]]  # pi(action 1) at each time in each state, in quarters


class TableActor(nn.Module):
    """pi(a | time, state) from a table of logits, in float64."""

    distribution = staticmethod(agents.Categorical)

    def __init__(self):
        super().__init__()
        one = torch.tensor(QUARTERS, dtype=torch.float64) / 4
        self.logits = nn.Parameter(torch.stack([1 - one, one], -1).log())

    def forward(self, obs):
        time, state = obs.long().T
        return self.logits[time, state]


class TableCritic(nn.Module):
    """V(time, state) from a table."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self, obs):
        time, state = obs.long().T
        return self.values[time, state]


def exact_values(logits, gamma, length=3):
    """V(time, state) by going backwards through the game."""
    pi = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    values = np.zeros((length + 1, 2))
    for time, state, action in itertools.product(reversed(range(length)), (0, 1), (0, 1)):
        later = sum(values[time + 1, s] / 2 for s in NEXT[state, action] if s is not None)
        values[time, state] += pi[time, state, action] * (REWARD[state, action] + gamma * later)
    return values


def exact_gradient(gamma=1.0, length=3, step=1e-5):
    """Of V at the start, in state 0, by finite differences in every logit."""
    logits = TableActor().logits.detach().numpy()
    gradient = np.zeros_like(logits)
    for index in np.ndindex(logits.shape):
        up, down = logits.copy(), logits.copy()
        up[index] += step
        down[index] -= step
        values = [exact_values(x, gamma, length)[0, 0] for x in (up, down)]
        gradient[index] = (values[0] - values[1]) / (2 * step)
    return torch.from_numpy(gradient)


def played(Trainer, throws):
    """A rollout (T, N) of these games: for each of N, a throw of the die for each of T steps."""
    actor, columns = TableActor(), []
    for game in throws:
        state, rows = 0, []
        for time, die in enumerate(game):
            valid = state is not None
            now = state if valid else 0
            action = int(die % 4 < QUARTERS[time][now])
            state = NEXT[now, action][die // 4] if valid else None
            over = state is None or time == len(game) - 1
            rows.append(
                ((time, now), action, REWARD[now, action], (time + 1, state or 0), over, valid)
            )
        columns.append(rows)
    parts = [torch.tensor([[row[i] for row in rows] for rows in columns]) for i in range(6)]
    obs, action, reward, next_obs, over, valid = (part.transpose(0, 1) for part in parts)
    obs, next_obs, reward = obs.double(), next_obs.double(), reward.double()
    log_prob = actor.distribution(actor(obs.flatten(0, 1)).detach()).log_prob(action.flatten())
    everything = dict(
        obs=obs,
        action=action,
        log_prob=log_prob.view(action.shape),
        reward=reward,
        next_obs=next_obs,
        terminated=over,
        truncated=torch.zeros_like(over),
        done=over,
        time=obs[..., 0].long(),
        valid=valid,
    )
    Rollout = importlib.import_module(Trainer.__module__).Rollout
    return Rollout(**{f.name: everything[f.name] for f in dataclasses.fields(Rollout)})


def all_games(Trainer, length=3):
    return played(Trainer, itertools.product(range(8), repeat=length))


def gradient(trainer, rollout, critic=None, factor=1.0):
    """What `update` climbs, for each game: of a sum over its steps, not of their mean."""
    trainer.learning_rate, trainer.max_grad_norm, trainer.entropy_coefficient = 0.0, 1e9, 0.0
    actor = TableActor()
    learn(trainer, actor, critic, rollout, factor)
    return -actor.logits.grad * rollout.valid.sum() / rollout.valid.shape[1]


def discount(trainer, rollout):
    """gamma^t: the gradient of the discounted return has it, and practice leaves it out."""
    return trainer.gamma ** rollout.obs[..., 0]


def test_the_game_is_played_as_often_as_is_probable():
    """The mean of the returns of all throws is the return computed backwards."""
    rollout = all_games(VPG)
    returns = (rollout.reward * rollout.valid).sum(0)
    value = exact_values(TableActor().logits.detach().numpy(), 1.0)[0, 0]
    assert math.isclose(float(returns.mean()), value)


@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize("gamma", [1.0, 0.8])
@pytest.mark.parametrize("weight", ["total_return", "reward_to_go"])
def test_vpg_climbs_the_exact_return(weight, gamma, baseline):
    trainer = VPG(Scripted(), action_weight=weight, gamma=gamma, baseline=baseline, normalize=False)
    rollout = all_games(VPG)
    factor = discount(trainer, rollout) if weight == "reward_to_go" else 1.0
    climbed = gradient(trainer, rollout, factor=factor)
    assert torch.allclose(climbed, exact_gradient(gamma), atol=1e-8)


def test_rewards_to_go_leave_out_the_discount_of_their_own_step():
    """As everywhere: the first step's gradient is exact, those of later ones are too large."""
    climbed = gradient(VPG(Scripted(), gamma=0.8, normalize=False), all_games(VPG))
    exact = exact_gradient(0.8)
    for time in range(3):
        assert torch.allclose(climbed[time] * 0.8**time, exact[time], atol=1e-8)


def test_vpg_divides_by_the_spread_of_its_weights():
    """What is left of it after the baseline, and a tenth of what it was before."""
    trainer, rollout = VPG(Scripted(), gamma=1.0), all_games(VPG)
    weight = trainer.weights(rollout)
    spread = 0.1 * weight[rollout.valid].std(correction=0)
    for here, now in zip(rollout.valid, weight):
        now -= now[here].mean()
    spread += weight[rollout.valid].square().mean().sqrt()
    assert torch.allclose(gradient(trainer, rollout) * spread, exact_gradient(), atol=1e-7)


@pytest.mark.parametrize("episodes", [1, 2, 3])
def test_a_mean_that_holds_the_weight_itself_takes_its_share_of_the_gradient(episodes):
    """Of n episodes, 1/n: next to nothing in a batch of many, and everything in a batch of one."""
    total, count = 0.0, 0
    for throws in itertools.product(range(8), repeat=episodes):
        trainer = VPG(Scripted(), normalize=False)
        total += gradient(trainer, played(VPG, [(throw,) for throw in throws]))
        count += 1
    expected = (1 - 1 / episodes) * exact_gradient(length=1)
    assert torch.allclose(total / count, expected, atol=1e-8)


def spread_of(trainer, critic, rollout, factor):
    """What the advantages are divided by: their spread, and a tenth of the returns' (here 1)."""
    advantage = (trainer.advantages(critic, rollout)[0] * factor)[rollout.valid]
    return advantage.std(correction=0) + 0.1


@with_a_critic
@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_with_exact_values_every_advantage_climbs_the_exact_return(Trainer, gamma, gae_lambda):
    trainer = Trainer(Scripted(), gamma=gamma, gae_lambda=gae_lambda)
    critic = TableCritic(
        torch.from_numpy(exact_values(TableActor().logits.detach().numpy(), gamma))
    )
    assert torch.allclose(climbed_with(trainer, critic), exact_gradient(gamma), atol=1e-7)


@with_a_critic
def test_with_wrong_values_only_lambda_1_does(Trainer):
    wrong = torch.tensor([[0.0, 3.0], [-1.0, 5.0], [2.0, 0.0], [9.0, 9.0]], dtype=torch.float64)
    for gae_lambda, right in [(1.0, True), (0.9, False), (0.0, False)]:
        trainer = Trainer(Scripted(), gamma=1.0, gae_lambda=gae_lambda)
        climbed = climbed_with(trainer, TableCritic(wrong))
        assert torch.allclose(climbed, exact_gradient(), atol=1e-7) == right


def climbed_with(trainer, critic):
    if isinstance(trainer, PPO):
        trainer.epochs, trainer.minibatch_size = 1, 10_000  # one step: the ratio is still 1
    rollout = all_games(type(trainer))
    factor = discount(trainer, rollout)
    scale = spread_of(trainer, critic, rollout, factor)
    return gradient(trainer, rollout, critic, factor) * scale


@with_an_actor
def test_the_entropy_bonus_makes_more_random(Trainer):
    rollout, actor = all_games(Trainer), TableActor()
    critic = TableCritic(torch.zeros(4, 2, dtype=torch.float64))
    obs = rollout.obs[rollout.valid]
    entropies = []
    for _ in range(4):
        entropies.append(float(agents.policy(actor, obs).entropy().mean().detach()))
        trainer = Trainer(Scripted(), learning_rate=0.01, entropy_coefficient=1.0)
        learn(trainer, actor, critic, rollout, factor=0.0)
    assert entropies == sorted(entropies)
    assert entropies[-1] > entropies[0] + 0.01


# --- advantages and the critic ------------------------------------------------------------------


class Waves(nn.Module):
    """V(s) = a fixed function of the observation, with a parameter so that it has a device."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, obs):
        return self.scale * (torch.sin(3 * obs[:, 0]) + 2 * torch.cos(obs.sum(-1)))


def random_rollout(Trainer, seed, length=12, num_envs=3):
    """Transitions with ends of both kinds anywhere."""
    g = torch.Generator().manual_seed(seed)
    shape = (length, num_envs)
    obs = torch.randn(length + 1, num_envs, 2, generator=g)
    terminated = torch.rand(shape, generator=g) < 0.2
    truncated = torch.rand(shape, generator=g) < 0.2
    # Where an episode ends, its last observation is not the one that the next row acts on.
    ends = (terminated | truncated)[..., None]
    next_obs = torch.where(ends, torch.randn(*shape, 2, generator=g), obs[1:])
    return rollout_of(
        Trainer,
        obs=obs[:-1],
        action=torch.randint(3, shape, generator=g),
        reward=torch.randn(shape, generator=g),
        next_obs=next_obs,
        terminated=terminated,
        truncated=truncated,
    )


def rollout_of(Trainer, **columns):
    columns["valid"] = torch.ones_like(columns["terminated"])
    if Trainer is PPO:
        columns["log_prob"] = torch.zeros_like(columns["reward"])
    return importlib.import_module(Trainer.__module__).Rollout(**columns)


def slow_advantages(rollout, value, next_value, gamma, gae_lambda):
    """The O(T^2) definition: for every step the lambda-weighted mean of all its n-step returns.

    Works on whole n-step returns, not on temporal differences: it shares no formula with trainers.
    """
    length, num_envs = rollout.reward.shape
    advantage = torch.zeros(length, num_envs, dtype=torch.float64)
    for env in range(num_envs):
        for start in range(length):
            returns, total = [], 0.0
            for n in range(1, length - start + 1):
                t = start + n - 1
                total += gamma ** (n - 1) * float(rollout.reward[t, env])
                alive = not bool(rollout.terminated[t, env])
                returns.append(total + gamma**n * float(next_value[t, env]) * alive)
                if rollout.terminated[t, env] or rollout.truncated[t, env]:
                    break
            weights = [(1 - gae_lambda) * gae_lambda**k for k in range(len(returns))]
            weights[-1] = gae_lambda ** (len(returns) - 1)  # the last one takes all that is left
            mean = sum(w * r for w, r in zip(weights, returns, strict=True))
            advantage[start, env] = mean - float(value[start, env])
    return advantage


@with_a_critic
@given(
    seed=st.integers(0, 10_000),
    gamma=st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]),
    gae_lambda=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
)
def test_advantages_are_those_of_the_slow_definition(Trainer, seed, gamma, gae_lambda):
    rollout, critic = random_rollout(Trainer, seed), Waves()
    trainer = Trainer(Scripted(), gamma=gamma, gae_lambda=gae_lambda)
    advantage, value_target = trainer.advantages(critic, rollout)
    with torch.no_grad():
        value = critic(rollout.obs.flatten(0, 1)).view(12, 3)
        next_value = critic(rollout.next_obs.flatten(0, 1)).view(12, 3)
    expected = slow_advantages(rollout, value, next_value, gamma, gae_lambda)
    assert torch.allclose(advantage.double(), expected, atol=1e-4)
    assert torch.allclose(value_target, advantage + value)


@with_a_critic
def test_a_terminated_end_is_worth_nothing_and_a_truncated_one_its_value(Trainer):
    one = torch.ones(1, 1)
    no, yes = torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    obs, trainer, critic = torch.ones(1, 1, 2), Trainer(Scripted(), gamma=0.9), Waves()
    value = float(critic(obs[0]).detach())
    for terminated, truncated, end in [(yes, no, 0.0), (yes, yes, 0.0), (no, yes, value)]:
        rollout = rollout_of(
            Trainer,
            obs=obs,
            action=no.long(),
            reward=one,
            next_obs=obs,
            terminated=terminated,
            truncated=truncated,
        )
        _, target = trainer.advantages(critic, rollout)
        assert math.isclose(float(target), 1 + 0.9 * end, rel_tol=1e-5)


@with_a_critic
def test_lambda_0_is_one_step_and_lambda_1_all_that_came_numbers_by_hand(Trainer):
    """Rewards 1, 2, 3; V = 10, 20, 30; cut off, not ended, before a state worth 40."""
    column = lambda *numbers: torch.tensor(numbers)[:, None]  # noqa: E731
    rollout = rollout_of(
        Trainer,
        obs=column(10.0, 20.0, 30.0)[..., None],
        action=column(0, 0, 0),
        reward=column(1.0, 2.0, 3.0),
        next_obs=column(20.0, 30.0, 40.0)[..., None],
        terminated=column(False, False, False),
        truncated=column(False, False, False),
    )

    class Same(Waves):
        def forward(self, obs):
            return self.scale * obs[:, 0]

    # 1 + 20/2 - 10, 2 + 30/2 - 20, 3 + 40/2 - 30
    trainer = Trainer(Scripted(), gamma=0.5, gae_lambda=0.0)
    advantage, target = trainer.advantages(Same(), rollout)
    assert advantage[:, 0].tolist() == [1.0, -3.0, -7.0]
    assert target[:, 0].tolist() == [11.0, 17.0, 23.0]
    # 1 + 2/2 + 3/4 + 40/8 = 7.75, 2 + 3/2 + 40/4 = 13.5, 3 + 40/2 = 23
    trainer.gae_lambda = 1.0
    _, target = trainer.advantages(Same(), rollout)
    assert target[:, 0].tolist() == [7.75, 13.5, 23.0]


@with_a_critic
def test_every_kind_of_environment_gives_the_same_targets(Trainer):
    results = {}
    for name, env in in_every_mode():
        trainer = Trainer(env, rollout_steps=80, gamma=0.9)
        rollout = trainer.collect(agents.actor(env))
        advantage, target = trainer.advantages(Waves(), rollout)
        valid = rollout.valid
        # The first 40 steps: what is cut off at the end of the rollout differs by the mode.
        kept = [values[valid][:40] for values in (rollout.obs, rollout.reward, advantage, target)]
        results[name] = torch.cat([part.reshape(40, -1) for part in kept], 1)
    single = results.pop("single")
    for name, result in results.items():
        assert torch.allclose(result, single, atol=1e-5), name
    assert len(results) == 3


@with_a_critic
def test_the_critic_loss_is_a_share_of_the_variance(Trainer):
    env = Scripted()
    critic, obs, target = agents.critic(env), torch.randn(50, 2), torch.randn(50) * 30 + 100
    agents.update_statistics(critic, returns=target)
    loss = Trainer(env).critic_loss(critic, obs, target)
    by_hand = 0.5 * np.mean((critic(obs).detach().numpy() - target.numpy()) ** 2)
    assert math.isclose(float(loss.detach()), by_hand / target.var(correction=0), rel_tol=1e-4)


@with_a_critic
def test_no_gradient_flows_into_what_the_critic_is_to_say(Trainer):
    """It would pull the values of next states up to those of the states before them."""
    for numbers in Trainer(Scripted()).advantages(Waves(), random_rollout(Trainer, 0)):
        assert not numbers.requires_grad


@with_a_critic
@pytest.mark.parametrize(("missed", "share"), [(0.0, 1.0), (0.5, 0.75), (1.0, 0.0)])
def test_the_explained_variance_is_the_share_that_the_critic_knew(missed, share, Trainer):
    """Numbers by hand: of targets of which it says all, all but half, or nothing."""
    trainer, (actor, critic) = small(Trainer, Scripted())
    rollout = trainer.collect(actor)
    target = torch.randn(rollout.reward.shape)
    metrics = trainer.update(actor, critic, rollout, missed * target, target)
    assert float(metrics["explained_variance"]) == pytest.approx(share, abs=1e-5)


@with_an_actor
def test_scaling_all_rewards_changes_nothing_but_the_values(Trainer):
    """One setting serves rewards of any scale: the same policy, step for step."""
    actors = []
    for scale in (1.0, 1000.0):
        torch.manual_seed(0)
        env = gym.wrappers.TransformReward(gym.make("CartPole-v1"), lambda r, s=scale: r * s)
        actor, *critic = networks_for(Trainer, env)
        for net in critic:  # what it says before it has met any return has a scale of its own
            agents.update_statistics(net, returns=scale * torch.linspace(0, 40, 100))
        make(Trainer, env, 256, seed=0).train(actor, *critic, steps=768)
        actors.append(actor)
    for a, b in zip(actors[0].parameters(), actors[1].parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


# --- collect and update -----------------------------------------------------------------------


@with_a_critic
def test_collect_gives_shapes_and_goes_on_where_it_ended(Trainer):
    env = envs.make("CartPole-v1", num_envs=4)
    trainer, actor = Trainer(env, rollout_steps=30), agents.actor(env)
    first, second = trainer.collect(actor), trainer.collect(actor)
    assert first.obs.shape == (8, 4, 4)  # 30 / 4, rounded up
    assert first.action.shape == first.reward.shape == first.valid.shape == (8, 4)
    going = ~(first.terminated | first.truncated)[-1]
    assert torch.equal(first.next_obs[-1][going], second.obs[0][going])


@with_an_actor
def test_actions_are_stored_as_sampled_and_clipped_at_the_environment(Trainer):
    taken = []

    class Bounded(Scripted):
        action_space = Box(np.float32([-1, 2]), np.float32([3, 2.5]))

        def step(self, action):
            assert self.action_space.contains(action)
            taken.append(action)
            return super().step(action)

    env = Bounded()
    actor = agents.actor(env)
    nn.init.constant_(actor.log_std, 1.0)
    rollout = make(Trainer, env, 100).collect(actor)
    action = rollout.action[:, 0]
    assert action.shape == (len(taken), 2)
    assert action.abs().max() > 1.5
    # [-1, 1] spans the bounds: the middles are 1 and 2.25, half the widths 2 and 0.25.
    middle, half = torch.tensor([1.0, 2.25]), torch.tensor([2.0, 0.25])
    expected = middle + half * action.clamp(-1, 1)
    assert torch.allclose(torch.tensor(np.array(taken)), expected, atol=1e-6)


@with_a_critic
def test_reset_steps_are_left_out_of_the_update(Trainer):
    env = SyncVectorEnv([Scripted] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    trainer, actor, critic = Trainer(env, rollout_steps=64), agents.actor(env), agents.critic(env)
    rollout = trainer.collect(actor)
    assert 0 < (~rollout.valid).sum() < 64
    advantage, target = trainer.advantages(critic, rollout)
    poison = torch.where(rollout.valid, 0.0, torch.nan)
    metrics = trainer.update(actor, critic, rollout, advantage + poison, target + poison)
    assert all(math.isfinite(float(value)) for value in metrics.values())
    assert int(actor.obs_statistics.count) == int(rollout.valid.sum())
    assert int(critic.obs_statistics.count) == int(rollout.valid.sum())
    assert int(critic.return_statistics.count) == int(rollout.valid.sum())


@with_a_critic
@pytest.mark.parametrize("longest", [1, 5])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_rollouts_that_would_only_reset(steps, longest, Trainer):
    """Where all environments end at once, the next step of each is no experience."""
    game = lambda: gym.wrappers.TimeLimit(Scripted(), longest)  # noqa: E731
    env = SyncVectorEnv([game] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    trainer, (actor, critic) = make(Trainer, env, steps), networks_for(Trainer, env)
    valid = [trainer.collect(actor).valid for _ in range(20)]
    assert all(rows[-1].any() for rows in valid)
    assert not torch.cat(valid).all()
    assert min(map(len, valid)) == -(-steps // 2)  # no longer than it has to be
    trainer.train(actor, critic, steps=60)
    assert all(p.isfinite().all() for p in [*actor.parameters(), *critic.parameters()])


@with_a_critic
def test_only_differences_between_advantages_count(Trainer):
    actors = []
    for shift in (0.0, 5.0):
        trainer, (actor, critic) = small(Trainer, gym.make("CartPole-v1"))
        rollout = trainer.collect(actor)
        advantage, target = trainer.advantages(critic, rollout)
        trainer.update(actor, critic, rollout, advantage + shift, target)
        actors.append(actor)
    for a, b in zip(actors[0].parameters(), actors[1].parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.as_made
@with_an_actor
def test_long_gradients_are_shortened_before_the_step(Trainer):
    rollout, critic = all_games(Trainer), TableCritic(torch.zeros(4, 2, dtype=torch.float64))
    once = dict(epochs=1, minibatch_size=10_000) if Trainer is PPO else {}
    trainer = Trainer(Scripted(), max_grad_norm=0.01, learning_rate=0.0, **once)
    learn(trainer, TableActor(), critic, rollout)
    for group in trainer.run.state["adam"].param_groups:
        norm = torch.cat([p.grad.flatten() for p in group["params"]]).norm()
        assert float(norm) == pytest.approx(0.01, rel=1e-3)


@with_an_actor
def test_the_old_policy_stays_the_old_policy_within_an_update(Trainer):
    """With next to no learning rate, ratios stay 1 although observations are normalised."""
    env = gym.make("Pendulum-v1")
    trainer = make(Trainer, env, 2048, learning_rate=1e-12)
    actor, critic = agents.actor(env), agents.critic(env)
    for update in range(3):
        metrics = learn(trainer, actor, critic, trainer.collect(actor))
        assert float(metrics["kl"]) < 1e-6
        if update == 0:  # it has met something; now let it say something
            nn.init.normal_(actor.head.weight)


@pytest.mark.parametrize("Trainer", [A2C, VPG])
def test_kl_is_the_divergence_of_the_new_policy_from_the_old(Trainer):
    """In expectation, and over all games it is one. (PPO's is from before the last step.)"""
    rollout, actor = all_games(Trainer), TableActor()
    obs = rollout.obs[rollout.valid]
    old = torch.distributions.Categorical(logits=actor(obs).detach())
    critic = TableCritic(torch.zeros(4, 2, dtype=torch.float64))
    metrics = learn(Trainer(Scripted(), learning_rate=0.1), actor, critic, rollout)
    new = torch.distributions.Categorical(logits=actor(obs).detach())
    expected = float(torch.distributions.kl_divergence(old, new).mean())
    assert expected > 1e-3
    assert math.isclose(float(metrics["kl"]), expected, rel_tol=1e-6)


@pytest.mark.parametrize("Trainer", [A2C, VPG])
def test_kl_of_a_few_steps_is_the_estimate_that_is_never_negative(Trainer):
    """Of three games, by the probabilities of their actions before and after."""
    rollout, actor = played(Trainer, [(0, 5, 2), (7, 1, 3), (2, 2, 2)]), TableActor()
    taken = rollout.action[rollout.valid][:, None]
    chosen = lambda: actor(rollout.obs[rollout.valid]).softmax(1).gather(1, taken).detach()  # noqa: E731
    old = chosen()
    critic = TableCritic(torch.zeros(4, 2, dtype=torch.float64))
    metrics = learn(Trainer(Scripted(), learning_rate=0.3), actor, critic, rollout)
    ratio = chosen() / old
    expected = float((ratio - 1 - ratio.log()).mean())
    assert math.isclose(float(metrics["kl"]), expected, rel_tol=1e-6)


@with_a_critic
def test_one_network_for_both(Trainer):
    env = gym.make("CartPole-v1")
    body = nn.Sequential(nn.Linear(4, 16), nn.Tanh())
    before = body[0].weight.clone()
    actor, critic = agents.actor(env, body=body), agents.critic(env, body=body)
    Trainer(env, rollout_steps=128, seed=0).train(actor, critic, steps=256)
    assert not torch.equal(before, body[0].weight)


# --- what a trainer promises ------------------------------------------------------------------

VECTORS = {
    mode.name: lambda mode=mode: gym.make_vec(
        "CartPole-v1",
        num_envs=3,
        vectorization_mode="sync",
        vector_kwargs=dict(autoreset_mode=mode),
    )
    for mode in AutoresetMode
}
KINDS = {
    "CartPole": lambda: gym.make("CartPole-v1"),
    "Pendulum": lambda: gym.make("Pendulum-v1", max_episode_steps=50),
    "16 CartPoles": lambda: envs.make("CartPole-v1"),
    "4 Pendulums": lambda: envs.make("Pendulum-v1", num_envs=4, max_episode_steps=50),
    "torch": TorchVector,
    **VECTORS,
}


def world(Trainer, kind):
    return fitted(Trainer, KINDS[kind]())


@every_trainer
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_on(kind, parallel, Trainer):
    env = world(Trainer, kind)
    networks = {name: network_for(Trainer, name, env) for name in NETWORKS[Trainer]}
    before = [p.clone() for net in networks.values() for p in net.parameters()]
    given = {name: nn.DataParallel(net) if parallel else net for name, net in networks.items()}
    trainer = make(Trainer, env, seed=0)
    history = trainer.train(*as_given(given), steps=400)
    after = [p for net in networks.values() for p in net.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert len(history) >= 2
    assert history[-1]["steps"] >= 400
    assert set(trainer.healthy_ranges) <= set(history[-1])


@pytest.mark.parametrize("chance", ["in the environment too", "in the trainer alone"])
@every_trainer
def test_the_same_seed_gives_the_same_training_and_another_another(Trainer, chance):
    found = []
    for seed in (0, 0, 1):
        alone = chance == "in the trainer alone"
        env = fitted(Trainer, Scripted()) if alone else world(Trainer, "CartPole")
        torch.manual_seed(0)
        networks = networks_for(Trainer, env)
        make(Trainer, env, seed=seed).train(*networks, steps=256)
        found.append(networks[0])
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


@every_trainer
def test_the_readers_random_generators_are_left_alone(Trainer):
    trainer, networks = small(Trainer, world(Trainer, "CartPole"))
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    trainer.train(*networks, steps=256)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


@every_trainer
@pytest.mark.parametrize("kind", KINDS)
def test_train_twice_is_train_once(kind, Trainer):
    trainer, networks = small(Trainer, world(Trainer, kind))
    trainer.train(*networks, steps=512)
    other, networks2 = small(Trainer, world(Trainer, kind))
    while other.run.steps < 512:
        other.train(*networks2, steps=1)
    assert same_state(trainer, other)


@every_trainer
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "torch"])
def test_a_loaded_trainer_goes_on_bit_for_bit(kind, Trainer, tmp_path):
    trainer, networks = small(Trainer, world(Trainer, kind))
    trainer.train(*networks, steps=300)
    trainer.save(tmp_path / "file.safetensors")
    trainer.train(*networks, steps=400)

    loaded = Trainer.load(tmp_path / "file.safetensors", world(Trainer, kind))
    assert getattr(loaded, BATCH[Trainer]) == 128
    assert len(loaded.history) < len(trainer.history)
    loaded.train(*trained(loaded), steps=400)
    assert same_state(trainer, loaded)


@with_a_memory
@pytest.mark.parametrize("kind", ["CartPole", "Pendulum"])
def test_saved_by_a_callback_it_goes_on_bit_for_bit(kind, Trainer, tmp_path):
    """In the middle of a training, and before its first update."""
    steps = []

    def save(trainer):
        steps.append(trainer.run.steps)
        trainer.save(tmp_path / f"{len(steps)}")

    trainer, networks = small(Trainer, world(Trainer, kind), learning_starts=200)
    trainer.train(*networks, steps=384, callbacks=save)
    for number in (1, 2):
        loaded = Trainer.load(tmp_path / f"{number}", world(Trainer, kind))
        loaded.train(*trained(loaded), steps=trainer.run.steps - steps[number - 1])
        assert same_state(trainer, loaded)


@every_trainer
def test_loading_and_saving_at_once_changes_nothing(Trainer, tmp_path):
    env = lambda: world(Trainer, "16 CartPoles")  # noqa: E731
    trainer, networks = small(Trainer, env())
    trainer.train(*networks, steps=300)
    trainer.save(tmp_path / "one")
    Trainer.load(tmp_path / "one", env()).save(tmp_path / "two")
    loaded = Trainer.load(tmp_path / "two", env())
    trainer.train(*networks, steps=300)
    loaded.train(*trained(loaded), steps=300)
    assert same_state(trainer, loaded)


@every_trainer
def test_other_networks_start_a_new_training(Trainer):
    trainer, networks = small(Trainer, short(Trainer))
    trainer.train(*networks, steps=300)
    torch.manual_seed(0)
    trainer.train(*networks_for(Trainer, trainer.env), steps=256)
    assert trainer.history[0]["steps"] <= 128
    assert trainer.history[-1]["steps"] <= 384


@every_trainer
@pytest.mark.parametrize("kind", VECTORS)
def test_a_new_training_is_that_of_a_new_trainer(kind, Trainer):
    used, networks = small(Trainer, world(Trainer, kind))
    used.train(*networks, steps=300)
    _, networks = small(Trainer, used.env)
    used.train(*networks, steps=300)
    fresh, networks2 = small(Trainer, world(Trainer, kind))
    fresh.train(*networks2, steps=300)
    assert same_state(used, fresh)


class Hidden(gym.Wrapper):
    """An environment whose state cannot be saved."""

    engine = None

    def __init__(self, env):
        super().__init__(env)
        self.engine = type("Engine", (), {})()


@every_trainer
def test_an_environment_whose_state_is_hidden_starts_new_episodes_and_says_so(Trainer, tmp_path):
    trainer, networks = small(Trainer, short(Trainer, Hidden))
    trainer.train(*networks, steps=200)
    trainer.save(tmp_path / "file")
    loaded = Trainer.load(tmp_path / "file", short(Trainer, Hidden))
    with pytest.warns(UserWarning, match="goes on with new episodes"):
        loaded.train(*trained(loaded), steps=128)
    assert loaded.run.steps == 256 + 128


@every_trainer
def test_hidden_environments_do_not_play_their_first_episodes_again(Trainer, tmp_path):
    trainer, networks = small(Trainer, short(Trainer, Hidden))
    first = trainer.run.start(networks[0]).obs.clone()
    trainer.train(*networks, steps=128)
    trainer.save(tmp_path / "file")
    again = []
    for _ in range(2):
        loaded = Trainer.load(tmp_path / "file", short(Trainer, Hidden))
        with pytest.warns(UserWarning, match="new episodes"):
            again.append(loaded.run.start(*trained(loaded)[:1]).obs.clone())
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], first)


@every_trainer
def test_another_number_of_environments_starts_new_episodes(Trainer, tmp_path):
    env = lambda num_envs: fitted(Trainer, envs.make("CartPole-v1", num_envs=num_envs))  # noqa: E731
    trainer, networks = small(Trainer, env(16))
    trainer.train(*networks, steps=300)
    trainer.save(tmp_path / "file")
    loaded = Trainer.load(tmp_path / "file", env(4))
    with pytest.warns(UserWarning, match="goes on with new episodes"):
        loaded.train(*trained(loaded), steps=128)
    assert loaded.run.steps >= trainer.run.steps + 128


@every_trainer
def test_a_body_of_your_own_has_to_be_given_again(Trainer, tmp_path):
    def networks():
        named = {}
        for name in NETWORKS[Trainer]:
            inputs = 5 if name.startswith("critic") and isinstance(env, Lever) else 4
            body = nn.Sequential(nn.Linear(inputs, 8), nn.ReLU())
            named[name] = network_for(Trainer, name, env, body=body)
        return as_given(named)

    env = world(Trainer, "CartPole")
    first = networks()
    trainer = make(Trainer, env, seed=0)
    trainer.train(*first, steps=128)
    trainer.save(tmp_path / "file")
    with pytest.raises(ValueError, match=rf"code of your own.*{NETWORKS[Trainer][0]}=\.\.\."):
        Trainer.load(tmp_path / "file", env)
    loaded = Trainer.load(tmp_path / "file", env, *networks())
    assert same(flat(trained(loaded)), flat(first))


@every_trainer
def test_a_changed_network_has_to_be_given_again(Trainer, tmp_path):
    """Made by its config alone, it would be another policy, without a word."""

    def networks():
        given = as_given({n: network_for(Trainer, n, env) for n in NETWORKS[Trainer]})
        for network in flat(given):
            network.body[1] = nn.ReLU()
        return given

    env = world(Trainer, "CartPole")
    first = networks()
    trainer = make(Trainer, env, seed=0)
    trainer.train(*first, steps=128)
    trainer.save(tmp_path / "file")
    with pytest.raises(ValueError, match=rf"code of your own.*{NETWORKS[Trainer][0]}=\.\.\."):
        Trainer.load(tmp_path / "file", env)
    for name in trainer.run.networks:
        argument = "critics" if name.startswith("critic_") else name
        match = rf"code of your own.*{Trainer.__name__}\.load\(path, env, {argument}=\.\.\.\)"
        with pytest.raises(ValueError, match=match):
            agents.load(tmp_path / "file", name)
    # What the messages say to do.
    loaded = Trainer.load(tmp_path / "file", env, *networks())
    obs = torch.randn(64, *flat(first)[0].obs_space.shape)
    acting, again = flat(first)[0].eval(), flat(trained(loaded))[0].eval()
    assert torch.equal(torch.as_tensor(again.act(obs)), torch.as_tensor(acting.act(obs)))
    assert same(flat(trained(loaded)), flat(first))


def test_a_trunk_that_two_networks_came_to_share_is_code_of_ones_own(tmp_path):
    env = gym.make("CartPole-v1")
    actor, critic = agents.actor(env), agents.critic(env)
    critic.body = actor.body
    trainer = make(PPO, env, seed=0)
    trainer.train(actor, critic, steps=128)
    trainer.save(tmp_path / "file")
    with pytest.raises(ValueError, match="code of your own"):
        PPO.load(tmp_path / "file", env)
    other, judge = agents.actor(env), agents.critic(env)
    judge.body = other.body
    loaded = PPO.load(tmp_path / "file", env, actor=other, critic=judge)
    assert same(loaded.actor, actor)
    assert loaded.critic.body is loaded.actor.body


@every_trainer
@pytest.mark.parametrize("layer", ["norm", "dropout"])
def test_one_environment_and_layers_that_know_of_modes(Trainer, layer):
    """A batch norm cannot take the mean of one environment; what acts is asked in eval mode."""
    env = gym.make("CartPole-v1") if Trainer not in (DDPG, TD3) else short(Trainer)
    if isinstance(env, gym.vector.VectorEnv):
        env = gym.make("Pendulum-v1")

    def body(inputs):
        knowing = nn.BatchNorm1d(16) if layer == "norm" else nn.Dropout(0.5)
        return nn.Sequential(nn.Linear(inputs, 16), knowing, nn.Tanh())

    given = {}
    for name in NETWORKS[Trainer]:
        network = network_for(Trainer, name, env)
        inputs = int(network.input_shape[0])
        given[name] = network_for(Trainer, name, env, body=body(inputs))
    trainer = make(Trainer, env, seed=0)
    trainer.train(*as_given(given), steps=256)
    assert all(net.training for net in trainer.run.networks.values())
    for network in trainer.run.networks.values():
        assert all(bool(p.isfinite().all()) for p in network.parameters())


def test_before_anything_was_learned_the_policy_is_the_one_that_acted():
    """The ratio of equation 7 is 1 at the first gradient step, Dropout or not."""
    ratios = []

    class Watched(PPO):
        def actor_loss(self, ratio, advantage):
            ratios.append(ratio.detach())
            return super().actor_loss(ratio, advantage)

    env = gym.make("CartPole-v1")
    actor = agents.actor(env, body=nn.Sequential(nn.Linear(4, 32), nn.Dropout(0.5), nn.Tanh()))
    nn.init.normal_(actor.head.weight, 0, 0.7)
    trainer = Watched(env, rollout_steps=256, minibatch_size=999, epochs=1, seed=0)
    trainer.train(actor, agents.critic(env), steps=256, progress=False)
    assert torch.allclose(ratios[0], torch.ones(256), atol=1e-5)


@every_trainer
def test_a_file_for_another_environment_is_named(Trainer, tmp_path):
    trainer, networks = small(Trainer, world(Trainer, "CartPole"))
    trainer.train(*networks, steps=128)
    trainer.save(tmp_path / "file")
    with pytest.raises(ValueError, match=r"trained on CartPole-v1 .*env=Acrobot-v1 has"):
        Trainer.load(tmp_path / "file", gym.make("Acrobot-v1"))


@with_box_actions
def test_other_bounds_are_not_taken_for_the_same(Trainer, tmp_path):
    trainer, networks = small(Trainer, short(Trainer))
    trainer.train(*networks, steps=128)
    trainer.save(tmp_path / "file")
    other = gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), -1.0, 1.0)
    with pytest.raises(ValueError, match="has others"):
        Trainer.load(tmp_path / "file", other)


@every_trainer
def test_a_file_of_another_trainer_is_named(Trainer, tmp_path):
    trainer, networks = small(Trainer, short(Trainer))
    trainer.train(*networks, steps=128)
    trainer.save(tmp_path / "file")
    for Other in BATCH.keys() - {Trainer}:
        with pytest.raises(ValueError, match=f"Use {Trainer.__name__}.load"):
            Other.load(tmp_path / "file", short(Trainer))


@every_trainer
def test_a_file_saved_on_another_kind_of_device_loads(Trainer, tmp_path, monkeypatch):
    trainer, networks = small(Trainer, short(Trainer))
    trainer.train(*networks, steps=128)
    state = trainer.run.state_dict()
    state["device"], state["generator"] = "cuda", torch.zeros(16, dtype=torch.uint8)
    monkeypatch.setattr(trainer.run, "state_dict", lambda: state)
    trainer.save(tmp_path / "file")
    loaded = Trainer.load(tmp_path / "file", short(Trainer))
    loaded.train(*trained(loaded), steps=128)
    assert loaded.run.steps == 256


@every_trainer
def test_what_was_loaded_is_taken_over_once(Trainer, tmp_path):
    """Else a network that is moved to another device and back would meet the same chance again."""
    trainer, networks = small(Trainer, world(Trainer, "CartPole"))
    trainer.train(*networks, steps=128)
    trainer.save(tmp_path / "file")
    loaded = Trainer.load(tmp_path / "file", world(Trainer, "CartPole"))
    loaded.train(*trained(loaded), steps=128)
    before = loaded.run.generator.get_state()
    loaded.run.generator = None  # as after a move: a new one is made for the device
    loaded.run.start(*trained(loaded)[:1])
    saved = trainer.run.state_dict()["generator"]
    assert not torch.equal(loaded.run.generator.get_state(), saved)
    assert not torch.equal(saved, before)


@every_trainer
def test_a_network_can_be_had_without_the_environment(Trainer, tmp_path):
    trainer, networks = small(Trainer, short(Trainer))
    trainer.train(*networks, steps=128)
    trainer.save(tmp_path / "file")
    obs = np.ones((2, 3))
    for name, network in trainer.run.networks.items():
        loaded = agents.load(tmp_path / "file", name)
        assert same(loaded, network)
        if not name.startswith("critic"):
            assert np.array_equal(loaded.act(obs), network.act(obs))
        if name == "actor":
            assert same(agents.load(tmp_path / "file"), network)
    with pytest.raises(ValueError, match=rf"name='policy'; .*{re.escape(str(NETWORKS[Trainer]))}"):
        agents.load(tmp_path / "file", "policy")


@every_trainer
def test_wrapping_the_networks_goes_on_with_the_same_training(Trainer):
    trainer, (first, *others) = small(Trainer, short(Trainer))
    trainer.train(first, *others, steps=256)
    trainer.train(nn.DataParallel(first), *others, steps=128)
    assert trainer.history[-1]["steps"] == 384


@every_trainer
def test_a_new_head_is_trained(Trainer):
    trainer, (first, *others) = small(Trainer, short(Trainer))
    trainer.train(first, *others, steps=128)
    first.head = nn.Linear(64, first.head.out_features)
    before = first.head.weight.clone()
    trainer.train(first, *others, steps=128)
    assert not torch.equal(before, first.head.weight)
    assert trainer.history[-1]["steps"] == 256


@every_trainer
def test_the_learning_rate_may_change_on_the_way(Trainer):
    trainer, (first, *others) = small(Trainer, world(Trainer, "CartPole"))
    trainer.train(first, *others, steps=128)
    before = first.head.weight.clone()
    trainer.learning_rate = 1e-12
    trainer.train(first, *others, steps=128)
    assert torch.allclose(before, first.head.weight, atol=1e-7)


@every_trainer
def test_a_learning_rate_that_fell_to_zero_can_be_loaded(Trainer, tmp_path):
    trainer, networks = small(Trainer, short(Trainer))

    def anneal(trainer):
        trainer.learning_rate = 1e-3 * max(0, 1 - trainer.run.steps / 256)

    trainer.train(*networks, steps=256, callbacks=anneal)
    trainer.save(tmp_path / "file")
    assert Trainer.load(tmp_path / "file", trainer.env).learning_rate == 0
    trainer.learning_rate = -1.0
    with pytest.raises(ValueError, match=r"learning_rate=-1.0; expected"):
        trainer.train(*networks, steps=128)


@every_trainer
def test_a_compiled_network_is_looked_through(Trainer):
    class Compiled(nn.Module):  # what torch.compile returns, without the compiler
        def __init__(self, module):
            super().__init__()
            self._orig_mod = module

        def forward(self, obs):
            return self._orig_mod(obs)

    env = world(Trainer, "CartPole")
    first, *others = networks_for(Trainer, env)
    assert agents.unwrap(nn.DataParallel(Compiled(first))) is first
    make(Trainer, env).train(Compiled(first), *others, steps=128)


@pytest.mark.parametrize("Trainer", [DDPG, TD3, SAC])
@pytest.mark.parametrize("kind", ["4 Pendulums", "NEXT_STEP"])
def test_a_memory_of_your_own_goes_on_bit_for_bit(kind, Trainer, tmp_path):
    memory = lambda: PrioritizedReplay(world(Trainer, kind), 300, alpha=0.7)  # noqa: E731
    trainer, networks = small(Trainer, world(Trainer, kind), replay=memory())
    trainer.train(*networks, steps=400)  # so that it is full, and its oldest are overwritten
    trainer.save(tmp_path / "file")
    trainer.train(*networks, steps=300)
    with pytest.raises(ValueError, match=r"expected replay=PrioritizedReplay\(env, capacity=300\)"):
        Trainer.load(tmp_path / "file", world(Trainer, kind))
    loaded = Trainer.load(tmp_path / "file", world(Trainer, kind), replay=memory())
    loaded.train(*trained(loaded), steps=300)
    assert len(trainer.memory["priority"].unique()) > 10
    assert same_state(trainer, loaded)


@with_a_memory
def test_what_a_memory_holds_beforehand_is_met_before_the_first_update(Trainer):
    """Running statistics and all: so a memory of another training is as good as one's own."""
    first, networks = small(Trainer, short(Trainer))
    first.train(*networks, steps=256)
    torch.manual_seed(1)
    trainer = make(Trainer, short(Trainer), replay=first.memory, seed=1)
    networks = networks_for(Trainer, trainer.env)
    trainer.prepare(*networks)
    for network in flat(networks):
        assert int(network.obs_statistics.count) == 256
        expected = first.memory["obs"].mean(0)
        assert torch.allclose(network.obs_statistics.mean, expected, atol=1e-4)
        if hasattr(network, "reward_statistics"):
            assert float(network.reward_statistics.mean) == pytest.approx(
                float(first.memory["reward"].mean()), rel=1e-4
            )
    trainer.train(*networks, steps=128)
    assert len(trainer.memory) == 384
    assert int(networks[0].obs_statistics.count) == 384


# --- stopping -----------------------------------------------------------------------------------


@every_trainer
def test_a_callback_that_says_true_stops(Trainer):
    trainer, networks = small(Trainer, short(Trainer))
    trainer.train(*networks, steps=1000, callbacks=lambda trainer: trainer.run.steps >= 256)
    assert [row["steps"] for row in trainer.history] == [128, 256]


@every_trainer
def test_a_stop_in_the_middle_ends_after_the_update_under_way(Trainer):
    """What a first interrupt and the stop button do."""

    class Pressed(gym.Wrapper):
        def step(self, action):
            if trainer.run.steps == 200:
                trainer.run.stop()
            return super().step(action)

    trainer, networks = small(Trainer, short(Trainer, Pressed))
    trainer.train(*networks, steps=1000)
    assert [row["steps"] for row in trainer.history] == [128, 256]


@every_trainer
def test_an_interrupted_rollout_loses_no_episode_count(Trainer):
    class Stopping(Scripted):
        total = 0

        def step(self, action):
            self.total += 1
            if self.total == 70:
                raise KeyboardInterrupt
            return super().step(action)

    trainer, networks = small(Trainer, fitted(Trainer, Stopping()))
    with pytest.raises(KeyboardInterrupt):
        trainer.train(*networks, steps=256)
    steps_before = trainer.run.steps
    assert steps_before == 69
    lengths = [length for _, _, length in trainer.history.episodes]
    trainer.train(*networks, steps=128)
    assert [length for _, _, length in trainer.history.episodes][: len(lengths)] == lengths
    assert {length for _, _, length in trainer.history.episodes} <= {1, 2, 3, 4, 5}


# --- bad input and trouble --------------------------------------------------------------------

BAD = [
    *[(Trainer, {BATCH[Trainer]: bad}) for Trainer in BATCH for bad in (0, 2.5)],
    *itertools.product(
        BATCH,
        [
            dict(learning_rate=-1e-3),
            dict(learning_rate=float("nan")),
            dict(gamma=1.5),
            dict(max_grad_norm=True),
            dict(seed=-1),
            dict(seed=1.5),
        ],
    ),
    *itertools.product([PPO, A2C, VPG], [dict(entropy_coefficient=float("inf"))]),
    *itertools.product([PPO, A2C], [dict(gae_lambda=-0.1)]),
    *itertools.product([PPO], [dict(epochs=-1), dict(minibatch_size="big"), dict(clip_range=0)]),
    *itertools.product([A2C], [dict(critic_learning_rate=-1.0)]),
    *itertools.product([VPG], [dict(action_weight="return"), dict(action_weight=None)]),
    *itertools.product(
        [DQN, DDQN],
        [
            dict(capacity=0),
            dict(updates_per_step=0),
            dict(batch_size=1.5),
            dict(learning_starts=0),
            dict(decay_steps=0),
            dict(n_step=0),
            dict(target_interval=0.5),
            dict(epsilon=1.1),
            dict(epsilon_steps=-1),
        ],
    ),
    *itertools.product(
        [DDPG, TD3, SAC],
        [
            dict(capacity=0),
            dict(updates_per_step=0),
            dict(batch_size=1.5),
            dict(learning_starts=0),
            dict(learning_starts=10**9),
            dict(tau=1.1),
            dict(tau=True),
            dict(noise_correlation=-0.1),
        ],
    ),
    *itertools.product([DDPG, TD3], [dict(noise=-0.1)]),
    *itertools.product(
        [TD3], [dict(target_noise=-1), dict(target_noise_clip="0.5"), dict(policy_delay=0.5)]
    ),
    *itertools.product([SAC], [dict(initial_alpha=0), dict(target_entropy=math.nan)]),
]


@pytest.mark.parametrize(("Trainer", "arguments"), BAD)
def test_a_bad_hyperparameter_is_named(Trainer, arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=rf"^{name}=.*expected"):
        Trainer(world(Trainer, "CartPole"), **arguments)


@every_trainer
def test_a_hyperparameter_that_became_bad_is_named(Trainer):
    trainer, networks = small(Trainer, short(Trainer))
    trainer.gamma = 2.0
    with pytest.raises(ValueError, match=r"gamma=2.0; expected"):
        trainer.train(*networks, steps=128)


@every_trainer
def test_a_bad_environment_is_named(Trainer):
    with pytest.raises(TypeError, match="env is a str"):
        Trainer("CartPole-v1")


@every_trainer
def test_bad_arguments_of_train_are_named(Trainer):
    trainer, (first, *others) = small(Trainer, world(Trainer, "CartPole"))
    for steps in (0, -5, 1.5):
        with pytest.raises(ValueError, match="steps="):
            trainer.train(first, *others, steps=steps)
    with pytest.raises(TypeError, match="callbacks holds a str"):
        trainer.train(first, *others, steps=128, callbacks=["plot"])
    with pytest.raises(TypeError, match=f"{NETWORKS[Trainer][0]} is a str; expected a torch.nn.M"):
        trainer.train("network", *others, steps=128)
    with pytest.raises(RuntimeError, match="before there is anything to save"):
        Trainer(world(Trainer, "CartPole")).save("nowhere")


@pytest.mark.parametrize("Trainer", [PPO, A2C, DDPG])
def test_a_bad_critic_is_named(Trainer):
    trainer, (actor, critic) = small(Trainer, short(Trainer))
    with pytest.raises(TypeError, match=r"critic is a str; expected a torch.nn.Module"):
        trainer.train(actor, "critic", steps=128)
    actor = network_for(Trainer, "actor", trainer.env).to("meta")
    with pytest.raises(ValueError, match="actor is on meta, critic is on cpu; expected one device"):
        trainer.train(actor, critic, steps=128)


@pytest.mark.parametrize("Trainer", [VPG, A2C, PPO])
@pytest.mark.parametrize("option", ["squashed", "deterministic"])
def test_an_actor_for_another_trainer_is_named_at_once(Trainer, option):
    env = short(DDPG)
    trainer = make(Trainer, env, seed=0)
    critics = [agents.critic(env)] if Trainer is not VPG else []
    match = r"actor is a \w+Actor; expected a CategoricalActor or .* such as agents.actor\(env\)\."
    with pytest.raises(TypeError, match=match):
        trainer.train(agents.actor(env, **{option: True}), *critics, steps=128)
    assert trainer.run.steps == 0
    with pytest.raises(TypeError, match="actor is a Critic; expected a CategoricalActor"):
        trainer.train(agents.critic(env), *critics, steps=128)
    trainer.train(agents.actor(env), *critics, steps=128)  # what the message says


@pytest.mark.parametrize("Trainer", [A2C, PPO])
def test_a_critic_for_another_trainer_is_named_at_once(Trainer):
    env = short(DDPG)
    trainer = make(Trainer, env, seed=0)
    with pytest.raises(TypeError, match=r"critic is a QCritic; expected a Critic, .*critic\(env\)"):
        trainer.train(agents.actor(env), agents.q_critic(env), steps=128)


@pytest.mark.parametrize("Trainer", [DQN, DDQN])
def test_an_actor_is_no_q_network(Trainer):
    """Its logits have the shape of values, and would be trained as such."""
    env = gym.make("CartPole-v1")
    with pytest.raises(TypeError, match="q_network is a CategoricalActor; expected a QNetwork"):
        make(Trainer, env, seed=0).train(agents.actor(env), steps=128)


@pytest.mark.parametrize("Trainer", [TD3, SAC])
def test_two_critics_go_in_as_a_tuple(Trainer):
    trainer, (actor, (one, two)) = small(Trainer, short(Trainer))
    with pytest.raises(TypeError, match=r"a tuple: train\(actor, \(first, second\)\)"):
        trainer.train(actor, one, two)
    trainer.train(actor, (one, two), steps=128)


@pytest.mark.parametrize("Trainer", [TD3, SAC])
def test_bad_critics_are_named(Trainer):
    trainer, (actor, (one, two)) = small(Trainer, short(Trainer))
    for critics, error, match in [
        (one, TypeError, r"critics is a QCritic; expected two: agents.q_critic\(env\), agents"),
        (None, TypeError, "critics is a NoneType; expected two"),
        ([one], ValueError, r"critics holds 1; expected two: agents.q_critic\(env\), agents"),
        ([one, two, two], ValueError, "critics holds 3; expected two"),
        ([one, one], ValueError, r"critics share parameters; expected two of them: agents.q_cr"),
        ([one, nn.DataParallel(one)], ValueError, "critics share parameters"),
        ([one, "critic"], TypeError, r"critics\[1\] is a str; expected a torch.nn.Module, such as"),
    ]:
        with pytest.raises(error, match=match):
            trainer.train(actor, critics, steps=128)
    where = "actor is on cpu, critic_1 is on cpu, critic_2 is on meta; expected one device"
    far = network_for(Trainer, "critic_2", trainer.env).to("meta")
    with pytest.raises(ValueError, match=where):
        trainer.train(actor, [one, far], steps=128)
    for critics in ((one, two), nn.ModuleList([one, two])):  # any sequence will do
        trainer.train(actor, critics, steps=128)
    assert trainer.run.steps == 256


@every_trainer
def test_networks_of_another_environment_are_named(Trainer):
    env, other = short(Trainer), gym.make("CartPole-v1")
    other = lever(other) if Trainer in (DDPG, TD3, SAC) else other
    for name in NETWORKS[Trainer]:
        networks = {name: network_for(Trainer, name, env) for name in NETWORKS[Trainer]}
        networks[name] = network_for(Trainer, name, other)
        kind = {DDPG: ", deterministic=True", TD3: ", deterministic=True", SAC: ", squashed=True"}
        call = f"{name}(env)" if name != "actor" else f"actor(env{kind.get(Trainer, '')})"
        call = "q_critic(env)" if name.startswith("critic") and Trainer in WITH_A_MEMORY else call
        match = rf"{name} was made for .*\(4,\).*-v1 has \(3,\).*: agents.{re.escape(call)}\.$"
        with pytest.raises(ValueError, match=match):
            Trainer(env).train(*as_given(networks), steps=128)


@with_a_critic
def test_a_critic_with_a_second_axis_is_named(Trainer):
    env = gym.make("CartPole-v1")
    critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    with pytest.raises(ValueError, match=r"critic gives values of shape \(128, 1\).*squeeze"):
        make(Trainer, env).train(agents.actor(env), critic, steps=128)


@every_trainer
@pytest.mark.parametrize("what", ["reward", "observation"])
def test_what_is_not_finite_stops_and_nothing_is_lost(what, Trainer):
    class Faulty(Scripted):
        total = 0

        def step(self, action):
            obs, reward, terminated, truncated, info = super().step(action)
            self.total += 1
            if self.total == 300:
                reward, obs = (math.nan, obs) if what == "reward" else (reward, obs * math.nan)
            return obs, reward, terminated, truncated, info

    trainer, networks = small(Trainer, fitted(Trainer, Faulty()))
    with pytest.raises(FloatingPointError, match=f"{what}.*environment step 300"):
        trainer.train(*networks, steps=1000)
    assert len(trainer.history) == 2
    assert all(p.isfinite().all() for net in flat(networks) for p in net.state_dict().values())
    trainer.train(*networks, steps=256)  # goes on
    assert len(trainer.history) == 4


@every_trainer
def test_a_loss_that_is_not_finite_stops_before_the_networks_change(Trainer):
    first = dict.fromkeys((DQN, DDQN), "loss") | dict.fromkeys((DDPG, TD3, SAC), "critic_loss")
    name = first.get(Trainer, "actor_loss")
    loss = getattr(Trainer, name)
    broken = {name: lambda trainer, *given: loss(trainer, *given) + math.inf}
    Broken = type("Broken", (Trainer,), broken)
    env = short(Trainer)
    networks = flat(networks_for(Trainer, env))
    before = [p.clone() for net in networks for p in net.parameters()]
    with pytest.raises(FloatingPointError, match="loss is inf after environment step 128"):
        Broken(env, **settings_for(Trainer)).train(
            *as_given(dict(zip(NETWORKS[Trainer], networks, strict=True))), steps=256
        )
    after = [p for net in networks for p in net.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@with_a_critic
def test_a_critic_loss_that_is_not_finite_does_so_too(Trainer):
    class Broken(Trainer):
        def critic_loss(self, critic, obs, value_target):
            return super().critic_loss(critic, obs, value_target) * math.inf

    env = gym.make("CartPole-v1")
    actor, critic = agents.actor(env), agents.critic(env)
    before = [p.clone() for p in actor.parameters()]
    with pytest.raises(FloatingPointError, match="loss is inf after environment step 128"):
        Broken(env, rollout_steps=128).train(actor, critic, steps=256)
    assert all(torch.equal(a, b) for a, b in zip(before, actor.parameters(), strict=True))


@pytest.mark.parametrize("Trainer", [DDPG, TD3, SAC])
def test_an_actor_loss_that_is_not_finite_stops_before_the_actor_changes(Trainer):
    """The critics have made their step by then, down a loss that was finite."""

    class Broken(Trainer):
        def actor_loss(self, actor, critics, obs):
            loss = super().actor_loss(actor, critics, obs)
            return (loss[0] * math.inf, loss[1]) if Trainer is SAC else loss * math.inf

    env = short(Trainer)
    networks = networks_for(Trainer, env)
    before = [p.clone() for p in networks[0].parameters()]
    trainer = Broken(env, **settings_for(Trainer))
    with pytest.raises(FloatingPointError, match=r"actor_loss is (-inf|nan|inf) after env.* 128"):
        trainer.train(*networks, steps=256)
    assert all(torch.equal(a, b) for a, b in zip(before, networks[0].parameters(), strict=True))
    assert all(p.isfinite().all() for net in flat(networks) for p in net.parameters())


@every_trainer
@pytest.mark.parametrize("name", ["single", *(mode.name for mode in AutoresetMode)])
def test_a_first_observation_that_is_not_finite_reaches_no_statistics(name, Trainer):
    class LaterWild(Scripted):
        def reset(self, *, seed=None, options=None):
            obs, info = super().reset(seed=seed)
            return (obs if self.episode < 3 else obs * np.nan), info

    modes = {mode.name: mode for mode in AutoresetMode}
    env = SyncVectorEnv([LaterWild], autoreset_mode=modes[name]) if name in modes else LaterWild()
    trainer, networks = small(Trainer, fitted(Trainer, env))
    with pytest.raises(FloatingPointError, match="observation"):
        trainer.train(*networks, steps=256)
    states = [net.state_dict() for net in flat(networks)]
    assert all(values.isfinite().all() for state in states for values in state.values())


@every_trainer
def test_rewards_too_large_for_float32_sums_reach_no_statistics(Trainer):
    env = gym.wrappers.TransformReward(gym.make("CartPole-v1"), lambda reward: 3e38)
    trainer, networks = small(Trainer, fitted(Trainer, env))
    with pytest.raises(FloatingPointError):
        trainer.train(*networks, steps=256)
    states = [net.state_dict() for net in flat(networks)]
    assert all(values.isfinite().all() for state in states for values in state.values())


@with_a_critic
def test_a_rollout_of_one_step_has_no_spread_and_warns_of_none(Trainer):
    env = Scripted()
    trainer, networks = small(Trainer, env, rollout_steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = trainer.train(*networks, steps=7, progress=False)
    assert history["steps"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert np.isnan(history["explained_variance"]).all()  # 1 - 0/0


@with_a_critic
def test_the_explained_variance_by_hand(Trainer):
    """1 - var(advantage) / var(value_target), here 1 - (8/3) / (50/3)."""
    env = Scripted()
    trainer, networks = small(Trainer, env, rollout_steps=3)
    rollout = trainer.collect(networks[0])
    advantage, value_target = torch.tensor([[[1.0], [3.0], [5.0]], [[0.0], [5.0], [10.0]]])
    metrics = trainer.update(*networks, rollout, advantage, value_target)
    assert float(metrics["explained_variance"]) == pytest.approx(1 - 8 / 50, abs=1e-6)
