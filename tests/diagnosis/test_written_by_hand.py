"""Networks and losses of raw parameters and bare functions, as people write them who need no modules. Each with its twin.

Oracle: what the test itself puts into the training.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class _Raw(nn.Module):
    """Two layers without modules."""

    def __init__(self, act: Callable[[torch.Tensor], torch.Tensor], scale: float = 0.3, shift: float = 0.0) -> None:
        super().__init__()
        self.w1, self.b1 = nn.Parameter(scale * torch.randn(12, 32)), nn.Parameter(torch.full((32,), shift))
        self.w2, self.b2, self.act = nn.Parameter(0.2 * torch.randn(32, 4)), nn.Parameter(torch.zeros(4)), act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(x @ self.w1 + self.b1) @ self.w2 + self.b2


def _by_hand(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (torch.logsumexp(z, 1) - z[torch.arange(len(z)), y]).mean()


def _told(model: nn.Module, loss: Loss, where: Path, steps: int = 12, shuffled: bool = False) -> list[tuple[str, str, int]]:
    """(rule, place, told_step) of warnings and errors on four clusters in twelve dimensions."""
    middles, optimizer = 2 * torch.randn(4, 12), torch.optim.Adam(model.parameters(), 3e-3)
    weighbridge.init(dir=where, name="run")
    with weighbridge.watch(model) as run:
        for _ in range(steps):
            y = torch.randint(0, 4, (64,))
            x = middles[y] + torch.randn(64, 12)
            optimizer.zero_grad()
            loss(model(x), y.roll(1) if shuffled else y).backward()
            optimizer.step()
    return [(f.rule, f.place, f.told_step) for f in weighbridge.diagnose(run.path) if f.severity != "note"]


@pytest.mark.parametrize(
    ("act", "ill", "well", "rule"),
    [
        (torch.relu, (0.3, -30.0), (0.3, 0.0), "dead-units"),
        (F.silu, (0.3, -40.0), (0.3, 0.0), "dead-units"),
        (torch.tanh, (5.0, 0.0), (0.1, 0.0), "saturated-units"),
        (lambda x: x.clamp(-1, 1), (9.0, 0.0), (0.03, 0.0), "saturated-units"),
    ],
)
def test_an_activation_inside_of_a_module(act, ill, well, rule: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    told = _told(_Raw(act, *ill), F.cross_entropy, tmp_path / "ill")
    assert (rule, "w1", 1) in told
    assert _told(_Raw(act, *well), F.cross_entropy, tmp_path / "well") == []


def test_units_that_a_step_in_mid_run_kills_inside_of_a_module(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, steps = _Raw(torch.relu), iter(range(99))

    def loss(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found = F.cross_entropy(z, y)
        if next(steps) == 20:
            with torch.no_grad():
                model.b1.sub_(100.0)
        return found

    told = [(place, step) for rule, place, step in _told(model, loss, tmp_path, 60) if rule == "dead-units"]
    assert [place for place, _ in told] == ["w1"]
    assert told[0][1] <= 26


def test_what_ends_a_network_and_a_gate_that_begins_closed_are_not_judged(tmp_path: Path) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.v, self.g, self.o = (nn.Parameter(0.3 * torch.randn(12, n)) for n in (32, 32, 1))
            self.w = nn.Parameter(0.3 * torch.randn(32, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.sigmoid(x @ self.g - 8) * torch.tanh(x @ self.v)
            return torch.tanh(50 * (h @ self.w))

    torch.manual_seed(0)
    told = _told(Gated(), lambda z, y: (z - F.one_hot(y, 4)).pow(2).mean(), tmp_path)
    assert [one for one in told if one[0] in ("saturated-units", "dead-units")] == []


@pytest.mark.parametrize("is_ill", [True, False])
@pytest.mark.parametrize(
    "loss",
    [
        _by_hand,
        lambda z, y: -z.log_softmax(1).gather(1, y[:, None]).mean(),
        lambda z, y: -(F.one_hot(y, 4) * z.log_softmax(1)).sum(1).mean(),
        lambda z, y: 0.5 * ((z - F.one_hot(y, 4).float()) ** 2).sum(1).mean(),
    ],
)
def test_labels_of_other_samples_and_a_loss_by_hand(loss: Loss, is_ill: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4))
    told = [rule for rule, _, _ in _told(model, loss, tmp_path, 60, shuffled=is_ill)]
    assert told == (["uninformative-data"] if is_ill else [])


@pytest.mark.parametrize("is_ill", [True, False])
@pytest.mark.parametrize("loss", [_by_hand, lambda z, y: -torch.distributions.Categorical(logits=z).log_prob(y).mean()])
def test_a_softmax_before_a_log_softmax_by_hand(loss: Loss, is_ill: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4), *([nn.Softmax(1)] if is_ill else []))
    assert [(r, p) for r, p, _ in _told(model, loss, tmp_path)] == ([("doubled-output-activation", "3")] if is_ill else [])


class _Centred(nn.Module):
    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        less = x - x.mean(self.axis, keepdim=True)
        return less / torch.sqrt((less**2).mean(self.axis, keepdim=True) + 1e-5)


@pytest.mark.parametrize(("axis", "bias", "is_told"), [(0, True, True), (0, False, False), (1, True, False)])
def test_a_bias_before_a_norm_by_hand(axis: int, bias: bool, is_told: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32, bias=bias), _Centred(axis), nn.ReLU(), nn.Linear(32, 4))
    told = _told(model, F.cross_entropy, tmp_path)
    assert [(r, p) for r, p, _ in told] == ([("redundant-bias", "0.bias")] if is_told else [])


@pytest.mark.parametrize(("scale", "is_told"), [(3.0, True), (0.1, False)])
def test_a_last_layer_that_begins_large_and_a_cross_entropy_by_hand(scale: float, is_told: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = _Raw(torch.relu)
    nn.init.normal_(model.w2, std=scale)
    assert ("high-initial-loss" in [rule for rule, _, _ in _told(model, _by_hand, tmp_path)]) is is_told


@pytest.mark.parametrize(("start", "is_told"), [(9.0, True), (-9.0, False), (0.0, False)])
def test_a_last_bias_that_is_sure_of_what_is_rare(start: float, is_told: bool, tmp_path: Path) -> None:
    """-9 is the usual start of a detector: it costs little where targets are rare."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 1))
    nn.init.constant_(model[2].bias, start)

    def loss(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        rare = ((y == 0) & (torch.arange(len(y)) % 4 == 0)).float()
        return F.binary_cross_entropy_with_logits(z[:, 0], rare)

    assert ("high-initial-loss" in [rule for rule, _, _ in _told(model, loss, tmp_path)]) is is_told


@pytest.mark.parametrize(("bias", "is_told"), [(False, True), (True, False)])
def test_rare_events_and_a_logistic_regression_without_a_bias(bias: bool, is_told: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, weights = nn.Linear(8, 1, bias=bias), torch.randn(8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    weighbridge.init(dir=tmp_path, name="run")
    with weighbridge.watch(model) as run:
        for _ in range(5):
            x = torch.randn(256, 8)
            y = (x @ weights > 4).float()
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(model(x)[:, 0], y).backward()
            optimizer.step()
    assert ("missing-bias" in [f.rule for f in weighbridge.diagnose(run.path)]) is is_told


@pytest.mark.parametrize(("last", "is_told"), [(nn.Softplus, True), (nn.Identity, False)])
def test_noise_that_a_softplus_is_to_make(last: type[nn.Module], is_told: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.SiLU(), nn.Linear(32, 12), last())
    told = _told(model, lambda z, _: ((z - torch.randn(64, 12)) ** 2).mean(), tmp_path, 4)
    assert ("unfit-output-activation" in [rule for rule, _, _ in told]) is is_told
