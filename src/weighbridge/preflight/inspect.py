"""`weighbridge.inspect`: what is wrong with a network before its first step."""

from __future__ import annotations

import dataclasses
import itertools
import json
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from weighbridge.diagnosis import Answer, Diagnosis, Outcome
from weighbridge.diagnosis.causes import ordered
from weighbridge.preflight import births, gains
from weighbridge.preflight.asking import ask
from weighbridge.preflight.records import Layer
from weighbridge.preflight.signal import try_out


@dataclass(frozen=True, slots=True, repr=False)
class Inspection(Diagnosis):
    """A `Diagnosis` of before the training, with the table of layers. `print` it for both; `run.attach` keeps it with a run."""

    KIND: ClassVar[str] = "inspection"

    layers: tuple[Layer, ...] = ()
    loss: float = float("nan")
    parameters: int = 0
    trainable: int = 0
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        from weighbridge.preflight.text import lines, screen_width

        return "\n".join(line.plain for line in lines(self, screen_width()))

    def _repr_html_(self) -> str:
        from weighbridge.preflight.text import as_html

        return as_html(self)

    def to_json(self) -> str:
        """`record` as JSON; NaN and infinity as words."""
        from weighbridge.diagnosis.kept import jsonable

        return json.dumps(jsonable(self.record()), ensure_ascii=False, allow_nan=False, indent=1)

    def record(self) -> dict[str, Any]:
        """The inspection as a dictionary."""
        facts = {"model": self.subject, "loss": self.loss, "parameters": self.parameters, "trainable": self.trainable}
        judged = {key: value for key, value in Diagnosis.record(self).items() if key not in ("run", "steps")}
        layers = [dataclasses.asdict(one) for one in self.layers]
        return {**facts, "remarks": list(self.remarks), "layers": layers, **judged}


def inspect(model: torch.nn.Module, batch: Any, loss_fn: Any = None, optimizer: Any = None) -> Inspection:
    """Look at a network before training: one forward and one backward pass on a copy of it.

    `batch`: a pair (inputs, targets) with loss_fn(outputs, targets), inputs a tensor, or a tuple or dictionary of arguments; or
    a dictionary of keyword arguments with loss_fn(outputs, batch), or with no loss_fn where the outputs have `loss`; or
    anything with loss_fn(model, batch), its first argument named `model`. `optimizer`: one, or a list of them.

    The user's model, gradients, buffers, modes, batch and random state stay as they are, bit for bit; memory for a second model
    is needed meanwhile. Waits for the device. Raises BadInput where model, batch and loss do not fit together.

    >>> import torch
    >>> x, y = torch.randn(16, 8), torch.randint(3, (16,))
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 3), torch.nn.Softmax(1))
    >>> [finding.rule for finding in inspect(model, (x, y), torch.nn.functional.cross_entropy)]
    ['missing-activation', 'doubled-output-activation']
    """
    trial = try_out(model, batch, loss_fn, optimizer)
    judged = ask(trial.first, type(model).__name__)
    measured = {each.RULE: tuple(each.findings(trial.first, trial.layers)) for each in (gains, births)}
    answers = (Answer(rule, Outcome.FOUND if found else Outcome.CLEAR) for rule, found in measured.items())
    return Inspection(
        subject=judged.subject,
        findings=ordered([*judged.findings, *itertools.chain(*measured.values())]),
        answers=(*judged.answers, *answers),
        layers=trial.layers,
        loss=trial.loss,
        parameters=sum(p.count for p in trial.first.parameters),
        trainable=sum(p.count for p in trial.first.parameters if p.is_trainable),
        remarks=trial.remarks,
    )
