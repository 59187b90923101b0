"""Two affine layers in a row: together they can do no more than one.

Symptom        A deep network fits no better than a linear one; layers can be left out and nothing is lost.
How it decides Exact, on the graph of the first loss, functional calls included: the output of one affine layer, and nothing
               else, is the input of the next, with only reshapes, dropout, factors and, between convolutions, a batch norm
               between. Or all that lies in front of an affine layer is sums, norms, pools and other affine layers.
What to do     Put an activation between them, or leave one out.
When it errs   Not told: a layer or group norm without weights, which is no linear map and stands for an activation; a sum with
               what has no gradient, which may be one in disguise (straight-through estimators); a middle narrower than both
               sides (bottleneck, LoRA), values that are used elsewhere or are sums (residuals, several heads), grouped
               (depthwise-separable) and transposed convolutions, layers in attention and in recurrent modules. A note: a whole
               network that is linear and without any bias, one matrix written as a product, as deep matrix factorisations mean
               it; two linear layers of which the first alone has no bias; and those of which the first ends a module of its
               own and the second gives no prediction of known targets (what an encoder gives is a representation, and may go
               on through a linear projection). Max pooling is no linear map: a network with no other activation is still told
               of.
References     Goodfellow, Bengio, Courville 2016, "Deep Learning", section 6.1 (a linear network of linear layers); Arora et
               al. 2019, arXiv 1905.13655 (deep matrix factorisation); Chollet 2017, arXiv 1610.02357 (depthwise-separable); Hu
               et al. 2021, arXiv 2106.09685 (LoRA).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from weighbridge.diagnosis import Finding, ValueEvidence
from weighbridge.diagnosis.affine import is_meant, is_product, pairs, weight_of, without_activation_anywhere
from weighbridge.diagnosis.graphrule import BEFORE, GraphRule, depth, module_of
from weighbridge.diagnosis.rule import Severity
from weighbridge.diagnosis.tensors import in_code
from weighbridge.firstpass import FirstPass
from weighbridge.lossgraph import AFFINE


class MissingActivation(GraphRule):
    id, title = "missing-activation", "No activation between two affine layers"
    severity, certainty, since = "warning", "proof", "0.1"
    causes = (
        "stalled-loss",
        "rank-collapse",
    )
    experiment = (
        "Put the activation in and train as long on the same data: if the loss ends where it does now, it is not missed."
    )

    def judge(self, passes: Sequence[FirstPass]) -> Iterator[Finding]:
        """A pair must be one in every pass that holds one of its layers: what feeds several, or takes several, is used as such.
        (A critic takes what the generator gives, and the data; a trunk feeds two heads, each in a pass of its own.)"""
        found: dict[tuple[str, str], Finding] = {}
        alone: set[tuple[str, str]] = set()  # (layer, "first" or "second") where it was not that of a pair
        for first in passes:
            near = without_activation_anywhere(first) | pairs(first)
            names = {i: weight_of(first.graph, i) for i, node in enumerate(first.graph.nodes) if node.op in AFFINE}
            of_all: Severity | Literal[""] = "note" if is_product(first) else ""
            for two, one in [*near.items()][: 1 if of_all else None]:  # of a product one word is enough
                severity = of_all or ("note" if is_meant(first, one, two) else "")
                found.setdefault((names[one], names[two]), _finding(first, one, two, severity))
            alone |= {(name, "first") for i, name in names.items() if i not in near.values()}
            alone |= {(name, "second") for i, name in names.items() if i not in near}
        for (one_name, two_name), finding in found.items():
            if (one_name, "first") not in alone and (two_name, "second") not in alone:
                yield finding


def _finding(first: FirstPass, one: int, two: int, severity: Severity | Literal[""]) -> Finding:
    names = [weight_of(first.graph, i) for i in (one, two)]
    before, after = (in_code(module_of(name) or name) for name in names)
    return Finding(
        place=module_of(names[1]) or names[1],
        first_step=BEFORE,
        told_step=BEFORE,
        message=f"{before} feeds {after} with no activation between: two affine layers in a row can do no more than one.",
        evidence=(ValueEvidence("weights in the two matrices", sum(first.by_name[name].count for name in names)),),
        fix=f"Put an activation between them, x = F.relu({before}(x)), or leave one of them out.",
        depth=depth(first, two),
        severity=severity,
    )
