"""PPO: its mathematics against slower, independent computations; then its promises as a trainer."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from metis_nb import PPO, agents, envs
from metis_nb.trainers.ppo import Rollout
from tests.scripted import Scripted, TorchVector, in_every_mode


class Table(nn.Module):
    """V(s) = a fixed function of the observation, with a parameter so that it has a device."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, obs):
        return self.scale * (torch.sin(3 * obs[:, 0]) + 2 * torch.cos(obs.sum(-1)))


def random_rollout(seed, length=12, num_envs=3):
    """Transitions with ends of both kinds anywhere, and rows that only reset."""
    g = torch.Generator().manual_seed(seed)
    shape = (length, num_envs)
    obs = torch.randn(length + 1, num_envs, 2, generator=g)
    terminated = torch.rand(shape, generator=g) < 0.2
    truncated = torch.rand(shape, generator=g) < 0.2
    # Where an episode ends, its last observation is not the one that the next row acts on.
    ends = (terminated | truncated)[..., None]
    next_obs = torch.where(ends, torch.randn(*shape, 2, generator=g), obs[1:])
    return Rollout(
        obs=obs[:-1],
        action=torch.randint(3, shape, generator=g),
        log_prob=torch.randn(shape, generator=g),
        reward=torch.randn(shape, generator=g),
        next_obs=next_obs,
        terminated=terminated,
        truncated=truncated,
        valid=torch.ones(shape, dtype=torch.bool),
    )


