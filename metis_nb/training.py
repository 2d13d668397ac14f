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
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from metis_nb import agents, checkpoint
from metis_nb.envs import TensorView
from metis_nb.spaces import Environment, SpacesOnly, describe, name_of, single_spaces

# A callback is any function of the trainer, called after every update. Returning True stops. It may
# have two methods: `open(trainer)`, called once when a training begins, before its first update,
# and `close()`, called when it has ended, also where it ended by an error.
Callback = Callable[[Any], bool | None]
# Episodes behind "the return" at a moment: one number everywhere, in history, plots and callbacks.
RECENT = 20

State = dict[str, Any]
T = TypeVar("T")


class History(list):
    """One row (a dict of numbers) for every update, in order. `history["return"]` is a column.

    Every row has `steps` (environment steps so far), `seconds` (of training so far), `episodes`
    (ended so far), `return` and `length` (means over the last 20 episodes; nan before the first).
    The rest are the trainer's own diagnostics.

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
        if seed is not None and (not isinstance(seed, Integral) or seed < 0):
            raise ValueError(f"seed={seed!r}; expected None or a whole number, 0 or more.")
        self.env = env
        self.seed: int | None = None if seed is None else int(seed)
        self.networks: dict[str, nn.Module] = {}
        self._parameters: list[nn.Parameter] = []
        self.state: State = {}
        self._clear()

    def _clear(self) -> None:
        self.view: TensorView | None = None
        self.generator: torch.Generator | None = None
        self.history = History()
        self.seconds = 0.0
        self.stopped = False  # by a callback or by the reader
        self.interrupted = False  # by the reader
        self.begin = self.goal = 0  # environment steps between which this training lies
        self._clock = 0.0
        self._bar = _progress_bar(0, 0, show=False)
        self._trainer: Any = None
        self._callbacks: list[Callback] = []
        self._loaded: dict[str, Any] = {}  # waits until the networks' device is known

    @property
    def steps(self) -> int:
        """Environment steps so far; those that only reset a sub-environment do not count."""
        return self.view.steps if self.view is not None else self._loaded.get("steps", 0)

    # --- networks ---------------------------------------------------------------------------

    def bind(self, make_state: Callable[[], State], **networks: nn.Module) -> State:
        """Make `networks` the ones that this run trains. Others than before start a new run.

        Args:
            make_state: called where the networks are new. Gives all that the algorithm remembers
                beside them, by name: optimizers, target networks, anything with `state_dict` and
                `load_state_dict`.

        Returns:
            That state. It is saved, loaded and moved to the networks' device with the run.
        """
        for name, network in networks.items():
            if not isinstance(network, nn.Module):
                raise TypeError(
                    f"{name} is a {type(network).__name__}; expected a torch.nn.Module, such as "
                    f"agents.{name}(env)."
                )
            agents.check_fits(name, network, self.env)
        devices = {name: str(agents.device_of(network)) for name, network in networks.items()}
        if len(set(devices.values())) > 1:
            where = ", ".join(f"{name} is on {device}" for name, device in devices.items())
            raise ValueError(f"{where}; expected one device. Move them: {name}.to(device).")
        # Wrapping a network (in DataParallel, say) leaves its parameters the same, and giving it
        # another layer leaves the network the same: both go on.
        parameters = [p for network in networks.values() for p in network.parameters()]
        same_parameters = [*map(id, parameters)] == [*map(id, self._parameters)]
        same_networks = all(self.networks.get(name) is net for name, net in networks.items())
        if self.networks and not same_parameters and not same_networks:
            self._clear()
        self.networks, self._parameters = networks, parameters
        if not same_parameters:
            self.state = make_state()
        return self.state

    def bound(self, *networks: nn.Module) -> State | None:
        """The state, where these are the networks that this run trains. `bind` also sees what was
        changed within them, but takes longer."""
        known = list(self.networks.values())
        same = len(known) == len(networks) and all(a is b for a, b in zip(known, networks))
        return self.state if same else None

    def start(self, network: nn.Module) -> TensorView:
        """The view of the environment on the network's device, with episodes under way."""
        device = agents.device_of(network)
        if self.seed is None:
            self.seed = int(torch.randint(2**31, ()))
        if self.view is None:
            self.view = TensorView(self.env, device, self.seed, self.history.episodes)
            if self._loaded and not self.view.load_state_dict(self._loaded["view"]):
                warnings.warn(
                    f"The state of {name_of(self.env)} cannot be taken over: training goes on "
                    f"with new episodes.",
                    stacklevel=3,
                )
        if self.generator is None or self.generator.device != device:
            self.view.to(device)
            self.generator = torch.Generator(device).manual_seed(self.seed + self.view.steps)
            if self._loaded.get("device") == device.type:
                self.generator.set_state(self._loaded["generator"])
            for part in self.state.values():
                if hasattr(part, "to"):
                    part.to(device)
                else:  # an optimizer, which moves to its parameters
                    part.load_state_dict(part.state_dict())
        self._loaded = {}  # taken over, once: chance must not come again after a later move
        if not self.view.running:
            self.view.reset()
        return self.view

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, beside networks and `state`."""
        if self.view is None or self.generator is None:
            return self._loaded
        return {
            "view": self.view.state_dict(),
            "generator": self.generator.get_state(),
            "device": self.view.device.type,
            "seed": self.seed,
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state` at the next `start`."""
        self._loaded = state
        self.seed = state.get("seed", self.seed)

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

        Args:
            steps: environment steps to go, above 0.
            callbacks: called after every update; see `Callback`.
            progress: show how far it is: in a notebook `callbacks.live_plot()`, unless there is one
                among the callbacks; elsewhere a bar.

        Raises:
            TypeError, ValueError: callbacks that cannot be called, or another number of steps.
        """
        if not isinstance(steps, Integral) or steps < 1:
            raise ValueError(f"steps={steps!r}; expected a whole number above 0, such as 100_000.")
        callbacks = [callbacks] if callable(callbacks) else list(callbacks)
        for callback in callbacks:
            if not callable(callback) or isinstance(callback, type):
                what = "the class" if isinstance(callback, type) else "a"
                name = getattr(callback, "__name__", type(callback).__name__)
                raise TypeError(
                    f"callbacks holds {what} {name}; expected functions of the trainer, such as "
                    f"callbacks.stop_at(475) or lambda trainer: trainer.run.steps > 10_000."
                )
        # Imported here, since callbacks use what is in this file.
        from metis_nb import live
        from metis_nb.callbacks import live_plot

        in_notebook = live.in_notebook()
        if in_notebook and progress and not any(isinstance(c, live_plot) for c in callbacks):
            callbacks.append(live_plot())
        view = next((c for c in callbacks if isinstance(c, live_plot) and in_notebook), None)
        self._trainer, self._callbacks = trainer, callbacks
        self.begin, self.goal = self.steps, self.steps + int(steps)
        self.stopped = self.interrupted = False
        threads = _one_thread(self.networks.values())
        bar = _progress_bar(self.begin, self.goal, progress and view is None)
        interruption = _interruption(self, view.say if view else lambda text: False)
        with bar as self._bar, interruption, threads, contextlib.ExitStack() as closing:
            # The stack calls every close, whatever raises, and the one opened last is closed first.
            for callback in callbacks:
                if hasattr(callback, "close"):
                    closing.callback(callback.close)
                if hasattr(callback, "open"):
                    callback.open(trainer)
            self._clock = time.perf_counter()
            yield self

    @property
    def unfinished(self) -> bool:
        """Whether there are steps left and nobody asked to stop."""
        return self.steps < self.goal and not self.stopped

    @property
    def progress(self) -> float:
        """The part of this training's steps that is done, from 0 to 1."""
        return min((self.steps - self.begin) / max(self.goal - self.begin, 1), 1.0)

    def stop(self) -> None:
        """End the training after the update under way."""
        self.stopped = True

    def log(self, **numbers: Tensor | float) -> None:
        """Close one update: a row of history, the progress bar, the callbacks."""
        now = time.perf_counter()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        row = {"steps": self.steps, "seconds": self.seconds, "episodes": len(self.history.episodes)}
        recent = self.history.episodes[-RECENT:]
        for name, column in (("return", 1), ("length", 2)):
            values = [episode[column] for episode in recent]
            row[name] = sum(values) / len(values) if values else math.nan
        row |= {name: float(value) for name, value in numbers.items()}
        self.history.append(row)
        shown = [f"return {row['return']:.1f}"] if recent else []
        for name in getattr(self._trainer, "healthy", {}):
            if name in row:
                shown.append(f"{name.replace('_', ' ')} {row[name]:.2g}")
        self._bar.set_postfix_str(", ".join(shown), refresh=False)
        self._bar.update(min(self.steps, self.goal) - self._bar.n)
        for callback in self._callbacks:
            answer = callback(self._trainer)
            # True alone: a function that happens to return something goes on.
            if isinstance(answer, bool | np.bool_) and answer:
                self.stop()
        self._clock = time.perf_counter()  # callbacks are not training time


