"""Ways in which a gradient comes to nothing although an optimizer's step runs as it should."""

from __future__ import annotations

import numpy as np

from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.taken import taken
from weighbridge.diagnosis.tensors import Tensors

SUMS = ("l1_norm", "l2_norm", "sum", "abs_max")  # of a parameter before a step: four of them alike to the last bit
ROUNDING = 1e-9  # relative, of float64 sums


class Undone:
    """What was moved by a step, and stands at the next one of its optimizer exactly where it stood before."""

    def __init__(self) -> None:
        self.before = np.zeros((len(SUMS), 0))  # at the last recorded step
        self.had_moved = np.zeros(0, bool)

    def start(self, tensors: Tensors) -> None:
        """Make room for new tensors."""
        self.before = np.array([tensors.grown(one, np.nan) for one in self.before])
        self.had_moved = tensors.grown(self.had_moved)

    def read(self, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """bool [steps, tensors] twice: undone since the step before, and whether that can be said."""
        sums = np.array([block[f"parameter.{name}"] for name in SUMS])  # [statistics, steps, tensors]
        there = ~np.isnan(sums).any(axis=0)
        has_moved = block["update.zero_fraction"] < 1
        # Each step beside the last one before it at which the tensor was recorded; place 0 is what came before this block.
        sums = np.concatenate([self.before[:, None], sums], axis=1)
        moved = np.concatenate([self.had_moved[None], has_moved])
        recorded = np.where(there, np.arange(1, len(block) + 1)[:, None], 0)
        last = np.maximum.accumulate(np.concatenate([np.zeros((1, there.shape[1]), int), recorded]), axis=0)
        before, had_moved = np.take_along_axis(sums, last[None], axis=1), np.take_along_axis(moved, last, axis=0)
        is_whole = ~(block["parameter.nonfinite_count"] > 0)  # sums are over what is finite: of NaN nothing can be put back
        is_recorded = there & is_whole & had_moved[:-1] & ~_is_bounded(sums[:, 1:])
        holds = is_recorded & (sums[:, 1:] == before[:, :-1]).all(axis=0)
        self.before, self.had_moved = before[:, -1], had_moved[-1]
        return holds, is_recorded


def _is_bounded(sums: np.ndarray) -> np.ndarray:
    """Is every element 0 or of one size? Weights that are all at the bounds of a clipping are put back by it, as is meant."""
    l1, l2, _, largest = sums
    return np.asarray(np.abs(l1 * largest - l2**2) <= ROUNDING * l2**2)


def gone(block: Block, tensors: Tensors) -> tuple[np.ndarray, np.ndarray]:
    """bool [steps, tensors] twice: an optimizer stepped without one gradient, although the step's backward pass reached what
    the modules of its parameters give; and whether that can be said."""
    reached = block["activation_gradient.rms"] > 0
    largest = block["gradient.abs_max"]
    holds, is_recorded = np.zeros(reached.shape, bool), np.zeros(reached.shape, bool)
    outputs: dict[int, list[int]] = {}
    for one in taken(block) if reached.any() else ():  # at most steps nothing is weighed of what modules give
        if not reached[one.at].any() or np.isnan(one.loss):
            continue
        for column in one.columns.tolist():
            if column not in outputs:
                outputs[column] = tensors.outputs_of(column) if tensors[column].requires_grad else []
        mine = [c for c in one.columns.tolist() if outputs[c] and reached[one.at, outputs[c]].any()]
        is_recorded[one.at, mine] = True
        holds[one.at, mine] = not (largest[one.at, one.columns] > 0).any()
    return holds, is_recorded
