"""That benchmarks/page.py measures what it says: a cut of the session, of the live run and of its memory. Never how fast."""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.browser.conftest import browser_path

from weighbridge.server import page as built_page
from weighbridge.store.record import open_run

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
pytestmark = [pytest.mark.browser, pytest.mark.skipif(browser_path() is None, reason="no Chromium here")]


def table(*words: str) -> dict[str, str]:
    """What page.py found, by what it is."""
    built_page.check_built()
    command = [sys.executable, str(BENCHMARKS / "page.py"), "--small", *words]
    environment = {**os.environ, "WEIGHBRIDGE_BROWSER": str(browser_path())}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    return {line[0]: line[1] for line in lines if len(line) > 1}


def test_every_act_of_the_session_is_shown_in_the_end(tmp_path: Path) -> None:
    found = table("--only", "wide", "--runs", str(tmp_path))
    acts = [text for name, text in found.items() if "median (slowest)" in name]
    assert len(acts) == 8
    assert "inf" not in " ".join(acts)
    assert any(name.startswith("frames a second") for name in found)


def test_a_live_run_is_shown_and_memory_is_looked_at() -> None:
    found = table("--only", "live", "--live-minutes", "0.15")
    for name, text in found.items():
        assert "never" not in text, name
    assert sum(name.startswith("from the flush to") for name in found) == 2
    assert sum("min live and" in name for name in found) == 2


def test_rows_differ_from_tensor_to_tensor_and_step_to_step(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        made: Any = importlib.import_module("page_run")
    record = open_run(made.make(tmp_path, "made", 6, 100))
    series = [record.series(tensor.name, "gradient.rms").values.tolist() for tensor in record.tensors]
    assert len({value for values in series for value in values}) == 600
    assert len(record.losses().values) == 100
    assert math.isfinite(record.own_cost()[0])


@pytest.mark.parametrize(("heaps", "is_flat"), [([5, 9, 9, 9, 9, 9, 9, 9], True), ([5, 9, 9, 15, 20, 25, 30, 35], False)])
def test_memory_that_grows_is_told(heaps: list[float], is_flat: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        live: Any = importlib.import_module("page_live")
    sizes = [(float(i), float(size)) for i, size in enumerate(heaps)]
    assert live.Watched(heaps=sizes, servers=[(0.0, 1.0)]).is_flat is is_flat
