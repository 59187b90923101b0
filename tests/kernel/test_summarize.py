"""The vector that a device computes without being waited for (here on the CPU); oracle reference.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from weighing import agrees

from weighbridge import reference
from weighbridge.capture import fallback
from weighbridge.capture.kernel import BF16, F16, F32, F64, code_of


def row_of(tensor: torch.Tensor) -> dict[str, Any]:
    vector = fallback.summarize(tensor)
    assert vector.shape == (fallback.VECTOR_LENGTH,)
    values, hist = fallback.row_from_vector(vector.numpy())
    return values | {"hist": hist}


def test_complex_numbers_are_weighed_as_their_parts() -> None:
    tensor = torch.complex(torch.tensor([1.0, 2.0]), torch.tensor([-3.0, 0.0]))
    agrees(row_of(tensor), reference.summarize(np.array([1, -3, 2, 0], np.float32)))
    agrees(row_of(tensor.conj()), reference.summarize(np.array([1, 3, 2, -0.0], np.float32)))


@pytest.mark.parametrize("count", [0, 1, 100, 70_000])
def test_a_tensor_that_is_not_contiguous(count: int) -> None:
    tensor = torch.randn(count, 2, generator=torch.Generator().manual_seed(1)).t()[1:]
    agrees(row_of(tensor), reference.summarize(tensor.contiguous().numpy()))


def test_pieces_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(300_000, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(fallback, "_PIECE", 1 << 16)
    agrees(row_of(tensor), reference.summarize(tensor.numpy()))


def test_gradients_are_not_recorded_and_the_tensor_is_not_changed() -> None:
    tensor = torch.ones(10, requires_grad=True)
    assert not fallback.summarize(tensor).requires_grad
    assert tensor.equal(torch.ones(10))


def test_codes_of_dtypes() -> None:
    known = {torch.float32: F32, torch.float64: F64, torch.float16: F16, torch.bfloat16: BF16}
    assert {dtype: code_of(dtype) for dtype in known} == known
    assert code_of(torch.complex64) is None
    assert code_of(torch.int64) is None
