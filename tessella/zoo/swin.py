"""Swin: windows that shift (Liu et al. 2021, "Swin Transformer: Hierarchical Vision Transformer").

    image -> 4x4 patches, LayerNorm -> [straight, shifted]          x 1   H/4  x W/4     C
          -> merge 2x2 tokens       -> [straight, shifted]          x 1   H/8  x W/8    2C
          -> merge                  -> [straight, shifted]          x 3+  H/16 x W/16   4C
          -> merge                  -> [straight, shifted]          x 1   H/32 x W/32   8C
          -> LayerNorm -> mean -> classes

A block attends inside windows of M x M tokens, with a learned bias for every offset; the next one shifts the windows by
half, so that neighbours meet. Cost grows with the number of tokens, not with its square.

Any image size goes: rasters are padded to whole windows, and what is padded is seen by nobody. The published code
differs there. Microsoft's takes only the size it was built for; Hugging Face and torchvision pad as we do but tokens
look at the padding; timm rolls before it pads. Where windows tile the raster of every stage (224, 448, .. for window 7)
all are equal; elsewhere `benchmarks/padding.py` says how far they go apart. Where a raster is smaller than the window,
`image_size` makes its windows as small, as Microsoft and timm do; Hugging Face and torchvision keep one window size for
the tables of all stages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from tessella.errors import InputError
from tessella.heads import Classes
from tessella.models import Encoder
from tessella.spec import from_dict
from tessella.stems.patches import Raster
from tessella.trunks.swin import Swin
from tessella.weights import Rule
from tessella.windows import offsets
from tessella.zoo import config as read
from tessella.zoo.card import Card


class Size(NamedTuple):
    """Numbers of sec. 3.3 of the paper, where a head is 32 wide. Below the line: ours, for images of 32 x 32."""

    dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    drop_path: float
    """Of the published training, 300 epochs of ImageNet; nothing uses it unasked."""


SIZES = {
    "tiny": Size(96, (2, 2, 6, 2), (3, 6, 12, 24), 0.2),
    "small": Size(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3),
    "base": Size(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5),
    "large": Size(192, (2, 2, 18, 2), (6, 12, 24, 48), 0.2),
    # -----
    "pico": Size(32, (2, 2, 2), (2, 4, 8), 0.0),
    "nano": Size(48, (2, 4, 2), (3, 6, 12), 0.0),
    "micro": Size(64, (2, 4, 2), (2, 4, 8), 0.0),
}


def swin(
    size: str = "tiny",
    classes: int = 1000,
    image_size: int | tuple[int, int] = 224,
    window: int = 7,
    patch: int = 4,
    drop_path: float = 0.0,
    channels: int = 3,
) -> Encoder:
    """The spec of one size for images of image_size (one number, or rows and columns), in pixels.

    window: in tokens; a stage with fewer rows or columns has windows of that size. Other images than of image_size
    may be read. drop_path: `SIZES` has what was published.
    """
    dim, depths, heads, _ = SIZES[size]
    side = min(image_size) if isinstance(image_size, tuple) else image_size
    if side < patch:
        raise InputError(f"images of {side} pixels are smaller than a patch of {patch}")
    rasters = [-(-side // (patch * 2**stage)) for stage in range(len(depths))]
    return Encoder(
        stem=Raster(dim=dim, patch=patch, channels=channels),
        trunk=Swin(
            dim=dim,
            depths=depths,
            heads=heads,
            windows=tuple(min(window, raster) for raster in rasters),
            drop_path=drop_path,
        ),
        head=Classes(dim=dim * 2 ** (len(depths) - 1), classes=classes, pool="mean"),
    )


VARIANTS: dict[str, Callable[..., Encoder]] = {
    **{f"swin_{size}_patch4_window7_224": partial(swin, size) for size in ("tiny", "small", "base", "large")},
    **{
        f"swin_{size}_patch4_window12_384": partial(swin, size, image_size=384, window=12) for size in ("base", "large")
    },
    **{
        f"swin_{size}_patch{patch}_window4_32": partial(swin, size, classes=10, image_size=32, window=4, patch=patch)
        for size in ("pico", "nano", "micro")
        for patch in (2, 4)
    },
    **{
        f"swin_{size}_patch2_window7_28": partial(swin, size, classes=10, image_size=28, patch=2, channels=1)
        for size in ("pico", "nano", "micro")
    },
}
"""Names are timm's; the small ones follow them."""

_PAPER, _FINE = "Microsoft, trained on ImageNet-1k", "Microsoft, trained on ImageNet-22k, then on 1k"

