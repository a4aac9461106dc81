"""Fuse panels: the parts of a drawing of why a row was answered as it was: bars, words, pictures and small matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from tessella.fuse_evidence import Glance
from tessella.fuse_shown import Shown
from tessella.overlays import both_ways, enlarged
from tessella.show import drawable, writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDE = 420
FOR, AGAINST, BLUE, PALE, FAINT = "#d9541e", "#2f6fb3", "#1f5fa8", "#b9c8da", "#5d6675"
"""Colours of what speaks for an answer and against it, of bars, and of what is said beside."""
LEAST = 0.1
"""Of the most that anything weighs: where all of a stream is below, it stays pale, for it hardly matters."""
LINE = 0.36
"""Inches from one line of words to the next."""
PART = {"text": "word", "table": "column"}
ACROSS = 6
"""Frames of a video in a row."""


@dataclass(frozen=True)
class Weight:
    """A stream as it was read, and a number for each of its tokens."""

    shown: Shown
    values: Tensor
    most: float
    """The largest number, without its sign, that any stream of the row has, or what is worth a strong colour."""

    @property
    def each(self) -> list[float]:
        """Of texts and tables: what each word or column weighs; of pictures, each token."""
        if self.shown.pictures:
            return self.values.tolist()
        return [float(self.values[list(tokens)].sum()) for _, tokens in self.shown.words]

    @property
    def scale(self) -> float:
        """What is drawn in the strongest colour."""
        own = max(map(abs, self.each), default=0.0)
        return max(own, LEAST * self.most, 1e-12)

    @property
    def told(self) -> str:
        """The largest and the smallest of it."""
        each = self.each
        return f"{signed(min(each))} to {signed(max(each))}" if each else ""

    def tall(self, wide: float) -> float:
        """Inches that a panel of a width needs."""
        if self.shown.holds == "text":
            letters = sum(len(label) + 3 for label, _ in self.shown.words)
            return 0.45 + LINE * max(1, -(-letters // round(10 * wide)))
        if self.shown.holds == "table":
            return 0.5 + 0.23 * len(self.shown.words)
        if self.shown.holds == "sound":
            return 2.1
        if self.shown.holds == "video":
            return 0.5 + 1.55 * -(-len(self.shown.pictures) // ACROSS)
        return 2.7


def chances(figure: Any, answers: Sequence[tuple[str, float]], task: str) -> None:
    """The answers, the likeliest first and on top; of numbers, their values."""
    axes = figure.subplots()
    axes.set_title("the answer", fontsize=9, loc="left")
    told = [f"{value:.1%}" if task != "numbers" else f"{value:.4g}" for _, value in answers]
    lengths = [value if task != "numbers" else 0.0 for _, value in answers]
    _bars(axes, [name for name, _ in answers], lengths, told)


def taken_away(
    figure: Any, answers: Sequence[tuple[str, float]], asked: str, without: dict[str, tuple[float, str]], task: str
) -> None:
    """The same answer when a stream is not there."""
    axes = figure.subplots()
    axes.set_title(f"“{_short(asked)}” if a stream were missing", fontsize=9, loc="left", **writing())
    shares = task != "numbers"
    value = dict(answers)[asked]
    names, lengths = ["with all"], [value if shares else 0.0]
    told = [f"{value:.1%}" if shares else f"{value:.4g}"]
    for name, (then, instead) in without.items():
        other = f" → {_short(instead, 14)}" if task == "classes" and instead != asked else ""
        names.append(f"without {_short(name, 16)}{other}")
        lengths.append(then if shares else 0.0)
        told.append(f"{then:.1%}" if shares else f"{then:.4g} ({then - value:+.3g})")
    _bars(axes, names, lengths, told)


def matrices(figure: Any, glances: Sequence[Glance]) -> None:
    """Small matrices of who looked at whom."""
    if not glances:
        figure.text(0.5, 0.5, "in this scheme no stream\nlooks at another", ha="center", fontsize=9, color=FAINT)
        return
    for number, (axes, glance) in enumerate(
        zip(figure.subplots(1, len(glances), squeeze=False)[0], glances, strict=True)
    ):
        mass, names = glance.between().numpy(), [_short(name, 9) for name in glance.names]
        axes.imshow(mass, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(mass.shape):
            if mass[i, j] >= 0.005:
                dark = "white" if mass[i, j] > 0.55 else "#20242b"
                axes.text(j, i, f"{mass[i, j]:.2f}".lstrip("0"), ha="center", va="center", fontsize=8, color=dark)
        axes.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor", **writing())
        axes.set_yticks(range(len(names)), names if number == 0 else [], **writing())
        axes.tick_params(length=0, labelsize=8)
        axes.spines[:].set_visible(False)
        axes.set_title(glance.name.replace(", ", "\n"), fontsize=8, color=FAINT)
    figure.suptitle("who looked at whom (rows look)", fontsize=9)


def adds(name: str, weight: Weight, scored: str) -> str:
    """What a panel of a stream shows."""
    part = PART.get(weight.shown.holds, "place")
    return f"{name} adds {signed(float(weight.values.sum()))} to the {scored}; each {part} {weight.told}"


def streams(figure: Any, weight: Weight, title: str = "") -> None:
    """One stream: its pictures with what counts glowing, its words shaded, or its columns as bars."""
    if title:
        figure.suptitle(drawable(title), fontsize=9, x=0.01, ha="left", **writing())
    {"text": _words, "table": _columns}.get(weight.shown.holds, _pictures)(figure, weight)


def _pictures(figure: Any, weight: Weight) -> None:
    shown = weight.shown
    rasters = shown.rasters(weight.values)
    pairs = [(enlarged(picture, SIDE), both_ways(picture, raster, SIDE, weight.scale))
             for picture, raster in zip(shown.pictures, rasters, strict=True)]  # fmt: skip
    if len(pairs) > 1:
        rows = -(-len(pairs) // ACROSS)
        places = figure.subplots(rows, ACROSS, squeeze=False).ravel()
        for axes in places:
            axes.set_axis_off()
        for axes, (_, lit) in zip(places, pairs, strict=False):
            axes.imshow(lit)
    else:
        plain, lit = pairs[0]
        stacked = plain.shape[1] > 2.5 * plain.shape[0]
        places = figure.subplots(2, 1) if stacked else figure.subplots(1, 2 if shown.turned else 4)
        for axes in places[2:]:
            axes.set_axis_off()
        for axes, one in zip(places[:2], (plain, lit), strict=True):
            axes.imshow(one, aspect="auto" if shown.turned else "equal")
            axes.set_axis_off()


def _words(figure: Any, weight: Weight) -> None:
    """One word behind the other, each on a ground the stronger the more it weighs; broken into lines where they end."""
    axes = figure.subplots()
    axes.set_axis_off()
    wide, tall = figure.bbox.width / figure.dpi * 72, figure.bbox.height / figure.dpi * 72
    place, line = 8.0, tall - 36.0
    from matplotlib.text import Text

    for (label, _), value in zip(weight.shown.words, weight.each, strict=True):
        share = min(1.0, abs(value) / weight.scale)
        ground = _mixed(FOR if value > 0 else AGAINST, share)
        word = drawable(label)
        length = Text(0, 0, word, fontsize=11, figure=figure.figure, **writing()).get_window_extent().width
        length *= 72 / figure.dpi
        if place + length + 10 > wide - 8 and place > 8:
            place, line = 8.0, line - 72 * LINE
        axes.annotate(
            word, (place / wide, line / tall), xycoords=figure.transSubfigure, fontsize=11, va="baseline",
            bbox={"boxstyle": "round,pad=0.25", "facecolor": ground, "edgecolor": "none"}, annotation_clip=False,
            **writing(),
        )  # fmt: skip
        place += length + 11


def _columns(figure: Any, weight: Weight) -> None:
    axes = figure.subplots()
    values = weight.each
    axes.barh(range(len(values)), values, color=[FOR if v > 0 else AGAINST for v in values], height=0.6)
    axes.set_yticks(
        range(len(values)), [_short(label, 44) for label, _ in weight.shown.words], fontsize=8.5, **writing()
    )
    axes.set(xlim=(min(0.0, -weight.scale if min(values) < 0 else 0.0) * 1.18, weight.scale * 1.18))
    axes.set_ylim(len(values) - 0.4, -0.6)
    for place, value in enumerate(values):
        axes.annotate(signed(value), (value, place), (4 if value >= 0 else -4, 0), textcoords="offset points",
                      va="center", ha="left" if value >= 0 else "right", fontsize=8, color=FAINT)  # fmt: skip
    axes.axvline(0, color=PALE, linewidth=0.8)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _bars(axes: Axes, names: Sequence[str], lengths: Sequence[float], told: Sequence[str]) -> None:
    """A name and a number above each bar, the first on top and strongest."""
    axes.barh(range(len(names)), lengths, color=[BLUE, *[PALE] * (len(names) - 1)], height=0.3)
    for place, (name, number) in enumerate(zip(names, told, strict=True)):
        axes.text(0.0, place - 0.22, _short(name, 34), ha="left", va="bottom", fontsize=8.5, **writing())
        axes.text(1.0, place - 0.22, number, ha="right", va="bottom", fontsize=8.5, color=FAINT)
    axes.set(xlim=(0, 1), ylim=(max(len(names), 4) - 0.6, -0.8))
    axes.set_axis_off()


def signed(value: float) -> str:
    """Two digits behind the point, and a sign unless they are 0."""
    told = f"{value:+.2f}" if abs(value) < 100 else f"{value:+,.0f}"
    return "0" if not told.strip("+-0.") else told.replace("-", "−")  # a minus is as wide as a plus


def _mixed(colour: str, share: float) -> tuple[float, float, float]:
    """A colour on white."""
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (1 - 0.75 * share * (1 - part) for part in parts)
    return red, green, blue


def _short(name: str, most: int = 24) -> str:
    name = drawable(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"
