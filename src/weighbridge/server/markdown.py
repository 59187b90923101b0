"""A run as Markdown for a pull request or an issue, and its pictures as SVG in a folder beside it.

Everything that a picture shows stands in words and numbers too: where pictures do not come along, the text is whole. What comes
from a run is escaped; a name with @ or # in it calls nobody and links nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np

from weighbridge import __version__, drawing
from weighbridge import format as plain
from weighbridge.diagnosis import Diagnosis, Finding, HistogramEvidence, Outcome, SeriesEvidence, SettingEvidence, TableEvidence
from weighbridge.diagnosis.muted import follows_from, set_aside
from weighbridge.diagnosis.rule import SEVERITIES
from weighbridge.drawing.chart import Line
from weighbridge.drawing.colours import INK
from weighbridge.server import apart, pictures, versus
from weighbridge.server.arrays import in_buckets
from weighbridge.server.diagnosing import answered
from weighbridge.server.runs import SomeRuns
from weighbridge.store.labels import shown_labels
from weighbridge.store.record import RunRecord

MAPS: Final = ("gradient.rms", "update.ratio", "parameter.rms")
DETAILED: Final = 3  # findings with all of their evidence; the others are lines of a table
LISTED: Final = 20
ROWS: Final = 12  # of a table
SPARKS: Final = 40
Files = dict[str, str]  # pictures by file name


def markdown(places: Sequence[Path], folder: str) -> tuple[str, Files]:
    """The text, and the pictures that it links in `folder` (a path from the text). Raises NotARun, CorruptRun, NewerFormat."""
    files: Files = {}
    with ExitStack() as opened:
        runs = SomeRuns(places)
        records = {name: opened.enter_context(runs.use(name)) for name in runs.names()}
        page = _Page(folder, files)
        parts = list(page.comparison(records)) if len(records) > 1 else []
        for name, record in records.items():
            parts += page.run(name, record, "##" if len(records) > 1 else "#")
    return "\n\n".join([*parts, f"*Made by weighbridge {__version__}.*"]) + "\n", files


class _Page:
    """Writes parts of the text, and puts pictures into `files`."""

    def __init__(self, folder: str, files: Files) -> None:
        self.folder, self.files = folder, files

    def picture(self, name: str, title: str, svg: str) -> str:
        file = f"{slug(name)}.svg"
        number = 2
        while file in self.files:
            file, number = f"{slug(name)}-{number}.svg", number + 1
        self.files[file] = svg
        return f"![{escaped(title)}]({self.folder}/{file})"

    def run(self, name: str, record: RunRecord, mark: str) -> Iterator[str]:
        """One run: its facts, the causes with what shows them, all findings, loss and pictures."""
        found, quiet = set_aside(answered(record), shown_labels(record.path).muted)
        yield f"{mark} {escaped(name)}"
        yield _facts(record, found)
        yield from self.said(name, found, mark + "#")
        if quiet:
            listed = "; ".join(f"{code(one.finding.key)} ({escaped(one.reason or 'no reason given')})" for one in quiet)
            yield f"Muted for this run: {listed}"
        yield f"{mark}# Loss"
        yield self.picture(f"{name}-loss", f"Loss of {name}", pictures.loss(record))
        yield f"`{_spark(record.losses().values)}`"
        yield f"{mark}# Every tensor, every step"
        for statistic in MAPS:
            try:
                svg, _ = pictures.heat_of(record, statistic, found)
            except ValueError:  # nothing of this kind was recorded
                continue
            yield self.picture(f"{name}-{statistic}", pictures.TITLES[statistic], svg)
        yield from _settings(record)

    def said(self, name: str, found: Diagnosis, mark: str) -> Iterator[str]:
        """What the rules say."""
        if found.undetermined:
            yield f"**Cause not determined**: {escaped(found.undetermined)}"
        first = list(found.causes or found.findings[:DETAILED])
        for finding in first:
            yield from self.finding(name, finding, mark)
            if follows := _follows(finding, found).strip():
                yield follows
        rest = [finding for finding in found.findings if finding not in first]
        if rest:
            rows = [
                [
                    str(f.severity),
                    code(f.rule),
                    code(f.place) if f.place else "",
                    _since(f),
                    escaped(f.message) + _follows(f, found),
                ]
                for f in rest
            ]
            yield f"{mark} Other findings"
            yield table(["severity", "rule", "where", "since", "what"], rows[:LISTED])
            if len(rest) > LISTED:
                yield f"and {plain.count(len(rest) - LISTED)} more: `weighbridge diagnose`"
        clear = sum(answer.outcome is Outcome.CLEAR for answer in found.answers)
        yield f"{plain.counted(len(found.answers), 'rule')} asked, {plain.count(clear)} clear."

    def finding(self, name: str, finding: Finding, mark: str) -> Iterator[str]:
        """One finding with all that shows it."""
        where = f" at {code(finding.place)}" if finding.place else ""
        yield f"{mark} {finding.severity}: {finding.rule}{where}, {_since(finding)}"
        yield escaped(finding.message)
        yield f"**Try first:** {escaped(finding.fix)}"
        for evidence in finding.evidence:
            yield from self.evidence(f"{name}-{finding.key}", evidence)
        if finding.experiment:
            yield f"**To test it:** {escaped(finding.experiment)}"
        if finding.explains:
            listed = ", ".join(code(key) for key in finding.explains[:LISTED])
            yield f"Explains {plain.counted(len(finding.explains), 'other')}: {listed}"

    def evidence(self, name: str, evidence: Any) -> Iterator[str]:
        """A picture where it is drawn, and words for all."""
        match evidence:
            case SeriesEvidence(values=values, steps=steps, limit=limit):
                line = Line(np.array(steps), np.array(values, np.float64), colour=INK["note"])
                last = plain.number(values[-1] if values else None)
                yield f"{escaped(evidence.name)}: `{_spark(line.values)}` {last}{_limit(limit)}"
                yield self.picture(name, evidence.name, drawing.lines([line], evidence.name, limit=limit, height=180))
            case HistogramEvidence(edges=edges, counts=counts):
                yield f"{escaped(evidence.name)}: `{plain.sparkline([float(c) for c in counts])}`"
                yield self.picture(name, evidence.name, drawing.histogram(edges, counts, evidence.name))
            case TableEvidence(columns=columns, rows=rows):
                yield f"{escaped(evidence.name)}:"
                yield table(columns, [[_cell(cell) for cell in row] for row in _evenly(rows, ROWS)])
                if len(rows) > ROWS:
                    yield f"{ROWS} of {plain.count(len(rows))} rows"
            case SettingEvidence(value=value):
                yield f"{escaped(evidence.name)} = {code(value)}"
            case _:
                unit = f" {evidence.unit}" if evidence.unit else ""
                yield f"{escaped(evidence.name)}: **{plain.number(evidence.value)}**{unit}{_limit(evidence.limit)}"

    def comparison(self, records: dict[str, RunRecord]) -> Iterator[str]:
        """Several runs side by side."""
        names, opened = list(records), list(records.values())
        letters = [chr(65 + i) for i in range(len(names))]
        told = apart.added(versus.comparison(names, opened), opened)
        yield f"# {' and '.join(escaped(name) for name in names) if len(names) < 3 else plain.counted(len(names), 'run')}"
        if told["said"]:
            pair = "" if len(names) < 3 else f" (A and B, of {len(names)})"
            yield f"**{escaped(told['said']['title'])}**{pair}. {escaped(told['said']['text'])}"
        head = ["", *(f"{letter}: {code(name)}" for letter, name in zip(letters, names, strict=True))]
        rows = [
            [escaped(row["name"].removeprefix("config ")), *map(_value, row["values"])]
            for row in [*told["differ"], *told["results"]]
        ]
        yield table(head, rows)
        yield f"{plain.counted(len(told['equal']), 'setting')} equal."
        yield self.picture("losses", "Losses of all runs", pictures.losses(names, opened))
        for other in range(1, len(names)):
            yield from self.difference(names, opened, 0, other)

    def difference(self, names: Sequence[str], records: Sequence[RunRecord], a: int, b: int) -> Iterator[str]:
        """The picture of one run against another, where they have something in common."""
        try:
            svg = pictures.difference(names, records, a, b, MAPS[0])
        except ValueError:
            yield f"{escaped(names[a])} and {escaped(names[b])} have no tensor and step in common."
            return
        yield self.picture(f"{names[b]}-against-{names[a]}", f"{names[b]} against {names[a]}", svg)


def _facts(record: RunRecord, found: Diagnosis) -> str:
    info = record.info
    own, wall = record.own_cost()
    counts = [(severity, sum(finding.severity == severity for finding in found)) for severity in SEVERITIES]
    rows = [
        ["state", info.state],
        ["steps", plain.count(info.steps)],
        ["last loss", plain.metric(info.last_loss)],
        ["tensors", plain.count(info.tensors)],
        ["findings", ", ".join(plain.counted(n, word) for word, n in counts if n) or "none"],
        ["started", f"{info.started.astimezone():%Y-%m-%d %H:%M}"],
        ["own cost", plain.share(own / wall) if wall else plain.NOT_RECORDED],
    ]
    return table([row[0] for row in rows], [[row[1] for row in rows]])


def _settings(record: RunRecord) -> Iterator[str]:
    rows = [[escaped(key.removeprefix("config ")), _value(value)] for key, value in versus.settings_of(record).items()]
    if rows:
        listed = table(["setting", "value"], rows)
        yield f"<details><summary>{plain.counted(len(rows), 'setting')}</summary>\n\n{listed}\n\n</details>"


def _since(finding: Finding) -> str:
    return "before training" if finding.first_step < 0 else f"from step {plain.count(finding.first_step)}"


def _follows(finding: Finding, found: Diagnosis) -> str:
    """A sentence on what it follows from, where it does."""
    cause = follows_from(finding, found)
    return f" Follows from {escaped(cause)}." if cause else ""


def _limit(limit: float | None) -> str:
    return "" if limit is None else f" (limit {plain.number(limit)})"


def _spark(values: np.ndarray) -> str:
    part = in_buckets(np.arange(len(values)), values, SPARKS)
    return plain.sparkline(part.mean.tolist()) or plain.NOT_RECORDED


def _evenly(rows: Sequence[Any], most: int) -> list[Any]:
    """At most so many, the first and the last among them: of a long run of layers it is the trend that counts."""
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)] if len(rows) > most else list(rows)


def _cell(value: str | int | float | None) -> str:
    return code(value) if isinstance(value, str) and value else _value(value)


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value)
    if isinstance(value, int):
        return plain.count(value)
    return plain.metric(value) if isinstance(value, float) else escaped(str(value))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("\n", " ") for cell in line) + " |" for line in lines)


def escaped(text: str) -> str:
    r"""Text as it is, whatever stands in it.

    >>> escaped("a*b | <img> @all #1")
    'a\\*b \\| &lt;img&gt; @<!-- -->all #<!-- -->1'
    """
    text = plain.visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text)
    return re.sub(r"([@#])(?=\w)", r"\1<!-- -->", text)


def code(text: str) -> str:
    """A name as code; a bar would end the cell of a table."""
    shown = plain.visible(text).replace("|", "\\|")
    fence = "``" if "`" in shown else "`"
    return f"{fence}{' ' if '`' in shown else ''}{shown}{' ' if '`' in shown else ''}{fence}"


def slug(text: str) -> str:
    """A name for a file.

    >>> slug("vanishing-gradient at 0.weight")
    'vanishing-gradient-at-0.weight'
    """
    return re.sub(r"[^\w.]+", "-", text).strip("-.")[:80] or "picture"
