"""Where two runs part, to the last bit: the first step at which anything that both have recorded is another number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from weighbridge.catalog import parse
from weighbridge.errors import NothingRecorded
from weighbridge.format import count, counted
from weighbridge.store.record import RunRecord, Tensor
from weighbridge.store.views import HeatMap, Series

PARAMETERS: Final = ("parameter.sum", "parameter.l2_norm", "parameter.min", "parameter.max")
UPDATES: Final = ("update.sum", "update.l2_norm")
GRADIENTS: Final = ("gradient.sum", "gradient.l2_norm")
MAPS: Final = (("gradients", "gradient.rms"), ("outputs", "activation.rms"))  # of what is weighed at every step
COLUMNS: Final = 256  # of a look at all steps
LOOKS: Final = 40  # at parts of them, until the step is found
NAMED: Final = 3
OTHER_GRADIENTS: Final = (
    "differ while the weights are the same: other data, another loss, or chance inside the model (dropout)."
)
SAME_GRADIENTS: Final = (
    "are still the same and the updates are not: the optimizer was set differently (learning rate, decay, momentum, clipping)."
)


def common(records: Sequence[RunRecord]) -> list[Any]:
    """The tensors of the first run that all others have with the same shape, too."""
    others = [{(t.name, t.shape) for t in record.tensors} for record in records[1:]]
    return [t for t in records[0].tensors if all((t.name, t.shape) in other for other in others)]


def parting(a: RunRecord, b: RunRecord) -> dict[str, Any]:
    """The first step at which they differ in any bit of what both have recorded.

    `kind`: "never" (the same over all common steps), "start" (other weights from the first step on), "step" or "numbers"; then
    `step` is the one whose update made the difference, `tensors` those that it changed differently, `gradients` whether their
    gradients differed too; or, of "numbers", the one at which `others` differed (losses, metrics, gradients, outputs) while
    the weights were the same up to `weights`. `compared`: how many numbers but weights both have, and of which it could not be
    found out in LOOKS looks whether they are the same.
    """
    found = _weights(a, b)
    compared = {"losses": _is_told(a) and _is_told(b), "metrics": len(_metrics(a, b)), "unknown": list[str]()}
    told = {**found, "others": [], "weights": None, "compared": compared, "alone": _alone(a, b)}
    if found["kind"] not in ("never", "step"):
        return told
    # What was logged behind the last update bears the number of the step that would come next.
    others, compared["unknown"] = _others(a, b, found["step"] + 2 if found["kind"] == "never" else found["step"])
    if not others:
        return told
    first = min(step for _, step in others)
    names = [name for name, step in others if step == first]
    return {**told, "kind": "numbers", "step": first, "others": names, "weights": found["step"], "tensors": []}


def _weights(a: RunRecord, b: RunRecord) -> dict[str, Any]:
    """The same of the sums of weights alone, found by halving: runs that have parted stay so."""
    shared = [t.name for t in common([a, b])]
    first, stop = max(a.first_step, b.first_step, 0), min(a.steps, b.steps)
    if not shared or stop <= first:
        return {"kind": "nothing in common", "step": first, "tensors": [], "of": len(shared), "gradients": False}
    if not _differing(a, b, shared, stop - 1, PARAMETERS):
        later = _differing(a, b, shared, stop - 1, UPDATES)  # the very last update
        if not later:
            return {"kind": "never", "step": stop - 1, "tensors": [], "of": len(shared), "gradients": False}
        return _parted(a, b, shared, stop - 1, later)
    low, high = first, stop - 1  # they differ at `high`
    while low < high:
        middle = (low + high) // 2
        if _differing(a, b, shared, middle, PARAMETERS):
            high = middle
        else:
            low = middle + 1
    if low == first:
        differing = _differing(a, b, shared, first, PARAMETERS)
        return {"kind": "start", "step": first, "tensors": differing, "of": len(shared), "gradients": True}
    return _parted(a, b, shared, low - 1, _differing(a, b, shared, low, PARAMETERS))


def said(found: Mapping[str, Any]) -> dict[str, str]:
    """Where and how two runs part, in words: a headline, and what it says of the cause."""
    of, named, step = found["of"], len(found["tensors"]), count(found["step"])
    which = f"all {of} tensors" if named == of else f"{named} of {of} tensors"
    match found["kind"]:
        case "never":
            title = f"The same{' weights' * bool(found['compared']['unknown'])} to the last bit"
            text = f"All {of} tensors have the very same sums in both runs, up to step {step}{_also(found)}."
        case "nothing in common":
            title = "No tensor and step in common"
            text = "Their tensors have other names or shapes, so only losses and settings can be set side by side."
        case "start":
            title = "They differ from the first step"
            text = f"{which.capitalize()} start with other values: another seed, another start, or another model."
        case "numbers":
            title = f"They part at step {step}, in {_listed(found['others'])}, not in weights"
            text = "Until then every recorded number is the same to the last bit. The weights are the same up to step "
            text += f"{count(found['weights'])}: what differs is data, the loss, chance inside the model, or what was measured."
        case _:
            title = f"They part at step {step}, in {which}{' at once' if named == of else ''}"
            text = "Until then every recorded number is the same to the last bit. At this step the gradients "
            text += OTHER_GRADIENTS if found["gradients"] else SAME_GRADIENTS
    alone = f" Logged in one of them only: {_listed(found['alone'])}." if found["alone"] else ""
    return {"title": title, "text": text + alone}


def _also(found: Mapping[str, Any]) -> str:
    """What else is the same, where all is."""
    told = found["compared"]
    same = " and ".join(name for name, _ in MAPS if name not in told["unknown"])
    parts = [same] * bool(same) + ["all losses"] * told["losses"]
    parts += [counted(told["metrics"], "logged metric")] * bool(told["metrics"])
    left = f". Whether {' and '.join(told['unknown'])} are the same was not found out" if told["unknown"] else ""
    return f"{'; so are ' * bool(parts)}{', '.join(parts)}{left}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def _parted(a: RunRecord, b: RunRecord, shared: Sequence[str], step: int, tensors: list[str]) -> dict[str, Any]:
    gradients = bool(_differing(a, b, shared, step, GRADIENTS))
    return {"kind": "step", "step": step, "tensors": tensors, "of": len(shared), "gradients": gradients}


def _differing(a: RunRecord, b: RunRecord, shared: Sequence[str], step: int, statistics: Sequence[str]) -> list[str]:
    """The tensors of which one of these statistics differs at this step; what neither recorded is no difference."""
    rows = [_by_name(record, record.at_step(step, statistics), shared) for record in (a, b)]
    return [name for name, one, two in zip(shared, *rows, strict=True) if not np.array_equal(one, two, equal_nan=True)]


def _by_name(record: RunRecord, told: Mapping[str, np.ndarray], shared: Sequence[str]) -> np.ndarray:
    place = {t.name: i for i, t in enumerate(record.tensors)}
    return np.array([column[[place[name] for name in shared]] for column in told.values()]).T


# ---- all but the weights ----


def _is_told(record: RunRecord) -> bool:
    return bool(np.isfinite(record.losses().values).any())


def _metrics(a: RunRecord, b: RunRecord) -> list[str]:
    return sorted({*a.log_keys()} & {*b.log_keys()})


def _alone(a: RunRecord, b: RunRecord) -> list[str]:
    return sorted({*a.log_keys()} ^ {*b.log_keys()})


def _others(a: RunRecord, b: RunRecord, stop: int) -> tuple[list[tuple[str, int]], list[str]]:
    """What differs before step `stop`, each with the first step at which it does; and of what it is not known."""
    found, unknown = list[tuple[str, int]](), list[str]()
    pairs = [("the loss", a.losses(), b.losses())]
    for key in _metrics(a, b):
        try:
            pairs.append((key, a.logged(key), b.logged(key)))
        except NothingRecorded:
            continue
    for name, one, two in pairs:
        if (step := _first_other(one, two, stop)) is not None:
            found.append((name, step))
    for name, statistic in MAPS:
        look = _Look(a, b, statistic)
        if (step := look.first(0, stop)) is not None:
            found.append((name, step))
        elif not look.is_over:
            unknown.append(name)
    return found, unknown


def _first_other(one: Series, two: Series, stop: int) -> int | None:
    """The first step before `stop` that both have, with other values."""
    steps, at, to = np.intersect1d(one.steps, two.steps, return_indices=True)
    left, right = one.values[at], two.values[to]
    differing = steps[~((left == right) | (np.isnan(left) & np.isnan(right))) & (steps < stop)]
    return int(differing[0]) if len(differing) else None


@dataclass(slots=True)
class _Look:
    """One statistic of both runs, looked at in ranges of steps that become narrower. Least and greatest of a range do not
    depend on how it was cut or compacted."""

    a: RunRecord
    b: RunRecord
    statistic: str
    left: int = field(default_factory=lambda: LOOKS)  # looks
    is_over: bool = True  # every range that differs was looked into

    def first(self, low: int, high: int) -> int | None:
        """The first step at which any tensor of both has another value; None = at none, if `is_over`."""
        maps = self._maps(low, high)
        if maps is None:
            return None
        one, two = maps
        for first, last in zip(*_differing_ranges(one, two), strict=True):
            if first == last:
                return int(first)
            found = self.first(int(first), int(last) + 1)
            if found is not None:
                return found
        return None

    def _maps(self, low: int, high: int) -> tuple[HeatMap, HeatMap] | None:
        if high <= low:
            return None
        self.left -= 1
        if self.left < 0:
            self.is_over = False
            return None
        mine, its = self._common()
        if not mine:
            return None
        one = self.a.heat_map(self.statistic, COLUMNS, low, high, mine)
        two = self.b.heat_map(self.statistic, COLUMNS, low, high, its)
        if not np.array_equal(one.step_first, two.step_first):
            self.is_over = False
            return None
        return one, two

    def _common(self) -> tuple[list[Tensor], list[Tensor]]:
        quantity = parse(self.statistic)[0]
        others = {(t.name, t.shape): t for t in self.b.tensors_of(quantity)}
        mine = [t for t in self.a.tensors_of(quantity) if (t.name, t.shape) in others]
        return mine, [others[t.name, t.shape] for t in mine]


def _differing_ranges(one: HeatMap, two: HeatMap) -> tuple[np.ndarray, np.ndarray]:
    """First and last step of those in which both have something, and not the same."""
    both = ~np.isnan(one.bad) & ~np.isnan(two.bad)
    pairs = ((one.min, two.min), (one.max, two.max), (one.bad, two.bad))
    alike = np.logical_and.reduce([(x == y) | (np.isnan(x) & np.isnan(y)) for x, y in pairs])
    columns = (both & ~alike).any(axis=0)
    return one.step_first[columns], one.step_last[columns]
