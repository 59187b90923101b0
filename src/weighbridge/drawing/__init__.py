"""Pictures as SVG, made without a browser: for Markdown, and for readers of a notebook that runs no scripts.

They are drawn on white in the page's colours (frontend/src/tokens.css, heat/colours.ts); a test holds the two together.
"""

from weighbridge.drawing.chart import histogram, lines
from weighbridge.drawing.heat import Label, heat_map
from weighbridge.drawing.sheet import Sheet

__all__ = ["Label", "Sheet", "heat_map", "histogram", "lines"]
