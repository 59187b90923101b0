"""Plain measurements that were made before, so that a tool can be tried again without repeating them.

Kept by program, seed, torch's version and the text of the program's file and of its part's helpers: who changes one of these
measures anew. The bits at the end depend on the number of threads too, which is one for every trial (trial.py).
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

from clinic.frame.program import Program

FILE = Path(__file__).parents[1] / "results" / "truths.json"  # of this machine, not in the repository


def load() -> dict[str, Any]:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def save(truths: dict[str, Any]) -> None:
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(truths, indent=0, sort_keys=True))


def key(program: Program, name: str, seed: int) -> str:
    file = Path(str(sys.modules[program.train.__module__].__file__))
    texts = [torch.__version__.encode(), *(path.read_bytes() for path in (file, *sorted(file.parent.glob("_*.py"))))]
    return f"{program.part}/{name}/{seed}/{hashlib.sha256(b''.join(texts)).hexdigest()[:12]}"
