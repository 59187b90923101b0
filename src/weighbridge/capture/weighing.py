"""What one optimizer's tensors weigh in one step, and what somebody else has done to them in between.

Copies that no longer agree with their parameter are taken anew before the step; after it the rows are written. Tensors that
changed their form, were changed by others or have left the model are said, once each.
"""

from __future__ import annotations

from torch.optim.optimizer import Optimizer

from weighbridge.capture.budget import Level
from weighbridge.capture.devices import is_direct, works_on_devices
from weighbridge.capture.kernel import Kernel
from weighbridge.capture.optimizers import Optimizers
from weighbridge.capture.plan import NEVER, Plan
from weighbridge.capture.recorder import Recorder
from weighbridge.capture.shards import CHECKSUMS
from weighbridge.capture.snapshots import FormChanged, Snapshots, Weighed
from weighbridge.capture.stepped import Stepped
from weighbridge.capture.tensors import TensorTable
from weighbridge.capture.values import Values


class Weighing:
    """Of one run."""

    def __init__(self, recorder: Recorder, kernel: Kernel, plan: Plan, table: TensorTable, optimizers: Optimizers) -> None:
        self.recorder, self.kernel, self.plan, self.table, self.optimizers = recorder, kernel, plan, table, optimizers
        self.changes: dict[int, int] = {}  # tensor -> times that it was changed outside its optimizer

    # --- before the step: copies ---------------------------------------------------------------------------------------

    def refresh(self, stepped: Stepped, optimizer: Optimizer, step: int) -> None:
        """Copies that no longer agree with their parameter: somebody else has changed it."""
        if stepped.devices:
            self._refresh_devices(stepped, optimizer, step)
        if stepped.copies and CHECKSUMS.due(step):
            self._once(stepped.copies, step)
        work = stepped.work
        if work is None or work.is_as_before(False) or not work.begin(step):
            return
        try:
            moved = work.refresh()
        except FormChanged as change:
            stepped.watched, moved = -1, change.tensors
            self.optimizers.prepare(stepped, optimizer, step)
            work = stepped.work
            for device in stepped.devices:
                device.before(step)
            if work is not None:
                work.begin(step)
        if stepped.count and stepped.lent is None:
            for tensor in moved:
                self._note_change(tensor, step)
        if work is not None:
            work.weigh_uncopied(step, self.recorder)

    def _refresh_devices(self, stepped: Stepped, optimizer: Optimizer, step: int) -> None:
        try:
            moved = [tensor for device in stepped.devices for tensor in device.before(step)]
        except FormChanged as change:
            stepped.watched, moved = -1, change.tensors
            self.optimizers.prepare(stepped, optimizer, step)
            for device in stepped.devices:
                device.before(step)
        if stepped.count and stepped.lent is None:
            for tensor in moved:
                self._note_change(tensor, step)

    def _once(self, weighed: list[Weighed], step: int) -> Snapshots:
        """`parameter` rows of tensors that are not followed from step to step."""
        once = Snapshots(self.kernel, weighed, 0, self.plan.histogram_bits)
        with self.recorder.lock:
            once.weigh_uncopied(step, self.recorder.attempt, self.recorder.room(len(weighed)))
        return once

    def _note_change(self, tensor: int, step: int) -> None:
        self.changes[tensor] = self.changes.get(tensor, 0) + 1
        if self.changes[tensor] == 1:
            name = self.table.name(tensor)
            self.recorder.event(step, "changed", f"{name} was changed outside its optimizer before this step", tensor)

    # --- after it: rows --------------------------------------------------------------------------------------------------

    def weigh(self, stepped: Stepped, step: int) -> None:
        """Write the rows of this step. Call with the recorder's lock held."""
        try:
            for device in stepped.devices:
                device.after(step, stepped.lent, self.recorder)
        except FormChanged as change:  # inside the step itself: there is no difference to weigh
            stepped.watched = -1
            for tensor in change.tensors:
                self._note_change(tensor, step)
        work = stepped.work
        if work is None or not work.rows:
            return
        if stepped.lent is None and work.is_as_before(True):
            work.weigh(step, self.recorder)
            return
        try:
            gone = work.locate(stepped.lent)
        except FormChanged as change:  # inside the step itself: there is no difference to weigh
            stepped.watched = -1
            for tensor in change.tensors:
                self._note_change(tensor, step)
            return
        if gone:
            self._leave_replaced(stepped, work.snapshots, gone, step)
        if self.table.frozen and self.table.has_thawed:
            self.table.rescan(step)
        work.weigh(step, self.recorder)

    def _leave_replaced(self, stepped: Stepped, snapshots: Snapshots, gone: list[int], step: int) -> None:
        """Gradients that no longer come: the model may hold another parameter by now, and the optimizer the one before."""
        for i in gone:
            weighed = snapshots.weighed[i]
            if self.table.holds(weighed, step):
                continue
            stepped.watched = -1
            snapshots.leave_out(i)
            name = self.table.name(weighed.tensor)
            message = f"{name} was replaced in the model: this optimizer still holds the parameter that stood there before"
            self.recorder.event(step, "replaced", message, weighed.tensor)

    # --- the end --------------------------------------------------------------------------------------------------------

    def close(self, step: int) -> None:
        """The closing `parameter` row of every tensor that can be weighed. Call with the recorder's lock held."""
        known = self.optimizers.known.values()
        held = [w for one in known for w in (*(one.work.weighed if one.work else ()), *one.copies)]
        alive = [*self.table.alive(), *self.table.orphans(held)]
        if self.plan.schedule("parameters") != NEVER:
            for device in works_on_devices(
                [w for w in alive if not is_direct(w.parameter)], self.plan, Level(), self.table.tell, False
            ):
                device.closing(step)
                device.drain(self.recorder)
        weighed = [w for w in alive if is_direct(w.parameter)]
        if weighed and self.plan.schedule("parameters") != NEVER:
            last = self._once(weighed, step)
            if self.plan.values_elements:
                Values(last, self.plan.values_elements).closing(step, self.recorder.attempt, self.recorder.small["values"].rows)
        if self.changes:
            total = {self.table.name(tensor): times for tensor, times in self.changes.items()}
            self.recorder.event(step, "changes", "times that tensors were changed outside their optimizer", detail=total)
