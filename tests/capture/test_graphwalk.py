"""The graph of a loss as records. Oracle: the tensors and numbers that the test itself computes with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from weighbridge.capture import graphwalk
from weighbridge.capture.graphwalk import leaf, picked, saved, walk

N = 6
W = nn.Parameter(torch.linspace(-1, 1, 20).view(4, 5))
X = torch.linspace(-2, 2, N * 4).view(N, 4)
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def _facts(made: torch.Tensor, op: str) -> dict[str, Any]:
    graph, _ = walk([made], {id(W): "w"}, lambda _: "")
    (found,) = [node.facts for node in graph.nodes if node.op == op]
    return found


def _kept(make: Callable[[], torch.Tensor]) -> torch.Tensor:
    with torch.autograd.graph.save_on_cpu():
        return make()


FACTORS: dict[str, tuple[Callable[[], torch.Tensor], dict[str, Any]]] = {
    "a number": (lambda: W * 3.0, {"other_shape": (), "other_least": 3.0, "other_most": 3.0}),
    "a whole number below": (lambda: W / -2, {"other_shape": (), "other_least": -2, "other_most": -2}),
    "a number, as compiled code multiplies": (
        lambda: torch.ops.aten.mul.Scalar(W, 3.0),
        {"other_shape": (), "other_least": 3.0, "other_most": 3.0},
    ),
    "a tensor": (lambda: W * torch.tensor([-1.0, 0, 2, 0, 5]), {"other_shape": (5,), "other_least": -1.0, "other_most": 5.0}),
    "in front": (lambda: torch.tensor([2.0]) * W, {"self_shape": (1,), "self_least": 2.0, "self_most": 2.0}),
    "whole numbers": (lambda: W * torch.tensor([-4, 3, 0, 0, 0]), {"other_shape": (5,), "other_least": -4, "other_most": 3}),
    "not a number": (lambda: W * torch.tensor([float("nan"), 1, 1, 1, 1]), {"other_shape": (5,)}),
    "complex": (lambda: W * torch.tensor([1j]), {"other_shape": (1,)}),
    "nothing": (lambda: W[:0] * torch.ones(0, 5), {"other_shape": (0, 5)}),
    "sparse": (lambda: W.to_sparse() * torch.ones(4, 5).to_sparse(), {"other_shape": (4, 5)}),
    "on another device": (lambda: W.to("meta") * torch.ones(5, device="meta"), {"other_shape": (5,)}),
    "large": (lambda: torch.ones(2**16 + 1) * W.sum(), {"self_shape": (2**16 + 1,)}),
    "not so large": (lambda: torch.ones(2**16) * W.sum(), {"self_shape": (2**16,), "self_least": 1.0, "self_most": 1.0}),
    "kept by hooks": (lambda: _kept(lambda: W * torch.ones(5)), {}),
    "learned": (lambda: W * W[:1].exp(), {"self_shape": (4, 5), "other_shape": (1, 5)}),
}  # fmt: skip


@pytest.mark.parametrize("name", FACTORS)
def test_the_range_of_a_constant_factor_is_told_and_of_no_other(name: str) -> None:
    make, wanted = FACTORS[name]
    made = make()
    op = type(made.grad_fn).__name__.partition("Backward")[0]
    assert _facts(made, op) == wanted


def test_places_from_the_end_are_below_0_and_ranges_in_tuples_too() -> None:
    assert _facts(W.softmax(-1), "Softmax")["dim"] == -1
    assert _facts(W.sum((-1, 0)), "Sum")["dim"] == (-1, 0)
    assert _facts(W.softmax(1), "Softmax")["dim"] == 1
    assert _facts(W.clamp(-0.5, 0.25), "Clamp") == {"min": -0.5, "max": 0.25}
    assert "max" not in _facts(W.clamp(min=-0.5), "Clamp")
    assert _facts(W.clamp(max=1e30), "Clamp")["max"] == 1e30
    assert "exponent" not in _facts(W ** torch.tensor(2.0), "Pow")


def test_nodes_are_in_order_and_parameters_have_names() -> None:
    h = torch.relu(X @ W)
    graph, nodes = walk([h.sum(), h.mean()], {id(W): "w"}, lambda number: f"at {number}")
    assert [node.op for node in graph.nodes] == ["Parameter", "Mm", "Relu", "Sum", "Mean"]
    assert [node.parameter for node in graph.nodes] == ["w", "", "", "", ""]
    assert graph.nodes[1].inputs == (None, (0, 0))
    assert graph.nodes[2].module == f"at {nodes[2]._sequence_nr()}"
    assert graph.nodes[2].shapes == ((N, 5),)
    assert graph.roots == (3, 4)


def test_a_root_without_a_graph_has_no_place() -> None:
    graph, nodes = walk([X, (X @ W).sum()], {}, lambda _: "")
    assert (len(nodes), graph.roots) == (3, (2,))


def test_very_many_ways_are_one_visit_each() -> None:
    h = (X @ W).sum()
    for _ in range(60):
        h = h + 0.5 * h
    assert len(graphwalk.nodes_behind([h])) == 3 + 2 * 60


def test_a_graph_is_taken_down_up_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphwalk, "MOST_NODES", 3)
    assert len(graphwalk.nodes_behind([(X @ W).sum()])) == 3
    with pytest.raises(graphwalk.TooLarge):
        graphwalk.nodes_behind([(X @ W).sum().exp()])


def test_what_is_saved_and_what_is_not() -> None:
    made = torch.relu(X @ W)
    found = saved(made.grad_fn, "result")
    assert found is not None
    assert torch.equal(found, made)
    assert not found.requires_grad
    assert saved(made.grad_fn, "self") is None
    assert saved(_kept(lambda: torch.relu(X @ W)).grad_fn, "result") is None
    made.add_(1)
    assert saved(made.grad_fn.next_functions[0][0], "result") is None  # changed in place since


def test_what_the_backward_pass_has_given_free_is_not_read() -> None:
    made = torch.relu(X @ W)
    node = made.grad_fn
    made.sum().backward()
    assert saved(node, "result") is None


PICKED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "by index": lambda z: z[torch.arange(N), LABELS],
    "gathered": lambda z: z.gather(1, LABELS[:, None]),
    "gathered from the end": lambda z: z.gather(-1, LABELS[:, None]),
}
NOT_PICKED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "several of each": lambda z: z.gather(1, LABELS[:, None].expand(N, 2)),
    "along samples": lambda z: z.gather(0, LABELS[:, None]),
    "along samples, one": lambda z: z.gather(0, LABELS[:1, None]),
    "of a sequence": lambda z: z.view(2, 3, 5).gather(1, LABELS[:2].view(2, 1, 1) % 3),
    "gathered, kept by hooks": lambda z: _kept(lambda: z.gather(1, LABELS[:, None])),
    "by index, kept by hooks": lambda z: _kept(lambda: z[torch.arange(N), LABELS]),
    "rows alone": lambda z: z[LABELS],
    "columns alone": lambda z: z[:, LABELS % 5],
    "a table": lambda z: z[torch.arange(N)[:, None], LABELS[:, None]],
    "rows of a table, columns": lambda z: z[torch.arange(N)[:, None], LABELS],
    "columns of a table": lambda z: z[torch.arange(N), LABELS[:, None]],
    "rows in another order": lambda z: z[torch.arange(N).flip(0), LABELS],
    "every other row": lambda z: z[torch.arange(0, N, 2), LABELS[:3]],
    "one column": lambda z: z[torch.arange(N), torch.tensor([1])],
    "a mask and classes": lambda z: z[torch.arange(N) >= 0, LABELS],
    "a mask of classes": lambda z: z[LABELS, torch.arange(5) < 1],
    "places in 32 bits": lambda z: z[torch.arange(N, dtype=torch.int32), LABELS],
    "classes in 32 bits": lambda z: z[torch.arange(N), LABELS.int()],
    "no index": lambda z: z * 1.0,
    "on another device": lambda z: z.to("meta")[torch.arange(N, device="meta"), LABELS.to("meta")],
}


@pytest.mark.parametrize("name", PICKED)
def test_the_classes_that_are_picked(name: str) -> None:
    found = picked(PICKED[name](X @ W).grad_fn)
    assert found is not None
    assert torch.equal(found, LABELS)


@pytest.mark.parametrize("name", NOT_PICKED)
def test_what_picks_no_class_of_each_sample(name: str) -> None:
    assert picked(NOT_PICKED[name](X @ W).grad_fn) is None


def test_a_parameter_is_given_as_a_node_takes_it() -> None:
    def of(made: torch.Tensor, place: int) -> torch.Tensor | None:
        return leaf(made.grad_fn, place)

    square, b = nn.Parameter(torch.arange(16.0).view(4, 4)), nn.Parameter(torch.zeros(4))
    kernel = nn.Parameter(torch.randn(2, 4, 1))
    for made, wanted in (
        (X @ square, square),
        (X @ square.T, square.T),
        (X @ square.permute(1, 0), square.T),
        (X @ square.T.transpose(0, 1), square),
        (X.double() @ square.double(), square),
        (F.conv1d(X[:, :, None], kernel), kernel),
        (F.conv1d(X[:, :, None], kernel.transpose(0, 1).transpose(0, 1)), kernel),
    ):
        found = of(made, 1)
        assert found is not None
        assert torch.equal(found, wanted)
        assert not found.requires_grad
    assert of(X @ square, 0) is None
    assert of(X @ square.exp(), 1) is None
    assert of(torch.relu(b), 3) is None  # no such input
