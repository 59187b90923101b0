"""That benchmarks/kernel.py measures the two passes that have an aim. Never how fast."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from weighbridge.capture.kernel import NativeKernel, load_kernel

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not isinstance(load_kernel(), NativeKernel), reason="the C kernel was not built here")


def test_both_passes_are_printed_beside_their_aims() -> None:
    command = [sys.executable, str(BENCHMARKS / "kernel.py"), "--limits-only", "--elements", "65536"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| moments")]
    assert [(line[1].strip(), line[3].strip()) for line in lines] == [("moments", "15"), ("moments, sampled histogram", "12")]
    assert all(line[4].strip() in ("reached", "missed") for line in lines)
