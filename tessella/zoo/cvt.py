"""CvT: convolutions introduced to vision transformers (Wu et al. 2021), in the paper's sizes and small ones.

    image -> [7 x 7 convolution, stride 4, LayerNorm] -> blocks x 1, width  64     tokens: 1/4 of rows and columns
          -> [3 x 3 convolution, stride 2, LayerNorm] -> blocks x 2, width 192             1/8
          -> [3 x 3 convolution, stride 2, LayerNorm] -> [class] joins -> blocks x 10, width 384, 1/16
          -> LayerNorm -> linear on [class] -> classes                                     (CvT-13)

    block: LayerNorm, attention whose q, k, v are convolved first (k and v with stride 2), LayerNorm, feed-forward

There are no positions: the convolutions know where they are. Images of any size go in as they are. The small sizes take
images of 32 x 32 pixels, with gentler strides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from tessella.blocks import Activation
from tessella.errors import InputError
from tessella.heads import Classes
from tessella.models import Encoder
from tessella.stems.patches import Pixels
from tessella.trunks.cvt import Cvt
from tessella.weights import Rule
from tessella.zoo import config as read
from tessella.zoo.card import Card


class Size(NamedTuple):
    """Each stage's width, blocks, heads and convolution (kernels, strides, paddings); stochastic depth of the last."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    drop_path: float = 0.1
    kernels: tuple[int, ...] = (7, 3, 3)
    strides: tuple[int, ...] = (4, 2, 2)
    paddings: tuple[int, ...] = (2, 1, 1)


GENTLE = (5, 3, 3), (2, 2, 1), (2, 1, 1)
"""Convolutions for 32 x 32 pixels: 16 x 16 tokens, then 8 x 8, then 8 x 8."""
BRISK = (5, 3, 3), (2, 2, 2), (2, 1, 1)
"""16 x 16 tokens, then 8 x 8, then 4 x 4: a third of the work."""
SIZES = {
    "nano": Size((32, 64, 128), (1, 2, 3), (1, 2, 4), 0.0, *BRISK),
    "micro": Size((32, 64, 128), (1, 2, 4), (1, 2, 4), 0.0, *GENTLE),
    "small": Size((64, 128, 256), (1, 2, 3), (1, 2, 4), 0.0, *GENTLE),
    "13": Size((64, 192, 384), (1, 2, 10), (1, 3, 6)),
    "21": Size((64, 192, 384), (1, 4, 16), (1, 3, 6)),
    "w24": Size((192, 768, 1024), (2, 2, 20), (3, 12, 16), 0.3),
}


def cvt(
    size: str = "13", classes: int = 1000, image_size: int = 224, channels: int = 3, drop_path: float | None = None
) -> Encoder:
    """The spec of a CvT. image_size is what other families need; this one takes images of any size.

    drop_path: stochastic depth's rate at the end of the last stage, the paper's if None; earlier stages have none.
    """
    measures = SIZES[size]
    last = measures.drop_path if drop_path is None else drop_path
    trunk = Cvt(
        dim=channels,
        widths=measures.widths,
        depths=measures.depths,
        heads=measures.heads,
        kernels=measures.kernels,
        strides=measures.strides,
        paddings=measures.paddings,
        drop_path=(*(0.0 for _ in measures.widths[1:]), last),
    )
    return Encoder(stem=Pixels(dim=channels), trunk=trunk, head=Classes(dim=trunk.width, classes=classes))


class Published(NamedTuple):
    """Size, image size, ImageNet-1k top-1 and what was trained on before."""

    size: str
    pixels: int
    top1: float
    source: str = "microsoft/CvT: ImageNet-1k"

    @property
    def name(self) -> str:
        """Without the usual image size."""
        return f"cvt_{self.size}" + ("" if self.pixels == 224 else f"_{self.pixels}")


TWENTY_TWO = "microsoft/CvT: ImageNet-22k, then ImageNet-1k"
PUBLISHED = (
    Published("13", 224, 81.6),
    Published("13", 384, 83.3, TWENTY_TWO),
    Published("21", 224, 82.5),
    Published("21", 384, 84.9, TWENTY_TWO),
    Published("w24", 384, 87.6, TWENTY_TWO),
)
SMALL = {f"cvt_{size}": partial(cvt, size, image_size=32) for size in ("nano", "micro", "small")}
VARIANTS: dict[str, Callable[..., Encoder]] = {
    **SMALL,
    **{p.name: partial(cvt, p.size, image_size=p.pixels) for p in PUBLISHED},
}
"""Every variant by name -> function of the remaining arguments -> Encoder."""
CARDS = {
    **{name: Card(32) for name in SMALL},
    **{p.name: Card(p.pixels, p.top1, p.source, "MIT", crop=0.875 if p.pixels == 224 else 1.0) for p in PUBLISHED},
}


