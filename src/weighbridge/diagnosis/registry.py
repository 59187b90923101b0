"""All rules: one file each below diagnosis/rules/, its id the file's name, its page the file's docstring."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
from dataclasses import dataclass
from typing import Final

from weighbridge.diagnosis import rules as folder
from weighbridge.diagnosis.rule import Rule
from weighbridge.errors import BadInput, nearest

SECTIONS: Final = ("Symptom", "How it decides", "What to do", "When it errs", "References")


@dataclass(frozen=True, slots=True)
class Explanation:
    """What stands in a rule's docstring."""

    summary: str
    sections: dict[str, str]  # SECTIONS, in their order


@functools.cache
def rules() -> tuple[type[Rule], ...]:
    """The classes of all rules, by id. Raises TypeError where a file is not as it should be."""
    return tuple(_rule_in(found.name) for found in sorted(pkgutil.iter_modules(folder.__path__), key=lambda m: m.name))


def _rule_in(name: str) -> type[Rule]:
    module = importlib.import_module(f"{folder.__name__}.{name}")
    found = [c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, Rule) and c.__module__ == module.__name__]
    if len(found) != 1 or found[0].id != name.replace("_", "-"):
        raise TypeError(f"diagnosis/rules/{name}.py must hold one rule, with the id {name.replace('_', '-')}")
    return found[0]


def rule(id: str) -> type[Rule]:
    """By id. Raises BadInput, naming the nearest."""
    for one in rules():
        if one.id == id:
            return one
    raise BadInput(f"There is no rule {id!r}.{nearest(id, [r.id for r in rules()])} All of them: weighbridge rules")


def explanation(rule: type[Rule]) -> Explanation:
    """Its docstring, taken apart."""
    return parse(inspect.getdoc(inspect.getmodule(rule)) or "")


def parse(docstring: str) -> Explanation:
    """A summary line, an empty line, then sections: each begins at the margin, and what goes on is indented.

    >>> parse("Too large.\\n\\nSymptom  It jumps.\\n         Often.").sections
    {'Symptom': 'It jumps. Often.'}
    """
    summary, _, rest = docstring.strip().partition("\n\n")
    sections: dict[str, str] = {}
    current = ""
    for line in rest.splitlines():
        begun = re.match(rf"({'|'.join(SECTIONS)})\s+(.*)", line)
        if begun:
            current = begun[1]
            sections[current] = begun[2].strip()
        elif current:
            sections[current] = f"{sections[current]} {line.strip()}".strip()
    return Explanation(" ".join(summary.split()), sections)