def slow_advantages(rollout, value, next_value, gamma, gae_lambda):
    """The O(T^2) definition: for every step the lambda-weighted mean of all its n-step returns.

    Works on whole n-step returns, not on temporal differences, so it shares no formula with PPO.
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


@given(
    seed=st.integers(0, 10_000),
    gamma=st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]),
    gae_lambda=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
)
def test_advantages_are_those_of_the_slow_definition(seed, gamma, gae_lambda):
    rollout, critic = random_rollout(seed), Table()
    trainer = PPO(Scripted(), gamma=gamma, gae_lambda=gae_lambda)
    advantage, value_target = trainer.advantages(critic, rollout)
    with torch.no_grad():
        value = critic(rollout.obs.flatten(0, 1)).view(12, 3)
        next_value = critic(rollout.next_obs.flatten(0, 1)).view(12, 3)
    expected = slow_advantages(rollout, value, next_value, gamma, gae_lambda)
    assert torch.allclose(advantage.double(), expected, atol=1e-4)
    assert torch.allclose(value_target, advantage + value)


def test_a_terminated_end_is_worth_nothing_and_a_truncated_one_its_value():
    one = torch.ones(1, 1)
    no, yes = torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    obs, trainer, critic = torch.ones(1, 1, 2), PPO(Scripted(), gamma=0.9), Table()
    value = float(critic(obs[0]).detach())
    for terminated, truncated, end in [(yes, no, 0.0), (yes, yes, 0.0), (no, yes, value)]:
        rollout = Rollout(obs, no.long(), one, one, obs, terminated, truncated, yes)
        _, target = trainer.advantages(critic, rollout)
        assert math.isclose(float(target), 1 + 0.9 * end, rel_tol=1e-5)


def test_every_kind_of_environment_gives_the_same_targets():
    results = {}
    for name, env in in_every_mode():
        trainer = PPO(env, rollout_steps=80, gamma=0.9)
        rollout = trainer.collect(agents.actor(env))
        advantage, target = trainer.advantages(Table(), rollout)
        valid = rollout.valid
        # The first 40 steps: what is cut off at the end of the rollout differs by the mode.
        kept = [values[valid][:40] for values in (rollout.obs, rollout.reward, advantage, target)]
        results[name] = torch.cat([part.reshape(40, -1) for part in kept], 1)
    single = results.pop("single")
    for name, result in results.items():
        assert torch.allclose(result, single, atol=1e-5), name
    assert len(results) == 3


# --- the losses -------------------------------------------------------------------------------


def test_the_clipped_surrogate_on_numbers_by_hand():
    trainer = PPO(Scripted(), clip_range=0.2)
    ratio = torch.tensor([0.5, 0.5, 1.5, 1.5, 1.1])
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    # min(0.5, 0.8), min(-0.5, -0.8), min(1.5, 1.2), min(-1.5, -1.2), min(2.2, 2.2)
    expected = -(0.5 - 0.8 + 1.2 - 1.5 + 2.2) / 5
    assert math.isclose(float(trainer.actor_loss(ratio, advantage)), expected, rel_tol=1e-6)


def test_where_the_clipped_surrogate_has_no_gradient():
    ratio = torch.tensor([0.5, 0.5, 1.5, 1.5, 1.0], requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    PPO(Scripted()).actor_loss(ratio, advantage).backward()
    assert torch.equal(ratio.grad * 5, torch.tensor([-1.0, 0.0, 0.0, 1.0, -1.0]))


def test_the_first_gradient_is_the_policy_gradient():
    """At ratio 1 the surrogate's gradient is that of mean(log pi * advantage)."""
    env = gym.make("Pendulum-v1")
    actor, trainer = agents.actor(env), PPO(env, rollout_steps=64)
    rollout = trainer.collect(actor)
    obs, action, log_prob = rollout.obs[:, 0], rollout.action[:, 0], rollout.log_prob[:, 0]
    advantage = torch.randn(64)
    ratio = trainer.ratio(agents.policy(actor, obs), action, log_prob)
    assert torch.allclose(ratio, torch.ones(64), atol=1e-5)
    surrogate = torch.autograd.grad(trainer.actor_loss(ratio, advantage), actor.parameters())
    objective = (agents.policy(actor, obs).log_prob(action) * advantage).mean()
    plain = torch.autograd.grad(-objective, actor.parameters())
    for a, b in zip(surrogate, plain, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_the_critic_loss_is_a_share_of_the_variance():
    env = Scripted()
    critic, obs, target = agents.critic(env), torch.randn(50, 2), torch.randn(50) * 30 + 100
    agents.observe(critic, returns=target)
    loss = PPO(env).critic_loss(critic, obs, target)
    by_hand = 0.5 * np.mean((critic(obs).detach().numpy() - target.numpy()) ** 2)
    assert math.isclose(float(loss.detach()), by_hand / target.var(correction=0), rel_tol=1e-4)


def test_scaling_all_rewards_changes_nothing_but_the_values():
    """One setting serves rewards of any scale: the same policy, step for step."""
    actors = []
    for scale in (1.0, 1000.0):
        torch.manual_seed(0)
        env = gym.wrappers.TransformReward(gym.make("CartPole-v1"), lambda r, s=scale: r * s)
        actor, critic = agents.actor(env), agents.critic(env)
        PPO(env, seed=0, rollout_steps=256).train(actor, critic, steps=768)
        actors.append(actor)
    for a, b in zip(actors[0].parameters(), actors[1].parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-2)


# --- collect and update -----------------------------------------------------------------------


def test_collect_gives_shapes_and_goes_on_where_it_ended():
    env = envs.make("CartPole-v1", num_envs=4)
    trainer, actor = PPO(env, rollout_steps=30), agents.actor(env)
    first, second = trainer.collect(actor), trainer.collect(actor)
    assert first.obs.shape == (8, 4, 4)  # 30 / 4, rounded up
    assert first.action.shape == first.log_prob.shape == first.valid.shape == (8, 4)
    going = ~(first.terminated | first.truncated)[-1]
    assert torch.equal(first.next_obs[-1][going], second.obs[0][going])


def test_actions_are_stored_as_sampled_and_clipped_at_the_environment():
    class Bounded(Scripted):
        action_space = Box(np.array([-1.0, 2.0]), np.array([3.0, 2.5]), dtype=np.float32)

        def step(self, action):
            assert self.action_space.contains(action)
            return super().step(action)

    env = Bounded()
    actor = agents.actor(env)
    nn.init.constant_(actor.log_std, 1.0)
    rollout = PPO(env, rollout_steps=100).collect(actor)
    assert rollout.action.shape == (100, 1, 2)
    assert rollout.action.abs().max() > 1.5
    pi = agents.policy(actor, rollout.obs[:, 0])
    assert torch.allclose(pi.log_prob(rollout.action[:, 0]), rollout.log_prob[:, 0], atol=1e-5)


def test_reset_steps_are_left_out_of_the_update():
    env = SyncVectorEnv([Scripted] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    trainer, actor, critic = PPO(env, rollout_steps=64), agents.actor(env), agents.critic(env)
    rollout = trainer.collect(actor)
    assert 0 < (~rollout.valid).sum() < 64
    advantage, target = trainer.advantages(critic, rollout)
    poison = torch.where(rollout.valid, 0.0, torch.nan)
    metrics = trainer.update(actor, critic, rollout, advantage + poison, target + poison)
    assert all(math.isfinite(float(value)) for value in metrics.values())
    assert int(actor.obs_statistics.count) == int(rollout.valid.sum())


def test_the_old_policy_stays_the_old_policy_within_an_update():
    """With next to no learning rate, ratios stay 1 although observations are normalised."""
    env = gym.make("Pendulum-v1")
    trainer, actor, critic = PPO(env, learning_rate=1e-12), agents.actor(env), agents.critic(env)
    for _ in range(2):
        rollout = trainer.collect(actor)
        metrics = trainer.update(actor, critic, rollout, *trainer.advantages(critic, rollout))
        assert float(metrics["kl"]) < 1e-6


def test_one_network_for_both():
    env = gym.make("CartPole-v1")
    body = nn.Sequential(nn.Linear(4, 16), nn.Tanh())
    actor, critic = agents.actor(env, body=body), agents.critic(env, body=body)
    PPO(env, rollout_steps=128, seed=0).train(actor, critic, steps=256)


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
    "Pendulum": lambda: gym.make("Pendulum-v1"),
    "16 CartPoles": lambda: envs.make("CartPole-v1"),
    "4 Pendulums": lambda: envs.make("Pendulum-v1", num_envs=4),
    "torch": TorchVector,
    **VECTORS,
}


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_on(kind, parallel):
    env = KINDS[kind]()
    actor, critic = agents.actor(env), agents.critic(env)
    before = [p.clone() for p in [*actor.parameters(), *critic.parameters()]]
    networks = [nn.DataParallel(net) if parallel else net for net in (actor, critic)]
    history = PPO(env, rollout_steps=128, seed=0).train(*networks, steps=256)
    after = [*actor.parameters(), *critic.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert len(history) >= 2
    assert history[-1]["steps"] >= 256


def small(env, **kwargs):
    torch.manual_seed(0)
    actor, critic = agents.actor(env), agents.critic(env)
    return PPO(env, rollout_steps=128, seed=0, **kwargs), actor, critic


def same(one, two):
    pairs = zip(one.state_dict().items(), two.state_dict().items(), strict=True)
    return all(torch.equal(a, b) for (_, a), (_, b) in pairs)


def test_the_same_seed_gives_the_same_training_and_another_another():
    actors = []
    for seed in (0, 0, 1):
        env = gym.make("CartPole-v1")
        torch.manual_seed(0)
        actor, critic = agents.actor(env), agents.critic(env)
        PPO(env, rollout_steps=128, seed=seed).train(actor, critic, steps=256)
        actors.append(actor)
    assert same(actors[0], actors[1])
    assert not same(actors[0], actors[2])


def test_the_readers_random_generators_are_left_alone():
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    trainer.train(actor, critic, steps=256)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_train_twice_is_train_once(kind):
    trainer, actor, critic = small(KINDS[kind]())
    trainer.train(actor, critic, steps=512)
    other, actor2, critic2 = small(KINDS[kind]())
    while other.run.steps < 512:
        other.train(actor2, critic2, steps=1)
    assert same(actor, actor2)
    assert same(critic, critic2)
    drop = lambda row: {k: v for k, v in row.items() if k != "seconds"}  # noqa: E731
    assert [drop(row) for row in trainer.history] == [drop(row) for row in other.history]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "torch"])
