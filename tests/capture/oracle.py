"""What truly happened at each step, noted with nothing but `clone`, and what weighbridge.reference says of it.

`Oracle.step` stands where a training would call `optimizer.step()`: it copies every parameter before, every gradient and
every parameter after. `check` then compares the whole table of rows with it: no row wrong, none missing, none too many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import weighbridge
from weighbridge.records import Quantity
from weighbridge.reference import CrossTerms, Summary, summarize, update_of, update_terms
from weighbridge.store.layout import rank_folder
from weighbridge.store.tables import RankTables

PARAMETERS_ALONE = weighbridge.Plan(activations=False, activation_gradients=False, moments=False)
PARAMETER, GRADIENT, UPDATE = Quantity.PARAMETER, Quantity.GRADIENT, Quantity.UPDATE
SUM_TOLERANCE = 1e-7  # of the sum of the absolute values of the terms, as the project's goal says
COUNTS = ("count", "nan", "pos_inf", "neg_inf", "zero", "subnormal", "hist_count")


@dataclass
class Seen:
    """One parameter at one step."""

    before: torch.Tensor
    gradient: torch.Tensor | None = None
    after: torch.Tensor | None = None


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that shares nothing; complex numbers as pairs, sparse ones dense."""
    tensor = tensor.detach()
    tensor = tensor.to_dense() if tensor.layout is not torch.strided else tensor
    tensor = tensor.resolve_conj().resolve_neg()
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).clone().cpu()


class Oracle:
    """Follows the named parameters of models that are watched, as far as the optimizer that steps holds them."""

    def __init__(self, *models: nn.Module) -> None:
        self.models = models
        self.seen: dict[tuple[int, str], Seen] = {}
        self.closing: dict[str, torch.Tensor] = {}
        self.clock = 0

    def named(self) -> dict[str, nn.Parameter]:
        """The parameters by name; of a second model as "2:name"."""
        prefixes = ("" if n == 0 else f"{n + 1}:" for n in range(len(self.models)))
        return {f"{prefix}{k}": p for prefix, m in zip(prefixes, self.models, strict=True) for k, p in m.named_parameters()}

    def step(self, optimizer: torch.optim.Optimizer, *arguments: Any, at: int | None = None) -> None:
        """Let the optimizer step, and note what it did at this reading of the clock (default: one per call)."""
        step = self.clock if at is None else at
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        mine = {name: p for name, p in self.named().items() if id(p) in held and is_weighable(p)}
        before = {name: dense(p) for name, p in mine.items()}
        optimizer.step(*arguments)
        for name, parameter in mine.items():
            gradient = None if parameter.grad is None else dense(parameter.grad)
            self.seen[step, name] = Seen(before[name], gradient, dense(parameter))
        self.clock = step + 1

    def close(self) -> None:
        """Note the last values: call it just before the run is finished."""
        self.closing = {name: dense(p) for name, p in self.named().items() if is_weighable(p)}


def train(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[int], torch.Tensor],
    steps: int,
    *,
    between: Callable[[int], object] = lambda step: None,
    plan: weighbridge.Plan | None = None,
) -> tuple[Path, Oracle]:
    """A watched training of one model, `between` before each of its steps. Gives the run's folder and what was seen."""
    oracle = Oracle(model)
    with weighbridge.init(dir=folder, name="run", quiet=True, plan=plan) as run:
        run.watch(model)
        for step in range(steps):
            between(step)
            optimizer.zero_grad()
            loss(step).backward()
            oracle.step(optimizer)
        oracle.close()
    return run.path, oracle


@contextmanager
def watched(
    folder: Path, *models: nn.Module, may_lack: Callable[[tuple[int, str, Quantity]], bool] = lambda key: False
) -> Iterator[tuple[weighbridge.Run, Oracle]]:
    """A run that watches the models; when it has ended, all its rows are compared with what the oracle saw."""
    oracle = Oracle(*models)
    with weighbridge.init(dir=folder, name="run", quiet=True) as run:
        for model in models:
            run.watch(model)
        yield run, oracle
        oracle.close()
    check(run.path, oracle, may_lack)


def is_weighable(parameter: torch.Tensor) -> bool:
    if isinstance(parameter, nn.parameter.UninitializedParameter) or parameter.device.type == "meta":
        return False
    return parameter.is_floating_point() or parameter.is_complex()


def array(tensor: torch.Tensor) -> tuple[np.ndarray, int]:
    """(NumPy array, bytes of an element); bfloat16 is widened, exactly."""
    size = tensor.element_size()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy(), size


@dataclass
class Expected:
    """What a row must say; `terms` are the sums of the absolute values of each sum's terms."""

    summary: Summary
    cross: CrossTerms | None
    terms: dict[str, float]


Rows = dict[tuple[int, str, Quantity], Expected]


