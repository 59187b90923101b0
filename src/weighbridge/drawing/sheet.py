"""A sheet to draw on: shapes and text as SVG, pixels as PNG inside it. Text is escaped; nothing in a picture can run."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from html import escape
from typing import Final, Literal

import numpy as np

from weighbridge.drawing.colours import INK

SANS: Final = "-apple-system,'Segoe UI','Liberation Sans','Helvetica Neue',Arial,sans-serif"
MONO: Final = "ui-monospace,'SF Mono','DejaVu Sans Mono',Menlo,monospace"
ANCHORS: Final = {"left": "start", "middle": "middle", "right": "end"}
LETTER: Final = 0.56  # width of a letter, as a share of its size; for what has to fit


class Sheet:
    """Draws in px from the upper left corner."""

    def __init__(self, width: int, title: str = "") -> None:
        self.width, self.title = width, title
        self._parts: list[str] = []

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 11,
        colour: str = INK["ink-3"],
        align: Literal["left", "middle", "right"] = "left",
        weight: int = 400,
        mono: bool = False,
    ) -> None:
        """One line, its middle at y."""
        family = MONO if mono else SANS
        self._parts.append(
            f'<text x="{x:.1f}" y="{y + size * 0.35:.1f}" font-family="{family}" font-size="{size}" font-weight="{weight}" '
            f'fill="{colour}" text-anchor="{ANCHORS[align]}">{escape(_printable(text))}</text>'
        )

    def rect(self, x: float, y: float, width: float, height: float, fill: str) -> None:
        self._parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}"/>')

    def line(self, points: Sequence[tuple[float, float]], colour: str, *, width: float = 1, dash: str = "") -> None:
        """A line from point to point."""
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dashed}/>')

    def area(self, points: Sequence[tuple[float, float]], fill: str, opacity: float) -> None:
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"
        self._parts.append(f'<path d="{path}" fill="{fill}" fill-opacity="{opacity}"/>')

    def mark(self, severity: str, x: float, y: float, size: float = 9) -> None:
        """Square, triangle, circle: severity by shape before colour."""
        half, fill = size / 2, INK.get(severity, INK["note"])
        if severity == "error":
            self.rect(x - half, y - half, size, size, fill)
        elif severity == "warning":
            self.area([(x, y - half), (x + half, y + half), (x - half, y + half)], fill, 1)
        else:
            self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{half}" fill="{fill}"/>')

    def pixels(self, x: float, y: float, index: np.ndarray, palette: np.ndarray) -> None:
        """index: uint8 [height, width] into palette, uint8 [colours, 4] (red, green, blue, opacity); one pixel is one px."""
        height, width = index.shape
        data = base64.b64encode(png(index, palette)).decode()
        self._parts.append(
            f'<image x="{x:.1f}" y="{y:.1f}" width="{width}" height="{height}" preserveAspectRatio="none" '
            f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>'
        )

    def put(self, other: Sheet, x: float, y: float) -> None:
        """Everything that is on another sheet."""
        self._parts.append(f'<g transform="translate({x:.1f} {y:.1f})">{"".join(other._parts)}</g>')

    def svg(self, height: float) -> str:
        """The whole picture."""
        title = f"<title>{escape(_printable(self.title))}</title>" if self.title else ""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{height:.0f}" '
            f'viewBox="0 0 {self.width} {height:.0f}" role="img">{title}'
            f'<rect width="100%" height="100%" fill="{INK["surface"]}"/>{"".join(self._parts)}</svg>'
        )


def png(index: np.ndarray, palette: np.ndarray) -> bytes:
    """A PNG of at most 256 colours, uint8 [height, width] into uint8 [colours, 4]."""
    height, width = index.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), index.astype(np.uint8)], axis=1)  # filter 0 before each row
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = [
        _chunk(b"IHDR", head),
        _chunk(b"PLTE", palette[:, :3].astype(np.uint8).tobytes()),
        _chunk(b"tRNS", palette[:, 3].astype(np.uint8).tobytes()),
        _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
        _chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def cut(text: str, width: float, size: float = 11) -> str:
    """The text in about so many px, its middle left out."""
    from weighbridge.format import cut_middle

    return cut_middle(text, max(1, int(width / (size * LETTER))))


def _printable(text: str) -> str:
    """XML holds no control characters."""
    from weighbridge.format import visible

    return visible(text)
