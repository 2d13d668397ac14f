"""What the training view costs: its part of the time of a training, in a notebook's kernel.

    python benchmarks/live_plot.py

PPO learns CartPole for 80,000 steps in a kernel of its own, with the view that `train` shows there
by itself. The time of its pictures is taken inside `live_plot`: processor time of the process,
hence also of the thread that sends them. The last picture, drawn by matplotlib when training is
over, is counted apart. What the page does with the pictures is not in it.
"""

import argparse
import json
import os
import statistics
from typing import Any

import nbformat
import tables
from nbclient import NotebookClient

STEPS = 80_000
CELL = """
import json, time
import gymnasium as gym
import torch
import metis_nb
from metis_nb import PPO, agents, callbacks, envs

metis_nb.seed({seed})
spent = {{"open": [], "__call__": [], "close": []}}


class Watched(callbacks.live_plot):
    pass


def watch(name):
    method = getattr(callbacks.live_plot, name)

    def measured(self, *args):
        begin, due = time.process_time(), getattr(self, "due", None)
        method(self, *args)
        if name != "__call__" or self.due != due:  # it has drawn
            spent[name].append(time.process_time() - begin)

    setattr(Watched, name, measured)


for name in spent:
    watch(name)
env = gym.make("CartPole-v1") if {num_envs} == 1 else envs.make("CartPole-v1", num_envs={num_envs})
trainer = PPO(env, seed={seed})
actor, critic = agents.actor(env), agents.critic(env)
begin = time.process_time()
trainer.train(actor, critic, {steps}, callbacks=Watched())
total = time.process_time() - begin
print(json.dumps({{"total": total, "seconds": trainer.run.seconds, **spent}}))
"""


def measure(seed: int, num_envs: int) -> dict[str, Any]:
    """One training in a kernel of its own; times in seconds."""
    source = CELL.format(seed=seed, num_envs=num_envs, steps=STEPS)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    env = {name: value for name, value in os.environ.items() if name != "METIS_NB_STATIC"}
    client = NotebookClient(notebook, timeout=600, kernel_name="python3")
    client.execute(env=env | {"OMP_NUM_THREADS": "1"})
    printed = "".join(o.text for o in notebook.cells[0].outputs if o.get("name") == "stdout")
    return json.loads(printed.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description="What the training view costs.")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each kind")
    parser.add_argument("--save", action="store_true", help="to benchmarks/results/")
    options = parser.parse_args()
    rows = []
    for num_envs in (1, 16):
        for seed in range(options.seeds):
            result = measure(seed, num_envs)
            live, last = [*result["open"], *result["__call__"]], sum(result["close"])
            training = result["total"] - sum(live) - last
            name = "one environment" if num_envs == 1 else f"{num_envs} environments"
            rows.append(
                {
                    "trained_on": name,
                    "seed": seed,
                    "cpu_seconds": round(result["total"], 2),
                    "pictures": len(live),
                    "ms_each": round(1000 * statistics.median(live[1:] or live), 2),
                    "share": round(sum(live) / training, 5),
                    "last_seconds": round(last, 3),
                }
            )
    if options.save:
        tables.save("live_plot", rows, "")
    print(tables.live_plot(rows))


if __name__ == "__main__":
    main()
