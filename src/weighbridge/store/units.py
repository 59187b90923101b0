"""The units of a table in a rank's folder: each number is a compacted folder or a segment, never both.

units(folder, "rows") -> [Unit(number=1, compacted), Unit(number=2, segment), ...]
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from weighbridge.records import TABLES
from weighbridge.store.layout import unit_name
from weighbridge.store.segment import SIDECAR_SUFFIX

_NAME: Final = re.compile(r"([a-z]+)-(\d{4,})(\.flushes|\.arrows)?")


@dataclass(frozen=True, slots=True)
class Unit:
    """One step range of one table."""

    table: str
    number: int
    folder: Path  # of the rank
    is_compacted: bool
    is_last: bool  # the highest number of its table: the only one that may still grow

    @property
    def stem(self) -> Path:
        """Path of the compacted folder, and of the segment's two files without their endings."""
        return self.folder / unit_name(self.table, self.number)


def units(folder: Path) -> dict[str, list[Unit]]:
    """All units of a rank's folder by table, in order. A folder that is complete hides its segment."""
    found: dict[str, dict[int, bool]] = {table: {} for table in TABLES}
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        names = []
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None or match[1] not in found:
            continue
        if match[3] is None:
            found[match[1]][int(match[2])] = True
        elif match[3] == SIDECAR_SUFFIX:
            found[match[1]].setdefault(int(match[2]), False)
    return {table: _in_order(folder, table, numbers) for table, numbers in found.items()}


def _in_order(folder: Path, table: str, numbers: dict[int, bool]) -> list[Unit]:
    last = max(numbers, default=0)
    return [Unit(table, number, folder, numbers[number], number == last) for number in sorted(numbers)]


def last_numbers(folder: Path) -> dict[str, int]:
    """The highest number in use of each table."""
    return {table: found[-1].number for table, found in units(folder).items() if found}
