"""Look captions: where in a picture each word of its caption looked, as one drawing or as a page with every layer."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from tessella.attention import watch
from tessella.captioner import Caption, Captioner
from tessella.data.pixels import decode, fitted
from tessella.errors import InputError
from tessella.overlays import enlarged, even, overlay
from tessella.report import Report
from tessella.show import drawable, save_png, writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE = 320
"""Pixels of a panel's longer side."""
ACROSS = 6
"""Words in a row."""


@dataclass(frozen=True)
class Looked:
    """A picture as the model read it (uint8 r c v), its caption, and what each piece of that looked at."""

    image: np.ndarray
    caption: Caption
    pieces: list[str]
    """Of the caption, its end included."""
    maps: Tensor
    """layers pieces r c, mean over heads; what is looked at beside the raster (class tokens) is left out."""


def draw_caption(captioner: Captioner, picture: Path, out: Path, layer: int | None = None) -> str:
    """Describes a picture and draws where each word looked, to .png (one drawing) or .html (every layer).

    layer: from 0; the mean of all if left out. Gives the caption. Raises InputError for a picture that cannot be read,
    a layer that is not there, and a model that looks at no raster.
    """
    if out.suffix.lower() not in (".png", ".html"):
        raise InputError(f"pictures are .png or .html, not '{out.name}'")
    found = look(captioner, decode(picture, captioner.image.channels))
    if layer is not None and not 0 <= layer < len(found.maps):
        raise InputError(f"there is no layer {layer}; the decoder has {len(found.maps)}, counted from 0")
    if out.suffix.lower() == ".png":
        save_png(drawing(found, layer), out)
    else:
        page(found, picture.name).save(out)
    return found.caption.text


@torch.inference_mode()
def look(captioner: Captioner, picture: Image.Image) -> Looked:
    """The best caption of a picture, and the attention over the picture while it is written."""
    image = fitted(picture, captioner.image)
    source = captioner.prepared(torch.from_numpy(image)[None])
    (written,) = captioner.write(source)
    caption = Caption("image", **vars(written))
    grid = captioner.model.encode(source).grid
    read = torch.tensor([[captioner.words.bos, *caption.ids]], device=captioner.device)
    with watch(captioner.model) as seen:
        captioner.model(source, read)
        maps = [seen[name][0].float().cpu().mean(dim=0) for name in seen if ".cross." in name or ".look." in name]
    if grid is None or not maps:
        raise InputError("this model looks at no raster of the picture, so there is no place to be shown")
    rows, cols = grid
    raster = torch.stack(maps)[..., -rows * cols :]
    pieces = captioner.words.pieces([*caption.ids, captioner.words.eos])
    return Looked(
        np.ascontiguousarray(rearrange(image, "v r c -> r c v")),
        caption,
        pieces,
        rearrange(raster, "l n (r c) -> l n r c", r=rows),
    )


def drawing(found: Looked, layer: int | None = None) -> Figure:
    """The picture, and a panel for each piece of the caption."""
    from matplotlib.figure import Figure

    maps = found.maps.mean(dim=0) if layer is None else found.maps[layer]
    panels = 1 + len(found.pieces)
    across, rows = min(ACROSS, panels), -(-panels // ACROSS)
    tall = found.image.shape[0] / found.image.shape[1]
    figure = Figure(figsize=(2.0 * across, rows * (2.0 * tall + 0.35) + 0.6), layout="constrained")
    figure.suptitle(drawable(found.caption.text), fontsize=11, **writing())
    places = figure.subplots(rows, across, squeeze=False).flat
    _panel(next(places), enlarged(found.image, SIDE), "as the model read it")
    for piece, raster, axes in zip(found.pieces, maps, places, strict=False):
        _panel(axes, overlay(found.image, raster, SIDE), piece)
    for axes in places:
        axes.set_axis_off()
    return figure


def page(found: Looked, name: str) -> Report:
    """One self-contained page: the caption, and every layer's map for each piece of it."""
    report = Report("Where each word looked", f"{name}: {found.caption.text}")
    chapter = report.chapter(
        "words",
        "Where it looked",
        "The attention of the decoder over the picture while it wrote each piece, the mean of its heads. Every map is "
        "as bright as its own greatest values.",
    )
    chapter.figure(_png(enlarged(found.image, SIDE)), "The picture as the model read it.")
    for number, piece in enumerate(found.pieces):
        chapter.heading(piece)
        mean = found.maps[:, number].mean(dim=0)
        panes = {"all layers": _png(overlay(found.image, mean, SIDE))}
        panes |= {f"layer {i}": _png(overlay(found.image, one[number], SIDE)) for i, one in enumerate(found.maps)}
        chapter.figure(panes, even(mean))
    return report


def _panel(axes: Axes, pixels: np.ndarray, title: str) -> None:
    axes.imshow(pixels)
    axes.set_axis_off()
    axes.set_title(drawable(title), fontsize=9, **writing())


def _png(pixels: np.ndarray) -> bytes:
    kept = io.BytesIO()
    Image.fromarray(pixels).save(kept, "PNG")
    return kept.getvalue()
