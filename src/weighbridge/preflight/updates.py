"""What the next step of the given optimizers would add to each parameter: they are made again on the copy, and step there.

Not a formula for each kind, but the optimizer's own code with the settings of its own groups and what it keeps by now: weight
decay, momentum, a second moment, a learning rate that a warm-up has just begun. Its hooks are not called: a watched training
would take the copy's step for one of its own.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch


def next_updates(twin: torch.nn.Module, users: Mapping[str, torch.Tensor], optimizers: Iterable[Any]) -> Mapping[str, float]:
    """rms of the update of each parameter that an optimizer holds and that has a gradient. Changes the copy's parameters.

    `users`: the user's own parameters by name. Missing where it is not known: optimizers that are not torch's, or ask for the
    loss again (L-BFGS). Memory: the copy's parameters, and what the optimizers keep, once more.
    """
    found: dict[str, float] = {}
    mine = {id(users[name]): (name, p) for name, p in twin.named_parameters() if name in users and p.grad is not None}
    for one in optimizers:
        held = [mine[id(p)] for group in one.param_groups for p in group["params"] if id(p) in mine]
        before = {name: p.detach().clone() for name, p in held}
        if _stepped(one, {i: p for i, (_, p) in mine.items()}):
            found |= {name: _rms(p.detach().double() - before[name].double()) for name, p in held}
    return found


def _rms(tensor: torch.Tensor) -> float:
    return float(tensor.square().mean().sqrt())


def _stepped(optimizer: Any, twins: Mapping[int, torch.nn.Parameter]) -> bool:
    """Step an optimizer like this one on the twins of its parameters. False where that cannot be done."""
    step = _own_step(type(optimizer))
    if step is None:
        return False
    try:
        with torch.no_grad():
            step(_again(optimizer, twins))
    except Exception:  # one that asks for a closure, or keeps what cannot be copied: no number
        return False
    return True


def _own_step(kind: type) -> Callable[[Any], Any] | None:
    """torch's own function below the one that calls hooks; None of an optimizer from elsewhere."""
    step: Any = getattr(kind, "step", None)
    own: Any = getattr(step, "__wrapped__", None) if getattr(step, "hooked", False) else step
    return own if str(getattr(own, "__module__", "")).startswith("torch.optim.") else None


def _again(optimizer: Any, twins: Mapping[int, torch.nn.Parameter]) -> Any:
    """The optimizer's settings and state on the twins of its parameters; those of other models are left out."""
    groups = [
        {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
        | {"params": [twins[id(p)] for p in group["params"] if id(p) in twins]}
        for group in optimizer.param_groups
    ]
    state: Any = defaultdict(dict)
    for parameter, kept in optimizer.state.items():
        if id(parameter) in twins:
            state[twins[id(parameter)]] = copy.deepcopy(kept)
    made = object.__new__(type(optimizer))
    made.__setstate__({"defaults": copy.deepcopy(optimizer.defaults), "state": state, "param_groups": groups})
    return made
