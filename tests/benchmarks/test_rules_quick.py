"""That benchmarks/rules.py measures every rule that runs beside a training, and says how far behind they are. Never how fast.

Oracle: the registry knows which rules there are; all steps of a short training are looked at by its end.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from weighbridge.diagnosis import registry
from weighbridge.diagnosis.engine import _Asked

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STEPS = 60


@pytest.fixture(scope="module")
def rules() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
        yield importlib.import_module("rules")


@pytest.fixture(scope="module")
def cell(rules: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = rules.measure(rules.WORKLOADS["a"], tmp_path_factory.mktemp("rules"), steps=STEPS)
    return found


def test_every_rule_is_charged_and_every_step_looked_at(cell: dict[str, Any]) -> None:
    assert cell["rules"].keys() == {rule.id for rule in registry.rules()}
    assert len({len(calls) for calls in cell["rules"].values()}) == 1  # of each the same blocks
    assert cell["steps"] == STEPS
    assert cell["in_the_end"] == STEPS + 1  # and the closing rows
    assert cell["is_all"]
    assert cell["gave_up"] == ""
    assert 0 <= cell["judged"] <= STEPS + 1
    assert min(map(len, cell["parts"].values())) > 0
    assert cell["parts"].keys() == {"kept", "taken", "judged", "placed"}


def test_rules_take_a_part_of_what_judging_takes(cell: dict[str, Any]) -> None:
    of_rules = sum(map(sum, cell["rules"].values()))
    assert 0 < of_rules < sum(cell["parts"]["judged"])


def test_the_tables_name_the_costliest_rules(rules: Any, cell: dict[str, Any]) -> None:
    head, _, line = rules.table([cell])
    assert line.count("|") == head.count("|")
    assert line.startswith("| a: tutorial")
    assert line.endswith("| all |")
    costliest = max(cell["rules"], key=lambda rule: sum(cell["rules"][rule]))
    assert f"{len(cell['rules'])} rules: {costliest} " in rules.of_rules(cell)


def test_the_product_is_as_it_was_afterwards(cell: dict[str, Any]) -> None:
    assert not hasattr(_Asked.read, "__wrapped__")
