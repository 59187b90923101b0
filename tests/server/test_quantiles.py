"""Oracle: NumPy over the very weights that a small real training had at each step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

import weighbridge
from tests.server.conftest import arrow, client_of

STEPS = 12
BOUND: dict[str, float] = {}  # by folder of the run: the error that its bins allow
Trained = tuple[Path, list[np.ndarray], list[np.ndarray]]


@pytest.fixture(scope="module", params=[1, 4])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A weight of 5,120 numbers, whose values are not kept, and one of 64; with one and with four bins per power of two."""
    folder = tmp_path_factory.mktemp("quantiles")
    BOUND[str(folder)] = {1: 1 / 3, 4: 1 / 9}[request.param]
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(80, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    with torch.no_grad():
        model[0].weight[:, 0] = 30.0  # saturates every unit
        model[0].bias[7] = -5000.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    large, small = [], []
    with weighbridge.init(dir=folder, name="wide", quiet=True, plan=weighbridge.Plan(histogram=request.param)) as run:
        run.watch(model)
        for _ in range(STEPS):
            large.append(model[0].weight.detach().numpy().astype(float).ravel())
            small.append(model[2].weight.detach().numpy().astype(float).ravel())
            optimizer.zero_grad()
            model(torch.rand(16, 80) + 1.0).square().mean().backward()
            optimizer.step()
    return folder, large, small


def asked(trained: Trained, tmp_path: Path, tensor: str) -> list[dict[str, np.ndarray]]:
    client = client_of(trained[0], tmp_path)
    answer = client.get(f"/api/quantiles?run=wide&tensor={tensor}&share=0.05&share=0.95&stop={STEPS}")
    assert answer.status_code == 200, answer.text
    table = arrow(answer.content)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    return [{name: column[columns["series"] == i] for name, column in columns.items()} for i in (0, 1)]


def test_a_step_without_a_finite_value_has_no_quantile(tmp_path: Path) -> None:
    """Oracle: the training, which has nothing but NaN from its third step on."""
    torch.manual_seed(0)
    model = torch.nn.Linear(80, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with weighbridge.init(dir=tmp_path, name="wide", quiet=True) as run:
        run.watch(model)
        for step in range(6):
            optimizer.zero_grad()
            (model(torch.rand(16, 80)).square().mean() * (float("nan") if step == 2 else 1.0)).backward()
            optimizer.step()
    told = asked((tmp_path, [], []), tmp_path, "weight")
    assert told[0]["step_first"].tolist() == [0, 1, 2]
    assert np.isfinite(told[1]["mean"]).all()


def test_a_quantile_lies_between_the_ends_that_are_told(trained: Trained, tmp_path: Path) -> None:
    for share, told in zip((0.05, 0.95), asked(trained, tmp_path, "0.weight"), strict=True):
        assert told["step_first"].tolist() == list(range(STEPS))
        truth = np.quantile(trained[1], share, axis=1, method="inverted_cdf")
        assert (told["min"] <= truth).all()
        assert (truth <= told["max"]).all()
        assert ((told["min"] <= told["mean"]) & (told["mean"] <= told["max"])).all()


def test_the_number_shown_is_wrong_by_a_third_at_most(trained: Trained, tmp_path: Path) -> None:
    """As the plan promises: 33 % with one bin per power of two, 11 % with four."""
    for told, share in zip(asked(trained, tmp_path, "0.weight"), (0.05, 0.95), strict=True):
        truth = np.quantile(trained[1], share, axis=1, method="inverted_cdf")
        assert (np.abs(told["mean"] / truth - 1) <= BOUND[str(trained[0])] + 1e-9).all()


def test_of_kept_values_the_quantile_is_exact(trained: Trained, tmp_path: Path) -> None:
    for share, told in zip((0.05, 0.95), asked(trained, tmp_path, "2.weight"), strict=True):
        truth = np.quantile(np.array(trained[2])[told["step_first"]], share, axis=1)
        assert np.array_equal(told["mean"], truth)
        assert np.array_equal(told["min"], told["max"])


def test_saturated_units_are_named(trained: Trained, tmp_path: Path) -> None:
    told = client_of(trained[0], tmp_path).get("/api/layer?run=wide&path=0").json()
    assert told["units"]["kind"] == "Tanh"
    assert told["marks"]["saturated"] == list(range(64))
    assert told["marks"]["dead"] == []


@pytest.mark.parametrize("share", ["", "share=2", "share=x"])
def test_a_share_that_is_none_is_a_sentence(client: TestClient, share: str) -> None:
    answer = client.get(f"/api/quantiles?run=first&tensor=layers.0.weight&{share}")
    assert answer.status_code == 400
    assert "from 0 to 1" in answer.json()["error"]
