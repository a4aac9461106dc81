"""GPT2: a Transformer that reads once and says what comes next (Radford et al. 2019), in its sizes and small ones.

    <|endoftext|> pieces -> embed + positions -> [causal self-attention, feed-forward] x 12 -> LayerNorm
        -> embedding^T -> the next piece, at every place

Pre-norm, GELU by its tanh approximation. `next_micro` and `next_small` are for texts of one's own on a laptop: sines
and cosines for any length, a vocabulary of one's own. Checkpoints are in the layout of `transformers`, whose "Conv1D"
holds its weights in, out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from tessella.errors import InputError
from tessella.heads import NextWord
from tessella.models import Language, Model
from tessella.positions import Learned
from tessella.stems.words import Words
from tessella.trunks.plain import Causal
from tessella.weights import Rule
from tessella.zoo import config as read

VOCAB, LENGTH = 50_257, 1024
"""Byte-level pieces, of which the last both begins and ends a text; and the most of a text."""
SPREAD = 0.02


class Size(NamedTuple):
    """Width, blocks and heads; inside, blocks are four times as wide."""

    dim: int
    depth: int
    heads: int


SIZES = {
    "gpt2": Size(768, 12, 12),
    "gpt2_medium": Size(1024, 24, 16),
    "gpt2_large": Size(1280, 36, 20),
    "gpt2_xl": Size(1600, 48, 25),
}
SMALL = {"next_micro": Size(128, 3, 4), "next_small": Size(256, 4, 4)}
"""For texts of one's own."""


def gpt2(size: str = "gpt2", vocab: int = VOCAB, length: int = LENGTH, dropout: float = 0.1) -> Language:
    """The spec of a GPT-2. length: the most ids of a text. With its own vocabulary, the last id is padding as well."""
    words = {"positions": Learned(length=length, spread=SPREAD / 2), "scale": 1.0, "spread": SPREAD}
    pad = VOCAB - 1 if vocab == VOCAB else 0
    return _made(SIZES[size], {"vocab": vocab, "pad": pad, **words}, dropout, "gelu-tanh")


def next_words(size: str = "next_small", vocab: int = 8000, dropout: float = 0.1) -> Language:
    """The spec of a small model for next words, of texts of any length."""
    return _made(SMALL[size], {"vocab": vocab}, dropout, "gelu")


def _made(size: Size, words: Mapping[str, Any], dropout: float, activation: Any) -> Language:
    dim, depth, heads = size
    trunk = Causal(
        dim=dim, depth=depth, heads=heads, hidden=4 * dim, dropout=dropout, activation=activation, norm="pre"
    )
    stem = Words(dim=dim, dropout=dropout, **words)
    return Language(stem=stem, trunk=trunk, head=NextWord(dim=dim, vocab=stem.vocab))


VARIANTS: dict[str, Callable[..., Model]] = {
    **{size: partial(gpt2, size) for size in SIZES},
    **{size: partial(next_words, size) for size in SMALL},
}

PREFIX = "transformer."
WORD = "wte.weight"


