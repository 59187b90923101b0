"""One tensor closely: its statistics over steps or epochs, and the numbers themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from rich.text import Text

from weighbridge import format as plain
from weighbridge.catalog import parse
from weighbridge.report import grid, named, views
from weighbridge.report.machine import Cell, Table
from weighbridge.report.text import MARKS, ROLE_STYLES, TROUBLE, number_text, thinned
from weighbridge.store.record import RunRecord, Tensor

HEAD, TAIL = 10, 10  # rows of a long table that are shown
SPARK: Final = 16
VALUE_DIGITS: Final = 4
MOST_VALUE_ROWS: Final = 64


def title(record: RunRecord, tensor: Tensor) -> Text:
    """The tensor's name, mark, shape, dtype and module."""
    name = plain.visible(named.label(record, tensor))
    mark = Text(MARKS.get(tensor.role, "p"), style=ROLE_STYLES.get(tensor.role, ""))
    facts = (
        f"{plain.shape(tensor.shape)}  {plain.counted(tensor.count, 'number')}  {tensor.dtype}  {plain.visible(tensor.module)}"
    )
    return Text.assemble((name, "bold"), "  ", mark, f"  {tensor.role.replace('_', ' ')}  ", (facts, "dim"))


def summary_lines(record: RunRecord, tensor: Tensor, statistics: Sequence[str], width: int) -> list[Text]:
    """Every statistic on one line: a sparkline, and the values at some steps from the first to the last."""
    steps, columns = views.tensor_series(record, tensor, statistics)
    if not steps:
        return [
            title(record, tensor),
            Text("  no row was recorded of it" + (f": {plain.visible(tensor.note)}" if tensor.note else "")),
        ]
    still = [i for i, name in enumerate(statistics) if _stands_still(name, columns[i])]
    moving = [i for i in range(len(columns)) if i not in still]
    fixed = [
        grid.column("statistic", [statistics[i] for i in moving], right=False),
        grid.column("over steps", [_spark(statistics[i], columns[i]) for i in moving], right=False),
    ]
    picked = _picked(steps, [statistics[i] for i in moving], [columns[i] for i in moving], fixed, width)
    lines = [title(record, tensor), *grid.lines([*fixed, *picked])]
    zero = [statistics[i] for i in still if 0.0 in columns[i]]
    same = [f"{statistics[i]} {cell(statistics[i], columns[i][0]).plain}" for i in still if columns[i][0]]
    lines += _hanging(f"0 at every step: {', '.join(zero)}", width) if zero else []
    lines += _hanging(f"the same at every step: {', '.join(same)}", width) if same else []
    return lines


def _stands_still(statistic: str, values: Sequence[float | None]) -> bool:
    """Is it 0 all along, or a count that never changes? Then one word says it and no line is spent on it."""
    met = {x for x in values if x is not None}
    return met == {0.0} or (len(met) == 1 and values[0] is not None and parse(statistic)[1].unit == "elements")


def cell(statistic: str, value: Cell) -> Text:
    """One number of a statistic: counts are whole."""
    if isinstance(value, float) and value.is_integer() and parse(statistic)[1].unit == "elements":
        return Text(plain.count(int(value)))
    return number_text(value)


def _spark(statistic: str, values: Sequence[float | None]) -> str:
    return plain.sparkline(thinned([v for v in values if v is not None], SPARK), parse(statistic)[1].scale)


def _picked(
    steps: Sequence[int],
    statistics: Sequence[str],
    columns: Sequence[Sequence[float | None]],
    fixed: Sequence[grid.Column],
    width: int,
) -> list[grid.Column]:
    """As many steps as fit, spread evenly, the first and the last always among them."""
    wanted = min(len(steps), 12)
    while True:
        places = sorted({round(i * (len(steps) - 1) / max(wanted - 1, 1)) for i in range(wanted)})
        found = [
            grid.column(
                f"step {steps[p]:,}" if n == 0 else f"{steps[p]:,}",
                [cell(s, c[p]) for s, c in zip(statistics, columns, strict=True)],
            )
            for n, p in enumerate(places)
        ]
        if wanted <= 1 or grid.total_width([*fixed, *found]) <= width:
            return found
        wanted -= 1


