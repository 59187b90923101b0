"""Several ranks as one run: which rank's rows stand for a tensor, and how the rows of its shards become one.

A tensor is known by model and name; each rank numbers its tensors itself. Shards add up. Of what every rank holds whole, the
lowest rank that weighs it stands for all; its rows are never added to another's. A step at which the shards there are
do not have all elements of the tensor (a rank died) is not recorded: a part is never shown as the whole.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from weighbridge.records import COPY, LOCAL, ROWS, SHARD

_ADDED: Final = ("count", "nan", "pos_inf", "neg_inf", "zero", "subnormal", "hist_count", "lost")
_SUMMED: Final = ("sum", "sum_abs", "sum_sq", "dot_gradient_parameter", "dot_gradient_update", "dot_update_parameter")
Share = dict[int, int]  # of one rank: its number of a tensor -> that in the merged run


@dataclass(frozen=True, slots=True)
class Merge:
    """How the ranks of a run go together."""

    tensors: list[dict[str, Any]]  # rows of the table of tensors, renumbered
    shares: dict[int, Share] = field(default_factory=dict)  # rank -> what its rows stand for
    whole: dict[int, int] = field(default_factory=dict)  # sharded tensor (merged number) -> its elements

    def is_of_one(self, rank: int) -> bool:
        """Do the rows of this rank alone, under its own numbers, say everything?"""
        others = any(share for other, share in self.shares.items() if other != rank)
        return not others and not self.whole and all(a == b for a, b in self.shares.get(rank, {}).items())


def merge(by_rank: dict[int, list[dict[str, Any]]]) -> Merge:
    """From each rank's table of tensors, in the order in which it was written. The lowest rank's numbers are kept."""
    latest = {rank: {row["tensor"]: row for row in rows} for rank, rows in sorted(by_rank.items())}
    numbers: dict[tuple[str, str, int], int] = {}
    holders: dict[int, list[tuple[int, dict[str, Any]]]] = {}
    for rank, rows in latest.items():
        times: Counter[tuple[str, str]] = Counter()  # unwatched and watched again: the same name twice
        for row in rows.values():
            name = (row["model"], row["name"])
            free = row["tensor"] if rank == min(latest) else max(numbers.values(), default=-1) + 1
            number = numbers.setdefault((*name, times[name]), free)
            times[name] += 1
            holders.setdefault(number, []).append((rank, row))
    found = Merge([], {rank: {} for rank in latest})
    for number, held in holders.items():
        standing = _standing(held)
        found.tensors.append(standing[0][1] | {"tensor": number})
        for rank, row in standing:
            found.shares[rank][row["tensor"]] = number
        if standing[0][1]["placement"] == SHARD and not _is_whole(standing):
            found.whole[number] = _elements(standing[0][1])
    return found


def _standing(held: list[tuple[int, dict[str, Any]]]) -> list[tuple[int, dict[str, Any]]]:
    """Those ranks whose rows stand for the tensor: all of its shards, else the lowest that weighs it at every step."""
    shards = [one for one in held if one[1]["placement"] == SHARD]
    full = [one for one in held if (one[1]["placement"] or LOCAL) != COPY]
    return shards or full[:1] or held[:1]


def _is_whole(standing: list[tuple[int, dict[str, Any]]]) -> bool:
    """Does one rank alone hold all of it (a training of one process)?"""
    ((_, row), *others) = standing
    return not others and math.prod(row["local_shape"] or ()) == row["count"]


def _elements(row: dict[str, Any]) -> int:
    return int(row["count"]) * (2 if row["dtype"].startswith("complex") else 1)


def merged_sql(sources: list[tuple[str | None, Share]], whole: dict[int, int]) -> str | None:
    """SQL of the rows of several ranks as one: columns of the table of rows without histograms and `attempt`."""
    pieces = [_renumbered(source, share) for source, share in sources if source and share]
    if not pieces:
        return None
    added = [f'CAST(sum("{name}") AS BIGINT) AS "{name}"' for name in _ADDED]
    added += [f'sum("{name}") AS "{name}"' for name in _SUMMED]
    # An empty shard has NaN for its extremes, and NaN is the greatest of all numbers to this engine.
    finite = '{0}("{0}") FILTER (NOT isnan("{0}"))'
    added += [f"coalesce({finite.format(name)}, 'NaN'::DOUBLE) AS \"{name}\"" for name in ("min", "max")]
    text = f"SELECT step, tensor, quantity, part, {', '.join(added)} FROM ({' UNION ALL '.join(pieces)})"
    text += " GROUP BY step, tensor, quantity, part"
    return text + (f" HAVING {_all_there(whole)}" if whole else "")


def _renumbered(source: str, share: Share) -> str:
    same = all(a == b for a, b in share.items())
    cases = " ".join(f"WHEN {a} THEN {b}" for a, b in share.items())
    number = "tensor" if same else f"CAST(CASE tensor {cases} END AS INTEGER) AS tensor"
    columns = ", ".join(f'"{name}"' for name in ROWS.names if name in {*_ADDED, *_SUMMED, "min", "max"})
    return f"SELECT step, {number}, quantity, part, {columns} FROM ({source}) WHERE tensor IN ({', '.join(map(str, share))})"


def _all_there(whole: dict[int, int]) -> str:
    """Has the group as many elements as the whole tensor?"""
    cases = " ".join(f"WHEN {number} THEN {count}" for number, count in whole.items())
    return f'sum("count") = CASE tensor {cases} ELSE sum("count") END'
