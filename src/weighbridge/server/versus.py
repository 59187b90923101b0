"""Two and more runs beside each other: what was set differently, where they part, and how every tensor differs over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from weighbridge.catalog import parse
from weighbridge.diagnosis.kept import jsonable
from weighbridge.errors import BadInput, NothingRecorded
from weighbridge.server.arrays import packed
from weighbridge.server.heat import ABSENT, NONFINITE, VALUE, Cells, Row, cells_of, rows_of
from weighbridge.server.parting import common, parting, said
from weighbridge.server.shapes import run_json
from weighbridge.store.histogram import edges_of
from weighbridge.store.record import RunRecord

IDENTICAL: Final = 4  # a cell in which both runs have the very same number
LAST_LOSSES: Final = 25
FACE_BINS: Final = 60


def comparison(names: Sequence[str], records: Sequence[RunRecord]) -> dict[str, Any]:
    """Facts of all runs, the settings that differ and those that do not, and where the first two part."""
    settings = [settings_of(record) for record in records]
    shared = {t.name for t in common(records)}
    keys = list(dict.fromkeys(key for one in settings for key in one))
    rows = [{"name": key, "values": [one.get(key) for one in settings]} for key in keys]
    results = [results_of(record) for record in records]
    told = {
        "runs": [run_json(name, record) for name, record in zip(names, records, strict=True)],
        "differ": [row for row in rows if any(value != row["values"][0] for value in row["values"])],
        "equal": [{"name": r["name"], "value": r["values"][0]} for r in rows if all(v == r["values"][0] for v in r["values"])],
        "results": [{"name": key, "values": [one.get(key) for one in results]} for key in results[0]],
        "logged": sorted(set.intersection(*(set(record.log_keys()) for record in records))),
        "tensors": [t.name for t in common(records)],
        "alone": [[t.name for t in record.tensors if t.name not in shared] for record in records],
        "parting": (parted := parting(records[0], records[1]) if len(records) > 1 else None),
        "said": said(parted) if parted else None,
    }
    answer: dict[str, Any] = jsonable(told)
    return answer


def settings_of(record: RunRecord) -> dict[str, Any]:
    """What the user set: the configuration flat, and what every optimizer was made with."""
    found = {f"config {key}": value for key, value in _flat(record.config).items()}
    for group in record.optimizer_groups():
        if group.step <= max(record.first_step, 0):
            which = f"optimizer {group.optimizer}" if group.optimizer else "optimizer"
            found[which] = group.kind
            place = which if not group.group else f"{which} group {group.group}"
            found |= {f"{place} {key}": _plain(value) for key, value in _flat(group.settings).items()}
    found |= {f"learning rate{since}": rate for since, rate in _rates(record).items()}
    return found


def _rates(record: RunRecord) -> dict[str, float]:
    """The learning rate at the start, and from where it jumped to another one for good; of schedules the start alone."""
    table = record.steps_table()
    rates = [rates[0] if rates else None for rates in table.column("lr").to_pylist()]
    if not rates or rates[0] is None:
        return {}
    changes = [i for i in range(1, len(rates)) if rates[i] != rates[i - 1] and rates[i] is not None]
    steps = table.column("step").to_pylist()
    later = {f" from step {steps[i]:,}": rates[i] for i in changes} if len(changes) <= 3 else {}
    return {"": rates[0], **later}


def _flat(content: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": _plain(value)}
    return flat


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def results_of(record: RunRecord) -> dict[str, Any]:
    """What came out: the loss over the last steps, each metric's last value, steps."""
    losses = record.losses().values
    last = losses[-LAST_LOSSES:]
    found: dict[str, Any] = {f"loss, mean of the last {LAST_LOSSES} steps": float(np.mean(last)) if len(last) else None}
    for key in record.log_keys():
        try:
            found[f"{key}, last"] = float(record.logged(key).values[-1])
        except (NothingRecorded, IndexError):
            continue
    return {**found, "steps": record.steps}


@dataclass(frozen=True, slots=True)
class Between:
    """One run against another: value and mask [rows, columns], the steps of each column, tensors that one run has alone."""

    rows: tuple[Row, ...]
    scale: str  # "versus": log10(b / a); "less": b - a
    first: np.ndarray
    last: np.ndarray
    value: np.ndarray
    mask: np.ndarray
    domain: tuple[float, float] | None
    alone: list[str]


