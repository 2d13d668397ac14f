"""How far are our updates from lean loops? CPU milliseconds of a gradient step.

    python benchmarks/lean_loops.py --save

A lean loop does the arithmetic of an algorithm and nothing else: networks of the same size, the
same batches, gradient clipping, fused Adam, Polyak averages; no statistics, no checks, no numbers
to watch, no memory that grows, targets over one reward. Ours and the lean one take turns, on one
thread. What counts is the ratio. VPG and A2C make a single gradient step of each batch, and ours
then asks the new policy once more how far it has moved.
"""

import argparse
import copy
import math
import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"  # before torch

import tables
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

import metis_nb
from metis_nb import A2C, DDPG, DDQN, DQN, PPO, SAC, TD3, VPG, agents, envs

GAMMA, TAU = 0.99, 0.02
Step = Callable[[], object]


# --- lean loops: each function makes one gradient step, to be repeated ----------------------------


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    layers = [nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(64, outputs))


def adam(*networks: nn.Module) -> tuple[torch.optim.Adam, list[nn.Parameter]]:
    parameters = [p for network in networks for p in network.parameters()]
    return torch.optim.Adam(parameters, 1e-3, fused=True), parameters


def descend(loss: Tensor, optimizer: torch.optim.Adam, parameters: list, norm: float) -> None:
    optimizer.zero_grad()
    loss.backward(inputs=parameters)
    clip_grad_norm_(parameters, norm)
    optimizer.step()


class Memory:
    """20,000 random transitions of Pendulum (3 numbers, a torque) or CartPole (4, an index)."""

    def __init__(self, obs: int, discrete: bool, batch_size: int = 128):
        n, self.batch_size = 20_000, batch_size
        self.obs, self.next_obs = torch.randn(n, obs), torch.randn(n, obs)
        self.action = torch.randint(2, (n, 1)) if discrete else torch.rand(n, 1) * 2 - 1
        self.reward, self.terminated = torch.randn(n), torch.zeros(n)

    def sample(self) -> list[Tensor]:
        i = torch.randint(len(self.reward), (self.batch_size,))
        return [x[i] for x in (self.obs, self.action, self.reward, self.next_obs, self.terminated)]


def lean_dqn(double: bool = False) -> Step:
    network, memory = mlp(4, 2), Memory(4, discrete=True)
    target, (optimizer, parameters) = copy.deepcopy(network), adam(network)

    def step() -> None:
        obs, action, reward, next_obs, terminated = memory.sample()
        with torch.no_grad():
            chooses = network if double else target
            best = chooses(next_obs).argmax(1, keepdim=True)
            y = reward + GAMMA * (1 - terminated) * target(next_obs).gather(1, best)[:, 0]
        loss = F.huber_loss(network(obs).gather(1, action)[:, 0], y)
        descend(loss, optimizer, parameters, 10.0)

    def plain() -> None:
        obs, action, reward, next_obs, terminated = memory.sample()
        with torch.no_grad():
            y = reward + GAMMA * (1 - terminated) * target(next_obs).max(1).values
        loss = F.huber_loss(network(obs).gather(1, action)[:, 0], y)
        descend(loss, optimizer, parameters, 10.0)

    return step if double else plain


def lean_deterministic(critics: int) -> Step:
    """DDPG with one critic; with two, TD3, whose actor and targets move every second step."""
    actor, memory = mlp(3, 1), Memory(3, discrete=False)
    qs = [mlp(4, 1) for _ in range(critics)]
    targets = [copy.deepcopy(net) for net in (actor, *qs)]
    (actor_adam, actor_parameters), (q_adam, q_parameters) = adam(actor), adam(*qs)
    moved = [p for net in targets for p in net.parameters()]
    count = 0

    def step() -> None:
        nonlocal count
        obs, action, reward, next_obs, terminated = memory.sample()
        with torch.no_grad():
            next_action = targets[0](next_obs).tanh()
            if critics == 2:
                noise = (0.2 * torch.randn_like(next_action)).clamp(-0.5, 0.5)
                next_action = (next_action + noise).clamp(-1, 1)
            x = torch.cat([next_obs, next_action], 1)
            lowest = torch.cat([q(x) for q in targets[1:]], 1).min(1).values
            y = reward + GAMMA * (1 - terminated) * lowest
        x = torch.cat([obs, action], 1)
        loss = sum(F.mse_loss(q(x)[:, 0], y) for q in qs)
        descend(loss, q_adam, q_parameters, 10.0)
        count += 1
        if count % critics == 0:
            loss = -qs[0](torch.cat([obs, actor(obs).tanh()], 1)).mean()
            descend(loss, actor_adam, actor_parameters, 10.0)
            with torch.no_grad():
                torch._foreach_lerp_(moved, [*actor_parameters, *q_parameters], TAU)

    return step


