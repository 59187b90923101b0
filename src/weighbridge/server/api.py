"""What the page asks for. JSON for facts, Arrow for arrays; every reader's error is a sentence with a status.

All endpoints are plain functions: the framework runs them in its thread pool, so reading files never holds up the
others. Names of runs and tensors come as query parameters, as they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import zlib
from collections.abc import Callable
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from weighbridge import __version__
from weighbridge.catalog import parse
from weighbridge.diagnosis import registry
from weighbridge.diagnosis.kept import jsonable
from weighbridge.errors import BadInput, WeighbridgeError
from weighbridge.server import answers, arrays, distributions, heat, layerpage, network, ranksapart, shapes
from weighbridge.server.acts import Acts
from weighbridge.server.before import before_of
from weighbridge.server.biasworth import worth_of
from weighbridge.server.catalogue import Catalogue
from weighbridge.server.comparing import Comparing
from weighbridge.server.diagnosing import Diagnoser
from weighbridge.server.layers import layers_of
from weighbridge.server.lines import guess_of
from weighbridge.server.listing import counts_of, listing, row_of
from weighbridge.server.live import growth
from weighbridge.server.notes import notes_of
from weighbridge.server.questions import domain, integer, one, quantity, shares, units, window
from weighbridge.server.runs import Runs
from weighbridge.server.search import parse as parse_search
from weighbridge.store.record import RunRecord

MOST_SERIES = 64  # of one request; the page draws fewer
MOST_ROWS = 100
ASKED_AHEAD = 20  # runs that the rules are asked about though nobody sees them


class Api:
    """The endpoints over one folder of runs."""

    def __init__(self, runs: Runs, asks_ahead: bool = False, locked: str = "") -> None:
        """`asks_ahead`: the rules are asked about the runs of the list, too, not only about those that are opened.

        `locked`: why nothing may be changed here; empty where it may.
        """
        self.runs, self.asks_ahead = runs, asks_ahead
        self.catalogue = Catalogue(runs)
        self.diagnoser = Diagnoser(runs, lambda name, said: self.catalogue.diagnosed(name, said))
        self.acts = Acts(runs, locked)
        self.comparing = Comparing(runs)

    def plain(self) -> dict[str, Callable[[Request], Response]]:
        """All endpoints that answer once, by name."""
        return {
            "runs": self.list_runs,
            "rows": self.rows,
            "run": self.run,
            "tensors": self.tensors,
            "statistics": self.statistics,
            "series": self.series,
            "loss": self.loss,
            "logged": self.logged,
            "cost": self.cost,
            "clock": self.clock,
            "layers": self.layers,
            "heat": self.heat,
            "cell": self.cell,
            "findings": self.findings,
            "notes": self.notes,
            "layer": self.layer,
            "worth": self.worth,
            "ranks": self.ranks,
            "spread": self.spread,
            "quantiles": self.quantiles,
            "lines": self.lines,
            "rules": self.rules,
            "network": self.network,
            "before": self.before,
            **self.comparing.plain(),
        }

    def routes(self) -> list[BaseRoute]:
        """All endpoints, below /api/."""
        found: list[BaseRoute] = [Route(f"/api/{name}", call, methods=["GET"]) for name, call in self.plain().items()]
        return [
            *found,
            *(Route(f"/api/act/{what}", self.acts.act, methods=["POST"]) for what in ("label", "delete", "undo")),
            Route("/api/growth", self.growth, methods=["GET"]),
            Route("/api/{rest:path}", answers.nothing_here),
        ]

    def _kept(self, request: Request, make: Callable[[RunRecord], bytes]) -> Response:
        """An Arrow stream about one run (or, with `rank`, about what that rank alone recorded; with `attempt`, as that one left
        it): made once for all who ask the same until the run has grown."""
        with self.runs.use(one(request, "run"), integer(request, "rank"), integer(request, "attempt")) as record:
            if answers.is_gone(request):
                return answers.sentence(499, "Whoever asked is not there any more.")
            return answers.stream(record.kept(str(request.url.path) + "?" + str(request.query_params), lambda: make(record)))

    def ahead(self, name: str, statistic: str) -> None:
        """The page of a run is on its way to the browser: what it will ask for first is read meanwhile, on a thread."""
        threading.Thread(target=self._ahead, args=(name, statistic)).start()

    def _ahead(self, name: str, statistic: str) -> None:
        with contextlib.suppress(WeighbridgeError, OSError), self.runs.use(name) as record:
            heat.cells_of(record, statistic, heat.rows_of(record, statistic, "wb", "auto", ()), None, None, heat.COLUMNS)

    def list_runs(self, request: Request) -> Response:
        """The runs that fit, by name, in their order and groups (listing.py). `have`: the order that the page has already.

        What is wrong with the search is part of the answer: whoever types has not done yet.
        """
        of, entries = request.query_params, self.catalogue.look()
        about = {"folder": str(self.runs.root), "version": __version__, "now": datetime.now(UTC).isoformat(), "wrong": ""}
        about["locked"] = self.acts.locked
        try:
            told = listing(entries, parse_search(of.get("q", "")), of.get("sort") or "-started", of.get("group", ""))
        except BadInput as error:
            return JSONResponse(about | {"wrong": str(error), "counts": counts_of(entries, entries)})
        order = f"{zlib.crc32(json.dumps(told['groups']).encode()):08x}"
        if of.get("have") == order:
            del told["groups"]
        return JSONResponse(about | {"order": order} | told)

    def rows(self, request: Request) -> Response:
        """These runs' rows. The rules are asked about them next, where they have not said all."""
        names = request.query_params.getlist("run")[:MOST_ROWS]
        entries = self.catalogue.of(names)
        if self.asks_ahead:
            self.diagnoser.later(self.catalogue.undiagnosed(names, ASKED_AHEAD))
        return JSONResponse(jsonable([row_of(entry) for entry in entries]))

    def run(self, request: Request) -> Response:
        """One run: facts, configuration, names of logged metrics, own cost."""
        name = one(request, "run")
        with self.runs.use(name) as record:
            facts = shapes.run_json(name, record)
            own_seconds, wall_seconds = record.own_cost()
            facts |= {
                "first_step": record.first_step,
                "last_step": record.last_step,
                "logged": list(record.log_keys()),
                "ranks": list(record.ranks),
                "attempts": shapes.attempts_json(record),
                "guess": guess_of(record),
                "own_seconds": jsonable(own_seconds),
                "wall_seconds": jsonable(wall_seconds),
                "less_detail": jsonable(dataclasses.asdict(record.detail)) if record.detail is not None else None,
            }
        return JSONResponse(facts)

    def tensors(self, request: Request) -> Response:
        """The tensors of a run in their order."""
        with self.runs.use(one(request, "run")) as record:
            return JSONResponse([shapes.tensor_json(tensor) for tensor in record.tensors])

    def statistics(self, request: Request) -> Response:
        """The catalogue."""
        return JSONResponse(shapes.statistics_json())

    def series(self, request: Request) -> Response:
        """Every statistic asked for of every tensor asked for, tensor by tensor, in buckets."""
        tensors, statistics = request.query_params.getlist("tensor"), request.query_params.getlist("stat")
        if not tensors or not statistics:
            raise BadInput("Name at least one tensor= and one stat=, such as tensor=0.weight&stat=gradient.rms.")
        if len(tensors) * len(statistics) > MOST_SERIES:
            raise BadInput(f"{len(tensors) * len(statistics)} series at once are too many; ask for {MOST_SERIES} at most.")
        for statistic in statistics:
            parse(statistic)
        start, stop, buckets = window(request)
        return self._kept(
            request,
            lambda record: arrays.encode(
                arrays.table_of(arrays.statistics_of(record, tensors, statistics, start, stop, buckets))
            ),
        )

    def loss(self, request: Request) -> Response:
        """The loss in buckets; with `attempt`, as that one left it."""
        start, stop, buckets = window(request)
        with self.runs.use(one(request, "run"), attempt=integer(request, "attempt")) as record:
            part = arrays.loss_of(record, start, stop, buckets)
        return _line(part)

    def logged(self, request: Request) -> Response:
        """One logged metric in buckets; as `loss`."""
        start, stop, buckets = window(request)
        with self.runs.use(one(request, "run"), attempt=integer(request, "attempt")) as record:
            part = arrays.metric_of(record, one(request, "key"), start, stop, buckets)
        return _line(part)

    def cost(self, request: Request) -> Response:
        """What weighbridge itself took, as a share of the training's time, in buckets."""
        start, stop, buckets = window(request)
        with self.runs.use(one(request, "run")) as record:
            part = arrays.cost_of(record, start, stop, buckets)
        return _line(part)

    def clock(self, request: Request) -> Response:
        """How many seconds of training the steps of a run had taken, for an axis of time."""
        start, stop, points = window(request)
        with self.runs.use(one(request, "run")) as record:
            part = arrays.clock_of(record, points, start, stop)
        return _line(part)

    def layers(self, request: Request) -> Response:
        """The layers of a run in order of execution."""
        with self.runs.use(one(request, "run")) as record:
            return JSONResponse([shapes.layer_json(layer) for layer in layers_of(record)])

    def heat(self, request: Request) -> Response:
        """One statistic of all tensors in buckets of steps (heat.py); with `rank`, as that rank alone recorded it."""
        statistic, of = one(request, "stat"), request.query_params
        start, stop, columns = window(request)

        def picture(record: RunRecord) -> bytes:
            rows = heat.rows_of(record, statistic, of.get("show", "wb"), of.get("fold", "auto"), of.getlist("open"))
            return heat.encode(heat.cells_of(record, statistic, rows, start, stop, columns), domain(request))

        return self._kept(request, picture)

    def layer(self, request: Request) -> Response:
        """One layer at one step (layerpage.py)."""
        with self.runs.use(one(request, "run")) as record:
            return JSONResponse(layerpage.layer_at(record, one(request, "path"), integer(request, "step"), units(request)))

    def worth(self, request: Request) -> Response:
        """What the bias of one layer is worth, where that was proved or measured (biasworth.py)."""
        with self.runs.use(one(request, "run")) as record:
            return JSONResponse(worth_of(record, one(request, "path")))

    def ranks(self, request: Request) -> Response:
        """The ranks of a run beside each other (ranksapart.py)."""
        name = one(request, "run")
        with self.runs.use(name) as record:
            return JSONResponse(ranksapart.beside(record, lambda rank: self.runs.use(name, rank)))

    def spread(self, request: Request) -> Response:
        """How a tensor's values are spread, over steps (distributions.py)."""
        start, stop, most = window(request)
        tensor, kind = one(request, "tensor"), quantity(request)
        return self._kept(request, lambda record: distributions.spread_of(record, tensor, kind, most, start, stop))

    def quantiles(self, request: Request) -> Response:
        """Between which numbers a tensor's values lie, over steps; one line for each share= (distributions.py)."""
        start, stop, _ = window(request)
        tensor, kind, wanted = one(request, "tensor"), quantity(request), shares(request)
        return self._kept(
            request,
            lambda record: arrays.encode(
                arrays.table_of(distributions.quantiles_of(record, tensor, kind, wanted, start, stop))
            ),
        )

    def lines(self, request: Request) -> Response:
        """Every value of a small tensor over steps."""
        start, stop, _ = window(request)
        tensor, kind = one(request, "tensor"), quantity(request)
        return self._kept(request, lambda record: distributions.lines_of(record, tensor, kind, start, stop))

    def cell(self, request: Request) -> Response:
        """Several statistics of some tensors over some steps, each as one number with its least and greatest."""
        start, stop, _ = window(request)
        of = request.query_params
        with self.runs.use(one(request, "run"), integer(request, "rank"), integer(request, "attempt")) as record:
            told = arrays.told_of(record, of.getlist("tensor")[:MOST_SERIES], of.getlist("stat")[:MOST_SERIES], start, stop)
        return JSONResponse(jsonable(told))

    def findings(self, request: Request) -> Response:
        """What the rules say, as far as they were asked (diagnosing.py)."""
        name = one(request, "run")
        with self.runs.use(name) as record:
            return JSONResponse(self.diagnoser.ask(name, record))

    def rules(self, request: Request) -> Response:
        """All rules with what their files say of them."""
        return JSONResponse([shapes.rule_json(rule) for rule in registry.rules()])

    def network(self, request: Request) -> Response:
        """The modules as executed, at one step (network.py)."""
        of = request.query_params
        with self.runs.use(one(request, "run")) as record:
            step, fold = integer(request, "step"), of.get("fold", "auto")
            return JSONResponse(network.network_at(record, one(request, "stat"), step, fold, of.getlist("open")))

    def before(self, request: Request) -> Response:
        """What is known of the time before the first update (before.py)."""
        with self.runs.use(one(request, "run")) as record:
            return JSONResponse(before_of(record))

    def notes(self, request: Request) -> Response:
        """What happened to the run and when."""
        with self.runs.use(one(request, "run")) as record:
            return JSONResponse(notes_of(record))

    async def growth(self, request: Request) -> Response:
        """Server-sent events: how far the run has grown."""
        events = growth(self.runs, one(request, "run"), request)
        return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})


def _line(part: arrays.Part) -> Response:
    """One line of a chart."""
    return answers.stream(arrays.encode(arrays.table_of([part])))
