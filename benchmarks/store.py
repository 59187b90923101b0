"""How fast the store writes and answers, and how much room a row takes.

    python benchmarks/store.py            # 300 tensors x 100,000 steps: about 20 minutes and 4 GB below a temporary folder
    python benchmarks/store.py --small    # the suite's cut: seconds

Rows go through the real RankWriter and the real compaction. Their numbers are random walks (differing for each tensor)
with histograms of about 12 bins, as a normal distribution of 65,536 elements fills them.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from weighbridge.records import ROWS, TENSORS
from weighbridge.store.compact import compact_run
from weighbridge.store.layout import create_run
from weighbridge.store.record import RunRecord, open_run
from weighbridge.store.status import size_of
from weighbridge.store.writer import RankWriter

FLUSH_STEPS = 256
ELEMENTS = 65_536
REPEATS = 15


class Walk:
    """Endless plausible rows: all tensors at each step, one quantity."""

    def __init__(self, tensors: int) -> None:
        self.random = np.random.default_rng(2026)
        self.tensors = tensors
        self.log_scale = self.random.normal(-4, 1.5, tensors)
        self.mean = np.zeros(tensors)

    def batch(self, first: int, stop: int) -> pa.RecordBatch:
        random, shape = self.random, (stop - first, self.tensors)
        log_scale = self.log_scale + np.cumsum(random.normal(0, 0.004, shape), axis=0)
        mean = self.mean + np.cumsum(random.normal(0, 1e-4, shape), axis=0)
        self.log_scale, self.mean = log_scale[-1], mean[-1]
        scale = np.exp(log_scale).ravel()
        mean = mean.ravel() * scale
        n = len(scale)
        noise = 1 + random.normal(0, 0.004, (4, n))
        made: dict[str, np.ndarray] = {
            "step": np.repeat(np.arange(first, stop), self.tensors),
            "tensor": np.tile(np.arange(self.tensors), stop - first),
            "quantity": np.full(n, 1),
            "count": np.full(n, ELEMENTS),
            "hist_count": np.full(n, ELEMENTS // 8),
            "zero": random.poisson(0.02, n),
            "min": (-4.2 * scale * noise[0]).astype(np.float32),
            "max": (4.2 * scale * noise[1]).astype(np.float32),
            "sum": mean * ELEMENTS,
            "sum_abs": 0.798 * scale * noise[2] * ELEMENTS,
            "sum_sq": (scale**2 * noise[3] + mean**2) * ELEMENTS,
        }
        for name in ("dot_gradient_parameter", "dot_gradient_update", "dot_update_parameter"):
            made[name] = np.full(n, np.nan)
        first_bin, hist = self._histograms(scale)
        made["hist_first"] = first_bin
        zeros = np.zeros(n)
        arrays = [
            hist
            if field.name == "hist"
            else pa.array(made.get(field.name, zeros).astype(field.type.to_pandas_dtype()), field.type)
            for field in ROWS
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=ROWS)

    def _histograms(self, scale: np.ndarray) -> tuple[np.ndarray, pa.Array]:
        """Six octaves on each side of zero: Poisson counts of a normal distribution of this scale."""
        octaves = np.floor(np.log2(scale)).astype(np.int64)
        part = scale / 2.0**octaves  # 1 .. 2
        upper = 2.0 ** np.arange(2, -10, -1)  # from 4 down: the edges in units of 2^octave
        share = _normal_between(upper / 2 / part[:, None], upper / part[:, None])
        counts = self.random.poisson(np.concatenate([share, share[:, ::-1]], axis=1) * ELEMENTS / 16).astype(np.uint32)
        side = counts.shape[1] // 2
        keep = counts >= 3  # small bins beyond about six octaves: trimmed as a smaller tensor's would be
        keep[:, :side] = np.maximum.accumulate(keep[:, :side], axis=1)
        keep &= np.abs(np.arange(2 * side) - side + 0.5)[None, :] > side - 6.5
        first = 66 - 40 - 22 + 40 - np.clip(octaves, -30, 10) % 8  # any plausible first bin: it moves with the scale
        lengths = keep.sum(axis=1)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return first, pa.ListArray.from_arrays(pa.array(offsets), pa.array(counts[keep]), type=ROWS.field("hist").type)


def _normal_between(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Share of |x| of a standard normal between two sizes (logistic approximation of its distribution function)."""

    def below(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-1.702 * x))

    return 2 * (below(high) - below(low))


def tensors_table(number: int) -> pa.RecordBatch:
    common = {"step": 0, "attempt": 0, "model": "model", "role": "weight", "module": "Linear", "shape": [256, 256]}
    common |= {"dtype": "float32", "count": ELEMENTS, "aliases": [], "requires_grad": True, "note": ""}
    return pa.RecordBatch.from_pylist(
        [{**common, "tensor": t, "order": t, "name": f"layers.{t}.weight"} for t in range(number)], TENSORS
    )


def _us(seconds: list[float], share: float = 0.5) -> str:
    return f"{sorted(seconds)[int(len(seconds) * share)] * 1e6:.3f}"