def test_a_loaded_trainer_goes_on_bit_for_bit(kind, tmp_path):
    trainer, actor, critic = small(KINDS[kind]())
    trainer.train(actor, critic, steps=300)
    trainer.save(tmp_path / "ppo.safetensors")
    trainer.train(actor, critic, steps=400)

    loaded = PPO.load(tmp_path / "ppo.safetensors", KINDS[kind]())
    assert loaded.rollout_steps == 128
    assert len(loaded.history) < len(trainer.history)
    loaded.train(loaded.actor, loaded.critic, steps=400)
    assert same(actor, loaded.actor)
    assert same(critic, loaded.critic)
    assert loaded.history.episodes == trainer.history.episodes
    assert loaded.history[-1]["kl"] == trainer.history[-1]["kl"]


def test_loading_and_saving_at_once_changes_nothing(tmp_path):
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    trainer.train(actor, critic, steps=300)
    trainer.save(tmp_path / "one")
    PPO.load(tmp_path / "one", gym.make("CartPole-v1")).save(tmp_path / "two")
    loaded = PPO.load(tmp_path / "two", gym.make("CartPole-v1"))
    trainer.train(actor, critic, steps=300)
    loaded.train(loaded.actor, loaded.critic, steps=300)
    assert same(actor, loaded.actor)


