"""Trials away from the tests' own process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from clinic.frame.trial import Result


def in_new_process(tried: Callable[[], list[Result]]) -> list[Result]:
    """What `tried`, a function of a module, returns in a new process.

    Trials are forked, from a process that has not trained; one that has run other tests has, and a fork does not take
    its threads along.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as new:
        return new.submit(tried).result()
