"""Charts: numbers as SVG that lives inside a page, in the page's own colours, light or dark."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from html import escape

from tessella.errors import InputError

COLOURS = 6
"""How many series have a colour of their own: the page's style sheet defines --c0 to --c5."""

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT = 760, 330
LEFT, RIGHT, TOP, BOTTOM = 62, 22, 44, 46


def heat_map(rows: Sequence[str], columns: Sequence[str], weights: Sequence[Sequence[float]], title: str = "") -> str:
    """An attention map: source words as columns, target words as rows, a cell the darker the more weight it has.

    ``weights[i][j]`` in 0 to 1 is how much row i looks at column j; resting on a cell shows it in figures.
    """
    if len(weights) != len(rows) or any(len(line) != len(columns) for line in weights):
        got = f"{len(weights)} x {len(weights[0]) if len(weights) else 0}"
        raise InputError(f"an attention map of {len(rows)} rows and {len(columns)} columns got weights of {got}")
    cell = max(17, min(30, 860 // max(1, len(columns))))
    left = 14 + max([_width(_short(word)) for word in rows], default=0) * 13
    lean = max([_width(_short(word)) for word in columns], default=0) * 13
    top, right = 16 + lean * 0.77, 12 + lean * 0.64
    width, height = left + cell * len(columns) + right, top + cell * len(rows) + 8
    parts = [_open(width, height, title or "attention", "heat")]
    for j, word in enumerate(columns):
        x, y = left + cell * (j + 0.5) + 4, top - 7
        parts.append(f'<text class="word" transform="translate({x:.1f} {y:.1f}) rotate(-50)">{_label(word)}</text>')
    parts.append(_box(left, top, cell * len(columns), cell * len(rows), "ground"))
    for i, word in enumerate(rows):
        y = top + cell * i
        parts.append(f'<g class="row">{_box(left, y, cell * len(columns), cell, "band")}')
        parts.append(f'<text class="word end" x="{left - 8:.1f}" y="{y + cell / 2 + 4.5:.1f}">{_label(word)}</text>')
        for j, weight in enumerate(weights[i]):
            weight = min(1.0, max(0.0, float(weight)))
            if weight >= 0.005:  # what could not be seen is left out: long sentences have thousands of cells
                tip = f"{escape(readable(word))} ← {escape(readable(columns[j]))}: {weight:.2f}"
                box = _box(left + cell * j + 1, y + 1, cell - 2, cell - 2, "cell", f' fill-opacity="{weight**0.7:.2f}"')
                parts.append(box.replace("/>", f"><title>{tip}</title></rect>"))
        parts.append("</g>")
    return "".join([*parts, "</svg>"])


def line_chart(
    series: Mapping[str, Points], x_label: str, y_label: str, log: bool = False, percent: bool = False
) -> str:
    """One line for each named series of (x, y) points; ``log`` spaces y by factors, ``percent`` shows 0 to 1 as %."""
    points = [(x, y) for line in series.values() for x, y in line if math.isfinite(y) and (y > 0 or not log)]
    if not points:
        return _nothing(f"{y_label} by {x_label}")
    xs, ys = [x for x, _ in points], [y for _, y in points]
    to_x = _scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    if log:
        low, high = math.floor(math.log10(min(ys)) * 2) / 2, math.ceil(math.log10(max(ys)) * 2) / 2
        inner = _scale(low, high if high > low else low + 1, HEIGHT - BOTTOM, TOP)
        to_y: Callable[[float], float] = lambda y: inner(math.log10(y))  # noqa: E731
        ticks = [10**e * m for e in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
        ticks = [y for y in ticks if low - 1e-9 <= math.log10(y) <= high + 1e-9]
    else:
        ticks = _ticks(min(0.0, *ys), 1.0 if percent else max(ys))
        to_y = _scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [_open(WIDTH, HEIGHT, f"{y_label} by {x_label}", "chart"), _y_axis(ticks, to_y, y_label, percent)]
    for x in _ticks(min(xs), max(xs)):
        if min(xs) <= x <= max(xs):
            parts.append(f'<text class="tick mid" x="{to_x(x):.1f}" y="{HEIGHT - BOTTOM + 19}">{_figure(x)}</text>')
    parts.append(_below(x_label))
    for n, (name, line) in enumerate(series.items()):
        seen = [(x, y) for x, y in line if math.isfinite(y) and (y > 0 or not log)]
        path = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in seen)
        parts.append(f'<polyline class="line" stroke="var(--c{n % COLOURS})" points="{path}"/>')
        for x, y in seen:
            tip = f"{escape(name)}: {_share(y) if percent else _figure(y)} at {_figure(x)}"
            radius = 3.5 if len(seen) <= 25 else 2
            dot = f'<circle cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="{radius}" fill="var(--c{n % COLOURS})">'
            parts.append(f"{dot}<title>{tip}</title></circle>")
    return "".join([*parts, _legend(list(series)), "</svg>"])


def bar_chart(
    groups: Sequence[str], series: Mapping[str, Sequence[float | None]], x_label: str, y_label: str,
    counts: Sequence[int] | None = None, percent: bool = False,
) -> str:  # fmt: skip
    """Bars side by side: a bar for each series in every group, such as the score by input length.

    None leaves a gap; ``counts`` says below a group how many examples are behind it.
    """
    for name, values in series.items():
        if len(values) != len(groups):
            raise InputError(f"'{name}' has {len(values)} values for {len(groups)} groups")
    known = [value for values in series.values() for value in values if value is not None]
    if not known:
        return _nothing(f"{y_label} by {x_label}")
    ticks = _ticks(min(0.0, *known), 1.0 if percent else max(0.0, *known))
    to_y = _scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [_open(WIDTH, HEIGHT + 16, f"{y_label} by {x_label}", "chart"), _y_axis(ticks, to_y, y_label, percent)]
    room = (WIDTH - LEFT - RIGHT) / len(groups)
    thick = min(46.0, room * 0.78 / len(series))
    for g, group in enumerate(groups):
        middle = LEFT + room * (g + 0.5)
        parts.append(f'<text class="tick mid" x="{middle:.1f}" y="{HEIGHT - BOTTOM + 19}">{escape(group)}</text>')
        if counts is not None:
            text = f"n = {counts[g]:,}"
            parts.append(f'<text class="faint mid" x="{middle:.1f}" y="{HEIGHT - BOTTOM + 35}">{text}</text>')
        for n, (name, values) in enumerate(series.items()):
            value = values[g]
            if value is None:
                continue
            x, y = middle + thick * (n - len(series) / 2), to_y(value)
            shown = _share(value) if percent else _figure(value)
            height = max(1.0, abs(to_y(0) - y))
            box = _box(x + 1, min(y, to_y(0)), thick - 2, height, "bar", f' fill="var(--c{n % COLOURS})" rx="2"')
            parts.append(box.replace("/>", f"><title>{escape(name)}, {escape(group)}: {shown}</title></rect>"))
            if thick >= 26:
                parts.append(f'<text class="faint mid" x="{x + thick / 2:.1f}" y="{y - 5:.1f}">{shown}</text>')
    return "".join([*parts, _below(x_label, 16), _legend(list(series)), "</svg>"])


def _open(width: float, height: float, label: str, kind: str) -> str:
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    return f'<svg class="{kind}" {size} role="img" aria-label="{escape(label)}">'


def _box(x: float, y: float, width: float, height: float, kind: str, more: str = "") -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"{more}/>'


def _nothing(label: str) -> str:
    return f'{_open(WIDTH, 60, label, "chart")}<text class="tick" x="12" y="34">nothing to draw yet</text></svg>'


def _scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    """A straight map of low..high to start..stop; where low is high, all land in the middle."""
    if high == low:
        return lambda _: (start + stop) / 2
    return lambda value: start + (value - low) / (high - low) * (stop - start)


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers that cover low to high."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if span / (step * m) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * n for n in range(first, max(last, first + 1) + 1)]


def _y_axis(ticks: Sequence[float], to_y: Callable[[float], float], label: str, percent: bool) -> str:
    parts = [f'<text class="axis" x="{LEFT - 48}" y="{TOP - 28}">{escape(label)}</text>']
    for value in ticks:
        y = to_y(value)
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        shown = _share(value) if percent else _figure(value)
        parts.append(f'<text class="tick end" x="{LEFT - 8}" y="{y + 4:.1f}">{shown}</text>')
    return "".join(parts)


def _below(label: str, extra: int = 0) -> str:
    return f'<text class="axis end" x="{WIDTH - RIGHT}" y="{HEIGHT - 8 + extra}">{escape(label)}</text>'


def _legend(names: Sequence[str]) -> str:
    """The names of the series, right-aligned above the drawing."""
    widths = [_width(name) * 13 + 30 for name in names]
    x = WIDTH - RIGHT - sum(widths)
    parts = []
    for n, (name, width) in enumerate(zip(names, widths, strict=True)):
        parts.append(_box(x, TOP - 38, 12, 12, "key", f' fill="var(--c{n % COLOURS})" rx="3"'))
        parts.append(f'<text class="tick" x="{x + 17:.1f}" y="{TOP - 27.5}">{escape(name)}</text>')
        x += width
    return "".join(parts)


def _figure(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:,.4g}k"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _share(value: float) -> str:
    return f"{100 * value:.3g}%"


def readable(piece: str) -> str:
    """A piece of text as one reads it: without the tokenizer's sign for a space (``▁``), which alone becomes ``␣``."""
    return piece.replace("▁", " ").strip() or "␣"


def _short(word: str) -> str:
    word = readable(word)
    return word if len(word) <= 18 else word[:17] + "…"


def _label(word: str) -> str:
    return escape(_short(word)) + (f"<title>{escape(word)}</title>" if len(word) > 18 else "")


def _width(text: str) -> float:
    """How wide a text is in ems, roughly: Korean fills the square, Latin about half of it."""
    return sum(1.0 if unicodedata.east_asian_width(letter) in "WF" else 0.58 for letter in text)
