"""What of a damaged run is still sound, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from weighbridge.errors import WeighbridgeError
from weighbridge.format import counted
from weighbridge.store.segment import DATA_SUFFIX, SIDECAR_SUFFIX, SegmentReader
from weighbridge.store.verify import Damage, verify_run

_HOLDS: Final = {
    "rows": "the statistics",
    "steps": "the losses",
    "values": "the numbers of small tensors",
    "logs": "what was logged",
    "tensors": "the list of tensors",
    "events": "the events",
    "passes": "the backward passes",
}


def still_readable(run: Path) -> str:
    """Which steps of which tables are as they were written. Nothing is repaired and nothing is hidden."""
    try:
        damages = verify_run(run)
    except (WeighbridgeError, OSError) as error:
        return f"What else is damaged cannot be told: {error}"
    hurt = {_table(damage.path) for damage in damages}
    sound = [words for table, words in _HOLDS.items() if table not in hurt]
    lines = [f"Still sound: {', '.join(sound)}." if sound else "No table is wholly sound."]
    lines += [line for damage in damages if (line := _sound_steps(damage))]
    return "\n".join(lines)


def _table(path: Path) -> str:
    parent = path.parent.name if path.parent.name.count("-") and not path.parent.name.startswith("rank-") else path.name
    return parent.split("-")[0].split(".")[0]


def _sound_steps(damage: Damage) -> str:
    """For damage inside a segment: the steps on either side of it."""
    if damage.path.suffix != DATA_SUFFIX:
        return ""
    try:
        flushes = SegmentReader(damage.path.with_suffix("")).poll()
    except (WeighbridgeError, OSError):
        return f"The steps in {damage.path.name} cannot be told: its {SIDECAR_SUFFIX} file is damaged too."
    whole = [f for f in flushes if f.first_step >= 0 and (f.end <= damage.start or f.offset >= damage.stop)]
    lost = [f for f in flushes if f.first_step >= 0 and f not in whole]
    if not lost:
        return ""
    first, last = lost[0].first_step, lost[-1].last_step
    span = f"step {first:,}" if first == last else f"steps {first:,} to {last:,}"
    kept = sum(f.last_step - f.first_step + 1 for f in whole)
    what = _HOLDS.get(_table(damage.path), "the table")
    rest = (
        f" {counted(kept, 'other step')} in it are whole: they can be read from the file itself (docs/format.md)."
        if kept
        else ""
    )
    return f"Damaged in {damage.path.name}: {what} of {span}.{rest}"
