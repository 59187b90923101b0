"""Pictures of pages as PNG of at most 256 colours: a third of the bytes, and no difference that one sees."""

from __future__ import annotations

import struct
import zlib
from typing import Final

import numpy as np

COLOURS: Final = 256
FREQUENT: Final = 32  # colours that stay exactly as they are
ROUNDS: Final = 6  # of Lloyd's algorithm; more change nothing that one sees


def png(pixels: np.ndarray) -> bytes:
    """pixels: uint8 [height, width, 3]. Exact where there are no more than COLOURS of them."""
    height, width, _ = pixels.shape
    packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    found, place, counts = np.unique(packed, return_inverse=True, return_counts=True)
    every = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1).astype(np.float32)
    palette = _palette(every, counts)
    index = _nearest(every, palette).astype(np.uint8)[place].reshape(height, width)
    rows = np.concatenate([np.zeros((height, 1), np.uint8), index], axis=1)  # filter 0 before each row
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    colours = np.rint(palette).astype(np.uint8).tobytes()
    body = _chunk(b"IHDR", head) + _chunk(b"PLTE", colours) + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9))
    return b"\x89PNG\r\n\x1a\n" + body + _chunk(b"IEND", b"")


def _palette(every: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """k-means of the colours [colours, 3]; each counts as the fourth root of how often it is there: ramps stay smooth."""
    if len(every) <= COLOURS:
        return every
    palette = _seeds(every, counts)
    for _ in range(ROUNDS):
        means = _means(every, counts**0.25, _nearest(every, palette), palette)
        palette[FREQUENT:] = means[FREQUENT:]
    return palette


def _seeds(every: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The most frequent colours, then again and again the one that is farthest from all that are chosen."""
    chosen = [*every[np.argsort(-counts, kind="stable")[:FREQUENT]]]
    apart = np.min([((every - one) ** 2).sum(1) for one in chosen], axis=0)
    while len(chosen) < COLOURS:
        chosen.append(every[apart.argmax()])
        apart = np.minimum(apart, ((every - chosen[-1]) ** 2).sum(1))
    return np.array(chosen)


def _means(every: np.ndarray, weight: np.ndarray, mine: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The mean of each group; of an empty one what it was before."""
    total = np.bincount(mine, weight, len(before))
    sums = np.stack([np.bincount(mine, weight * every[:, i], len(before)) for i in range(3)], axis=1)
    return np.where(total[:, None] > 0, sums / np.maximum(total, 1e-9)[:, None], before).astype(np.float32)


def _nearest(every: np.ndarray, palette: np.ndarray) -> np.ndarray:
    distance = (palette**2).sum(1)[None] - 2 * every @ palette.T
    return np.asarray(distance.argmin(axis=1))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
