"""The tensors of one optimizer on one GPU: weighed at every step by a few launches, with nothing waiting for the device.

The same as work.py and snapshots.py do for tensors in CPU memory. Copies of the parameters from before the step lie on the
device; the smallest are renewed before each step whatever has happened, the others where PyTorch's version counter has
moved. Where the copies of all tensors do not fit into `Plan(snapshot=...)`, the large ones take turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch

from weighbridge.capture.budget import Level
from weighbridge.capture.devicetable import COPY, GRADIENT, KINDS, PARAMETER, SIZES, UPDATE, Table
from weighbridge.capture.flights import Flights
from weighbridge.capture.kernel import NO_HISTOGRAM
from weighbridge.capture.late import is_capturing
from weighbridge.capture.moments import FIRST, SECOND
from weighbridge.capture.plan import Plan
from weighbridge.capture.recorder import Recorder
from weighbridge.capture.snapshots import COMPARED_ELEMENTS, FormChanged, Weighed, as_real, in_windows, is_dense
from weighbridge.records import Quantity

_ALIGN: Final = 512  # bytes between copies: no two share a line of the device's memory
STEP: Final = (Quantity.PARAMETER, Quantity.GRADIENT, Quantity.UPDATE)

Array = np.ndarray[Any, Any]


class DeviceWork:
    """`weighed` must not be empty, and all of it lie on one cuda device. Copies are made at once."""

    def __init__(self, weighed: list[Weighed], plan: Plan, level: Level, has_copies: bool = True) -> None:
        self.plan, self.level = plan, level
        self.weighed = sorted(weighed, key=lambda w: here(w.parameter).numel())
        self.parameters = [w.parameter for w in self.weighed]
        self.tensors = np.array([w.tensor for w in self.weighed])
        reals = [as_real(here(p)) for p in self.parameters]
        self.device = reals[0].device
        self.forms = [_form(real) for real in reals]
        fine = plan.histogram_bits if level.has_histograms else NO_HISTOGRAM
        self.table = Table(self.device, [r.numel() for r in reals], [KINDS[r.dtype] for r in reals], fine)
        self.sizes = (self.table.counts * SIZES[self.table.kinds]).tolist()
        self.small = int(np.searchsorted(self.table.counts, COMPARED_ELEMENTS, side="right"))
        padded = [_padded(size) for size in self.sizes]
        self.windows = in_windows(padded, self.small, plan.snapshot_bytes) if has_copies else [[]]
        self.arena = torch.empty(
            max((sum(padded[i] for i in window) for window in self.windows), default=0), dtype=torch.uint8, device=self.device
        )
        self.has_gradient = np.zeros(len(reals), bool)
        self.versions = [-1] * len(reals)
        self.flights = Flights()
        self.moments: Table | None = None
        self.keep: list[torch.Tensor] = []  # made for this step only
        self.turn = self.steps = 0
        self.rows = 0  # that are written at this step: bits 1 << quantity
        self.is_stale = True
        self.stream: Any = None
        self._place(self.windows[0])

    @property
    def number_of_turns(self) -> int:
        """In how many turns the updates of large tensors are weighed, because memory for copies is bounded."""
        return len(self.windows)

    def never_copied(self) -> Iterable[Weighed]:
        """Tensors that alone are larger than all memory for copies."""
        copied = {i for window in self.windows for i in window}
        return [w for i, w in enumerate(self.weighed) if i not in copied]

    # --- before the optimizer steps -------------------------------------------------------------------------------------

    def before(self, step: int) -> list[int]:
        """A step begins: bring the copies up to date. Gives the tensors that changed since the last one, as far as known.

        Raises FormChanged.
        """
        is_due = self.steps % self.level.every == 0
        self.steps += 1
        self.rows = self.plan.rows_due(step) if is_due and not is_capturing(self.device) else 0
        if not self.rows:
            self.is_stale = True
            return []
        self._follow_stream()
        moved = self._locate()
        if self.is_stale or len(self.windows) > 1:
            self.turn = (self.turn + 1) % len(self.windows)
            self._place(self.windows[self.turn])
            self._copy(self.windows[self.turn])
            moved = [] if self.is_stale else moved
        else:
            self._copy(i for i in moved if i >= self.small)
            self.table.send_addresses()
            self.table.copy_small(self.small)
        self.is_stale = False
        if not self.is_copied.all() and self.rows & 1 << Quantity.PARAMETER:
            self.table.send_addresses()
            self.table.weigh_alone(~self.is_copied, PARAMETER, PARAMETER)
        return [int(self.tensors[i]) for i in moved]

    def _locate(self) -> list[int]:
        """Where the parameters lie now. Gives those whose version or place is another than when last asked."""
        moved = []
        for i, parameter in enumerate(self.parameters):
            local, version = here(parameter), parameter._version
            address = local.data_ptr()
            if version == self.versions[i] and address == self.table.addresses[PARAMETER, i]:
                continue
            if self.versions[i] >= 0:
                moved.append(i)
            self.versions[i] = version
            self.table.addresses[PARAMETER, i] = self._dense(i, local).data_ptr()
        return moved

    def _dense(self, i: int, local: torch.Tensor) -> torch.Tensor:
        """The tensor's numbers without gaps, in their order in memory. Raises FormChanged where it is another tensor by now."""
        real = as_real(local.detach())
        if _form(real) != self.forms[i]:
            raise FormChanged([int(self.tensors[i])])
        if is_dense(real):
            return real
        self.versions[i] = -2  # gathered anew each time
        self.keep.append(real.contiguous())
        return self.keep[-1]

    def _place(self, window: Iterable[int]) -> None:
        """Give each tensor of the window its place in the arena; the others have none."""
        copies = self.table.addresses[COPY]
        copies[:] = 0
        at = self.arena.data_ptr()
        for i in window:
            copies[i], at = at, at + _padded(self.sizes[i])
        self.is_copied = copies != 0

    def _copy(self, which: Iterable[int]) -> None:
        """Renew the copies of these from the parameters as they are now."""
        base = self.arena.data_ptr()
        for i in which:
            if self.is_copied[i] and self.sizes[i]:
                start = int(self.table.addresses[COPY, i]) - base
                real = as_real(here(self.parameters[i]).detach())
                source = real if is_dense(real) else real.contiguous()
                flat = torch.as_strided(source, (source.numel(),), (1,))
                self.arena[start : start + self.sizes[i]].view(real.dtype).copy_(flat)

    # --- after it -------------------------------------------------------------------------------------------------------

    def after(self, step: int, lent: Mapping[int, torch.Tensor] | None, recorder: Recorder) -> None:
        """Weigh the step, send the rows behind it, and write those that have arrived. Call with the recorder's lock held."""
        if self.rows and not is_capturing(self.device):
            self._locate()
            self._locate_gradients(lent)
            self.table.send_addresses()
            self.table.weigh_steps(self.is_copied)
            if not self.is_copied.all():
                self.table.weigh_alone(~self.is_copied & self.has_gradient, GRADIENT, GRADIENT)
            self._send(step, self.table, STEP, self._wanted(), self.has_gradient.copy())
            self.keep.clear()
        self.flights.fetch(recorder)

    def _send(self, step: int, table: Table, quantities: Sequence[int], wanted: Array, has_gradient: Array) -> None:
        self.flights.send(step, table.add_up(), table.layout(), self.tensors, quantities, wanted, has_gradient)

    def _wanted(self) -> Array:
        due = np.array([bool(self.rows & 1 << quantity) for quantity in STEP])
        wanted = np.tile(due, (len(self.tensors), 1))
        wanted[:, GRADIENT] &= self.has_gradient
        wanted[:, UPDATE] &= self.is_copied
        return wanted

    def _locate_gradients(self, lent: Mapping[int, torch.Tensor] | None) -> None:
        """Where the gradients lie; in the place of one that is not there, the tensor's copy or the tensor itself."""
        table = self.table
        for i, parameter in enumerate(self.parameters):
            gradient = parameter.grad if lent is None else lent.get(int(self.tensors[i]))
            self.has_gradient[i] = gradient is not None
            if gradient is not None:
                gradient = self._in_order(i, here(gradient))
                address, kind = gradient.data_ptr(), KINDS[gradient.dtype]
            if gradient is None or not address:
                address, kind = int(table.addresses[COPY, i] or table.addresses[PARAMETER, i]), int(table.kinds[i])
            table.addresses[GRADIENT, i], table.gradient_kinds[i] = address, kind

    def _in_order(self, i: int, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient's numbers in the order in which the parameter's are read; a sparse one made dense."""
        parameter = here(self.parameters[i])
        if gradient.layout is torch.strided and gradient.stride() == parameter.stride() and not gradient.is_complex():
            return gradient if is_dense(gradient) else self._kept(gradient.contiguous())
        dense = gradient.detach() if gradient.layout is torch.strided else self._kept(gradient.detach().to_dense())
        real, own = as_real(dense), as_real(parameter.detach())
        if not is_dense(own):
            return self._kept(real.contiguous())
        return self._kept(torch.empty_strided(own.shape, own.stride(), dtype=real.dtype, device=real.device).copy_(real))

    def _kept(self, tensor: torch.Tensor) -> torch.Tensor:
        self.keep.append(tensor)
        return tensor

    # --- moments, the end -----------------------------------------------------------------------------------------------

    def weigh_moments(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """A row for each of the optimizer's running averages of each parameter."""
        found = [[_moment(optimizer.state.get(p), names, p) for p in self.parameters] for names in (FIRST, SECOND)]
        if not any(moment is not None for row in found for moment in row) or is_capturing(self.device):
            return
        first, second = found
        kinds = [
            KINDS[m.dtype] if (m := a if a is not None else b) is not None else 0 for a, b in zip(first, second, strict=True)
        ]
        if self.moments is None or self.moments.kinds.tolist() != kinds:
            self.moments = Table(self.device, self.table.counts.tolist(), kinds, self.table.fine)
        wanted = np.zeros((len(self.tensors), len(STEP)), bool)
        for row, moments in enumerate(found):
            addresses = [
                m.data_ptr() if m is not None and KINDS[m.dtype] == k else 0 for m, k in zip(moments, kinds, strict=True)
            ]
            self.moments.addresses[row] = addresses
            wanted[:, row] = self.moments.addresses[row] != 0
        self.moments.send_addresses()
        for row in range(len(found)):
            self.moments.weigh_alone(wanted[:, row], row, row)
        none = np.zeros(len(self.tensors), bool)
        quantities = (Quantity.MOMENT1, Quantity.MOMENT2, Quantity.UPDATE)
        self._send(step, self.moments, quantities, wanted, none)

    def closing(self, step: int) -> None:
        """The `parameter` row of every tensor as it stands at the end."""
        self._follow_stream()
        self._locate()
        self.table.send_addresses()
        every = np.ones(len(self.tensors), bool)
        self.table.weigh_alone(every, PARAMETER, PARAMETER)
        wanted = np.zeros((len(self.tensors), len(STEP)), bool)
        wanted[:, PARAMETER] = True
        self._send(step, self.table, STEP, wanted, ~every)
        self.keep.clear()

    @property
    def oldest(self) -> float:
        """The first step of which rows are under way; infinity where none are."""
        return self.flights.oldest

    def drain(self, recorder: Recorder) -> None:
        """Write everything that is under way; waits for the device."""
        self.flights.fetch(recorder, wait=True)

    def _follow_stream(self) -> None:
        """The user steps on another stream than before: ours goes there too, behind what is queued on the old one."""
        if self.device.type != "cuda":
            return
        stream = torch.cuda.current_stream(self.device)
        if self.stream is not None and stream != self.stream:
            stream.wait_stream(self.stream)
        self.stream = stream


def here(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor. Asked of every tensor at every step, so not by way of autograd."""
    part: torch.Tensor = getattr(tensor, "_local_tensor", tensor)
    return part


def _form(real: torch.Tensor) -> tuple[object, ...]:
    return real.dtype, real.shape, real.stride(), real.device


def _padded(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN or _ALIGN


def _moment(state: Any, names: tuple[str, ...], parameter: torch.Tensor) -> torch.Tensor | None:
    """The first of these in the state that has the parameter's own form, as a real tensor without gaps."""
    for name in names:
        moment = state.get(name) if isinstance(state, dict) else None
        if (
            isinstance(moment, torch.Tensor)
            and here(moment).shape == here(parameter).shape
            and here(moment).is_cuda == here(parameter).is_cuda
        ):
            real = as_real(here(moment).detach())
            return real if is_dense(real) and real.dtype in KINDS else None
    return None
