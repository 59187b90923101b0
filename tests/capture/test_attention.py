"""What of attention modules give, and its largest logit. Oracle: tables by hand, and torch's own attention (its weights by a
softmax of logits that are then known but for a constant), never the code under test."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import weighbridge
from weighbridge.capture.attention import (
    FUSED,
    KEY,
    POSITIONS,
    QUERY,
    SAMPLES,
    WHOLE,
    heads_of,
    largest_logit,
    of_fused,
    of_whole,
    part_of,
    positions_of,
)


def block(**modules: nn.Module) -> nn.Module:
    return nn.ModuleDict(modules)


def linear(wide: int = 4, into: int = 4) -> nn.Linear:
    return nn.Linear(into, wide)


BOTH = {"q_proj": linear(), "k_proj": linear(), "v_proj": linear()}
PARTS: dict[str, tuple[nn.Module, str, str]] = {  # the module around, the name of the one asked for, what it is
    "query": (block(**BOTH), "q_proj", QUERY),
    "key": (block(**BOTH), "k_proj", KEY),
    "value": (block(**BOTH), "v_proj", ""),
    "words": (block(query=linear(), key=linear()), "key", KEY),
    "letters": (block(wq=linear(), wk=linear()), "wq", QUERY),
    "to_q": (block(to_q=linear(), to_k=linear()), "to_q", QUERY),
    "a query without a key": (block(q_proj=linear(), v_proj=linear()), "q_proj", ""),
    "a key without a query": (block(k_proj=linear(), v_proj=linear()), "k_proj", ""),
    "a norm behind": (block(**BOTH, q_norm=nn.LayerNorm(4)), "q_proj", ""),
    "no weight": (block(q_proj=nn.Identity(), k_proj=nn.Identity()), "q_proj", ""),
    "a parametrised weight": (block(q_proj=parametrizations.spectral_norm(linear()), k_proj=linear()), "q_proj", ""),
    "qkv": (block(qkv=linear(12)), "qkv", FUSED),
    "as GPT-2": (block(c_attn=linear(4, 12)), "c_attn", FUSED),
    "qkv of other widths": (block(qkv=linear(8)), "qkv", ""),
    "qkv of a convolution": (block(qkv=nn.Conv2d(4, 12, 1)), "qkv", ""),
    "side by side in each head": (block(query_key_value=linear(12)), "query_key_value", ""),
    "torch's own": (block(attention=nn.MultiheadAttention(4, 2)), "attention", WHOLE),
    "torch's own with other widths": (block(attention=nn.MultiheadAttention(4, 2, kdim=3, vdim=3)), "attention", ""),
    "something else": (block(first=linear(), second=linear()), "first", ""),
}


@pytest.mark.parametrize("kind", PARTS)
def test_projections_are_known_by_their_names_and_shapes(kind: str) -> None:
    around, name, part = PARTS[kind]
    assert (
        part_of(f"layers.0.{name}", getattr(around, name) if not isinstance(around, nn.ModuleDict) else around[name], around)
        == part
    )


def test_a_projection_in_no_module_has_no_other_beside_it() -> None:
    assert part_of("q_proj", linear(), None) == ""
    assert part_of("qkv", linear(12), None) == FUSED


@pytest.mark.parametrize(
    ("said", "heads"),
    [({}, 1), ({"num_heads": 4}, 4), ({"h": 2}, 2), ({"heads": 0, "h": 8}, 8), ({"n_head": True}, 1), ({"n_head": 4.0}, 1)],
)
def test_heads_are_those_that_the_module_around_says(said: dict[str, object], heads: int) -> None:
    around = nn.Module()
    for name, value in said.items():
        setattr(around, name, value)
    assert heads_of(around) == heads


def test_nothing_around_has_one_head() -> None:
    assert heads_of(None) == 1


def test_positions_are_taken_evenly_and_the_first_samples() -> None:
    y = torch.arange(3 * SAMPLES * 2 * POSITIONS * 2, dtype=torch.float32).reshape(3 * SAMPLES, 2 * POSITIONS, 2)
    assert np.array_equal(positions_of(y), y[:SAMPLES, ::2].double().numpy())
    assert np.array_equal(positions_of(y[:, :POSITIONS]), y[:SAMPLES, :POSITIONS].double().numpy())
    assert positions_of(y.unflatten(1, (POSITIONS, 2))).shape == (SAMPLES, POSITIONS, 2)
    assert np.array_equal(positions_of(y[:, 0].requires_grad_()), y[None, : 3 * SAMPLES, 0].detach().double().numpy())


def logit_by_torch(q: torch.Tensor, k: torch.Tensor, heads: int) -> float:
    """Of [samples, positions, width], from scaled_dot_product_attention: with one key the weight is 1, with two the logarithm
    of their weights' ratio is the difference of logits; the second key is 0, and so is its logit."""
    d, largest = q.shape[-1] // heads, 0.0
    q, k = (x.double().unflatten(-1, (-1, d)).transpose(1, 2) for x in (q, k))
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    for at in range(k.shape[2]):
        one = torch.stack([k[:, :, at], torch.zeros_like(k[:, :, at])], 2)
        weights = nn.functional.scaled_dot_product_attention(q, one, torch.eye(2, dtype=q.dtype).expand(*k.shape[:2], 2, 2))
        largest = max(largest, float((weights[..., 0].log() - weights[..., 1].log()).abs().max()))
    return largest


