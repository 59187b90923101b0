"""A run with very many tensors on one screen: folded by module, or the first and the last of them.

Folded rows show the spread of their members, so that one bad layer still shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.text import Text

from weighbridge import format as plain
from weighbridge.report import grid, named, views
from weighbridge.report.machine import Cell
from weighbridge.report.text import SHORT, number_text, tensor_lines, wrapped
from weighbridge.store.record import RunRecord, Tensor

FOLD_ABOVE: Final = 100  # tensors that are still shown one by one: some two screens
MOST_GROUPS: Final = 60  # rows of a folded list: one screen, as on the page
ENDS: Final = 20  # tensors shown at either end where modules do not fold


def folded_lines(
    record: RunRecord, tensors: Sequence[Tensor], statistics: Sequence[str], spark: str | None, step: int | None, width: int
) -> list[Text]:
    """The tensors in at most some 60 lines, with a line that says how to see the rest."""
    groups = module_groups(tensors)
    name = plain.visible(named.typed_name(record))
    if groups is None:
        between = len(tensors) - 2 * ENDS
        lines = tensor_lines(record, [*tensors[:ENDS], *tensors[-ENDS:]], statistics, spark, step, width)
        tail = len(lines) - _lines_of_last(lines, ENDS)
        lines.insert(tail, Text(f"… {plain.counted(between, 'tensor')} between them", style="dim"))
        hint = f"All of them: weighbridge show {name} --all     Some: --tensor '*.bias'"
    else:
        lines = _group_lines(record, groups, statistics, step, width)
        example = next(iter(groups))
        hint = (
            f"{plain.counted(len(tensors), 'tensor')} folded into {plain.counted(len(groups), 'module')}; "
            "a range is that of the members. "
            f"All of them: weighbridge show {name} --all     Some: --tensor '{plain.visible(example)}.*'"
        )
    return [*lines, *wrapped(Text(hint, style="dim"), width)]


def _lines_of_last(lines: Sequence[Text], count: int) -> int:
    """How many of the last lines hold the last `count` tensors; a module's heading belongs to the tensors under it."""
    grouped = any(line.plain.startswith("  ") for line in lines[1:]) and any(
        not line.plain.startswith("  ") for line in lines[1:]
    )
    if not grouped:
        return count
    seen = 0
    for back, line in enumerate(reversed(lines), start=1):
        seen += line.plain.startswith("  ")
        if seen == count:
            return back + (not lines[-back - 1].plain.startswith("  "))
    return count


def module_groups(tensors: Sequence[Tensor]) -> dict[str, list[Tensor]] | None:
    """The tensors by the longest prefix of modules that gives at most 60 groups; None where no prefix folds well."""
    best: dict[str, list[Tensor]] | None = None
    for depth in range(1, 9):
        groups: dict[str, list[Tensor]] = {}
        for tensor in tensors:
            path = named.module_path(tensor.name).split(".")
            groups.setdefault(".".join(path[:depth]), []).append(tensor)
        if len(groups) > MOST_GROUPS:
            break
        if len(groups) > 1:
            best = groups
    return best


def _group_lines(
    record: RunRecord, groups: dict[str, list[Tensor]], statistics: Sequence[str], step: int | None, width: int
) -> list[Text]:
    flat = [t for members in groups.values() for t in members]
    table = views.overview(record, flat, statistics, step)
    cells = {t.id: row[len(views.TENSOR_COLUMNS) :] for t, row in zip(flat, table.rows, strict=True)}
    names = [plain.cut_middle(plain.visible(name) or "(the model itself)", max(width // 3, 12)) for name in groups]
    fixed = [grid.column("module", names, right=False)]
    others = [
        grid.column("tensors", [plain.count(len(m)) for m in groups.values()]),
        grid.column("count", [plain.count(sum(t.count for t in m)) for m in groups.values()]),
    ]
    joined = _joined(statistics)
    short = all(members[0] in SHORT for _, members in joined if len(members) == 1)
    for heading, members in joined:
        places = [list(statistics).index(n) for n in members]
        found = [[cells[t.id][p] for t in m for p in places] for m in groups.values()]
        others.append(grid.column(SHORT[heading] if short and heading in SHORT else heading, [_spread(v) for v in found]))
    while grid.total_width([*fixed, *others]) > width and others[0].heading in ("tensors", "count"):
        del others[0]  # the statistics matter more where there is no room for all
    return [line for block in grid.in_blocks(fixed, others, width) for line in grid.lines(block)]


def _joined(statistics: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Headings and the statistics under them; least and largest value become one range."""
    out: list[tuple[str, tuple[str, ...]]] = []
    for name in statistics:
        if name == "parameter.max" and out and out[-1][1] == ("parameter.min",):
            out[-1] = ("value range", ("parameter.min", "parameter.max"))
        else:
            out.append((name, (name,)))
    return out


def _spread(values: Sequence[Cell]) -> Text:
    """From the least to the largest of the members; red NaN if any of them is not a number."""
    known = [float(v) for v in values if isinstance(v, int | float)]
    bad = [v for v in known if v != v]
    if not known or bad:
        return number_text(bad[0] if bad else None)
    low, high = min(known), max(known)
    if low == high:
        return number_text(low, 2)
    return Text.assemble(number_text(low, 2), " … ", number_text(high, 2))
