"""Attention's logits grow without end: softmax becomes a choice of one position that no gradient can change.

Symptom        The loss spikes or stops falling, gradients of queries and keys vanish, attention looks at single positions.
How it decides The largest |q.k| / sqrt(size of a head) over 64 positions of 8 samples. Told where it is above LARGE and GROWN
               times what it was at first, larger than at the two looks before, while the loss does not fall; above NEEDLESS
               whatever the loss does: no choice among positions needs such logits.
What to do     Norms of queries and keys (QK-norm), a cap on the logits, a lower learning rate or a longer warm-up, weight
               decay on the projections.
When it errs   Pairs that a mask hides are looked at too. Heads that look up single positions need large logits and have a
               loss that falls. Queries and keys are known by the names of their modules; others are not seen.
References     Dehghani et al. 2023, "Scaling Vision Transformers to 22 Billion Parameters" (logits beyond 50,000; QK-norm).
               Wortsman et al. 2024, "Small-scale proxies for large-scale Transformer training instabilities" (divergence
               beyond 10^4). Zhai et al. 2023, "Stabilizing Transformer Training by Preventing Attention Entropy Collapse".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, SeriesEvidence, ValueEvidence
from weighbridge.diagnosis.layers import Layers
from weighbridge.diagnosis.progress import Progress
from weighbridge.diagnosis.spreads import by_step
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.format import factor, number

LARGE: Final = 50.0  # two logits that differ by half of it: exp(-25) of the attention is left, below float32's last digit
NEEDLESS: Final = 100.0  # one position in 10^6 with a probability of 1 - 10^-7 needs logits of +-15
GROWN: Final = 5.0  # times the first one
RISES: Final = 2  # looks in a row that it has grown over
KEPT: Final = 24


class AttentionLogitGrowth(Rule):
    id, title = "attention-logit-growth", "Attention logits grow without end"
    severity, certainty, since = "warning", "heuristic", "0.1"
    needs = Needs(tables=["spread", "steps"])
    causes = ("rank-collapse", "vanishing-gradient", "stalled-loss")
    experiment = "Put a LayerNorm on queries and keys and train again: if the loss still stops, logits were not why."

    def __init__(self) -> None:
        self.progress = Progress()
        self.shown: dict[int, list[tuple[int, float]]] = {}
        self.first: dict[int, float] = {}
        self.begun: dict[int, int] = {}
        self.told: set[int] = set()

    def start(self, tensors: Tensors) -> None:
        self.tensors, self.layers = tensors, Layers(tensors)

    def read(self, block: Block) -> Iterator[Finding]:
        for step, _, logits in by_step(block, self.progress):
            for column, logit in logits.items():
                self.first.setdefault(column, logit)
                shown = self.shown[column] = [*self.shown.get(column, [])[1 - KEPT :], (step, logit)]
                if logit <= LARGE:
                    self.begun.pop(column, None)
                    continue
                self.begun.setdefault(column, step)
                if column not in self.told and self._grows(column) and (logit > NEEDLESS or self.progress.is_stalled):
                    self.told.add(column)
                    yield self._finding(step, column, shown)

    def _grows(self, column: int) -> bool:
        last = [logit for _, logit in self.shown[column][-1 - RISES :]]
        return len(last) > RISES and last[-1] == max(last) and last[-1] > GROWN * self.first[column]

    def _finding(self, step: int, column: int, shown: list[tuple[int, float]]) -> Finding:
        tensor = self.tensors[column]
        path = self.tensors.owner(column)
        whole = path if tensor.module == "MultiheadAttention" else path.rpartition(".")[0] or path
        steps, logits = zip(*shown, strict=True)
        return Finding(
            place=self.tensors.place(whole, tensor.model),
            first_step=self.begun[column],
            told_step=step,
            message=f"The largest attention logit of {whole or 'the model'} is {number(logits[-1])}, "
            f"{factor(logits[-1] / max(self.first[column], 1e-12))} of what it was at first, and grows: softmax "
            "chooses single positions.",
            evidence=(
                ValueEvidence("largest |q.k| / sqrt(d)", logits[-1], LARGE),
                SeriesEvidence("largest |q.k| / sqrt(d)", steps, logits, LARGE),
            ),
            fix="Put a norm on queries and keys (QK-norm), lower the learning rate or lengthen its warm-up.",
            depth=tensor.order / 1e6,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        if not self.shown:
            return Outcome.NOT_APPLICABLE, "no queries and keys of attention were recorded"
        return None
