"""docs/situations.md names tests that there are. Oracle: the tests' own text."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "situations.md").read_text()
NAMED = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", PAGE)


def test_every_test_that_the_page_names_exists() -> None:
    missing = [f"{file}::{name}" for file, name in NAMED if f"def {name}(" not in (ROOT / "tests" / file).read_text()]
    assert not missing


def test_every_row_of_the_page_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| situation", "| ---"))]
    assert len(rows) > 50
    assert not [row for row in rows if not re.search(r"::test_", row.rsplit("|", 2)[1])]


# What goes wrong most easily, by a word or two of its row.
HARD = (
    *("GradScaler, fused or not, overflow", "autocast", "accumulation", "clipping by norm", "clipping by value", "LBFGS"),
    *("optimizer in backward", "super().step()", "exception inside step", "written by hand", ".data", "weight clipping"),
    *("1:1 and 5:1", "tied weights", "called several times", "in-place ReLU", "residual", "ModelOutput", "checkpointing"),
    *("compile before or after watch, fullgraph", "functional_call", "parametrizations, weight_norm", "sparse", "unfrozen"),
    *("modules replaced", "EMA", "evaluation passes", "torch.func", "LSTM, MultiheadAttention", "DDP with 2 and 3", "no_sync"),
    *("DDP with compile", "uneven and empty", "rank that dies", "one rank only"),
)


def test_no_situation_is_forgotten() -> None:
    situations = [line.split("|")[1].replace("`", "") for line in PAGE.splitlines() if line.startswith("| ")]
    assert [one for one in HARD if not any(one in situation for situation in situations)] == []


def test_every_test_that_the_page_names_compares_something() -> None:
    """An assertion of its own, or one of the functions that compare a run with what truly happened."""
    compares = re.compile(r"\bassert\b|\bcheck\w*\(|\bwatched\(|\bfollowed\(|pytest\.raises")
    for file, name in NAMED:
        text = (ROOT / "tests" / file).read_text()
        body = re.split(r"\n(?=def |class |@)", text[text.index(f"def {name}(") :], maxsplit=1)[0]
        assert compares.search(body), f"{file}::{name}"
