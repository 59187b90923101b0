"""The graph of the first loss on the device: the same numbers as on the CPU, and nobody waits for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from weighbridge.firstpass import FirstPass, from_text


def taken(where: Path, device: torch.device) -> FirstPass:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).to(device)
    x, y = torch.randn(16, 3, 8, 8).to(device), (torch.arange(16) % 5).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with weighbridge.init(dir=where, name=device.type, quiet=True) as run:
        run.watch(model)
        loss = F.cross_entropy(model(x), y)
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            loss.backward()
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        optimizer.step()
    record = weighbridge.open_run(run.path)
    assert not any("graph" in event.message for event in record.events())
    (row,) = record.whole("graph").to_pylist()
    return from_text(row["detail"])


def test_a_first_pass_is_that_of_the_cpu(device: torch.device, tmp_path: Path) -> None:
    there, here = taken(tmp_path / "there", device), taken(tmp_path / "here", torch.device("cpu"))
    for one, two in ((there.starts[0], here.starts[0]), (there.scales[0], here.scales[0])):
        for name in one.__slots__:
            left, right = getattr(one, name), getattr(two, name)
            assert left == (pytest.approx(right, rel=1e-3, nan_ok=True) if isinstance(right, float) else right), name
