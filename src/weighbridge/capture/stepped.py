"""What is known of one optimizer between its steps, and how its settings are read."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.optim.optimizer import Optimizer

from weighbridge.capture.coherence import Pair
from weighbridge.capture.snapshots import Weighed
from weighbridge.capture.unstepped import Missed
from weighbridge.capture.work import Work

if TYPE_CHECKING:
    from weighbridge.capture.devicework import DeviceWork
    from weighbridge.capture.transfer import DeviceWeigher

_NAN: Final = float("nan")


class Stepped:
    """What is known of one optimizer, and its work per step."""

    def __init__(self, number: int, optimizer: Optimizer) -> None:
        self.number = number
        self.reference = weakref.ref(optimizer)
        self.ids: list[int] = []
        self.lent: dict[int, torch.Tensor] | None = None  # gradients of a step by hand: the parameters' own are gone
        self.tensors: set[int] = set()  # under which its parameters are known
        self.watched = -1  # size of the tensor table when this was prepared
        self.work: Work | None = None
        self.devices: list[DeviceWork | DeviceWeigher] = []  # one for each device with tensors of this optimizer
        self.copies: list[Weighed] = []  # another rank weighs these at every step
        self.told: Any = None  # what the run was told of this optimizer and its groups
        self.pair = Pair()
        self.missed = Missed()
        self.depth = 0
        self.is_inner = False  # this step is part of another optimizer's step over the same parameters
        self.clashes: set[int] = {number}  # optimizers over a parameter of this one: they cannot share a step
        self.count = 0  # steps that this optimizer has taken
        self.own_ns = 0

    @property
    def is_ours(self) -> bool:
        """Does this optimizer step any tensor that is watched?"""
        return self.work is not None or bool(self.devices) or bool(self.copies)


def found_inf_of(optimizer: Optimizer) -> float | torch.Tensor:
    """What a GradScaler tells a fused optimizer while it steps: above 0, it changes nothing. A tensor: a device knows."""
    found = optimizer.__dict__.get("found_inf")
    if found is None:
        return 0.0
    return found if isinstance(found, torch.Tensor) and not found.is_cpu else float(found)


def settings_of(optimizer: Optimizer) -> tuple[list[float], list[float], list[float]]:
    """lr, momentum and weight decay of each parameter group; NaN where a group has none. Never waits for a device."""
    rates, momenta, decays = [], [], []
    for group in optimizer.param_groups:
        get = group.get
        rate, momentum, decay = get("lr"), get("momentum"), get("weight_decay")
        if momentum is None and isinstance(betas := get("betas"), tuple | list) and betas:
            momentum = betas[0]
        rates.append(rate if type(rate) is float else _number(rate))
        momenta.append(momentum if type(momentum) is float else _number(momentum))
        decays.append(decay if type(decay) is float else _number(decay))
    return rates, momenta, decays


_PLAIN: Final = (bool, int, float, str, type(None))


def groups_of(optimizer: Optimizer, tensors: Mapping[int, int]) -> list[dict[str, Any]]:
    """Settings and watched tensors of each parameter group; `tensors`: ids in the run's table by id of the parameter."""
    return [
        {
            "settings": {key: value for key, value in group.items() if key not in _NO_SETTING and _is_plain(value)},
            "tensors": [tensors[id(p)] for p in group["params"] if id(p) in tensors],
        }
        for group in optimizer.param_groups
    ]


_NO_SETTING: Final = ("params", "param_names", "lr", "weight_decay", "momentum")  # the last three: in every row of `steps`


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(isinstance(one, _PLAIN) for one in value)
    return isinstance(value, _PLAIN)


def _number(value: Any) -> float:
    if isinstance(value, torch.Tensor):
        return float(value.detach()) if value.is_cpu and value.numel() == 1 else _NAN
    return float(value) if isinstance(value, Real) else _NAN
