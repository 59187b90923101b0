"""Is one sample lower than another? Ranks only: no scale, no shape of the distribution."""

from __future__ import annotations

import math

import numpy as np


def z_of_fall(first: np.ndarray, last: np.ndarray) -> float:
    """How far `last` lies above (positive) or below `first`, in standard errors of Mann and Whitney's U. float64 [n], [m].

    Ties count half. Source: Mann & Whitney 1947; the normal form is good from 8 numbers on each side.

    >>> round(z_of_fall(np.arange(8.0), np.arange(8.0) + 8), 2)
    3.36
    """
    n, m = len(first), len(last)
    above = float((last[None] > first[:, None]).sum() + 0.5 * (last[None] == first[:, None]).sum())
    return (above - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
