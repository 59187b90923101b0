"""Which module ran between which nodes of autograd's graph, from what modules were given and what they gave."""

from __future__ import annotations

from collections.abc import Iterator
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

    def at(self, sequence: int) -> Ran | None:
        """The innermost module that ran when autograd made its node number `sequence`."""
        around = [call for call in self.calls if call.begin < sequence <= call.end]
        return min(around, key=lambda call: call.end - call.begin) if around else None


def _last(value: Any) -> int:
    """The highest sequence number of the nodes that made these tensors; -1 where none did."""
    nodes = (tensor.grad_fn for _, tensor in leaves(value))
    return max((number for node in nodes if node is not None and (number := node._sequence_nr()) < 2**63), default=-1)
