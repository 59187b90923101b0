"""Rules that are not ours: classes, files, and packages with an entry point in the group `weighbridge.rules`."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from weighbridge.diagnosis.rule import CERTAINTIES, SEVERITIES, Needs, Rule
from weighbridge.errors import BadInput

GROUP: Final = "weighbridge.rules"
_REQUIRED: Final = ("id", "title", "severity", "certainty", "since", "needs")


def given(own: Iterable[type[Rule] | str | PathLike[str]]) -> list[type[Rule]]:
    """The classes, and those that the files hold. Raises BadInput."""
    found: list[type[Rule]] = []
    for one in own:
        found += [checked(one, "rules=")] if isinstance(one, type) else in_file(Path(one))
    return list(dict.fromkeys(found))


def in_file(path: Path) -> list[type[Rule]]:
    """All rules that a Python file defines. It is run. Raises BadInput."""
    try:
        return rules_in(_loaded(path.resolve()), str(path))
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"The rules in {path} cannot be loaded: {type(error).__name__}: {error}") from error


@functools.cache
def _loaded(path: Path) -> ModuleType:
    name = f"weighbridge_rules_from_{re.sub(r'[^0-9a-zA-Z]', '_', str(path))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise BadInput(f"There is no Python file {path} with rules.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its source is found again
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def installed(say: Callable[[str], None]) -> list[type[Rule]]:
    """Those of installed packages. What cannot be loaded is said, and left out."""
    found: list[type[Rule]] = []
    for point in entry_points(group=GROUP):
        try:
            found += _of_point(point)
        except Exception as error:
            say(f"the rules of {point.value} cannot be loaded ({type(error).__name__}: {error}); the others are asked")
    return found


def _of_point(point: EntryPoint) -> list[type[Rule]]:
    loaded: Any = point.load()
    return rules_in(loaded, point.value) if isinstance(loaded, ModuleType) else [checked(loaded, point.value)]


def rules_in(module: ModuleType, where: str) -> list[type[Rule]]:
    """All rules that a module defines itself. Raises BadInput where there are none."""
    classes = [c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, Rule) and c is not Rule]
    mine = [c for c in classes if c.__module__ == module.__name__ and not inspect.isabstract(c)]
    if not mine:
        raise BadInput(f"{where} defines no rule: a class with weighbridge.Rule as its base.")
    return [checked(one, where) for one in mine]


def checked(rule: Any, where: str) -> type[Rule]:
    """The class, if it is a rule with all that one has. Raises BadInput."""
    if not (isinstance(rule, type) and issubclass(rule, Rule)):
        raise BadInput(f"{where}: {rule!r} is no rule: a class with weighbridge.Rule as its base.")
    missing = [name for name in _REQUIRED if not hasattr(rule, name)]
    if missing:
        raise BadInput(f"{where}: the rule {rule.__name__} has no {', '.join(missing)}.")
    wrong = [
        *([] if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.id) else [f"id {rule.id!r} (write words-with-hyphens)"]),
        *([] if rule.severity in SEVERITIES else [f"severity {rule.severity!r} (one of {', '.join(SEVERITIES)})"]),
        *([] if rule.certainty in CERTAINTIES else [f"certainty {rule.certainty!r} (one of {', '.join(CERTAINTIES)})"]),
        *([] if isinstance(rule.needs, Needs) else ["needs (write Needs(gradient=['rms'], ...))"]),
    ]
    if wrong:
        raise BadInput(f"{where}: the rule {rule.__name__} has a wrong {' and '.join(wrong)}.")
    return rule
