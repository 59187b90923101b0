"""Rows that are made up, most of them classes in the plane: two numbers in, small enough to see all that a network answers.

Each function needs NumPy alone and is a whole recipe, so that the script that the Lab prints can hold its text as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np


def sums() -> tuple[np.ndarray, np.ndarray]:
    """Ten pairs of numbers; the target is their sum."""
    x = np.array([[a, a + 1] if a % 2 else [a, a - 1] for a in range(1, 11)], dtype=np.float64)
    return x, x.sum(axis=1, keepdims=True)


def bent() -> tuple[np.ndarray, np.ndarray]:
    """Three inputs, two outputs that no straight line fits: y1 = 1 + |x1|, y2 = 1 + x2 * x3."""
    x = np.random.default_rng(0).uniform(-1, 1, (200, 3))
    return x, np.stack([1 + np.abs(x[:, 0]), 1 + x[:, 1] * x[:, 2]], axis=1)


def line() -> tuple[np.ndarray, np.ndarray]:
    """Class 1 beyond a straight line that does not pass through zero."""
    x = np.random.default_rng(0).uniform(-2.2, 2.2, (240, 2))
    beyond = x.sum(axis=1) > 1.5
    return x + np.where(beyond, 0.1, -0.1)[:, None], beyond.astype(np.int64)


def ring() -> tuple[np.ndarray, np.ndarray]:
    """A disc of class 1 inside a ring of class 0: looks the same from x and from -x."""
    random = np.random.default_rng(0)
    inside = np.arange(240) % 2
    radius = np.where(inside == 1, random.uniform(0.0, 1.0, 240), random.uniform(1.6, 2.2, 240))
    angle = random.uniform(0.0, 2 * np.pi, 240)
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return x, inside.astype(np.int64)


def xor() -> tuple[np.ndarray, np.ndarray]:
    """Class 1 where both inputs have the same sign."""
    random = np.random.default_rng(0)
    x = random.uniform(0.15, 2.2, (240, 2)) * random.choice([-1.0, 1.0], (240, 2))
    return x, (x[:, 0] * x[:, 1] > 0).astype(np.int64)


def moons() -> tuple[np.ndarray, np.ndarray]:
    """Two half circles, each reaching into the other."""
    random = np.random.default_rng(0)
    upper = np.arange(240) % 2
    angle = random.uniform(0.0, np.pi, 240)
    across = np.where(upper == 1, np.cos(angle) - 0.5, 0.5 - np.cos(angle))
    up = np.where(upper == 1, np.sin(angle) - 0.25, 0.25 - np.sin(angle))
    x = 1.4 * np.stack([across, up], axis=1) + random.normal(0.0, 0.12, (240, 2))
    return x, upper.astype(np.int64)


def spiral() -> tuple[np.ndarray, np.ndarray]:
    """Two arms wound around each other."""
    random = np.random.default_rng(0)
    arm = np.arange(240) % 2
    along = (np.arange(240) // 2) / 120
    angle = 1.6 * 2 * np.pi * along + np.pi * arm
    radius = 0.2 + 2.0 * along
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1) + random.normal(0.0, 0.05, (240, 2))
    return x, arm.astype(np.int64)


PLANES: Final[dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]]] = {
    "ring": ring,
    "xor": xor,
    "moons": moons,
    "spiral": spiral,
    "line": line,
}
