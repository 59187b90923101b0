"""Where two trainings part beyond the noise of their single steps: of runs that start with other values bits say nothing.

The difference of two series is cut into blocks of steps. A block is beyond its noise where the mean of its parts is farther
from 0 than chance would put it: Student's t-test of the parts, which are means themselves, so that neighbours may be alike.
The runs have parted at the first such block from which on the difference keeps its side to the end and mostly stays beyond.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from weighbridge.diagnosis.kept import jsonable
from weighbridge.format import count
from weighbridge.server import versus
from weighbridge.server.heat import VALUE
from weighbridge.store.record import RunRecord

BLOCK: Final = 25  # steps
PARTS: Final = 5  # of a block
SCORE: Final = 4.604  # Student's t, 4 degrees of freedom, two-sided 1 %
LASTING: Final = 3  # blocks, at least; 1 % to the third power by chance
MOSTLY: Final = 0.8  # of the blocks that follow
COLUMNS: Final = 500  # into which the gradients of a long run are put together
LARGE: Final = np.log10(1.25)  # gradients that differ by less are no news
NAMED: Final = 3  # tensors


def first_apart(steps: np.ndarray, difference: np.ndarray, least: float = 0.0) -> tuple[int, float] | None:
    """The step from which on a difference [steps] is beyond its noise to the end, and its mean from there; None = at none.

    What is not finite is left out; `least`: a mean that is closer to 0 is none.
    """
    known = np.isfinite(difference)
    steps, difference = steps[known], difference[known]
    blocks = len(difference) // BLOCK
    if blocks < LASTING:
        return None
    parts = difference[: blocks * BLOCK].reshape(blocks, PARTS, -1).mean(axis=2)
    mean, noise = parts.mean(axis=1), parts.std(axis=1, ddof=1) / np.sqrt(PARTS)
    is_beyond = (np.abs(mean) > SCORE * noise) & (np.abs(mean) > least)
    keeps_side = np.logical_and.accumulate((np.sign(mean) == np.sign(mean[-1]))[::-1])[::-1]
    share = np.cumsum(is_beyond[::-1])[::-1] / np.arange(blocks, 0, -1)
    found = np.flatnonzero(is_beyond & keeps_side & (share >= MOSTLY))
    if not len(found) or blocks - found[0] < LASTING:
        return None
    begin = int(found[0]) * BLOCK
    return int(steps[begin]), float(difference[begin:].mean())


def apart_of(a: RunRecord, b: RunRecord) -> dict[str, Any]:
    """Of the losses and of every tensor's gradient (rms, as b / a) the step at which two runs part beyond noise.

    `loss`: [step, mean of b - a] or None; `tensors`: [[name, step, factor], ...], earliest first; `known`: steps are enough.
    """
    one, two = a.losses(), b.losses()
    steps, at, to = np.intersect1d(one.steps, two.steps, return_indices=True)
    loss = first_apart(steps, two.values[to] - one.values[at])
    cells = versus.cells_between(a, b, "gradient.rms", "wb", "none", COLUMNS, None, None)
    found = [
        (row.name, told[0], float(10 ** told[1]))
        for row, values, mask in zip(cells.rows, cells.value, cells.mask, strict=True)
        if (told := first_apart(cells.first, np.where(mask == VALUE, values, np.nan), LARGE)) is not None
    ]
    return {"known": len(steps) >= LASTING * BLOCK, "loss": loss, "tensors": sorted(found, key=lambda one: one[1])}


def in_words(found: dict[str, Any]) -> str:
    """Sentences on it."""
    if not found["known"]:
        return f"Whether losses part beyond the noise of single steps cannot be told from fewer than {LASTING * BLOCK} steps."
    words = "Their losses do not part beyond the noise of single steps."
    if found["loss"] is not None:
        step, mean = found["loss"]
        side = "lower" if mean < 0 else "higher"
        words = f"Beyond the noise of single steps their losses part at step {count(step)}: from there on B is {side}."
    if not found["tensors"]:
        return f"{words} No tensor's gradient stays a quarter or more apart."
    first = found["tensors"][0][1]
    named = [f"{name} (B ×{factor:.2g})" for name, step, factor in found["tensors"] if step == first]
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    which = f"{', '.join(named[:NAMED])}{more}"
    return f"{words} The first gradients that stay a quarter or more apart: {which}, from step {count(first)}."


def added(told: dict[str, Any], records: Sequence[RunRecord]) -> dict[str, Any]:
    """A comparison (versus.py) whose first two runs start with other values says where they part beyond noise, too."""
    if not told["parting"] or told["parting"]["kind"] != "start":
        return told
    found = apart_of(records[0], records[1])
    text = f"{told['said']['text']} {in_words(found)}"
    return {**told, "apart": jsonable(found), "said": {**told["said"], "text": text}}
