"""Word heads: BERT's: the words that are hidden in a text, and one vector for all of it."""

from __future__ import annotations

from torch import Tensor, nn

from tessella.blocks import ACTIVATIONS, Activation, projection
from tessella.heads import Head, NextWord, NextWordHead
from tessella.spec import spec
from tessella.tokens import Tokens


@spec("masked-word")
class MaskedWord(Head):
    """A score for every word of the vocabulary where one is hidden (Devlin et al. 2019, sec. 3.1, and their code).

    LayerNorm(act(W x)), then the embedding as weight and a learned bias a word.
    """

    dim: int
    vocab: int
    activation: Activation = "gelu"
    eps: float = 1e-12

    def build(self, shared: nn.Parameter | None = None) -> MaskedWordHead:
        """shared: the embedding to use as weight; None for a weight of its own."""
        return MaskedWordHead(self, shared)


@spec("pooler")
class Pooler(Head):
    """tanh(W x) of the first token (Devlin et al. 2019, sec. 3: what their classifiers read)."""

    dim: int

    @property
    def width(self) -> int:
        """Width of the vector."""
        return self.dim

    def build(self) -> PoolerHead:
        return PoolerHead(self)


class MaskedWordHead(NextWordHead):
    """Features b n d -> logits b n v; `weight` and `bias` are public, as those of the head for next words."""

    def __init__(self, s: MaskedWord, shared: nn.Parameter | None = None):
        super().__init__(NextWord(dim=s.dim, vocab=s.vocab, bias=True), shared)
        self.dense = projection(s.dim, s.dim, gain=1.0)
        self.act = ACTIVATIONS[s.activation]()
        self.norm = nn.LayerNorm(s.dim, s.eps)

    def ready(self, features: Tensor) -> Tensor:
        """What the product takes, of features in any order ... d."""
        return self.norm(self.act(self.dense(features)))


class PoolerHead(nn.Module):
    """Tokens -> b d, each number between -1 and 1."""

    def __init__(self, s: Pooler):
        super().__init__()
        self.dense = projection(s.dim, s.dim, gain=1.0)

    def forward(self, tokens: Tokens) -> Tensor:
        return self.dense(tokens.x[:, 0]).tanh()
