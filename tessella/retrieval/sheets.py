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
ACROSS = 5
CAPTION = 60
GRID = "display:grid;grid-template-columns:repeat(auto-fill,minmax(180px,1fr));gap:14px;margin:20px 0"
TILE = "margin:0;padding:10px;display:flex;flex-direction:column;justify-content:flex-end;min-width:0"
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
    """A PNG of thumbnails in rows, best first."""
    from matplotlib.figure import Figure

    across = min(ACROSS, len(hits))
    down = -(-len(hits) // across)
    figure = Figure(figsize=(2.3 * across, 2.6 * down + 0.5), layout="constrained")
    figure.suptitle(drawable(title), fontsize=11, **writing())
    places = figure.subplots(down, across, squeeze=False).ravel()
    for place in places:
        place.axis("off")
    for hit, place in zip(hits, places, strict=False):
        picture = thumbnail(folder / hit.path)
        if picture is None:
            place.text(0.5, 0.5, "no longer\nreadable", ha="center", va="center", transform=place.transAxes)
        else:
            place.imshow(picture)
        name = hit.path if len(hit.path) <= 30 else f"…{hit.path[-29:]}"
        place.set_title(drawable(f"{hit.rank}. {hit.score:.3f}\n{name}"), fontsize=8, **writing())
    with explained(out):
        save_png(figure, out, 110)


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
