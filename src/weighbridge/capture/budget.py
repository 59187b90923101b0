"""Keeping inside `Plan(budget=...)`: which share of a training step weighing takes, and how much detail that allows.

Detail is given up in the order of `levels`: histograms first, then the tensors take turns, then only every k-th step is
weighed. The look for NaN and infinity is never given up.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

LEAST_NS: Final = 20_000  # a budget is never less than this: below it there is nothing left to save
WINDOW: Final = 200  # steps between two decisions, at least
BLOCK: Final = 10  # steps whose cost is taken together: sampled steps cost more, and the median must not overlook them
TURNS: Final = (2, 4, 8)
EVERY: Final = (2, 4, 8, 16, 32, 64)
# One level up at most doubles the cost, so from here on there is room for it; the rest is a margin against noise.
ROOM: Final = 0.4
T = TypeVar("T")
_LONGEST_WAIT: Final = 64  # windows, after attempts that failed


@dataclass(frozen=True, slots=True)
class Level:
    """How much is recorded. The tensors take turns in so many parts; every k-th step is weighed."""

    has_histograms: bool = True
    turns: int = 1
    every: int = 1

    @property
    def thinning(self) -> int:
        """What is weighed on sampled steps only is weighed on one in so many of them."""
        return self.turns * self.every

    def words(self) -> str:
        """For people."""
        parts = [] if self.has_histograms else ["no histograms"]
        if self.turns > 1:
            parts.append(f"each tensor at one weighed step in {self.turns}")
        if self.every > 1:
            parts.append(f"one step in {self.every} is weighed")
        return ", ".join(parts) or "everything of the plan"


def levels(has_histograms: bool) -> list[Level]:
    """From everything to the least; the first two are one where the plan has no histograms."""
    first = [Level(), Level(False)] if has_histograms else [Level(False)]
    rotating = [Level(False, turns) for turns in TURNS]
    return [*first, *rotating, *(Level(False, TURNS[-1], every) for every in EVERY)]


@dataclass(frozen=True, slots=True)
class Change:
    """Another level from now on, and why: medians of the last window, as shares of a step without weighing."""

    level: Level
    number: int
    cost: float
    allowed: float
    step_ns: float
    is_least: bool  # there is no lower one, and the budget is exceeded all the same

    def detail(self) -> dict[str, Any]:
        """For programs."""
        level = {"level": self.number, "words": self.level.words(), **dataclasses.asdict(self.level)}
        return {**level, "cost": self.cost, "allowed": self.allowed, "step_ns": self.step_ns}

    def message(self) -> str:
        """For people."""
        cost, allowed = f"{100 * self.cost:.1f} %", f"{100 * self.allowed:.1f} %"
        cost = f"weighing took {cost} of a step of {self.step_ns / 1e6:.3g} ms, {allowed} are allowed"
        if self.is_least:
            return f"{cost}; there is no less detail than: {self.level.words()}"
        return f"{cost}; from now on: {self.level.words()}"


class Budget:
    """Told what each step took, it says when to change the level."""

    def __init__(self, share: float, has_histograms: bool = True) -> None:
        self.share = share
        self.levels = levels(has_histograms)
        self.number = 0
        self.blocks: list[tuple[float, float]] = []  # share of a step, nanoseconds of a step without weighing
        self.block = [0, 0, 0]  # steps, ours, all
        self.wait, self.waited = 1, 0  # windows before more detail is tried
        self.was_raised = self.has_told = False

    @property
    def level(self) -> Level:
        return self.levels[self.number]

    def add(self, own_ns: int, wall_ns: int) -> Change | None:
        """One step took `wall_ns`, of which `own_ns` were ours."""
        block = self.block
        block[0] += 1
        block[1] += own_ns
        block[2] += wall_ns
        if block[0] < max(BLOCK, self.level.every):
            return None
        raw = max(block[2] - block[1], 1)
        self.blocks.append((block[1] / raw, raw / block[0]))
        self.block = [0, 0, 0]
        return self._decide() if len(self.blocks) * BLOCK >= WINDOW else None

    def _decide(self) -> Change | None:
        cost, step_ns = (statistics.median(column) for column in zip(*self.blocks, strict=True))
        self.blocks = []
        allowed = max(self.share, LEAST_NS / step_ns)
        if cost > allowed:
            return self._lower(cost, allowed, step_ns)
        self.was_raised = False
        self.waited += 1
        if self.number and cost < ROOM * allowed and self.waited >= self.wait:
            self.was_raised, self.waited = True, 0
            return self._to(self.number - 1, cost, allowed, step_ns)
        return None

    def _lower(self, cost: float, allowed: float, step_ns: float) -> Change | None:
        """Less detail: a level at best halves the cost, so as many at once as are needed in any case."""
        self.wait = min(2 * self.wait, _LONGEST_WAIT) if self.was_raised else self.wait
        self.was_raised, self.waited = False, 0
        last = len(self.levels) - 1
        if self.number == last:
            if self.has_told:
                return None
            self.has_told = True
            return Change(self.level, last, cost, allowed, step_ns, True)
        needed = max(1, math.floor(math.log2(cost / allowed)))
        return self._to(min(self.number + needed, last), cost, allowed, step_ns)

    def _to(self, number: int, cost: float, allowed: float, step_ns: float) -> Change:
        self.number = number
        return Change(self.level, number, cost, allowed, step_ns, False)


class Thinned:
    """Counts the occasions of something that is due now and then, and lets one in so many through."""

    def __init__(self) -> None:
        self.one_in, self._met = 1, 0

    def passes(self) -> bool:
        """Is it this one's turn?"""
        self._met += 1
        return (self._met - 1) % self.one_in == 0


def in_turns(items: Sequence[T], turns: int) -> list[list[T]]:
    """So many parts (fewer where there are fewer items), sizes mixed in each: the items come in order of size."""
    return [list(items[i::turns]) for i in range(min(turns, len(items)))]
