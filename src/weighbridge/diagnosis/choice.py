"""Which rules are asked, and with which limits: what was chosen in code, on the command line and in a file of the project.

    [tool.weighbridge.rules]                 # pyproject.toml; in a weighbridge.toml: [rules]
    ignore = ["lost-updates"]                # or select = [...]; ids, or patterns such as "*-gradient"
    from = ["my_rules.py"]                   # rules of your own, beside this file

    [tool.weighbridge.rules.step-not-taken]
    LEAST = 50                               # a constant at the top of the rule's file

A rule with other limits is a copy of its module: nothing changes for whoever else asks the same rule in this process.
"""

from __future__ import annotations

import fnmatch
import inspect
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from weighbridge.diagnosis import own, registry
from weighbridge.diagnosis.rule import Rule
from weighbridge.errors import BadInput, nearest

FILES: Final = ("weighbridge.toml", "pyproject.toml")
_VALUES: Final = "__settings__"  # in a copy of a rule's module
Own = type[Rule] | str | PathLike[str]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rules are asked of a run."""

    select: tuple[str, ...] = ()  # ids or patterns; none = all
    ignore: tuple[str, ...] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by rule, then by constant
    own: tuple[Own, ...] = ()  # classes, or files that hold some

    @property
    def is_plain(self) -> bool:
        """Is nothing chosen?"""
        return not (self.select or self.ignore or self.settings or self.own)

    def rules(self, say: Say) -> tuple[type[Rule], ...]:
        """The classes, by id. say: is told of an installed package whose rules cannot be loaded; the others go on.

        Raises BadInput for ids, constants and files that do not exist.
        """
        every = _by_id([*registry.rules(), *own.installed(say), *own.given(self.own)])
        for word in (*self.select, *self.ignore, *self.settings):
            if not fnmatch.filter(every, word):
                raise BadInput(f"There is no rule {word!r}.{nearest(word, every)} All of them: weighbridge rules")
        wanted = [one for id, one in every.items() if not self.select or _is_in(id, self.select)]
        left = [one for one in wanted if not _is_in(one.id, self.ignore)]
        return tuple(with_settings(one, self.settings[one.id]) if one.id in self.settings else one for one in left)


def choose(
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    rules: Sequence[Own] = (),
    folder: Path | None = None,
) -> Choice:
    """What is chosen here, on top of what the project's file says (`folder`: where to look for it; default: here).

    `select` takes the place of the file's; the others are added to it. Raises BadInput for a file that cannot be understood.
    """
    told = of_project(folder or Path.cwd())
    merged = {id: dict(one) for id, one in told.settings.items()}
    for id, one in (settings or {}).items():
        merged.setdefault(id, {}).update(one)
    return Choice(tuple(select) or told.select, (*told.ignore, *ignore), merged, (*told.own, *rules))


def of_project(folder: Path) -> Choice:
    """What the nearest of FILES says, here or further up. Raises BadInput."""
    for place in (folder, *folder.parents):
        for name in FILES:
            if (place / name).is_file():
                table = _table(place / name)
                if table is not None or name == FILES[0]:
                    return _choice(table or {}, place / name)
        if (place / FILES[1]).is_file():
            break  # the project ends here
    return Choice()


def _table(path: Path) -> Any:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        if path.name == FILES[1] and b"weighbridge" not in path.read_bytes():
            return None  # it is not about us
        raise BadInput(f"{path} cannot be read: {error}") from None
    return content.get("rules") if path.name == FILES[0] else content.get("tool", {}).get("weighbridge", {}).get("rules")


def _choice(table: Any, path: Path) -> Choice:
    if not isinstance(table, dict):
        raise BadInput(f"{path}: rules is a table with select, ignore, from, and one table for each rule's constants.")
    listed = {name: table.get(name, []) for name in ("select", "ignore", "from")}
    settings = {name: value for name, value in table.items() if name not in listed}
    for name, value in listed.items():
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise BadInput(f"{path}: {name} is a list of texts, such as {name} = ['lost-updates'].")
    for name, value in settings.items():
        if not isinstance(value, dict):
            raise BadInput(f"{path}: {name} is no table of a rule's constants.{nearest(name, listed)}")
    files = tuple(path.parent / file for file in listed["from"])
    return Choice(tuple(listed["select"]), tuple(listed["ignore"]), settings, files)


def parse_settings(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """From "rule.CONSTANT=value", the value as TOML writes it.

    >>> parse_settings(["lost-updates.LIMIT=0.8", "lost-updates.PATIENCE=5"])
    {'lost-updates': {'LIMIT': 0.8, 'PATIENCE': 5}}
    """
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        id, dot, constant = name.strip().rpartition(".")
        if not (equals and dot and id and constant):
            raise BadInput(f"{text!r} sets nothing. Write rule.CONSTANT=value, such as lost-updates.LIMIT=0.8.")
        try:
            found.setdefault(id, {})[constant] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            raise BadInput(f"{text!r}: {value!r} is no value. Numbers as 0.8, texts as '\"relu\"', lists as [1, 2].") from None
    return found


# ---- other limits ----


def constants(rule: type[Rule]) -> dict[str, Any]:
    """What can be set of a rule: the constants at the top of its file."""
    plain = (int, float, str, bool, tuple, list, frozenset)
    module = sys.modules[rule.__module__]
    mine = {name: value for name, value in vars(module).items() if name.isupper() and isinstance(value, plain)}
    source = inspect.getsource(module)
    return {name: value for name, value in mine.items() if _is_set_in(source, name)}


def _is_set_in(source: str, name: str) -> bool:
    """Not imported from elsewhere."""
    import ast

    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if any(isinstance(one, ast.Name) and one.id == name for target in targets for one in ast.walk(target)):
            return True
    return False


def with_settings(rule: type[Rule], values: Mapping[str, Any]) -> type[Rule]:
    """The rule with other constants, as a class of its own. Raises BadInput."""
    if rule.__module__ == "__main__":
        raise BadInput(f"The rule {rule.id} stands in the program itself: put it into a file of its own to set its constants.")
    known = constants(rule)
    for name, value in values.items():
        if name not in known:
            there = f" It has {', '.join(known)}." if known else " It has none."
            raise BadInput(f"The rule {rule.id} has no constant {name!r}.{nearest(name, known)}{there}")
        if not _is_alike(value, known[name]):
            kind = type(known[name]).__name__
            raise BadInput(f"{rule.id}.{name} = {value!r}: its value is {known[name]!r}, another {kind} can take its place.")
    module = sys.modules[rule.__module__]
    copied = ModuleType(module.__name__, module.__doc__)
    copied.__dict__.update({name: getattr(module, name, None) for name in ("__file__", "__package__", "__spec__")})
    copied.__dict__[_VALUES] = {name: _as(known[name], value) for name, value in values.items()}
    exec(compile(_with_lines_of(inspect.getsource(module), values), module.__file__ or rule.id, "exec"), copied.__dict__)
    made: type[Rule] = copied.__dict__[rule.__name__]
    return made


def _with_lines_of(source: str, names: Iterable[str]) -> Any:
    """The module's tree; behind each of these constants' own lines one that sets it, so that what is made from it follows."""
    import ast

    tree = ast.parse(source)
    for name in names:
        line = ast.parse(f"{name} = {_VALUES}[{name!r}]").body[0]
        at = max(i for i, node in enumerate(tree.body) if _is_set_in(ast.unparse(node), name))
        ast.copy_location(line, tree.body[at])
        tree.body.insert(at + 1, ast.fix_missing_locations(line))
    return tree


def _as(known: Any, value: Any) -> Any:
    """A list as the tuple, a whole number as the float that it takes the place of."""
    return type(known)(value) if isinstance(known, tuple | frozenset | float) else value


def _is_alike(value: Any, known: Any) -> bool:
    if isinstance(known, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(known, bool)
    if isinstance(known, float):
        return isinstance(value, int | float)
    if isinstance(known, tuple | list | frozenset):
        return isinstance(value, list | tuple | frozenset)
    return isinstance(value, type(known))


def _by_id(rules: Iterable[type[Rule]]) -> dict[str, type[Rule]]:
    found: dict[str, type[Rule]] = {}
    for rule in rules:
        if found.setdefault(rule.id, rule) is not rule:
            raise BadInput(f"Two rules have the id {rule.id!r}: give yours another one.")
    return dict(sorted(found.items()))


def _is_in(id: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(id, pattern) for pattern in patterns)
