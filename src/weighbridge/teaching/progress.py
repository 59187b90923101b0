"""A progress bar on stderr, in a terminal; silence elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from weighbridge.teaching.training import Training


class Progress:
    """Shows how many trainings are done and how far the present one is. None = only where stderr is a terminal."""

    def __init__(self, wanted: bool | None, trainings: int) -> None:
        console = Console(stderr=True)
        is_shown = console.is_terminal if wanted is None else wanted
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Bars(*columns, console=console, transient=True, disable=not is_shown)
        self._all = self._bars.add_task("trainings", total=trainings)
        self._one: Any = None

    def training(self, name: str, epochs: int) -> Callable[[Training], None]:
        """Begin a training; what is returned is called after each of its epochs."""
        if self._one is not None:
            self._bars.remove_task(self._one)
        one = self._one = self._bars.add_task(name, total=epochs)

        def on_epoch(training: Training) -> None:
            loss = training.losses[-1]
            done = len(training.losses)
            self._bars.update(one, completed=done, description=f"{name}, loss {loss:.4g}")
            if done == epochs:
                self._bars.advance(self._all)

        return on_epoch

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()
