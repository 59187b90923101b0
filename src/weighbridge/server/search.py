"""What is typed into the field above the runs, taken apart.

    tanh deep                 words that occur in name, tags, note, settings or cause, in any order
    lr>0.01  layers=10        a setting, a logged metric, or loss, steps, time (seconds), cost (a share), size (bytes)
    finding:dead-units        a rule that has found something; patterns such as finding:*-gradient
    state:live  tag:baseline  and is:archived
    -tag:old                  none of these

Everything must hold. A text with spaces stands in quotes: note="second try".
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from weighbridge.diagnosis import registry
from weighbridge.errors import BadInput, nearest
from weighbridge.server.catalogue import Entry
from weighbridge.server.lines import Scalar

Test = Callable[[Entry], bool]
FACTS: Final = {"loss": "last_loss", "steps": "steps", "time": "seconds", "cost": "own_cost", "size": "size_bytes"}
TEXTS: Final = ("name", "note", "project", "group")
STATES: Final = {"live": "live", "finished": "finished", "ended": "ended without finish", "unreadable": "unreadable"}
KINDS: Final = ("finding", "state", "tag", "is")
_PIECE = re.compile(r'(?:[^\s"]|"[^"]*")+')
_COMPARED = re.compile(r"([^\s:=<>!]+)(!=|>=|<=|=|<|>)(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Search:
    """All tests that a run must pass, and the names in them that have to be known."""

    tests: tuple[Test, ...]
    fields: tuple[str, ...]
    wants_archived: bool

    def fits(self, entry: Entry) -> bool:
        """Does the run pass? Archived ones only where the text speaks of them."""
        return (self.wants_archived or not entry.labels.is_archived) and all(test(entry) for test in self.tests)

    def check(self, known: Collection[str]) -> None:
        """Raise BadInput for a setting that no run has."""
        for name in self.fields:
            if known and name not in known:
                there = ", ".join(sorted(known)[:12])
                raise BadInput(f"No run here has a setting or metric {name!r}.{nearest(name, known)} There are: {there}.")


def parse(text: str) -> Search:
    """Raises BadInput, a sentence on what is wrong and how to write it."""
    if text.count('"') % 2:
        raise BadInput('A quote is not closed: write note="second try".')
    tests, fields = [], []
    pieces = _PIECE.findall(text)
    for piece in pieces:
        is_not = piece.startswith("-") and len(piece) > 1
        test, field = _test(piece[1:] if is_not else piece)
        tests.append(_not(test) if is_not else test)
        fields += [field] if field else []
    return Search(tuple(tests), tuple(fields), any(piece.lstrip("-").startswith("is:archived") for piece in pieces))


def _not(test: Test) -> Test:
    return lambda entry: not test(entry)


def _test(piece: str) -> tuple[Test, str]:
    kind, colon, value = piece.partition(":")
    if colon and kind in KINDS:
        return _of_kind(kind, value.replace('"', "")), ""
    found = _COMPARED.fullmatch(piece)
    if found:
        return _compared(*found.groups())
    if colon and kind.isalpha() and kind.islower() and nearest(kind, KINDS):
        raise BadInput(f"{kind}: is not known.{nearest(kind, KINDS)} Known are finding:, state:, tag: and is:archived.")
    word = piece.replace('"', "").lower()
    return (lambda entry: word in text_of(entry)), ""


def _of_kind(kind: str, value: str) -> Test:
    example = {"finding": "dead-units", "state": "live", "tag": "baseline", "is": "archived"}[kind]
    if not value:
        raise BadInput(f"Behind {kind}: comes a word, such as {kind}:{example}.")
    if kind == "tag":
        return lambda entry: any(fnmatch.fnmatchcase(tag.lower(), value.lower()) for tag in entry.labels.tags)
    if kind == "is":
        if value != "archived":
            raise BadInput(f"is:{value} is not known; there is is:archived.")
        return lambda entry: entry.labels.is_archived
    if kind == "state":
        if value not in STATES:
            raise BadInput(f"There is no state {value!r}.{nearest(value, STATES)} A run is {', '.join(STATES)}.")
        return lambda entry: entry.state == STATES[value]
    ids = [rule.id for rule in registry.rules()]
    found = set(fnmatch.filter(ids, value))
    if not found and value not in ("error", "warning", "note"):
        raise BadInput(f"There is no rule {value!r}.{nearest(value, ids)} All of them are on the page Rules.")
    return lambda entry: bool(found.intersection(entry.health["rules"])) or bool(entry.health["counts"].get(value))


def _compared(name: str, sign: str, value: str) -> tuple[Test, str]:
    value = value.strip('"')
    example = "lr>0.01" if sign in "<>=" and sign != "=" else f"activation{sign}ReLU"
    if not value:
        raise BadInput(f"Behind {name}{sign} comes a value, such as {example}.")
    number = number_of(value)
    if sign not in ("=", "!="):
        if number is None:
            raise BadInput(f"{name}{sign}{value}: behind {sign} comes a number, such as lr>0.01.")
        limit = number
        return (lambda entry: _holds(number_of(value_of(entry, name)), sign, limit)), _field(name)

    def same(entry: Entry) -> bool:
        mine = value_of(entry, name)
        return mine is not None and (
            number_of(mine) == number if number is not None and number_of(mine) is not None else _like(str(mine), value)
        )

    return (same if sign == "=" else (lambda entry: value_of(entry, name) is not None and not same(entry))), _field(name)


def _field(name: str) -> str:
    return "" if name in FACTS or name in TEXTS else name


def _like(mine: str, wanted: str) -> bool:
    return fnmatch.fnmatchcase(mine.lower(), wanted.lower())


def _holds(mine: float | None, sign: str, limit: float) -> bool:
    if mine is None or math.isnan(mine):
        return False
    return mine > limit if sign == ">" else mine < limit if sign == "<" else mine >= limit if sign == ">=" else mine <= limit


def value_of(entry: Entry, name: str) -> Scalar:
    """A setting, a metric or a fact; None where the run has none of this name."""
    if name in FACTS and name not in entry.line.get("settings", {}):
        found: Scalar = entry.line.get(FACTS[name])
        return found
    if name in TEXTS and name not in entry.line.get("settings", {}):
        return entry.name if name == "name" else entry.labels.note or None if name == "note" else entry.line.get(name)
    settings, metrics = entry.line.get("settings", {}), entry.line.get("metrics", {})
    value: Scalar = settings.get(name, metrics.get(name))
    return value


def number_of(value: Any) -> float | None:
    """As a number; None for what is none. Yes and no are none.

    >>> number_of("1e-3"), number_of("NaN"), number_of("ReLU"), number_of(True)
    (0.001, nan, None, None)
    """
    if value is None or isinstance(value, bool):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def text_of(entry: Entry) -> str:
    """All that a plain word is looked for in, in lower case."""
    settings = " ".join(f"{key}={value}" for key, value in entry.line.get("settings", {}).items())
    cause = (entry.health["cause"] or {}).get("title", "")
    said = (entry.name, entry.state, " ".join(entry.labels.tags), entry.labels.note, settings, cause)
    return " ".join((*said, entry.line.get("project") or "", entry.line.get("group") or "")).lower()
