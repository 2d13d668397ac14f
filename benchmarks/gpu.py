"""When does a GPU pay? Seconds of training on the processor and on the GPU, for two sizes.

    python benchmarks/gpu.py --save

With our defaults (two layers of 64), and with two layers of 1,024 and batches of 1,024: wall-clock
time of so many environment steps after a warm-up, everything else the same, the two taking turns.
"""

import argparse
import time
from importlib.metadata import version

import tables
import torch
from seeds import TRAINERS
from tqdm import tqdm

import metis_nb
from metis_nb import agents, envs

ON = {"VPG": "CartPole-v1", "A2C": "CartPole-v1", "PPO": "CartPole-v1"}
ON |= {"DQN": "CartPole-v1", "DDQN": "CartPole-v1"}
ON |= {"DDPG": "Pendulum-v1", "TD3": "Pendulum-v1", "SAC": "Pendulum-v1"}
SMALL, WIDE = "64 wide", "1,024 wide"
# Steps to warm up, and steps that count. Those with a memory learn from it after 1,000 steps, and
# PPO's rollouts hold 2,048.
STEPS = {SMALL: (4_000, 4_000), WIDE: (1_300, 700)}
BATCHES = dict.fromkeys(("DQN", "DDQN", "DDPG", "TD3", "SAC"), "batch_size")
BATCHES |= {"PPO": "minibatch_size"}


def milliseconds(name: str, size: str, device: torch.device) -> float:
    """Of wall-clock time for each environment step, updates included."""
    metis_nb.seed(0)
    env = envs.make(ON[name], num_envs=16)
    wide = size == WIDE
    layers = dict(hidden_sizes=(1024, 1024)) if wide else {}
    if name in ("DQN", "DDQN"):
        networks = [agents.q_network(env, **layers)]
    elif name in ("DDPG", "TD3", "SAC"):
        kind = dict(squashed=True) if name == "SAC" else dict(deterministic=True)
        networks = [agents.actor(env, **kind, **layers)]
        networks += [agents.q_critic(env, **layers) for _ in range(1 if name == "DDPG" else 2)]
    else:
        networks = [agents.actor(env, **layers), agents.critic(env, **layers)]
    for network in networks:
        network.to(device)
    given = [networks[0], networks[1:]] if name in ("TD3", "SAC") else networks
    sizes = {BATCHES[name]: 1024} if wide and name in BATCHES else {}
    trainer = TRAINERS[name](env, seed=0, **sizes)
    warm_up, counted = STEPS[size]
    trainer.train(*given[: 1 if name == "VPG" else None], warm_up, progress=False)
    begin, before = time.perf_counter(), trainer.run.steps
    trainer.train(*given[: 1 if name == "VPG" else None], counted, progress=False)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / (trainer.run.steps - before) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="runs each (default 3)")
    parser.add_argument("--algorithms", nargs="+", choices=TRAINERS, default=list(TRAINERS))
    parser.add_argument("--save", action="store_true", help="to benchmarks/results/")
    options = parser.parse_args()
    gpu = metis_nb.device()
    if gpu.type == "cpu":
        raise SystemExit("torch finds no GPU on this machine.")
    rows = []
    for name in tqdm(options.algorithms, unit=" algorithms"):
        for size in STEPS:
            for repeat in range(options.repeats):
                one, other = (
                    round(milliseconds(name, size, device), 4)
                    for device in (torch.device("cpu"), gpu)
                )
                row = {"algorithm": name, "networks": size, "repeat": repeat}
                rows.append(row | {"processor_ms": one, "gpu_ms": other})
    if options.save:
        what = torch.cuda.get_device_name() if gpu.type == "cuda" else gpu.type
        threads = f"{torch.get_num_threads()} threads of the processor"
        tables.save("gpu", rows, f"{what}, {threads}, torch {version('torch')}")
    print(tables.gpu(rows))


if __name__ == "__main__":
    main()
