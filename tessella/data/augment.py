"""Augment: what is done to pictures before training sees them, each part to be switched on by itself.

``Augment()`` does nothing; ``DEIT`` is the recipe of DeiT (Touvron et al. 2021,
https://arxiv.org/abs/2012.12877, table 9).
Every part draws from random numbers of its own, so that switching one on or off leaves the others as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from tessella.data.mixing import mix
from tessella.data.randaugment import RandAugment, warp
from tessella.errors import InputError
from tessella.spec import Spec, spec

TRIES = 10
"""How often a box is drawn until one fits, here and in the papers' code."""
ERASED = (0.02, 1 / 3)
ERASED_RATIO = (0.3, 1 / 0.3)
"""Area and width / height of what random erasing erases (timm's; Zhong et al. 2020 have up to 0.4)."""


class Boxes(NamedTuple):
    """Boxes within a picture, in pixels, each long b; where none fitted, the height is 0."""

    top: np.ndarray
    left: np.ndarray
    height: np.ndarray
    width: np.ndarray


@spec("augment")
class Augment(Spec):
    """What is done to training pictures. Probabilities and alphas of 0 leave a part out.

    ``crop``: "pad" cuts a window of the old size from the picture padded by ``padding`` black pixels, for small
    pictures; "resized" cuts a box of a share ``scale`` of the area and a width / height of ``ratio``, and resizes it;
    "none" leaves pictures fitted as in evaluation. ``flip`` and ``erasing`` are probabilities a picture; ``mixup`` and
    ``cutmix`` the alphas of their Beta distributions, of which CutMix is taken with ``mix_switch``, in a share
    ``mix_share`` of the batches. ``repeats``: each picture of an epoch comes that often, differently augmented, and an
    epoch has as many fewer different ones (Hoffer et al. 2020, https://arxiv.org/abs/1901.09335).
    """

    crop: Literal["none", "pad", "resized"] = "none"
    padding: int = Field(4, ge=0)
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = Field(0.0, ge=0, le=1)
    randaugment: RandAugment | None = None
    erasing: float = Field(0.0, ge=0, le=1)
    mixup: float = Field(0.0, ge=0)
    cutmix: float = Field(0.0, ge=0)
    mix_switch: float = Field(0.5, ge=0, le=1)
    mix_share: float = Field(1.0, ge=0, le=1)
    repeats: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _ranges(self) -> Augment:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"scale is a range of shares of the area, within 0 to 1, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise InputError(f"ratio is a range of width / height, got {self.ratio}")
        return self

    @property
    def mixes(self) -> bool:
        """Whether batches have ``label2`` and ``share``."""
        return self.mixup > 0 or self.cutmix > 0

    def cropped(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Bytes b v r c to bytes b v r c: pictures that are already in memory and of the right size."""
        if self.crop == "pad":
            return pad_crop(images, self.padding, rng)
        if self.crop == "resized":
            return resized_crop(images, self.scale, self.ratio, rng)
        return images

    def changed(self, images: Tensor, rng: np.random.Generator, fill: Sequence[int]) -> Tensor:
        """Bytes b v r c, cropped, to bytes b v r c: flips, and RandAugment with one ``fill`` a channel."""
        flips, operations = rng.spawn(2)
        images = flip(images, self.flip, flips)
        return self.randaugment(images, operations, fill) if self.randaugment else images

    def finished(self, batch: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        """A batch whose ``image`` is normalised, with boxes erased (in place) and its pictures and labels mixed."""
        erased, mixed = rng.spawn(2)
        erase(batch["image"], self.erasing, erased)
        if self.mixes:
            wanted = mixed.random() < self.mix_share
            mix(batch, mixed, (self.mixup, self.cutmix) if wanted else (0.0, 0.0), self.mix_switch)
        return batch


DEIT = Augment(crop="resized", flip=0.5, randaugment=RandAugment(), erasing=0.25, mixup=0.8, cutmix=1.0, repeats=3)
"""DeiT's recipe for photos. For small pictures, ``DEIT.replace(crop="pad")``, as its code has it below 33 pixels."""


def pad_crop(images: Tensor, padding: int, rng: np.random.Generator) -> Tensor:
    """A window of the old size anywhere in each picture, padded by zeros on all sides: b v r c to b v r c.

    All windows are copied at once, from a view that has every window of every picture.
    """
    b, _, rows, columns = images.shape
    top, left = (torch.from_numpy(rng.integers(2 * padding + 1, size=b)) for _ in range(2))
    windows = F.pad(images, (padding,) * 4).unfold(2, rows, 1).unfold(3, columns, 1)
    return windows[torch.arange(b), :, top, left]


def resized_crop(
    images: Tensor, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Tensor:
    """A box of each picture, as large again as the picture: bytes b v r c to b v r c (Szegedy et al. 2015).

    Where no box of ten fits, the largest one about the middle with a width / height within ``ratio`` is taken.
    """
    rows, columns = images.shape[2:]
    top, left, height, width = draw_boxes(len(images), (rows, columns), scale, ratio, rng)
    tall, wide = min(rows, round(columns / ratio[0])), min(columns, round(rows * ratio[1]))
    none, zero = height == 0, np.zeros(len(images))
    top, left = np.where(none, (rows - tall) // 2, top), np.where(none, (columns - wide) // 2, left)
    height, width = np.where(none, tall, height), np.where(none, wide, width)
    maps = np.stack([width / columns, zero, left, zero, height / rows, top], axis=1).reshape(-1, 2, 3)
    return warp(images, maps, [0] * images.shape[1])


def flip(images: Tensor, probability: float, rng: np.random.Generator) -> Tensor:
    """Left and right exchanged in some of the pictures: b v r c to b v r c."""
    chosen = torch.from_numpy(np.flatnonzero(rng.random(len(images)) < probability))
    return images.index_copy(0, chosen, images[chosen].flip(-1)) if len(chosen) else images


def erase(images: Tensor, probability: float, rng: np.random.Generator) -> Tensor:
    """A box in some of the pictures becomes noise, N(0, 1) in every value: float b v r c, in place, and returned.

    Random erasing (Zhong et al. 2020, https://arxiv.org/abs/1708.04896) with noise a pixel, on normalised pictures.
    """
    b, channels, rows, columns = images.shape
    chosen = np.flatnonzero(rng.random(b) < probability)
    boxes = draw_boxes(len(chosen), (rows, columns), ERASED, ERASED_RATIO, rng)
    for row, top, left, height, width in zip(chosen.tolist(), *(side.tolist() for side in boxes), strict=True):
        noise = torch.from_numpy(rng.standard_normal((channels, height, width), dtype=np.float32))
        images[row, :, top : top + height, left : left + width] = noise
    return images


def draw_boxes(
    count: int,
    size: tuple[int, int],
    area: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> Boxes:
    """``count`` boxes within a picture of ``size`` (rows, columns) pixels, each the first of ten draws that fits.

    The share of the area is uniform in ``area``, the logarithm of width / height uniform within ``ratio``.
    """
    rows, columns = size
    pixels = rng.uniform(*area, (count, TRIES)) * rows * columns
    shape = np.exp(rng.uniform(*np.log(ratio), (count, TRIES)))
    heights, widths = (np.round(np.sqrt(side)).astype(np.int64) for side in (pixels / shape, pixels * shape))
    fits = (heights > 0) & (heights <= rows) & (widths > 0) & (widths <= columns)
    first = fits.argmax(1)[:, None]
    height, width = (np.where(fits.any(1), np.take_along_axis(sides, first, 1)[:, 0], 0) for sides in (heights, widths))
    return Boxes(rng.integers(rows - height + 1), rng.integers(columns - width + 1), height, width)