CARDS: dict[str, Card] = {
    "swin_tiny_patch4_window7_224": Card(224, 81.2, _PAPER, "MIT", crop=0.9),
    "swin_small_patch4_window7_224": Card(224, 83.2, _PAPER, "MIT", crop=0.9),
    "swin_base_patch4_window7_224": Card(224, 83.5, _PAPER, "MIT", crop=0.9),
    "swin_base_patch4_window12_384": Card(384, 84.5, _PAPER, "MIT", crop=1.0),
    "swin_large_patch4_window7_224": Card(224, 86.3, _FINE, "MIT", crop=0.9),
    "swin_large_patch4_window12_384": Card(384, 87.3, _FINE, "MIT", crop=1.0),
}

STAGES = range(4)
"""More than any published model has."""

BLOCK: dict[str, str | tuple[str, ...]] = {
    "norm1.{p}": "attn_residual.norm.{p}",
    "attn.qkv.{p}": ("attn.q.{p}", "attn.k.{p}", "attn.v.{p}"),
    "attn.relative_position_bias_table": "attn.attend.table",
    "attn.proj.{p}": "attn.out.{p}",
    "norm2.{p}": "mlp_residual.norm.{p}",
    "mlp.fc1.{p}": "mlp.rise.{p}",
    "mlp.fc2.{p}": "mlp.fall.{p}",
}
"""Microsoft's and timm's names inside a block -> ours."""
BLOCK_HF: dict[str, str | tuple[str, ...]] = {
    "layernorm_before.{p}": "attn_residual.norm.{p}",
    "attention.self.query.{p}": "attn.q.{p}",
    "attention.self.key.{p}": "attn.k.{p}",
    "attention.self.value.{p}": "attn.v.{p}",
    "attention.self.relative_position_bias_table": "attn.attend.table",
    "attention.output.dense.{p}": "attn.out.{p}",
    "layernorm_after.{p}": "mlp_residual.norm.{p}",
    "intermediate.dense.{p}": "mlp.rise.{p}",
    "output.dense.{p}": "mlp.fall.{p}",
}


class Names(NamedTuple):
    """How a layout calls things."""

    ends: tuple[str, str, str, str]
    """Of the patch embedding, its norm, the last norm, the classifier."""
    blocks: Callable[[int], str]
    """Of the blocks of a stage, which have numbers after it."""
    merging: Callable[[int], str]
    """Of the merging before a stage."""
    block: Mapping[str, str | tuple[str, ...]] = BLOCK
    index: str = "attn.relative_position_index"
    """Of the relative index in a block."""


NAMES = {
    "microsoft": Names(
        ("patch_embed.proj", "patch_embed.norm", "norm", "head"),
        blocks=lambda s: f"layers.{s}.blocks",
        merging=lambda s: f"layers.{s - 1}.downsample",
    ),
    "timm": Names(
        ("patch_embed.proj", "patch_embed.norm", "norm", "head.fc"),
        blocks=lambda s: f"layers.{s}.blocks",
        merging=lambda s: f"layers.{s}.downsample",
    ),
    "torchvision": Names(
        ("features.0.0", "features.0.2", "norm", "head"),
        blocks=lambda s: f"features.{2 * s + 1}",
        merging=lambda s: f"features.{2 * s}",
        block={theirs.replace("fc1", "0").replace("fc2", "3"): ours for theirs, ours in BLOCK.items()},
    ),
    "hf": Names(
        ("swin.embeddings.patch_embeddings.projection", "swin.embeddings.norm", "swin.layernorm", "classifier"),
        blocks=lambda s: f"swin.encoder.layers.{s}.blocks",
        merging=lambda s: f"swin.encoder.layers.{s - 1}.downsample",
        block=BLOCK_HF,
        index="attention.self.relative_position_index",
    ),
}


def _rules(names: Names) -> Iterator[Rule]:
    for theirs, ours in zip(names.ends, ("stem.patch", "stem.norm", "trunk.norm", "head.scores"), strict=True):
        yield Rule(f"{theirs}.{{p}}", f"{ours}.{{p}}")
    for s in STAGES:
        if s:
            yield Rule(f"{names.merging(s)}.norm.{{p}}", f"trunk.stages.{s}.merge.norm.{{p}}")
            yield Rule(f"{names.merging(s)}.reduction.{{p}}", f"trunk.stages.{s}.merge.reduce.{{p}}")
        for theirs, ours in names.block.items():
            parts = ours if isinstance(ours, tuple) else (ours,)
            yield Rule(
                f"{names.blocks(s)}.{{b}}.{theirs}", tuple(f"trunk.stages.{s}.blocks.{{b}}.{part}" for part in parts)
            )
        yield Rule(f"{names.blocks(s)}.{{b}}.{names.index}", why="computed from the size of the window")
        yield Rule(f"{names.blocks(s)}.{{b}}.attn_mask", why="computed from the size of the image")


