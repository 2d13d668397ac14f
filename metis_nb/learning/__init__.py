"""What every training loop needs and no paper mentions. Nothing here knows an algorithm.

A trainer owns one `Run` and uses it: `run` counts steps, calls callbacks and shows progress;
`history` has the rows of numbers; `saving` writes and reads files; `checks` refuses numbers out of
range; `replay` and `noise` are for those with a memory; `gradients` and `rollouts` are small parts.
"""

from metis_nb.learning.checks import (
    Count,
    Fraction,
    NonNegative,
    Positive,
    PositiveOrNone,
    check_fields,
    check_finite,
    check_numbers,
)
from metis_nb.learning.gradients import adam, gradient_step, set_learning_rate
from metis_nb.learning.history import EVERY_ROW, RECENT, History, described_metrics
from metis_nb.learning.noise import Noise
from metis_nb.learning.replay import (
    Batch,
    PrioritizedReplay,
    ReplayBuffer,
    check_memory_settings,
    memory_for,
    record,
)
from metis_nb.learning.rollouts import flatten, mean, stack
from metis_nb.learning.run import Callback, Run, State, Trainer, View, can_interrupt, in_notebook
from metis_nb.learning.saving import hyperparameters, load, save

__all__ = [
    "EVERY_ROW",
    "RECENT",
    "Batch",
    "Callback",
    "Count",
    "Fraction",
    "History",
    "Noise",
    "NonNegative",
    "Positive",
    "PositiveOrNone",
    "PrioritizedReplay",
    "ReplayBuffer",
    "Run",
    "State",
    "Trainer",
    "View",
    "adam",
    "can_interrupt",
    "check_fields",
    "check_finite",
    "check_memory_settings",
    "check_numbers",
    "described_metrics",
    "flatten",
    "gradient_step",
    "hyperparameters",
    "in_notebook",
    "load",
    "mean",
    "memory_for",
    "record",
    "save",
    "set_learning_rate",
    "stack",
]
