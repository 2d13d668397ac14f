"""DDPG and TD3, and what SAC has in common with them: targets, losses, noise, and what moves when.
What they share with the other trainers is in `test_trainers.py`, their networks in
`test_agents.py`."""

import copy
import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn

from metis_nb import DDPG, SAC, TD3, ReplayBuffer, agents, envs
from metis_nb.learning import Batch, gradient_step
from tests.scripted import EPISODES, Scripted, TorchVector, in_every_mode
from tests.test_replay import Spaces
from tests.test_trainers import flat, lever, networks_for, same

both = pytest.mark.parametrize("Trainer", [DDPG, TD3])
all_three = pytest.mark.parametrize("Trainer", [DDPG, TD3, SAC])

# Three dimensions of different widths, none with its middle at 0.
UNEVEN = Box(np.array([-1.0, 2.0, -30.0]), np.array([3.0, 2.5, -10.0]), dtype=np.float64)
MIDDLE, HALF = np.array([1.0, 2.25, -20.0]), np.array([2.0, 0.25, 10.0])
ONE = Spaces((1,), Box(-1, 1, (1,)))


class Line(nn.Module):
    """mu(s) = slope * s, for observations and actions of one number."""

    def __init__(self, slope):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(float(slope)))

    def forward(self, obs):
        return self.slope * obs


class Plane(nn.Module):
    """Q(s, a) = c + d s + e a."""

    def __init__(self, *numbers):
        super().__init__()
        self.numbers = nn.Parameter(torch.tensor(numbers, dtype=torch.float32))

    def forward(self, obs, action):
        c, d, e = self.numbers
        return c + d * obs[:, 0] + e * action[:, 0]


def batch_of(obs, action, reward, next_obs, terminated=False, discount=0.5, weight=1.0):
    """Transitions between observations of one number."""
    B = len(obs)
    columns = [torch.tensor(c, dtype=torch.float32)[:, None] for c in (obs, action, next_obs)]
    ended = torch.as_tensor(terminated).expand(B)
    numbers = [torch.as_tensor(x, dtype=torch.float32).expand(B) for x in (discount, weight)]
    reward = torch.tensor(reward, dtype=torch.float32)
    return Batch(*columns[:2], reward, columns[2], ended, *numbers, torch.arange(B))


def critics_of(Trainer, *critics):
    """As the trainer takes them: one, or two in a list."""
    return critics[0] if Trainer is DDPG else list(critics)


def lines(Trainer, actor=0.0, critics=((0, 0, 0), (0, 0, 0)), targets=None, env=ONE, **settings):
    """A trainer of lines and planes, with `targets` (an actor's slope, and planes) of their own."""
    trainer = Trainer(env, **settings)
    actor = Line(actor)
    critics = critics_of(Trainer, *(Plane(*numbers) for numbers in critics))
    state = trainer.prepare(actor, critics)
    if targets is not None:
        with torch.no_grad():
            state["target_actor"].slope.fill_(targets[0])
            for plane, numbers in zip(target_critics(trainer), targets[1]):
                plane.numbers.copy_(torch.tensor(numbers))
    return trainer, actor, critics


def target_critics(trainer):
    state = trainer.run.state
    one = isinstance(trainer, DDPG)
    return [state["target_critic"]] if one else list(state["target_critics"])


def targets_of(trainer):
    """All target networks."""
    state = trainer.run.state
    return ([state["target_actor"]] if "target_actor" in state else []) + target_critics(trainer)


def td_target(trainer, batch):
    state = trainer.run.state
    names = ("target_actor", "target_critic" if isinstance(trainer, DDPG) else "target_critics")
    return trainer.td_target(*(state[name] for name in names), batch)


# --- targets ------------------------------------------------------------------------------------


def test_ddpgs_targets_by_hand():
    """mu'(s') = s' / 2 and Q'(s', a') = 1 + 2 s' + 3 a' = 1 + 3.5 s'; the networks that are trained
    would say something else."""
    targets = (0.5, [(1.0, 2.0, 3.0)])
    trainer, *_ = lines(DDPG, -1.0, [(7.0, 7.0, 7.0)], targets)
    batch = batch_of(
        [9, 9, 9], [9, 9, 9], [1, 2, 3], [2, -2, 4], [False, False, True], [0.5, 0.25, 0.5]
    )
    assert td_target(trainer, batch).tolist() == [1 + 0.5 * 8, 2 + 0.25 * -6, 3.0]


def test_td3s_targets_by_hand():
    """a' = s' / 2. Q1' = 1 + 2 s' + 3 a', Q2' = 4 + 2 s' - 3 a': the first is lower for s' = -1,
    the second for s' = 1.5. Without noise."""
    targets = (0.5, [(1.0, 2.0, 3.0), (4.0, 2.0, -3.0)])
    planes = [(7.0, 7.0, 7.0)] * 2
    trainer, *_ = lines(TD3, -1.0, planes, targets, target_noise=0.0)
    batch = batch_of(
        [9, 9, 9], [9, 9, 9], [1, 2, 3], [-1, 1.5, 0], [False, False, True], [0.5, 0.25, 0.5]
    )
    expected = [1 + 0.5 * (1 - 2 - 1.5), 2 + 0.25 * (4 + 3 - 2.25), 3.0]
    assert td_target(trainer, batch).tolist() == expected


