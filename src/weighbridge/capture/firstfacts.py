"""Numbers of the first pass: the loss beside the trivial predictor's, the targets, and the scale of what comes in.

Each fact is asked for as a few 0-dim tensors on the device of the training, and made when these have arrived on the host, so
that nothing here waits for a device. Of large tensors evenly chosen numbers are looked at, at most MOST of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch

from weighbridge.capture.graphwalk import leaf, picked, result_of, saved
from weighbridge.firstpass import Scale, Start
from weighbridge.lossgraph import AFFINE, PARTS, Edge, Graph, bounds_of

MOST: Final = 2**20
MOST_SCALES: Final = 4  # layers that take the batch's numbers as they are
SQUARED: Final = ("MseLoss", "SmoothL1Loss", "HuberLoss")
RECURRENT: Final = ("MkldnnRnnLayer", "CudnnRnn")
SAVED_INPUT: Final = {"Addmm": "mat1", "Mm": "self", **dict.fromkeys(("Convolution", "Linear", *RECURRENT), "input")}
TAKES: Final = {**AFFINE, **dict.fromkeys(RECURRENT, (0, 1))}  # which input is what comes in, which its first weight


@dataclass(frozen=True, slots=True)
class Asked:
    """Numbers that a device may have yet to give (0-dim, float64), and what is made of them; None where they show nothing."""

    numbers: tuple[torch.Tensor, ...]
    make: Callable[[list[float]], Start | Scale | None]


def asked(graph: Graph, nodes: tuple[Any, ...]) -> list[Asked]:
    """Everything that rules want to know of a pass. Call it before the backward pass, which frees what is saved."""
    return [*_starts(graph, nodes), *_scales(graph, nodes)]


def _starts(graph: Graph, nodes: tuple[Any, ...]) -> Iterator[Asked]:
    for index, node in enumerate(graph.nodes):
        if node.op in ("NllLoss", "NllLoss2D"):
            before = graph.behind(index)
            if before is not None and graph.nodes[before].op == "LogSoftmax":
                logs, targets = saved(nodes[index], "self"), saved(nodes[index], "target")
                yield from _cross_entropy(graph, nodes, index, before, logs, targets)
        elif node.op in ("Index", "Gather") and (classes := picked(nodes[index])) is not None:
            before, logs = _logs(graph, nodes, index)
            yield from _cross_entropy(graph, nodes, index, before, logs, classes)
        elif node.op == "BinaryCrossEntropyWithLogits":
            yield from _binary(graph, nodes, index)
        elif node.op in SQUARED or _is_of_difference(graph, index):
            yield from _squared_error(graph, nodes, index)


# --- classes -----------------------------------------------------------------------------------------------------------


def _logs(graph: Graph, nodes: tuple[Any, ...], index: int) -> tuple[int, torch.Tensor | None]:
    """Of what the targets' classes are picked from, the log-probabilities, and the node that takes the logits: log_softmax, or
    the picking itself where logsumexp is taken off by hand."""
    before = graph.behind(index)
    if before is None:
        return index, None
    if graph.nodes[before].op == "LogSoftmax":
        return before, saved(nodes[before], "result")
    totals = [user for user, _ in graph.users[before] if graph.nodes[user].op == "Logsumexp"]
    logits = saved(nodes[totals[0]], "self") if totals else None
    return index, None if logits is None or logits.dim() != 2 else _wide(logits).log_softmax(1)


def _cross_entropy(
    graph: Graph,
    nodes: tuple[Any, ...],
    index: int,
    before: int,
    logs: torch.Tensor | None,
    targets: torch.Tensor | None,
) -> Iterator[Asked]:
    if logs is None or targets is None or logs.ndim not in (2, 4):
        return
    logs, targets = _thinned(logs, targets, 1)
    rows = _wide(logs.movedim(1, -1).reshape(-1, logs.shape[1]))
    wanted = targets.reshape(-1)
    is_meant = wanted != graph.nodes[index].facts.get("ignore_index", -100)
    losses = -rows.gather(1, (wanted * is_meant)[:, None])[:, 0]
    spread = (rows - rows.mean(1, keepdim=True)).square().mean(1)
    zero = losses.new_zeros(())
    numbers = [is_meant.sum(), *(torch.where(is_meant, x, zero).sum() for x in (losses, losses.square(), spread))]
    place, trivial = graph.maker(before), math.log(logs.shape[1])

    def make(found: list[float]) -> Start | None:
        n, total, squares, spreads, power = found
        if n < 2:
            return None
        std, error, rms = math.sqrt(spreads / n), _error(n, total, squares), math.sqrt(power)
        return Start("cross-entropy", index, place, total / n, trivial, error, int(n), std, rms)

    yield Asked((*numbers, _input_power(graph, nodes, before, losses)), make)


def _binary(graph: Graph, nodes: tuple[Any, ...], index: int) -> Iterator[Asked]:
    logits, targets = saved(nodes[index], "self"), saved(nodes[index], "target")
    if logits is None or targets is None or logits.shape != targets.shape:
        return
    logits, targets = (_wide(x).flatten() for x in _thinned(logits, targets))
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    numbers = [x for values in (losses, logits, targets) for x in (values.sum(), values.square().sum())]
    place, n = graph.maker(index), logits.numel()

    def make(found: list[float]) -> Start | None:
        if n < 2:
            return None
        loss, losses, total, squares, wanted, wanted_sq, power = found
        std, rms = _std(n, total, squares), math.sqrt(power)
        targets: dict[str, Any] = {"target_mean": wanted / n, "target_std": _std(n, wanted, wanted_sq)}
        error = _error(n, loss, losses)
        return Start("binary cross-entropy", index, place, loss / n, math.log(2), error, n, std, rms, **targets)

    yield Asked((*numbers, _input_power(graph, nodes, index, losses)), make)


# --- numbers -----------------------------------------------------------------------------------------------------------


def _is_of_difference(graph: Graph, index: int) -> bool:
    """Is it the square or the absolute value of a prediction less a target?"""
    node = graph.nodes[index]
    if not (node.op == "Abs" or (node.op == "Pow" and node.facts.get("exponent") == 2)):
        return False
    before = graph.behind(index)
    return before is not None and graph.nodes[before].op == "Sub" and graph.nodes[before].inputs.count(None) == 1


def _squared_error(graph: Graph, nodes: tuple[Any, ...], index: int) -> Iterator[Asked]:
    found = _given_and_wanted(graph, nodes, index)
    if found is None:
        return
    place, maker, difference, given = found
    low, high = bounds_of(graph.nodes[maker]) if maker is not None else (-math.inf, math.inf)
    e = _wide(difference)
    t = -e if given is None else _wide(given) - e
    numbers = [e.square().sum(), e.square().square().sum(), _input_power(graph, nodes, index, e), _offset(t)]
    if given is not None:
        p = _wide(given)
        far = (t - t.clamp(low, high)).square().sum()
        numbers += [p.sum(), p.square().sum(), t.sum(), t.square().sum(), t.min(), t.max(), far]
    n, rows = e.numel(), len(e) if e.ndim else 1

    def make(found: list[float]) -> Start | None:
        loss, squares, power, offset, *rest = found
        if n < 2:
            return None
        facts: dict[str, Any] = {"rows": rows, "input_rms": math.sqrt(power), "offset": offset}
        if rest:
            made, made_sq, wanted, wanted_sq, least, most, floor = rest
            facts |= {"prediction_std": _std(n, made, made_sq), "target_mean": wanted / n, "floor": floor / n}
            facts |= {"target_std": _std(n, wanted, wanted_sq), "target_low": least, "target_high": most}
        trivial = facts.get("target_std", math.nan) ** 2
        return Start("squared error", index, place, loss / n, trivial, _error(n, loss, squares), n, **facts)

    if n:
        yield Asked(tuple(numbers), make)


def _offset(targets: torch.Tensor) -> torch.Tensor:
    """Sum over the columns of the squared mean, by that of the variance."""
    if targets.ndim < 2:
        columns = targets.reshape(-1, 1)
    else:
        axis = 1 if targets.ndim > 3 else -1
        columns = targets.movedim(axis, -1).flatten(0, -2)
    return columns.mean(0).square().sum() / columns.var(0, correction=0).sum()


def _given_and_wanted(graph: Graph, nodes: tuple[Any, ...], index: int) -> tuple[str, int | None, Any, Any] | None:
    """Module and node of the prediction, prediction less target, and the prediction where somebody kept it."""
    node = graph.nodes[index]
    if node.op in SQUARED:
        given, wanted = saved(nodes[index], "self"), saved(nodes[index], "target")
        if given is None or wanted is None or given.shape != wanted.shape or node.inputs[0] is None:
            return None
        given, wanted = _thinned(given, wanted)
        return graph.maker(index), graph.behind(index, 0, PARTS), _wide(given) - _wide(wanted), given
    difference, sub = saved(nodes[index], "self"), graph.behind(index)
    if difference is None or sub is None:
        return None
    side = 0 if graph.nodes[sub].inputs[0] is not None else 1
    maker = graph.behind(sub, side, PARTS)
    given = result_of(nodes[maker]) if maker is not None else None
    if given is not None and given.numel() == difference.numel():
        difference, given = _thinned(difference, given.reshape(difference.shape))
    else:
        difference, given = _thinned(difference)[0], None
    return graph.maker(sub, side), maker, difference * (1 if side == 0 else -1), given


def _input_power(graph: Graph, nodes: tuple[Any, ...], index: int, like: torch.Tensor) -> torch.Tensor:
    """Mean square of what the last affine layer before this node takes, whatever is added to it or multiplies it; NaN where it
    cannot be told, 0 where there is no such layer."""
    edge = graph.nodes[index].inputs[0]
    while edge is not None:
        node = graph.nodes[edge[0]]
        if node.op in AFFINE:
            is_layer = leaf(nodes[edge[0]], AFFINE[node.op][1]) is not None  # else: similarities of things that are computed
            given = saved(nodes[edge[0]], SAVED_INPUT[node.op]) if is_layer else None
            return _wide(_thinned(given)[0]).square().mean() if given is not None else like.new_full((), math.nan)
        several = [one for one in node.inputs if one is not None and not graph.nodes[one[0]].parameter]
        if node.op not in ON_THE_WAY or len(several) > 1:
            return like.new_full((), math.nan)
        edge = several[0] if several else None
    return like.new_zeros(())


ON_THE_WAY: Final = PARTS | {"Mul", "Div", "Add", "Sub", "Neg", "Sigmoid", "Tanh", "Relu", "Pow", "Abs"}


# --- what comes in -----------------------------------------------------------------------------------------------------


def _scales(graph: Graph, nodes: tuple[Any, ...]) -> Iterator[Asked]:
    """Of the first layers with weights, where they take the batch's numbers as they are; in order of execution."""
    takes = {i: TAKES[node.op] for i, node in enumerate(graph.nodes) if node.op in TAKES}
    found = [i for i, (given, _) in takes.items() if _is_batch(graph, graph.nodes[i].inputs[given])]
    for index in sorted(found, key=lambda i: nodes[i]._sequence_nr())[:MOST_SCALES]:
        given, weight = saved(nodes[index], SAVED_INPUT[graph.nodes[index].op]), leaf(nodes[index], takes[index][1])
        if given is not None and given.numel() and weight is not None and given.is_floating_point():
            yield _scale(graph, index, given, weight)


