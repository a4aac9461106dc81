"""Reader: a trained language model and its tokenizer; texts in, how well it foresaw their words out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tessella.data.exercises import Exercise, NextWords, Pieces, TextData, passages
from tessella.data.texts import characters
from tessella.errors import InputError
from tessella.losses import smoothed_cross_entropy
from tessella.text import Tokenizer

AT_ONCE = 8192
"""Ids computed at once, padding included."""


@dataclass(frozen=True)
class Foreseen:
    """What a model said of the words of some texts that it was asked for."""

    texts: int
    asked: int
    right: int
    nats: float
    """Their cross-entropy, added up."""
    octets: int
    """Bytes (of UTF-8) of the texts."""
    characters: int
    every: bool
    """Whether it was asked for every word, so that bits a byte make sense."""

    @property
    def perplexity(self) -> float:
        """Between how many pieces, all alike, it would be as unsure."""
        return math.exp(min(self.nats / max(self.asked, 1), 700.0))

    @property
    def accuracy(self) -> float:
        """Percent of what it was asked for that it found likeliest."""
        return 100 * self.right / max(self.asked, 1)

    def to_dict(self) -> dict[str, float]:
        """Numbers by name: loss (nats a piece), perplexity, accuracy; of next words, bits a byte and a character."""
        told = {"loss": self.nats / max(self.asked, 1), "perplexity": self.perplexity, "accuracy": self.accuracy}
        if self.every:
            bits = self.nats / math.log(2)
            told |= {
                "bits per byte": bits / max(self.octets, 1),
                "bits per character": bits / max(self.characters, 1),
            }
        return told


@dataclass(frozen=True)
class Manner:
    """How a model reads: by which tokenizer, up to how many ids, what in front of each text, and what it is asked.

    mask: the id of the blank; None: that of unknown pieces.
    """

    tokenizer: Tokenizer
    length: int
    begin: int | None
    exercise: Exercise
    mask: int | None = None

    def data(self, texts: Sequence[str], seed: int = 0) -> TextData:
        """Texts as exercises."""
        rows = passages(texts, self.tokenizer, self.length, self.begin)
        return TextData(rows, Pieces.of(self.tokenizer, self.mask), self.exercise, seed)


class Reader:
    """Call it with texts: what it foresaw of them. Of hidden words, the same ones are hidden each time."""

    def __init__(self, model: nn.Module, manner: Manner):
        self.model: Any = model.eval()
        self.manner = manner

    def __call__(self, texts: Sequence[str], done: Callable[[int], None] = lambda count: None) -> Foreseen:
        """`done` is told how many more rows were read. Raises InputError where the model has no head for words."""
        return self.foreseen(self.manner.data(texts), texts, done)

    def foreseen(
        self, data: TextData, texts: Sequence[str], done: Callable[[int], None] = lambda count: None
    ) -> Foreseen:
        """The same of texts that were made into exercises before."""
        head: Any = getattr(self.model, "head", None)
        if not hasattr(head, "ready"):
            raise InputError("this model gives a vector for a text and foresees no words; train masked_words --from it")
        device = next(self.model.parameters()).device
        asked = right = 0
        nats = 0.0
        for batch in data.in_order(AT_ONCE):
            source, label = batch["source"].to(device), batch["label"].to(device)
            there = label >= 0
            with torch.no_grad():
                ready = head.ready(self.model.features(source)[there])
                loss, correct = smoothed_cross_entropy(ready, head.weight, head.bias, label[there])
            count = int(there.sum())
            nats, asked, right = nats + float(loss) * count, asked + count, right + int(correct)
            done(len(source))
        octets, letters = (sum(counts) for counts in zip(*characters(texts), strict=True))
        return Foreseen(len(texts), asked, right, nats, octets, letters, isinstance(self.manner.exercise, NextWords))
