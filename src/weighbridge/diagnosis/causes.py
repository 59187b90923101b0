"""Which finding follows from which, and which of them is the cause.

An edge from A to B needs all of these:
    - the rule of A names that of B in `causes`;
    - A began no later than B: in an earlier step, or in the same step earlier inside it (`depth`: forward, then backward, then
      update). The onset of a finding that is no proof is an estimate: it may lie up to `slack` steps too late, unless this
      would turn a chain of causes into a circle. Two onsets are known, and nothing that began later comes before them: what
      happens in one step and is seen in it (`is_event`: a spike, the first NaN), of which even in its own step only a proof
      can be the cause; and what the first step shows before its update, which no update can have made: of what its forward
      pass shows, nothing in its backward pass is the cause either, unless the rule of A says that both are one thing, seen
      forward and backward (`same`). A symptom is not seen in one step: its onset is that of the steps it is told of;
    - B does not come with the batch: what is at the input was made outside of the network, and follows from nothing in it;
    - B lies where an effect of A can have come: within one step activations carry it to deeper layers and gradients to
      shallower ones (`travels` of B's rule); steps later it can be anywhere.
A cause is a finding that follows from no other, and is more than a note or a symptom. A proof of an error is one even where
heuristics explain it: they say why it may have come about, and it says what is so. It stands behind them. Of one rule one
finding is shown as a cause, the likeliest: six dead layers are one card.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from weighbridge.diagnosis.rule import CERTAINTIES, INPUT, SEVERITIES, Finding, Rule

MOST: Final = 3  # more cards than this are a list, not a cause
SYMPTOMS: Final = frozenset({"stalled-loss", "growing-loss"})  # what a cause is looked for; never the answer themselves
COSTS: Final = frozenset({"redundant-bias"})  # memory alone: nothing goes wrong of it, so it stands behind all that harms
WEIGHTS: Final[Mapping[str, float]] = {"error": 3.0, "warning": 1.0, "note": 0.2, "": 0.2}  # a share of training at stake
TRUST: Final[Mapping[str, float]] = {"proof": 1.0, "test": 0.8, "heuristic": 0.5, "": 0.5}
BONUS: Final[Mapping[str, float]] = {"proof": 1.0, "test": 0.5}  # for a root: evidence that stands alone
BEHIND: Final = 0.99  # of the score of what explains it: a proof that stands all the same
IN_LOSS: Final = 0.99  # depth of what the loss shows: below it is the forward pass through the modules,
IN_UPDATE: Final = 1.95  # and from here on the step is taken
FADING: Final = 0.7  # an effect two edges away counts less than one beside the root
APART: Final = 0.2  # two candidates nearer than this share of the better one cannot be told apart
Travels = Literal["deeper", "shallower", "anywhere"]
Span = tuple[int, int]  # first and last place in the order of execution


@dataclass(frozen=True, slots=True)
class Links:
    """What may follow from one rule: ids; and how what the rule itself finds travels through the layers within a step."""

    causes: Sequence[str] = ()
    travels: Travels = "anywhere"
    is_event: bool = False
    same: Sequence[str] = ()  # of the causes: another sight of what the rule itself finds

    @classmethod
    def of(cls, rule: type[Rule] | Rule) -> Links:
        """As the rule says."""
        return cls(rule.causes, rule.travels, rule.is_event, rule.same)


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """In the order in which they began."""
    return tuple(sorted(findings, key=lambda f: (f.first_step, f.depth, *_rank(f), f.rule, f.place)))


def linked(
    findings: Sequence[Finding], links: Mapping[str, Links], spans: Mapping[str, Span] | None = None
) -> tuple[Finding, ...]:
    """The findings in order, each with all that follows from it in `explains`, the nearest first.

    links: per rule. spans: per place of a finding; a place without one (the whole run, the input) reaches everywhere.
    """
    inorder = ordered(findings)
    follows = _edges(inorder, links, spans or {})
    told = [tuple(inorder[i].key for i in _distances(follows, start)) for start in range(len(inorder))]
    return tuple(dataclasses.replace(f, explains=keys) for f, keys in zip(inorder, told, strict=True))


def _edges(inorder: Sequence[Finding], links: Mapping[str, Links], spans: Mapping[str, Span]) -> list[list[int]]:
    """Of each finding those that follow directly. Edges forward in time first: no circle can arise among them."""

    def may(one: Finding, two: Finding) -> bool:
        is_from_outside = two.place == INPUT != one.place
        return not is_from_outside and _reaches(one, two, links, spans)

    def comes_before(one: Finding, two: Finding) -> bool:
        is_event = links.get(two.rule, Links()).is_event
        return not is_event or one.first_step < two.first_step or one.certainty == "proof"

    def may_be_late(one: Finding, two: Finding) -> bool:
        is_event = links.get(two.rule, Links()).is_event
        return _is_near(one, two) and not is_event and not _was_before(two, one, links)

    of_rule: dict[str, list[int]] = {}
    for i, one in enumerate(inorder):
        of_rule.setdefault(one.rule, []).append(i)
    named = {rule: sorted(j for c in {*links.get(rule, Links()).causes} for j in of_rule.get(c, ())) for rule in of_rule}
    follows: list[list[int]] = []
    for i, one in enumerate(inorder):
        later = (j for j in named[one.rule] if j > i)
        follows.append([j for j in later if may(one, inorder[j]) and comes_before(one, inorder[j])])
    for i, one in enumerate(inorder):
        for j in (j for j in named[one.rule] if j < i):
            if may(one, inorder[j]) and may_be_late(one, inorder[j]) and i not in _distances(follows, j):
                follows[i].append(j)
    return follows


def _was_before(two: Finding, one: Finding, links: Mapping[str, Links]) -> bool:
    """Was `two` there in the first step already, before `one` could do anything to it?"""
    if two.first_step > 0 or two.rule in SYMPTOMS or two.rule in links.get(one.rule, Links()).same:
        return False
    is_update_s = one.first_step > 0 or one.depth >= IN_UPDATE
    return two.depth < (IN_UPDATE if is_update_s else IN_LOSS)


def _reaches(one: Finding, two: Finding, links: Mapping[str, Links], spans: Mapping[str, Span]) -> bool:
    travels = links.get(two.rule, Links()).travels
    is_later = two.first_step > one.first_step + 1  # the weights of all layers have changed since
    if is_later or travels == "anywhere" or one.place not in spans or two.place not in spans:
        return True
    (first, last), (other_first, other_last) = spans[one.place], spans[two.place]
    return other_last >= first if travels == "deeper" else other_first <= last


def slack(finding: Finding) -> int:
    """Steps by which the onset of this finding may have been put too late. A proof knows its step."""
    return 0 if finding.certainty == "proof" else max(2, (finding.told_step - finding.first_step) // 2, finding.told_step // 10)


def _is_near(one: Finding, two: Finding) -> bool:
    return one.certainty != "proof" and one.first_step - two.first_step <= slack(one)


def _distances(follows: Sequence[Sequence[int]], start: int) -> dict[int, int]:
    """All that follows from `start`, with the number of edges to it; the nearest first."""
    found: dict[int, int] = {}
    edge, distance = [start], 1
    while edge:
        edge = [j for i in edge for j in follows[i] if j not in found and j != start]
        found.update(dict.fromkeys(edge, distance))
        edge, distance = list(dict.fromkeys(edge)), distance + 1
    return found


def roots(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The causes, the likeliest first, at most three, and of each rule one: what costs memory alone behind all others."""
    scores = _scores(findings)
    inorder = sorted(scores, key=lambda f: (f.rule in COSTS, -scores[f], f.first_step, f.depth))
    firsts = {f.rule: f for f in reversed(inorder)}
    return tuple(f for f in inorder if firsts[f.rule] is f)[:MOST]


