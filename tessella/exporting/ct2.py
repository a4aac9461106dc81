"""Ct2: a translator's weights in the layout of CTranslate2, the inference engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tessella.errors import InputError
from tessella.models import EncoderDecoder
from tessella.text import Codec, Tokenizer

ACTIVATIONS = {"relu": "RELU", "gelu": "GELU", "gelu-tanh": "GELUTanh", "silu": "SWISH", "quick-gelu": "GELUSigmoid"}
POSITIONS = 1024
"""How many positions of the sines are written out, so that theirs are ours whatever their layout."""
IMPOSSIBLE = -1e4
"""Added to the score of pieces that are never written; its exponential is 0 in every precision."""


def ct2_spec(spec: EncoderDecoder, model: nn.Module, codec: Codec) -> Any:
    """A `ctranslate2.specs.TransformerSpec`, validated and ready to be saved.

    Padding, start and unknown piece can never be its answer, as in our own search. Raises InputError where CTranslate2
    is not installed or has no such model.
    """
    try:
        from ctranslate2.specs import common_spec, transformer_spec
    except ImportError:
        raise InputError("this needs the package ctranslate2; run: pip install tessella[ctranslate2]") from None
    _check(spec)
    encoder, decoder = (
        make(
            side.depth,
            side.heads,
            pre_norm=side.norm != "post",  # gives the LayerNorm after the last layer a place
            activation=common_spec.Activation[ACTIVATIONS[side.activation]],
        )
        for make, side in [
            (transformer_spec.TransformerEncoderSpec, spec.encoder),
            (transformer_spec.TransformerDecoderSpec, spec.decoder),
        ]
    )
    made = transformer_spec.TransformerSpec(encoder, decoder)
    state = model.state_dict()
    _side(encoder, encoder.embeddings[0], state, ("source", "encoder"), model.source)
    _side(decoder, decoder.embeddings, state, ("target", "decoder"), model.target)
    for half, side in ((encoder, "encoder"), (decoder, "decoder")):
        norm = getattr(spec, side).norm
        half.pre_norm = norm == "pre"
        if norm != "post":
            _norm(half.layer_norm, state, f"{side}.norm")
    decoder.projection.weight = _array(state["head.weight"])
    decoder.projection.bias = _array(_bias(state, codec.target))
    made.register_source_vocabulary(names(codec.source))
    made.register_target_vocabulary(names(codec.target))
    _configure(made.config, spec, codec)
    made.validate()
    made.optimize()
    return made


def names(tokenizer: Tokenizer) -> list[str]:
    """The pieces by id, all different: an id without a piece gets a name that no text has."""
    return [piece or f"<no piece {i}>" for i, piece in enumerate(tokenizer.vocabulary)]


def _check(spec: EncoderDecoder) -> None:
    if (spec.encoder.kind, spec.decoder.kind, spec.source.kind) != ("plain", "plain-decoder", "words"):
        raise InputError(f"CTranslate2 has no layout for a '{spec.encoder.kind}' encoder; only plain Transformers fit")
    for name in ("norm", "eps"):
        one, other = getattr(spec.encoder, name), getattr(spec.decoder, name)
        if one != other:
            raise InputError(
                f"CTranslate2 needs one {name} for both sides, but encoder.{name} is {one}, decoder's {other}"
            )


def _side(half: Any, embeddings: Any, state: Mapping[str, Tensor], sides: tuple[str, str], stem: nn.Module) -> None:
    """Embeddings, positions and layers of the encoder or the decoder."""
    words, stack = sides
    embedding = state[f"{words}.embedding.weight"]
    embeddings.weight = _array(embedding)
    half.scale_embeddings = float(stem.scale)
    length = POSITIONS if f"{words}.positions.table" not in state else len(state[f"{words}.positions.table"])
    nothing = torch.zeros(1, length, embedding.shape[1], device=embedding.device)
    with torch.no_grad():
        half.position_encodings.encodings = _array(stem.positions(nothing)[0])
    for i, layer in enumerate(half.layer):
        block = f"{stack}.blocks.{i}"
        _attention(layer.self_attention, state, f"{block}.attn", ("qkv",))
        if stack == "decoder":
            _attention(layer.attention, state, f"{block}.cross", ("q", "kv"))
        _linear(layer.ffn.linear_0, state, [f"{block}.mlp.rise"])
        _linear(layer.ffn.linear_1, state, [f"{block}.mlp.fall"])
        _norm(layer.ffn.layer_norm, state, f"{block}.mlp_residual.norm")


def _attention(theirs: Any, state: Mapping[str, Tensor], ours: str, groups: tuple[str, ...]) -> None:
    for linear, letters in zip(theirs.linear, (*groups, None), strict=True):
        _linear(linear, state, [f"{ours}.{name}" for name in letters or ["out"]])
    _norm(theirs.layer_norm, state, f"{ours}_residual.norm")


def _linear(theirs: Any, state: Mapping[str, Tensor], ours: list[str]) -> None:
    theirs.weight = _array(torch.cat([state[f"{name}.weight"] for name in ours]))
    theirs.bias = _array(torch.cat([state[f"{name}.bias"] for name in ours]))


def _norm(theirs: Any, state: Mapping[str, Tensor], ours: str) -> None:
    theirs.gamma, theirs.beta = _array(state[f"{ours}.weight"]), _array(state[f"{ours}.bias"])


def _bias(state: Mapping[str, Tensor], target: Tokenizer) -> Tensor:
    weight = state["head.weight"]
    bias = state["head.bias"].clone() if "head.bias" in state else weight.new_zeros(len(weight))
    bias[sorted({target.pad, target.bos, target.unk} - {target.eos})] = IMPOSSIBLE
    return bias


def _configure(config: Any, spec: EncoderDecoder, codec: Codec) -> None:
    pieces = names(codec.target)
    config.unk_token = pieces[codec.target.unk]
    config.bos_token = config.decoder_start_token = pieces[codec.target.bos]
    config.eos_token = pieces[codec.target.eos]
    config.add_source_bos = config.add_source_eos = False
    config.layer_norm_epsilon = spec.encoder.eps


def _array(tensor: Tensor) -> Any:
    return tensor.detach().float().cpu().contiguous().numpy()
