"""What cannot be watched or planned says so, in words, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import weighbridge


@pytest.mark.parametrize("model", [None, "model", 3, [nn.Linear(2, 2)], nn.Linear(2, 2).state_dict(), nn.Linear])
def test_what_is_no_module_is_refused_by_name(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(weighbridge.WeighbridgeError, match=f"{type(model).__name__}.*torch.nn.Module.*watch\\(model\\)"):
        weighbridge.watch(model)
    assert not list(tmp_path.iterdir())  # no empty run is left behind


def test_an_optimizer_given_for_the_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(weighbridge.WeighbridgeError, match="SGD"):
        weighbridge.watch(torch.optim.SGD(nn.Linear(2, 2).parameters()))  # type: ignore[arg-type]


def test_a_name_in_place_of_a_run_is_refused_and_the_line_to_write_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(weighbridge.WeighbridgeError, match=r"run='first', a str; .*weighbridge\.init\(name="):
        weighbridge.watch(nn.Linear(2, 1), run="first")  # type: ignore[arg-type]
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Dropout())])
def test_a_model_without_parameters_is_refused(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(weighbridge.WeighbridgeError, match=r"no parameters.*Watch the model that the optimizer trains"):
        weighbridge.watch(model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["lots", "2", "GB", "2 XB", "-1 GB", "1.2.3 GB", ".", "", "1e3 MB", None, 1.5, "nan GB"])
@pytest.mark.parametrize("name", ["disk", "snapshot"])
def test_a_bad_size_says_how_to_write_one(name: str, text: Any) -> None:
    with pytest.raises(weighbridge.WeighbridgeError, match=r"not a size.*2 GB"):
        weighbridge.Plan(**{name: text})


def test_a_negative_size_is_refused_by_name() -> None:
    with pytest.raises(weighbridge.WeighbridgeError, match=r"Plan\(disk=-1\) is negative"):
        weighbridge.Plan(disk=-1)


def test_sizes_are_read_in_both_families_of_units() -> None:
    plan = weighbridge.Plan(disk="1.5 GB", snapshot="512 MiB")
    assert (plan.disk_bytes, plan.snapshot_bytes) == (1_500_000_000, 512 * 2**20)
    assert weighbridge.Plan(snapshot=1000).snapshot_bytes == 1000


def test_a_plan_for_a_run_that_has_one_already_is_refused_and_not_ignored(tmp_path: Path) -> None:
    model, plan = nn.Linear(2, 2), weighbridge.Plan(values=False)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=plan):
        weighbridge.watch(model, plan=weighbridge.Plan(values=False), live=False)
        with pytest.raises(weighbridge.WeighbridgeError, match=r"init\(plan=weighbridge.Plan"):
            weighbridge.watch(nn.Linear(2, 2), plan=weighbridge.Plan())
