"""What other tools want to be given in the loop: the optimizer before it, and a call after each step with its loss.

An adapter must leave the clinic's programs as they are, so it finds both as a user of the tool would have written them.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer | None:
    """The optimizer that holds most of the model's parameters; any other where none holds one; None where there is none."""
    own = {id(p) for p in model.parameters()}
    known = [o for o in gc.get_objects() if issubclass(type(o), torch.optim.Optimizer)]  # asks no object anything
    held = lambda o: sum(id(p) in own for group in o.param_groups for p in group["params"])
    return max(known, key=held, default=None)


@contextmanager
def steps(optimizer: torch.optim.Optimizer | None, told: Callable[[float], Any]) -> Iterator[None]:
    """Calls `told(loss)` after each step of `optimizer`; after each backward pass while nothing has ever stepped."""
    losses: list[float] = []
    stepped: list[bool] = []
    plain = torch.autograd.backward

    def backward(tensors: Any, *rest: Any, **named: Any) -> None:
        if losses and not stepped:
            told(losses[-1])
        plain(tensors, *rest, **named)
        first = tensors if isinstance(tensors, torch.Tensor) else tensors[0]
        losses.append(first.detach().float().mean().item())

    def after(which: torch.optim.Optimizer, *_: Any) -> None:
        if losses and which is optimizer:
            stepped.append(True)
            told(losses[-1])

    hook = register_optimizer_step_post_hook(after)
    torch.autograd.backward = backward
    try:
        yield
    finally:
        torch.autograd.backward = plain
        hook.remove()
