"""The model without the biases that cannot change its outputs."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch

from weighbridge.capture.graphwalk import saved, walk
from weighbridge.diagnosis.flow import BATCH_NORMS
from weighbridge.diagnosis.redundant import Redundant, redundant_biases
from weighbridge.errors import BadInput, WeighbridgeError
from weighbridge.firstpass import Parameter
from weighbridge.format import counted, number
from weighbridge.lossgraph import Graph
from weighbridge.preflight.calling import inputs_of, outputs_of
from weighbridge.preflight.copying import copied, detached, duplicate, same_random_state, tensors_in, unwrapped
from weighbridge.preflight.observed import Observed

HOLDERS: Final = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)  # their forward passes know what bias=None is
SEED: Final = 0
ROWS, LENGTH, PIXELS = 8, 16, 32  # of a batch that is made up


def without_redundant_biases(model: torch.nn.Module, batch: Any = None) -> torch.nn.Module:
    """A copy of the model without the biases that a norm in training, or a softmax, takes out again; prints what was left out.

    Running means of norms are moved by what the bias added, so that evaluation stays the same, too. The outputs of both models
    on `batch` (as for `inspect`; made up where there is none and the first layer says what it takes) are compared in training
    and in evaluation mode. Raises WeighbridgeError where they differ by more than rounding: sqrt(eps) of the largest output.

    >>> import torch
    >>> slim = without_redundant_biases(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8)))
    Left out: 0.bias, 8 parameters. Outputs are the same within rounding, in training and in evaluation mode.
    >>> slim[0].bias is None
    True
    """
    original = unwrapped(model)
    slim = duplicate(original)
    inputs = _made_up(original) if batch is None else inputs_of(batch)
    with same_random_state(SEED):
        found, norms = _redundant(original, inputs)
        if found:
            _leave_out(slim, [one.parameter.name for one in found])
            _move_running_means(original, slim, inputs, norms)
            _compare(original, slim, inputs)
    print(_said(found))
    return slim


def _said(found: Sequence[Redundant]) -> str:
    if not found:
        return "Left out: nothing; no redundant bias was found."
    names = ", ".join(one.parameter.name for one in found)
    count = counted(sum(one.parameter.count for one in found), "parameter")
    return f"Left out: {names}, {count}. Outputs are the same within rounding, in training and in evaluation mode."


def _redundant(model: torch.nn.Module, inputs: Any) -> tuple[list[Redundant], list[str]]:
    """The biases that can be left out, and the norms whose running means hold what they add."""
    twin, observed = copied(model), Observed()
    observed.watch(twin)
    with torch.enable_grad():
        outputs = list(tensors_in(outputs_of(twin, detached(inputs))))
        graph, nodes = walk(outputs, {id(p): name for name, p in twin.named_parameters()}, observed.module_at)
    observed.remove()
    modules = dict(twin.named_modules())
    norms = {i: graph.nodes[i].module for i in _running(graph, nodes)}
    found = []
    for one in redundant_biases(graph, _biases(twin)):
        if all(hasattr(modules[norms[i]], "running_mean") for i in one.by.nodes if i in norms):
            found.append(one)
    return found, sorted({norms[i] for one in found for i in one.by.nodes if i in norms})


def _running(graph: Graph, nodes: tuple[Any, ...]) -> Iterator[int]:
    """Norms with running statistics. Those of an instance norm are repeated for each sample, and kept by the module, too."""
    for index, node in enumerate(graph.nodes):
        if node.op in BATCH_NORMS and saved(nodes[index], "running_mean") is not None:
            yield index


def _biases(model: torch.nn.Module) -> Iterator[Parameter]:
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        owner, _, attribute = name.rpartition(".")
        if attribute == "bias" and isinstance(modules[owner], HOLDERS):
            size = parameter.numel() * parameter.element_size()
            kind = type(modules[owner]).__name__
            yield Parameter(name, owner, kind, tuple(parameter.shape), size, parameter.requires_grad, True, False)


def _leave_out(model: torch.nn.Module, names: Sequence[str]) -> None:
    modules = dict(model.named_modules())
    gone = {id(modules[name.rpartition(".")[0]].bias) for name in names}
    for module in modules.values():  # by identity: a bias may be shared
        if isinstance(module, HOLDERS) and id(module.bias) in gone and module.bias is not None:
            module.bias = None


def _move_running_means(model: torch.nn.Module, slim: torch.nn.Module, inputs: Any, norms: Sequence[str]) -> None:
    """In evaluation mode, from the first norm to the last: its running mean moves as far as the mean of its input has moved."""
    means: dict[str, torch.Tensor] = {}
    one = copied(model).eval()
    _with_hooks(one, norms, lambda name, _norm, given: means.setdefault(name, _mean(given)), inputs)
    two = copy.deepcopy(slim).eval()

    def move(name: str, norm: torch.nn.Module, given: torch.Tensor) -> None:
        if name in means:
            running: Any = norm.running_mean
            running += _mean(given) - means.pop(name)

    _with_hooks(two, norms, move, inputs)
    moved = dict(two.named_modules())
    for name, module in slim.named_modules():
        if name in norms:
            mean: Any = module.running_mean
            mean.copy_(moved[name].running_mean)


def _with_hooks(model: torch.nn.Module, names: Sequence[str], look: Any, inputs: Any) -> None:
    modules = dict(model.named_modules())
    for name in names:
        modules[name].register_forward_pre_hook(lambda norm, args, name=name: (look(name, norm, args[0]), None)[1])
    with torch.no_grad():
        outputs_of(model, detached(inputs))


def _mean(given: torch.Tensor) -> torch.Tensor:
    axes = [axis for axis in range(given.ndim) if axis != 1]
    return given.double().mean(axes)


def _compare(model: torch.nn.Module, slim: torch.nn.Module, inputs: Any) -> None:
    for is_training in (True, False):
        one, two = (_outputs(each, inputs, is_training) for each in (model, slim))
        for a, b in zip(one, two, strict=True):
            far, limit = float((a - b).abs().max()), torch.finfo(a.dtype).eps ** 0.5 * float(a.abs().max())
            if not far <= limit and bool(a.isfinite().all()):
                mode = "training" if is_training else "evaluation"
                raise WeighbridgeError(
                    f"Without the biases an output differs by {number(far)} in {mode} mode; rounding would be {number(limit)}. "
                    "The model was not changed. A norm that sees only one number per channel, or is called on several inputs, "
                    "does this; leave single biases out by hand where inspect() proves them redundant."
                )


def _outputs(model: torch.nn.Module, inputs: Any, is_training: bool) -> list[torch.Tensor]:
    with same_random_state(SEED), torch.no_grad():
        made = outputs_of(copy.deepcopy(model).train(is_training), detached(inputs))
    return [tensor for tensor in tensors_in(made) if tensor.is_floating_point() and tensor.numel()]


def _made_up(model: torch.nn.Module) -> torch.Tensor:
    """A batch for the first layer that says what it takes. Raises BadInput where none does."""
    own = torch.Generator().manual_seed(SEED)
    first = next((m for m in model.modules() if isinstance(m, (*HOLDERS, torch.nn.Embedding))), None)
    weight = next(model.parameters(), torch.empty(0))
    if isinstance(first, torch.nn.Embedding):
        made = torch.randint(first.num_embeddings, (ROWS, LENGTH), generator=own)
    elif isinstance(first, torch.nn.Linear):
        made = torch.randn(ROWS, first.in_features, generator=own)
    elif first is not None:
        made = torch.randn(ROWS, first.in_channels, *(PIXELS for _ in first.kernel_size), generator=own)
    else:
        raise BadInput("No layer of the model says what it takes; give a batch: without_redundant_biases(model, batch).")
    made = made.to(weight.device)
    try:
        with same_random_state(SEED), torch.no_grad():
            copied(model)(detached(made))
    except Exception as error:
        raise BadInput(
            f"The model does not take the batch that was made up for it, {tuple(made.shape)} ({type(error).__name__}: "
            f"{error}). Give one: without_redundant_biases(model, batch)."
        ) from error
    return made
