"""The list of runs in the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from weighbridge import format as plain
from weighbridge.report import grid
from weighbridge.report.text import STATE_STYLES, TROUBLE, wrapped
from weighbridge.store.layout import find_runs
from weighbridge.store.record import RunInfo


def run_lines(runs: Sequence[RunInfo], folder: Path, width: int) -> list[Text]:
    """One line a run, and what to do where there is none or where one cannot be read."""
    unread = [p for p in find_runs(folder) if p not in {info.path for info in runs}] if folder.is_dir() else []
    lines = grid.lines(_columns(runs, width)) if runs else wrapped(Text(_nothing(folder)), width) if not unread else []
    for path in unread:
        words = (
            f"! {plain.visible(path.name)} cannot be read. What is wrong with it: weighbridge verify {plain.visible(str(path))}"
        )
        lines += [*wrapped(Text(words, style=TROUBLE), width)]
    return lines


def _nothing(folder: Path) -> str:
    where = plain.visible(str(folder))
    what = f"No runs in {where} yet." if folder.is_dir() else f"There is no folder {where} here, so no runs yet."
    return f"{what} Record one with weighbridge.watch(model) in a training, or try: weighbridge demo"


def _columns(runs: Sequence[RunInfo], width: int) -> list[grid.Column]:
    columns = _worded(runs, {})
    if grid.total_width(columns) > width:
        columns = _worded(runs, {"ended without finish": "no finish"})
    room = max(columns[0].width - max(grid.total_width(columns) - width, 0), 12)
    columns[0] = grid.column("run", [plain.cut_middle(cell.plain, room) for cell in columns[0].cells], right=False)
    return columns


def _worded(runs: Sequence[RunInfo], shorter: dict[str, str]) -> list[grid.Column]:
    return [
        grid.column("run", [plain.visible(r.name) for r in runs], right=False),
        grid.column(
            "state", [Text(shorter.get(r.state, r.state), style=STATE_STYLES.get(r.state, "")) for r in runs], right=False
        ),
        grid.column("started", [plain.when(r.started) for r in runs], right=False),
        grid.column("steps", [plain.count(r.steps) for r in runs]),
        grid.column("tensors", [plain.count(r.tensors) for r in runs]),
        grid.column("last loss", [_loss(r.last_loss) for r in runs]),
        grid.column("size", [plain.size(r.size_bytes) for r in runs]),
    ]


def _loss(value: float | None) -> Text:
    return Text(plain.metric(value), style=TROUBLE if value is not None and not math.isfinite(value) else "")
