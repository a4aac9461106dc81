"""Seq2seq: recurrent translation, first through one fixed vector, then with attention.

    without attention (Sutskever et al. 2014, Cho et al. 2014)      with attention (Bahdanau 2015, Luong 2015)

    x1 -> x2 -> x3 -> [c]                                           x1 <-> x2 <-> x3
                       |  (the whole sentence in one vector)          \\    |    /   weights for every word written
                       +-> y1 -> y2 -> y3                              [  c_i  ] -> y_i

The decoder starts from tanh(W mean of the memory); with one vector a sentence the mean is that vector.
"""

from __future__ import annotations

from typing import Literal

from tessella.models import EncoderDecoder
from tessella.positions import NoPositions
from tessella.stems.words import Words
from tessella.trunks.recurrent import Recurrent, RecurrentDecoder


def seq2seq(
    vocab: int,
    attention: Literal["none", "additive", "dot", "general"] = "additive",
    cell: Literal["gru", "lstm"] = "gru",
    dim: int = 256,
    hidden: int = 256,
    depth: int = 1,
    target_vocab: int | None = None,
    dropout: float = 0.3,
) -> EncoderDecoder:
    """The spec of a bidirectional encoder with `hidden` units each way and a decoder with twice as many."""
    words = {"dim": dim, "positions": NoPositions(), "scale": dim**0.5, "dropout": dropout}
    gather = "last" if attention == "none" else "all"
    return EncoderDecoder(
        source=Words(vocab=vocab, **words),
        encoder=Recurrent(dim=dim, hidden=hidden, depth=depth, cell=cell, gather=gather, dropout=dropout),
        target=Words(vocab=target_vocab or vocab, **words),
        decoder=RecurrentDecoder(
            dim=dim,
            hidden=2 * hidden,
            depth=depth,
            cell=cell,
            memory=2 * hidden,
            attention=attention,
            dropout=dropout,
        ),
        tie="all" if target_vocab is None else "target",
    )
