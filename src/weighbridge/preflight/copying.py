"""A copy of the user's model and batch to try things on, and nothing of the process changed by it."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from weighbridge.errors import BadInput

WRAPPERS = ("_orig_mod", "module")  # torch.compile's; DistributedDataParallel's and DataParallel's


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The module inside torch.compile and DistributedDataParallel; what these run is opaque to autograd's graph."""
    if not isinstance(model, torch.nn.Module):
        raise BadInput(f"The model is a {type(model).__name__}; expected a torch.nn.Module.")
    wrapping = (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)
    while hasattr(model, "_orig_mod") or isinstance(model, wrapping):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module  # type: ignore[assignment]
    return model


def copied(model: torch.nn.Module) -> torch.nn.Module:
    """A deep copy, in training mode where the whole model was in evaluation mode, without gradients. Memory: once the model."""
    twin = duplicate(model)
    if not model.training:
        twin.train()
    twin.zero_grad(set_to_none=True)
    return twin


def duplicate(model: torch.nn.Module) -> torch.nn.Module:
    """A deep copy. Raises BadInput where the model cannot be copied."""
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise BadInput(
            f"The model cannot be copied ({type(error).__name__}: {error}), and weighbridge tries nothing on the model itself. "
            "Remove what cannot be copied from its attributes: tensors with a history, locks, open files."
        ) from error


def detached(value: Any) -> Any:
    """The batch with every tensor cloned, so that a model that works in place does not change the user's."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, Mapping):
        same = {key: detached(one) for key, one in value.items()}
        return same if type(value) is dict else _rebuilt(value, same)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(detached(one) for one in value))
    if isinstance(value, (list, tuple)):
        return type(value)(detached(one) for one in value)
    return value


def _rebuilt(value: Any, same: dict[Any, Any]) -> Any:
    try:
        return type(value)(same)
    except TypeError:
        return same


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors inside lists, tuples, dictionaries and model outputs, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors_in(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from tensors_in(one)


@contextmanager
def same_random_state(seed: int | None = None) -> Iterator[None]:
    """Whatever is drawn inside (torch on all devices, Python, NumPy) is not drawn for the caller.

    With a `seed` all of them begin with it.
    """
    numpy = sys.modules.get("numpy")
    python_state, numpy_state = random.getstate(), numpy.random.get_state() if numpy else None
    is_on_cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = list(range(torch.cuda.device_count())) if is_on_cuda else []
    try:
        with torch.random.fork_rng(devices=devices):
            if seed is not None:
                torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach a GPU that nobody has used yet
                if devices:
                    torch.cuda.manual_seed_all(seed)
                random.seed(seed)
                if numpy:
                    numpy.random.seed(seed)
            yield
    finally:
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)
