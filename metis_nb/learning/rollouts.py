"""Rows of tensors: steps put one after another, and the means of what is watched."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


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
