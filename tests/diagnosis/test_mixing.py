"""How many attentions lie on every way to a loss: networks of torch of which a reader can count them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from weighbridge.capture.graphwalk import walk
from weighbridge.diagnosis.mixing import attentions


class _ByHand(nn.Module):
    def __init__(self, way: str = "matmul", is_residual: bool = False) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.way, self.is_residual = way, is_residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.way == "fused":
            mixed = F.scaled_dot_product_attention(q, k, v)
        elif self.way == "einsum":
            scores = torch.einsum("bqd,bkd->bqk", q, k)
            mixed = torch.einsum("bqk,bkd->bqd", F.dropout(scores.softmax(-1), 0.1), v)
        else:
            mixed = (q @ k.mT / 3).softmax(-1) @ v
        mixed = self.out(mixed)
        return x + mixed if self.is_residual else mixed


class _OfTorch(nn.Module):
    def __init__(self, weights: bool, queries: int = 0) -> None:
        super().__init__()
        self.attend, self.weights = nn.MultiheadAttention(8, 2, batch_first=True), weights
        self.queries = nn.Parameter(torch.randn(1, queries, 8)) if queries else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        asking = x if self.queries is None else self.queries.expand(len(x), -1, -1)
        mixed: torch.Tensor = self.attend(asking, x, x, need_weights=self.weights)[0]
        return mixed


def _counts(*layers: nn.Module, answer: Callable[[torch.Tensor], torch.Tensor] = lambda h: h) -> tuple[int, int]:
    """Where positions are asked for, and in all."""
    model = nn.Sequential(nn.Embedding(11, 8), *layers)
    head = nn.Linear(8, 3)
    loss = head(answer(model(torch.randint(0, 11, (4, 5))))).square().mean()
    parameters = [*model.named_parameters(), *((f"head.{name}", p) for name, p in head.named_parameters())]
    graph = walk([loss], {id(p): name for name, p in parameters}, lambda number: "")[0]
    return attentions(graph), attentions(graph, since_pools=False)


@pytest.mark.parametrize("way", ["matmul", "einsum", "fused"])
def test_attentions_by_hand_are_counted_and_a_residual_is_a_way_around(way: str) -> None:
    assert _counts(*(_ByHand(way) for _ in range(3))) == (3, 3)
    assert _counts(*(_ByHand(way, is_residual=True) for _ in range(3))) == (0, 0)
    assert _counts(_ByHand(way), nn.GELU(), nn.LayerNorm(8), _ByHand(way, is_residual=True)) == (1, 1)
    assert _counts(nn.Linear(8, 8), nn.ReLU()) == (0, 0)


@pytest.mark.parametrize("weights", [True, False])
def test_those_of_torch_are_counted(weights: bool) -> None:
    assert _counts(*(_OfTorch(weights) for _ in range(4))) == (4, 4)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert _counts(layer, layer) == (0, 0)


def test_behind_what_takes_all_positions_together_counting_begins_anew() -> None:
    two = (_ByHand(), _ByHand())
    assert _counts(*two, answer=lambda h: h.mean(1)) == (0, 2)
    assert _counts(*two, answer=lambda h: h.amax(1)) == (0, 2)
    assert _counts(*two, answer=lambda h: h[:, 0]) == (2, 2)  # one of them is no mean
    assert _counts(*two, _OfTorch(True, queries=1)) == (0, 3)
    assert _counts(*two, _OfTorch(False, queries=3)) == (3, 3)


def test_a_second_loss_with_a_way_of_its_own_is_a_way_around() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.plain = nn.Sequential(_ByHand(), _ByHand()), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.mix(x), self.plain(x)], 1)

    assert _counts(Two()) == (0, 0)
