"""JSON in one line that knows its own checksum.

The last key, "check", is the CRC-32 of all bytes of the line (its newline included) with the eight hexadecimal digits
of the check written as zeros. The digits are compared exactly as they stand, so that any single flipped bit shows.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from weighbridge.errors import CorruptRun, NewerFormat
from weighbridge.records import FORMAT_VERSION

_TAIL: Final = b'"check":"00000000"}\n'
_DIGITS_FROM, _DIGITS_TO = -11, -3


def seal(line: bytes) -> bytes:
    """A JSON object's bytes (no newline) with its check put in as the last key."""
    body = line[:-1] + (b"," if len(line) > 2 else b"") + _TAIL
    return body[:_DIGITS_FROM] + b"%08x" % zlib.crc32(body) + body[_DIGITS_TO:]


def is_sealed(line: bytes) -> bool:
    """Do these bytes, newline included, agree with their own check?"""
    if len(line) < len(_TAIL) + 1:
        return False
    blank = line[:_DIGITS_FROM] + b"00000000" + line[_DIGITS_TO:]
    return line[_DIGITS_FROM:_DIGITS_TO] == b"%08x" % zlib.crc32(blank) and blank.endswith(_TAIL)


def write_sealed(path: Path, content: Mapping[str, Any], *, replace: bool = False) -> None:
    """Write one sealed object; with `replace` in one atomic step, else the file must not exist yet."""
    line = seal(json.dumps(content, separators=(",", ":"), default=str).encode())
    target = path.with_name(f"{path.name}.{os.getpid()}.part") if replace else path
    with open(target, "wb" if replace else "xb") as file:
        try:
            file.write(line)
            file.flush()
        except OSError:  # a full disk: half a file would look like damage
            target.unlink(missing_ok=True)
            raise
    if replace:
        os.replace(target, path)


def read_sealed(path: Path) -> dict[str, Any]:
    """Read one sealed object. Raises CorruptRun, NewerFormat or OSError."""
    line = path.read_bytes()
    if not is_sealed(line):
        raise CorruptRun(
            f"{path}, bytes 0 to {len(line)}: the text disagrees with its own checksum. "
            "Restore the file from a copy; weighbridge verify lists everything that is damaged in this run."
        )
    content: dict[str, Any] = json.loads(line)
    require_known_format(path, content.get("format", FORMAT_VERSION))
    return content


def require_known_format(path: Path, version: int) -> None:
    """Raise NewerFormat for a file that this version cannot know."""
    if version > FORMAT_VERSION:
        raise NewerFormat(
            f"{path} has format {version}; this weighbridge reads up to format {FORMAT_VERSION}. "
            "Nothing was changed. Install a newer weighbridge to read it: pip install --upgrade weighbridge"
        )
