"""Each fault is found where it is, and its repaired twin is silent. Oracle: the fault is put in by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn import functional as F

from weighbridge.diagnosis.rules.missing_activation import MissingActivation
from weighbridge.preflight.inspect import Inspection, inspect
from weighbridge.preflight.signal import has_equal_rows


def classes(rows: int = 32, width: int = 8, count: int = 4) -> Any:
    return torch.randn(rows, width), torch.arange(rows) % count


def mlp(*ends: nn.Module, middle: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), middle(), nn.Linear(16, 4), *ends)


def constant(model: nn.Module, value: float = 0.3) -> nn.Module:
    for p in model.parameters():
        nn.init.constant_(p, value)
    return model


class Cut(nn.Module):
    """Two layers; the first one's output is cut from the graph where asked for."""

    def __init__(self, is_cut: bool) -> None:
        super().__init__()
        self.one, self.two, self.is_cut = nn.Linear(8, 16), nn.Linear(16, 4), is_cut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.one(x))
        return self.two(h.detach() if self.is_cut else h)


class Listed(nn.Module):
    """Three layers in a list, of which the first ones are called."""

    def __init__(self, called: int) -> None:
        super().__init__()
        self.layers, self.called = nn.ModuleList(nn.Linear(8, 8) for _ in range(3)), called

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[: self.called]:
            x = torch.tanh(layer(x))
        return 9 * x


class Functional(nn.Module):
    """Affine layers written as functions, of which the graph alone knows."""

    def __init__(self, has_activation: bool) -> None:
        super().__init__()
        self.weight, self.shift = nn.Parameter(torch.randn(16, 8) / 3), nn.Parameter(torch.zeros(16))
        self.two, self.has_activation = nn.Linear(16, 4), has_activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.linear(x, self.weight, self.shift)
        return self.two(torch.tanh(h) if self.has_activation else h)


def found(model: nn.Module, batch: Any, loss_fn: Any = F.cross_entropy, optimizer: Any = None) -> Inspection:
    return inspect(model, batch, loss_fn, optimizer)


def told(result: Inspection) -> list[tuple[str, str, str]]:
    return [(f.rule, f.severity, f.place) for f in result.findings]


