"""One thread a process: where two tests run at once on two cores, more of them only wait for each other."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before torch is imported, and for every process that a test starts


@pytest.fixture(autouse=True, scope="session")
def all_the_time_at_the_end() -> Iterator[None]:
    """Rules and alerts have a few seconds at the end of a run; here they have what a loaded machine needs.

    That the time is bounded is tested where a test says how long it may be.
    """
    from weighbridge.diagnosis.beside import Beside
    from weighbridge.diagnosis.webhook import Webhook

    with pytest.MonkeyPatch.context() as patch:
        for ends in (Beside, Webhook):
            patch.setattr(ends.close, "__defaults__", (120.0,))
        yield
