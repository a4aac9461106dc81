"""CLIP layouts: where its weights are in the files of transformers, OpenAI and open_clip, and its config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tessella.errors import InputError, did_you_mean
from tessella.heads import Embed
from tessella.models import Encoder, Model, Towers
from tessella.positions import Learned, LearnedGrid
from tessella.stems.patches import Patches
from tessella.stems.words import Words
from tessella.trunks.plain import Causal, Plain, Stack
from tessella.weights import Rule
from tessella.zoo import config as read
from tessella.zoo.clip import LENGTH, VOCAB, stack, text_tower, vit_tower


def _hf_tower(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The rules of a tower's blocks in the names of `transformers`."""
    layer, block = f"{theirs}.encoder.layers.{{i}}", f"{ours}.trunk.blocks.{{i}}"
    parts = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "out"}
    return (
        *(Rule(f"{layer}.self_attn.{a}.{{p}}", f"{block}.attn.{b}.{{p}}") for a, b in parts.items()),
        Rule(f"{layer}.layer_norm1.{{p}}", f"{block}.attn_residual.norm.{{p}}"),
        Rule(f"{layer}.layer_norm2.{{p}}", f"{block}.mlp_residual.norm.{{p}}"),
        Rule(f"{layer}.mlp.fc1.{{p}}", f"{block}.mlp.rise.{{p}}"),
        Rule(f"{layer}.mlp.fc2.{{p}}", f"{block}.mlp.fall.{{p}}"),
        Rule(f"{theirs}.embeddings.position_ids", why="0, 1, 2 ..., in older files"),
    )


HF = (
    Rule("logit_scale", "log_scale"),
    Rule("vision_model.embeddings.class_embedding", "image.stem.special", layout="d -> 1 d"),
    Rule("vision_model.embeddings.patch_embedding.weight", "image.stem.patch.weight"),
    Rule("vision_model.embeddings.position_embedding.weight", "image.stem.positions.table"),
    Rule("vision_model.pre_layrnorm.{p}", "image.stem.norm.{p}"),
    *_hf_tower("vision_model", "image"),
    Rule("vision_model.post_layernorm.{p}", "image.trunk.norm.{p}"),
    Rule("visual_projection.weight", "image.head.project.weight"),
    Rule("text_model.embeddings.token_embedding.weight", "text.stem.embedding.weight"),
    Rule("text_model.embeddings.position_embedding.weight", "text.stem.positions.table"),
    *_hf_tower("text_model", "text"),
    Rule("text_model.final_layer_norm.{p}", "text.trunk.norm.{p}"),
    Rule("text_projection.weight", "text.head.project.weight"),
)


