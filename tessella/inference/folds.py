"""Folding: what is constant in a trained model and follows or precedes a product moves into its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from tessella.attention import Attention
from tessella.blocks import STEEPNESS, FeedForward, QuickGELU
from tessella.depthwise import Depthwise
from tessella.inference.attention import powered
from tessella.trunks.bit import EPS, Standardised
from tessella.trunks.convnet import Layer
from tessella.trunks.cvt import Nearby


@torch.no_grad()
def folded(module: nn.Module) -> nn.Module:
    """The model with every part that FOLDS knows changed in place; it computes what it did, in evaluation only.

    Best before the weights are rounded to fewer digits.
    """
    for name, part in list(module.named_children()):
        setattr(module, name, folded(part))
    return FOLDS[type(module)](module) if type(module) in FOLDS else module


def _layer(module: Any) -> nn.Module:
    """BatchNorm, which in evaluation multiplies and adds, joins the convolution before it."""
    if type(module.conv) in CONVOLUTIONS and type(module.norm) in NORMS:
        module.conv, module.norm = _joined(module.conv, module.norm), nn.Identity()
    return module


def _sequence(module: Any) -> nn.Module:
    """Neighbours likewise."""
    for i in range(len(module) - 1):
        if type(module[i]) in CONVOLUTIONS and type(module[i + 1]) in NORMS:
            module[i], module[i + 1] = _joined(module[i], module[i + 1]), nn.Identity()
    return module


def _standardised(module: Any) -> nn.Module:
    """The filters as they are after standardisation."""
    return _conv(module, F.layer_norm(module.weight, module.weight.shape[1:], eps=EPS), module.bias)


def _joined(conv: Any, norm: Any) -> nn.Conv2d:
    how = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    return _conv(conv, *fuse_conv_bn_weights(conv.weight, conv.bias, *how))


def _conv(like: Any, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A convolution of torch's with these weights."""
    how = like.kernel_size, like.stride, like.padding, like.dilation, like.groups
    conv = nn.Conv2d(like.in_channels, like.out_channels, *how, bias=bias is not None, device=weight.device)
    conv.weight = nn.Parameter(weight.detach(), requires_grad=False)
    conv.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
    return conv


def _feed_forward(module: Any) -> nn.Module:
    """x sigmoid(s x) = silu(s x) / s: the s of QuickGELU goes into the product before, 1/s into the one after."""
    if type(module.act) is QuickGELU:
        for parameter in module.rise.parameters():
            parameter.mul_(STEEPNESS)
        module.fall.weight.div_(STEEPNESS)
        module.act = nn.SiLU()
    return module


CONVOLUTIONS = nn.Conv2d, Depthwise
NORMS = nn.BatchNorm1d, nn.BatchNorm2d
FOLDS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    Attention: powered,
    FeedForward: _feed_forward,
    Layer: _layer,
    Nearby: _layer,
    nn.Sequential: _sequence,
    Standardised: _standardised,
}
