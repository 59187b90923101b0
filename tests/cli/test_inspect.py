"""`weighbridge inspect`. Oracle: files written here, and the same asked for in Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.cli.calling import call, check_golden, refused, write_program

PROGRAM = """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 16), nn.Linear(16, 3), nn.Softmax(1)
)
batch = torch.randn(12, 1, 6, 6), torch.arange(12) % 3
loss_fn = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(list(model.parameters())[2:])
if __name__ == "__main__":
    raise SystemExit("trained")

def make():
    return model, batch, loss_fn
def wrong():
    return 3
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_program(tmp_path, monkeypatch, "faulty", PROGRAM)


def test_a_file_gives_table_and_findings(program: Path) -> None:
    state = torch.get_rng_state()
    answer = call("inspect", str(program), columns=100)
    torch.set_rng_state(state)
    assert answer.code == 0, answer.err
    head = "\n".join(line.split("  ")[0] for line in answer.out.splitlines())
    assert "Sequential: 1,139 parameters, 1,139 trainable" in head
    for word in ("doubled-output-activation", "redundant-bias", "missing-activation", "parameter-in-no-optimizer"):
        assert word in answer.out
    assert max(len(line) for line in answer.out.splitlines()) <= 100


def test_json_is_what_python_gives(program: Path) -> None:
    told = json.loads(call("inspect", "faulty.py", "--json").out)
    assert [layer["kind"] for layer in told["layers"]][:3] == ["Conv2d", "BatchNorm2d", "ReLU"]
    assert {f["rule"] for f in told["findings"]} >= {"doubled-output-activation", "redundant-bias"}
    assert told["layers"][2]["weight_mean"] is None


def test_a_function_of_a_module_does_as_well(program: Path) -> None:
    answer = call("inspect", "faulty:make")
    assert answer.code == 0
    assert "parameter-in-no-optimizer" not in answer.out


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nothing.py", "nothing.py"),
        ("nothing", "expected a Python file"),
        ("nowhere:make", "no module nowhere"),
        ("faulty:absent", "has no absent"),
        ("faulty:wrong", "returns a int"),
        ("empty.py", "no model and no batch"),
    ],
)
def test_what_cannot_be_inspected_is_refused_in_words(program: Path, target: str, words: str) -> None:
    Path("empty.py").write_text("x = 1\n")
    assert words in refused(call("inspect", target))


FIXED = """
import torch
from torch import nn

class Steady(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm, self.act, self.two, self.out = (
            nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2)
        )
        for i, p in enumerate(self.parameters()):
            p.data = torch.linspace(-1, 1 + i / 8, p.numel()).view_as(p)
    def forward(self, x):
        return self.out(self.two(self.act(self.norm(self.one(x)))))

model, batch = Steady(), (torch.linspace(-1, 1, 32).view(16, 2).sin() + torch.eye(16, 2), torch.arange(16) % 2)
loss_fn = nn.functional.cross_entropy
"""


@pytest.mark.parametrize("columns", [70, 140])
def test_the_printed_page(program: Path, columns: int) -> None:
    Path("fixed.py").write_text(FIXED)
    answer = call("inspect", "fixed.py", columns=columns)
    assert answer.code == 0, answer.err
    steady = "\n".join(line for line in answer.out.splitlines() if "rounding only" not in line)  # differs between processors
    check_golden(f"inspect-{columns}", steady + "\n")
