"""The pictures of the page are those that the script makes, and the text names each of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pages"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What the script makes."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import pictures

    return set(pictures.all_names())


def test_no_picture_is_missing_and_none_is_left_over(names: set[str]) -> None:
    assert {path.name for path in PICTURES.glob("*.png")} == names


def test_the_text_names_each_picture(names: set[str]) -> None:
    text = (PICTURES / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\(([\w-]+\.png)\)", text)) == names
