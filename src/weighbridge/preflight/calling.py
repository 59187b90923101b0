"""How a batch reaches the model and the loss."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from weighbridge.errors import BadInput

FORMS = (
    "Expected one of: a pair (inputs, targets) with loss_fn(outputs, targets); a dictionary of the model's keyword arguments "
    "with loss_fn(outputs, batch), or None where the outputs have a loss; loss_fn(model, batch), its first argument "
    "named model."
)


def outputs_of(model: torch.nn.Module, inputs: Any) -> Any:
    """The model called with a dictionary as keywords, a tuple or list as arguments, anything else as it is."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def inputs_of(batch: Any) -> Any:
    """The model's inputs in a batch: the first of a pair, else all of it."""
    return batch[0] if isinstance(batch, (tuple, list)) and len(batch) == 2 else batch


def targets_of(batch: Any) -> Any:
    """What a loss gets beside the outputs: the second of a pair, else the whole batch."""
    return batch[1] if isinstance(batch, (tuple, list)) and len(batch) == 2 else batch


def loss_of(model: torch.nn.Module, batch: Any, loss_fn: Any) -> torch.Tensor:
    """One forward pass. Raises BadInput where batch and loss do not fit, or the loss is no single number with a history."""
    loss = value_of(model, batch, loss_fn)
    if loss.grad_fn is None:
        raise BadInput(
            "The loss depends on no parameter: nothing of the model would learn. Look for detach(), no_grad(), argmax or "
            ".item() between the model and the loss, and for requires_grad=False."
        )
    return loss


def value_of(model: torch.nn.Module, batch: Any, loss_fn: Any) -> torch.Tensor:
    """As `loss_of`, where no gradient is wanted."""
    loss = _called(model, batch, loss_fn)
    if isinstance(loss, Mapping) or hasattr(loss, "loss"):
        loss = loss["loss"] if isinstance(loss, Mapping) else loss.loss
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else f"a {type(loss).__name__}"
        raise BadInput(f"The loss is {found}; expected a tensor of one number. {FORMS}")
    return loss


def _called(model: torch.nn.Module, batch: Any, loss_fn: Any) -> Any:
    if loss_fn is not None and takes_model(loss_fn):
        return loss_fn(model, batch)
    outputs = outputs_of(model, inputs_of(batch))
    if loss_fn is None:
        return outputs
    return loss_fn(outputs, targets_of(batch)) if has_targets(batch) else loss_fn(outputs)


def has_targets(batch: Any) -> bool:
    """Whether a loss gets something beside the outputs."""
    return isinstance(batch, Mapping) or (isinstance(batch, (tuple, list)) and len(batch) == 2)


def takes_model(loss_fn: Any) -> bool:
    """Whether it is a loss_fn(model, batch)."""
    try:
        return next(iter(inspect.signature(loss_fn).parameters), "") == "model"
    except (TypeError, ValueError):
        return False
