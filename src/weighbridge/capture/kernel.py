"""Weighing all tensors of a step with one call: the C kernel where it was built, else the torch fallback.

A kernel takes an array of work items (`ITEM`: addresses, sizes, dtypes) and a `RowBlock`. It reads the bytes where they
lie, so the caller keeps the tensors alive, contiguous and still during the call; any address will do, aligned or not.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from weighbridge import __version__
from weighbridge.capture import library
from weighbridge.capture.rowblock import BlockFull, BlockStruct, RowBlock
from weighbridge.capture.valueblock import ValueBlock, ValuesStruct

if TYPE_CHECKING:
    import torch

F32, F64, F16, BF16 = range(4)
_CODES: Final = {"torch.float32": F32, "torch.float64": F64, "torch.float16": F16, "torch.bfloat16": BF16}
ALL_ROWS: Final = 7
NO_HISTOGRAM: Final = -1
ITEM_SIZES: Final = (4, 8, 2, 2)  # bytes of an element, by code

# One work item (wb_item in native/weighbridge_kernel.h).
# With a snapshot: the rows parameter (the values before, that is the snapshot), gradient (if there is one) and update,
# and the snapshot gets the parameter's bytes. Without (0): one row of `parameter` alone, as `quantity`. A tensor without
# elements may have the address 0; give its snapshot any other number, nothing is read. `values`: bits; where one of them is
# in the call's `keep`, the numbers themselves are written too (float32 parameter and gradient only). `skip`: which rows of a
# step are not written, as bits 1 << quantity. `histogram`: mantissa bits of the rows' histograms, NO_HISTOGRAM = none.
ITEM: Final = np.dtype(
    [
        ("parameter", np.uint64),
        ("snapshot", np.uint64),
        ("gradient", np.uint64),
        ("count", np.int64),
        ("dtype", np.int32),
        ("gradient_dtype", np.int32),
        ("tensor", np.int32),
        ("quantity", np.int32),
        ("values", np.int32),
        ("skip", np.int16),
        ("histogram", np.int16),
    ]
)

# Below this many bytes a call keeps the GIL. Another thread that takes it meanwhile may hold it for a switch interval
# (5 ms by default), far more than the call takes (32 MiB: about 2 ms); above, the writer should not wait for us.
RELEASE_GIL_BYTES: Final = 32 << 20

# From so many elements on a second thread is woken where a core is free for it: about 0.2 ms of work, twice of what it
# takes to wake a thread on another core.
SHARED_ELEMENTS: Final = 200_000

Items = np.ndarray[Any, np.dtype[np.void]]


class Kernel(Protocol):
    """What weighs. `note` says why it is not the native one (empty where it is); `look`: wb_look of the library, if any."""

    name: str
    note: str
    look: Any

    @property
    def helper_seconds(self) -> float:
        """Time of a second thread in this process so far."""

    def weigh(
        self, items: Items, step: int, attempt: int, block: RowBlock, values: ValueBlock | None = None, keep: int = 0
    ) -> None:
        """Write the rows of all items, in their order, and refresh their snapshots.

        Raises BlockFull, with nothing done, where there is no room for all of them.
        """

    def moved(self, items: Items) -> list[int]:
        """Which items' bytes differ from their snapshot's?"""

    def sketch(self, items: Items) -> None:
        """Write the sums of gradients, and what is kept of them; items: an array of sketch.SKETCHED."""


def code_of(dtype: torch.dtype) -> int | None:
    """The kernel's code of a dtype, or None where it is not weighed (complex: weigh view_as_real)."""
    return _CODES.get(str(dtype))


def has_free_core() -> bool:
    """Is there a core that torch's own threads leave free?"""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores > torch.get_num_threads()


def load_kernel(prefer: str = "native") -> Kernel:
    """The native kernel if a library of exactly this build is there, else the torch fallback with the reason in `note`."""
    from weighbridge.capture.fallback import TorchKernel

    if prefer == "torch" or os.environ.get("WEIGHBRIDGE_KERNEL") == "torch":
        return TorchKernel(note="asked for")
    here = Path(__file__).resolve().parent
    try:
        return NativeKernel(here / library.library_name(), here.parents[2] / "native")
    except OSError as error:
        return TorchKernel(note=str(error))


