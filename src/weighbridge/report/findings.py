"""What is wrong with a run, for the terminal: the causes as cards, what follows from them below, and the rules' outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rich.text import Text

from weighbridge import format as plain
from weighbridge.diagnosis import (
    Diagnosis,
    Evidence,
    Finding,
    HistogramEvidence,
    Outcome,
    Rule,
    SeriesEvidence,
    SettingEvidence,
    TableEvidence,
)
from weighbridge.diagnosis.kept import told_of
from weighbridge.diagnosis.muted import Muted, follows_from, follows_from_muted, set_aside
from weighbridge.diagnosis.registry import Explanation
from weighbridge.report import grid
from weighbridge.report.text import MOST_SPARK, thinned, wrapped
from weighbridge.store.labels import shown_labels
from weighbridge.store.record import RunRecord

STYLES: Final = {"error": "bold red", "warning": "bold yellow", "note": "bold cyan"}
INDENT: Final = 2
TOLD: Final = 5  # findings of `show`
ROWS: Final = 5  # of a table; the rest is counted


def lines(diagnosis: Diagnosis, width: int, muted: Sequence[Muted] = ()) -> list[Text]:
    """All of a diagnosis in at most `width` columns; of what somebody has muted a line each."""
    shown = [_headline(diagnosis)]
    if diagnosis.undetermined:
        shown.append(Text(f"cause not determined: {plain.visible(diagnosis.undetermined)}", style="bold"))
    causes = {finding.key for finding in diagnosis.causes}
    inorder = [*diagnosis.causes, *(f for f in diagnosis.findings if f.key not in causes)]
    for finding in inorder:
        shown += [Text(), *card(finding, diagnosis, width)]
    for one in muted:
        reason = f": {one.reason}" if one.reason else ""
        told = plain.visible(f"muted: {one.finding.severity} {one.finding.key}{reason}")
        shown += [Text(), *wrapped(Text(told, style="dim"), width)]
    rest = [a for a in diagnosis.answers if a.outcome not in (Outcome.FOUND, Outcome.CLEAR)]
    clear = [a.rule for a in diagnosis.answers if a.outcome is Outcome.CLEAR]
    shown.append(Text())
    if clear:
        shown += wrapped(Text(f"clear: {', '.join(clear)}", style="dim"), width)
    for answer in rest:
        style = STYLES["error"] if answer.outcome is Outcome.FAILED else "dim"
        shown += wrapped(Text(f"{answer.outcome.value}: {answer.rule} ({plain.visible(answer.reason)})", style=style), width)
    return [line for text in shown for line in wrapped(text, width)]


def _headline(diagnosis: Diagnosis) -> Text:
    counts = [(s, sum(f.severity == s for f in diagnosis.findings)) for s in STYLES]
    told = ", ".join(plain.counted(n, severity) for severity, n in counts if n) or "nothing found"
    return Text.assemble((plain.visible(diagnosis.subject), "bold"), f"  {plain.counted(diagnosis.steps, 'step')}  {told}")


def card(finding: Finding, diagnosis: Diagnosis, width: int) -> list[Text]:
    """One finding with its evidence, what to try and what it explains."""
    title = Text.assemble(
        (f"{finding.severity}  ", STYLES.get(finding.severity, "")),
        (finding.rule, "bold"),
        (f"  {plain.visible(finding.place)}" if finding.place else ""),
        (f"  {_since(finding)}  {finding.certainty}", "dim"),
    )
    body = [Text(plain.visible(finding.message)), *(_evidence(e) for e in finding.evidence if not isinstance(e, TableEvidence))]
    parts = [*wrapped(title, width), *_indented(body, width)]
    for table in finding.evidence:
        if isinstance(table, TableEvidence):
            parts += _table(table, width)
    parts += _indented([Text.assemble(("try  ", "bold"), plain.visible(finding.fix))], width)
    if finding.experiment and finding in diagnosis.causes:
        parts += _indented([Text.assemble(("test it  ", "bold"), plain.visible(finding.experiment))], width)
    if finding.explains:
        told = f"explains {plain.counted(len(finding.explains), 'other')}: {', '.join(finding.explains)}"
        parts += _indented([Text(plain.visible(told), style="dim")], width)
    if cause := follows_from(finding, diagnosis):
        parts += _indented([Text(plain.visible(f"follows from {cause}"), style="dim")], width)
    return parts


def _since(finding: Finding) -> str:
    if finding.first_step < 0:
        return "before training"
    if finding.told_step == finding.first_step:
        return f"at step {plain.count(finding.first_step)}"
    return f"from step {plain.count(finding.first_step)}, told at {plain.count(finding.told_step)}"


def _evidence(evidence: Evidence) -> Text:
    name = plain.visible(evidence.name)
    match evidence:
        case SeriesEvidence(values=values):
            drawn = plain.sparkline(thinned(list(values), MOST_SPARK))
            last = _number(values[-1]) if values else plain.NOT_RECORDED
            return Text(f"{name}: {drawn} {last}{_limit(evidence.limit)}")
        case HistogramEvidence(counts=counts):
            return Text(f"{name}: {plain.sparkline([float(c) for c in counts])}")
        case SettingEvidence(value=value):
            return Text(f"{name} = {plain.visible(value)}")
        case TableEvidence():
            return Text(name)
        case _:
            unit = f" {evidence.unit}" if evidence.unit else ""
            return Text(f"{name}: {_number(evidence.value)}{unit}{_limit(evidence.limit)}")


def _number(value: float) -> str:
    """Counts as counts."""
    return plain.count(int(value)) if float(value).is_integer() and abs(value) < 1e9 else plain.number(value)


def _limit(limit: float | None) -> str:
    return "" if limit is None else f" (limit {_number(limit)})"


def _table(table: TableEvidence, width: int) -> list[Text]:
    shown = table.rows[:ROWS]
    room = max(8, (width - 2 * INDENT) // 2)
    columns = [
        grid.column(
            plain.visible(name), [_cell(row[i], room) for row in shown], right=any(isinstance(r[i], int | float) for r in shown)
        )
        for i, name in enumerate(table.columns)
    ]
    more = [Text(f"and {len(table.rows) - ROWS} more", style="dim")] if len(table.rows) > ROWS else []
    title = wrapped(Text(f"{plain.visible(table.name)}:"), width - INDENT)
    return [_moved(line, INDENT) for line in [*title, *(_moved(line, INDENT) for line in [*grid.lines(columns), *more])]]


def _cell(value: str | int | float | None, room: int) -> str:
    if isinstance(value, str):
        return plain.cut_middle(plain.visible(value), room)
    if isinstance(value, int):
        return plain.count(value)
    return plain.number(value)


def _indented(texts: Sequence[Text], width: int) -> list[Text]:
    return [_moved(line, INDENT) for text in texts for line in wrapped(text, width - INDENT)]


def _moved(line: Text, by: int) -> Text:
    return Text(" " * by).append_text(line)


def told_lines(record: RunRecord, width: int) -> list[Text]:
    """What rules have told while the run was recorded, a line each, the causes first, and which were muted; nothing where
    they told nothing."""
    told, muted = set_aside(told_of(record), shown_labels(record.path).muted)
    causes = {finding.key for finding in told.causes}
    inorder = [*told.causes, *(finding for finding in told.findings if finding.key not in causes)]
    shown = []
    for finding in inorder[:TOLD]:
        place = f" at {plain.visible(finding.place)}" if finding.place else ""
        cause = plain.visible(follows_from_muted(finding, told))
        title = Text.assemble((finding.severity, STYLES.get(finding.severity, "")), f"  {finding.rule}{place}  ")
        shown += wrapped(title.append(f"{_since(finding)}{', ' if cause else ''}{cause}", style="dim"), width)
    if muted:
        listed = ", ".join(plain.visible(one.finding.key) for one in muted)
        shown += wrapped(Text(f"muted: {listed}", style="dim"), width)
    more = f"and {len(inorder) - TOLD} more: " if len(inorder) > TOLD else ""
    return (
        [*shown, *wrapped(Text(f"{more}weighbridge diagnose {plain.visible(record.path.name)}", style="dim"), width)]
        if shown
        else []
    )


def rule_lines(rules: Sequence[type[Rule]], width: int) -> list[Text]:
    """One line per rule: id, severity, certainty, title."""
    columns = [
        grid.column("rule", [r.id for r in rules], right=False),
        grid.column("severity", [Text(r.severity, style=STYLES[r.severity]) for r in rules], right=False),
        grid.column("certainty", [r.certainty for r in rules], right=False),
    ]
    room = width - grid.total_width(columns) - grid.GAP
    columns.append(grid.column("title", [plain.cut_middle(r.title, max(room, 16)) for r in rules], right=False))
    return grid.lines(columns)


def explanation_lines(rule: type[Rule], told: Explanation, limits: Mapping[str, object], width: int) -> list[Text]:
    """All about one rule. limits: its constants, which can be set."""
    shown = [*wrapped(Text.assemble((rule.id, "bold"), f"  {rule.severity}, {rule.certainty}, since {rule.since}"), width)]
    shown += [Text(), *wrapped(Text(told.summary), width)]
    for section, text in told.sections.items():
        shown += [Text(), Text(section, style="bold"), *_indented([Text(text)], width)]
    if limits:
        listed = [Text(f"{name} = {value!r}") for name, value in limits.items()]
        shown += [Text(), Text("Limits (--set RULE.CONSTANT=VALUE)", style="bold"), *_indented(listed, width)]
    return shown
