"""What a bias adds and is worth. Oracles: the same worked out by hand in NumPy, layer by layer and sample by sample."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from tests.preflight.bias_programs import both, by_name, trained
from tests.preflight.test_untouched import drawn, same, state
from weighbridge.errors import BadInput
from weighbridge.preflight.bias_slots import change, slots
from weighbridge.preflight.bias_worth import CANNOT_TELL


def test_redundant_biases_are_proved_and_say_what_they_cost() -> None:
    model, optimizer, batches = trained(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    found = by_name(weighbridge.biases(model, batches, F.cross_entropy, optimizer))
    first = found["0.bias"]
    assert (first.verdict, first.worth, first.parameters) == ("redundant", None, 8)
    assert (first.size_bytes, first.state_bytes) == (8 * 4 * 2, 8 * 4 * 2)  # and its gradient; Adam's two moments
    assert first.change == "model[0] = nn.Linear(in_features=4, out_features=8, bias=False)"
    assert found["1.bias"].role == "norm_shift"
    assert found["3.bias"].verdict != "redundant"


@pytest.mark.parametrize(
    ("make", "state_bytes"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), 0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 16),
        (lambda p: torch.optim.Adam(p), 32),
        (lambda p: torch.optim.LBFGS(p), None),
    ],
)
def test_bytes_of_an_optimizer_that_has_not_stepped_follow_from_its_kind(make: Any, state_bytes: int | None) -> None:
    model = nn.Linear(3, 4)
    (one,) = weighbridge.biases(model, (torch.randn(8, 3), torch.arange(8) % 4), F.cross_entropy, make(model.parameters()))
    assert one.state_bytes == state_bytes


def test_a_place_before_a_norm_is_rightly_left_without() -> None:
    model, _, batches = trained(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3, bias=False))
    found = by_name(weighbridge.biases(model, batches, F.cross_entropy))
    assert found["0.bias"].verdict == "rightly none"
    assert found["3.bias"].verdict == "not missed"  # the norm's shift makes constants


class Between(nn.Module):
    """Two layers without a bias, and something between them."""

    def __init__(self, between: Any = None) -> None:
        super().__init__()
        self.one, self.two, self.between = nn.Linear(3, 8, bias=False), nn.Linear(8, 1, bias=False), between
        self.table = nn.Parameter(torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.one(x))
        return self.two(self.between(h, self.table) if self.between else h)


def test_a_layer_behind_nothing_that_makes_a_constant_misses_its_bias() -> None:
    torch.manual_seed(0)
    found = by_name(weighbridge.biases(Between(), (torch.randn(200, 3), torch.full((200, 1), 5.0)), F.mse_loss))
    assert found["two.bias"].verdict == "missing"


@pytest.mark.parametrize(
    "between",
    [
        lambda h, _: h + 0.5,  # a number
        lambda h, table: h + table,  # a parameter, as of positions
        lambda h, _: torch.sigmoid(h),  # 0.5 of 0
        lambda h, _: F.layer_norm(h, (8,), bias=torch.ones(8)),
        lambda h, _: torch.cat([h[:, :7], torch.ones(len(h), 1)], 1),
    ],
)
def test_a_constant_on_the_way_excuses_what_comes_after(between: Any) -> None:
    torch.manual_seed(0)
    batch = torch.randn(200, 3), torch.full((200, 1), 5.0)
    found = by_name(weighbridge.biases(Between(between), batch, F.mse_loss))
    assert (found["two.bias"].verdict, found["two.bias"].worth) == ("not missed", None)
    assert found["two.bias"].reason == "what comes before can make a constant"
    assert found["one.bias"].worth is not None


@pytest.mark.parametrize("is_norm_first", [True, False])
def test_a_layer_that_is_called_twice_is_not_excused_by_one_norm(is_norm_first: bool) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.norm, self.head = nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3), nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts = [self.norm(self.one(x)), torch.tanh(self.one(torch.tanh(x)))]
            return self.head(parts[0] + parts[1] if is_norm_first else parts[1] + parts[0])

    found = by_name(weighbridge.biases(Twice(), (torch.randn(40, 3), torch.randn(40, 1)), F.mse_loss))
    assert found["one.bias"].verdict != "rightly none"


def test_what_no_gradient_comes_back_through_cannot_be_told() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 1, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.set_grad_enabled(self.training):
                return self.one(x)

    (one,) = weighbridge.biases(Cut(), (torch.randn(40, 3), torch.ones(40, 1)), F.mse_loss)
    assert (one.verdict, one.worth) == (CANNOT_TELL, None)


class SequenceFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.one(x.transpose(0, 1))).mean(0))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (SequenceFirst(), (5, 3)),
        (nn.Sequential(nn.Linear(1025, 2)), (1025,)),
        (nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 2)), (2, 6, 6)),
        (nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.Flatten(), nn.Linear(144, 2)), (2, 6, 6)),
        (nn.Sequential(nn.Conv2d(2, 4, 3, padding="same"), nn.Flatten(), nn.Linear(144, 2)), (2, 6, 6)),
    ],
)
def test_where_weights_cannot_be_refitted_that_number_is_missing(model: nn.Module, shape: tuple[int, ...]) -> None:
    first = next(iter(weighbridge.biases(model, (torch.randn(12, *shape) + 1, torch.arange(12) % 2), F.cross_entropy)))
    assert first.taken_over is None
    assert first.worth is not None


def test_a_model_that_works_in_place_sees_the_same_batch_each_time() -> None:
    class Doubling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.one(x.mul_(2))

    torch.manual_seed(0)
    model, x, y = Doubling(), torch.randn(20, 3), torch.arange(20) % 2
    kept = x.clone()
    report = weighbridge.biases(model, (x, y), F.cross_entropy)
    assert torch.equal(x, kept)
    assert report.loss == pytest.approx(float(F.cross_entropy(model.one(kept * 2), y).detach()), rel=1e-5)


def test_places_for_a_bias_are_those_that_a_constructor_offers() -> None:
    model = nn.ModuleDict(
        {
            "plain": nn.Linear(2, 2),
            "without": nn.Linear(2, 2, bias=False),
            "normed": nn.BatchNorm1d(2, affine=False),
            "layer": nn.LayerNorm(2, bias=False),
            "rms": nn.RMSNorm(2),
            "rnn": nn.LSTM(2, 2, bias=False),
            "attention": nn.MultiheadAttention(2, 1, bias=False, add_bias_kv=True),
            "embedding": nn.Embedding(2, 2),
        }
    )
    found = {slot.name: slot.parameter is not None for slot in slots(model)}
    assert found == {
        "plain.bias": True, "without.bias": False, "layer.bias": False, "rnn.bias": False, "attention.in_proj_bias": False,
        "attention.out_proj.bias": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("module", "line"),
    [
        (nn.Linear(2, 3), "model.x = nn.Linear(in_features=2, out_features=3, bias=False)"),
        (nn.Conv2d(1, 2, 3, stride=2), "model.x = nn.Conv2d(1, 2, kernel_size=(3, 3), stride=(2, 2), bias=False)"),
        (nn.LayerNorm(4), "model.x = nn.LayerNorm((4,), eps=1e-05, elementwise_affine=True, bias=False)"),
        (nn.MultiheadAttention(4, 2), "model.x = nn.MultiheadAttention(..., bias=False)"),
        (nn.BatchNorm1d(4), 'model.x.register_parameter("bias", None)'),
    ],
)
def test_the_line_that_leaves_a_bias_out_does_so(module: nn.Module, line: str) -> None:
    holder = nn.ModuleDict({"x": module})
    first = slots(holder)[0]
    assert change(first, with_bias=False) == line
    if "..." not in line:
        exec(line.replace("model.x", "model['x']"), {"nn": nn, "model": holder})
        assert holder["x"].bias is None


def test_layers_that_keep_their_bias_inside_are_ablated_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.attend = nn.GRU(4, 6, batch_first=True), nn.MultiheadAttention(6, 2, batch_first=True)
            self.head = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h, _ = self.rnn(x)
            return self.head(self.attend(h, h, h)[0][:, -1])

    torch.manual_seed(0)
    model = Net()
    x, y = torch.randn(20, 5, 4), torch.arange(20) % 3
    found = by_name(weighbridge.biases(model, (x, y), F.cross_entropy))
    assert set(found) == {
        "rnn.bias_ih_l0", "rnn.bias_hh_l0", "attend.in_proj_bias", "attend.out_proj.bias", "head.bias"
    }  # fmt: skip
    other = copy.deepcopy(model).eval()
    with torch.no_grad():
        other.rnn.bias_ih_l0.zero_()
        apart = F.cross_entropy(other(x), y, reduction="none") - F.cross_entropy(model.eval()(x), y, reduction="none")
    one = found["rnn.bias_ih_l0"]
    assert one.worth is not None
    assert (one.worth.mean, one.ratio) == (pytest.approx(float(apart.mean()), rel=1e-3), None)
    assert one.change == "model.rnn = nn.GRU(4, 6, batch_first=True, bias=False)"


def test_a_bias_that_two_layers_share_is_one() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].bias = model[0].bias
    x, y = torch.randn(20, 3), torch.arange(20) % 3
    (one,) = weighbridge.biases(model, (x, y), F.cross_entropy)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].bias.zero_()
        apart = F.cross_entropy(other(x), y) - F.cross_entropy(model(x), y)
    assert one.worth is not None
    assert one.worth.mean == pytest.approx(float(apart), rel=1e-3)


def test_dropout_and_norms_are_asked_in_evaluation_mode_and_draws_are_shared() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x) + torch.randn(x.shape[0], 2)

    torch.manual_seed(0)
    model = Noisy()
    with torch.no_grad():
        model.net[3].bias.zero_()
    found = by_name(weighbridge.biases(model, (torch.randn(20, 3), torch.arange(20) % 2), F.cross_entropy))
    worth = found["net.3.bias"].worth
    assert worth is not None
    assert (worth.mean, worth.low, worth.high) == (0, 0, 0)
    model, _, batches = trained(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 3), steps=20)
    x, y = both(batches)
    loss = float(F.cross_entropy(copy.deepcopy(model).eval()(x), y).detach())
    assert weighbridge.biases(model, batches, F.cross_entropy).loss == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("mode", [True, False])
def test_nothing_of_the_users_is_touched(mode: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3, bias=False)
    )
    model(torch.randn(4, 1, 6, 6)).sum().backward()
    model.train(mode)
    optimizer = torch.optim.Adam(model.parameters())
    data = torch.utils.data.TensorDataset(torch.randn(12, 1, 6, 6), torch.arange(12) % 3)
    before, random_before = state(model), drawn()
    weighbridge.biases(model, torch.utils.data.DataLoader(data, batch_size=4, shuffle=True), nn.CrossEntropyLoss(), optimizer)
    assert same(state(model), before)
    assert drawn() == random_before


def test_no_batch_is_refused_in_words() -> None:
    with pytest.raises(BadInput, match="no batch"):
        weighbridge.biases(nn.Linear(2, 2), [], F.mse_loss)


def test_a_bias_that_is_still_zero_is_said_to_be_so_and_nothing_is_advised() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(7)))
    for layer in model:
        nn.init.zeros_(layer.bias)
    report = weighbridge.biases(model, (torch.randn(20, 4) + 3, torch.arange(20) % 4), F.cross_entropy)
    assert {(one.verdict, one.cancelled, one.taken_over) for one in report} == {("no effect", None, None)}
    text = " ".join(str(report).split())
    assert text.count("it is 0 throughout") == 5
    assert "and 2 more: no effect" in text
    assert "bias=False" not in text


def test_it_prints_and_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    model, optimizer, batches = trained(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    report = weighbridge.biases(model, batches, F.cross_entropy, optimizer)
    text = str(report)
    assert "0.bias is redundant" in text
    assert "nn.Linear(in_features=4, out_features=8, bias=False)" in " ".join(text.split())
    told = json.loads(report.to_json())
    assert [one["verdict"] for one in told["layers"]] == [one.verdict for one in report]
    assert told["layers"][2]["worth"]["units"] == 80
