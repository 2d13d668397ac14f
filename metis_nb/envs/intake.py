"""What environments give, whatever they give it in: as arrays of one's own, of one shape and type.

A reward is 1.0, or an array (1,), or a tensor; an observation is a list, a tensor, or an array that
is flipped, read-only or handed out again at every step. Training, evaluation and the player take
all of it in here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor


def taken(what: str, values: Any, shape: tuple[int, ...] | None, kind: Any) -> np.ndarray:
    """A copy of `values` of this shape and type. Of all but observations, axes of 1 do not count.

    Args:
        what: the name for an error, such as "reward".
        values: numbers, arrays or tensors, on whatever device, and lists of them.
        shape: as it has to be; None: as it is.
        kind: a type of NumPy's.

    Raises:
        ValueError: they are no numbers, or of another shape.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        with np.errstate(over="ignore"):  # what is too large for the type is inf, and is refused
            array = np.array(values, dtype=kind)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"env gave the {what} {values!r:.200}; expected numbers of shape {shape}: {error}."
        ) from error
    if shape is None or array.shape == shape:
        return array
    return array.reshape(fitting(what, array.shape, shape))


def fitting(what: str, given: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """`shape`, where what was given can be taken for it.

    Raises:
        ValueError: naming both.
    """
    if given == shape:
        return shape
    if "observation" in what:
        raise ValueError(
            f"env gave the {what} with shape {tuple(given)}; expected {shape}, by its observation "
            f"space. Declare the space of what reset() and step() return."
        )
    if [axis for axis in given if axis != 1] != [axis for axis in shape if axis != 1]:
        raise ValueError(
            f"env gave the {what} with shape {tuple(given)}; expected {shape}: one number for "
            f"each environment."
        )
    return shape
