"""Oracle: output_oracle.py (each module called by the test itself, gradients from torch.autograd.grad, no hooks)."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import weighbridge
from tests.capture.oracle import events, table
from tests.capture.output_oracle import EVERYTHING, Truth, check_outputs, output_rows
from weighbridge.capture.plan import Schedule
from weighbridge.records import Quantity

ACTIVATION, GRADIENT = Quantity.ACTIVATION, Quantity.ACTIVATION_GRADIENT


def train(
    folder: Path,
    model: nn.Module,
    loss: Callable[[int], torch.Tensor],
    steps: int = 4,
    plan: weighbridge.Plan = EVERYTHING,
    truth: Callable[[int], None] = lambda step: None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Path:
    """A watched training; `truth` runs the same step by hand before it, while the weights are the same."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.05)
    with weighbridge.init(dir=folder, name="run", quiet=True, plan=plan) as run:
        for step in range(steps):
            with unwatched(model):
                truth(step)
            if step == 0:
                run.watch(model)
            optimizer.zero_grad()
            loss(step).backward()
            optimizer.step()
    assert "weighing has stopped" not in str(events(run.path, "warned"))
    return run.path


class unwatched:
    """The test's own passes leave no rows: hooks are lifted off while they run."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __enter__(self) -> None:
        self.kept = [(module, dict(module._forward_hooks)) for module in self.model.modules()]
        for module, _ in self.kept:
            module._forward_hooks.clear()

    def __exit__(self, *error: object) -> None:
        for module, hooks in self.kept:
            module._forward_hooks.update(hooks)


def data(step: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(step))


def sequential_truth(
    model: nn.Sequential, inputs: Callable[[int], torch.Tensor], truth: Truth, loss: Any
) -> Callable[[int], None]:
    def by_hand(step: int) -> None:
        truth.step, x = step, inputs(step)
        given: dict[str, torch.Tensor] = {}
        for name, module in model.named_children():
            x = module(x)
            given[f"{name}/out"] = truth.add(f"{name}/out", x)
            x = x.clone() if x.requires_grad else x  # what an in-place module changes next is not what was given
        truth.gradients(loss(x), given)

    return by_hand


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


class Checkpointed(nn.Module):
    def __init__(self, is_reentrant: bool) -> None:
        super().__init__()
        self.first, self.inner, self.is_reentrant = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU()), is_reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = checkpoint(self.inner, self.first(x), use_reentrant=self.is_reentrant)
        return y


@pytest.mark.parametrize("is_reentrant", [False, True])
def test_a_checkpointed_part_is_weighed_once_a_pass(tmp_path: Path, is_reentrant: bool) -> None:
    torch.manual_seed(0)
    model, truth = Checkpointed(is_reentrant), Truth()

    def by_hand(step: int) -> None:
        truth.step = step
        first = model.first(data(step, 3, 4))
        second = model.inner[0](first)
        third = second.relu()
        given = {"first/out": first, "inner.0/out": second, "inner.1/out": third}
        for name, output in given.items():
            truth.add(name, output)
        truth.gradients(third.square().sum(), given)

    path = train(tmp_path, model, lambda step: model(data(step, 3, 4)).square().sum(), truth=by_hand)
    found = {
        key: row for key, row in output_rows(path).items() if key[1] != "/out"
    }  # the model gives what the checkpoint gives
    assert set(found) == set(truth.seen)
    check_outputs(path, truth, only=("first/out", "inner.0/out", "inner.1/out"))


def test_evaluation_between_steps_leaves_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.Dropout(1e-9), nn.Linear(9, 3))
    truth, inputs = Truth(), lambda step: data(step, 7, 6)

    def loss(step: int) -> torch.Tensor:
        model.eval()
        model(data(99, 50, 6))
        with torch.no_grad():
            model(data(98, 50, 6))
        model.train()
        with torch.no_grad():
            model(data(97, 50, 6) * float("nan"))
        with torch.inference_mode():
            model(data(96, 50, 6))
        return model(inputs(step)).square().sum()

    by_hand = sequential_truth(model, inputs, truth, lambda y: y.square().sum())
    path = train(tmp_path, model, loss, truth=by_hand)
    check_outputs(path, truth)
    assert table(path, "calls") == []


def test_a_model_that_is_trained_in_evaluation_mode_is_said_to_have_no_activations(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)).eval()
    path = train(tmp_path, model, lambda step: model(data(step, 3, 2)).sum())
    assert output_rows(path) == {}
    assert [event.message for event in events(path, "reduced")] == [
        "the model is trained in evaluation mode: its activations are not weighed; parameters are"
    ]


def test_micro_batches_are_added_up(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, truth = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid()), Truth()
    optimizer = torch.optim.Adam(model.parameters())
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=EVERYTHING) as run:
        run.watch(model)
        for step in range(3):
            optimizer.zero_grad()
            for micro in range(4):
                x = data(10 * step + micro, 2, 3)
                with unwatched(model):
                    sequential_truth(model, lambda step, x=x: x, truth, lambda y: y.sum() / 4)(step)
                (model(x).sum() / 4).backward()
            optimizer.step()
    check_outputs(run.path, truth)
    assert {row["calls"] for row in table(run.path, "calls")} == {4}


def test_two_optimizers_each_write_their_own_modules(tmp_path: Path) -> None:
    """A GAN at 5 steps of one to 1 of the other: rows stand where the module's optimizer has stepped."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"g": nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)), "d": nn.Linear(2, 1)})
    g, d = torch.optim.SGD(model["g"].parameters(), lr=0.01), torch.optim.SGD(model["d"].parameters(), lr=0.01)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=EVERYTHING) as run:
        run.watch(model)
        for turn in range(10):
            with torch.no_grad():
                fake = model["g"](data(turn, 6, 2))
            d.zero_grad()
            model["d"](fake).sum().backward()
            d.step()
            if turn % 5 == 4:
                g.zero_grad()
                model["d"](model["g"](data(turn, 6, 2))).sum().backward()
                g.step()
    rows = output_rows(run.path)
    assert {step for step, name, _ in rows if name.startswith("d")} == set(range(10))
    assert {(step, name) for step, name, _ in rows if name.startswith("g")} == {
        (step, f"g.{n}/out") for step in (4, 9) for n in range(3)
    }
    assert rows[4, "d/out", ACTIVATION]["count"] == 6
    assert rows[5, "d/out", ACTIVATION]["count"] == 12  # the generator's pass through it, and its own