def test_other_networks_start_a_new_training():
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    trainer.train(actor, critic, steps=300)
    torch.manual_seed(0)
    again, critic2 = agents.actor(trainer.env), agents.critic(trainer.env)
    trainer.train(again, critic2, steps=256)
    assert trainer.history[0]["steps"] <= 128
    assert trainer.history[-1]["steps"] <= 384


def test_an_environment_whose_state_is_hidden_starts_new_episodes_and_says_so(tmp_path):
    class Hidden(Scripted):
        engine = None

        def __init__(self):
            super().__init__()
            self.engine = type("Engine", (), {})()

    trainer, actor, critic = small(Hidden())
    trainer.train(actor, critic, steps=200)
    trainer.save(tmp_path / "file")
    loaded = PPO.load(tmp_path / "file", Hidden())
    with pytest.warns(UserWarning, match="goes on with new episodes"):
        loaded.train(loaded.actor, loaded.critic, steps=128)
    assert loaded.run.steps == 256 + 128


def test_a_body_of_your_own_has_to_be_given_again(tmp_path):
    def network(make):
        return make(env, body=nn.Sequential(nn.Linear(4, 8), nn.ReLU()))

    env = gym.make("CartPole-v1")
    actor, critic = network(agents.actor), network(agents.critic)
    trainer = PPO(env, rollout_steps=128, seed=0)
    trainer.train(actor, critic, steps=128)
    trainer.save(tmp_path / "file")
    with pytest.raises(ValueError, match=r"code of your own.*actor=\.\.\."):
        PPO.load(tmp_path / "file", env)
    loaded = PPO.load(
        tmp_path / "file", env, actor=network(agents.actor), critic=network(agents.critic)
    )
    assert same(loaded.actor, actor)


def test_a_file_for_another_environment_is_named(tmp_path):
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    trainer.train(actor, critic, steps=128)
    trainer.save(tmp_path / "file")
    with pytest.raises(ValueError, match=r"trained on CartPole-v1 .*env=Acrobot-v1 has"):
        PPO.load(tmp_path / "file", gym.make("Acrobot-v1"))


# --- bad input and trouble --------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        dict(rollout_steps=0),
        dict(rollout_steps=2.5),
        dict(epochs=-1),
        dict(minibatch_size="big"),
        dict(learning_rate=-1e-3),
        dict(learning_rate=float("nan")),
        dict(gamma=1.5),
        dict(gae_lambda=-0.1),
        dict(clip_range=0),
        dict(entropy_coefficient=float("inf")),
        dict(max_grad_norm=True),
        dict(seed=-1),
        dict(seed=1.5),
    ],
)
def test_a_bad_hyperparameter_is_named(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=rf"{name}=.*expected"):
        PPO(gym.make("CartPole-v1"), **arguments)


def test_a_bad_environment_is_named():
    with pytest.raises(TypeError, match="env is a str"):
        PPO("CartPole-v1")


def test_bad_arguments_of_train_are_named():
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    for steps in (0, -5, 1.5):
        with pytest.raises(ValueError, match="steps="):
            trainer.train(actor, critic, steps=steps)
    with pytest.raises(TypeError, match="callbacks holds a str"):
        trainer.train(actor, critic, steps=128, callbacks=["plot"])
    with pytest.raises(TypeError, match=r"critic is a str; expected a torch.nn.Module"):
        trainer.train(actor, "critic", steps=128)
    with pytest.raises(ValueError, match="actor is on meta, critic is on cpu; expected one device"):
        trainer.train(agents.actor(trainer.env).to("meta"), critic, steps=128)
    with pytest.raises(RuntimeError, match="before there is anything to save"):
        PPO(gym.make("CartPole-v1")).save("nowhere")


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_what_is_not_finite_stops_and_nothing_is_lost(what):
    class Faulty(Scripted):
        total = 0

        def step(self, action):
            obs, reward, terminated, truncated, info = super().step(action)
            self.total += 1
            if self.total == 300:
                reward, obs = (math.nan, obs) if what == "reward" else (reward, obs * math.nan)
            return obs, reward, terminated, truncated, info

    trainer, actor, critic = small(Faulty())
    with pytest.raises(FloatingPointError, match=f"{what}.*environment step 300"):
        trainer.train(actor, critic, steps=1000)
    assert len(trainer.history) == 2
    assert all(p.isfinite().all() for p in actor.parameters())
    trainer.train(actor, critic, steps=256)  # goes on
    assert len(trainer.history) == 4


