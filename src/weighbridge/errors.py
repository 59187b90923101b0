"""What can go wrong, as people meet it.

WeighbridgeError                 every error that is meant for a person; the CLI prints it and exits with 2
├── NotARun                      a folder that holds no run, or no runs
├── NewerFormat                  a run written by a newer weighbridge
├── CorruptRun                   bytes on disk that disagree with their checksum
├── UnknownTensor                a tensor name that the run does not have
├── UnknownStatistic             a statistic that the catalogue does not have
├── NothingRecorded              the run has no such step, value or table
├── NothingToWatch               a model without parameters, or no model at all
├── BadPlan                      a `Plan` that contradicts itself
├── TrainingStopped              what `watch(..., stop_on=...)` ends a training with
└── BadInput                     a command line or file that cannot be understood

Each text says what happened, where, what was expected and found, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class WeighbridgeError(Exception):
    """An error that says to a person what happened and what to do."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook prints of it (IPython asks): the sentence alone, as the command line does."""
        return [f"{type(self).__name__}: {self}"]


class NotARun(WeighbridgeError):
    """The folder holds no run."""


class NewerFormat(WeighbridgeError):
    """The run was written by a newer weighbridge than this one."""


class CorruptRun(WeighbridgeError):
    """Bytes on disk disagree with their checksum."""


class UnknownTensor(WeighbridgeError):
    """The run has no tensor of this name."""


class UnknownStatistic(WeighbridgeError):
    """The catalogue has no statistic of this name."""


class NothingRecorded(WeighbridgeError):
    """What was asked for was not recorded."""


class NothingToWatch(WeighbridgeError):
    """There is nothing to weigh."""


class BadPlan(WeighbridgeError):
    """A plan contradicts itself."""


class TrainingStopped(WeighbridgeError):
    """Raised into a training that was watched with `stop_on`, at its next step; `finding` says why."""

    def __init__(self, message: str, finding: Any) -> None:
        super().__init__(message)
        self.finding = finding


class BadInput(WeighbridgeError):
    """A command line or an input file cannot be understood."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A half-sentence that suggests the nearest known words, or nothing.

    >>> nearest("0.wieght", ["0.weight", "0.bias"])
    ' Did you mean 0.weight?'
    """
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""