def series_lines(record: RunRecord, tensor: Tensor, statistics: Sequence[str], every: bool, width: int) -> list[Text]:
    """Chosen statistics, one row a step; the middle of a long run is left out unless `every`."""
    steps, columns = views.tensor_series(record, tensor, statistics)
    lines = [title(record, tensor)]
    if not steps:
        return [*lines, Text("  nothing of this was recorded" + (f": {plain.visible(tensor.note)}" if tensor.note else ""))]
    kept = rows_shown(len(steps), every)
    fixed = [grid.column("step", [plain.count(steps[i]) for i in kept])]
    others = [grid.column(s, [cell(s, c[i]) for i in kept]) for s, c in zip(statistics, columns, strict=True)]
    return [*lines, *_blocks(fixed, others, len(steps), kept, width)]


def run_epoch_lines(record: RunRecord, every: bool, width: int) -> list[Text]:
    """One row an epoch for the whole run: its steps, its loss and what the user logged, as means."""
    spans = views.epoch_spans(record)
    kept = rows_shown(len(spans), every)
    told = [("loss", *views.losses(record))]
    told += [(plain.visible(key), *views.logged(record, key)) for key in record.log_keys() if key != "epoch"]
    fixed = [grid.column("epoch", [plain.count(spans[i][0]) for i in kept])]
    fixed += [grid.column("steps", [f"{plain.count(spans[i][1])} to {plain.count(spans[i][2])}" for i in kept])]
    others = [
        grid.column(key, [_metric(views.mean_between(steps, values, *spans[i][1:])) for i in kept])
        for key, steps, values in told
    ]
    return _blocks(fixed, others, len(spans), kept, width, noun="epoch")


def epoch_lines(table: Table, tensor_title: Text, name: str, every: bool, width: int) -> list[Text]:
    """One row an epoch: each statistic of a tensor at the epoch's last step and as the mean over it."""
    rows = [row for row in table.rows if row[0] == name]
    kept = rows_shown(len(rows), every)
    place = {heading: i for i, heading in enumerate(table.columns)}
    fixed = [
        grid.column("epoch", [number_text(rows[i][place["epoch"]]) for i in kept]),
        grid.column("last step", [number_text(rows[i][place["last_step"]]) for i in kept]),
    ]
    others = []
    for heading in table.columns[place["loss_mean"] + 1 :]:
        statistic, _, what = heading.rpartition(".")
        texts = [cell(statistic, rows[i][place[heading]]) for i in kept]
        others.append(grid.column(statistic if what == "last" else "its mean", texts))
    return [tensor_title, *_blocks(fixed, others, len(rows), kept, width, noun="epoch")]


def _metric(value: float | None) -> Text:
    return Text(plain.metric(value), style="" if value is None or math.isfinite(value) else TROUBLE)


def rows_shown(count: int, every: bool) -> list[int]:
    """Which rows of a long table are shown: all, or the first and the last ten."""
    if every or count <= HEAD + TAIL + 1:
        return list(range(count))
    return [*range(HEAD), *range(count - TAIL, count)]


def _blocks(
    fixed: Sequence[grid.Column], others: Sequence[grid.Column], count: int, kept: Sequence[int], width: int, noun: str = "step"
) -> list[Text]:
    out: list[Text] = []
    for block in grid.in_blocks(fixed, others, width):
        lines = grid.lines(block)
        if len(kept) < count:
            left_out = plain.counted(count - len(kept), f"{noun} between", f"{noun}s between")
            lines.insert(1 + HEAD, Text(f"  … {left_out}: --all shows them", style="dim"))
        out += [Text(), *lines] if out else lines
    return out