def test_a_loss_that_is_not_finite_stops_before_the_networks_change():
    class Broken(PPO):
        def critic_loss(self, critic, obs, value_target):
            return super().critic_loss(critic, obs, value_target) * math.inf

    env = gym.make("CartPole-v1")
    actor, critic = agents.actor(env), agents.critic(env)
    before = [p.clone() for p in actor.parameters()]
    with pytest.raises(FloatingPointError, match="loss is inf after environment step 128"):
        Broken(env, rollout_steps=128).train(actor, critic, steps=256)
    assert all(torch.equal(a, b) for a, b in zip(before, actor.parameters(), strict=True))


# --- what a careful reader found ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["single", *(mode.name for mode in AutoresetMode)])
def test_a_first_observation_that_is_not_finite_reaches_no_statistics(name):
    class LaterWild(Scripted):
        def reset(self, *, seed=None, options=None):
            obs, info = super().reset(seed=seed)
            return (obs if self.episode < 3 else obs * np.nan), info

    modes = {mode.name: mode for mode in AutoresetMode}
    env = SyncVectorEnv([LaterWild], autoreset_mode=modes[name]) if name in modes else LaterWild()
    trainer, actor, critic = small(env)
    with pytest.raises(FloatingPointError, match="observation"):
        trainer.train(actor, critic, steps=256)
    assert all(values.isfinite().all() for values in critic.state_dict().values())


def test_rewards_too_large_for_float32_sums_reach_no_statistics():
    env = gym.wrappers.TransformReward(gym.make("CartPole-v1"), lambda reward: 3e38)
    trainer, actor, critic = small(env)
    with pytest.raises(FloatingPointError):
        trainer.train(actor, critic, steps=256)
    assert all(values.isfinite().all() for values in critic.state_dict().values())


def test_a_critic_with_a_second_axis_is_named():
    env = gym.make("CartPole-v1")
    critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    with pytest.raises(ValueError, match=r"critic gives values of shape \(128, 1\).*squeeze"):
        PPO(env, rollout_steps=128).train(agents.actor(env), critic, steps=128)


def test_wrapping_the_networks_goes_on_with_the_same_training():
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    trainer.train(actor, critic, steps=256)
    trainer.train(nn.DataParallel(actor), critic, steps=128)
    assert trainer.history[-1]["steps"] == 384


def test_a_new_head_is_trained():
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    trainer.train(actor, critic, steps=128)
    actor.head = nn.Linear(64, 2)
    before = actor.head.weight.clone()
    trainer.train(actor, critic, steps=128)
    assert not torch.equal(before, actor.head.weight)
    assert trainer.history[-1]["steps"] == 256


def test_the_learning_rate_may_change_on_the_way():
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    trainer.train(actor, critic, steps=128)
    before = actor.head.weight.clone()
    trainer.learning_rate = 1e-12
    trainer.train(actor, critic, steps=128)
    assert torch.allclose(before, actor.head.weight, atol=1e-7)


def test_reset_steps_hardly_change_the_number_of_minibatches():
    env = envs.make("CartPole-v1")
    trainer, actor, critic = PPO(env, seed=0), agents.actor(env), agents.critic(env)
    sizes = []
    loss = trainer.actor_loss
    trainer.actor_loss = lambda ratio, advantage: sizes.append(len(ratio)) or loss(ratio, advantage)
    trainer.train(actor, critic, steps=1)
    assert len(sizes) == 4 * trainer.epochs
    assert sum(sizes) < 2048 * trainer.epochs


def test_an_interrupted_rollout_loses_no_episode_count():
    class Stopping(Scripted):
        total = 0

        def step(self, action):
            self.total += 1
            if self.total == 70:
                raise KeyboardInterrupt
            return super().step(action)

    trainer, actor, critic = small(Stopping())
    with pytest.raises(KeyboardInterrupt):
        trainer.train(actor, critic, steps=256)
    steps_before = trainer.run.steps
    assert steps_before == 69
    lengths = [length for _, _, length in trainer.history.episodes]
    trainer.train(actor, critic, steps=128)
    assert [length for _, _, length in trainer.history.episodes][: len(lengths)] == lengths
    assert {length for _, _, length in trainer.history.episodes} <= {1, 2, 3, 4, 5}


