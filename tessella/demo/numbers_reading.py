"""Numbers reading: pictures of numbers read by the names of all of them, in the space of two towers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tessella.class_scores import softmax
from tessella.demo.numbers import ALL, LANGUAGES, name
from tessella.errors import InputError
from tessella.matcher import Matcher
from tessella.zero_shot import prototypes

AT_ONCE = 100
"""Pictures embedded at once."""
GROUPS = {"0 to 9": range(10), "10 to 19": range(10, 20), "20 to 99": range(20, ALL)}
"""Numbers that English names alike: a word each, a word each once more, and two words that come again elsewhere."""


@dataclass(frozen=True, eq=False)
class Reading:
    """Pictures and names in one space.

    values: long n, the number that each picture shows. held: long k, numbers that were not learned from. pictures:
    float32 n e, and words: language -> float32 100 e, all of length 1. scale: of cosines before a softmax.
    """

    values: np.ndarray
    held: np.ndarray
    pictures: np.ndarray
    words: Mapping[str, np.ndarray]
    scale: float

    @property
    def new(self) -> np.ndarray:
        """n: whether a picture's number was not learned from."""
        return np.isin(self.values, self.held)

    def cosines(self, language: str) -> np.ndarray:
        """n 100: how near each picture is to each name."""
        return self.pictures @ self.words[language].T

    def answers(self, language: str, among: np.ndarray | None = None) -> np.ndarray:
        """n: the number whose name is nearest to each picture, of all or of some."""
        among = np.arange(ALL) if among is None else among
        return among[self.cosines(language)[:, among].argmax(axis=1)]

    def right(self, language: str, among: np.ndarray | None = None) -> np.ndarray:
        """n: whether it is the number in the picture."""
        return self.answers(language, among) == self.values

    def sure(self, language: str) -> np.ndarray:
        """n: the probability of the answer among all."""
        return softmax((self.scale * self.cosines(language)).astype(float)).max(axis=1)

    def together(self, language: str) -> np.ndarray:
        """100 100: the mean cosine of all pictures of a number (row) with a name (column)."""
        cosines = self.cosines(language)
        return np.stack([cosines[self.values == value].mean(axis=0) for value in range(ALL)])

    def groups(self, language: str) -> dict[str, np.ndarray]:
        """Group of numbers -> whether pictures of those never learned from are read right among all."""
        right = self.right(language)
        return {told: right[self.new & np.isin(self.values, numbers)] for told, numbers in GROUPS.items()}

    def translated(self, start: str, end: str) -> np.ndarray:
        """k: whether the name of a number never learned from has its translation as the nearest of 100."""
        return (self.words[start][self.held] @ self.words[end].T).argmax(axis=1) == self.held


def read(matcher: Matcher, files: Sequence[Path], values: np.ndarray, held: np.ndarray) -> Reading:
    """Embeds the pictures, and the names of all numbers. Raises InputError for a picture that cannot be read."""
    rows = list(matcher.images(files, AT_ONCE))
    for row in rows:
        if isinstance(row, InputError):
            raise row
    words = {
        language: prototypes(matcher, [name(n, language) for n in range(ALL)]).vectors.numpy() for language in LANGUAGES
    }
    return Reading(values, held, np.stack(rows), words, matcher.scale)
