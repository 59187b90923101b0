"""Tensors on another device, tried on CPU tensors by calling the weigher itself. Oracle: weighbridge.reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.capture.oracle import GRADIENT, PARAMETER, UPDATE, Expected, array, compare, dense
from weighbridge.capture import transfer
from weighbridge.capture.fallback import VECTOR, row_from_vector, summarize
from weighbridge.capture.plan import is_sampled_step
from weighbridge.capture.recorder import Recorder
from weighbridge.capture.snapshots import Weighed
from weighbridge.capture.transfer import DeviceWeigher
from weighbridge.records import HISTOGRAM_BINS
from weighbridge.reference import summarize as reference
from weighbridge.store.layout import create_run
from weighbridge.store.writer import RankWriter

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64]


def normal(count: int, dtype: torch.dtype) -> torch.Tensor:
    x = torch.randn(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64).to(dtype)
    if count > 6 and not dtype.is_complex:
        x[:6] = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e-42]).to(dtype)
    return x


def expected(x: torch.Tensor) -> Expected:
    summary = reference(*array(dense(x)))
    return Expected(summary, None, {"sum": summary.sum_abs, "sum_abs": summary.sum_abs, "sum_sq": summary.sum_sq})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [0, 1, 100, 70_001])
def test_the_vector_says_what_the_reference_says(count: int, dtype: torch.dtype) -> None:
    x = normal(count, dtype)
    values, histogram = row_from_vector(summarize(x).numpy())
    assert len(summarize(x)) == len(VECTOR) + HISTOGRAM_BINS
    row = {name: int(value) if value == value and "count" in name else value for name, value in values.items()}
    compare(dtype, row | {"lost": 0, "hist_first": 0, "hist": histogram.astype(np.int64)}, expected(x))


class Rows:
    """Stands where the recorder's block would: keeps what is added."""

    attempt = 0

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int, int], dict[str, Any]] = {}

    def room(self, items: int) -> Rows:
        return self

    def add(self, values: dict[str, Any], histogram: np.ndarray) -> None:
        row = values | {"lost": 0, "hist_first": 0, "hist": histogram.astype(np.int64)}
        self.rows[values["step"], values["tensor"], values["quantity"]] = row


class Later:
    """An event of a device that is not done until somebody waits for it."""

    waited = 0

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        Later.waited += 1


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(normal(50, torch.float32).nan_to_num(0, 0, 0)), nn.Parameter(normal(9, torch.complex64))]


def step(weigher: DeviceWeigher, ps: list[nn.Parameter], number: int, rows: Rows) -> dict[tuple[int, int, int], torch.Tensor]:
    """One step of a made-up optimizer; what each row is to be about."""
    for p in ps:
        p.grad = torch.full_like(p, number + 0.5)
    weigher.before(number)
    before = [dense(p) for p in ps]
    for p in ps:
        p.data.mul_(0.9)
    weigher.after(number, None, rows)  # type: ignore[arg-type]
    told = {}
    for tensor, (p, then) in enumerate(zip(ps, before, strict=True)):
        assert p.grad is not None
        told[number, tensor, int(PARAMETER)] = then
        told[number, tensor, int(UPDATE)] = dense(p) - then
        told[number, tensor, int(GRADIENT)] = dense(p.grad)
    return told


def check(rows: Rows, told: dict[tuple[int, int, int], torch.Tensor]) -> None:
    assert set(rows.rows) == set(told)
    for key, row in rows.rows.items():
        compare(key, row, expected(told[key]))


def test_sampled_steps_are_weighed_as_they_are_and_said_to_be_sampled() -> None:
    ps, rows, said = parameters(), Rows(), list[str]()
    weigher = DeviceWeigher([Weighed(p, n, True) for n, p in enumerate(ps)], said.append)
    told: dict[tuple[int, int, int], torch.Tensor] = {}
    for number in range(30):
        seen = step(weigher, ps, number, rows)
        told |= seen if is_sampled_step(number) else {}
    check(rows, told)
    assert said == ["2 tensors are on cpu: weighed by torch operations on sampled steps only"]


def test_nothing_waits_for_the_device_until_the_end() -> None:
    ps, rows = parameters(), Rows()
    weigher = DeviceWeigher([Weighed(p, n, True) for n, p in enumerate(ps)], lambda text: None)
    start, Later.waited = weigher._start, 0

    def start_later(*arguments: Any) -> None:
        start(*arguments)
        weigher.waiting[-1].done = Later()

    weigher._start = start_later  # type: ignore[method-assign]
    told: dict[tuple[int, int, int], torch.Tensor] = {}
    for number in range(5):
        told |= step(weigher, ps, number, rows)
    assert not rows.rows
    assert Later.waited == 0
    weigher.drain(rows)  # type: ignore[arg-type]
    assert Later.waited == len(told) == 5 * 2 * 3
    check(rows, told)


def test_what_is_under_way_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_WAITING", 12)
    ps, rows = parameters(), Rows()
    weigher = DeviceWeigher([Weighed(p, n, True) for n, p in enumerate(ps)], lambda text: None)
    start = weigher._start

    def start_later(*arguments: Any) -> None:
        start(*arguments)
        weigher.waiting[-1].done = Later()

    weigher._start = start_later  # type: ignore[method-assign]
    for number in range(9):
        step(weigher, ps, number, rows)
    assert len(weigher.waiting) == 12
    weigher.drain(rows)  # type: ignore[arg-type]
    assert sorted({key[0] for key in rows.rows}) == [0, 1]


def test_a_real_recorder_takes_the_rows(tmp_path: Path) -> None:
    recorder = Recorder(RankWriter(create_run(tmp_path, "run", {})), print)
    ps = parameters()
    weigher = DeviceWeigher([Weighed(p, n, True) for n, p in enumerate(ps)], lambda text: None)
    with recorder.lock:
        step(weigher, ps, 0, recorder)  # type: ignore[arg-type]
    recorder.close()
    assert recorder.rows_written == 6