def expected_rows(oracle: Oracle) -> Rows:
    """(step, name, quantity) -> what its row must say."""
    rows: Rows = {}

    def add(step: int, name: str, quantity: Quantity, x: np.ndarray, size: int) -> None:
        summary = summarize(x, size)
        terms = {"sum": summary.sum_abs, "sum_abs": summary.sum_abs, "sum_sq": summary.sum_sq}
        rows[step, name, quantity] = Expected(summary, None, terms)

    for (step, name), seen in oracle.seen.items():
        assert seen.after is not None
        before, size = array(seen.before)
        update = update_of(before, array(seen.after)[0])
        gradient = None
        if seen.gradient is not None:
            gradient, gradient_size = array(seen.gradient)
            add(step, name, GRADIENT, gradient, gradient_size)
        add(step, name, PARAMETER, before, size)
        add(step, name, UPDATE, update, size)
        row = rows[step, name, UPDATE]
        row.cross = update_terms(before, array(seen.after)[0], gradient)
        pairs = {"dot_update_parameter": (update, before)}
        if gradient is not None:
            pairs |= {"dot_gradient_parameter": (gradient, before), "dot_gradient_update": (gradient, update)}
        row.terms |= {name: sum_of_absolute_products(*pair) for name, pair in pairs.items()}
    for name, last in oracle.closing.items():
        add(oracle.clock, name, PARAMETER, *array(last))
    return rows


def sum_of_absolute_products(a: np.ndarray, b: np.ndarray) -> float:
    both = np.isfinite(a) & np.isfinite(b)
    return float(np.abs(a[both].astype(np.float64) * b[both].astype(np.float64)).sum())


def table(path: Path, name: str, rank: int = 0) -> list[dict[str, Any]]:
    """A whole table of a run, as dictionaries."""
    rows: list[dict[str, Any]] = RankTables(rank_folder(path, rank)).whole(name).to_pylist()
    return rows


def names(record: weighbridge.RunRecord) -> dict[int, str]:
    """id -> the name that the oracle uses."""
    models = list(dict.fromkeys(t.model for t in sorted(record.tensors, key=lambda t: t.id)))
    return {t.id: t.name if t.model == models[0] else f"{models.index(t.model) + 1}:{t.name}" for t in record.tensors}


def recorded_rows(path: Path) -> dict[tuple[int, str, Quantity], dict[str, Any]]:
    """(step, name, quantity) -> row as it is on disk, of parameters. A key that stands there twice is an error."""
    known = names(weighbridge.open_run(path))
    found: dict[tuple[int, str, Quantity], dict[str, Any]] = {}
    for row in table(path, "rows"):
        if row["quantity"] not in (PARAMETER, GRADIENT, UPDATE):
            continue
        key = row["step"], known[row["tensor"]], Quantity(row["quantity"])
        assert key not in found, f"two rows of {key}"
        found[key] = row
    return found


def check(path: Path, oracle: Oracle, may_lack: Callable[[tuple[int, str, Quantity]], bool] = lambda key: False) -> None:
    """Every row equals what the oracle saw; none is missing (but for `may_lack`), none is too many."""
    expected, found = expected_rows(oracle), recorded_rows(path)
    assert set(found) <= set(expected), f"too many: {sorted(set(found) - set(expected))[:5]}"
    missing = [key for key in set(expected) - set(found) if not may_lack(key)]
    assert not missing, f"missing: {sorted(missing)[:5]}"
    for key, row in found.items():
        compare(key, row, expected[key])


def compare(key: object, row: dict[str, Any], expected: Expected) -> None:
    """One row against the reference: counts, extremes and histogram exactly, sums within the tolerance."""
    summary, cross = expected.summary, expected.cross
    for name in COUNTS:
        assert row[name] == getattr(summary, name), (key, name)
    for name in ("min", "max"):
        assert same(row[name], getattr(summary, name)), (key, name, row[name], getattr(summary, name))
    histogram = np.zeros(len(summary.hist), np.int64)
    histogram[row["hist_first"] : row["hist_first"] + len(row["hist"])] = row["hist"]
    assert (histogram == summary.hist).all(), (key, "hist")
    for name, terms in expected.terms.items():
        wanted = getattr(summary if hasattr(summary, name) else cross, name)
        assert abs(row[name] - wanted) <= SUM_TOLERANCE * terms, (key, name, row[name], wanted)
    assert row["lost"] == (cross.lost if cross is not None else 0), (key, "lost")
    for name in {"dot_gradient_parameter", "dot_gradient_update", "dot_update_parameter"} - set(expected.terms):
        assert math.isnan(row[name]), (key, name)


def same(a: float, b: float) -> bool:
    """Equal bits of a float64, any NaN being like any other."""
    return (math.isnan(a) and math.isnan(b)) or np.float64(a).tobytes() == np.float64(b).tobytes() or (a == 0 == b)


def events(path: Path, kind: str) -> list[Any]:
    """The events of one kind."""
    return [event for event in weighbridge.open_run(path).events() if event.kind == kind]


def closure_of(optimizer: torch.optim.Optimizer, loss: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """What `optimizer.step` may call again and again."""

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


def steps_of(rows: Iterable[tuple[int, str, Quantity]], name: str, quantity: Quantity) -> list[int]:
    return sorted(step for step, tensor, which in rows if tensor == name and which == quantity)
