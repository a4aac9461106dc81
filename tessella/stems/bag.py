"""Bag: token ids in, one token out: the sum of the vectors of its words and of the pairs that neighbours make."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from tessella.dropout import Dropout
from tessella.spec import spec
from tessella.stems.words import Stem
from tessella.tokens import Tokens


@spec("bag")
class Bag(Stem):
    """A text as one token: sum over words and pairs / sqrt(how many there are) (Joulin et al. 2017, fastText, sec. 2).

    For small data and answers that words give without much grammar. forget: how often the vector of a word, and that of
    a pair, is left out in training, as a whole (Iyyer et al. 2015, word dropout, sec. 3.3).
    """

    vocab: int
    dim: int
    buckets: int = Field(2**16, ge=1)
    """Vectors that all pairs share by their hash."""
    spread: float = 0.02
    """Standard deviation of both tables at first."""
    forget: float = Field(0.5, ge=0, lt=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    pad: int = 0

    def build(self) -> BagStem:
        return BagStem(self)


class BagStem(nn.Module):
    """long b n -> Tokens b 1 d; ids equal to pad are no words, and a text of nothing else has no token that is kept."""

    def __init__(self, s: Bag):
        super().__init__()
        self.pad, self.buckets, self.forget = s.pad, s.buckets, s.forget
        self.embedding = nn.Embedding(s.vocab, s.dim)
        self.pairs = nn.Embedding(s.buckets, s.dim)
        for table in (self.embedding, self.pairs):
            nn.init.normal_(table.weight, 0, s.spread)
        self.drop = Dropout(s.dropout)

    def forward(self, ids: Tensor) -> Tokens:
        words, (number, pairs) = ids != self.pad, self.hashed(ids)
        together = self._sum(self.embedding, ids, words) + self._sum(self.pairs, number, pairs)
        count = (words.sum(dim=1, keepdim=True) + pairs.sum(dim=1, keepdim=True)).clamp(min=1)
        x = together / count.to(together.dtype).sqrt()
        return Tokens(self.drop(x).unsqueeze(1), keep=words.any(dim=1, keepdim=True))

    def hashed(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """long b n -> the bucket of each pair of neighbours, long b (n - 1), and which are pairs of words."""
        left, right = ids[:, :-1], ids[:, 1:]
        return (left * 1_000_003 + right * 7_919 + 1) % self.buckets, (left != self.pad) & (right != self.pad)

    def _sum(self, table: nn.Embedding, ids: Tensor, there: Tensor) -> Tensor:
        """The vectors of some ids added up, long b n and bool b n -> b d; in training those not forgotten."""
        share = there.to(table.weight.dtype)
        if self.training and self.forget:
            share = share * (torch.rand(ids.shape, device=ids.device) >= self.forget) / (1 - self.forget)
        return torch.bmm(share.unsqueeze(1).to(table.weight.dtype), table(ids)).squeeze(1)
