"""Heads: Tokens in, a prediction out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from tessella.dropout import Dropout
from tessella.spec import Spec, spec
from tessella.tokens import Tokens


class Head(Spec):
    """Role: builds a module Tokens, or their features -> prediction."""

    def build(self) -> nn.Module:
        """The module."""
        raise NotImplementedError


@spec("classes")
class Classes(Head):
    """A score for every class, from the first token or from the mean of the raster's."""

    dim: int
    classes: int = Field(1000, ge=0)
    pool: Literal["first", "mean"] = "first"
    dropout: float = Field(0.0, ge=0, lt=1)

    def build(self) -> ClassesHead:
        return ClassesHead(self)


@spec("distilled")
class Distilled(Head):
    """DeiT's two classifiers, on the class token and on the distillation token (Touvron et al. 2021, sec. 4)."""

    dim: int
    classes: int = Field(1000, ge=0)

    def build(self) -> DistilledHead:
        return DistilledHead(self)


@spec("vgg-classes")
class VGGClasses(Head):
    """VGG's classifier: two hidden layers on a whole raster (Simonyan and Zisserman 2015, table 1).

    grid: rows and columns that it reads; a raster of another size is averaged into these.
    """

    dim: int
    classes: int = Field(1000, ge=0)
    grid: tuple[int, int] = (7, 7)
    hidden: int = Field(4096, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)

    def build(self) -> VGGClassesHead:
        return VGGClassesHead(self)


@spec("embed")
class Embed(Head):
    """A vector for a whole input, in the space that two towers share (Radford et al. 2021, fig. 3).

    pool: the first token, the mean of the raster's, or the last kept one (the end of a text).
    """

    dim: int
    width: int = Field(512, ge=1)
    pool: Literal["first", "mean", "last"] = "first"
    bias: bool = False

    def build(self) -> EmbedHead:
        return EmbedHead(self)


def last(tokens: Tokens) -> Tensor:
    """The last kept token of each: b n d -> b d."""
    if tokens.keep is None:
        return tokens.x[:, -1]
    ends = tokens.keep.long().cumsum(dim=1).argmax(dim=1)
    return tokens.x[torch.arange(tokens.x.shape[0], device=ends.device), ends]


POOLS: dict[str, Callable[[Tokens], Tensor]] = {
    "first": lambda tokens: tokens.x[:, 0],
    "mean": lambda tokens: raster(tokens).mean(dim=1),
    "last": last,
}
"""How b n d becomes b d."""


class ClassesHead(nn.Module):
    """Tokens -> logits b k."""

    def __init__(self, s: Classes):
        super().__init__()
        self.pool = s.pool
        self.drop = Dropout(s.dropout)
        self.scores = class_scores(s.dim, s.classes)

    def forward(self, tokens: Tokens) -> Tensor:
        return self.scores(self.drop(POOLS[self.pool](tokens)))

    def each(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """What learns from the labels and what learns from a teacher: here, the same."""
        logits = self(tokens)
        return logits, logits


class DistilledHead(nn.Module):
    """Tokens -> logits b k: the mean of both classifiers, as at test time."""

    def __init__(self, s: Distilled):
        super().__init__()
        self.scores = class_scores(s.dim, s.classes)
        self.distilled = class_scores(s.dim, s.classes)

    def forward(self, tokens: Tokens) -> Tensor:
        by_label, by_teacher = self.each(tokens)
        return (by_label + by_teacher) / 2

    def each(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """The logits of the class token, which learns from labels, and of the other, which learns from a teacher."""
        return self.scores(tokens.x[:, 0]), self.distilled(tokens.x[:, 1])


class EmbedHead(nn.Module):
    """Tokens -> b width, not normalised."""

    def __init__(self, s: Embed):
        super().__init__()
        self.pool = s.pool
        self.project = nn.Linear(s.dim, s.width, bias=s.bias)
        nn.init.normal_(self.project.weight, 0, s.dim**-0.5)
        if s.bias:
            nn.init.zeros_(self.project.bias)

    def forward(self, tokens: Tokens) -> Tensor:
        return self.project(POOLS[self.pool](tokens))


class VGGClassesHead(nn.Module):
    """Tokens -> logits b k."""

    def __init__(self, s: VGGClasses):
        super().__init__()
        self.grid = s.grid
        self.first = hidden_layer(s.dim * s.grid[0] * s.grid[1], s.hidden)
        self.second = hidden_layer(s.hidden, s.hidden)
        self.drop = Dropout(s.dropout)
        self.scores = class_scores(s.hidden, s.classes)

    def forward(self, tokens: Tokens) -> Tensor:
        assert tokens.grid is not None
        x = rearrange(raster(tokens), "b (r c) d -> b d r c", r=tokens.grid[0])
        x = rearrange(F.adaptive_avg_pool2d(x, self.grid), "b d r c -> b (d r c)")
        for layer in (self.first, self.second):
            x = self.drop(F.relu(layer(x)))
        return self.scores(x)

    def each(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """What learns from the labels and what learns from a teacher: here, the same."""
        logits = self(tokens)
        return logits, logits


def hidden_layer(dim: int, hidden: int) -> nn.Linear:
    """A linear layer before a ReLU (weights: He et al. 2015, eq. 10)."""
    linear = nn.Linear(dim, hidden)
    nn.init.normal_(linear.weight, 0, (2 / dim) ** 0.5)
    nn.init.zeros_(linear.bias)
    return linear


def class_scores(dim: int, classes: int) -> nn.Linear:
    """The last linear layer of a classifier."""
    linear = nn.Linear(dim, classes)
    nn.init.trunc_normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear


def raster(tokens: Tokens) -> Tensor:
    """The tokens of the picture, without those in front of it: b n d -> b (r c) d."""
    assert tokens.grid is not None
    return tokens.x[:, -tokens.grid[0] * tokens.grid[1] :]


@spec("next-word")
class NextWord(Head):
    """A score for every word of the vocabulary. bias: "none", or "learned" (one a word)."""

    dim: int
    vocab: int
    bias: bool = False

    def build(self, shared: nn.Parameter | None = None) -> NextWordHead:
        """shared: the embedding to use as weight (Press and Wolf 2017); None for a weight of its own."""
        return NextWordHead(self, shared)


class NextWordHead(nn.Module):
    """Features b n d -> logits b n v.

    `weight` (v d) and `bias` (v or None) are public, so that a loss can fuse the product.
    """

    def __init__(self, s: NextWord, shared: nn.Parameter | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(s.vocab, s.dim).normal_(0, s.dim**-0.5)) if shared is None else shared
        self.bias = nn.Parameter(torch.zeros(s.vocab)) if s.bias else None

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight, self.bias)