def test_copies_of_the_model_and_functional_calls(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    average: list[nn.Module] = []

    def loss(step: int) -> torch.Tensor:
        average[:] = [copy.deepcopy(model)]
        average[0](data(5, 40, 3)).sum().backward()
        return torch.func.functional_call(model, dict(model.named_parameters()), data(step, 2, 3)).sum()

    rows = output_rows(train(tmp_path, model, loss))
    assert {row["count"] for row in rows.values()} == {6}
    assert {key[2] for key in rows} == {ACTIVATION, GRADIENT}


def test_a_shallow_copy_that_shares_the_hooks_leaves_no_row(tmp_path: Path) -> None:
    """What DataParallel makes of a module for each device."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

    def loss(step: int) -> torch.Tensor:
        copy.copy(model[0])(data(5, 40, 3)).sum().backward()
        return model(data(step, 2, 3)).sum()

    rows = output_rows(train(tmp_path, model, loss))
    assert {row["count"] for row in rows.values()} == {6}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tracing_and_exporting_a_watched_model_see_the_model_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), data(7, 5, 3)

    def loss(step: int) -> torch.Tensor:
        if step == 1:
            assert torch.equal(torch.jit.trace(model, x)(x), model.forward(x))
            torch.export.export(model, (x,))
            assert len(torch.fx.symbolic_trace(model).graph.nodes) == 4
        return model(data(step, 2, 3)).sum()

    rows = output_rows(train(tmp_path, model, loss))
    assert {row["count"] for key, row in rows.items() if key[0] != 1} == {6}


def test_torch_func_passes_through_and_leaves_no_row(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())

    def loss(step: int) -> torch.Tensor:
        parameters = {k: v.detach() for k, v in model.named_parameters()}
        call = lambda p, x: torch.func.functional_call(model, p, x).sum()
        per_sample = torch.func.vmap(torch.func.grad(call), in_dims=(None, 0))(parameters, data(step, 4, 1, 3))
        assert per_sample["0.weight"].shape == (4, 3, 3)
        return model(data(step, 2, 3)).sum()

    rows = output_rows(train(tmp_path, model, loss))
    assert {row["count"] for row in rows.values()} == {6}


def test_parametrizations_weigh_the_module_and_not_the_parts_of_its_weight(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 1))
    truth, inputs = Truth(), lambda step: data(step, 2, 3)
    path = train(
        tmp_path, model, lambda step: model(inputs(step)).sum(), truth=sequential_truth(model, inputs, truth, torch.sum)
    )
    check_outputs(path, truth)


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


def test_modules_that_come_during_training_are_weighed_from_then_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=EVERYTHING) as run:
        run.watch(model)
        for step in range(6):
            if step == 3:
                model[1] = nn.Linear(3, 2)
                optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            model(data(step, 5, 3)).sum().backward()
            optimizer.step()
    counts = {
        step: row["count"] for (step, name, what), row in output_rows(run.path).items() if (name, what) == ("1/out", ACTIVATION)
    }
    assert [counts[step] for step in (0, 1, 2)] == [5, 5, 5]
    assert [counts[step] for step in (4, 5)] == [10, 10]  # seen when its optimizer has stepped once


def test_modules_that_come_and_go_leave_nothing_behind(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for step in range(30):
            model[1] = nn.Linear(3, 2)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            model(data(step, 5, 3)).sum().backward()
            optimizer.step()
            model(data(step, 5, 3)).sum().backward()
            optimizer.step()
            del optimizer
        gc.collect()
        outputs = run._stepper.outputs
        assert outputs is not None
        assert len(outputs.hooks) <= 3
        assert len(outputs.biases.seats) <= 3
        assert sum(len(group.seats) for group in outputs.groups.values()) <= 8
        assert len(outputs.groups) <= 3


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


@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4), (1, 4)])
def test_the_sums_of_each_unit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    seen: dict[tuple[int, str], torch.Tensor] = {}

    def by_hand(step: int) -> None:
        seen[step, "0/out"] = model[0](data(step, *shape)).detach()
        seen[step, "1/out"] = seen[step, "0/out"].relu()

    path = train(tmp_path, model, lambda step: model(data(step, *shape)).square().sum(), truth=by_hand)
    names = {t.id: t.name for t in weighbridge.open_run(path).outputs}
    rows = {(row["step"], names[row["tensor"]]): row for row in table(path, "units")}
    assert set(rows) == set(seen)
    for key, row in rows.items():
        y = seen[key].reshape(-1, 6)
        assert (row["n"], row["steps"]) == (len(y), 1)
        assert row["active"] == (y > 0).sum(0).tolist()
        assert row["sum"] == pytest.approx(y.double().sum(0).tolist(), rel=1e-6, abs=1e-9)
        assert row["sum_sq"] == pytest.approx(y.double().square().sum(0).tolist(), rel=1e-6)
        assert row["max"] == pytest.approx(y.abs().amax(0).tolist())


def test_units_are_summed_over_the_steps_since_their_last_row(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, total = nn.Linear(4, 3), torch.zeros(3, dtype=torch.float64)
    plan = weighbridge.Plan(activations=True, units=Schedule(every=5))

    def by_hand(step: int) -> None:
        if 0 < step <= 5:
            total.add_(model(data(step, 2, 4)).detach().double().sum(0))

    path = train(tmp_path, model, lambda step: model(data(step, 2, 4)).sum(), steps=7, plan=plan, truth=by_hand)
    rows = {row["step"]: row for row in table(path, "units")}
    assert {step: (row["steps"], row["n"]) for step, row in rows.items()} == {0: (1, 2), 5: (5, 10)}
    assert rows[5]["sum"] == pytest.approx(total.tolist(), rel=1e-6)


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_what_a_bias_adds_beside_the_rest(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    module = nn.Linear(4, 3) if kind == "linear" else nn.Conv2d(2, 3, 2)
    shape = (5, 4) if kind == "linear" else (5, 2, 4, 4)
    model, seen = nn.Sequential(module, nn.Tanh()), {}

    def by_hand(step: int) -> None:
        y = module(data(step, *shape)).detach().double()
        b = module.bias.detach().double().reshape((1, 3) if kind == "linear" else (1, 3, 1, 1)).expand_as(y)
        seen[step] = (float((b * b).sum()), float(((y - b) ** 2).sum()), float((b * (y - b)).sum()), y.numel() // 3)

    path = train(tmp_path, model, lambda step: model(data(step, *shape)).square().sum(), truth=by_hand)
    rows = {row["step"]: row for row in table(path, "biases")}
    assert set(rows) == set(seen)
    bias = weighbridge.open_run(path).tensor("0.bias")
    for step, row in rows.items():
        assert row["tensor"] == bias.id
        assert (row["bias_sq"], row["rest_sq"], row["dot"], row["n"]) == pytest.approx(seen[step], rel=1e-5, abs=1e-6)


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


def test_losses_and_weights_are_the_same_bits_with_everything_weighed(tmp_path: Path) -> None:
    def run(plan: weighbridge.Plan | None) -> tuple[list[float], list[torch.Tensor]]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.BatchNorm1d(9), nn.Linear(9, 3))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        losses = []
        if plan is not None:
            weighbridge.init(dir=tmp_path, quiet=True, plan=plan).watch(model)
        for step in range(30):
            optimizer.zero_grad()
            loss = model(data(step, 8, 6)).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        weighbridge.finish()
        return losses, [p.detach().clone() for p in model.parameters()]

    plain, everything, default = run(None), run(EVERYTHING), run(weighbridge.Plan())
    for watched in (everything, default):
        assert np.array(watched[0]).tobytes() == np.array(plain[0]).tobytes()
        assert all(torch.equal(a, b) for a, b in zip(watched[1], plain[1], strict=True))


def test_hooks_of_the_user_on_the_same_outputs_still_work(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, seen = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)), []

    def loss(step: int) -> torch.Tensor:
        hidden = model[0](data(step, 2, 3))
        hidden.register_hook(lambda gradient: seen.append("first"))
        hidden.register_hook(lambda gradient: gradient * 2)
        hidden.retain_grad()
        return model[1](hidden).sum()

    path = train(tmp_path, model, loss)
    assert seen == ["first"] * 4
    assert {key[2] for key in output_rows(path)} == {ACTIVATION, GRADIENT}
