"""The user's own program as an argument: FILE.py that defines names, or MODULE:FUNCTION that returns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

RUN_AS: Final = "__weighbridge__"  # so that `if __name__ == "__main__":` does not start a training
Target = Annotated[
    str, typer.Argument(metavar="FILE.py|MODULE:FUNCTION", help="What defines or returns them.", show_default=False)
]


def load(target: str, names: Sequence[str], needed: Sequence[Sequence[str]]) -> Mapping[str, Any]:
    """What a program defines, or what a function of it returns: a dictionary, or a tuple in the order of `names`.

    `needed`: groups of names, of each of which one must be there. Raises BadInput where it is not.
    """
    if target.endswith(".py"):
        return _complete(_from_file(Path(target)), f"{target} defines", names, needed)
    return _complete(_from_function(target, names), f"{target} returns", names, needed)


def _from_file(path: Path) -> Mapping[str, Any]:
    import runpy
    import sys

    path.open().close()  # an OSError that names the file
    sys.path.insert(0, str(path.resolve().parent))
    return runpy.run_path(str(path), run_name=RUN_AS)


def _from_function(target: str, names: Sequence[str]) -> Mapping[str, Any]:
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
        made = dict(zip(names, made, strict=False))
    if not isinstance(made, Mapping):
        raise BadInput(f"{target} returns a {type(made).__name__}; expected ({', '.join(names[:3])}) or a dictionary of these.")
    return made


def _complete(found: Mapping[str, Any], who: str, names: Sequence[str], needed: Sequence[Sequence[str]]) -> Mapping[str, Any]:
    from weighbridge.errors import BadInput

    missing = [" or ".join(group) for group in needed if not any(name in found for name in group)]
    if missing:
        raise BadInput(f"{who} no {' and no '.join(missing)}; expected {', '.join(names[:-1])} and perhaps {names[-1]}.")
    return found
