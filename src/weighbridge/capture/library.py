"""Which built library belongs to this code. Standard library only: native/build.py loads this file by its path, in an
environment that has nothing else, so that builder and loader cannot part.
"""

from __future__ import annotations

import hashlib
import json
import sys
import sysconfig
from pathlib import Path
from typing import Any, Final

ABI: Final = 9  # WB_ABI in native/weighbridge_kernel.h
SOURCES: Final = (
    "build.py",
    "plain_arithmetic.h",
    "weigh_bins.h",
    "weigh_block.h",
    "weigh_lanes.h",
    "weigh_level.c",
    "weigh_output.h",
    "weighbridge_closely.c",
    "weighbridge_closely.h",
    "weighbridge_forward.c",
    "weighbridge_helper.c",
    "weighbridge_helper.h",
    "weigh_sketch.h",
    "weigh_together.h",
    "weighbridge_kernel.c",
    "weighbridge_kernel.h",
    "weighbridge_look.c",
    "weighbridge_look.h",
    "weighbridge_output.c",
    "weighbridge_output.h",
    "weighbridge_pairs.c",
    "weighbridge_pairs.h",
    "weighbridge_rows.c",
    "weighbridge_rows.h",
    "weighbridge_jump.c",
    "weighbridge_jump.h",
    "weighbridge_sketch.c",
    "weighbridge_sketch.h",
    "weighbridge_step.c",
)


def library_name() -> str:
    """File name of the library for this platform, e.g. "weighbridge_kernel-x86_64-linux-gnu.so".

    It knows no Python, so it needs no Python tag; MULTIARCH tells glibc from musl.
    """
    platform = sysconfig.get_config_var("MULTIARCH") or sysconfig.get_platform()
    return f"weighbridge_kernel-{platform if sys.platform != 'darwin' else sysconfig.get_platform()}.so"


def digest_of(native: Path) -> str:
    """One digest of everything that the library is made from."""
    digest = hashlib.sha256(f"abi {ABI}".encode())
    for name in SOURCES:
        digest.update(name.encode() + b"\0" + (native / name).read_bytes() + b"\0")
    return digest.hexdigest()[:32]


def write_label(library: Path, digest: str, version: str) -> Path:
    """The label beside a library says which build it is; an installed wheel has no sources to compare with."""
    label = library.with_name(library.name + ".json")
    label.write_text(json.dumps({"abi": ABI, "digest": digest, "version": version}) + "\n")
    return label


def expected_digest(library: Path, native: Path, version: str) -> tuple[str | None, str]:
    """The digest that the library must have, or None and the reason why no library would do.

    In a source tree the sources decide. In an installed wheel the label does, and it must be of this version.
    """
    if all((native / name).is_file() for name in SOURCES):
        return digest_of(native), ""
    label = library.with_name(library.name + ".json")
    try:
        told: dict[str, Any] = json.loads(label.read_text())
        if (told["version"], told["abi"]) != (version, ABI):
            return None, f"{library.name} was built for weighbridge {told['version']}, this is {version}"
        return str(told["digest"]), ""
    except (OSError, ValueError, KeyError, TypeError):
        return None, f"{label.name} is missing or unreadable"
