"""Oracle: the trainings themselves. They are made to part at a known step for a known reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

import weighbridge
from tests.server.conftest import client_of, picture
from weighbridge.server import heat, parting, versus
from weighbridge.store.record import open_run

STEPS, PART = 40, 23
Change = Callable[[int, torch.optim.Optimizer, torch.Tensor], None]


def train(
    folder: Path,
    name: str,
    change: Change | None = None,
    seed: int = 0,
    momentum: float = 0.0,
    lr: float = 0.05,
    more: Callable[[int], float] = lambda step: 0.0,
    logged: Callable[[int], dict[str, float]] = lambda step: {},
) -> None:
    """more: on top of the loss, so that no gradient knows of it."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    torch.manual_seed(1)
    with weighbridge.init(dir=folder, name=name, config={"seed": seed, "data": {"size": 16}}, quiet=True) as run:
        run.watch(model)
        for step in range(STEPS):
            x = torch.randn(16, 4)
            if change is not None:
                change(step, optimizer, x)
            optimizer.zero_grad()
            ((model(x) - x.sum(1, keepdim=True)).square().mean() + more(step)).backward()
            optimizer.step()
            run.log(logged(step))


def faster(step: int, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    if step == PART:
        optimizer.param_groups[0]["lr"] = 0.1


def other_data(step: int, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    if step == PART:
        x[0, 0] += 1.0


def last_step(step: int, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    if step == STEPS - 1:
        optimizer.param_groups[0]["lr"] = 0.1


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("versus")
    train(folder, "a")
    train(folder, "again")
    train(folder, "faster", faster)
    train(folder, "data", other_data)
    train(folder, "seed", seed=5)
    train(folder, "last", last_step)
    train(folder, "momentum", momentum=0.9)
    return folder


@pytest.fixture
def client(trained: Path, tmp_path: Path) -> TestClient:
    return client_of(trained, tmp_path)


@pytest.mark.parametrize(
    ("other", "kind", "step", "gradients"),
    [
        ("again", "never", STEPS - 1, False),
        ("faster", "step", PART, False),
        ("data", "step", PART, True),
        ("seed", "start", 0, True),
        ("last", "step", STEPS - 1, False),
        ("momentum", "step", 1, False),  # the first step of momentum is that of none
    ],
)
def test_where_two_runs_part_is_found_to_the_step(trained: Path, other: str, kind: str, step: int, gradients: bool) -> None:
    told = parting.parting(open_run(trained / "a"), open_run(trained / other))
    assert (told["kind"], told["step"], told["gradients"]) == (kind, step, gradients)
    assert told["of"] == 4
    if kind == "step":
        assert len(told["tensors"]) == 4


def test_only_what_differs_is_listed_and_the_rest_is_counted(client: TestClient) -> None:
    told = client.get("/api/compare?run=a&run=seed&run=momentum").json()
    differ = {row["name"]: row["values"] for row in told["differ"]}
    assert differ["config seed"] == [0, 5, 0]
    assert {"name": "config data.size", "value": 16} in told["equal"]
    assert "config data.size" not in differ


def test_a_jump_of_the_learning_rate_is_a_setting(client: TestClient, trained: Path) -> None:
    told = client.get("/api/compare?run=a&run=faster").json()
    assert {"name": f"learning rate from step {PART}", "values": [None, 0.1]} in told["differ"]
    mean = np.mean(open_run(trained / "faster").losses().values[-versus.LAST_LOSSES :])
    assert told["results"][0]["values"][1] == pytest.approx(mean, rel=1e-12)


def difference(client: TestClient, what: str) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    return picture(client, f"difference?{what}")


def test_the_picture_is_identical_before_they_part_and_the_ratio_after(client: TestClient, trained: Path) -> None:
    about, value, mask = difference(client, "run=a&run=faster&stat=gradient.rms")
    assert (mask[:, : PART + 1] == versus.IDENTICAL).all()
    assert (mask[:, PART + 1 :] == heat.VALUE).all()
    a, b = (open_run(trained / name).series("0.weight", "gradient.rms").values for name in ("a", "faster"))
    assert np.allclose(value[0, PART + 1 :], np.log10(b / a)[PART + 1 :].astype(np.float32), atol=1e-6)
    assert about["scale"] == "versus"
    assert -about["domain"][0] == about["domain"][1] > 0


def test_of_signed_values_the_difference_is_drawn(client: TestClient, trained: Path) -> None:
    about, value, _ = difference(client, "run=a&run=faster&stat=parameter.mean")
    a, b = (open_run(trained / name).series("0.weight", "parameter.mean", 0, STEPS).values for name in ("a", "faster"))
    assert about["scale"] == "less"
    assert np.allclose(value[0], (b - a).astype(np.float32), atol=1e-6)


def test_a_run_that_is_longer_or_has_other_tensors_is_compared_where_both_are(client: TestClient, trained: Path) -> None:
    if not (trained / "other").exists():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with weighbridge.init(dir=trained, name="other", quiet=True) as run:
            run.watch(model)
            for _ in range(5):
                optimizer.zero_grad()
                model(torch.randn(2, 3)).sum().backward()
                optimizer.step()
    told = client.get("/api/compare?run=a&run=other").json()
    assert told["parting"]["kind"] == "nothing in common"
    about, value, _ = difference(client, "run=a&run=other&stat=gradient.rms")
    assert value.size == 0
    assert set(about["alone"]) == {"weight", "bias", "0.weight", "0.bias", "2.weight", "2.bias"}


def test_face_to_face_has_the_same_bins_and_every_value_once(client: TestClient, trained: Path) -> None:
    told = client.get("/api/faces?run=a&run=faster&tensor=0.weight&step=30").json()
    for name, counts in zip(("a", "faster"), told["counts"], strict=True):
        values = open_run(trained / name).values("0.weight", "parameter", 30)[1].astype(float)
        assert counts == np.histogram(values, told["edges"])[0].tolist()
        assert sum(counts) == 24


def test_too_few_and_too_many_runs_are_refused(client: TestClient) -> None:
    assert client.get("/api/difference?run=a&stat=gradient.rms").status_code == 400
    assert client.get("/api/compare?" + "&".join(["run=a"] * 9)).status_code == 400
    assert client.get("/api/compare?run=a&run=b").status_code == 404


def test_a_run_beside_itself_does_not_wait_for_itself(client: TestClient) -> None:
    assert client.get("/api/compare?run=a&run=a").json()["parting"]["kind"] == "never"


@pytest.mark.parametrize(
    ("other", "title", "text"),
    [
        ("again", "The same to the last bit", "very same sums in both runs, up to step 39"),
        ("faster", f"They part at step {PART}, in all 4 tensors at once", "optimizer was set differently"),
        ("data", f"They part at step {PART}, in all 4 tensors at once", "other data"),
        ("seed", "They differ from the first step", "All 4 tensors start with other values"),
    ],
)
def test_where_two_runs_part_is_said_with_what_it_means(trained: Path, other: str, title: str, text: str) -> None:
    found = parting.said(parting.parting(open_run(trained / "a"), open_run(trained / other)))
    assert found["title"] == title
    assert text in found["text"]


def at(part: int, value: float) -> Callable[[int], float]:
    return lambda step: value * (step >= part)


@pytest.mark.parametrize(
    ("one", "two", "others"),
    [
        ({}, {"more": at(PART, 1.0)}, ["the loss"]),
        (
            {"logged": lambda step: {"accuracy": 0.0}},
            {"logged": lambda step: {"accuracy": at(STEPS - 1, 0.1)(step)}},
            ["accuracy"],
        ),
        ({"lr": 0.0}, {"lr": 0.0, "change": other_data}, ["the loss", "gradients"]),
    ],
)
def test_equal_weights_are_not_all(tmp_path: Path, one: dict[str, Any], two: dict[str, Any], others: list[str]) -> None:
    train(tmp_path, "one", **one)
    train(tmp_path, "two", **two)
    found = parting.parting(open_run(tmp_path / "one"), open_run(tmp_path / "two"))
    first = STEPS if others == ["accuracy"] else PART  # the last was logged behind the last update
    assert (found["kind"], found["step"], found["others"]) == ("numbers", first, others)
    told = parting.said(found)
    assert told["title"] == f"They part at step {first}, in {', '.join(others)}, not in weights"
    assert f"The weights are the same up to step {STEPS - 1}" in told["text"]


def test_losses_that_part_before_the_weights_are_told_first(tmp_path: Path) -> None:
    train(tmp_path, "one", faster)
    train(tmp_path, "two", more=at(PART - 5, 1.0))
    found = parting.parting(open_run(tmp_path / "one"), open_run(tmp_path / "two"))
    assert (found["kind"], found["step"], found["weights"]) == ("numbers", PART - 5, PART)
    assert "The weights are the same up to step 23" in parting.said(found)["text"]


def test_what_was_not_looked_at_to_the_end_is_not_called_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, "one")
    train(tmp_path, "two")
    monkeypatch.setattr(parting, "LOOKS", 0)
    told = parting.said(parting.parting(open_run(tmp_path / "one"), open_run(tmp_path / "two")))
    assert told["title"] == "The same weights to the last bit"
    assert "Whether gradients and outputs are the same was not found out" in told["text"]


def test_what_is_the_same_is_named_and_what_one_alone_has_logged(tmp_path: Path) -> None:
    train(tmp_path, "one", logged=lambda step: {"accuracy": 0.25})
    train(tmp_path, "two", logged=lambda step: {"accuracy": 0.25, "speed": step})
    told = parting.said(parting.parting(open_run(tmp_path / "one"), open_run(tmp_path / "two")))
    assert told["title"] == "The same to the last bit"
    assert told["text"].endswith(
        "so are gradients and outputs, all losses, 1 logged metric. Logged in one of them only: speed."
    )
