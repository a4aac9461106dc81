"""Inference: a trained model rewritten for speed on a processor; what it computes stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tessella.attention import Attention
from tessella.blocks import Block, FeedForward
from tessella.errors import InputError
from tessella.heads import NextWordHead
from tessella.inference.attention import PreparedAttention
from tessella.inference.decoder import PreparedDecoder
from tessella.inference.folds import folded
from tessella.inference.last import EndBlock, LastBlock, shortened
from tessella.inference.products import FUSED, Packed, PackedConv, PatchProduct, Product, Quantised, quantises
from tessella.models import EncoderModel
from tessella.trunks.convnet import Layer, Residual
from tessella.trunks.plain import PlainDecoderTrunk
from tessella.verbs import Cross


def prepare(model: nn.Module, dtype: str = "float32") -> nn.Module:
    """The model for inference only, changed in place: weights in this dtype and, on a processor, laid out for it.

    dtype: "float32", "bfloat16", or "int8" (linear layers in products of bytes, everything else in float32; processors
    with AVX-512 only). Load the weights first: what comes back has other names for them and cannot be trained. `watch`
    sees what it saw before. Raises InputError for a dtype that is unknown or that the device cannot multiply.
    """
    if dtype not in DTYPES:
        raise InputError(f"no dtype '{dtype}'; known: {', '.join(DTYPES)}")
    device = next(model.parameters()).device.type
    if dtype == "int8" and (device != "cpu" or not quantises()):
        raise InputError("int8 needs a processor with AVX-512 and a torch with oneDNN; use dtype bfloat16")
    lone = [(number, number.data) for number in model.parameters() if not number.dim()]
    model = folded(model.eval()).to(DTYPES[dtype]).requires_grad_(False)
    for number, whole in lone:  # such as a temperature: it costs nothing to keep its digits
        number.data = whole
    if device != "cpu":
        return model
    with torch.no_grad():
        return _rewritten(model, Quantised if dtype == "int8" else Packed)


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.float32}
"""Name -> the type of what is not a product."""


def _rewritten(module: nn.Module, product: Product) -> nn.Module:
    if type(module) in RULES:
        return RULES[type(module)](module, product)
    return _inside(module, product)


def _inside(module: nn.Module, product: Product) -> nn.Module:
    """The same module with its parts rewritten."""
    for name, part in list(module.named_children()):
        setattr(module, name, _rewritten(part, product))
    return module


def _linear(module: Any, product: Product) -> nn.Module:
    return product(module.weight, module.bias)


def _feed_forward(module: Any, product: Product) -> nn.Module:
    """The activation joins the product before it where oneDNN knows it."""
    if type(module.act) in FUSED:
        module.rise = product(module.rise.weight, module.rise.bias, FUSED[type(module.act)](module.act))
        module.act = nn.Identity()
    else:
        module.rise = product(module.rise.weight, module.rise.bias)
    module.fall = product(module.fall.weight, module.fall.bias)
    return module


def _decoder(module: nn.Module, product: Product) -> nn.Module:
    return PreparedDecoder(_inside(module, product))


def _block(module: Any, product: Product) -> nn.Module:
    if type(module.attn) is Attention:
        module.attn = PreparedAttention(module.attn, product, ("q", "k", "v"))
    else:
        module.attn = _rewritten(module.attn, product)
    if module.cross is not None:
        module.cross = PreparedAttention(module.cross, product, ("k", "v"))
    module.mlp = _rewritten(module.mlp, product)
    return module


def _cross(module: Any, product: Product) -> nn.Module:
    """Its blocks look at what others made: keys and values are of another input than queries."""
    for block in (block for blocks in module.stacks for block in blocks):
        block.attn = PreparedAttention(block.attn, product, ("k", "v"))
        block.mlp = _rewritten(block.mlp, product)
    return module


def _conv(module: Any, product: Product) -> nn.Module:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return module
    tiles = module.kernel_size == module.stride and module.kernel_size != (1, 1) and module.padding == (0, 0)
    if tiles and module.groups == 1 and module.dilation == (1, 1):
        return PatchProduct(module, product)
    return PackedConv(module)


def _layer(module: Any, product: Product) -> nn.Module:
    """A folded layer is a convolution and its activation."""
    known = type(module.conv) is nn.Conv2d and type(module.norm) is nn.Identity
    if known and type(module.act) is nn.Identity:
        return PackedConv(module.conv)
    if known and type(module.act) in FUSED:
        return PackedConv(module.conv, FUSED[type(module.act)](module.act))
    return _inside(module, product)


def _encoder(module: Any, product: Product) -> nn.Module:
    shortened(module, product, partial(_rewritten, product=product))
    return _inside(module, product)


def _residual(module: Any, product: Product) -> nn.Module:
    return PreparedResidual(_inside(module, product))


class PreparedResidual(nn.Module):
    """`Residual` in evaluation, in the memory of what its branch returns."""

    def __init__(self, residual: Any) -> None:
        super().__init__()
        self.branch, self.shortcut = residual.branch, residual.shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu_(self.branch(x).add_(self.shortcut(x)))


RULES: dict[type[nn.Module], Callable[[Any, Product], nn.Module]] = {
    EncoderModel: _encoder,
    LastBlock: lambda module, product: module,  # made of rewritten parts
    EndBlock: lambda module, product: module,
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    NextWordHead: _linear,
    FeedForward: _feed_forward,
    Block: _block,
    Cross: _cross,
    Layer: _layer,
    Residual: _residual,
    PlainDecoderTrunk: _decoder,
}
"""What is rewritten, by its exact type; everything else stays, and its parts are looked at."""
