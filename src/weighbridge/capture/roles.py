"""What a tensor is for: its role, from its module's type and its own name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


@dataclass(frozen=True, slots=True)
class Named:
    """A parameter under the dotted name that PyTorch gives it; tied parameters keep the first name."""

    parameter: nn.Parameter
    name: str
    role: str
    module: str
    aliases: tuple[str, ...]
    owner: nn.Module  # whose attribute it is, by the last part of its name


def is_norm(module: nn.Module) -> bool:
    """Is this a normalisation? Known by type, or by name for the many RMSNorm classes outside torch."""
    return isinstance(module, _NORMS) or type(module).__name__.lower().endswith("norm")


def role_of(module: nn.Module, name: str) -> str:
    """The role of parameter `name` (without dots) of `module`: one of `records.ROLES`.

    >>> held = nn.ParameterDict()  # as Keras holds those of all its layers
    >>> role_of(nn.Linear(2, 2), "weight"), role_of(held, "dense/kernel"), role_of(held, "dense/bias"), role_of(held, "alpha")
    ('weight', 'weight', 'bias', 'other')
    """
    is_bias = "bias" in name or name == "beta"
    if is_norm(module):
        return "norm_shift" if is_bias else "norm_scale"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) or "embedding" in type(module).__name__.lower():
        return "embedding"
    if is_bias:
        return "bias"
    return "weight" if "weight" in name or name.startswith("original") or name.endswith("kernel") else "other"


_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


def plain_name(name: str) -> str:
    """The user's own dotted name: prefixes that wrappers add are taken out.

    >>> plain_name("module._orig_mod.0.weight")
    'module.0.weight'
    """
    for prefix in _WRAPPERS:
        name = name.replace(prefix, "")
    return name


def plain_path(model: nn.Module, path: str) -> str:
    """The user's own path of a module (or name of a parameter) in a model that may be wrapped as a whole."""
    outermost = getattr(model, "_orig_mod", model)
    prefix = "module." if type(outermost).__name__ in ("DistributedDataParallel", "DataParallel") else ""
    return f"{plain_name(path)}.".removeprefix(prefix)[:-1]


def named(model: nn.Module) -> list[Named]:
    """All parameters of a model in the order of definition, tied ones once."""
    found: dict[int, Named] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            full = plain_path(model, f"{path}.{name}" if path else name)
            known = found.get(id(parameter))
            if known is None:
                found[id(parameter)] = Named(parameter, full, role_of(module, name), type(module).__name__, (), module)
            elif full != known.name and full not in known.aliases:
                found[id(parameter)] = replace(known, aliases=(*known.aliases, full))
    return list(found.values())
