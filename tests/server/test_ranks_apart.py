"""Oracle: the sums that were put into the rows by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.browser.states import changed, column
from tests.server.conftest import client_of
from tests.store import made_rows
from weighbridge.records import COPY, LOCAL, REPLICA, SHARD
from weighbridge.store.layout import create_run
from weighbridge.store.writer import RankWriter

STEPS = 30
NAMES = ["layers.0.weight", "layers.0.bias", "layers.1.weight"]


def tell(
    tmp_path: Path,
    placements: Sequence[str],
    wrong: dict[int, tuple[int, Sequence[int]]],
    only: Sequence[int] = (),
    steps: int = STEPS,
) -> Any:
    """What the page is told of ranks of these placements; `wrong`: rank -> first step and tensors whose sums are its own."""
    run = create_run(tmp_path, "some", {"world_size": len(placements)})
    for rank, placement in enumerate(placements):
        rows = made_rows.rows(0, steps)
        step, tensor = column(rows, "step"), column(rows, "tensor")
        first, tensors = wrong.get(rank, (steps, ()))
        rows = changed(rows, sum=column(rows, "sum") + (rank + 1) * ((step >= first) & np.isin(tensor, tensors)))
        if rank and only:
            rows = rows.filter(pa.array(np.isin(step, only)))
        told = pa.RecordBatch.from_pylist(
            [{**row, "placement": placement} for row in made_rows.tensors().to_pylist()], made_rows.tensors().schema
        )
        writer = RankWriter(run, rank)
        writer.write({"rows": rows, "steps": made_rows.steps(0, steps), "tensors": told}, 0, steps - 1)
        writer.finish(steps)
    answer = client_of(tmp_path, tmp_path).get("/api/ranks?run=some")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_copies_that_agree_are_told_with_the_steps_that_were_compared(tmp_path: Path) -> None:
    told = tell(tmp_path, [REPLICA, COPY], {}, only=[0, 1, 9, 29])
    assert told["sentence"] == "Both ranks hold the same 3 parameters to the last bit, at 4 compared steps."
    assert (told["trouble"], told["picture"]) == (False, None)
    assert [(one["rank"], one["state"], one["steps"], one["apart"]) for one in told["ranks"]] == [
        (0, "finished", STEPS, 0),
        (1, "finished", STEPS, 0),
    ]


def test_the_last_loss_is_that_of_the_last_step_and_no_mean_of_several(tmp_path: Path) -> None:
    told = tell(tmp_path, [REPLICA, COPY], {}, steps=1_500)
    last = made_rows.steps(0, 1_500).column("loss").to_pylist()[-1]
    assert [one["last"] for one in told["ranks"]] == [last, last]
    assert told["ranks"][0]["loss"][1][-1] != last, "the curve ends with a bucket, or this proves nothing"


def test_the_one_rank_that_differs_is_named_though_it_is_the_first(tmp_path: Path) -> None:
    told = tell(tmp_path, [REPLICA, COPY, COPY], {0: (12, [1, 2])}, only=[0, 5, 10, 15, 20])
    assert told["sentence"] == (
        "Rank 0 differs from ranks 1 and 2 in 2 of 3 parameters from step 15 on, "
        "after 3 steps at which all were equal: layers.0.bias first."
    )
    assert told["trouble"] is True
    assert [(one["apart"], one["first"]) for one in told["ranks"]] == [(2, 15), (0, None), (0, None)]
    picture = told["picture"]
    assert picture["first"] == picture["last"] == [0, 5, 10, 15, 20]
    assert [row["name"] for row in picture["rows"]] == NAMES[1:]
    assert [row["state"] for row in picture["rows"]] == [[[0, 0, 0, 1, 1], [0] * 5, [0] * 5]] * 2


def test_of_two_that_differ_neither_is_taken_for_the_right_one(tmp_path: Path) -> None:
    told = tell(tmp_path, [REPLICA, COPY], {1: (3, [0])})
    assert told["sentence"].startswith("Ranks 0 and 1 differ in 1 of 3 parameters from step 3 on")


def test_ranks_that_train_alone_are_no_trouble(tmp_path: Path) -> None:
    told = tell(tmp_path, [LOCAL, LOCAL, LOCAL], {1: (1, [0]), 2: (1, [0])})
    assert told["sentence"].startswith("Each rank trains parameters of its own: they differ from step 1 on.")
    assert (told["trouble"], told["picture"]) == (False, None)
    assert [one["apart"] for one in told["ranks"]] == [None, None, None]


def test_parts_of_one_tensor_are_not_compared(tmp_path: Path) -> None:
    told = tell(tmp_path, [SHARD, SHARD], {1: (0, [0, 1, 2])})
    assert told["sentence"].startswith("No parameter was written whole by all ranks")
    assert told["trouble"] is False


@pytest.mark.parametrize("most", [3, 7])
def test_of_many_steps_every_so_many_is_compared_and_many_columns_are_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    from weighbridge.server import ranksapart

    monkeypatch.setattr(ranksapart, "COLUMNS", most)
    picture = tell(tmp_path / "all", [REPLICA, COPY, COPY], {2: (29, [0])})["picture"]
    assert len(picture["first"]) == most
    assert picture["rows"][0]["state"][2] == [0] * (most - 1) + [1]  # one step of the last column
    monkeypatch.setattr(ranksapart, "CELLS", 10 * 9 * 3)
    told = tell(tmp_path / "few", [REPLICA, COPY, COPY], {2: (29, [0])})
    assert "from step 29 on, after 9 steps" in told["sentence"]
