"""What every training loop needs and no paper mentions.

A trainer owns one `Run` and uses it: counts of steps, the view of its environment, its random
generator, the history, the progress bar, callbacks, interruption, saving and loading. Nothing here
knows an algorithm.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from metis_nb import agents, checkpoint
from metis_nb.envs import TensorView
from metis_nb.spaces import Environment, name_of, single_spaces

# A callback is any function of the trainer, called after every update. Returning True stops.
Callback = Callable[[Any], bool | None]
# Episodes behind "the return" at a moment: one number everywhere, in history, plots and callbacks.
RECENT = 20

Optimizers = dict[str, torch.optim.Optimizer]
T = TypeVar("T")


class History(list):
    """One row (a dict of numbers) for every update, in order. `history["return"]` is a column.

    Every row has `steps` (environment steps so far), `seconds` (of training so far), `episodes`
    (ended so far) and, once an episode has ended, `return` and `length`: means over the last 20
    episodes. The rest are the trainer's own diagnostics.

    `episodes` holds one (steps, return, length) for every finished episode.
    """

    def __init__(self, rows: Sequence[dict[str, float]] = ()):
        super().__init__(rows)
        self.episodes: list[tuple[int, float, int]] = []

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return super().__getitem__(key)
        if self and not any(key in row for row in self):
            names = ", ".join(dict.fromkeys(name for row in self for name in row))
            raise KeyError(f"no column {key!r} in the history; it has {names}")
        return np.array([row.get(key, math.nan) for row in self])

    def __repr__(self) -> str:
        if not self:
            return "<History: no updates yet>"
        row = self[-1]
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in row.items())
        return f"<History of {len(self)} updates; the last: {numbers}>"


class Run:
    """The bookkeeping of one trainer.

    Args:
        env: what to train on; its spaces are checked here.
        seed: of everything random in the training. None draws one from torch's global generator,
            so that `metis_nb.seed` decides it.
    """

    def __init__(self, env: Environment, seed: int | None):
        single_spaces(env)
        if seed is not None and (not isinstance(seed, int) or seed < 0):
            raise ValueError(f"seed={seed!r}; expected None or a whole number, 0 or more.")
        self.env, self.seed = env, seed
        self.networks: dict[str, nn.Module] = {}
        self.optimizers: Optimizers = {}
        self._clear()

    def _clear(self) -> None:
        self.view: TensorView | None = None
        self.generator = torch.Generator()
        self.history = History()
        self.seconds = 0.0
        self.stopped = False
        self._return = np.zeros(0)
        self._length = np.zeros(0, dtype=np.int64)
        self._loaded: dict[str, Any] = {}  # waits until the networks' device is known

    @property
    def steps(self) -> int:
        """Environment steps so far; those that only reset a sub-environment do not count."""
        return self.view.steps if self.view is not None else self._loaded.get("steps", 0)

    # --- networks ---------------------------------------------------------------------------

    def bind(self, make_optimizers: Callable[[], Optimizers], **networks: nn.Module) -> Optimizers:
        """Make `networks` the ones that this run trains. Others than before start a new run.

        Returns their optimizers, made by `make_optimizers` where the networks are new.
        """
        for name, network in networks.items():
            if not isinstance(network, nn.Module):
                raise TypeError(
                    f"{name} is a {type(network).__name__}; expected a torch.nn.Module, such as "
                    f"agents.{name}(env)."
                )
        devices = {name: str(agents.device_of(network)) for name, network in networks.items()}
        if len(set(devices.values())) > 1:
            where = ", ".join(f"{name} is on {device}" for name, device in devices.items())
            raise ValueError(f"{where}; expected one device. Move them: {name}.to(device).")
        if self.networks.keys() == networks.keys() and all(
            self.networks[name] is network for name, network in networks.items()
        ):
            return self.optimizers
        if self.networks:
            self._clear()
        self.networks = networks
        self.optimizers = make_optimizers()
        return self.optimizers

    def start(self, network: nn.Module) -> TensorView:
        """The view of the environment on the network's device, with episodes under way."""
        device = agents.device_of(network)
        if self.view is None or self.view.device != device:
            self._open(device)
        assert self.view is not None
        if not self.view.running:
            self.view.reset()
            self._return = np.zeros(self.view.num_envs)
            self._length = np.zeros(self.view.num_envs, dtype=np.int64)
        return self.view

    def _open(self, device: torch.device) -> None:
        if self.seed is None:
            self.seed = int(torch.randint(2**31, ()))
        state = self._loaded if self.view is None else self.view.state_dict()
        self.view = TensorView(self.env, device, self.seed)
        if state and not self.view.load_state_dict(state):
            warnings.warn(
                f"The state of {name_of(self.env)} cannot be taken over: training goes on with "
                f"new episodes.",
                stacklevel=4,
            )
        if self.generator.device != device or not state:
            self.generator = torch.Generator(device).manual_seed(self.seed + self.view.steps)
        for optimizer in self.optimizers.values():
            optimizer.load_state_dict(optimizer.state_dict())  # moves its state to the device

    # --- one training -----------------------------------------------------------------------

    @contextlib.contextmanager
    def training(
        self,
        trainer: Any,
        steps: int,
        callbacks: Sequence[Callback] | Callback = (),
        progress: bool = True,
    ) -> Iterator[Run]:
        """Everything around the loop `while run.unfinished: ... run.log(...)`.

        A first interrupt (Ctrl-C, the stop button) ends the loop after the update under way, as
        if it had run out of steps; a second one raises KeyboardInterrupt at once.
        """
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps={steps!r}; expected a whole number above 0, such as 100_000.")
        callbacks = [callbacks] if callable(callbacks) else list(callbacks)
        for callback in callbacks:
            if not callable(callback):
                raise TypeError(
                    f"callbacks holds a {type(callback).__name__}; expected functions of the "
                    f"trainer, such as lambda trainer: trainer.history[-1]['return'] > 475."
                )
        self._trainer, self._callbacks = trainer, callbacks
        self._goal, self.stopped = self.steps + steps, False
        self._clock = time.perf_counter()
        threads = _one_thread(self.networks.values())
        bar = _progress_bar(self.steps, self._goal, progress)
        with bar as self._bar, _interruption(self), threads:
            try:
                yield self
            finally:
                for callback in callbacks:
                    if hasattr(callback, "close"):
                        callback.close()

    @property
    def unfinished(self) -> bool:
        """Whether there are steps left and nobody asked to stop."""
        return self.steps < self._goal and not self.stopped

    def stop(self) -> None:
        """End the training after the update under way."""
        self.stopped = True

    def log(self, **numbers: Tensor | float) -> None:
        """Close one update: a row of history, the progress bar, the callbacks."""
        now = time.perf_counter()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        row = {"steps": self.steps, "seconds": self.seconds, "episodes": len(self.history.episodes)}
        if self.history.episodes:
            recent = self.history.episodes[-RECENT:]
            row["return"] = sum(episode[1] for episode in recent) / len(recent)
            row["length"] = sum(episode[2] for episode in recent) / len(recent)
        self.history.append(row | {name: float(value) for name, value in numbers.items()})
        if "return" in row:
            self._bar.set_postfix_str(f"return {row['return']:.1f}", refresh=False)
        self._bar.update(min(self.steps, self._goal) - self._bar.n)
        for callback in self._callbacks:
            if callback(self._trainer):
                self.stop()
        self._clock = time.perf_counter()  # callbacks are not training time

    def count_episodes(self, steps: Any) -> None:
        """Note the episodes that ended in `steps`: (T, N) reward, terminated, truncated, valid."""
        rewards = (steps.reward * steps.valid).double().cpu().numpy()
        dones = (steps.terminated | steps.truncated).cpu().numpy()
        valids = steps.valid.cpu().numpy()
        count = self.steps - int(valids.sum())
        for reward_row, done_row, valid_row in zip(rewards, dones, valids, strict=True):
            self._return += reward_row
            self._length += valid_row
            count += int(valid_row.sum())
            for index in done_row.nonzero()[0]:
                episode = (count, float(self._return[index]), int(self._length[index]))
                self.history.episodes.append(episode)
                self._return[index], self._length[index] = 0.0, 0


