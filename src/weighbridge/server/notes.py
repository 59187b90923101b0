"""What happened to a run, for the flags over its charts: restarts, less detail, warnings, jumps of the learning rate."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa

from weighbridge.store.record import RunRecord

JUMP: Final = 1.5  # a learning rate that changes by this factor from one step to the next did not follow a smooth schedule
MOST: Final = 24
_TOLD: Final = ("warned", "changed", "dropped", "skipped", "detail")


def notes_of(record: RunRecord) -> list[dict[str, Any]]:
    """Each with step and text, in order of steps; the most recent ones where there are too many."""
    found = [_note(event.step, _words(event.kind, event.message)) for event in record.events() if event.kind in _TOLD]
    table = record.steps_table()
    steps, attempts = table.column("step").to_numpy(), table.column("attempt").to_numpy()
    found += [_note(int(steps[i]), f"restarted from step {steps[i]:,}") for i in np.flatnonzero(np.diff(attempts) > 0) + 1]
    found += _jumps(table)
    return sorted(found, key=lambda note: int(note["step"]))[-MOST:]


def _note(step: int, text: str) -> dict[str, Any]:
    return {"step": max(step, 0), "text": text}


def _words(kind: str, message: str) -> str:
    return message or kind


def _jumps(table: pa.Table) -> list[dict[str, Any]]:
    """Where the first group's learning rate of the first optimizer jumps."""
    lists, optimizer = table.column("lr").to_pylist(), table.column("optimizer").to_numpy()
    steps = table.column("step").to_numpy()
    rates = np.array([rates[0] if rates else np.nan for rates in lists], np.float64)
    mine = optimizer == (optimizer.min() if len(optimizer) else 0)
    steps, rates = steps[mine], rates[mine]
    found = []
    for i in range(1, len(rates)):
        before, now = rates[i - 1], rates[i]
        if before > 0 and now > 0 and not 1 / JUMP < now / before < JUMP:
            found.append(_note(int(steps[i]), f"learning rate ×{now / before:.3g}"))
    return found if len(found) <= MOST // 2 else []  # so many are a schedule of jumps, and no events
