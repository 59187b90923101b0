"""docs/cli.md, made from the help texts: `python -m weighbridge.cli.manual > docs/cli.md`."""

from __future__ import annotations

from typing import Any

import typer

from weighbridge.cli.main import build_app

WIDTH = 100


def manual() -> str:
    """The whole page as Markdown: the help of `weighbridge` and of each command."""
    group: Any = typer.main.get_command(build_app())
    parts = [
        "# The command line\n\nMade from the help texts; a test compares.\n",
        _section("weighbridge", group),
        *(_section(f"weighbridge {name}", command) for name, command in group.commands.items()),
    ]
    return "\n".join(parts)


def _section(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True, terminal_width=WIDTH, max_content_width=WIDTH)
    return f"## {name}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"


if __name__ == "__main__":
    print(manual(), end="")
