"""Files that tests read in their own way: scripts as modules, pictures as numbers."""

from __future__ import annotations

import importlib.util
import struct
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np


def module_at(path: Path, name: str) -> ModuleType:
    """A Python file outside any package, as a module of this name."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def chunks_of_png(content: bytes) -> dict[bytes, bytes]:
    """The parts of a PNG file by their names, their sums checked, by the format's specification."""
    chunks, at = {}, 8
    while at < len(content):
        size, kind = struct.unpack(">I4s", content[at : at + 8])
        chunks[kind] = content[at + 8 : at + 8 + size]
        assert zlib.crc32(kind + chunks[kind]) == struct.unpack(">I", content[at + 8 + size : at + 12 + size])[0]
        at += 12 + size
    return chunks


def indexed_png(content: bytes) -> tuple[np.ndarray, np.ndarray, dict[bytes, bytes]]:
    """Index [height, width] and palette [colours, 3] of a PNG of 8 bits that has one; and its chunks."""
    chunks = chunks_of_png(content)
    width, height, depth, colour_type = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colour_type) == (8, 3)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert (rows[:, 0] == 0).all()
    return rows[:, 1:], np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3), chunks
