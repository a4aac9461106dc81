"""Marian: the OPUS-MT translation models (Junczys-Dowmunt et al. 2018; Tiedemann and Thottingal 2020).

    source pieces -> embed * sqrt(d) + [sines | cosines] -> [self-attention, feed-forward] x 6 ----------+ memory
    <pad>, target pieces -> embed * sqrt(d) + [sines | cosines] -> [causal, to memory, feed-forward] x 6
                                                                -> embedding^T + a learned bias -> next piece

The paper's post-norm Transformer with swish between the two feed-forward layers, all sines before all cosines, no
LayerNorm after the last block, and a bias on the output scores. Decoding starts with the padding piece, which is never
written. Checkpoints and their `config.json` are in the layout of `transformers`' MarianMTModel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tessella.errors import InputError, did_you_mean
from tessella.models import EncoderDecoder
from tessella.positions import Sinusoidal
from tessella.spec import to_dict
from tessella.stems.words import Words
from tessella.trunks.plain import Plain, PlainDecoder
from tessella.weights import Rule

ACTIVATIONS = {
    "swish": "silu",
    "silu": "silu",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu-tanh",
    "gelu_pytorch_tanh": "gelu-tanh",
    "quick_gelu": "quick-gelu",
}
"""Their name -> ours; the first of several is written on the way back."""

REFUSED = ("normalize_before", "normalize_embedding", "add_final_layer_norm", "add_bias_logits")
"""Switches of the older Marian code that change the computation; every OPUS-MT model has them off."""

EPS = 1e-5


def _attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    parts = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "out"}
    return tuple(Rule(f"{theirs}.{a}.{{p}}", f"{ours}.{b}.{{p}}") for a, b in parts.items())


def _layers(side: str) -> tuple[Rule, ...]:
    theirs, ours = f"model.{side}.layers.{{i}}", f"{side}.blocks.{{i}}"
    return (
        *_attention(f"{theirs}.self_attn", f"{ours}.attn"),
        Rule(f"{theirs}.self_attn_layer_norm.{{p}}", f"{ours}.attn_residual.norm.{{p}}"),
        Rule(f"{theirs}.fc1.{{p}}", f"{ours}.mlp.rise.{{p}}"),
        Rule(f"{theirs}.fc2.{{p}}", f"{ours}.mlp.fall.{{p}}"),
        Rule(f"{theirs}.final_layer_norm.{{p}}", f"{ours}.mlp_residual.norm.{{p}}"),
        Rule(f"model.{side}.embed_positions.weight", why="sines and cosines are computed, not learned"),
    )


LAYERS = (
    *_layers("encoder"),
    *_layers("decoder"),
    *_attention("model.decoder.layers.{i}.encoder_attn", "decoder.blocks.{i}.cross"),
    Rule("model.decoder.layers.{i}.encoder_attn_layer_norm.{p}", "decoder.blocks.{i}.cross_residual.norm.{p}"),
    Rule("final_logits_bias", "head.bias", layout="1 v -> v", absent=0.0),
)

ENCODER, DECODER = "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"
SHARED, HEAD = "model.shared.weight", "lm_head.weight"

RULES: dict[str, tuple[Rule, ...]] = {
    "all": (
        Rule(SHARED, "source.embedding.weight", tied=("target.embedding.weight", "head.weight")),
        *(Rule(copy, copy_of=SHARED) for copy in (ENCODER, DECODER, HEAD)),
        *LAYERS,
    ),
    "target": (
        Rule(ENCODER, "source.embedding.weight"),
        Rule(DECODER, "target.embedding.weight", tied=("head.weight",)),
        Rule(HEAD, copy_of=DECODER),
        *LAYERS,
    ),
    "none": (
        Rule(ENCODER, "source.embedding.weight"),
        Rule(DECODER, "target.embedding.weight"),
        Rule(HEAD, "head.weight"),
        *LAYERS,
    ),
}
"""By `EncoderDecoder.tie`: which of the three vocabulary matrices are one."""


def marian_spec(config: Mapping[str, Any]) -> EncoderDecoder:
    """The model that a `config.json` with `model_type` "marian" describes.

    Raises InputError, naming the field, for what is missing, of the wrong type, or computed in a way we do not have.
    """
    for name in REFUSED:
        if config.get(name):
            raise InputError(f"config.json has '{name}' on; Marian models are supported with it off")
    theirs = config.get("activation_function")
    if theirs not in ACTIVATIONS:
        hint = did_you_mean(str(theirs), ACTIVATIONS)
        raise InputError(f"config.json: activation_function '{theirs}' is not known{hint}")
    dim, vocab, pad = (_whole(config, name) for name in ("d_model", "vocab_size", "pad_token_id"))
    tie, target_vocab = _tie(config, vocab)
    dropout = config.get("dropout", 0.1)
    words = {
        "dim": dim,
        "positions": Sinusoidal(layout="halves"),
        "scale": None if config.get("scale_embedding", False) else 1.0,
        "dropout": dropout,
        "pad": pad,
    }
    sides = {
        side: {
            "dim": dim,
            "depth": _whole(config, f"{side}_layers", 1000),
            "heads": _whole(config, f"{side}_attention_heads"),
            "hidden": _whole(config, f"{side}_ffn_dim"),
            "activation": ACTIVATIONS[theirs],
            "dropout": dropout,
            "norm": "post",
            "eps": EPS,
        }
        for side in ("encoder", "decoder")
    }
    return EncoderDecoder(
        source=Words(vocab=vocab, **words),
        encoder=Plain(**sides["encoder"]),
        target=Words(vocab=target_vocab, **words),
        decoder=PlainDecoder(**sides["decoder"], memory=dim),
        tie=tie,
        bias=True,
    )


def marian_config(model: EncoderDecoder) -> dict[str, Any]:
    """The way back: `config.json` for a model of ours, without the special ids.

    Raises InputError, naming the first field, where MarianMTModel cannot compute what the model does. Interleaved
    positions are allowed: they are the same model with the channels in another order (see `export`).
    """
    encoder, decoder, source, target = model.encoder, model.decoder, model.source, model.target
    if not (isinstance(encoder, Plain) and isinstance(decoder, PlainDecoder) and isinstance(source, Words)):
        raise InputError(f"a '{encoder.kind}' model has no Marian layout; only plain Transformers on words do")
    scales = {words.dim**0.5 if words.scale is None else words.scale for words in (source, target)}
    scaled = scales == {source.dim**0.5}
    known = {
        "norm": ("post", encoder.norm, decoder.norm),
        "eps": (EPS, encoder.eps, decoder.eps),
        "activation": (encoder.activation, decoder.activation),
        "pad": (source.pad, target.pad),
        "positions": (to_dict(source.positions), to_dict(target.positions)),
        "kind of positions": (Sinusoidal.kind, source.positions.kind),
        "scale": (source.dim**0.5 if scaled else 1.0, *scales),
    }
    for name, (wanted, *values) in known.items():
        for value in values:
            if value != wanted:
                raise InputError(f"the Marian layout needs {name} {wanted!r}, but the model has {value!r}")
    theirs = next(name for name, ours in ACTIVATIONS.items() if ours == encoder.activation)
    return {
        "model_type": "marian",
        "architectures": ["MarianMTModel"],
        "is_encoder_decoder": True,
        "activation_function": theirs,
        "d_model": source.dim,
        "vocab_size": source.vocab,
        "decoder_vocab_size": target.vocab,
        "share_encoder_decoder_embeddings": model.tie == "all",
        "tie_word_embeddings": model.tie != "none",
        "scale_embedding": scaled,
        "dropout": encoder.dropout,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "encoder_layers": encoder.depth,
        "encoder_attention_heads": encoder.heads,
        "encoder_ffn_dim": encoder.hidden,
        "decoder_layers": decoder.depth,
        "decoder_attention_heads": decoder.heads,
        "decoder_ffn_dim": decoder.hidden,
        "max_position_embeddings": 1024,
    }


def _tie(config: Mapping[str, Any], vocab: int) -> tuple[Literal["all", "target", "none"], int]:
    """Which matrices are one, and how many words the target has."""
    tied = config.get("tie_word_embeddings", True)
    target_vocab = vocab if config.get("decoder_vocab_size") is None else _whole(config, "decoder_vocab_size")
    if not config.get("share_encoder_decoder_embeddings", True):
        return "target" if tied else "none", target_vocab
    if not tied:
        raise InputError(
            "config.json: share_encoder_decoder_embeddings without tie_word_embeddings is not supported; one of them "
            "contradicts the other"
        )
    if target_vocab != vocab:
        raise InputError(f"config.json: decoder_vocab_size {target_vocab} cannot be shared with vocab_size {vocab}")
    return "all", vocab


def _whole(config: Mapping[str, Any], name: str, most: int = 10**7) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise InputError(f"config.json: '{name}' must be a whole number from 0 to {most}, got {value!r}")
    return value
