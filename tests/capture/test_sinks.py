"""DDP that looks for unused parameters leads what a model gives through a function of its own. Oracle: the same without DDP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import weighbridge

OF_DDP = [{"find_unused_parameters": True}, {"static_graph": True}]


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """A group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Language(nn.Module):
    """Gives its loss itself, a sum over tokens by a number that the caller has counted, as models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 7)

    def forward(self, x: torch.Tensor, labels: torch.Tensor, counted: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.head(x)
        return {"logits": logits, "loss": cross_entropy(logits, labels, reduction="sum") / counted}


@pytest.mark.parametrize("settings", OF_DDP)
@pytest.mark.parametrize("times", [1, 2])  # a trainer of two processes takes the loss twice
def test_parts_of_a_step_s_loss_are_added(tmp_path: Path, settings: dict[str, bool], times: int) -> None:
    torch.manual_seed(0)
    model = Language()
    parallel = DistributedDataParallel(model, **settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, labels, counted = torch.randn(12, 3), torch.randint(0, 7, (12,)), torch.tensor(12 * times)
    true = []
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(parallel)
        for _ in range(4):
            true.append(cross_entropy(model.head(x), labels).item())
            for rows in (slice(0, 4), slice(4, 12)):
                loss = parallel(x[rows], labels[rows], counted)["loss"]
                (loss * times if times > 1 else loss).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert weighbridge.open_run(run.path).losses().values.tolist() == pytest.approx(true, rel=1e-6)


@pytest.mark.parametrize("mine", [0.3, 0.5, 0.7])
def test_a_process_that_has_more_targets_than_another(tmp_path: Path, mine: float) -> None:
    """Of two: what it minimises is its own sum over the targets of both, twice; the mean over both is the mean of all."""
    torch.manual_seed(0)
    model = Language()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, labels, counted = torch.randn(12, 3), torch.randint(0, 7, (12,)), torch.tensor(round(12 / mine))
    true = []
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for _ in range(3):
            true.append(2 * cross_entropy(model.head(x), labels, reduction="sum").item() / int(counted))
            for rows in (slice(0, 5), slice(5, 12)):
                (model(x[rows], labels[rows], counted)["loss"] * 2).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert weighbridge.open_run(run.path).losses().values.tolist() == pytest.approx(true, rel=1e-6)


@pytest.mark.parametrize("settings", OF_DDP)
def test_the_graph_of_the_loss_is_read_past_it(tmp_path: Path, settings: dict[str, bool]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4), nn.Softmax(dim=1))
    parallel = DistributedDataParallel(model, **settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(parallel)
        for _ in range(4):
            cross_entropy(parallel(torch.randn(16, 3)), torch.randint(0, 4, (16,))).backward()
            optimizer.step()
            optimizer.zero_grad()
    found = weighbridge.diagnose(run.path, select=["doubled-output-activation"]).findings
    assert [finding.place for finding in found] == ["3"]
