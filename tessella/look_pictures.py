"""Look pictures: where a classifier looked in a picture, as one drawing or as a page with every layer and head."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tessella.classifier import Classifier
from tessella.data.pixels import decode
from tessella.errors import InputError
from tessella.evidence import Layer, Looked, look, on_picture
from tessella.overlays import enlarged, even, overlay
from tessella.report import Report
from tessella.show import drawable, save_png, writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE = 420
"""Pixels of a large panel's longer side; those of a head have half as many."""
ACROSS = 8
"""Heads in a row."""
FAINT = "#5d6675"


def draw_picture(classifier: Classifier, picture: Path, out: Path, layer: int | None = None) -> Looked:
    """Classifies a picture and draws where the classifier looked, to .png (one drawing) or .html (all of it).

    layer: from 0, whose heads the drawing shows; the last if left out. Raises InputError for a picture that cannot be
    read, a layer that is not there, and a model in which no place can be made out.
    """
    if out.suffix.lower() not in (".png", ".html"):
        raise InputError(f"pictures are .png or .html, not '{out.name}'")
    found = look(classifier, decode(picture, classifier.image.channels))
    if layer is not None and not found.layers:
        raise InputError("a convnet has no attention and so no layer of it; leave out --layer")
    if layer is not None and not 0 <= layer < len(found.layers):
        raise InputError(f"there is no layer {layer}; the model has {len(found.layers)}, counted from 0")
    if out.suffix.lower() == ".png":
        save_png(drawing(found, picture.name, layer), out)
    else:
        page(found, picture.name).save(out)
    return found


class Panel(NamedTuple):
    """What is laid over the picture, with what stands above and below it."""

    raster: Tensor
    title: str
    under: str


def panels(found: Looked) -> list[Panel]:
    """Attention, if there is any, of the last layer and of all; the activation map of the likeliest class, if any."""
    made = []
    if found.layers:
        reader = next(iter(found.readers))
        last, rolled = found.last(reader).mean(dim=0), found.rolled(reader)
        made.append(Panel(last, "attention of the last layer\n(mean of its heads)", even(last)))
        made.append(Panel(rolled, "attention through all layers\n(rollout)", even(rolled)))
    for name, raster in list(found.activations.items())[:1]:
        made.append(Panel(raster, f"what speaks for {_short(name)}\n(class activation map)", ""))
    return made


