"""docs/rules/, made from the rules' own docstrings: `python -m weighbridge.diagnosis.pages docs/rules`."""

from __future__ import annotations

import sys
from pathlib import Path

from weighbridge.diagnosis import registry
from weighbridge.diagnosis.rule import Rule

WIDTH = 125


def pages() -> dict[str, str]:
    """File name and content of each page."""
    rules = registry.rules()
    rows = [f"| [{r.id}]({r.id}.md) | {r.severity} | {r.certainty} | {r.title} |" for r in rules]
    head = ["# Rules", "", "Made from the rules' docstrings; a test compares.", "", "| rule | severity | certainty | title |"]
    index = "\n".join([*head, "| --- | --- | --- | --- |", *rows, ""])
    return {"README.md": index, **{f"{r.id}.md": _page(r) for r in rules}}


def _page(rule: type[Rule]) -> str:
    import textwrap

    told = registry.explanation(rule)
    parts = [
        f"# {rule.id}",
        told.summary,
        f"{rule.severity}, {rule.certainty}, since {rule.since}. Reads: {', '.join(rule.needs.words)}.",
    ]
    for section, text in told.sections.items():
        parts += [f"## {section}", textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pages().items():
        (folder / name).write_text(content, encoding="utf-8")
