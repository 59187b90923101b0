"""One forward and one backward pass on a copy of the model, and all that they show as plain records."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any, Final

import torch

from weighbridge.capture.firstfacts import asked
from weighbridge.capture.firstgraph import described, written
from weighbridge.capture.graphwalk import walk
from weighbridge.capture.hooks import unheard
from weighbridge.diagnosis.graphrule import module_of
from weighbridge.diagnosis.states import tensors_kept
from weighbridge.errors import BadInput
from weighbridge.firstpass import FirstPass, Parameter, Scale, Start
from weighbridge.preflight.calling import loss_of
from weighbridge.preflight.copying import copied, detached, same_random_state, unwrapped
from weighbridge.preflight.observed import Observed, rms
from weighbridge.preflight.records import Trial
from weighbridge.preflight.table import shares_by_module, table, with_updates
from weighbridge.preflight.units import EQUAL
from weighbridge.preflight.updates import next_updates

EVAL_REMARK: Final = "The model was in evaluation mode; its copy was tried in training mode, as it will be trained."


def try_out(model: torch.nn.Module, batch: Any, loss_fn: Any, optimizer: Any = None) -> Trial:
    """One forward and backward pass on a copy. The user's model, batch, gradients, buffers, modes and random state stay as they
    are, bit for bit. Waits for the device. Raises BadInput where model, batch and loss do not fit together."""
    original = unwrapped(model)
    optimizers = _optimizers(optimizer)
    twin, observed = copied(original), Observed()
    try:
        observed.watch(twin)
        with unheard(), same_random_state(), torch.inference_mode(False), torch.enable_grad():
            loss_fn = copy.deepcopy(loss_fn) if isinstance(loss_fn, torch.nn.Module) else loss_fn
            loss = loss_of(twin, detached(batch), loss_fn)
            return _shown(original, twin, observed, loss, optimizers)
    finally:
        observed.remove()


def _shown(
    original: torch.nn.Module, twin: torch.nn.Module, observed: Observed, loss: torch.Tensor, optimizers: list[Any]
) -> Trial:
    names = {id(p): name for name, p in twin.named_parameters()}
    graph, nodes = walk([loss], names, observed.module_at)
    kinds = {name: type(module).__name__ for name, module in twin.named_modules()}
    shares = shares_by_module(graph, nodes)
    facts = [fact.make([float(number) for number in fact.numbers]) for fact in asked(graph, nodes)]
    leaves = [p for p in twin.parameters() if p.requires_grad]
    if not any(id(p) in names and names[id(p)] in graph.leaves for p in leaves):
        raise BadInput("The loss depends on no parameter of the model that is given; does loss_fn call another model?")
    torch.autograd.backward(loss, inputs=leaves)  # inputs: a loss that holds the user's own model leaves no gradient there
    gradients = [_dense(p.grad) for p in twin.parameters() if p.grad is not None]
    largest = max((float(gradient.abs().max()) for gradient in gradients if gradient.numel()), default=0.0)
    first = FirstPass(
        graph=graph,
        parameters=tuple(_parameters(original, twin, observed, optimizers, largest)),
        kinds=kinds,
        written=written(twin),
        starts=tuple(fact for fact in facts if isinstance(fact, Start)),
        scales=tuple(fact for fact in facts if isinstance(fact, Scale)),
        state_tensors=_state_tensors(optimizers),
        has_gradients=True,
        has_optimizer=bool(optimizers),
    )
    remarks = () if original.training else (EVAL_REMARK,)
    layers = table(twin, observed, shares, largest)
    if optimizers:  # the last thing that is done with the copy: it steps
        layers = tuple(with_updates(twin, layers, lambda: next_updates(twin, dict(original.named_parameters()), optimizers)))
    return Trial(first, layers=layers, loss=float(loss.detach()), remarks=remarks)


def _parameters(
    original: torch.nn.Module, twin: torch.nn.Module, observed: Observed, optimizers: list[Any], largest: float
) -> Iterator[Parameter]:
    held = {id(p) for one in optimizers for group in one.param_groups for p in group["params"]}
    users = dict(original.named_parameters())
    modules = dict(twin.named_modules())
    called = {call.module for call in observed.calls}
    for name, parameter in twin.named_parameters():
        gradient = parameter.grad
        yield dataclasses.replace(
            described(name, module_of(name), parameter, modules, called),
            is_optimized=id(users[name]) in held if optimizers else None,
            gradient_rms=None if gradient is None else rms(_dense(gradient)),
            has_equal_rows=has_equal_rows(parameter.detach(), gradient, largest),
        )


def has_equal_rows(weight: torch.Tensor, gradient: torch.Tensor | None, largest: float) -> bool:
    """Whether all rows of a matrix are the same, not all zero, and those of its gradient too, but for rounding.

    `largest`: of all gradients of the model. A gradient that is zero but for rounding (softmax behind equal weights) is equal.
    """
    if gradient is None or gradient.is_sparse or weight.ndim < 2 or weight.shape[0] < 2:
        return False
    rows, slopes = weight.flatten(1), gradient.detach().flatten(1).double()
    if not bool((rows == rows[0]).all()) or not bool(rows.any()):
        return False
    return bool((slopes - slopes[0]).abs().max() <= EQUAL * largest)


def _dense(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _optimizers(given: Any) -> list[Any]:
    found = [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]
    for one in found:
        if not hasattr(one, "param_groups"):
            raise BadInput(f"The optimizer is a {type(one).__name__}; expected one of torch.optim, or a list of them.")
    return found


def _state_tensors(optimizers: list[Any]) -> int | None:
    if len(optimizers) != 1:
        return None
    (one,) = optimizers
    return tensors_kept(type(one).__name__, one.defaults, one.defaults.get("momentum"))
