"""Which part of a tensor this process holds, when several train together.

Only this process is asked, never another: a collective in a hook would hang as soon as one rank does not watch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import nn

from weighbridge.capture.plan import Schedule
from weighbridge.records import COPY, LOCAL, REPLICA, SHARD

CHECKSUMS: Final = Schedule(every=100, per_decade=10)  # when a copy that another rank weighs is weighed here too


@dataclass(frozen=True, slots=True)
class Placement:
    """How this process's part lies in the whole tensor (see `records.PLACEMENTS`)."""

    kind: str = LOCAL
    shape: tuple[int, ...] = ()  # of the part; () where it is the whole
    offset: tuple[int, ...] = ()


def is_sharded(tensor: torch.Tensor) -> bool:
    """Is it a DTensor, whose numbers are spread over processes?"""
    return type(tensor) not in (torch.Tensor, nn.Parameter) and hasattr(tensor, "to_local")


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The plain tensor that this process holds, outside autograd."""
    if not is_sharded(tensor):
        return tensor.detach()
    with torch.no_grad():
        part: torch.Tensor = tensor.to_local()  # type: ignore[attr-defined]
        return part.detach()


def is_partial(tensor: torch.Tensor) -> bool:
    """A DTensor whose parts have yet to be added: what lies here is no part of the tensor's numbers."""
    return is_sharded(tensor) and any(placed.is_partial() for placed in tensor.placements)  # type: ignore[attr-defined]


def replicated(model: nn.Module) -> dict[int, int]:
    """Parameters below DistributedDataParallel: object id -> this process's rank among those that hold the same."""
    wrappers: list[Any] = [m for m in model.modules() if type(m).__name__ == "DistributedDataParallel"]
    return {id(p): dist.get_rank(m.process_group) for m in wrappers for p in m.parameters()}


def placement_of(parameter: torch.Tensor, rank_of_replica: int | None, is_alone: bool) -> Placement:
    """Where this parameter's numbers are weighed. `is_alone`: no other process writes into this run."""
    if is_sharded(parameter):
        return _of_mesh(parameter, is_alone)
    if rank_of_replica is None:
        return Placement()
    return Placement(REPLICA if is_alone or rank_of_replica == 0 else COPY)


def _of_mesh(parameter: Any, is_alone: bool) -> Placement:
    here = parameter.device_mesh.get_coordinate()
    shards = [(d, placed) for d, placed in enumerate(parameter.placements) if placed.is_shard()]
    is_first = here is not None and all(
        at == 0 for at, placed in zip(here, parameter.placements, strict=True) if placed.is_replicate()
    )
    if not (is_first or is_alone):
        return Placement(COPY)
    if not shards or here is None:
        return Placement(REPLICA)
    return Placement(SHARD, tuple(local(parameter).shape), _offset(parameter))


def _offset(parameter: Any) -> tuple[int, ...]:
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    return tuple(offset)
