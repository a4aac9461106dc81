"""Transformer: attention is all you need (Vaswani et al. 2017), in the paper's sizes and two small ones.

    source words -> embed * sqrt(d) + sines -> [self-attention, feed-forward] x N ----------+ memory
    target words -> embed * sqrt(d) + sines -> [causal self-attention, attention to memory, feed-forward] x N
                                            -> one matrix shared with both embeddings -> next word

`base` and `big` are the paper's table 3; `tiny` is that of Wu et al. 2021 for Multi30k; norm "pre" is the variant that
tensor2tensor made the default, with a LayerNorm at the end of each stack.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from tessella.models import EncoderDecoder
from tessella.positions import Positions, Sinusoidal
from tessella.stems.words import Words
from tessella.trunks.plain import Plain, PlainDecoder


class Size(NamedTuple):
    """Layers in each stack, width, feed-forward width, heads, dropout."""

    depth: int
    dim: int
    hidden: int
    heads: int
    dropout: float


SIZES = {
    "tiny": Size(4, 128, 256, 4, 0.3),
    "small": Size(3, 256, 512, 8, 0.1),
    "base": Size(6, 512, 2048, 8, 0.1),
    "big": Size(6, 1024, 4096, 16, 0.3),
}


def transformer(
    size: str = "base",
    vocab: int = 37000,
    target_vocab: int | None = None,
    norm: Literal["post", "post+final", "pre"] = "post",
    positions: Positions | None = None,
    dropout: float | None = None,
) -> EncoderDecoder:
    """The spec of a Transformer; with target_vocab, source and target have vocabularies of their own."""
    measures = SIZES[size] if dropout is None else SIZES[size]._replace(dropout=dropout)
    return sized(measures, vocab, target_vocab, norm, positions)


def sized(
    measures: Size,
    vocab: int,
    target_vocab: int | None = None,
    norm: Literal["post", "post+final", "pre"] = "post",
    positions: Positions | None = None,
) -> EncoderDecoder:
    """The spec of a Transformer in measures of one's own."""
    depth, dim, hidden, heads, p = measures
    positions = positions or Sinusoidal()
    stack = {"dim": dim, "depth": depth, "heads": heads, "hidden": hidden, "dropout": p, "norm": norm}
    return EncoderDecoder(
        source=Words(vocab=vocab, dim=dim, positions=positions, dropout=p),
        encoder=Plain(**stack),
        target=Words(vocab=target_vocab or vocab, dim=dim, positions=positions, dropout=p),
        decoder=PlainDecoder(**stack, memory=dim),
        tie="all" if target_vocab is None else "target",
    )
