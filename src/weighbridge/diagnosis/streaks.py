"""How many recorded steps in a row something has held, tensor by tensor. A step without a record breaks no row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors


class Streaks:
    """Tells of each tensor once: when it has held for `patience` recorded steps in a row."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.length, self.first = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.seen = np.zeros(0, np.int64)  # recorded steps
        self.is_told = np.zeros(0, bool)

    def start(self, tensors: Tensors) -> None:
        """Make room for new tensors."""
        for name in ("length", "first", "seen", "is_told"):
            setattr(self, name, tensors.grown(getattr(self, name)))

    def read(self, block: Block, holds: np.ndarray, is_recorded: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Steps and the columns told in them. holds, is_recorded: bool [steps, tensors]."""
        self.seen += is_recorded.sum(axis=0)
        holds = holds & is_recorded
        for i in range(len(block)) if holds.any() else ():
            begins = holds[i] & (self.length == 0)
            self.first[begins] = block.start + i
            self.length = np.where(is_recorded[i], np.where(holds[i], self.length + 1, 0), self.length)
            told = (self.length >= self.patience) & ~self.is_told
            if told.any():
                self.is_told |= told
                yield block.start + i, np.flatnonzero(told)
        if not holds.any():
            self.length[is_recorded.any(axis=0)] = 0

    @property
    def is_enough(self) -> bool:
        """Has any tensor been recorded at as many steps as it takes?"""
        return bool((self.seen >= self.patience).any())