def _is_batch(graph: Graph, edge: Edge | None) -> bool:
    """Does it come with the batch: without a gradient, or as a leaf that is no parameter of the model?"""
    return edge is None or (graph.nodes[edge[0]].op == "Parameter" and not graph.nodes[edge[0]].parameter)


def _scale(graph: Graph, index: int, given: torch.Tensor, weight: torch.Tensor) -> Asked:
    node = graph.nodes[index]
    axis = 1 if node.op == "Convolution" else -1
    (given,) = _thinned(given, keep=axis)
    features = _wide(given.movedim(axis, -1).reshape(-1, given.shape[axis]))
    power, mean = features.square().mean(0), features.mean(0)
    variance = (power - mean.square()).clamp(min=0)
    is_constant = (features == features[0]).all(0) & (features[0] != 0)
    weights = _of_inputs(node.op, weight, len(power))
    expected = (power * weights).sum() if weights is not None else power.sum() * math.nan
    numbers = (
        power.mean(),
        power.max(),
        features.abs().max(),
        expected,
        mean.square().sum(),
        variance.sum(),
        is_constant.sum(),
    )
    place, samples, width = node.module, len(features), len(power)

    def make(found: list[float]) -> Scale:
        rms, largest_rms, expected = (math.sqrt(x) for x in (found[0], found[1], found[3]))
        return Scale(index, place, samples, rms, largest_rms, found[2], expected, found[4], found[5], int(found[6]), width)

    return Asked(numbers, make)


