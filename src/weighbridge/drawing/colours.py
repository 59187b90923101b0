"""The page's light colours. The scales have 65 stops in equal steps of OKLab; a test compares them with the page's sources."""

from __future__ import annotations

from typing import Final

import numpy as np

INK: Final = {
    "surface": "#ffffff",
    "line": "#e2dfd8",
    "line-2": "#cbc7be",
    "ink": "#1b1f26",
    "ink-2": "#474d57",
    "ink-3": "#5f656f",
    "weight": "#2b4686",
    "bias": "#b9558f",
    "error": "#a8290f",
    "warning": "#b07a00",
    "note": "#2c72b8",
    "trouble": "#e8491d",
    "hatch": "#bdb8ae",
    "run-a": "#2b4686",
    "run-b": "#c4731b",
}
RUNS: Final = (INK["run-a"], INK["run-b"], "#4e6b5f", "#7b3f98", "#666c76", "#2c72b8", "#b9558f", "#b07a00")

WATER: Final = (
    "14103216123718153c1a17411b1a461d1d4c1e20511f235720265c212962222c6723306c233471233776233b7b22407f2144832048871e4c8b"
    "1d518e1b5591195a94165e9814629b11679e0d6ba00970a30474a50779a7047da90182ab0986ac098aad0b8faf0293b10798b2019cb30ba1b4"
    "15a5b51da9b525adb52db1b634b5b63cb9b645bdb64dc1b656c5b55fc8b568cbb471cfb37ad2b384d5b28dd7b297dab1a1dcb2aadfb2b3e1b3"
    "bbe3b4c4e6b6cde8b9d5ebbcdcedbfe4f0c3ebf3c7f0f4ca"
)
SIGNED: Final = (
    "833a08893f0d8f44119449169a4e1aa0531ea65822ac5d25b26229b8672dbe6c31c37135c8773acd7d40d08448d38a50d59159d69862d89e6b"
    "daa574dcab7ddeb286e0b890e2bf99e4c5a2e6cbace8d1b5ead7bfecddc9efe3d2f1e9dcf4efe6eff4f8e6eff7ddebf5d4e6f3cbe1f1c2dcf0"
    "b9d7eeb1d2eca8cdea9fc8e896c3e78ebee585b9e37cb4e173afdf6aaadd61a4db589fd8509ad54994d2438ecd3f88c83b82c3367dbe3377b9"
    "2f71b42b6baf2766aa2460a5205aa01d549b1a4f96184b92"
)


def ramp(scale: str, colours: int) -> np.ndarray:
    """So many colours of a scale, uint8 [colours, 3]; two runs ("versus", "less") are blue where the first is larger."""
    text = SIGNED if scale in ("signed", "versus", "less") else WATER
    stops = np.array([[int(text[i + k : i + k + 2], 16) for k in (0, 2, 4)] for i in range(0, len(text), 6)], np.float64)
    if scale in ("versus", "less"):
        stops = stops[::-1]
    at = np.linspace(0, len(stops) - 1, colours)
    mixed = [np.interp(at, np.arange(len(stops)), stops[:, k]) for k in range(3)]
    return np.asarray(np.rint(np.stack(mixed, axis=1)).astype(np.uint8))
