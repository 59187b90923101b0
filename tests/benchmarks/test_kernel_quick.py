"""That benchmarks/kernel.py measures the two passes that have an aim. Never how fast."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from weighbridge.capture.kernel import NativeKernel, load_kernel
from weighbridge.capture.rowblock import RowBlock

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not isinstance(load_kernel(), NativeKernel), reason="the C kernel was not built here")


def test_both_passes_are_printed_beside_their_aims() -> None:
    command = [sys.executable, str(BENCHMARKS / "kernel.py"), "--limits-only", "--elements", "65536"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| moments")]
    assert [(line[1].strip(), line[3].strip()) for line in lines] == [("moments", "15"), ("moments, sampled histogram", "12")]
    assert all(line[4].strip() in ("reached", "missed") for line in lines)


def test_the_pass_without_histogram_computes_the_same_moments_and_counts_no_bin(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        bench = importlib.import_module("kernel")
    alone = bench.sums_alone(tmp_path)
    if alone is None:
        pytest.skip("no C compiler")
    tensors, rows = bench.Tensors(1, 100_000, step=False), []
    for kernel in (load_kernel(), alone):
        block = RowBlock(4, 4 * 132)
        kernel.weigh(tensors.items, 0, 0, block)
        rows.append(block.take().to_pylist()[0])
    whole, without = rows
    assert len(whole.pop("hist")) > 5
    assert without.pop("hist") in ([], None)
    assert whole["sum_sq"] == pytest.approx(float(np.square(tensors.data[0].astype(np.float64)).sum()), rel=1e-6)
    same = ("count", "nan", "zero", "min", "max", "sum", "sum_abs", "sum_sq")
    assert [whole[name] for name in same] == [without[name] for name in same]
