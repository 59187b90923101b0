"""Both ways of asking where tensors lie give the same answers, and see what changed between two questions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from weighbridge.capture import addresses
from weighbridge.capture.addresses import (
    CHANGED,
    DIFFERS,
    DIRECT,
    GATHERED,
    GRADIENT_UNREAD,
    MOVED,
    PLAIN,
    NativeLook,
    TorchLook,
)
from weighbridge.capture.kernel import ITEM, code_of, load_kernel
from weighbridge.capture.snapshots import as_real

WAYS = ["native", "torch"]


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    made = [torch.randn(3, 4), torch.randn(5).double(), torch.randn(2, 2).bfloat16(), torch.tensor(1.5), torch.zeros(0)]
    made += [torch.randn(4, 3).t(), torch.randn(3, dtype=torch.complex64), torch.randn(6)[::2], torch.randn(2, 3, 4).half()]
    return [nn.Parameter(one) for one in made]


REACHED = [PLAIN, PLAIN, PLAIN, PLAIN, PLAIN, DIRECT, DIRECT, GATHERED, PLAIN]


def items_of(asked: list[nn.Parameter]) -> np.ndarray[Any, Any]:
    items = np.zeros(len(asked), ITEM)
    items["count"] = [as_real(p.detach()).numel() for p in asked]
    items["dtype"] = [code_of(as_real(p.detach()).dtype) for p in asked]
    items["parameter"] = [p.data_ptr() for p in asked]
    return items


def ask(way: str, asked: list[nn.Parameter], compared: int = 9) -> tuple[Any, np.ndarray[Any, Any]]:
    items = items_of(asked)
    if way == "torch":
        return TorchLook(load_kernel("torch"), asked, REACHED, items, compared), items
    kernel = load_kernel()
    lent = addresses.lent_to_c()
    if kernel.look is None or not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        pytest.skip("without a C compiler, or with a torch without an exchange table, C asks nothing")
    assert lent is not None, "this torch offers its exchange table, and we do not know how to read it"
    return NativeLook(kernel.look, lent, asked, REACHED, items, compared), items


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_found_where_nothing_changed(way: str) -> None:
    look, _ = ask(way, parameters())
    look(False)
    assert look(False) == 0
    assert not look.state.any()


CHANGES: dict[str, tuple[int, Callable[[nn.Parameter], object], int]] = {
    "in place": (0, lambda p: p.detach().add_(1), DIFFERS),
    "through data: no version says so, the bytes do": (0, lambda p: p.data.add_(1), DIFFERS),
    "other memory": (0, lambda p: setattr(p, "data", p.data.clone()), MOVED),
    "other dtype": (1, lambda p: setattr(p, "data", p.data.float()), MOVED),
    "other size": (1, lambda p: setattr(p, "data", torch.randn(7).double()), MOVED),
    "other memory, other order": (5, lambda p: setattr(p, "data", p.data.clone().contiguous()), MOVED),
    "gathered, in place": (7, lambda p: p.detach().mul_(2), CHANGED),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", CHANGES)
def test_what_changed_since_the_last_question_is_found(way: str, what: str) -> None:
    which, change, expected = CHANGES[what]
    asked = parameters()
    look, items = ask(way, asked)
    copies = [as_real(p.detach()).clone() for p in asked]
    items["snapshot"] = [copy.data_ptr() or 64 for copy in copies]
    look(False)
    kept = asked[which].data  # or the new memory might be the old memory
    change(asked[which])
    assert look(False) & (MOVED | GRADIENT_UNREAD) == expected & MOVED
    assert (look.state[which] & expected) == expected
    assert not np.delete(look.state, which).any()
    del kept


@pytest.mark.parametrize("way", WAYS)
def test_versions_are_asked_where_no_bytes_are_compared(way: str) -> None:
    asked = parameters()
    look, items = ask(way, asked, compared=3)
    copies = [as_real(p.detach()).clone() for p in asked]
    items["snapshot"] = [copy.data_ptr() or 64 for copy in copies]
    look(False)
    for one in asked:
        one.detach().mul_(1)  # a new version of the same bytes
    look(False)
    assert look.state.tolist() == [0] * 3 + [CHANGED] * 6


def test_fewer_elements_in_the_same_memory_are_found_from_c() -> None:
    asked = parameters()
    look, _ = ask("native", asked)
    look(False)
    asked[0].data = asked[0].data[:2]
    assert look(False) & MOVED


@pytest.mark.parametrize("way", WAYS)
def test_gradients_that_can_be_read_where_they_lie_are_attached_and_others_are_named(way: str) -> None:
    asked = parameters()
    for one in asked[1:]:
        one.grad = torch.ones_like(one)
    asked[8].grad = torch.ones(4, 3, 2, dtype=torch.half).permute(2, 1, 0)
    look, items = ask(way, asked)
    items["snapshot"] = 4096
    assert look(True) & GRADIENT_UNREAD
    unread = [i for i, state in enumerate(look.state) if state & GRADIENT_UNREAD]
    assert unread == [5, 6, 7, 8]
    assert items["gradient"][0] == 0
    assert [int(items["gradient"][i]) for i in (1, 2, 3)] == [asked[i].grad.data_ptr() for i in (1, 2, 3)]
    assert items["gradient"][4]  # there is a gradient, without elements
    assert [int(items["gradient_dtype"][i]) for i in (1, 2, 3)] == [code_of(asked[i].dtype) for i in (1, 2, 3)]


@pytest.mark.parametrize("way", WAYS)
def test_a_sparse_gradient_and_one_that_went_away(way: str) -> None:
    asked = parameters()
    asked[0].grad = torch.ones(3, 4).to_sparse()
    look, items = ask(way, asked)
    assert look(True) & GRADIENT_UNREAD
    asked[0].grad = torch.ones(3, 4)
    found = look(True)  # from C it is not asked again: each refusal of torch's costs a millisecond
    assert found & GRADIENT_UNREAD if way == "native" else items["gradient"][0] == asked[0].grad.data_ptr()
    asked[0].grad = None
    assert not look(True) & GRADIENT_UNREAD
    assert items["gradient"][0] == 0


def test_asking_from_c_leaks_no_reference() -> None:
    import sys

    asked = parameters()
    asked[0].grad = torch.ones(3, 4)
    look, _ = ask("native", asked)
    look(True)
    counts = sys.getrefcount(asked[0]), sys.getrefcount(asked[0].grad), sys.getrefcount(None)
    for _ in range(1000):
        look(True)
    after = sys.getrefcount(asked[0]), sys.getrefcount(asked[0].grad), sys.getrefcount(None)
    assert after[:2] == counts[:2]
    assert abs(after[2] - counts[2]) < 100


def test_a_torch_without_the_exchange_table_is_asked_from_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_known", [None])
    asked = parameters()
    assert isinstance(addresses.look_at(load_kernel(), asked, REACHED, items_of(asked)), TorchLook)
