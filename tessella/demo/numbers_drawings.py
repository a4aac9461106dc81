"""Numbers drawings: how near pictures of numbers are to names, one square of many cells in the page's colours."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

CELL = 6
LEFT, TOP = 92, 92
"""Room for the names of every tenth row and column, in pixels."""
LEVELS = 14
"""Shades; cells of one shade are one path, for ten thousand rectangles are too many for a page."""


def similarity(cosines: np.ndarray, names: Sequence[str], marked: Sequence[int], label: str) -> str:
    """cosines: k k, pictures of number i (row) with the name of number j; the darker, the nearer, as SVG.

    Nothing is drawn at 0 and below. The diagonal cells of `marked` numbers are framed.
    """
    side = CELL * len(names)
    parts = [
        f'<text class="axis" x="{LEFT}" y="14">name of</text>',
        f'<text class="axis" x="0" y="{TOP - 8}">pictures of</text>',
        f'<rect class="ground" x="{LEFT}" y="{TOP}" width="{side}" height="{side}"/>',
    ]
    for n in range(0, len(names), 10):
        x, y = LEFT + CELL * (n + 0.5), TOP + CELL * (n + 0.5)
        turned = f'transform="translate({x + 4:.0f} {TOP - 6}) rotate(-50)"'
        parts.append(f'<text class="tick" {turned}>{escape(names[n])}</text>')
        parts.append(f'<text class="tick end" x="{LEFT - 8}" y="{y + 4:.0f}">{n:02}</text>')
    shades = np.ceil(LEVELS * np.clip(cosines, 0, 1)).astype(int)
    parts.append(f'<g shape-rendering="crispEdges" transform="translate({LEFT} {TOP}) scale({CELL})">')
    for shade in range(1, LEVELS + 1):
        path = "".join(f"M{c} {r}h1v1h-1z" for r, c in np.argwhere(shades == shade).tolist())
        if path:
            opacity = (shade / LEVELS) ** 1.5
            parts.append(f'<path fill="var(--accent)" fill-opacity="{opacity:.2f}" d="{path}"/>')
    parts.append("</g>")
    for n in marked:
        box = f'x="{LEFT + CELL * n - 1}" y="{TOP + CELL * n - 1}" width="{CELL + 2}" height="{CELL + 2}"'
        tip = f"<title>{n:02}, {escape(names[n])}: {cosines[n, n]:.2f}</title>"
        parts.append(f'<rect fill="transparent" stroke="var(--c1)" stroke-width="1.5" {box}>{tip}</rect>')
    size = f'viewBox="0 0 {LEFT + side + 40} {TOP + side + 6}" width="{LEFT + side + 40}" height="{TOP + side + 6}"'
    return f'<svg class="chart" {size} role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
