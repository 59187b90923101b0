"""A batch norm in training has one or few samples per channel.

Symptom        The loss is noisy, training and evaluation differ widely; with two samples a batch norm gives little but
               signs.
How it decides Exact, on the graph of the first loss: values per channel (samples times positions) are LEAST_VALUES or
               fewer, or the batch holds LEAST_SAMPLES samples or fewer. The deviation estimated from n independent values
               has a relative error of about sqrt(1 / (2 (n - 1))): 41 % at 4. Positions of one image are no independent
               values. Instance norms, and norms that use their running averages, are not looked at.
What to do     A larger batch; GroupNorm or LayerNorm; or the running averages (`norm.eval()`, SyncBatchNorm over several
               devices).
When it errs   Batch norm of single images on purpose (some image-to-image networks).
References     Wu and He 2018, arXiv 1803.08494, figure 1 (error of batch norm by batch size: 23.6 % at 32, 27.3 % at 4,
               34.7 % at 2); Ioffe 2017, arXiv 1702.03275.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from weighbridge.diagnosis import Finding, TableEvidence, ValueEvidence
from weighbridge.diagnosis.flow import BATCH_NORMS
from weighbridge.diagnosis.graphrule import BEFORE, GraphRule, depth
from weighbridge.diagnosis.tensors import in_code
from weighbridge.firstpass import FirstPass
from weighbridge.format import counted
from weighbridge.lossgraph import Graph

LEAST_VALUES: Final = 4
LEAST_SAMPLES: Final = 2


class StarvedBatchNorm(GraphRule):
    id, title = "starved-batch-norm", "A batch norm has few samples per channel"
    severity, certainty, since = "warning", "proof", "0.1"
    causes = (
        "stalled-loss",
        "growing-loss",
        "gradient-spike",
        "loss-spike",
        "exploding-gradient",
    )
    experiment = "Train with a batch four times as large, or GroupNorm: if the loss is as noisy as now, the norm is not why."

    def judge(self, passes: Sequence[FirstPass]) -> Iterator[Finding]:
        for first in passes:
            starved = [i for i in range(len(first.graph.nodes)) if _is_starved(first, i)]
            if starved:
                yield _finding(first, starved)
                return


def _is_starved(first: FirstPass, index: int) -> bool:
    node = first.graph.nodes[index]
    if node.op not in BATCH_NORMS or node.facts.get("training") is not True or _is_of_instances(first, index):
        return False
    return values_per_channel(first.graph, index) <= LEAST_VALUES or node.shape[0] <= LEAST_SAMPLES


def _is_of_instances(first: FirstPass, index: int) -> bool:
    """An instance norm is a batch norm of one sample whose channels are those of all samples."""
    node = first.graph.nodes[index]
    before = node.inputs[0]
    is_reshaped = before is not None and first.graph.nodes[before[0]].op in ("View", "ReshapeAlias", "UnsafeView")
    return first.kinds.get(node.module, "").startswith("InstanceNorm") or (node.shape[0] == 1 and is_reshaped)


def values_per_channel(graph: Graph, index: int) -> int:
    shape = graph.nodes[index].shape
    return math.prod(shape) // max(1, shape[1])


def _finding(first: FirstPass, starved: Sequence[int]) -> Finding:
    graph, worst = first.graph, min(starved, key=lambda i: values_per_channel(first.graph, i))
    node, values = graph.nodes[worst], values_per_channel(graph, worst)
    listed = tuple((graph.nodes[i].module, graph.nodes[i].shape[0], values_per_channel(graph, i)) for i in starved)
    also = f" (and {counted(len(starved) - 1, 'other norm')})" if len(starved) > 1 else ""
    return Finding(
        place=node.module,
        first_step=BEFORE,
        told_step=BEFORE,
        message=f"{in_code(node.module)}{also} estimates each channel's mean and deviation from {counted(values, 'value')} of "
        f"{counted(node.shape[0], 'sample')}: what it gives depends on chance as much as on its input.",
        evidence=(
            ValueEvidence("values per channel", values, limit=LEAST_VALUES),
            ValueEvidence("samples in the batch", node.shape[0], limit=LEAST_SAMPLES),
            TableEvidence("norms", ("module", "samples", "values per channel"), listed),
        ),
        fix="A larger batch, or GroupNorm or LayerNorm in its place.",
        depth=depth(first, worst),
    )
