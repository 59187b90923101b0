"""What is watched, as rules see it: one column of every array per tensor. Columns are in the order in which tensors became
known, so a table only ever grows at its end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from weighbridge.store.views import Tensor


class Tensors(Sequence[Tensor]):
    """The table of tensors; equal where the descriptions are."""

    def __init__(self, described: Iterable[Tensor]) -> None:
        self.all = tuple(described)
        self.column = {t.id: i for i, t in enumerate(self.all)}
        self._by_name = {(t.model, name): i for i, t in enumerate(self.all) for name in (t.name, *t.aliases)}
        self.has_several_models = len({t.model for t in self.all}) > 1

    def __getitem__(self, at: int) -> Tensor:  # type: ignore[override]  # no slices: columns are single
        return self.all[at]

    def __len__(self) -> int:
        return len(self.all)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tensors) and self.all == other.all

    def __hash__(self) -> int:
        return hash(self.all)

    def zeros(self, kind: type = float) -> np.ndarray:
        """One 0 per tensor."""
        return np.zeros(len(self), kind)

    def grown(self, state: np.ndarray, fill: float = 0) -> np.ndarray:
        """A rule's state of fewer tensors, made as long as the table."""
        return np.concatenate([state, np.full(len(self) - len(state), fill, state.dtype)])

    def where(self, is_meant: Iterable[bool]) -> np.ndarray:
        """A boolean mask over the columns."""
        return np.fromiter(is_meant, bool, len(self))

    @property
    def is_parameter(self) -> np.ndarray:
        """Mask: parameters that can be weighed."""
        return self.where(not t.is_output and not t.note for t in self.all)

    def name(self, column: int) -> str:
        """The name for people: with its model where there are several."""
        return self.place(self.all[column].name, self.all[column].model)

    def place(self, name: str, model: str) -> str:
        """A module's or parameter's place in a finding."""
        return f"{model}:{name}" if self.has_several_models and name else model if self.has_several_models else name

    def place_of(self, column: int) -> str:
        """Where a finding is that is about this: the module that gives an output; a parameter itself."""
        tensor = self.all[column]
        return self.place(self.owner(column), tensor.model) if tensor.is_output else self.name(column)

    def owner(self, column: int) -> str:
        """The dotted path of the module that has this parameter, or gives this output; empty = the model itself."""
        name = self.all[column].name
        return name.partition("/")[0] if self.all[column].is_output else name.rpartition(".")[0]

    def outputs_of(self, column: int) -> list[int]:
        """What the module that has this parameter gives."""
        tensor, owner = self.all[column], self.owner(column)
        names = [*([owner] if owner else []), *(alias.rpartition(".")[0] for alias in tensor.aliases)]
        found = [self._by_name.get((tensor.model, f"{name}/out")) for name in names]
        return [column for column in found if column is not None]

    def families(self) -> list[list[int]]:
        """Parameters of the same shape whose names differ in one number: layers of a stack, or experts beside each other."""
        found: dict[tuple[str, str, tuple[int, ...]], list[int]] = {}
        for column in np.flatnonzero(self.is_parameter).tolist():
            tensor = self.all[column]
            parts = tensor.name.split(".")
            for i in (i for i, part in enumerate(parts) if part.isdigit()):
                found.setdefault((tensor.model, ".".join([*parts[:i], "*", *parts[i + 1 :]]), tensor.shape), []).append(column)
        return [columns for columns in found.values() if len(columns) > 1]

    def spans(self) -> dict[str, tuple[int, int]]:
        """Of each module and parameter whose outputs are known: its first and last place in the order of execution."""
        found: dict[str, tuple[int, int]] = {}
        outputs = [(self.owner(i), t) for i, t in enumerate(self.all) if t.is_output]
        for owner, tensor in outputs:
            for path in [*_around(owner), owner]:
                place = self.place(path, tensor.model)
                first, last = found.get(place, (tensor.order, tensor.order))
                found[place] = min(first, tensor.order), max(last, tensor.order)
        for column, tensor in enumerate(self.all):
            place = self.place(self.owner(column), tensor.model)
            if not tensor.is_output and place in found:
                found[self.place(tensor.name, tensor.model)] = found[place]
        return {place: span for place, span in found.items() if place}

    def together(self, columns: Iterable[int], among: np.ndarray) -> list[tuple[str, list[int]]]:
        """These parameters as few places: a module where all of its parameters (those of the mask `among`) are meant, else
        each on its own; every place with its columns."""
        meant = sorted({int(c) for c in columns})
        inside: dict[tuple[str, str], set[int]] = {}
        for column in np.flatnonzero(among).tolist():
            for path in _around(self.all[column].name):
                inside.setdefault((self.all[column].model, path), set()).add(column)
        left, found = set(meant), list[tuple[str, list[int]]]()
        for column in meant:
            if column not in left:
                continue
            tensor = self.all[column]
            whole = next((p for p in _around(tensor.name) if inside.get((tensor.model, p), {-1}) <= left), None)
            mine = sorted(inside[tensor.model, whole]) if whole is not None else [column]
            name = tensor.name if whole is None or len(mine) == 1 else whole
            found.append((self.place(name, tensor.model), mine))
            left -= set(mine)
        return found


def in_code(path: str) -> str:
    """How a module or parameter of `model` is written in Python.

    >>> in_code("encoder.3.weight"), in_code("judge:0.weight")
    ('model.encoder[3].weight', 'judge[0].weight')
    """
    model, _, inside = path.rpartition(":")
    parts = [f"[{part}]" if part.isdigit() else f".{part}" for part in inside.split(".") if part]
    return (model or "model") + "".join(parts)


def _around(name: str) -> list[str]:
    """The modules around a parameter, the outermost ("", the model) first."""
    parts = name.split(".")[:-1]
    return [".".join(parts[:n]) for n in range(len(parts) + 1)]
