"""Passes of every kind, and modules that come, go and are copied. Oracle: output_oracle.py."""

from __future__ import annotations

import copy
import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import weighbridge
from tests.capture.oracle import events, table
from tests.capture.output_oracle import EVERYTHING, Truth, check_outputs, data, output_rows, sequential_truth, train, unwatched
from weighbridge.records import Quantity

ACTIVATION, GRADIENT = Quantity.ACTIVATION, Quantity.ACTIVATION_GRADIENT


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


class _Both(nn.Module):
    """Made for watching alone: it has no `forward`."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)


def test_what_a_container_without_forward_holds_is_seen_though_nobody_keeps_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    part = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
    optimizer = torch.optim.SGD(part.parameters(), lr=0.01)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=EVERYTHING) as run:
        run.watch(_Both(part))
        for step in range(3):
            optimizer.zero_grad()
            part(data(step, 7, 6)).square().sum().backward()
            optimizer.step()
    assert {(step, name) for step, name, _ in output_rows(run.path)} == {
        (step, f"parts.0.{n}/out") for step in range(3) for n in range(3)
    }


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
