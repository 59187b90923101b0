"""Small seeded runs with a known cause and many symptoms: what must be the primary cause, and what may stand beside it.

Each changes one thing (or two, where both must be named) of a training that is healthy without it. Truth: what is written here.
"""

from tests.diagnosis.known import beginning, data_and_loss, loop, numbers, one_step, rates, symptoms, two_faults
from tests.diagnosis.known.frame import RUNS, Known

__all__ = ["RUNS", "Known", "beginning", "data_and_loss", "loop", "numbers", "one_step", "rates", "symptoms", "two_faults"]
