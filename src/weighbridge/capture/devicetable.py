"""Some tensors on one GPU, weighed together: their pieces, where they lie, and the few launches that weigh all of them.

Nothing here waits for the device. A launch reads tensors by their addresses, so the caller keeps them alive until the work
that it has queued is done; what PyTorch frees meanwhile is given away on the same stream only, and so not before.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from weighbridge.capture.kernel import BF16, F16, F32, F64, NO_HISTOGRAM
from weighbridge.records import HISTOGRAM_LINE_BYTES, HISTOGRAM_STRIDE, HISTOGRAM_WHOLE_BELOW, histogram_bins

E4M3, E5M2 = 4, 5
KINDS: Final = {
    torch.float32: F32,
    torch.float64: F64,
    torch.float16: F16,
    torch.bfloat16: BF16,
    torch.float8_e4m3fn: E4M3,
    torch.float8_e5m2: E5M2,
}
SIZES: Final = np.array([4, 8, 2, 2, 1, 1])  # bytes of an element, by kind
PARAMETER, GRADIENT, COPY = range(3)  # rows of `addresses`
UPDATE: Final = 2  # of what is weighed: PARAMETER, GRADIENT, UPDATE
ROWS: Final = 3
WIDTH: Final = 16  # numbers of a row, as triton_kernels.py lays them out
PIECE: Final = 65_536  # elements; a lane of 128 counts at most 1,023 of them, and pieces begin at a multiple of 8 lines
LANES = 128
REGISTERS = 96  # of a lane: with more, too few programs run at once to hide the memory's delay
TILE = 1024  # a test may widen both: an interpreter is slow by the operation, not by the element
_SLOTS_AT_ONCE: Final = 32
_BINS_AT_ONCE: Final = 64

Array = np.ndarray[Any, Any]


@functools.cache
def has_triton() -> bool:
    """Can kernels be made here? Triton comes with PyTorch for CUDA."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def lanes(kind: int, gradient_kind: int, is_aligned: bool) -> dict[str, Any]:
    """The constants of a launch that all kernels share."""
    bounded = {"maxnreg": REGISTERS} if REGISTERS else {}
    each = 2 if F64 in (kind, gradient_kind) else 4
    return bounded | {"aligned": is_aligned, "T": LANES, "E": each, "num_warps": min(LANES // 32, 8)}


@dataclass(frozen=True, slots=True)
class Layout:
    """How rows lie in what a device sends: float64 [n, rows, 16], then int32 [n, rows, padded_bins].

    counts: int64 [n], elements of each tensor; kinds: int64 [n, rows], of the numbers of each row.
    """

    counts: Array
    kinds: Array
    fine: int

    @property
    def bins(self) -> int:
        """Of a histogram; 0 where there is none."""
        return 0 if self.fine == NO_HISTOGRAM else histogram_bins(self.fine)

    @property
    def padded_bins(self) -> int:
        """The power of two that Triton counts with."""
        return 256 << max(self.fine, 0)

    @property
    def words(self) -> int:
        """int64 words of all of it."""
        return self.kinds.size * (WIDTH + (self.padded_bins // 2 if self.bins else 0))

    def read(self, words: Array) -> tuple[Array, Array]:
        """Numbers float64 [n, rows, 16] and histograms uint32 [n, rows, bins]."""
        n, rows = self.kinds.shape
        numbers = words[: n * rows * WIDTH].view(np.float64).reshape(n, rows, WIDTH)
        if not self.bins:
            return numbers, np.zeros((n, rows, 0), np.uint32)
        hists = words[n * rows * WIDTH : self.words].view(np.uint32).reshape(n, rows, self.padded_bins)
        return numbers, hists[:, :, : self.bins]

    def looked_at(self) -> Array:
        """int64 [n, rows]: how many elements each histogram looks at."""
        if not self.bins:
            return np.zeros(self.kinds.shape, np.int64)
        line, count = HISTOGRAM_LINE_BYTES // SIZES[self.kinds], self.counts[:, None]
        period = line * HISTOGRAM_STRIDE
        some = count // period * line + np.minimum(count % period, line)
        return np.where(count < HISTOGRAM_WHOLE_BELOW, count, some)


def add_up(
    stats: torch.Tensor, hists: torch.Tensor, slots: torch.Tensor, layout: Layout, is_whole: bool = False
) -> torch.Tensor:
    """The rows of all pieces added up, int64 [words]. `is_whole`: histograms are those of tensors already, not of pieces."""
    from weighbridge.capture import triton_kernels

    n, rows = layout.kinds.shape
    out = torch.empty(layout.words, dtype=torch.int64, device=stats.device)
    out_hists = out[n * rows * WIDTH :].view(torch.int32) if layout.bins else hists
    parts = layout.padded_bins // _BINS_AT_ONCE if layout.bins and not is_whole else 0
    if layout.bins and is_whole:
        out_hists.copy_(hists[:n].reshape(-1))
    triton_kernels.add_up[(n, rows, 1 + parts)](
        *(stats, hists, slots, out.view(torch.float64), out_hists),
        fine=layout.fine,
        S=_SLOTS_AT_ONCE,
        BINS=layout.padded_bins,
        SOME=_BINS_AT_ONCE,
        ROWS=rows,
    )
    return out


class Table:
    """`counts` and `kinds`: of each tensor's elements. `fine`: mantissa bits of the histograms, NO_HISTOGRAM: none.

    `addresses`, int64 [3, n]: of the tensors, of their gradients, of their copies from before the step; 0 where there is
    none. Written by the caller (with `gradient_kinds`), sent to the device when something in it has changed.
    """

    def __init__(self, device: torch.device, counts: Sequence[int], kinds: Sequence[int], fine: int) -> None:
        self.device, self.fine = device, fine
        self.counts, self.kinds = np.array(counts, np.int64), np.array(kinds, np.int64)
        self.gradient_kinds = self.kinds.copy()
        self.bins = 0 if fine == NO_HISTOGRAM else histogram_bins(fine)
        self.padded_bins = 256 << max(fine, 0)
        n = len(self.counts)
        pieces = -(-self.counts // PIECE)
        self.slots = np.concatenate([[0], np.cumsum(pieces)])
        self.addresses = np.zeros((ROWS, n), np.int64)
        self._sent = self.addresses - 1
        self._groups: dict[bytes, list[tuple[int, int, bool, torch.Tensor]]] = {}
        self._counts, self._slots = self._to_device(self.counts), self._to_device(self.slots)
        self._addresses = torch.zeros((ROWS, n), dtype=torch.int64, device=device)
        slots = max(int(self.slots[-1]), 1)
        self._stats = torch.empty((slots, ROWS, WIDTH), dtype=torch.float64, device=device)
        self._hists = torch.empty((slots, ROWS, self.padded_bins if self.bins else 1), dtype=torch.int32, device=device)

    def _to_device(self, array: Array) -> torch.Tensor:
        host = torch.from_numpy(np.ascontiguousarray(array))
        return host.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else host.clone()

    def send_addresses(self) -> None:
        """Tell the device where everything lies now."""
        if not np.array_equal(self.addresses, self._sent):
            self._sent = self.addresses.copy()
            self._addresses = self._to_device(self._sent)

    # --- launches -------------------------------------------------------------------------------------------------------

    def weigh_steps(self, which: Array) -> None:
        """The three rows of these tensors (a mask), and their copies refreshed; all three addresses must have been sent.

        One without gradient is given another tensor of its size in its place, and that row left unread.
        """
        from weighbridge.capture.triton_kernels import weigh_steps

        aligned = (self.addresses % 16 == 0).all(0)
        assert (self.addresses[:, which & (self.counts > 0)] != 0).all()
        for kind, gradient_kind, is_aligned, pieces in self._grouped(which, self.kinds, self.gradient_kinds, aligned):
            weigh_steps[(len(pieces),)](
                *(pieces, self._addresses, self._counts, self._stats, self._hists, len(self.counts)),
                kind=kind,
                gradient_kind=gradient_kind,
                **self._shape(kind, gradient_kind, is_aligned),
            )

    def weigh_alone(self, which: Array, of: int, row: int) -> None:
        """One row of each of these tensors: of what lies at `addresses[of]`, as row number `row`."""
        from weighbridge.capture.triton_kernels import weigh_alone

        kinds = self.gradient_kinds if of == GRADIENT else self.kinds
        aligned = self.addresses[of] % 16 == 0
        for kind, _, is_aligned, pieces in self._grouped(which & (self.addresses[of] != 0), kinds, kinds, aligned):
            weigh_alone[(len(pieces),)](
                *(pieces, self._addresses[of], self._counts, self._stats, self._hists, row),
                kind=kind,
                **self._shape(kind, kind, is_aligned),
            )

    def copy_small(self, number: int) -> None:
        """Refresh the copies of the first tensors of the table, whatever has happened to them."""
        from weighbridge.capture.triton_kernels import copy_small

        if number:
            sizes = self._sizes()
            copy_small[(number,)](self._addresses, sizes, len(self.counts), SIZE=1024, num_warps=4)

    def add_up(self) -> torch.Tensor:
        """All rows, as `Layout` reads them. What was not weighed is noise."""
        return add_up(self._stats, self._hists, self._slots, self.layout())

    def layout(self) -> Layout:
        """How what is sent now is read when it arrives."""
        kinds = np.stack([self.kinds, self.gradient_kinds, self.kinds], axis=1)
        return Layout(self.counts, kinds, self.fine)

    # --- what a launch needs --------------------------------------------------------------------------------------------

    def _sizes(self) -> torch.Tensor:
        if not hasattr(self, "_bytes"):
            self._bytes = self._to_device(self.counts * SIZES[self.kinds])
        return self._bytes

    def _shape(self, kind: int, gradient_kind: int, is_aligned: bool) -> dict[str, Any]:
        return {"fine": self.fine, "BINS": self.padded_bins, "TILE": TILE} | lanes(kind, gradient_kind, is_aligned)

    def _grouped(
        self, which: Array, kinds: Array, gradient_kinds: Array, aligned: Array
    ) -> list[tuple[int, int, bool, torch.Tensor]]:
        """A launch for each pair of kinds and each alignment among these tensors: usually one."""
        codes = np.where(which, (kinds * 8 + gradient_kinds) * 2 + aligned, -1)
        key = codes.tobytes()
        if key not in self._groups:
            if len(self._groups) > 64:  # addresses whose alignment never settles
                self._groups.clear()
            present = [int(code) for code in np.unique(codes) if code >= 0]
            groups = [(c // 16, c // 2 % 8, bool(c % 2), self._pieces(np.flatnonzero(codes == c))) for c in present]
            self._groups[key] = [group for group in groups if len(group[3])]
        return self._groups[key]

    def _pieces(self, items: Array) -> torch.Tensor:
        """int64 [pieces, 4]: tensor, first element, elements, slot; the largest first, so that none begins late."""
        each = self.slots[items + 1] - self.slots[items]
        item = np.repeat(items, each)
        number = np.arange(len(item)) - np.repeat(np.cumsum(each) - each, each)
        length = np.minimum(self.counts[item] - number * PIECE, PIECE)
        made = np.stack([item, number * PIECE, length, self.slots[item] + number], axis=1)
        return self._to_device(made[np.argsort(-length, kind="stable")])
