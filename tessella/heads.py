"""Heads: Tokens in, a prediction out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tessella.spec import Spec, spec


class Head(Spec):
    """Role: builds a module features -> prediction."""


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
    """b n d -> logits b n v; `weight` (v d) and `bias` (v or None) are public, so that a loss can fuse the product."""

    def __init__(self, s: NextWord, shared: nn.Parameter | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(s.vocab, s.dim).normal_(0, s.dim**-0.5)) if shared is None else shared
        self.bias = nn.Parameter(torch.zeros(s.vocab)) if s.bias else None

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight, self.bias)