yes = lambda x: (x > 0).float()
Pair = tuple[Callable[[bool], Any], list[tuple[str, str, str]]]
FAULTS: dict[str, Pair] = {
    "softmax before cross-entropy": (
        lambda bad: found(mlp(*[nn.Softmax(1)] * bad), classes()),
        [("doubled-output-activation", "error", "3")],
    ),
    "softmax before cross-entropy, a function": (
        lambda bad: found(mlp(), classes(), lambda o, y: F.cross_entropy(o.softmax(-1) if bad else o, y)),
        [("doubled-output-activation", "error", "")],
    ),
    "softmax before cross-entropy of pixels": (
        lambda bad: found(
            nn.Sequential(nn.Conv2d(3, 5, 3), *[nn.Softmax(1)] * bad), (torch.randn(2, 3, 6, 6), torch.randint(5, (2, 4, 4)))
        ),
        [("doubled-output-activation", "error", "1")],
    ),
    "sigmoid before BCE with logits": (
        lambda bad: found(
            mlp(*[nn.Sigmoid()] * bad), (torch.randn(32, 8), torch.rand(32, 4)), F.binary_cross_entropy_with_logits
        ),
        [("doubled-output-activation", "error", "3")],
    ),
    "sigmoid twice before BCE": (
        lambda bad: found(
            mlp(nn.Sigmoid(), *[nn.Sigmoid()] * bad), (torch.randn(32, 8), torch.rand(32, 4)), F.binary_cross_entropy
        ),
        [("doubled-output-activation", "error", "3")],
    ),
    "log-softmax before cross-entropy": (
        lambda bad: found(mlp(*[nn.LogSoftmax(1)] * bad), classes()),
        [("doubled-output-activation", "note", "3")],
    ),
    "no activation": (
        lambda bad: found(mlp(middle=nn.Identity if bad else nn.ReLU), classes()),
        [("missing-activation", "warning", "2")],
    ),
    "no activation, dropout": (
        lambda bad: found(
            nn.Sequential(nn.Linear(8, 16), *[nn.ReLU()] * (not bad), nn.Dropout(0.1), nn.Linear(16, 4)), classes()
        ),
        [("missing-activation", "warning", "2")],
    ),
    "no activation, functional": (
        lambda bad: found(Functional(not bad), classes()),
        [("missing-activation", "warning", "two")],
    ),
    "no activation between convolutions": (
        lambda bad: found(
            nn.Sequential(
                nn.Conv2d(3, 8, 3), *[nn.ReLU()] * (not bad), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.ReLU(), nn.Linear(32, 4)
            ),
            (torch.randn(8, 3, 6, 6), torch.arange(8) % 4),
        ),
        [("missing-activation", "warning", "1")],
    ),
    "no activation, a bottleneck": (
        lambda bad: found(nn.Sequential(nn.Linear(8, 6 if bad else 3), nn.Linear(6 if bad else 3, 4)), classes()),
        [("missing-activation", "warning", "1")],
    ),
    "constant initialisation": (
        lambda bad: found(constant(mlp()) if bad else mlp(), classes()),
        [("symmetric-initialisation", "error", "0.weight")],
    ),
    "cut from the graph": (lambda bad: found(Cut(bad), classes()), [("parameter-without-gradient", "warning", "one.weight")]),
    "not called, in a list": (
        lambda bad: found(Listed(2 if bad else 3), classes(count=8)),
        [("parameter-without-gradient", "note", "layers.2.weight")],
    ),
    "raw inputs": (
        lambda bad: found(mlp(), (torch.rand(32, 8) * (255 if bad else 1), torch.arange(32) % 4)),
        [("raw-input-scale", "warning", "input")],
    ),
    "targets far from zero": (
        lambda bad: found(mlp(), (torch.randn(32, 8), torch.randn(32, 4) + 50 * bad), F.mse_loss),
        [("high-initial-loss", "note", "2")],
    ),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_its_repaired_twin_is_silent(fault: str, seed: int) -> None:
    run, expected = FAULTS[fault]
    torch.manual_seed(seed)
    assert told(run(False)) == []
    torch.manual_seed(seed)
    assert told(run(True)) == expected


def test_the_least_loss_behind_a_softmax_is_that_of_a_sure_and_right_prediction() -> None:
    (finding,) = found(mlp(nn.Softmax(1)), classes()).findings
    sure = F.cross_entropy(torch.eye(4), torch.arange(4))
    assert finding.evidence[0].value == pytest.approx(float(sure), rel=1e-6)  # type: ignore[union-attr]


def test_parameters_in_no_optimizer_are_named_and_a_frozen_one_is_not() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    (finding,) = found(model, classes(), optimizer=optimizer).findings
    assert (finding.rule, finding.severity, finding.place) == ("parameter-in-no-optimizer", "warning", "2.weight")
    assert finding.evidence[0].rows == (("2.weight", 64), ("2.bias", 4))  # type: ignore[union-attr]
    both = [optimizer, torch.optim.Adam(model[2].parameters())]
    assert told(found(model, classes(), optimizer=both)) == []
    model[2].requires_grad_(False)
    assert told(found(model, classes(), optimizer=optimizer)) == []


def test_an_optimizer_of_another_model_is_an_error() -> None:
    model, other = mlp(), mlp()
    assert [f.severity for f in found(model, classes(), optimizer=torch.optim.SGD(other.parameters(), lr=0.1)).findings] == [
        "error"
    ]


def test_a_parameter_that_nobody_wants_to_train_needs_no_gradient() -> None:
    model = Cut(True)
    assert told(found(model, classes(), optimizer=torch.optim.SGD(model.two.parameters(), lr=0.1))) == []


@pytest.mark.parametrize(
    ("optimizer", "copies"),
    [
        (None, 2),
        (lambda p: torch.optim.SGD(p, lr=0.1), 2),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 3),
        (torch.optim.AdamW, 4),
        (lambda p: torch.optim.Adam(p, amsgrad=True), 5),
        (torch.optim.RMSprop, 3),
        (torch.optim.Adagrad, 3),
    ],
)
def test_saved_bytes_are_those_of_the_bias_its_gradient_and_the_optimizer_s_tensors(optimizer: Any, copies: int) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    made = optimizer(model.parameters()) if optimizer else None
    (finding,) = found(model, classes(), optimizer=made).findings
    values = [e.value for e in finding.evidence[:2]]  # type: ignore[union-attr]
    assert values == [16, 16 * 4 * copies]
    assert finding.fix == "model[0] = nn.Linear(in_features=8, out_features=16, bias=False)"
    if made is not None:  # the oracle: what the optimizer really keeps after a step
        F.cross_entropy(model(classes()[0]), classes()[1]).backward()
        made.step()
        kept = [v for v in made.state[model[0].bias].values() if isinstance(v, torch.Tensor) and v.shape == model[0].bias.shape]
        assert len(kept) + 2 == copies


