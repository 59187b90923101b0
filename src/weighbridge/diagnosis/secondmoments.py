"""The mean of each tensor's second moment, as Adam and its kind keep it, followed step by step from the gradients' sizes.

The mean over a tensor's elements goes through the moving average as each element does:
mean(v) of step t = beta2 mean(v) + (1 - beta2) mean(g^2). Where the moment itself was weighed, that number is taken.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.taken import Taken
from weighbridge.diagnosis.tensors import Tensors

KINDS: Final = ("Adam", "AdamW", "NAdam", "RAdam", "RMSprop")  # u = lr m / (sqrt(v) + eps), but for their corrections
RESUMED: Final = 2.0  # a second moment that is so many times what this step alone makes of it is older than the run


class SecondMoments:
    """Of all tensors; NaN where an optimizer keeps none, or nothing was recorded."""

    def __init__(self) -> None:
        self.mean, self.power = np.zeros(0), np.zeros(0)  # of v; beta2 to the number of steps seen
        self.steps = np.zeros(0, np.int64)

    def start(self, tensors: Tensors) -> None:
        """Make room for new tensors."""
        self.mean, self.power = tensors.grown(self.mean), tensors.grown(self.power, 1.0)
        self.steps = tensors.grown(self.steps)

    def follow(self, block: Block, one: Taken) -> np.ndarray:
        """mean(v) after this step, corrected for its start as the optimizer does: float64 [columns of the optimizer].

        block: needs `gradient.rms` and `moment2.mean`.
        """
        if one.held.kinds.isdisjoint(KINDS):
            return np.full(len(one.columns), np.nan)
        columns = one.columns
        beta = one.setting("betas", part=1)
        alpha = one.setting("alpha")  # RMSprop's, which does not correct for the start
        decay = np.where(np.isnan(beta), alpha, beta)
        square, kept = block["gradient.rms"][one.at, columns] ** 2, block["moment2.mean"][one.at, columns]
        is_seen = np.isfinite(square) & np.isfinite(decay)
        own = decay * self.mean[columns] + (1 - decay) * square
        is_old = (self.steps[columns] == 0) & (kept > RESUMED * own)
        now = np.where(np.isfinite(kept), kept, own)
        power = np.where(is_old | np.isnan(beta), 0.0, self.power[columns] * decay)
        self.mean[columns] = np.where(is_seen, now, self.mean[columns])
        self.power[columns] = np.where(is_seen, power, self.power[columns])
        self.steps[columns] += is_seen
        with np.errstate(all="ignore"):
            corrected: np.ndarray = np.where(is_seen, now / (1 - power), np.nan)
        return corrected


def own_updates(block: Block, one: Taken) -> np.ndarray:
    """Squared norm of each tensor's update without the part that decoupled weight decay adds (AdamW).

    block: needs `update.l2_norm`, `update.dot_update_parameter` and `parameter.l2_norm`.
    """
    update: np.ndarray = block["update.l2_norm"][one.at, one.columns]
    is_decoupled = one.setting("decoupled_weight_decay", 0.0) + one.held.spread([g.kind == "AdamW" for g in one.groups])
    if not is_decoupled.any():
        return update**2
    lost = np.where(is_decoupled > 0, one.lr * np.nan_to_num(one.weight_decay), 0.0)
    weight = block["parameter.l2_norm"][one.at, one.columns]
    dot = np.where(lost > 0, block["update.dot_update_parameter"][one.at, one.columns], 0.0)
    whole = update**2 + 2 * lost * dot + lost**2 * np.where(lost > 0, weight, 0.0) ** 2
    own: np.ndarray = np.maximum(whole, 0.0)
    return own
