"""Oracle: the same compiled training without us; torch's own counter of compiled frames."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import weighbridge
from tests.capture.oracle import events, table


def train(folder: Path | None, when: str, fullgraph: bool) -> tuple[list[float], int, list[torch.Tensor]]:
    """(losses, compiled frames, weights); the watch begins before `torch.compile`, after it, or after its first call."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.Dropout(0.1))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    counter = CompileCounterWithBackend("aot_eager")
    run = weighbridge.init(dir=folder, name="run", quiet=True) if folder is not None else None
    if run and when == "before":
        run.watch(model)
    compiled = torch.compile(model, backend=counter, fullgraph=fullgraph)
    if when == "later":
        compiled(torch.randn(16, 4))
    if run and when in ("after", "later"):
        run.watch(compiled if when == "after" else model)
    losses = []
    for step in range(45):  # the default plan weighs everything until 20, then every tenth step
        loss = compiled(torch.randn(16, 4, generator=torch.Generator().manual_seed(step))).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    weighbridge.finish()
    return losses, counter.frame_count, [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("fullgraph", [True, False])
@pytest.mark.parametrize("when", ["before", "after", "later"])
def test_watching_compiles_nothing_anew_and_changes_no_bit(tmp_path: Path, when: str, fullgraph: bool) -> None:
    plain, watched = train(None, when, fullgraph), train(tmp_path, when, fullgraph)
    assert watched[:2] == plain[:2]
    assert all(torch.equal(a, b) for a, b in zip(watched[2], plain[2], strict=True))
    run = weighbridge.open_run(tmp_path / "run")
    assert len(run.series("0.weight", "update.rms").steps) == 45
    assert run.outputs == ()
    (said,) = events(run.path, "reduced")
    assert "compiled code: their activations are not weighed" in said.message


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.inner(x))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_what_is_not_compiled_is_weighed_beside_what_is(tmp_path: Path) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), Block(), nn.Linear(8, 1))
    twin = copy.deepcopy(model)
    counter = CompileCounterWithBackend("aot_eager")
    model[1].compile(backend=counter)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    x = torch.randn(5, 4)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for _ in range(45):
            model(x).sum().backward()
            optimizer.step()
    assert counter.frame_count == 1
    record = weighbridge.open_run(run.path)
    assert {t.name for t in record.outputs} == {"0/out", "2/out"}
    assert record.series("2/out", "activation.mean").values[-1] == pytest.approx(float(twin(x).mean().detach()), rel=1e-5)
    assert len(table(run.path, "calls")) == 0