def test_td3s_target_sees_the_action_with_noise():
    """Q' = a' alone: targets are the actions that `next_action` draws."""
    trainer, *_ = lines(TD3, targets=(0.5, [(0.0, 0.0, 1.0)] * 2), target_noise=0.3)
    batch = batch_of([0] * 50, [0] * 50, [0] * 50, [0.4] * 50, discount=1.0)
    trainer.run.generator = torch.Generator().manual_seed(7)
    found = td_target(trainer, batch)
    trainer.run.generator = torch.Generator().manual_seed(7)
    expected = trainer.next_action(trainer.run.state["target_actor"], batch.next_obs)
    assert torch.equal(found, expected[:, 0])
    assert len(found.unique()) > 40


def test_the_noise_on_the_targets_action_is_clipped_and_so_is_their_sum():
    """Half of a standard deviation of 0.4 is 0.2; the ends of the bounds count where they are
    near."""
    trainer, *_ = lines(TD3, target_noise=0.4, target_noise_clip=0.2)
    trainer.run.generator = torch.Generator().manual_seed(0)
    for slope, low, high in [(0.0, -0.2, 0.2), (0.9, 0.7, 1.0), (-0.95, -1.0, -0.75)]:
        action = trainer.next_action(Line(slope), torch.ones(20_000, 1))
        assert action.shape == (20_000, 1)
        assert not action.requires_grad
        assert (float(action.min()), float(action.max())) == pytest.approx((low, high))
    noise = trainer.next_action(Line(0.0), torch.ones(20_000, 1))
    # P(|x| > 0.5 standard deviations) = 61.7% of them are clipped, and the rest normal.
    assert float((noise.abs() > 0.19999).float().mean()) == pytest.approx(0.617, abs=0.015)
    assert float((noise.abs() < 0.1).float().mean()) == pytest.approx(0.1974, abs=0.012)
    assert float(noise.mean()) == pytest.approx(0, abs=0.004)


def test_noise_on_the_targets_action_of_each_dimension():
    trainer = TD3(Spaces((3,), UNEVEN), target_noise=0.2, target_noise_clip=9.0)
    trainer.run.generator = torch.Generator().manual_seed(0)
    noise = trainer.next_action(lambda obs: 0 * obs, torch.ones(20_000, 3))
    assert noise.std(0).tolist() == pytest.approx([0.2] * 3, abs=0.005)
    assert np.abs(np.corrcoef(noise.T.numpy()) - np.eye(3)).max() < 0.04


KINDS = {
    **{name: lambda name=name: dict(in_every_mode())[name] for name, _ in in_every_mode()},
    **{
        f"2 of {mode.name}": lambda mode=mode: SyncVectorEnv(
            [Scripted, lambda: Scripted(1000)], autoreset_mode=mode
        )
        for mode in AutoresetMode
    },
}


class Ten(nn.Module):
    """Q = 10 everywhere, with a parameter so that it has a device."""

    def __init__(self):
        super().__init__()
        self.number = nn.Parameter(torch.tensor(10.0))

    def forward(self, obs, action):
        return self.number.expand(len(obs))


class Zero(nn.Module):
    """mu(s) = 0."""

    def __init__(self, size=1):
        super().__init__()
        self.number = nn.Parameter(torch.zeros(size))

    def forward(self, obs):
        return self.number.expand(len(obs), -1)