def can_interrupt() -> bool:
    """Whether an interrupt ends a training cleanly: in the main thread, and not under a test
    runner, where a swallowed interrupt would turn a timed-out cell into a passed one."""
    main = threading.current_thread() is threading.main_thread()
    return main and "METIS_NB_TEST" not in os.environ


@contextlib.contextmanager
def _interruption(run: Run, say: Callable[[str], bool]) -> Iterator[None]:
    """SIGINT: the first stops the run, the second raises. `say` may show what happens, or not."""
    if not can_interrupt():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if run.interrupted:
            raise KeyboardInterrupt
        run.interrupted = True
        run.stop()
        text = "Stopping after this update. Interrupt again to stop at once."
        if not say(text):
            tqdm.write(text)

    handle.run = run  # type: ignore[attr-defined]
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if run.interrupted and callable(before) and hasattr(before, "run"):
            before(signal.SIGINT, None)  # a training inside another: both are to end


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


def flatten(rollout: T) -> T:
    """(T, N, ...) tensors as (B, ...): the steps that are experience, in one row."""
    valid = rollout.valid  # type: ignore[attr-defined]
    return dataclasses.replace(
        rollout,  # type: ignore[type-var]
        **{name: values[valid] for name, values in vars(rollout).items()},
    )


def stack(rows: Sequence[T]) -> T:
    """T dataclasses of (N, ...) tensors as one of (T, N, ...) tensors."""
    names = [f.name for f in dataclasses.fields(rows[0])]  # type: ignore[arg-type]
    columns = {name: torch.stack([getattr(row, name) for row in rows]) for name in names}
    return type(rows[0])(**columns)


