"""ViT layouts: where its weights are in the files of transformers, timm, torchvision and of Google.

Google's models were trained with the tanh approximation of GELU ("gelu-tanh" here); timm and `transformers` compute
the exact one with them.
"""

from __future__ import annotations

from tessella.weights import Rule


def hf_rules(prefix: str) -> tuple[Rule, ...]:
    """Everything but class tokens and heads in the names of `transformers`' ViT and DeiT files."""
    theirs, ours = f"{prefix}.encoder.layer.{{i}}", "trunk.blocks.{i}"
    return (
        Rule(f"{prefix}.embeddings.position_embeddings", "stem.positions.table", layout="1 n d -> n d"),
        Rule(f"{prefix}.embeddings.patch_embeddings.projection.{{p}}", "stem.patch.{p}"),
        Rule(f"{theirs}.layernorm_before.{{p}}", f"{ours}.attn_residual.norm.{{p}}"),
        Rule(f"{theirs}.attention.attention.query.{{p}}", f"{ours}.attn.q.{{p}}"),
        Rule(f"{theirs}.attention.attention.key.{{p}}", f"{ours}.attn.k.{{p}}"),
        Rule(f"{theirs}.attention.attention.value.{{p}}", f"{ours}.attn.v.{{p}}"),
        Rule(f"{theirs}.attention.output.dense.{{p}}", f"{ours}.attn.out.{{p}}"),
        Rule(f"{theirs}.layernorm_after.{{p}}", f"{ours}.mlp_residual.norm.{{p}}"),
        Rule(f"{theirs}.intermediate.dense.{{p}}", f"{ours}.mlp.rise.{{p}}"),
        Rule(f"{theirs}.output.dense.{{p}}", f"{ours}.mlp.fall.{{p}}"),
        Rule(f"{prefix}.layernorm.{{p}}", "trunk.norm.{p}"),
        Rule(f"{prefix}.pooler.dense.{{p}}", why="a pooler, which classification does not use"),
    )


def fused(attn: str) -> tuple[str, ...]:
    """Query, key and value as timm and torchvision keep them: one matrix, to be cut in three."""
    return tuple(f"trunk.blocks.{{i}}.attn.{part}.{attn}" for part in "qkv")


TIMM_TRUNK = (
    Rule("pos_embed", "stem.positions.table", layout="1 n d -> n d"),
    Rule("patch_embed.proj.{p}", "stem.patch.{p}"),
    Rule("blocks.{i}.norm1.{p}", "trunk.blocks.{i}.attn_residual.norm.{p}"),
    Rule("blocks.{i}.attn.qkv.{p}", fused("{p}")),
    Rule("blocks.{i}.attn.proj.{p}", "trunk.blocks.{i}.attn.out.{p}"),
    Rule("blocks.{i}.norm2.{p}", "trunk.blocks.{i}.mlp_residual.norm.{p}"),
    Rule("blocks.{i}.mlp.fc1.{p}", "trunk.blocks.{i}.mlp.rise.{p}"),
    Rule("blocks.{i}.mlp.fc2.{p}", "trunk.blocks.{i}.mlp.fall.{p}"),
    Rule("norm.{p}", "trunk.norm.{p}"),
    Rule("head.{p}", "head.scores.{p}"),
)


def _torchvision() -> tuple[Rule, ...]:
    theirs, ours = "encoder.layers.encoder_layer_{i}", "trunk.blocks.{i}"
    return (
        Rule("class_token", "stem.special", layout="n 1 d -> n d"),
        Rule("encoder.pos_embedding", "stem.positions.table", layout="1 n d -> n d"),
        Rule("conv_proj.{p}", "stem.patch.{p}"),
        Rule(f"{theirs}.ln_1.{{p}}", f"{ours}.attn_residual.norm.{{p}}"),
        Rule(f"{theirs}.self_attention.in_proj_{{p}}", fused("{p}")),
        Rule(f"{theirs}.self_attention.out_proj.{{p}}", f"{ours}.attn.out.{{p}}"),
        Rule(f"{theirs}.ln_2.{{p}}", f"{ours}.mlp_residual.norm.{{p}}"),
        Rule(f"{theirs}.mlp.0.{{p}}", f"{ours}.mlp.rise.{{p}}"),
        Rule(f"{theirs}.mlp.3.{{p}}", f"{ours}.mlp.fall.{{p}}"),
        Rule("encoder.ln.{p}", "trunk.norm.{p}"),
        Rule("heads.head.{p}", "head.scores.{p}"),
    )


def _dense(theirs: str, ours: str) -> tuple[Rule, ...]:
    return Rule(f"{theirs}/kernel", f"{ours}.weight", layout="i o -> o i"), Rule(f"{theirs}/bias", f"{ours}.bias")


def _layer_norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    return Rule(f"{theirs}/scale", f"{ours}.weight"), Rule(f"{theirs}/bias", f"{ours}.bias")


def _jax() -> tuple[Rule, ...]:
    """Google's .npz files; for reading only, since the heads that a matrix is cut into are not in its shape."""
    theirs, ours = "Transformer/encoderblock_{i}", "trunk.blocks.{i}"
    attn, mlp = f"{theirs}/MultiHeadDotProductAttention_1", f"{theirs}/MlpBlock_3"
    parts = {"query": "q", "key": "k", "value": "v"}
    return (
        Rule("cls", "stem.special", layout="n 1 d -> n d"),
        Rule("Transformer/posembed_input/pos_embedding", "stem.positions.table", layout="1 n d -> n d"),
        Rule("embedding/kernel", "stem.patch.weight", layout="r c v d -> d v r c"),
        Rule("embedding/bias", "stem.patch.bias"),
        *_layer_norm(f"{theirs}/LayerNorm_0", f"{ours}.attn_residual.norm"),
        *(Rule(f"{attn}/{a}/kernel", f"{ours}.attn.{b}.weight", layout="i h d -> (h d) i") for a, b in parts.items()),
        *(Rule(f"{attn}/{a}/bias", f"{ours}.attn.{b}.bias", layout="h d -> (h d)") for a, b in parts.items()),
        Rule(f"{attn}/out/kernel", f"{ours}.attn.out.weight", layout="h d o -> o (h d)"),
        Rule(f"{attn}/out/bias", f"{ours}.attn.out.bias"),
        *_layer_norm(f"{theirs}/LayerNorm_2", f"{ours}.mlp_residual.norm"),
        *_dense(f"{mlp}/Dense_0", f"{ours}.mlp.rise"),
        *_dense(f"{mlp}/Dense_1", f"{ours}.mlp.fall"),
        *_layer_norm("Transformer/encoder_norm", "trunk.norm"),
        *_dense("head", "head.scores"),
    )


LAYOUTS: dict[str, tuple[Rule, ...]] = {
    "hf": (
        Rule("vit.embeddings.cls_token", "stem.special", layout="n 1 d -> n d"),
        *hf_rules("vit"),
        Rule("classifier.{p}", "head.scores.{p}"),
    ),
    "timm": (Rule("cls_token", "stem.special", layout="n 1 d -> n d"), *TIMM_TRUNK),
    "torchvision": _torchvision(),
    "jax": _jax(),
}
