"""Which part of a tensor a rank says that it holds. Oracle: the part that DTensor has cut for it, found in the whole tensor.

torch's own stand-in for a process group makes one process any rank of a group: nothing is sent, and nothing has to be.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from weighbridge.capture.shards import Placement, is_partial, is_sharded, local, placement_of, replicated
from weighbridge.records import COPY, LOCAL, REPLICA, SHARD

ROWS, COLUMNS = 7, 3
WHOLE = torch.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS).float()
GRID = torch.arange(4).reshape(2, 2)


@contextmanager
def one_of(world: int, rank: int) -> Iterator[None]:
    """This process as one rank of so many."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()


def part_of(mesh: DeviceMesh, placements: list[Replicate | Shard]) -> DTensor:
    """The whole tensor, of which every rank keeps its part: no rank asks another for it."""
    here = mesh.get_coordinate()
    part = WHOLE
    for at, size, placed in zip(here or (), mesh.shape, placements, strict=here is not None):
        if isinstance(placed, Shard):
            cut = torch.chunk(part, size, placed.dim)
            part = cut[at] if at < len(cut) else part.narrow(placed.dim, 0, 0)
    shape, stride = WHOLE.shape, WHOLE.stride()
    return DTensor.from_local(part.clone(), mesh, placements, run_check=False, shape=shape, stride=stride)


@pytest.mark.parametrize("rank", range(4))
@pytest.mark.parametrize("is_alone", [False, True])
@pytest.mark.parametrize(
    "placements", [[Replicate(), Shard(0)], [Shard(1), Replicate()], [Shard(0), Shard(1)], [Replicate(), Replicate()]], ids=str
)
def test_every_number_of_a_sharded_tensor_is_weighed_by_one_rank(
    rank: int, is_alone: bool, placements: list[Replicate | Shard]
) -> None:
    with one_of(4, rank):
        parameter = part_of(DeviceMesh("cpu", GRID), placements)
        placed, part = placement_of(parameter, None, is_alone), local(parameter)
    is_a_copy = any(int(at) and isinstance(how, Replicate) for at, how in zip(divmod(rank, 2), placements, strict=True))
    assert is_sharded(parameter)
    assert not is_partial(parameter)
    assert type(part) is torch.Tensor
    if is_a_copy and not is_alone:
        assert placed == Placement(COPY)
    elif all(isinstance(how, Replicate) for how in placements):
        assert placed == Placement(REPLICA)
    else:
        assert placed.kind == SHARD
        assert placed.shape == tuple(part.shape)
        (row, column), (rows, columns) = placed.offset, placed.shape
        assert torch.equal(WHOLE[row : row + rows, column : column + columns], part)


def test_a_rank_outside_the_mesh_holds_nothing_of_its_own() -> None:
    with one_of(4, 3):
        parameter = part_of(DeviceMesh("cpu", torch.arange(2)), [Shard(0)])
        assert placement_of(parameter, None, is_alone=False) == Placement(COPY)
        assert placement_of(parameter, None, is_alone=True) == Placement(REPLICA)  # there are no numbers to say the place of


def test_parts_that_are_not_added_up_are_told_from_those_that_are() -> None:
    with one_of(2, 1):
        mesh = DeviceMesh("cpu", torch.arange(2))
        assert is_partial(DTensor.from_local(torch.ones(2), mesh, [Partial()], run_check=False))
        assert not is_partial(DTensor.from_local(torch.ones(2), mesh, [Shard(0)], run_check=False))
    assert not is_partial(torch.ones(2))


class Named(torch.Tensor):
    """A stranger's kind of tensor, whole in this process."""


def test_a_tensor_of_another_kind_is_whole() -> None:
    parameter = torch.ones(2, 3).as_subclass(Named)
    assert not is_sharded(parameter)
    assert not is_partial(parameter)
    assert placement_of(parameter, None, is_alone=False) == Placement(LOCAL)
    assert local(parameter).data_ptr() == parameter.data_ptr()


@pytest.mark.parametrize(("rank", "is_alone", "kind"), [(0, False, REPLICA), (1, False, COPY), (1, True, REPLICA)])
def test_of_replicas_the_first_is_weighed_or_the_only_one_that_writes(rank: int, is_alone: bool, kind: str) -> None:
    with one_of(2, rank):
        inside, beside = nn.Linear(3, 2), nn.Linear(2, 1)
        model = nn.Sequential(DistributedDataParallel(inside), beside)
        ranks = replicated(model)
    assert ranks == {id(inside.weight): rank, id(inside.bias): rank}
    assert placement_of(inside.weight, ranks[id(inside.weight)], is_alone) == Placement(kind)
    assert placement_of(beside.weight, ranks.get(id(beside.weight)), is_alone) == Placement(LOCAL)
