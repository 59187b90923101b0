"""That benchmarks/overhead.py runs and checks what it says it checks. Never how fast: other processes share the machine.

Oracle: the two copies of a training compute the same bits, and steps x tensors x 3 rows and the closing ones are stored.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
Cells = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Cells:
    return measured(tmp_path_factory.mktemp("overhead"), "--profile")


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Cells:
    names = ["weighbridge", "live", "parameters", "outputs", "no_sentinel"]
    return measured(tmp_path_factory.mktemp("variants"), "-w", "a", "--variants", *names)


def measured(folder: Path, *options: str) -> Cells:
    file = folder / "cells.json"
    command = [sys.executable, str(BENCHMARKS / "overhead.py"), "--quick", *options, "--json", str(file)]
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
    assert cell["parameter_rows"] == cell["parameter_rows_due"] == 40 * tensors * 3 + tensors
    assert cell["rows_complete"]
    assert cell["sampled_gaps"] == []
    assert cell["rows_dropped"] == 0


@pytest.mark.parametrize("letter", ["a", "b"])
def test_the_profile_finds_every_function_that_it_wraps(cells: Cells, letter: str) -> None:
    assert cells[f"{letter} profile"]["missing"] == []


def test_each_variant_records_what_its_name_says(variants: Cells) -> None:
    """40 steps; three modules that give something; by default the first 20 steps and every 10th, and the units' steps."""
    parameters = 40 * 4 * 3 + 4
    activations = len({*range(20), 20, 30, *(int(10 * 10 ** (i / 20)) for i in range(13))} & set(range(40)))
    gradients = 22
    due = {
        "parameters": parameters,
        "weighbridge": parameters + 3 * (activations + gradients),
        "live": parameters + 3 * (activations + gradients),
        "no_sentinel": parameters + 3 * (activations + gradients),
        "outputs": parameters + 3 * (40 + 40),
    }
    rows = {name: variants[f"a {name}"]["rows"] for name in due}
    assert rows == due
    sentinel = {name: variants[f"a {name}"]["sentinel"] for name in due}
    assert sentinel == {"parameters": False, "weighbridge": True, "live": True, "no_sentinel": False, "outputs": True}
    assert all(cell["losses_identical"] and cell["weights_identical"] for cell in variants.values())


def test_rules_run_beside_the_training_in_the_variant_live_alone(variants: Cells) -> None:
    assert variants["a live"]["rules_looked_at_all"]
    assert variants["a live"]["rules_gave_up"] == ""
    assert variants["a weighbridge"]["rules_seconds"] == 0
    assert not variants["a weighbridge"]["rules_looked_at_all"]


def test_memory_disk_start_and_finish_are_measured(variants: Cells) -> None:
    cell = variants["a weighbridge"]
    assert cell["disk_bytes_a_step"] > 4 * 3 * 10
    assert cell["start"] > cell["first_raw_step"] > 0
    assert cell["finish"] > 0
    assert isinstance(cell["rss_growth"], int)


def test_kinds_of_steps_count_by_their_shares_in_a_long_run() -> None:
    spread = _load("interleaved").Spread.of_kinds
    of_each = [("plain", 1.0)] * 3 + [("sampled", 2.0)] * 4 + [("closer", 11.0)] * 9
    kinds, values = zip(*of_each, strict=True)
    assert spread(values, kinds).median == pytest.approx(0.9 * 1 + 0.09 * 2 + 0.01 * 11)
    assert spread(values[3:], kinds[3:]).median == pytest.approx(0.99 * 2 + 0.01 * 11)
    assert spread([1.0, 2.0, 9.0], ["", "", ""]).median == 2.0


def test_a_row_that_is_missing_or_twice_is_noticed() -> None:
    readback = _load("readback")
    rows = np.concatenate([readback.expected_rows(4, 2), [[step, 7, 5] for step in (0, 2)]])
    assert readback.is_complete(rows, 4, 2)
    assert readback.sampled_gaps(rows, {5: [0, 2]}) == []
    assert not readback.is_complete(rows[1:], 4, 2)
    assert not readback.is_complete(np.concatenate([rows, rows[:1]]), 4, 2)
    assert readback.sampled_gaps(rows[:-1], {5: [0, 2]}) == ["tensor 7, quantity 5: 1 rows, 2 are due"]
    assert readback.sampled_gaps(np.concatenate([rows, rows[-1:]]), {5: [0, 2]})


@pytest.mark.parametrize(("letter", "numbers"), [("c", 11_173_962), ("e", 124_439_808)])
def test_the_large_workloads_have_the_size_of_their_names(letter: str, numbers: int) -> None:
    with torch.device("meta"):
        model, _, _ = _load("workloads").WORKLOADS[letter].make()
    assert sum(parameter.numel() for parameter in model.parameters()) == numbers


def test_the_residual_network_learns() -> None:
    workload = _load("workloads").WORKLOADS["c"]
    first, second = workload.copies(2)
    for training in (first, second):
        training.begin_block()
        training.run(2, None)
        training.end_block()
    assert first.losses == second.losses
    assert first.losses[0] != first.losses[1]


def _load(name: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module(name)
