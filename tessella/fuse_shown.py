"""Fuse shown: a row of mixed data as a model read it, for people to see."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from tessella.charts import readable
from tessella.data.columns import Column
from tessella.fuser import Fuser

EPOCH = dt.date(1970, 1, 1)
SPACE = "▁"
"""How a tokenizer writes the space in front of a word."""
PARTS = 64
"""Parts that pictures of more places are told of in."""
SPREAD = 2.5
"""Deviations from the mean between which a spectrogram is drawn from black to white."""


@dataclass(frozen=True)
class Shown:
    """One stream of one row."""

    name: str
    holds: str
    """"image", "sound", "video", "text" or "table"."""
    words: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Of texts and tables: each word or column, and its tokens; of a text of one word, its pieces."""
    labels: tuple[str, ...] = ()
    """Of texts and tables: a label for each token, "" for padding."""
    pictures: tuple[np.ndarray, ...] = ()
    """uint8 r c v: an image, a spectrogram (low tones below, time to the right), or a frame for each moment."""
    grid: tuple[int, int] = (1, 1)
    """Rows and columns of the places of a picture, as they are drawn."""
    special: int = 0
    """Tokens in front of them."""
    turned: bool = field(default=False)
    """Whether tokens are moments x tones, which are drawn tones x moments, the highest on top."""

    def rasters(self, values: Tensor) -> list[Tensor]:
        """A number for each token -> r c for each picture."""
        places = values[self.special :]
        if self.turned:
            return [rearrange(places, "(c r) -> r c", r=self.grid[0]).flip(0)]
        return list(rearrange(places, "(f r c) -> f r c", r=self.grid[0], c=self.grid[1]))

    def parts(self) -> list[Tensor]:
        """Numbers of tokens that are one part: words, columns, and squares of places where there are many."""
        if not self.pictures:
            return [torch.tensor(tokens) for _, tokens in self.words]
        numbers = torch.arange(self.special + len(self.pictures) * self.grid[0] * self.grid[1])
        front, places = numbers[: self.special], self.rasters(numbers)
        side = math.ceil(math.sqrt(len(places) * self.grid[0] * self.grid[1] / PARTS))
        squares = [
            square.reshape(-1)
            for one in places
            for strip in one.split(side, dim=0)
            for square in strip.split(side, dim=1)
        ]
        return [*front[:, None], *squares]


def shown(fuser: Fuser, source: Mapping[str, Tensor]) -> dict[str, Shown]:
    """The streams of one row (a batch of 1) that it has; of the others there is nothing to see."""
    made, stem = {}, fuser.model.stem
    parts = dict(zip(stem.names, stem.stems, strict=True))
    for name, holds in fuser.schema.streams.items():
        there = source.get(f"{name}.there")
        if name in source and (there is None or bool(there.all())):
            with torch.inference_mode():
                tokens = parts[name](source[name])
            made[name] = SHOWS[holds](fuser, name, source[name][0].float().cpu(), tokens)
    return made


def _image(fuser: Fuser, name: str, image: Tensor, tokens: Any) -> Shown:
    how, grid = fuser.preparation.image, _grid(tokens)
    assert how is not None
    special = tokens.x.shape[1] - grid[0] * grid[1]
    return Shown(name, "image", pictures=(_pixels(image, how),), grid=grid, special=special)


def _sound(fuser: Fuser, name: str, sound: Tensor, tokens: Any) -> Shown:
    moments, tones = _grid(tokens)
    rows = -(-len(sound) // moments) * moments
    grey = ((sound.clamp(-SPREAD, SPREAD) / SPREAD + 1) * 127.5).nan_to_num(0).round().byte()
    wide = torch.zeros(rows, grey.shape[1], dtype=torch.uint8)
    wide[: len(grey)] = grey
    picture = rearrange(wide, "t m -> m t 1").flip(0).numpy()
    special = tokens.x.shape[1] - moments * tones
    return Shown(name, "sound", pictures=(picture,), grid=(tones, moments), special=special, turned=True)


def _video(fuser: Fuser, name: str, clip: Tensor, tokens: Any) -> Shown:
    how, (moments, places) = fuser.preparation.clip, _grid(tokens)
    assert how is not None
    rows, cols = how.size
    across = max(1, round((places * cols / rows) ** 0.5))
    frames = [clip[min(len(clip) - 1, int((m + 0.5) * len(clip) / moments))] for m in range(moments)]
    pictures = tuple(_pixels(frame.nan_to_num(0), how) for frame in frames)
    special = tokens.x.shape[1] - moments * places
    return Shown(name, "video", pictures=pictures, grid=(places // across, across), special=special)


def _text(fuser: Fuser, name: str, ids: Tensor, tokens: Any) -> Shown:
    reading = fuser.preparation.reading
    assert reading is not None
    whole, words = [int(i) for i in ids.tolist()], []
    special = {reading.tokenizer.eos: "end", reading.tokenizer.pad: "", reading.begin: "begin"}
    pieces = [special.get(i, p) for i, p in zip(whole, reading.tokenizer.pieces(whole), strict=True)]
    for number, (i, piece) in enumerate(zip(whole, pieces, strict=True)):
        if words and not {i, whole[number - 1]} & special.keys() and not piece.startswith(SPACE):
            label, tokens = words.pop()
            words.append((label + piece, (*tokens, number)))
        else:
            words.append((piece, (number,)))
    labels = tuple(readable(piece) if piece else "" for piece in pieces)
    words = [(readable(label), tokens) for label, tokens in words if label]
    if sum(whole[tokens[0]] not in special for _, tokens in words) < 2:
        words = [(label, (number,)) for number, label in enumerate(labels) if label]
    return Shown(name, "text", tuple(words), labels)


def _table(fuser: Fuser, name: str, row: Tensor, tokens: Any) -> Shown:
    cells = zip(fuser.schema.table, row.tolist(), strict=True)
    labels = tuple(f"{column.name}: {_cell(column, value)}" for column, value in cells)
    words = tuple((label, (number,)) for number, label in enumerate(labels))
    return Shown(name, "table", words, labels)


SHOWS = {"image": _image, "sound": _sound, "video": _video, "text": _text, "table": _table}
"""What a stream holds -> how it is shown."""


def _cell(column: Column, value: float) -> str:
    if value != value:
        return "missing"
    if column.holds == "category":
        return column.values[int(value) - 1] if value else "never seen"
    number = value * column.deviation + column.mean
    if column.written == "dates":
        return str(EPOCH + dt.timedelta(days=round(number)))
    return f"{number:.4g}" if abs(number) < 10_000 else f"{number:,.0f}"


def _pixels(image: Tensor, how: Any) -> np.ndarray:
    """What was normalised, as bytes r c v."""
    mean, std = (rearrange(torch.tensor(one), "v -> v 1 1") for one in (how.mean, how.std))
    return rearrange((255 * (image * std + mean)).round().clamp(0, 255).byte(), "v r c -> r c v").numpy()


def _grid(tokens: Any) -> tuple[int, int]:
    """Of tokens that are a raster; where a trunk gave up the places, one place for all."""
    return tokens.grid or (1, tokens.x.shape[1])
