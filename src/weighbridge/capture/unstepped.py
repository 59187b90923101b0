"""An optimizer that no longer steps while another one of the run goes on, although its parameters still get gradients.

Where it has not stepped for WAIT steps of the clock, and TIMES as many as it ever left out before (a GAN's five to one, a
delayed policy), its gradients are looked at in two passes in a row: they come, and somebody takes them away again. Who has
done with a part of a model freezes it, or lets what it gets pile up. It costs one number per optimizer and step, and two looks
at one parameter in all; nothing is asked of a device. Whether the two optimizers followed one loss is for the rule to say, and
what it means that nobody calls this optimizer's own zero_grad any more: it is looked for between the two passes.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.optim.optimizer import Optimizer

from weighbridge.capture.recorder import Recorder

if TYPE_CHECKING:
    from weighbridge.capture.stepped import Stepped

KIND: Final = "unstepped"  # the event
WAIT, TIMES = 10, 4  # steps of the clock; an accumulation that is four times as long as any before is none


class Missed:
    """What one optimizer has left out."""

    __slots__ = ("emptied", "in_a_row", "is_told", "longest", "seen")

    def __init__(self) -> None:
        self.in_a_row = self.longest = 0  # steps of the clock
        self.is_told = False
        self.emptied: _Emptied | None = None  # while it is looked for
        self.seen: tuple[weakref.ref[torch.Tensor], weakref.ref[torch.Tensor], int] | None = (
            None  # parameter, gradient, version
        )

    def look_away(self) -> None:
        """Nothing is looked for any more."""
        if self.emptied is not None:
            self.emptied.leave()
            self.emptied = None


def note_missed(known: Iterable[Stepped], stepped: set[int], clock: int, passes: int, recorder: Recorder) -> None:
    """The clock goes on to `clock`, whose `passes` backward passes have run; `stepped`: who took the step before."""
    for one in known:
        missed = one.missed
        if one.number in stepped:
            missed.longest, missed.in_a_row = max(missed.longest, missed.in_a_row), 0
            missed.look_away()
        elif one.count and not missed.is_told:
            missed.in_a_row += 1
            needed = max(WAIT, TIMES * missed.longest)
            if missed.in_a_row == needed - 1:
                missed.seen, missed.emptied = _gradient(one), _Emptied(one.reference)
            elif missed.in_a_row == needed and missed.emptied is not None:
                is_emptied, missed.emptied = missed.emptied.leave(), None
                if not _is_renewed(missed, passes):
                    continue
                missed.is_told = True
                detail = {"optimizer": one.number, "missed": missed.in_a_row, "is_emptied": is_emptied}
                recorder.event(clock, KIND, "an optimizer steps no more; its parameters get gradients", detail=detail)


class _Emptied:
    """Is this optimizer's own zero_grad called? torch's function is watched until `leave`."""

    def __init__(self, optimizer: weakref.ref[Optimizer]) -> None:
        self.optimizer, self.is_met = optimizer, False
        _looking.append(self)
        if len(_looking) == 1:
            _watch_zero_grad()

    def leave(self) -> bool:
        """Gives whether it was called."""
        _looking.remove(self)
        if not _looking:
            _leave_zero_grad()
        return self.is_met


_looking: list[_Emptied] = []
_replaced: list[Any] = []  # torch's function, and ours


def _watch_zero_grad() -> None:
    original = Optimizer.zero_grad

    @functools.wraps(original)
    def zero_grad(called: Any, *arguments: Any, **named: Any) -> Any:
        for one in _looking:
            one.is_met |= called is one.optimizer()
        return original(called, *arguments, **named)

    Optimizer.zero_grad = zero_grad  # type: ignore[assignment, method-assign]
    _replaced[:] = original, zero_grad


def _leave_zero_grad() -> None:
    """Put torch's own back, but where somebody else has replaced ours."""
    original, ours = _replaced
    _replaced.clear()
    if Optimizer.zero_grad is ours:
        Optimizer.zero_grad = original  # type: ignore[method-assign]


def _gradient(one: Stepped) -> tuple[weakref.ref[torch.Tensor], weakref.ref[torch.Tensor], int] | None:
    """Of its first parameter in CPU memory that has one which is not 0."""
    optimizer = one.reference()
    for group in optimizer.param_groups if optimizer is not None else ():
        for parameter in group["params"]:
            gradient = parameter.grad
            if _is_some(gradient):
                return weakref.ref(parameter), weakref.ref(gradient), gradient._version
    return None


def _is_some(gradient: torch.Tensor | None) -> bool:
    return type(gradient) is torch.Tensor and gradient.is_cpu and not gradient.is_sparse and bool(gradient.any())


def _is_renewed(missed: Missed, passes: int) -> bool:
    """Has the gradient that was seen been taken away, and another one come?"""
    if missed.seen is None:
        return False
    (parameter, before, version), missed.seen = missed.seen, None
    held = parameter()
    now = held.grad if held is not None else None
    if now is None or not _is_some(now):
        return False
    return now is not before() or now._version - version > passes  # each pass adds to it once; emptying it is one more
