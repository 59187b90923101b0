"""The programs of docs/frameworks.md run. Oracle: the same training without the callback, and what the framework logs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.docs.pages import blocks

import weighbridge
from weighbridge.store.record import RunRecord

PAGE = Path(__file__).resolve().parents[2] / "docs/frameworks.md"
PROGRAMS = dict(zip(("trainer", "lightning", "accelerate"), blocks(PAGE.read_text()), strict=True))
AGAIN = """
plain, said = train(())  # as above, and nobody watches
assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), trained[0].state_dict().values(), strict=True))
torch.save(trained[1], "said.pt")
torch.save(said, "said-plain.pt")
"""


def ran(name: str, where: Path) -> tuple[RunRecord, Any]:
    """The run of a program of the page and what its framework said. In a process of its own: they change torch's settings."""
    import torch

    code = PROGRAMS[name].code + AGAIN
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (run,) = weighbridge.list_runs(where / "weighbridge-runs")
    assert weighbridge.diagnose(run.path).causes == ()
    said, plain = (torch.load(where / f"{name}.pt", weights_only=False) for name in ("said", "said-plain"))
    timed = ("runtime", "per_second")
    if name == "trainer":
        said, plain = ([{k: v for k, v in row.items() if not k.endswith(timed)} for row in rows] for rows in (said, plain))
    assert said == plain
    return weighbridge.open_run(run.path), said


def columns(run: RunRecord, *names: str) -> list[list[float]]:
    return [run.steps_table().column(name).to_pylist() for name in names]


@pytest.mark.slow
def test_hugging_face_trainer(tmp_path: Path) -> None:
    run, said = ran("trainer", tmp_path)
    losses, epochs, passes, factors = columns(run, "loss", "epoch", "backward_passes", "clip_factor")
    assert passes == [2] * 12
    assert epochs == [0] * 4 + [1] * 4 + [2] * 4
    logged = [row["loss"] for row in said if "loss" in row]  # means of two steps
    assert [(a + b) / 2 for a, b in zip(losses[::2], losses[1::2], strict=True)] == pytest.approx(logged, rel=1e-5)
    norms = [row["grad_norm"] for row in said if "grad_norm" in row]  # of every second step, before it is clipped at 1
    assert factors[1::2] == pytest.approx([min(1.0, 1 / norm) for norm in norms], rel=1e-5)
    evaluated = [row["eval_loss"] for row in said if "eval_loss" in row]
    assert run.logged("eval_loss").values.tolist() == pytest.approx(evaluated)
    assert run.logged("eval_loss").steps.tolist() == [4, 8, 12]


@pytest.mark.slow
def test_lightning(tmp_path: Path) -> None:
    run, said = ran("lightning", tmp_path)
    epochs, passes, samples = columns(run, "epoch", "backward_passes", "samples")
    assert (passes, samples, epochs) == ([2] * 15, [32] * 15, [0] * 5 + [1] * 5 + [2] * 5)
    for name in ("train_loss", "val_loss"):
        assert run.logged(name).values[-1] == pytest.approx(float(said[name]), rel=1e-6)
        assert run.logged(name).steps.tolist() == [5, 10, 15]


@pytest.mark.slow
def test_accelerate(tmp_path: Path) -> None:
    run, said = ran("accelerate", tmp_path)
    losses, epochs, passes, factors = columns(run, "loss", "epoch", "backward_passes", "clip_factor")
    assert (passes, epochs) == ([2] * 15, [0] * 5 + [1] * 5 + [2] * 5)
    assert min(factors) < 1.0 <= max(factors)
    assert losses == pytest.approx([(a + b) / 2 for a, b in zip(said[::2], said[1::2], strict=True)], rel=1e-6)
