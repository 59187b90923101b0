"""The work of one optimizer's step: which tensors, where they lie, and a copy of each as it was before.

The kernel wants addresses. Most parameters lie densely in CPU memory and are read where they are; the others (slices,
other strides) are gathered into a buffer of ours first. The copies live in one arena, the smallest tensors first, so
that the bytewise comparison before each step is one call over the head of the table.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from weighbridge.capture.addresses import (
    CHANGED,
    DIFFERS,
    DIRECT,
    GATHERED,
    GRADIENT_GONE,
    GRADIENT_UNREAD,
    MOVED,
    PLAIN,
    look_at,
)
from weighbridge.capture.kernel import ALL_ROWS, ITEM, Kernel, code_of
from weighbridge.capture.rowblock import BlockFull, RowBlock
from weighbridge.capture.shards import is_partial, is_sharded, local
from weighbridge.capture.valueblock import ValueBlock
from weighbridge.records import Quantity

_ALIGN: Final = 64
# Up to this size a tensor is compared byte by byte before each step: `.data` edits and fused steps do not move `_version`.
COMPARED_ELEMENTS: Final = 4096
EIGHT_BITS: Final = (torch.float8_e4m3fn, torch.float8_e5m2)  # weighed on GPUs only


def as_real(tensor: torch.Tensor) -> torch.Tensor:
    """Complex numbers as pairs of real ones; what is only marked as conjugate or negative is made so."""
    tensor = tensor.resolve_conj().resolve_neg()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def is_dense(tensor: torch.Tensor) -> bool:
    """Do the elements fill one stretch of memory without gaps or overlaps, in whatever order?"""
    expected = 1
    for stride, size in sorted((st, sz) for st, sz in zip(tensor.stride(), tensor.shape, strict=True) if sz != 1):
        if stride != expected:
            return False
        expected *= size
    return True


@dataclass(slots=True)
class Weighed:
    """One parameter that is weighed: who it is, and how its bytes are reached."""

    parameter: torch.nn.Parameter
    tensor: int  # id in the table of tensors
    is_direct: bool  # dense: the kernel reads the parameter's own memory
    is_copy: bool = False  # another rank weighs it at every step

    def contiguous(self) -> torch.Tensor:
        """The parameter's numbers in a dense tensor; a copy where it is not dense itself."""
        return as_real(local(self.parameter)).contiguous()


def why_not(tensor: torch.Tensor) -> str:
    """Why this tensor cannot be weighed by the CPU kernel, in words for the user; empty if it can."""
    if is_lazy(tensor):
        return "not initialised before its first forward"
    if tensor.device.type == "meta":
        return "on the meta device: it has no numbers"
    if is_partial(tensor):
        return "its parts are not added up yet (DTensor, Partial): not weighed"
    tensor = local(tensor) if is_sharded(tensor) else tensor
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return f"{str(tensor.dtype).removeprefix('torch.')}: counted, not weighed"
    if tensor.numel() and tensor.layout is torch.strided and tensor.untyped_storage().size() == 0:
        return "its memory is given back: not weighed"
    if tensor.layout is not torch.strided:
        return f"layout {str(tensor.layout).removeprefix('torch.')}: not weighed"
    if code_of(as_real(tensor.detach()).dtype) is None and not (tensor.is_cuda and tensor.dtype in EIGHT_BITS):
        return f"{str(tensor.dtype).removeprefix('torch.')}: not weighed yet"
    return ""


class FormChanged(Exception):
    """Parameters (their tensors' ids) have another size, dtype or place than before: the work has to be prepared anew."""

    def __init__(self, tensors: list[int]) -> None:
        super().__init__(f"another size or dtype: tensors {tensors}")
        self.tensors = tensors


