"""Rules that read the graphs of the first losses: in a run those of its first step, in `inspect` the one of its trial pass."""

from __future__ import annotations

import dataclasses
import itertools
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence

from weighbridge.diagnosis.rule import Finding, Needs, Outcome, Rule
from weighbridge.diagnosis.stream import Block
from weighbridge.firstpass import FirstPass, from_text

BEFORE = -1  # step of what is so before training


class GraphRule(Rule):
    """Asked once about the passes that were taken down together. Steps are filled in here."""

    needs = Needs(tables=["graph"])

    def __init__(self) -> None:
        self.has_seen = False

    def read(self, block: Block) -> Iterator[Finding]:
        for step, rows in itertools.groupby(block.rows("graph"), key=lambda row: row["step"]):
            self.has_seen = True
            for finding in self.judge_at(block, step, [from_text(row["detail"]) for row in rows]):
                yield dataclasses.replace(finding, first_step=min(step, 0), told_step=step)

    def judge_at(self, block: Block, step: int, passes: Sequence[FirstPass]) -> Iterable[Finding]:
        """The same, for a rule that asks what else the block says of the step in which they were taken down."""
        return self.judge(passes)

    @abstractmethod
    def judge(self, passes: Sequence[FirstPass]) -> Iterable[Finding]:
        """What these passes show; their steps are of no matter."""

    def lacking(self) -> tuple[Outcome, str] | None:
        return None if self.has_seen else (Outcome.NOT_ENOUGH_DATA, "the graph of a first loss was not recorded")


def depth(first: FirstPass, node: int) -> float:
    """When in the forward pass a node is made: 0 to 1."""
    return node / max(1, len(first.graph.nodes))


def module_of(parameter: str) -> str:
    """The module that a parameter's name begins with.

    >>> module_of("encoder.0.weight"), module_of("scale")
    ('encoder.0', '')
    """
    return parameter.rpartition(".")[0]
