"""`weighbridge.show`: runs in the output of a notebook's cell, live while they are written.

The browser is only ever sent to: a kernel that trains cannot answer, and a server of ours on the kernel's machine is out of
reach behind JupyterHub, in VS Code and through ssh. A thread hands on the lines of feed.py as messages of the widget; when the
run has ended, the output becomes what stays in the notebook (still.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import weighbridge
from weighbridge.errors import BadInput, WeighbridgeError
from weighbridge.notebook.still import packed_page, still, text_of
from weighbridge.server.api import Api
from weighbridge.server.page import HOW_TO_BUILD, STATIC, PageNotBuilt, check_built
from weighbridge.server.runs import SomeRuns
from weighbridge.store.find import find_run

if TYPE_CHECKING:
    from weighbridge.capture.run import Run
    from weighbridge.store.record import RunRecord

MOST: Final = 8
WIDGET: Final = STATIC / "notebook.js"  # built from frontend/src/notebook.ts
INSTALL: Final = "pip install 'weighbridge[notebook]'"


class NoNotebook(WeighbridgeError):
    """There is no notebook to show something in, or a package for it is missing."""


def show(*runs: str | os.PathLike[str] | Run | RunRecord) -> None:
    """Show runs in the output of this cell of a notebook; without an argument the newest of ./weighbridge-runs.

    A run is what `watch` or `open_run` gave, its folder, or its name below ./weighbridge-runs. A run that is being written
    grows before your eyes, in a cell that trains too: call `show` before the loop. When it has ended, what is shown stays in
    the notebook and needs no kernel. Raises NoNotebook (with what to install), NotARun, PageNotBuilt.
    """
    places = [_place(run) for run in runs] or [find_run(None)]
    if len(places) > MOST:
        raise BadInput(f"{len(places)} runs are too many for one view; name {MOST} at most.")
    widgets, display = _tools(places)
    check_built()
    if not WIDGET.is_file():
        raise PageNotBuilt(HOW_TO_BUILD)
    api = Api(SomeRuns(places))
    if any(_is_live(api, name) for name in api.runs.names()):
        _Live(api, places, widgets, display).begin()
    else:
        display(_bundle(still(api), places), raw=True)


def _place(run: Any) -> Path:
    if hasattr(run, "path"):  # a Run or a RunRecord
        return Path(run.path)
    return find_run(os.fspath(run))


def _is_live(api: Api, name: str) -> bool:
    with api.runs.use(name) as record:
        return record.info.state == "live"


def _tools(places: Sequence[Path]) -> tuple[Any, Any]:
    """anywidget and IPython's display. Raises NoNotebook."""
    name = places[0].name
    other = f"Elsewhere: weighbridge ui, or in the terminal weighbridge show {name} and weighbridge top {name}."
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if getattr(shell, "kernel", None) is None:
        raise NoNotebook(f"weighbridge.show draws in a notebook (JupyterLab, VS Code, ...), and this is none. {other}")
    try:
        import anywidget
    except ImportError:
        raise NoNotebook(
            f"weighbridge.show needs anywidget, which is not installed in this kernel's environment: {INSTALL}, then restart "
            f"the kernel and load the page anew. {other}"
        ) from None
    from IPython.display import display

    return anywidget, display


def _bundle(html: str, places: Sequence[Path]) -> dict[str, str]:
    return {"text/html": html, "text/plain": text_of(places)}


class _Live:
    """Runs that grow: a widget while they do, and below it, out of sight, what stays if the notebook is saved meanwhile."""

    def __init__(self, api: Api, places: Sequence[Path], widgets: Any, display: Any) -> None:
        self.places, self.display = places, display
        self.mark = uuid.uuid4().hex[:12]
        page = packed_page({"runs": api.runs.names(), "answers": {}, "grows": True})
        self.widget = widget_class(widgets)(page=page, name=self.mark, answers={})

    def begin(self) -> None:
        """Put the widget there and have it fed."""
        shown = {"text/plain": text_of(self.places)}
        view = {"version_major": 2, "version_minor": 1, "model_id": self.widget.model_id}
        self.view = self.display({**shown, "application/vnd.jupyter.widget-view+json": view}, raw=True, display_id=True)
        self.later = self.display({"text/html": "", **shown}, raw=True, display_id=True)
        threading.Thread(target=self._hand_on, name="weighbridge-show", daemon=True).start()

    def _hand_on(self) -> None:
        """On a thread of its own; nothing here can reach the training."""
        feeder = _start_feeder(self.mark, self.places)
        try:
            assert feeder.stdout is not None
            for line in feeder.stdout:
                self._take(json.loads(line))
        except Exception as error:  # a closed connection, a kernel that ends
            print(f"weighbridge: this view is no longer renewed ({type(error).__name__}: {error})", file=sys.stderr)
        finally:
            feeder.kill()
            feeder.wait()

    def _take(self, told: dict[str, Any]) -> None:
        if "answers" in told:
            self.widget.answers.update(told["answers"])  # for a page that is loaded anew
            self.widget.send({"weighbridge": told["answers"]})
        elif "later" in told:
            self.later.update(_bundle(told["later"], self.places), raw=True)
        elif "still" in told:
            self.view.update(_bundle(told["still"], self.places), raw=True)
            self.later.update({"text/plain": ""}, raw=True)
        else:
            self.view.update({"text/plain": f"weighbridge: {told['trouble']}"}, raw=True)


def _start_feeder(mark: str, places: Sequence[Path]) -> subprocess.Popen[str]:
    """feed.py in a session of its own: an interrupt of the kernel is not meant for it."""
    where = str(Path(weighbridge.__file__).parents[1])
    path = os.pathsep.join([where, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "weighbridge.notebook.feed", mark, *(str(place.resolve()) for place in places)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def widget_class(widgets: Any) -> Any:
    """The widget: `page` is what its frame shows, `answers` all that was sent, `name` marks its picture for later."""
    import traitlets

    class View(widgets.AnyWidget):  # type: ignore[misc, name-defined, unused-ignore]
        _esm = WIDGET
        page = traitlets.Unicode().tag(sync=True)
        name = traitlets.Unicode().tag(sync=True)
        answers = traitlets.Dict().tag(sync=True)

    return View
