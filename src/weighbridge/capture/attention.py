"""The largest logit of attention, from the queries and keys that modules give.

Fused attention shows no logits, so q.k / sqrt(size of a head) is computed anew for a few positions of a few samples, at the
steps of `Plan(units=...)`. Queries and keys are known by PyTorch's own module, by the names of projections side by side
("q_proj" and "k_proj"), or by the name of a fused projection whose output is three times as wide as its input. Rotary
embedding turns both and leaves their sizes: the largest logit is then that without it. Where a norm follows the
projections (QK-norm) nothing is computed: its scale bounds the logits.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

import numpy as np
import torch
from torch import nn

SAMPLES: Final = 8
POSITIONS: Final = 64
_AROUND: Final = r"(?:w|to|in|lin|linear|fc|attn|self)?_?(?:{})_?(?:proj|projection|lin|linear|layer|net|fc|map)?"
_QUERY: Final = re.compile(_AROUND.format("q|query|queries"), re.I)
_KEY: Final = re.compile(_AROUND.format("k|key|keys"), re.I)
_NORM: Final = re.compile(r"(?:q|k|query|key|qk)_?(?:norm|ln|layernorm|layer_norm|rmsnorm)", re.I)
# Not "query_key_value": there (GPT-NeoX, BLOOM, Falcon) the three lie side by side within each head.
_FUSED: Final = re.compile(r".*qkv.*|c_attn|in_proj|attn_in|to_q_k_v", re.I)
_HEADS: Final = (
    *("num_heads", "n_heads", "n_head", "heads", "num_attention_heads", "nhead", "nheads", "n_attention_heads", "h"),
)
QUERY, KEY, FUSED, WHOLE = "query", "key", "fused", "whole"


def part_of(path: str, module: nn.Module, around: nn.Module | None) -> str:
    """What of attention a module gives: QUERY, KEY, FUSED or WHOLE (PyTorch's own, with its projections); empty = nothing.

    A weight is never asked by name: a parametrised one would be made anew, and its spectral norm would move on.
    """
    if isinstance(module, nn.MultiheadAttention):
        return WHOLE if module._parameters.get("in_proj_weight") is not None else ""
    name = path.rpartition(".")[2]
    beside = [] if around is None else [child for child, _ in around.named_children()]
    if any(_NORM.fullmatch(child) for child in beside) or "weight" not in module._parameters:
        return ""
    if _FUSED.fullmatch(name):
        weight = module._parameters["weight"]
        is_three = isinstance(weight, torch.Tensor) and weight.dim() == 2 and 3 * min(weight.shape) == max(weight.shape)
        return FUSED if is_three else ""
    has_both = any(map(_QUERY.fullmatch, beside)) and any(map(_KEY.fullmatch, beside))
    return "" if not has_both else QUERY if _QUERY.fullmatch(name) else KEY if _KEY.fullmatch(name) else ""


def heads_of(around: nn.Module | None) -> int:
    """How many heads the module around the projections says it has; 1 where it does not say."""
    for name in _HEADS:
        found = getattr(around, name, None)
        if type(found) is int and found > 0:
            return found
    return 1


def positions_of(output: torch.Tensor) -> np.ndarray:
    """Some positions of some samples, float64 [samples, positions, width]. `output`: [samples, ..., width]."""
    y = output.detach()
    y = y.reshape(y.shape[0], -1, y.shape[-1]) if y.dim() > 2 else y.unsqueeze(0)
    step = max(1, math.ceil(y.shape[1] / POSITIONS))
    return np.asarray(y[:SAMPLES, ::step].to(torch.float64).numpy())


def largest_logit(q: np.ndarray, k: np.ndarray, heads: int) -> float:
    """max |q.k| / sqrt(d) over samples, heads and pairs of positions, d = width / heads. Vaswani et al. 2017, equation 1.

    q, k: float64 [samples, positions, width]; fewer heads of keys than of queries share them in turn. NaN where shapes
    do not fit.
    """
    d, left = divmod(q.shape[-1], heads)
    if left or not d or k.shape[-1] % d or len(q) != len(k):
        return math.nan
    q, k = (x.reshape(*x.shape[:2], -1, d).transpose(0, 2, 1, 3) for x in (q, k))
    if q.shape[1] % k.shape[1]:
        return math.nan
    k = np.repeat(k, q.shape[1] // k.shape[1], axis=1)
    return float(np.abs(q @ k.swapaxes(-1, -2)).max() / math.sqrt(d))


def of_whole(module: nn.MultiheadAttention, args: Any) -> float:
    """The same for PyTorch's module, from what it was called with."""
    known = module._parameters
    if "in_proj_bias" not in known or len(args) < 2 or any(type(x) is not torch.Tensor or x.dim() != 3 for x in args[:2]):
        return math.nan
    q, k = (positions_of(x if module.batch_first else x.transpose(0, 1)) for x in args[:2])
    weight, bias = module.in_proj_weight.detach().double().numpy(), known["in_proj_bias"]
    width = module.embed_dim
    added = np.zeros(2 * width) if bias is None else bias.detach().double().numpy()[: 2 * width]
    q, k = q @ weight[:width].T + added[:width], k @ weight[width : 2 * width].T + added[width:]
    return largest_logit(q, k, module.num_heads)


def of_fused(output: torch.Tensor, heads: int) -> float:
    """The same from an output that holds queries, keys and values side by side."""
    both = positions_of(output)
    width = both.shape[-1] // 3
    return largest_logit(both[..., :width], both[..., width : 2 * width], heads)
