"""What happened to a run, for the flags over its charts: restarts, less detail, warnings, jumps of the learning rate."""

from __future__ import annotations

import itertools
from typing import Any, Final

import numpy as np
import pyarrow as pa

from weighbridge.store.record import RunRecord
from weighbridge.store.views import Attempt

JUMP: Final = 1.5  # a learning rate that changes by this factor from one step to the next did not follow a smooth schedule
MOST: Final = 24
_TOLD: Final = ("warned", "changed", "dropped", "skipped", "detail")


def notes_of(record: RunRecord) -> list[dict[str, Any]]:
    """Each with step and text, in order of steps; the most recent ones where there are too many."""
    found = [_note(event.step, _words(event.kind, event.message)) for event in record.events() if event.kind in _TOLD]
    table = record.steps_table()
    found += [_restart(before, one) for before, one in itertools.pairwise(record.attempts)]
    found += _jumps(table)
    return sorted(found, key=lambda note: int(note["step"]))[-MOST:]


def _note(step: int, text: str) -> dict[str, Any]:
    return {"step": max(step, 0), "text": text}


def _restart(before: Attempt, one: Attempt) -> dict[str, Any]:
    again = f"; {one.first_step:,} to {before.last_step:,} trained again" if before.last_step >= one.first_step else ""
    return _note(one.first_step, f"attempt {one.number} begins at step {one.first_step:,}{again}")


def _words(kind: str, message: str) -> str:
    return message or kind


def _jumps(table: pa.Table) -> list[dict[str, Any]]:
    """Where the first group's learning rate of the first optimizer jumps."""
    optimizer, steps = table.column("optimizer").to_numpy(), table.column("step").to_numpy()
    mine = optimizer == (optimizer.min() if len(optimizer) else 0)
    steps, rates = steps[mine], _first_of_each(table.column("lr"))[mine]
    before, now = rates[:-1], rates[1:]
    with np.errstate(all="ignore"):
        factor = now / before
        jumps = np.flatnonzero((before > 0) & (now > 0) & ~((factor > 1 / JUMP) & (factor < JUMP)))
    found = [_note(int(steps[i + 1]), f"learning rate ×{factor[i]:.3g}") for i in jumps]
    return found if len(found) <= MOST // 2 else []  # so many are a schedule of jumps, and no events


def _first_of_each(lists: pa.ChunkedArray) -> np.ndarray:
    """The first number of each list; NaN where it is empty."""
    whole = lists.combine_chunks() if lists.num_chunks != 1 else lists.chunk(0)
    offsets, flat = whole.offsets.to_numpy(), whole.values.to_numpy(zero_copy_only=False).astype(np.float64)
    padded = np.append(flat, np.nan)
    return np.where(np.diff(offsets) > 0, padded[np.minimum(offsets[:-1], len(flat))], np.nan)
