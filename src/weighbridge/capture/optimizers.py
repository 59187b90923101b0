"""The optimizers of one run: who they are, what is weighed for each, and which of them cannot share a step."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from torch.optim.optimizer import Optimizer

from weighbridge.capture import hooks
from weighbridge.capture.budget import Level
from weighbridge.capture.devices import is_direct, works_on_devices
from weighbridge.capture.devicework import DeviceWork
from weighbridge.capture.kernel import Kernel
from weighbridge.capture.plan import Plan
from weighbridge.capture.recorder import Recorder
from weighbridge.capture.stepped import Stepped, groups_of
from weighbridge.capture.tensors import TensorTable
from weighbridge.capture.work import Work


class Optimizers:
    """`joined` is told of an optimizer whose work was prepared anew, `left` of one that is gone."""

    def __init__(
        self,
        recorder: Recorder,
        kernel: Kernel,
        plan: Plan,
        table: TensorTable,
        joined: Callable[[Stepped], None],
        left: Callable[[Stepped], None],
    ) -> None:
        self.recorder, self.kernel, self.plan, self.table = recorder, kernel, plan, table
        self.joined, self.left = joined, left
        self.known: dict[int, Stepped] = {}  # by id of the optimizer
        self.has_stepped: set[int] = set()  # numbers of those that stepped at this reading of the clock
        self.departed: list[Stepped] = []  # those of them that are gone
        self.under_way: list[Stepped] = []  # between pre hook and post hook
        self.numbers = itertools.count()
        self.level = Level()

    def of(self, optimizer: Optimizer) -> Stepped:
        """What is known of this one."""
        stepped = self.known.get(id(optimizer))
        if stepped is None or stepped.reference() is not optimizer:
            gone = [key for key, one in self.known.items() if one.reference() is None]
            for key in gone:  # let go of its copies; what it has under way on a device is fetched first
                self._forget(key)
            stepped = self.known[id(optimizer)] = Stepped(next(self.numbers), optimizer)
        return stepped

    def _forget(self, key: int) -> None:
        stepped = self.known.pop(key)
        with self.recorder.lock:
            for device in stepped.devices:
                device.drain(self.recorder)
        stepped.work, stepped.devices = None, []
        stepped.missed.look_away()
        self.left(stepped)
        if stepped.number in self.has_stepped:
            self.departed.append(stepped)

    def has_outer(self, stepped: Stepped) -> bool:
        """Is an optimizer over the same parameters stepping further out (Lookahead, SAM)? Its step is the one that counts."""
        self.under_way = [one for one in self.under_way if hooks.is_inside_step(one.reference())]
        return any(one.number in stepped.clashes and one is not stepped for one in self.under_way)

    def next_step(self) -> None:
        """The clock has advanced: nobody has stepped yet."""
        self.has_stepped.clear()
        self.departed.clear()

    def set_level(self, level: Level) -> None:
        """From now on with this much detail."""
        self.level = level
        for stepped in self.known.values():
            stepped.watched = -1  # its work is prepared anew

    # --- preparing --------------------------------------------------------------------------------------------------

    def prepare(self, stepped: Stepped, optimizer: Optimizer, step: int) -> bool:
        """Build the work of this optimizer where it is new or has other parameters than before. Is there any?"""
        ids: list[int] = []
        for group in optimizer.param_groups:
            ids.extend(map(id, group["params"]))
        if self.table.is_waiting:
            self.table.rescan(step)
        if ids != stepped.ids or stepped.watched != self.table.version:
            self._build(stepped, optimizer, ids, step)
        return stepped.is_ours

    def _build(self, stepped: Stepped, optimizer: Optimizer, ids: list[int], step: int) -> None:
        self.table.rescan(step)
        owned = self.table.owned(ids)
        stepped.tensors = {w.tensor for w in owned}
        self._find_clashes(stepped, ids)
        self._note_groups(stepped, optimizer, {id(w.parameter): w.tensor for w in owned}, step)
        mine = [w for w in owned if not w.is_copy]
        stepped.copies = [w for w in owned if w.is_copy and w.parameter.device.type == "cpu"]
        direct = [w for w in mine if is_direct(w.parameter)]
        stepped.work = Work(self.kernel, direct, self.plan, self.level) if direct else None
        for device in stepped.devices:  # those of before: what they have under way must not be lost
            with self.recorder.lock:
                device.drain(self.recorder)
        stepped.devices = works_on_devices(
            [w for w in mine if not is_direct(w.parameter)], self.plan, self.level, self.table.tell
        )
        stepped.ids, stepped.watched = ids, self.table.version
        if stepped.is_ours:
            self.joined(stepped)
        for work in (stepped.work, *stepped.devices):
            if isinstance(work, Work | DeviceWork):
                self._note_turns(work, step)

    def _find_clashes(self, stepped: Stepped, ids: list[int]) -> None:
        mine = set(ids)
        for one in (*self.known.values(), *self.departed):
            if one is not stepped and not (mine.isdisjoint(one.ids) and stepped.tensors.isdisjoint(one.tensors)):
                one.clashes.add(stepped.number)
                stepped.clashes.add(one.number)

    def _note_groups(self, stepped: Stepped, optimizer: Optimizer, tensors: dict[int, int], step: int) -> None:
        """Say which tensors stand in which group of this optimizer, and the settings that are not told at every step."""
        groups = groups_of(optimizer, tensors)
        if tensors and groups != stepped.told:
            stepped.told = groups
            detail = {"optimizer": stepped.number, "class": type(optimizer).__name__, "groups": groups}
            is_next = not self.has_stepped.isdisjoint(stepped.clashes)
            self.recorder.event(step + is_next, "optimizer", "", detail=detail)

    def _note_turns(self, work: Work | DeviceWork, step: int) -> None:
        """Say where memory for the copies allows only some updates at a time: what is missing was not weighed."""
        turns = work.number_of_turns
        never = [self.table.name(w.tensor) for w in work.never_copied()]
        if turns > 1:
            message = f"updates of large tensors are weighed in turns, each at one step in {turns}"
            self.recorder.event(step, "reduced", f"{message}: the copies are bounded by Plan(snapshot=...)")
        if never:
            message = "updates are not weighed: a tensor alone is larger than Plan(snapshot=...)"
            self.recorder.event(step, "reduced", message, detail={"tensors": never})
