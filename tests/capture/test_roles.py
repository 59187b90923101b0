"""Names and roles of parameters. Oracle: tables by hand, and torch's own `named_parameters`."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from weighbridge.capture.roles import is_norm, named, plain_name, plain_path


class LlamaRMSNorm(nn.Module):
    """A norm outside torch is known by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.beta = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(3))


class PositionEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(3))


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.beta, self.gain, self.weight_hh = (nn.Parameter(torch.zeros(3)) for _ in range(3))


ROLES: dict[str, tuple[nn.Module, dict[str, str]]] = {
    "linear": (nn.Linear(2, 3), {"weight": "weight", "bias": "bias"}),
    "recurrent": (
        nn.RNN(2, 3),
        {"weight_ih_l0": "weight", "weight_hh_l0": "weight", "bias_ih_l0": "bias", "bias_hh_l0": "bias"},
    ),
    "attention": (
        nn.MultiheadAttention(4, 2, add_bias_kv=True),
        {"in_proj_weight": "weight", "in_proj_bias": "bias", "bias_k": "bias", "bias_v": "bias"}
        | {"out_proj.weight": "weight", "out_proj.bias": "bias"},
    ),
    "batch norm": (nn.BatchNorm1d(3), {"weight": "norm_scale", "bias": "norm_shift"}),
    "layer norm": (nn.LayerNorm(3), {"weight": "norm_scale", "bias": "norm_shift"}),
    "group norm": (nn.GroupNorm(1, 3), {"weight": "norm_scale", "bias": "norm_shift"}),
    "a norm of others": (LlamaRMSNorm(), {"weight": "norm_scale", "beta": "norm_shift"}),
    "embedding": (nn.Embedding(4, 3), {"weight": "embedding"}),
    "bag": (nn.EmbeddingBag(4, 3), {"weight": "embedding"}),
    "an embedding of others": (PositionEmbedding(), {"table": "embedding"}),
    "own": (Own(), {"beta": "bias", "gain": "other", "weight_hh": "weight"}),
    "parametrised": (
        parametrizations.weight_norm(nn.Linear(2, 3)),
        {"bias": "bias"} | {f"parametrizations.weight.original{n}": "weight" for n in (0, 1)},
    ),
}


@pytest.mark.parametrize("kind", ROLES)
def test_roles_follow_from_the_module_and_the_name(kind: str) -> None:
    module, roles = ROLES[kind]
    assert {one.name: one.role for one in named(module)} == roles
    assert [one.name for one in named(module)] == [name for name, _ in module.named_parameters()]


@pytest.mark.parametrize(
    ("module", "expected"),
    [(nn.LayerNorm(3), True), (nn.InstanceNorm1d(3), True), (LlamaRMSNorm(), True), (nn.Linear(2, 3), False), (Own(), False)],
)
def test_a_norm_is_known_by_type_or_by_name(module: nn.Module, expected: bool) -> None:
    assert is_norm(module) is expected


def test_tied_parameters_keep_their_first_name_and_each_other_once() -> None:
    model = nn.ModuleDict(
        {"embed": nn.Embedding(4, 3), "head": nn.Linear(3, 4, bias=False), "tail": nn.Linear(3, 4, bias=False)}
    )
    model["head"].weight = model["tail"].weight = model["embed"].weight
    model["again"] = model["head"]
    (one,) = named(model)
    assert (one.name, one.role, one.module) == ("embed.weight", "embedding", "Embedding")
    assert one.aliases == ("head.weight", "tail.weight", "again.weight")
    assert one.owner is model["embed"]


def test_a_module_that_stands_in_a_wrapper_and_beside_it_has_one_name() -> None:
    model = nn.Module()
    model.layer = nn.Linear(2, 3, bias=False)
    model.layer._orig_mod = nn.Module()
    model.layer._orig_mod.register_parameter("weight", model.layer.weight)
    (one,) = named(model)
    assert (one.name, one.aliases) == ("layer.weight", ())


def test_a_missing_bias_is_no_parameter() -> None:
    assert [one.name for one in named(nn.Linear(2, 3, bias=False))] == ["weight"]


class DistributedDataParallel(nn.Module):
    """As torch's own names its part; the real one needs a process group."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class Inner(nn.Module):
    """The user's own attribute of that name stays."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(2, 3)


@pytest.mark.parametrize("compiled", [False, True])
def test_names_are_the_user_s_own_below_wrappers(compiled: bool) -> None:
    wrap = functools.partial(torch.compile, backend="eager") if compiled else lambda model: model
    assert [one.name for one in named(wrap(Inner()))] == ["module.weight", "module.bias"]
    assert [one.name for one in named(wrap(DistributedDataParallel(Inner())))] == ["module.weight", "module.bias"]
    assert [one.name for one in named(wrap(nn.DataParallel(nn.Linear(2, 3))))] == ["weight", "bias"]
    assert [one.name for one in named(nn.Sequential(wrap(nn.Linear(2, 3))))] == ["0.weight", "0.bias"]


def test_paths_without_a_wrapper_are_left() -> None:
    assert plain_name("a._fsdp_wrapped_module.b._checkpoint_wrapped_module.weight") == "a.b.weight"
    assert plain_path(nn.DataParallel(nn.Linear(2, 3)), "module") == ""
    assert plain_path(nn.Linear(2, 3), "module") == "module"
