"""Golden curves: where short trainings end, to the last bit, so that code can be moved safely.

    python tests/golden.py            print what the trainings end in, as JSON
    python tests/golden.py --renew    write it to tests/golden.json

A change that moves them on purpose renews them in a commit of its own that says why. "To the last
bit" holds on machines and versions of which the file has a record. Sums of floats depend on both,
so elsewhere the same trainings are compared by their `summary`, within a tolerance.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).with_name("golden.json")
# Of the kernels that these libraries have, the one that every x86 processor can run.
PORTABLE = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
MAKERS = ("GenuineIntel", "AuthenticAMD")
STEPS = 1_500
# Small enough for several updates in so few steps.
ON_POLICY = {"VPG": {"batch_steps": 300}, "A2C": {"rollout_steps": 100}}
ON_POLICY |= {"PPO": {"rollout_steps": 500, "epochs": 3, "minibatch_size": 128}}
REPLAY = {"learning_starts": 200, "updates_per_step": 0.05, "collect_steps": 20, "batch_size": 32}
VALUES = {"decay_steps": 500, "epsilon_steps": 1_000, "target_interval": 300}


def trainings() -> dict[str, list]:
    """name: [trainer, its networks] for each kind of action and number of environments, trained."""
    import gymnasium as gym

    import metis_nb
    from metis_nb import agents, envs

    trained = {}
    for name in ("VPG", "A2C", "PPO", "DQN", "DDQN", "DDPG", "TD3", "SAC"):
        for task in ("CartPole-v1", "Pendulum-v1"):
            discrete = task == "CartPole-v1"
            if discrete and name in ("DDPG", "TD3"):
                continue
            for count in (1, 4):
                metis_nb.seed(1)
                env = gym.make(task) if count == 1 else envs.make(task, num_envs=count)
                if name in ("DQN", "DDQN"):
                    networks = agents.q_network(env if discrete else envs.DiscretizeAction(env))
                    env, networks = env if discrete else envs.DiscretizeAction(env), [networks]
                elif name == "VPG":
                    networks = [agents.actor(env)]
                elif name in ("A2C", "PPO"):
                    networks = [agents.actor(env), agents.critic(env)]
                elif name == "DDPG":
                    networks = [agents.actor(env, deterministic=True), agents.q_critic(env)]
                else:
                    option = {"TD3": {"deterministic": True}, "SAC": {"squashed": not discrete}}
                    critic = agents.q_network if discrete else agents.q_critic
                    networks = [agents.actor(env, **option[name]), [critic(env), critic(env)]]
                settings = ON_POLICY.get(name, REPLAY) | (VALUES if name in ("DQN", "DDQN") else {})
                trainer = getattr(metis_nb, name)(env, seed=2, **settings)
                trainer.train(*networks, steps=STEPS, progress=False)
                trained[f"{name}, {task}, {count}"] = [trainer, networks]
    return trained


def results() -> dict[str, dict]:
    """name: {"sha256": of all weights and episodes, "summary": of the weights of each network}."""
    import torch

    found = {}
    for name, (trainer, networks) in trainings().items():
        flat = [net for each in networks for net in (each if isinstance(each, list) else [each])]
        digest, summary = hashlib.sha256(), []
        for network in flat:
            for tensor in network.state_dict().values():
                digest.update(tensor.contiguous().numpy().tobytes())
            weights = torch.cat(
                [parameter.detach().flatten() for parameter in network.parameters()]
            )
            pattern = torch.linspace(-1, 1, len(weights))  # so that order counts
            summary += [float(weights.norm()), float(weights @ pattern)]
        digest.update(json.dumps(trainer.history.episodes).encode())
        found[name] = {"sha256": digest.hexdigest(), "summary": [round(v, 6) for v in summary]}
    return found


def machine() -> str:
    """What the last bit depends on: versions, system, and the processor's vector instructions."""
    import gymnasium
    import numpy
    import torch

    vectors = [name for name in (*MAKERS, "avx2", "avx512f") if name in processor()]
    versions = [f"torch {torch.__version__}", f"numpy {numpy.__version__}"]
    versions += [f"gymnasium {gymnasium.__version__}", f"Python {platform.python_version()[:4]}"]
    return ", ".join([platform.system(), platform.machine(), *vectors, *versions])


def processor() -> set[str]:
    """The processor's instruction sets and maker, where the system tells (Linux)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    told = [line.partition(":")[2] for line in lines if line.startswith(("flags", "vendor_id"))]
    return set(" ".join(told[:2]).split())


def run() -> dict:
    """The results of this machine, from a process of its own with portable kernels."""
    command = [sys.executable, str(Path(__file__).resolve())]
    root = str(Path(__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, **PORTABLE, "PYTHONPATH": os.pathsep.join(paths)}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


if __name__ == "__main__":
    if sys.argv[1:] == ["--renew"]:
        new = run()
        known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
        summary = {name: each["summary"] for name, each in new["results"].items()}
        # Once the trainings have moved, what other machines had is of no more use.
        machines = known["machines"] if known.get("summary") == summary else {}
        machines[new["machine"]] = {name: each["sha256"] for name, each in new["results"].items()}
        text = json.dumps({"machines": machines, "summary": summary}, indent=1)
        FILE.write_text(text + "\n", encoding="utf-8")
    else:
        print(json.dumps({"machine": machine(), "results": results()}))
