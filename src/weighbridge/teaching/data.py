"""The rows a lab trains on: the tutorial's ten samples, classes in the plane, scikit-learn's sets, arrays, any CSV file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from weighbridge.errors import BadInput, nearest
from weighbridge.format import counted
from weighbridge.teaching.planes import PLANES, bent, sums

Task = Literal["classification", "regression"]

HELD_OUT_SHARE: Final = 0.25
# Below this many rows a held-out part says nothing: train on all rows, score the same rows, and say so.
HELD_OUT_FROM_ROWS: Final = 20
# A numeric target with at most this many different whole numbers is read as class labels.
MOST_CLASSES: Final = 20


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows with a target.

    x  float64 [rows, features]
    y  int64 [rows] class numbers, or float64 [rows, outputs] of a regression
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    task: Task
    why: str  # how the task was decided, for people
    features: tuple[str, ...]
    classes: tuple[str, ...] = ()
    raw: bool = False  # "auto" leaves inputs and targets as they are

    @property
    def rows(self) -> int:
        return len(self.x)

    @property
    def inputs(self) -> int:
        return int(self.x.shape[1])

    @property
    def outputs(self) -> int:
        """What a network's last layer needs: one number per class, or one per predicted value."""
        return len(self.classes) if self.task == "classification" else int(self.y.shape[1])

    @property
    def held_out(self) -> int:
        """How many rows are kept from training for the score; 0 = too few rows for that."""
        return round(self.rows * HELD_OUT_SHARE) if self.rows >= HELD_OUT_FROM_ROWS else 0

    @property
    def score_name(self) -> str:
        return "accuracy" if self.task == "classification" else "R²"

    def describe(self) -> str:
        """One line: what the data has."""
        if self.task == "classification":
            target = f"{len(self.classes)} classes"
        else:
            target = f"{self.outputs} predicted value" + ("s" if self.outputs > 1 else "")
        inputs = f"{self.inputs} input" + ("s" if self.inputs > 1 else "")
        return f"{self.name}: {counted(self.rows, 'row')}, {inputs}, {target}"


def tutorial() -> Dataset:
    """The ten samples of the tutorial: the target is the sum of the two inputs."""
    return Dataset("tutorial", *sums(), "regression", "the target is a number", ("x1", "x2"), raw=True)


def bends() -> Dataset:
    """Three inputs, two outputs that no straight line fits: y1 = 1 + |x1|, y2 = 1 + x2 * x3."""
    return Dataset("bends", *bent(), "regression", "the targets are numbers", ("x1", "x2", "x3"), raw=True)


def plane(name: str) -> Dataset:
    """Two classes in the plane (planes.py), as they are: where they lie around 0 is what a bias is about."""
    x, y = PLANES[name]()
    return Dataset(name, x, y, "classification", "the target is a class", ("x1", "x2"), ("0", "1"), raw=True)


def _bundled(name: str) -> Dataset:
    """One of scikit-learn's sets that come with its package; nothing is downloaded."""
    try:
        import sklearn.datasets as sets
    except ImportError:
        raise BadInput(
            f"The data set {name!r} comes with scikit-learn, which is not installed. "
            "Install it (pip install 'weighbridge[lab]'), or use --data tutorial or a CSV file."
        ) from None
    bunch: Any = getattr(sets, f"load_{name}")()
    x, y = np.asarray(bunch.data, dtype=np.float64), np.asarray(bunch.target)
    features = tuple(str(f) for f in bunch.feature_names)
    if "target_names" in bunch:
        classes = tuple(str(c) for c in bunch.target_names)
        return Dataset(name, x, y.astype(np.int64), "classification", "the target is a class", features, classes)
    return Dataset(name, x, y.astype(np.float64)[:, None], "regression", "the target is a number", features)


_NAMED: Final[dict[str, Callable[[], Dataset]]] = {
    "tutorial": tutorial,
    "bends": bends,
    **{name: partial(plane, name) for name in PLANES},
    **{name: partial(_bundled, name) for name in ("iris", "wine", "digits", "diabetes", "breast_cancer")},
}
NAMES: Final = tuple(_NAMED)


