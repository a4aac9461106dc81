"""BERT: a Transformer that reads both ways, learned from texts with words hidden (Devlin et al. 2019), in its sizes.

    [CLS] pieces [SEP] -> embed + positions + which text -> LayerNorm -> [self-attention, feed-forward] x 12
        -> LayerNorm(GELU(linear)) -> embedding^T + a learned bias -> the piece behind each [MASK]
        -> tanh(linear) of [CLS] -> one vector (`bert_base_uncased_pooled`)

The paper's post-norm Transformer with exact GELU and a LayerNorm epsilon of 1e-12. Smaller sizes are those of Turc et
al. 2019. `words_micro` and `words_small` are for texts of one's own on a laptop: pre-norm, sines and cosines for any
length, a vocabulary of one's own. Checkpoints are in the layout of `transformers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from tessella.errors import InputError
from tessella.models import Encoder, Language, Model
from tessella.positions import Learned
from tessella.stems.words import Words
from tessella.trunks.plain import Plain
from tessella.weights import Rule
from tessella.word_heads import MaskedWord, Pooler
from tessella.zoo import config as read

VOCAB, LENGTH = 30_522, 512
"""Pieces of the uncased English vocabulary, and the most of a text."""
EPS = 1e-12
SPREAD = 0.02


class Size(NamedTuple):
    """Width, blocks and heads; inside, blocks are four times as wide."""

    dim: int
    depth: int
    heads: int


SIZES = {
    "tiny": Size(128, 2, 2),
    "mini": Size(256, 4, 4),
    "small": Size(512, 4, 8),
    "medium": Size(512, 8, 8),
    "base_uncased": Size(768, 12, 12),
    "large_uncased": Size(1024, 24, 16),
}
SMALL = {"micro": Size(128, 3, 4), "small": Size(256, 4, 4)}
"""For texts of one's own."""


def bert(size: str = "base_uncased", vocab: int = VOCAB, length: int = LENGTH, dropout: float = 0.1) -> Language:
    """The spec of a BERT that says what is hidden. length: the most ids of a text."""
    stem, trunk = _parts(size, vocab, length, dropout)
    return Language(stem=stem, trunk=trunk, head=MaskedWord(dim=trunk.dim, vocab=vocab, eps=EPS))


def pooled(size: str = "base_uncased", vocab: int = VOCAB, length: int = LENGTH, dropout: float = 0.1) -> Encoder:
    """The spec of a BERT that gives one vector for a text; `transformers` calls it BertModel."""
    stem, trunk = _parts(size, vocab, length, dropout)
    return Encoder(stem=stem, trunk=trunk, head=Pooler(dim=trunk.dim))


def words(size: str = "small", vocab: int = 8000, dropout: float = 0.1) -> Language:
    """The spec of a small pre-norm model for hidden words, of texts of any length."""
    dim, depth, heads = SMALL[size]
    trunk = Plain(
        dim=dim, depth=depth, heads=heads, hidden=4 * dim, dropout=dropout, activation="gelu", norm="pre", eps=1e-5
    )
    stem = Words(vocab=vocab, dim=dim, dropout=dropout)
    return Language(stem=stem, trunk=trunk, head=MaskedWord(dim=dim, vocab=vocab, eps=1e-5))


def _parts(size: str, vocab: int, length: int, dropout: float) -> tuple[Words, Plain]:
    dim, depth, heads = SIZES[size]
    stem = Words(
        vocab=vocab,
        dim=dim,
        positions=Learned(length=length, spread=SPREAD),
        scale=1.0,
        dropout=dropout,
        spread=SPREAD,
        types=2,
        norm=EPS,
    )
    trunk = Plain(
        dim=dim, depth=depth, heads=heads, hidden=4 * dim, dropout=dropout, activation="gelu", norm="post", eps=EPS
    )
    return stem, trunk


VARIANTS: dict[str, Callable[..., Model]] = {
    **{f"bert_{size}": partial(bert, size) for size in SIZES},
    "bert_base_uncased_pooled": partial(pooled, "base_uncased"),
    **{f"words_{size}": partial(words, size) for size in SMALL},
}


