"""Oracle: the made-up rows themselves (made_rows.py) and catalog.evaluate over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from made_rows import event, logs, rows, steps, tensors, values

from weighbridge.catalog import RATIO, evaluate, parse
from weighbridge.errors import CorruptRun, NotARun, NothingRecorded, UnknownTensor
from weighbridge.records import Quantity
from weighbridge.store.layout import create_run
from weighbridge.store.record import list_runs, open_run
from weighbridge.store.writer import RankWriter

BLOCKS = [(0, 40), (40, 41), (41, 120)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = create_run(tmp_path, "first", {"config": {"lr": 0.1}, "python": "3.11"})
    writer = RankWriter(path)
    writer.write({"tensors": tensors(), "events": event(0, "config", '{"layers": 3}')}, 0, 0)
    for first, stop in BLOCKS:
        made = {
            "rows": rows(first, stop),
            "steps": steps(first, stop),
            "values": values(first, stop),
            "logs": logs(first, stop),
        }
        writer.write(made, first, stop - 1)
    return path


def expected(tensor: int, statistic: str) -> tuple[np.ndarray, np.ndarray]:
    quantity, which = parse(statistic)
    found_steps, found = [], []
    for block in BLOCKS:
        columns = {name: rows(*block).column(name).to_numpy(zero_copy_only=False) for name in rows(0, 1).schema.names}

        def of(number: int, columns: dict[str, np.ndarray] = columns) -> dict[str, np.ndarray]:
            mine = (columns["tensor"] == tensor) & (columns["quantity"] == number)
            return {name: column[mine] for name, column in columns.items()}

        mine = of(quantity)
        if which is RATIO:
            mine["parameter_rms"] = evaluate(parse("parameter.rms")[1], of(Quantity.PARAMETER))
        found_steps.append(mine["step"])
        found.append(evaluate(which, mine))
    return np.concatenate(found_steps), np.concatenate(found)


@pytest.mark.parametrize("statistic", ["gradient.rms", "parameter.std", "update.ratio", "gradient.nan_count", "update.min"])
def test_a_series_holds_every_step_of_every_flush(run: Path, statistic: str) -> None:
    series = open_run(run).series("layers.0.bias", statistic)
    steps_, values_ = expected(1, statistic)
    np.testing.assert_array_equal(series.steps, steps_)
    np.testing.assert_allclose(series.values, values_, rtol=1e-12)


def test_at_step_is_in_the_order_of_the_tensors_and_nan_where_nothing_is(run: Path) -> None:
    record = open_run(run)
    found = record.at_step(41, ["gradient.rms", "update.ratio"])
    for statistic, column in found.items():
        wanted = [expected(t, statistic)[1][41] for t in range(3)]
        np.testing.assert_allclose(column, wanted, rtol=1e-12)
    assert np.isnan(record.at_step(5000, ["gradient.rms"])["gradient.rms"]).all()


def test_values_losses_logs_epochs_and_config_come_back(run: Path) -> None:
    record = open_run(run)
    step, array = record.values("layers.0.weight", "parameter", 17)
    assert step == 17
    np.testing.assert_array_equal(array, np.array([[17, 18], [19, 20]], np.float32))
    assert record.values("tied.weight", "parameter")[0] == 119
    np.testing.assert_allclose(record.losses().values, 1 / np.arange(1, 121))
    np.testing.assert_allclose(record.logged("accuracy").values, np.arange(120) / 100)
    assert record.config == {"lr": 0.1, "layers": 3}
    assert record.epochs()[1][119] == 11
    assert record.own_cost() == pytest.approx((119 * 20e-6, 0.119))
    edges, counts, looked_at = record.histogram("layers.0.weight", "gradient", 3)
    assert len(edges) == 133
    assert counts.sum() > 0
    assert looked_at == 1000


def test_what_is_not_there_is_said_with_the_nearest_name(run: Path) -> None:
    record = open_run(run)
    with pytest.raises(UnknownTensor, match=r"Did you mean layers.0.weight"):
        record.series("layer.0.weight", "gradient.rms")
    with pytest.raises(NothingRecorded, match="not recorded at or before step 3"):
        record.values("layers.0.bias", "parameter", 3)
    with pytest.raises(NotARun, match="holds the runs first"):
        open_run(run.parent)
    with pytest.raises(NotARun, match="There is no folder"):
        open_run(run / "nowhere")


def test_a_list_of_runs_says_live_then_finished(tmp_path: Path) -> None:
    path = create_run(tmp_path, "first", {})
    writer = RankWriter(path)
    writer.write({"rows": rows(0, 5), "steps": steps(0, 5), "tensors": tensors()}, 0, 4)
    (info,) = list_runs(tmp_path)
    assert (info.name, info.state, info.steps, info.tensors) == ("first", "live", 5, 3)
    assert info.last_loss == pytest.approx(0.2)
    writer.finish(5)
    assert open_run(path).info.state == "finished"


def test_an_open_record_sees_later_flushes_after_refresh(tmp_path: Path) -> None:
    path = create_run(tmp_path, None, {})
    record = open_run(path)
    assert record.last_step == -1
    assert record.tensors == ()
    writer = RankWriter(path)
    writer.write({"rows": rows(0, 5), "tensors": tensors()}, 0, 4)
    record = open_run(path)
    writer.write({"rows": rows(5, 9)}, 5, 8)
    assert record.last_step == 4
    assert record.refresh()
    assert record.last_step == 8
    assert not record.refresh()


def test_a_heat_map_keeps_the_extremes_of_every_bucket(run: Path) -> None:
    heat = open_run(run).heat_map("gradient.rms", buckets=7)
    assert heat.mean.shape == (3, len(heat.step_first))
    for tensor in range(3):
        steps_, values_ = expected(tensor, "gradient.rms")
        for bucket, (first, last) in enumerate(zip(heat.step_first, heat.step_last, strict=True)):
            inside = values_[(steps_ >= first) & (steps_ <= last)]
            assert heat.min[tensor, bucket] == pytest.approx(np.nanmin(inside))
            assert heat.max[tensor, bucket] == pytest.approx(np.nanmax(inside))


def test_an_existing_name_is_never_written_into(tmp_path: Path) -> None:
    assert [create_run(tmp_path, "a/b", {}).name for _ in range(3)] == ["a-b", "a-b-2", "a-b-3"]


def test_rows_that_nobody_compacts_do_not_stay_in_memory(tmp_path: Path) -> None:
    path = create_run(tmp_path, "starved", {})
    writer = RankWriter(path, segment_steps=500)
    writer.write({"tensors": tensors(8)}, 0, 0)
    decoded = 0
    for first in range(0, 6_000, 100):
        batch = rows(first, first + 100, 8)
        decoded += batch.nbytes
        writer.write({"rows": batch, "steps": steps(first, first + 100)}, first, first + 99)
    record = open_run(path)
    ask = [
        lambda: record.heat_map("gradient.rms", 100),
        lambda: record.heat_map("update.ratio", 100),
        lambda: record.series("layers.0.weight", "gradient.rms"),
        lambda: record.at_step(700, ["gradient.rms"]),
        lambda: record.histogram("layers.0.weight", "gradient", 5_000),
    ]
    for question in ask:
        before = pa.total_allocated_bytes()
        question()
        assert pa.total_allocated_bytes() - before < decoded / 10
    np.testing.assert_array_equal(record.series("layers.0.weight", "gradient.rms").steps, np.arange(6_000))


def test_a_damaged_flush_of_a_long_segment_is_said_and_never_answered_from(tmp_path: Path) -> None:
    path = create_run(tmp_path, "damaged", {})
    writer = RankWriter(path)
    writer.write({"tensors": tensors()}, 0, 0)
    for first in range(0, 200, 20):
        writer.write({"rows": rows(first, first + 20)}, first, first + 19)
    data = path / "rank-0" / "rows-0001.arrows"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(CorruptRun, match="rows-0001"):
        open_run(path).series("layers.0.weight", "gradient.rms")
