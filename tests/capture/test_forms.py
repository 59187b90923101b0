"""In which form the numbers of a tensor lie, and which of them can be weighed. Oracle: where each element lies, by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Shard

from tests.capture.test_placements import one_of
from weighbridge.capture.snapshots import as_real, in_windows, is_dense, why_not


def emptied(tensor: torch.Tensor) -> torch.Tensor:
    """As FSDP leaves a parameter between its uses."""
    tensor.untyped_storage().resize_(0)
    return tensor


KINDS: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
    "float": (lambda: torch.ones(2, 3), ""),
    "half": (lambda: torch.ones(2, dtype=torch.float16), ""),
    "complex": (lambda: torch.ones(2, dtype=torch.complex64), ""),
    "conjugate": (lambda: torch.ones(2, dtype=torch.complex64).conj(), ""),
    "no elements": (lambda: torch.ones(0, 3), ""),
    "one element": (lambda: torch.tensor(1.0), ""),
    "a slice": (lambda: torch.ones(4, 6)[:, ::2], ""),
    "integers": (lambda: torch.ones(2, dtype=torch.int32), "int32: counted, not weighed"),
    "booleans": (lambda: torch.ones(2, dtype=torch.bool), "bool: counted, not weighed"),
    "lazy": (lambda: nn.LazyLinear(2).weight, "not initialised before its first forward"),
    "meta": (lambda: torch.ones(2, device="meta"), "on the meta device: it has no numbers"),
    "emptied": (lambda: emptied(torch.ones(2)), "its memory is given back: not weighed"),
    "sparse": (lambda: torch.eye(2).to_sparse(), "layout sparse_coo: not weighed"),
    "sparse without elements": (lambda: torch.ones(0).to_sparse(), "layout sparse_coo: not weighed"),
    "eight bits": (lambda: torch.ones(2).to(torch.float8_e4m3fn), "float8_e4m3fn: not weighed yet"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_why_a_tensor_is_not_weighed_is_told_in_words(kind: str) -> None:
    made, told = KINDS[kind]
    assert why_not(made()) == told


def test_of_a_sharded_tensor_its_part_is_asked() -> None:
    with one_of(2, 1):
        mesh = DeviceMesh("cpu", torch.arange(2))
        of = lambda part, how: DTensor.from_local(part, mesh, [how], run_check=False)
        assert why_not(of(torch.ones(2), Shard(0))) == ""
        assert why_not(of(emptied(torch.ones(2)), Shard(0))) == "its memory is given back: not weighed"
        assert why_not(of(torch.ones(2), Partial())) == "its parts are not added up yet (DTensor, Partial): not weighed"
    assert not dist.is_initialized()


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (1, 3), (3, 1, 2), (2, 1), ()], ids=str)
def test_a_tensor_is_dense_where_its_elements_are_all_that_lies_between_first_and_last(shape: tuple[int, ...]) -> None:
    whole = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    views = [whole.permute(order) for order in itertools.permutations(range(whole.dim()))]
    views += [view[..., ::2] for view in views if view.dim()] + [view[1:] for view in views if view.dim()]
    views += [view[..., :1].expand(*view.shape[:-1], 3) for view in views if view.dim()]
    for view in filter(torch.Tensor.numel, views):
        offsets = [sum(at * stride for at, stride in zip(place, view.stride(), strict=True)) for place in places(view.shape)]
        assert is_dense(view) == (sorted(offsets) == list(range(len(offsets)))), (view.shape, view.stride())


def places(shape: torch.Size) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, shape)))


def test_complex_numbers_are_weighed_as_pairs_and_marks_are_carried_out() -> None:
    numbers = torch.tensor([1 + 2j, 3 - 4j])
    assert as_real(numbers).tolist() == [[1, 2], [3, -4]]
    assert as_real(numbers.conj()).tolist() == [[1, -2], [3, 4]]
    assert as_real(numbers.conj().imag).tolist() == [-2, 4]
    assert as_real(torch.ones(2)).tolist() == [1, 1]


@pytest.mark.parametrize("small", [0, 2])
@pytest.mark.parametrize("budget", [0, 3, 10, 11, 12, 13, 20, 30, 60])
def test_copies_taken_in_turns_fit_and_each_is_taken_once_that_can_be(small: int, budget: int) -> None:
    sizes = [1, 2, 8, 9, 9, 10, 11]
    windows = in_windows(sizes, small, budget)
    room = budget - sum(sizes[:small])
    large = [window[small:] for window in windows]
    assert all(window[:small] == list(range(small)) for window in windows)
    assert [i for window in large for i in window] == [i for i in range(small, len(sizes)) if sizes[i] <= room]
    assert all(sum(sizes[i] for i in window) <= max(room, 0) for window in large)
    for window, then in itertools.pairwise(large):  # no more turns than needed, in this order
        assert window
        assert sum(sizes[i] for i in window) + sizes[then[0]] > room
