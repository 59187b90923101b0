"""The clinic: small trainings with a known fault, their repaired twins, and healthy ones that tempt. See README.md."""

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before torch is imported: trials run side by side, and their bits must not depend on it
