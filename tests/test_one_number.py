"""The road of one number, from a training process to whoever asks for it: the same 64 bits at every stop.

Read this first. The number is the largest element of the gradient of the last weight of a 2-4-1 network, at one step of
its training. It is known before anything of ours has touched it, and is then met again at every stop:

    tensor -> kernel's row -> Arrow batch -> file -> RunRecord -> command line
                                                               -> server
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
import torch
from starlette.testclient import TestClient
from torch import nn
from typer.testing import CliRunner

import weighbridge
from weighbridge.capture.kernel import ITEM, Kernel, code_of, load_kernel
from weighbridge.capture.rowblock import RowBlock
from weighbridge.cli.main import build_app
from weighbridge.records import Quantity
from weighbridge.server.app import create_app
from weighbridge.server.runs import Runs
from weighbridge.store.writer import RankWriter

STEP, STEPS = 3, 5
NAME, STATISTIC = "2.weight", "gradient.max"


def bits(number: float) -> bytes:
    """A number as the 64 bits that it is; `==` would let -0.0 pass for 0.0 and a NaN for nothing."""
    return struct.pack("<d", number)


class Training:
    """A 2-4-1 network, a plain loop, and what was seen on the way."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.folder = folder
        self.model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        self.gradients: list[torch.Tensor] = []
        self.path = folder

    def run(self) -> None:
        x = torch.tensor([[0.3, -1.2], [2.0, 0.7], [-0.4, 0.9]])
        with weighbridge.init(dir=self.folder, name="first", quiet=True) as run:
            run.watch(self.model)
            for _ in range(STEPS):
                self.optimizer.zero_grad()
                (self.model(x) - x.sum(1, keepdim=True)).square().mean().backward()
                self.gradients.append(self.weight_gradient().clone())  # the truth: taken before we see it
                self.optimizer.step()
        self.path = run.path

    def weight_gradient(self) -> torch.Tensor:
        gradient = self.model[2].weight.grad
        assert isinstance(gradient, torch.Tensor)
        return gradient

    @property
    def number(self) -> float:
        """The number whose road this is."""
        return self.gradients[STEP].max().item()


@pytest.fixture(scope="module")
def seen() -> Iterator[dict[str, Any]]:
    """What the writer was handed, noted on its way."""
    batches: list[pa.RecordBatch] = []
    real = RankWriter.write

    def noting(self: RankWriter, tables: Any, *steps: int) -> None:
        batches.extend([tables["rows"]] if "rows" in tables else [])
        real(self, tables, *steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RankWriter, "write", noting)
        yield {"batches": batches}


@pytest.fixture(scope="module")
def training(seen: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Training:
    found = Training(tmp_path_factory.mktemp("runs"))
    found.run()
    return found


def test_stop_1_the_kernel_makes_a_row_of_the_tensors_bytes(training: Training) -> None:
    """Its address, size and dtype are all that the kernel knows; the row says its smallest, largest, sums and counts."""
    gradient = training.gradients[STEP]
    assert bits(weighed(gradient, load_kernel())["max"]) == bits(training.number)
    assert bits(weighed(gradient, load_kernel("torch"))["max"]) == bits(training.number)


def weighed(tensor: torch.Tensor, kernel: Kernel) -> dict[str, Any]:
    items = np.zeros(1, ITEM)
    items["parameter"], items["count"] = tensor.data_ptr(), tensor.numel()
    items["dtype"], items["quantity"] = code_of(tensor.dtype), int(Quantity.GRADIENT)
    block = RowBlock(capacity_rows=3, capacity_counts=3 * 132)
    kernel.weigh(items, STEP, 0, block)
    (row,) = block.take().to_pylist()
    return dict(row)


def test_stop_2_the_writer_is_handed_it_in_an_arrow_batch(training: Training, seen: dict[str, Any]) -> None:
    """Beside the training runs one thread of ours; what it gets is one batch per flush, with the rows of many steps."""
    assert bits(the_row(pa.Table.from_batches(seen["batches"]), training)["max"]) == bits(training.number)


def test_stop_3_the_file_holds_it_for_any_program_that_reads_arrow_or_parquet(training: Training) -> None:
    """A segment is an Arrow stream; once the run is finished it may have been compacted to Parquet."""
    (folder,) = training.path.glob("rank-0")
    segments = [pa.ipc.open_stream(file).read_all() for file in sorted(folder.glob("rows-*.arrows"))]
    compacted = [pa.parquet.read_table(file) for file in sorted(folder.glob("rows-*/rows.parquet"))]
    table = pa.concat_tables([*segments, *compacted], promote_options="permissive")
    assert bits(the_row(table, training)["max"]) == bits(training.number)


def the_row(table: pa.Table, training: Training) -> dict[str, Any]:
    tensor = weighbridge.open_run(training.path).tensor(NAME).id
    key = (STEP, tensor, int(Quantity.GRADIENT))
    (row,) = [row for row in table.to_pylist() if (row["step"], row["tensor"], row["quantity"]) == key]
    return dict(row)


def test_stop_4_the_record_of_the_run_answers_with_it(training: Training) -> None:
    """The one reader that everything else asks; it also holds the four numbers of this small gradient themselves."""
    record = weighbridge.open_run(training.path)
    series = record.series(NAME, STATISTIC)
    assert series.steps.tolist() == [*range(STEPS)]
    assert [bits(value) for value in series.values] == [bits(g.max().item()) for g in training.gradients]
    step, values = record.values(NAME, "gradient", STEP)
    assert step == STEP
    assert values.tobytes() == training.gradients[STEP].numpy().tobytes()


def test_stop_5_the_command_line_prints_it(training: Training) -> None:
    """Python writes a float with as many digits as it takes to read the same bits back."""
    asked = ["show", str(training.path), "--tensor", NAME, "--stat", STATISTIC, "--json"]
    answer = CliRunner().invoke(build_app(), asked)
    assert answer.exit_code == 0, answer.output
    (row,) = [row for row in json.loads(answer.stdout)["rows"] if row["step"] == STEP]
    assert bits(row[STATISTIC]) == bits(training.number)


def test_stop_6_the_server_sends_it_to_the_page(training: Training) -> None:
    """The page draws what comes in Arrow columns, one bucket per step while there are fewer steps than pixels."""
    client = TestClient(create_app(Runs(training.path.parent)), base_url="http://127.0.0.1")
    answer = client.get("/api/series", params={"run": "first", "tensor": NAME, "stat": STATISTIC})
    assert answer.status_code == 200, answer.text
    table = pa.ipc.open_stream(answer.content).read_all()
    (row,) = [row for row in table.to_pylist() if row["step_first"] == STEP]
    assert row["step_last"] == STEP
    assert {bits(row[name]) for name in ("min", "mean", "max")} == {bits(training.number)}
