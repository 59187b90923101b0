"""The loss of held-out batches, sample by sample where the loss allows it.

A difference between two models is told from chance by its spread over samples that do not depend on each other, so single
samples are wanted. They are had from the loss itself with reduction="none", or by giving it one sample's outputs and
targets at a time; either counts only where its mean, or its sum, is the loss as it was given. Else each batch is one number.
"""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import torch

from weighbridge.errors import BadInput
from weighbridge.preflight.calling import has_targets, inputs_of, outputs_of, takes_model, targets_of, value_of
from weighbridge.preflight.copying import detached, same_random_state, tensors_in

SEED: Final = 0  # the same masks and draws in each pass, so that they cancel in the difference
MOST_ROWS: Final = 4096  # samples of a batch that are given to a loss one by one
CLOSE: Final = 1e-4  # of float32 sums in another order; of a coarser dtype its own precision
Way = Literal["reduction", "rows", "batches"]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Batches, the loss, and how single samples are had."""

    batches: tuple[Any, ...]
    loss_fn: Any
    way: Way
    sizes: tuple[int, ...]  # samples of each batch; empty where they are not known

    @property
    def unit(self) -> str:
        return "batch" if self.way == "batches" else "sample"

    @property
    def count(self) -> int:
        return len(self.batches) if self.way == "batches" else sum(self.sizes)

    def half(self, batch: int) -> torch.Tensor:
        """Which half (0 or 1) each unit of a batch belongs to: every other sample, or every other batch. int64 [units]."""
        if self.way == "batches":
            return torch.tensor([batch % 2])
        return (torch.arange(self.sizes[batch]) + sum(self.sizes[:batch])) % 2

    def of(self, model: torch.nn.Module, batch: int) -> torch.Tensor:
        """The losses of one batch, [units]. Draws the same random numbers in each call."""
        with same_random_state(SEED):
            return _units(model, detached(self.batches[batch]), self.loss_fn, self.way)

    def all(self, model: torch.nn.Module) -> torch.Tensor:
        """The losses of all units in float64, [count]."""
        with torch.no_grad():
            return torch.cat([self.of(model, i).double().cpu() for i in range(len(self.batches))])


def held_out(model: torch.nn.Module, batches: Any, loss_fn: Any) -> HeldOut:
    """Take the batches (held in memory), and find out on all of them how single samples are had.

    `model`: a copy, in evaluation mode. Raises BadInput where there is no batch, or batch and loss do not fit.
    """
    with same_random_state():
        listed = tuple(as_list(batches, loss_fn))
    if not listed:
        raise BadInput("There is no batch to look at; expected at least one, such as a pair (inputs, targets).")
    loss_fn = copy.deepcopy(loss_fn) if isinstance(loss_fn, torch.nn.Module) else loss_fn
    sizes = tuple(map(_size, listed))
    if loss_fn is not None and not takes_model(loss_fn) and all(size is not None for size in sizes):
        for way in ("reduction", "rows"):
            tried = HeldOut(listed, loss_fn, way, tuple(size or 0 for size in sizes))
            if all(_is_true(tried, model, i) for i in range(len(listed))):
                return tried
    return HeldOut(listed, loss_fn, "batches", ())


def as_list(batches: Any, loss_fn: Any) -> Iterable[Any]:
    """A single batch is a list of one. Two tensors are a pair of inputs and targets, unless the loss takes a batch as it is."""
    is_pair = isinstance(batches, (tuple, list)) and len(batches) == 2 and all(isinstance(x, torch.Tensor) for x in batches)
    is_list_of_two = isinstance(batches, list) and loss_fn is not None and takes_model(loss_fn)
    if isinstance(batches, (torch.Tensor, Mapping)) or (is_pair and not is_list_of_two):
        return [batches]
    return batches if isinstance(batches, Iterable) else [batches]


def _size(batch: Any) -> int | None:
    """Samples of a batch: the first axis that inputs and targets have in common."""
    if not has_targets(batch):
        return None
    firsts = [next(tensors_in(part), None) for part in (inputs_of(batch), targets_of(batch))]
    if any(one is None or one.ndim == 0 for one in firsts):
        return None
    found = {one.shape[0] for one in firsts if one is not None}
    return found.pop() if len(found) == 1 else None


def _is_true(tried: HeldOut, model: torch.nn.Module, batch: int) -> bool:
    """Whether the samples' losses have the mean, or the sum, that the loss has."""
    with torch.no_grad(), same_random_state(SEED):
        loss = value_of(model, detached(tried.batches[batch]), tried.loss_fn)
    try:
        with torch.no_grad():
            each = tried.of(model, batch).double()
    except Exception:  # whatever the user's loss raises when it is asked so: it cannot be asked so
        return False
    near = max(CLOSE, 2 * torch.finfo(loss.dtype).eps)
    return any(math.isclose(float(loss), float(made), rel_tol=near, abs_tol=1e-12) for made in (each.mean(), each.sum()))


def _units(model: torch.nn.Module, batch: Any, loss_fn: Any, way: Way) -> torch.Tensor:
    if way == "batches":
        return value_of(model, batch, loss_fn).reshape(1)
    outputs, targets = outputs_of(model, inputs_of(batch)), targets_of(batch)
    size = _size(batch)
    assert size is not None
    if way == "reduction":
        made: torch.Tensor = _unreduced(loss_fn)(outputs, targets)
        return made.reshape(size, -1).mean(1)
    if size > MOST_ROWS:
        raise BadInput(f"{size} samples in a batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one sample that broadcasts against another shape, once per sample
        each = [loss_fn(_row(outputs, i, size), _row(targets, i, size)) for i in range(size)]
    return torch.stack([one.reshape(()) for one in each])


def _unreduced(loss_fn: Any) -> Callable[..., Any]:
    if isinstance(loss_fn, torch.nn.Module):
        single: Any = copy.copy(loss_fn)
        if getattr(single, "reduction", None) not in ("mean", "sum"):
            raise BadInput("no reduction")
        single.reduction = "none"
        return partial(single)
    if "reduction" not in inspect.signature(loss_fn).parameters:
        raise BadInput("no reduction")
    return partial(loss_fn, reduction="none")


def _row(value: Any, index: int, size: int) -> Any:
    """One sample of outputs or targets, its axis kept."""
    if isinstance(value, torch.Tensor):
        return value[index : index + 1] if value.ndim and value.shape[0] == size else value
    if isinstance(value, Mapping):
        return {key: _row(one, index, size) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return type(value)(_row(one, index, size) for one in value)  # type: ignore[call-arg]
    return value
