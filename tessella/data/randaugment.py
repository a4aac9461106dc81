"""RandAugment: operations drawn for each picture, done to all pictures of a batch that drew the same kind.

RandAugment (Cubuk et al. 2019, https://arxiv.org/abs/1909.13719) as DeiT trains with it, ``rand-m9-mstd0.5-inc1`` in
timm's words. Its fifteen operations are of few kinds, so that a batch needs few passes and not one a picture:

    tables      every value is replaced by what a table of 256 says: auto-contrast, equalize, invert, posterize,
                solarize, solarize-add, brightness, contrast
    warps       every pixel is read elsewhere, by an affine map: rotate, shear and translate
    blends      two, which look at the other channels (colour) and at the neighbours (sharpness)

They work on bytes and give what Pillow gives (warps: but for rounding). Pictures may have any number of channels; grey
is Pillow's for three, else the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from tessella.spec import Spec, spec

LEVELS = 10
"""Magnitudes are of ten, as in timm."""
VALUES = np.arange(256)

Table = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""``(counts b v 256, strength b 1 1 of 0 to 1, factor b 1 1) -> b v 256``, or what broadcasts to it; clipped later."""
Warp = Callable[[np.ndarray, tuple[int, int]], np.ndarray]
"""``(signed strength b of -1 to 1, (rows, columns)) -> maps b 2 3``, see ``warp``."""
Blend = Callable[[Tensor, Tensor], Tensor]
"""``(bytes b v r c, factor b 1 1 1) -> bytes b v r c``."""


@spec("randaugment")
class RandAugment(Spec):
    """``number`` operations a picture, each done with ``probability``, of a magnitude drawn from N(magnitude, std²).

    Magnitudes count from 0 to 10 and are cut there; an operation that has one does the more, the larger it is. Half of
    the operations are not done, as in timm; the paper does all. Warps are bilinear, where DeiT's are bicubic.
    """

    number: int = Field(2, ge=1)
    magnitude: float = Field(9.0, ge=0, le=LEVELS)
    std: float = Field(0.5, ge=0)
    probability: float = Field(0.5, ge=0, le=1)

    def __call__(self, images: Tensor, rng: np.random.Generator, fill: Sequence[int]) -> Tensor:
        """Bytes b v r c to new ones. What a warp reads from outside a picture has the value ``fill``, one a channel."""
        shape = (self.number, len(images))
        which, done = rng.integers(len(OPERATIONS), size=shape), rng.random(shape) < self.probability
        strength = rng.normal(self.magnitude, self.std, shape).clip(0, LEVELS) / LEVELS
        signed = strength * rng.choice((-1, 1), shape)
        images = images.clone()
        for names, *how in zip(np.where(done, np.asarray(OPERATIONS)[which], ""), strength, signed, strict=True):
            for kind, apply in ((TABLES, _look_up), (WARPS, _warped), (BLENDS, _blended)):
                rows = np.flatnonzero(np.isin(names, list(kind)))
                if len(rows):
                    at = torch.from_numpy(rows)
                    images[at] = apply(images[at], names[rows], *(numbers[rows] for numbers in how), fill)
        return images