def rules(prefix: str = PREFIX) -> tuple[Rule, ...]:
    """The weight rules in the layout of `transformers` (theirs -> ours).

    prefix: "transformer.", or "" in files of GPT2Model and of the Hub's first ones.
    """
    layer, block = f"{prefix}h.{{i}}", "trunk.blocks.{i}"
    linear = {"attn.c_proj": "attn.out", "mlp.c_fc": "mlp.rise", "mlp.c_proj": "mlp.fall"}
    return (
        Rule(f"{prefix}{WORD}", "stem.embedding.weight", tied=("head.weight",)),
        Rule("lm_head.weight", copy_of=f"{prefix}{WORD}"),
        Rule(f"{prefix}wpe.weight", "stem.positions.table"),
        Rule(f"{layer}.attn.bias", why="a table of who comes before whom, in older files"),
        Rule(f"{layer}.attn.masked_bias", why="the number for who may not be seen, in older files"),
        Rule(f"{layer}.ln_1.{{p}}", f"{block}.attn_residual.norm.{{p}}"),
        Rule(f"{layer}.attn.c_attn.weight", tuple(f"{block}.attn.{part}.weight" for part in "qkv"), "i o -> o i"),
        Rule(f"{layer}.attn.c_attn.bias", tuple(f"{block}.attn.{part}.bias" for part in "qkv")),
        *(Rule(f"{layer}.{a}.weight", f"{block}.{b}.weight", layout="i o -> o i") for a, b in linear.items()),
        *(Rule(f"{layer}.{a}.bias", f"{block}.{b}.bias") for a, b in linear.items()),
        Rule(f"{layer}.ln_2.{{p}}", f"{block}.mlp_residual.norm.{{p}}"),
        Rule(f"{prefix}ln_f.{{p}}", "trunk.norm.{p}"),
    )


def from_config(config: Mapping[str, Any]) -> Language:
    """The model that a `config.json` with `model_type` "gpt2" describes.

    Fields left out are those of `transformers`' GPT2Config; dropout of attention weights is left out, that of words and
    of branches must be the same. Raises InputError, naming the field, for what is not supported.
    """
    read.demand(
        config,
        model_type="gpt2",
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
        tie_word_embeddings=True,
    )
    dim, vocab = read.whole(config, "n_embd", 768), read.whole(config, "vocab_size", VOCAB)
    dropout = read.number(config, "resid_pdrop", 0.1)
    inner = config.get("n_inner")
    stem = Words(
        vocab=vocab,
        dim=dim,
        positions=Learned(length=read.whole(config, "n_positions", LENGTH), spread=SPREAD / 2),
        scale=1.0,
        dropout=read.number(config, "embd_pdrop", 0.1),
        pad=read.whole(config, "eos_token_id", vocab - 1, most=vocab - 1, least=0),
        spread=SPREAD,
    )
    trunk = Causal(
        dim=dim,
        depth=read.whole(config, "n_layer", 12, most=1000),
        heads=read.whole(config, "n_head", 12),
        hidden=4 * dim if inner is None else read.whole(config, "n_inner", 4 * dim),
        dropout=dropout,
        activation=read.activation(config, "activation_function", "gelu_new"),
        norm="pre",
        eps=read.number(config, "layer_norm_epsilon", 1e-5),
    )
    return Language(stem=stem, trunk=trunk, head=NextWord(dim=dim, vocab=vocab))


def to_config(model: Model) -> dict[str, Any]:
    """The way back: what `config.json` says of a model of this page, without its special ids.

    Raises InputError where GPT2LMHeadModel cannot compute what it does.
    """
    stem, trunk, head = (getattr(model, part, None) for part in ("stem", "trunk", "head"))
    if not (isinstance(stem, Words) and isinstance(stem.positions, Learned) and isinstance(trunk, Causal)):
        raise InputError("transformers' GPT-2 has learned positions and a plain Transformer that reads once")
    if not isinstance(head, NextWord):
        raise InputError(f"transformers' GPT-2 has no head '{getattr(head, 'kind', None)}'")
    read.agree(
        "GPT-2",
        norm=(trunk.norm, "pre"),
        scale_of_words=(stem.scale, 1.0),
        norm_of_words=(stem.norm, None),
        kinds_of_token=(stem.types, 0),
        bias_of_the_head=(head.bias, False),
    )
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": stem.vocab,
        "n_embd": trunk.dim,
        "n_layer": trunk.depth,
        "n_head": trunk.heads,
        "n_inner": trunk.hidden,
        "n_positions": stem.positions.length,
        "activation_function": read.theirs(trunk.activation),
        "layer_norm_epsilon": trunk.eps,
        "resid_pdrop": trunk.dropout,
        "embd_pdrop": stem.dropout,
        "attn_pdrop": 0.0,
    }
