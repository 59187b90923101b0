"""The CPU tensors of one optimizer: what is weighed of them at which step, and from which copies.

All of them at every step, unless the plan's schedules say otherwise, or its budget: then they take turns, in parts that
have copies of their own, or only every k-th step is weighed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from weighbridge.capture.addresses import GRADIENT_GONE
from weighbridge.capture.budget import Level, in_turns
from weighbridge.capture.jumps import Jumps
from weighbridge.capture.kernel import ALL_ROWS, NO_HISTOGRAM, Kernel, NativeKernel
from weighbridge.capture.plan import Plan
from weighbridge.capture.recorder import Recorder
from weighbridge.capture.rowblock import BlockFull, RowBlock
from weighbridge.capture.shards import local
from weighbridge.capture.snapshots import Snapshots, Weighed
from weighbridge.capture.values import Values


class Work:
    """`weighed` must not be empty. Copies are made at once."""

    def __init__(self, kernel: Kernel, weighed: list[Weighed], plan: Plan, level: Level) -> None:
        self.plan, self.level, self.weighed = plan, level, weighed
        histogram = plan.histogram_bits if level.has_histograms else NO_HISTOGRAM
        parts = in_turns(sorted(weighed, key=lambda w: local(w.parameter).numel()), level.turns)
        self.parts = [Snapshots(kernel, part, plan.snapshot_bytes // len(parts), histogram) for part in parts]
        for snapshots in self.parts:
            snapshots.take()
        self.values = [Values(snapshots, plan.values_elements) if plan.values_elements else None for snapshots in self.parts]
        self.turn = self.steps = 0
        self.rows = ALL_ROWS  # that are written at this step
        self.is_stale = False  # the copies are of an earlier step: some steps were not weighed
        self.is_all_due = plan.is_all_due and level.thinning == 1
        first = self.parts[0]
        # Everything at every step, and everything read where it lies: then most steps need two calls of C and no more.
        self.is_plain = self.is_all_due and not (first.gathered or first.uncopied)
        # Where the same rows are written at every step, and more of them can be: a budget has its own mind about that.
        asks = self.is_all_due and not first.uncopied and plan.budget is None and plan.looks_at_units
        self.jumps = Jumps(kernel.library) if asks and isinstance(kernel, NativeKernel) else None
        self._written: tuple[RowBlock, int] | None = None  # the last step's rows: their block and the first of them

    @property
    def snapshots(self) -> Snapshots:
        """Of the part whose turn it is."""
        return self.parts[self.turn]

    @property
    def number_of_turns(self) -> int:
        """In how many turns the updates of large tensors are weighed, because memory for copies is bounded."""
        return max(len(snapshots.windows) for snapshots in self.parts)

    def never_copied(self) -> Iterable[Weighed]:
        """Tensors that alone are larger than all memory for copies."""
        for snapshots in self.parts:
            copied = {i for window in snapshots.windows for i in window}
            yield from (w for i, w in enumerate(snapshots.weighed) if i not in copied)

    def is_as_before(self, gradients: bool) -> bool:
        """Is everything plain, and found where it was at the step before? Then nothing is left to do but to weigh."""
        return self.is_plain and self.parts[0].is_as_before(gradients)

    def kept_from(self, step: int) -> tuple[int, float]:
        """Which tensors' numbers are kept from this step on, and the first step at which that changes. (-1, 0) where Python
        has to do it."""
        values = self.values[0]
        if values is None:
            return 0, math.inf
        keep, ends = values.kept_from(step)
        return (-1, 0) if keep and values.rest else (keep, ends)

    # --- before the optimizer steps ---------------------------------------------------------------------------------

    def begin(self, step: int) -> bool:
        """A step begins. Are there rows to be written of it?"""
        if self.is_all_due:
            return True
        is_due = self.steps % self.level.every == 0
        self.steps += 1
        self.rows = self.plan.rows_due(step) if is_due else 0
        if not self.rows:
            self.is_stale = True
            return False
        if len(self.parts) > 1:
            self.turn, self.is_stale = (self.turn + 1) % len(self.parts), True
        if self.rows != self.snapshots.rows:
            self.snapshots.write_rows(self.rows)
        return True

    def refresh(self) -> list[int]:
        """Bring the copies up to date. Gives the tensors that changed since the last step, as far as it was weighed.

        Raises FormChanged where a parameter is no longer what it was.
        """
        snapshots = self.snapshots
        if not self.is_stale:
            return [snapshots.weighed[i].tensor for i in snapshots.refresh_moved()]
        snapshots.renew()
        self.is_stale = False
        return []

    def weigh_uncopied(self, step: int, recorder: Recorder) -> None:
        """The `parameter` rows of tensors that have no copy in this step."""
        snapshots = self.snapshots
        if snapshots.uncopied:
            with recorder.lock:
                snapshots.weigh_uncopied(step, recorder.attempt, recorder.room(len(snapshots.weighed)))

    def set_copies(self, before: dict[int, torch.Tensor]) -> None:
        """Take these for what stood before the step; by tensor."""
        self.snapshots.set_copies(before)

    # --- after it ---------------------------------------------------------------------------------------------------

    def locate(self, lent: dict[int, torch.Tensor] | None) -> list[int]:
        """Find parameters and gradients (or take those lent). Gives the items that had a gradient when last asked and have
        none now. Raises FormChanged."""
        if lent is not None:
            self.snapshots.set_gradients(lent)
            return []
        found = self.snapshots.locate(gradients=True)
        return self.snapshots.without_gradient() if found & GRADIENT_GONE else []

    def weigh(self, step: int, recorder: Recorder) -> None:
        """Write the rows of this step. Call with the recorder's lock held."""
        snapshots, values, keep = self.snapshots, self.values[self.turn], 0
        if values is not None and (keep := values.kept_at(step)) and values.rest:
            values.keep_rest(keep, step, recorder.attempt, recorder.small["values"].rows)
        key = (step, recorder.attempt)
        first = recorder.block.rows
        try:
            snapshots.weigh(*key, recorder.block, recorder.values, keep)
        except BlockFull:  # of rows or of values: each is handed over with the other
            recorder.room(len(snapshots.weighed))
            recorder.values_room(*values.room[keep] if values is not None and keep else (0, 0))
            first = recorder.block.rows
            snapshots.weigh(*key, recorder.block, recorder.values, keep)
        self._written = None if self.jumps is None else (recorder.block, first)

    def has_jumped(self, loss: float | None) -> bool:
        """Has the step that was just weighed jumped against those before it? `loss`: None or NaN = not known. To be asked
        before any other rows are written: they may need another block."""
        written, self._written = self._written, None
        return self.jumps is not None and written is not None and self.jumps.is_met(*written, loss)
