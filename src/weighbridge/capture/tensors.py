"""The table of tensors of a run: who is watched, under which id and name. It grows while training."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from weighbridge.capture.recorder import Recorder
from weighbridge.capture.resume import Seen, changes
from weighbridge.capture.roles import Named, named
from weighbridge.capture.shards import Placement, is_sharded, placement_of, replicated
from weighbridge.capture.snapshots import Weighed, as_real, is_dense, why_not
from weighbridge.records import COPY, LOCAL, SHARD

_BEFORE: Final = "before"  # form of a tensor of an earlier attempt that nobody watches yet
LISTS: Final = (nn.ModuleDict, nn.ModuleList)  # these very classes (a class without `forward` too): made for watching alone


class Known:
    """One tensor of the table. Watching keeps no model alive: the parameter is asked of its module.

    A weak reference to the parameter itself would be in the way: `torch.utils.swap_tensors`, which `model.to(...)` uses for
    some parameters, refuses those that have one.
    """

    __slots__ = ("form", "id", "model", "name", "note", "owner", "placement", "shard", "tensor")

    def __init__(self, tensor: int, model: str, name: str) -> None:
        self.tensor, self.model, self.name = tensor, model, name
        self.note, self.placement = "", Placement()
        self.form: object = None
        self.owner: Callable[[], nn.Module | None] = lambda: None
        self.id = 0
        self.shard: nn.Parameter | None = None  # its module may hold the whole parameter in its place

    def refer_to(self, one: Named) -> None:
        """From now on this parameter is meant."""
        self.owner, self.id = weakref.ref(one.owner), id(one.parameter)
        self.shard = one.parameter if is_sharded(one.parameter) else None

    def reference(self) -> nn.Parameter | None:
        """The parameter, as long as its module has it."""
        owner = self.owner()
        if owner is None or self.shard is not None:
            return None if owner is None else self.shard
        parameter = _entry(owner._parameters, self.name.rpartition(".")[2])
        return parameter if id(parameter) == self.id else None


class TensorTable:
    """All watched models of one run and their parameters."""

    def __init__(
        self,
        recorder: Recorder,
        tell: Callable[[str], None],
        wants: Callable[[str], bool] = lambda name: True,
        is_alone: bool = True,
        seen: tuple[Seen, ...] = (),
    ) -> None:
        """seen: what earlier attempts of this run have watched; the same tensor keeps its id."""
        self.recorder, self.tell, self.wants = recorder, tell, wants
        self.is_alone = is_alone  # no other process writes into this run
        self.left_out: set[tuple[str, str]] = set()
        self.models: list[tuple[str, weakref.ref[nn.Module]]] = []
        self.lists: dict[
            str, nn.Module
        ] = {}  # models that are mere lists of modules: made for us alone, they would be gone at once
        self.seen = {(one.model, one.name): one for one in seen}
        self.known: list[Known] = _of_before(seen)
        self.by_key: dict[tuple[str, str], Known] = {}
        self.version = 0
        self._ids: dict[int, int] = {}  # by id of the parameter, as they were at a version
        self._ids_of_version = -1
        self.frozen: dict[tuple[str, str], Known] = {}  # in mid-run, and not thawed since
        self.is_waiting = False  # for a lazy layer to be initialised: nothing else tells us that it was

    def has_model(self, model: nn.Module) -> bool:
        """Is this very model watched already?"""
        return any(reference() is model for _, reference in self.models)

    def add_model(self, model: nn.Module, name: str | None, step: int) -> str:
        """Watch a model. Gives its name: the user's, else model, model-2, ..."""
        taken = {known for known, _ in self.models}
        wanted = name or "model"
        number = 2
        unique = wanted
        while unique in taken:
            unique, number = f"{wanted}-{number}", number + 1
        self.models.append((unique, weakref.ref(model)))
        # Static: a scripted module's class cannot be asked for its `forward`.
        if type(model) in LISTS or inspect.getattr_static(type(model), "forward") is nn.Module.forward:
            self.lists[unique] = model
        self._scan(unique, model, step)
        self._compare(unique)
        names = [name for one, name in self.left_out if one == unique]
        if names and not any(known.model == unique for known in self.by_key.values()):
            self.tell(f"Plan(include=..., exclude=...) leaves out every tensor of {unique}: nothing of it is weighed")
        elif names:
            message = f"{len(names)} tensors are left out by Plan(include=..., exclude=...)"
            self.recorder.event(step, "reduced", message, detail={"tensors": names})
        return unique

    def alive_models(self) -> list[tuple[str, nn.Module]]:
        """Name and module of those that still exist."""
        return [(name, model) for name, reference in self.models if (model := reference()) is not None]

    def remove_model(self, model: nn.Module | None) -> set[str]:
        """Stop watching a model (None: all of them). What is known of its tensors stays in the table. Gives their names."""
        gone = {name for name, reference in self.models if model is None or reference() is model}
        self.models = [(name, reference) for name, reference in self.models if name not in gone]
        self.lists = {name: model for name, model in self.lists.items() if name not in gone}
        for key in [key for key in self.by_key if key[0] in gone]:
            self.by_key.pop(key).shard = None
        self.version += 1
        return gone

    def rescan(self, step: int) -> None:
        """Look for parameters that came, were initialised or were replaced since."""
        for name, reference in self.models:
            model = reference()
            if model is not None:
                self._scan(name, model, step)

    def _scan(self, model_name: str, model: nn.Module, step: int) -> None:
        replicas = replicated(model)
        for order, one in enumerate(named(model)):
            key = (model_name, one.name)
            if key in self.left_out or not any(map(self.wants, (one.name, *one.aliases))):
                self.left_out.add(key)
                continue
            known = self.by_key.get(key)
            if known is not None and _is_gathered(known, one.parameter):
                continue
            note = why_not(one.parameter)
            form = _form(one.parameter)
            if known is not None and (known.note, known.form) == (note, form) and known.reference() is one.parameter:
                continue
            known = known or self._new(key)
            known.refer_to(one)
            self._note_freezing(key, known, one.parameter)
            known.note, known.form = note, form
            known.placement = placement_of(one.parameter, replicas.get(id(one.parameter)), self.is_alone)
            self._record(known, one, order, step)
            self.version += 1
        self.is_waiting = any(known.form is None for known in self.by_key.values())

    def _note_freezing(self, key: tuple[str, str], known: Known, parameter: nn.Parameter) -> None:
        if parameter.requires_grad:
            self.frozen.pop(key, None)
        elif is_trainable(known):
            self.frozen[key] = known

    @property
    def has_thawed(self) -> bool:
        """Does one that was frozen in mid-run learn again? Nothing else tells us."""
        held = [one.reference() for one in self.frozen.values()]
        return any(parameter is not None and parameter.requires_grad for parameter in held)

    def _new(self, key: tuple[str, str]) -> Known:
        """A tensor that is watched from now on; one of an earlier attempt keeps its id."""
        seen = self.seen.get(key)
        known = Known(len(self.known), *key) if seen is None else self.known[seen.id]
        if seen is None:
            self.known.append(known)
        self.by_key[key] = known
        return known

    def _compare(self, model: str) -> None:
        """Say how a model that is trained on differs from that of the earlier attempts, if it does."""
        before = tuple(one for one in self.seen.values() if one.model == model and one.role != "output")
        forms = {name: known.form for (one, name), known in self.by_key.items() if one == model and known.form != "output"}
        shapes = {name: tuple(form[0]) if isinstance(form, tuple) else None for name, form in forms.items()}
        told = changes(before, shapes) if before else ""
        if told:
            self.tell(f"{model} is not the model that this run recorded before: {told}. From here on the run is of this one")

    def _record(self, known: Known, one: Named, order: int, step: int) -> None:
        parameter = one.parameter
        waits = is_lazy(parameter)
        shape = [] if waits else list(parameter.shape)
        with self.recorder.lock:
            self.recorder.add(
                "tensors",
                step,
                self.recorder.attempt,
                known.tensor,
                known.model,
                one.name,
                one.role,
                one.module,
                shape,
                str(parameter.dtype).removeprefix("torch."),
                0 if waits else parameter.numel(),
                order,
                list(one.aliases),
                parameter.requires_grad,
                known.note,
                known.placement.kind,
                list(known.placement.shape),
                list(known.placement.offset),
            )

    def holds(self, weighed: Weighed, step: int) -> bool:
        """Does its model still have this very parameter under its name? Looks anew only where the name says no."""
        known = self.known[weighed.tensor]
        if known.placement.kind == SHARD:  # FSDP2 lends whole parameters in its place
            return True
        model = next((model for name, model in self.alive_models() if name == known.model), None)
        if model is None or _at(model, known.name) is weighed.parameter:
            if is_trainable(known) and not weighed.parameter.requires_grad:
                self.rescan(step)  # it was frozen
            return True
        self.rescan(step)
        return known.reference() is weighed.parameter

    def add_output(self, model: str, name: str, module: str, output: torch.Tensor, order: int, step: int) -> int:
        """The id of what a module gives; `order`: of execution."""
        known = self.by_key.get((model, name))
        if known is None:
            known = self._new((model, name))
            known.form = "output"
        dtype = str(output.dtype).removeprefix("torch.")
        key = (step, self.recorder.attempt, known.tensor, model, name, "output", module)
        with self.recorder.lock:
            shape, count = list(output.shape), output.numel()
            self.recorder.add("tensors", *key, shape, dtype, count, order, [], output.requires_grad, "", LOCAL, [], [])
        return known.tensor

    def id_of(self, parameter: torch.Tensor) -> int | None:
        """The id under which a parameter is watched."""
        if self.version != self._ids_of_version:
            self._ids_of_version = self.version
            self._ids = {id(known.reference()): known.tensor for known in self.by_key.values() if known.reference() is not None}
        tensor = self._ids.get(id(parameter))
        return tensor if tensor is not None and self.known[tensor].reference() is parameter else None

    @property
    def parameters(self) -> int:
        """How many parameters are known."""
        return sum(known.form not in ("output", _BEFORE) for known in self.known)

    def name(self, tensor: int) -> str:
        """The dotted name of a tensor, as PyTorch gives it."""
        return self.known[tensor].name

    def owned(self, ids: list[int]) -> list[Weighed]:
        """Those of the watched tensors that stand in this list of object ids and can be weighed."""
        wanted = set(ids)
        return [w for w in self.alive() if id(w.parameter) in wanted]

    def alive(self) -> list[Weighed]:
        """All watched tensors that still exist and can be weighed, each once."""
        found: dict[int, Weighed] = {}
        for known in self.by_key.values():
            parameter = known.reference()
            if parameter is not None and not why_not(parameter) and id(parameter) not in found:
                found[id(parameter)] = Weighed(parameter, known.tensor, _is_direct(parameter), known.placement.kind == COPY)
        return list(found.values())

    def orphans(self, held: Iterable[Weighed]) -> list[Weighed]:
        """Those of the tensors that optimizers hold whose module is gone, while nothing has come in its place; each once."""
        found: dict[int, Weighed] = {}
        for weighed in held:
            known = self.known[weighed.tensor]
            is_last = self.by_key.get((known.model, known.name)) is known and known.id == id(weighed.parameter)
            if is_last and known.owner() is None:
                found[weighed.tensor] = weighed
        return list(found.values())


