"""How what modules gave in a step becomes rows: of the outputs, of their calls, of their units."""

from __future__ import annotations

from weighbridge.capture.losses import Number
from weighbridge.capture.outputgroup import Group
from weighbridge.capture.recorder import Recorder
from weighbridge.capture.rowblock import BlockFull
from weighbridge.capture.seats import Library, Scene, Seat
from weighbridge.records import Quantity


class OutputRows:
    """Writes what the seats of one run hold. batch: the seat of what comes into the model."""

    def __init__(self, recorder: Recorder, library: Library, scene: Scene, batch: Seat) -> None:
        self.recorder, self.library, self.scene, self._batch = recorder, library, scene, batch

    def write(self, group: Group, step: int, loss_scale: Number, are_units_due: bool) -> None:
        """The rows of this step. Call with the recorder's lock held. loss_scale: that stands on the gradients."""
        repeated = self._write_rows(group, step, loss_scale) if group.is_full else 0
        if repeated or self.scene.flagged:
            self._note_calls(group, step, repeated > 0)
        if group.weighs:
            self._write_units(group, step, are_units_due)

    def _write_rows(self, group: Group, step: int, loss_scale: Number) -> int:
        recorder, seats = self.recorder, group.addresses()
        number = len(seats)
        block, written = recorder.block, recorder.block.rows
        try:
            repeated = self.library.take(seats, number, step, recorder.attempt, block)
        except BlockFull:
            block, written = recorder.room(number), recorder.block.rows
            repeated = self.library.take(seats, number, step, recorder.attempt, block)
        if isinstance(loss_scale, float) and loss_scale != 1:
            block.divide(written, int(Quantity.ACTIVATION_GRADIENT), loss_scale)
        return repeated

    def note_flag(self, step: int, seat: Seat, calls: int, first: int, place: int) -> None:
        """A row of `calls`: NaN or infinity was met."""
        row = (step, self.recorder.attempt, seat.tensor, int(seat.quantity), calls, first, place)
        self.recorder.small["calls"].rows.append(row)

    def _note_calls(self, group: Group, step: int, repeated: bool) -> None:
        rows = self.recorder.small["calls"].rows
        for seat in (*group.seats, self._batch):
            is_flagged = seat.is_flagged()
            head = seat.head
            if is_flagged or (repeated and head.calls > 1 and seat.is_called()):
                rows.append(
                    (step, self.recorder.attempt, seat.tensor, int(seat.quantity), head.calls, head.nonfinite_call, head.place)
                )
            self.scene.flagged -= is_flagged
        if self.scene.flagged <= 0:
            self.scene.flagged = self.scene.place = 0

    def _write_units(self, group: Group, step: int, are_due: bool) -> None:
        rows = self.recorder.small["units"].rows
        for seat in group.seats:
            units = seat.units
            if units is None or not seat.is_called():
                continue
            seat.unit_steps += 1
            if are_due:
                sums = tuple(array.copy() for array in units.arrays)
                key = (step, self.recorder.attempt, seat.tensor, int(seat.quantity))
                rows.append((*key, seat.unit_steps, seat.head.unit_count, *sums))
                seat.clear_units()
