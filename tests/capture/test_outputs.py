"""What modules give, of every kind. Oracle: output_oracle.py (each module called by the test itself, no hooks)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import weighbridge
from tests.capture.oracle import table
from tests.capture.output_oracle import Truth, check_outputs, data, output_rows, sequential_truth, train
from weighbridge.records import Quantity

ACTIVATION, GRADIENT = Quantity.ACTIVATION, Quantity.ACTIVATION_GRADIENT


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_module_s_output_and_gradient_is_the_one_of_the_pass(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.LayerNorm(9), nn.Linear(9, 3), nn.Tanh()).to(dtype)
    truth, inputs = Truth(), lambda step: data(step, 7, 6).to(dtype)
    square = lambda y: y.float().square().sum()
    path = train(
        tmp_path, model, lambda step: square(model(inputs(step))), truth=sequential_truth(model, inputs, truth, square)
    )
    check_outputs(path, truth)


def test_what_an_in_place_relu_changes_was_weighed_before(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 2))
    truth = Truth()

    def by_hand(step: int) -> None:
        truth.step = step
        given = {"0/out": model[0](data(step, 4, 1, 6, 6))}
        given["1/out"] = given["0/out"].relu()
        given["3/out"] = model[3](given["1/out"].flatten(1))
        for name, output in given.items():
            truth.add(name, output)
        truth.gradients(given["3/out"].sum(), given)

    path = train(tmp_path, model, lambda step: model(data(step, 4, 1, 6, 6)).sum(), truth=by_hand)
    check_outputs(path, truth)


class Placed(nn.Module):
    """Gives its numbers at a place of its own."""

    def __init__(self, place: bytearray, factor: float) -> None:
        super().__init__()
        self.place, self.factor = place, factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        given = torch.frombuffer(self.place, dtype=torch.float32).reshape(x.shape)
        given.numpy()[...] = self.factor * x.numpy()  # an edit that autograd does not count
        return given


class Recycling(Placed):
    """What its layer gave is gone when its own numbers come to lie there, as torch's allocator does with many a sum."""

    def __init__(self, place: bytearray) -> None:
        super().__init__(place, 3.0)
        self.layer = Placed(place, 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.layer(x)
        return super().forward(x)


def test_what_lies_where_the_last_output_lay_is_another_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, truth = nn.Sequential(Recycling(bytearray(4 * 7 * 6)), nn.Linear(6, 2)), Truth()

    def by_hand(step: int) -> None:
        truth.step, x = step, data(step, 7, 6)
        truth.add("0.layer/out", 2 * x)
        truth.add("0/out", 3 * x)
        given = {"1/out": truth.add("1/out", model[1](3 * x))}
        truth.gradients(given["1/out"].sum(), given)

    path = train(tmp_path, model, lambda step: model(data(step, 7, 6)).sum(), truth=by_hand)
    check_outputs(path, truth)
    assert [t.name for t in weighbridge.open_run(path).outputs] == ["0.layer/out", "0/out", "1/out"]


class Residual(nn.Module):
    """y = f(x); y += x"""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(torch.tanh(self.first(x)))
        y += x
        return y


def test_a_residual_added_in_place_does_not_change_what_the_branch_gave(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, truth = Residual(), Truth()

    def by_hand(step: int) -> None:
        truth.step, x = step, data(step, 3, 5)
        first = model.first(x)
        second = model.second(torch.tanh(first))
        given = {"first/out": first, "second/out": second, "/out": second + x}
        for name, output in given.items():
            truth.add(name, output)
        truth.gradients(given["/out"].square().sum(), given)

    path = train(tmp_path, model, lambda step: model(data(step, 3, 5)).square().sum(), truth=by_hand)
    check_outputs(path, truth)


class Recurrent(nn.Module):
    """One cell called several times."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = torch.tanh(self.cell(x))
        return x


def test_several_calls_of_one_module_are_one_row_and_counted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, truth = Recurrent(), Truth()

    def by_hand(step: int) -> None:
        truth.step, x = step, data(step, 2, 4)
        given = []
        for _ in range(3):
            given.append(truth.add("cell/out", model.cell(x)))
            x = torch.tanh(given[-1])
        truth.add("/out", x)
        loss = x.sum()
        for output in given:
            truth.gradients(loss, {"cell/out": output})
        truth.gradients(loss, {"/out": x})

    path = train(tmp_path, model, lambda step: model(data(step, 2, 4)).sum(), truth=by_hand)
    check_outputs(path, truth)
    names = {t.id: t.name for t in weighbridge.open_run(path).outputs}
    calls = [(row["step"], names[row["tensor"]], row["calls"], row["nonfinite_call"]) for row in table(path, "calls")]
    assert sorted(calls) == [(step, "cell/out", 3, -1) for step in range(4) for _ in (ACTIVATION, GRADIENT)]


class Several(nn.Module):
    """A tuple or a dictionary of outputs."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a, self.kind = nn.Linear(3, 3), kind

    def forward(self, x: torch.Tensor) -> Any:
        y = self.a(x)
        if self.kind == "tuple":
            return y * 2, (y + 1, None)
        if self.kind == "dict":
            return {"logits": y * 2, "hidden": y + 1}
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(last_hidden_state=y * 2, pooler_output=y + 1)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("tuple", ("/out.0", "/out.1.0")),
        ("dict", ("/out.logits", "/out.hidden")),
        ("model output", ("/out.last_hidden_state", "/out.pooler_output")),
    ],
)
def test_tuples_dictionaries_and_model_outputs_are_taken_apart(tmp_path: Path, kind: str, names: tuple[str, str]) -> None:
    torch.manual_seed(0)
    model, truth = Several(kind), Truth()

    def parts(given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if kind == "tuple":
            return given[0], given[1][0]
        one, two = given.values()
        return one, two

    def by_hand(step: int) -> None:
        truth.step = step
        y = model.a(data(step, 2, 3))
        given = {"a/out": y, names[0]: y * 2, names[1]: y + 1}
        for name, output in given.items():
            truth.add(name, output)
        truth.gradients((given[names[0]] * given[names[1]]).sum(), given)

    def loss(step: int) -> torch.Tensor:
        one, two = parts(model(data(step, 2, 3)))
        return (one * two).sum()

    check_outputs(train(tmp_path, model, loss, truth=by_hand), truth)


def test_autocast_outputs_are_weighed_in_the_dtype_they_have(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, truth = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)), Truth()
    inputs, square = lambda step: data(step, 7, 6), lambda y: y.float().square().sum()
    by_hand = sequential_truth(model, inputs, truth, square)

    def in_half(step: int) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            by_hand(step)

    def loss(step: int) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return square(model(inputs(step)))

    path = train(tmp_path, model, loss, truth=in_half)
    check_outputs(path, truth)
    assert {one.dtype for key, (one, *_) in truth.seen.items() if key[2] is ACTIVATION} == {torch.bfloat16}


