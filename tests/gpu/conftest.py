"""These tests need a GPU, or Triton's interpreter in its place (TRITON_INTERPRET=1 before Python starts): then the same
kernels run one operation at a time in NumPy. That proves the arithmetic, not the order of memory and not speed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from weighbridge.capture import cfunctions, devices, devicetable, optimizers, outputs, seats, weighing

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CAN_RUN = IS_INTERPRETED or torch.cuda.is_available()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    mine = [item for item in items if here in item.path.parents]
    for item in mine:
        item.add_marker(pytest.mark.gpu)
    if not CAN_RUN and mine:
        config.hook.pytest_deselected(items=mine)
        items[:] = [item for item in items if item not in set(mine)]


@pytest.fixture
def device() -> torch.device:
    return torch.device("cpu" if IS_INTERPRETED else "cuda")


@pytest.fixture(autouse=True)
def _wide_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    if IS_INTERPRETED:
        monkeypatch.setattr(devicetable, "LANES", 2048)
        monkeypatch.setattr(devicetable, "TILE", 8192)
        monkeypatch.setattr(devicetable, "REGISTERS", 0)


@pytest.fixture(autouse=True)
def _tensors_of_the_cpu_count_as_the_gpu_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the interpreter: everything that a GPU's tensors go through, with tensors that lie in the host's memory."""
    if IS_INTERPRETED:
        for module in (devices, optimizers, weighing):
            monkeypatch.setattr(module, "is_direct", lambda tensor: False)
        for module in (seats, outputs):
            monkeypatch.setattr(module, "is_readable", lambda tensor: False)
            monkeypatch.setattr(module, "is_on_gpu", lambda tensor: seats.is_plain(tensor) and tensor.is_floating_point())
        monkeypatch.setattr(cfunctions, "lent_to_c", lambda: None)
