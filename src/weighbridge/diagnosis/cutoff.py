"""Parameters that had a gradient at every step, and from one step on have none: something cut them off in mid-run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.lossgraph import PARTS, Graph

SEEN: Final = 20  # steps with a gradient, not one without
CHANCE: Final = 1e-3  # that a part which is left out by chance is missed so often in a row
BRANCH: Final = 20  # steps: a part beside others that still learn may be left out by a schedule that brings it back
_AS_IT_IS: Final = PARTS | {"T"}  # what a weight goes through before it is used


def patience(seen: int) -> int:
    """Steps in a row without a gradient that say it is no chance, after this many of which none was without one.

    None in n bounds the rate by 3 / n (rule of three, Hanley & Lippman-Hand 1983).

    >>> [patience(seen) for seen in (20, 100, 1000)]
    [4, 2, 2]
    """
    return math.ceil(math.log(CHANCE) / math.log(3 / seen))


class CutOff:
    """Follows the gradients of all parameters, of which `None` and a gradient of nothing but 0 are no gradient."""

    def __init__(self) -> None:
        self.seen, self.missed, self.since = (np.zeros(0, np.int64) for _ in range(3))
        self.lost_at = np.zeros(0, np.int64)
        self.is_out = np.zeros(0, bool)  # told, or seen to come and go
        self.is_certain = np.zeros(0, bool)  # no gradient at all, or its module gave what the loss does not depend on

    def start(self, tensors: Tensors) -> None:
        """Make room for new tensors."""
        self.tensors = tensors
        for name in ("seen", "missed", "since", "lost_at", "is_out", "is_certain"):
            setattr(self, name, tensors.grown(getattr(self, name)))
        self.outputs: dict[int, list[int]] = {}
        self.families = [set(columns) for columns in tensors.families()]

    def read(self, block: Block, is_stepped: np.ndarray, graph: Callable[[], Graph | None]) -> Iterator[tuple[int, np.ndarray]]:
        """is_stepped: bool [steps, tensors], the optimizer used or should have used a gradient. Gives steps, and the columns
        that are certainly cut off since `lost_at`."""
        has_one = ~np.isnan(block["gradient.count"]) & (block["gradient.abs_max"] != 0)
        is_lost = is_stepped & ~has_one & ((self.seen > 0) | np.logical_or.accumulate(has_one, axis=0)) & ~self.is_out
        at = 0
        while at < len(block):
            if not self.missed.any():  # nearly always: look for the next step in which one is missing
                missing = np.flatnonzero(is_lost[at:].any(axis=1))
                stop = at + int(missing[0]) if len(missing) else len(block)
                self._go_on(has_one[at:stop] & is_stepped[at:stop], block.start + at)
                at = stop
                if at == len(block):
                    return
            yield from self._step(block, at, is_stepped[at], has_one[at], graph)
            at += 1

    def _go_on(self, has_one: np.ndarray, start: int) -> None:
        """Steps in which no gradient is missing."""
        if not len(has_one):
            return
        begins = (self.seen == 0) & has_one.any(axis=0)
        self.since[begins] = start + has_one[:, begins].argmax(axis=0)
        self.seen += has_one.sum(axis=0)

    def _step(
        self, block: Block, at: int, is_stepped: np.ndarray, has_one: np.ndarray, graph: Callable[[], Graph | None]
    ) -> Iterator[tuple[int, np.ndarray]]:
        step = block.start + at
        lost = is_stepped & ~has_one & (self.seen > 0) & ~self.is_out
        is_back = has_one & (self.missed > 0)
        self.is_out |= is_back | (lost & (self.seen < SEEN))
        self.missed[self.is_out] = 0
        lost &= ~self.is_out
        self._go_on((has_one & is_stepped)[None], step)
        self.lost_at[lost & (self.missed == 0)] = step
        self.missed[lost] += 1
        if not lost.any():
            return
        self._look(block, at, lost)
        onset = int(self.lost_at[lost].min())
        if (self.seen > 0)[self.since >= onset].any():  # others begin to learn: another part of the training has begun
            self.is_out |= lost
            self.missed[lost] = 0
            return
        certain = np.flatnonzero(lost & self.is_certain)
        if len(certain) and (self.missed[certain] >= patience(int(self.seen[certain].min()))).all():
            found = self._judged(certain, np.flatnonzero(has_one & is_stepped), graph())
            if len(found):
                self.is_out[found], self.missed[found] = True, 0
                yield step, found

    def _look(self, block: Block, at: int, lost: np.ndarray) -> None:
        """A gradient of None is a proof. One of nothing but 0 may come from dead units: their layer's output has a gradient."""
        self.is_certain[lost] |= np.isnan(block["gradient.count"][at, lost])
        given, back = block["activation.count"][at], block["activation_gradient.count"][at]
        if np.isnan(back).all():
            return
        for column in np.flatnonzero(lost & ~self.is_certain).tolist():
            if column not in self.outputs:
                self.outputs[column] = self.tensors.outputs_of(column)
            mine = self.outputs[column]
            self.is_certain[column] = any(given[c] > 0 and np.isnan(back[c]) for c in mine)

    def _judged(self, lost: np.ndarray, kept: np.ndarray, graph: Graph | None) -> np.ndarray:
        """Those that lie before all that still learns; after BRANCH steps those too that lie beside some of it, unless it is
        their like: one of several experts or layers may be left out for long."""
        nothing = np.zeros(0, np.int64)
        if graph is None:
            return nothing
        others = {self.tensors[c].name for c in kept.tolist()} & graph.leaves.keys()
        reached = fed(graph, {self.tensors[c].name for c in lost.tolist()}, others)
        if not reached:
            return nothing  # a head whose loss is no longer asked for
        if reached == others:
            return lost
        beside = {c for c in kept.tolist() if self.tensors[c].name not in reached}
        by_turns = {c for family in self.families if family & beside for c in family}
        return lost[~np.isin(lost, [*by_turns])] if (self.missed[lost] >= BRANCH).all() else nothing


def fed(graph: Graph, first: set[str], then: set[str]) -> set[str]:
    """Those of `then` that are used together with what is made of `first`."""
    is_made = [False] * len(graph.nodes)
    name = [node.parameter for node in graph.nodes]
    found: set[str] = set()
    for i, node in enumerate(graph.nodes):
        inputs = [edge[0] for edge in node.inputs if edge is not None]
        is_made[i] = node.parameter in first or any(is_made[n] for n in inputs)
        if node.op in _AS_IT_IS and inputs:
            name[i] = name[inputs[0]]
        elif is_made[i] and math.prod(node.shape) > 1:
            found |= {name[n] for n in inputs}
    return found & then