def _openai_tower(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The rules of a tower's blocks in OpenAI's names."""
    layer, block = f"{theirs}.resblocks.{{i}}", f"{ours}.trunk.blocks.{{i}}"
    return (
        Rule(f"{layer}.attn.in_proj_weight", tuple(f"{block}.attn.{part}.weight" for part in "qkv")),
        Rule(f"{layer}.attn.in_proj_bias", tuple(f"{block}.attn.{part}.bias" for part in "qkv")),
        Rule(f"{layer}.attn.out_proj.{{p}}", f"{block}.attn.out.{{p}}"),
        Rule(f"{layer}.ln_1.{{p}}", f"{block}.attn_residual.norm.{{p}}"),
        Rule(f"{layer}.ln_2.{{p}}", f"{block}.mlp_residual.norm.{{p}}"),
        Rule(f"{layer}.mlp.c_fc.{{p}}", f"{block}.mlp.rise.{{p}}"),
        Rule(f"{layer}.mlp.c_proj.{{p}}", f"{block}.mlp.fall.{{p}}"),
    )


OPENAI_TEXT = (
    Rule("logit_scale", "log_scale"),
    Rule("logit_bias", "bias"),
    Rule("token_embedding.weight", "text.stem.embedding.weight"),
    Rule("positional_embedding", "text.stem.positions.table"),
    *_openai_tower("transformer", "text"),
    Rule("ln_final.{p}", "text.trunk.norm.{p}"),
    Rule("text_projection", "text.head.project.weight", layout="i o -> o i"),
    *(Rule(name, why="a number") for name in ("input_resolution", "context_length", "vocab_size")),
)
OPENAI_VIT = (
    Rule("visual.class_embedding", "image.stem.special", layout="d -> 1 d"),
    Rule("visual.conv1.weight", "image.stem.patch.weight"),
    Rule("visual.positional_embedding", "image.stem.positions.table"),
    Rule("visual.ln_pre.{p}", "image.stem.norm.{p}"),
    *_openai_tower("visual.transformer", "image"),
    Rule("visual.ln_post.{p}", "image.trunk.norm.{p}"),
    Rule("visual.proj", "image.head.project.weight", layout="i o -> o i"),
)


def _openai_stage(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The rules of one stage of the ResNet; the third layer of a branch is its means."""
    layers = {1: "branch.0", 2: "branch.1", 3: "branch.3"}
    return (
        *(Rule(f"{theirs}.{{b}}.conv{n}.weight", f"{ours}.{{b}}.{layer}.conv.weight") for n, layer in layers.items()),
        *(Rule(f"{theirs}.{{b}}.bn{n}.{{p}}", f"{ours}.{{b}}.{layer}.norm.{{p}}") for n, layer in layers.items()),
        Rule(f"{theirs}.{{b}}.downsample.0.weight", f"{ours}.{{b}}.shortcut.1.conv.weight"),
        Rule(f"{theirs}.{{b}}.downsample.1.{{p}}", f"{ours}.{{b}}.shortcut.1.norm.{{p}}"),
    )


POOL = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "c_proj": "out"}
OPENAI_RESNET = (
    *(Rule(f"visual.conv{n + 1}.weight", f"image.trunk.entry.{n}.conv.weight") for n in range(3)),
    *(Rule(f"visual.bn{n + 1}.{{p}}", f"image.trunk.entry.{n}.norm.{{p}}") for n in range(3)),
    *(rule for s in range(4) for rule in _openai_stage(f"visual.layer{s + 1}", f"image.trunk.stages.{s}")),
    Rule("visual.attnpool.positional_embedding", "image.head.positions.table"),
    *(Rule(f"visual.attnpool.{a}.{{p}}", f"image.head.attn.{b}.{{p}}") for a, b in POOL.items()),
)

LAYOUTS: dict[str, dict[str, tuple[Rule, ...]]] = {
    "plain": {"hf": HF, "openai": (*OPENAI_VIT, *OPENAI_TEXT)},
    "clip-resnet": {"openai": (*OPENAI_RESNET, *OPENAI_TEXT)},
}
"""Kind of the image tower's trunk -> name of the layout -> rules."""


def rules(model: Model, layout: str) -> tuple[Rule, ...]:
    """The weight rules of two towers in the layout "hf" or "openai" (theirs -> ours)."""
    kind = getattr(getattr(getattr(model, "image", None), "trunk", None), "kind", model.kind)
    if kind not in LAYOUTS:
        raise InputError(f"towers of a '{kind}' have no layout in another library; CLIP's ViT and ResNet have")
    if layout not in LAYOUTS[kind]:
        raise InputError(f"CLIP with a '{kind}' has no layout '{layout}'{did_you_mean(layout, LAYOUTS[kind])}")
    return LAYOUTS[kind][layout]


OLD_END = 2
"""What config.json says of the id that ends a text in files from before 2023, whatever it is: the last is meant."""


