"""The mean of each tensor's second moment, as Adam and its kind keep it, followed step by step from the gradients' sizes.

The mean over a tensor's elements goes through the moving average as each element does:
mean(v) of step t = beta2 mean(v) + (1 - beta2) mean(g^2). Where the moment itself was weighed, that number is taken.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.taken import Held, Taken, taken
from weighbridge.diagnosis.tensors import Tensors

KINDS: Final = ("Adam", "AdamW", "NAdam", "RAdam", "RMSprop")  # u = lr m / (sqrt(v) + eps), but for their corrections
RESUMED: Final = 2.0  # a second moment that is so many times what this step alone makes of it is older than the run


class SecondMoments:
    """Of all tensors; NaN where an optimizer keeps none, or nothing was recorded."""

    def __init__(self) -> None:
        self.mean, self.power = np.zeros(0), np.zeros(0)  # of v; beta2 to the number of steps seen
        self.steps = np.zeros(0, np.int64)
        self.is_resumed = np.zeros(0, bool)  # older than the run

    def start(self, tensors: Tensors) -> None:
        """Make room for new tensors."""
        self.mean, self.power = tensors.grown(self.mean), tensors.grown(self.power, 1.0)
        self.steps, self.is_resumed = tensors.grown(self.steps), tensors.grown(self.is_resumed)

    def follow(self, block: Block) -> dict[int, np.ndarray]:
        """mean(v) after each step, corrected for its start as the optimizer does: float64 [steps of the block, columns].

        By optimizer; NaN where it took no step. block: needs `gradient.rms` and `moment2.mean`.
        """
        steps: dict[int, list[int]] = {}
        holders: dict[int, Held] = {}
        for one in taken(block):
            steps.setdefault(one.optimizer, []).append(one.at)
            holders[one.optimizer] = one.held
        return {number: self._follow(block, holders[number], at) for number, at in steps.items()}

    def _follow(self, block: Block, held: Held, steps: list[int]) -> np.ndarray:
        found = np.full((len(block), len(held.columns)), np.nan)
        if held.kinds.isdisjoint(KINDS):
            return found
        columns = held.columns
        beta = held.setting("betas", np.nan, 1)
        decay = np.where(np.isnan(beta), held.setting("alpha", np.nan, None), beta)
        square, kept = block["gradient.rms"][:, columns] ** 2, block["moment2.mean"][:, columns]
        is_seen, new = np.isfinite(square) & np.isfinite(decay), (1 - decay) * square
        is_plain = is_seen.all(axis=1) & ~np.isfinite(kept).any(axis=1)
        mean, power, count = self.mean[columns], self.power[columns], self.steps[columns]
        power[np.isnan(beta)] = 0.0  # RMSprop does not correct for the start
        corrections = np.ones_like(found)
        for i in steps:
            if is_plain[i]:  # nearly always
                mean = np.add(decay * mean, new[i], out=found[i])
                power = power * decay
            else:
                own, seen = decay * mean + new[i], is_seen[i]
                is_old = (count == 0) & (kept[i] > RESUMED * own)
                self.is_resumed[columns] |= is_old
                mean = np.where(seen, np.where(np.isfinite(kept[i]), kept[i], own), mean)
                power = np.where(seen, np.where(is_old, 0.0, power * decay), power)
                found[i] = np.where(seen, mean, np.nan)
            count = count + is_seen[i]
            corrections[i] -= power
        self.mean[columns], self.power[columns], self.steps[columns] = mean, power, count
        with np.errstate(all="ignore"):
            corrected: np.ndarray = found / corrections
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
