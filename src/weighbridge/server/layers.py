"""The layers of a run in the order in which they are executed: which parameters each has, and what it gives."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field

from weighbridge.store.record import RunRecord, Tensor

_BIAS_ROLES = ("bias", "norm_shift")


@dataclass(slots=True)
class Layer:
    """One module that has parameters of its own, or whose output is weighed."""

    model: str
    path: str  # PyTorch's dotted name; empty = the model itself
    kind: str  # class of the module
    parameters: list[Tensor] = field(default_factory=list)  # weight before bias
    outputs: list[Tensor] = field(default_factory=list)


def owner(tensor: Tensor) -> str:
    """The dotted path of the module that has this parameter, or gives this output.

    >>> owner_of("0.weight"), owner_of("encoder.1/out")
    ('0', 'encoder.1')
    """
    return owner_of(tensor.name)


def owner_of(name: str) -> str:
    """As `owner`, of a name."""
    path, slash, _ = name.partition("/")
    return path if slash else name.rpartition(".")[0]


_KNOWN: weakref.WeakKeyDictionary[RunRecord, tuple[tuple[Tensor, ...], list[Layer]]] = weakref.WeakKeyDictionary()


def layers_of(record: RunRecord) -> list[Layer]:
    """All layers: in order of execution, and where that is not known after the layer that was defined before it.

    The same list until a tensor is added.
    """
    known = _KNOWN.get(record)
    if known is None or known[0] is not record.everything:
        known = _KNOWN[record] = (record.everything, _layers(record))
    return known[1]


def _layers(record: RunRecord) -> list[Layer]:
    found: dict[tuple[str, str], Layer] = {}
    for tensor in (*record.tensors, *record.outputs):
        key = (tensor.model, owner(tensor))
        layer = found.setdefault(key, Layer(*key, tensor.module))
        (layer.outputs if tensor.is_output else layer.parameters).append(tensor)
    for layer in found.values():
        layer.parameters.sort(key=lambda t: t.role in _BIAS_ROLES)
    executed = {(t.model, owner(t)): i for i, t in reversed([*enumerate(record.outputs)])}
    place: dict[tuple[str, str], float] = {}
    before = dict[str, float]()
    for key in found:
        place[key] = before[key[0]] = executed.get(key, before.get(key[0], -1.0))
    models = list(dict.fromkeys(model for model, _ in found))
    return sorted(found.values(), key=lambda layer: (models.index(layer.model), place[layer.model, layer.path]))


def in_order(layers: Sequence[Layer], *, outputs: bool) -> list[Tensor]:
    """All their parameters, or all their outputs."""
    return [tensor for layer in layers for tensor in (layer.outputs if outputs else layer.parameters)]


def is_bias(tensor: Tensor) -> bool:
    """Does it add, rather than multiply?"""
    return tensor.role in _BIAS_ROLES


@functools.lru_cache(maxsize=65_536)
def folded_name(path: str) -> str:
    """The group that a name is folded into: up to its first number, else its first word.

    >>> folded_name("h.3.attn.c_attn.weight"), folded_name("wte.weight"), folded_name("0.weight")
    ('h.3', 'wte', '0')
    """
    parts = path.partition("/")[0].split(".")
    numbered = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[: numbered + 1])
