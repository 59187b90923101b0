"""Readers of successive gradients. Oracle: the whole gradients, in NumPy, of which the rows here are made by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from made_rows import tensors

from weighbridge import open_run
from weighbridge.records import ACCUMULATION, COHERENCE, SKETCH_NUMBERS, TENSORS
from weighbridge.reference import sketch
from weighbridge.store.coherence import CLEAR
from weighbridge.store.compact import compact_run
from weighbridge.store.layout import create_run
from weighbridge.store.writer import RankWriter

WHOLE = 4096


def pair(step: int, tensor: int, a: np.ndarray, b: np.ndarray, **other: Any) -> dict[str, Any]:
    """A row of `coherence` as capture writes it."""
    one, two = (a, b) if a.size <= WHOLE else (sketch(a), sketch(b))
    row = {"step": step, "attempt": 0, "tensor": tensor, "step_before": step - 1, "count": a.size, "numbers": one.size}
    return row | {"dot": one @ two, "sum_sq_before": one @ one, "sum_sq": two @ two} | other


def summed(step: int, tensor: int, parts: list[np.ndarray]) -> dict[str, Any]:
    """A row of `accumulation`: gradients of so many passes, added up."""
    first, last = parts[0], np.sum(parts, axis=0)
    row = {"step": step, "attempt": 0, "tensor": tensor, "count": first.size, "passes": len(parts)}
    return row | {"sum_sq_first": first @ first, "sum_sq": last @ last}


def write(
    run: Path,
    rank: int,
    pairs: list[dict[str, Any]],
    sums: list[dict[str, Any]] = [],  # noqa: B006
    known: pa.RecordBatch | None = None,
) -> None:
    writer = RankWriter(run, rank, segment_steps=500)
    writer.write({"tensors": known if known is not None else tensors()}, 0, 0)
    for first in range(0, 1 + max(row["step"] for row in (*pairs, *sums)), 1000):
        batches = {
            name: pa.RecordBatch.from_pylist([row for row in rows if first <= row["step"] < first + 1000], schema)
            for name, rows, schema in (("coherence", pairs, COHERENCE), ("accumulation", sums, ACCUMULATION))
        }
        writer.write({name: batch for name, batch in batches.items() if batch.num_rows}, first, first + 999)
    writer.finish(0)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def gradients(seed: int, *sizes: int) -> list[np.ndarray]:
    chance = np.random.default_rng(seed)
    return [chance.normal(size=n) for n in sizes]


@pytest.mark.parametrize("compacts", [False, True])
def test_one_tensor_and_all_together(tmp_path: Path, compacts: bool) -> None:
    run = create_run(tmp_path, "run", {})
    rows, truth = [], {}
    for step in (1, 2, 1500):
        a, b = gradients(step, 6, 3), gradients(100 + step, 6, 3)
        rows += [pair(step, number, a[number], b[number]) for number in (0, 1)]
        truth[step] = (cosine(a[0], b[0]), cosine(np.concatenate(a), np.concatenate(b)))
    write(run, 0, rows)
    if compacts:
        compact_run(run)
        assert (run / "rank-0" / "coherence-0001").is_dir()
    record = open_run(run)
    name = record.tensors[0].name
    found = record.coherence(name)
    assert found.steps.tolist() == [1, 2, 1500]
    assert found.steps_before.tolist() == [0, 1, 1499]
    assert found.cosine == pytest.approx([truth[s][0] for s in (1, 2, 1500)], rel=1e-12)
    assert (found.count.tolist(), found.numbers.tolist(), found.errors.tolist()) == ([6] * 3, [6] * 3, [0.0] * 3)
    assert record.coherence().cosine == pytest.approx([truth[s][1] for s in (1, 2, 1500)], rel=1e-12)
    assert record.coherence(name, 2, 1500).steps.tolist() == [2]
    assert not found.cosine.flags.writeable


def test_a_part_of_the_tensors_is_not_shown_as_all(tmp_path: Path) -> None:
    run = create_run(tmp_path, "run", {})
    a = gradients(0, 6, 3)
    write(run, 0, [pair(1, 0, a[0], a[0]), pair(1, 1, a[1], a[1]), pair(2, 0, a[0], a[0])])
    assert open_run(run).coherence().steps.tolist() == [1]


def test_the_error_of_an_estimate_is_about_what_it_says(tmp_path: Path) -> None:
    """Also of all together, where an exact and an estimated tensor are added."""
    run = create_run(tmp_path, "run", {})
    rows, truth = [], []
    for step in range(1, 61):
        a = gradients(step, 20_000, 3_000)
        b = [x + 0.8 * y for x, y in zip(a, gradients(1000 + step, 20_000, 3_000), strict=True)]
        rows += [pair(step, number, a[number], b[number]) for number in (0, 1)]
        truth.append((cosine(a[0], b[0]), cosine(np.concatenate(a), np.concatenate(b))))
    write(run, 0, rows)
    record = open_run(run)
    for which, name in enumerate((record.tensors[0].name, None)):
        found = record.coherence(name)
        off = found.cosine - np.array(truth)[:, which]
        assert 0.7 < np.std(off) / found.errors.mean() < 1.4
        assert found.errors.mean() < 1 / math.sqrt(SKETCH_NUMBERS)


def test_a_gradient_of_zeros_has_no_direction(tmp_path: Path) -> None:
    run = create_run(tmp_path, "run", {})
    write(run, 0, [pair(1, 0, np.zeros(6), np.ones(6))])
    found = open_run(run).coherence("layers.0.weight")
    assert np.isnan(found.cosine).all()


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_signal_and_noise_from_steps_and_from_passes(tmp_path: Path, scale: float) -> None:
    """The true gradient and the covariance are known: normal noise of so much variance in each of 40 numbers."""
    chance, n, passes, spread = np.random.default_rng(0), 40, 4, 0.5
    true = chance.normal(size=n)
    batch = [scale * (true + spread * chance.normal(size=(passes, n))) for _ in range(4_001)]
    run = create_run(tmp_path, "run", {})
    whole = [parts.sum(axis=0) for parts in batch]
    pairs = [pair(step, 0, whole[step - 1], whole[step]) for step in range(1, len(batch))]
    write(run, 0, pairs, [summed(step, 0, list(parts)) for step, parts in enumerate(batch)])
    steps, accumulated = open_run(run).noise_scales("layers.0.weight")
    signal, noise = float(true @ true) * scale**2, n * spread**2 * scale**2
    assert (steps.batch, steps.samples) == ("step", 4_000)
    assert steps.signal == pytest.approx(signal * passes**2, rel=0.02)
    assert steps.noise == pytest.approx(noise * passes, rel=0.02)
    assert steps.value == pytest.approx(noise / signal / passes, rel=0.03)
    assert (accumulated.batch, accumulated.samples) == ("backward pass", 4_001)
    assert accumulated.signal == pytest.approx(signal, rel=0.02)
    assert accumulated.noise == pytest.approx(noise, rel=0.02)
    assert accumulated.value == pytest.approx(noise / signal, rel=0.03)


def test_steps_with_other_numbers_of_passes_can_be_averaged(tmp_path: Path) -> None:
    """Each row is an estimate by itself: two rows of 2 and of 5 passes, worked out by hand."""
    run = create_run(tmp_path, "run", {})
    rows = [summed(0, 0, [np.array([3.0]), np.array([5.0])]), summed(1, 0, [np.array([2.0])] * 5)]
    write(run, 0, [], rows)
    (found,) = open_run(run).noise_scales("layers.0.weight")
    signals = [(64 - 2 * 9) / 2, (100 - 5 * 4) / 20]
    noises = [(4 * 9 - 64) / 2, (25 * 4 - 100) / 20]
    assert found.signal == pytest.approx(np.mean(signals))
    assert found.noise == pytest.approx(np.mean(noises))


def test_nothing_is_divided_by_a_signal_that_may_be_zero(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    run = create_run(tmp_path, "run", {})
    write(run, 0, [pair(step, 0, chance.normal(size=6), chance.normal(size=6)) for step in range(1, 40)])
    (found,) = open_run(run).noise_scales("layers.0.weight")
    assert abs(found.signal) < CLEAR * found.signal_error
    assert math.isnan(found.value)


def test_a_single_step_says_nothing_of_the_noise(tmp_path: Path) -> None:
    run = create_run(tmp_path, "run", {})
    write(run, 0, [pair(1, 0, np.ones(6), np.ones(6))])
    (found,) = open_run(run).noise_scales()
    assert math.isnan(found.value)


def test_a_run_from_before_these_tables_has_none_of_them(tmp_path: Path) -> None:
    run = create_run(tmp_path, "run", {})
    writer = RankWriter(run, 0)
    writer.write({"tensors": tensors()}, 0, 0)
    writer.finish(0)
    record = open_run(run)
    assert not len(record.coherence().steps)
    assert not len(record.coherence("layers.0.weight").steps)
    assert record.noise_scales() == []


# --- several ranks --------------------------------------------------------------------------------------------------


def known(placement: str, count: int, number: int = 0, **other: str) -> pa.RecordBatch:
    """A table of tensors with one tensor, and more of so many elements (name=placement)."""
    row = tensors().to_pylist()[0] | {"count": count, "shape": [count]}
    named = [("w", placement), *other.items()]
    rows = [row | {"tensor": number + i, "name": name, "placement": where} for i, (name, where) in enumerate(named)]
    return pa.RecordBatch.from_pylist(rows, TENSORS)


def test_shards_add_up_and_a_step_without_one_of_them_is_left_out(tmp_path: Path) -> None:
    run = create_run(tmp_path, "run", {})
    cut, n = 7_000, 10_000  # one shard is sketched, the other kept whole
    gradient = {step: np.random.default_rng(step).normal(size=n) + 1 for step in range(5)}
    parts = {step: np.random.default_rng(100 + step).normal(size=(3, n)) for step in range(5)}
    for rank, part in ((0, slice(0, cut)), (1, slice(cut, n))):
        steps = [step for step in range(1, 5) if (rank, step) != (1, 3)]
        pairs = [pair(step, 5 * rank, gradient[step - 1][part], gradient[step][part]) for step in steps]
        sums = [summed(step, 5 * rank, [p[part] for p in parts[step]]) for step in steps]
        write(run, rank, pairs, sums, known("shard", n, 5 * rank))
    record = open_run(run)
    found = record.coherence("w")
    assert found.steps.tolist() == [1, 2, 4]
    assert found.count.tolist() == [n] * 3
    assert found.numbers.tolist() == [SKETCH_NUMBERS + n - cut] * 3
    exact = np.array([cosine(gradient[step - 1], gradient[step]) for step in (1, 2, 4)])
    assert (np.abs(found.cosine - exact) < 4 * found.errors).all()
    assert (found.errors > 0).all()
    accumulated = record.noise_scales("w")[1]
    whole = [summed(step, 0, list(parts[step])) for step in (1, 2, 4)]
    assert accumulated.signal == pytest.approx(np.mean([(r["sum_sq"] - 3 * r["sum_sq_first"]) / 6 for r in whole]))
    assert open_run(run, 1).coherence("w").count.tolist() == [n - cut] * 3, "one rank alone: its own part"


def test_replicas_count_once(tmp_path: Path) -> None:
    run = create_run(tmp_path, "run", {})
    a, b = gradients(0, 9, 9)
    write(run, 0, [pair(1, 0, a, b)], known=known("replica", 9))
    write(run, 1, [pair(1, 0, b, b)], known=known("copy", 9))
    found = open_run(run).coherence("w")
    assert found.count.tolist() == [9]
    assert found.cosine == pytest.approx([cosine(a, b)])


def test_replicas_beside_shards_count_once_too(tmp_path: Path) -> None:
    run = create_run(tmp_path, "run", {})
    a, b = gradients(0, 9, 9)
    write(run, 0, [pair(1, 0, a[:4], b[:4]), pair(1, 1, a, b)], known=known("shard", 9, v="replica"))
    write(run, 1, [pair(1, 0, a[4:], b[4:]), pair(1, 1, b, b)], known=known("shard", 9, v="copy"))
    record = open_run(run)
    for name in ("w", "v"):
        assert record.coherence(name).cosine == pytest.approx([cosine(a, b)])
    assert record.coherence().count.tolist() == [18]


def test_shards_that_were_compared_with_other_steps_are_not_added(tmp_path: Path) -> None:
    run = create_run(tmp_path, "run", {})
    a, b = gradients(0, 5, 5)
    write(run, 0, [pair(2, 0, a, a)], known=known("shard", 10))
    write(run, 1, [pair(2, 0, b, b, step_before=0)], known=known("shard", 10))
    assert not len(open_run(run).coherence("w").steps)
