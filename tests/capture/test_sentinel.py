"""Oracle: programs in which the test itself puts NaN or infinity into one place, so that the origin is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import weighbridge
from tests.capture.oracle import table
from weighbridge.records import Quantity

ACTIVATION, GRADIENT = int(Quantity.ACTIVATION), int(Quantity.ACTIVATION_GRADIENT)
SENTINEL_ALONE = weighbridge.Plan(activations=False, activation_gradients=False)


class Sick(nn.Module):
    """Gives what it gets, and at one call something that is not finite in one element."""

    def __init__(self, at: int, value: float = float("nan"), backward: bool = False) -> None:
        super().__init__()
        self.at, self.value, self.backward, self.calls = at, value, backward, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls - 1 != self.at:
            return x * 1
        sick = torch.ones_like(x)
        sick.view(-1)[3] = self.value
        return Factor.apply(x, sick) if self.backward else x * sick  # type: ignore[no-any-return, no-untyped-call]


class Factor(torch.autograd.Function):
    """Forward as it is, backward times the factor."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(factor)
        return x * 1

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return gradient * context.saved_tensors[0], None


def flagged(folder: Path, model: nn.Module, steps: int = 40, plan: weighbridge.Plan = SENTINEL_ALONE, **more: Any) -> list[Any]:
    """(step, name, quantity, call) of all that was not finite, in the order in which it was met."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batch: Callable[[int], torch.Tensor] = more.get("batch", lambda step: torch.randn(4, 4))
    with weighbridge.init(dir=folder, name="run", quiet=True, plan=plan) as run:
        run.watch(model)
        for step in range(steps):
            for _ in range(more.get("micro", 1)):
                model(batch(step)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    names = {t.id: t.name for t in weighbridge.open_run(run.path).outputs} | {-1: "batch"}
    rows = [row for row in table(run.path, "calls") if row["nonfinite_call"] >= 0]
    rows.sort(key=lambda row: (row["step"], row["place"]))
    return [(row["step"], names[row["tensor"]], row["quantity"], row["nonfinite_call"]) for row in rows]


def network(sick: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), sick, nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("plan", [SENTINEL_ALONE, weighbridge.Plan(), weighbridge.Plan(activations=True)])
def test_the_module_that_makes_it_is_the_first_one_flagged(tmp_path: Path, value: float, plan: weighbridge.Plan) -> None:
    found = flagged(tmp_path, network(Sick(33, value)), plan=plan)
    assert found[0] == (33, "2/out", ACTIVATION, 0)
    assert found[1][:2] == (33, "3/out")


def test_the_batch_is_flagged_before_any_module(tmp_path: Path) -> None:
    batch = lambda step: torch.full((4, 4), float("inf")) if step == 25 else torch.randn(4, 4)
    found = flagged(tmp_path, network(nn.Identity()), batch=batch)
    assert [name for step, name, *_ in found if step == 25][:2] == ["batch", "0/out"]
    assert found[0][0] == 25


def test_a_derivative_that_is_not_finite_is_seen_where_it_arises(tmp_path: Path) -> None:
    """Forward all is finite; the gradient by what the module gets is not, the one by what it gives is."""
    model = network(nn.Sequential(Sick(33), Sick(33, backward=True), Sick(-1)))
    model[2][0].at = -1
    found = [row for row in flagged(tmp_path, model, steps=34) if row[2] == GRADIENT]
    assert found[0] == (33, "2.0/out", GRADIENT, 0)
    gradients = weighbridge.open_run(tmp_path / "run").series("0.weight", "gradient.nonfinite_count")
    assert gradients.values[33] > 0
    assert weighbridge.open_run(tmp_path / "run").series("3.weight", "gradient.nonfinite_count").values[33] == 0


def test_the_first_call_of_several_is_named(tmp_path: Path) -> None:
    found = flagged(tmp_path, network(Sick(22)), steps=10, micro=4)  # calls 20 to 23 are of step 5
    assert found[0] == (5, "2/out", ACTIVATION, 2)


def test_healthy_training_flags_nothing_and_a_sick_step_only_once(tmp_path: Path) -> None:
    class Harmless(nn.Module):  # NaN that goes nowhere is flagged, and forgotten in the next step
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x.detach() * float("nan") if self.calls == 8 else x

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.side = nn.Linear(4, 4), Harmless()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            self.side(y)
            return y * 1

    assert flagged(tmp_path, Model(), steps=20) == [(7, "side/out", ACTIVATION, 0)]


def test_a_module_that_is_left_without_a_sentinel_cannot_make_it() -> None:
    """What `modulekinds.BOUNDED` claims: finite in, finite out, forward and backward, up to a tenth of the range of float32."""
    from weighbridge.capture.modulekinds import BOUNDED

    ends = [0.0, -0.0, 1e-45, -1e-45, 1e-38, 1.0, -1.0, 88.0, -88.0, 104.0, -104.0, 1e4, -1e4, 1e30, -1e30, 3e37, -3e37]
    for kind in BOUNDED:
        module = (
            kind(2)
            if "Pool" in kind.__name__ or kind in (nn.PixelShuffle, nn.PixelUnshuffle, nn.ZeroPad2d)
            else (
                kind(0.1, 0.2)
                if kind is nn.Threshold
                else kind(scale_factor=2)
                if kind is nn.Upsample
                else kind(dim=-1)
                if kind in (nn.Softmax, nn.LogSoftmax, nn.Softmin)
                else kind()
            )
        )
        shape = {"1d": (1, 4, 16), "2d": (1, 4, 4, 4), "3d": (1, 4, 4, 2, 2)}.get(kind.__name__[-2:], (1, 4, 4, 4))
        values = torch.tensor((ends * 4)[:64]).reshape(shape)
        averages = "Avg" in kind.__name__ or kind is nn.Upsample  # a sum of a few may overflow before it is divided
        x = (values / 16 if averages else values).requires_grad_()
        y = module(x)
        assert torch.isfinite(y).all() or kind is nn.LogSoftmax or "Dropout" in kind.__name__, kind
        y.backward(torch.ones_like(y))
        assert x.grad is not None
        assert torch.isfinite(x.grad).all(), kind
