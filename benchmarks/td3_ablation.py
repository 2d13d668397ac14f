"""What does each of TD3's three parts do? All eight combinations of them on Pendulum-v1.

    python benchmarks/td3_ablation.py --jobs 2

Twin critics (the lower of two in the target), delay (of the actor and the targets) and smoothing
(noise on the target's action), each on or off; with all of them off it is DDPG. Now and then
the critic is held against the exact values of the current actor, at states from its memory. The
results go to the file that notebook 07 reads. A run that is in the file is not run again: delete
the file after a change of the code.
"""

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: each process has one core

import torch
from torch import Tensor, nn
from tqdm import tqdm

import metis_nb
from metis_nb import TD3, agents, envs, evaluate, exact
from metis_nb.agents import action_value
from metis_nb.learning.replay import Batch

OUT = Path(metis_nb.__file__).parent / "data" / "td3_ablation.json"
STEPS, EVERY = 15_000, 1_500


class OneCritic(TD3):
    """Without twins: the target comes from the first critic alone."""

    @torch.no_grad()
    def td_target(
        self, target_actor: nn.Module, target_critics: nn.ModuleList, batch: Batch
    ) -> Tensor:
        next_action = self.next_action(target_actor, batch.next_obs)
        next_value = action_value(target_critics[0], batch.next_obs, next_action)
        return batch.reward + batch.discount * next_value * ~batch.terminated


def run(twins: bool, delay: bool, smoothing: bool, seed: int) -> dict:
    """One training, its critic beside the truth as it goes, and what came of it."""
    metis_nb.seed(seed)
    env = envs.make("Pendulum-v1", num_envs=16)
    actor = agents.actor(env, deterministic=True)
    critics = agents.q_critic(env), agents.q_critic(env)
    trainer = (TD3 if twins else OneCritic)(
        env, seed=seed, policy_delay=2 if delay else 1, target_noise=0.2 if smoothing else 0.0
    )
    world = exact.Pendulum()
    rows = []

    def look(trainer: TD3) -> None:
        if trainer.run.steps < EVERY * (len(rows) + 1):
            return
        generator = torch.Generator().manual_seed(0)
        obs = trainer.memory.sample(2_000, generator=generator).obs
        with torch.no_grad():
            said = critics[0](obs, actor(obs))
        bias = said.numpy() - world.policy_values(actor).v_at(obs)
        rows.append(
            {
                "steps": trainer.run.steps,
                "return": round(float(evaluate(env, actor, episodes=20, seed=1).mean()), 1),
                "bias": round(float(bias.mean()), 2),  # discounted reward
                "impossible": round(float((said > 0).float().mean()), 4),  # share of states
            }
        )

    begin = time.process_time()
    # Whole rounds: the last look is at the end.
    trainer.train(actor, critics, steps=STEPS, callbacks=look, progress=False)
    return {
        "twins": twins,
        "delay": delay,
        "smoothing": smoothing,
        "seed": seed,
        "return": round(float(evaluate(env, actor, episodes=100).mean()), 1),
        "cpu_seconds": round(time.process_time() - begin, 1),
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. N-1 (default 3)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once, a core for each")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    results = json.loads(options.out.read_text()) if options.out.exists() else []
    names = ("twins", "delay", "smoothing", "seed")
    done = {tuple(result[name] for name in names) for result in results}
    wanted = product((True, False), (True, False), (True, False), range(options.seeds))
    options.out.parent.mkdir(exist_ok=True)
    with ProcessPoolExecutor(options.jobs) as pool:
        futures = [pool.submit(run, *what) for what in wanted if what not in done]
        try:
            for future in tqdm(as_completed(futures), total=len(futures), unit=" runs"):
                results.append(future.result())
                results.sort(key=lambda result: [result[name] for name in names], reverse=True)
                lines = ",\n".join(json.dumps(result) for result in results)
                options.out.write_text(f"[\n{lines}\n]\n")
        finally:  # after an error or Ctrl-C, start no more runs, which nobody would write down
            pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    main()
