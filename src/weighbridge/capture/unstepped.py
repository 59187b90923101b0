"""An optimizer that no longer steps while another one of the run goes on, although its parameters still get gradients.

Where it has not stepped for WAIT steps of the clock, and TIMES as many as it ever left out before (a GAN's five to one, a
delayed policy), its gradients are looked at in two passes in a row: they come, and somebody takes them away again. Who has
done with a part of a model freezes it, or lets what it gets pile up. It costs one number per optimizer and step, and two looks
at one parameter in all; nothing is asked of a device. Whether the two optimizers followed one loss is for the rule to say.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import torch

from weighbridge.capture.recorder import Recorder

if TYPE_CHECKING:
    from weighbridge.capture.stepped import Stepped

KIND: Final = "unstepped"  # the event
WAIT, TIMES = 10, 4  # steps of the clock; an accumulation that is four times as long as any before is none


class Missed:
    """What one optimizer has left out."""

    __slots__ = ("in_a_row", "is_told", "longest", "seen")

    def __init__(self) -> None:
        self.in_a_row = self.longest = 0  # steps of the clock
        self.is_told = False
        self.seen: tuple[weakref.ref[torch.Tensor], weakref.ref[torch.Tensor], int] | None = (
            None  # parameter, gradient, version
        )


def note_missed(known: Iterable[Stepped], stepped: set[int], clock: int, passes: int, recorder: Recorder) -> None:
    """The clock goes on to `clock`, whose `passes` backward passes have run; `stepped`: who took the step before."""
    for one in known:
        missed = one.missed
        if one.number in stepped:
            missed.longest, missed.in_a_row = max(missed.longest, missed.in_a_row), 0
        elif one.count and not missed.is_told:
            missed.in_a_row += 1
            needed = max(WAIT, TIMES * missed.longest)
            if missed.in_a_row == needed - 1:
                missed.seen = _gradient(one)
            elif missed.in_a_row == needed and _is_renewed(missed, passes):
                missed.is_told = True
                detail = {"optimizer": one.number, "missed": missed.in_a_row}
                recorder.event(clock, KIND, "an optimizer steps no more; its parameters get gradients", detail=detail)


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
