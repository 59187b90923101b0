"""`weighbridge ablate-bias`. Oracle: files written here, and the same asked for in Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.calling import call, check_golden, refused, write_program

PLAIN = """
import torch
torch.manual_seed(3)
model = torch.nn.Sequential(torch.nn.Linear(1, 1))
x = torch.linspace(0, 6, 60)[:, None]
batch = x, (x > 3).float()
loss_fn = torch.nn.BCEWithLogitsLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
"""
OWN = """
import torch
def make_model():
    return torch.nn.Linear(2, 2)
def train_and_score(model):
    return torch.rand(()).item() * 0.01 + (1.0 if model.bias is None else 2.0)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in (("plain", PLAIN), ("own", OWN), ("empty", "x = 1\n")):
        write_program(tmp_path, monkeypatch, name, text)
    return tmp_path


def test_the_file_of_inspect_serves(folder: Path) -> None:
    answer = call("ablate-bias", "plain.py", "--seeds", "3", "--epochs", "40", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert (told["verdict"], told["seeds"], told["biases"]) == ("needed", [0, 1, 2], ["0.bias"])


def test_an_own_training_serves_and_the_page_is_printed(folder: Path) -> None:
    answer = call("ablate-bias", "own.py", columns=70)
    assert answer.code == 0, answer.err
    check_golden("ablate-bias-70", answer.out)


def test_what_is_not_defined_is_named(folder: Path) -> None:
    message = refused(call("ablate-bias", "empty.py"))
    assert "no make_model or model and no train_and_score or batches or batch" in message
