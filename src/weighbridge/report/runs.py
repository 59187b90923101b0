"""The list of runs in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from weighbridge import format as plain
from weighbridge.errors import WeighbridgeError
from weighbridge.report import grid
from weighbridge.report.text import STATE_STYLES, TROUBLE, wrapped
from weighbridge.store.labels import Labels, read_labels, shown_labels
from weighbridge.store.listed import Listed
from weighbridge.store.record import RunInfo


def is_shown(path: Path, said: Mapping[str, Any]) -> bool:
    """Is the run not archived?"""
    try:
        return not read_labels(path, said["info"]).is_archived
    except WeighbridgeError:
        return True


def run_lines(found: Listed, folder: Path, width: int) -> list[Text]:
    """One line a run, and what to do where there is none, where one cannot be read and where some are left out."""
    labels = {info.path: shown_labels(info.path) for info in found.runs}
    lines = grid.lines(_columns(found.runs, width, labels)) if found.runs else []
    if found.older:
        lines.append(Text(f"{plain.counted(found.older, 'older run')} not shown: weighbridge ls --last 0"))
    if found.unwanted:
        lines.append(Text(f"{plain.counted(found.unwanted, 'archived run')} not shown: weighbridge ls --all"))
    if not found.runs and not found.unreadable and not found.unwanted:
        return wrapped(Text(_nothing(folder)), width)
    for path, reason in found.unreadable:
        lines += wrapped(Text.assemble((f"! {plain.visible(path.name)}  ", TROUBLE), plain.visible(reason)), width)
    return lines


def _nothing(folder: Path) -> str:
    where = plain.visible(str(folder))
    what = f"No runs in {where} yet." if folder.is_dir() else f"There is no folder {where} here, so no runs yet."
    return f"{what} Record one with weighbridge.watch(model) in a training, or try: weighbridge demo"


def _columns(runs: Sequence[RunInfo], width: int, labels: Mapping[Path, Labels]) -> list[grid.Column]:
    columns = _worded(runs, {}) + _labelled(runs, labels)
    if grid.total_width(columns) > width:
        columns = _worded(runs, {"ended without finish": "no finish"}) + _labelled(runs, labels)
    room = max(columns[0].width - max(grid.total_width(columns) - width, 0), 12)
    columns[0] = grid.column("run", [plain.cut_middle(cell.plain, room) for cell in columns[0].cells], right=False)
    return columns


def _labelled(runs: Sequence[RunInfo], labels: Mapping[Path, Labels]) -> list[grid.Column]:
    """A column where any of them has a tag, or is archived."""
    words = [[*(["(archived)"] if (one := labels[run.path]).is_archived else []), *one.tags] for run in runs]
    return [grid.column("tags", [plain.visible(" ".join(each)) for each in words], right=False)] if any(words) else []


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
