"""What stays of a shown run in the notebook: HTML that needs neither kernel nor network.

A picture (SVG in an `img`: it shows even where scripts and frames are taken out), and in a frame the page with the answers of
the run in it, which takes the picture's place as soon as it runs.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final

from weighbridge.server import pictures
from weighbridge.server.api import Api
from weighbridge.server.onefile import answers_of, page_of

CELLS: Final = 60_000  # of all pictures together: a notebook is kept in git and sent around
UNPACK: Final = """<!doctype html><meta charset="utf-8"><script>(async()=>{\
const bytes=Uint8Array.from(atob("%s"),(c)=>c.charCodeAt(0));\
const text=await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();\
document.open();document.write(text);document.close()})()</script>"""


def packed_page(content: dict[str, object]) -> str:
    """The page as a small page that unpacks it."""
    return UNPACK % base64.b64encode(zlib.compress(page_of(content).encode(), 9)).decode()


def still(api: Api) -> str:
    """The picture and the page of all runs of this server. May take a while."""
    names = api.runs.names()
    page = packed_page({"runs": names, "answers": answers_of(api, CELLS)})
    frame = f'<iframe srcdoc="{escape(page)}" title="weighbridge" hidden style="width:100%;height:640px;border:0"></iframe>'
    return f"<div>{picture(api, '')}{frame}</div>"


def picture(api: Api, mark: str) -> str:
    """The picture alone. mark: a class for it."""
    drawn = "".join(_image(text, name) for name, text in drawings(api))
    return f'<div class="weighbridge-still {mark}">{drawn}</div>'


def drawings(api: Api) -> list[tuple[str, str]]:
    """Each run's name and its picture as SVG; of several runs one more, of their losses."""
    found = []
    for name in api.runs.names():
        with api.runs.use(name) as record:
            found.append((name, pictures.glance(name, record, api.diagnoser.known(name, record).diagnosis)))
    return found


def _image(svg: str, name: str) -> str:
    data = base64.b64encode(svg.encode()).decode()
    return f'<img alt="weighbridge: {escape(name)}" style="max-width:100%" src="data:image/svg+xml;base64,{data}">'


def text_of(places: Sequence[Path]) -> str:
    """For a terminal."""
    return f"<weighbridge.show of {', '.join(place.name for place in places)}>"
