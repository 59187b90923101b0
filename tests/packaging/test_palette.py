"""The pictures' writer of PNG. Oracle: the format itself, read back by its specification (every row with filter 0)."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from tests.files import indexed_png, module_at
from tests.packaging.checkout import ROOT


@pytest.fixture(scope="module")
def palette() -> ModuleType:
    return module_at(ROOT / "scripts/palette.py", "palette")


def read(content: bytes) -> np.ndarray:
    """Pixels [height, width, 3]."""
    index, colours, _ = indexed_png(content)
    return colours[index]


def test_up_to_256_colours_are_kept_exactly(palette: ModuleType) -> None:
    rng = np.random.default_rng(0)
    colours = rng.permutation(2**24)[:256]
    listed = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1).astype(np.uint8)
    pixels = listed[rng.integers(0, 256, (30, 41))]
    pixels[0, :] = listed[:41]
    assert np.array_equal(read(palette.png(pixels)), pixels)


def test_of_more_each_becomes_one_that_is_near(palette: ModuleType) -> None:
    ramp = np.linspace(0, 255, 40).astype(np.uint8)
    pixels = np.stack(np.meshgrid(ramp, ramp), axis=2)
    pixels = np.concatenate([pixels, np.full((40, 40, 1), 90, np.uint8)], axis=2)
    told = read(palette.png(pixels)).astype(int)
    assert np.abs(told - pixels).max() <= 24
    assert len(np.unique(told.reshape(-1, 3), axis=0)) <= 256


def test_the_most_frequent_colours_stay_as_they_are(palette: ModuleType) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 60, 3)).astype(np.uint8)
    pixels[:, :20] = (246, 245, 241)
    pixels[:, 20:30] = (29, 78, 137)
    assert np.array_equal(read(palette.png(pixels))[:, :30], pixels[:, :30])