def _norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Of a LayerNorm, whose parts have other names in the files of 2018."""
    old = {"gamma": "weight", "beta": "bias"}
    return (
        *(Rule(f"{theirs}.{part}", f"{ours}.{part}") for part in old.values()),
        *(Rule(f"{theirs}.{theirs_too}", f"{ours}.{part}") for theirs_too, part in old.items()),
    )


def _body(prefix: str) -> tuple[Rule, ...]:
    """The rules of stem and trunk; prefix: "bert." or ""."""
    embeddings, layer, block = f"{prefix}embeddings", f"{prefix}encoder.layer.{{i}}", "trunk.blocks.{i}"
    parts = {"self.query": "q", "self.key": "k", "self.value": "v", "output.dense": "out"}
    return (
        Rule(f"{embeddings}.position_ids", why="0, 1, 2 ..., in older files"),
        Rule(f"{embeddings}.token_type_ids", why="zeros, in some files"),
        Rule(f"{embeddings}.position_embeddings.weight", "stem.positions.table"),
        Rule(f"{embeddings}.token_type_embeddings.weight", "stem.types.weight"),
        *_norm(f"{embeddings}.LayerNorm", "stem.norm"),
        *(Rule(f"{layer}.attention.{a}.{{p}}", f"{block}.attn.{b}.{{p}}") for a, b in parts.items()),
        *_norm(f"{layer}.attention.output.LayerNorm", f"{block}.attn_residual.norm"),
        Rule(f"{layer}.intermediate.dense.{{p}}", f"{block}.mlp.rise.{{p}}"),
        Rule(f"{layer}.output.dense.{{p}}", f"{block}.mlp.fall.{{p}}"),
        *_norm(f"{layer}.output.LayerNorm", f"{block}.mlp_residual.norm"),
    )


PAIRS = "whether one text follows another, which is not asked here"
PREFIX = "bert."
WORD = "embeddings.word_embeddings.weight"
HIDDEN = "cls.predictions.bias"
"""There where a checkpoint can say what is hidden."""


def rules(model: Model, prefix: str = PREFIX) -> tuple[Rule, ...]:
    """The weight rules of a model of this page in the layout of `transformers` (theirs -> ours).

    prefix: what stands before the names of stem and trunk: "bert.", or "" in files of BertModel.
    """
    if isinstance(model, Encoder):
        embedding = (Rule(f"{prefix}{WORD}", "stem.embedding.weight"),)
        return (*embedding, *_body(prefix), Rule(f"{prefix}pooler.dense.{{p}}", "head.dense.{p}"))
    return (
        Rule(f"{prefix}{WORD}", "stem.embedding.weight", tied=("head.weight",)),
        *_body(prefix),
        Rule("cls.predictions.transform.dense.{p}", "head.dense.{p}"),
        *_norm("cls.predictions.transform.LayerNorm", "head.norm"),
        Rule("cls.predictions.bias", "head.bias"),
        Rule("cls.predictions.decoder.weight", copy_of=f"{prefix}{WORD}"),
        Rule("cls.predictions.decoder.bias", copy_of="cls.predictions.bias"),
        Rule(f"{prefix}pooler.dense.{{p}}", why=PAIRS),
        Rule("cls.seq_relationship.{p}", why=PAIRS),
    )


def from_config(config: Mapping[str, Any], hidden: bool = True) -> Model:
    """The model that a `config.json` with `model_type` "bert" describes.

    hidden: one that says what is hidden, else one that gives a vector. Fields left out are those of `transformers`'
    BertConfig; dropout of attention weights is left out. Raises InputError, naming the field, for what is not
    supported.
    """
    read.demand(
        config, model_type="bert", position_embedding_type="absolute", is_decoder=False, add_cross_attention=False
    )
    if hidden:
        read.demand(config, tie_word_embeddings=True)
    dim, vocab = read.whole(config, "hidden_size", 768), read.whole(config, "vocab_size", VOCAB)
    eps, dropout = read.number(config, "layer_norm_eps", EPS), read.number(config, "hidden_dropout_prob", 0.1)
    activation = read.activation(config)
    stem = Words(
        vocab=vocab,
        dim=dim,
        positions=Learned(length=read.whole(config, "max_position_embeddings", LENGTH), spread=SPREAD),
        scale=1.0,
        dropout=dropout,
        pad=read.whole(config, "pad_token_id", 0, most=vocab - 1, least=0),
        spread=SPREAD,
        types=read.whole(config, "type_vocab_size", 2),
        norm=eps,
    )
    trunk = Plain(
        dim=dim,
        depth=read.whole(config, "num_hidden_layers", 12, most=1000),
        heads=read.whole(config, "num_attention_heads", 12),
        hidden=read.whole(config, "intermediate_size", 3072),
        dropout=dropout,
        activation=activation,
        norm="post",
        eps=eps,
    )
    if not hidden:
        return Encoder(stem=stem, trunk=trunk, head=Pooler(dim=dim))
    return Language(stem=stem, trunk=trunk, head=MaskedWord(dim=dim, vocab=vocab, activation=activation, eps=eps))


def to_config(model: Model) -> dict[str, Any]:
    """The way back: what `config.json` says of a model of this page.

    Raises InputError where BertModel cannot compute what it does.
    """
    stem, trunk, head = (getattr(model, part, None) for part in ("stem", "trunk", "head"))
    if not (isinstance(stem, Words) and isinstance(stem.positions, Learned) and isinstance(trunk, Plain)):
        raise InputError("transformers' BERT has learned positions and a plain Transformer that reads both ways")
    if not isinstance(head, MaskedWord | Pooler):
        raise InputError(f"transformers' BERT has no head '{getattr(head, 'kind', None)}'")
    read.agree(
        "BERT",
        norm=(trunk.norm, "post"),
        scale_of_words=(stem.scale, 1.0),
        norm_of_words=(stem.norm, trunk.eps),
        kinds_of_token=(stem.types > 0, True),
        padding=(stem.end, None),
        activation_of_the_head=(getattr(head, "activation", trunk.activation), trunk.activation),
        norm_of_the_head=(getattr(head, "eps", trunk.eps), trunk.eps),
    )
    return {
        "model_type": "bert",
        "architectures": ["BertForMaskedLM" if isinstance(head, MaskedWord) else "BertModel"],
        "vocab_size": stem.vocab,
        "hidden_size": trunk.dim,
        "num_hidden_layers": trunk.depth,
        "num_attention_heads": trunk.heads,
        "intermediate_size": trunk.hidden,
        "hidden_act": read.theirs(trunk.activation),
        "hidden_dropout_prob": trunk.dropout,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": stem.positions.length,
        "type_vocab_size": stem.types,
        "layer_norm_eps": trunk.eps,
        "pad_token_id": stem.pad,
    }
