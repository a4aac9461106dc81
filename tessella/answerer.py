"""Answerer: rows of mixed data in, answers in words out."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tessella.data.record_batches import Preparation
from tessella.decode import Decoding
from tessella.errors import InputError
from tessella.fuser import Fuser, Guess
from tessella.text import Tokenizer
from tessella.writer import Writer, Written


class Answerer(Fuser):
    """A `Fuser` that writes what it says of a row: `answers` and `guesses` give `Written` answers and their texts."""

    def __init__(self, model: nn.Module, preparation: Preparation, words: Tokenizer, decoding: Decoding):
        super().__init__(model, preparation)
        self.writer = Writer(model, words, decoding)

    @torch.inference_mode()
    def computed(self, source: Mapping[str, Tensor], without: Collection[str]) -> list[Any]:
        """The answer to each row of a batch's "source"."""
        return self.writer.write(self.placed(source, without))

    def guess(self, name: str, answer: Written | InputError) -> Guess:
        """An answer in words, with its probability; also of the next best ones, where they were searched for."""
        if isinstance(answer, InputError):
            return Guess(name, error=str(answer))
        told = [(answer.text, answer.logprob)]
        if not self.writer.decoding.alpha:  # then scores are log-probabilities
            told += answer.others
        chances = {text: math.exp(logprob) for text, logprob in reversed(told)}  # of twice the same text, the likelier
        return Guess(name, answer.text, chances)

    def best(self, count: int) -> Answerer:
        """The same, which finds so many answers to each row."""
        how = self.writer.decoding
        how = how.replace(beam=max(count, how.beam), nbest=count)
        return Answerer(self.model, self.preparation, self.writer.words, how)
