"""A run in the terminal: its head, and all of its tensors on one screen.

Three ways to lay out the tensors, the first that fits is taken: one line each with the full name; the same with two
significant digits; grouped under their modules, so that long names have a line of their own. Nothing is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import groupby, pairwise
from typing import Final

from rich.text import Text

from weighbridge import format as plain
from weighbridge.catalog import parse
from weighbridge.report import grid, named, views
from weighbridge.report.machine import Cell
from weighbridge.store.record import RunInfo, RunRecord, Tensor
from weighbridge.store.status import ENDED

MARKS: Final = {"weight": "W", "bias": "b", "norm_scale": "γ", "norm_shift": "β", "embedding": "E", "other": "p"}
ROLE_STYLES: Final = {"weight": "blue", "bias": "magenta", "norm_scale": "blue", "norm_shift": "magenta"}
ROLE_WORDS: Final = {
    "norm_scale": "scale of a norm",
    "norm_shift": "shift of a norm",
    "embedding": "embedding",
    "other": "other",
}
STATE_STYLES: Final = {"live": "green", "ended without finish": "yellow"}
TROUBLE: Final = "bold red"
LEAST_SPARK, MOST_SPARK = 8, 40
SHORT: Final = {
    "parameter.rms": "rms",
    "gradient.rms": "grad rms",
    "update.ratio": "u/w",
    "update.rms": "upd rms",
}


def head(record: RunRecord, width: int) -> list[Text]:
    """Name, state, steps, tensors, size, own cost, and the loss from first to last."""
    info = record.info
    title = Text.assemble(
        (plain.visible(info.name), "bold"),
        "  ",
        (state_words(info), STATE_STYLES.get(info.state, "")),
        f"  started {plain.when(info.started)}",
    )
    elements = sum(t.count for t in record.tensors)
    facts = [
        plain.counted(info.steps, "step"),
        f"{plain.counted(info.tensors, 'tensor')} with {plain.counted(elements, 'number')}",
        plain.size(info.size_bytes),
    ]
    facts += rank_facts(record)
    own, wall = record.own_cost()
    if wall > 0:
        facts.append(f"own cost {plain.share(own / wall)}")
    if record.detail is not None:
        facts.append(f"less detail since step {plain.count(record.detail.step)}: {record.detail.words}")
    return [*wrapped(title, width), *wrapped(Text(" · ".join(facts)), width), *loss_lines(record, width), Text()]


def rank_facts(record: RunRecord) -> list[str]:
    """How many ranks are shown as one, which of them are missing, and which ended early."""
    facts, n, world = [], len(record.ranks), record.world_size
    if n > 1:
        facts.append(f"{n} ranks as one (--rank shows one alone)" if record.rank is None else f"rank {record.rank}, one of {n}")
        dead = [(rank, last) for rank, state, last in record.rank_states() if state == ENDED]
        facts += [f"rank {rank} ended without finish at step {last}" for rank, last in dead]
    if n < world and record.has_shards:
        facts.append(f"{n} of {world} ranks recorded: of tensors that are spread over ranks there are parts only (--rank)")
    return facts


def state_words(info: RunInfo) -> str:
    if info.state == "live" and info.last_flush is not None:
        ago = max((datetime.now(UTC) - info.last_flush).total_seconds(), 0.0)
        return f"live, last data {plain.duration(ago)} ago"
    if info.state == "ended without finish":
        return f"ended without finish: everything up to step {plain.count(max(info.steps - 1, 0))} is here"
    return info.state


def loss_lines(record: RunRecord, width: int) -> list[Text]:
    """ "loss 0.69 → 0.02 ▇▅▃▁", or why there is none."""
    steps, values = views.losses(record)
    if not len(steps):
        return [Text("no loss was seen yet" if record.info.state == "live" else "no loss was seen")]
    first, last = float(values[0]), float(values[-1])
    line = Text(f"loss {plain.metric(first)} → {plain.metric(last)}  ")
    if not math.isfinite(last):
        line.stylize(TROUBLE)
    room = min(max(width - len(line.plain), LEAST_SPARK), MOST_SPARK)
    line.append(plain.sparkline(thinned(values.tolist(), room)))
    return [line]


def thinned(values: Sequence[float | None], most: int) -> list[float | None]:
    """At most `most` means of equal stretches; a stretch with something not finite in it is NaN."""
    if len(values) <= most:
        return list(values)
    cuts = [len(values) * i // most for i in range(most + 1)]
    return [_mean(values[a:b]) for a, b in pairwise(cuts)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def tensor_lines(
    record: RunRecord, tensors: Sequence[Tensor], statistics: Sequence[str], spark: str | None, step: int | None, width: int
) -> list[Text]:
    """All these tensors: shape, count, value range, statistics, and a sparkline of `spark`."""
    table = views.overview(record, tensors, statistics, step)
    rows = [row[len(views.TENSOR_COLUMNS) :] for row in table.rows]
    least = LEAST_SPARK + grid.GAP if spark else 0
    for by_module, digits in ((False, 3), (False, 2), (True, 3), (True, 2)):
        columns = _columns(record, tensors, statistics, rows, digits, by_module)
        if grid.total_width(columns) + least + (2 if by_module else 0) <= width:
            break
    else:
        columns[0] = _narrowed(columns[0], width - least - 2 - grid.total_width(columns))
    if spark:
        columns.append(_spark_column(record, tensors, spark, width - grid.total_width(columns) - grid.GAP - 2 * by_module))
    lines = grid.lines(columns, indent=2 if by_module else 0)
    return _under_modules(record, tensors, lines) if by_module else lines


def _columns(
    record: RunRecord,
    tensors: Sequence[Tensor],
    statistics: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    digits: int,
    by_module: bool,
) -> list[grid.Column]:
    names = [plain.visible(t.name.rpartition(".")[2] if by_module else named.label(record, t)) for t in tensors]
    columns = [
        grid.column("tensor", names, right=False),
        grid.column("", [Text(MARKS.get(t.role, "p"), style=ROLE_STYLES.get(t.role, "")) for t in tensors]),
        grid.column("shape", [plain.shape(t.shape) for t in tensors]),
        grid.column("count", [plain.count(t.count) for t in tensors]),
    ]
    at = {name: i for i, name in enumerate(statistics)}
    shown = list(statistics)
    for quantity in views.WEIGHED:
        low, high = f"{quantity}.min", f"{quantity}.max"
        if low in at and high in at and shown.index(high) == shown.index(low) + 1:  # the two ends make one column
            texts = [_range(row[at[low]], row[at[high]], digits) for row in rows]
            columns.append(grid.column("value range" if quantity == "parameter" else f"{quantity} range", texts))
            shown.remove(low)
            shown.remove(high)
    short = all(name in SHORT for name in shown)
    return columns + [
        grid.column(SHORT[name] if short else name, [number_text(row[at[name]], digits) for row in rows]) for name in shown
    ]


def _range(low: Cell, high: Cell, digits: int) -> Text:
    if low is None or high is None:
        return Text(plain.NOT_RECORDED)
    if low == high:
        return number_text(low, digits)
    return Text.assemble(number_text(low, digits), " … ", number_text(high, digits))


def number_text(value: Cell, digits: int = 3) -> Text:
    """One cell: a dot where nothing was recorded, red where it is NaN or infinite."""
    if value is None or isinstance(value, str):
        return Text(plain.NOT_RECORDED if value is None else plain.visible(value))
    if float(value).is_integer() and isinstance(value, int):
        return Text(plain.count(value))
    return Text(plain.number(value, digits), style="" if math.isfinite(value) else TROUBLE)


def _spark_column(record: RunRecord, tensors: Sequence[Tensor], statistic: str, room: int) -> grid.Column:
    room = min(max(room, LEAST_SPARK), MOST_SPARK)
    found = views.sparks(record, statistic, room)
    place = {t.id: i for i, t in enumerate(record.tensors)}
    scale = parse(statistic)[1].scale
    heading = statistic if len(statistic) <= room else "series"  # the legend names it
    cells = [plain.sparkline(found[place[t.id]], scale) for t in tensors]
    return grid.column(heading, cells, right=False)


def _narrowed(names: grid.Column, missing: int) -> grid.Column:
    room = max(names.width + missing, 6)
    return grid.column(names.heading, [plain.cut_middle(cell.plain, room) for cell in names.cells], right=False)


def _under_modules(record: RunRecord, tensors: Sequence[Tensor], lines: list[Text]) -> list[Text]:
    """The heading, then each module's name and type over the lines of its tensors."""
    out, place = [lines[0]], 1
    for (_model, path), group in groupby(tensors, key=lambda t: (t.model, named.module_path(t.name))):
        members = list(group)
        prefix = named.label(record, members[0]).removesuffix(members[0].name)
        title = plain.visible(f"{prefix}{path}") or "(the model itself)"
        out.append(Text.assemble((title, "bold"), "  ", (plain.visible(members[0].module), "dim")))
        out += lines[place : place + len(members)]
        place += len(members)
    return out