@contextlib.contextmanager
def _interruption(run: Run) -> Iterator[None]:
    """SIGINT: the first stops the run, the second raises. Only in the main thread, and not under
    a test runner, where a swallowed interrupt would turn a timed-out cell into a passed one."""
    if threading.current_thread() is not threading.main_thread() or "METIS_NB_TEST" in os.environ:
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if run.stopped:
            raise KeyboardInterrupt
        run.stop()
        tqdm.write("Stopping after this update. Interrupt again to stop at once.")

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _one_thread(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Small networks on the CPU: sharing a product of 256 x 64 numbers between cores costs more
    than it saves, and many times more where another program has the other core."""
    sizes = [p.numel() for net in networks for p in net.parameters() if p.device.type == "cpu"]
    before = torch.get_num_threads()
    if sizes and sum(sizes) < 200_000:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _progress_bar(start: int, goal: int, show: bool) -> tqdm:
    # In a notebook, stderr is shown as a red box and kept in the saved file.
    return tqdm(
        **({} if show else {"disable": True}),  # so that the variable TQDM_DISABLE still counts
        total=goal,
        initial=start,
        unit=" steps",
        unit_scale=True,
        file=sys.stdout,
        mininterval=0.25,
        delay=0.5,  # nothing for what is over at once, and a live plot stands above it
        dynamic_ncols=True,
    )


# --- rows of tensors --------------------------------------------------------------------------


def stack(rows: Sequence[T]) -> T:
    """T dataclasses of (N, ...) tensors as one of (T, N, ...) tensors."""
    names = [f.name for f in dataclasses.fields(rows[0])]  # type: ignore[arg-type]
    columns = {name: torch.stack([getattr(row, name) for row in rows]) for name in names}
    return type(rows[0])(**columns)


def mean(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each entry over dicts of scalar tensors, which stay on their device."""
    return {name: torch.stack([row[name].detach() for row in rows]).mean() for name in rows[0]}


# --- saving and loading -----------------------------------------------------------------------


def save(trainer: Any, path: str | Path) -> None:
    """Write all that a trainer needs to go on as if it had never stopped."""
    run: Run = trainer.run
    networks = {name: agents.unwrap(network) for name, network in run.networks.items()}
    if not networks:
        raise RuntimeError("save() before there is anything to save: call train() first.")
    view = run.view.state_dict() if run.view is not None else run._loaded
    state = {
        "trainer": type(trainer).__name__,
        "environment": name_of(run.env),
        "hyperparameters": hyperparameters(trainer),
        "recipes": {name: getattr(net, "recipe", None) for name, net in networks.items()},
        "networks": {name: dict(net.state_dict()) for name, net in networks.items()},
        "optimizers": {name: opt.state_dict() for name, opt in run.optimizers.items()},
        "view": view,
        "generator": run.generator.get_state(),
        "seed": run.seed,
        "history": list(run.history),
        "episodes": run.history.episodes,
        "seconds": run.seconds,
        "return": run._return,
        "length": run._length,
    }
    checkpoint.write(path, state)


def load(kind: type[T], path: str | Path, env: Environment, **given: nn.Module | None) -> T:
    """A trainer of this kind, as it was when `save` wrote it.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it holds something else.
    """
    state = checkpoint.read(path)
    if state["trainer"] != kind.__name__:
        raise ValueError(
            f"path={str(path)!r} holds a {state['trainer']} trainer; expected a {kind.__name__}. "
            f"Use {state['trainer']}.load."
        )
    trainer: Any = kind(env, **state["hyperparameters"])  # type: ignore[call-arg]
    networks: dict[str, nn.Module] = {}
    for name, recipe in state["recipes"].items():
        network = given.get(name)
        if network is None:
            if recipe is None:
                raise ValueError(
                    f"path={str(path)!r} holds a network with code of your own: make it again "
                    f"and pass it, {kind.__name__}.load(path, env, {name}=...)."
                )
            network = agents.make(recipe, env)
        networks[name] = network
        try:
            agents.unwrap(network).load_state_dict(state["networks"][name])
        except RuntimeError as error:
            raise ValueError(
                f"path={str(path)!r} holds networks for {state['environment']} that do not fit "
                f"env={name_of(env)}: {error}"
            ) from error
    trainer.prepare(**networks)
    run: Run = trainer.run
    for name, optimizer_state in state["optimizers"].items():
        run.optimizers[name].load_state_dict(optimizer_state)
    run.generator.set_state(state["generator"])
    run.history.extend(state["history"])
    run.history.episodes = state["episodes"]
    run.seed, run.seconds, run._loaded = state["seed"], state["seconds"], state["view"]
    run._return, run._length = state["return"], state["length"]
    return trainer


def hyperparameters(trainer: Any) -> dict[str, Any]:
    """The fields of a trainer but its environment, by name."""
    fields = dataclasses.fields(trainer)
    return {f.name: getattr(trainer, f.name) for f in fields if f.init and f.name != "env"}


# --- checks that trainers share ---------------------------------------------------------------


def check_numbers(trainer: Any, **accepted: str) -> None:
    """Check hyperparameters by name. `accepted` is one of the keys of `CHECKS` for each.

    Raises:
        ValueError: naming the argument, what was given and what is accepted.
    """
    for name, kind in accepted.items():
        value = getattr(trainer, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not CHECKS[kind](value):
            raise ValueError(f"{name}={value!r}; expected {kind}.")


CHECKS: dict[str, Callable[[Any], bool]] = {
    "a whole number above 0": lambda value: isinstance(value, int) and value > 0,
    "a number above 0": lambda value: 0 < value < math.inf,
    "a number of 0 or more": lambda value: 0 <= value < math.inf,
    "a number from 0 to 1": lambda value: 0 <= value <= 1,
}


def check_finite(run: Run, **values: Tensor) -> None:
    """Stop where a loss or gradient is not finite, before it reaches the networks.

    Raises:
        FloatingPointError: naming the value and the environment step.
    """
    for name, value in values.items():
        number = float(value.detach())
        if not math.isfinite(number):
            raise FloatingPointError(
                f"{name} is {number} after environment step {run.steps}. Training stopped "
                f"before the update, so the networks are as they were. A smaller learning_rate "
                f"or rewards of a smaller scale often help."
            )
