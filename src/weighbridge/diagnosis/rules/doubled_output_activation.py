"""The output goes through an activation that the loss applies again.

Symptom        The loss falls at first and then stays far above 0, with small gradients; probabilities are never sure.
How it decides Exact, on the graph of the first loss: a softmax or sigmoid feeds a cross-entropy or a BCE with logits, or
               one activation of the kind feeds another, with only reshapes and selections between; log-softmax
               by hand, z - logsumexp(z), too. Behind a softmax the
               cross-entropy of C classes cannot fall below ln(1 + (C-1)/e): 1.46 for 10. A LogSoftmax twice changes
               nothing: a note.
What to do     Take the activation out of the model and keep it for evaluation, or use the loss without it.
When it errs   It does not, for what is directly connected; a softmax over another axis than the loss's is none.
References     PyTorch documentation, torch.nn.CrossEntropyLoss and BCEWithLogitsLoss ("expected to contain the unnormalized
               logits").
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from weighbridge.diagnosis import Finding, ValueEvidence
from weighbridge.diagnosis.graphrule import BEFORE, GraphRule, depth
from weighbridge.diagnosis.lossforms import SQUASHED
from weighbridge.diagnosis.lossterms import before_log_softmax, is_softmax_by_hand
from weighbridge.diagnosis.rule import Severity
from weighbridge.diagnosis.tensors import in_code
from weighbridge.firstpass import FirstPass
from weighbridge.lossgraph import PARTS, Graph

SIGMOID_LOSS: Final = "BinaryCrossEntropyWithLogits"
SOFTMAXES: Final = ("Softmax", "LogSoftmax")
DOUBLES: Final = frozenset(
    {
        ("Softmax", "LogSoftmax"),
        ("Softmax", "Softmax"),
        ("LogSoftmax", "LogSoftmax"),
        ("Sigmoid", "LogSoftmax"),
        ("Sigmoid", SIGMOID_LOSS),
        ("Sigmoid", "LogSigmoid"),
        ("Sigmoid", "Sigmoid"),
        ("Softmax", SIGMOID_LOSS),
    }
)
AGAIN: Final = {"LogSoftmax": "cross-entropy", SIGMOID_LOSS: "BCE with logits"}


class DoubledOutputActivation(GraphRule):
    id, title = "doubled-output-activation", "The loss applies the output's activation again"
    severity, certainty, since = "error", "proof", "0.1"
    causes = (
        "stalled-loss",
        "low-learning-rate",
        "vanishing-gradient",
        "saturated-units",
        "collapsed-output",
    )
    experiment = (
        "Take the activation out of the model and train as long: if the loss does not fall below its floor, this is not why."
    )

    def judge(self, passes: Sequence[FirstPass]) -> Iterator[Finding]:
        for first in passes:
            for index in range(len(first.graph.nodes)):
                before = before_log_softmax(first.graph, index)
                before = first.graph.behind(index, 0, PARTS) if before is None else before
                if before is not None and _is_doubled(first.graph, before, index):
                    yield _finding(first, before, index)


def _is_doubled(graph: Graph, before: int, index: int) -> bool:
    one, two = graph.nodes[before], graph.nodes[index]
    if two.op == "Sub":  # log-softmax by hand
        return before_log_softmax(graph, index) == before and (one.op in SQUASHED or is_softmax_by_hand(graph, before))
    if is_softmax_by_hand(graph, before):
        return two.op == "LogSoftmax" and one.shape == two.shape
    if (one.op, two.op) not in DOUBLES:
        return False
    if one.op not in SOFTMAXES or two.op not in SOFTMAXES:
        return True
    dims = [node.facts.get("dim", 0) % len(node.shape) for node in (one, two)]
    return one.shape[dims[0]] == two.shape[dims[1]] and (one.shape != two.shape or dims[0] == dims[1])


def _finding(first: FirstPass, before: int, index: int) -> Finding:
    one, two = first.graph.nodes[before], first.graph.nodes[index]
    severity: Severity = "error"
    if one.op == "LogSoftmax":
        severity, message = "note", "log_softmax is applied to the output of a log_softmax: the second changes nothing."
        evidence = ValueEvidence("times applied", 2, limit=1)
    elif (one.op, "LogSoftmax" if two.op == "Sub" else two.op) == SOFTMAXES or is_softmax_by_hand(first.graph, before):
        classes = one if two.op == "Sub" else two
        floor = math.log1p((classes.shape[classes.facts.get("dim", -1)] - 1) / math.e)
        message = f"Softmax before cross-entropy, which applies it again: the loss cannot fall below {floor:.3f}."
        evidence = ValueEvidence("least possible loss (without it 0)", floor)
    else:
        again = AGAIN.get("LogSoftmax" if two.op == "Sub" else two.op, two.op.lower())
        message = f"{one.op} before {again}, which wants unbounded inputs and gets numbers in [0, 1]: its gradients are small."
        evidence = ValueEvidence("largest possible input", 1.0)
    name = "softmax" if one.op == "Div" else one.op.lower()
    fix = f"Take the {name} in {in_code(one.module)} out; the loss wants what comes before it."
    return Finding(one.module, BEFORE, BEFORE, message, (evidence,), fix, severity=severity, depth=depth(first, before))
