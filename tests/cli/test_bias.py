"""`weighbridge bias`. Oracle: a file written here, and the same asked for in Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from tests.cli.calling import call, check_golden, refused, write_program

PROGRAM = """
import torch
from torch import nn

class Steady(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm, self.act, self.two, self.out = (
            nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 2, bias=False)
        )
        for i, p in enumerate(self.parameters()):
            p.data = torch.linspace(-1, 1 + i / 8, p.numel()).view_as(p)
    def forward(self, x):
        return self.out(self.two(self.act(self.norm(self.one(x)))))

x = (torch.arange(80.0) ** 1.5).sin().view(40, 2) + 0.5
model, batches = Steady(), [(x[:20], torch.arange(20) % 2), (x[20:], torch.arange(20) % 2)]
batch = batches[0]
loss_fn = nn.functional.cross_entropy
optimizer = torch.optim.Adam(model.parameters())
if __name__ == "__main__":
    raise SystemExit("trained")

def make():
    return model, batch, loss_fn
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_program(tmp_path, monkeypatch, "steady", PROGRAM)


@pytest.mark.parametrize("columns", [70, 140])
def test_the_printed_page(program: Path, columns: int) -> None:
    answer = call("bias", str(program), columns=columns)
    assert answer.code == 0, answer.err
    assert max(len(line) for line in answer.out.splitlines()) <= columns
    check_golden(f"bias-{columns}", answer.out)


def test_json_is_what_python_gives(program: Path) -> None:
    told = json.loads(call("bias", "steady.py", "--json").out)
    space: dict[str, object] = {"__name__": "steady"}
    exec(PROGRAM, space)
    report = weighbridge.biases(space["model"], space["batches"], F.cross_entropy, space["optimizer"])  # type: ignore[arg-type]
    assert told == json.loads(report.to_json())
    assert told["layers"][0]["verdict"] == "redundant"
    assert told["units"] == 40


def test_a_single_batch_and_a_function_do_as_well(program: Path) -> None:
    answer = call("bias", "steady:make", "--json")
    assert json.loads(answer.out)["units"] == 20


def test_what_is_not_defined_is_named(program: Path) -> None:
    Path("empty.py").write_text("model = 1\n")
    assert "no batches or batch" in refused(call("bias", "empty.py"))


def test_a_model_that_is_none_is_refused_in_words(program: Path) -> None:
    Path("wrong.py").write_text("model, batch = 1, 2\n")
    assert "expected a torch.nn.Module" in refused(call("bias", "wrong.py"))


def test_a_model_without_any_place_for_a_bias_says_so() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.factor

    report = weighbridge.biases(Scale(), (torch.randn(8, 3), torch.arange(8) % 3), F.cross_entropy)
    assert "none could have one" in str(report)
