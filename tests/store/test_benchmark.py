"""The benchmark's small cut runs and fills its table; nothing is timed here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_small_benchmark_fills_its_table() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    arguments = [sys.executable, str(ROOT / "benchmarks" / "store.py"), "--small"]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.count("| compacted |") == 4
    assert "bytes a row" in done.stdout
