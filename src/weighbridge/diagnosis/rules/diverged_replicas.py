"""Ranks that should hold the same parameters do not.

Symptom        Metrics differ by rank; a checkpoint of one rank is not the model that was evaluated on another; training gets
               slowly worse.
How it decides Exact. Copies that agree have sums and sums of absolute values that are equal bit for bit, in every rank. What
               is a copy is known where DistributedDataParallel wraps the watched model; elsewhere parameters count as copies
               when the gradients that the ranks used have been equal in all tensors at AGREED steps, which only a reduction
               makes them. Told at the first step at which sums differ. Where ranks begin alike, gradients never agree and
               weights go apart, it is told after APART steps; after PARTLY, where some parameters' gradients agree. Of three
               ranks or more the finding names those that are not like most.
What to do     Change parameters before the model is wrapped, or on all ranks alike; build the optimizer with the same
               settings on all ranks; go through the wrapper in the forward pass, for it is what reduces gradients; broadcast
               parameters once after loading a checkpoint.
When it errs   Algorithms that let copies drift apart between averagings on purpose (local SGD) look the same. Not known
               beside a training, only from its files; compared at the steps at which copies are written (10 per decade and
               every 100th).
References     Le Scao et al. 2022, "BLOOM", and Jiang et al. 2025, "Training with Confidence" (TrainCheck): a missing
               reduction let layer norms of the ranks of BLOOM-176B drift apart; PyTorch documentation,
               DistributedDataParallel ("never change parameters after wrapping").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, TableEvidence
from weighbridge.diagnosis.ranked import Ranked
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.format import counted
from weighbridge.records import COPY, LOCAL, REPLICA

AGREED = 2  # steps: gradients of different batches are never equal by chance, and step 0 may be all zeros
PARTLY = 3  # steps at which some parameters' gradients agreed, those of others never
APART = 20  # steps in a row; whoever averages weights now and then (local SGD) does it more often
SHOWN = 8
SUMS = ("parameter.sum", "parameter.l1_norm")
USED = ("gradient.sum", "gradient.l1_norm")


class DivergedReplicas(Rule):
    id, title = "diverged-replicas", "Copies of the model differ between ranks"
    severity, certainty, since = "error", "proof", "0.1"
    needs = Needs(ranks=[*SUMS, *USED])
    causes = ("loss-spike", "gradient-spike", "growing-loss", "stalled-loss")
    experiment = (
        "Broadcast all parameters from rank 0 and look again after 100 steps: if they stay equal, it was the beginning."
    )

    def __init__(self) -> None:
        self.agreed = 0
        self.apart: int | None = None  # steps since parameters that had begun equal differ; None = they did not begin so
        self.partly, self.ever = 0, np.zeros(0, bool)  # steps; tensors whose gradients have agreed
        self.is_told = self.has_ranks = self.has_copies = False

    def start(self, tensors: Tensors) -> None:
        self.tensors, self.ever = tensors, tensors.grown(self.ever)

    def read(self, block: Block) -> Iterator[Finding]:
        self.has_ranks |= len(block.ranks) > 1
        for i in range(len(block)) if len(block.ranks) > 1 else ():
            if self.is_told:
                return
            copies = self.tensors.is_parameter & _columns(block.ranks, (REPLICA, COPY))
            local = self.tensors.is_parameter & _columns(block.ranks, (LOCAL,))
            self.agreed += _have_equal_gradients(block.ranks, i, local)
            yield from self._never_averaged(block, i, local)
            meant = copies | (local if self.agreed >= AGREED else np.zeros_like(local))
            self.has_copies |= bool(meant.any())
            differ = np.flatnonzero(meant & _differs(block.ranks, i, SUMS))
            if len(differ) and not self.is_told:
                self.is_told = True
                yield self._finding(block.ranks, block.start + i, i, differ)

    def _never_averaged(self, block: Block, at: int, local: np.ndarray) -> Iterator[Finding]:
        """The same weights at first, on every rank, gradients that never agree, and weights that go apart for good."""
        ranks = block.ranks
        is_there = local & np.isfinite([one.arrays["parameter.sum"][at] for one in ranks]).all(axis=0)
        same = local & _agree(ranks, at)
        self.ever |= same
        self.partly += bool(same.any())
        if self.agreed or self.is_told or not is_there.any():
            return
        differ = is_there & _differs(ranks, at, SUMS)
        if not differ.any():
            self.apart = 0
        elif self.apart is not None:
            self.apart += 1
        missed = differ & ~self.ever
        is_partly = self.partly >= PARTLY and (self.apart or 0) >= PARTLY - 1 and missed.any()
        if self.apart == APART or is_partly:
            self.is_told = True
            found = self._finding(ranks, block.start + at, at, np.flatnonzero(missed if is_partly else differ))
            whose = "those of others agree" if is_partly else "nobody averages them"
            message = (
                f"All ranks began with the same weights, and have gone apart for {counted(self.apart or 0, 'step')}; their "
                f"gradients were never the same: {whose}."
            )
            fix = "Wrap the model in DistributedDataParallel, or all_reduce each gradient before every step."
            first = block.start + at - (self.apart or 0) + 1
            yield replace(found, message=message, fix=fix, first_step=first, severity="warning", certainty="test")

    def _finding(self, ranks: tuple[Ranked, ...], step: int, at: int, columns: np.ndarray) -> Finding:
        places = self.tensors.together(columns.tolist(), self.tensors.is_parameter)
        rows = [
            (self.tensors.name(c), one.rank, float(one.arrays["parameter.sum"][at, c]))
            for c in columns[:SHOWN].tolist()
            for one in ranks
            if not np.isnan(one.arrays["parameter.sum"][at, c])
        ]
        return Finding(
            place=places[0][0] if len(places) == 1 else "",
            first_step=step,
            told_step=step,
            message=f"At step {step} {counted(len(columns), 'parameter')} of {counted(len(ranks), 'rank')} that should be "
            f"equal are not: {self.tensors.name(int(columns[0]))} first.{_who(odd_ones(ranks, at, columns))}",
            evidence=(TableEvidence("sums of the parameters", ("parameter", "rank", "sum"), tuple(rows)),),
            fix="Broadcast the parameters from rank 0, and look for what treats the ranks differently: changes after wrapping, "
            "optimizer settings, a forward pass that goes past the wrapper.",
            depth=-0.9,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        if not self.has_ranks:
            return Outcome.NOT_APPLICABLE, "one rank alone was read"
        return None if self.has_copies else (Outcome.NOT_APPLICABLE, "no parameter is known to be a copy")


def odd_ones(ranks: tuple[Ranked, ...], at: int, columns: np.ndarray) -> list[int]:
    """The ranks whose sums are not those of most of them; none where there is no majority in each of these tensors."""
    odd: set[int] = set()
    for column in columns.tolist():
        told = [tuple(float(one.arrays[name][at, column]) for name in SUMS) for one in ranks]
        usual, times = Counter(told).most_common(1)[0]
        if 2 * times <= len(told):
            return []
        odd |= {one.rank for one, mine in zip(ranks, told, strict=True) if mine != usual}
    return sorted(odd)


def _who(odd: list[int]) -> str:
    if not odd:
        return ""
    named = " and ".join(str(rank) for rank in odd)
    return f" Rank {named} is not like most." if len(odd) == 1 else f" Ranks {named} are not like most."


def _columns(ranks: tuple[Ranked, ...], placements: tuple[str, ...]) -> np.ndarray:
    """Mask: tensors that all ranks know, and place so."""
    return np.array([all(p in placements for p in told) for told in zip(*(one.placements for one in ranks), strict=True)], bool)


def _differs(ranks: tuple[Ranked, ...], at: int, names: tuple[str, ...]) -> np.ndarray:
    """Mask: tensors of which all ranks wrote these numbers, and not all the same."""
    differs = np.zeros(len(ranks[0].placements), bool)
    for name in names:
        numbers = np.array([one.arrays[name][at] for one in ranks])
        differs |= ~np.isnan(numbers).any(axis=0) & (numbers != numbers[0]).any(axis=0)
    return differs


def _agree(ranks: tuple[Ranked, ...], at: int) -> np.ndarray:
    """Mask: tensors whose gradients are there, not 0, and the same on all ranks."""
    used = np.array([one.arrays["gradient.l1_norm"][at] for one in ranks])
    agree: np.ndarray = (used > 0).all(axis=0) & ~_differs(ranks, at, USED)
    return agree


def _have_equal_gradients(ranks: tuple[Ranked, ...], at: int, columns: np.ndarray) -> bool:
    used = np.array([one.arrays["gradient.l1_norm"][at][columns] for one in ranks])
    is_there = used.size > 0 and not np.isnan(used).any() and bool((used > 0).any())
    return is_there and not (_differs(ranks, at, USED) & columns).any()
