"""Gradients are clipped to so small a size that the steps no longer teach anything.

Symptom        The loss hardly moves from its first value, although gradients are large and the learning rate looks right.
How it decides The factor of clipping f is at most FACTOR in PATIENCE recorded steps in a row. A step lowers the loss by at
               most -<g, u> (first order; in a valley it is less), where u is the real update and g the gradient before it was
               clipped, so used gradient / f. Told where this is at most STOPPED of the loss although without clipping it would
               be SLOWED_BY times that (or a tenth of STOPPED, and without clipping STOPPED itself); or at most SLOW of it and
               the loss has not fallen by IMPROVED in LONG steps. Where each tensor is clipped by itself, f is the factor
               between the norms of all gradients together. SGD's u is taken as what it will be once its momentum has forgotten
               longer gradients. f is measured at some steps; between them the norm of all gradients that stays the same
               (EQUAL) counts, until it is measured again. Clipping by value leaves no factor: there, most elements of all
               tensors stand exactly at one bound, the updates (or what these gradients alone will make of them, momentum being
               worn off) are at most CRAWL of the weights, and the loss has not fallen in LONG steps (STILL: in PATIENCE). In
               mid-run the loss since then counts (STILL: none), and the bound must be at most FACTOR of the largest gradient
               in the steps before.
What to do     Raise the limit to what the norm of the gradient usually is (print what `clip_grad_norm_` gives), or leave
               clipping out.
When it errs   Adam and its kind divide by the size of the gradient, so a constant factor changes nothing there: they are
               judged only where eps keeps them from it (updates below PACE of the learning rate). Steps during which the
               learning rate rises, or is below TAIL of the largest so far, do not count.
References     Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", section 3.2 (the limit should
               be near the average norm); Zhang et al. 2020, "Why Gradient Clipping Accelerates Training": a clipped step is
               a normalised one of size lr times the limit. First-order bound: Nesterov 2004, section 1.2.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from statistics import median

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, SeriesEvidence, ValueEvidence
from weighbridge.diagnosis.losscourse import LossCourse
from weighbridge.diagnosis.pace import promised
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.taken import Taken, taken, whole_norm
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.format import counted, factor, number, share

FACTOR = 0.1  # clipping that is meant as a guard leaves the usual gradient nearly whole
PATIENCE = 3  # steps; beyond the first batch, and the factor hardly scatters
STOPPED = 5e-4  # of the loss per step: 2,000 steps that all point the right way, to bring it to 0
SLOW = 2e-3  # the same, 500 steps
SLOWED_BY = 10.0  # = 1 / FACTOR: it is clipping that makes the step small, and not the learning rate alone
LONG = 20  # steps without IMPROVED: SLOW allows twice as much in them
IMPROVED = 0.02
EQUAL = 1e-4  # relative; clip_grad_norm_ adds 1e-6 to the norm, and float32 rounds
APART = "clipped_apart"  # event of capture: the factor by which the norm of all gradients was made smaller, each by its own
CRAWL = 1e-4  # update over weight: 10,000 steps to move a weight by its own size
STILL = 1e-5  # the same, 100,000 steps
PACE = 0.1  # of the learning rate; Adam's updates are 0.2 to 1 of it (Kingma and Ba 2015, section 2.1)
TAIL = 0.1
USUAL = 5  # steps before, whose median is the usual largest gradient
AT_BOUND = 0.5  # mean |g| over the largest |g|: of a normal distribution cut off at its sigma it is 0.63, uncut below 0.3
SAME = 1e-6  # relative: the bound as it is rounded in float32
PLAIN = frozenset({"SGD"})
Bounds = dict[int, tuple[np.ndarray, np.ndarray]]  # by optimizer, at each step of a block: as `_bounds` gives them


class _Norms:
    """Of all gradients of one optimizer: is their norm held at a limit?"""

    def __init__(self) -> None:
        self.before = self.unclipped = np.nan  # the last one, and the last that is known as it was before clipping

    def factor(self, norm: float, f: float) -> float:
        """That of clipping at this step; f: as it was measured. NaN where it is not known."""
        is_held = abs(norm - self.before) <= EQUAL * norm
        self.before = norm
        if f > 0:
            self.unclipped = norm / f
            return f
        return norm / self.unclipped if is_held else np.nan


class OvertightClipping(Rule):
    id, title = "overtight-clipping", "Clipping leaves too little of the gradient"
    severity, certainty, since = "warning", "heuristic", "0.1"
    needs = Needs(
        parameter=["l2_norm"],
        gradient=["l1_norm", "l2_norm", "abs_max", "count"],
        update=["l2_norm", "dot_gradient_update"],
        tables=["steps", "groups", "events"],
    )
    causes = ("low-learning-rate", "stalled-loss")
    experiment = "20 steps from the last checkpoint without clipping: if the loss falls no faster, this finding is wrong."

    def __init__(self) -> None:
        self.course: defaultdict[int, LossCourse] = defaultdict(LossCourse)  # by optimizer
        self.run: dict[int, list[tuple[int, float, float]]] = {}  # by optimizer: step, f, progress of the steps in a row
        self.crawl: dict[int, tuple[int, float]] = {}  # by optimizer: first of the steps in a row clipped by value; loss there
        self.unclipped: defaultdict[int, deque[float]] = defaultdict(lambda: deque(maxlen=USUAL))  # largest |g| before these
        self.norms: dict[int, _Norms] = {}  # by optimizer
        self.rate: dict[int, tuple[float, float]] = {}  # largest so far, and that of the step before
        self.is_known = self.is_told = False

    def start(self, tensors: Tensors) -> None:
        self.tensors = tensors

    def read(self, block: Block) -> Iterator[Finding]:
        bounds: Bounds = {}
        apart = {(row["step"], row["tensor"]): row["detail"]["factor"] for row in block.rows("events") if row["kind"] == APART}
        for one in taken(block):
            if self.is_told:
                return
            course = self.course[one.optimizer]
            course.add(one.loss)
            if self._is_in_ramp(one):
                continue
            f = one.clip_factor
            if apart and not f > 0:
                ids = [self.tensors[c].id for c in one.columns.tolist()]
                f = next((apart[one.step, tensor] for tensor in ids if (one.step, tensor) in apart), f)
            norm, is_measured = whole_norm(block, "gradient.l2_norm", one), f > 0
            f = self.norms.setdefault(one.optimizer, _Norms()).factor(norm, f)
            found = self._by_value(block, one, course, bounds)
            if found is None and f > 0:
                found = self._by_norm(block, one, course, f, is_measured)
            if found is not None:
                self.is_told = True
                yield found

    def _is_in_ramp(self, one: Taken) -> bool:
        """Does the learning rate rise, or is it near its end? Then small steps are meant."""
        now = max((rate for rate in one.row["lr"] or () if rate is not None), default=np.nan)
        largest, before = self.rate.get(one.optimizer, (0.0, np.inf))
        self.rate[one.optimizer] = (max(largest, now), now)
        return now > before or now < TAIL * largest

    def _by_norm(self, block: Block, one: Taken, course: LossCourse, f: float, is_measured: bool) -> Finding | None:
        self.is_known |= is_measured
        run = self.run.setdefault(one.optimizer, [])
        progress = self._progress(block, one) / f
        if f > FACTOR or not progress <= SLOW or not _is_by_clipping(progress, f) or self._is_normalised(block, one):
            run.clear()
            return None
        run.append((one.step, f, progress))
        if not is_measured:  # a full batch's gradients may be of one norm, too, once they are small: the next measure tells
            return None
        has_stopped = len(run) >= PATIENCE and max(p for _, _, p in run[-PATIENCE:]) <= STOPPED
        has_slowed = len(run) >= LONG and not course.has_improved(IMPROVED)
        return self._finding(run, has_stopped) if has_stopped or has_slowed else None

    def _progress(self, block: Block, one: Taken) -> float:
        """Most that the step lowers the loss by, of the loss; momentum will make of it up to 1 / (1 - momentum)."""
        momentum = one.momentum
        is_heavy_ball = np.isnan(one.setting("betas", part=0)) & (momentum > 0) & (momentum < 1)
        growth = 1 / (1 - np.where(is_heavy_ball, momentum, 0.0))
        if one.held.kinds == PLAIN and one.loss:  # its momentum may still be full of what was not clipped
            falls = growth * one.lr * block["gradient.l2_norm"][one.at, one.columns] ** 2
            if np.isfinite(falls).any():
                return float(np.nansum(falls)) / abs(one.loss)
        return promised(block, one, growth=growth)

    def _is_normalised(self, block: Block, one: Taken) -> bool:
        """Is the update of the size of the learning rate, whatever that of the gradient?"""
        if np.isnan(one.setting("eps")).all():
            return False
        count = block["gradient.count"][one.at, one.columns]
        update = whole_norm(block, "update.l2_norm", one)
        return bool(update > PACE * np.sqrt(np.nansum(count * one.lr**2)))

    def _by_value(self, block: Block, one: Taken, course: LossCourse, bounds: Bounds) -> Finding | None:
        if one.optimizer not in bounds:
            bounds[one.optimizer] = _bounds(block["gradient.abs_max"][:, one.columns])
        bound, is_common = (float(of_steps[one.at]) for of_steps in bounds[one.optimizer])
        if not bound:
            return None
        if not is_common:  # nearly always: the rest need not be added up
            self._ran_free(one, bound)
            return None
        count, total = (np.nansum(block[f"gradient.{n}"][one.at, one.columns]) for n in ("count", "l1_norm"))
        at_bound = float(total / (count * bound))
        update, weight = (whole_norm(block, f"{q}.l2_norm", one) for q in ("update", "parameter"))
        update = min(update, bound * self._reach(block, one))
        if at_bound < AT_BOUND or not update <= CRAWL * weight:
            self._ran_free(one, bound)
            return None
        self.is_known = True
        free = self.unclipped[one.optimizer]
        if len(free) == USUAL and not bound <= FACTOR * median(free):
            return None
        first, loss = self.crawl.setdefault(one.optimizer, (one.step, course.now))
        is_still, is_new = update <= STILL * weight, len(free) == USUAL
        has_fallen = loss - course.now > IMPROVED * abs(loss) if is_new else course.has_improved(IMPROVED)
        has_fallen &= not (is_still and is_new)  # while older steps wear off, and a median of steps comes down behind them
        is_clear = one.step - first >= (PATIENCE if is_still else LONG) - 1 and not has_fallen
        return _of_values(first, one.step, bound, at_bound, update / weight) if is_clear else None

    def _ran_free(self, one: Taken, bound: float) -> None:
        """A step that clipping by value does not hold back."""
        self.crawl.pop(one.optimizer, None)
        self.unclipped[one.optimizer].append(bound)

    def _reach(self, block: Block, one: Taken) -> float:
        """Norm of SGD's update that gradients of 1 everywhere come to, momentum included; infinity of others."""
        momentum = np.nan_to_num(one.momentum)
        if one.held.kinds != PLAIN or (momentum >= 1).any():
            return np.inf
        return float(np.sqrt(np.nansum(block["gradient.count"][one.at, one.columns] * (one.lr / (1 - momentum)) ** 2)))

    def _finding(self, run: list[tuple[int, float, float]], has_stopped: bool) -> Finding:
        steps, factors, progress = zip(*run[-LONG:], strict=True)
        now, f = progress[-1], factors[-1]
        words = "" if has_stopped else f", and it has not fallen in {counted(len(run), 'step')}"
        return Finding(
            place="",
            first_step=run[0][0],
            told_step=steps[-1],
            message=f"Clipping leaves {share(f)} of the gradient. A step lowers the loss by {share(now)} of it at most{words}; "
            f"unclipped it would be {factor(1 / f)} as much.",
            evidence=(
                ValueEvidence("factor of clipping", f, FACTOR),
                SeriesEvidence("most that a step lowers the loss by, of the loss", steps, progress, STOPPED),
            ),
            fix=f"Raise the limit of clipping to about {factor(1 / f)} of what it is, where the norm of the gradient lies, "
            "or leave clipping out.",
            depth=1.9,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        return None if self.is_known else (Outcome.NOT_APPLICABLE, "no clipping of gradients was seen")


def _is_by_clipping(progress: float, f: float) -> bool:
    """Is the step short by its clipping, and not by its rate alone?

    What is left of f tenfold or more lies between a length that teaches and one that does not: tenfold above STOPPED without
    clipping, or tenfold below it with.
    """
    clear = SLOWED_BY if progress > STOPPED / SLOWED_BY else 1.0
    return progress / f >= clear * STOPPED


def _bounds(largest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From the largest |g| of each tensor [steps, tensors]: the largest of all, and whether most tensors have that very one."""
    bound = np.fmax.reduce(largest, axis=1, initial=0.0)
    with np.errstate(all="ignore"):
        is_at = np.abs(largest / bound[:, None] - 1) <= SAME
    return bound, (is_at.sum(axis=1) >= 2) & (is_at.sum(axis=1) >= AT_BOUND * largest.shape[1])


def _of_values(first: int, step: int, bound: float, at_bound: float, ratio: float) -> Finding:
    return Finding(
        place="",
        first_step=first,
        told_step=step,
        message=f"Most elements of all gradients are exactly {number(bound)} or its negative: they are clipped by value. A "
        f"step moves the weights by {number(ratio)} of their size, and the loss does not fall.",
        evidence=(
            ValueEvidence("mean |g| over the largest |g|", at_bound, AT_BOUND),
            ValueEvidence("update over weight", ratio, CRAWL),
        ),
        fix="Raise the limit of clip_grad_value_ to the size of the largest gradients, or clip by the norm.",
        depth=1.9,
    )
