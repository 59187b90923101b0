"""A closer look at what modules give, at the steps of `Plan(units=...)`: the rows of the table `spread`.

Per module and step the first call counts in which samples differ: at its first step of time a spiking layer gives nothing yet,
and a cell knows no more than its biases. What a module's seat is weighed with is untouched by it.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from weighbridge.capture import attention, bends
from weighbridge.capture.closely import Closely
from weighbridge.capture.outputhook import OutputHook
from weighbridge.capture.seats import is_readable
from weighbridge.capture.spread import Spread, spread_of

MOST: Final = 256  # modules of a run; a look costs about as much as 50 calls of a hook
MOST_CALLS: Final = 16_384  # whose outputs are remembered
BATCH: Final = -1  # in place of a tensor's id: what came into the model
SAME: Final = 1e-12  # of the sum of squares: rounding of float32
_NOTHING: Final = Spread(0, 0, 0, math.nan, math.nan, math.nan, 0, math.nan, math.nan)


def _axis(hook: OutputHook, tensor: torch.Tensor) -> int:
    return hook.axis if hook.axis is not None else 1 if tensor.dim() in (4, 5) else -1


class Looks:
    """What was seen in this step and is not yet written."""

    def __init__(self, closely: Closely | None = None) -> None:
        self.closely = closely
        self.seen: dict[OutputHook, tuple[Spread, float]] = {}
        self.batch: Spread | None = None
        self.is_open = False  # has anything been looked at since rows were written?
        self.bends: dict[OutputHook, bends.Bend] = {}
        self.made: bends.Names = {}  # of this step
        self._parts: dict[OutputHook, tuple[str, int]] = {}  # of attention, and its heads
        self._queries: dict[int, np.ndarray] = {}  # by id of the module around, until its keys come

    def look(self, hook: OutputHook, module: nn.Module, args: Any, output: Any) -> None:
        """A module has given this."""
        self.is_open = True
        self._look_back(hook, args)
        tensor = output[0] if isinstance(output, tuple) and output else output
        if isinstance(tensor, torch.Tensor) and tensor.grad_fn is not None and not hook.is_bounded:
            if len(self.made) >= MOST_CALLS:  # many calls in a step, or passes that no step follows
                self.made.clear()
            self.made[tensor.grad_fn._sequence_nr()] = hook
        is_wanted = not (hook.is_bounded or hook.gives_the_same) and (hook not in self.seen or self._is_same(hook))
        if not is_wanted or not isinstance(tensor, torch.Tensor) or not is_readable(tensor):
            return
        if hook in self.seen:
            self._look_again(hook, tensor)
            return
        if hook not in self._parts:
            if len(self._parts) >= MOST:
                return
            around = hook.around[0]() if hook.around else None
            self._parts[hook] = attention.part_of(hook.path, module, around), attention.heads_of(around)
        axis = _axis(hook, tensor)
        if isinstance(module, nn.RNN | nn.RNNCell) and module.nonlinearity == "tanh":
            self.bends.setdefault(hook, bends.of_tanh(tensor, self.closely))  # what it gives has gone through one
        self.seen[hook] = spread_of(tensor, axis, self.closely) or _NOTHING, self._logit(hook, module, args, tensor)

    def _is_same(self, hook: OutputHook) -> bool:
        """Was what it gave before the same for all samples?"""
        spread, _ = self.seen[hook]
        return spread.samples > 1 and spread.sample_sq <= SAME * spread.sum_sq

    def _look_again(self, hook: OutputHook, tensor: torch.Tensor) -> None:
        """A module is called again that had given the same for all samples."""
        spread = spread_of(tensor, _axis(hook, tensor), self.closely)
        if spread is not None and spread.sample_sq > SAME * spread.sum_sq:
            self.seen[hook] = spread, self.seen[hook][1]

    def _look_back(self, hook: OutputHook, args: Any) -> None:
        """What this module is given may be the output of an earlier one of the same optimizer, bent."""
        given = args[0] if args else None
        if not isinstance(given, torch.Tensor) or not is_readable(given):
            return
        found = bends.bend_of(given, self.made, self.closely)
        if found is not None:
            maker, bend = found
            if maker.group is hook.group:
                self.bends.setdefault(maker, bend)

    def _logit(self, hook: OutputHook, module: nn.Module, args: Any, output: torch.Tensor) -> float:
        part, heads = self._parts[hook]
        around = id(hook.around[0]()) if hook.around else 0
        if not part or output.dim() < 2:
            return math.nan
        if isinstance(module, nn.MultiheadAttention):
            return attention.of_whole(module, args)
        if part == attention.FUSED:
            return attention.of_fused(output, heads)
        if part == attention.QUERY:
            self._queries[around] = attention.positions_of(output)
            return math.nan
        queries = self._queries.pop(around, None)
        return math.nan if queries is None else attention.largest_logit(queries, attention.positions_of(output), heads)

    def meet_batch(self, tensor: torch.Tensor) -> None:
        """The batch, each sample as one vector."""
        if self.batch is None and tensor.dim() >= 2 and tensor.is_floating_point() and is_readable(tensor):
            self.batch = spread_of(tensor if tensor.dim() == 2 else tensor.flatten(1), -1, self.closely)

    def rows(self, hooks: list[OutputHook], step: int, attempt: int) -> list[tuple[Any, ...]]:
        """Rows of the table `spread` of these modules; what was seen of them is over."""
        found: list[tuple[Any, ...]] = []
        if self.batch is not None:
            found.append((step, attempt, BATCH, *self.batch, math.nan, *bends.NONE))
        self.batch = None
        for hook in hooks:
            spread, logit = self.seen.pop(hook, (_NOTHING, math.nan))
            bend = self.bends.pop(hook, bends.NONE)
            seat = next(iter(hook.seats.values()), None)
            if seat is not None and (spread is not _NOTHING or bend is not bends.NONE or not math.isnan(logit)):
                found.append((step, attempt, seat.tensor, *spread, logit, *bend))
        self._queries.clear()
        self.made.clear()
        self.is_open = False
        return found

    def forget(self, hook: OutputHook) -> None:
        """A module is gone."""
        self.seen.pop(hook, None)
        self.bends.pop(hook, None)
        self._parts.pop(hook, None)
