"""Tensors and statistics of a run as a person names them, and those that are meant by what was typed."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

from weighbridge.catalog import all_names, parse
from weighbridge.errors import UnknownTensor, nearest
from weighbridge.records import OF_OUTPUTS, Quantity
from weighbridge.store.record import RunRecord, Tensor

_ROLE_FIRST: Final = {"weight": 0, "norm_scale": 0, "bias": 1, "norm_shift": 1}


# Whether a run has several models: asked for every line, so it is kept for as long as the record is.
_SEVERAL: WeakKeyDictionary[RunRecord, bool] = WeakKeyDictionary()


def label(record: RunRecord, tensor: Tensor) -> str:
    """The tensor's name as a person types it; with its model's where the run has several."""
    if record not in _SEVERAL:
        _SEVERAL[record] = len({t.model for t in record.tensors}) > 1
    return f"{tensor.model}:{tensor.name}" if _SEVERAL[record] else tensor.name


def typed_name(record: RunRecord) -> str:
    """What a person types to name this run again: its name below ./weighbridge-runs, else its path."""
    return record.path.name if record.path.parent == Path("weighbridge-runs") else str(record.path)


def in_pairs(tensors: Iterable[Tensor]) -> list[Tensor]:
    """All tensors, those of one module together and its weight before its bias."""
    first_seen: dict[tuple[str, str], int] = {}
    for place, tensor in enumerate(tensors := list(tensors)):
        first_seen.setdefault((tensor.model, module_path(tensor.name)), place)
    return sorted(
        tensors, key=lambda t: (first_seen[(t.model, module_path(t.name))], _ROLE_FIRST.get(t.role, 2), t.order, t.name)
    )


def module_path(name: str) -> str:
    """The module's part of a tensor's name: `layers.3` of `layers.3.weight`."""
    return name.rpartition(".")[0]


def choose_tensors(record: RunRecord, wanted: Sequence[str]) -> list[Tensor]:
    """The tensors of these names or patterns (`layers.*.bias`), in pairs. Raises UnknownTensor with the nearest names."""
    asks_outputs = any("/" in name for name in wanted)  # only their names have one
    everything = (*record.tensors, *record.outputs) if asks_outputs else record.tensors
    names = {t.id: {t.name, label(record, t), *t.aliases} for t in everything}
    chosen: dict[int, Tensor] = {}
    for pattern in wanted or ("*",):
        found = [t for t in everything if pattern in names[t.id]]
        found = found or [t for t in everything if any(fnmatch.fnmatchcase(n, pattern) for n in names[t.id])]
        if not found and wanted:
            raise UnknownTensor(_no_tensor(record, pattern, sorted(set().union(*names.values()))))
        chosen |= {t.id: t for t in found}
    return in_pairs(chosen.values())


def _no_tensor(record: RunRecord, pattern: str, known: Sequence[str]) -> str:
    name = record.info.name
    if not known:
        return f"{name} knows no tensors yet, so none is {pattern!r}. They are known from the first optimizer step on."
    hint = nearest(pattern, known) or f" It has {', '.join(known[:3])}{', ...' if len(known) > 3 else ''}."
    return f"The run {name} has no tensor {pattern!r}.{hint} All of them: weighbridge show {typed_name(record)} --all"


def choose_statistics(wanted: Sequence[str], default: Sequence[str]) -> list[str]:
    """The statistics of these names; `all` and patterns (`gradient.*`) are understood. Raises UnknownStatistic."""
    if not wanted:
        return list(default)
    chosen: list[str] = []
    for name in wanted:
        pattern = "*" if name == "all" else name
        found = fnmatch.filter(all_names(), pattern) if set("*?[") & set(pattern) else []
        if not found:
            parse(name)
            found = [name]
        chosen += [n for n in found if n not in chosen]
    return chosen


def statistics_of(record: RunRecord, tensor: Tensor) -> list[str]:
    """Every statistic that is weighed of such a tensor."""
    if tensor.is_output:
        return all_names(OF_OUTPUTS)
    moments = [
        q for q in (Quantity.MOMENT1, Quantity.MOMENT2) if len(record.series(label(record, tensor), f"{q.word}.rms").steps)
    ]
    return [*all_names(), *all_names(moments)]
