"""How what to try is written in the user's own code: his optimizer's class and groups, his layers' names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from weighbridge.diagnosis.layers import Layers
from weighbridge.diagnosis.stream import Group
from weighbridge.diagnosis.tensors import Tensors, in_code

# Activations whose slope is 1, or near it, on one side.
PASSING: Final = frozenset(("ReLU", "LeakyReLU", "PReLU", "ELU", "GELU", "SiLU", "Mish"))


def setting(groups: Sequence[Group], optimizer: int, name: str, value: str, number: int | None = None) -> str:
    """A setting of an optimizer as it is made, or of one of its groups. groups: of all optimizers; number: the group's.

    >>> groups = [Group(0, "SGD", 0, (0, 1)), Group(0, "SGD", 1, (2,)), Group(1, "AdamW", 0, (3,))]
    >>> setting(groups, 1, "lr", "0.001"), setting(groups, 0, "lr", "0.01", 1)
    ('AdamW(..., lr=0.001)', "param_groups[1]['lr'] = 0.01 in SGD")
    """
    mine = [group for group in groups if group.optimizer == optimizer]
    kind = mine[0].kind if mine else ""
    if number is not None and len(mine) > 1:
        return f"param_groups[{number}]['{name}'] = {value} in {kind or 'the optimizer'}"
    return f"{kind}(..., {name}={value})" if kind else f"{name}={value} in the optimizer"


def started(tensors: Tensors, output: int, function: str = "kaiming_normal_", more: str = "") -> str:
    """How the module that gives this output is started anew, with a bias of 0 where it has one."""
    layers = Layers(tensors)
    weight, bias = layers.weight(output), layers.bias(output)
    if weight is None:
        return f"nn.init.{function}(weight{more})"
    zeroed = "" if bias is None else f"; nn.init.zeros_({in_code(tensors.name(bias))})"
    return f"nn.init.{function}({in_code(tensors.name(weight))}{more}){zeroed}"


def made_passing(kinds: Collection[str], start: Callable[[str, str], str]) -> str:
    """What lets a gradient through layers among which there are modules of these kinds.

    start: how a layer is started anew, given a function of nn.init and what it is told. Gains: torch.nn.init.calculate_gain.
    """
    norm, relu = "put a norm layer or a shortcut between the layers", start("kaiming_normal_", "nonlinearity='relu'")
    if "Sigmoid" in kinds:
        return (
            "In place of nn.Sigmoid(), which passes on a quarter of a gradient at most, nn.ReLU() or nn.GELU(), and each layer "
            f"initialised for it, {relu}; or {norm}."
        )
    if "Tanh" in kinds:
        tanh = start("xavier_normal_", "gain=5 / 3")
        return f"Initialise each layer for nn.Tanh(), {tanh}; {norm}; or in its place nn.ReLU() or nn.GELU()."
    others = "" if PASSING.intersection(kinds) else "; in place of sigmoid or tanh, ReLU or GELU"
    return f"Initialise each layer for its activation, {relu}; {norm}{others}."
