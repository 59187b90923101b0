"""Oracle: the pages themselves. What they print here must be what they say they print (tolerance: pages.py)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs"
PAGES = [*sorted((DOCS / "tutorials").glob("*.md")), DOCS / "own-rules.md"]

_spec = importlib.util.spec_from_file_location("docs_pages", HERE / "pages.py")
assert _spec is not None
assert _spec.loader is not None
pages = importlib.util.module_from_spec(_spec)
sys.modules["docs_pages"] = pages
_spec.loader.exec_module(pages)


def test_both_tutorials_have_their_page():
    assert {page.name for page in PAGES} >= {"bias.md", "weights-and-biases.md"}


@pytest.mark.timeout(600)  # half a minute on a machine of its own
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_what_a_page_prints_is_what_it_says(path):
    ran = 0
    for block, printed in pages.outputs(path.read_text(), str(path)):
        ran += 1
        assert pages.same(block.text or "", printed), (
            f"{path.name}, line {block.line} prints\n{printed}\nbut the page says\n{block.text}\n"
            f"If the new output is right: python tests/docs/pages.py {path.relative_to(DOCS.parent)}"
        )
    assert ran


@pytest.mark.parametrize(
    ("expected", "found", "agree"),
    [
        ("loss 0.1234", "loss 0.1235", True),
        ("loss 0.1234", "loss 0.1334", False),
        ("loss 0.1234", "cost 0.1234", False),
        ("loss  1", "loss 1 ", True),
        ("1 2", "1 2 3", False),
        ("3.1e-08", "-2.0e-09", True),
        ("−1.5", "1.5", False),
        ("nan", "0.5", False),
    ],
)
def test_outputs_agree_in_words_exactly_and_in_numbers_nearly(expected, found, agree):
    assert pages.same(expected, found) is agree