def write(path: Path, tensors: int, steps: int, *, open_steps: int) -> tuple[RankWriter, list[float], list[float]]:
    """Everything up to the last `open_steps` is compacted; these stay in an open segment.

    Returns seconds per row of each flush: on the clock, and of the thread's own time, which others do not lengthen.
    lengthen.
    """
    writer, walk, seconds, own = RankWriter(path), Walk(tensors), [], []
    writer.write({"tensors": tensors_table(tensors)}, 0, 0)
    for first in range(0, steps, FLUSH_STEPS):
        stop = min(first + FLUSH_STEPS, steps)
        batch = walk.batch(first, stop)
        before, own_before = time.perf_counter(), time.thread_time()
        writer.write({"rows": batch}, first, stop - 1)
        own.append((time.thread_time() - own_before) / batch.num_rows)
        seconds.append((time.perf_counter() - before) / batch.num_rows)
        if stop >= steps - open_steps and first < steps - open_steps:
            writer._close("rows")
            compact_run(path)
    return writer, seconds, own


Times = tuple[float, float, float, float, float]


def timed(ask: Callable[[], object]) -> Times:
    """Milliseconds: the first call; quickest, median and slowest of the later ones; median processor time of all threads."""
    taken, own = [], []
    for _ in range(REPEATS):
        before, own_before = time.perf_counter(), time.process_time()
        ask()
        own.append((time.process_time() - own_before) * 1e3)
        taken.append((time.perf_counter() - before) * 1e3)
    return taken[0], min(taken[1:]), statistics.median(taken[1:]), max(taken[1:]), statistics.median(own[1:])


def questions(record: RunRecord, tensors: int, steps: int) -> list[tuple[str, int, Times]]:
    dice = np.random.default_rng(1)

    def series() -> object:
        found = record.series(f"layers.{dice.integers(tensors)}.weight", "gradient.rms")
        assert len(found.steps) == steps
        return found

    def at_step() -> object:
        found = record.at_step(int(dice.integers(steps)), ["gradient.rms"])["gradient.rms"]
        assert not np.isnan(found).any()
        return found

    def heat_map() -> object:
        return record.heat_map("gradient.rms", 500)

    return [
        ("one statistic of one tensor over all steps", 30, timed(series)),
        ("all tensors at one step", 50, timed(at_step)),
        (f"heat map, {tensors} tensors x at most 500 ranges", 50, timed(heat_map)),
        (
            "the same tensor's series in 1,200 ranges (a page's line)",
            30,
            timed(lambda: record.series_buckets("layers.7.weight", "gradient.rms")),
        ),
    ]


def measure(folder: Path, tensors: int, steps: int) -> str:
    path = create_run(folder, "bench", {})
    started = time.perf_counter()
    open_steps = min(steps // 4, 2_000)
    writer, seconds, own = write(path, tensors, steps, open_steps=open_steps)
    written = time.perf_counter() - started
    live_started = time.perf_counter()
    record = open_run(path)
    opened = (time.perf_counter() - live_started) * 1e3
    live = questions(record, tensors, steps)
    writer.finish(steps, compact_seconds=0)
    before = time.perf_counter()
    compact_run(path)
    last_unit = time.perf_counter() - before
    rest = open_run(path)
    compacted = questions(rest, tensors, steps)
    rows = tensors * steps
    units = len(list((path / "rank-0").glob("rows-*")))
    lines = [
        f"- {tensors} tensors x {steps:,} steps, one quantity: {rows:,} rows in {units} units; all of it took {written:.0f} s",
        f"- encoding + writing: {_us(seconds)} us a row on the clock, {_us(own)} of the thread's own time (medians of"
        f" flushes of {FLUSH_STEPS} steps, {FLUSH_STEPS * tensors:,} rows), slowest tenth from {_us(seconds, 0.9)}; aim 0.4",
        f"- at rest: {size_of(path) / rows:.1f} bytes a row, buckets and manifests included; aim 80",
        f"- compacting the last unit: {last_unit:.1f} s; opening the run: {opened:.0f} ms",
        "",
        "| question | state | first ms | quickest | median | slowest | processor ms, all threads | aim |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for state, answers in (("live, one open segment", live), ("compacted", compacted)):
        for name, aim, (first, *rest_of) in answers:
            lines.append(f"| {name} | {state} | {first:.0f} | {' | '.join(f'{ms:.1f}' for ms in rest_of)} | {aim} |")
    return "\n".join(lines)


def machine() -> str:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ""
    )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    versions = (
        f"Python {platform.python_version()}, pyarrow {pa.__version__}, duckdb {duckdb.__version__}, NumPy {np.__version__}"
    )
    where = f"{model or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    return f"{datetime.date.today()}, commit {commit}, {where}; {versions}; files in the page cache"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--tensors", type=int, default=300)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--out", type=Path, help="append to this Markdown file")
    chosen = parser.parse_args()
    tensors, steps = (20, 3_000) if chosen.small else (chosen.tensors, chosen.steps)
    with tempfile.TemporaryDirectory(prefix="weighbridge-bench-") as folder:
        text = f"## {machine()}\n\n{measure(Path(folder), tensors, steps)}\n"
    print(text)
    if chosen.out:
        with open(chosen.out, "a") as file:
            file.write("\n" + text)


if __name__ == "__main__":
    main()
