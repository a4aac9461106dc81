"""Translator: a trained model, its codec and its settings; sentences in, translations out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tessella.attention import watch
from tessella.decode import Decoding, Hypothesis, search
from tessella.text import Codec


@dataclass(frozen=True)
class Looked:
    """Which source piece each target piece looked at: weights has a row a target piece and a column a source piece."""

    source: list[str]
    target: list[str]
    weights: Tensor
    """target pieces x source pieces, mean over heads and layers; rows sum to 1."""


@dataclass(frozen=True)
class Answer:
    """What became of one input. Either `error` is None, or `text` is empty and `error` says why."""

    source: str
    text: str
    ids: list[int] = field(default_factory=list)
    """The target ids of `text`, without bos and eos."""
    score: float = 0.0
    """Log-probability (nats) over the length penalty."""
    logprob: float = 0.0
    others: list[tuple[str, float]] = field(default_factory=list)
    """The next best answers with their scores, when nbest > 1."""
    error: str | None = None
    looked: Looked | None = None


class Translator:
    """Call it with a sentence or a list of sentences.

    Inputs that cannot be translated (empty, or longer than max_tokens) are answered with an error in their place.
    """

    def __init__(self, model: nn.Module, codec: Codec, decoding: Decoding | None = None, max_tokens: int = 1000):
        self.model: Any = model.eval()
        self.codec = codec
        self.decoding = decoding or Decoding()
        self.max_tokens = max_tokens

    def __call__(
        self, texts: str | Sequence[str], decoding: Decoding | None = None, attention: bool = False
    ) -> Answer | list[Answer]:
        """Answers in the order of the inputs; one Answer for one string."""
        if isinstance(texts, str):
            return self.translate([texts], decoding, attention)[0]
        return self.translate(texts, decoding, attention)

    def translate(
        self,
        texts: Sequence[str],
        decoding: Decoding | None = None,
        attention: bool = False,
        done: Callable[[int], None] = lambda count: None,
    ) -> list[Answer]:
        """As calling it; `done` is told how many inputs were answered, batch by batch, for progress bars."""
        how = decoding or self.decoding
        lines = [" ".join(t.split()) for t in texts]
        rows = self.codec.source.encode(lines)
        answers: list[Answer | None] = [
            self._refused(t, line, row) for t, line, row in zip(texts, lines, rows, strict=True)
        ]
        usable = [i for i, answer in enumerate(answers) if answer is None]
        done(len(rows) - len(usable))
        for batch in self._batches(usable, rows, how.beam):
            for i, found in zip(batch, self.search([rows[i] for i in batch], how), strict=True):
                answers[i] = self._answer(texts[i], rows[i], found, attention)
            done(len(batch))
        return [answer for answer in answers if answer is not None]

    def search(self, rows: Sequence[Sequence[int]], how: Decoding) -> list[list[Hypothesis]]:
        """The nbest hypotheses of each row of source ids (eos at the end)."""
        target, device = self.codec.target, next(self.model.parameters()).device
        lengths = torch.tensor([len(row) for row in rows], device=device)
        with torch.inference_mode():
            memory = self.model.encode(padded(rows, self.codec.source.pad).to(device))
            return search(
                self.model.step,
                self.model.begin(memory),
                how,
                start=target.bos,
                end=target.eos,
                limits=how.limits(lengths),
                forbid=sorted({target.pad, target.bos, target.unk} - {target.eos}),
            )

    def look(self, source: Sequence[int], target: Sequence[int]) -> Looked:
        """The attention over the source while the target (ids without bos and eos) and its end are written."""
        codec, device = self.codec, next(self.model.parameters()).device
        read = torch.tensor([[codec.target.bos, *target]], device=device)
        with torch.inference_mode(), watch(self.model) as seen:
            self.model(torch.tensor([list(source)], device=device), read)
        maps = [seen[name][0].mean(0) for name in seen if ".cross." in name or ".look." in name]
        if not maps:
            n = len(source)  # no attention: every word is written from the same vector
            maps = [torch.full((len(target) + 1, n), 1 / n)]
        weights = torch.stack(maps).mean(0)
        names = codec.target.pieces([*target, codec.target.eos])
        return Looked(codec.source.pieces(source), names, weights.float().cpu())

    def _answer(self, text: str, row: Sequence[int], found: list[Hypothesis], attention: bool) -> Answer:
        written = self.codec.target.decode([h.ids for h in found])
        best = found[0]
        others = [(words, h.score) for words, h in zip(written[1:], found[1:], strict=True)]
        looked = self.look(row, best.ids) if attention else None
        return Answer(text, written[0], best.ids, best.score, best.logprob, others, looked=looked)

    def _refused(self, text: str, line: str, row: Sequence[int]) -> Answer | None:
        if not line:
            return Answer(text, "", error="empty")
        if "\0" in line:
            return Answer(text, "", error="contains NUL characters")
        if len(row) > self.max_tokens:
            return Answer(text, "", error=f"{len(row)} tokens long, the limit is {self.max_tokens}")
        return None

    def _batches(self, usable: list[int], rows: Sequence[Sequence[int]], beam: int) -> Iterator[list[int]]:
        """Rows of like length together, the longest first, up to about 16,000 padded positions times beams."""
        batch: list[int] = []
        for i in sorted(usable, key=lambda i: -len(rows[i])):
            if batch and (len(batch) + 1) * len(rows[batch[0]]) * beam > 16_000:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch


def padded(rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    """long b n, filled with pad on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], dtype=torch.long)
