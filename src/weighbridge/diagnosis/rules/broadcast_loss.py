"""Each prediction is compared with the target of every sample, for their shapes were broadcast against each other.

Symptom        The loss comes down to the variance of the targets and stays there; predictions become all the same.
How it decides Exact, on the graph of the first loss: predictions [B, 1], or [B], become [B, B] where a target that wants no
               gradient is taken off (or as `mse_loss` and its kind broadcast them), and what follows, up to the loss, is a
               function of that difference alone. Of [B, 1] less [B] PyTorch makes every prediction less every target: what
               fits best is then the same number for all samples, the targets' mean (or median).
What to do     Give both the same shape: `target.unsqueeze(1)`, or `prediction.squeeze(1)`.
When it errs   Distances between all pairs, where another part of the loss has the same predictions (an energy distance, a
               ranking), are left alone; B targets for each of B samples, one output for all of them, would be told.
References     PyTorch documentation, "Broadcasting semantics"; torch.nn.functional.mse_loss warns of sizes that differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from weighbridge.diagnosis import Finding, ValueEvidence
from weighbridge.diagnosis.graphrule import BEFORE, GraphRule, depth
from weighbridge.diagnosis.tensors import in_code
from weighbridge.firstpass import FirstPass
from weighbridge.lossgraph import RESHAPES, Graph

ERRORS: Final = frozenset({"MseLoss", "SmoothL1Loss", "HuberLoss", "Pow", "Mul", "Abs"})
AFTER: Final = ERRORS | RESHAPES | {"Sub", "Rsub", "Mean", "Sum", "Div", "Sqrt", "Neg", "Add"}


class BroadcastLoss(GraphRule):
    id, title = "broadcast-loss", "Each prediction is compared with every sample's target"
    severity, certainty, since = "error", "proof", "0.1"
    causes = ("stalled-loss", "low-learning-rate", "uninformative-data", "collapsed-output", "missing-bias")
    experiment = "Give both the same shape and train as long: if the loss does not fall further, this is not why."

    def judge(self, passes: Sequence[FirstPass]) -> Iterator[Finding]:
        for first in passes:
            for index in range(len(first.graph.nodes)):
                given = _broadcast(first.graph, index)
                if given is not None and _is_all_of_the_loss(first.graph, given):
                    yield _finding(first, index, given)
                    break


def _broadcast(graph: Graph, index: int) -> int | None:
    """The node of the predictions that meet every target here."""
    node = graph.nodes[index]
    edges = [edge for edge in node.inputs if edge is not None]
    if node.op not in ("Sub", "Rsub", "Expand") or len(edges) != 1 or (node.op != "Expand" and len(node.inputs) < 2):
        return None
    given, which = edges[0]
    shape = graph.nodes[given].shapes[which] if which < len(graph.nodes[given].shapes) else ()
    samples = shape[0] if shape else 0
    return given if samples > 1 and shape in ((samples,), (samples, 1)) and node.shape == (samples, samples) else None


def _is_all_of_the_loss(graph: Graph, given: int) -> bool:
    """Is what follows, to the loss, an error of this difference, and do the predictions enter the loss nowhere else?"""
    after = _after(graph, given)
    goes_on = all(_broadcast(graph, index) == given or _goes_on(graph, index, given, after) for index in after)
    return goes_on and any(graph.nodes[index].op in ERRORS for index in after) and not after.isdisjoint(graph.roots)


def _after(graph: Graph, given: int) -> set[int]:
    """All nodes that this one has a part in."""
    found: set[int] = set()
    waiting = [given]
    while waiting:
        users = {user for user, _ in graph.users[waiting.pop()]} - found
        found |= users
        waiting += users
    return found


def _goes_on(graph: Graph, index: int, given: int, after: set[int]) -> bool:
    """Is it made of the difference alone, or of it and a term that is added?"""
    node = graph.nodes[index]
    made_of = {edge[0] for edge in node.inputs if edge is not None}
    return node.op in AFTER and given not in made_of and (made_of <= after or node.op == "Add")


def _finding(first: FirstPass, index: int, given: int) -> Finding:
    graph = first.graph
    shape = graph.nodes[given].shape
    samples = shape[0]
    place = graph.maker(index, next(i for i, edge in enumerate(graph.nodes[index].inputs) if edge is not None))
    target = f"[{samples}]" if len(shape) == 2 else f"[{samples}, 1]"
    how = "target.unsqueeze(1)" if len(shape) == 2 else "target.squeeze(1)"
    return Finding(
        place=place,
        first_step=BEFORE,
        told_step=BEFORE,
        message=f"Predictions of shape {list(shape)} meet targets that broadcast against them, such as {target}: the "
        f"loss is of {samples} x {samples} differences, each prediction against every sample's target, and is least where all "
        "predictions are the same.",
        evidence=(ValueEvidence("differences in the loss", samples * samples, limit=samples),),
        fix=f"Give both the same shape: {how} where the loss is computed, or what {in_code(place) or 'the model'} gives in the "
        "shape of the targets.",
        depth=depth(first, given),
    )