def _of_before(seen: tuple[Seen, ...]) -> list[Known]:
    """By id; one whose description was lost has no name."""
    listed = [Known(number, "", "") for number in range(max((one.id + 1 for one in seen), default=0))]
    for one in seen:
        listed[one.id] = Known(one.id, one.model, one.name)
    for known in listed:
        known.form = _BEFORE
    return listed


def _at(model: nn.Module, name: str) -> object:
    *path, last = name.split(".")
    module: nn.Module | None = model
    for part in path:
        module = _entry(module._modules, part) if module is not None else None
    return None if module is None else _entry(module._parameters, last)


def _entry(known: Any, name: str) -> Any:
    """TorchScript's modules have something like a dictionary, without `get`."""
    return known[name] if name in known else None  # noqa: SIM401


def _is_gathered(known: Known, parameter: torch.Tensor) -> bool:
    """Between forward and backward FSDP2 lends its modules whole parameters; the shards live on and are what is trained."""
    return known.placement.kind == SHARD and not is_sharded(parameter) and known.reference() is not None


def _form(parameter: nn.Parameter) -> object:
    """What is told of a parameter and can change while it stays the same object; None before it is initialised."""
    if is_lazy(parameter):
        return None
    return parameter.shape, parameter.dtype, parameter.requires_grad


def is_trainable(known: Known) -> bool:
    """Did it require a gradient when it was last told of?"""
    return isinstance(known.form, tuple) and bool(known.form[2])


def _is_direct(parameter: torch.Tensor) -> bool:
    if is_sharded(parameter):  # its address and its gradient are those of the local part: asked in Python
        return False
    is_marked = parameter.is_conj() or parameter.is_neg()  # the numbers are not those that lie in memory
    return parameter.device.type == "cpu" and not is_marked and is_dense(as_real(parameter.detach()))