def from_config(config: Mapping[str, Any]) -> Towers:
    """The model that a `config.json` with `model_type` "clip" describes.

    Fields left out are those of `transformers`' CLIPConfig. Dropout of attention weights, which none of the published
    models has, is left out. Raises InputError, naming the field, for what is not supported.
    """
    read.demand(config, model_type="clip")
    vision, text = _part(config, "vision"), _part(config, "text")
    width = read.whole(config, "projection_dim", 512)
    patch = read.rows_and_columns(vision, "patch_size", 32)
    if patch[0] != patch[1]:
        raise InputError(f"config.json: 'patch_size' must be a square, got {patch}")
    vocab = read.whole(text, "vocab_size", VOCAB)
    end = read.whole(text, "eos_token_id", VOCAB - 1, most=vocab - 1, least=0)
    words = {
        "vocab": vocab,
        "positions": Learned(length=read.whole(text, "max_position_embeddings", LENGTH), spread=0.01),
        "end": vocab - 1 if end == OLD_END else end,
    }
    return Towers(
        image=vit_tower(
            _stack(vision, (768, 12, 12)),
            width,
            patch[0],
            read.rows_and_columns(vision, "image_size", 224),
            read.whole(vision, "num_channels", 3),
        ),
        text=text_tower(_stack(text, (512, 12, 8)), width, words),
        scale=_scale(config),
    )


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What is said of one tower; of two places where older files say it, the second counts."""
    for place in (f"{name}_config_dict", f"{name}_config"):
        said = config.get(place)
        if said is not None and not isinstance(said, Mapping):
            raise InputError(f"config.json: '{place}' must be a mapping, got {said!r}")
        if said is not None:
            return said
    return {}


def _stack(config: Mapping[str, Any], usual: tuple[int, int, int]) -> dict[str, Any]:
    """The blocks of one tower; usual: width, blocks and heads where they are left out."""
    dim, depth, heads = usual
    dim = read.whole(config, "hidden_size", dim)
    return {
        **stack(
            dim,
            read.whole(config, "num_hidden_layers", depth, most=1000),
            read.whole(config, "num_attention_heads", heads),
        ),
        "hidden": read.whole(config, "intermediate_size", 4 * usual[0]),
        "activation": read.activation(config, absent="quick_gelu"),
        "eps": read.number(config, "layer_norm_eps", 1e-5),
    }


def _scale(config: Mapping[str, Any]) -> float:
    """What a training begins with; weights have their own."""
    first = config.get("logit_scale_init_value", 2.6592)
    if isinstance(first, bool) or not isinstance(first, int | float) or not 0 <= first <= math.log(100) + 1e-3:
        raise InputError(f"config.json: 'logit_scale_init_value' must be from 0 to ln 100, got {first!r}")
    return min(math.exp(first), 100.0)


def to_config(model: Towers) -> dict[str, Any]:
    """The way back: what `config.json` says of towers of ours, without the ids of padding and beginning.

    Raises InputError where CLIPModel cannot compute what they do.
    """
    image, text = model.image, model.text
    assert isinstance(image, Encoder) and isinstance(text, Encoder)
    stem, trunk, words, blocks = image.stem, image.trunk, text.stem, text.trunk
    if not (isinstance(stem, Patches) and isinstance(trunk, Plain)):
        raise InputError(f"transformers' CLIP has no image tower of '{stem.kind}' and '{trunk.kind}', only a ViT")
    if not (isinstance(words, Words) and isinstance(words.positions, Learned) and isinstance(blocks, Causal)):
        raise InputError(f"transformers' CLIP has no text tower of '{words.kind}' and '{blocks.kind}'")
    read.agree(
        "CLIP",
        a_square_image=(stem.size, (stem.size[0], stem.size[0])),
        special_tokens=(stem.special, 1),
        positions=(stem.positions.kind, LearnedGrid.kind),
        bias_of_the_patches=(stem.bias, False),
        norm_before_the_blocks=(stem.norm, trunk.eps),
        norm=(trunk.norm, "pre"),
        norm_of_texts=(blocks.norm, "pre"),
        scale_of_words=(words.scale, 1.0),
        largest_scale=(model.largest, 100.0),
        bias=(model.bias, None),
        image_vector=(image.head, Embed(dim=trunk.dim, width=getattr(image.head, "width", 0))),
        text_vector=(text.head, Embed(dim=blocks.dim, width=getattr(text.head, "width", 0), pool="last")),
    )
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": getattr(image.head, "width", 0),
        "logit_scale_init_value": math.log(model.scale),
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": stem.size[0],
            "patch_size": stem.patch,
            "num_channels": stem.channels,
            **_described(trunk),
        },
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": words.vocab,
            "max_position_embeddings": words.positions.length,
            **({} if words.end is None else {"eos_token_id": words.end}),
            **_described(blocks),
        },
    }


def _described(trunk: Stack) -> dict[str, Any]:
    return {
        "hidden_size": trunk.dim,
        "intermediate_size": trunk.hidden,
        "num_hidden_layers": trunk.depth,
        "num_attention_heads": trunk.heads,
        "hidden_act": read.theirs(trunk.activation),
        "layer_norm_eps": trunk.eps,
        "attention_dropout": 0.0,
    }
