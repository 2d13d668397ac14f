"""Deep reinforcement learning to read, run and copy.

    env = gym.make("CartPole-v1")
    actor, critic = agents.actor(env), agents.critic(env)
    trainer = PPO(env)
    trainer.train(actor, critic)
    play(env, actor)

Here two wings meet. The learning wing (trainers, agents, envs, learning) is imported at once. What
is for pages, the notebook wing, is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
import random
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from metis_nb import agents, callbacks, envs, learning
from metis_nb.evaluate import evaluate
from metis_nb.learning import PrioritizedReplay, ReplayBuffer
from metis_nb.learning import run as _run
from metis_nb.lessons import exact, probes
from metis_nb.notebook import seeds as _seeds
from metis_nb.trainers import A2C, DDPG, DDQN, DQN, PPO, SAC, TD3, VPG

if TYPE_CHECKING:  # what `__getattr__` finds
    from metis_nb.notebook import plots
    from metis_nb.notebook.panels import panel, predict
    from metis_nb.notebook.player import play
    from metis_nb.notebook.source import diff, show
    from metis_nb.notebook.training_view import live_plot

__version__ = "0.1.0"
__all__ = [
    "A2C",
    "DDPG",
    "DDQN",
    "DQN",
    "PPO",
    "SAC",
    "TD3",
    "VPG",
    "PrioritizedReplay",
    "ReplayBuffer",
    "agents",
    "callbacks",
    "device",
    "diff",
    "envs",
    "evaluate",
    "exact",
    "learning",
    "live_plot",
    "panel",
    "play",
    "plots",
    "predict",
    "probes",
    "seed",
    "show",
]

# name: the module of the notebook wing that has it.
_FOR_PAGES = {
    "diff": "source",
    "live_plot": "training_view",
    "panel": "panels",
    "play": "player",
    "plots": "plots",
    "predict": "panels",
    "show": "source",
}


def __getattr__(name: str) -> Any:
    if name not in _FOR_PAGES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    file = _FOR_PAGES[name]
    try:
        module = importlib.import_module(f"metis_nb.notebook.{file}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("metis_nb"):
            raise
        raise ImportError(
            f"metis_nb.{name} is for notebooks and needs {error.name}, which is not installed. "
            f'Please install the extra: pip install "metis_nb[notebook]".'
        ) from error
    found = module if name == file else getattr(module, name)
    globals()[name] = found  # asked for once
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _training_view() -> learning.View | None:
    """What `train` shows in a page; None outside of one, or where the extra is not installed."""
    if not learning.in_notebook():
        return None
    try:
        return __getattr__("live_plot")()
    except ImportError:
        return None


_run.make_view = _training_view
callbacks.elsewhere["live_plot"] = lambda: __getattr__("live_plot")
envs.probes = probes  # type: ignore[attr-defined]
# Where these were in version 0.1, as notebooks of readers may still say.
spaces, replay, noise, training = envs.spaces, learning.replay, learning.noise, learning
for _name in ("spaces", "replay", "noise", "training"):
    sys.modules[f"metis_nb.{_name}"] = globals()[_name]


def device() -> torch.device:
    """The fastest device there is: "cuda" (NVIDIA, AMD), else "mps" (Apple), else "cpu"."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def seed(number: int) -> None:
    """Seed the global generators of Python, NumPy and torch, and the one of `play`: from them come
    the first weights of the networks, and the seeds of trainers and episodes made without one."""
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
    _seeds.generator.seed(number)
