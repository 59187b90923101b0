"""Sizes along layers that are no modules. Oracle: the same forward pass by hand, with autograd asked for each product."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from weighbridge.capture.alongdepth import KIND

Product = Callable[[torch.Tensor, nn.Parameter], torch.Tensor]
PRODUCTS: dict[str, Product] = {
    "x @ w": lambda x, w: x @ w,
    "w @ x": lambda x, w: (w @ x.T).T,
    "x @ w.T": lambda x, w: x @ w.T,
    "linear": lambda x, w: F.linear(x, w),
    "linear with a bias": lambda x, w: F.linear(x, w, torch.ones(5)),
    "einsum": lambda x, w: torch.einsum("bi,ij->bj", x, w),
    "convolution": lambda x, w: F.conv1d(x[:, :, None], w[:, :, None]).squeeze(2),
}


class Hidden(nn.Module):
    """Weights that no module of its own holds. Notes what each product takes and gives."""

    def __init__(self, product: Product, depth: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.product = product
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(5, 5)) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.taken, self.given = [], []
        for weight in self.weights:
            self.taken.append(x)
            y = self.product(x, weight)
            self.given.append(y)
            x = torch.tanh(y)
        return x


class Again(nn.Module):
    """One layer, called in a loop."""

    def __init__(self, times: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.times = nn.Linear(5, 5), times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.taken, self.given = [], []
        for _ in range(self.times):
            self.taken.append(x)
            self.given.append(self.layer(x))
            x = torch.tanh(self.given[-1])
        return x


def recorded(
    model: nn.Module, folder: Path, back: Callable[[torch.Tensor], None] = torch.Tensor.backward
) -> list[dict[str, Any]]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with weighbridge.init(dir=folder, name="run", quiet=True) as run:
        run.watch(model)
        for _ in range(2):
            optimizer.zero_grad()
            back(model(batch()).square().mean())
            optimizer.step()
    return [json.loads(row["detail"]) for row in run_events(run.path) if row["kind"] == KIND]


def run_events(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = weighbridge.open_run(path).whole("events").to_pylist()
    return rows


def batch() -> torch.Tensor:
    return torch.linspace(-1, 2, 15).reshape(3, 5)


def truth(model: Any) -> tuple[list[float], list[float]]:
    """rms of what each product takes, norm of the loss's gradient by what it gives."""
    loss = model(batch()).square().mean()
    gradients = torch.autograd.grad(loss, model.given)
    return [float(x.detach().square().mean().sqrt()) for x in model.taken], [float(g.norm()) for g in gradients]


@pytest.mark.parametrize("kind", PRODUCTS)
def test_products_with_parameters_of_no_module_have_their_sizes(tmp_path: Path, kind: str) -> None:
    model = Hidden(PRODUCTS[kind], 4)
    sizes, norms = truth(model)
    (event,) = recorded(model, tmp_path)
    assert event["parameters"] == [f"weights.{i}" for i in range(4)]
    assert event["sizes"] == pytest.approx(sizes, rel=1e-5)
    assert event["norms"] == pytest.approx(norms, rel=1e-5)


def test_a_layer_called_in_a_loop_has_one_size_a_call(tmp_path: Path) -> None:
    model = Again(4)
    sizes, norms = truth(model)
    (event,) = recorded(model, tmp_path)
    assert event["parameters"] == ["layer.weight"] * 4
    assert event["sizes"] == pytest.approx(sizes, rel=1e-5)
    assert event["norms"] == pytest.approx(norms, rel=1e-5)


def test_modules_show_their_depth_themselves(tmp_path: Path) -> None:
    layers = [layer for _ in range(5) for layer in (nn.Linear(5, 5), nn.Tanh())]
    assert not recorded(nn.Sequential(*layers), tmp_path)


@pytest.mark.parametrize("depth", [2, 3])
def test_two_products_are_no_depth(tmp_path: Path, depth: int) -> None:
    assert len(recorded(Hidden(PRODUCTS["x @ w"], depth), tmp_path)) == (depth == 3)


def test_products_side_by_side_are_no_depth(tmp_path: Path) -> None:
    class Wide(Hidden):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x @ weight for weight in self.weights]).sum(0)

    assert not recorded(Wide(PRODUCTS["x @ w"], 4), tmp_path)


def test_of_very_many_products_none_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weighbridge.capture.alongdepth.MOST", 5)
    (tmp_path / "more").mkdir()
    assert len(recorded(Hidden(PRODUCTS["x @ w"], 5), tmp_path)) == 1
    assert not recorded(Hidden(PRODUCTS["x @ w"], 6), tmp_path / "more")


def test_a_pass_that_goes_through_a_part_only_has_no_sizes(tmp_path: Path) -> None:
    model = Hidden(PRODUCTS["x @ w"], 4)
    assert not recorded(model, tmp_path, lambda loss: loss.backward(inputs=list(model.weights)[2:]))


def test_products_with_what_is_no_parameter_are_not_counted(tmp_path: Path) -> None:
    """Attention's q k^T, say: both factors were made."""

    class Made(Hidden):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(4):
                x = torch.tanh(x @ (x.T @ x))
            return x @ self.weights[0]

    assert not recorded(Made(PRODUCTS["x @ w"], 1), tmp_path)


def test_what_a_checkpoint_keeps_is_not_asked_for(tmp_path: Path) -> None:
    class Kept(Hidden):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.utils.checkpoint.checkpoint(self.inside, x, use_reentrant=False)

        def inside(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return super().forward(x)

    model = Kept(PRODUCTS["x @ w"], 4)
    assert not recorded(model, tmp_path)
    assert model.calls == 4  # two steps, each forward and backward


def test_an_empty_batch_has_no_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.capture.test_alongdepth.batch", lambda: torch.zeros(0, 5))
    assert not recorded(Hidden(PRODUCTS["x @ w"], 4), tmp_path)
