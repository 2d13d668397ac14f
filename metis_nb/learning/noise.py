"""Noise for exploration that remembers: what is pushed now is pushed again a moment later."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class Noise:
    """Standard normal noise for N environments, correlated in time where that is asked for.

    With a correlation c, each number is c times the one before plus sqrt(1 - c^2) times a fresh
    one: a mean of 0 and a variance of 1 at every moment, whatever c is. c = 0 is white noise. This
    is the Ornstein-Uhlenbeck process of Lillicrap et al. (2016), whose theta is 1 - c.
    """

    def __init__(self) -> None:
        self.last: Tensor | None = None

    def sample(
        self,
        like: Tensor,
        correlation: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The next numbers, of the shape and on the device of `like`, (N, A)."""
        fresh = torch.empty_like(like).normal_(generator=generator)
        if self.last is not None and self.last.shape == like.shape:
            fresh = correlation * self.last + math.sqrt(1 - correlation**2) * fresh
        self.last = fresh
        return fresh

    def to(self, device: torch.device | str) -> Noise:
        """Move it to another device; returns itself."""
        self.last = None if self.last is None else self.last.to(device)
        return self

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last = state["last"]
