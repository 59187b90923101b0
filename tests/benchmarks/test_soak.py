"""A cut of `make soak`, with its own conditions on smaller numbers; and that each of them can be broken.

Oracle: the losses that the training itself wrote down, the sizes on disk, the memory that the system counts.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import weighbridge

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MIB = 2**20


@pytest.fixture(scope="module")
def soak() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module("soak")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Sixty steps, and beside them what the training wrote down."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for _ in range(60):
            optimizer.zero_grad()
            loss = model(torch.randn(8, 4)).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    np.array(losses, np.float32).tofile(tmp_path / "losses.bin")
    return run.path


@pytest.fixture
def seen(run: Path, soak: Any) -> dict[str, Any]:
    """What a soak in which nothing went wrong has seen."""
    memory = [(0.0, 10 * MIB), (1.0, 50 * MIB), (2.0, 60 * MIB), (3.0, 55 * MIB)]
    reader = {"looks": 7, "wrong": []}
    files = {"path": str(run), "losses": str(run.parent / "losses.bin")}
    return {"steps": 60, "memory": memory, "sizes": [10, 90, 20], "limit": 100, "dropped": 0, "reader": reader, **files}


def broken(soak: Any, seen: dict[str, Any], **options: Any) -> list[str]:
    given = argparse.Namespace(**{"steps": 60, "warm_up": 1.0, "growth": 20.0, "thinned": 0, "left_out": 0, **options})
    return [one.name for one in soak.verdict(seen, given) if not one.is_kept]


def test_where_nothing_went_wrong_every_condition_is_kept(soak: Any, seen: dict[str, Any]) -> None:
    assert broken(soak, seen) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"steps": 59}, "steps"),
        ({"memory": [(0.0, 0), (1.0, 50 * MIB), (2.0, 71 * MIB), (3.0, 50 * MIB)]}, "memory"),
        ({"memory": [(0.0, 50 * MIB)]}, "memory"),
        ({"sizes": [10, 106, 20]}, "folder"),
        ({"reader": {"looks": 7, "wrong": ["a step is gone"]}}, "reading"),
        ({"reader": {"looks": 4, "wrong": []}}, "looks"),
        ({"dropped": 1}, "rows dropped"),
    ],
)
def test_each_condition_can_be_broken(soak: Any, seen: dict[str, Any], change: dict[str, Any], name: str) -> None:
    assert broken(soak, {**seen, **change}) == [name]


def test_a_limit_that_was_never_felt_is_no_soak(soak: Any, seen: dict[str, Any]) -> None:
    assert broken(soak, seen, thinned=1) == ["thinned"]


def test_a_loss_that_was_not_trained_is_noticed(soak: Any, seen: dict[str, Any]) -> None:
    losses = np.fromfile(seen["losses"], np.float32)
    losses[17] += 1e-3
    losses.tofile(seen["losses"])
    assert broken(soak, seen) == ["losses"]


def test_the_reader_finds_nothing_wrong_with_a_sound_run(soak: Any, run: Path) -> None:
    looks = soak.Looks()
    for seed in range(5):
        looks.look(run, random.Random(seed))
    assert (looks.looks, looks.wrong, looks.last_step) == (5, [], 60)
    assert sorted(looks.known) == list(range(60))


def test_the_reader_notices_a_damaged_byte_a_step_that_is_gone_and_a_loss_that_changed(soak: Any, run: Path) -> None:
    looks = soak.Looks(last_step=99, known={30: 5.0})
    looks.look(run, random.Random(0))
    assert [text.split(" was ")[0] for text in looks.wrong] == ["the last step", "the loss of step 30"]
    data = max(run.rglob("rows*/rows.parquet"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    looks = soak.Looks()
    looks.look(run, random.Random(0))
    assert looks.wrong[0].startswith("damaged: ")


@pytest.mark.slow
def test_a_short_soak_keeps_every_condition(tmp_path: Path) -> None:
    file = tmp_path / "soak.json"
    # No limit that bites: how soon old steps give way depends on the machine, and tests/store/test_limit.py has that.
    options = [
        "--seconds",
        "20",
        "--steps",
        "8000",
        "--pace",
        "900",
        "--disk",
        "400 MB",
        "--thinned",
        "0",
        "--dir",
        str(tmp_path),
    ]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "soak.py"), *options, "--json", str(file)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(file.read_text())
    assert seen["steps"] >= 8_000
    assert seen["reader"]["looks"] >= 5
    assert {one["name"] for one in seen["conditions"]} >= {"steps", "memory", "folder", "thinned", "reading", "losses"}
