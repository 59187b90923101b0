"""`weighbridge inspect`: what is wrong with a network before its first step."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from weighbridge.cli.program import Target, load

NAMES: Final = ("model", "batch", "loss_fn", "optimizer")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect")(inspect)


def inspect(
    target: Target,
    json: Annotated[bool, typer.Option("--json", help="The table and the findings for programs.")] = False,
) -> None:
    """Look at a network before training: a table of its layers, and what is wrong with it.

    The file defines `model`, `batch` (a pair of inputs and targets), `loss_fn(outputs, targets)` and, if you like,
    `optimizer`. It is run, but not as __main__: a training below `if __name__ == "__main__":` does not start.

    MODULE:FUNCTION is called without arguments and returns (model, batch, loss_fn) or (model, batch, loss_fn, optimizer), or
    a dictionary with these names.

    One forward and one backward pass are made on a copy; no training, nothing is written.
    """
    from weighbridge.cli import screen

    given = load(target, NAMES, [("model",), ("batch",)])
    from weighbridge.preflight.inspect import inspect as look
    from weighbridge.preflight.text import lines

    found = look(given["model"], given["batch"], given.get("loss_fn"), given.get("optimizer"))
    if json:
        screen.put(found.to_json())
    else:
        screen.show(lines(found, screen.width()))
