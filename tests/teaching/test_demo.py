"""Oracles: a loop written by hand, least squares, and the demo as a person starts it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import weighbridge
from weighbridge.teaching.data import tutorial
from weighbridge.teaching.demo import best_linear, compose
from weighbridge.teaching.readback import epoch_means, first_step_without_gradient, values_at

SOURCE = Path(weighbridge.__file__).parents[1]


def weighbridge_command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "weighbridge", *arguments],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def by_hand(epochs: int, seed: int = 0) -> tuple[list[tuple[float, dict[str, float]]], nn.Module]:
    """The tutorial's loop, without us: per epoch the loss and what it prints."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.tensor(tutorial().x, dtype=torch.float32), torch.tensor(tutorial().y, dtype=torch.float32)
    printed = []
    for _ in range(epochs):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        printed.append((loss.item(), {name: p.data.mean().item() for name, p in model.named_parameters()}))
    return printed, model


def test_the_means_per_epoch_are_those_of_the_loop_by_hand_to_the_last_bit(tmp_path):
    result = weighbridge.lab(layers="2-4-1", data="tutorial", optimizer="sgd", lr=0.01, epochs=20, dir=tmp_path)
    found = epoch_means(weighbridge.open_run(result.paths[0]))
    printed, _ = by_hand(20)
    assert [(e.loss, e.means) for e in found] == printed
    assert [e.epoch for e in found] == list(range(20))


def test_the_statistic_mean_agrees_with_the_means_per_epoch(tmp_path):
    result = weighbridge.lab(layers="2-4-1", optimizer="sgd", epochs=5, dir=tmp_path)
    record = weighbridge.open_run(result.paths[0])
    for epoch in epoch_means(record):
        for name, mean in epoch.means.items():
            assert record.series(name, "parameter.mean").values[epoch.epoch + 1] == pytest.approx(mean, rel=1e-6, abs=1e-7)


def test_the_values_before_training_are_those_of_step_0(tmp_path):
    result = weighbridge.lab(layers="2-4-1", optimizer="sgd", epochs=2, dir=tmp_path)
    record = weighbridge.open_run(result.paths[0])
    torch.manual_seed(0)
    for name, parameter in nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).named_parameters():
        assert values_at(record, name, 0).tolist() == parameter.tolist()


def test_watching_changes_no_bit_of_a_lab(tmp_path):
    options = {"layers": "4-8-3", "data": "iris", "norm": "batch", "epochs": 3, "seeds": 2}
    watched, plain = weighbridge.lab(**options, dir=tmp_path), weighbridge.lab(**options, watch=False)
    for one, other in zip(watched.trainings, plain.trainings, strict=True):
        assert (one.step_losses, one.scores) == (other.step_losses, other.scores)
        assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


def test_every_training_has_a_run_that_says_what_it_was(tmp_path):
    result = weighbridge.lab(layers="4-8-3", data="iris", bias=["all", "none"], epochs=2, seeds=2, dir=tmp_path)
    assert [path.name for path in result.paths] == [f"iris-4-8-3-bias-{b}-seed-{s}" for b in ("all", "none") for s in (0, 1)]
    training = result.trainings[3]
    record = weighbridge.open_run(training.path)
    assert record.info.state == "finished"
    assert (record.config["bias"], record.config["seed"], record.config["lr"]) == ("none", 1, 0.01)
    assert record.losses().values.tolist() == training.step_losses
    assert record.logged("accuracy").values.tolist() == training.scores
    assert [tensor.name for tensor in record.tensors] == ["0.weight", "2.weight"]


def test_dead_neurons_are_found_in_the_records(tmp_path):
    result = weighbridge.lab(layers="2-4-1", optimizer="sgd", lr=[0.01, 0.003], epochs=20, dir=tmp_path)
    dead, alive = (weighbridge.open_run(path) for path in result.paths)
    step = first_step_without_gradient(dead, "0.weight")
    assert step is not None
    assert dead.series("0.weight", "update.abs_max").values[step:].max() == 0
    assert dead.series("2.bias", "gradient.abs_max").values[-1] > 0
    assert first_step_without_gradient(alive, "0.weight") is None


def test_affine_layers_multiply_out_to_one_linear_and_its_best_fit_is_least_squares():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 2)).double()
    x = torch.randn(50, 3, dtype=torch.float64)
    weight, bias = compose(model)
    assert torch.allclose(model(x), x @ weight.T + bias, atol=1e-14)
    assert torch.allclose(best_linear(x, model(x).detach()), model(x), atol=1e-12)
    with pytest.raises(ValueError, match="not affine"):
        compose(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))


def test_the_demo_ends_by_itself_without_a_terminal(tmp_path):
    done = weighbridge_command("demo", "--quick", "--dir", "runs", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr  # without the C kernel a note stands there
    printed, _ = by_hand(20)
    for epoch in (0, 1, 2, 3, 4, 9, 14, 19):
        loss, means = printed[epoch]
        cells = "  ".join(f"{mean:12.8f}" for mean in means.values())
        assert f"{epoch:5}  {loss:9.4f}  {cells}" in done.stdout
    network, best = re.findall(r"loss of the (?:trained network|best possible Linear \(least squares\)) +(\S+)", done.stdout)
    assert float(network) == pytest.approx(float(best), rel=1e-3)
    assert "bias none  0x: (0.000, 0.000)" in done.stdout
    assert "weighbridge ui runs" in done.stdout
    is_known = shutil.which("weighbridge") is not None or not (Path(sys.prefix) / "bin" / "activate").exists()
    assert ("bin/activate" in done.stdout) is not is_known
    assert len(weighbridge.list_runs(tmp_path / "runs")) == 37


def test_the_command_line_answers_what_the_bias_is_worth(tmp_path):
    line = "lab --layers 4-8-3 --data iris --bias all --bias none --seeds 2 --epochs 2"
    done = weighbridge_command(*line.split(), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr  # without the C kernel a note stands there
    assert "“bias none” instead of “bias all”:" in done.stdout
    assert "4 runs in weighbridge-runs" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("lab --seeds 13", "1 variant(s) x 13 seed(s) = 13 trainings: more than 12 are trained only with --yes"),
        ("lab --layers 3-4-1", "--layers in-4-out always fits"),
        ("lab --data plants.csv", "No such file"),
        ("lab --task guess", "--task guess: not known"),
    ],
)
def test_the_command_line_says_what_is_wrong_and_ends_with_2(tmp_path, arguments, words):
    done = weighbridge_command(*arguments.split(), folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
