"""How many tensors of a parameter's size an optimizer keeps of each parameter that it has stepped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from weighbridge.diagnosis.stream import Group
from weighbridge.diagnosis.tensors import Tensors

# torch's own, by class. One that is not among them keeps nobody knows what.
KEPT: Final = {"Adam": 2, "AdamW": 2, "NAdam": 2, "RAdam": 2, "Adamax": 2, "Adadelta": 2, "Adagrad": 1, "Muon": 1}
BY_MOMENTUM: Final = {"SGD": 0, "RMSprop": 1}  # and one more where there is any


def tensors_kept(kind: str, settings: Mapping[str, Any], momentum: float | None) -> int | None:
    """Of an optimizer of this class; None: not known, as where its momentum counts and is not known.

    >>> tensors_kept("AdamW", {"amsgrad": True}, None), tensors_kept("SGD", {}, 0.9), tensors_kept("Mine", {}, 0.9)
    (3, 1, None)
    """
    if kind in BY_MOMENTUM:
        return None if momentum is None else BY_MOMENTUM[kind] + bool(settings.get("centered")) + bool(momentum)
    return KEPT[kind] + bool(settings.get("amsgrad")) if kind in KEPT else None


def kept_of_each(groups: Sequence[Group], tensors: Tensors, steps: Sequence[Mapping[str, Any]]) -> dict[str, int | None]:
    """By the name of every parameter that an optimizer holds. steps: rows of the table of steps at one step. One that several
    hold is not known."""
    momenta = {row["optimizer"]: row["momentum"] for row in steps if not row["skipped"]}
    found: dict[str, int | None] = {}
    for group in groups:
        listed = momenta.get(group.optimizer) or ()
        momentum = listed[group.number] if group.number < len(listed) else None
        for name in map(tensors.name, group.columns):
            found[name] = None if name in found else tensors_kept(group.kind, group.settings, momentum)
    return found
