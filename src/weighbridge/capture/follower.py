"""What the hooks of a run tell: C is asked first, for it can do the usual step alone; the rest is the stepper's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from weighbridge.capture.kernel import NativeKernel
from weighbridge.capture.stepper import Stepper
from weighbridge.capture.usual import Usual

if TYPE_CHECKING:
    from weighbridge.capture.losses import Number
    from weighbridge.capture.marks import Marks
    from weighbridge.capture.stepped import Stepped


class Follower(Stepper):
    """A stepper with C in front of it. Whoever asks how far it is first gets what C has done meanwhile."""

    usual: Usual | None = None  # where C cannot do it, or a budget asks what each step costs
    stop: Callable[[], None] | None = None  # ends the training: raises TrainingStopped

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        if isinstance(self.kernel, NativeKernel) and self.budget is None:
            self.usual = self._made(self.kernel)
        self.recorder.gather = self._gather
        if self.outputs is not None:
            self.outputs.catch_up = self._catch_up

    def _made(self, kernel: NativeKernel) -> Usual | None:
        try:
            return Usual(kernel, self.recorder, self.plan)
        except OSError:
            return None

    # ---- hooks ----

    def on_backward(self, root: torch.Tensor) -> bool:
        """A backward pass begins at this root. Gives whether nothing is to be done when it is over."""
        if self.stop is not None:
            self.stop()
        usual = self.usual
        if usual is None:
            return super().on_backward(root)
        if usual.backward(root):
            return True
        self._leave()
        super().on_backward(root)
        usual.meet(root)
        return False

    def before_step(self, optimizer: Optimizer) -> None:
        """An optimizer is about to step."""
        if self.stop is not None:
            self.stop()
        usual = self.usual
        if usual is not None:
            with self.recorder.lock:
                if usual.before(optimizer):
                    return
                usual.leave(self)
        super().before_step(optimizer)

    def after_step(self, optimizer: Optimizer) -> None:
        """The optimizer has stepped."""
        usual = self.usual
        if usual is None:
            super().after_step(optimizer)
            return
        with self.recorder.lock:
            told = usual.after(optimizer)
            if told is None:
                usual.pause(self)
            elif not told:
                usual.leave(self)
        if told is False:
            super().after_step(optimizer)
            self._start(usual, optimizer)

    def _start(self, usual: Usual, optimizer: Optimizer) -> None:
        """The step was Python's. Can C do the next one?"""
        stepped = self.optimizers.of(optimizer)
        if stepped.depth == 0 and not stepped.is_inner:
            with self.recorder.lock:
                usual.start(self, stepped, optimizer)

    def on_clipped(self, parameter: int, factor: Number) -> None:
        """Gradients, this parameter's among them, were clipped by their norm."""
        self._leave()
        super().on_clipped(parameter, factor)

    def step_skipped(self, optimizer: Optimizer) -> None:
        """A GradScaler found infinity and left the step out."""
        self._leave()
        super().step_skipped(optimizer)

    # ---- whoever else asks, or changes something ----

    @property
    def steps(self) -> int:
        """Steps on the clock so far: the number of the next one."""
        self._catch_up()
        return super().steps

    def add_model(self, model: nn.Module, name: str) -> None:
        """A model is watched from now on."""
        self._leave()
        super().add_model(model, name)

    def remove_model(self, model: nn.Module | None) -> None:
        """It is no longer."""
        self._leave()
        super().remove_model(model)

    def set_epoch(self, epoch: float) -> None:
        """Steps from now on belong to this epoch."""
        self._catch_up()
        super().set_epoch(epoch)

    def let_go(self) -> None:
        """Take away everything that hangs on the user's modules."""
        self._leave()
        super().let_go()

    def close(self) -> None:
        """The end of the run."""
        self._leave()
        super().close()

    def _outputs_failed(self, error: Exception) -> None:
        self._leave()
        super()._outputs_failed(error)

    def _left(self, stepped: Stepped) -> None:
        if self.usual is not None:
            self.usual.forget(stepped)
        super()._left(stepped)

    def _marks(self) -> Marks:
        self._gather()
        return super()._marks()

    def _catch_up(self) -> None:
        """Bring everything here up to date."""
        with self.recorder.lock:
            self._gather()

    def _gather(self) -> None:
        if self.usual is not None:
            self.usual.gather(self)

    def _leave(self) -> None:
        """What comes now is not usual."""
        if self.usual is not None:
            with self.recorder.lock:
                self.usual.leave(self)
