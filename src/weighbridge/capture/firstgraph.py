"""The first backward passes of a run: the graph of each loss, once, and the numbers of firstfacts.py.

All passes up to the first step of an optimizer that steps again are looked at, but of those that are alike (micro-batches) only
the first, and at most MOST_PASSES. It costs some milliseconds in all. Nothing of the user's is held beyond the call; what a
device has yet to give is fetched later. What cannot be seen: the inside of compiled code and of reentrant checkpoints (one node
each), and what autograd saved where hooks keep it (saved).
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from weighbridge.capture import alongdepth
from weighbridge.capture.alongdepth import Depth
from weighbridge.capture.calls import Calls
from weighbridge.capture.firstfacts import Asked, asked
from weighbridge.capture.freshness import is_fresh
from weighbridge.capture.graphwalk import MOST_NODES, TooLarge, nodes_behind, walk
from weighbridge.capture.late import Late, held, is_capturing
from weighbridge.capture.recorder import Recorder
from weighbridge.capture.roles import plain_path
from weighbridge.capture.tensors import TensorTable
from weighbridge.capture.throughtime import Course, follow
from weighbridge.firstpass import FirstPass, Parameter, Scale, Start, to_text

MOST_PASSES: Final = 4
APART: Final = "apart"  # event: no parameter has a part in the first loss


@dataclass(frozen=True, slots=True)
class _Waiting:
    first: FirstPass
    facts: list[Asked]
    equal: dict[str, torch.Tensor]  # by parameter: are its rows alike?
    late: Late | None


class FirstGraph:
    """Takes down the first passes of one run."""

    def __init__(self, recorder: Recorder, table: TensorTable) -> None:
        self.recorder, self.table = recorder, table
        self.calls = Calls()
        self.seen: set[frozenset[tuple[str, int]]] = set()
        self.awaited: deque[_Waiting] = deque()
        self.courses: list[Course | Depth] = []  # through time and depth, of passes whose backward pass runs or has run
        self.is_over = False  # nothing more is looked at; something may be awaited
        self.is_apart = False  # a pass was seen that begins at a number behind which there is nothing

    @property
    def waiting(self) -> bool:
        """Has a device yet to give something?"""
        return bool(self.awaited or self.courses)

    def on_backward(self, root: torch.Tensor, step: int) -> None:
        """A backward pass begins at this root, in this step of the clock."""
        if step > 0 or len(self.seen) >= MOST_PASSES:
            self.is_over = True
            self.courses = [course for course in self.courses if course.is_complete]  # their passes have run
        self.fetch(step)
        if not self.is_over and root.grad_fn is None and root.dim() == 0 and not self.is_apart:
            self.is_apart = True
            self.recorder.event(step, APART, "a backward pass begins at a number that nothing was computed to")
        if self.is_over or root.grad_fn is None or is_capturing(root.device):
            return
        try:
            self._take(root)
            self.fetch(step)
        except TooLarge:
            message = f"the graph of the loss has more than {MOST_NODES:,} operations: rules that read it are not asked"
            self.recorder.event(step, "reduced", message)
            self.is_over = True

    def _take(self, root: torch.Tensor) -> None:
        kind = frozenset(Counter(node.name() for node in nodes_behind([root])).items())
        if kind in self.seen:
            return
        self.seen.add(kind)
        models = self.table.alive_models()
        if not models:  # a container made for `watch` alone is gone, and with it what its parameters are
            return
        prefix = {name: f"{name}:" if len(models) > 1 else "" for name, _ in models}
        names = {known.id: prefix.get(known.model, "") + known.name for known in self.table.by_key.values()}

        ran = self.calls.finder()

        def module_at(number: int) -> str:
            call = ran(number)
            return "" if call is None else prefix.get(call.model, "") + call.path

        graph, nodes = walk([root], names, module_at)
        if not graph.leaves:
            return
        facts = asked(graph, nodes)
        self.courses += [*follow(graph, nodes), *alongdepth.follow(graph, nodes)]
        called = {prefix.get(call.model, "") + call.path for call in self.calls.calls}
        parameters = [one for name, model in models for one in parameters_of(model, prefix[name], names, called)]
        first = FirstPass(graph, tuple(one for one, _ in parameters), *_described(models, prefix))
        equal = {one.name: same for one, p in parameters if (same := rows_alike(p)) is not None}
        awaited = [number for one in facts for number in one.numbers] + [*equal.values()]
        late = Late([held(number.to(root.device)) for number in awaited]) if awaited else None
        self.awaited.append(_Waiting(first, facts, equal, late))

    def give_up(self) -> None:
        """Look at nothing more, and wait for nothing."""
        self.is_over = True
        self.awaited.clear()
        self.courses.clear()

    def fetch(self, step: int, wait: bool = False) -> None:
        """Write the passes whose numbers have arrived, as of this step."""
        while self.awaited and ((late := self.awaited[0].late) is None or late.has_arrived(wait)):
            one = self.awaited.popleft()
            text = to_text(_complete(one, iter(late.numbers() if late is not None else [])))
            with self.recorder.lock:
                self.recorder.small["graph"].rows.append((step, self.recorder.attempt, text))
        arrived = [course for course in self.courses if course.has_arrived(wait)]
        for course in arrived:
            self.courses.remove(course)
            self.recorder.event(step, course.kind, course.message, detail=course.detail())


def _complete(one: _Waiting, numbers: Iterator[float]) -> FirstPass:
    made = [fact.make([next(numbers) for _ in fact.numbers]) for fact in one.facts]
    equal = {name for name in one.equal if next(numbers)}
    return dataclasses.replace(
        one.first,
        starts=tuple(fact for fact in made if isinstance(fact, Start)),
        scales=tuple(fact for fact in made if isinstance(fact, Scale)),
        parameters=tuple(dataclasses.replace(p, has_equal_rows=p.name in equal) for p in one.first.parameters),
    )


def parameters_of(
    model: nn.Module, prefix: str, names: Mapping[int, str], called: Iterable[str]
) -> Iterator[tuple[Parameter, nn.Parameter]]:
    """Its watched parameters, in the order of definition."""
    modules = {prefix + plain_path(model, path): module for path, module in model.named_modules()}
    ran = set(called)
    for parameter in model.parameters():
        name = names.get(id(parameter), "")
        if name:
            yield described(name, name.rpartition(".")[0] or prefix, parameter, modules, ran), parameter


def described(name: str, owner: str, parameter: nn.Parameter, modules: Mapping[str, nn.Module], ran: set[str]) -> Parameter:
    """What one of `modules`, the owner, holds under this name. ran: the modules that were called."""
    return Parameter(
        name=name,
        module=owner,
        kind=type(modules.get(owner)).__name__,
        shape=tuple(parameter.shape),
        size_bytes=parameter.numel() * parameter.element_size(),
        is_trainable=parameter.requires_grad,
        is_called=owner in ran,
        is_optional=_is_optional(owner, modules, ran),
        is_fresh=is_fresh(modules.get(owner), parameter),
    )


def _is_optional(owner: str, modules: Mapping[str, nn.Module], ran: set[str]) -> bool:
    """Whether a module around it is one of a list of which others were called."""
    parts = owner.split(".")
    for end in range(len(parts), 0, -1):
        holder, item = ".".join(parts[: end - 1]), ".".join(parts[:end])
        if isinstance(modules.get(holder), (nn.ModuleList, nn.ModuleDict)):
            siblings = [f"{holder}." * bool(holder) + key for key, _ in modules[holder].named_children()]
            if item not in ran and any(one in ran for one in siblings):
                return True
    return False


def rows_alike(parameter: torch.Tensor) -> torch.Tensor | None:
    """bool, 0-dim: are all rows the same and not all zero? None where there are no rows to compare, or the first two differ."""
    if parameter.ndim < 2 or parameter.shape[0] < 2 or not parameter.requires_grad or parameter.layout != torch.strided:
        return None
    rows = parameter.detach()
    if rows.is_cpu and not torch.equal(rows[0], rows[1]):
        return None
    return (rows == rows[:1]).all() & (rows[0] != 0).any()


def _described(models: list[tuple[str, nn.Module]], prefix: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    kinds: dict[str, str] = {}
    constructors: dict[str, str] = {}
    for name, model in models:
        kinds |= {prefix[name] + plain_path(model, path): type(one).__name__ for path, one in model.named_modules()}
        constructors |= {prefix[name] + plain_path(model, path): text for path, text in written(model).items()}
    return kinds, constructors


def written(model: nn.Module) -> dict[str, str]:
    """How the constructor of each of torch's modules with a bias is written: "Linear(in_features=3, ..., bias=True)"."""
    return {
        name: re.sub(r"\s+", " ", repr(module))
        for name, module in model.named_modules()
        if isinstance(module._parameters.get("bias"), nn.Parameter) and type(module).__module__.startswith("torch.nn")
    }
