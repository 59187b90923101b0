"""What the page asks of several runs at once. Names of runs come as query parameters, as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from weighbridge.server import answers, apart, versus
from weighbridge.server.questions import integer, one, several, window
from weighbridge.server.runs import Runs
from weighbridge.store.record import RunRecord


class Comparing:
    """The endpoints about several runs of one folder."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs

    def plain(self) -> dict[str, Callable[[Request], Response]]:
        """All of them, by name."""
        return {"compare": self.compare, "difference": self.difference, "faces": self.faces}

    def compare(self, request: Request) -> Response:
        """Several runs beside each other (versus.py)."""
        names = several(request, 1)
        with ExitStack() as opened:
            records = self._use(opened, names)
            return JSONResponse(apart.added(versus.comparison(names, records), records))

    def difference(self, request: Request) -> Response:
        """The picture of the second run against the first."""
        names, of = several(request, 2), request.query_params
        start, stop, columns = window(request)
        with ExitStack() as opened:
            a, b = self._use(opened, names)[:2]
            fold = of.get("fold", "auto")
            return answers.stream(
                versus.difference(a, b, one(request, "stat"), of.get("show", "wb"), fold, columns, start, stop)
            )

    def faces(self, request: Request) -> Response:
        """The values of one tensor in each of several runs."""
        names = several(request, 1)
        with ExitStack() as opened:
            told = versus.face_to_face(self._use(opened, names), one(request, "tensor"), integer(request, "step"))
        return JSONResponse(told)

    def _use(self, opened: ExitStack, names: Sequence[str]) -> list[RunRecord]:
        """All of them, each for this thread alone; always taken in the same order, so that no two wait for each other."""
        held = {name: opened.enter_context(self.runs.use(name)) for name in sorted(set(names))}
        return [held[name] for name in names]
