"""The model is trained in evaluation mode, and some of its modules do something else there.

Symptom        Dropout drops nothing, batch norms use their running averages and do not update them: the model overfits, or
               learns with statistics that are wrong.
How it decides Exact, from the run's own record: an optimizer stepped, the model's `training` was False, no pass in training
               mode had run, and there are modules that behave differently then (dropout with p > 0, batch norm that is
               trained). Or the model trains, but a part of it (a module with modules of its own: `backbone.eval()`) is in
               evaluation mode, holds such modules, and its weights get gradients.
What to do     Call `model.train()` before each epoch: `model.eval()` for a validation stays until then. Models of
               transformers come from `from_pretrained` in evaluation mode.
When it errs   Fine-tuning in evaluation mode on purpose. Batch norms whose own parameters are frozen do not count, nor do
               single layers that are put into evaluation mode one by one, as batch norms are on purpose. A teacher in
               evaluation mode gets no gradients.
References     PyTorch documentation, torch.nn.Module.eval and train.
"""

from __future__ import annotations

from collections.abc import Iterator

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, SettingEvidence, TableEvidence
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import in_code
from weighbridge.format import counted

EVENT = "evaluation_mode"  # written by capture, once per model


class EvaluationModeWhileTraining(Rule):
    id, title = "evaluation-mode-while-training", "The model is trained in evaluation mode"
    severity, certainty, since = "warning", "proof", "0.1"
    needs = Needs(tables=["events", "steps"])
    causes = ("stalled-loss", "growing-loss", "loss-spike", "gradient-spike")
    experiment = (
        "Call model.train() and train 50 steps from the same start: if the loss is the same to the last bit, no layer"
        " cared for the mode."
    )

    def __init__(self) -> None:
        self.has_stepped = False

    def read(self, block: Block) -> Iterator[Finding]:
        self.has_stepped |= bool(block.rows("steps"))
        for event in block.rows("events"):
            affected = dict(event["detail"].get("affected", {})) if event["kind"] == EVENT else {}
            if affected:
                first, part = next(iter(affected)), event["detail"].get("part", "")
                where = part or (first if len(affected) == 1 else "")
                yield Finding(
                    place=block.tensors.place(where, event["detail"].get("model", "")) if where else "",
                    first_step=event["step"],
                    told_step=event["step"],
                    message=f"From step {event['step']} on an optimizer steps {part or 'the model'} while it is in evaluation "
                    f"mode: "
                    f"{counted(len(affected), 'module')} ({first}, {affected[first]}"
                    f"{', ...) behave' if len(affected) > 1 else ') behaves'} as in evaluation.",
                    evidence=(
                        SettingEvidence(f"{in_code(part)}.training" if part else "model.training", "False"),
                        TableEvidence("behave differently", ("module", "type"), tuple(affected.items())),
                    ),
                    fix=f"Call model.train() after {in_code(part)}.eval(), or freeze it: {in_code(part)}.requires_grad_(False)."
                    if part
                    else "Call model.train() before the training loop, and again after each validation.",
                    depth=-1.0,
                )

    def lacking(self) -> tuple[Outcome, str] | None:
        return None if self.has_stepped else (Outcome.NOT_ENOUGH_DATA, "no optimizer stepped")
