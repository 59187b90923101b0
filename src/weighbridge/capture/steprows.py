"""The table of steps: one row for each step of each optimizer, with the loss of the passes that led to it."""

from __future__ import annotations

import math
import time
from typing import Any, Final

import torch
from torch.optim.optimizer import Optimizer

from weighbridge.capture.losses import Passes
from weighbridge.capture.recorder import Recorder
from weighbridge.capture.stepped import Stepped, settings_of

_NAN: Final = float("nan")
_CLIPS_KEPT: Final = 16  # of models that nobody steps
_PASSES_BEFORE_FIRST_STEP: Final = 20  # from then on passes without a step are written one by one


class StepRows:
    """What is gathered between two steps of an optimizer, and the row that it becomes."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.passes = Passes()
        self.clips: list[tuple[int, float]] = []  # since the last step of an optimizer that holds them
        self.epoch = _NAN
        self.early = 0  # backward passes before the first step of all, and their rows until it is time to write them
        self.early_rows: list[tuple[Any, ...]] = []

    def add_pass(self, root: torch.Tensor, step: int, has_stepped: bool) -> None:
        """A backward pass begins at this root. `has_stepped`: has any optimizer of the run?"""
        given = self.passes.add(root)
        if not has_stepped:
            self._pass_without_step(given, step)

    def _pass_without_step(self, given: float, step: int) -> None:
        """Nobody has stepped yet: after a while write the passes themselves, so that a run without steps has a loss."""
        self.early += 1
        self.early_rows.append((step, self.recorder.attempt, given, given, self.epoch, time.time_ns()))
        if self.early >= _PASSES_BEFORE_FIRST_STEP:
            self.write_passes()

    def write_passes(self) -> None:
        """Write the backward passes that no step followed, as far as they are not written yet."""
        with self.recorder.lock:
            self.recorder.small["passes"].rows.extend(self.early_rows)
        self.early_rows = []

    def add(self, stepped: Stepped, optimizer: Optimizer, step: int, found_inf: float, own_ns: int, factor: float) -> None:
        """Write the row of this step; `factor`: of clipping, where torch's own was not met. Call `passes.settle` before it,
        and with the recorder's lock held."""
        passes = self.passes
        self.recorder.small["steps"].rows.append(
            (
                step,
                self.recorder.attempt,
                stepped.number,
                stepped.count,
                passes.mean(),
                sum(passes.given) if passes.given else None,
                passes.count,
                found_inf > 0,
                found_inf,
                self._clip_factor(stepped, factor) if self.clips else factor,
                passes.scales[-1] if passes.scales else 1.0,
                *settings_of(optimizer),
                self.epoch,
                time.time_ns(),
                own_ns,
            )
        )
        stepped.count += 1
        passes.clear()

    def _clip_factor(self, stepped: Stepped, otherwise: float) -> float:
        """What torch's clipping multiplied this optimizer's gradients with; NaN where it clipped some of them apart."""
        mine = set(stepped.ids)
        clips = [clip for clip in self.clips if clip[0] in mine]
        self.clips = [clip for clip in self.clips if clip[0] not in mine][-_CLIPS_KEPT:]
        if not clips:
            return otherwise
        return math.prod(factor for _, factor in clips) if len({parameter for parameter, _ in clips}) == 1 else _NAN
