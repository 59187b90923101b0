"""Making a model and its optimizer anew, for one more training."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Final

import torch

from weighbridge.errors import BadInput
from weighbridge.preflight.copying import duplicate, unwrapped

RESETS: Final = ("reset_parameters", "_reset_parameters")  # of torch's modules; the second of attention and transformers
MakeModel = Callable[[], torch.nn.Module]
MakeOptimizer = Callable[[Iterable[Any]], Any]


def model_maker(given: Any) -> MakeModel:
    """A function that makes the model: as given, or one that copies a model and initialises the copy as torch's modules do.

    Raises BadInput where a parameter of the model belongs to no module that can be initialised anew.
    """
    if not isinstance(given, torch.nn.Module):
        if callable(given):
            return given  # type: ignore[no-any-return]
        raise BadInput(f"make_model is a {type(given).__name__}; expected a function that returns a new model, or a model.")
    original = unwrapped(given)
    lost = _not_reset(original)
    if lost:
        raise BadInput(f"{lost[0]} cannot be initialised anew; give a function make_model() that makes the model.")
    return lambda: _reset(duplicate(original))


def _not_reset(model: torch.nn.Module) -> list[str]:
    known = {id(p) for module in model.modules() if _resets(module) for p in module.parameters(recurse=False)}
    return [name for name, p in model.named_parameters() if id(p) not in known]


def _resets(module: torch.nn.Module) -> list[str]:
    return [name for name in RESETS if callable(getattr(module, name, None))]


def _reset(model: torch.nn.Module) -> torch.nn.Module:
    model.zero_grad(set_to_none=True)
    for module in model.modules():
        for name in _resets(module):
            getattr(module, name)()
    return model


def optimizer_maker(given: Any) -> MakeOptimizer:
    """A function that makes the optimizer of parameters: as given, or one of the type and settings of a given optimizer."""
    if not hasattr(given, "param_groups"):
        if callable(given):
            return given  # type: ignore[no-any-return]
        raise BadInput("No optimizer to train with; expected make_optimizer(parameters), or an optimizer to make one like.")
    if len(given.param_groups) != 1:
        raise BadInput(
            f"The optimizer has {len(given.param_groups)} groups, and a new model's parameters are not in them; "
            "give a function make_optimizer(parameters)."
        )
    kind, known = type(given), inspect.signature(type(given).__init__).parameters
    settings = {key: value for key, value in given.param_groups[0].items() if key in known and key != "params"}
    return lambda parameters: kind(parameters, **settings)
