"""The loss is an error with a minus before it: training makes the error as large as it can.

Symptom        The loss is negative and falls without end; the model gets worse and worse at its task, weights grow.
How it decides Exact, on the graph of the first loss and its value: the root leads back, through means, sums, signs and
               factors that are single numbers, to one error that cannot be negative (cross-entropy, squared or absolute
               difference to a target, ...), and yet the loss is below 0, at PATIENCE steps in a row. Or it leads to a
               log-probability and no sign turns it around. With `maximize=True` in the optimizer the same the other way.
What to do     Take the minus out (`F.cross_entropy` and the other loss functions of torch have theirs already); take
               `maximize=True` out where a loss is minimised.
When it errs   Errors that are made large on purpose stand beside a pass that makes another small (GANs): with passes of
               several kinds it says nothing. Making a model forget (gradient ascent on some data) looks the same. Weights
               that differ by sample (policy gradients), differences of two outputs and sums with other terms are not judged.
References     PyTorch documentation, torch.nn.CrossEntropyLoss, NLLLoss ("the input is expected to contain
               log-probabilities"), torch.optim.SGD (maximize).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, SeriesEvidence, TableEvidence
from weighbridge.diagnosis.stream import Block
from weighbridge.firstpass import from_text
from weighbridge.lossgraph import RESHAPES, Graph

PATIENCE = 3
# Errors: they cannot be negative for targets that fit them, and 0 is best.
ERRORS: Final = {
    "NllLoss": "cross-entropy",
    "NllLoss2D": "cross-entropy",
    "MseLoss": "squared error",
    "SmoothL1Loss": "smooth L1 error",
    "HuberLoss": "Huber error",
    "BinaryCrossEntropy": "binary cross-entropy",
    "BinaryCrossEntropyWithLogits": "binary cross-entropy",
    "SoftMarginLoss": "soft margin error",
    "MultiMarginLoss": "margin error",
    "CtcLoss": "CTC error",
}
OF_DIFFERENCE: Final = {"Abs": "absolute error", "Pow": "squared error"}
LIKELY: Final = "log-probability"
LOG: Final = ("LogSoftmax", "LogSigmoid")
PASSING: Final = RESHAPES | {"Mean", "Sum", "Gather", "Index", "Select", "Slice"}  # neither turns a sign around
TURNING: Final = ("Neg", "Mul", "Div")  # these may


class WrongLossSign(Rule):
    id, title = "wrong-loss-sign", "An error is made large instead of small"
    severity, certainty, since = "error", "proof", "0.1"
    causes = (
        "growing-loss",
        "high-learning-rate",
        "exploding-weights",
        "exploding-gradient",
        "exploding-activation",
        "dead-units",
        "saturated-units",
        "collapsed-output",
        "loss-spike",
        "gradient-spike",
    )
    needs = Needs(tables=["graph", "steps", "groups"])
    experiment = "Print the loss and the accuracy over 20 steps: if both fall, the finding is right."

    def __init__(self) -> None:
        self.kinds: list[tuple[str, bool]] = []  # per kind of pass: what its root leads to, and whether a sign may be turned
        self.run: list[tuple[int, float]] = []  # steps in a row, and their loss
        self.is_told = False

    def read(self, block: Block) -> Iterator[Finding]:
        self.kinds += [origin(from_text(row["detail"]).graph) for row in block.rows("graph")]
        if len(self.kinds) != 1 or not self.kinds[0][0] or self.is_told:
            return
        name, may_turn = self.kinds[0]
        rising = {g.optimizer for g in block.groups if g.settings.get("maximize")}
        for row in block.rows("steps"):
            climbs = row["optimizer"] in rising
            loss = 0.0 if row["loss"] is None else float(row["loss"])
            # The sign of the loss is that of the factor before an error, and the opposite of that before a log-probability.
            is_wrong = loss > 0 if climbs else loss < 0 and (may_turn or name == LIKELY)
            self.run = [*self.run, (row["step"], loss)] if is_wrong else []
            if len(self.run) == PATIENCE:
                self.is_told = True
                yield self._finding(name, climbs)
                return

    def _finding(self, name: str, climbs: bool) -> Finding:
        steps, losses = zip(*self.run, strict=True)
        how = "the optimizer climbs (maximize=True)" if climbs else "a minus stands before it"
        if name == LIKELY and not climbs:
            how = "no minus stands before it"
        return Finding(
            place="",
            first_step=steps[0],
            told_step=steps[-1],
            message=f"The loss is the {name} of the targets, and {how}: each step makes the model worse.",
            evidence=(
                SeriesEvidence("loss", steps, losses, 0.0),
                TableEvidence("what the root of the loss leads to", ("operation",), ((name,),)),
            ),
            fix="Take maximize=True out." if climbs else "Turn the sign of the loss around before backward().",
            depth=0.98,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        if not self.kinds:
            return Outcome.NOT_ENOUGH_DATA, "the graph of a first loss was not recorded"
        if len(self.kinds) > 1:
            return Outcome.NOT_APPLICABLE, "there are backward passes of several kinds"
        return None if self.kinds[0][0] else (Outcome.NOT_APPLICABLE, "the loss is no single error of a known kind")


def origin(graph: Graph) -> tuple[str, bool]:
    """What the root of a loss leads to ("" = nothing that is known), and whether a sign may have been turned on the way."""
    may_turn = False
    index = graph.roots[0] if len(graph.roots) == 1 else -1
    while index >= 0:
        node = graph.nodes[index]
        name = _error(graph, index)
        if name:
            return name, may_turn
        if node.op not in PASSING and not (node.op in TURNING and _is_factor(graph, index)):
            return "", may_turn
        may_turn |= node.op in TURNING
        behind = [edge[0] for edge in node.inputs if edge is not None]
        index = behind[0] if len(behind) == 1 else -1
    return "", may_turn


def _is_factor(graph: Graph, index: int) -> bool:
    """Is what multiplies or divides one number for all?"""
    node = graph.nodes[index]
    shapes = [node.facts.get(f"{side}_shape", ()) for side in ("self", "other")]
    others = [shape for edge, shape in zip(node.inputs, shapes, strict=False) if edge is None]
    return node.op == "Neg" or all(_is_single(shape) for shape in others) or _is_single(node.shape)


def _is_single(shape: tuple[int, ...]) -> bool:
    return all(size == 1 for size in shape)


def _error(graph: Graph, index: int) -> str:
    """Which error this operation is; empty where it is none."""
    node, before = graph.nodes[index], graph.behind(index)
    if node.op in LOG:
        return LIKELY
    if node.op.startswith("NllLoss"):
        return ERRORS[node.op] if before is not None and graph.nodes[before].op == "LogSoftmax" else ""
    if node.op in ERRORS:
        return ERRORS[node.op] if sum(edge is not None for edge in node.inputs) == 1 else ""
    is_even = node.op == "Abs" or (node.op == "Pow" and node.facts.get("exponent") == 2)
    is_of_target = before is not None and graph.nodes[before].op == "Sub" and graph.nodes[before].inputs.count(None) == 1
    return OF_DIFFERENCE[node.op] if is_even and is_of_target else ""
