"""`weighbridge ablate-bias`: a network trained with and without its biases, over several seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from weighbridge.cli.program import Target, load

NAMES: Final = ("model", "batches", "loss_fn", "optimizer")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ablate-bias")(ablate_bias)


def ablate_bias(
    target: Target,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How often each of the two is trained.")] = 5,
    layers: Annotated[
        list[str] | None,
        typer.Option("--layers", help="Names of layers, with * and ?; by default all but norms.", show_default=False),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Passes over the batches; by default the file's, else 50.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The result for programs.")] = False,
) -> None:
    """Train a network with and without its biases, over several seeds, and report the difference with its interval.

    The file defines `make_model()`, or `model`, copies of which are initialised anew as torch's modules do. Further
    `train_and_score(model)`, which returns a score (with `is_loss = True`, one that is better when lower); or `batches` (or a
    single `batch`), `loss_fn(outputs, targets)`, and `make_optimizer(parameters)`, or `optimizer` to make others like; if you
    like `held_out` batches for the score, and `epochs`. A file for `weighbridge inspect` or `weighbridge bias` will do. It is
    run, but not as __main__.

    MODULE:FUNCTION is called without arguments and returns a dictionary with these names, or (model, batches, loss_fn,
    optimizer).

    Both trainings of a seed begin with the same weights and see the same batches in the same order.
    """
    from weighbridge.cli import screen

    given = load(target, NAMES, [("make_model", "model"), ("train_and_score", "batches", "batch")])
    from weighbridge.preflight.bias_ablation import ablate_bias as ablate
    from weighbridge.preflight.bias_text import ablation_lines

    found = ablate(
        given.get("make_model", given.get("model")),
        given.get("train_and_score"),
        batches=_batches(given),
        loss_fn=given.get("loss_fn"),
        optimizer=given.get("make_optimizer", given.get("optimizer")),
        epochs=epochs or given.get("epochs", 50),
        held_out=given.get("held_out"),
        seeds=seeds,
        layers=layers or None,
        is_loss=bool(given.get("is_loss", False)),
    )
    if json:
        screen.put(found.to_json())
    else:
        screen.show(ablation_lines(found, screen.width()))


def _batches(given: Mapping[str, Any]) -> Any:
    return given["batches"] if "batches" in given else [given["batch"]] if "batch" in given else None
