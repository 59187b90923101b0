"""The table of steps: one row for each step of each optimizer, with the loss of the passes that led to it."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Any, Final

import torch
from torch.optim.optimizer import Optimizer

from weighbridge.capture.late import Late, held
from weighbridge.capture.losses import Number, Passes
from weighbridge.capture.recorder import Recorder
from weighbridge.capture.stepped import Stepped, settings_of
from weighbridge.capture.tensors import TensorTable

_NAN: Final = float("nan")
_CLIPS_KEPT: Final = 16  # of models that nobody steps
_PASSES_BEFORE_FIRST_STEP: Final = 20  # from then on passes without a step are written one by one


class StepRows:
    """What is gathered between two steps of an optimizer, and the row that it becomes."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.passes = Passes()
        self.clips: list[tuple[int, Number]] = []  # since the last step of an optimizer that holds them
        self.under_way: deque[Any] = deque()  # rows that wait for numbers of a device
        self.epoch = _NAN
        self.shares: dict[int, float] = {}  # of the step's loss that each pass had, when an optimizer last had all of them
        self.early = 0  # backward passes before the first step of all, and their rows until it is time to write them
        self.early_rows: list[tuple[Any, ...]] = []
        self.is_ours = False  # has a pass given a watched parameter a gradient?

    def add_pass(self, root: torch.Tensor, step: int, has_stepped: bool, samples: int = 0) -> None:
        """A backward pass over so many samples begins at this root. `has_stepped`: has any optimizer of the run?"""
        given = self.passes.add(root, samples)
        if not has_stepped:
            self._pass_without_step(given, step)

    def _pass_without_step(self, given: float, step: int) -> None:
        """Nobody has stepped yet: after a while write the passes themselves, so that a run without steps has a loss."""
        self.early += 1
        self.early_rows.append((step, self.recorder.attempt, given, given, self.epoch, time.time_ns()))
        if self.early >= _PASSES_BEFORE_FIRST_STEP:
            self.write_passes()

    def pass_ended(self, table: TensorTable) -> None:
        """Forget a pass of another model (a client's, of which this one takes the mean): it asks for no step of ours."""
        if not self.is_ours:
            self.is_ours = any(one.parameter.grad is not None for one in table.alive())
            if not self.is_ours and self.early_rows:
                self.early_rows.pop()
                self.early -= 1

    def write_passes(self) -> None:
        """Write the backward passes that no step followed, as far as they are not written yet."""
        with self.recorder.lock:
            self.recorder.small["passes"].rows.extend(self.early_rows)
        self.early_rows = []

    def add(self, stepped: Stepped, optimizer: Optimizer, step: int, found_inf: Number, own_ns: int, factor: float) -> bool:
        """Write the row of this step, now (True) or when a device has given its loss.

        factor: of clipping, where torch's own was not met. Call `passes.settle` before it, and with the recorder's lock held.
        """
        passes = self.passes
        before = (step, self.recorder.attempt, stepped.number, stepped.count)
        clip: Number = self._clip_factor(stepped, factor) if self.clips else factor
        after = (*settings_of(optimizer), self.epoch, time.time_ns(), own_ns)
        awaited = [] if passes.is_all_here and isinstance(passes.scale, float) else passes.awaited()
        awaited += [held(number) for number in (found_inf, clip) if isinstance(number, torch.Tensor)]
        is_late = bool(awaited or self.under_way)  # rows stand in the order of their steps
        if is_late:
            self.under_way.append((before, passes.taken(), clip, found_inf, after, Late(awaited) if awaited else None))
        else:
            self._write(before, passes, float(clip), float(found_inf), after)
        stepped.count += 1
        passes.clear()
        return not is_late

    def add_usual(
        self,
        stepped: Stepped,
        step: int,
        losses: list[float],
        settings: list[Any],
        times: list[int],
        owns: list[int],
        samples: list[int],
    ) -> None:
        """Write the rows of steps that C has done, from this one on. `settings`: of each its groups' lr, momentum, decay."""
        rows, attempt, epoch, before = self.recorder.small["steps"].rows, self.recorder.attempt, self.epoch, stepped.count
        for i, (loss, mine, ended, own, size) in enumerate(zip(losses, settings, times, owns, samples, strict=True)):
            key = (step + i, attempt, stepped.number, before + i)
            rows.append((*key, loss, loss, 1, False, 0.0, _NAN, 1.0, *mine, epoch, ended, own, size or None))
        stepped.count += len(losses)

    @property
    def oldest(self) -> float:
        """The first step whose row waits for numbers of a device; infinity where none does."""
        return self.under_way[0][0][0] if self.under_way else math.inf

    def fetch(self, wait: bool = False) -> list[int]:
        """Write the rows whose numbers have arrived. Gives their steps. Call with the recorder's lock held."""
        steps = []
        while self.under_way and ((late := self.under_way[0][5]) is None or late.has_arrived(wait)):
            before, passes, clip, found_inf, after, _ = self.under_way.popleft()
            arrived = late.numbers() if late is not None else []
            factor = arrived.pop() if isinstance(clip, torch.Tensor) else clip
            found = arrived.pop() if isinstance(found_inf, torch.Tensor) else found_inf
            self._write(before, passes.settled(arrived), factor, found, after)
            steps.append(before[0])
        return steps

    def _write(self, before: tuple[Any, ...], passes: Passes, clip: float, found_inf: float, after: tuple[Any, ...]) -> None:
        given = sum(passes.given) if passes.given else None
        row = (
            *before,
            self.loss(before[2], passes),
            given,
            passes.count,
            found_inf > 0,
            found_inf,
            clip,
            passes.scale,
            *after,
            passes.samples or None,
        )
        self.recorder.small["steps"].rows.append(row)
        if share := passes.each:
            self.shares[before[2]] = share

    def loss(self, optimizer: int, passes: Passes) -> float | None:
        """Of a step of the optimizer of this number that had these passes."""
        return passes.mean(self.shares.get(optimizer, 0.0))

    def _clip_factor(self, stepped: Stepped, otherwise: float) -> Number:
        """What torch's clipping multiplied this optimizer's gradients with; NaN where it clipped some of them apart."""
        mine = set(stepped.ids)
        clips = [clip for clip in self.clips if clip[0] in mine]
        self.clips = [clip for clip in self.clips if clip[0] not in mine][-_CLIPS_KEPT:]
        if not clips:
            return otherwise
        product: Number = math.prod((factor for _, factor in clips), start=1.0)
        return product if len({parameter for parameter, _ in clips}) == 1 else _NAN
