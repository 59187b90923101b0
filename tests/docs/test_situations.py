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