def legend(tensors: Iterable[Tensor], spark: str | None, width: int) -> list[Text]:
    """What the marks mean; only those that are on the screen."""
    roles = {t.role for t in tensors}
    words = [f"{MARKS[r]} {ROLE_WORDS.get(r, r)}" for r in MARKS if r in roles]
    words += [f"sparkline: {spark}, each on its own scale", "· not recorded", "× NaN or Inf"] if spark else ["· not recorded"]
    return wrapped(Text("   ".join(words), style="dim"), width)


def trouble_lines(record: RunRecord, most: int = 6) -> list[Text]:
    """Where NaN or infinity was met, if anywhere: the earliest tensors first."""
    met: list[tuple[int, str]] = []
    for quantity in ("parameter", "gradient"):
        heat = record.heat_map(f"{quantity}.nonfinite_count", buckets=200)
        for tensor, worst in zip(heat.tensors, heat.max, strict=True):
            bad = [i for i, n in enumerate(worst) if n > 0]
            if bad:
                first, final = int(heat.step_first[bad[0]]), int(heat.step_last[bad[0]])
                since = (
                    f"step {plain.count(first)}" if final == first else f"steps {plain.count(first)} to {plain.count(final)}"
                )
                name = plain.visible(named.label(record, tensor))
                met.append((first, f"! NaN or Inf in the {quantity} of {name}, first at {since}"))
    met.sort(key=lambda one: one[0])
    lines = [Text(words, style=TROUBLE) for _, words in met[:most]]
    return lines + ([Text(f"! and in {len(met) - most} more", style=TROUBLE)] if len(met) > most else [])


def note_lines(record: RunRecord, tensors: Sequence[Tensor]) -> list[Text]:
    """Why a tensor is not weighed, and which names are the same tensor."""
    frozen = [plain.visible(named.label(record, t)) for t in tensors if not t.requires_grad and not t.note]
    lines = [Text(f"frozen (requires_grad is False): {', '.join(frozen)}", style="dim")] if frozen else []
    for tensor in tensors:
        name = plain.visible(named.label(record, tensor))
        if tensor.note:
            lines.append(Text(f"{name}: {plain.visible(tensor.note)}", style="dim"))
        if tensor.aliases:
            others = ", ".join(plain.visible(a) for a in tensor.aliases)
            lines.append(Text(f"{name} is also {others} (one tensor, tied)", style="dim"))
    return lines


def wrapped(text: Text, width: int) -> list[Text]:
    """The text in lines of at most `width`, broken between words."""
    from rich.console import Console

    lines = list(text.wrap(Console(width=width), width))
    for line in lines:
        line.rstrip()
    return lines
