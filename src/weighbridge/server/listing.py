"""The list of runs as the page shows it: those that fit, in their order and groups, with what they differ in."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from weighbridge.diagnosis.kept import jsonable
from weighbridge.diagnosis.rule import SEVERITIES
from weighbridge.errors import BadInput, nearest
from weighbridge.server.catalogue import UNREAD, UNREADABLE, Entry
from weighbridge.server.lines import Scalar
from weighbridge.server.search import FACTS, STATES, Search, number_of, value_of

DIFFERING_AT_MOST: Final = 12  # settings that are named
VALUES_AT_MOST: Final = 500  # a setting with more values is not grouped by
TOP_OVER_USUAL: Final = 1.5
MUCH_LONGER: Final = 20  # than the median run
SORTS: Final = ("started", "name", "state", "findings", *FACTS)
GROUPS: Final = ("state", "tag", "group", "project")
NONE: Final = "none"
NOT_READ: Final = "not read yet"
LABELLED: Final = ("state", "tag")  # known without reading the run


def listing(entries: Sequence[Entry], search: Search, sort: str, group: str) -> dict[str, Any]:
    """Names in order, cut into groups; everything else that all rows share. Raises BadInput for what cannot be sorted by."""
    known = fields_of(entries)
    search.check(known)
    fit = ordered([entry for entry in entries if search.fits(entry)], sort, known)
    tops = sorted(entry.top for entry in fit if entry.top is not None and entry.top > 0)
    metrics = Counter(key for entry in fit for key in entry.line.get("metrics", {}))
    told: dict[str, Any] = jsonable(
        {
            "counts": counts_of(entries, fit),
            "groups": grouped(fit, group, known),
            "differing": differing(fit),
            "settings": sorted({key for entry in entries for key in entry.line.get("settings", {})}),
            "metrics": [key for key, _ in sorted(metrics.items(), key=lambda item: (-item[1], item[0]))],
            "tags": sorted({tag for entry in entries for tag in entry.labels.tags}),
            "top": edge_of(tops),
            "steps": edge_of_steps([entry.line.get("steps", 0) for entry in fit]),
        }
    )
    return told


def fields_of(entries: Iterable[Entry]) -> set[str]:
    """Names of all settings and metrics."""
    return {key for entry in entries for kind in ("settings", "metrics") for key in entry.line.get(kind, {})}


def counts_of(entries: Sequence[Entry], fit: Sequence[Entry]) -> dict[str, int]:
    """How many there are of what."""
    return {
        "all": len(entries),
        "fit": len(fit),
        "live": sum(entry.state == "live" for entry in fit),
        "errors": sum(bool(entry.health["counts"].get("error")) for entry in fit),
        "archived": sum(entry.labels.is_archived for entry in entries),
        "unread": sum(entry.state == UNREAD for entry in entries),
    }


def ordered(entries: Sequence[Entry], sort: str, known: Iterable[str]) -> list[Entry]:
    """`sort`: a name of SORTS, a setting or a metric, with a minus for the other way round. What has none comes last."""
    name, is_down = (sort[1:], True) if sort.startswith("-") else (sort, False)
    if name not in SORTS and name not in known:
        raise BadInput(f"There is nothing to sort by called {name!r}.{nearest(name, [*SORTS, *known])}")
    keyed = [(_key(entry, name), entry) for entry in entries]
    numbers = [(key, entry) for key, entry in keyed if isinstance(key, float)]
    texts = [(key, entry) for key, entry in keyed if isinstance(key, str)]
    numbers.sort(key=lambda pair: (pair[0], pair[1].name), reverse=is_down)
    texts.sort(key=lambda pair: (pair[0], pair[1].name), reverse=is_down)
    return [entry for _, entry in (*numbers, *texts)] + [entry for key, entry in keyed if key is None]


def _key(entry: Entry, name: str) -> float | str | None:
    """A number, a text, or None where there is nothing to go by; NaN goes with the texts: after all numbers."""
    if name == "started":
        return entry.started or None
    if name == "state":
        return entry.state
    if name == "findings":
        counts = entry.health["counts"]
        return (
            sum(counts.get(severity, 0) * 1e6**-i for i, severity in enumerate(SEVERITIES)) if entry.health["known"] else None
        )
    value = value_of(entry, name)
    number = number_of(value)
    return None if value is None else number if number is not None and not math.isnan(number) else str(value)


def grouped(entries: Sequence[Entry], group: str, known: Iterable[str]) -> list[dict[str, Any]]:
    """Groups by a setting, the state, a tag, or `group` and `project` of init, in order of their values, those without last."""
    if not group:
        return [{"title": "", "names": [entry.name for entry in entries]}]
    if group not in GROUPS and group not in known:
        raise BadInput(f"There is nothing to group by called {group!r}.{nearest(group, [*GROUPS, *known])}")
    unread = [] if group in LABELLED else [entry for entry in entries if entry.state == UNREAD]  # they may have it, or not
    found: dict[Scalar, list[str]] = {}
    for entry in entries:
        for value in () if unread and entry.state == UNREAD else _groups(entry, group):
            found.setdefault(value, []).append(entry.name)
    if len(found) > VALUES_AT_MOST:
        raise BadInput(f"{group} has {len(found):,} values; group by one that fewer runs differ in.")
    titles = sorted(found, key=_by_value)
    told = [{"title": NONE if value is None else text(value), "names": found[value]} for value in titles]
    return told + ([{"title": NOT_READ, "names": [entry.name for entry in unread]}] if unread else [])


def _groups(entry: Entry, group: str) -> Sequence[Scalar]:
    if group == "tag":
        return entry.labels.tags or (None,)
    if group == "state":
        return (next((word for word, state in STATES.items() if state == entry.state), entry.state),)
    return (entry.line.get(group) if group in GROUPS else value_of(entry, group),)


def _by_value(value: Scalar) -> tuple[bool, bool, float, str]:
    number = number_of(value)
    is_number = number is not None and not math.isnan(number)
    return value is None, not is_number, number if number is not None and is_number else 0.0, str(value)


def text(value: Scalar) -> str:
    """A setting as it is shown.

    >>> text(0.1), text(True), text(None), text(1e-05)
    ('0.1', 'yes', 'none', '1e-05')
    """
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else NONE if value is None else str(value)


def differing(entries: Sequence[Entry]) -> list[str]:
    """Settings that are not the same in all of these runs; those that most runs have first."""
    read = [entry.line["settings"] for entry in entries if entry.state not in (UNREAD, UNREADABLE)]
    has = Counter(key for settings in read for key in settings)
    first = read[0] if read else {}
    found = [key for key in has if has[key] < len(read) or any(s.get(key) != first.get(key) for s in read)]
    return sorted(found, key=lambda key: -has[key])[:DIFFERING_AT_MOST]


def edge_of_steps(steps: list[int]) -> int:
    """The right edge of all small curves: the longest run's. 0 = each has its own: beside one that is MUCH_LONGER than most,
    those would be a dash."""
    longest = max(steps, default=0)
    return longest if longest <= MUCH_LONGER * statistics.median(steps or [0]) else 0


def edge_of(tops: Sequence[float]) -> float:
    """The upper edge of all curves: one and a half times the usual largest loss, so that one that blew up hides no other."""
    if not tops:
        return 1.0
    return float(f"{min(tops[-1], tops[(len(tops) - 1) // 2] * TOP_OVER_USUAL):.2g}")


def row_of(entry: Entry) -> dict[str, Any]:
    """One row."""
    labels = {"tags": entry.labels.tags, "note": entry.labels.note, "archived": entry.labels.is_archived}
    settings = {key: text(value) for key, value in entry.line.get("settings", {}).items()}
    line = {**entry.line, "settings": settings} if entry.line else {}
    return {**line, "name": entry.name, "state": entry.state, "error": entry.error, "health": entry.health, **labels}
