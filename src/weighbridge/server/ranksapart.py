"""The ranks of a run beside each other: how far each came, its own loss, and where what should be equal is not.

Copies agree when their sums and sums of absolute values are equal bit for bit, as rule diverged-replicas has it; they are
compared at the steps at which all ranks wrote them. Shards are parts of one tensor and are not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from weighbridge.diagnosis.kept import jsonable
from weighbridge.records import COPY, REPLICA, SHARD
from weighbridge.server.layers import is_bias
from weighbridge.server.lines import curve_of
from weighbridge.store.record import RunRecord, Tensor

SUMS: Final = ("parameter.sum", "parameter.l1_norm")
RANKS: Final = 32  # of more the first are read
CELLS: Final = 16_000_000  # steps x tensors x pairs of ranks that are compared; of more steps every so many
COLUMNS: Final = 240  # of the picture
ROWS: Final = 12  # tensors in the picture, those first that differ first
SAME, APART, ABSENT = range(3)

Open = Callable[[int], AbstractContextManager[RunRecord]]


@dataclass(frozen=True, slots=True)
class Compared:
    """What the ranks hold of the same parameters at the same steps."""

    steps: np.ndarray  # int64 [steps]
    tensors: list[Tensor]
    sums: np.ndarray  # float64 [ranks, steps, tensors]; NaN = not recorded
    state: np.ndarray  # uint8 [ranks, steps, tensors]: SAME as most ranks, APART or ABSENT
    are_copies: bool  # they are known to be meant as equal

    @property
    def apart(self) -> np.ndarray:
        return np.asarray(self.state == APART)

    @property
    def is_each_its_own(self) -> bool:
        """Nothing keeps them equal, and no two ranks are where they first differ."""
        steps = np.flatnonzero(self.apart.any(axis=(0, 2)))
        return not self.are_copies and len(steps) > 0 and int(self.apart[:, steps[0]].any(axis=1).sum()) == len(self.state) - 1


def beside(record: RunRecord, open_rank: Open) -> dict[str, Any]:
    """All that the page says of the ranks. `open_rank` gives the run as one rank recorded it."""
    numbers = list(record.ranks[:RANKS])
    states = {number: (state, last) for number, state, last in record.rank_states()}
    curves, lasts = {}, {}
    for number in numbers:
        with open_rank(number) as one:
            curves[number], lasts[number] = curve_of(one), one.info.last_loss
    found = compared(record, numbers, open_rank) if len(numbers) > 1 else None
    told: dict[str, Any] = jsonable(
        {
            "count": len(record.ranks),
            "ranks": [
                _rank(i, number, states[number], curves[number], lasts[number], found) for i, number in enumerate(numbers)
            ],
            "sentence": _sentence(found, numbers),
            "trouble": found is not None and found.are_copies and bool(found.apart.any()),
            "picture": _picture(found) if found is not None and found.apart.any() and not found.is_each_its_own else None,
        }
    )
    return told


def compared(record: RunRecord, numbers: Sequence[int], open_rank: Open) -> Compared | None:
    """None where no parameter was written whole by all of these ranks at one step."""
    rows, places = [], []
    for number in numbers:
        with open_rank(number) as one:
            told = {(row["model"], row["name"]): row for row in one.whole("tensors").to_pylist() if row["role"] != "output"}
        rows.append({name: row["tensor"] for name, row in told.items() if row["placement"] != SHARD})
        places.append({row["placement"] for row in told.values()})
    tensors = [one for one in record.tensors if all((one.model, one.name) in known for known in rows)]
    steps = _steps(numbers, open_rank, tensors)
    if not tensors or not len(steps):
        return None
    values = np.full((len(numbers), len(SUMS), len(steps), len(tensors)), np.nan)
    for i, number in enumerate(numbers):
        ids = [rows[i][one.model, one.name] for one in tensors]
        with open_rank(number) as one:
            found = one.grids(SUMS, int(steps[0]), int(steps[-1]) + 1, ids, steps)
        values[i] = [found[name] for name in SUMS]
    are_copies = all(found & {COPY, REPLICA} for found in places)
    return Compared(steps, tensors, values[:, 0], _states(values), are_copies)


def _steps(numbers: Sequence[int], open_rank: Open, tensors: Sequence[Tensor]) -> np.ndarray:
    """Those at which all ranks wrote the first parameter; every so many where they are too many."""
    steps: np.ndarray | None = None
    for number in numbers if tensors else ():
        with open_rank(number) as one:
            mine = one.series(f"{tensors[0].model}:{tensors[0].name}", SUMS[0]).steps
        steps = mine if steps is None else np.intersect1d(steps, mine)
    if steps is None:
        return np.empty(0, np.int64)
    most = max(2, CELLS // (len(numbers) ** 2 * len(tensors)))
    return steps if len(steps) <= most else steps[np.unique(np.linspace(0, len(steps) - 1, most).astype(np.int64))]


def _states(values: np.ndarray) -> np.ndarray:
    """[ranks, sums, steps, tensors] -> whether each rank has what most have; where as many have each, what the first has."""
    known = ~np.isnan(values).any(axis=1)
    alike = (values[:, None] == values[None]).all(axis=2) & known[:, None] & known[None]  # [ranks, ranks, steps, tensors]
    most = alike.sum(axis=1).argmax(axis=0)  # the first of those whose numbers most ranks have
    same = np.take_along_axis(alike, most[None, None], axis=0)[0]
    return np.where(known, np.where(same, SAME, APART), ABSENT).astype(np.uint8)


def _rank(
    i: int, number: int, state: tuple[str, int], curve: list[list[Any]], last: float | None, found: Compared | None
) -> dict[str, Any]:
    found = None if found is not None and found.is_each_its_own else found
    apart = found.apart[i] if found is not None else np.zeros((0, 0), bool)
    steps = np.flatnonzero(apart.any(axis=1))
    return {
        "rank": number,
        "state": state[0],
        "steps": state[1] + 1,
        "loss": curve,
        "last": last,
        "apart": int(apart.any(axis=0).sum()) if found is not None else None,
        "first": int(found.steps[steps[0]]) if found is not None and len(steps) else None,
    }


def _sentence(found: Compared | None, numbers: Sequence[int]) -> str:
    if found is None:
        return "No parameter was written whole by all ranks at the same step: there is nothing to compare."
    at = f"{len(found.steps):,} compared step" + ("s" if len(found.steps) != 1 else "")
    apart = found.apart
    if not apart.any():
        all_of = "Both" if len(numbers) == 2 else f"All {len(numbers)}"
        return f"{all_of} ranks hold the same {len(found.tensors):,} parameters to the last bit, at {at}."
    i = int(np.flatnonzero(apart.any(axis=(0, 2)))[0])  # the first step at which some differ
    who = [numbers[k] for k in np.flatnonzero(apart[:, i].any(axis=1)).tolist()]
    where = np.flatnonzero(apart[:, i].any(axis=0))
    step, first = int(found.steps[i]), found.tensors[int(where[0])].name
    if found.is_each_its_own:
        return (
            f"Each rank trains parameters of its own: they differ from step {step:,} on. "
            "No wrapper of the model says that they should be equal."
        )
    rest = [number for number in numbers if number not in who]
    one = f"Rank {who[0]} differs" if len(who) == 1 else f"Ranks {_listed(who)} differ"
    if len(numbers) == 2:
        one = f"Ranks {_listed(numbers)} differ"
    elif rest:
        one += f" from rank{'s' if len(rest) > 1 else ''} {_listed(rest)}"
    which = f"{len(where):,} of {len(found.tensors):,} parameters" if len(found.tensors) > 1 else "its one parameter"
    before = f"after {i} steps at which all were equal" if i > 1 else "after one step at which all were equal" if i else ""
    return f"{one} in {which} from step {step:,} on{', ' + before if before else ''}: {first} first."


def _listed(numbers: Sequence[int]) -> str:
    told = [str(number) for number in numbers]
    if len(told) > 6:
        return f"{', '.join(told[:5])} and {len(told) - 5} others"
    return f"{', '.join(told[:-1])} and {told[-1]}" if len(told) > 1 else told[0]


def _picture(found: Compared) -> dict[str, Any]:
    """Parameters x ranks x compared steps; neighbouring steps are one column where there are many, in which one that differs
    shows."""
    apart = found.apart.any(axis=0)  # [steps, tensors]
    first = np.where(apart.any(axis=0), apart.argmax(axis=0), len(found.steps))
    chosen = sorted(np.flatnonzero(apart.any(axis=0)).tolist(), key=lambda k: (int(first[k]), k))[:ROWS]
    starts = np.unique(np.linspace(0, len(found.steps), min(COLUMNS, len(found.steps)) + 1).astype(np.int64))[:-1]
    ends = np.append(starts[1:], len(found.steps)) - 1
    worst = np.maximum.reduceat(np.where(found.state == ABSENT, -1, found.state.astype(np.int8)), starts, axis=1)
    state = np.where(worst < 0, ABSENT, worst)
    rows = []
    for k in chosen:
        one = found.tensors[k]
        rows.append(
            {
                "name": one.name,
                "model": one.model,
                "bias": is_bias(one),
                "state": state[:, :, k].tolist(),
                "sums": found.sums[:, ends, k].tolist(),
            }
        )
    steps = {"first": found.steps[starts].tolist(), "last": found.steps[ends].tolist()}
    return {**steps, "rows": rows, "count": int(apart.any(axis=0).sum())}
