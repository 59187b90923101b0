"""The code of docs/notebook.md runs in a kernel. Oracle: the notebook that comes out of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.docs.pages import blocks

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_examples_run_in_a_kernel_and_leave_their_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    examples = blocks((ROOT / "docs/notebook.md").read_text())
    last = "import threading\n[t.join(60) for t in threading.enumerate() if t.name == 'weighbridge-show']"
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in [*(one.code for one in examples), last]])
    nbclient.NotebookClient(made, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pages = [
        output["data"]["text/html"] for cell in made.cells for output in cell.outputs if "text/html" in output.get("data", {})
    ]
    assert sum("<iframe" in page for page in pages) == len(examples) + 1  # the second block shows twice
