"""Oracle: a small training whose activations the test computes itself; what is printed is read by eye here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import weighbridge
from weighbridge.cli.main import app
from weighbridge.errors import WeighbridgeError


class Net(nn.Module):
    """Functional activation; gives what its last layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(2, 4), nn.Linear(4, 1)
        with torch.no_grad():
            self.hidden.bias.copy_(torch.tensor([-50.0, 1.0, 0.5, -60.0]))  # two units are never above 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(torch.relu(self.hidden(x)))
        return y


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model, x = Net(), torch.randn(10, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with weighbridge.init(dir=tmp_path, name="net", quiet=True) as run:
        run.watch(model)
        for step in range(25):
            optimizer.zero_grad()
            (model(x if step != 21 else x * float("inf")) - 1).square().mean().backward()
            optimizer.step() if step < 21 else None
    return run.path


def shown(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["show", *map(str, arguments)], env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    return done.output


def test_the_head_counts_parameters_and_not_outputs(run: Path) -> None:
    assert "4 tensors with 17 numbers" in shown(run)
    assert weighbridge.list_runs(run.parent)[0].tensors == 4


def test_outputs_stand_in_order_of_execution_with_their_dead_units(run: Path) -> None:
    lines = shown(run, "--outputs").splitlines()
    table = [line for line in lines if "/out" in line]
    assert [line.split()[0] for line in table] == ["hidden/out", "head/out"]
    assert "2 of 4" in table[0]
    assert "dL/dh rms" in "\n".join(lines)


def test_one_output_has_its_statistics_and_a_parameter_its_moments(run: Path) -> None:
    assert "activation_gradient.rms" in shown(run, "--tensor", "hidden/out")
    text = shown(run, "--tensor", "head.weight")
    assert "moment1.rms" in text
    assert "moment2.rms" in text


def test_programs_get_the_same_table(run: Path) -> None:
    told = json.loads(shown(run, "--outputs", "--json"))
    assert "units_never_above_0" in json.dumps(told)
    assert shown(run, "--outputs", "--csv").splitlines()[0].startswith("tensor,role,module")


def test_readers_of_units_and_of_what_a_bias_adds(run: Path) -> None:
    record = weighbridge.open_run(run)
    units = record.units("hidden/out")[0]
    assert (units.step, units.n) == (0, 10)
    assert units.active[[0, 3]].tolist() == [0, 0]
    share = record.bias_share("hidden.bias")
    assert share.steps[0] == 0
    assert share.share[0] > 10  # biases of -50 and -60 beside inputs of about 1
    with pytest.raises(WeighbridgeError):
        record.units("nothing/out")


def test_the_first_place_of_something_not_finite_is_said(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with weighbridge.init(dir=tmp_path, name="nan", quiet=True) as run:
        run.watch(model)
        for step in range(30):
            x = torch.randn(3, 2)
            x[1, 1] = float("nan") if step == 26 else 0.0
            model(x).sum().backward()
            optimizer.step()
    first = weighbridge.open_run(run.path).first_nonfinite()
    assert first is not None
    assert (first.step, first.name, first.quantity, first.call) == (26, "the batch", "activation", 0)
    assert "NaN or Inf first in the batch at step 26" in shown(run.path)
