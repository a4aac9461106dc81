"""Digits: 1,797 digits that people wrote by hand, as scikit-learn carries them, in three parts without overlap."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from tessella.errors import InputError

LEVELS = 16
"""Ink of a full pixel; a pixel counts how many of 4 x 4 finer ones had any."""
SIZES = {"val": 100, "test": 600}
"""Digits kept for choosing among weights, and for the final score; the others are learned from."""


class Digits(NamedTuple):
    """Some of the digits: pixels as bytes n 8 8, 255 for ink; labels n, the digit; and index n, the place in all."""

    pixels: np.ndarray
    labels: np.ndarray
    index: np.ndarray


def digit_splits(seed: int = 0, train: int | None = None) -> dict[str, Digits]:
    """All digits as train, val and test, of every digit about the same share in each; a function of the seed.

    train: so many to learn from, where all that are left are too many. The test is the same whatever is asked for.
    """
    pixels, labels = load_digits(return_X_y=True)
    pixels = np.rint(pixels.reshape(-1, 8, 8) * (255 / LEVELS)).astype(np.uint8)
    order = _dealt(labels, np.random.default_rng(seed))
    left = len(order) - sum(SIZES.values())
    if train is not None and not 1 <= train <= left:
        raise InputError(f"{train} digits to learn from: there are 1 to {left}")
    parts, start = {}, 0
    for name, count in (*SIZES.items(), ("train", train or left)):
        index = np.sort(order[start : start + count])
        parts[name] = Digits(pixels[index], labels[index], index)
        start += count
    return parts


def write_digits(folder: Path, splits: dict[str, Digits]) -> Path:
    """Each split as class folders of PNG files: ``test/7/0123.png`` is a seven, the 124th of all. Gives the folder."""
    for name, digits in splits.items():
        for label in np.unique(digits.labels):
            (folder / name / f"{label}").mkdir(parents=True, exist_ok=True)
        for pixels, label, index in zip(*digits, strict=True):
            Image.fromarray(pixels).save(folder / name / f"{label}" / f"{index:04}.png")
    return folder


def _dealt(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All numbers in an order in which every stretch has about the same share of each class."""
    place = np.empty(len(labels))
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        place[rng.permutation(mine)] = (np.arange(len(mine)) + rng.random()) / len(mine)
    return np.argsort(place, kind="stable")
