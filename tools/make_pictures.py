"""The pictures of the README, made by the code that they show: about a minute on two CPU cores.

python tools/make_pictures.py
"""

import copy
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

import metis_nb
from metis_nb import PPO, agents, envs, evaluate, play, plots

DOCS = Path(__file__).resolve().parents[1] / "docs"
TASKS = {"CartPole-v1": (475, 100_000), "Pendulum-v1": (-250, 150_000)}


def main() -> None:
    DOCS.mkdir(exist_ok=True)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    for ax, (name, (solved, steps)) in zip(axes, TASKS.items(), strict=True):
        metis_nb.seed(0)
        env = envs.make(name, num_envs=16)
        actor, critic = agents.actor(env), agents.critic(env)
        untrained = copy.deepcopy(actor)
        history = PPO(env, seed=0).train(actor, critic, steps=steps)
        plots.learning_curve(history, solved=solved, ax=ax)
        seconds = history[-1]["seconds"]
        ax.set_title(f"PPO, {name}: {seconds:.0f} seconds, one CPU core", fontsize=11)
        print(f"{name}: mean return of 100 greedy episodes {evaluate(env, actor).mean():.1f}")
    figure.savefig(DOCS / "learning_curves.png", dpi=90)
    both = play(env, {"before training": untrained, "after": actor}, seed=0)
    print(both)
    both.save(DOCS / "pendulum.gif")
    plots.algorithms().savefig(DOCS / "algorithms.png", dpi=80)


if __name__ == "__main__":
    main()