def test_rows_that_are_equal_but_learn_differently_are_not_symmetric() -> None:
    same, slopes = torch.ones(3, 4), torch.randn(3, 4)
    assert has_equal_rows(same, slopes[:1].expand(3, 4), 1.0)
    assert has_equal_rows(same, slopes * 1e-9, 1.0)  # rounding
    assert not has_equal_rows(same, slopes, 1.0)
    assert not has_equal_rows(torch.zeros(3, 4), slopes[:1].expand(3, 4), 1.0)
    assert not has_equal_rows(slopes, slopes[:1].expand(3, 4), 1.0)
    assert not has_equal_rows(same[:1], slopes[:1], 1.0)
    assert not has_equal_rows(same, None, 1.0)


def test_the_trivial_loss_is_that_of_a_uniform_prediction() -> None:
    result = found(mlp(), (torch.randn(64, 8), torch.arange(64) % 4), lambda o, y: F.cross_entropy(o * 100, y))
    (finding,) = result.findings
    assert finding.rule == "high-initial-loss"
    assert finding.evidence[0].limit == pytest.approx(math.log(4))  # type: ignore[union-attr]


class TwoHeads(nn.Module):
    """Two layers read what a third gives, with no activation between: a value that is shared is no fault."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.trunk(x)
        return self.one(h) * torch.sigmoid(self.two(h))


class Embedded(nn.Module):
    """A projection, then attention, which begins with an affine layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.attend = nn.Linear(8, 16), nn.MultiheadAttention(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.project(x)
        return torch.relu(self.attend(h, h, h, need_weights=False)[0]).mean(1)


class Checkpointed(Cut):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = lambda t: torch.relu(self.one(t))
        return self.two(torch.utils.checkpoint.checkpoint(inner, x.requires_grad_(), use_reentrant=True))


def test_what_is_shared_or_inside_attention_misses_no_activation() -> None:
    assert told(found(TwoHeads(), classes())) == []
    assert told(found(Embedded(), (torch.randn(16, 5, 8), torch.arange(16)))) == []


class Gated(nn.Module):
    """A GRU on the batch; its input products have biases that are added later."""

    def __init__(self) -> None:
        super().__init__()
        self.core, self.head = nn.GRU(8, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.core(x)[0][:, -1])


def test_a_recurrent_layer_misses_no_bias() -> None:
    assert told(found(Gated(), (torch.randn(32, 5, 8) * 0.1 + 2, torch.arange(32) % 4))) == []


def test_what_a_reentrant_checkpoint_hides_is_not_called_unreached() -> None:
    assert told(found(Checkpointed(False), classes())) == []


def test_nan_in_the_batch_is_no_question_of_scale() -> None:
    assert told(found(mlp(), (torch.full((32, 8), float("nan")), torch.arange(32) % 4))) == []


def test_under_autocast_and_no_grad_the_same_is_found() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        result = found(model, (torch.randn(8, 3, 8, 8), torch.arange(8) % 4))
    assert told(result) == [("redundant-bias", "warning", "0.bias")]


class Given(nn.Module):
    """Gives the batch's own numbers as logits."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def logits(rows: list[list[float]], times: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """All of class 1."""
    made = torch.tensor(rows).repeat(times, 1)
    return made, torch.ones(len(made), dtype=torch.long)


def test_a_high_loss_needs_samples_certainty_and_widely_spread_predictions() -> None:
    wide, narrow, right = [5.0, -5.0], [1.5, -1.5], [-5.0, 5.0]
    assert told(found(Given(), logits([wide], 32))) == [("high-initial-loss", "warning", "")]
    assert told(found(Given(), logits([wide], 4))) == []
    assert told(found(Given(), logits([narrow], 32))) == []
    assert told(found(Given(), logits([[50.0, -50.0], *[right] * 15]))) == []  # one sample of 16 makes the mean


def test_raw_inputs_are_excused_where_a_norm_follows_or_the_first_layer_is_small() -> None:
    raw = torch.rand(32, 8) * 255, torch.arange(32) % 4
    normed = nn.Sequential(nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    assert told(found(normed, raw)) == []
    small = mlp()
    with torch.no_grad():
        small[0].weight *= 1e-2
    assert told(found(small, raw)) == []


def test_a_softmax_over_another_axis_is_not_the_loss_s_own() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4, bias=False))
    assert told(found(model, classes(), lambda o, y: F.cross_entropy(o.softmax(0), y))) == []


def test_a_rule_that_fails_says_so_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_rule: Any, _passes: Any) -> Any:
        raise KeyError("a bug")

    monkeypatch.setattr(MissingActivation, "judge", broken)
    result = found(mlp(nn.Softmax(1)), classes())
    assert [f.rule for f in result.findings] == ["doubled-output-activation"]
    assert [a.reason for a in result.answers if a.outcome.value == "failed"] == ["KeyError: 'a bug'"]
