"""The loss column, passes without a step, and what the user adds. Oracle: `loss.item()` in the loop itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import weighbridge
from tests.capture.oracle import events, table
from weighbridge.capture.losses import Passes


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def loss_of(model: nn.Module, step: int) -> torch.Tensor:
    return (model(torch.full((2, 3), float(step))) - 1).square().mean()


def trained(
    folder: Path, model: nn.Module, parts: int = 1, scaler: torch.amp.GradScaler | None = None
) -> tuple[Path, list[float]]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    true = []
    with weighbridge.init(dir=folder, name="run", quiet=True) as run:
        run.watch(model)
        for step in range(6):
            optimizer.zero_grad()
            losses = []
            for part in range(parts):
                loss = loss_of(model, parts * step + part)
                losses.append(loss.item())
                loss = loss / parts if parts > 1 else loss
                (scaler.scale(loss) if scaler else loss).backward()
            if scaler:
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
            true.append(sum(losses) / parts)
    return run.path, true


def losses(path: Path) -> list[float]:
    return [float(value) for value in weighbridge.open_run(path).losses().values]


def test_the_loss_of_a_plain_loop_is_the_very_number(tmp_path: Path) -> None:
    path, true = trained(tmp_path, small())
    assert losses(path) == true


def test_accumulation_shows_the_mean_of_the_micro_steps(tmp_path: Path) -> None:
    path, true = trained(tmp_path, small(), parts=4)
    assert losses(path) == pytest.approx(true, rel=1e-6)
    given = weighbridge.open_run(path).steps_table()
    assert given.column("backward_passes").to_pylist() == [4] * 6
    assert given.column("loss_given").to_pylist() == pytest.approx(true, rel=1e-6)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_grad_scaler_is_taken_out_of_the_loss(parts: int, tmp_path: Path) -> None:
    path, true = trained(tmp_path, small(), parts, torch.amp.GradScaler("cpu", init_scale=1024.0))
    assert losses(path) == pytest.approx(true, rel=1e-6)
    given = weighbridge.open_run(path).steps_table().column("loss_given").to_pylist()
    assert given == pytest.approx([1024 * value for value in true], rel=1e-6)


def test_a_loss_with_a_weight_of_its_own_is_left_as_it_is(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    true = []
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for step in range(4):
            optimizer.zero_grad()
            loss = loss_of(model, step) * torch.tensor(0.1)
            loss.backward()
            optimizer.step()
            true.append(loss.item())
    assert losses(run.path) == true


@pytest.mark.parametrize("counted", [torch.tensor(10), torch.tensor(10.0), 10, 12])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_sum_over_tokens_divided_by_those_of_all_micro_steps_is_added_up(
    tmp_path: Path, scaled: bool, counted: torch.Tensor | int
) -> None:
    """As transformers' Trainer accumulates: each pass is a part of the step's loss, as large as its tokens are many.

    It may count more tokens than the loss has, so what is shown is what was minimised: the sum over tokens by that number.
    """
    torch.manual_seed(0)
    model = nn.Linear(3, 7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    true = []
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for step in range(4):
            optimizer.zero_grad()
            torch.manual_seed(step)
            x, labels = torch.randn(12, 3), torch.randint(0, 7, (12,))
            labels[:2] = -100  # ignored, all of them in the first micro-step
            true.append(nn.functional.cross_entropy(model(x), labels).item() * 10 / float(counted))
            for rows in (slice(0, 3), slice(3, 12)):
                loss = nn.functional.cross_entropy(model(x[rows]), labels[rows], reduction="sum") / counted
                scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert losses(run.path) == pytest.approx(true, rel=1e-6)


def _cross_entropy(rows: int) -> torch.Tensor:
    out = torch.randn(rows, 5, requires_grad=True)
    return nn.functional.cross_entropy(out, torch.randint(0, 5, (rows,)), reduction="sum") / rows


def _error() -> torch.Tensor:
    return (torch.randn(4, requires_grad=True) - 1).square().mean()


# Roots of one step, none of which is a part of one loss, nor has a loss scale before it: a tensor below 2 or between two powers
# of two is a weight of the user's own, shares that do not add up to 1 are of a window that was cut short, and sums that are
# each divided by their own targets are means.
WHOLE: dict[str, Callable[[], list[torch.Tensor]]] = {
    "a weight below 2": lambda: [_error() * torch.tensor(0.5)],
    "a weight of 3": lambda: [_error() * torch.tensor(3.0)],
    "weights that add up to 1": lambda: [_error() * torch.tensor(0.25), _error() * torch.tensor(0.75)],
    "two of four": lambda: [_error() / 4, _error() / 4],
    "means of cross entropies": lambda: [_cross_entropy(3), _cross_entropy(8)],
}


@pytest.mark.parametrize("kind", WHOLE)
def test_roots_that_are_no_parts_are_averaged_as_they_are(kind: str) -> None:
    torch.manual_seed(0)
    roots, passes = WHOLE[kind](), Passes()
    for root in roots:
        passes.add(root)
    assert passes.scale == 1
    assert passes.mean() == pytest.approx(sum(root.item() for root in roots) / len(roots), rel=1e-6)


def test_two_optimizers_of_others_in_a_row_leave_the_loss_to_ours() -> None:
    """One pass through three models, each with an optimizer of its own; ours steps last."""
    loss, passes = _error(), Passes()
    passes.add(loss)
    passes.set_apart()
    passes.set_apart()
    passes.settle()
    assert (passes.mean(), passes.count) == (loss.item(), 1)


def test_numbers_that_a_device_gave_late_take_the_places_of_those_awaited() -> None:
    """A device's factor is taken for a scale until it is there: 3 is none, 1024 is one."""
    late = [torch.tensor(0.0) for _ in range(3)]
    passes = Passes([late[0], 3.0], [late[1], 1.0], [1.0, 1.0], 2, is_all_here=False, scale=late[2])
    assert all(one is other for one, other in zip(passes.awaited(), late, strict=True))
    settled = passes.settled([6144.0, 1024.0, 3.0])
    assert (settled.given, settled.scales, settled.scale) == ([6144.0, 3.0], [1024.0, 1.0], 1.0)
    assert settled.mean() == (6.0 + 3.0) / 2


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "a sum over targets": lambda out, wanted: nn.functional.cross_entropy(out, wanted.argmax(1), reduction="sum"),
    "masked": lambda out, wanted: ((out - wanted).square() * (wanted > 0).float()).mean(),
    "times a number": lambda out, wanted: (out - wanted).square().mean() * torch.tensor(2.0),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_in_a_checkpoint_is_computed_no_more_often_than_without_us(tmp_path: Path, kind: str) -> None:
    """As chunks of a cross entropy are checkpointed. Oracle: the same training unwatched, with the sums of its batch norm."""

    def run(folder: Path | None) -> tuple[int, torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        model, norm, calls = nn.Linear(3, 7), nn.BatchNorm1d(7), [0]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def part(x: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            calls[0] += 1
            return LOSSES[kind](norm(model(x)), wanted)

        watched = None if folder is None else weighbridge.init(dir=folder, name="run", quiet=True).watch(model)
        for _ in range(3):
            optimizer.zero_grad()
            checkpoint(part, torch.randn(8, 3), torch.randn(8, 7), use_reentrant=False).backward()
            optimizer.step()
        if watched is not None:
            watched.finish()
        return calls[0], norm.running_mean, model.weight.detach()

    (calls, mean, weight), (calls_watched, mean_watched, weight_watched) = run(None), run(tmp_path)
    assert calls == calls_watched == 6
    assert torch.equal(mean, mean_watched)
    assert torch.equal(weight, weight_watched)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_second_backward_pass_by_mistake_ends_no_recording(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a notebook where a cell is run twice: what the graph had saved has been freed, and torch says so."""
    model = nn.Linear(3, 7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for _ in range(4):
            optimizer.zero_grad()
            loss = LOSSES[kind](model(torch.randn(8, 3)), torch.randn(8, 7))
            loss.backward()
            with pytest.raises(RuntimeError, match="second time"):
                loss.backward()
            optimizer.step()
    assert not capsys.readouterr().err
    assert len(losses(run.path)) == 4


def test_a_learned_factor_of_the_loss_is_no_share_of_it(tmp_path: Path) -> None:
    """Two passes whose learned weights add up to 1: each is a loss of its own."""
    model = small()
    factor = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
    optimizer = torch.optim.SGD([*model.parameters(), factor], lr=0.0)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        given = [loss_of(model, part) * factor for part in (0, 1)]
        for loss in given:
            loss.backward()
        optimizer.step()
    assert losses(run.path) == pytest.approx([sum(loss.item() for loss in given) / 2], rel=1e-6)


def test_losses_of_a_whole_each_are_averaged(tmp_path: Path) -> None:
    """Two passes of whole losses: none of them is a part of the other."""
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    true = []
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for step in range(4):
            optimizer.zero_grad()
            given = [loss_of(model, 2 * step), loss_of(model, 2 * step + 1)]
            true.append(sum(loss.item() for loss in given) / 2)
            for loss in given:
                loss.backward()
            optimizer.step()
    assert losses(run.path) == pytest.approx(true, rel=1e-6)


def test_the_loss_of_an_unwatched_model_is_not_mixed_in(tmp_path: Path) -> None:
    model, other = small(0), small(1)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01) for m in (other, model)]
    true = []
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for step in range(4):
            for m, optimizer in zip((other, model), optimizers, strict=True):
                loss = loss_of(m, step)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            true.append(loss.item())
    assert losses(run.path) == true


def test_roots_that_are_no_loss_disturb_nothing(tmp_path: Path) -> None:
    """A complex root, one of many elements with its own gradient, and a list of roots."""
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    true = []
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for step in range(3):
            optimizer.zero_grad()
            loss_of(model, step).to(torch.complex64).backward(torch.tensor(1.0 + 0j))
            out = model(torch.ones(2, 3))
            out.backward(torch.ones_like(out))
            torch.autograd.backward([loss_of(model, 1), loss_of(model, 2)])
            loss = loss_of(model, step)
            loss.backward()
            true.append(loss.item())
            optimizer.step()
    assert losses(run.path) == true


def test_five_backward_passes_without_a_step_are_kept_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small()
    true = []
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for step in range(5):
            loss = loss_of(model, step)
            loss.backward()
            true.append(loss.item())
    assert [row["loss"] for row in table(run.path, "passes")] == true
    said = capsys.readouterr().err
    assert "no optimizer step in 5 backward passes" in said
    assert "is optimizer.step() called" in said
    assert any("no optimizer step in 5" in event.message for event in events(run.path, "warned"))


def test_thousands_of_passes_without_a_step_are_each_kept_once(tmp_path: Path) -> None:
    weight = nn.Linear(1, 1)
    true = []
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(weight)
        for step in range(4200):
            loss = weight.weight.sum() * float(step + 1)
            loss.backward()
            true.append(loss.item())
    assert [row["loss_given"] for row in table(run.path, "passes")] == true


def test_an_optimizer_of_other_parameters_is_no_step_of_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, other = small(0), small(1)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.01)  # the wrong model's
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for step in range(7):
            loss_of(model, step).backward()
            optimizer.step()
    assert "no optimizer step in 7 backward passes" in capsys.readouterr().err
    assert len(table(run.path, "passes")) == 7


def test_epochs_logs_and_config_are_recorded(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, config={"lr": 0.01, "data": "toy"}) as run:
        run.watch(model)
        run.config({"lr": 0.02}, layers=[3, 4, 1])
        for epoch in run.epochs(3):
            for step in range(2):
                optimizer.zero_grad()
                loss_of(model, step).backward()
                optimizer.step()
            run.log({"accuracy": torch.tensor(epoch / 4), "note": "good"})
        run.log({"late": 1}, step=2)
        run.log(named=0.5, step=1)
        weighbridge.log({"first": 1}, named=0.75)
    record = weighbridge.open_run(run.path)
    assert record.config == {"lr": 0.02, "data": "toy", "layers": [3, 4, 1]}
    steps, epochs = record.epochs()
    assert (steps.tolist(), epochs.tolist()) == ([*range(6)], [0, 0, 1, 1, 2, 2])
    accuracy = record.logged("accuracy")
    assert (accuracy.steps.tolist(), accuracy.values.tolist()) == ([2, 4, 6], [0, 0.25, 0.5])
    assert record.logged("late").steps.tolist() == [2]
    named = record.logged("named")
    assert (named.steps.tolist(), named.values.tolist()) == ([1, 6], [0.5, 0.75])
    notes = [row for row in table(run.path, "logs") if row["key"] == "note"]
    assert [row["text"] for row in notes] == ["good"] * 3
    assert all(math.isnan(row["value"]) for row in notes)
