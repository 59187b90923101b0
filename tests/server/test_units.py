"""Which part of a large layer is sent, and what its bias is worth. Oracles: the numbers as they were kept, autograd (on which
weights a channel depends), and the report of `weighbridge.biases` itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from torch import nn

import weighbridge
from tests.server.conftest import client_of
from weighbridge.server.unitnumbers import INPUTS, UNITS
from weighbridge.store.record import open_run

STEPS = 3
LINE = "weighbridge.watch(model, plan=weighbridge.Plan(values=4_200))"


class Shapes(nn.Module):
    """Layers of every shape that a page has to show."""

    def __init__(self) -> None:
        super().__init__()
        self.tall = nn.Linear(4, 200)
        self.wide = nn.Linear(200, 18)
        self.grid = nn.Conv2d(2, 40, 3)
        self.turned = nn.ConvTranspose2d(40, 6, (1, 2), groups=2)
        self.large = nn.Linear(60, 70)
        self.norm = nn.BatchNorm1d(70)
        self.last = nn.Linear(70, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.wide(torch.relu(self.tall(x)))).reshape(len(x), 2, 3, 3)
        x = self.turned(self.grid(x)).flatten(1)
        out: torch.Tensor = self.last(torch.relu(self.norm(self.large(x.repeat(1, 5)))))
        return out


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, weighbridge.BiasReport]:
    folder = tmp_path_factory.mktemp("shapes")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Shapes()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = (torch.randn(32, 4), torch.arange(32) % 3)
    with weighbridge.init(dir=folder, name="shapes", quiet=True) as run:
        run.watch(model)
        for _ in range(STEPS):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data[0]), data[1]).backward()
            optimizer.step()
        report = weighbridge.biases(model, data, nn.functional.cross_entropy, optimizer)
        run.attach(report)
    with weighbridge.init(dir=folder, name="alone", quiet=True) as run:
        run.watch(model)
        optimizer.step()
    return folder, report


@pytest.fixture
def client(trained: tuple[Path, Any], tmp_path: Path) -> TestClient:
    return client_of(trained[0], tmp_path)


def asked(client: TestClient, path: str, more: str = "", run: str = "shapes") -> dict[str, Any]:
    answer = client.get(f"/api/layer?run={run}&path={path}{more}")
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_units_and_inputs_come_in_windows_side_by_side(client: TestClient, trained: tuple[Path, Any]) -> None:
    record = open_run(trained[0] / "shapes")
    tall = asked(client, "tall", "&unit=70")
    weight = record.values("tall.weight", "parameter", STEPS - 1)[1]
    assert tall["shown"]["units"] == list(range(UNITS, 2 * UNITS))
    assert (tall["shown"]["count"], tall["shown"]["first"]) == (200, UNITS)
    assert np.array_equal(tall["values"]["weight"], weight[UNITS : 2 * UNITS].astype(float))
    assert tall["values"]["edge"] == np.abs(weight).max()  # the colours of all windows are the same
    assert len(tall["values"]["bias"]) == UNITS
    assert asked(client, "tall", "&unit=100000")["shown"]["units"] == list(range(3 * UNITS, 200))
    wide = asked(client, "wide", "&input=199")
    assert wide["shown"]["inputs"] == [0, 200]
    assert INPUTS > 200


def test_units_are_sorted_over_all_of_them_not_within_the_window(client: TestClient, trained: tuple[Path, Any]) -> None:
    bias = open_run(trained[0] / "shapes").values("tall.bias", "parameter", STEPS - 1)[1]
    by_bias = np.argsort(bias, kind="stable")
    told = asked(client, "tall", f"&sort=bias&unit={UNITS}")
    assert told["shown"]["units"] == by_bias[UNITS : 2 * UNITS].tolist()
    assert told["values"]["bias"] == sorted(told["values"]["bias"])
    fires = asked(client, "tall", "&sort=active")["units"]["fires"]
    assert fires == sorted(fires)
    assert client.get("/api/layer?run=shapes&path=tall&sort=size").status_code == 400


def test_a_convolution_is_sent_kernel_by_kernel(client: TestClient, trained: tuple[Path, Any]) -> None:
    weight = open_run(trained[0] / "shapes").values("grid.weight", "parameter", STEPS - 1)[1]
    told = asked(client, "grid")
    assert told["values"]["kernel"] == [3, 3]
    assert told["shown"]["input_count"] == 2
    assert np.array_equal(np.array(told["values"]["weight"]).reshape(40, 2, 3, 3), weight.astype(float))


def test_a_transposed_convolution_is_turned_to_its_outputs(client: TestClient, trained: tuple[Path, Any]) -> None:
    """A channel of the output depends on the weights that autograd names, and on no others."""
    weight = open_run(trained[0] / "shapes").values("turned.weight", "parameter", STEPS - 1)[1]
    told = asked(client, "turned")
    assert told["values"]["kernel"] == [1, 2]
    layer = nn.ConvTranspose2d(40, 6, (1, 2), groups=2)
    layer.weight.data = torch.tensor(weight.copy())
    for channel in range(6):
        layer.zero_grad()
        layer(torch.ones(1, 40, 3, 3))[0, channel].sum().backward()
        assert layer.weight.grad is not None
        mine = weight[layer.weight.grad.numpy() != 0]
        assert np.array_equal(told["values"]["weight"][channel], mine.astype(float))


def test_of_a_tensor_too_large_the_bias_and_the_units_are_shown_and_the_line_that_keeps_it(client: TestClient) -> None:
    told = asked(client, "large")
    assert told["values"]["weight"] is None
    assert len(told["values"]["bias"]) == 64
    assert told["shown"]["count"] == 70
    assert told["not_kept"] == {"name": "large.weight", "count": 4200, "limit": 4096, "line": LINE}
    assert asked(client, "tall")["not_kept"] is None


def test_the_line_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = nn.Linear(60, 70)
    truth = model.weight.detach().numpy().copy()
    run = weighbridge.watch(model, plan=weighbridge.Plan(values=4_200))  # LINE
    model(torch.ones(2, 60)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    run.finish()
    told = asked(client_of(run.path.parent, tmp_path), ".", "&step=0", run.path.name)
    assert np.array_equal(told["values"]["weight"], truth[:64].astype(float))


def test_what_a_bias_is_worth_is_what_was_measured(client: TestClient, trained: tuple[Path, weighbridge.BiasReport]) -> None:
    truth = {one.layer: one for one in trained[1]}["last"]
    told = client.get("/api/worth?run=shapes&path=last").json()
    assert truth.worth is not None
    assert told["verdict"]["word"] == truth.verdict
    assert [told["verdict"]["worth"][name] for name in ("mean", "low", "high", "units")] == [
        truth.worth.mean, truth.worth.low, truth.worth.high, 32,
    ]  # fmt: skip
    assert told["step"] == STEPS


def test_a_proof_comes_before_a_measurement(client: TestClient) -> None:
    told = client.get("/api/worth?run=shapes&path=large").json()
    assert told["verdict"]["word"] == "redundant"
    assert told["verdict"]["reason"].startswith("proof: module norm")


def test_where_nobody_has_measured_the_line_of_code_is_told(client: TestClient) -> None:
    told = client.get("/api/worth?run=alone&path=last").json()
    assert told["bias"] == "last.bias"
    assert told["verdict"] is None
    assert "weighbridge.biases(" in told["ask"]
    assert client.get("/api/worth?run=alone&path=nothing").status_code == 404
