"""The optimizer's running averages, weighed on some steps: Adam's two moments, SGD's momentum.

Row of step k: the state after update k, which is the state that made it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch.optim.optimizer import Optimizer

from weighbridge.capture.budget import Thinned
from weighbridge.capture.kernel import ITEM, Kernel, code_of
from weighbridge.capture.plan import Occasions, Plan
from weighbridge.capture.recorder import Recorder
from weighbridge.capture.shards import is_sharded, local
from weighbridge.capture.snapshots import as_real
from weighbridge.capture.stepped import Stepped
from weighbridge.capture.tensors import TensorTable
from weighbridge.records import Quantity

# Names in `optimizer.state[parameter]`: of torch's own optimizers, and of those that follow them.
FIRST: Final = ("exp_avg", "momentum_buffer")
SECOND: Final = ("exp_avg_sq", "square_avg", "exp_inf", "sum", "variance")


class Moments:
    """The state of a run's optimizers."""

    def __init__(self, kernel: Kernel, plan: Plan, table: TensorTable) -> None:
        self.kernel, self.table = kernel, table
        self.told: set[int] = set()  # optimizers whose state was said to be of no form that is known here
        self.occasions = Occasions(plan.schedule("moments"))
        self.histogram = plan.histogram_bits
        self.thinned = Thinned()
        self._asked = (-1, False)

    def is_due(self, step: int) -> bool:
        """Is the state weighed at this step?"""
        if not self.occasions.due(step):
            return False
        if self._asked[0] != step:
            self._asked = (step, self.thinned.passes())
        return self._asked[1]

    def weigh(self, stepped: Stepped, optimizer: Optimizer, step: int, recorder: Recorder) -> None:
        """Write a row for each moment of each parameter. Call with the recorder's lock held."""
        for device in stepped.devices:
            device.weigh_moments(optimizer, step)
        if stepped.work is None:
            return
        keep: list[torch.Tensor] = []
        found: list[tuple[int | None, ...]] = []
        unknown: list[int] = []
        for weighed in stepped.work.weighed:
            state = optimizer.state.get(weighed.parameter)
            before = len(found)
            for quantity, names in ((Quantity.MOMENT1, FIRST), (Quantity.MOMENT2, SECOND)):
                moment = _moment(state, names, weighed.parameter)
                if moment is not None:
                    keep.append(moment)
                    found.append((moment.data_ptr(), moment.numel(), code_of(moment.dtype), weighed.tensor, int(quantity)))
            if len(found) == before and _keeps_tensors(state):
                unknown.append(weighed.tensor)
        if unknown and stepped.number not in self.told:
            self.told.add(stepped.number)
            self._tell_unknown(type(optimizer).__name__, unknown, step, recorder)
        if found:
            items = np.zeros(len(found), ITEM)
            for column, values in zip(
                ("parameter", "count", "dtype", "tensor", "quantity"), zip(*found, strict=True), strict=True
            ):
                items[column] = values
            items["histogram"] = self.histogram
            self.kernel.weigh(items, step, recorder.attempt, recorder.room(len(items)))

    def _tell_unknown(self, kind: str, tensors: list[int], step: int, recorder: Recorder) -> None:
        message = f"{kind} keeps no moments of a known form for {len(tensors)} tensors: what it keeps is not weighed"
        recorder.event(step, "reduced", message, detail={"tensors": [self.table.name(tensor) for tensor in tensors]})


def _moment(state: Any, names: tuple[str, ...], parameter: torch.Tensor) -> torch.Tensor | None:
    """The first of these in the state that has the parameter's own shape and lies in CPU memory; of a DTensor its part."""
    for name in names:
        moment = state.get(name) if isinstance(state, dict) else None
        if (
            not isinstance(moment, torch.Tensor)
            or moment.shape != parameter.shape
            or is_sharded(moment) != is_sharded(parameter)
        ):
            continue
        moment = local(moment)
        if type(moment) is torch.Tensor and moment.device.type == "cpu":
            real = as_real(moment).contiguous()
            return real if code_of(real.dtype) is not None else None
    return None


def _keeps_tensors(state: Any) -> bool:
    """Does an optimizer keep more of a parameter than a count of steps?"""
    return isinstance(state, dict) and any(isinstance(one, torch.Tensor) and one.dim() for one in state.values())
