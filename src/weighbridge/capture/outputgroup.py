"""The modules that keep pace with one optimizer."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

from weighbridge.capture.budget import Thinned
from weighbridge.capture.outputhook import OutputHook
from weighbridge.capture.seats import Pace, Seat


class Group:
    """The modules of one optimizer: they are weighed and written with its steps."""

    def __init__(self, rest: int, histogram: int = 0) -> None:
        self.rest = rest  # between the steps of the plan: GUARD or REST
        self.forward, self.backward = Pace(rest, 0, histogram), Pace(rest, 0, histogram)
        self.paces = ctypes.addressof(self.forward), ctypes.addressof(self.backward)
        self.thinned = Thinned()
        self.weighs = self.weighs_gradients = self.is_full = self.looks = False
        self.due_at = 0.0  # the step at which there is something to change
        self.hooks: list[OutputHook] = []
        self.seats: list[Seat] = []
        self.table: Any = None  # the seats' addresses, for C

    @property
    def stamp(self) -> int:
        """Moves on with every step."""
        return int(self.forward.stamp)

    def twin(self) -> Group:
        """One that is at the same work, for modules that are about to move there."""
        other = Group(self.rest, self.forward.histogram)
        other.forward.mode, other.backward.mode = self.forward.mode, self.backward.mode
        other.forward.follows = self.forward.follows
        other.forward.stamp = other.backward.stamp = self.stamp
        other.thinned.one_in = self.thinned.one_in
        other.is_full, other.looks = self.is_full, self.looks
        other.due_at = self.due_at
        other.weighs, other.weighs_gradients = self.weighs, self.weighs_gradients
        return other

    def leave(self, hook: OutputHook) -> None:
        """This module does not belong here any more."""
        mine = {id(seat) for seat in seats_of(hook)}
        self.hooks.remove(hook)
        self.seats = [seat for seat in self.seats if id(seat) not in mine]
        self.table = None

    def addresses(self) -> Any:
        """The seats as C wants them."""
        if self.table is None:
            self.table = (ctypes.c_void_p * len(self.seats))(*(seat.address for seat in self.seats))
        return self.table

    def set_detail(self, histogram: int, one_in: int) -> None:
        """From now on with these histograms, at one in so many of the steps of the plan."""
        self.forward.histogram = self.backward.histogram = histogram
        self.thinned.one_in = one_in

    def next_step(self) -> None:
        """What the seats hold of this step is over."""
        self.forward.stamp = self.backward.stamp = self.stamp + 1


def seats_of(hook: OutputHook) -> Iterable[Seat]:
    yield from hook.seats.values()
    yield from (seat for seat, _ in hook.gradients.values())