def _block(theirs: str, convs: Mapping[str, str], parts: Mapping[str, str]) -> tuple[Rule, ...]:
    """convs: their convolution before a projection -> q, k or v; parts: their other names of a block -> ours."""
    ours = "trunk.stages.{s}.blocks.{i}"
    return (
        *(Rule(f"{theirs}.{name}.{{p}}", f"{ours}.attn.{near}.{{p}}") for name, near in convs.items()),
        *(Rule(f"{theirs}.{name}.{{p}}", f"{ours}.{part}.{{p}}") for name, part in parts.items()),
    )


def _microsoft() -> tuple[Rule, ...]:
    convs = {
        f"attn.conv_proj_{part}.{theirs}": f"near_{part}.{ours}"
        for part in "qkv"
        for theirs, ours in {"conv": "conv", "bn": "norm"}.items()
    }
    parts = {f"attn.proj_{part}": f"attn.inner.{part}" for part in "qkv"} | {
        "attn.proj": "attn.inner.out",
        "norm1": "attn_residual.norm",
        "norm2": "mlp_residual.norm",
        "mlp.fc1": "mlp.rise",
        "mlp.fc2": "mlp.fall",
    }
    return (
        Rule("stage{s}.patch_embed.proj.{p}", "trunk.stages.{s}.embed.conv.{p}"),
        Rule("stage{s}.patch_embed.norm.{p}", "trunk.stages.{s}.embed.norm.{p}"),
        Rule("stage{s}.cls_token", "trunk.stages.{s}.special", layout="n 1 d -> n d"),
        *_block("stage{s}.blocks.{i}", convs, parts),
        Rule("norm.{p}", "trunk.norm.{p}"),
        Rule("head.{p}", "head.scores.{p}"),
    )


def _hf() -> tuple[Rule, ...]:
    stage, attn = "cvt.encoder.stages.{s}", "attention.attention"
    letters = {"query": "q", "key": "k", "value": "v"}
    convs = {
        f"{attn}.convolution_projection_{part}.convolution_projection.{theirs}": f"near_{letter}.{ours}"
        for part, letter in letters.items()
        for theirs, ours in {"convolution": "conv", "normalization": "norm"}.items()
    }
    parts = {f"{attn}.projection_{part}": f"attn.inner.{letter}" for part, letter in letters.items()} | {
        "attention.output.dense": "attn.inner.out",
        "layernorm_before": "attn_residual.norm",
        "layernorm_after": "mlp_residual.norm",
        "intermediate.dense": "mlp.rise",
        "output.dense": "mlp.fall",
    }
    return (
        Rule(f"{stage}.embedding.convolution_embeddings.projection.{{p}}", "trunk.stages.{s}.embed.conv.{p}"),
        Rule(f"{stage}.embedding.convolution_embeddings.normalization.{{p}}", "trunk.stages.{s}.embed.norm.{p}"),
        Rule(f"{stage}.cls_token", "trunk.stages.{s}.special", layout="n 1 d -> n d"),
        *_block(f"{stage}.layers.{{i}}", convs, parts),
        Rule("layernorm.{p}", "trunk.norm.{p}"),
        Rule("classifier.{p}", "head.scores.{p}"),
    )


LAYOUTS: dict[str, tuple[Rule, ...]] = {"microsoft": _microsoft(), "hf": _hf()}

FIXED = {
    "qkv_projection_method": "dw_bn",
    "qkv_bias": True,
    "kernel_qkv": 3,
    "padding_q": 1,
    "padding_kv": 1,
    "stride_q": 1,
}
"""Fields, a value a stage, that every published CvT has the same."""
EPS = 1e-5