@pytest.mark.parametrize(("heads", "of_keys"), [(1, 1), (4, 4), (4, 2), (4, 1)])
def test_the_largest_logit_is_that_of_torch(heads: int, of_keys: int) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 5, 8), torch.randn(2, 3, 8 * of_keys // heads)
    found = largest_logit(q.double().numpy(), k.double().numpy(), heads)
    assert found == pytest.approx(logit_by_torch(q, k, heads), rel=1e-6)


@pytest.mark.parametrize(
    ("q", "k", "heads"),
    [
        ((2, 3, 9), (2, 3, 9), 2),  # no whole number of heads
        ((2, 3, 4), (2, 3, 4), 5),  # more heads than numbers
        ((2, 3, 8), (2, 3, 7), 2),
        ((2, 3, 8), (3, 3, 8), 2),  # other samples
        ((2, 3, 8), (2, 3, 12), 2),  # more heads of keys
        ((2, 3, 12), (2, 3, 8), 3),  # three heads cannot share two
    ],
)
def test_what_does_not_fit_has_no_logit(q: tuple[int, ...], k: tuple[int, ...], heads: int) -> None:
    assert math.isnan(largest_logit(np.ones(q), np.ones(k), heads))


def test_a_fused_projection_holds_queries_and_keys_in_its_first_two_thirds() -> None:
    torch.manual_seed(0)
    output = torch.randn(2, 5, 24)
    q, k, _ = output.chunk(3, -1)
    assert of_fused(output, 2) == pytest.approx(logit_by_torch(q, k, 2), rel=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_torch_s_own_module_projects_with_its_bias(bias: bool, batch_first: bool) -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(8, 2, bias=bias, batch_first=batch_first)
    x, y = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    if bias:
        nn.init.normal_(module.in_proj_bias)
    weights = (module.in_proj_weight @ one.reshape(-1, 8).T for one in (x, y))
    added = module.in_proj_bias if bias else torch.zeros(24)
    q, k = (w.T.reshape(*one.shape[:2], 24) + added for w, one in zip(weights, (x, y), strict=True))
    given = (x, y) if batch_first else (x.transpose(0, 1), y.transpose(0, 1))
    found = of_whole(module, (*given, given[1]))
    assert found == pytest.approx(logit_by_torch(q[..., :8].detach(), k[..., 8:16].detach(), 2), rel=1e-5)


@pytest.mark.parametrize(
    "args", [(), (torch.ones(2, 5, 8),), (torch.ones(5, 8),) * 2, (nn.Parameter(torch.ones(2, 5, 8)),) * 2]
)
def test_torch_s_own_module_called_otherwise_has_no_logit(args: tuple[torch.Tensor, ...]) -> None:
    assert math.isnan(of_whole(nn.MultiheadAttention(8, 2, batch_first=True), args))


@pytest.mark.parametrize("name", ["in_proj_weight", "in_proj_bias"])
def test_a_parametrised_projection_of_torch_s_own_module_is_left_alone(tmp_path: Path, name: str) -> None:
    """Its spectral norm moves on each time it is asked for. Oracle: the same training unwatched, with its buffers."""

    class Twice(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    def trained(folder: Path | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        attention = nn.MultiheadAttention(8, 2, batch_first=True)
        if name == "in_proj_weight":
            parametrizations.spectral_norm(attention, name)
        else:
            nn.utils.parametrize.register_parametrization(attention, name, Twice())
        model = nn.ModuleDict({"attention": attention, "head": nn.Linear(8, 1)})
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run = None if folder is None else weighbridge.init(dir=folder, name="run", quiet=True).watch(model)
        for _ in range(3):
            optimizer.zero_grad()
            x = torch.randn(3, 4, 8)
            model["head"](model["attention"](x, x, x)[0]).square().mean().backward()
            optimizer.step()
        if run is not None:
            run.finish()
        return model.state_dict()

    alone, watched = trained(None), trained(tmp_path)
    assert all(torch.equal(value, watched[key]) for key, value in alone.items())
    rows = weighbridge.open_run(tmp_path / "run").whole("spread").to_pylist()
    assert rows
    assert all(math.isnan(row["logit"]) for row in rows)
