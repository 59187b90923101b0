"""`weighbridge lab`: a network described on the command line, trained, weighed, and compared with its variants."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

# So many trainings are a coffee break: ask first.
ASK_ABOVE = 12


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("lab")(lab)


def _option(help: str, *names: str, default: str = "") -> Any:
    return typer.Option(*names, help=help, show_default=default or False, metavar="VALUE" if default else None)


def lab(
    layers: Annotated[
        list[str] | None, _option("Units of each layer: 3-4-4-2, or in-16-out.", "--layers", default="in-16-out")
    ] = None,
    data: Annotated[
        str,
        _option(
            "tutorial, ring, xor, moons, spiral, line, bends, iris, wine, digits, diabetes, breast_cancer, or a CSV file.",
            "--data",
            default="tutorial",
        ),
    ] = "tutorial",
    target: Annotated[str | None, _option("Column of the CSV file to predict.", "--target", default="the last")] = None,
    task: Annotated[
        str | None, _option("classification or regression, for a CSV file.", "--task", default="read from the target")
    ] = None,
    activation: Annotated[
        list[str] | None, _option("relu, tanh, sigmoid, gelu, leaky_relu, ..., none.", "--activation", default="relu")
    ] = None,
    bias: Annotated[
        list[str] | None, _option("all, none, or the layers that have one: 1,3 (from 1).", "--bias", default="all")
    ] = None,
    norm: Annotated[list[str] | None, _option("none, batch or layer.", "--norm", default="none")] = None,
    init: Annotated[
        list[str] | None,
        _option(
            "Weights at the start: default, xavier, he, orthogonal, zeros, constant:0.1, normal:0.01.",
            "--init",
            default="default",
        ),
    ] = None,
    init_bias: Annotated[
        list[str] | None, _option("Biases at the start: default, zeros, constant:0.1.", "--init-bias", default="default")
    ] = None,
    centre: Annotated[
        list[str] | None, _option("Subtract the mean of: inputs, targets, both, none.", "--centre", "--center", default="auto")
    ] = None,
    scale: Annotated[
        list[str] | None, _option("Divide by the spread of: inputs, targets, both, none.", "--scale", default="auto")
    ] = None,
    loss: Annotated[
        list[str] | None, _option("mse, cross_entropy, bce, l1, huber.", "--loss", default="auto: by the target")
    ] = None,
    optimizer: Annotated[
        list[str] | None,
        _option("A name from torch.optim, with arguments where wanted: sgd:momentum=0.9.", "--optimizer", default="adam"),
    ] = None,
    lr: Annotated[list[str] | None, _option("Learning rate.", "--lr", default="0.01 for most")] = None,
    epochs: Annotated[list[str] | None, _option("Passes over the data.", "--epochs", default="50")] = None,
    batch: Annotated[list[str] | None, _option("Rows of one step, or all.", "--batch", default="all up to 32, else 32")] = None,
    seeds: Annotated[int, _option("How often each variant is trained.", "--seeds", default="1")] = 1,
    seed: Annotated[list[int] | None, _option("Train with this seed, instead of 0, 1, ...", "--seed")] = None,
    dir: Annotated[Path | None, _option("Where the runs go.", "--dir", default="./weighbridge-runs")] = None,
    yes: Annotated[bool, _option("Do not ask before many trainings.", "--yes", "-y")] = False,
    json: Annotated[bool, _option("The result for programs.", "--json")] = False,
) -> None:
    """Train a small network, watched, and set variants side by side.

    An option given twice trains both: what is the bias worth on iris?

        weighbridge lab --layers 4-16-3 --data iris --bias all --bias none --seeds 5
    """
    from weighbridge.errors import BadInput, nearest
    from weighbridge.teaching.lab import prepare_lab

    given = {
        "layers": layers, "activation": activation, "bias": bias, "norm": norm, "init": init, "init_bias": init_bias,
        "centre": centre, "scale": scale, "loss": loss, "optimizer": optimizer, "lr": lr, "epochs": epochs, "batch": batch,
    }  # fmt: skip
    if task not in (None, "classification", "regression"):
        raise BadInput(f"--task {task}: not known.{nearest(task, ('classification', 'regression'))}")
    wanted = seed if seed else seeds
    ready = prepare_lab(data, target, task, wanted, **{name: values for name, values in given.items() if values})  # type: ignore[arg-type]
    if ready.trainings > ASK_ABOVE and not yes:
        _ask(len(ready.variants), len(ready.seeds))
    result = ready.run(dir)
    typer.echo(result.to_json() if json else str(result))


def _ask(variants: int, seeds: int) -> None:
    from weighbridge.errors import BadInput

    what = f"{variants} variant(s) x {seeds} seed(s) = {variants * seeds} trainings"
    if not sys.stdin.isatty():
        raise BadInput(f"{what}: more than {ASK_ABOVE} are trained only with --yes, or after asking in a terminal.")
    typer.confirm(f"{what}. Go on?", abort=True, err=True)
