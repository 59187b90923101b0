"""Made-up runs: losses, rates and weights over steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.diagnosis.made import block, step_rows, tensor
from weighbridge.diagnosis.registry import rule
from weighbridge.diagnosis.stream import Block

WEIGHTS, STALLED, GROWING = rule("exploding-weights"), rule("stalled-loss"), rule("growing-loss")


TENSORS = (tensor(0, "a.weight", shape=(2, 4)), tensor(1, "a.bias", count=2), tensor(2, "b.weight", shape=(2, 4)))


def with_paces(promises: Any, paces: Any, losses: Any, leverage: float = 1.0, **more: Any) -> Block:
    """Steps of this promise and pace; all of it in a.weight and b.weight alike."""
    losses, promises, paces = np.broadcast_arrays(
        np.asarray(losses, float), np.asarray(promises, float), np.asarray(paces, float)
    )
    weights = {"a.weight": 1.0, "b.weight": 1.0}
    half = dict.fromkeys(weights, -promises * losses / 2) | {"a.bias": np.zeros(len(losses))}
    arrays = {
        "parameter.l2_norm": {**weights, "a.bias": 1.0},
        "update.l2_norm": dict.fromkeys((*weights, "a.bias"), paces),
        "gradient.l2_norm": dict.fromkeys((*weights, "a.bias"), leverage * losses / 2),
        "update.dot_gradient_update": half,
    }
    return block(len(losses), arrays, TENSORS, steps=step_rows(len(losses), loss=losses.tolist(), **more))


# ---- exploding-weights ----


def with_weights(rms: Any, loss: Any = 1.0) -> Block:
    rms = np.asarray(rms, float)
    arrays = {"parameter.rms": {"a.weight": rms, "b.weight": 0.5, "a.bias": rms}}
    return block(len(rms), arrays, TENSORS, steps=step_rows(len(rms), loss=loss))


STEPS = np.arange(90)


# ---- the two symptoms ----


def loss_course(losses: Any, **more: Any) -> Block:
    return block(len(losses), tensors=TENSORS, steps=step_rows(len(losses), loss=[float(v) for v in losses], **more))


def noisy_loss(steps: int, end: float) -> np.ndarray:
    return np.random.default_rng(0).normal(1.0, 0.05, steps) * np.linspace(1.0, end, steps)
