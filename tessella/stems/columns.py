"""Columns of a table: a number or a category each, into one token a column."""

from __future__ import annotations

import math

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from tessella.dropout import Dropout
from tessella.errors import InputError
from tessella.spec import spec
from tessella.stems.words import Stem
from tessella.tokens import Tokens


@spec("columns")
class Columns(Stem):
    """One token a column: x * w + b for a number x, a row of a table + b for a category.

    Gorishniy et al. 2021 (FT-Transformer), sec. 3.3.
    A missing cell is a learned vector of its column. A value never seen is row 0 of its category; that, and being
    missing, training meets in a share of the cells drawn at random, however complete its table is.

    sizes: one a column: 0 for a number, else how many values the category has, which are numbered from 1.
    periods: sines and cosines of learned frequencies beside x itself (Gorishniy et al. 2022, sec. 3.3), so that one
    layer can tell a number in the middle from one at an end; 0 for the tokens of 2021.
    """

    dim: int
    sizes: tuple[int, ...]
    periods: int = Field(0, ge=0)
    spread: float = Field(0.3, gt=0)
    """Standard deviation of the frequencies at first, in turns a standard deviation of the number."""
    unseen: float = Field(0.02, ge=0, lt=1)
    missing: float = Field(0.02, ge=0, lt=1)
    dropout: float = 0.0

    @model_validator(mode="after")
    def _some_columns(self):
        if not self.sizes or min(self.sizes) < 0:
            raise InputError(f"sizes are one a column, 0 for a number or the values of a category, got {self.sizes}")
        return self

    def build(self) -> ColumnsStem:
        return ColumnsStem(self)


class ColumnsStem(nn.Module):
    """Float b k, numbers standardised, categories as their numbers, NaN where a cell is missing -> Tokens b k d.

    number    x, sin(2 pi c x), cos(2 pi c x) -> [w]
    category  number of the value             -> [table]     + bias of the column -> token
    missing                                   -> [vector of the column]
    """

    numeric: Tensor
    categorical: Tensor
    offsets: Tensor
    order: Tensor

    def __init__(self, s: Columns):
        super().__init__()
        numeric = [place for place, size in enumerate(s.sizes) if not size]
        categorical = [place for place, size in enumerate(s.sizes) if size]
        sizes = [s.sizes[place] + 1 for place in categorical]
        self.columns, self.rates = len(s.sizes), (s.unseen, s.missing)
        for name, places in (("numeric", numeric), ("categorical", categorical)):
            self.register_buffer(name, torch.tensor(places, dtype=torch.long), persistent=False)
        starts = torch.tensor([0, *sizes], dtype=torch.long).cumsum(0)[:-1]
        self.register_buffer("offsets", starts[: len(sizes)], persistent=False)
        order = torch.tensor([*numeric, *categorical]).argsort()
        self.register_buffer("order", order, persistent=False)
        self.weight = nn.Parameter(torch.empty(len(numeric), 1 + 2 * s.periods, s.dim)) if numeric else None
        self.frequency = nn.Parameter(torch.empty(len(numeric), s.periods)) if s.periods and numeric else None
        self.table = nn.Embedding(sum(sizes), s.dim) if sizes else None
        self.bias = nn.Parameter(torch.empty(self.columns, s.dim))
        self.absent = nn.Parameter(torch.empty(self.columns, s.dim))
        self.drop = Dropout(s.dropout)
        bound = s.dim**-0.5
        for parameter in (self.weight, self.bias, self.absent, None if self.table is None else self.table.weight):
            if parameter is not None:
                nn.init.uniform_(parameter, -bound, bound)
        if self.frequency is not None:
            nn.init.normal_(self.frequency, 0, s.spread)

    def forward(self, x: Tensor) -> Tokens:
        if x.shape[1] != self.columns:
            raise InputError(f"a row has {x.shape[1]} columns; this model was made for {self.columns}")
        missing = x.isnan()
        if self.training:
            missing = missing | (torch.rand_like(x) < self.rates[1])
        known = torch.where(missing, 0.0, x)
        parts = []
        if self.weight is not None:
            parts.append(self._numbers(known[:, self.numeric], self.weight))
        if self.table is not None:
            parts.append(self._categories(known[:, self.categorical].long(), self.table))
        tokens = torch.cat(parts, dim=1)[:, self.order] + self.bias
        return Tokens(self.drop(torch.where(missing.unsqueeze(2), self.absent, tokens)))

    def _numbers(self, x: Tensor, weight: Tensor) -> Tensor:
        """Float b k -> b k d."""
        features = x.unsqueeze(2)
        if self.frequency is not None:
            turns = 2 * math.pi * features * self.frequency.to(x.dtype)
            features = torch.cat([features, turns.sin(), turns.cos()], dim=2)
        return torch.einsum("bkf,kfd->bkd", features.to(weight.dtype), weight)

    def _categories(self, number: Tensor, table: nn.Embedding) -> Tensor:
        """Long b k -> b k d."""
        if self.training:
            number = number.masked_fill(torch.rand(number.shape, device=number.device) < self.rates[0], 0)
        return table(number + self.offsets)
