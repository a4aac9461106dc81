"""Card: what is published about a model with its weights: accuracy, licence, and how its images are prepared."""

from __future__ import annotations

from typing import NamedTuple

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's red, green and blue, of 1."""
HALVES = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
"""What brings pixels to -1 .. 1."""


class Card(NamedTuple):
    """The published numbers of one variant. A model without published weights has no licence of them."""

    size: int = 224
    """Rows and columns of its images."""
    top1: float | None = None
    """ImageNet-1k top-1 accuracy, percent, at this size."""
    source: str = ""
    """Who published that."""
    licence: str = ""
    """Of the published weights."""
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    crop: float = 0.875
    interpolation: str = "bicubic"
