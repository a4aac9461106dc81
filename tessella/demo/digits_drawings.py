"""Digits drawings: small grey pictures, what lies over them and what was said of them, in the colours of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from torch import Tensor

SIDE, GAP, LEFT, LINE = 88, 16, 138, 17
"""Width of a picture, room between two, for the names of the rows, and for a line of text, in pixels."""
CELL = 40


class Line(NamedTuple):
    """Text below a picture, in the colour of what is right or wrong, or of neither."""

    text: str
    right: bool | None = None


class Panel(NamedTuple):
    """A picture (bytes r c), a map laid over it (any grid, or none), and lines below."""

    pixels: np.ndarray
    over: Tensor | None = None
    under: tuple[Line, ...] = ()


def sheet(rows: Mapping[str, Sequence[Panel]], label: str) -> str:
    """Rows of panels, named on the left, as SVG; a map's strongest cell has the full colour."""
    wide = max(len(row) for row in rows.values())
    left = LEFT if any(name.strip() for name in rows) else 0  # rows without names need no room for them
    parts, y = [], 4.0
    for name, row in rows.items():
        tall = max(map(_height, row))
        for n, word in enumerate(name.split("\n")):
            parts.append(f'<text class="tick" x="0" y="{y + tall / 2 + n * LINE:.0f}">{escape(word)}</text>')
        parts += [_panel(panel, left + i * (SIDE + GAP), y) for i, panel in enumerate(row)]
        y += tall + GAP + LINE * max(len(panel.under) for panel in row)
    return _svg(left + wide * (SIDE + GAP), y, label, parts)


def confusion_matrix(names: Sequence[str], counts: Sequence[Sequence[int]], label: str) -> str:
    """counts[i][j] images of class i were taken for class j: the right ones in blue, the others in red, as SVG."""
    top, left = 44, 78
    parts = [
        f'<text class="axis" x="{left}" y="16">taken for</text>',
        f'<text class="axis" x="0" y="{top - 10}">image of</text>',
    ]
    for i, name in enumerate(names):
        middle = CELL * (i + 0.5)
        parts.append(f'<text class="mid" x="{left + middle:.0f}" y="{top - 10}">{escape(name)}</text>')
        parts.append(f'<text class="end" x="{left - 14}" y="{top + middle + 5:.0f}">{escape(name)}</text>')
        for j, count in enumerate(counts[i]):
            x, y = left + CELL * j, top + CELL * i
            share = count / max(sum(counts[i]), 1)
            colour, depth = ("--accent", 0.3 * share) if i == j else ("--bad", min(0.5, 0.1 + 3 * share))
            box = f'x="{x + 1}" y="{y + 1}" width="{CELL - 2}" height="{CELL - 2}" rx="3"'
            if not count:
                parts.append(f'<rect class="ground" {box}/>')
                continue
            tip = f"<title>{count} images of {escape(name)}, taken for {escape(names[j])}</title>"
            parts.append(f'<rect fill="var({colour})" fill-opacity="{depth:.2f}" {box}>{tip}</rect>')
            parts.append(f'<text class="mid" x="{x + CELL / 2:.0f}" y="{y + CELL / 2 + 5:.0f}">{count}</text>')
    size = CELL * len(names)
    return _svg(left + size + 4, top + size + 4, label, parts)


def _height(panel: Panel) -> float:
    """Of its picture, in pixels of the page."""
    rows, cols = panel.pixels.shape
    return SIDE * rows / cols


def _panel(panel: Panel, x: float, y: float) -> str:
    """One picture where it stands: ink by levels, each level one path."""
    (rows, cols), tall = panel.pixels.shape, _height(panel)
    parts = [f'<rect class="ground" x="{x:.0f}" y="{y:.0f}" width="{SIDE}" height="{tall:.0f}" rx="4"/>']
    parts.append(f'<g shape-rendering="crispEdges" transform="translate({x:.0f} {y:.0f}) scale({SIDE / cols:g})">')
    for level in np.unique(panel.pixels[panel.pixels > 0]).tolist():
        path = "".join(f"M{c} {r}h1v1h-1z" for r, c in np.argwhere(panel.pixels == level).tolist())
        parts.append(f'<path fill="var(--ink)" fill-opacity="{level / 255:.2f}" d="{path}"/>')
    if panel.over is not None:
        high, wide = rows / panel.over.shape[0], cols / panel.over.shape[1]
        share = panel.over / panel.over.sum().clamp(min=1e-12)
        most = float(share.max().clamp(min=1e-12))
        for r, row in enumerate(share.tolist()):
            for c, part in enumerate(row):
                box = f'x="{c * wide:g}" y="{r * high:g}" width="{wide:g}" height="{high:g}"'
                fill = f'fill="var(--c1)" fill-opacity="{0.8 * part / most:.2f}"'
                parts.append(f"<rect {box} {fill}><title>{part:.1%} of what it looks at</title></rect>")
    parts.append("</g>")
    for n, line in enumerate(panel.under):
        colour = {None: "--soft", True: "--good", False: "--bad"}[line.right]
        place = f'x="{x + SIDE / 2:.0f}" y="{y + tall + LINE * (n + 1):.0f}"'
        parts.append(f'<text class="mid" style="fill:var({colour});font-size:12px" {place}>{escape(line.text)}</text>')
    return "".join(parts)


def _svg(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    return f'<svg class="chart" {size} role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
