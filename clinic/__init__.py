"""The clinic: small trainings with a known fault, their repaired twins, and healthy ones that tempt. See README.md."""

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # trials run side by side; read by torch, NumPy and Arrow when they are imported
