"""Does the gradient that an optimizer uses still hold that of its step before? Asked of one small parameter of each optimizer.

After a step the gradient is still there. Somebody has to take it away before the backward pass that makes the next one. So it
is looked at whenever a backward pass begins: gone, or 0 in every element, and all is well. Where it never was until the next
step, and a pass has added to it, that step uses the old one too. It is exact: nothing is compared but with 0. It costs one look
at an attribute in each pass; only a gradient that is still there is read.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Final

import torch

from weighbridge.capture.recorder import Recorder

if TYPE_CHECKING:
    from weighbridge.capture.stepped import Stepped

KIND: Final = "gradients_kept"  # the event
PATIENCE: Final = 3  # steps in a row
SMALL: Final = 2**16  # elements of the parameter that is looked at


class Leftover:
    """What is known of one optimizer since its last step."""

    __slots__ = ("__weakref__", "in_a_row", "is_clean", "is_told", "parameter", "version")

    def __init__(self) -> None:
        self.parameter: torch.Tensor | None = None  # the one looked at
        self.version = -1  # of its gradient after the last step
        self.is_clean = True  # the gradient of the last step was taken away
        self.in_a_row, self.is_told = 0, False

    @property
    def is_found(self) -> bool:
        """Is it to be told now?"""
        return self.in_a_row >= PATIENCE and not self.is_told

    def was_clean(self, has_stepped: bool, is_in_step: bool) -> None:
        """C has asked: it was gone when each pass began. `has_stepped`: steps ended since; `is_in_step`: a pass has begun."""
        if has_stepped:
            self.in_a_row = 0
        if is_in_step:
            self.is_clean = True
        elif has_stepped:
            gradient = None if self.parameter is None else self.parameter.grad
            self.is_clean, self.version = gradient is None, -1 if gradient is None else gradient._version


class Leftovers:
    """Follows the optimizers of a run."""

    def __init__(self) -> None:
        self.known: weakref.WeakSet[Leftover] = weakref.WeakSet()

    def before_pass(self) -> None:
        """A backward pass begins."""
        for one in self.known:
            if not one.is_clean and one.parameter is not None:
                gradient = one.parameter.grad
                one.is_clean = gradient is None or not bool(gradient.any())

    def after_step(self, stepped: Stepped) -> bool:
        """This optimizer has stepped. Is it certain now that it uses gradients of steps before?"""
        one = stepped.pair.leftover
        if one.is_told or stepped.work is None:
            return False
        if one.parameter is None:
            one.parameter = _smallest(stepped)
            self.known.add(one)
        gradient = None if one.parameter is None else one.parameter.grad
        if gradient is None or one.is_clean:
            one.in_a_row = 0
        elif gradient._version != one.version:  # a pass has added to it
            one.in_a_row += 1
        one.is_clean, one.version = gradient is None, -1 if gradient is None else gradient._version
        return one.is_found

    def tell(self, stepped: Stepped, step: int, recorder: Recorder) -> None:
        """Write the event, once."""
        one = stepped.pair.leftover
        if stepped.work is None or not one.is_found:
            return
        tensor = next((w.tensor for w in stepped.work.weighed if w.parameter is one.parameter), -1)
        one.is_told, one.parameter = True, None
        message = "the gradient of the step before was still there when the next one was added to it"
        recorder.event(step, KIND, message, tensor, {"optimizer": stepped.number, "steps": PATIENCE})


def _smallest(stepped: Stepped) -> torch.Tensor | None:
    """The smallest parameter with a gradient that is not 0, in memory of the CPU."""
    assert stepped.work is not None
    small = sorted((w.parameter for w in stepped.work.weighed if w.parameter.numel() <= SMALL), key=torch.Tensor.numel)
    return next((p for p in small if _is_there(p.grad)), None)


def _is_there(gradient: torch.Tensor | None) -> bool:
    return gradient is not None and gradient.is_cpu and gradient.layout is torch.strided and bool(gradient.any())
