"""All ranks get the same batches: they do the same work side by side.

Symptom        More processes make training no better per epoch than one; the loss of all ranks is the same to the last
               digit.
How it decides Exact. Copies of one model (the parameters of all ranks have equal sums) got batches with equal checksums of
               inputs and targets on all ranks, at PATIENCE steps in a row of those at which batches are looked at. Where no
               batch was recorded: losses that are equal bit for bit at LONG steps in a row.
What to do     `DistributedSampler` (and `set_epoch` every epoch), or a seed for the loader that depends on the rank.
When it errs   Ranks that share one model in pieces (tensor or pipeline parallel) get the same batches by design: only copies
               are judged. Not known beside a training, only from its files.
References     PyTorch documentation, torch.utils.data.distributed.DistributedSampler.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from weighbridge.diagnosis import INPUT, Finding, Needs, Outcome, Rule, TableEvidence
from weighbridge.diagnosis.ranked import Ranked
from weighbridge.diagnosis.stream import Block
from weighbridge.format import counted
from weighbridge.records import SHARD

PATIENCE = 3  # recorded steps; one equal batch of two samplers may be chance in a tiny data set
LONG = 5  # steps: losses of different batches are equal to all digits at none


class DuplicatedData(Rule):
    id, title = "duplicated-data", "All ranks are given the same data"
    severity, certainty, since = "warning", "proof", "0.1"
    needs = Needs(ranks=["parameter.sum"])
    causes = ("stalled-loss",)
    experiment = "Print the first label of the first batch on each rank: if they differ, this finding is wrong."

    def __init__(self) -> None:
        self.run: list[tuple[int, float]] = []  # steps in a row, and the checksum
        self.losses: list[tuple[int, float]] = []
        self.has_ranks = self.has_batches = self.is_told = False

    def read(self, block: Block) -> Iterator[Finding]:
        ranks = block.ranks
        self.has_ranks |= len(ranks) > 1
        if len(ranks) < 2 or self.is_told or not _are_copies(ranks):
            return
        pairs = [{row["step"]: (row["inputs"], row["targets"]) for row in one.pairs} for one in ranks]
        for i in range(len(block)):
            step = block.start + i
            told = [one.get(step) for one in pairs]
            if all(told):
                self.has_batches = True
                is_same = all(one == told[0] for one in told) and not _differ(ranks, i)
                self.run = [*self.run, (step, float(told[0][0]))] if is_same and told[0] else []
            losses = np.array([one.losses[i] for one in ranks])
            if np.isfinite(losses).all():
                is_same = bool((losses == losses[0]).all() and losses[0])
                self.losses = [*self.losses, (step, float(losses[0]))][-LONG:] if is_same else []
            if len(self.run) == PATIENCE or (not self.has_batches and len(self.losses) == LONG):
                self.is_told = True
                yield self._finding(len(ranks))
                return

    def _finding(self, ranks: int) -> Finding:
        what, run = ("checksum of the inputs", self.run) if self.run else ("loss", self.losses)
        steps = counted(len(run), "step")
        return Finding(
            place=INPUT,
            first_step=run[0][0],
            told_step=run[-1][0],
            message=f"All {ranks} ranks were given the same batch at {steps} in a row: {ranks} times the work for one batch.",
            evidence=(TableEvidence("the same on all ranks", ("step", what), tuple(run)),),
            fix="sampler=DistributedSampler(dataset) in the DataLoader, with sampler.set_epoch(epoch) every epoch.",
            depth=-0.8,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        return None if self.has_ranks else (Outcome.NOT_APPLICABLE, "one rank alone was read")


def _are_copies(ranks: tuple[Ranked, ...]) -> bool:
    """Do all ranks know the same parameters, none of them in pieces?"""
    return all("" not in told and SHARD not in told for told in zip(*(one.placements for one in ranks), strict=True))


def _differ(ranks: tuple[Ranked, ...], at: int) -> bool:
    """Do parameters that all ranks wrote at this step differ everywhere? Then they are different models."""
    sums = np.array([one.arrays["parameter.sum"][at] for one in ranks])
    there = ~np.isnan(sums).any(axis=0)
    return bool(there.any() and (sums[:, there] != sums[0, there]).any(axis=0).all())
