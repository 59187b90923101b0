"""The tools that the clinic can try: each a module with a class `Tool` that watches a model and says what it found."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

NAMES = ("weighbridge", "torchmortem", "torch-audit")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that a tool said, in the clinic's words."""

    label: str  # the id of our rule that means the same, else the tool's own name
    severity: str  # "error", "warning" or "note"
    place: str
    told_step: int  # -1 = before training
    is_cause: bool = True  # False: the tool says itself that it follows from something else


class Tool(Protocol):
    """One use of a tool: `watch` in the training, `verdicts` after it."""

    def watch(self, model: nn.Module) -> AbstractContextManager[Any]: ...

    def verdicts(self) -> list[Verdict]: ...


def tool(name: str) -> Tool:
    """A fresh one by name. Raises ImportError where it is not installed."""
    made: Tool = importlib.import_module(f"clinic.tools.{name.replace('-', '_')}").Tool()
    return made
