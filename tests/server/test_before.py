"""Oracle: plain torch, on a copy of the model made before the training."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient
from torch.nn.functional import cross_entropy

import weighbridge
from tests.server.conftest import client_of
from weighbridge.errors import BadInput
from weighbridge.server.before import BIASES, INSPECT, before_of
from weighbridge.store.record import open_run


def network() -> torch.nn.Sequential:
    """A bias before a batch norm, and a layer of which three of eight units are dead."""
    torch.manual_seed(3)
    net = torch.nn.Sequential(
        *(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU()),
        *(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)),
    )
    with torch.no_grad():
        net[3].bias[:3] = -100.0
    return net


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(4)
    return torch.randn(64, 6), torch.arange(64) % 3


def train(folder: Path, attach: bool, steps: int = 3) -> torch.nn.Sequential:
    model, (x, y) = network(), batch()
    before = copy.deepcopy(model)
    with weighbridge.init(dir=folder, name="net", quiet=True) as run:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.watch(model)
        if attach:
            run.attach(weighbridge.inspect(model, (x, y), cross_entropy, optimizer))
            run.attach(weighbridge.biases(model, (x, y), cross_entropy))
        for _ in range(steps):
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return before


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], torch.nn.Sequential]:
    folder = tmp_path_factory.mktemp("plain")
    model = train(folder, attach=False)
    return before_of(open_run(folder / "net")), model


@pytest.fixture(scope="module")
def attached(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("attached")
    train(folder, attach=True)
    return before_of(open_run(folder / "net"))


def test_the_loss_stands_beside_that_of_a_guess(plain: tuple[dict[str, Any], torch.nn.Sequential]) -> None:
    told, model = plain
    x, y = batch()
    assert told["loss"]["first"] == pytest.approx(cross_entropy(model(x), y).item(), rel=1e-5)
    assert told["loss"]["guess"] == pytest.approx(torch.tensor(3.0).log().item(), rel=1e-3)
    assert told["loss"]["samples"] == 64


def test_each_layer_is_as_it_was_before_the_first_update(plain: tuple[dict[str, Any], torch.nn.Sequential]) -> None:
    told, model = plain
    x, _ = batch()
    rows = {row["path"]: row for row in told["layers"]}
    assert list(rows) == ["0", "1", "3", "5"]
    for name, row in rows.items():
        weight = model[int(name)].weight.detach().double()
        assert row["weight_std"] == pytest.approx(weight.std(correction=0).item(), rel=1e-6, abs=1e-9)
        given = model[: int(name) + 1](x).double()
        assert row["output_rms"] == pytest.approx(given.square().mean().sqrt().item(), rel=1e-4)
    fires = (model[:5](x) > 0).any(0)
    assert rows["3"]["dead"] == pytest.approx((~fires).double().mean().item())
    assert rows["3"]["dead"] >= 3 / 8
    assert rows["5"]["dead"] is None, "no ReLU is behind it"


def test_a_bias_before_a_batch_norm_is_redundant_with_what_it_costs(plain: tuple[dict[str, Any], torch.nn.Sequential]) -> None:
    rows = {row["path"]: row for row in plain[0]["layers"]}
    assert rows["0"]["verdict"]["word"] == "redundant"
    assert rows["0"]["verdict"]["reason"].startswith("proof: module 1 ")
    assert rows["0"]["verdict"]["bytes"] >= 2 * 8 * 4
    assert [rows[name]["verdict"] for name in ("1", "3", "5")] == [None] * 3


def test_what_is_not_known_says_the_line_that_finds_it_out(plain: tuple[dict[str, Any], torch.nn.Sequential]) -> None:
    told = plain[0]
    assert (told["inspected"], told["biases"], told["has_graph"]) == (False, False, True)
    assert told["ask"] == {"inspect": INSPECT, "biases": BIASES}
    for line in (INSPECT, BIASES):
        compile(line, "line", "exec")


def test_attached_reports_fill_what_the_run_does_not_know(attached: dict[str, Any]) -> None:
    assert (attached["inspected"], attached["biases"]) == (True, True)
    rows = {row["path"]: row for row in attached["layers"]}
    assert rows["0"]["verdict"]["reason"].startswith("proof:"), "a proof stays"
    assert "worth" not in rows["0"]["verdict"]
    assert all(rows[name]["verdict"] for name in ("3", "5"))
    model, (x, y) = network(), batch()
    report = {one.name: one for one in weighbridge.biases(model, (x, y), cross_entropy)}
    assert rows["3"]["verdict"]["word"] == report["3.bias"].verdict
    assert {one["rule"] for one in attached["findings"]} >= {"redundant-bias"}


def test_only_reports_can_be_attached(tmp_path: Path) -> None:
    with weighbridge.init(dir=tmp_path, quiet=True) as run, pytest.raises(BadInput, match=r"weighbridge\.inspect or"):
        run.attach({"loss": 1})  # type: ignore[arg-type]


def test_runs_that_know_little_say_so(client: TestClient) -> None:
    told = client.get("/api/before?run=first").json()
    assert (told["has_graph"], told["loss"]["guess"]) == (False, None)
    assert told["loss"]["first"] == 1.0
    assert [row["path"] for row in told["layers"]] == ["layers.0", "layers.1"]
    assert all(row["output_rms"] is None and row["dead"] is None for row in told["layers"])
    assert client.get("/api/before?run=none").status_code == 404


def test_a_run_without_any_step(tmp_path: Path) -> None:
    with weighbridge.init(dir=tmp_path, name="none", quiet=True) as run:
        run.watch(network())
    told = client_of(tmp_path, tmp_path / "x").get("/api/before?run=none").json()
    assert told["loss"]["first"] is None
    assert [row["weight_std"] for row in told["layers"]] == [None] * 4
