"""What kinds of modules there are for us: which compute something, which can make NaN or infinity, where their units lie."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Final, TypeGuard

import torch
from torch import nn

_NOTHING_OF_THEIR_OWN: Final = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Identity, nn.Flatten, nn.Unflatten)
_WRAPPERS: Final = ("DistributedDataParallel", "DataParallel", "OptimizedModule", "FullyShardedDataParallel")
# From finite numbers these make finite ones, forward and backward: their derivative is bounded.
BOUNDED: Final = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Softsign),
    *(
        nn.Tanh,
        nn.Sigmoid,
        nn.LogSigmoid,
        nn.Hardtanh,
        nn.Hardswish,
        nn.Hardsigmoid,
        nn.Hardshrink,
        nn.Softshrink,
        nn.Tanhshrink,
    ),
    *(nn.Threshold, nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.PixelShuffle, nn.PixelUnshuffle, nn.ZeroPad2d, nn.Upsample),
)
CHANNELS_SECOND: Final = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)


def computes(path: str, module: nn.Module) -> bool:
    """Does a module compute something of its own, so that what it gives is worth a look?"""
    if "parametrizations" in path.split("."):
        return False
    return type(module) not in _NOTHING_OF_THEIR_OWN and type(module).__name__ not in _WRAPPERS


def takes_hooks(module: nn.Module | None) -> TypeGuard[nn.Module]:
    """Is it still there, and can a hook be registered on it? Scripted modules refuse, traced ones do not."""
    if isinstance(module, torch.jit.ScriptModule):
        return type(module).register_forward_hook is nn.Module.register_forward_hook
    return module is not None


def differs_in_evaluation(module: nn.Module) -> bool:
    """Is it in evaluation mode, and does it compute something else there? A batch norm that is frozen does so on purpose."""
    if module.training:
        return False
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        parameters = [p for p in module._parameters.values() if p is not None]
        return module.running_mean is not None and (not parameters or any(p.requires_grad for p in parameters))
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    dropped = getattr(module, "dropout", 0.0)  # of recurrent layers and attention
    return isinstance(module, nn.RNNBase | nn.MultiheadAttention) and isinstance(dropped, int | float) and dropped > 0


def first_parameter(modules: Iterable[object]) -> nn.Parameter | None:
    """The first parameter of the first of these modules that has one."""
    for module in modules:
        first = next(module.parameters(), None) if isinstance(module, nn.Module) else None
        if first is not None:
            return first
    return None


def around(model: nn.Module, path: str) -> tuple[Callable[[], nn.Module | None], ...]:
    """The modules around this one, the nearest first."""
    found = [model]
    for part in path.split(".")[:-1]:
        found.append(getattr(found[-1], part))  # TorchScript's modules have no `get_submodule`
    return tuple(weakref.ref(module) for module in reversed(found))


def is_owned(root: nn.Module | None, ids: set[int]) -> bool:
    return root is not None and any(id(p) in ids for p in root.parameters())
