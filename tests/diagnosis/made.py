"""Made-up runs for rules: a few tensors, a few numbers at each step, no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weighbridge.catalog import all_names
from weighbridge.diagnosis import Diagnosis, Finding, Outcome, Rule
from weighbridge.diagnosis.engine import Engine
from weighbridge.diagnosis.rule import SMALL_TABLES
from weighbridge.diagnosis.stream import Block, Group
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.records import Quantity
from weighbridge.store.views import Tensor

NAN = float("nan")
Numbers = float | Sequence[float]


def tensor(number: int, name: str, module: str = "Linear", dtype: str = "float32", count: int = 8, **more: Any) -> Tensor:
    """A description; role and order follow from name and number."""
    role = "output" if "/" in name else "bias" if name.endswith("bias") else "weight"
    rest = {"model": "model", "shape": (count,), "order": number, "aliases": (), "requires_grad": True, "note": ""}
    return Tensor(
        **{"id": number, "name": name, "role": role, "module": module, "dtype": dtype, "count": count, **rest, **more}
    )


# Two layers with an activation between, and what they give.
LAYERS = (
    *(tensor(0, "a.weight"), tensor(1, "a.bias", count=2), tensor(2, "b.weight"), tensor(3, "b.bias", count=2)),
    *(tensor(4, "a/out", order=0), tensor(5, "act/out", module="Custom", order=1), tensor(6, "b/out", order=2)),
)


def step_rows(steps: int, **columns: Numbers) -> list[dict[str, Any]]:
    """One row a step of one optimizer; a list gives each step its own value."""
    usual: dict[str, Any] = {"optimizer": 0, "loss": 1.0, "backward_passes": 1, "skipped": False}
    usual |= {"clip_factor": NAN, "loss_scale": 1.0, "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    usual |= {"samples": None}
    rows = []
    for step in range(steps):
        row = {name: _at(columns.get(name, usual[name]), step) for name in usual}
        of_groups = {name: [row[name]] for name in ("lr", "momentum", "weight_decay")}
        rows.append({"step": step, "optimizer_step": step, **row, **of_groups})
    return rows


def _at(numbers: Any, step: int) -> Any:
    return numbers[step] if isinstance(numbers, list | tuple | np.ndarray) else numbers


def block(
    length: int,
    arrays: Mapping[str, Mapping[str, Numbers]] | None = None,
    tensors: Sequence[Tensor] = LAYERS,
    held: Sequence[str] | None = None,
    optimizer: str = "SGD",
    settings: Mapping[str, Any] | None = None,
    **tables: Sequence[Mapping[str, Any]],
) -> Block:
    """arrays: statistic -> name of a tensor ("*" = all) -> numbers; held: by the one optimizer (default: all parameters).

    optimizer, settings: its class and what its one group says beside lr, momentum and weight decay.
    """
    table = Tensors(tensors)
    made = {name: np.full((length, len(tensors)), np.nan) for name in all_names(tuple(Quantity))}
    for statistic, by_name in (arrays or {}).items():
        for column, one in enumerate(tensors):
            numbers = by_name.get(one.name, by_name.get("*"))
            if numbers is not None:
                made[statistic][:, column] = numbers
    columns = tuple(c for c, t in enumerate(tensors) if not t.is_output and (held is None or t.name in held))
    filled = {name: tuple(tables.get(name, ())) for name in SMALL_TABLES}
    if "steps" not in tables:
        filled["steps"] = tuple(step_rows(length))
    return Block(0, length, table, (Group(0, optimizer, 0, columns, settings or {}),), made, filled)


def asked(rule: type[Rule], made: Block, *cuts: int) -> Diagnosis:
    """What one rule says of a made-up run."""
    engine = Engine([rule])
    for part in made.cut(*cuts):
        engine.feed(part)
    return engine.diagnosis("made")


def said(diagnosis: Diagnosis) -> str:
    """All of it, to compare two: numbers that are not known are equal here."""
    return repr(diagnosis.record())


def found(rule: type[Rule], made: Block) -> list[Finding]:
    """The findings; a rule that failed fails the test, and one that finds something else where the steps are cut."""
    diagnosis = asked(rule, made)
    assert said(asked(rule, made, *range(len(made)))) == said(diagnosis)
    assert diagnosis.answers[0].outcome is not Outcome.FAILED, diagnosis.answers[0].reason
    return list(diagnosis.findings)


def outcome(rule: type[Rule], made: Block) -> Outcome:
    return asked(rule, made).answers[0].outcome
