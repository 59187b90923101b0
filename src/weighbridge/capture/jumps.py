"""A step that jumps against those before it: a reason to look closely at the next ones, instead of when the plan next does.

The plan looks at single units on a logarithmic scale. What goes wrong between two looks (a rate a hundred times as large,
weights that somebody has multiplied) would be seen up to a hundred steps later, and in two looks up to two hundred. Norms of
gradients, updates and parameters, and the loss, are known at every step; C compares them with those of the last steps, in the
usual step too (native/weighbridge_jump.c). All ranks that hold the same parameters see the same norms; the loss is their own,
so that one rank may look and another not: what rules compare across ranks are steps that both have.
"""

from __future__ import annotations

import ctypes
import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from weighbridge.capture.rowblock import RowBlock

LOOKS: Final = 3  # steps in a row: rules ask for two, and what a jump does may begin a step after it
JUMPS, WITHIN = 3, 200  # that are looked at within so many steps: at most 4.5 % of all steps, whatever training does


class Past(ctypes.Structure):
    """wb_past: what one optimizer's last steps were like."""

    _fields_ = [
        *((name, ctypes.c_double) for name in ("gradient", "update", "loss", "parameter")),
        ("steps", ctypes.c_int64),
    ]


class Jumps:
    """Asked after each step of one optimizer, here or by C itself. `library`: the kernel's."""

    def __init__(self, library: Any) -> None:
        self._past = Past()
        self.address = ctypes.addressof(self._past)
        self._asks = library.wb_has_jumped
        self._asks.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_double]

    def is_met(self, block: RowBlock, first: int, loss: float | None) -> bool:
        """Has the step jumped that wrote the rows of this block from `first` on? `loss`: None or NaN = not known."""
        return bool(self._asks(self.address, block.address, first, math.nan if loss is None else loss))


class Allowance:
    """How many jumps may be looked at: a run in which each step jumps would else pay for a look at each step."""

    def __init__(self) -> None:
        self._looked_at: deque[int] = deque(maxlen=JUMPS)

    def takes(self, step: int) -> bool:
        """May the jump of this step be looked at? Then it counts. Several of one step count once."""
        if self._looked_at and step - self._looked_at[-1] < LOOKS:
            return False  # it is being looked at
        if len(self._looked_at) == JUMPS and step - self._looked_at[0] < WITHIN:
            return False
        self._looked_at.append(step)
        return True
