"""The output's activation cannot give what the loss asks for.

Symptom        The loss comes to rest far above 0 while the network could do better; outputs stick to an end of their range.
How it decides On the graph of the first loss and its targets. Squared error and the like: the mean squared distance of the
               targets from the activation's range (ReLU: 0 and above, sigmoid: 0 to 1, tanh: -1 to 1, ...), below which the
               loss cannot fall, is above SHARE of their variance. Cross-entropy, BCE with logits: the activation bounds the
               logits, so that the loss cannot fall below a floor above SHARE of the trivial one, or it cuts off one side
               (ReLU). Negative log-likelihood of what are no log-probabilities, or of a softmax over another axis than the
               classes (the batch, positions): what it gives for one sample's classes is no distribution. A softmax over one
               unit, which is always 1.
What to do     End with the layer itself (no activation), scale the targets into the range, or take the loss that goes with
               it.
When it errs   A few outliers beyond the range are below SHARE. A softmax whose targets lie between 0 and 1 is left alone.
References     Bishop 2006, "Pattern Recognition and Machine Learning", section 5.2 (an output's activation follows from the
               targets); PyTorch documentation, torch.nn.NLLLoss ("log-probabilities of each class").
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from weighbridge.diagnosis import Finding, ValueEvidence
from weighbridge.diagnosis.evidence import Evidence
from weighbridge.diagnosis.flow import ATTENTION
from weighbridge.diagnosis.graphrule import BEFORE, GraphRule, depth
from weighbridge.diagnosis.rule import Certainty, Severity
from weighbridge.diagnosis.tensors import in_code
from weighbridge.firstpass import FirstPass, Start
from weighbridge.format import number, share
from weighbridge.lossgraph import AFFINE, PARTS, Graph, Node, bounds_of

SHARE: Final = 0.01  # of the variance of the targets, or of the loss of the trivial predictor
LEAST_SAMPLES: Final = 8
UNBOUNDED: Final = (-math.inf, math.inf)
LOGITS: Final = {"LogSoftmax": "cross-entropy", "BinaryCrossEntropyWithLogits": "BCE with logits"}
SOFTMAXES: Final = ("Softmax", "SafeSoftmax")
WEIGHING: Final = frozenset({"Bmm", "Baddbmm", "Mv", "Dot", *AFFINE})
CLASSES: Final = 1  # axis, of torch.nn.NLLLoss's input of two and more
NO_LOGS: Final = ("Softmax", "Sigmoid", "Relu", "Tanh", *AFFINE)


class UnfitOutputActivation(GraphRule):
    id, title = "unfit-output-activation", "The output cannot reach the targets"
    severity, certainty, since = "warning", "proof", "0.1"
    causes = (
        "stalled-loss",
        "dead-units",
        "saturated-units",
        "collapsed-output",
        "vanishing-gradient",
        "low-learning-rate",
    )
    experiment = "Take the output's activation out and train as long: if the loss ends where it does now, it is not in the way."

    def judge(self, passes: Sequence[FirstPass]) -> Iterator[Finding]:
        for first in passes:
            for start in first.starts:
                if start.kind == "squared error":
                    yield from _out_of_range(first, start)
            for index, node in enumerate(first.graph.nodes):
                if node.op in LOGITS:
                    yield from _bounded_logits(first, index)
                elif node.op in ("NllLoss", "NllLoss2D"):
                    yield from _no_log_probabilities(first, index)
                elif node.op in SOFTMAXES and _is_of_one(node) and _is_output(first.graph, index):
                    yield _constant(first, index)


def _out_of_range(first: FirstPass, start: Start) -> Iterator[Finding]:
    graph, maker = first.graph, _maker(first, start.node)
    if maker is None or not (start.samples >= LEAST_SAMPLES and start.floor > SHARE * start.trivial):
        return
    op, (low, high) = graph.nodes[maker].op, bounds_of(graph.nodes[maker])
    message = (
        f"{op} gives numbers from {number(low)} to {number(high)}, targets go from {number(start.target_low)} to "
        f"{number(start.target_high)}: {share(start.floor / start.trivial)} of their variance cannot be reached."
    )
    evidence = (
        ValueEvidence("least possible mean squared error", start.floor, limit=SHARE * start.trivial),
        ValueEvidence("variance of the targets", start.trivial),
        ValueEvidence("targets", start.samples),
    )
    yield _finding(first, maker, "warning", "proof", message, evidence)


def _maker(first: FirstPass, loss: int) -> int | None:
    """The activation that makes a prediction: behind the loss, or behind the difference whose function it is."""
    index: int | None = loss
    while index is not None and (index == loss or bounds_of(first.graph.nodes[index]) == UNBOUNDED):
        places = [i for i, edge in enumerate(first.graph.nodes[index].inputs) if edge is not None]
        index = first.graph.behind(index, places[0], PARTS) if places else None
    return index


def _bounded_logits(first: FirstPass, index: int) -> Iterator[Finding]:
    graph = first.graph
    node, before = graph.nodes[index], graph.behind(index)
    if before is None or graph.nodes[before].op in ("Sigmoid", "Softmax", "LogSoftmax"):  # these are doubled
        return
    op, (low, high) = graph.nodes[before].op, bounds_of(graph.nodes[before])
    loss = LOGITS[node.op]
    classes = node.shape[node.facts.get("dim", -1)] if node.op == "LogSoftmax" else 2
    one_sided = math.isinf(low) != math.isinf(high)
    floor = 0.0 if one_sided or math.isinf(low) else _floor(node.op, low, high, classes)
    trivial = math.log(max(classes, 2))
    if one_sided and (node.op == "LogSoftmax" or _has_both(first, index)):
        message = f"{op} before {loss} cuts off one side of the logits: they stay within {number(low)} and {number(high)}."
        yield _finding(first, before, "warning", "heuristic", message, (ValueEvidence("least possible logit", low),))
    elif floor > SHARE * trivial:
        message = (
            f"{op} before {loss} keeps the logits within {number(low)} and {number(high)}: it cannot fall below {floor:.3f}."
        )
        yield _finding(
            first, before, "warning", "proof", message, (ValueEvidence("least possible loss (without it 0)", floor),)
        )


def _floor(op: str, low: float, high: float, classes: int) -> float:
    """The loss of a prediction that is as sure as it can be, and right."""
    if op == "LogSoftmax":
        return math.log1p((classes - 1) * math.exp(low - high))
    return math.log1p(math.exp(-min(-low, high)))


def _has_both(first: FirstPass, index: int) -> bool:
    """Are there targets on either side of a half?"""
    return any(start.node == index and start.target_std > 0 and start.target_mean < 1 - SHARE for start in first.starts)


def _no_log_probabilities(first: FirstPass, index: int) -> Iterator[Finding]:
    before = first.graph.behind(index)
    if before is None:
        return
    node = first.graph.nodes[before]
    if node.op == "LogSoftmax" and node.shape[node.facts.get("dim", -1)] == 1:
        message = "A softmax over one class is always 1: the loss is 0 whatever the network does, and so is every gradient."
        yield _finding(first, before, "error", "proof", message, (ValueEvidence("classes", 1, limit=1),))
    elif node.op == "LogSoftmax" and node.shape == _given(first.graph, index) and _is_across(node):
        message = (
            f"log_softmax is taken over axis {_axis(node)}, the negative log-likelihood takes classes from axis {CLASSES}: the "
            "probabilities of a sample's classes do not add up to 1, and the loss does not ask for the right one."
        )
        evidence = (ValueEvidence("axis of log_softmax", _axis(node), limit=CLASSES),)
        yield _finding(first, before, "error", "proof", message, evidence)
    elif node.op in NO_LOGS:
        message = f"The negative log-likelihood wants log-probabilities and gets what {node.op} gives."
        evidence = (ValueEvidence("log_softmax before the loss", 0, limit=1),)
        yield _finding(first, before, "error", "proof", message, evidence)


def _axis(node: Node) -> int:
    return int(node.facts.get("dim", -1)) % len(node.shape)


def _is_across(node: Node) -> bool:
    """Over another axis than the classes? A table of N x N similarities (CLIP) has its samples along both."""
    return len(node.shape) > 1 and node.shape[_axis(node)] != node.shape[CLASSES]


def _given(graph: Graph, index: int) -> tuple[int, ...]:
    """The shape of what a node is given first: a reshape between moves the axes."""
    edge = graph.nodes[index].inputs[0]
    return () if edge is None else tuple(graph.nodes[edge[0]].shapes[edge[1]])


def _is_of_one(node: Node) -> bool:
    return bool(node.shape) and node.shape[node.facts.get("dim", -1)] == 1


def _is_output(graph: Graph, index: int) -> bool:
    """Does it lead to the loss without weighing anything (attention over a single key does), and through no layer?"""
    behind = {index}
    for user in range(index + 1, len(graph.nodes)):
        node = graph.nodes[user]
        taken = [edge[0] in behind for edge in node.inputs if edge is not None]
        if any(taken):
            if node.op in WEIGHING or node.op.startswith(ATTENTION) or (node.op in ("Mul", "Div") and not all(taken)):
                return False
            behind.add(user)
    return any(root in behind for root in graph.roots)


def _constant(first: FirstPass, index: int) -> Finding:
    message = "A softmax over one unit is always 1: the output is the same for every input, and every gradient before it is 0."
    return _finding(first, index, "error", "proof", message, (ValueEvidence("units", 1, limit=1),))


def _finding(
    first: FirstPass, node: int, severity: Severity, certainty: Certainty, message: str, evidence: tuple[Evidence, ...]
) -> Finding:
    place = first.graph.nodes[node].module
    is_of_one = first.graph.nodes[node].op in SOFTMAXES and _is_of_one(first.graph.nodes[node])
    fix = (
        f"Leave the activation in {in_code(place)} out, or scale the targets into its range."
        if severity == "warning"
        else "torch.sigmoid in its place, or no activation and F.binary_cross_entropy_with_logits."
        if is_of_one and first.graph.nodes[node].op != "LogSoftmax"
        else "F.cross_entropy takes the logits of two or more classes; F.nll_loss what F.log_softmax gives."
    )
    return Finding(
        place, BEFORE, BEFORE, message, evidence, fix, severity=severity, certainty=certainty, depth=depth(first, node)
    )
