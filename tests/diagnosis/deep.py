"""Made-up runs of a deep network: what goes through it, and how its weights begin."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.diagnosis.made import block, step_rows, tensor
from weighbridge.diagnosis.registry import rule
from weighbridge.diagnosis.stream import Block
from weighbridge.store.views import Tensor

VANISHING, GRADIENT = rule("vanishing-gradient"), rule("exploding-gradient")


ACTIVATION, SCALE = rule("exploding-activation"), rule("wrong-initial-scale")


DEPTH = 6


def layers(kinds: str = "LALALALALAL", inputs: int = 16) -> tuple[Tensor, ...]:
    """Modules in order: L = Linear, A = activation, N = norm, B = batch norm. Weights first, then what modules give."""
    weights = [
        tensor(i, f"{i}.weight", shape=(16, inputs), count=16 * inputs, order=i) for i, kind in enumerate(kinds) if kind == "L"
    ]
    named = {"L": "Linear", "A": "ReLU", "N": "LayerNorm", "B": "BatchNorm1d"}
    given = [tensor(100 + i, f"{i}/out", module=named[kind], order=i) for i, kind in enumerate(kinds)]
    return (*weights, *given)


def with_gradients(sizes: Any, steps: int = 5, tensors: tuple[Tensor, ...] = (), losses: Any = 1.0, **arrays: Any) -> Block:
    """sizes: norm(dL/dh) of each output in order; a number, or one per step."""
    tensors = tensors or layers()
    given = [t.name for t in tensors if t.is_output]
    made = {"activation_gradient.l2_norm": dict(zip(given, sizes, strict=True)), "activation.rms": dict.fromkeys(given, 1.0)}
    made |= {
        "activation.count": dict.fromkeys(given, 8.0),
        "gradient.l2_norm": {t.name: 1.0 for t in tensors if not t.is_output},
    }
    return block(steps, made | arrays, tensors, steps=step_rows(steps, loss=losses))


def evenly(ratio: float, places: int = 11) -> list[float]:
    return np.geomspace(ratio, 1.0, places).tolist()


# ---- exploding-activation ----


def with_sizes(sizes: Any, kinds: str = "LALALALALAL", steps: int = 5, loss: Any = 1.0) -> Block:
    tensors = layers(kinds)
    given = [t.name for t in tensors if t.is_output]
    return block(steps, {"activation.rms": dict(zip(given, sizes, strict=True))}, tensors, steps=step_rows(steps, loss=loss))


# ---- wrong-initial-scale ----


def begun_with(gains: dict[int, float], sizes: dict[int, float], slopes: dict[int, float], kinds: str = "LALALALALAL") -> Block:
    tensors = layers(kinds)
    weights = {t.name: gains.get(t.id, 1.0) / 4.0 for t in tensors if not t.is_output}  # 16 inputs
    given = {t.name: sizes.get(t.order, 1.0) for t in tensors if t.is_output}
    passed = {t.name: slopes.get(t.order, 1.0) for t in tensors if t.is_output}
    return block(2, {"parameter.rms": weights, "activation.rms": given, "activation_gradient.l2_norm": passed}, tensors)


def begun_small(gain: float, size: float = 0.01, slope: float = 0.01, at: int = 4) -> Block:
    return begun_with({at: gain}, {at: size}, dict.fromkeys(range(at), slope))