class NativeKernel:
    """The C kernel. Raises OSError, with a reason for people, where the library is missing or of another build."""

    def __init__(self, path: Path, native: Path) -> None:
        self.name, self.note = "native", ""
        void, long = ctypes.c_void_p, ctypes.c_int64
        keeps_gil, releases_gil = _open(path, native)
        self.library = keeps_gil
        self._weigh, self._weigh_long = keeps_gil.wb_weigh, releases_gil.wb_weigh
        for function in (self._weigh, self._weigh_long):
            function.argtypes = [void, long, long, ctypes.c_int, void, void, ctypes.c_int, ctypes.c_int]
        keeps_gil.wb_helper_ns.restype = long
        self.has_helper = has_free_core() and bool(keeps_gil.wb_helper_start())
        self._moved = releases_gil.wb_moved
        self._moved.argtypes, self._moved.restype = [void, long, void], long
        self.look = keeps_gil.wb_look
        self.look.argtypes = [void, ctypes.c_int]
        self._sketch, self._sketch_long = keeps_gil.wb_sketch, releases_gil.wb_sketch
        for function in (self._sketch, self._sketch_long):
            function.argtypes, function.restype = [void, long], None
        self._use_level = keeps_gil.wb_use_level
        self._use_level.restype = ctypes.c_char_p
        self.levels = int(keeps_gil.wb_levels())
        self._compared: tuple[Items | None, int, np.ndarray[Any, np.dtype[np.int64]], int]
        self._compared = (None, 0, np.empty(0, np.int64), 0)
        self._known: tuple[Items | None, int, Any, int] = (None, 0, self._weigh, 0)

    def use_level(self, level: int = -1) -> str:
        """Choose an instruction level (0 plain, then better ones; -1 the best) for the process; its name."""
        name: bytes = self._use_level(level)
        return name.decode()

    def weigh(
        self, items: Items, step: int, attempt: int, block: RowBlock, values: ValueBlock | None = None, keep: int = 0
    ) -> None:
        known, address, function, shares = self._known
        if known is not items:  # the caller keeps one array and edits it: look at it once
            address, function, shares = self._look_at(items)
        if function(address, len(items), step, attempt, block.address, values and values.address, keep, shares):
            raise BlockFull("a block is full: take what is in it, or make a larger one")

    @property
    def helper_seconds(self) -> float:
        """Time of the second thread in this process so far."""
        return float(self.library.wb_helper_ns()) / 1e9

    def _look_at(self, items: Items) -> tuple[int, Any, int]:
        if items.dtype != ITEM or not items.flags.c_contiguous:
            raise TypeError("items must be a contiguous array of dtype ITEM")
        size = int((items["count"] * np.take(ITEM_SIZES, items["dtype"])).sum()) * 4  # read three times, written once
        function = self._weigh_long if size >= RELEASE_GIL_BYTES else self._weigh
        shares = int(self.has_helper and int(items["count"].sum()) >= SHARED_ELEMENTS)
        self._known = (items, items.ctypes.data, function, shares)
        return self._known[1:]

    def moved(self, items: Items) -> list[int]:
        known, address, moved, moved_at = self._compared
        if known is not items:
            moved = np.empty(len(items), np.int64)
            address, moved_at = items.ctypes.data, moved.ctypes.data
            self._compared = (items, address, moved, moved_at)
        found: int = self._moved(address, len(items), moved_at)
        return moved[:found].tolist() if found else []

    def sketch(self, items: Items) -> None:
        size = int((items["count"] * np.take(ITEM_SIZES, items["dtype"])).sum())
        (self._sketch_long if size >= RELEASE_GIL_BYTES else self._sketch)(items.ctypes.data, len(items))


def _open(path: Path, native: Path) -> tuple[ctypes.PyDLL, ctypes.CDLL]:
    """The library twice, to call it with and without the GIL; refused where it is not of this build."""
    if not path.is_file():
        raise OSError(f"{path.name} was not built (python native/build.py builds it, a C compiler is all it needs)")
    expected, why = library.expected_digest(path, native, __version__)
    if expected is None:
        raise OSError(why)
    keeps_gil = ctypes.PyDLL(str(path))
    try:
        keeps_gil.wb_digest.restype = ctypes.c_char_p
        sizes = (keeps_gil.wb_block_size(), keeps_gil.wb_values_size(), keeps_gil.wb_item_size())
        found = (keeps_gil.wb_digest().decode(), keeps_gil.wb_abi(), *sizes)
    except AttributeError:
        raise OSError(f"{path.name} is not weighbridge's kernel") from None
    if found != (expected, library.ABI, ctypes.sizeof(BlockStruct), ctypes.sizeof(ValuesStruct), ITEM.itemsize):
        raise OSError(f"{path.name} is of another build than this weighbridge (python native/build.py builds it anew)")
    return keeps_gil, ctypes.CDLL(str(path))
