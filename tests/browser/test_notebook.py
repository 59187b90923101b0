"""Oracle: the run itself. A notebook in a real JupyterLab trains and shows; the picture grows while the cell is busy.

What is looked at are pixels and the words that the page says of its picture, then the notebook's file.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Error

from tests.browser.conftest import PATIENCE, SOURCE, eventually, expect, patient
from tests.server.conftest import make_run
from weighbridge.store.record import list_runs

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("jupyterlab")
pytest.importorskip("anywidget")
pytestmark = [pytest.mark.browser, pytest.mark.slow]

TRAINING = """
import time, pathlib, torch, weighbridge
model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
x = torch.randn(64, 8)
with weighbridge.watch(model) as run:
    weighbridge.show(run)
    while not pathlib.Path("enough").exists():
        (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step(); optimizer.zero_grad(); time.sleep(0.05)
"""
LAST_STEP = r"steps 0 to ([\d,]+)"
ROW = """() => {
  const canvas = document.querySelector(".heat canvas.base");
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return pixels.reduce((sum, value, i) => (sum * 31 + value * (i % 97)) % 1000003, 7);
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A JupyterLab of its own: its address and its folder."""
    folder = tmp_path_factory.mktemp("lab")
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    own = {name: str(folder / "jupyter") for name in places}
    options = ["--no-browser", "--allow-root", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options, "--LabApp.expose_app_in_browser=True"],
            cwd=folder,
            env={**os.environ, **own, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield _address(folder / "jupyter", server), folder
        finally:
            server.terminate()
            try:
                server.wait(PATIENCE)
            except subprocess.TimeoutExpired:  # kernels end with it
                server.kill()
                server.wait()


def _address(runtime: Path, server: subprocess.Popen[bytes]) -> str:
    """Where it answers: it takes the first port that is free, and writes down which."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            told = json.loads((runtime / f"jpserver-{server.pid}.json").read_text(encoding="utf-8"))
            urllib.request.urlopen(f"{told['url']}api/status", timeout=PATIENCE).close()
            return str(told["url"]).rstrip("/")
        except (OSError, ValueError):  # not there, not whole, or not listening yet
            assert time.monotonic() < end, "JupyterLab does not answer"
            time.sleep(0.2)


def written(folder: Path, name: str, *cells: str) -> None:
    """A notebook of these cells."""
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells])
    made.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, folder / name)


def opened(page: Any, lab: tuple[str, Path], name: str) -> Any:
    """The notebook in JupyterLab."""
    page.goto(f"{lab[0]}/lab/tree/{name}?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    kernel = "jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel"
    eventually(page, f"{kernel}?.connectionStatus === 'connected' && {kernel}.status === 'idle'")
    return page


def do(page: Any, command: str) -> None:
    page.evaluate(f"void jupyterapp.commands.execute('{command}')")


def shown(page: Any) -> Any:
    """The frame in which our page is."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for frame in page.frames[1:]:
            try:
                if frame.query_selector(".heat"):
                    return frame
            except Exception:  # it was replaced meanwhile
                continue
        page.wait_for_timeout(100)
    raise AssertionError("no picture in the notebook")


def until(page: Any, holds: Callable[[], bool], otherwise: str) -> None:
    """Wait until it does. A frame may be replaced meanwhile."""
    end = time.monotonic() + PATIENCE
    while True:
        with suppress(Error):
            if holds():
                return
        assert time.monotonic() < end, otherwise
        page.wait_for_timeout(100)


def last_step(frame: Any) -> int:
    found = re.search(LAST_STEP, frame.get_attribute(".heat", "aria-label") or "")
    return int(found[1].replace(",", "")) if found else -1


def saved(page: Any, folder: Path, name: str) -> Any:
    """The notebook's file after it was saved."""
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")  # waits until it is done
    return nbformat.read(folder / name, 4)


@pytest.fixture
def lab_page(browser: Any) -> Iterator[Callable[[], Any]]:
    """Pages of JupyterLab, whose own complaints are not ours."""
    contexts = []

    def page() -> Any:
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 1200}))
        return patient(contexts[-1].new_page())

    yield page
    for context in contexts:
        context.close()


def test_a_picture_grows_while_the_cell_trains_and_stays_in_the_notebook(
    lab: tuple[str, Path], lab_page: Callable[[], Any]
) -> None:
    folder = lab[1]
    written(folder, "train.ipynb", TRAINING)
    page = opened(lab_page(), lab, "train.ipynb")
    do(page, "notebook:run-all-cells")
    frame = shown(page)
    early, pixels = last_step(frame), frame.evaluate(ROW)
    until(page, lambda: last_step(frame) >= early + 20, "the picture does not grow")
    until(page, lambda: frame.evaluate(ROW) != pixels, "the pixels stay as they were")
    expect(page.locator(".jp-InputPrompt").first).to_have_text("[*]:")  # the cell is busy all the while
    expect(page.locator(".weighbridge-still").first).to_be_hidden()  # what is kept for later waits out of sight
    early_file = saved(page, folder, "train.ipynb")
    assert any("weighbridge-still" in text for text in htmls(early_file))

    (folder / "enough").touch()
    eventually(page, "!!document.querySelector('.weighbridge-still[hidden] + iframe')")
    steps = list_runs(folder / "weighbridge-runs")[-1].steps
    until(page, lambda: last_step(shown(page)) == steps - 1, "the last step is not shown")
    final = saved(page, folder, "train.ipynb")
    assert "application/vnd.jupyter.widget-view+json" not in json.dumps(final.cells[0].outputs)
    assert len(json.dumps(final)) < 1_000_000
    page.close()

    again = opened(lab_page(), lab, "train.ipynb")  # another kernel, which knows nothing of it
    until(again, lambda: last_step(shown(again)) == steps - 1, "the last step is not shown")
    again.close()

    final.cells[0].source += "  # somebody else's notebook: not trusted, so no frame and no script"
    nbformat.write(final, folder / "untrusted.ipynb")
    foreign = opened(lab_page(), lab, "untrusted.ipynb")
    picture = foreign.locator(".weighbridge-still img")
    picture.wait_for()
    until(foreign, lambda: picture.evaluate("image => image.complete && image.naturalWidth") == 920, "no picture")
    assert len(foreign.frames) == 1


def htmls(notebook: Any) -> list[str]:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return ["".join(output["data"].get("text/html", "")) for output in outputs if "data" in output]


def test_a_finished_run_is_shown_by_name_and_in_the_html_that_nbconvert_makes(
    lab: tuple[str, Path], open_page: Callable[..., Any]
) -> None:
    folder = lab[1]
    make_run(folder / "weighbridge-runs", "made", steps=60)
    make_run(folder / "elsewhere", "other", steps=30)
    written(folder, "look.ipynb", "import weighbridge\nweighbridge.show('made')\nweighbridge.show('made', 'elsewhere/other')")
    subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "html", "--execute", "look.ipynb"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        check=True,
        capture_output=True,
    )
    page = open_page(f"file://{folder / 'look.html'}")
    one, both = page.frames[1:]
    for frame, title, step in ((one, "made", 59), (both, "Compare", 29)):
        frame.wait_for_selector(".heat")
        expect(frame.locator("h1")).to_have_text(title, use_inner_text=True)
        until(page, lambda frame=frame, step=step: last_step(frame) == step, "the last step is not shown")
