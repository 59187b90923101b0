"""`weighbridge bias`: of every layer, what its bias adds, and what it is worth."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from weighbridge.cli.program import Target, load

NAMES: Final = ("model", "batches", "loss_fn", "optimizer")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bias")(bias)


def bias(
    target: Target,
    json: Annotated[bool, typer.Option("--json", help="The report for programs.")] = False,
) -> None:
    """Say of every layer what its bias adds, whether it is redundant or missing, and what it is worth.

    The file defines `model` (trained), `batches` (held-out ones, such as a DataLoader; or a single `batch`),
    `loss_fn(outputs, targets)` and, if you like, `optimizer`. It is run, but not as __main__: a training below
    `if __name__ == "__main__":` does not start.

    MODULE:FUNCTION is called without arguments and returns (model, batches, loss_fn) or (model, batches, loss_fn, optimizer),
    or a dictionary with these names.

    Worth is the loss without the bias minus the loss with it, on a copy, paired by sample, with a 95 % interval. What a network
    trained without it would lose says `weighbridge ablate-bias`.
    """
    from weighbridge.cli import screen

    given = load(target, NAMES, [("model",), ("batches", "batch")])
    from weighbridge.preflight.bias_report import biases
    from weighbridge.preflight.bias_text import lines

    batches = given["batches"] if "batches" in given else [given["batch"]]
    report = biases(given["model"], batches, given.get("loss_fn"), given.get("optimizer"))
    if json:
        screen.put(report.to_json())
    else:
        screen.show(lines(report, screen.width()))
