"""What to record, and within which bounds."""

from __future__ import annotations

import fnmatch
import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from weighbridge.errors import BadPlan
from weighbridge.records import SAMPLED_ELEMENTS

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def size_in_bytes(text: str | int) -> int:
    """Read a size such as "2 GB" or "512 MiB"; a number is bytes.

    >>> size_in_bytes("2 GB")
    2000000000
    """
    if isinstance(text, int):
        return text
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]+)\s*", text) if isinstance(text, str) else None
    if found is None or found[2].lower() not in _UNITS:
        raise BadPlan(f"{text!r} is not a size. Write a number and a unit, such as '2 GB' or '512 MiB'.")
    return int(float(found[1]) * _UNITS[found[2].lower()])


@dataclass(frozen=True, slots=True)
class Schedule:
    """On which steps something is weighed: any step that one of the three names.

    first       every step below this one
    every       every k-th step; 0 = none
    per_decade  so many steps between 10 and 100, 100 and 1,000, ..., evenly on a log scale (and all below 10); 0 = none

    >>> [s for s in range(12) if Schedule(first=3, every=5).due(s)]
    [0, 1, 2, 5, 10]
    """

    first: int = 0
    every: int = 0
    per_decade: int = 0

    def __post_init__(self) -> None:
        for name in ("first", "every", "per_decade"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise BadPlan(f"Schedule({name}={value!r}): a number of steps is a whole number, 0 or more.")

    def next_due(self, step: int) -> float:
        """The first step from this one on at which something is due; infinity where there is none.

        >>> [Schedule(first=3, every=5).next_due(s) for s in range(7)]
        [0, 1, 2, 5, 5, 5, 10]
        """
        if step < self.first:
            return step
        found = -(-step // self.every) * self.every if self.every else math.inf
        if self.per_decade:
            found = min(found, next_log_spaced(step, self.per_decade))
        return found

    def due(self, step: int) -> bool:
        """Is something to be weighed at this step?"""
        if step < self.first or (self.every and step % self.every == 0):
            return True
        return self.per_decade > 0 and (step < 10 or step in log_spaced(len(str(step)) - 1, self.per_decade))


class Occasions:
    """The steps of a schedule, asked for mostly in their order: the next one is worked out once, not at every step."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self._from, self._at = 0, -1.0  # nothing is due between these two
        self._more = range(0)

    def next_due(self, step: int) -> float:
        """The first step from this one on at which something is due; infinity where there is none."""
        if not self._from <= step <= self._at:
            self._from, self._at = step, self.schedule.next_due(step)
            if step < self._more.stop:
                self._at = min(self._at, max(step, self._more.start))
        return self._at

    def add(self, step: int, number: int) -> None:
        """So many steps from this one on are due as well; those added before are forgotten."""
        self._more = range(step, step + number)
        self._from, self._at = 0, -1.0

    def due(self, step: int) -> bool:
        """Is something due at this step?"""
        return self.next_due(step) == step


EVERY_STEP: Final = Schedule(every=1)
NEVER: Final = Schedule()
When = Schedule | int | bool  # a number: every k-th step
QUANTITIES: Final = ("parameters", "gradients", "updates")  # in the order of their bits in `Plan.rows_due`
HISTOGRAMS: Final = (0, 1, 2, 4)  # by mantissa bits, plus one
SCHEDULED: Final = (*QUANTITIES, "moments", "coherence", "activations", "activation_gradients", "units")
Pattern = str | re.Pattern[str] | Callable[[str], bool]  # a glob, a regular expression, a function of the dotted name


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run records, when, and within which bounds.

    include, exclude      names of tensors and of modules: a glob ("encoder.*"), a compiled regular expression, a function
                          of the name, or several of these; what is excluded is not weighed
    parameters, gradients, updates   when; default every step
    moments               the optimizer's running averages (Adam's two); default 10 steps per decade and every 100th
    coherence             successive gradients of an optimizer compared (their cosine; the gradient noise scale; the factor
                          of clipping by own code), counted in its own steps; default 10 steps per decade and
                          every 500th
    activations, activation_gradients   what modules give, and the loss's gradient by it; default the first 20 steps, then
                          every 10th
    units                 each unit of an output on its own; default 20 steps per decade and every 100th. Without a budget
                          also the 3 steps after a jump of the loss or of a norm, of at most 3 in 200 steps
    histogram             bins in each power of two: 1, 2 or 4 (errors of a quantile up to 33, 20 or 11 %), 0 for none
    sentinel              look for NaN and infinity in what every module gives, at every step
    values                keep the actual numbers of small tensors (architecture decision 15): of those up to 4,096 elements, or
                          up to the number given, on a CPU; of all of them together 16 times as many, in the order of the model
    disk                  limit of the run's folder, e.g. "2 GB"; beyond it the oldest full-resolution ranges give way to
                          buckets
    snapshot              limit of the memory that holds the parameters as they were before the step; beyond it the update
                          of each tensor is weighed on rotating steps only
    budget                share of a training step that weighing may cost, e.g. 0.02; detail is lowered to stay inside it
                          (histograms first, then tensors in turns, then every k-th step) and each change is an event.
                          None: everything of the plan

    "When" is a Schedule, a number k for every k-th step, True for every step or False for never. Raises BadPlan for what
    cannot be read.
    """

    include: Pattern | Sequence[Pattern] = ()
    exclude: Pattern | Sequence[Pattern] = ()
    parameters: When = True
    gradients: When = True
    updates: When = True
    moments: When = Schedule(every=100, per_decade=10)
    coherence: When = Schedule(every=500, per_decade=10)
    activations: When = Schedule(first=20, every=10)
    activation_gradients: When = Schedule(first=20, every=10)
    units: When = Schedule(every=100, per_decade=20)
    histogram: int = 1
    sentinel: bool = True
    values: bool | int = True
    disk: str | int = "2 GB"
    snapshot: str | int = "1 GB"
    budget: float | None = None

    def __post_init__(self) -> None:
        for name in ("disk", "snapshot"):
            if size_in_bytes(getattr(self, name)) < 0:
                raise BadPlan(f"Plan({name}={getattr(self, name)!r}) is negative; a size is 0 or more.")
        for name in SCHEDULED:
            _check_when(name, getattr(self, name))
        if self.histogram not in HISTOGRAMS:
            raise BadPlan(f"Plan(histogram={self.histogram!r}): bins in each power of two are 1, 2 or 4, or 0 for none.")
        if not isinstance(self.values, int) or self.values < 0:
            raise BadPlan(
                f"Plan(values={self.values!r}): write True, False, or up to how many elements a tensor's numbers are kept, "
                "such as 50_000."
            )
        if self.budget is not None and not (type(self.budget) in (int, float) and 0 < self.budget <= 1):
            raise BadPlan(f"Plan(budget={self.budget!r}): a share of a training step is above 0 and at most 1, such as 0.02.")
        for name in ("include", "exclude"):
            _check_patterns(name, getattr(self, name))

    def wants(self, name: str) -> bool:
        """Is the tensor of this dotted name to be weighed? A pattern that meets a module covers all that is in it."""
        names = _with_modules(name)
        included = _as_patterns(self.include)
        if included and not any(_meets(pattern, one) for pattern in included for one in names):
            return False
        return not any(_meets(pattern, one) for pattern in _as_patterns(self.exclude) for one in names)

    def rows_due(self, step: int) -> int:
        """Which rows of parameters are written at this step: bits 1 parameter, 2 gradient, 4 update."""
        return sum(1 << bit for bit, what in enumerate(QUANTITIES) if self.schedule(what).due(step))

    @property
    def is_all_due(self) -> bool:
        """Are parameters, gradients and updates weighed at every step?"""
        return all(self.schedule(what) == EVERY_STEP for what in QUANTITIES)

    def schedule(self, what: str) -> Schedule:
        """When `what` ("parameters", "activations", ...) is weighed.

        >>> Plan(moments=50).schedule("moments")
        Schedule(first=0, every=50, per_decade=0)
        """
        when: When = getattr(self, what)
        if isinstance(when, Schedule):
            return when
        return EVERY_STEP if when is True else NEVER if when is False else Schedule(every=when)

    @property
    def looks_at_units(self) -> bool:
        """Are units ever looked at one by one?"""
        return self.schedule("units") != NEVER != self.schedule("activations")

    @property
    def histogram_bits(self) -> int:
        """Mantissa bits of the histograms; -1 = there is none."""
        return HISTOGRAMS.index(self.histogram) - 1

    @property
    def values_elements(self) -> int:
        """Up to how many elements the numbers of a tensor are kept on sampled steps; 0 = of none."""
        return SAMPLED_ELEMENTS if self.values is True else int(self.values)

    @property
    def disk_bytes(self) -> int:
        """The limit of the run's folder in bytes."""
        return size_in_bytes(self.disk)

    @property
    def snapshot_bytes(self) -> int:
        """The limit of the snapshots in bytes."""
        return size_in_bytes(self.snapshot)


def _check_when(name: str, when: object) -> None:
    is_number = isinstance(when, int) and when >= 0
    if not isinstance(when, Schedule) and not is_number:
        raise BadPlan(
            f"Plan({name}={when!r}) does not say when. Write a number k for every k-th step, True, False, or "
            f"Schedule(first=100, every=10)."
        )


def _check_patterns(name: str, patterns: object) -> None:
    for pattern in _as_patterns(patterns):
        if not isinstance(pattern, str | re.Pattern) and not callable(pattern):
            raise BadPlan(
                f"Plan({name}=...) holds {pattern!r}. Write a glob such as 'encoder.*', re.compile(...), or a function "
                "of the name."
            )


def _as_patterns(patterns: Any) -> tuple[Any, ...]:
    if isinstance(patterns, str | re.Pattern) or callable(patterns):
        return (patterns,)
    return tuple(patterns)


def _with_modules(name: str) -> list[str]:
    """The name and those of the modules around it: a.b.weight, a.b, a; of an output a.b/out: a.b/out, a.b, a."""
    path, slash, _ = name.partition("/")
    parts = path.split(".")
    around = [".".join(parts[:n]) for n in range(len(parts) if slash else len(parts) - 1, 0, -1)]
    return [name, *around]


def _meets(pattern: Any, name: str) -> bool:
    if isinstance(pattern, str):
        return fnmatch.fnmatchcase(name, pattern)
    return bool(pattern.search(name) if isinstance(pattern, re.Pattern) else pattern(name))


# Architecture decision 15. The last bound is ours: a thousand layers of 64 x 64 would otherwise write 49 MB on each such step.
EVERY_STEP_ELEMENTS: Final = 64
EVERY_STEP_MODEL_ELEMENTS: Final = 1_024
EVERY_STEP_UNTIL: Final = 10_000
SAMPLED_MODEL_TENSORS: Final = 16  # of the largest size; 65,536 elements unless the plan says otherwise
SAMPLES_PER_DECADE: Final = 20


def is_sampled_step(step: int) -> bool:
    """Steps 0 to 9, then 20 a decade, evenly on a log scale.

    >>> [s for s in range(30) if is_sampled_step(s)]
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 17, 19, 22, 25, 28]
    """
    return step < 10 or step in log_spaced(len(str(step)) - 1, SAMPLES_PER_DECADE)


def next_log_spaced(step: int, number: int) -> int:
    """The first step from this one on that is below 10 or one of `log_spaced`."""
    if step < 10:
        return step
    decade = len(str(step)) - 1
    return min((one for one in log_spaced(decade, number) if one >= step), default=10 ** (decade + 1))


@functools.cache
def log_spaced(decade: int, number: int) -> frozenset[int]:
    """The steps from 10^decade on, `number` of them, evenly on a log scale up to the next decade."""
    return frozenset(int(10**decade * 10 ** (i / number)) for i in range(number))
