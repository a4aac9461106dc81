"""Opaque products: oneDNN's packed products as operations of our own, which torch's compiler leaves as they are."""

from __future__ import annotations

import torch
from torch import Tensor

OPERATIONS = torch.library.Library("tessella", "DEF")


def product(x: Tensor, weight: Tensor, bias: Tensor | None, name: str, how: str) -> Tensor:
    """act(x W^T + b), weights packed; see `Packed`."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], how)


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: list[int], shape: list[int], name: str, how: str
) -> Tensor:
    """act(conv(x)), filters packed, channels last; see `PackedConv`.

    window: padding, stride and dilation, two numbers each, then the groups; shape: of what comes out.
    """
    padding, stride, dilation, (groups,) = window[:2], window[2:4], window[4:6], window[6:]
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, stride, dilation, groups, name, [], how)


OPERATIONS.define("product(Tensor x, Tensor weight, Tensor? bias, str name, str how) -> Tensor")
OPERATIONS.define(
    "convolution(Tensor x, Tensor weight, Tensor? bias, int[] window, int[] shape, str name, str how) -> Tensor"
)
for kind in ("CPU", "MkldnnCPU"):  # packed weights are of the second
    OPERATIONS.impl("product", product, kind)
    OPERATIONS.impl("convolution", convolution, kind)


@torch.library.register_fake("tessella::product")
def _product_shape(x: Tensor, weight: Tensor, bias: Tensor | None, name: str, how: str) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@torch.library.register_fake("tessella::convolution")
def _convolution_shape(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: list[int], shape: list[int], name: str, how: str
) -> Tensor:
    return x.new_empty(shape).to(memory_format=torch.channels_last)