def load(source: str | Path | Dataset | tuple[Any, Any], target: str | None = None, task: Task | None = None) -> Dataset:
    """The data set of this name, of this CSV file, or of these arrays (inputs, targets).

    `target` is the column of a CSV file to predict, by default its last; `task` overrules what is read from the target.
    """
    if isinstance(source, Dataset):
        return source
    if isinstance(source, tuple):
        return from_arrays(source[0], source[1], task=task)
    word = str(source)
    if word in _NAMED:
        if target is not None:
            raise BadInput(f"--target names a column of a CSV file; the data set {word!r} has its own target.")
        if task is not None and task != (found := _NAMED[word]()).task:
            raise BadInput(f"The data set {word!r} is a {found.task}; --task is for CSV files.")
        return _NAMED[word]()
    if word.lower().replace("-", "_") in _NAMED:
        return load(word.lower().replace("-", "_"), target, task)
    path = Path(word)
    if path.suffix.lower() in {".csv", ".tsv", ".txt"} or path.is_file():
        from weighbridge.teaching.csvfile import read_csv

        return read_csv(path, target, task)
    raise BadInput(
        f"There is no data set {word!r}.{nearest(word, NAMES)} Known: {', '.join(NAMES)}; or the path of a CSV file."
    )


def from_arrays(x: Any, y: Any, *, name: str = "arrays", task: Task | None = None) -> Dataset:
    """Arrays or tensors: inputs [rows, features]; targets [rows] or [rows, outputs], whole-number classes or numbers."""
    inputs = np.asarray(x, dtype=np.float64)
    target = np.asarray(y)
    inputs = inputs[:, None] if inputs.ndim == 1 else inputs
    if inputs.ndim != 2 or len(inputs) == 0 or target.ndim not in (1, 2) or len(inputs) != len(target):
        raise BadInput(
            "Data given as arrays is a pair (inputs [rows, features], targets [rows] or [rows, outputs]) of equally many rows; "
            f"found shapes {inputs.shape} and {target.shape}."
        )
    if not np.isfinite(inputs).all():
        raise BadInput(f"The inputs hold {int((~np.isfinite(inputs)).sum())} values that are NaN or infinite.")
    features = tuple(f"x{i + 1}" for i in range(inputs.shape[1]))
    kind: Task
    classes: tuple[str, ...] = ()
    if target.ndim == 2 and (target.shape[1] > 1 or target.dtype.kind == "f"):
        if task == "classification":
            raise BadInput("Classes are given as one number or word per row; these targets have one column per output.")
        kind, why, values = "regression", "the targets are columns of numbers", target.astype(np.float64)
    else:
        kind, why, classes, values = read_target([str(v) for v in target.reshape(-1).tolist()], task)
    if kind == "regression" and not np.isfinite(values).all():
        raise BadInput(f"The targets hold {int((~np.isfinite(values)).sum())} values that are NaN or infinite.")
    return Dataset(name, inputs, values, kind, why, features, classes)


def read_target(cells: list[str], task: Task | None = None) -> tuple[Task, str, tuple[str, ...], np.ndarray]:
    """Decide from a target's cells what it asks for: (task, why, classes, values).

    Words are classes; whole numbers of few kinds are classes; other numbers are a regression.
    """
    numbers = _numbers(cells)
    kinds = sorted(set(cells)) if numbers is None else sorted(set(cells), key=float)
    few = len(kinds) <= min(MOST_CLASSES, max(2, len(cells) // 3))
    if task is None:
        if numbers is None:
            task, why = "classification", "the target column holds words"
        elif few and bool(np.all(numbers == np.round(numbers))):
            task, why = "classification", f"the target has {len(kinds)} different whole numbers"
        else:
            task, why = "regression", "the target is a number"
    else:
        why = "as you said"
    if numbers is not None and not np.isfinite(numbers).all():
        raise BadInput(f"The target holds {int((~np.isfinite(numbers)).sum())} values that are not finite numbers.")
    if task == "regression":
        if numbers is None:
            bad = next(c for c in cells if _numbers([c]) is None)
            raise BadInput(f"A regression needs numbers as its target; found {bad!r}.")
        return task, why, (), numbers[:, None]
    if len(kinds) < 2:
        raise BadInput(f"The target has one value only ({kinds[0]!r}): there is nothing to learn. Choose another --target.")
    if len(kinds) > len(cells) // 2 and numbers is None and len(kinds) > MOST_CLASSES:
        raise BadInput(
            f"The target holds {len(kinds)} different words in {len(cells)} rows, which looks like names, not classes. "
            "Choose another --target."
        )
    place = {kind: i for i, kind in enumerate(kinds)}
    return task, why, tuple(kinds), np.array([place[c] for c in cells], dtype=np.int64)


def _numbers(cells: list[str]) -> np.ndarray | None:
    try:
        return np.array([float(c) for c in cells], dtype=np.float64)
    except ValueError:
        return None