def cells_between(
    a: RunRecord, b: RunRecord, statistic: str, show: str, fold: str, columns: int, start: int | None, stop: int | None
) -> Between:
    """b against a: log10(b / a) where values are sizes, else b - a; mask 4 where both are the very same."""
    parse(statistic)
    last = min(a.steps, b.steps)
    stop = last if stop is None else min(stop, last)
    rows = [rows_of(record, statistic, show, fold, ()) for record in (a, b)]
    names = {(row.name, row.bias): row for row in rows[1]}
    pairs = [(row, names[row.name, row.bias]) for row in rows[0] if (row.name, row.bias) in names]
    one = cells_of(a, statistic, [pair[0] for pair in pairs], start, stop, columns)
    two = cells_of(b, statistic, [pair[1] for pair in pairs], start, stop, columns)
    if not np.array_equal(one.first, two.first):
        raise BadInput("These two runs were recorded at different steps; they have no common columns.")
    value, mask = _versus(one, two)
    alone = [row.name for row in rows[1] if (row.name, row.bias) not in {(r.name, r.bias) for r in rows[0]}]
    alone += [row.name for row in rows[0] if (row.name, row.bias) not in names]
    scale = "versus" if one.scale in ("log", "count") else "less"
    return Between(one.rows, scale, one.first, one.last, value, mask, _edges(value, mask, one.scale), alone)


def difference(
    a: RunRecord, b: RunRecord, statistic: str, show: str, fold: str, columns: int, start: int | None, stop: int | None
) -> bytes:
    """The same as the page takes it."""
    found = cells_between(a, b, statistic, show, fold, columns, start, stop)
    about = {
        "statistic": statistic,
        "scale": found.scale,
        "rows": [row.as_json() for row in found.rows],
        "alone": found.alone,
        "first": found.first.tolist(),
        "last": found.last.tolist(),
        "domain": found.domain,
        "counts": [],
        "below": 0,
        "above": 0,
    }
    return packed(about, value=found.value.astype(np.float32), mask=found.mask)


def _versus(one: Cells, two: Cells) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(all="ignore"):
        value = np.log10(two.value / one.value) if one.scale in ("log", "count") else two.value - one.value
    mask = np.where(np.isfinite(value), VALUE, ABSENT).astype(np.uint8)
    mask[(one.value == two.value)] = IDENTICAL
    mask[(one.mask == ABSENT) | (two.mask == ABSENT)] = ABSENT
    mask[(one.mask == NONFINITE) | (two.mask == NONFINITE)] = NONFINITE
    return value, mask


def _edges(value: np.ndarray, mask: np.ndarray, scale: str) -> tuple[float, float] | None:
    found = np.abs(value[mask == VALUE])
    if not len(found):
        return (-1.0, 1.0) if (mask == IDENTICAL).any() else None
    edge = float(np.percentile(found, 99))
    if scale in ("log", "count"):
        edge = next((step for step in (0.1, 0.3, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0) if step >= edge), 20.0)
    return (-edge or -1.0, edge or 1.0)


def face_to_face(records: Sequence[RunRecord], tensor: str, step: int | None) -> dict[str, Any]:
    """Counts of one tensor's values in each run at (or last before) this step, in the same bins."""
    kept = []
    for record in records:
        try:
            kept.append(record.values(tensor, "parameter", step))
        except NothingRecorded:
            kept = []
            break
    if kept:
        numbers = [values.astype(np.float64).ravel() for _, values in kept]
        everything = np.concatenate([one[np.isfinite(one)] for one in numbers])
        low, high = (float(everything.min()), float(everything.max())) if len(everything) else (0.0, 1.0)
        edges = np.linspace(low, high if high > low else low + 1.0, FACE_BINS + 1)
        counts = [np.histogram(one[np.isfinite(one)], edges)[0].tolist() for one in numbers]
        return {"edges": edges.tolist(), "linear": True, "counts": counts, "steps": [at for at, _ in kept]}
    found = [_stored(record, tensor, step) for record in records]
    together = np.sum([counts for _, counts in found], axis=0)
    used = np.flatnonzero(together)
    low_bin, high_bin = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
    edges = np.clip(edges_of(0)[low_bin : high_bin + 1], -(2.0**24), 2.0**24)
    cut = [counts[low_bin:high_bin].tolist() for _, counts in found]
    return {"edges": edges.tolist(), "linear": False, "counts": cut, "steps": [at for at, _ in found]}


def _stored(record: RunRecord, tensor: str, step: int | None) -> tuple[int, np.ndarray]:
    last = record.steps - 1
    at = last if step is None else min(step, last)
    steps, _, counts = record.histograms(tensor, "parameter", [at])
    return (at, counts[0]) if len(steps) else (at, np.zeros(132, np.int64))