def value_lines(record: RunRecord, tensor: Tensor, step: int, every: bool, width: int) -> list[Text]:
    """The numbers themselves at one step, one row a neuron: before, gradient, update, and after where it is known."""
    parts = [("parameter", step), ("gradient", step), ("update", step), ("after", step + 1)]
    blocks: list[tuple[str, np.ndarray]] = []
    for quantity, at in parts:
        array = views.exact_values(record, tensor, "parameter" if quantity == "after" else quantity, at)
        if array is not None:
            blocks.append((quantity, views.as_matrix(array)))
    lines = [title(record, tensor)]
    if not blocks:
        return [*lines, *_hanging(_no_values(record, tensor, step), width)]
    count = len(blocks[0][1])
    rows = list(range(count if every else min(count, MOST_VALUE_ROWS)))
    row_word = "row" if tensor.role in ("embedding", "other") or "Transpose" in tensor.module else "neuron"
    fixed = [grid.column(row_word, [str(r) for r in rows])]
    groups = [_value_columns(name, matrix, rows, every) for name, matrix in blocks]
    for block in _side_by_side(fixed, groups, width):
        lines += grid.lines(block)
    if len(rows) < count:
        lines.append(Text(f"  … {count - len(rows):,} more rows: --all shows them", style="dim"))
    return lines


def _side_by_side(fixed: Sequence[grid.Column], groups: Sequence[Sequence[grid.Column]], width: int) -> list[list[grid.Column]]:
    """Whole quantities side by side where they fit, else one under the other."""
    blocks: list[list[grid.Column]] = []
    current = list(fixed)
    for group in groups:
        if len(current) > len(fixed) and grid.total_width([*current, *group]) > width:
            blocks += grid.in_blocks(fixed, current[len(fixed) :], width)
            current = list(fixed)
        current += group
    return blocks + grid.in_blocks(fixed, current[len(fixed) :], width)


def _value_columns(name: str, matrix: np.ndarray, rows: Sequence[int], every: bool) -> list[grid.Column]:
    """One column an input; the first one's heading says of what."""
    wide = matrix.shape[1]
    shown = range(wide) if every or wide <= MOST_VALUE_ROWS else range(MOST_VALUE_ROWS)
    headings = [name if wide == 1 else f"{name} [0]" if c == 0 else f"[{c}]" for c in shown]
    columns = [grid.column(h, [_value(matrix[r, c]) for r in rows]) for h, c in zip(headings, shown, strict=True)]
    if len(shown) < wide:
        columns.append(grid.column(f"{wide - len(shown):,} more: --all", ["…" for _ in rows]))
    return columns


def _value(value: object) -> Text:
    if isinstance(value, complex | np.complexfloating):
        number = complex(value)
        sign = plain.MINUS if number.imag < 0 or math.copysign(1, number.imag) < 0 else "+"
        return Text(f"{plain.number(number.real, VALUE_DIGITS)} {sign} {plain.number(abs(number.imag), VALUE_DIGITS)}i")
    return number_text(float(value), VALUE_DIGITS)  # type: ignore[arg-type]


def _no_values(record: RunRecord, tensor: Tensor, step: int) -> str:
    name = named.label(record, tensor)
    steps = record.value_steps(name, "parameter")
    if not len(steps):
        of = plain.counted(tensor.count, "number")
        return f"its {of} were not kept one by one: that is done for small tensors. Its statistics are: --tensor"
    before, after = steps[steps <= step], steps[steps > step]
    near = [int(before[-1])] if len(before) else []
    near += [int(after[0])] if len(after) else []
    where = " and ".join(plain.count(n) for n in near)
    return f"its numbers were not kept at step {step:,}; the nearest are at step {where}: --step {near[0]}"


def _hanging(words: str, width: int) -> list[Text]:
    from weighbridge.report.text import wrapped

    return [Text("  ") + line for line in wrapped(Text(words), max(width - 2, 20))]
