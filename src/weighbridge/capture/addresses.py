"""Where the parameters and gradients of a step lie: asked from C where torch offers that, else from Python.

A recent torch (2.13 does) describes a tensor to C code without making a Python object (DLPack's exchange table). For a model of
1,000 layers that takes less than half the time of `data_ptr()`, `grad` and `_version` of each parameter in Python.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final, Protocol

import numpy as np
import torch

from weighbridge.capture.kernel import Items, Kernel, code_of

GATHERED, DIRECT, PLAIN = range(3)  # numbers gathered by us; dense in memory; dense, real and in C order
# Bits of what was found (native/weighbridge_kernel.h).
MOVED, CHANGED, GRADIENT_UNREAD, DIFFERS, GRADIENT_GONE, GRADIENT_CAME = 1, 2, 4, 8, 32, 64


class Look(Protocol):
    """Asks all parameters of a step at once.

    Writes gradients of plain parameters into the items, and into `state` for each: MOVED (it lies elsewhere or has
    another form than its item says), CHANGED (another version than when last asked; not of the first `compared` items that are
    read where they lie: their bytes say more), DIFFERS (the bytes of one of these are not its snapshot's; asked where it lies
    as before, and not together with gradients), GRADIENT_UNREAD (there is a gradient that cannot be read where it lies),
    GRADIENT_GONE (there was one when last asked, and there is none), GRADIENT_CAME (the other way round, of a plain one).
    Gives all bits that were found.
    """

    state: np.ndarray[Any, np.dtype[np.uint8]]
    address: int  # of wb_asked, for C; 0 = C cannot ask

    def __call__(self, gradients: bool) -> int: ...


def look_at(kernel: Kernel, parameters: list[torch.nn.Parameter], reached: list[int], items: Items, compared: int = 0) -> Look:
    """The quickest way of asking that this torch and this kernel have. `reached`: GATHERED, DIRECT or PLAIN of each."""
    if kernel.look is not None and (lent := lent_to_c()) is not None:
        return NativeLook(kernel.look, lent, parameters, reached, items, compared)
    return TorchLook(kernel, parameters, reached, items, compared)


class NativeLook:
    """From C (native/weighbridge_look.c)."""

    def __init__(
        self,
        look: Any,
        lent: ctypes.Structure,
        parameters: list[torch.nn.Parameter],
        reached: list[int],
        items: Items,
        compared: int,
    ) -> None:
        n = len(parameters)
        self.state = np.zeros(n, np.uint8)
        objects = np.array([id(parameter) for parameter in parameters], np.uint64)
        arrays = (objects, np.array(reached, np.uint8), items, np.full(n, -1, np.int64), self.state)
        self._asked = _Asked(ctypes.addressof(lent), *(array.ctypes.data for array in arrays), n, compared)
        self.address = ctypes.addressof(self._asked)
        self._look, self._alive = look, (lent, parameters, arrays)

    def __call__(self, gradients: bool) -> int:
        found: int = self._look(self.address, gradients)
        return found


class TorchLook:
    """From Python, with what every torch has."""

    address = 0

    def __init__(
        self, kernel: Kernel, parameters: list[torch.nn.Parameter], reached: list[int], items: Items, compared: int
    ) -> None:
        self._kernel, self._compared = kernel, items[:compared]
        self._reads = np.array([how != GATHERED for how in reached[:compared]], bool)
        self._told_by_bytes = [i < compared and how != GATHERED for i, how in enumerate(reached)]
        self.state = np.zeros(len(parameters), np.uint8)
        self._parameters, self._reached, self._items = parameters, reached, items
        self._addresses = [-1] * len(parameters)
        self._versions = [-1] * len(parameters)

    def __call__(self, gradients: bool) -> int:
        versions = [-1 if told else p._version for p, told in zip(self._parameters, self._told_by_bytes, strict=True)]
        addresses = [p.data_ptr() if how else 0 for p, how in zip(self._parameters, self._reached, strict=True)]
        self.state[:] = 0
        for i, (now, then) in enumerate(zip(addresses, self._addresses, strict=True)):
            self.state[i] |= MOVED * (now != then) * (self._reached[i] != GATHERED)
        for i, (now, then) in enumerate(zip(versions, self._versions, strict=True)):
            self.state[i] |= CHANGED * (now != then)
        self._addresses, self._versions = addresses, versions
        if not gradients and len(self._compared):
            self._compare()
        if gradients:
            for i, parameter in enumerate(self._parameters):
                self._look_at_gradient(i, parameter.grad)
        return int(np.bitwise_or.reduce(self.state, initial=0))

    def _compare(self) -> None:
        """Bytewise, where the item's address still holds."""
        which = np.flatnonzero(self._reads & (self.state[: len(self._compared)] & MOVED == 0))
        for differs in self._kernel.moved(self._compared[which]):
            self.state[which[differs]] |= DIFFERS

    def _look_at_gradient(self, i: int, gradient: torch.Tensor | None) -> None:
        if gradient is None:
            self.state[i] |= GRADIENT_GONE * bool(self._items["gradient"][i])
            self._items["gradient"][i] = 0
        elif (
            self._reached[i] == PLAIN
            and gradient.layout is torch.strided
            and gradient.is_contiguous()
            and (code := code_of(gradient.dtype)) is not None
        ):
            self.state[i] |= GRADIENT_CAME * (not self._items["gradient"][i])
            self._items["gradient"][i] = gradient.data_ptr() or self._items["snapshot"][i]
            self._items["gradient_dtype"][i] = code
        else:
            self.state[i] |= GRADIENT_UNREAD


