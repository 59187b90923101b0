"""That benchmarks/overhead.py runs and checks what it says it checks. Never how fast: other processes share the machine.

Oracle: the two copies of a training compute the same bits, and steps x tensors x 3 rows and the closing ones are stored.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
Cells = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Cells:
    file = tmp_path_factory.mktemp("overhead") / "cells.json"
    command = [sys.executable, str(BENCHMARKS / "overhead.py"), "--quick", "--profile", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| watched / raw |" in done.stdout
    return {f"{cell['workload']} {cell['tool']}": cell for cell in json.loads(file.read_text())}


@pytest.mark.parametrize("letter", ["a", "b"])
def test_both_copies_compute_the_same_bits(cells: Cells, letter: str) -> None:
    cell = cells[f"{letter} weighbridge"]
    assert cell["losses"] == 4 * 10  # two blocks that count, one before, one after
    assert cell["losses_identical"]
    assert cell["weights_identical"]
    assert cell["recorded_losses_identical"]


@pytest.mark.parametrize("letter", ["a", "b"])
def test_every_row_that_is_due_is_read_back(cells: Cells, letter: str) -> None:
    cell = cells[f"{letter} weighbridge"]
    tensors = {"a": 4, "b": 6}[letter]
    assert cell["rows"] == cell["rows_due"] == 40 * tensors * 3 + tensors
    assert cell["rows_complete"]


@pytest.mark.parametrize("letter", ["a", "b"])
def test_the_profile_finds_every_function_that_it_wraps(cells: Cells, letter: str) -> None:
    assert cells[f"{letter} profile"]["missing"] == []