def lean_sac() -> Step:
    actor, memory = mlp(3, 2), Memory(3, discrete=False)
    qs = [mlp(4, 1) for _ in range(2)]
    targets = [copy.deepcopy(q) for q in qs]
    log_alpha = torch.zeros(1, requires_grad=True)
    (actor_adam, actor_parameters), (q_adam, q_parameters) = adam(actor), adam(*qs)
    alpha_adam = torch.optim.Adam([log_alpha], 1e-3, fused=True)
    moved = [p for q in targets for p in q.parameters()]

    def draw(obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = actor(obs).chunk(2, -1)
        log_std = log_std.clamp(-5, 2)
        noise = torch.randn_like(mean)
        u = mean + log_std.exp() * noise
        normal = -0.5 * noise * noise - log_std - 0.5 * math.log(2 * math.pi)
        return u.tanh(), (normal - 2 * (math.log(2) - u - F.softplus(-2 * u))).sum(-1)

    def step() -> None:
        obs, action, reward, next_obs, terminated = memory.sample()
        alpha = log_alpha.detach().exp()
        with torch.no_grad():
            next_action, log_prob = draw(next_obs)
            x = torch.cat([next_obs, next_action], 1)
            lowest = torch.min(*(q(x) for q in targets))[:, 0]
            y = reward + GAMMA * (1 - terminated) * (lowest - alpha * log_prob)
        x = torch.cat([obs, action], 1)
        loss = F.mse_loss(qs[0](x)[:, 0], y) + F.mse_loss(qs[1](x)[:, 0], y)
        descend(loss, q_adam, q_parameters, 10.0)
        new, log_prob = draw(obs)
        x = torch.cat([obs, new], 1)
        loss = (alpha * log_prob - torch.min(*(q(x) for q in qs))[:, 0]).mean()
        descend(loss, actor_adam, actor_parameters, 10.0)
        loss = (-log_alpha * (log_prob.detach() - 1)).mean()
        alpha_adam.zero_grad()
        loss.backward()
        alpha_adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(moved, q_parameters, TAU)

    return step


def lean_on_policy(batch: int, clipped: bool, with_critic: bool) -> Step:
    """PPO's minibatch; without the clipped ratio A2C's step; without a critic VPG's."""
    actor, critic = mlp(4, 2), mlp(4, 1)
    optimizer, parameters = adam(*([actor, critic] if with_critic else [actor]))
    obs, action = torch.randn(2048, 4), torch.randint(2, (2048, 1))
    old, advantage, target = torch.full((2048,), -0.69), torch.randn(2048), torch.randn(2048)

    def step() -> None:
        i = torch.randperm(2048)[:batch] if clipped else slice(batch)
        seen, weight = obs[i], advantage[i]
        log_prob = F.log_softmax(actor(seen), -1).gather(1, action[i])[:, 0]
        if clipped:
            ratio = (log_prob - old[i]).exp()
            loss = -torch.min(ratio * weight, ratio.clamp(0.8, 1.2) * weight).mean()
        else:
            loss = -(log_prob * weight).mean()
        if with_critic:
            loss = loss + 0.5 * (critic(seen)[:, 0] - target[i]).square().mean()
        descend(loss, optimizer, parameters, 0.5)

    return step


LEAN: dict[str, Callable[[], Step]] = {
    "VPG": lambda: lean_on_policy(2048, clipped=False, with_critic=False),
    "A2C": lambda: lean_on_policy(256, clipped=False, with_critic=True),
    "PPO": lambda: lean_on_policy(512, clipped=True, with_critic=True),
    "DQN": lean_dqn,
    "DDQN": lambda: lean_dqn(double=True),
    "DDPG": lambda: lean_deterministic(1),
    "TD3": lambda: lean_deterministic(2),
    "SAC": lean_sac,
}


# --- ours -----------------------------------------------------------------------------------------


def ours(name: str) -> tuple[Step, int, Step | None]:
    """One call of `update`, how many gradient steps it makes, and for PPO one rollout."""
    metis_nb.seed(0)
    discrete = name not in ("DDPG", "TD3", "SAC")
    env = envs.make("CartPole-v1" if discrete else "Pendulum-v1", num_envs=16)
    if name in ("VPG", "A2C", "PPO"):
        actor = agents.actor(env)
        networks = [actor] if name == "VPG" else [actor, agents.critic(env)]
        trainer = {"VPG": VPG, "A2C": A2C, "PPO": PPO}[name](env, seed=0)
        trainer.train(*networks, steps=2_000, progress=False)
        rollout = trainer.collect(actor)
        if name == "VPG":
            weight = trainer.weights(rollout)
            return lambda: trainer.update(actor, rollout, weight), 1, None
        rest = trainer.advantages(networks[1], rollout)
        steps = trainer.epochs * round(2048 / trainer.minibatch_size) if name == "PPO" else 1
        update = lambda: trainer.update(*networks, rollout, *rest)  # noqa: E731
        return update, steps, (lambda: trainer.collect(actor)) if name == "PPO" else None
    if discrete:
        networks = [agents.q_network(env)]
        trainer = {"DQN": DQN, "DDQN": DDQN}[name](env, seed=0)
    else:
        option = {"squashed" if name == "SAC" else "deterministic": True}
        critics = [agents.q_critic(env), agents.q_critic(env)]
        networks = [agents.actor(env, **option), critics[0] if name == "DDPG" else critics]
        trainer = {"DDPG": DDPG, "TD3": TD3, "SAC": SAC}[name](env, seed=0)
    trainer.train(*networks, steps=3_000, progress=False)
    if name != "TD3":
        return lambda: trainer.update(*networks, trainer.sample()), 1, None

    def twice() -> None:
        for delayed in (False, True):
            trainer.update(*networks, trainer.sample(), delayed=delayed)

    return twice, 2, None


def cpu_ms(step: Step, count: int) -> float:
    """CPU milliseconds of one call."""
    begin = time.process_time()
    for _ in range(count):
        step()
    return (time.process_time() - begin) / count * 1e3


def measure(name: str) -> dict:
    """One row: both, right after one another, several times."""
    lean, (mine, gradient_steps, collect) = LEAN[name](), ours(name)
    count = max(5, 200 // gradient_steps)
    cpu_ms(lean, 50), cpu_ms(mine, 5)  # to warm up
    pairs = [
        (cpu_ms(lean, 200), cpu_ms(mine, count) / gradient_steps, collect and cpu_ms(collect, 3))
        for _ in range(3)
    ]
    row = {"algorithm": name, "lean_ms": statistics.median(pair[0] for pair in pairs)}
    row["ours_ms"] = statistics.median(pair[1] for pair in pairs)
    row["ratio"] = statistics.median(pair[1] / pair[0] for pair in pairs)
    if collect:
        row["collect_us"] = statistics.median(pair[2] for pair in pairs) / 2048 * 1e3
    return {key: value if isinstance(value, str) else round(value, 4) for key, value in row.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--algorithms", nargs="+", choices=LEAN, default=list(LEAN))
    parser.add_argument("--save", action="store_true", help="to benchmarks/results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for _ in range(options.rounds):  # contenders take turns
        rows += [measure(name) for name in options.algorithms]
    if options.save:
        tables.save("lean_loops", rows, f"torch {torch.__version__}, one thread")
    print(tables.lean_loops(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
