"""Which finding follows from which, and which of them is the cause.

An edge from A to B needs both: the rule of A names that of B in `causes`, and A began no later than B: in an earlier step,
or in the same step earlier inside it (`depth`: forward, then backward, then update). What follows from no other is a root.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from weighbridge.diagnosis.rule import CERTAINTIES, SEVERITIES, Finding

MOST: Final = 3  # more cards than this are a list, not a cause


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """In the order in which they began."""
    return tuple(sorted(findings, key=lambda f: (f.first_step, f.depth, _rank(f), f.rule, f.place)))


def linked(findings: Sequence[Finding], causes: Mapping[str, Sequence[str]]) -> tuple[Finding, ...]:
    """The findings in order, each with all that follows from it in `explains`. `causes`: per rule those it may lead to."""
    inorder = ordered(findings)
    follows = {
        one.key: [two.key for two in inorder[i + 1 :] if two.rule in causes.get(one.rule, ())] for i, one in enumerate(inorder)
    }
    for finding in reversed(inorder):  # what follows from what follows: the later ones are complete already
        onward = [key for direct in follows[finding.key] for key in follows[direct]]
        follows[finding.key] = list(dict.fromkeys([*follows[finding.key], *onward]))
    return tuple(dataclasses.replace(f, explains=tuple(follows[f.key])) for f in inorder)


def roots(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """What follows from no other, the heaviest first: by severity, what it explains, certainty, and when it began."""
    explained = {key for finding in findings for key in finding.explains}
    left = [f for f in ordered(findings) if f.key not in explained]
    return tuple(sorted(left, key=lambda f: (_rank(f)[0], -len(f.explains), _rank(f)[1]))[:MOST])


def _rank(finding: Finding) -> tuple[int, int]:
    severities: Sequence[str] = SEVERITIES
    certainties: Sequence[str] = CERTAINTIES
    return (
        severities.index(finding.severity) if finding.severity else len(severities),
        certainties.index(finding.certainty) if finding.certainty else len(certainties),
    )
