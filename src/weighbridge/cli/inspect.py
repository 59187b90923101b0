"""`weighbridge inspect`: what is wrong with a network before its first step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

NAMES: Final = ("model", "batch", "loss_fn", "optimizer")
RUN_AS: Final = "__weighbridge__"  # so that `if __name__ == "__main__":` does not start a training


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect")(inspect)


def inspect(
    target: Annotated[
        str, typer.Argument(metavar="FILE.py|MODULE:FUNCTION", help="What defines or returns them.", show_default=False)
    ],
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

    given = _from_file(Path(target)) if target.endswith(".py") else _from_function(target)
    from weighbridge.preflight.inspect import inspect as look
    from weighbridge.preflight.text import lines

    found = look(given["model"], given["batch"], given.get("loss_fn"), given.get("optimizer"))
    if json:
        screen.put(found.to_json())
    else:
        screen.show(lines(found, screen.width()))


def _from_file(path: Path) -> Mapping[str, Any]:
    import runpy
    import sys

    path.open().close()  # an OSError that names the file
    sys.path.insert(0, str(path.resolve().parent))
    return _complete(runpy.run_path(str(path), run_name=RUN_AS), f"{path} defines")


def _from_function(target: str) -> Mapping[str, Any]:
    import importlib
    import sys

    from weighbridge.errors import BadInput

    module, _, function = target.partition(":")
    if not function:
        raise BadInput(f"{target}: expected a Python file (train.py) or a function that returns the model (train:make).")
    sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(module), function)()
    except ModuleNotFoundError as error:
        if error.name not in (module, module.partition(".")[0]):
            raise
        raise BadInput(f"{target}: no module {error.name} here or among the installed ones.") from None
    except AttributeError as error:
        if getattr(error, "name", None) != function:
            raise
        raise BadInput(f"{target}: the module {module} has no {function}.") from None
    if isinstance(made, (tuple, list)):
        made = dict(zip(NAMES, made, strict=False))
    if not isinstance(made, Mapping):
        raise BadInput(f"{target} returns a {type(made).__name__}; expected (model, batch, loss_fn) or a dictionary of these.")
    return _complete(made, f"{target} returns")


def _complete(found: Mapping[str, Any], who: str) -> Mapping[str, Any]:
    from weighbridge.errors import BadInput

    missing = [name for name in ("model", "batch") if name not in found]
    if missing:
        raise BadInput(f"{who} no {' and no '.join(missing)}; expected model, batch, loss_fn and perhaps optimizer.")
    return found
