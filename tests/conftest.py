"""One thread a process: where two tests run at once on two cores, more of them only wait for each other."""

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before torch is imported, and for every process that a test starts