@both
@pytest.mark.parametrize("kind", KINDS)
def test_targets_of_real_steps(kind, Trainer):
    """`Scripted` says which episode and step it is in. Q is 10 for whatever comes after it."""
    env = lever(KINDS[kind]())
    trainer = Trainer(env, gamma=0.5, collect_steps=140, batch_size=500)
    actor, critics = Zero(), critics_of(Trainer, Ten(), Ten())
    trainer.collect(actor, critics)
    batch = trainer.sample()
    met = set()
    for (episode, step), target in zip(batch.obs.long().tolist(), td_target(trainer, batch)):
        length, how = EPISODES[episode % len(EPISODES)]
        expected = 1 + 0.5 * (step + 1) - 0.25 * episode + 0.1 * (step + 1) ** 2
        over = step + 1 == length
        expected += 0 if over and how != "truncated" else 0.5 * 10
        assert float(target) == pytest.approx(expected, rel=1e-4, abs=1e-4)
        met.add((over, how))
    assert met >= {(True, "terminated"), (True, "truncated"), (True, "both"), (False, "truncated")}
    if kind.startswith("2"):
        assert len({int(episode) // 1000 for episode in batch.obs[:, 0]}) == 2


# --- losses and gradients -------------------------------------------------------------------------


@both
def test_the_policy_gradient_is_that_of_a_slower_computation(Trainer):
    """The mean over states of dQ/da dmu/dtheta (equation 6 of DDPG): both by finite differences in
    float64, parameter by parameter. TD3 asks its first critic."""
    env = Spaces((2,), UNEVEN)
    torch.manual_seed(3)
    small = dict(hidden_sizes=(4,))
    actor = agents.actor(env, deterministic=True, **small).double()
    one, other = (agents.q_critic(env, **small).double() for _ in range(2))
    for network in (actor, one, other):
        nn.init.normal_(network.head.weight)
    obs = torch.randn(6, 2, dtype=torch.float64)
    loss = Trainer(env).actor_loss(actor, critics_of(Trainer, one, other), obs)
    assert loss.shape == (6,)
    parameters = list(actor.parameters())
    found = torch.autograd.grad(loss.mean(), parameters)
    step = 1e-6
    with torch.no_grad():
        action = actor(obs)
        slope = torch.stack(
            [
                (one(obs, action + way) - one(obs, action - way)) / (2 * step)
                for way in step * torch.eye(3, dtype=torch.float64)
            ],
            1,
        )  # (B, A)
        for parameter, gradient in zip(parameters, found):
            numbers, expected = parameter.view(-1), []
            for index in range(len(numbers)):
                numbers[index] += step
                up = actor(obs)
                numbers[index] -= 2 * step
                down = actor(obs)
                numbers[index] += step
                expected.append(-(slope * (up - down) / (2 * step)).sum(1).mean())
            assert torch.allclose(gradient.view(-1), torch.stack(expected), atol=1e-7)
        assert max(float(gradient.abs().max()) for gradient in found) > 0.01


@all_three
def test_the_actor_climbs_what_the_critic_says(Trainer):
    """Up where Q = a, down where Q = -a; by its own parameters alone."""
    for slope in (1.0, -1.0):
        env = Spaces((1,), Box(-1, 1, (1,)))
        actor = networks_for(Trainer, env)[0]
        critics = critics_of(Trainer, *(Plane(0, 0, slope) for _ in range(2)))
        alpha = dict(initial_alpha=1e-3) if Trainer is SAC else {}
        trainer = Trainer(env, learning_rate=0.01, **alpha)
        batch = batch_of([0.5] * 64, [0] * 64, [0] * 64, [0.5] * 64)
        before = actor.act(batch.obs)[0]
        for _ in range(5):
            trainer.update(actor, critics, batch)
        assert float((actor.act(batch.obs)[0] - before) * slope) > 0.01


def gradients(trainer, name, loss):
    """A step down the loss; which of the networks got gradients, and which changed."""
    networks = {**trainer.run.networks}
    networks |= {f"target {n}": network for n, network in enumerate(targets_of(trainer))}
    for parameter in (p for network in networks.values() for p in network.parameters()):
        parameter.grad = None
    before = {n: copy.deepcopy(network) for n, network in networks.items()}
    gradient_step(trainer.run, f"{name}_adam", loss, trainer.max_grad_norm)
    has = {n for n, net in networks.items() if any(p.grad is not None for p in net.parameters())}
    return has, {n for n, network in networks.items() if not same(network, before[n])}


@pytest.mark.parametrize(
    ("Trainer", "discrete"), [(DDPG, False), (TD3, False), (SAC, False), (SAC, True)]
)
def test_each_loss_reaches_its_own_networks_alone(Trainer, discrete):
    env = Spaces((2,), Discrete(3) if discrete else UNEVEN)
    actor, critics = networks_for(Trainer, env)
    trainer = Trainer(env)
    trainer.prepare(actor, critics)
    obs = torch.randn(20, 2)
    loss = trainer.actor_loss(actor, critics, obs)
    loss = loss[0] if Trainer is SAC else loss
    assert gradients(trainer, "actor", loss.mean()) == ({"actor"}, {"actor"})

    action = torch.randint(3, (20,)) if discrete else torch.rand(20, 3) * 2 - 1
    ended, ones = torch.zeros(20, dtype=torch.bool), torch.ones(20)
    batch = Batch(obs, action, ones, obs, ended, ones, ones, torch.arange(20))
    given = (actor, trainer.run.state["target_critics"]) if Trainer is SAC else ()
    target = trainer.td_target(*given, batch) if given else td_target(trainer, batch)
    assert not target.requires_grad
    names = set(trainer.run.networks) - {"actor"}
    for critic in flat([critics]):
        nn.init.normal_(critic.head.weight)  # so that all layers have a gradient
    if discrete:
        values = [agents.q_values(critic, obs)[:, 0] for critic in critics]
    else:
        values = [agents.action_value(critic, obs, action) for critic in flat([critics])]
    loss = sum(trainer.critic_loss(value, target) for value in values).mean()
    name = "critic" if Trainer is DDPG else "critics"
    assert gradients(trainer, name, loss) == (names, names)


@all_three
def test_an_update_leaves_no_gradient_of_the_actors_loss_in_the_critics(Trainer):
    """What is in their .grad afterwards is that of their own loss: the same where the actor's is
    nothing."""
    found = []
    for factor in (1.0, 0.0):

        class Scaled(Trainer):
            def actor_loss(self, actor, critics, obs, factor=factor):
                loss = super().actor_loss(actor, critics, obs)
                return (loss[0] * factor, loss[1]) if Trainer is SAC else loss * factor

        torch.manual_seed(0)
        env = Spaces((1,), Box(-1, 1, (1,)))
        actor, critics = networks_for(Trainer, env)
        trainer = Scaled(env)
        trainer.update(actor, critics, batch_of([0.5] * 8, [0.1] * 8, [1] * 8, [0.2] * 8))
        found.append([p.grad for net in flat([critics]) for p in net.parameters()])
        assert all(p.grad is None for net in targets_of(trainer) for p in net.parameters())
        assert not any(p.requires_grad for net in targets_of(trainer) for p in net.parameters())
        assert not any(net.training for net in targets_of(trainer))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@both
def test_the_critics_gradient_by_hand(Trainer):
    """Squared errors in units of the scale, times each weight; both critics of TD3 have the same
    target."""
    planes, targets = [(1.0, 0.0, 2.0), (0.0, 1.0, 0.0)], (0.0, [(2.0, 0.0, 0.0)] * 2)
    env = Spaces((1,), Box(-1, 1, (1,)))
    settings = dict(learning_rate=0.0, max_grad_norm=1e9, replay=Told(env, 10), learning_starts=1)
    trainer, actor, critics = lines(Trainer, 0.0, planes, targets, env, **settings)
    for critic in flat([critics]):
        critic.scale = torch.tensor(4.0)
    batch = batch_of([1, 3], [0.5, -0.5], [-1, 5], [0, 0], [False, True], weight=[1.0, 0.5])
    metrics = trainer.update(actor, critics, batch)
    target, values = np.array([-1 + 0.5 * 2, 5]), [np.array([2.0, 0.0]), np.array([1.0, 3.0])]
    weight, inputs = np.array([1, 0.5]), np.array([[1, 1, 0.5], [1, 3, -0.5]])
    loss = 0.0
    for critic, value in zip(flat([critics]), values):
        expected = (weight * 2 * (value - target) / 16) @ inputs / 2
        assert critic.numbers.grad.numpy() == pytest.approx(expected)
        loss += np.mean(weight * (value - target) ** 2 / 16)
    assert float(metrics["critic_loss"]) == pytest.approx(loss)
    assert float(metrics["q_value"]) == pytest.approx(1)
    assert float(metrics["td_error"]) == pytest.approx((2 + 5) / 2)
    if Trainer is TD3:
        assert float(metrics["disagreement"]) == pytest.approx((1 + 3) / 2)
    assert not any(number.requires_grad for number in metrics.values())
    # The memory is told what the (first) critic was wrong by, in the same units.
    index, error = trainer.memory.told
    assert index.tolist() == [0, 1]
    assert error.tolist() == [-2 / 4, 5 / 4]
    assert not error.requires_grad


class Told(ReplayBuffer):
    """A memory that writes down what it is told."""

    def update_priorities(self, index, error):
        self.told = index, error


@both
def test_the_actors_gradient_by_hand(Trainer):
    """mu(s) = k s, Q = 3 a: d(-Q)/dk = -3 s, in units of the scale. All states count alike, however
    surprising they were to the critic."""
    settings = dict(learning_rate=0.0, max_grad_norm=1e9)
    trainer, actor, critics = lines(Trainer, 0.1, [(0, 0, 3.0), (0, 0, -9.0)], **settings)
    for critic in flat([critics]):
        critic.scale = torch.tensor(2.0)
    trainer.update(actor, critics, batch_of([1, 3], [0, 0], [0, 0], [0, 0], weight=[1.0, 0.1]))
    assert float(actor.slope.grad) == pytest.approx(-3 * 2 / 2)


@all_three
def test_an_update_asks_the_target_networks_for_its_targets(Trainer):
    env, asked = Spaces((1,), Box(-1, 1, (1,))), []
    actor, critics = networks_for(Trainer, env)
    trainer = Trainer(env)
    td_target = trainer.td_target
    trainer.td_target = lambda *given: asked.append(given) or td_target(*given)
    trainer.update(actor, critics, batch_of([1, 3], [0.5, -0.5], [100, -70], [0, 0]))
    targets = {name: net for name, net in trainer.run.state.items() if name.startswith("target_")}
    # SAC has no target actor: its targets are of the policy as it is.
    expected = [actor, *targets.values()] if Trainer is SAC else [*targets.values()]
    assert len(expected) == 2
    assert all(net is right for net, right in zip(asked[0], expected))


@all_three
def test_long_gradients_are_shortened(Trainer):
    """All networks of one optimizer together."""
    norms = []
    for most in (1e9, 0.01):
        env = Spaces((1,), Box(-1, 1, (1,)))
        torch.manual_seed(0)
        actor, critics = networks_for(Trainer, env)
        trainer = Trainer(env, max_grad_norm=most)
        batch = batch_of([1, 3], [0.5, -0.5], [100, -70], [0, 0])
        for critic in flat([critics]):
            nn.init.normal_(critic.head.weight, std=10.0)
        trainer.update(actor, critics, batch)
        each = [[actor], flat([critics])]
        grads = [torch.cat([p.grad.flatten() for net in n for p in net.parameters()]) for n in each]
        norms.append([float(gradient.norm()) for gradient in grads])
    assert min(norms[0]) > 0.02
    assert norms[1] == pytest.approx([0.01, 0.01], rel=1e-3)


# --- what env.step gets, and what is remembered -------------------------------------------------


class Recorder(gym.Env):
    """Takes uneven actions, and writes them down."""

    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = UNEVEN

    def __init__(self):
        self.taken = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.taken.append(action)
        return np.zeros(2, np.float32), 1.0, False, False, {}


def fixed(Trainer, env, action):
    """An actor whose policy action is always this one; for SAC, the mode."""
    actor = networks_for(Trainer, env)[0]
    nn.init.zeros_(actor.head.weight)
    with torch.no_grad():
        actor.head.bias[:3] = torch.tensor(action).double().atanh().clamp(-30, 30).float()
        if Trainer is SAC:
            actor.head.bias[3:] = -9.0  # as little chance as there is
    return actor


@all_three
@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("action", [[-1.0] * 3, [0.0] * 3, [1.0] * 3, [0.5, -0.25, 0.9]])
def test_actions_fill_the_bounds_and_are_remembered_from_minus_1_to_1(action, vector, Trainer):
    games = [Recorder() for _ in range(2 if vector else 1)]
    env = SyncVectorEnv([lambda game=game: game for game in games]) if vector else games[0]
    quiet = {} if Trainer is SAC else dict(noise=0.0)
    trainer = Trainer(env, collect_steps=20, learning_starts=1, **quiet)
    actor, critics = fixed(Trainer, env, action), networks_for(Trainer, env)[1]
    trainer.collect(actor, critics)
    remembered = trainer.memory["action"].double().numpy()
    taken = np.concatenate([game.taken for game in games])
    order = np.argsort(taken[:, 0], kind="stable")
    again = np.argsort(remembered[:, 0], kind="stable")
    assert taken.shape == (20, 3)
    assert taken.dtype == UNEVEN.dtype
    assert np.abs(remembered).max() <= 1
    by_hand = np.clip(MIDDLE + HALF * remembered[again], UNEVEN.low, UNEVEN.high)
    np.testing.assert_allclose(taken[order], by_hand, rtol=1e-5)
    tolerance = dict(atol=0.05) if Trainer is SAC else dict(atol=1e-6)
    later = remembered[len(games) :]  # the first step is of the warm-up
    np.testing.assert_allclose(later, np.broadcast_to(action, later.shape), **tolerance)
    if Trainer is not SAC:
        middle = MIDDLE + HALF * np.array(action)
        for game in games:
            np.testing.assert_allclose(game.taken[1:], [middle] * len(game.taken[1:]), rtol=1e-5)
            acted = actor.act(np.zeros((1, 2)))[0]
            np.testing.assert_allclose(game.taken[-1], acted, rtol=1e-6)


@both
def test_noise_does_not_push_actions_over_the_bounds(Trainer):
    env = Recorder()
    trainer = Trainer(env, noise=2.0, collect_steps=300, learning_starts=1)
    trainer.collect(fixed(Trainer, env, [0.9] * 3), networks_for(Trainer, env)[1])
    action = trainer.memory["action"]
    assert (float(action.min()), float(action.max())) == (-1, 1)


# --- chance -------------------------------------------------------------------------------------


def many(num_envs, size=1):
    """So many environments at once, all of which go on and on, for actions of so many numbers."""
    env = TorchVector([10**6] * num_envs)
    env.single_action_space = Box(-3.0, 1.0, (size,), np.float32)
    env.action_space = gym.vector.utils.batch_space(env.single_action_space, num_envs)
    return env


def collected(Trainer, actor, num_envs, rounds, learning_starts, **settings):
    """(rounds, num_envs, size) policy actions of an actor that does the same everywhere."""
    env = many(num_envs, actor.number.numel() if isinstance(actor, Zero) else 1)
    trainer = Trainer(
        env, collect_steps=num_envs, seed=0, learning_starts=learning_starts, **settings
    )
    critics = critics_of(Trainer, Ten(), Ten())
    for _ in range(rounds):
        trainer.collect(actor, critics)
    action = trainer.memory["action"].view(rounds, num_envs, -1).double().numpy()
    taken = torch.stack(env.actions).double().numpy()
    np.testing.assert_allclose(taken, -1 + 2 * action, atol=1e-5)  # from -3 to 1
    return action


def farthest(numbers, distribution):
    """Kolmogorov and Smirnov: how far the share of numbers below any is from the one expected."""
    expected = distribution(np.sort(numbers))
    share = np.arange(len(numbers) + 1) / len(numbers)
    return max(np.abs(share[1:] - expected).max(), np.abs(share[:-1] - expected).max())


@both
@pytest.mark.parametrize("correlation", [0.0, 0.85])
def test_the_actions_of_the_warm_up_are_uniform(correlation, Trainer):
    """At every moment, and whatever the policy says, yet correlated in time where that is asked
    for. 1% of fair samples are farther away than 1.63 / sqrt(n)."""
    policy = Zero(2)
    nn.init.constant_(policy.number, 0.9)
    settings = dict(noise=0.0, noise_correlation=correlation)
    action = collected(Trainer, policy, 5000, 6, 10**5, **settings)
    for row in action:
        for numbers in row.T:
            assert farthest(numbers, lambda x: (x + 1) / 2) < 1.63 / 5000**0.5
        assert abs(np.corrcoef(row.T)[0, 1]) < 0.06  # dimensions have chance of their own
    # Of uniform numbers made from normal ones with the correlation c: 6 / pi asin(c / 2).
    found = np.corrcoef(action[:-1, :, 0].ravel(), action[1:, :, 0].ravel())[0, 1]
    assert found == pytest.approx(6 / math.pi * math.asin(correlation / 2), abs=0.03)


@both
@pytest.mark.parametrize("correlation", [0.0, 0.85])
def test_after_the_warm_up_it_is_the_policy_with_normal_noise(correlation, Trainer):
    """The standard deviation and the correlation that were asked for."""
    policy = Zero()
    nn.init.constant_(policy.number, 0.25)
    settings = dict(noise=0.1, noise_correlation=correlation)
    action = collected(Trainer, policy, 5000, 8, 1, **settings)[1:, :, 0]
    noise = (action - 0.25) / 0.1
    for row in noise:
        assert row.mean() == pytest.approx(0, abs=0.06)
        assert row.std() == pytest.approx(1, abs=0.04)
    found = np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]
    assert found == pytest.approx(correlation, abs=0.03)


@both
def test_the_warm_up_ends_when_the_memory_holds_enough(Trainer):
    """From the very next step on: here with the fifth of ten."""
    policy = Zero()
    action = collected(Trainer, policy, 3, 10, 12, noise=0.0)
    assert (action != 0).all((1, 2)).tolist() == [True] * 4 + [False] * 6
    assert (action[4:] == 0).all()


# --- what moves when --------------------------------------------------------------------------


@all_three
def test_targets_begin_as_copies_once_the_scale_of_things_is_known(Trainer):
    env = gym.make("Pendulum-v1")
    trainer = Trainer(env, collect_steps=32, learning_starts=32, updates_per_step=1e-9)
    actor, critics = networks_for(Trainer, env)
    trainer.train(actor, critics, steps=32)
    networks = [actor, *flat([critics])] if "target_actor" in trainer.run.state else flat([critics])
    assert len(networks) == {DDPG: 2, TD3: 3, SAC: 2}[Trainer]
    for target, network in zip(targets_of(trainer), networks, strict=True):
        assert same(target, network)
        assert int(target.obs_statistics.count) == 32
    # And only then: later, they follow by their updates alone.
    before = copy.deepcopy(targets_of(trainer))
    for network in networks:
        nn.init.normal_(network.head.weight)
    trainer.train(actor, critics, steps=32)
    assert all(same(*pair) for pair in zip(before, targets_of(trainer), strict=True))


@all_three
@pytest.mark.parametrize("tau", [0.0, 0.1, 1.0])
def test_targets_follow_by_tau_with_each_update(tau, Trainer):
    """From where they were to where the networks are after the step; statistics and all."""
    env = Spaces((1,), Box(-1, 1, (1,)))
    actor, critics = networks_for(Trainer, env)
    trainer = Trainer(env, tau=tau, learning_rate=0.01)
    trainer.prepare(actor, critics)
    for network in (actor, *flat([critics])):
        agents.update_statistics(network, torch.randn(50, 1) + 3, rewards=torch.randn(50))
    before = copy.deepcopy(targets_of(trainer))
    batch = batch_of([1, 3], [0.5, -0.5], [1, 5], [0, 2])
    trainer.update(actor, critics, batch)
    networks = [actor, *flat([critics])][-len(before) :]
    assert not any(same(*pair) for pair in zip(before, networks, strict=True))
    for old, now, network in zip(before, targets_of(trainer), networks, strict=True):
        pairs = zip(old.parameters(), now.parameters(), network.parameters(), strict=True)
        for was, found, new in pairs:
            assert torch.allclose(found, tau * new + (1 - tau) * was, atol=1e-6)
        assert same(now.obs_statistics, network.obs_statistics)


def test_an_update_that_is_not_delayed_moves_the_critics_alone():
    env = Spaces((1,), Box(-1, 1, (1,)))
    actor, critics = networks_for(TD3, env)
    trainer = TD3(env)
    batch = batch_of([1, 3], [0.5, -0.5], [1, 5], [0, 2])
    trainer.update(actor, critics, batch)
    rest = lambda: copy.deepcopy([actor, *targets_of(trainer)])  # noqa: E731
    before, was, adam = rest(), copy.deepcopy(critics), trainer.run.state["actor_adam"]
    moments = copy.deepcopy(adam.state_dict()["state"])
    trainer.update(actor, critics, batch, delayed=False)
    assert all(same(*pair) for pair in zip(before, rest(), strict=True))
    assert not any(same(*pair) for pair in zip(was, critics, strict=True))
    now = adam.state_dict()["state"]
    assert all(torch.equal(now[n]["exp_avg"], moments[n]["exp_avg"]) for n in moments)
    trainer.update(actor, critics, batch, delayed=True)
    assert not any(same(*pair) for pair in zip(before, rest(), strict=True))


@pytest.mark.parametrize("policy_delay", [1, 2, 3])
def test_every_so_many_updates_are_delayed_over_rounds_and_a_resume(policy_delay, tmp_path):
    """7 steps a round and 0.7 updates a step: most rounds end in the middle of a turn."""
    flags = []

    class Noting(TD3):
        def update(self, actor, critics, batch, delayed=True):
            flags.append(delayed)
            return super().update(actor, critics, batch, delayed)

    Noting.__name__ = "TD3"
    settings = dict(collect_steps=7, updates_per_step=0.7, learning_starts=20, batch_size=4)
    env = lever(Scripted())
    trainer = Noting(env, policy_delay=policy_delay, seed=0, **settings)
    networks = networks_for(TD3, env, hidden_sizes=(4,))
    trainer.train(*networks, steps=60)
    trainer.train(*networks, steps=1)
    trainer.save(tmp_path / "file")
    loaded = Noting.load(tmp_path / "file", lever(Scripted()))
    loaded.train(loaded.actor, loaded.critics, steps=60)
    assert len(flags) > 70
    first = flags.index(True)
    assert first < policy_delay
    assert flags == [(n - first) % policy_delay == 0 for n in range(len(flags))]


class Counting:
    """Counts updates and makes none."""

    def update(self, *given):
        self.count = getattr(self, "count", 0) + 1
        return {}


@all_three
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize(
    ("ratio", "collect_steps"), [(0.1, 7), (1 / 3, 1), (0.013, 20), (1.0, 16), (2.5, 5)]
)
def test_updates_are_the_stated_share_of_the_steps(ratio, collect_steps, num_envs, Trainer):
    env = SyncVectorEnv([Scripted] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)
    env = env if Trainer is SAC else lever(env)
    trainer = type("Counting", (Counting, Trainer), {})(
        env, updates_per_step=ratio, collect_steps=collect_steps, learning_starts=1, capacity=500
    )
    networks = networks_for(Trainer, env, hidden_sizes=(2,))
    for _ in range(2):
        trainer.train(*networks, steps=40)
    assert trainer.run.steps >= 80
    assert abs(getattr(trainer, "count", 0) - ratio * trainer.run.steps) <= 1


@all_three
def test_no_update_before_the_memory_holds_enough(Trainer):
    trainer = type("Counting", (Counting, Trainer), {})(
        lever(Scripted()), collect_steps=50, learning_starts=130, updates_per_step=0.5
    )
    counts = []
    history = trainer.train(
        *networks_for(Trainer, trainer.env),
        steps=300,
        callbacks=lambda trainer: counts.append(getattr(trainer, "count", 0)),
    )
    assert counts == [0, 0, 25, 50, 75, 100]
    assert history["steps"].tolist() == [50, 100, 150, 200, 250, 300]


@all_three
def test_rows_before_the_first_update_have_no_numbers(Trainer):
    settings = dict(collect_steps=50, learning_starts=60, updates_per_step=0.1, batch_size=8)
    trainer = Trainer(lever(Scripted()), **settings)
    history = trainer.train(*networks_for(Trainer, trainer.env), steps=150)
    names = ["q_value", "td_error", "critic_loss"] + ["disagreement"] * (Trainer is not DDPG)
    for name in names + ["entropy", "alpha"] * (Trainer is SAC):
        assert np.isfinite(history[name]).tolist() == [False, True, True]


@all_three
@pytest.mark.parametrize("name", [name for name, _ in in_every_mode()])
def test_the_statistics_are_those_of_the_memory(name, Trainer):
    """Steps that only reset an environment are no experience, and in neither."""
    env = lever(dict(in_every_mode())[name])
    trainer, networks = Trainer(env, collect_steps=70), networks_for(Trainer, env)
    for _ in range(2):
        trainer.collect(*networks)
    assert len(trainer.memory) == 140
    for network in flat(networks):
        for kind in ("obs", "reward"):
            statistics = getattr(network, f"{kind}_statistics", None)
            if statistics is None:
                assert (network, kind) == (networks[0], "reward")
                continue
            assert int(statistics.count) == 140
            assert torch.allclose(statistics.mean, trainer.memory[kind].mean(0), rtol=1e-4)


# --- scale and health ---------------------------------------------------------------------------


@all_three
def test_scaling_all_rewards_scales_the_values_and_nothing_else(Trainer):
    """For SAC the temperature with them, which is in units of reward."""
    found = []
    for scale in (1.0, 1024.0):  # a power of two, which rounds nothing
        torch.manual_seed(0)
        env = gym.wrappers.TransformReward(gym.make("Pendulum-v1"), lambda r, s=scale: r * s)
        actor, critics = networks_for(Trainer, env)
        alpha = dict(initial_alpha=scale) if Trainer is SAC else {}
        settings = dict(learning_starts=64, updates_per_step=0.1, batch_size=32, collect_steps=64)
        trainer = Trainer(env, seed=0, **settings, **alpha)
        history = trainer.train(actor, critics, steps=256)
        obs = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
        action = actor.act(obs)
        values = flat([critics])[0](obs, action / 2).detach()
        found.append((actor, values, history))
    (one, values, history), (other, more, other_history) = found
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert values.abs().mean() > 0.5
    assert torch.allclose(1024 * values, more, rtol=1e-3, atol=1)
    assert other_history["critic_loss"][-1] == pytest.approx(history["critic_loss"][-1], rel=1e-3)
    for name in ["q_value", "td_error"] + ["alpha"] * (Trainer is SAC):
        assert other_history[name][-1] == pytest.approx(1024 * history[name][-1], rel=1e-3)


@both
@pytest.mark.parametrize(
    ("rewards", "band"),
    [([-2.0, 1.0, 3.0], (-20, 30)), ([1.0, 3.0], (0, 30)), ([-1.0, -2.0], (-20, 0))],
)
def test_healthy_values_are_sums_of_rewards(rewards, band, Trainer):
    """No more than the highest for ever, or nothing more if that is better."""

    class Given(Scripted):
        def step(self, action):
            obs, _, *ends = super().step(action)
            return obs, rewards[self.count % len(rewards)], *ends

    trainer = Trainer(lever(Given()), gamma=0.9, collect_steps=60)
    assert trainer.healthy_ranges == {}
    trainer.train(*networks_for(Trainer, trainer.env), steps=60)
    assert trainer.healthy_ranges["q_value"] == pytest.approx(band)
    trainer.gamma = 1.0
    assert all(map(math.isfinite, trainer.healthy_ranges["q_value"]))


# --- networks of one's own ----------------------------------------------------------------------


class Beside(nn.Sequential):
    """Q(s, a) by plain layers."""

    def forward(self, obs, action):
        return super().forward(torch.cat([obs, action], 1)).squeeze(-1)


@both
def test_plain_networks_are_taken_as_they_come(Trainer, tmp_path):
    env = gym.make("Pendulum-v1")

    def networks():
        actor = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1), nn.Tanh())
        critics = (Beside(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)) for _ in range(2))
        return actor, critics_of(Trainer, *critics)

    actor, critics = networks()
    before = [p.clone() for net in flat([actor, critics]) for p in net.parameters()]
    soon = dict(collect_steps=64, learning_starts=100, updates_per_step=0.1)
    trainer = Trainer(env, seed=0, **soon)
    trainer.train(actor, critics, steps=256)
    after = [p for net in flat([actor, critics]) for p in net.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    trainer.save(tmp_path / "file")
    loaded = Trainer.load(tmp_path / "file", env, *networks())
    assert same(targets_of(loaded), targets_of(trainer))
    assert same(list(loaded.run.networks.values()), flat([actor, critics]))
    assert same(flat([loaded.critic if Trainer is DDPG else loaded.critics]), flat([critics]))


@both
def test_a_critic_with_a_second_axis_is_named(Trainer):
    class Wide(Beside):
        def forward(self, obs, action):
            return super().forward(obs, action)[:, None]

    env = gym.make("Pendulum-v1")
    critics = critics_of(Trainer, *(Wide(nn.Linear(4, 1)) for _ in range(2)))
    actor = agents.actor(env, deterministic=True)
    soon = dict(collect_steps=16, learning_starts=16, batch_size=8, updates_per_step=1)
    with pytest.raises(ValueError, match=r"critic gives values of shape \(8, 1\).*squeeze"):
        Trainer(env, **soon).train(actor, critics, steps=16)


# --- bad input ----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("env", [gym.make("CartPole-v1"), envs.make("CartPole-v1", num_envs=2)])
def test_discrete_actions_are_refused_with_a_way_out(env, Trainer):
    match = (
        rf"^{Trainer.__name__} needs a Box action space; CartPole-v1 has Discrete\(2\)\. Use a "
        r"trainer for Discrete actions, such as DQN, SAC or PPO"
    )
    with pytest.raises(TypeError, match=match):
        Trainer(env)


@all_three
@pytest.mark.parametrize("high", [np.inf, 3.4e38])
def test_actions_without_bounds_are_refused_with_a_way_out(high, Trainer):
    low = np.float32([-1, -high if high < np.inf else -1])
    env = Spaces((1,), Box(low, np.float32([1, high])))
    match = rf"^{Trainer.__name__} needs actions with bounds; Spaces has Box.*PPO.*TransformAction"
    with pytest.raises(ValueError, match=match):
        Trainer(env)


V, MU, PI, GAUSS = (
    agents.critic,
    lambda env: agents.actor(env, deterministic=True),
    lambda env: agents.actor(env, squashed=True),
    agents.actor,
)


@all_three
def test_networks_of_another_kind_are_named(Trainer):
    env = gym.make("Pendulum-v1")
    right = networks_for(Trainer, env)
    kind = "squashed" if Trainer is SAC else "deterministic"
    for wrong in (PI if Trainer is not SAC else MU, GAUSS, V, agents.q_critic):
        actor = wrong(env)
        match = rf"actor is a {type(actor).__name__}; .* such as agents.actor\(env, {kind}=True\)"
        for network in (actor, nn.DataParallel(actor)):
            with pytest.raises(TypeError, match=match):
                Trainer(env).train(network, right[1], steps=1)
    for wrong, number in itertools.product((V, MU, GAUSS), range(1 if Trainer is DDPG else 2)):
        critics = flat([right[1]])
        critics[number] = wrong(env)
        name = "critic" if Trainer is DDPG else rf"critics\[{number}\]"
        kind = type(critics[number]).__name__
        with pytest.raises(TypeError, match=rf"{name} is a {kind}; .* agents.q_critic\(env\)"):
            Trainer(env).train(right[0], critics_of(Trainer, *critics), steps=1)
    if Trainer is DDPG:
        with pytest.raises(TypeError, match=r"critic is a list; expected a torch.nn.Module, such"):
            DDPG(env).train(right[0], [right[1]] * 2, steps=1)
