"""Writer: a model that answers in words, with its words and how it searches for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tessella.decode import Decoding, Hypothesis, search
from tessella.errors import InputError
from tessella.text import Tokenizer


@dataclass(frozen=True)
class Written:
    """The best answer, and the next best ones with their scores where more were asked for."""

    text: str
    ids: tuple[int, ...] = ()
    """Of ``text``, without bos and eos."""
    score: float = 0.0
    """Log-probability (nats) over the length penalty."""
    logprob: float = 0.0
    ended: bool = True
    """False where the longest answer allowed cut it off."""
    others: tuple[tuple[str, float], ...] = ()


class Writer:
    """An encoder-decoder whatever it reads, the words it writes, and how answers are searched."""

    def __init__(self, model: nn.Module, words: Tokenizer, decoding: Decoding):
        self.model: Any = model.eval()
        self.words, self.decoding = words, decoding

    @torch.inference_mode()
    def search(self, source: Any, how: Decoding | None = None) -> list[list[Hypothesis]]:
        """The nbest answers to each row of a source (whatever the model encodes), best first."""
        how, words = how or self.decoding, self.words
        memory = self.model.encode(source)
        limits = how.limits(torch.zeros(len(memory.x), dtype=torch.long, device=memory.x.device))
        forbid = sorted({words.pad, words.bos, words.unk} - {words.eos})
        state = self.model.begin(memory)
        return search(self.model.step, state, how, start=words.bos, end=words.eos, limits=limits, forbid=forbid)

    def write(self, source: Any, how: Decoding | None = None) -> list[Written]:
        """The same in words, an answer a row."""
        return [self.spelled(found) for found in self.search(source, how)]

    def spelled(self, found: list[Hypothesis]) -> Written:
        """The hypotheses about one row as an answer."""
        if not found:
            raise InputError("the model answers with numbers that are not finite; were its weights trained?")
        texts, best = self.words.decode([one.ids for one in found]), found[0]
        others = tuple((text, one.score) for text, one in zip(texts[1:], found[1:], strict=True))
        return Written(texts[0], tuple(best.ids), best.score, best.logprob, best.ended, others)
