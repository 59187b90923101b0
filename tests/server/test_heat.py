"""Oracle: every single row that the reader reads. A cell must be what its steps are, and no bad step may hide in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from tests.server.conftest import arrow, client_of, make_run, picture
from tests.store import made_rows
from weighbridge.records import TENSORS, UNITS
from weighbridge.server import heat, unitmap
from weighbridge.server.layers import folded_name, layers_of
from weighbridge.store.layout import create_run
from weighbridge.store.record import open_run
from weighbridge.store.writer import RankWriter


def asked(client: TestClient, what: str) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    return picture(client, f"heat?{what}")


def test_a_cell_of_one_step_is_the_recorded_number(client: TestClient, folder: Path) -> None:
    about, value, mask = asked(client, "run=first&stat=gradient.rms")
    assert [row["name"] for row in about["rows"]] == ["layers.0.weight", "layers.0.bias", "layers.1.weight"]
    assert about["first"] == about["last"] == list(range(40))
    for row, told in zip(about["rows"], value, strict=True):
        truth = open_run(folder / "first").series(row["name"], "gradient.rms").values
        assert np.array_equal(told, truth.astype(np.float32))
    assert (mask[:, 13] == heat.NONFINITE).all()
    assert (np.delete(mask, 13, axis=1) == heat.VALUE).all()


@pytest.mark.parametrize("columns", [1, 3, 7, 64])
def test_one_bad_step_shows_in_its_bucket(tmp_path: Path, columns: int) -> None:
    make_run(tmp_path / "runs", "long", steps=200)  # steps 13 and 110 have NaN, 50 and 151 of the gradients nothing else
    about, _, mask = asked(client_of(tmp_path / "runs", tmp_path), f"run=long&stat=gradient.rms&buckets={columns}")
    assert len(about["first"]) <= columns
    for at, (first, last) in enumerate(zip(about["first"], about["last"], strict=True)):
        bad = any(first <= step <= last for step in (13, 50, 110, 151))
        assert ((mask[:, at] == heat.NONFINITE) == bad).all()


def test_zero_is_no_small_number_and_absence_no_zero(tmp_path: Path) -> None:
    rows = made_rows.rows(0, 6).to_pylist()
    for row in rows:
        row["nan"] = 0
        if row["tensor"] == 0:
            row["sum_sq"] = 0.0
    rows = [row for row in rows if not (row["tensor"] == 1 and row["step"] >= 3)]
    run = create_run(tmp_path / "runs", "made", {})
    batch = pa.RecordBatch.from_pylist(rows, made_rows.ROWS)
    RankWriter(run).write({"rows": batch, "steps": made_rows.steps(0, 6), "tensors": made_rows.tensors()}, 0, 5)
    about, _, mask = asked(client_of(tmp_path / "runs", tmp_path), "run=made&stat=gradient.rms")
    assert (mask[0] == heat.ZERO).all()
    assert mask[1].tolist() == [heat.VALUE] * 3 + [heat.ABSENT] * 3
    assert about["domain"][0] > 0


def test_counts_and_extremes_are_those_of_the_worst_step(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "long", steps=100)
    client = client_of(tmp_path / "runs", tmp_path)
    _, value, _ = asked(client, "run=long&stat=gradient.nonfinite_count&buckets=2")
    assert value.max(axis=1).tolist() == [1000.0] * 3
    record = open_run(tmp_path / "runs" / "long")
    _, value, _ = asked(client, "run=long&stat=gradient.max&buckets=1")
    assert value[0, 0] == np.float32(np.nanmax(record.series("layers.0.weight", "gradient.max").values))


def test_weights_and_biases_can_be_shown_alone(client: TestClient) -> None:
    rows = {
        show: [row["name"] for row in asked(client, f"run=first&stat=gradient.rms&show={show}")[0]["rows"]] for show in "wb"
    }
    assert rows == {"w": ["layers.0.weight", "layers.1.weight"], "b": ["layers.0.bias"]}


def test_what_is_weighed_at_every_tenth_step_leaves_no_gaps(tmp_path: Path) -> None:
    rows = [row for row in made_rows.rows(0, 300).to_pylist() if row["step"] % 10 == 0]
    run = create_run(tmp_path / "runs", "sparse", {})
    tables = {"rows": pa.RecordBatch.from_pylist(rows, made_rows.ROWS), "steps": made_rows.steps(0, 300)}
    RankWriter(run).write({**tables, "tensors": made_rows.tensors()}, 0, 299)
    about, _, mask = asked(client_of(tmp_path / "runs", tmp_path), "run=sparse&stat=gradient.rms")
    assert len(about["first"]) == 30
    assert (mask != heat.ABSENT).all()


def deep_run(folder: Path, blocks: int, steps: int = 4) -> Path:
    """blocks.0.a.weight, blocks.0.a.bias, blocks.0.b.weight, ... and a head; tensor t has the rms of made_rows."""
    names = [f"blocks.{i}.{part}.{kind}" for i in range(blocks) for part in "ab" for kind in ("weight", "bias")]
    names += ["head.weight", "head.bias"]
    base = made_rows.tensors(1).to_pylist()[0]
    described = [
        {**base, "tensor": t, "order": t, "name": name, "role": name.rpartition(".")[2], "aliases": []}
        for t, name in enumerate(names)
    ]
    run = create_run(folder, "deep", {})
    tables = {"rows": made_rows.rows(0, steps, tensors=len(names)), "steps": made_rows.steps(0, steps)}
    RankWriter(run).write({**tables, "tensors": pa.RecordBatch.from_pylist(described, TENSORS)}, 0, steps - 1)
    return run


def test_more_than_sixty_rows_are_folded_and_the_worst_member_is_shown(tmp_path: Path) -> None:
    run = deep_run(tmp_path / "runs", 20)
    client = client_of(tmp_path / "runs", tmp_path)
    about, value, _ = asked(client, "run=deep&stat=gradient.rms")
    names = [(row["name"], row["bias"], row["members"]) for row in about["rows"]]
    assert names[:2] == [("blocks.0", False, 2), ("blocks.0", True, 2)]
    assert names[-2:] == [("head.weight", False, 1), ("head.bias", True, 1)]
    record = open_run(run)
    single = {t.name: record.series(t.name, "gradient.rms").values for t in record.tensors}
    typical = np.median(np.log([*single.values()]), axis=0)
    members = np.array([single["blocks.0.a.weight"], single["blocks.0.b.weight"]])
    farthest = np.abs(np.log(members) - typical).argmax(axis=0)
    assert np.array_equal(value[0], members[farthest, np.arange(4)].astype(np.float32))
    table = arrow(client.get("/api/heat?run=deep&stat=gradient.rms").content)
    for name, truth in (("least", members.min(axis=0)), ("greatest", members.max(axis=0))):
        assert np.array_equal(table[name].to_numpy().reshape(value.shape)[0], truth.astype(np.float32))


def test_a_group_can_be_opened_and_folding_be_refused(tmp_path: Path) -> None:
    deep_run(tmp_path / "runs", 20)
    client = client_of(tmp_path / "runs", tmp_path)
    opened = [row["name"] for row in asked(client, "run=deep&stat=gradient.rms&open=blocks.1")[0]["rows"]]
    whole = ["blocks.1.a.weight", "blocks.1.a.bias", "blocks.1.b.weight", "blocks.1.b.bias"]
    assert opened[2:6] == whole
    assert opened[6] == "blocks.2"
    assert len(asked(client, "run=deep&stat=gradient.rms&fold=none")[0]["rows"]) == 82


def test_one_bad_member_shows_in_its_fold() -> None:
    record_rows = tuple(heat.Row("g", False, (None, None), True) for _ in range(1))  # type: ignore[arg-type]
    value = np.array([[1.0, 2.0], [np.nan, 3.0]])
    mask = np.array([[heat.VALUE, heat.VALUE], [heat.NONFINITE, heat.VALUE]], np.uint8)
    steps = np.arange(2)
    folded = heat._folded(heat.Cells("gradient.rms", "log", record_rows, steps, steps, value, mask))
    assert folded.mask.tolist() == [[heat.NONFINITE, heat.VALUE]]
    assert folded.least is not None
    assert folded.greatest is not None
    assert (folded.least.tolist(), folded.greatest.tolist()) == ([[1.0, 2.0]], [[1.0, 3.0]])


def test_names_fold_at_their_first_number() -> None:
    told = [
        folded_name(name) for name in ("h.3.attn.c.weight", "wte.weight", "0.weight", "layer1.0.conv", "encoder.5/out", "w")
    ]
    assert told == ["h.3", "wte", "0", "layer1.0", "encoder.5", "w"]


def test_layers_come_in_order_of_execution(tmp_path: Path) -> None:
    base = made_rows.tensors(1).to_pylist()[0]
    listed = [("b.weight", "weight", 0), ("b.bias", "bias", 1), ("a.bias", "bias", 2), ("a.weight", "weight", 3)]
    listed += [("scale", "other", 4), ("a/out", "output", 0), ("act/out", "output", 1), ("b/out", "output", 2)]
    described = [
        {**base, "tensor": i, "name": name, "role": role, "order": order, "aliases": []}
        for i, (name, role, order) in enumerate(listed)
    ]
    run = create_run(tmp_path, "made", {})
    RankWriter(run).write({"tensors": pa.RecordBatch.from_pylist(described, TENSORS)}, 0, 0)
    layers = layers_of(open_run(run))
    assert [layer.path for layer in layers] == ["a", "", "act", "b"]
    assert [t.name for t in layers[0].parameters] == ["a.weight", "a.bias"]


def test_the_last_step_before_an_overflow_does_not_stretch_the_colours_of_a_narrow_picture() -> None:
    """As many columns as a phone has for the finite steps."""
    value = np.random.default_rng(0).uniform(2e-3, 0.5, (22, 81)).astype(np.float32)
    value[:, -1] = 1e12
    assert heat.domain_of_values(value, "log", "gradient.rms") == (1e-3, 1.0)


def test_the_range_of_colours_is_whole_decades_and_can_be_kept(client: TestClient) -> None:
    about, _, _ = asked(client, "run=first&stat=gradient.rms")
    low, high = about["domain"]
    assert (np.log10([low, high]) % 1 == 0).all()
    assert sum(about["counts"]) + about["below"] + about["above"] == 120
    kept, _, _ = asked(client, "run=first&stat=gradient.rms&domain=1e-9,1e-8")
    assert kept["above"] == 120
    for wrong in ("1", "2,1", "nan,1", "a,b"):
        assert client.get(f"/api/heat?run=first&stat=gradient.rms&domain={wrong}").status_code == 400


def test_dead_units_are_those_that_were_never_above_zero(tmp_path: Path) -> None:
    def unit(step: int, active: list[int]) -> dict[str, Any]:
        zeros = [0.0] * len(active)
        row = {"step": step, "attempt": 0, "tensor": 3, "quantity": 5, "steps": 1, "n": 8, "active": active}
        return {**row, "sum": zeros, "sum_sq": zeros, "max": zeros}

    base = {
        **made_rows.tensors(1).to_pylist()[0],
        "tensor": 3,
        "name": "1/out",
        "role": "output",
        "module": "ReLU",
        "aliases": [],
    }
    run = create_run(tmp_path / "runs", "units", {})
    tables = {
        "rows": made_rows.rows(0, 8),
        "steps": made_rows.steps(0, 8),
        "tensors": pa.RecordBatch.from_pylist([*made_rows.tensors().to_pylist(), base], TENSORS),
        "units": pa.RecordBatch.from_pylist([unit(0, [1, 0, 3, 4]), unit(5, [0, 0, 3, 4])], UNITS),
    }
    RankWriter(run).write(tables, 0, 7)
    about, value, mask = asked(client_of(tmp_path / "runs", tmp_path), f"run=units&stat={unitmap.DEAD}")
    assert [row["name"] for row in about["rows"]] == ["1/out"]
    assert value[0, :6].tolist() == [0.25, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert (mask[0, 6:] == heat.ABSENT).all()


def test_a_cell_in_numbers(client: TestClient, folder: Path) -> None:
    told = client.get("/api/cell?run=first&tensor=layers.0.weight&stat=gradient.rms&stat=update.ratio&start=10&stop=20").json()
    truth = open_run(folder / "first").series("layers.0.weight", "gradient.rms", 10, 20).values
    assert told[0]["statistic"] == "gradient.rms"
    assert told[0]["mean"] == pytest.approx(truth.mean(), rel=1e-12)
    assert (told[0]["min"], told[0]["max"], told[0]["bad"]) == (truth.min(), truth.max(), 5.0)
    nothing = client.get("/api/cell?run=first&tensor=layers.0.weight&stat=gradient.rms&start=900&stop=901").json()
    assert nothing[0]["recorded"] is False


def test_a_statistic_that_nothing_was_recorded_of_is_an_empty_picture(client: TestClient) -> None:
    about, value, _ = asked(client, "run=first&stat=activation.rms")
    assert about["rows"] == []
    assert about["domain"] is None
    assert value.size == 0


@pytest.mark.parametrize(
    "gaps", [0, 1, 30], ids=["as many in each column", "some empty columns", "as many as there are columns"]
)
def test_the_typical_value_of_a_column_is_the_median_of_its_logarithms(gaps: int) -> None:
    value = np.exp(np.random.default_rng(gaps).normal(size=(31, 40)))
    for column in range(gaps):
        value[: column + 1 if gaps > 1 else None, column] = [0.0, np.nan, np.inf][column % 3]
    with np.errstate(divide="ignore"):
        log = np.log(value)
    expected = [np.median(of[np.isfinite(of)]) if np.isfinite(of).any() else np.nan for of in log.T]
    np.testing.assert_allclose(heat.typical_of(value), expected, rtol=1e-14)
