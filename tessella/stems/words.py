"""Words: token ids in, Tokens out."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from tessella.dropout import Dropout
from tessella.positions import Positions, Sinusoidal
from tessella.spec import Part, Spec, spec
from tessella.tokens import Tokens


class Stem(Spec):
    """Role: builds a module (one modality) -> Tokens of width `dim`."""

    dim: int

    def build(self) -> nn.Module:
        """The module."""
        raise NotImplementedError


@spec("words")
class Words(Stem):
    """Embedding times scale, plus positions, then dropout (Vaswani et al. 2017, sec. 3.4, 3.5 and 5.4)."""

    vocab: int
    dim: int
    positions: Part[Positions] = Sinusoidal()
    scale: float | None = None
    """What embeddings are multiplied by; None: sqrt(dim), as in the paper."""
    dropout: float = 0.1
    pad: int = 0
    end: int | None = None
    """The id that ends a text, for vocabularies without a padding of their own: what follows the first is not kept."""
    spread: float | None = None
    """Standard deviation of the embedding at first; None: 1 / sqrt(dim)."""
    types: int = Field(0, ge=0)
    """Kinds of token, each with a vector that is added, as in BERT: those of a first and of a second text; 0: none."""
    norm: float | None = Field(None, gt=0)
    """Epsilon of a LayerNorm behind the positions, as in BERT; None for no such norm."""
    forget: float = Field(0.0, ge=0, lt=1)
    """How often the vector of a word is left out in training, as a whole (Iyyer et al. 2015, word dropout)."""

    def build(self) -> WordsStem:
        return WordsStem(self)


class WordsStem(nn.Module):
    """long b n -> Tokens b n d; ids equal to pad are not kept, or with `end` those after the first end."""

    def __init__(self, s: Words):
        super().__init__()
        self.pad, self.end, self.forget = s.pad, s.end, s.forget
        self.scale = s.dim**0.5 if s.scale is None else s.scale
        self.embedding = nn.Embedding(s.vocab, s.dim)
        nn.init.normal_(self.embedding.weight, 0, s.dim**-0.5 if s.spread is None else s.spread)
        self.positions = s.positions.build(s.dim)
        self.types = nn.Embedding(s.types, s.dim) if s.types else None
        if self.types is not None:
            nn.init.normal_(self.types.weight, 0, 0.02)
        self.norm = nn.Identity() if s.norm is None else nn.LayerNorm(s.dim, s.norm)
        self.drop = Dropout(s.dropout)

    def forward(self, ids: Tensor, start: int = 0, types: Tensor | None = None) -> Tokens:
        """start: the position of the first id, when earlier ones were read before.

        types: long b n, the kind of each token of a stem that has kinds; None: all are of the first.
        """
        x = self.embedding(ids) * self.scale
        if self.training and self.forget:
            x = x * (torch.rand(ids.shape, device=ids.device) >= self.forget).unsqueeze(2)
        if self.types is not None:
            x = x + self.types(torch.zeros_like(ids) if types is None else types)
        return Tokens(self.drop(self.norm(self.positions(x, start))), keep=self.kept(ids))

    def kept(self, ids: Tensor) -> Tensor:
        """long b n -> bool b n: which ids are of the text."""
        if self.end is None:
            return ids != self.pad
        ends = ids == self.end
        return ends.cumsum(dim=1) - ends.long() == 0
