"""Does a parameter hold the numbers that torch's own module begins with? So nothing has trained it yet."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import nn

from weighbridge.capture.roles import is_norm
from weighbridge.capture.shards import is_sharded

SAMPLE: Final = 4_096  # numbers that are looked at, evenly chosen
LEAST: Final = 64  # fewer show no distribution
ERRORS: Final = 4.0  # standard errors of a mean square
_CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_RECURRENT: Final = (nn.RNNBase, nn.RNNCellBase)


def is_fresh(module: nn.Module | None, parameter: torch.Tensor) -> bool | None:
    """None where it cannot be said: another module, too few numbers, or they lie on a device.

    A norm begins with exactly 1 (or 0) and 0; an embedding with a normal distribution of variance 1; linear, convolutional and
    recurrent layers with a uniform one between -b and b, whose mean square is b^2 / 3 (torch's `reset_parameters`).
    """
    is_dense = not is_sharded(parameter) and parameter.is_cpu and parameter.layout == torch.strided
    if not is_dense or not parameter.is_floating_point() or not parameter.numel():
        return None
    numbers = parameter.detach().reshape(-1)
    numbers = numbers[:: max(1, len(numbers) // SAMPLE)].double()
    if module is not None and is_norm(module):
        return bool((numbers == numbers[0]).all()) and float(numbers[0]) in (0.0, 1.0)
    if parameter.ndim < 2 or len(numbers) < LEAST:
        return None
    square, count = float((numbers**2).mean()), len(numbers)
    if isinstance(module, nn.Embedding):
        return abs(square - 1) <= ERRORS * math.sqrt(2 / count)
    bound = _bound(module, parameter)
    if bound is None:
        return None
    largest, error = float(numbers.abs().max()), bound**2 * math.sqrt(4 / 45 / count)
    return largest <= bound * (1 + 1e-3) and abs(square - bound**2 / 3) <= ERRORS * error


def _bound(module: nn.Module | None, parameter: torch.Tensor) -> float | None:
    if isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
        return 1 / math.sqrt(math.prod(parameter.shape[1:]))
    return 1 / math.sqrt(module.hidden_size) if isinstance(module, _RECURRENT) else None