class Snapshots:
    """Items for the kernel, and the arena of copies.

    Where the copies of all tensors do not fit into `budget` bytes, the large ones take turns: in each step one window of
    them is copied (in the pre hook) and gets an update row, the others (`uncopied`) get parameter and gradient rows only.
    """

    def __init__(self, kernel: Kernel, weighed: list[Weighed], budget: int, histogram: int = 0) -> None:
        self.kernel = kernel
        self.weighed = sorted(weighed, key=lambda w: local(w.parameter).numel())
        self.parameters = [w.parameter for w in self.weighed]
        self.reached = [_reached(w) for w in self.weighed]
        self.gathered = [(i, w) for i, w in enumerate(self.weighed) if not w.is_direct]
        reals = [as_real(local(p)) for p in self.parameters]
        self.sizes = [real.numel() * real.element_size() for real in reals]
        self.forms = [_form(p) for p in self.parameters]
        self.items = np.zeros(len(reals), dtype=ITEM)
        self.items["count"] = [real.numel() for real in reals]
        self.items["dtype"] = [code_of(real.dtype) for real in reals]
        self.items["tensor"] = [w.tensor for w in self.weighed]
        self.items["quantity"] = int(Quantity.PARAMETER)
        self.items["histogram"] = histogram
        self.compared = int(np.searchsorted(self.items["count"], COMPARED_ELEMENTS, side="right"))
        self.rows = ALL_ROWS
        self.windows = in_windows([_padded(size) for size in self.sizes], self.compared, budget)
        self.turn = 0
        self.uncopied: list[int] = []
        self.addresses = [0] * len(reals)
        self.arena = np.empty(max((self._padded(w) for w in self.windows), default=0) + _ALIGN, dtype=np.uint8)
        self.look = look_at(kernel, self.parameters, self.reached, self.items, self.compared)
        self.keep: list[torch.Tensor] = []  # what must live until the kernel has read it
        self._found = -1  # what was found and not settled yet; -1 = nobody has looked

    def _padded(self, window: list[int]) -> int:
        return sum(_padded(self.sizes[i]) for i in window)

    def _place(self, window: list[int]) -> None:
        """Give each tensor of the window its place in the arena; the others have none."""
        address = (self.arena.ctypes.data + _ALIGN - 1) // _ALIGN * _ALIGN
        self.addresses = [0] * len(self.sizes)
        for i in window:
            self.addresses[i] = address
            address += _padded(self.sizes[i])
        self.items["snapshot"] = self.addresses
        self.uncopied = [i for i, address in enumerate(self.addresses) if not address]

    def is_as_before(self, gradients: bool) -> bool:
        """Does everything lie where it did? (Before a step: with the same versions and bytes too.) If not, `locate` goes on
        from what was found here: to ask again would find nothing new."""
        found = self.look(gradients) if self._found < 0 else self._found
        unsettled = found & ~CHANGED if gradients else found
        self._found = found if unsettled else -1
        return not unsettled

    def take_found(self, found: int) -> None:
        """Somebody else has asked `look`, and this is what it found."""
        self._found = found

    def locate(self, gradients: bool = False) -> int:
        """Find where every parameter lies now (and the gradient that the optimizer has used). Gives the bits of `Look`.

        Raises FormChanged where a parameter is no longer what it was.
        """
        found = self.look(gradients) if self._found < 0 else self._found
        self._found = -1
        for i, weighed in self.gathered:
            dense = weighed.contiguous()
            self.keep.append(dense)
            self.items["parameter"][i] = dense.data_ptr()
        if found & MOVED or self.gathered:
            self._settle_moved()
        if found & GRADIENT_UNREAD:
            for i in np.flatnonzero(self.look.state & GRADIENT_UNREAD).tolist():
                self._attach_gradient(i)
        return found

    def _settle_moved(self) -> None:
        """`p.data = other` and `model.to(dtype)` keep the parameter and exchange what it holds."""
        moved = np.flatnonzero(self.look.state & MOVED).tolist()
        changed = [i for i in (*moved, *(i for i, _ in self.gathered)) if _form(self.parameters[i]) != self.forms[i]]
        if changed:
            self.keep.clear()
            raise FormChanged([self.weighed[i].tensor for i in changed])
        for i in moved:
            self.items["parameter"][i] = self.parameters[i].data_ptr()

    def copy(self, which: Iterable[int]) -> None:
        """Refresh the copies of these items from the parameters as they are now."""
        for i in which:
            ctypes.memmove(self.addresses[i], int(self.items["parameter"][i]), self.sizes[i])

    def refresh_moved(self) -> list[int]:
        """Find the items that changed since the last step and refresh their copies. Gives their indices."""
        found = self.locate()
        if not found and not self.gathered and len(self.windows) == 1:
            return []
        moved = set(np.flatnonzero(self.look.state & (CHANGED | DIFFERS)).tolist())
        elsewhere = np.flatnonzero(self.look.state & MOVED).tolist()
        elsewhere += [i for i, _ in self.gathered if i < self.compared]
        moved.update(elsewhere[n] for n in self.kernel.moved(self.items[elsewhere]))
        if len(self.windows) > 1:
            self._next_turn()
        else:
            self.copy(i for i in moved if self.addresses[i])
        self.keep.clear()
        return sorted(moved)

    def renew(self) -> None:
        """Copy anew, whatever has changed: the steps since the last copy were not weighed."""
        self.locate()
        if len(self.windows) > 1:
            self._next_turn()
        else:
            self.copy(i for i, address in enumerate(self.addresses) if address)
        self.keep.clear()

    def write_rows(self, rows: int) -> None:
        """From now on write these rows of a step: bits 1 << quantity."""
        self.rows = rows
        self.items["skip"] = ALL_ROWS & ~rows

    def set_copies(self, before: dict[int, torch.Tensor]) -> None:
        """Take these, of the parameters' own form, for what stood before the step; by tensor."""
        for i, weighed in enumerate(self.weighed):
            if self.addresses[i]:
                ctypes.memmove(self.addresses[i], before[weighed.tensor].data_ptr(), self.sizes[i])

    def set_gradients(self, gradients: dict[int, torch.Tensor]) -> None:
        """Weigh these in the place of the parameters' own; by tensor."""
        self.locate()
        for i, weighed in enumerate(self.weighed):
            self._point_at_gradient(i, gradients.get(weighed.tensor))

    def without_gradient(self) -> list[int]:
        """The items that had a gradient when last asked, and have none now."""
        found: list[int] = np.flatnonzero(self.look.state & GRADIENT_GONE).tolist()
        return found

    def leave_out(self, i: int) -> None:
        """Write no row of this item."""
        self.items["skip"][i] = ALL_ROWS

    def _next_turn(self) -> None:
        self.turn = (self.turn + 1) % len(self.windows)
        self._place(self.windows[self.turn])
        self.copy(self.windows[self.turn])

    def take(self) -> None:
        """The first copy."""
        self.locate()
        self._place(self.windows[0])
        self.copy(self.windows[0])
        self.keep.clear()

    def _attach_gradient(self, i: int) -> None:
        """Point the item at a gradient that cannot be read where it lies."""
        self._point_at_gradient(i, self.parameters[i].grad)

    def _point_at_gradient(self, i: int, gradient: torch.Tensor | None) -> None:
        if gradient is None:
            self.items["gradient"][i] = 0
            return
        gradient = self._in_order(i, local(gradient))
        self.items["gradient"][i] = gradient.data_ptr() or self.addresses[i]  # nothing to read, but there is a gradient
        self.items["gradient_dtype"][i] = _CODES[gradient.dtype]

    def _in_order(self, i: int, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient's numbers in the order in which the item's parameter is read; a sparse one made dense."""
        if gradient.layout is not torch.strided:
            gradient = gradient.to_dense()
            self.keep.append(gradient)
        is_same = self.weighed[i].is_direct and gradient.stride() == self.parameters[i].stride()
        return gradient if is_same and not gradient.is_complex() else self._dense_like(i, gradient)

    def _dense_like(self, i: int, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient's numbers in the order in which the item's parameter is read."""
        real, own = as_real(gradient.detach()), as_real(local(self.parameters[i]))
        if self.weighed[i].is_direct:
            dense = torch.empty_strided(own.shape, own.stride(), dtype=real.dtype)
            dense.copy_(real)
        else:
            dense = real.contiguous()
        self.keep.append(dense)
        return dense

    def weigh(self, step: int, attempt: int, block: RowBlock, values: ValueBlock | None = None, keep: int = 0) -> None:
        """Write the rows of this step (and the numbers of items with a bit of `keep`) and refresh the copies, in one pass."""
        if not self.uncopied:
            self.kernel.weigh(self.items, step, attempt, block, values, keep)
        else:
            copied = self.items["snapshot"] != 0
            if not block.room_for(len(self.items)):  # two calls: none of them may find it full
                raise BlockFull("no room for this step")
            self.kernel.weigh(self.items[copied], step, attempt, block, values, keep)
            if self.rows & 1 << Quantity.GRADIENT:
                self.kernel.weigh(self._gradients_alone(~copied), step, attempt, block)
        self.keep.clear()

    def _gradients_alone(self, which: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        items: np.ndarray[Any, Any] = self.items[which & (self.items["gradient"] != 0)]
        items["parameter"], items["dtype"] = items["gradient"], items["gradient_dtype"]
        items["gradient"], items["quantity"] = 0, int(Quantity.GRADIENT)
        return items

    def weigh_uncopied(self, step: int, attempt: int, block: RowBlock) -> None:
        """The `parameter` rows of tensors without a copy, before the optimizer steps."""
        if not self.rows & 1 << Quantity.PARAMETER:
            return
        self.locate()
        items = self.items[self.items["snapshot"] == 0]
        items["gradient"] = 0
        self.kernel.weigh(items, step, attempt, block)
        self.keep.clear()


def in_windows(sizes: list[int], small: int, budget: int) -> list[list[int]]:
    """The turns in which copies of these sizes are made: each holds the first `small` tensors and as many of the others as
    fit into the budget, in bytes. One turn where all fit."""
    head, room = list(range(small)), budget - sum(sizes[:small])
    turns: list[list[int]] = [[]]
    filled = 0
    for i in range(small, len(sizes)):
        if sizes[i] > room:
            continue  # larger than the whole budget: its update is never weighed
        if filled + sizes[i] > room:
            turns.append([])
            filled = 0
        turns[-1].append(i)
        filled += sizes[i]
    return [head + turn for turn in turns]


def _reached(weighed: Weighed) -> int:
    if not weighed.is_direct:
        return GATHERED
    parameter = weighed.parameter
    return PLAIN if parameter.is_contiguous() and not parameter.is_complex() else DIRECT


def _form(parameter: torch.Tensor) -> tuple[object, ...]:
    parameter = local(parameter) if is_sharded(parameter) else parameter
    return parameter.dtype, parameter.shape, parameter.stride(), parameter.device, parameter.untyped_storage().size() == 0


def _padded(size: int) -> int:
    return (size + _ALIGN - 1) // _ALIGN * _ALIGN or _ALIGN


_CODES: Final[dict[torch.dtype, int]] = {
    dtype: code
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    if (code := code_of(dtype)) is not None
}
