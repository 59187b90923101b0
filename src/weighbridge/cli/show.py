"""`weighbridge show`: one run, from all of its tensors down to single numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from weighbridge.cli.where import NewestOr

if TYPE_CHECKING:
    from rich.text import Text

    from weighbridge.report.machine import Table
    from weighbridge.store.record import RunRecord, Tensor


MOST_TENSORS_BY_EPOCH: Final = 12  # more than these are asked for by name


class Per(StrEnum):
    """What one row of a series is."""

    STEP = "step"
    EPOCH = "epoch"


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for on the command line."""

    tensors: tuple[str, ...]
    statistics: tuple[str, ...]
    step: int | None
    values: bool
    per: Per
    every: bool
    outputs: bool = False
    coherence: bool = False


def register(app: typer.Typer) -> None:
    @app.command("show", epilog=_statistics())
    def show(
        run: NewestOr = None,
        tensor: Annotated[
            list[str] | None,
            typer.Option(
                "--tensor",
                "-t",
                metavar="NAME",
                help="Only this tensor, over all steps; may be given again; 'layers.*.bias' works.",
            ),
        ] = None,
        stat: Annotated[
            list[str] | None,
            typer.Option(
                "--stat",
                "-s",
                metavar="NAME",
                help="A statistic such as gradient.rms (list below); may be given again; 'gradient.*' and all work.",
            ),
        ] = None,
        step: Annotated[
            int | None, typer.Option("--step", metavar="N", help="At this step; -1 is the last update.", show_default=False)
        ] = None,
        values: Annotated[
            bool, typer.Option("--values", help="The numbers themselves, one row per neuron (small tensors).")
        ] = False,
        per: Annotated[Per, typer.Option("--per", help="What one row is.")] = Per.STEP,
        outputs: Annotated[bool, typer.Option("--outputs", help="What modules give, in order of execution.")] = False,
        coherence: Annotated[
            bool, typer.Option("--coherence", help="How alike successive gradients are, and the gradient noise scale.")
        ] = False,
        rank: Annotated[
            int | None,
            typer.Option("--rank", metavar="N", help="Of several ranks: this one alone. [default: all as one]"),
        ] = None,
        every: Annotated[bool, typer.Option("--all", help="Every tensor, step and row; nothing folded or left out.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print JSON for programs, in full precision.")] = False,
        csv: Annotated[bool, typer.Option("--csv", help="Print CSV for programs, in full precision.")] = False,
    ) -> None:
        """Show a run: its tensors, their statistics, and how they moved.

        \b
        weighbridge show                                    the newest run, all its tensors
        weighbridge show first --tensor 0.weight            everything about one tensor
        weighbridge show first -t 0.bias -s gradient.rms    one statistic, step by step
        weighbridge show first --step 0                     all tensors at one step
        weighbridge show first --values --step -1           the numbers at the last update
        weighbridge show first --per epoch                  one row per epoch
        weighbridge show first --outputs                    what modules give
        weighbridge show first --tensor encoder.0/out       one output, over all steps
        weighbridge show first --coherence                  successive gradients, noise scale

        \b
        Row of step k: parameter = before update k, gradient = what update k used,
        update = after minus before. After the training one more row holds the
        final parameters.
        """
        from weighbridge.cli import screen
        from weighbridge.cli.where import find_run
        from weighbridge.errors import BadInput, CorruptRun
        from weighbridge.report import machine
        from weighbridge.report.damage import still_readable
        from weighbridge.store.record import open_run

        if json and csv:
            raise BadInput("--json and --csv cannot both be printed. Choose one.")
        if per is Per.EPOCH and (values or step is not None):
            raise BadInput("--per epoch shows all epochs; it does not go with --step or --values. Leave one of them out.")
        path = find_run(run)
        wish = Wish(tuple(tensor or ()), tuple(stat or ()), step, values, per, every, outputs, coherence)
        try:
            record = open_run(path, rank)
            if csv:
                screen.put(machine.to_csv(as_table(record, wish)))
            elif json:
                screen.put(machine.to_json(record.info, as_table(record, wish)))
            else:
                _show(record, wish)
        except CorruptRun as error:
            raise CorruptRun(f"{error}\n{still_readable(path)}") from error


def _show(record: RunRecord, wish: Wish) -> None:
    """Print the run's head and what was asked for; of a damaged run the head at least, if that can be read."""
    from weighbridge.cli import screen
    from weighbridge.errors import CorruptRun
    from weighbridge.report import text

    head = text.head(record, screen.width())
    try:
        lines = as_lines(record, wish, screen.width())
    except CorruptRun:
        screen.show(head)
        raise
    screen.show([*head, *lines])


def _statistics() -> str:
    """The catalogue, for the end of the help."""
    from textwrap import wrap

    from weighbridge.catalog import STATISTICS

    lines = [
        "Statistics: write parameter. or gradient. or update. before the name",
        "(update. only for the last five); of optimizers moment1. and moment2., of",
        "outputs activation. and activation_gradient.",
    ]
    for s in STATISTICS.values():
        lines += wrap(f"{s.name:<23} {s.plain}", 76, initial_indent="  ", subsequent_indent=" " * 26)
    return "\n".join(["\b", *lines])


