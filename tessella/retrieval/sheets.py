"""Contact sheets: what a search found, as one page or one picture of thumbnails."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessella.data.pixels import Unreadable, decode
from tessella.files import explained, replacing
from tessella.report import Report
from tessella.retrieval.search import Hit
from tessella.show import drawable, save_png, writing

if TYPE_CHECKING:
    from PIL import Image

SIDE = 240
"""Pixels of a thumbnail's longer side."""
ACROSS, GAP, ABOVE, BELOW = 5, 16, 56, 60
"""Of a sheet: pictures in a row, and pixels between them, above all, and below each row for its words."""
DOTS = 110
LONGEST = 34
"""Letters of a path on a sheet."""
CAPTION = 60
GRID = "display:grid;grid-template-columns:repeat(auto-fill,minmax(180px,1fr));gap:14px;margin:20px 0"
TILE = "margin:0;padding:10px;display:flex;flex-direction:column;min-width:0"
TEXT = "margin-top:8px;overflow-wrap:anywhere;font-size:0.82rem;line-height:1.4"


def save_page(hits: Sequence[Hit], folder: Path, title: str, told: str, out: Path) -> None:
    """A page that needs nothing but a browser: thumbnails inside it, best first, with their scores and columns.

    title: what was searched for; told: how, in a line.
    """
    report = Report(title, told)
    tiles = "".join(_tile(hit, folder) for hit in hits)
    report.chapter("found", f"{len(hits):,} pictures").blocks.append(f'<div style="{GRID}">{tiles}</div>')
    with replacing(out) as temporary:
        temporary.write_text(report.html(), encoding="utf-8")


def save_sheet(hits: Sequence[Hit], folder: Path, title: str, out: Path) -> None:
    """A PNG of thumbnails in rows, best first, with ranks, scores and paths below them."""
    from matplotlib.figure import Figure
    from PIL import Image, ImageOps

    across = min(ACROSS, len(hits))
    wide, high = across * (SIDE + GAP) + GAP, -(-len(hits) // across) * (SIDE + BELOW) + ABOVE
    sheet = Image.new("RGB", (wide, high), "white")
    figure = Figure(figsize=(wide / DOTS, high / DOTS))
    figure.text(0.5, 1 - ABOVE / 2 / high, drawable(title), ha="center", va="center", fontsize=11, **writing())
    for number, hit in enumerate(hits):
        left, top = GAP + number % across * (SIDE + GAP), ABOVE + number // across * (SIDE + BELOW)
        picture = thumbnail(folder / hit.path) or Image.new("RGB", (SIDE, SIDE // 2), "#e3e2dc")
        picture = ImageOps.contain(picture, (SIDE, SIDE))  # small ones as large as the others
        sheet.paste(picture, (left + (SIDE - picture.width) // 2, top + SIDE - picture.height))
        name = hit.path if len(hit.path) <= LONGEST else f"…{hit.path[1 - LONGEST :]}"
        told = f"{hit.rank}. {hit.score:.3f}\n{drawable(name)}"
        place = ((left + SIDE / 2) / wide, 1 - (top + SIDE + 4) / high)
        figure.text(*place, told, ha="center", va="top", fontsize=7.5, linespacing=1.3, **writing())
    figure.figimage(sheet, resize=False)
    with explained(out):
        save_png(figure, out, DOTS)


def thumbnail(path: Path) -> Image.Image | None:
    """A small copy; None for a file that is gone or cannot be read any more."""
    try:
        picture = decode(path, wanted=(SIDE, SIDE))
    except Unreadable:
        return None
    picture.thumbnail((SIDE, SIDE))
    return picture


def _tile(hit: Hit, folder: Path) -> str:
    picture = thumbnail(folder / hit.path)
    if picture is None:
        shown = "<p>no longer readable</p>"
    else:
        kept = io.BytesIO()
        picture.save(kept, "JPEG", quality=82)
        data = base64.b64encode(kept.getvalue()).decode("ascii")
        shown = f'<img alt="{escape(hit.path)}" src="data:image/jpeg;base64,{data}">'
    lines = [f"<b>{hit.rank}. {hit.score:.3f}</b> {escape(hit.path)}"]
    lines += [
        escape(f"{name}: {short(value)}")
        for name, value in hit.columns.items()
        if name in ("date", "caption") and value
    ]
    return f'<figure style="{TILE}">{shown}<div style="{TEXT}">{"<br>".join(lines)}</div></figure>'


def short(value: Any) -> str:
    """A value in a few letters."""
    told = str(value)
    return told if len(told) <= CAPTION else f"{told[: CAPTION - 1]}…"