def _of_inputs(op: str, weight: torch.Tensor, width: int) -> torch.Tensor | None:
    """float64 [inputs]: mean over the outputs of the squared weight (of a convolution: summed over the window). Weights drawn
    around 0 make of inputs x an output of E[x^2] times this, summed over the inputs, whatever the inputs' correlations."""
    w = _wide(weight)
    if op == "Convolution":
        found = w.square().flatten(2).sum(2).mean(0)
    elif w.ndim != 2:
        return None
    else:
        found = w.square().mean(1 if op in ("Addmm", "Mm") else 0)  # [inputs, outputs] in a product, else as nn.Linear has it
    return found if len(found) == width else None


# --- sums --------------------------------------------------------------------------------------------------------------


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values.detach().to(torch.float32 if values.device.type == "mps" else torch.float64)


def _thinned(first: torch.Tensor, second: torch.Tensor | None = None, keep: int | None = None) -> tuple[torch.Tensor, ...]:
    """Every k-th along the axes but `keep`, so that the first has at most MOST numbers; the second, which has no such axis or
    the same ones, at the same places. Views."""
    kept = None if keep is None else keep % first.ndim
    tensors: tuple[torch.Tensor, ...] = (first,) if second is None else (first, second)
    shift = second is not None and second.ndim < first.ndim
    for axis in range(first.ndim):
        if axis == kept or tensors[0].numel() <= MOST:
            continue
        step = min(first.shape[axis], math.ceil(tensors[0].numel() / MOST))
        other = axis - 1 if shift and kept is not None and axis > kept else axis
        tensors = tuple(_every(x, axis if i == 0 else other, step) for i, x in enumerate(tensors))
    return tensors


def _every(values: torch.Tensor, axis: int, step: int) -> torch.Tensor:
    return values[(slice(None),) * axis + (slice(None, None, step),)]


def _error(n: float, total: float, squares: float) -> float:
    """Standard error of a mean."""
    return _std(n, total, squares) / math.sqrt(n - 1)


def _std(n: float, total: float, squares: float) -> float:
    return math.sqrt(max(squares / n - (total / n) ** 2, 0.0))
