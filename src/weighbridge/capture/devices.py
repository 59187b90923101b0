"""Where the tensors of an optimizer lie, and who weighs them there."""

from __future__ import annotations

from collections.abc import Callable

import torch

from weighbridge.capture.budget import Level
from weighbridge.capture.devicetable import has_triton
from weighbridge.capture.devicework import DeviceWork
from weighbridge.capture.plan import Plan
from weighbridge.capture.snapshots import EIGHT_BITS, Weighed
from weighbridge.capture.transfer import DeviceWeigher


def is_direct(tensor: torch.Tensor) -> bool:
    """Does it lie in the host's memory, where the CPU's kernel reads it?"""
    return tensor.device.type == "cpu"


def works_on_devices(
    weighed: list[Weighed], plan: Plan, level: Level, tell: Callable[[str], None], has_copies: bool = True
) -> list[DeviceWork | DeviceWeigher]:
    """One for each device: with Triton's kernels on cuda, where Triton is there, else with torch operations."""
    by_device: dict[torch.device, list[Weighed]] = {}
    for one in weighed:
        by_device.setdefault(one.parameter.device, []).append(one)
    return [_work_on(device, mine, plan, level, tell, has_copies) for device, mine in by_device.items()]


def _work_on(
    device: torch.device, weighed: list[Weighed], plan: Plan, level: Level, tell: Callable[[str], None], has_copies: bool
) -> DeviceWork | DeviceWeigher:
    if device.type != "mps" and has_triton():
        return DeviceWork(weighed, plan, level, has_copies)
    return DeviceWeigher([w for w in weighed if w.parameter.dtype not in EIGHT_BITS], tell)
