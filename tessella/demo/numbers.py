"""Numbers: pictures of two-digit numbers put together from handwritten digits, and their names in two languages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from num2words import num2words
from PIL import Image

from tessella.demo.digits import Digits

ALL = 100
"""00 to 99; a number below ten is written with a nought in front, and called like the digit alone."""
UNSEEN = 20
"""Numbers that training does not show."""
SIZE = (12, 20)
"""Rows and columns of a picture; a digit has 8 x 8, anywhere within its half."""
LANGUAGES = {"English": "en", "Korean": "ko"}
PICTURES = {"train": (30, 0), "val": (1, 0), "test": (10, 30)}
"""Split -> how many pictures of each number that training shows, and of each that it does not."""


class Numbers(NamedTuple):
    """Pictures of one split: pixels as bytes n r c, 255 for ink, and values n, the number that each shows."""

    pixels: np.ndarray
    values: np.ndarray


def name(number: int, language: str) -> str:
    """A number in words: "twenty-three" or, in the Korean that is used for counting by digits, "이십삼"."""
    return num2words(number, lang=LANGUAGES[language])


def unseen(seed: int = 0) -> np.ndarray:
    """The numbers never learned from, in order: of every ten two, and two that end in each digit. By the seed alone."""
    units = np.random.default_rng(seed).permutation(10)
    return np.sort(np.concatenate([10 * np.arange(10) + np.roll(units, turn) for turn in range(UNSEEN // 10)]))


def composed(digits: dict[str, Digits], seed: int = 0) -> dict[str, Numbers]:
    """Pictures of each split, made of the digits of that split alone; a function of the digits and the seed."""
    held = unseen(seed)
    parts = {}
    for split, (known, new) in PICTURES.items():
        rng = np.random.default_rng([seed, len(parts)])
        values = np.repeat(np.arange(ALL), np.where(np.isin(np.arange(ALL), held), new, known))
        parts[split] = Numbers(np.stack([_picture(digits[split], value, rng) for value in values.tolist()]), values)
    return parts


def write_numbers(folder: Path, parts: dict[str, Numbers]) -> Path:
    """Each split as PNG files and a table of what is said of them, ``test/23/0123.png`` and ``test.jsonl``."""
    for split, numbers in parts.items():
        rows = []
        for path, pixels, value in zip(files(folder, split, numbers), *numbers, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            captions = [name(int(value), language) for language in LANGUAGES]
            rows.append({"image": path.relative_to(folder).as_posix(), "captions": captions})
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def files(folder: Path, split: str, numbers: Numbers) -> list[Path]:
    """Where each picture of a split is written."""
    return [folder / split / f"{value:02}" / f"{place:04}.png" for place, value in enumerate(numbers.values.tolist())]


def _picture(digits: Digits, value: int, rng: np.random.Generator) -> np.ndarray:
    """Two digits side by side, each somewhere in its half."""
    picture = np.zeros(SIZE, np.uint8)
    half = SIZE[1] // 2
    for place, digit in enumerate(divmod(value, 10)):
        pixels = digits.pixels[rng.choice(np.flatnonzero(digits.labels == digit))]
        rows, columns = pixels.shape
        top, left = rng.integers(SIZE[0] - rows + 1), half * place + rng.integers(half - columns + 1)
        picture[top : top + rows, left : left + columns] = pixels
    return picture