def candidates(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """All that may be a cause: what follows from nothing and is more than a note or a symptom, and proofs of an error."""
    return tuple(_scores(findings))


def undetermined(findings: Sequence[Finding]) -> str:
    """Why no cause can be named although something calls for one; else empty.

    Either only symptoms were found, or two causes explain the same and weigh nearly the same.
    """
    scores, causes = _scores(findings), roots(findings)
    if not causes:
        symptoms = [f.key for f in findings if f.rule in SYMPTOMS]
        return f"nothing was found that explains {symptoms[0]}" if symptoms else ""
    best, *others = causes
    near = [f for f in others if scores[f] > (1 - APART) * scores[best] and {*f.explains} & {*best.explains}]
    shared = [key for key in best.explains if near and key in near[0].explains]
    return f"{' or '.join(f.key for f in [best, *near])} may be the cause of {', '.join(shared)}" if near else ""


def _scores(findings: Sequence[Finding]) -> dict[Finding, float]:
    """Of each cause: its own weight and, fading, that of what it explains, with a bonus for evidence that stands alone."""
    by_key = {finding.key: finding for finding in findings}
    by = {key: [one for one in findings if key in one.explains] for key in by_key}
    found = {}
    for one in ordered(findings):
        if not by[one.key] and one.severity != "note" and one.rule not in SYMPTOMS:
            effects = sum(_weight(by_key[key]) * FADING ** _steps_away(one, key, by_key) for key in one.explains)
            found[one] = _weight(one) + effects + BONUS.get(one.certainty, 0.0)
    for one in ordered(findings):
        is_proved = (one.severity, one.certainty) == ("error", "proof")
        if is_proved and by[one.key] and all(cause.certainty == "heuristic" for cause in by[one.key]):
            found[one] = BEHIND * max((found[cause] for cause in by[one.key] if cause in found), default=_weight(one))
    return found


def _steps_away(root: Finding, key: str, by_key: Mapping[str, Finding]) -> int:
    """Edges from a root to what it explains: one more than the findings on the way that explain it too."""
    return 1 + sum(key in by_key[between].explains for between in root.explains)


def _weight(finding: Finding) -> float:
    return WEIGHTS[finding.severity] * TRUST[finding.certainty]


def _rank(finding: Finding) -> tuple[int, int]:
    severities: Sequence[str] = SEVERITIES
    certainties: Sequence[str] = CERTAINTIES
    return (
        severities.index(finding.severity) if finding.severity else len(severities),
        certainties.index(finding.certainty) if finding.certainty else len(certainties),
    )


def nearest_cause(key: str, findings: Iterable[Finding]) -> str:
    """Key of the finding that this one follows from: the last, in their order, of those that explain it; "" where none does."""
    return next((one.key for one in reversed([*findings]) if key in one.explains), "")
