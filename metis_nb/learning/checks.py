"""Is a hyperparameter within its range, and a loss finite? Errors that say what to do."""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Annotated, Any

from torch import Tensor

CHECKS: dict[str, Callable[[Any], bool]] = {
    "a whole number above 0": lambda value: isinstance(value, Integral) and int(value) > 0,
    "a number above 0": lambda value: 0 < value < math.inf,
    "None or a number above 0": lambda value: 0 < value < math.inf,
    "a number of 0 or more": lambda value: 0 <= value < math.inf,
    "a number from 0 to 1": lambda value: 0 <= value <= 1,
}
# The type of a hyperparameter says what is accepted: `gamma: Fraction = 0.99`.
Count = Annotated[int, "a whole number above 0"]
Positive = Annotated[float, "a number above 0"]
PositiveOrNone = Annotated[float | None, "None or a number above 0"]
NonNegative = Annotated[float, "a number of 0 or more"]
Fraction = Annotated[float, "a number from 0 to 1"]
# What a subclass of a trainer could override in version 0.1, and what it is called now.
RENAMED = {
    "healthy": "healthy_ranges",
    "move_targets": "update_targets",
    "exploration": "current_epsilon",
    "step_size": "current_learning_rate",
    "temperature": "alpha",
    "entropy_asked_for": "resolved_target_entropy",
    "highest_entropy": "units.max_entropy",
}


def check_fields(trainer: object) -> None:
    """Check every field whose type is one of those above; those of a subclass are among them.

    Raises:
        TypeError: a subclass overrides what has another name now.
        ValueError: naming the argument, what was given and what is accepted; or the trainer was
            given another environment, which its memory and episodes do not know.
    """
    kind: Any = type(trainer)
    run = getattr(trainer, "run", None)  # there is none while it is made
    if run is not None and run.env is not trainer.env:  # type: ignore[attr-defined]
        raise ValueError(
            f"env was changed after the {kind.__name__} was made; expected the one that it was "
            f"made with. To go on in another: trainer.save(path), {kind.__name__}.load(path, env)."
        )
    check_numbers(trainer, **ranges(kind))


def check_names(kind: type, renamed: Mapping[str, str]) -> None:
    """Refuse a subclass that overrides what has another name now: nobody would call it.

    Raises:
        TypeError: naming both.
    """
    for old, new in renamed.items():
        if hasattr(kind, old):
            raise TypeError(f"{kind.__name__}.{old} would not be called: it is {new} now.")


@functools.cache
def ranges(kind: Any) -> dict[str, str]:
    """What is accepted for each field of a class that says so. A subclass that gives a field
    another default, `gamma: float = 0.9`, keeps its range."""
    check_names(kind, RENAMED)
    found: dict[str, str] = {}
    for cls in reversed(inspect.getmro(kind)):
        names = vars(sys.modules.get(cls.__module__, object))
        for name, annotation in inspect.get_annotations(cls).items():
            if isinstance(annotation, str):  # from __future__ import annotations
                try:
                    annotation = eval(annotation, dict(names), dict(vars(cls)))
                except Exception:  # a name that only a type checker sees: nothing of ours
                    continue
            said = getattr(annotation, "__metadata__", ())  # of Annotated
            if said and said[0] in CHECKS:
                found[name] = said[0]
    return found


def check_numbers(owner: object, **accepted: str) -> None:
    """Check attributes by name. `accepted` is one of the keys of `CHECKS` for each.

    A number of another type than Python's own (NumPy's, a `fractions.Fraction`) becomes one of its
    own: torch multiplies by no fraction, and small NumPy integers overflow.

    Raises:
        ValueError: naming the argument, what was given and what is accepted.
    """
    for name, kind in accepted.items():
        value = getattr(owner, name)
        if value is None and kind.startswith("None"):
            continue
        # Asking for `Real` is slow; what is checked at every update is nearly always one of these.
        number = type(value) in (int, float) or (
            isinstance(value, Real) and not isinstance(value, bool)
        )
        if not number or not CHECKS[kind](value):
            raise ValueError(f"{name}={value!r}; expected {kind}.")
        if not isinstance(value, int | float) and name in vars(owner):
            setattr(owner, name, int(value) if isinstance(value, Integral) else float(value))


def check_finite(steps: int, **values: Tensor) -> None:
    """Stop where a loss or gradient is not finite, before it reaches the networks. All scalars are
    looked at together, since on a GPU each look waits for it.

    Raises:
        FloatingPointError: naming the value and the environment step, `steps`.
    """
    if math.isfinite(float(sum(value.detach() for value in values.values()))):
        return
    for name, value in values.items():
        number = float(value.detach())
        if not math.isfinite(number):
            raise FloatingPointError(
                f"{name} is {number} after environment step {steps}. Training stopped before it "
                f"could reach a network. A smaller learning_rate or rewards of a smaller scale "
                f"often help."
            )
