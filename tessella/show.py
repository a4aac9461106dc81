"""Show: attention as pictures in PNG, for papers and slides."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessella.charts import readable
from tessella.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CJK = (
    "Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Nanum Gothic", "NanumBarunGothic", "Malgun Gothic",
    "Apple SD Gothic Neo", "AppleGothic", "Noto Sans CJK JP", "Noto Sans CJK SC", "Source Han Sans KR",
    "Baekmuk Dotum", "UnDotum", "Arial Unicode MS", "WenQuanYi Zen Hei",
)  # fmt: skip
"""Fonts that can write Korean, the best first; the first one installed is used."""


def attention_figure(
    rows: Sequence[str], columns: Sequence[str], weights: Sequence[Sequence[float]], title: str = ""
) -> Figure:
    """A heat map as a matplotlib Figure: target words as rows, source words as columns, ``weights[i][j]`` in 0 to 1.

    Tensors and arrays (rows x columns, on the CPU) are welcome as weights. Letters that no installed font can draw
    are written as their code points (U+C6D4), so that nothing is lost and nothing warns.
    """
    import numpy as np
    from matplotlib.figure import Figure

    values = np.asarray(weights, dtype=float).reshape(len(weights), -1)
    if values.shape != (len(rows), len(columns)):
        got = " x ".join(map(str, values.shape))
        raise InputError(f"an attention map of {len(rows)} rows and {len(columns)} columns got weights of {got}")
    width, height = 1.6 + 0.34 * max(4, len(columns)), 1.5 + 0.3 * max(3, len(rows))
    figure = Figure(figsize=(width, height), layout="constrained")  # no pyplot: no global state, no window
    axes = figure.subplots()
    image = axes.imshow(
        values, cmap="Blues", vmin=0.0, vmax=max(1e-6, min(1.0, values.max(initial=0.0))), aspect="auto"
    )
    style = writing()
    axes.set_xticks(
        range(len(columns)), [drawable(readable(word)) for word in columns], rotation=50, ha="left", **style
    )
    axes.set_yticks(range(len(rows)), [drawable(readable(word)) for word in rows], **style)
    for label in axes.get_xticklabels():
        label.set_rotation_mode("anchor")
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0, labelsize=10)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02)
    bar.outline.set_visible(False)  # type: ignore[operator]
    if title:
        lines = [drawable(line) for line in title.splitlines()]
        figure.suptitle("\n".join(lines), fontsize=11, **style)
    return figure


def save_png(figure: Figure, path: Path | str, dpi: int = 160) -> Path:
    """Write a figure as PNG, its folder made where it is missing; gives the path."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"pictures are saved as .png, not as '{path.name}'")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi, facecolor="white")
    return path


@cache
def _fonts() -> tuple[str, ...]:
    """matplotlib's own font, and behind it the first installed one that can write Korean."""
    from matplotlib import font_manager

    manager = font_manager.fontManager
    if not {font.name for font in manager.ttflist} & set(CJK):
        names = tuple(name.replace(" ", "").lower() for name in CJK)
        for path in font_manager.findSystemFonts():  # matplotlib's list is a cache, older than a font just installed
            if re.sub(r"[^a-z]", "", Path(path).stem.lower()).startswith(tuple(name[:11] for name in names)):
                with contextlib.suppress(OSError, RuntimeError):  # a font it cannot read is one we do not have
                    manager.addfont(path)
    installed = {font.name for font in manager.ttflist}
    return ("DejaVu Sans", *[name for name in CJK if name in installed][:1])


@cache
def _letters() -> frozenset[int]:
    """Every code point that the fonts at hand can draw."""
    from matplotlib import font_manager

    found: set[int] = set()
    for name in _fonts():
        path = font_manager.findfont(font_manager.FontProperties(family=name))
        found.update(font_manager.get_font(path).get_charmap())
    return frozenset(found)


def writing() -> dict[str, Any]:
    """How matplotlib should write words of any language: as they are, in fonts that have them."""
    return {"fontfamily": list(_fonts()), "parse_math": False}


def drawable(text: str) -> str:
    """The same, with letters that no installed font can draw as their code points."""
    return "".join(letter if ord(letter) in _letters() else f"U+{ord(letter):04X}" for letter in text)