def test_hidden_environments_do_not_play_their_first_episodes_again(tmp_path):
    class Hidden(gym.Wrapper):
        engine = None

    def make():
        env = Hidden(gym.make("CartPole-v1"))
        env.engine = type("Engine", (), {})()
        return env

    trainer, actor, critic = small(make())
    first = trainer.run.start(actor).obs.clone()
    trainer.train(actor, critic, steps=128)
    trainer.save(tmp_path / "file")
    again = []
    for _ in range(2):
        loaded = PPO.load(tmp_path / "file", make())
        with pytest.warns(UserWarning, match="new episodes"):
            again.append(loaded.run.start(loaded.actor).obs.clone())
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], first)


def test_a_file_saved_on_another_kind_of_device_loads(tmp_path, monkeypatch):
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    trainer.train(actor, critic, steps=128)
    state = trainer.run.state_dict()
    state["device"], state["generator"] = "cuda", torch.zeros(16, dtype=torch.uint8)
    monkeypatch.setattr(trainer.run, "state_dict", lambda: state)
    trainer.save(tmp_path / "file")
    loaded = PPO.load(tmp_path / "file", gym.make("CartPole-v1"))
    loaded.train(loaded.actor, loaded.critic, steps=128)
    assert loaded.run.steps == 256


def test_a_compiled_network_is_looked_through():
    class Compiled(nn.Module):  # what torch.compile returns, without the compiler
        def __init__(self, module):
            super().__init__()
            self._orig_mod = module

        def forward(self, obs):
            return self._orig_mod(obs)

    env = gym.make("CartPole-v1")
    actor = agents.actor(env)
    assert agents.unwrap(nn.DataParallel(Compiled(actor))) is actor
    PPO(env, rollout_steps=128).train(Compiled(actor), agents.critic(env), steps=128)


def test_networks_of_another_environment_are_named():
    env = gym.make("Pendulum-v1")
    other = gym.make("CartPole-v1")
    with pytest.raises(ValueError, match=r"actor was made for .*\(4,\).*Pendulum-v1 has \(3,\)"):
        PPO(env).train(agents.actor(other), agents.critic(env), steps=128)
    with pytest.raises(ValueError, match=r"critic was made for"):
        PPO(env).train(agents.actor(env), agents.critic(other), steps=128)


def test_a_learning_rate_that_fell_to_zero_can_be_loaded(tmp_path):
    trainer, actor, critic = small(gym.make("CartPole-v1"))

    def anneal(trainer):
        trainer.learning_rate = 1e-3 * max(0, 1 - trainer.run.steps / 256)

    trainer.train(actor, critic, steps=256, callbacks=anneal)
    trainer.save(tmp_path / "file")
    assert PPO.load(tmp_path / "file", trainer.env).learning_rate == 0
    trainer.learning_rate = -1.0
    with pytest.raises(ValueError, match=r"learning_rate=-1.0; expected"):
        trainer.train(actor, critic, steps=128)


def test_an_actor_can_be_had_without_the_environment(tmp_path):
    env = gym.make("Pendulum-v1")
    trainer, actor, critic = small(env)
    trainer.train(actor, critic, steps=128)
    trainer.save(tmp_path / "file")
    obs = np.ones((2, 3))
    assert np.array_equal(agents.load(tmp_path / "file").act(obs), actor.act(obs))
    value = agents.load(tmp_path / "file", "critic")(torch.ones(2, 3))
    assert torch.equal(value, critic(torch.ones(2, 3)))
    with pytest.raises(ValueError, match=r"name='policy'; .*\['actor', 'critic'\]"):
        agents.load(tmp_path / "file", "policy")


def test_other_bounds_are_not_taken_for_the_same(tmp_path):
    trainer, actor, critic = small(gym.make("Pendulum-v1"))
    trainer.train(actor, critic, steps=128)
    trainer.save(tmp_path / "file")
    other = gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), -1.0, 1.0)
    with pytest.raises(ValueError, match="has others"):
        PPO.load(tmp_path / "file", other)


def test_what_was_loaded_is_taken_over_once(tmp_path):
    """Else a network that is moved to another device and back would meet the same chance again."""
    trainer, actor, critic = small(gym.make("CartPole-v1"))
    trainer.train(actor, critic, steps=128)
    trainer.save(tmp_path / "file")
    loaded = PPO.load(tmp_path / "file", gym.make("CartPole-v1"))
    loaded.train(loaded.actor, loaded.critic, steps=128)
    before = loaded.run.generator.get_state()
    loaded.run.generator = None  # as after a move: a new one is made for the device
    loaded.run.start(loaded.actor)
    saved = trainer.run.state_dict()["generator"]
    assert not torch.equal(loaded.run.generator.get_state(), saved)
    assert not torch.equal(saved, before)
