"""Plain torch modules, losses and optimizers from the words of a lab."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch import nn

from weighbridge.errors import BadInput, nearest
from weighbridge.teaching.data import Dataset
from weighbridge.teaching.options import Options
from weighbridge.teaching.words import optimizer_arguments

ACTIVATIONS: Final[dict[str, Callable[[], nn.Module]]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "celu": nn.CELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "relu6": nn.ReLU6,
    "hardtanh": nn.Hardtanh,
    "hardswish": nn.Hardswish,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
}
NORMS: Final[dict[str, Callable[[int], nn.Module]]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}

# Rates that small networks learn with; torch's own defaults are made for large ones, and SGD has none before 2.7.
USUAL_RATE: Final = 0.01
RATES: Final = {"adadelta": 1.0, "lbfgs": 1.0, "adagrad": 0.05}
UNFIT: Final = {"sparseadam": "it takes sparse gradients only, and a linear layer's are dense; use adam"}


def build(options: Options, data: Dataset, seed: int) -> nn.Sequential:
    """The network as plain torch modules, its starting values drawn from `seed`; the caller's random state is untouched.

    The draws are those of `torch.manual_seed(seed)` followed by the same modules in the same order. A layer without bias
    still draws the one it does not get, so that networks which differ in their biases start from the same weights.
    """
    sizes, biased = options.sizes(data), options.biased(data)
    modules: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for number, (inputs, units) in enumerate(itertools.pairwise(sizes), 1):
            linear = nn.Linear(inputs, units)
            if number not in biased:
                linear.register_parameter("bias", None)
            modules.append(linear)
            if number < len(sizes) - 1:
                if options.norm != "none":
                    modules.append(NORMS[options.norm](units))
                if options.activation != "none":
                    modules.append(ACTIVATIONS[options.activation]())
        model = nn.Sequential(*modules)
        for module in model:
            if isinstance(module, nn.Linear):
                _start(module.weight, options.init)
                if module.bias is not None:
                    _start(module.bias, options.init_bias)
    return model


def _start(parameter: torch.Tensor, word: str) -> None:
    """Give a parameter its starting values in place. "default" leaves what nn.Linear drew."""
    name, _, number = word.partition(":")
    known: dict[str, Callable[[torch.Tensor], Any]] = {
        "default": lambda tensor: tensor,
        "xavier": nn.init.xavier_uniform_,
        "xavier_normal": nn.init.xavier_normal_,
        "he": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
        "he_normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
        "orthogonal": nn.init.orthogonal_,
        "zeros": nn.init.zeros_,
        "ones": nn.init.ones_,
        "constant": lambda tensor: nn.init.constant_(tensor, float(number)),
        "normal": lambda tensor: nn.init.normal_(tensor, std=float(number)),
        "uniform": lambda tensor: nn.init.uniform_(tensor, -float(number), float(number)),
    }
    known[name](parameter)


def optimizer_names() -> list[str]:
    """Every optimizer of torch.optim that can train a linear layer, in lower case."""
    return sorted(name for name in _optimizers() if name not in UNFIT)


def _optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    found = {name.lower(): value for name, value in vars(torch.optim).items() if inspect.isclass(value)}
    return {n: c for n, c in found.items() if issubclass(c, torch.optim.Optimizer) and c is not torch.optim.Optimizer}


def learning_rate(options: Options) -> float:
    """The rate as given, else the usual one of the optimizer in a lab."""
    return options.lr if options.lr is not None else RATES.get(options.optimizer.partition(":")[0], USUAL_RATE)


def make_optimizer(options: Options, model: nn.Module) -> torch.optim.Optimizer:
    """Raises BadInput with torch's own words where it refuses."""
    name, arguments = options.optimizer.partition(":")[0], optimizer_arguments(options.optimizer)
    kind: Any = _optimizers()[name]
    accepted = [p for p in inspect.signature(kind).parameters if p != "params"]
    for argument in arguments:
        if argument not in accepted:
            raise BadInput(f"--optimizer {options.optimizer}: torch.optim.{kind.__name__} has no {argument!r}."
                           f"{nearest(argument, accepted)} It has: {', '.join(accepted)}.")  # fmt: skip
    try:
        made: torch.optim.Optimizer = kind(model.parameters(), **({"lr": learning_rate(options)} | arguments))
    except (ValueError, TypeError) as error:
        advice = " A network without biases and norms has matrices only: --bias none." if name == "muon" else ""
        raise BadInput(f"--optimizer {options.optimizer}: torch.optim.{kind.__name__} says: {error}.{advice}") from None
    return made


LOSSES: Final[dict[str, Callable[[], nn.Module]]] = {
    "mse": nn.MSELoss,
    "l1": nn.L1Loss,
    "huber": nn.HuberLoss,
    "cross_entropy": nn.CrossEntropyLoss,
    "bce": nn.BCEWithLogitsLoss,
}


def make_loss(name: str) -> nn.Module:
    return LOSSES[name]()


def targets_for(loss: str, y: torch.Tensor, task: str, outputs: int) -> torch.Tensor:
    """Targets in the form that a loss needs: class numbers, one column per class (0 or 1), or the numbers themselves."""
    if task == "regression":
        return y.float()
    if loss == "cross_entropy":
        return y.long()
    if outputs == 1:
        return y.float()[:, None]
    return nn.functional.one_hot(y.long(), outputs).float()


def score(outputs: torch.Tensor, y: torch.Tensor, task: str) -> float:
    """Accuracy of classes, or R² of numbers (1 = perfect, 0 = no better than the mean); NaN where outputs are not finite."""
    if not bool(torch.isfinite(outputs).all()):
        return math.nan
    if task == "classification":
        found = (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(dim=1)
        return float((found == y).double().mean())
    spread = float(((y - y.mean(dim=0)) ** 2).sum())
    return 1 - float(((outputs.double() - y) ** 2).sum()) / spread if spread else math.nan
