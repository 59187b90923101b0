"""Which module ran between which nodes of autograd's graph, from what modules were given and what they gave."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from weighbridge.capture.outputhook import leaves


@dataclass(frozen=True, slots=True)
class Ran:
    """One call of a module: it made the nodes with begin < sequence number <= end, but for those of modules inside it."""

    model: str
    path: str
    begin: int
    end: int


@dataclass(slots=True)
class Calls:
    """Which module ran when, in the order in which they ended."""

    calls: list[Ran] = field(default_factory=list)

    def note(self, model: str, path: str, given: Any, made: Any) -> None:
        """A module at this path of a model was called."""
        begin = max([_last(given), *self._before(model, path)])
        self.calls.append(Ran(model, path, begin, max(_last(made), begin)))

    def _before(self, model: str, path: str) -> Iterator[int]:
        """What ended last and is not inside this one."""
        inside = f"{path}." if path else ""
        for call in reversed(self.calls):
            if call.model != model or not call.path.startswith(inside):
                yield call.end
                return

    def finder(self) -> Callable[[int], Ran | None]:
        """A function that gives the innermost module that ran when autograd made its node of this number."""
        edges = sorted({edge for call in self.calls for edge in (call.begin, call.end)})
        inside: list[Ran | None] = [None] * (len(edges) + 1)  # of the numbers above one edge, up to the next
        widest_first = sorted(enumerate(self.calls), key=lambda one: (one[1].begin - one[1].end, -one[0]))
        for _, call in widest_first:  # what runs inside comes later, and stays
            first, last = bisect_left(edges, call.begin) + 1, bisect_left(edges, call.end) + 1
            inside[first:last] = [call] * (last - first)
        return lambda number: inside[bisect_left(edges, number)]


def _last(value: Any) -> int:
    """The highest sequence number of the nodes that made these tensors; -1 where none did."""
    nodes = (tensor.grad_fn for _, tensor in leaves(value))
    return max((number for node in nodes if node is not None and (number := node._sequence_nr()) < 2**63), default=-1)
