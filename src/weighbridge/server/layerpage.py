"""One layer at one step: its values unit by unit, what its units give, what its bias adds, and its place among the layers."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from weighbridge.diagnosis.kept import jsonable
from weighbridge.errors import UnknownTensor, nearest
from weighbridge.records import SAMPLED_ELEMENTS
from weighbridge.server.layers import Layer, is_bias, layers_of
from weighbridge.server.shapes import layer_json
from weighbridge.server.unitmap import CUT_AT_ZERO
from weighbridge.server.unitnumbers import Numbers, Wish, numbers_of, windowed
from weighbridge.store.record import RunRecord, Tensor
from weighbridge.store.views import Units

ACTIVATIONS: Final = (
    *(
        "ReLU",
        "ReLU6",
        "LeakyReLU",
        "PReLU",
        "ELU",
        "SELU",
        "CELU",
        "GELU",
        "SiLU",
        "Mish",
        "Softplus",
        "Softsign",
        "Threshold",
    ),
    *("Sigmoid", "Tanh", "Hardtanh", "Hardsigmoid", "Hardswish", "LogSigmoid", "Hardshrink", "Softshrink", "Tanhshrink"),
)
RARE: Final = 0.01  # a unit that is above zero for less than this share of inputs
FLAT: Final = 0.01  # a mean slope below this lets hardly any gradient through; as rule saturated-units
CONSTANT: Final = 1e-6  # spread over mean; float64 sums of float32 outputs cancel to about 1e-8
MOST_UNITS: Final = 4096
BARS: Final = 100  # layers in the small picture of the depth
FIRST: Final = Wish()


def find(record: RunRecord, path: str) -> tuple[list[Layer], int]:
    """All layers and the place of the one asked for, by its path or by "model:path". Raises UnknownTensor."""
    layers = layers_of(record)
    for i, layer in enumerate(layers):
        if path in (layer.path or ".", f"{layer.model}:{layer.path}"):
            return layers, i
    known = [layer.path for layer in layers]
    raise UnknownTensor(f"The run {record.path} has no layer {path!r}.{nearest(path, known)}")


def layer_at(record: RunRecord, path: str, step: int | None, wish: Wish = FIRST) -> dict[str, Any]:
    """All that stands on the layer's page for one step (None = the last one)."""
    layers, at = find(record, path)
    layer = layers[at]
    last = max(record.steps - 1, 0)
    step = last if step is None else min(max(step, 0), last)
    weight, bias = main_pair(layer)
    numbers = numbers_of(record, layer, weight, bias, step)
    units = _units(record, layers, at, step)
    part = windowed(numbers, units, wish)
    answer: dict[str, Any] = {
        "layer": layer_json(layer),
        "before": _neighbour(layers, at, -1),
        "after": _neighbour(layers, at, 1),
        "step": step,
        "last": last,
        "value_steps": _kept_steps(record, weight) or _kept_steps(record, bias),
        **part,
        "not_kept": _not_kept(record, weight, bias),
        "marks": _marks(numbers, units),
        "bias_share": _bias_share(record, bias, step),
        "strip": strip(record, layers, at, step),
    }
    told: dict[str, Any] = jsonable(answer)
    return told


def main_pair(layer: Layer) -> tuple[Tensor | None, Tensor | None]:
    """The weight and the bias that are shown unit by unit: the first of each."""
    weight = next((t for t in layer.parameters if not is_bias(t)), None)
    return weight, next((t for t in layer.parameters if is_bias(t)), None)


