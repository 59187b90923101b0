"""Functions of the C library as Python callables that cost no more than a builtin: made without a compiler that knows Python.

ctypes takes a microsecond a call, too much for what runs in every step of every module. A `PyCFunction` needs a description
(`PyMethodDef`) and a `self`: here an int, the address of a structure that C works on.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Final

from weighbridge.capture.addresses import lent_to_c

ONE: Final = 8  # METH_O: takes one argument
ANY: Final = 0x80  # METH_FASTCALL: takes an array of them


class _Method(ctypes.Structure):  # PyMethodDef
    _fields_ = [("name", ctypes.c_char_p), ("function", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p)]


class _Address(int):
    """The address that C gets; keeps alive what lies there, as long as somebody holds the function (an autograd graph, say)."""

    keeps: tuple[Any, ...]


class CFunction:
    """One function of the library. Raises OSError where torch lends nothing to C."""

    def __init__(self, library: Any, name: str, takes: int, doc: str) -> None:
        lent = lent_to_c()
        if lent is None:
            raise OSError("this torch has no exchange table that C could use")
        library.wb_lend.argtypes = [ctypes.c_void_p]
        library.wb_lend(ctypes.addressof(lent))
        function = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
        self._method = _Method(name.encode(), function, takes, doc.encode())
        self._make = ctypes.pythonapi.PyCFunction_NewEx
        self._make.restype, self._make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]

    def on(self, state: ctypes.Structure, *kept: Any) -> Callable[..., Any]:
        """The callable that works on this state. `kept` lives with it."""
        address = _Address(ctypes.addressof(state))
        address.keeps = (state, self, *kept)
        made: Callable[..., Any] = self._make(ctypes.addressof(self._method), address, None)
        return made
