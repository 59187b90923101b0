"""How the ranks of a run go together. Oracle: the tables of tensors, written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from weighbridge.records import COPY, LOCAL, REPLICA, SHARD
from weighbridge.store.shards import merge


def row(placement: str, local: tuple[int, ...] = (), tensor: int = 0) -> dict[str, Any]:
    known = {"tensor": tensor, "model": "model", "name": "weight", "shape": [6, 2], "count": 12, "dtype": "float32"}
    return {**known, "placement": placement, "local_shape": list(local)}


@pytest.mark.parametrize(
    ("ranks", "of_rank_0_alone"),
    [
        ({0: row(LOCAL)}, True),
        ({0: row(SHARD, (6, 2))}, True),  # FSDP2 in a single process
        ({0: row(SHARD, (3, 2))}, False),  # the other half was not recorded
        ({0: row(SHARD, (3, 2)), 1: row(SHARD, (3, 2))}, False),
        ({0: row(SHARD, (6, 2)), 1: row(SHARD, (0, 2))}, False),
        ({0: row(REPLICA), 1: row(COPY)}, True),
        ({0: row(COPY), 1: row(REPLICA)}, False),
    ],
)
def test_the_rows_of_one_rank_say_everything_only_where_it_has_every_element(
    ranks: dict[int, dict[str, Any]], of_rank_0_alone: bool
) -> None:
    assert merge({rank: [one] for rank, one in ranks.items()}).is_of_one(0) is of_rank_0_alone
