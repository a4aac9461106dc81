"""Overlays: a map of a picture's places laid over the picture, as pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

SMALL = 128
"""Pictures of fewer rows and columns are enlarged pixel by pixel, so that one sees what the model saw."""
DARK = 0.14
"""How bright a place stays that the map leaves out."""
GLOW = np.array([1.0, 0.33, 0.1]), 0.42
"""The colour of heat, and how much of it covers a place that the map has most of."""
COLD = np.array([0.1, 0.45, 1.0]), 0.42
"""The same of what is below 0, where that is drawn as well."""
MOST = 0.99
"""The share of a map that is within the scale: a few outliers would leave all else in the dark."""


def enlarged(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 r c or r c v -> uint8 r c 3, its longer side `side` pixels."""
    rows, cols = image.shape[:2]
    scale = side / max(rows, cols)
    how = Image.Resampling.NEAREST if max(rows, cols) < SMALL else Image.Resampling.BICUBIC
    size = max(1, round(cols * scale)), max(1, round(rows * scale))
    return np.asarray(Image.fromarray(image.squeeze()).convert("RGB").resize(size, how))


def both_ways(image: np.ndarray, raster: Tensor, side: int, most: float) -> np.ndarray:
    """As `overlay`, with what is below 0 glowing in another colour."""
    return np.maximum(overlay(image, raster, side, most), overlay(image, -raster, side, most, COLD))


def overlay(
    image: np.ndarray, raster: Tensor, side: int, most: float | None = None, glow: tuple[np.ndarray, float] = GLOW
) -> np.ndarray:
    """A picture with what a map leaves out in the dark and what it has most of glowing: uint8 r c 3.

    image: uint8 r c v. raster: r c, of any size, spread smoothly over the picture; what is below 0 counts as 0.
    most: the value that glows fully; by default the map's own, nearly its largest.
    """
    ground = enlarged(image, side).astype(np.float32) / 255
    values = raster.clamp(min=0).float().numpy()
    most = float(np.quantile(values, MOST, method="higher")) if most is None else most
    wide = Image.fromarray(values / max(most, 1e-12)).resize(ground.shape[1::-1], Image.Resampling.BICUBIC)
    heat = np.clip(np.asarray(wide), 0, 1)[..., None]
    lit = ground * (DARK + (1 - DARK) * heat**0.7)
    colour, share = glow
    return np.rint(255 * (lit + share * heat**1.5 * (colour - lit))).clip(0, 255).astype(np.uint8)


def even(raster: Tensor) -> str:
    """The least and the most of a map in multiples of an even share, so that one sees whether it says much."""
    share = float(raster.mean())
    return (
        f"{float(raster.min()) / share:.2g} to {float(raster.max()) / share:.2g} times an even share" if share else ""
    )
