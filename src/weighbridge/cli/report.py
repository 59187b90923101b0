"""`weighbridge report`: runs as one HTML file, or as Markdown with pictures, to send and to keep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weighbridge.cli.where import WHERE, find_run

if TYPE_CHECKING:
    from collections.abc import Sequence


def register(app: typer.Typer) -> None:
    @app.command()
    def report(
        run: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="RUN...",
                show_default=False,
                help=f"{WHERE} Several are set side by side: name them all. [default: the newest]",
            ),
        ] = None,
        output: Annotated[
            Path | None,
            typer.Option(
                "--output", "-o", metavar="FILE", show_default=False, help="Where it goes. [default: NAME.html or NAME.md]"
            ),
        ] = None,
        md: Annotated[
            bool,
            typer.Option("--md", help="Markdown for a pull request or an issue, its pictures (SVG) in a folder beside it."),
        ] = False,
    ) -> None:
        """Write a run as one HTML file: cause, findings with evidence, loss, and every tensor at every step.

        It needs no server and no network; its charts answer to the pointer as the page's do. --md writes text with pictures.
        """
        places = [find_run(name) for name in run] if run else [find_run(None)]
        is_md = md or (output is not None and output.suffix.lower() == ".md")
        name = "-and-".join(place.resolve().name for place in places[:2])
        target = output or Path(f"{name}.{'md' if is_md else 'html'}")
        (_write_md if is_md else _write_html)(places, target)


def _write_html(places: Sequence[Path], target: Path) -> None:
    from weighbridge.format import size
    from weighbridge.server.onefile import one_file

    text = one_file(places)
    target.write_text(text, encoding="utf-8")
    print(f"{target}  {size(len(text.encode()))}")


def _write_md(places: Sequence[Path], target: Path) -> None:
    from weighbridge.format import counted
    from weighbridge.server.markdown import markdown, slug

    folder = target.with_name(f"{slug(target.stem)}-pictures")
    text, pictures = markdown(places, folder.name)
    folder.mkdir(exist_ok=True)
    for name, svg in pictures.items():
        (folder / name).write_text(svg, encoding="utf-8")
    target.write_text(text, encoding="utf-8")
    print(f"{target}  with {counted(len(pictures), 'picture')} in {folder}")
