"""What a run is, before any number of it: its state, ranks, configuration, events, tensors, and which steps there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from weighbridge.errors import UnknownTensor, nearest
from weighbridge.records import OF_OUTPUTS, Quantity
from weighbridge.store import persteps
from weighbridge.store.allranks import AllRanks
from weighbridge.store.grid import joined
from weighbridge.store.recent import RECENT
from weighbridge.store.status import info_of, require_run, steps_of
from weighbridge.store.views import Attempt, Event, RunInfo, Tensor


class Described:
    """The part of a RunRecord that reads no rows."""

    def __init__(self, path: Path, rank: int | None = None, attempt: int | None = None) -> None:
        self.path, self.rank, self.attempt = path, rank, attempt
        self._run = require_run(path)
        self._all = AllRanks(path, rank, attempt)
        self._query = self._all.query
        self._owner = RECENT.owner(self)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The numbers of all ranks that recorded something."""
        return self._all.numbers

    @property
    def attempts(self) -> list[Attempt]:
        """A run that went on after a restart: each of its attempts, and how many of its steps still count."""
        return self._all.ask(self._all.attempts)

    # ---- the run ----

    @property
    def info(self) -> RunInfo:
        self.refresh()
        return self._all.ask(lambda: info_of(self.path, self._run, self._all.lead))

    @property
    def steps(self) -> int:
        """Steps taken, as of the last look: what `info` says of them, without a look at the files."""
        return self._all.ask(lambda: steps_of(self._all.lead))

    def refresh(self) -> bool:
        """See newly acknowledged flushes; returns whether there are any."""
        return self._all.refresh()

    @property
    def world_size(self) -> int:
        """How many ranks the training had when the run began."""
        return int(self.about.get("world_size") or 1)

    @property
    def has_shards(self) -> bool:
        """Are there tensors of which each rank holds a part? Shown are the steps at which all parts are there."""
        return self._all.has_shards

    def rank_states(self) -> list[tuple[int, str, int]]:
        """Of each rank: its number, its state (as RunInfo.state) and the last step that it recorded."""
        return self._all.states(self._run)

    @property
    def config(self) -> dict[str, Any]:
        """The run's configuration: as given to init, then what was added later."""
        config = dict(self._run["info"].get("config") or {})
        for event in self.events():
            if event.kind == "config":
                config.update(event.detail)
        return config

    @property
    def about(self) -> dict[str, Any]:
        """What was written down when the run began: versions, command line, machine."""
        return {name: value for name, value in self._run["info"].items() if name != "config"}

    def events(self) -> list[Event]:
        """Everything that happened to the run, in the order it was written."""
        return persteps.events(self._all.whole("events"))

    def kept(self, question: str, make: Callable[[], bytes]) -> memoryview:
        """What follows from the run as it is: made once, until it has grown."""
        key = (self._owner, question, self.steps)  # finish.json may say another number of steps, with nothing new to read
        return RECENT.get(key, self._all.version, lambda old: memoryview(make()) if old is None else old)

    # ---- tensors ----

    @property
    def everything(self) -> tuple[Tensor, ...]:
        """Parameters and outputs; the very same tuple until something is added."""
        return self._all.tensors()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All watched parameters in order of definition; a later description of the same tensor wins."""
        return tuple(tensor for tensor in self._all.tensors() if not tensor.is_output)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """All watched outputs of modules ("encoder.0/out"), in order of execution."""
        return tuple(tensor for tensor in self._all.tensors() if tensor.is_output)

    def tensors_of(self, quantity: Quantity) -> tuple[Tensor, ...]:
        """Those that this quantity is weighed of: outputs for activations and their gradients, else parameters."""
        return self.outputs if quantity in OF_OUTPUTS else self.tensors

    def tensor(self, name: str) -> Tensor:
        """By name, by one of its aliases or by "model:name" where several models share names. Raises UnknownTensor."""
        everything = self._all.tensors()
        found = [t for t in everything if name in (t.name, f"{t.model}:{t.name}", *t.aliases)]
        if not found:
            known = [t.name for t in everything]
            raise UnknownTensor(
                f"The run {self.path} has no tensor {name!r}.{nearest(name, known)} All of them: weighbridge show {self.path}"
            )
        return found[0]

    def descriptions(self) -> list[tuple[int, Tensor]]:
        """What was said of the tensors and from which step on, in the order it was said; a later word on a tensor wins."""
        now = {tensor.id: tensor for tensor in self._all.tensors()}
        told = self._all.whole("tensors").to_pylist() if len(self.ranks) < 2 else []
        listed = [(max(row["step"], 0), Tensor.from_row(row)) for row in told]
        return listed or [(0, tensor) for tensor in now.values()]

    def whole(self, table: str) -> pa.Table:
        """All of one of the small tables (`records.TABLES`, all but `rows`), as the lowest rank wrote it."""
        return self._all.whole(table)

    # ---- rows ----

    @property
    def thinned(self) -> list[tuple[int, int]]:
        """First and last steps of the ranges of which only buckets are left (the disk limit), in order."""
        return joined(part.thinned for part in self._all.parts if part.thinned)

    @property
    def first_step(self) -> int:
        """The first step with rows; -1 where there is none."""
        return min((part.first_step for part in self._all.parts), default=-1)

    @property
    def last_step(self) -> int:
        """The last one, as `first_step`."""
        return max((min(part.last_step, part.limit - 1) for part in self._all.parts), default=-1)

    def _range(self, start: int | None, stop: int | None) -> tuple[int, int]:
        first = max(self.first_step, 0)
        low = first if start is None else max(start, first)
        high = self.last_step + 1 if stop is None else min(stop, self.last_step + 1)
        return low, max(high, low)