def strip(record: RunRecord, layers: list[Layer], at: int, step: int) -> list[dict[str, Any]]:
    """Of the layers with parameters around this one (BARS at most) the rms of the weight's gradient at this step."""
    found = record.at_step(step, ["gradient.rms"])["gradient.rms"]
    place = {tensor.id: i for i, tensor in enumerate(record.tensors)}
    having = [layer for layer in layers if layer.parameters]
    here = sum(bool(layer.parameters) for layer in layers[:at])
    first = max(0, min(here - BARS // 2, len(having) - BARS))
    return [
        {"path": layer.path, "model": layer.model, "value": float(found[place[layer.parameters[0].id]])}
        for layer in having[first : first + BARS]
    ]


def _neighbour(layers: list[Layer], at: int, way: int) -> str | None:
    """The next layer that has parameters."""
    several = len({layer.model for layer in layers}) > 1
    i = at + way
    while 0 <= i < len(layers):
        if layers[i].parameters:
            return f"{layers[i].model}:{layers[i].path}" if several else layers[i].path or "."
        i += way
    return None


def _full(tensor: Tensor) -> str:
    return f"{tensor.model}:{tensor.name}"


def _kept_steps(record: RunRecord, tensor: Tensor | None) -> list[int]:
    steps: list[int] = record.value_steps(_full(tensor), "parameter").tolist() if tensor is not None else []
    return steps


def _not_kept(record: RunRecord, weight: Tensor | None, bias: Tensor | None) -> dict[str, Any] | None:
    """Of which tensor no numbers were kept at any step, and the line of code that keeps them where that can help."""
    for tensor in (weight, bias):
        if tensor is not None and tensor.shape and tensor.count and not tensor.note and not _kept_steps(record, tensor):
            plan = f"plan=weighbridge.Plan(values={tensor.count:_})"
            line = f"weighbridge.watch(model, {plan})" if tensor.count > SAMPLED_ELEMENTS else ""
            return {"name": tensor.name, "count": tensor.count, "limit": SAMPLED_ELEMENTS, "line": line}
    return None


def _units(record: RunRecord, layers: list[Layer], at: int, step: int) -> dict[str, Any] | None:
    """What the units gave when they were last counted: of the activation that follows, else of the layer itself."""
    follows = layers[at + 1] if at + 1 < len(layers) and layers[at + 1].kind in ACTIVATIONS else None
    for layer in [follows, layers[at]] if follows is not None else [layers[at]]:
        for output in layer.outputs:
            row = _counted(record, output, step)
            if row is not None:
                return _as_units(row, output)
    return None


def _counted(record: RunRecord, output: Tensor, step: int) -> Units | None:
    rows = [row for row in record.units(_full(output)) if row.step <= step]
    return rows[-1] if rows and len(rows[-1].active) <= MOST_UNITS else None


def _as_units(row: Units, output: Tensor) -> dict[str, Any]:
    n = max(row.n, 1)
    mean = row.sum / n
    spread = np.sqrt(np.maximum(row.sum_sq / n - np.square(mean), 0.0))
    return {
        "step": row.step,
        "n": row.n,
        "of": output.name,
        "kind": output.module,
        "cut_at_zero": output.module in CUT_AT_ZERO,
        "fires": (row.active / n).tolist(),
        "mean": mean.tolist(),
        "spread": spread.tolist(),
        "slope": _mean_slope(output.module, mean, row.sum_sq / n),
        "max": row.max.astype(np.float64).tolist(),
    }


def _mean_slope(module: str, mean: np.ndarray, square: np.ndarray) -> list[float] | None:
    """Of each unit the mean slope of its function over all numbers seen, from the means of h and h^2: tanh' = 1 - h^2 and
    sigmoid' = h - h^2. None for functions that flatten nowhere."""
    slope = {"Tanh": 1.0 - square, "Sigmoid": mean - square}.get(module)
    return None if slope is None else np.maximum(slope, 0.0).tolist()


def _marks(numbers: Numbers | None, units: dict[str, Any] | None) -> dict[str, Any]:
    """Units that stand out, by number: dead and rare ones of a ReLU, saturated ones of tanh and sigmoid, those that give
    the same for every input, and those whose numbers are the same."""
    marks: dict[str, Any] = {"dead": [], "rare": [], "saturated": [], "constant": [], "alike": []}
    if units is not None and units["n"] > 1:
        spread, mean = np.array(units["spread"]), np.array(units["mean"])
        marks["constant"] = np.flatnonzero((spread <= CONSTANT * np.abs(mean)) & (mean != 0)).tolist()
    if units is not None and units["slope"] is not None and units["n"]:
        marks["saturated"] = np.flatnonzero(np.array(units["slope"]) < FLAT).tolist()
    if units is not None and units["cut_at_zero"] and units["n"]:
        fires = np.array(units["fires"])
        marks["dead"] = np.flatnonzero(fires == 0).tolist()
        marks["rare"] = np.flatnonzero((fires > 0) & (fires < RARE)).tolist()
    if numbers is not None and numbers.weight is not None and numbers.weight[:1].size > 1:
        groups: dict[bytes, list[int]] = {}
        biases = numbers.bias if numbers.bias is not None else np.zeros(numbers.units)
        for unit, (row, bias) in enumerate(zip(numbers.weight, biases, strict=True)):
            groups.setdefault(np.array([*row.ravel(), bias]).tobytes(), []).append(unit)
        marks["alike"] = [group for group in groups.values() if len(group) > 1]
    return marks


def _bias_share(record: RunRecord, bias: Tensor | None, step: int) -> dict[str, Any] | None:
    if bias is None:
        return None
    found = record.bias_share(_full(bias))
    known = np.flatnonzero(found.steps <= step)
    if not len(known):
        return None
    i = known[-1]
    return {"step": int(found.steps[i]), "share": float(found.share[i]), "cosine": float(found.cosine[i])}
