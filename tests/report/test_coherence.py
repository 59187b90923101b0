"""`show --coherence`. Oracle: the reader's own numbers, and what is printed, read by eye here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import weighbridge
from tests.cli.calling import call
from weighbridge import Plan


def train(folder: Path, plan: Plan | None, passes: int = 1) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 70), nn.Tanh(), nn.Linear(70, 70), nn.Linear(70, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with weighbridge.init(dir=folder, name="run", quiet=True, plan=plan) as run:
        run.watch(model)
        for _ in range(40):
            optimizer.zero_grad()
            for _ in range(passes):
                (model(torch.randn(8, 3)) - 1).square().mean().backward()
            optimizer.step()
    return run.path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return train(tmp_path, Plan(coherence=True))


def test_every_tensor_has_its_line_and_all_together_the_first(run: Path) -> None:
    lines = call("show", str(run), "--coherence", columns=120).out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("tensor"))
    assert [line.split()[0] for line in lines[at + 1 : at + 8]] == [
        "(all", "0.weight", "0.bias", "2.weight", "2.bias", "3.weight", "3.bias"
    ]  # fmt: skip
    estimated = [line for line in lines[at + 1 : at + 8] if "±" in line]
    assert [line.split()[0] for line in estimated] == ["(all", "2.weight"]
    found = weighbridge.open_run(run).coherence("3.bias")
    assert f"{found.cosine[-1]:.3g}" in lines[at + 7]
    assert "39" in lines[at + 7]
    assert "steps" in lines[at + 1]
    assert "from passes" not in lines[at]


def test_for_programs(run: Path) -> None:
    record = weighbridge.open_run(run)
    rows = json.loads(call("show", str(run), "--coherence", "--json").out)["rows"]
    assert [row["tensor"] for row in rows][:2] == ["(all together)", "0.weight"]
    assert rows[0]["cosine"] == record.coherence().cosine[-1]
    assert rows[3]["cosine_error"] == record.coherence("2.weight").errors[-1] > 0
    assert (rows[1]["compared"], rows[1]["last_step"], rows[1]["cosine_error"]) == (39, 39, 0.0)
    half = record.last_step // 2
    assert rows[1]["noise_scale_steps"] == record.noise_scales("0.weight", half)[0].value
    assert rows[1]["noise_scale_passes"] is None
    table = call("show", str(run), "--coherence", "-t", "3.*", "--csv").out.splitlines()
    assert table[0] == "tensor,step,step_before,cosine,cosine_error,count,numbers"
    assert len(table) == 1 + 2 * 39
    assert table[1].startswith("3.weight,1,0,")
    assert table[1].endswith(",0.0,70,70")


def test_passes_that_add_up_have_their_own_noise_scale(tmp_path: Path) -> None:
    path = train(tmp_path, Plan(coherence=True), passes=3)
    assert "from passes" in call("show", str(path), "--coherence", columns=120).out
    rows = json.loads(call("show", str(path), "--coherence", "--json").out)["rows"]
    assert all(row["noise_scale_passes"] is not None for row in rows)


def test_a_plan_without_it_is_said(tmp_path: Path) -> None:
    path = train(tmp_path, Plan(coherence=False))
    answer = call("show", str(path), "--coherence")
    assert answer.code == 0
    assert "no successive gradients were compared" in " ".join(answer.out.split())
    assert json.loads(call("show", str(path), "--coherence", "--json").out)["rows"][0]["compared"] == 0
