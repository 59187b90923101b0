"""How the loss's gradient fares on its way back through the time of a recurrent layer, in the first backward passes of a run.

A recurrent layer is one module with one output, so what modules give does not show it. But its steps are in the graph: the
same weight is used again and again, each time on what came of the time before. Hooks on these nodes weigh the gradient that
arrives at each of them: one number per step of time, in this one pass. A layer that torch computes in one piece (LSTM; on a
GPU all kinds) is one node; there the gradient by its input, where that is wanted, has the same decay, step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from weighbridge.capture.late import Late, held, norm_into
from weighbridge.lossgraph import AFFINE, RESHAPES, Graph

KIND: Final = "through_time"  # the event
LEAST: Final = 8  # steps of time
MOST: Final = 4  # layers
MOST_STEPS: Final = 1024  # of a longer sequence nothing is weighed
TURNED: Final = RESHAPES | {"T", "Transpose", "Permute"}
FUSED: Final = ("MkldnnRnnLayer", "CudnnRnn")


@dataclass(slots=True)
class Course:
    """One layer in one pass: norms of the loss's gradient by what its steps give, the earliest step of time first."""

    module: str
    parameter: str
    norms: dict[int, torch.Tensor] = field(default_factory=dict)  # by step of time; 0-dim, on their device
    length: int = 0
    late: Late | None = None
    kind: str = KIND
    message: str = "gradient through the time of a recurrent layer"

    @property
    def is_complete(self) -> bool:
        """Has the backward pass gone through all steps of time?"""
        return len(self.norms) == self.length > 0

    def has_arrived(self, wait: bool = False) -> bool:
        """Has the device given all of them?"""
        if not self.is_complete:
            return False
        if self.late is None:
            self.late = Late([self.norms[t] for t in range(self.length)])
        return self.late.has_arrived(wait)

    def detail(self) -> dict[str, Any]:
        """For the event."""
        assert self.late is not None
        return {"module": self.module, "parameter": self.parameter, "norms": self.late.numbers()}


def follow(graph: Graph, nodes: tuple[Any, ...]) -> list[Course]:
    """Hangs hooks on the nodes of recurrent layers; they are gone with the graph. Call it before the backward pass."""
    found = [*_of_fused(graph, nodes)]
    for weight, chain in _chains(graph):
        if len(found) == MOST:
            break
        course = Course(weight.rpartition(".")[0], weight, length=len(chain))
        for time, index in enumerate(chain):
            nodes[index].register_prehook(norm_into(course.norms, time))
        found.append(course)
    return found


def _chains(graph: Graph) -> Iterator[tuple[str, list[int]]]:
    """Weights that are used on what they gave before: each with one use per step of time, the earliest first."""
    uses: dict[str, list[int]] = {}
    for index, node in enumerate(graph.nodes):
        if node.op in AFFINE:
            leaf = graph.behind(index, AFFINE[node.op][1], TURNED)
            if leaf is not None and graph.nodes[leaf].parameter:
                uses.setdefault(graph.nodes[leaf].parameter, []).append(index)
    often = sorted((one for one in uses.items() if LEAST <= len(one[1]) <= MOST_STEPS), key=lambda one: -len(one[1]))
    for weight, places in often[: 2 * MOST]:
        chain = longest(graph, places)
        if len(chain) == len(places):  # else some of them are side by side
            yield weight, chain


def longest(graph: Graph, places: list[int]) -> list[int]:
    """Of these nodes one of each level: how many of them lie behind one another up to here."""
    level = [0] * (places[-1] + 1)
    wanted, chain = set(places), list[int]()
    for index in range(places[0], len(level)):
        above = (level[edge[0]] for edge in graph.nodes[index].inputs if edge is not None)
        level[index] = max(above, default=0) + (index in wanted)
        if index in wanted and level[index] > len(chain):
            chain.append(index)
    return chain


def _of_fused(graph: Graph, nodes: tuple[Any, ...]) -> Iterator[Course]:
    for index, node in enumerate(graph.nodes):
        if node.op in FUSED and node.inputs and node.inputs[0] is not None:
            course = Course(node.module, f"{node.module}.weight_hh_l0" if node.module else "")
            nodes[index].register_hook(_slicer(course, nodes[index]))
            yield course


def _slicer(course: Course, node: Any) -> Callable[[tuple[Any, ...], tuple[Any, ...]], None]:
    axis = 1 if getattr(node, "_saved_batch_first", False) and node.name().startswith("Cudnn") else 0
    is_reversed = bool(getattr(node, "_saved_reverse", False))

    def weigh(given: tuple[Any, ...], _: tuple[Any, ...]) -> None:
        x = given[0] if given else None
        if course.norms or not isinstance(x, torch.Tensor) or x.dim() != 3 or not LEAST <= x.shape[axis] <= MOST_STEPS:
            return
        with torch.no_grad(), suppress(Exception):
            by_time = torch.linalg.vector_norm(x.detach().float().movedim(axis, 0).flatten(1), dim=1)
            by_time = by_time.flip(0) if is_reversed else by_time
            course.length = len(by_time)
            course.norms.update({t: held(norm) for t, norm in enumerate(by_time.unbind())})

    return weigh
