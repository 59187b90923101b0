"""weighbridge: weigh a neural network while it trains.

    import weighbridge
    with weighbridge.watch(model) as run:     # nothing else is needed in the loop
        ...
    print(run.path)

Importing this package loads neither torch nor the web framework; each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weighbridge.capture.active import config, epochs, finish, flush, init, log, unwatch, watch
    from weighbridge.capture.plan import Plan, Schedule
    from weighbridge.capture.run import Run
    from weighbridge.diagnosis.engine import diagnose
    from weighbridge.diagnosis.rule import Diagnosis, Finding, Rule
    from weighbridge.errors import TrainingStopped, WeighbridgeError
    from weighbridge.notebook.show import show
    from weighbridge.preflight.bias_ablation import ablate_bias
    from weighbridge.preflight.bias_report import biases
    from weighbridge.preflight.biases import without_redundant_biases
    from weighbridge.preflight.inspect import inspect
    from weighbridge.store.record import RunRecord, Series, Tensor, list_runs, open_run
    from weighbridge.teaching.lab import lab

__version__ = "0.1.0"

_HOME = {
    "weighbridge.capture.active": ("config", "epochs", "finish", "flush", "init", "log", "unwatch", "watch"),
    "weighbridge.capture.plan": ("Plan", "Schedule"),
    "weighbridge.capture.run": ("Run",),
    "weighbridge.diagnosis.engine": ("diagnose",),
    "weighbridge.diagnosis.rule": ("Diagnosis", "Finding", "Rule"),
    "weighbridge.errors": ("TrainingStopped", "WeighbridgeError"),
    "weighbridge.notebook.show": ("show",),
    "weighbridge.preflight.bias_ablation": ("ablate_bias",),
    "weighbridge.preflight.bias_report": ("biases",),
    "weighbridge.preflight.biases": ("without_redundant_biases",),
    "weighbridge.preflight.inspect": ("inspect",),
    "weighbridge.store.record": ("RunRecord", "Series", "Tensor", "list_runs", "open_run"),
    "weighbridge.teaching.lab": ("lab",),
}
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Diagnosis",
    "Finding",
    "Plan",
    "Rule",
    "Run",
    "RunRecord",
    "Schedule",
    "Series",
    "Tensor",
    "TrainingStopped",
    "WeighbridgeError",
    "ablate_bias",
    "biases",
    "config",
    "diagnose",
    "epochs",
    "finish",
    "flush",
    "init",
    "inspect",
    "lab",
    "list_runs",
    "log",
    "open_run",
    "show",
    "unwatch",
    "watch",
    "without_redundant_biases",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'weighbridge' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
