"""One training of one trainer: counts of steps, the view of its environment, its random generator,
the progress bar, callbacks and interruption. Nothing here knows an algorithm.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Protocol, TextIO, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from metis_nb import agents
from metis_nb.envs import TensorView
from metis_nb.envs.spaces import Environment, name_of, single_spaces
from metis_nb.learning.history import RECENT, History

# All that an algorithm remembers beside its networks, by name: optimizers, target networks,
# anything with `state_dict` and `load_state_dict`.
State = dict[str, Any]


class Trainer(Protocol):
    """What every trainer is to callbacks, views, `save` and `load`; there is no parent class.

    A trainer is a dataclass whose fields are its environment and its hyperparameters. Beside what
    stands here it has `train`, and the steps that `train` consists of.
    """

    @property
    def env(self) -> Environment:
        """What it trains on."""

    @property
    def run(self) -> Run:
        """Its bookkeeping: steps, networks, state, generator."""

    @property
    def history(self) -> History:
        """One row for each update so far: `run.history`."""

    @property
    def healthy_ranges(self) -> Mapping[str, tuple[float, float]]:
        """The numbers to watch, each with the range in which we saw it when all was well."""

    @property
    def prepare(self) -> Callable[..., State]:
        """Takes the networks as `train` does, and returns `run.bind(...)`: what goes with them."""

    def check(self) -> None:
        """Raise ValueError or TypeError for a hyperparameter that is not accepted."""

    def save(self, path: str | Path) -> None:
        """Write everything to one file."""


# A callback is any function of the trainer, called after every update. Returning True stops. It may
# have two methods: `open(trainer)`, called once when a training begins, before its first update,
# and `close()`, called when it has ended, also where it ended by an error. (`Any`, since a reader's
# function may ask for the class of its own trainer.)
Callback = Callable[[Any], bool | None]


@runtime_checkable
class View(Protocol):
    """A callback that shows a training in a page, in place of the progress bar."""

    def __call__(self, trainer: Trainer) -> bool | None: ...

    @property
    def visible(self) -> bool:
        """Whether there is a page to show it in."""

    def say(self, text: str) -> bool:
        """Tell the reader something. False where that is not possible."""


def no_view() -> View | None:
    """Outside of a page there is nothing to show but the progress bar."""
    return None


# Makes the view that `train` shows by itself, or None. What is for pages is no business of this
# wing, so `metis_nb/__init__.py` sets it.
make_view: Callable[[], View | None] = no_view


class Run:
    """The bookkeeping of one trainer.

    Args:
        env: what to train on; its spaces are checked here.
        seed: of everything random in the training. None draws one from torch's global generator,
            so that `metis_nb.seed` decides it.
    """

    def __init__(self, env: Environment, seed: int | None):
        single_spaces(env)
        self._check_seed(seed)
        self.env = env
        self.seed: int | None = None if seed is None else int(seed)
        self.networks: dict[str, nn.Module] = {}
        self._parameters: list[Tensor] = []
        self.state: State = {}
        self._clear()

    @staticmethod
    def _check_seed(seed: Any) -> None:
        if seed is not None and (not isinstance(seed, Integral) or not 0 <= int(seed) < 2**63):
            raise ValueError(f"seed={seed!r}; expected None or a whole number from 0 to 2**63 - 1.")

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
        self._trainer: Trainer | None = None
        self._callbacks: list[Callback] = []
        self._loaded: dict[str, Any] = {}  # waits until the networks' device is known

    @property
    def steps(self) -> int:
        """Environment steps so far; those that only reset a sub-environment do not count."""
        return self.view.steps if self.view is not None else self._loaded.get("steps", 0)

    # --- networks ---------------------------------------------------------------------------

    def bind(
        self, make_state: Callable[[], State], **given: nn.Module | Sequence[nn.Module]
    ) -> State:
        """Make these networks the ones that this run trains. Others than before start a new run.

        Args:
            make_state: called where the networks are new; see `State`.
            given: networks, or sequences of them, by the name of `train`'s argument. In
                `run.networks` the members of `critics` are `critic_1`, `critic_2`, and so on.

        Returns:
            That state. It is saved, loaded and moved to the networks' device with the run.
        """
        networks: dict[str, nn.Module] = {}
        for name, one_or_more in given.items():
            if isinstance(one_or_more, list | tuple | nn.ModuleList):
                networks |= {member(name, i): each for i, each in enumerate(one_or_more)}
            else:
                networks[name] = one_or_more  # type: ignore[assignment]  # checked below
        for name, network in networks.items():
            if not isinstance(network, nn.Module):
                raise TypeError(
                    f"{name} is a {type(network).__name__}; expected a torch.nn.Module, such as "
                    f"agents.{name}(env)."
                )
            agents.check_fits(name, network, self.env)
            agents.find_moody(network)
        devices = {name: str(agents.device_of(network)) for name, network in networks.items()}
        if len(set(devices.values())) > 1:
            where = ", ".join(f"{name} is on {device}" for name, device in devices.items())
            raise ValueError(f"{where}; expected one device. Move them: {name}.to(device).")
        # Wrapping a network (in DataParallel, say) leaves its parameters the same, and giving it
        # another layer leaves the network the same: both go on.
        parameters = [p for net in networks.values() for p in agents.tensors_of(net)[0]]
        same_parameters = [*map(id, parameters)] == [*map(id, self._parameters)]
        same_networks = all(self.networks.get(name) is net for name, net in networks.items())
        if self.networks and not same_parameters and not same_networks:
            self._clear()
        state = self.state if same_parameters else make_state()
        # At once: an interrupt in between would leave networks without what goes with them.
        self.networks, self._parameters, self.state = networks, parameters, state
        return state

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
            # Each is ours once it is whole: where an interrupt comes in between, it is made anew.
            view = TensorView(self.env, device, self.seed, self.history.episodes)
            if self._loaded and not view.load_state_dict(self._loaded["view"]):
                warnings.warn(
                    f"The state of {name_of(self.env)} cannot be taken over: training goes on "
                    f"with new episodes. ({view.obstacle})",
                    stacklevel=3,
                )
            self.view = view
        if self.generator is None or self.generator.device != device:
            self.view.to(device)
            generator = torch.Generator(device).manual_seed(self.seed + self.view.steps)
            if self._loaded.get("device") == device.type:
                generator.set_state(self._loaded["generator"])
            for part in self.state.values():
                if hasattr(part, "to"):
                    part.to(device)
                else:  # an optimizer, which moves to its parameters
                    part.load_state_dict(part.state_dict())
            self.generator = generator
        self._loaded = {}  # taken over once: a later device move must not rewind the generator
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
        """Go on from `state` at the next `start`.

        Raises:
            AttributeError, LookupError, RuntimeError, TypeError, ValueError: it is no such state.
        """
        if state:
            TensorView.check_state(state["view"])
            self._check_seed(state["seed"])
            if state["device"] == "cpu":  # of other devices it cannot be known
                torch.Generator().set_state(state["generator"])
            if state["steps"] != state["view"]["steps"]:
                raise ValueError(f"{state['steps']} steps, of which {state['view']['steps']}")
        self._loaded = state
        self.seed = state.get("seed", self.seed)

    # --- one training -----------------------------------------------------------------------

    @contextlib.contextmanager
    def training(
        self,
        trainer: Trainer,
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
            progress: show how far it is: in a notebook the training view, unless there is one
                among the callbacks; elsewhere a bar, on stderr.

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
        if progress and not any(isinstance(callback, View) for callback in callbacks):
            callbacks += [view for view in [make_view()] if view is not None]
        view = next((c for c in callbacks if isinstance(c, View) and c.visible), None)
        for part in self.state.values():
            if isinstance(part, Optimizer):
                _forget_the_unfinished(part)
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

    # --- what trainers with a memory use ------------------------------------------------------

    def due(self, per_step: float, before: int) -> int:
        """Gradient steps for the environment steps since `before`. Of running totals, so that no
        fraction is lost between rounds."""
        return int(self.steps * per_step) - int(before * per_step)

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
        for name in getattr(self._trainer, "healthy_ranges", {}):
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
        # It comes at any moment, perhaps in the middle of writing to the same stream, which raises.
        with contextlib.suppress(Exception):
            if not say(text):
                tqdm.write(text, file=bar_stream())

    handle.run = run  # type: ignore[attr-defined]
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if run.interrupted and callable(before) and hasattr(before, "run"):
            before(signal.SIGINT, None)  # a training inside another: both are to end


def _forget_the_unfinished(optimizer: Optimizer) -> None:
    """An optimizer makes its moments in its first step, one after another. With what an interrupt
    left of them no later step would run; before that first step, they hold nothing."""
    for parameter in [p for p, kept in optimizer.state.items() if not kept.get("step", 1)]:
        del optimizer.state[parameter]


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


def member(argument: str, index: int) -> str:
    """The name of one network of a sequence: the first of `critics` is `critic_1`."""
    return f"{argument.removesuffix('s')}_{index + 1}"


def in_notebook() -> bool:
    """Whether this runs in a notebook's kernel, looked at now or stored for a page."""
    ipython = sys.modules.get("IPython")  # no kernel is without it, and not everyone has it
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


def bar_stream() -> TextIO:
    """Where a progress bar goes: out of the way of what a script prints. In a notebook, stderr is
    shown as a red box and kept in the saved file."""
    return sys.stdout if in_notebook() else sys.stderr


def _progress_bar(start: int, goal: int, show: bool) -> tqdm:
    return tqdm(
        **({} if show else {"disable": True}),  # so that the variable TQDM_DISABLE still counts
        total=goal,
        initial=start,
        unit=" steps",
        unit_scale=True,
        file=bar_stream(),
        mininterval=0.25,
        delay=0.5,  # nothing for what is over at once, and a view stands above it
        dynamic_ncols=True,
    )
