"""The table: one line per tool, per label, and per program that did not come out as it should. Markdown and JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from clinic.frame.score import ALARMS, alarms, delay, hits, is_sound, placed, score
from clinic.frame.trial import Result
from clinic.tools import Verdict


def written(results: Sequence[Result], title: str) -> str:
    """All tables of one run of the clinic."""
    tools = sorted({r.tool for r in results}, key=lambda name: (name != "weighbridge", name))
    lines = [f"# {title}", "", *_tools(results, tools)]
    for name in tools:
        own = [r for r in results if r.tool == name]
        lines += ["", f"## {name}", "", *_labels(own), "", *_alarms(own), "", *_misses(own)]
    return "\n".join([*lines, *_unsound(results)]) + "\n"


def save(results: Sequence[Result], title: str, stem: Path) -> None:
    """`stem`.md and `stem`.json."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".md").write_text(written(results, title))
    records = [r.record() for r in sorted(results, key=lambda r: (r.tool, r.name, r.seed))]
    stem.with_suffix(".json").write_text(json.dumps({"title": title, "results": records}, indent=1) + "\n")


def saved(file: Path) -> list[Result]:
    """The results that `save` wrote."""
    return [_result(record) for record in json.loads(file.read_text())["results"]]


def _result(record: dict[str, Any]) -> Result:
    said = [Verdict(**verdict) for verdict in record["verdicts"]]
    return Result(**record | {"verdicts": said, "places": tuple(record["places"]), "also": tuple(record["also"])})


def _tools(results: Sequence[Result], tools: Sequence[str]) -> list[str]:
    rows = []
    for name in tools:
        s = score(r for r in results if r.tool == name)
        free = s.twins + s.healthy
        wait = "-" if s.median_delay is None else f"{s.median_delay:g}"
        rows.append(
            [
                name,
                _share(s.found, s.ill),
                _share(s.placed, s.ill),
                _share(s.named_first, s.ill),
                wait,
                _share(s.alarmed_healthy, s.healthy),
                _share(s.alarmed_twins, s.twins),
                _share(s.errors, free),
                f"{s.notes / s.healthy:.2f}" if s.healthy else "-",
                f"{s.seconds:.0f} + {s.tool_seconds:.0f} s",
            ]
        )
    head = ["tool", "named", "right place", "among its causes", "median delay, steps", "alarmed healthy runs", "alarmed twins"]
    return _table([*head, "of these with an error", "notes per healthy run", "time: training, after it"], rows)


def _labels(results: Sequence[Result]) -> list[str]:
    rows = []
    for label in sorted({r.label for r in results} - {""}):
        s = score(r for r in results if r.label == label)
        longest = f"{s.median_delay:g}, {max(s.delays)}" if s.delays else "-"
        rows.append([label, str(s.ill), str(s.found), str(s.placed), str(s.named_first), longest])
    return _table(["fault", "runs", "named", "right place", "among causes", "delay: median, longest"], rows)


def _alarms(results: Sequence[Result]) -> list[str]:
    free = [r for r in results if is_sound(r) and not r.label]
    counts = Counter((v.label, v.severity) for r in free for v in {(w.label, w.severity): w for w in alarms(r)}.values())
    rows = [[label, severity, str(n)] for (label, severity), n in counts.most_common()]
    return _table(["false alarm", "severity", f"of {len(free)} runs without a fault"], rows)


def _misses(results: Sequence[Result]) -> list[str]:
    rows = []
    for r in sorted(filter(is_sound, results), key=lambda r: (r.label, r.name, r.seed)):
        late = (delay(r) or 0) > 2
        if (r.label and (not hits(r) or not placed(r) or late)) or alarms(r):
            said = ", ".join(f"{v.label}@{v.place or 'run'} ({v.severity[0]}, {v.told_step})" for v in _loudest(r))
            rows.append([r.name, str(r.seed), r.label or "none", str(r.first_true), "late" if late else "", said or "nothing"])
    return _table(["program", "seed", "fault", "true from", "", "said: label@place (severity, told)"], rows)


def _loudest(result: Result) -> list[Any]:
    return sorted(result.verdicts, key=lambda v: v.severity not in ALARMS)[:6]


def _unsound(results: Iterable[Result]) -> list[str]:
    lines = []
    for r in results:
        why = r.failure.strip().splitlines()[-1] if r.failure else "" if r.is_proved else "not proved"
        why = why or ("" if r.is_same else "another training when watched")
        if why:
            lines.append(f"- {r.name}, seed {r.seed}, {r.tool}: {why}")
    return ["", "## Not as they should be (not counted where failed or not proved)", "", *sorted(lines)] if lines else []


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.0%})" if whole else "-"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows]]