def test_lstm_and_attention_give_what_they_give(tmp_path: Path) -> None:
    torch.manual_seed(0)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.attention = nn.LSTM(4, 4, batch_first=True), nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y, _ = self.lstm(x)
            z: torch.Tensor = self.attention(y, y, y)[0]
            return z

    model, truth = Both(), Truth()

    def by_hand(step: int) -> None:
        truth.step = step
        y, (h, c) = model.lstm(data(step, 2, 3, 4))
        z, weights = model.attention(y, y, y)
        given = {"lstm/out.0": y, "lstm/out.1.0": h, "lstm/out.1.1": c, "attention/out.0": z, "attention/out.1": weights}
        for name, output in given.items():
            truth.add(name, output)
        truth.gradients(z.sum(), given)

    path = train(tmp_path, model, lambda step: model(data(step, 2, 3, 4)).sum(), truth=by_hand)
    check_outputs(path, truth, only=tuple({key[1] for key in truth.seen}))


def test_channels_last_and_strided_outputs_are_read_in_order(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).to(memory_format=torch.channels_last)
    truth = Truth()
    inputs = lambda step: data(step, 4, 2, 5, 5).to(memory_format=torch.channels_last)
    path = train(tmp_path, model, lambda step: model(inputs(step)).square().sum(), steps=2)
    torch.manual_seed(0)
    twin = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    x = inputs(0).contiguous()
    given = truth.add("0/out", twin[0](x))
    row = output_rows(path)[0, "0/out", ACTIVATION]
    assert row["count"] == given.numel()
    assert row["sum"] == pytest.approx(float(given.detach().double().sum()), abs=1e-4)
    units = next(u for u in table(path, "units") if u["step"] == 0)
    assert units["sum"] == pytest.approx(given.double().sum(dim=(0, 2, 3)).tolist(), abs=1e-4)


def test_the_default_plan_weighs_outputs_on_its_steps_only(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
    path = train(tmp_path, model, lambda step: model(data(step, 3, 4)).sum(), steps=55, plan=weighbridge.Plan())
    plan = weighbridge.Plan()
    for quantity, what in ((ACTIVATION, "activations"), (GRADIENT, "activation_gradients")):
        steps = {step for step, _, found in output_rows(path) if found is quantity}
        due = {step for step in range(55) if plan.schedule(what).due(step)}
        more = {step for step in range(55) if plan.schedule("units").due(step)} if quantity is ACTIVATION else set()
        assert steps == due | more
    assert len({name for _, name, _ in output_rows(path)}) == 3