def from_config(config: Mapping[str, Any], activation: Activation | None = None) -> Encoder:
    """The model that a `config.json` with `model_type` "cvt" describes.

    activation: None for the one the file names in `hidden_act`, else "quick-gelu". `transformers` has no such field and
    computes the exact GELU, but the weights it publishes were trained with QuickGELU by Microsoft's code, so that is
    what they get here; activation "gelu" gives what `transformers` computes.

    Fields left out are those of its CvtConfig. Dropout, which no published model has, is left out. Raises InputError,
    naming the field, for what is not supported.
    """
    read.demand(config, model_type="cvt")
    stages = len(_stages(config, "embed_dim", (64, 192, 384)))
    for name, value in FIXED.items():
        read.demand(config, **{name: [value] * stages})
    read.demand(config, cls_token=_in_the_last(stages))
    rates = _list(config, "drop_path_rate", (0.0,) * (stages - 1) + (0.1,))
    trunk = Cvt(
        dim=read.whole(config, "num_channels", 3),
        widths=_stages(config, "embed_dim", (64, 192, 384)),
        depths=_stages(config, "depth", (1, 2, 10)),
        heads=_stages(config, "num_heads", (1, 3, 6)),
        kernels=_stages(config, "patch_sizes", (7, 3, 3)),
        strides=_stages(config, "patch_stride", (4, 2, 2)),
        paddings=_stages(config, "patch_padding", (2, 1, 1), least=0),
        drop_path=tuple(read.number({"drop_path_rate": rate}, "drop_path_rate", 0.0) for rate in rates),
        kv_stride=_same(config, "stride_kv", (2,) * stages),
        ratio=_same(config, "mlp_ratio", (4.0,) * stages),
        activation=activation or read.activation(config, absent="quick_gelu"),
        eps=EPS,
    )
    head = Classes(dim=trunk.width, classes=read.classes(config))
    return Encoder(stem=Pixels(dim=trunk.dim), trunk=trunk, head=head)


def to_config(model: Encoder) -> dict[str, Any]:
    """The way back: what `config.json` says of a model of ours. Raises InputError where CvT cannot compute it.

    `hidden_act` is for us: `transformers` computes the exact GELU whatever it says (see `from_config`).
    """
    trunk, head = model.trunk, model.head
    if not (isinstance(trunk, Cvt) and isinstance(head, Classes)):
        raise InputError(f"the CvT layout needs a CvT and one classifier, but the model has {trunk.kind}, {head.kind}")
    for stage, depth in enumerate(trunk.depths):
        if depth <= stage:
            raise InputError(f"transformers' CvT needs {stage + 1} blocks or more in stage {stage + 1}, not {depth}")
    read.agree("CvT", special_tokens=(trunk.special, 1), pool=(head.pool, "first"), eps=(trunk.eps, EPS))
    stages = len(trunk.widths)
    return {
        "model_type": "cvt",
        "architectures": ["CvtForImageClassification"],
        "num_channels": trunk.dim,
        "embed_dim": list(trunk.widths),
        "depth": list(trunk.depths),
        "num_heads": list(trunk.heads),
        "patch_sizes": list(trunk.kernels),
        "patch_stride": list(trunk.strides),
        "patch_padding": list(trunk.paddings),
        **{name: [value] * stages for name, value in FIXED.items()},
        "mlp_ratio": [float(trunk.ratio)] * stages,
        "stride_kv": [trunk.kv_stride] * stages,
        "cls_token": _in_the_last(stages),
        "drop_path_rate": list(trunk.drop_path),
        "drop_rate": [0.0] * stages,
        "attention_drop_rate": [0.0] * stages,
        "hidden_act": read.theirs(trunk.activation),
        "num_labels": head.classes,
    }


def _in_the_last(stages: int) -> list[bool]:
    """Where class tokens are."""
    return [*[False] * (stages - 1), True]


def _list(config: Mapping[str, Any], name: str, absent: tuple[Any, ...]) -> list[Any]:
    """A value a stage."""
    value = config.get(name, absent)
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"config.json: '{name}' must be a list of one value a stage, got {value!r}")
    return list(value)


def _stages(config: Mapping[str, Any], name: str, absent: tuple[float, ...], least: int = 1) -> tuple[int, ...]:
    """A whole number a stage."""
    values = _list(config, name, absent)
    whole = (int(item) if isinstance(item, float) and item.is_integer() else item for item in values)
    return tuple(read.whole({name: item}, name, 0, least=least) for item in whole)


def _same(config: Mapping[str, Any], name: str, absent: tuple[float, ...]) -> int:
    """A whole number that every stage has."""
    first, *others = _stages(config, name, absent)
    if any(other != first for other in others):
        raise InputError(f"config.json: '{name}' must be the same in every stage, got {config[name]!r}")
    return first
