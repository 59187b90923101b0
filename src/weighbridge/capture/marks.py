"""How far a run is complete: before which step nothing more comes. Rules beside the training read no further."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from weighbridge.capture.optimizers import Optimizers


@dataclass(frozen=True, slots=True)
class Marks:
    """What is complete in everything that was handed to the writer so far.

    below         all rows of all steps before this one
    likely_below  and those of steps before this one, unless an optimizer joins them that has never stepped before. It counts
                  where nothing more comes for a while: a step may take minutes
    """

    below: int = 0
    likely_below: int = 0


class Late(Protocol):
    """Something that waits for a device."""

    @property
    def oldest(self) -> float:
        """The first step of which rows are still under way; infinity where none are."""


def marks_of(clock: int, optimizers: Optimizers, waiting: Iterable[Late]) -> Marks:
    """Call with the recorder's lock held, from any thread."""
    late = min((one.oldest for one in waiting), default=math.inf)
    done = optimizers.has_stepped
    known = [one for one in list(optimizers.known.values()) if one.is_ours]
    is_done = bool(done) and not any(done.isdisjoint(one.clashes) for one in known)
    return Marks(int(min(clock, late)), int(min(clock + is_done, late)))
