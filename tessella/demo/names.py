"""Names: handwritten digits and their English names, both damaged, as rows of a table."""

from __future__ import annotations

import io
import string
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
from num2words import num2words
from PIL import Image

from tessella.demo.digits import Digits

NAMES = tuple(num2words(digit) for digit in range(10))
STREAMS = {"digit": "digit", "word": "text"}
"""The two columns of a row -> what a fusion calls the stream of each."""
LETTERS = string.ascii_lowercase
COPIES = {"train": 6, "val": 2, "test": 1}
"""How often each digit of a split is damaged anew; those of the test once, so that its rows are independent."""
NOISE = 0.15
"""Deviation of what is added to every pixel, in full inks."""
LOST = 0.4
"""The chance of a letter to be left out; one at least stays."""
WRONG = 0.25
"""The chance of a letter that stays to be replaced by any of the alphabet."""


class Rows(NamedTuple):
    """Rows of one split: pixels as bytes n 8 8, 255 for ink; n words; and labels n, the digit that both are about."""

    pixels: np.ndarray
    words: list[str]
    labels: np.ndarray


def damaged_rows(splits: dict[str, Digits], seed: int = 0) -> dict[str, Rows]:
    """Rows of each split, made of the digits of that split alone; a function of the digits and the seed."""
    parts = {}
    for split, copies in COPIES.items():
        rng = np.random.default_rng([seed, len(parts)])
        labels = np.tile(splits[split].labels, copies)
        pixels = np.stack([torn(one, rng) for one in np.tile(splits[split].pixels, (copies, 1, 1))])
        parts[split] = Rows(pixels, [misspelt(NAMES[label], rng) for label in labels], labels)
    return parts


def torn(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A digit with noise, of which the upper, lower, left or right half is lost."""
    rows, cols = pixels.shape
    noisy = (pixels + 255 * NOISE * rng.standard_normal(pixels.shape)).clip(0, 255)
    lost = [np.s_[: rows // 2], np.s_[rows // 2 :], np.s_[:, : cols // 2], np.s_[:, cols // 2 :]]
    noisy[lost[rng.integers(len(lost))]] = 0
    return np.rint(noisy).astype(np.uint8)


def misspelt(word: str, rng: np.random.Generator) -> str:
    """A word less some of its letters, with wrong ones among the others."""
    kept = np.zeros(len(word), bool)
    while not kept.any():
        kept = rng.random(len(word)) >= LOST
    wrong = rng.random(len(word)) < WRONG
    other = rng.integers(len(LETTERS), size=len(word))
    return "".join(LETTERS[o] if w else c for c, k, w, o in zip(word, kept, wrong, other, strict=True) if k)


def likelihood(seen: str, word: str) -> float:
    """How likely `misspelt` makes `seen` of a word.

    made[j]: the chance that the letters of the word so far have become the first j of `seen`, in whatever way.
    """
    made = np.zeros(len(seen) + 1)
    made[0] = 1
    for letter in word:
        becomes = [(1 - WRONG) * (letter == one) + WRONG / len(LETTERS) for one in seen]
        stays = np.concatenate([[0], made[:-1] * becomes])
        made = LOST * made + (1 - LOST) * stays
    return float(made[-1] / (1 - LOST ** len(word)))


def ideal(words: list[str]) -> np.ndarray:
    """What a reader says of words who knows the names and how they are damaged: of each the likeliest digit, long n."""
    return np.array([np.argmax([likelihood(seen, name) for name in NAMES]) for seen in words])


def write_rows(folder: Path, parts: dict[str, Rows]) -> Path:
    """Each split as a table ``test.parquet`` of the columns digit (a PNG file), word and label. Gives the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in parts.items():
        columns = {"digit": [_png(one) for one in rows.pixels], "word": rows.words, "label": rows.labels.astype(str)}
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{split}.parquet")
    return folder


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