LAYOUTS: dict[str, tuple[Rule, ...]] = {layout: tuple(_rules(names)) for layout, names in NAMES.items()}


def buffers(model: Encoder, layout: str) -> dict[str, Tensor]:
    """What a layout stores beside weights: the relative index of every block, by its name there; timm stores none.

    Microsoft's `attn_mask` is not among them: it belongs to an image size, and that code makes it anew when it loads.
    """
    names, trunk = NAMES[layout], _trunk(model)
    if layout == "timm":
        return {}
    made = {
        f"{names.blocks(s)}.{b}.{names.index}": offsets(trunk.windows[s])
        for s, depth in enumerate(trunk.depths)
        for b in range(depth)
    }
    return {name: index.flatten() for name, index in made.items()} if layout == "torchvision" else made


FIXED: Mapping[str, Any] = {
    "qkv_bias": True,
    "hidden_act": "gelu",
    "use_absolute_embeddings": False,
    "attention_probs_dropout_prob": 0.0,
    "layer_norm_eps": 1e-5,
}
"""Fields of a `config.json` that change the computation, and the values that every published Swin has."""


def from_config(config: Mapping[str, Any]) -> Encoder:
    """The model that a `config.json` with `model_type` "swin" describes; fields left out are those of its SwinConfig.

    Raises InputError, naming the field, for what is not supported.
    """
    read.demand(config, model_type="swin", **FIXED)
    dim, depths = read.whole(config, "embed_dim", 96), read.wholes(config, "depths", (2, 2, 6, 2))
    patch, across = read.rows_and_columns(config, "patch_size", 4)
    if patch != across:
        raise InputError(f"config.json: 'patch_size' must be a square, got {patch} x {across}")
    trunk = {
        "dim": dim,
        "depths": depths,
        "heads": read.wholes(config, "num_heads", (3, 6, 12, 24)),
        "windows": (read.whole(config, "window_size", 7),) * len(depths),
        "ratio": config.get("mlp_ratio", 4.0),
        "dropout": read.number(config, "hidden_dropout_prob", 0.0),
        "drop_path": read.number(config, "drop_path_rate", 0.1),
    }
    width = dim * 2 ** (len(depths) - 1)
    return Encoder(
        stem=Raster(dim=dim, patch=patch, channels=read.whole(config, "num_channels", 3)),
        trunk=from_dict({"kind": "swin", **trunk}, Swin),
        head=Classes(dim=width, classes=read.classes(config), pool="mean"),
    )


def to_config(model: Encoder, image_size: int = 224) -> dict[str, Any]:
    """The way back: what `config.json` says of a model of ours. Raises InputError where its Swin cannot compute it.

    image_size is only what `transformers` expects first; it takes others too.
    """
    stem, trunk, head = model.stem, _trunk(model), model.head
    if not (isinstance(stem, Raster) and isinstance(head, Classes)):
        raise InputError(
            f"the Swin layout needs a raster and one classifier, but the model has {stem.kind}, {head.kind}"
        )
    eps = FIXED["layer_norm_eps"]
    read.agree(
        "Swin",
        windows_of_one_size=(trunk.windows, trunk.windows[:1] * len(trunk.windows)),
        pool=(head.pool, "mean"),
        eps=((stem.eps, trunk.eps), (eps, eps)),
    )
    return {
        "model_type": "swin",
        "architectures": ["SwinForImageClassification"],
        **FIXED,
        "image_size": image_size,
        "patch_size": stem.patch,
        "num_channels": stem.channels,
        "embed_dim": trunk.dim,
        "depths": list(trunk.depths),
        "num_heads": list(trunk.heads),
        "window_size": trunk.windows[0],
        "mlp_ratio": trunk.ratio,
        "hidden_dropout_prob": trunk.dropout,
        "drop_path_rate": trunk.drop_path,
        "num_labels": head.classes,
    }


def _trunk(model: Encoder) -> Swin:
    if not isinstance(model.trunk, Swin):
        raise InputError(f"the Swin layouts need a Swin, but the model has a '{model.trunk.kind}'")
    return model.trunk