def drawing(found: Looked, name: str, layer: int | None = None) -> Figure:
    """The picture, its classes, the maps over it and, below, every head of one layer."""
    from matplotlib.figure import Figure

    maps = panels(found)
    heads = _heads(found, layer)
    tall = found.image.shape[0] / found.image.shape[1]
    wide = 3.0 * (len(maps) + 1) + 2.6
    rows = -(-len(heads) // ACROSS) if len(heads) > 1 else 0
    small = min(wide / ACROSS, 1.7)
    upper, lower = 3.0 * tall + 0.75, rows * (small * tall + 0.28) + (0.4 if rows else 0)
    figure = Figure(figsize=(wide, upper + lower), layout="constrained")
    heights = [upper, lower] if rows else [upper]
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    axes = parts[0].subplots(1, len(maps) + 2, width_ratios=[*[3.0] * (len(maps) + 1), 2.6])
    _image(axes[0], enlarged(found.image, SIDE), _short(name, 36), "as the model read it")
    for place, panel in zip(axes[1:-1], maps, strict=True):
        _image(place, overlay(found.image, panel.raster, SIDE), panel.title, panel.under)
    _bars(axes[-1], found)
    if rows:
        told = found.layers[-1 if layer is None else layer].name
        parts[1].suptitle(f"every head of {told}", fontsize=9, color=FAINT)
        places = parts[1].subplots(rows, ACROSS if rows > 1 else len(heads), squeeze=False)
        for number, place in enumerate(places.flat):
            place.set_axis_off()
            if number < len(heads):
                _image(place, overlay(found.image, heads[number], SIDE // 2), f"head {number + 1}")
    return figure


def page(found: Looked, name: str) -> Report:
    """One self-contained page: the answers, the maps, then every layer and head from whatever the head reads."""
    label, share = found.answers[0]
    report = Report("Where it looked", f"{name}: {label}, {share:.1%}")
    chapter = report.chapter("answers", "What it saw", "The picture as the model read it, and its likeliest classes.")
    chapter.figure(_png(enlarged(found.image, SIDE)))
    chapter.table(["class", "probability"], [[one, f"{p:.2%}"] for one, p in found.answers])
    if found.layers:
        _attention(found, report)
    if found.activations:
        chapter = report.chapter(
            "activation",
            "What speaks for each class",
            "What every place adds to a class before the softmax: its mean and the bias are the class's logit, to the "
            "digit (Zhou et al. 2016). Places that speak against it stay dark.",
        )
        most = float(max(raster.max() for raster in found.activations.values()))
        panes = {one: _png(overlay(found.image, raster, SIDE, most)) for one, raster in found.activations.items()}
        chapter.figure(panes, "All classes on one scale.")
    return report


def _attention(found: Looked, report: Report) -> None:
    """Rollout and every layer's heads, for each token that the head reads."""
    chapter = report.chapter(
        "attention",
        "Where it looked",
        "Rollout follows attention through all layers back to the picture, half of it staying in place for the "
        "residual (Abnar and Zuidema 2020). Every map is as bright as its own greatest values.",
    )
    chapter.figure(
        {name: _png(overlay(found.image, found.rolled(name), SIDE)) for name in found.readers},
        f"All layers. {even(found.rolled(next(iter(found.readers))))}.",
    )
    for name, mass in found.readers.items():
        chapter.heading(f"Layer by layer, from the {name}")
        last = found.layers[-1]
        for layer in found.layers:
            # Only the layers of the last stage have the tokens that the head reads; before, the mean of all is drawn.
            inside = layer.grid == last.grid and layer.special == last.special
            start = mass if inside else _everywhere(layer)
            heads = on_picture(layer.looked(start), layer.grid)
            told = f"{layer.name.capitalize()}: where the {name if inside else 'mean of all places'} looks"
            chapter.figure(
                _png(_strip(found.image, heads)), f"{told}, head by head; their mean is {even(heads.mean(0))}."
            )


def _everywhere(layer: Layer) -> Tensor:
    """n: the same mass on every place of the picture, none on special tokens."""
    places = torch.arange(layer.special + layer.grid[0] * layer.grid[1]) >= layer.special
    return places / places.sum()


def _heads(found: Looked, layer: int | None) -> Tensor:
    """h r c of one layer, or nothing."""
    if not found.layers:
        return torch.zeros(0, 1, 1)
    reader = found.readers[next(iter(found.readers))]
    one, last = found.layers[-1 if layer is None else layer], found.layers[-1]
    same = one.grid == last.grid and one.special == last.special
    return on_picture(one.looked(reader if same else _everywhere(one)), one.grid)


def _strip(image: np.ndarray, heads: Tensor) -> np.ndarray:
    """All heads side by side, in rows: uint8 r c 3."""
    tiles = [np.pad(overlay(image, one, SIDE // 4), ((0, 6), (0, 6), (0, 0)), constant_values=255) for one in heads]
    across = min(ACROSS, len(tiles))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % across)
    return np.concatenate([np.concatenate(tiles[i : i + across], axis=1) for i in range(0, len(tiles), across)])


def _short(name: str, most: int = 24) -> str:
    """A name as it can be drawn, cut where it would not fit."""
    name = drawable(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _png(pixels: np.ndarray) -> bytes:
    kept = io.BytesIO()
    Image.fromarray(pixels).save(kept, "PNG")
    return kept.getvalue()


def _image(axes: Axes, pixels: np.ndarray, title: str, under: str = "") -> None:
    axes.imshow(pixels)
    axes.set_axis_off()
    axes.set_title(title, fontsize=9, **writing())
    if under:
        axes.text(0.5, -0.02, under, transform=axes.transAxes, ha="center", va="top", fontsize=7.5, color=FAINT)


def _bars(axes: Axes, found: Looked) -> None:
    """The likeliest classes, the first on top."""
    shares = [share for _, share in found.answers]
    axes.barh(range(len(shares)), shares, color=["#1f5fa8", *["#b9c8da"] * (len(shares) - 1)], height=0.5)
    for place, (name, share) in enumerate(found.answers):
        axes.text(0.0, place - 0.34, _short(name), ha="left", va="bottom", fontsize=8.5, **writing())
        axes.text(1.0, place - 0.34, f"{share:.1%}", ha="right", va="bottom", fontsize=8.5, color=FAINT)
    axes.set(xlim=(0, 1), ylim=(max(len(shares), 5) - 0.5, -0.9))  # two classes have bars as thin as five
    axes.set_axis_off()
