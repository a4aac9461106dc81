"""Products: x W^T + b, and convolutions, with weights laid out once for a processor, as oneDNN wants them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

ROWS = 160
"""Rows the layout of the weights is chosen for: thirty sentences with five hypotheses each; others work as well."""
ZERO = 128
"""What a zero is among the bytes of a quantised activation."""

Fused = tuple[str, str] | None
"""oneDNN's name of an activation and of its approximation; None: none."""
FUSED: dict[type[nn.Module], Callable[[nn.Module], Fused]] = {
    nn.ReLU: lambda act: ("relu", ""),
    nn.GELU: lambda act: ("gelu", str(act.approximate)),
    nn.SiLU: lambda act: ("swish", ""),
}
"""Activations that are applied while the product is still in the cache."""


class Packed(nn.Module):
    """... k -> ... n in fp32 or bf16: act(x W^T + b), the weights n k in the blocks that the kernel reads.

    Where this torch or this machine cannot do so it is ``F.linear``, slower and equal.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, act: Fused = None) -> None:
        super().__init__()
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.act = act
        self.packs = packs(weight)
        weight = weight.detach()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS) if self.packs else weight

    def forward(self, x: Tensor) -> Tensor:
        name, how = self.act or ("none", "")
        if self.packs:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, name, [], how)
        return _activated(F.linear(x, self.weight, self.bias), self.act)


class PackedConv(nn.Module):
    """act(conv(x)) on rasters b d r c in fp32 or bf16, the filters likewise; what comes out has channels last.

    In which blocks the kernel reads filters depends on the raster: they are laid out anew when its size changes.
    """

    def __init__(self, conv: nn.Conv2d, act: Fused = None) -> None:
        super().__init__()
        self.kernel_size, self.padding, self.act = conv.kernel_size, conv.padding, act
        self.how = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups
        self.register_buffer("weight", conv.weight.detach())
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach())
        self.packed: tuple[torch.Size, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        padding, stride, dilation, groups = self.how
        x = x.contiguous(memory_format=torch.channels_last)
        if not packs(self.weight):
            return _activated(F.conv2d(x, self.weight, self.bias, stride, padding, dilation, groups), self.act)
        packed = self.packed
        if packed is None or packed[0] != x.shape:
            weight = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self.how, list(x.shape))
            self.packed = packed = x.shape, weight
        name, approximation = self.act or ("none", "")
        return torch.ops.mkldnn._convolution_pointwise(
            x, packed[1], self.bias, padding, stride, dilation, groups, name, [], approximation
        )


class PatchProduct(nn.Module):
    """A convolution whose windows tile the raster, as the product that it is: b v r c -> b d r/p c/q.

    What comes out has channels last.
    """

    def __init__(self, conv: nn.Conv2d, product: Product) -> None:
        super().__init__()
        self.kernel_size, self.padding = conv.kernel_size, conv.padding
        self.product = product(conv.weight.flatten(1), conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        p, q = self.kernel_size
        rows, cols = x.shape[2] // p, x.shape[3] // q
        patches = rearrange(x[..., : rows * p, : cols * q], "b v (r p) (c q) -> b r c (v p q)", p=p, q=q)
        return rearrange(self.product(patches), "b r c d -> b d r c")


class Quantised(nn.Module):
    """... k -> ... n in int8: weights in 255 steps a row of W, activations in 255 steps a row of x, sums in int32.

    The scale of a row of x is found as it comes (its largest magnitude), so that no row depends on another.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, act: Fused = None) -> None:
        super().__init__()
        weight = weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        rounded = (weight / scale[:, None]).round_().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(rounded, [ROWS, weight.shape[1]])
        self.scale, self.zeros = scale, torch.zeros(len(scale), dtype=torch.int32)
        self.register_buffer("bias", None if bias is None else bias.detach().float())
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        step = rows.abs().amax(dim=-1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny).div_(127)
        levels = (rows / step).round_().add_(ZERO).to(torch.uint8)
        out = torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, ZERO, self.weight, self.scale, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        out = out.mul_(step) if self.bias is None else torch.addcmul(self.bias, out, step)
        return _activated(out, self.act).view(*x.shape[:-1], -1)


Product = type[Packed] | type[Quantised]


def packs(weight: Tensor) -> bool:
    """Whether oneDNN lays out such weights here: a private operation of torch, on processors that know the type."""
    if weight.device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    if weight.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def quantises() -> bool:
    """Whether this torch and this processor multiply bytes."""
    capability = torch.backends.cpu.get_cpu_capability()
    return capability.startswith("AVX512") and hasattr(torch.ops.onednn, "qlinear_pointwise")


def _activated(x: Tensor, act: Fused) -> Tensor:
    if act is None:
        return x
    name, how = act
    return F.gelu(x, approximate=how) if name == "gelu" else F.relu_(x) if name == "relu" else F.silu(x)
