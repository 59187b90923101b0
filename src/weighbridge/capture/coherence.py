"""Successive gradients of an optimizer compared, on some of its steps: the table `coherence`.

Kept of the earlier gradient is what `sketch` says, from one step to the next and no longer. What the table holds are sums, so
shards add up; the cosine is a reader's division. An optimizer's own steps are counted, so that one that steps at every
fifth reading of the clock is compared as often as another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from weighbridge.capture.accumulation import Accumulation
from weighbridge.capture.budget import Thinned
from weighbridge.capture.kernel import Kernel
from weighbridge.capture.leftovers import Leftover
from weighbridge.capture.plan import Plan
from weighbridge.capture.recorder import Recorder
from weighbridge.capture.shards import local
from weighbridge.capture.sketch import Items, gather, numbers_of
from weighbridge.capture.snapshots import Weighed
from weighbridge.capture.tensors import TensorTable

if TYPE_CHECKING:
    from weighbridge.capture.stepped import Stepped

NOT_ON_DEVICES: Final = "successive gradients of tensors on a device are not compared"
Floats = np.ndarray[Any, np.dtype[np.float64]]


class Pair:
    """Of one optimizer: which of its steps are compared with the one before, and what is kept of that one."""

    def __init__(self) -> None:
        self.thinned = Thinned()
        self.is_due = self.is_next_due = False
        self.kept: Kept | None = None
        self.layout: Layout | None = None  # of the gradients that were kept last
        self.leftover = Leftover()


class Layout:
    """Where the numbers of each tensor lie in one row of them. An optimizer's tensors stay the same for thousands of steps."""

    def __init__(self, weighed: list[Weighed], counts: list[int]) -> None:
        self.of, self.elements = weighed, counts
        there = [i for i, count in enumerate(counts) if count]  # an empty shard has nothing to compare
        self.there: list[int] | slice = slice(None) if len(there) == len(counts) else there
        self.tensors = np.array([weighed[i].tensor for i in there], np.int64)
        self.counts = np.array([counts[i] for i in there], np.int64)
        self.lengths = numbers_of(self.counts)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.size = int(self.lengths.sum())

    def is_like(self, other: Layout) -> bool:
        """Is it of the same tensors?"""
        return self is other or (np.array_equal(self.tensors, other.tensors) and np.array_equal(self.counts, other.counts))


class Kept:
    """What is kept of all gradients of a step: a run of `numbers` for each tensor, NaN where there is no gradient."""

    def __init__(self, step: int, layout: Layout) -> None:
        self.step, self.layout = step, layout
        self.numbers: Floats = np.empty(layout.size)

    def place(self, items: Items) -> None:
        """Tell the items where their numbers go."""
        layout, there = self.layout, self.layout.there
        items["numbers"][there] = layout.lengths
        items["kept"][there] = self.numbers.ctypes.data + 8 * layout.starts
        for i in np.flatnonzero(items["address"][there] == 0).tolist():
            self.numbers[layout.starts[i] : layout.starts[i] + layout.lengths[i]] = np.nan

    def dot(self, other: Kept) -> Floats:
        """Of each tensor. NaN or infinite where one of its elements is."""
        with np.errstate(all="ignore"):
            return np.add.reduceat(self.numbers * other.numbers, self.layout.starts)


class Coherence:
    """Compares the gradients of a run's optimizers."""

    def __init__(self, kernel: Kernel, plan: Plan, table: TensorTable) -> None:
        self.kernel, self.schedule = kernel, plan.schedule("coherence")
        self.one_in = 1  # of the plan's steps: a budget may ask for less
        self.accumulation = Accumulation(kernel, table)
        self.accumulation.is_sampling = self.schedule.due(0)
        self.has_told = False

    def is_due(self, stepped: Stepped) -> bool:
        """Is there anything to do at the step that this optimizer has taken? To be asked once for each."""
        pair = stepped.pair
        pair.is_due, pair.thinned.one_in = pair.is_next_due, self.one_in
        pair.is_next_due = self.schedule.due(stepped.count + 1) and pair.thinned.passes()
        self.accumulation.is_sampling = pair.is_next_due
        is_kept = self.accumulation.leftovers.after_step(stepped)
        return pair.is_due or pair.is_next_due or self.accumulation.has_measured or is_kept

    def after_step(self, stepped: Stepped, step: int, recorder: Recorder, is_skipped: bool) -> float:
        """It was due. Gives the factor that its gradients were multiplied with after the last backward pass; NaN
        where it is not known. Call with the recorder's lock held."""
        pair = stepped.pair
        if pair.is_due or not pair.is_next_due:  # of two steps in a row at one
            self.accumulation.table.rescan(step)  # layers that came, or were thawed, without a word to any optimizer
        before, pair.kept = pair.kept, None
        self.accumulation.has_stepped = True
        self.accumulation.leftovers.tell(stepped, step, recorder)
        if stepped.devices and not self.has_told:
            self.has_told = True
            recorder.event(step, "reduced", f"{NOT_ON_DEVICES}: they are read in CPU memory only")
        if is_skipped or stepped.work is None:
            return np.nan
        items, now = self._look(stepped, step, pair.is_due or pair.is_next_due)
        if pair.is_due and before is not None and now is not None and before.layout.is_like(now.layout):
            _add_rows(before, now, recorder)
        pair.kept = now if pair.is_next_due else None
        if stepped.lent is not None:  # a step by hand: what happened to its gradients is not known
            return np.nan
        factor = self.accumulation.after_step(stepped.work.weighed, items, step, recorder)
        return np.nan if stepped.devices else factor  # nor to those on a device

    def _look(self, stepped: Stepped, step: int, keeps: bool) -> tuple[Items, Kept | None]:
        """The gradients that this optimizer has used: their sums, and what is kept of them."""
        assert stepped.work is not None
        weighed = stepped.work.weighed
        items, alive = gather(weighed, stepped.lent)
        kept = None
        if keeps:
            counts = [local(w.parameter).numel() * (2 if w.parameter.is_complex() else 1) for w in weighed]
            layout = stepped.pair.layout
            if layout is None or layout.of is not weighed or layout.elements != counts:
                layout = stepped.pair.layout = Layout(weighed, counts)
            if layout.size:
                kept = Kept(step, layout)
                kept.place(items)
        self.kernel.sketch(items)
        alive.clear()
        return items, kept


def _add_rows(before: Kept, now: Kept, recorder: Recorder) -> None:
    sums = (before.dot(now), before.dot(before), now.dot(now))
    finite = np.isfinite(sums).all(axis=0)
    layout = now.layout
    columns = (layout.tensors, np.full(len(layout.tensors), before.step), layout.counts, layout.lengths, *sums)
    rows = zip(*(column[finite].tolist() for column in columns), strict=True)
    recorder.small["coherence"].rows += [(now.step, recorder.attempt, *row) for row in rows]
