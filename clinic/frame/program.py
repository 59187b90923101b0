"""A program of the clinic: a small training of which is known what is wrong with it, where, and since when.

One function is a fault and its repaired twin: `case.ill` tells which of the two trains, and the twin differs in nothing else.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clinic.frame.case import Case

Train = Callable[["Case"], None]
PARTS = ("tuning", "measured", "fresh")


@dataclass(frozen=True, slots=True)
class Program:
    """One training function and what is known of it."""

    name: str  # the function's, with hyphens
    part: str  # one of PARTS
    train: Train  # builds model, data, optimizer and loop; watches with `case.watch(model)`
    kind: str  # of architecture: "MLP", "CNN", "LSTM" ...
    source: str  # what it was made after, in words: a thread, paper, course, bug report
    steps: int
    label: str = ""  # the fault = id of a rule; empty = a healthy program
    places: tuple[str, ...] = ()  # accepted: globs over names of modules and parameters, "" = the whole run, "input"
    data: str = "made"  # or the name of a real set
    also: tuple[str, ...] = ()  # further ids that are true of it: neither a hit nor a false alarm
    ranks: int = 1  # processes, joined by gloo before `train` is called

    @property
    def twin(self) -> str:
        """The name of the repaired program; empty for a healthy one."""
        return f"{self.name}-repaired" if self.label else ""


_all: list[Program] = []


def faulty(
    label: str,
    *,
    places: tuple[str, ...],
    kind: str,
    source: str,
    steps: int = 60,
    data: str = "made",
    also: tuple[str, ...] = (),
    ranks: int = 1,
) -> Callable[[Train], Train]:
    """Marks a training function as one with the fault `label` where `case.ill`, and as its repaired twin where not."""

    def enter(train: Train) -> Train:
        _enter(Program(_name(train), _part(train), train, kind, source, steps, label, places, data, also, ranks))
        return train

    return enter


def healthy(
    *, kind: str, source: str, steps: int = 300, data: str = "made", also: tuple[str, ...] = (), ranks: int = 1
) -> Callable[[Train], Train]:
    """Marks a training function as a healthy one."""

    def enter(train: Train) -> Train:
        _enter(Program(_name(train), _part(train), train, kind, source, steps, data=data, also=also, ranks=ranks))
        return train

    return enter


def programs(part: str) -> list[Program]:
    """All programs of a part, found by importing its files."""
    package = importlib.import_module(f"clinic.{part}")
    for module in pkgutil.walk_packages(package.__path__, f"clinic.{part}."):
        importlib.import_module(module.name)
    return [p for p in _all if p.part == part]


def _name(train: Train) -> str:
    return train.__name__.strip("_").replace("_", "-")


def _part(train: Train) -> str:
    return train.__module__.split(".")[1]


def _enter(program: Program) -> None:
    if any((p.part, p.name) == (program.part, program.name) for p in _all):
        raise ValueError(f"two programs of clinic/{program.part} are called {program.name}")
    _all.append(program)
