"""Names drawings: a digit and the pieces of its name side by side, what lies over them, and who looked at whom."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from torch import Tensor

from tessella.demo.digits_drawings import LINE, Line

SIDE, PIECE, GAP = 88, 26, 20
"""Width of a picture, height of a piece of a word, and room between two parts, in pixels."""
WIDE, CELL = 156, 46
"""Width of a pair of picture and word, and of a cell that says how much of its attention one gives the other."""
TOP, LEFT = 40, 8
FOR, AGAINST = "--c1", "--c0"


class Pair(NamedTuple):
    """A picture (bytes r c) above the pieces of a word, each place and piece with a weight; None: no weights."""

    pixels: np.ndarray
    pieces: Sequence[str]
    places: Tensor | None = None
    """r c, of any grid."""
    letters: Tensor | None = None
    """n, a number a piece."""
    note: str = ""
    """A line below."""


class Scene(NamedTuple):
    """One row of a table: pairs in which it is looked at, who looks at whom (s s), and what was said of it."""

    pairs: Sequence[Pair]
    between: Tensor
    said: Sequence[Line]


def scenes(rows: Sequence[Scene], heads: Sequence[str], streams: Sequence[str], label: str) -> str:
    """Rows below each other, with a head over each column, as SVG.

    heads: of the pairs, of the attention between streams, and of what was said. In each pair the largest number of
    both streams has the full colour; numbers below 0 have another colour.
    """
    count, tall = len(rows[0].pairs), SIDE + PIECE + LINE + 3 * GAP // 2
    starts = [LEFT + i * (WIDE + GAP) for i in range(count + 1)]
    starts.append(starts[-1] + WIDE + GAP)
    parts = []
    for x, head in zip(starts, heads, strict=True):
        for n, line in enumerate(head.split("\n")):
            parts.append(f'<text class="axis" x="{x}" y="{14 + n * LINE}">{escape(line)}</text>')
    for n, row in enumerate(rows):
        y = TOP + GAP / 2 + n * tall
        parts += [_pair(pair, x, y) for pair, x in zip(row.pairs, starts, strict=False)]
        parts.append(_between(row.between, streams, starts[-2], y))
        parts += [_line(line, starts[-1], y + LINE * (i + 1)) for i, line in enumerate(row.said)]
    width, height = starts[-1] + WIDE + 2 * GAP, TOP + GAP / 2 + len(rows) * tall
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    return f'<svg class="chart" {size} role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _pair(pair: Pair, x: float, y: float) -> str:
    """Ink by levels, each level one path; what lies over it; the word below."""
    rows, cols = pair.pixels.shape
    given = [part.abs().max() for part in (pair.places, pair.letters) if part is not None and part.numel()]
    most = max(map(float, given), default=1.0) or 1.0
    parts = [f'<rect class="ground" x="{x:.0f}" y="{y:.0f}" width="{SIDE}" height="{SIDE}" rx="4"/>']
    parts.append(f'<g shape-rendering="crispEdges" transform="translate({x:.0f} {y:.0f}) scale({SIDE / cols:g})">')
    for level in np.unique(pair.pixels[pair.pixels > 0]).tolist():
        path = "".join(f"M{c} {r}h1v1h-1z" for r, c in np.argwhere(pair.pixels == level).tolist())
        parts.append(f'<path fill="var(--ink)" fill-opacity="{level / 255:.2f}" d="{path}"/>')
    if pair.places is not None:
        high, wide = rows / pair.places.shape[0], cols / pair.places.shape[1]
        for r, values in enumerate(pair.places.tolist()):
            for c, value in enumerate(values):
                parts.append(_shade(c * wide, r * high, wide, high, value, most, 0.75))
    parts.append("</g>")
    shades = [0.0] * len(pair.pieces) if pair.letters is None else pair.letters.tolist()
    at, top = x, y + SIDE + 6
    for piece, value in zip(pair.pieces, shades, strict=True):
        long = max(20, 9 * len(piece) + 8)
        parts.append(f'<rect class="ground" x="{at:.0f}" y="{top:.0f}" width="{long - 2}" height="{PIECE}" rx="3"/>')
        if pair.letters is not None:
            parts.append(_shade(at, top, long - 2, PIECE, value, most, 0.75))
        place = f'x="{at + long / 2 - 1:.0f}" y="{top + PIECE / 2 + 5:.0f}"'
        parts.append(f'<text class="mid" style="font-size:14px" {place}>{escape(piece)}</text>')
        at += long
    if pair.note:
        place = f'x="{x:.0f}" y="{top + PIECE + LINE:.0f}"'
        parts.append(f'<text class="tick" style="font-size:12px" {place}>{escape(pair.note)}</text>')
    return "".join(parts)


def _shade(x: float, y: float, wide: float, high: float, value: float, most: float, strength: float) -> str:
    opacity, colour = strength * abs(value) / most, FOR if value > 0 else AGAINST
    box = f'x="{x:g}" y="{y:g}" width="{wide:g}" height="{high:g}"'
    return f'<rect {box} fill="var({colour})" fill-opacity="{opacity:.2f}"><title>{value:.2f}</title></rect>'


def _between(mass: Tensor, streams: Sequence[str], x: float, y: float) -> str:
    """s s: the share of its attention that a stream (row) gives to another (column)."""
    left, top = 48, 20
    parts = []
    for i, (asks, row) in enumerate(zip(streams, mass.tolist(), strict=True)):
        middle = y + top + CELL * (i + 0.5) + 5
        parts.append(f'<text class="tick end" x="{x + left - 8}" y="{middle:.0f}">{escape(asks)}</text>')
        parts.append(f'<text class="tick mid" x="{x + left + CELL * (i + 0.5):.0f}" y="{y + 12}">{escape(asks)}</text>')
        for j, share in enumerate(row):
            box = f'x="{x + left + CELL * j}" y="{y + top + CELL * i}" width="{CELL - 2}" height="{CELL - 2}" rx="3"'
            fill = f'fill="var(--accent)" fill-opacity="{0.08 + 0.42 * share:.2f}"'
            tip = f"<title>{share:.1%} of what the {escape(asks)} looks at is the {escape(streams[j])}</title>"
            parts.append(f"<rect {box} {fill}>{tip}</rect>")
            place = f'x="{x + left + CELL * (j + 0.5) - 1:.0f}" y="{middle:.0f}"'
            parts.append(f'<text class="mid" style="font-size:13px" {place}>{share:.0%}</text>')
    return "".join(parts)


def _line(line: Line, x: float, y: float) -> str:
    colour = {None: "--ink", True: "--good", False: "--bad"}[line.right]
    return f'<text style="fill:var({colour});font-size:13px" x="{x}" y="{y:.0f}">{escape(line.text)}</text>'
