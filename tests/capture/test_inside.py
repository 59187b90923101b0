"""What is seen of functions inside a forward pass. Oracle: the shares that the test counts in its own numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from weighbridge.capture.inside import Inside

N = 16
torch.manual_seed(0)
X = torch.randn(N, 5)
W, V, U = (nn.Parameter(torch.randn(5, n)) for n in (8, 8, 4))
B, OUT, LAST = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8, 3)), nn.Parameter(torch.randn(4, 3))
IDS = {id(p): i for i, p in enumerate((W, V, U, B, OUT, LAST))}
KERNEL, TALL = nn.Parameter(torch.randn(6, 5, 1)), nn.Parameter(torch.randn(8, 5))
UNWATCHED, SQUARE = nn.Parameter(torch.randn(5, 5)), nn.Parameter(torch.randn(8, 8))
Seen = dict[tuple[int, str], float]


def _seen(root: torch.Tensor, inside: Inside | None = None, made: dict[int, object] | None = None) -> Seen:
    """By number of a weight and function: the share of its numbers that are flat."""
    inside = inside or Inside(lambda p: IDS.get(id(p)))
    inside.on_backward(root, made or {})
    return {(row[2], row[-4]): row[-3] for row in inside.rows(0, 0)}


def _share(flat: torch.Tensor) -> float:
    return float(flat.double().mean())


FUNCTIONS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]] = {
    "relu": (torch.relu, lambda x: x <= 0),
    "tanh": (torch.tanh, lambda x: 1 - x.tanh() ** 2 < 1e-2),
    "sigmoid": (torch.sigmoid, lambda x: x.sigmoid() * (1 - x.sigmoid()) < 1e-2),
    "gelu": (F.gelu, lambda x: x < -4.1),
    "silu": (F.silu, lambda x: x < -9.2),
    "hardtanh": (lambda x: x.clamp(-1, 1), lambda x: x.abs() >= 1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_share_at_which_a_function_is_flat(name: str) -> None:
    function, is_flat = FUNCTIONS[name]
    given = 6 * (X @ W + B)
    assert 0.05 < _share(is_flat(given)) < 0.95
    assert _seen((function(given) @ OUT).sum()) == {(0, name): pytest.approx(_share(is_flat(given)))}


SEEN: dict[str, tuple[Callable[[], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]] = {
    "x @ w.T": (lambda: torch.relu(X @ W.T.T) @ OUT, lambda h: h),
    "F.linear": (lambda: F.linear(torch.relu(X @ W), OUT.T), lambda h: h),
    "addmm": (lambda: torch.addmm(torch.zeros(3), torch.relu(X @ W), OUT), lambda h: h),
    "bmm": (lambda: torch.bmm(torch.relu(X @ W)[None], OUT[None]), lambda h: h),
    "baddbmm": (lambda: torch.baddbmm(torch.zeros(1, 1, 3), torch.relu(X @ W)[None], OUT[None]), lambda h: h),
    "mv": (lambda: torch.relu(X @ W) @ OUT[:, 0], lambda h: h),
    "addmv": (lambda: torch.addmv(torch.zeros(N), torch.relu(X @ W), OUT[:, 0]), lambda h: h),
    "convolution": (lambda: F.conv1d(torch.relu(X @ W)[:, :, None], OUT.T[:, :, None]), lambda h: h),
    "behind a bias": (lambda: torch.relu(B + X @ W) @ OUT, lambda h: h + B),
    "behind a weight that is not watched": (lambda: torch.relu(X @ W @ SQUARE) @ OUT, lambda h: h @ SQUARE),
    "where ways part and meet again and again": (lambda: _doubled(torch.relu(X @ W) @ OUT), lambda h: h),
    "in a residual": (lambda: (X @ V + torch.relu(X @ W)) @ OUT, lambda h: h),
    "eleven operations from its weight": (lambda: torch.relu(_often(X @ W, 9)) @ OUT, lambda h: h),
}


@pytest.mark.parametrize("name", SEEN)
def test_it_is_told_of_the_weight_behind_it(name: str) -> None:
    make, given = SEEN[name]
    assert _seen(make().sum()) == {(0, "relu"): pytest.approx(_share(given(X @ W) <= 0))}


def _often(h: torch.Tensor, times: int) -> torch.Tensor:
    for _ in range(times):
        h = h * 1.0
    return h


def _doubled(h: torch.Tensor) -> torch.Tensor:
    for _ in range(60):  # 2^60 ways
        h = h + 0.5 * h
    return h


def _changed(h: torch.Tensor) -> torch.Tensor:
    h.add_(1.0)
    return h


def _kept(make: Callable[[], torch.Tensor]) -> torch.Tensor:
    with torch.autograd.graph.save_on_cpu():
        return make()


def _meta() -> torch.Tensor:
    """Another device."""
    w = nn.Parameter(W.detach().to("meta"))
    IDS[id(w)] = 6
    META.append(w)
    return torch.relu(X.to("meta") @ w) @ OUT.detach().to("meta")


META: list[nn.Parameter] = []  # kept: an id is that of a tensor only while it lives
NOT: dict[str, Callable[[], torch.Tensor]] = {
    "no graph": lambda: torch.zeros(2),
    "the end of a network": lambda: torch.relu(X @ W),
    "no weight": lambda: torch.relu(X.clone().requires_grad_()) @ LAST[:, :1].new_ones(5, 1),
    "a weight that is not watched": lambda: torch.relu(X @ UNWATCHED) @ UNWATCHED,
    "far from its weight": lambda: torch.relu(_often(X @ W, 12)) @ OUT,
    "a closed gate": lambda: (torch.sigmoid(X @ W - 9) * V.sum(0)) @ OUT,
    "a closed gate that is reshaped": lambda: (torch.sigmoid(X @ W - 9).view(2, 8, 8) * V.sum(0)).view(N, 8) @ OUT,
    "cut off at one side": lambda: (X @ W).clamp(max=0.1) @ OUT,
    "one vector": lambda: torch.relu(X[0] @ W) @ OUT,
    "an empty batch": lambda: torch.relu(X[:0] @ W) @ OUT,
    "complex numbers": lambda: torch.tanh(X.cfloat() @ W.cfloat()).abs() @ OUT,
    "another device": _meta,
    "changed in place since": lambda: _changed(torch.relu(X @ W)) @ OUT,
    "kept by hooks": lambda: _kept(lambda: torch.relu(X @ W)) @ OUT,
    "behind very many operations": lambda: _often(torch.relu(X @ W) @ OUT, 4_200),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT)
def test_nothing_is_told_of_what_is_not_certain(name: str) -> None:
    assert _seen(NOT[name]().sum()) == {}


@pytest.mark.parametrize(
    "use", [lambda h: h.view(4, 4, 8) @ OUT, lambda h: (h @ OUT) * X.sum()], ids=["reshaped", "a product behind"]
)
def test_what_is_closed_and_no_gate_is_told(use: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert _seen(use(torch.sigmoid(X @ W - 30)).sum()) == {(0, "sigmoid"): 1.0}


def test_a_function_belongs_to_the_weight_in_front_of_it_and_to_no_earlier_one() -> None:
    h = torch.tanh(X @ W)
    root = (torch.relu(h * 1.0) @ OUT).sum()
    assert _seen(root) == {(0, "tanh"): pytest.approx(_share(1 - h**2 < 1e-2))}


def test_what_an_output_of_a_module_goes_through_is_left_to_its_hook() -> None:
    made = X @ W
    root = (torch.relu(made) @ OUT).sum()
    assert made.grad_fn is not None
    assert _seen(root, made={made.grad_fn._sequence_nr(): "a module"}) == {}
    assert set(_seen(root)) == {(0, "relu")}


def test_several_calls_with_one_weight_count_alike_however_their_results_are_used() -> None:
    one, other = X @ W, 3 * X.abs() @ W
    h = torch.relu(one)
    root = ((h * X.sum() + h + torch.relu(other)) @ OUT).sum()
    assert _seen(root) == {(0, "relu"): pytest.approx((_share(one <= 0) + _share(other <= 0)) / 2)}


def test_of_calls_of_different_widths_the_first_that_is_met_counts() -> None:
    one, other = X @ TALL.T, torch.randn(N, 8) @ TALL
    IDS[id(TALL)] = 7
    found = _seen((torch.relu(one) @ OUT).sum() + (torch.relu(other) @ UNWATCHED).sum())[7, "relu"]
    assert found in (pytest.approx(_share(one <= 0)), pytest.approx(_share(other <= 0)))


def test_of_several_passes_of_a_step_the_first_counts() -> None:
    inside = Inside(lambda p: IDS.get(id(p)))
    inside.on_backward((torch.relu(X @ W) @ OUT).sum(), {})
    assert _seen((torch.relu(X @ W - 100) @ OUT).sum(), inside) == {(0, "relu"): pytest.approx(_share(X @ W <= 0))}
    assert _seen((torch.relu(X @ W - 100) @ OUT).sum(), inside) == {(0, "relu"): 1.0}


@pytest.mark.parametrize(("vain", "is_looked_at"), [(2, True), (3, False)])
def test_a_model_in_which_nothing_is_found_is_not_walked_again(vain: int, is_looked_at: bool) -> None:
    inside = Inside(lambda p: IDS.get(id(p)))
    for _ in range(vain):
        assert _seen((X @ W).sum(), inside) == {}
    assert bool(_seen((torch.relu(X @ W) @ OUT).sum(), inside)) is is_looked_at
    for _ in range(3):
        _seen((X @ W).sum(), inside)
    assert bool(_seen((torch.relu(X @ W) @ OUT).sum(), inside)) is is_looked_at


def test_so_many_functions_are_told_of_and_no_more() -> None:
    weights = [nn.Parameter(torch.randn(5, 5)) for _ in range(70)]
    ids, h = {id(p): i for i, p in enumerate(weights)}, X
    for w in weights:
        h = torch.relu(h) @ w
    assert len(_seen(torch.relu(h).sum(), Inside(lambda p: ids.get(id(p))))) == 64


def test_rows_say_how_many_samples_and_units_were_looked_at() -> None:
    inside = Inside(lambda p: IDS.get(id(p)))
    inside.on_backward((torch.relu(X @ W) @ OUT).sum(), {})
    ((step, attempt, tensor, samples, positions, units, *rest, dead, asleep),) = inside.rows(7, 2)
    assert (step, attempt, tensor, samples, positions, units) == (7, 2, 0, N, 0, 8)
    assert all(math.isnan(x) for x in (*rest[:3], *rest[4:6], rest[6]))
    flat = (X @ W <= 0).double().mean(0)
    assert (dead, asleep) == (_share(flat > 0.95), _share(flat == 1))
