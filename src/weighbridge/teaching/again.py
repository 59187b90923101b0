"""The twin of the Lab's page as a run of its own.

One process records one run at a time, and while the page plays it is the network's. When the reader keeps it, its twin is
trained once more with the same seed, steps and sliders, and recorded then: the same numbers, to the last bit.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

import weighbridge
from weighbridge.capture.live import wished
from weighbridge.teaching.training import Loop


def recorded_again(done: Loop, folder: Path, name: str) -> Path | None:
    """The run of this training; None where it did not come out the same (then nothing is left of it)."""
    loop = Loop(done.data, done.training.variant, done.training.seed)
    run = weighbridge.init(dir=folder, name=name, config=loop.config(), quiet=True)
    run.watch(loop.model, loop.optimizer, wishes=wished(live=False))
    changes = {(step, what): value for step, what, value in done.changes}
    for step in range(len(done.training.step_losses)):
        loop.batch = int(changes.get((step, "batch"), loop.batch))
        loop.rate = float(changes.get((step, "rate"), loop.rate))
        if loop.step():
            run.log({loop.data.score_name: loop.training.scores[-1], "epoch loss": loop.training.losses[-1]})
    run.finish()
    if np.array_equal(loop.training.step_losses, done.training.step_losses, equal_nan=True):
        return Path(run.path)
    shutil.rmtree(run.path, ignore_errors=True)
    return None