def _rows_by_name(drawn: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Each operation that was drawn, with the rows that drew it."""
    return ((str(name), np.flatnonzero(drawn == name)) for name in np.unique(drawn))


def _factor(signed: np.ndarray) -> np.ndarray:
    """How much of the picture is kept in a blend: 1 keeps it, less brings it nearer to grey, dark or blurred."""
    return np.maximum(0.1, 1 + 0.9 * signed).astype(np.float32)


# Tables ----------------------------------------------------------------------------------------------------------


def _look_up(images: Tensor, drawn: np.ndarray, strength: np.ndarray, signed: np.ndarray, _: Sequence[int]) -> Tensor:
    values = rearrange(images, "b v r c -> b v (r c)").long()
    b, v, _n = values.shape
    planes = rearrange(torch.arange(b * v) * 256, "(b v) -> b v 1", v=v)
    counts = torch.bincount((values + planes).flatten(), minlength=b * v * 256).view(b, v, 256).numpy()
    tables = np.empty((b, v, 256), np.uint8)
    strength, factor = strength[:, None, None], _factor(signed)[:, None, None]
    for name, rows in _rows_by_name(drawn):
        made = TABLES[name](counts[rows], strength[rows], factor[rows])
        tables[rows] = made.clip(0, 255)  # a byte is cut down, not rounded, as in Pillow
    return torch.from_numpy(tables).gather(2, values).view_as(images)


def autocontrast(counts: np.ndarray, strength: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The darkest value of a channel becomes 0, the lightest 255."""
    low = (counts > 0).argmax(-1)[..., None]
    high = 255 - (counts[..., ::-1] > 0).argmax(-1)[..., None]
    scale = 255 / np.maximum(high - low, 1)
    return np.where(high > low, np.trunc(VALUES * scale - low * scale), VALUES)


def equalize(counts: np.ndarray, strength: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """All values of a channel become about equally frequent."""
    last = 255 - (counts[..., ::-1] > 0).argmax(-1)[..., None]
    step = (counts.sum(-1, keepdims=True) - np.take_along_axis(counts, last, -1)) // 255
    before = counts.cumsum(-1) - counts
    return np.where(step > 0, (step // 2 + before) // np.maximum(step, 1), VALUES)


def invert(counts: np.ndarray, strength: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The negative."""
    return 255 - VALUES


def posterize(counts: np.ndarray, strength: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Keeps the first 4 to 1 bits; timm's full strength keeps none, which would leave nothing to see."""
    bits = np.maximum(1, 4 - (strength * 4).astype(int))
    return VALUES & (256 - (1 << (8 - bits)))


def solarize(counts: np.ndarray, strength: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The negative of what is light."""
    threshold = 256 - (strength * 256).astype(int)
    return np.where(threshold <= VALUES, 255 - VALUES, VALUES)


def solarize_add(counts: np.ndarray, strength: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """What is dark becomes lighter by up to 110, past what is light."""
    return np.where(VALUES < 128, VALUES + (strength * 110).astype(int), VALUES)


def brightness(counts: np.ndarray, strength: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Blend with black."""
    return factor * VALUES


def contrast(counts: np.ndarray, strength: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Blend with the mean grey of the picture."""
    means = (counts * VALUES).sum(-1) / counts.sum(-1)
    mean = np.floor(means @ np.asarray(_weights(counts.shape[1])) / 2**16 + 0.5).astype(np.float32)[:, None, None]
    return mean + factor * (VALUES - mean)


def _weights(channels: int) -> list[int]:
    """The share of each channel in grey, of 65536 (ITU-R 601, in Pillow's integers)."""
    return [19595, 38470, 7471] if channels == 3 else [2**16 // channels] * channels


# Warps -----------------------------------------------------------------------------------------------------------


def _warped(images: Tensor, drawn: np.ndarray, _s: np.ndarray, signed: np.ndarray, fill: Sequence[int]) -> Tensor:
    maps = np.empty((len(images), 2, 3))
    for name, rows in _rows_by_name(drawn):
        maps[rows] = WARPS[name](signed[rows], (images.shape[2], images.shape[3]))
    return warp(images, maps, fill)


def warp(images: Tensor, maps: np.ndarray, fill: Sequence[int]) -> Tensor:
    """Pictures read elsewhere: bytes b v r c to bytes b v r c, bilinear between the pixels.

    ``maps`` (b 2 3) takes the place ``(x, y, 1)`` of an output pixel to the place (x, y) it is read from; places are in
    pixels from the upper left corner, the middle of the first pixel is (0.5, 0.5). Places outside have ``fill``.
    """
    rows, columns = images.shape[2:]
    onto = torch.from_numpy(maps * [[[2 / columns], [2 / rows]]]).float()  # grid_sample counts from -1 to 1
    onto[:, :, 2] -= 1
    a, b, c = rearrange(onto, "b two abc -> abc b 1 1 two")
    y, x = torch.arange(rows) + 0.5, torch.arange(columns) + 0.5
    grid = a * rearrange(x, "c -> c 1") + (b * rearrange(y, "r -> r 1 1") + c)
    read = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False).round_().to(torch.uint8)
    outside = rearrange((grid.abs() > 1).any(-1), "b r c -> b 1 r c")
    return torch.where(outside, rearrange(torch.tensor(fill, dtype=torch.uint8), "v -> v 1 1"), read)


def _maps(*entries: np.ndarray | float) -> np.ndarray:
    """Six entries, a row of ``a b c`` each for x and y, as maps b 2 3."""
    return rearrange(np.stack(np.broadcast_arrays(*entries)), "(two three) b -> b two three", two=2)


def rotate(signed: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """By up to 30 degrees about the middle."""
    (y, x), angle = (side / 2 for side in size), np.radians(30 * signed)
    cos, sin = np.cos(angle), np.sin(angle)
    return _maps(cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


def shear_x(signed: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Rows move by up to 0.3 of their distance from the top."""
    return _maps(1, 0.3 * signed, 0, 0, 1, 0)


def shear_y(signed: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Columns move by up to 0.3 of their distance from the left."""
    return _maps(1, 0, 0, 0.3 * signed, 1, 0)


def translate_x(signed: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """By up to 0.45 of the width."""
    return _maps(1, 0, 0.45 * signed * size[1], 0, 1, 0)


def translate_y(signed: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """By up to 0.45 of the height."""
    return _maps(1, 0, 0, 0, 1, 0.45 * signed * size[0])


# Blends ----------------------------------------------------------------------------------------------------------


def _blended(images: Tensor, drawn: np.ndarray, _s: np.ndarray, signed: np.ndarray, _f: Sequence[int]) -> Tensor:
    factor = rearrange(torch.from_numpy(_factor(signed)), "b -> b 1 1 1")
    for name, rows in _rows_by_name(drawn):
        at = torch.from_numpy(rows)
        images[at] = BLENDS[name](images[at], factor[at])
    return images


def _mixed(plain: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """plain + factor · (images - plain), within a byte and cut down to one."""
    plain = plain.float()
    return (plain + factor * (images.float() - plain)).clamp_(0, 255).to(torch.uint8)


def colour(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey picture."""
    weights = torch.tensor(_weights(images.shape[1]), dtype=torch.int32)
    grey = (rearrange(weights, "v -> v 1 1") * images.int()).sum(1, keepdim=True, dtype=torch.int32)
    return _mixed((grey + 2**15) >> 16, images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the picture smoothed by (1 1 1, 1 5 1, 1 1 1) / 13; the outermost pixels stay."""
    wide = images.short()
    tall = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    sums = tall[..., :-2] + tall[..., 1:-1] + tall[..., 2:] + 4 * wide[..., 1:-1, 1:-1]
    sharp = images.clone()
    sharp[..., 1:-1, 1:-1] = _mixed((sums.float() / 13 + 0.5).floor_(), images[..., 1:-1, 1:-1], factor)
    return sharp


TABLES: dict[str, Table] = {
    f.__name__: f for f in (autocontrast, equalize, invert, posterize, solarize, solarize_add, brightness, contrast)
}
WARPS: dict[str, Warp] = {f.__name__: f for f in (rotate, shear_x, shear_y, translate_x, translate_y)}
BLENDS: dict[str, Blend] = {f.__name__: f for f in (colour, sharpness)}
OPERATIONS = (*TABLES, *WARPS, *BLENDS)