def mean(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each entry over the dicts of scalar tensors that have it; they stay on their
    device."""
    columns: dict[str, list[Tensor]] = {}
    for row in rows:
        for name, number in row.items():
            columns.setdefault(name, []).append(number.detach())
    return {name: torch.stack(numbers).mean() for name, numbers in columns.items()}


# --- saving and loading -----------------------------------------------------------------------


def save(trainer: Any, path: str | Path) -> None:
    """Write all that a trainer needs to go on as if it had never stopped."""
    run: Run = trainer.run
    networks = {name: agents.unwrap(network) for name, network in run.networks.items()}
    if not networks:
        raise RuntimeError("save() before there is anything to save: call train() first.")
    state = {
        "trainer": type(trainer).__name__,
        "environment": name_of(run.env),
        "spaces": describe(run.env),
        "hyperparameters": hyperparameters(trainer),
        "recipes": {name: getattr(net, "recipe", None) for name, net in networks.items()},
        "networks": {name: dict(net.state_dict()) for name, net in networks.items()},
        "state": {name: part.state_dict() for name, part in run.state.items()},
        "run": run.state_dict(),
        "history": list(run.history),
        "episodes": run.history.episodes,
        "seconds": run.seconds,
    }
    checkpoint.write(path, state)


def load(
    kind: type[T],
    path: str | Path,
    env: Environment,
    replay: Any = None,
    **given: nn.Module | None,
) -> T:
    """A trainer of this kind, as it was when `save` wrote it.

    `replay` is a memory for it to fill, where it had one of the reader's own; `given` are networks
    with code of the reader's own.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it holds something else.
    """
    state = checkpoint.read(path)
    if state["trainer"] != kind.__name__:
        raise ValueError(
            f"path={str(path)!r} holds a {state['trainer']} trainer; expected a {kind.__name__}. "
            f"Use {state['trainer']}.load."
        )
    saved = SpacesOnly(state["spaces"])
    if single_spaces(saved) != single_spaces(env):
        raise ValueError(
            f"path={str(path)!r} was trained on {state['environment']} with the spaces "
            f"{saved.observation_space} and {saved.action_space}; env={name_of(env)} has others: "
            f"{' and '.join(map(str, single_spaces(env)))}."
        )
    own = {} if replay is None else {"replay": replay}
    trainer: Any = kind(env, **state["hyperparameters"], **own)  # type: ignore[call-arg]
    networks: dict[str, nn.Module] = {}
    for name, recipe in state["recipes"].items():
        network = given.get(name)
        if network is None:
            if recipe is None:
                argument = "critics" if name.startswith("critic_") else name
                raise ValueError(
                    f"path={str(path)!r} holds a network with code of your own: make it again "
                    f"and pass it, {kind.__name__}.load(path, env, {argument}=...)."
                )
            network = agents.make(recipe, env)
        networks[name] = network
    arguments: dict[str, Any] = {}
    for name, network in networks.items():
        if re.fullmatch(r"critic_\d", name):  # these go in as one list
            arguments.setdefault("critics", []).append(network)
        else:
            arguments[name] = network
    trainer.prepare(**arguments)
    for name, network in networks.items():
        agents.unwrap(network).load_state_dict(state["networks"][name])
    run: Run = trainer.run
    for name, part in run.state.items():
        part.load_state_dict(state["state"][name])
    run.history.extend(state["history"])
    run.history.episodes.extend(state["episodes"])
    run.seconds = state["seconds"]
    run.load_state_dict(state["run"])
    return trainer


def hyperparameters(trainer: Any) -> dict[str, Any]:
    """The fields of a trainer but its environment and memory, by name."""
    names = [f.name for f in dataclasses.fields(trainer) if f.init]
    return {name: getattr(trainer, name) for name in names if name not in ("env", "replay")}


# --- checks that trainers share ---------------------------------------------------------------


def check_numbers(trainer: Any, **accepted: str) -> None:
    """Check hyperparameters by name. `accepted` is one of the keys of `CHECKS` for each.

    Raises:
        ValueError: naming the argument, what was given and what is accepted.
    """
    for name, kind in accepted.items():
        value = getattr(trainer, name)
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not number or not CHECKS[kind](value):
            raise ValueError(f"{name}={value!r}; expected {kind}.")


CHECKS: dict[str, Callable[[Any], bool]] = {
    "a whole number above 0": lambda value: isinstance(value, Integral) and int(value) > 0,
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
                f"before it could reach a network. A smaller learning_rate or rewards of a "
                f"smaller scale often help."
            )
