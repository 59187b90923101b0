"""Oracle: NumPy over the very numbers that a small real training had, and the tables as they were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

import weighbridge
from tests.server.conftest import arrow, client_of
from weighbridge.server import distributions
from weighbridge.server.layerpage import BARS
from weighbridge.store.record import open_run

STEPS = 40


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two linear layers with a ReLU between; unit 1 of the first never fires, units 2 and 3 are the same."""
    folder = tmp_path_factory.mktemp("layer")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1, bias=False))
    with torch.no_grad():
        model[0].bias[1] = -100.0
        model[0].weight[3] = model[0].weight[2]
        model[0].bias[3] = model[0].bias[2]
        model[2].weight[0, 3] = model[2].weight[0, 2]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with weighbridge.init(dir=folder, name="small", quiet=True) as run:
        run.watch(model)
        for _ in range(STEPS):
            x = torch.randn(16, 3)
            optimizer.zero_grad()
            (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
            optimizer.step()
    return folder


@pytest.fixture
def client(trained: Path, tmp_path: Path) -> TestClient:  # type: ignore[override]
    return client_of(trained, tmp_path)


def unpacked(content: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    table = arrow(content)
    return json.loads(table.schema.metadata[b"about"]), {name: table[name].to_numpy() for name in table.column_names}


def test_a_layer_shows_its_numbers_unit_by_unit(client: TestClient, trained: Path) -> None:
    told = client.get("/api/layer?run=small&path=0&step=7").json()
    record = open_run(trained / "small")
    step, weight = record.values("0.weight", "parameter", 7)
    assert told["values"]["step"] == step == 7
    assert np.array_equal(told["values"]["weight"], weight.astype(float))
    assert np.array_equal(told["values"]["bias"], record.values("0.bias", "parameter", 7)[1].astype(float))
    gradient = record.values("0.weight", "gradient", 7)[1].astype(np.float64)
    assert np.allclose(told["values"]["gradient_rms"], np.sqrt((gradient**2).mean(axis=1)), rtol=1e-12)
    assert told["values"]["edge"] == np.abs(weight).max()
    assert (told["before"], told["after"], told["last"]) == (None, "2", STEPS - 1)


def test_dead_units_and_equal_units_are_named(client: TestClient) -> None:
    told = client.get("/api/layer?run=small&path=0").json()
    assert told["marks"]["dead"] == [1]
    assert told["marks"]["alike"] == [[2, 3]]
    assert told["units"]["of"] == "1/out"
    assert told["units"]["fires"][1] == 0.0


def test_the_strip_has_the_gradient_of_every_weight(client: TestClient, trained: Path) -> None:
    told = client.get("/api/layer?run=small&path=0&step=3").json()["strip"]
    record = open_run(trained / "small")
    truth = [record.series(name, "gradient.rms", 3, 4).values[0] for name in ("0.weight", "2.weight")]
    assert [(one["path"], one["value"]) for one in told] == list(zip(["0", "2"], truth, strict=True))


def test_of_many_layers_the_strip_has_those_around_the_one_that_is_shown(tmp_path: Path) -> None:
    model = torch.nn.Sequential(*[torch.nn.Linear(1, 1) for _ in range(2 * BARS)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with weighbridge.watch(model, run=weighbridge.init(dir=tmp_path, name="many", quiet=True)):
        model(torch.ones(1, 1)).sum().backward()
        optimizer.step()
    many = client_of(tmp_path, tmp_path)
    for path, first in ((0, 0), (BARS, BARS // 2), (2 * BARS - 1, BARS)):
        told = many.get(f"/api/layer?run=many&path={path}").json()["strip"]
        assert [one["path"] for one in told] == [str(i) for i in range(first, first + BARS)]


def test_what_the_bias_adds_is_the_recorded_share(client: TestClient, trained: Path) -> None:
    told = client.get("/api/layer?run=small&path=0").json()["bias_share"]
    truth = open_run(trained / "small").bias_share("0.bias")
    assert (told["step"], told["share"]) == (truth.steps[-1], truth.share[-1])
    assert client.get("/api/layer?run=small&path=2").json()["bias_share"] is None


def test_a_layer_without_parameters_and_one_that_is_not_there(client: TestClient) -> None:
    told = client.get("/api/layer?run=small&path=1").json()
    assert told["values"] is None
    assert told["units"]["kind"] == "ReLU"
    assert (told["before"], told["after"]) == ("0", "2")
    answer = client.get("/api/layer?run=small&path=7")
    assert answer.status_code == 404
    assert "no layer '7'" in answer.json()["error"]


@pytest.mark.parametrize("most", [1, 5, 200])
def test_spread_counts_every_kept_value_once(client: TestClient, trained: Path, most: int) -> None:
    about, columns = unpacked(client.get(f"/api/spread?run=small&tensor=0.weight&buckets={most}").content)
    counts = columns["counts"].reshape(len(about["steps"]), -1)
    assert about["linear"] is True
    assert len(about["steps"]) <= most
    record = open_run(trained / "small")
    for step, row in zip(about["steps"], counts, strict=True):
        truth = np.histogram(record.values("0.weight", "parameter", step)[1].astype(float), about["edges"])[0]
        assert np.array_equal(row, truth)
        assert row.sum() == 15


def test_spread_of_what_a_module_gives_comes_from_the_stored_histograms(client: TestClient, trained: Path) -> None:
    about, columns = unpacked(client.get("/api/spread?run=small&tensor=0%2Fout&quantity=activation&buckets=3").content)
    assert about["linear"] is False
    counts = columns["counts"].reshape(len(about["steps"]), -1)
    record = open_run(trained / "small")
    for step, row in zip(about["steps"], counts, strict=True):
        edges, truth, _ = record.histogram("0/out", "activation", step)
        inside = (edges[:-1] >= about["edges"][0]) & (edges[1:] <= about["edges"][-1])
        assert np.array_equal(row, truth[inside])
        assert row.sum() == truth.sum() == 16 * 5


def test_several_histograms_at_once_are_those_one_by_one(trained: Path) -> None:
    record = open_run(trained / "small")
    steps, edges, counts = record.histograms("0.bias", "gradient", [3, 17, 999])
    assert steps.tolist() == [3, 17]
    for step, row in zip(steps, counts, strict=True):
        truth = record.histogram("0.bias", "gradient", int(step))
        assert np.array_equal(edges, truth[0])
        assert np.array_equal(row, truth[1])
    assert record.histograms("0.bias", "gradient", [])[2].shape == (0, 132)


def test_every_value_of_a_small_tensor_is_a_line(client: TestClient, trained: Path) -> None:
    about, columns = unpacked(client.get("/api/lines?run=small&tensor=0.bias&stop=40").content)
    values = columns["values"].reshape(len(about["steps"]), about["elements"])
    assert about["steps"] == list(range(40))
    record = open_run(trained / "small")
    for step in (0, 13, 39):
        assert np.array_equal(values[step], record.values("0.bias", "parameter", step)[1])


def test_large_tensors_have_no_lines(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "LINES", 4)
    about, columns = unpacked(client.get("/api/lines?run=small&tensor=0.bias").content)
    assert about["elements"] == 0
    assert columns["values"].size == 0


def test_steps_are_spread_evenly_and_keep_both_ends() -> None:
    steps = np.array([0, 1, 2, 3, 4, 5, 50, 60, 100])
    chosen = steps[distributions._spread(steps, 3)]
    assert chosen.tolist() == [0, 50, 100]
    assert distributions._spread(steps, 100).tolist() == list(range(9))


def test_a_quantity_that_is_none_is_a_sentence(client: TestClient) -> None:
    answer = client.get("/api/spread?run=small&tensor=0.bias&quantity=gradent")
    assert answer.status_code == 400
    assert "Did you mean gradient" in answer.json()["error"]


def test_all_rules_come_with_their_own_words(client: TestClient) -> None:
    from weighbridge.diagnosis import registry

    told = client.get("/api/rules").json()
    assert [one["id"] for one in told] == [rule.id for rule in registry.rules()]
    assert all(list(one["sections"]) == list(registry.SECTIONS) for one in told)


def test_a_rule_tells_the_numbers_behind_its_names_in_capitals(client: TestClient) -> None:
    """Oracle: the constants of the rule's own file."""
    from weighbridge.diagnosis.rules import vanishing_gradient

    told = {rule["id"]: rule["limits"] for rule in client.get("/api/rules").json()}
    assert told["vanishing-gradient"]["LIMIT"] == vanishing_gradient.LIMIT
    assert told["vanishing-gradient"]["PATIENCE"] == vanishing_gradient.PATIENCE
    assert sum(bool(limits) for limits in told.values()) > 20
