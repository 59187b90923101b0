"""The kept values of small tensors: raw bytes in the tensor's own dtype, little endian, C order."""

from __future__ import annotations

import numpy as np


def decode_values(data: bytes, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers as an array; bfloat16, which NumPy does not have, becomes float32 (exactly)."""
    if dtype == "bfloat16":
        array = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        array = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))
    array = array.reshape(shape) if array.size == int(np.prod(shape, dtype=np.int64)) else array
    array.setflags(write=False)
    return array
