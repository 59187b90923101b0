"""Runs the code of a documentation page and sets what it prints beside what the page says it prints.

    python tests/docs/pages.py docs/tutorials/bias.md      writes today's output into the page

The ```python blocks of a page run in order, in one namespace, in an empty folder. A ```text block right after one is what
it prints.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<text>.*?)```\n)?", re.DOTALL)
NUMBER = re.compile(r"[-+−]?\d+(?:\.\d*)?(?:e[-+]?\d+)?")
# Torch builds sum in different orders: numbers may differ by so much of their size, or be as good as 0 both.
RELATIVE, AS_GOOD_AS_ZERO = 5e-3, 2e-6


@dataclass(frozen=True)
class Block:
    line: int
    code: str
    text: str | None
    span: tuple[int, int]


def blocks(page: str) -> list[Block]:
    return [Block(page.count("\n", 0, m.start()) + 1, m["code"], m["text"], m.span()) for m in BLOCK.finditer(page)]


def outputs(page: str, name: str) -> Iterator[tuple[Block, str]]:
    """Run the blocks; yields each with what it printed."""
    space: dict[str, object] = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for block in blocks(page):
            printed = io.StringIO()
            code = compile("\n" * block.line + block.code, name, "exec")  # so that a traceback names the page's line
            with contextlib.redirect_stdout(printed):
                exec(code, space)
            yield block, printed.getvalue()


def same(expected: str, found: str) -> bool:
    """Whether two outputs agree: words exactly (but for spaces), numbers within the tolerance above."""

    def words(text: str) -> list[str]:
        return "".join(NUMBER.sub("0", text).split()).split()

    def numbers(text: str) -> list[float]:
        return [float(n.replace("−", "-")) for n in NUMBER.findall(text)]

    pairs = zip(numbers(expected), numbers(found), strict=False)
    return (
        words(expected) == words(found)
        and len(numbers(expected)) == len(numbers(found))
        and all(math.isclose(a, b, rel_tol=RELATIVE, abs_tol=AS_GOOD_AS_ZERO) for a, b in pairs)
    )


def rewrite(path: Path) -> None:
    page, done, end = path.read_text(), "", 0
    for block, printed in outputs(page, str(path)):
        shown = f"\n```text\n{printed}```\n" if printed else ""
        done += page[end : block.span[0]] + f"```python\n{block.code}```\n{shown}"
        end = block.span[1]
    path.write_text(done + page[end:])


if __name__ == "__main__":
    os.environ.setdefault("COLUMNS", "100")
    for argument in sys.argv[1:]:
        rewrite(Path(argument).resolve())