# Names that C asks objects for, in the order of wb_python.
_ASKED: Final = (
    "__dict__",
    "param_groups",
    "params",
    "lr",
    "momentum",
    "betas",
    "weight_decay",
    "found_inf",
    "grad_fn",
    "_saved_reduction",
)


class _Lent(ctypes.Structure):
    """wb_python: the functions and objects that C may use."""

    _fields_ = [
        (name, ctypes.c_void_p)
        for name in (
            "describe",
            "attribute",
            "number",
            "release",
            "forget_error",
            "none",
            "gradient",
            "version",
            "hold",
            "call",
            "call_nothing",
            "type_of",
            "tuple_size",
            "tuple_item",
            "yes",
            "no",
            "training",
            "tensor_type",
            "is_grad_enabled",
            "tracing_state",
            "graph_task",
            "list_size",
            "list_item",
            "dict_item",
            "real",
            "float_type",
            "int_type",
            "tuple_type",
            *(f"name_{name}" for name in _ASKED),
        )
    ]


class _Asked(ctypes.Structure):
    """wb_asked: where C finds what it asks about."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("python", "objects", "reached", "items", "versions", "state")),
        ("count", ctypes.c_int64),
        ("compared", ctypes.c_int64),
    ]


class _Exchange(ctypes.Structure):
    """The head of DLPackExchangeAPI, version 1."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("previous", ctypes.c_void_p),
        ("allocate", ctypes.c_void_p),
        ("lend", ctypes.c_void_p),
        ("take", ctypes.c_void_p),
        ("describe", ctypes.c_void_p),
    ]


_NAMES: Final = ("grad", "_version")  # C compares nothing by address, but the strings have to live
_LASTING: Final = (
    True,
    False,
    "training",
    torch.Tensor,
    torch.is_grad_enabled,
    torch._C._get_tracing_state,
    torch._C._current_graph_task_id,
)
_CAPSULE: Final = b"dlpack_exchange_api"
_known: list[_Lent | None] = []


def lent_to_c() -> _Lent | None:
    """What C needs, made once a process; None where this torch has no exchange table of a version that we know."""
    if not _known:
        _known.append(_makelent_to_c())
    return _known[0]


def _makelent_to_c() -> _Lent | None:
    capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if type(capsule).__name__ != "PyCapsule":
        return None
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    exchange = _Exchange.from_address(pointer_of(capsule, _CAPSULE))
    if exchange.major != 1 or not exchange.describe:
        return None
    python = ctypes.pythonapi
    functions = (python.PyObject_GetAttr, python.PyLong_AsLongLong, python.Py_DecRef, python.PyErr_Clear)
    addresses = [ctypes.cast(function, ctypes.c_void_p).value for function in functions]
    calls = (
        python.Py_IncRef,
        python.PyObject_CallOneArg,
        python.PyObject_CallNoArgs,
        python.PyObject_Type,
        python.PyTuple_Size,
        python.PyTuple_GetItem,
    )
    more = [ctypes.cast(function, ctypes.c_void_p).value for function in calls]
    readers = (python.PyList_Size, python.PyList_GetItem, python.PyDict_GetItem, python.PyFloat_AsDouble)
    last = [ctypes.cast(function, ctypes.c_void_p).value for function in readers]
    names = (float, int, tuple, *_ASKED)
    return _Lent(exchange.describe, *addresses, id(None), *map(id, _NAMES), *more, *map(id, _LASTING), *last, *map(id, names))
