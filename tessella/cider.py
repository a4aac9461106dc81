"""Cider: how much what is said of pictures agrees with what people say of them (CIDEr-D)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tessella.errors import InputError

LONGEST = 4
SIGMA = 6.0
"""Words by which a caption may differ in length before much is taken off."""
WORD = re.compile(r"\w+(?:['’]\w+)*")
Grams = tuple[Counter[tuple[str, ...]], ...]
"""How often each n-gram is said, for n from 1 to 4."""


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits, apostrophes inside them kept; all other punctuation is left out."""
    return WORD.findall(text.lower())


def grams(text: str) -> Grams:
    """The n-grams of a text."""
    said = words(text)
    return tuple(Counter(tuple(said[i : i + n]) for i in range(len(said) - n + 1)) for n in range(1, LONGEST + 1))


@dataclass(frozen=True)
class Weighted:
    """A text by its n-grams, each as often as it is said times its weight; the norms of these vectors; its words."""

    values: tuple[dict[tuple[str, ...], float], ...]
    norms: tuple[float, ...]
    length: int


class Cider:
    """CIDEr-D (Vedantam et al. 2015, sec. 4) against the references of these pictures, one or more each.

    An n-gram weighs log(pictures / pictures of which it is said). Of n-grams that a caption says more often than a
    reference, only as many count (clipping); a caption longer or shorter by l words counts exp(-l^2 / (2 sigma^2));
    cosines are averaged over references and n = 1..4, times 10. Texts are lower-cased and have their punctuation left
    out (`words`), but words are not stemmed: as the code of the COCO challenge has it, which as here counts n-grams and
    does not divide by their number. Raises InputError for pictures without a reference.
    """

    signature = "CIDEr-D|n:1-4|sigma:6|idf:references of this set|case:lc|tok:words without punctuation|stem:no|x10"

    def __init__(self, references: Sequence[Sequence[str]]):
        if not references or not all(references):
            raise InputError("CIDEr needs pictures with a reference each; there is none to compare with")
        counted = [[grams(text) for text in several] for several in references]
        self.pictures = len(counted)
        self.seen = Counter(
            gram for several in counted for gram in {g for one in several for part in one for g in part}
        )
        self.references = [[self.weighted(one) for one in several] for several in counted]

    def weight(self, gram: tuple[str, ...]) -> float:
        """log(pictures / pictures of which this is said); what is said of none weighs as what is said of one."""
        return math.log(self.pictures / max(1, self.seen[gram]))

    def weighted(self, counted: Grams) -> Weighted:
        """The vectors of a text."""
        values = tuple({gram: count * self.weight(gram) for gram, count in part.items()} for part in counted)
        norms = tuple(math.sqrt(sum(v * v for v in part.values())) for part in values)
        return Weighted(values, norms, counted[0].total())

    def scores(self, captions: Sequence[str]) -> np.ndarray:
        """The score of each picture's caption, float64 n; captions in the order of the references."""
        if len(captions) != self.pictures:
            raise InputError(f"{len(captions)} captions for {self.pictures} pictures; there must be one for each")
        told = zip(captions, self.references, strict=True)
        return np.array([self.score(self.weighted(grams(caption)), several) for caption, several in told])

    def score(self, caption: Weighted, references: Sequence[Weighted]) -> float:
        """Of one caption."""
        return 10 * sum(_likeness(caption, one) for one in references) / len(references)


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The mean CIDEr-D of captions, one a picture, against all references of each."""
    return float(Cider(references).scores(captions).mean())


def _likeness(caption: Weighted, reference: Weighted) -> float:
    """Mean over n of the clipped cosines, with what the difference in length takes off."""
    near = math.exp(-((caption.length - reference.length) ** 2) / (2 * SIGMA**2))
    total = 0.0
    for mine, theirs, a, b in zip(caption.values, reference.values, caption.norms, reference.norms, strict=True):
        if a and b:
            shared = sum(min(value, theirs[gram]) * theirs[gram] for gram, value in mine.items() if gram in theirs)
            total += shared / (a * b)
    return near * total / LONGEST
