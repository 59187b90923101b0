"""What modules give, in the order in which they ran: how a size grows or shrinks along the depth of a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from weighbridge.diagnosis.tensors import Tensors


@dataclass(frozen=True, slots=True)
class Profile:
    """The columns along which one model is followed, the shallowest first."""

    model: str
    columns: tuple[int, ...]
    is_weighted: tuple[bool, ...]  # does the module itself hold a weight matrix?
    is_normed: tuple[bool, ...]  # does a norm layer run before the next module with weights? It divides by what it gets
    is_of_outputs: bool  # else of parameters: nothing that modules give is between first and last
    judged: np.ndarray = field(init=False, repr=False, compare=False)  # columns up to the last module with weights

    def __post_init__(self) -> None:
        object.__setattr__(self, "judged", np.array(self.columns[: self.last_weighted + 1], np.int64))

    @property
    def first_weighted(self) -> int:
        """Place of the first module with a weight matrix."""
        return next((i for i, w in enumerate(self.is_weighted) if w), 0)

    @property
    def last_weighted(self) -> int:
        """Place of the last one: usually the head."""
        return max((i for i, w in enumerate(self.is_weighted) if w), default=len(self.columns) - 1)


def outputs(tensors: Tensors) -> list[Profile]:
    """One per model: what its modules give, by order of execution."""
    matrices = [c for c, t in enumerate(tensors) if not t.is_output and len(t.shape) > 1]
    owners = {(tensors[c].model, tensors.owner(c)) for c in matrices}
    owners |= {(tensors[c].model, alias.rpartition(".")[0]) for c in matrices for alias in tensors[c].aliases}
    found = []
    for model in dict.fromkeys(t.model for t in tensors):
        ran = sorted((t.order, c) for c, t in enumerate(tensors) if t.is_output and t.model == model)
        out_of_order = _out_of_order(tensors, [c for _, c in ran])
        columns = tuple(c for _, c in ran if c not in out_of_order)
        is_weighted = tuple((model, tensors.owner(c)) in owners for c in columns)
        found.append(Profile(model, columns, is_weighted, _normed(tensors, columns, is_weighted), True))
    return found


def _out_of_order(tensors: Tensors, columns: Sequence[int]) -> set[int]:
    """Modules of a list that first ran neither in the order of the list nor backwards: experts, of which some were chosen late.
    They lie side by side, and what ran for the first time in a later pass has no place behind the others."""
    families: dict[str, list[tuple[int, int]]] = {}
    for column in columns:
        parts = tensors[column].name.split(".")
        for i in (i for i, part in enumerate(parts) if part.isdigit()):
            families.setdefault(".".join([*parts[:i], "*", *parts[i + 1 :]]), []).append((int(parts[i]), column))
    found: set[int] = set()
    for members in families.values():
        orders = [tensors[column].order for _, column in sorted(members)]
        if orders not in (sorted(orders), sorted(orders, reverse=True)):
            found |= {column for _, column in members}
    return found


def _normed(tensors: Tensors, columns: Sequence[int], is_weighted: Sequence[bool]) -> tuple[bool, ...]:
    found, is_behind = [], False
    for column, has_weights in zip(columns[::-1], is_weighted[::-1], strict=True):  # from the last to the first
        found.append(is_behind)
        is_table = tensors[column].module.startswith("Embedding")  # others may be added to it before the norm
        is_behind = "Norm" in tensors[column].module or (is_behind and (is_table or not has_weights))
    return tuple(found[::-1])


def parameters(tensors: Tensors) -> list[Profile]:
    """One per model: its biases where it has several (the gradient of a bias is the loss's gradient by what its layer gives,
    summed), else its weight matrices; in the order in which the model names them. Not those that a norm takes out again."""
    found = []
    for model in dict.fromkeys(t.model for t in tensors):
        mine = [c for c, t in enumerate(tensors) if t.model == model and not t.is_output and not t.note and t.requires_grad]
        biases = [c for c in mine if tensors[c].role == "bias" and not _is_taken_out(tensors, c)]
        weights = [c for c in mine if len(tensors[c].shape) > 1]
        columns = tuple(biases if len(biases) >= len(weights) else weights)
        found.append(Profile(model, columns, (True,) * len(columns), (False,) * len(columns), False))
    return found


def as_layers(tensors: Tensors, columns: Sequence[int], sizes: np.ndarray) -> np.ndarray:
    """Gradients of parameters by layer: where several modules have the same kinds of them, each once (a mean and a deviation of
    every weight), they make one layer together, and each counts as the largest. How they differ is no matter of depth."""
    kinds: dict[str, list[str]] = {}
    for column in columns:
        kinds.setdefault(tensors.owner(column), []).append(tensors.name(column).rpartition(".")[2])
    last = sorted(kinds[tensors.owner(columns[-1])])
    mine = [owner for owner, names in kinds.items() if sorted(names) == last]
    if len({re.sub(r"\d+", "#", name) for name in last}) < len(last) or len(last) < 2 or len(mine) < 2:
        return sizes
    owners = np.array([tensors.owner(column) for column in columns])
    return np.array(
        [sizes[owners == owner].max() if owner in mine else size for owner, size in zip(owners, sizes, strict=True)]
    )


def _is_taken_out(tensors: Tensors, bias: int) -> bool:
    """Does a norm over the samples come next by name? Its mean takes the bias out, whose gradient is 0 but for rounding."""
    behind = range(bias + 1, len(tensors))
    following = next((c for c in behind if tensors.owner(c) != tensors.owner(bias) and not tensors[c].is_output), None)
    return following is not None and tensors[following].module.startswith(("BatchNorm", "InstanceNorm", "SyncBatchNorm"))


def levels(profile: Profile, row: np.ndarray) -> tuple[list[int], np.ndarray]:
    """What was recorded of one step, up to the last module with weights: places in the profile, and float64 [places].

    What comes after it (a sigmoid in front of a loss) passes hardly any gradient where the model is right, and that is health.
    """
    values = row[profile.judged]
    places = np.flatnonzero(np.isfinite(values)).tolist()
    return places, values[places]


def levels_of_steps(profile: Profile, rows: np.ndarray) -> np.ndarray:
    """As `levels` of many steps at once: float64 [steps, places]; all NaN for a step of which something is not known."""
    values = rows[:, profile.judged]
    values[~np.isfinite(values).all(axis=1)] = np.nan
    return values


def sensitivities(profile: Profile, slopes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """norm(dL/dh) of each output, float64 [..., tensors]; times the rms of h in front of a norm layer: it divides by that."""
    found = slopes.copy()
    normed = [c for c, is_normed in zip(profile.columns, profile.is_normed, strict=True) if is_normed]
    found[..., normed] *= sizes[..., normed]
    return found


def thinned(rows: list[tuple[str, float]], most: int = 24) -> list[tuple[str, float]]:
    """At most so many, evenly, with both ends."""
    picked = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).round().astype(int))
    return [rows[i] for i in picked]


def steepest(levels: Sequence[float] | np.ndarray) -> tuple[int, float]:
    """Of sizes along the depth: after which place the largest single change comes, and its share of the whole, as logarithms.

    >>> steepest([1.0, 1.0, 100.0, 100.0])
    (1, 1.0)
    """
    logs = np.log(np.maximum(np.asarray(levels, float), np.finfo(float).tiny))
    jumps = np.abs(np.diff(logs))
    whole = float(jumps.sum())
    return (int(jumps.argmax()), float(jumps.max()) / whole) if len(jumps) and whole > 0 else (0, 0.0)