def as_table(record: RunRecord, wish: Wish) -> Table:
    """The wish answered for a program."""
    from weighbridge.catalog import all_names
    from weighbridge.report import coherence, named, outputs, views

    if wish.outputs:
        return outputs.table(record)
    tensors = named.choose_tensors(record, wish.tensors)
    if wish.coherence:
        return coherence.series(record, tensors) if wish.tensors else coherence.table(record, tensors)
    if wish.values:
        return views.values(record, tensors, _step(record, wish.step))
    if wish.per is Per.EPOCH:
        return views.epochs(record, tensors, named.choose_statistics(wish.statistics, views.LAST_STATISTICS))
    if wish.step is not None:
        return views.overview(record, tensors, named.choose_statistics(wish.statistics, all_names()), _step(record, wish.step))
    if wish.tensors:
        everything = dict.fromkeys(name for tensor in tensors for name in named.statistics_of(record, tensor))
        return views.series(record, tensors, named.choose_statistics(wish.statistics, list(everything)))
    return views.overview(record, tensors, named.choose_statistics(wish.statistics, all_names()))


def as_lines(record: RunRecord, wish: Wish, width: int) -> list[Text]:
    """The wish answered for a person, without the run's head."""
    from weighbridge.report import coherence, named, outputs, text

    if wish.outputs:
        return [*outputs.lines(record, width), *outputs.origin_lines(record)]
    tensors = named.choose_tensors(record, wish.tensors)
    if not tensors:
        return [*text.wrapped(_words("No tensors are known yet; they are from the first optimizer step on."), width)]
    if wish.coherence:
        return coherence.lines(record, tensors, width)
    if wish.values:
        return _values(record, wish, tensors, width)
    if wish.per is Per.EPOCH:
        return _epochs(record, wish, tensors, width)
    if wish.tensors and wish.step is None:
        return _series(record, wish, tensors, width)
    return _overview(record, wish, tensors, width)


def _overview(record: RunRecord, wish: Wish, tensors: Sequence[Tensor], width: int) -> list[Text]:
    from weighbridge.report import findings, folded, named, outputs, text, views

    statistics = named.choose_statistics(wish.statistics, views.LAST_STATISTICS)
    step = None if wish.step is None else _step(record, wish.step)
    spark = None if step is not None else (statistics[0] if wish.statistics else "gradient.rms")
    many = len(tensors) > folded.FOLD_ABOVE and not wish.every
    lay_out = folded.folded_lines if many else text.tensor_lines
    lines = [] if step is None else [_words(f"at step {step:,}{_over(views.samples(record, step))}")]
    lines += lay_out(record, tensors, statistics, spark, step, width)
    lines += text.legend(tensors, None if many and folded.module_groups(tensors) else spark, width)
    return [
        *lines,
        *findings.told_lines(record, width),
        *outputs.origin_lines(record),
        *text.trouble_lines(record),
        *([] if many else [w for line in text.note_lines(record, tensors) for w in text.wrapped(line, width)]),
    ]


def _series(record: RunRecord, wish: Wish, tensors: Sequence[Tensor], width: int) -> list[Text]:
    from weighbridge.report import detail, named

    lines: list[Text] = []
    for tensor in tensors:
        statistics = named.choose_statistics(wish.statistics, named.statistics_of(record, tensor))
        if wish.statistics or wish.every:
            part = detail.series_lines(record, tensor, statistics, wish.every, width)
        else:
            part = detail.summary_lines(record, tensor, statistics, width)
        lines += [_words(""), *part] if lines else part
    return lines


def _values(record: RunRecord, wish: Wish, tensors: Sequence[Tensor], width: int) -> list[Text]:
    from weighbridge.report import detail, text

    step = _step(record, wish.step)
    lines = text.wrapped(
        _words(f"numbers at step {step:,}: parameter before the update, the gradient that it used, the update"), width
    )
    for tensor in tensors:
        lines += [_words(""), *detail.value_lines(record, tensor, step, wish.every, width)]
    return lines


def _epochs(record: RunRecord, wish: Wish, tensors: Sequence[Tensor], width: int) -> list[Text]:
    from weighbridge.report import detail, named, views

    lines = [] if wish.tensors else [*detail.run_epoch_lines(record, wish.every, width), _words("")]
    if not wish.tensors and not wish.every and len(tensors) > MOST_TENSORS_BY_EPOCH:
        return [*lines, _words("one tensor by epoch: --tensor NAME --per epoch")]
    statistics = named.choose_statistics(wish.statistics, ("parameter.rms", "gradient.rms", "update.ratio"))
    table = views.epochs(record, tensors, statistics)
    lines += [_words("each statistic at the epoch's last step, then its mean over the epoch")]
    for tensor in tensors:
        heading, name = detail.title(record, tensor), named.label(record, tensor)
        lines += [_words(""), *detail.epoch_lines(table, heading, name, wish.every, width)]
    return lines


def _over(samples: int | None) -> str:
    """In words; nothing where it is not known."""
    from weighbridge import format as plain

    return "" if samples is None else f", over {plain.counted(samples, 'sample')}"


def _step(record: RunRecord, step: int | None) -> int:
    from weighbridge.report import views

    return views.real_step(record, -1 if step is None else step)


def _words(words: str) -> Text:
    from rich.text import Text

    return Text(words)
