"""Heads: Tokens in, a prediction out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from tessella.attention import Attention
from tessella.dropout import Dropout
from tessella.errors import InputError
from tessella.positions import LearnedGrid
from tessella.spec import Spec, spec
from tessella.tokens import Tokens


class Head(Spec):
    """Role: builds a module Tokens, or their features -> prediction."""

    def build(self) -> nn.Module:
        """The module."""
        raise NotImplementedError


@spec("classes")
class Classes(Head):
    """A score for every class, from the first token, the mean of the raster's or the mean of the streams' means."""

    dim: int
    classes: int = Field(1000, ge=0)
    pool: Literal["first", "mean", "streams"] = "first"
    dropout: float = Field(0.0, ge=0, lt=1)

    def build(self) -> ClassesHead:
        return ClassesHead(self)


@spec("values")
class Values(Head):
    """Numbers, as many as there are targets: regression. pool: as of `Classes`."""

    dim: int
    targets: int = Field(1, ge=1)
    pool: Literal["first", "mean", "streams"] = "streams"
    dropout: float = Field(0.0, ge=0, lt=1)

    def build(self) -> ClassesHead:
        return ClassesHead(Classes(dim=self.dim, classes=self.targets, pool=self.pool, dropout=self.dropout))


@spec("distilled")
class Distilled(Head):
    """DeiT's two classifiers, on the class token and on the distillation token (Touvron et al. 2021, sec. 4)."""

    dim: int
    classes: int = Field(1000, ge=0)

    def build(self) -> DistilledHead:
        return DistilledHead(self)


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


@spec("attention-pool")
class AttentionPool(Head):
    """A vector for a whole raster: what its mean sees when it attends to all (Radford et al. 2021, sec. 2.4).

    grid: rows and columns that its positions are made for; those of others are resized.
    """

    dim: int
    width: int = Field(512, ge=1)
    heads: int = Field(32, ge=1)
    grid: tuple[int, int] = (7, 7)

    @model_validator(mode="after")
    def _heads_divide(self):
        if self.dim % self.heads:
            raise InputError(f"dim {self.dim} is not divisible by heads {self.heads}")
        return self

    def build(self) -> AttentionPoolHead:
        return AttentionPoolHead(self)


def last(tokens: Tokens) -> Tensor:
    """The last kept token of each: b n d -> b d."""
    if tokens.keep is None:
        return tokens.x[:, -1]
    return tokens.x[torch.arange(tokens.x.shape[0], device=tokens.x.device), ends(tokens)]


def ends(tokens: Tokens) -> Tensor:
    """Which token of each is its last kept one: b n d -> long b."""
    if tokens.keep is None:
        return torch.full((tokens.x.shape[0],), tokens.x.shape[1] - 1, device=tokens.x.device)
    return tokens.keep.long().cumsum(dim=1).argmax(dim=1)


def by_streams(tokens: Tokens) -> Tensor:
    """The mean of each stream's kept tokens, and the mean of these, so that no stream weighs more for being longer.

    b n d -> b d. Without spans, all tokens are one stream.
    """
    means = []
    for _, a, b in tokens.spans or (("", 0, tokens.x.shape[1]),):
        x = tokens.x[:, a:b]
        if tokens.keep is None:
            means.append(x.mean(dim=1))
            continue
        keep = rearrange(tokens.keep[:, a:b], "b n -> b n 1")
        means.append(x.masked_fill(~keep, 0).sum(dim=1) / keep.sum(dim=1))
    return torch.stack(means).mean(dim=0)


POOLS: dict[str, Callable[[Tokens], Tensor]] = {
    "first": lambda tokens: tokens.x[:, 0],
    "mean": lambda tokens: raster(tokens).mean(dim=1),
    "last": last,
    "streams": by_streams,
}
"""How b n d becomes b d."""


class ClassesHead(nn.Module):
    """Tokens -> logits b k, or as many numbers."""

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


class AttentionPoolHead(nn.Module):
    """Tokens -> b width, not normalised.

    [mean] [p1] .. [pN] + learned positions; one query, of the mean, and keys and values of all
    """

    def __init__(self, s: AttentionPool):
        super().__init__()
        self.positions = LearnedGrid(spread=s.dim**-0.5).build(s.dim, s.grid, special=1)
        self.attn = Attention(s.dim, s.heads, out=nn.Linear(s.dim, s.width))
        nn.init.zeros_(self.attn.out.bias)  # pyright: ignore[reportArgumentType]  # of a linear layer
        for linear in (self.attn.q, self.attn.k, self.attn.v, self.attn.out):
            nn.init.normal_(linear.weight, 0, s.dim**-0.5)  # pyright: ignore[reportArgumentType]  # likewise

    def forward(self, tokens: Tokens) -> Tensor:
        x = raster(tokens)
        x = self.positions(torch.cat([x.mean(dim=1, keepdim=True), x], dim=1), tokens.grid)
        return rearrange(self.attn(x[:, :1], self.attn.keys_values(x)), "b 1 e -> b e")


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

    def ready(self, features: Tensor) -> Tensor:
        """What the product takes, of features in any order ... d."""
        return features

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(self.ready(features), self.weight, self.bias)
