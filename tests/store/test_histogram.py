"""Histograms of every resolution, from the training to the reader. Oracle: NumPy's own histogram over the stated edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.capture.oracle import recorded_rows, train
from torch import nn

import weighbridge
from weighbridge import Plan
from weighbridge.errors import BadPlan, NothingRecorded
from weighbridge.reference import bins_of
from weighbridge.store.histogram import coarser_bins, edges_of, full_histogram, merged_histograms


@pytest.mark.parametrize("bits", [0, 1, 2])
def test_edges_are_those_of_the_bins(bits: int) -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal(20_000) * 2.0 ** random.integers(-50, 30, 20_000)
    values = np.concatenate([values, edges_of(bits)[1:-1], [2.0**-40, -(2.0**-40), 2.0**24, 1.0, -1.0]])
    values = values[values != 0]
    edges = edges_of(bits)
    found = bins_of(values, bits)
    positive = values > 0
    assert (np.diff(edges) > 0).all()
    assert (found[positive] == np.searchsorted(edges, values[positive], side="right") - 1).all()
    assert (found[~positive] == np.searchsorted(edges, values[~positive], side="left") - 1).all()


@pytest.mark.parametrize(("bits", "wanted"), [(1, 0), (2, 0), (2, 1), (2, 2), (0, 0)])
def test_finer_bins_fall_into_the_coarser_ones(bits: int, wanted: int) -> None:
    random = np.random.default_rng(1)
    values = random.standard_normal(20_000) * 2.0 ** random.integers(-50, 30, 20_000)
    assert (coarser_bins(bins_of(values, bits), bits - wanted, bits) == bins_of(values, wanted)).all()


def test_parts_of_different_resolution_merge_in_the_coarser() -> None:
    values = np.random.default_rng(2).standard_normal(1000)
    parts: list[dict[str, Any]] = []
    for part, bits in ((values[:300], 2), (values[300:], 1)):
        counts = np.bincount(bins_of(part, bits))
        parts.append({"hist_count": len(part), "hist_bits": bits, "hist_first": 0, "hist": counts})
    merged = merged_histograms(parts)
    assert (merged["hist_bits"], merged["hist_count"]) == (1, 1000)
    assert (full_histogram(0, merged["hist"], 1) == np.bincount(bins_of(values, 1), minlength=260)).all()


@pytest.mark.parametrize("per_octave", [1, 2, 4])
def test_a_reader_gets_the_resolution_of_the_plan(tmp_path: Path, per_octave: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 1))
    batch = torch.randn(8, 30)
    plan = Plan(histogram=per_octave, activations=True)
    optimizer = torch.optim.Adam(model.parameters())
    path, oracle = train(tmp_path, model, optimizer, lambda step: model(batch).square().mean(), 70, plan=plan)
    bits = per_octave.bit_length() - 1

    def check() -> None:
        record = weighbridge.open_run(path)
        for name in ("0.weight", "2.bias"):
            edges, counts, looked_at = record.histogram(name, "gradient", 5)
            used = oracle.seen[5, name].gradient
            assert used is not None
            values = used.numpy().ravel().astype(np.float64)
            assert (counts == np.bincount(bins_of(values[values != 0], bits), minlength=len(counts))).all()
            assert len(edges) == len(counts) + 1 == 2 * (2 + 64 * per_octave) + 1
            assert looked_at == values.size
        assert record.histogram("0/out", "activation", 5)[1].sum() == 8 * 40
        assert len(record.histogram("0/out", "activation", 5)[1]) == 2 * (2 + 64 * per_octave)
        heat = record.heat_map("gradient.rms", buckets=2)
        assert np.isfinite(heat.mean).all()

    check()
    buckets_agree(path)


def buckets_agree(path: Path) -> None:
    """Buckets of many steps are in one bin per power of two, whatever the rows have."""
    from weighbridge.store.compact import bucket_tables, in_order
    from weighbridge.store.layout import rank_folder
    from weighbridge.store.tables import RankTables

    rows = in_order("rows", RankTables(rank_folder(path, 0)).whole("rows"))
    bucket = bucket_tables(rows)["buckets-64.parquet"].to_pylist()
    single = rows.to_pylist()
    for one in bucket[:20]:
        mine = [
            r
            for r in single
            if (r["tensor"], r["quantity"], r["step"] // 64) == (one["tensor"], one["quantity"], one["bucket"])
        ]
        whole = sum(full_histogram(r["hist_first"], r["hist"], r["hist_bits"], 0) for r in mine)
        assert (full_histogram(one["hist_first"], one["hist"]) == whole).all()


def test_a_plan_without_histograms(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    plan = Plan(histogram=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    path, _ = train(tmp_path, model, optimizer, lambda step: model(torch.ones(1, 3)).square().sum(), 5, plan=plan)
    rows = recorded_rows(path)
    assert {row["hist_count"] for (step, _, _), row in rows.items()} == {0}
    assert all(row["sum_abs"] > 0 for (step, _, _), row in rows.items())
    with pytest.raises(NothingRecorded, match="without a histogram"):
        weighbridge.open_run(path).histogram("weight", "gradient", 2)


@pytest.mark.parametrize("histogram", [3, -1, 8, "fine"])
def test_other_resolutions_are_refused(histogram: Any) -> None:
    with pytest.raises(BadPlan, match="bins in each power of two"):
        Plan(histogram=histogram)
