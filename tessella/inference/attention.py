"""Attention prepared: weights as powers of two, whose sums say afterwards whether that was safe."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from tessella.attention import Attention, Dot
from tessella.inference.products import Product
from tessella.windows import RelativeDot

KEYS_UP_TO = 1024
"""Keys up to which whole rows of weights are computed; torch's tiles are for longer ones."""
ROOM = 2**22
"""Weights that are held at a time: more would only be written to memory and fetched again."""
SAFE = 2.0**-60, 2.0**100
"""Sums of a row of weights, between which none of those that matter was lost."""


class PowerDot(Dot):
    """`Dot` for queries whose projection has the scale in it: weights are 2^(q k), over their sum.

    `Attend.forward`, which computes what `watch` sees, reads them with a scale of ln 2.
    """

    def __init__(self) -> None:
        super().__init__(math.log(2))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        alike = mask is None or mask.shape[:3] == (1, 1, q.shape[2])
        factors = None if mask is None else mask[0].to(q.dtype)
        found = powers(q, k, v, factors) if self.seen is None and alike else None
        return super().forward(q, k, v, mask) if found is None else found


class RelativePowerDot(RelativeDot):
    """`RelativeDot` likewise, what its bias and the mask of a size of images do to the weights being kept ready."""

    def __init__(self, attend: RelativeDot) -> None:
        nn.Module.__init__(self)
        self.scale, self.table, self.offsets = math.log(2), attend.table, attend.offsets
        self.kept: tuple[Tensor | None, Tensor] | None = None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        found = powers(q, k, v, self.factors(mask).to(q.dtype)) if self.seen is None else None
        return super().forward(q, k, v, mask) if found is None else found

    def factors(self, mask: Tensor | None) -> Tensor:
        """(w h) n m: e^bias, 0 where a query may not look; made when the mask is another than the last one."""
        kept = self.kept
        if kept is None or kept[0] is not mask:
            bias = self.bias().float()[None]
            made = (bias if mask is None else bias.masked_fill(~mask, -math.inf)).exp().flatten(0, 1)
            self.kept = kept = mask, made.to(self.table.dtype).contiguous()
        return kept[1]


def powers(q: Tensor, k: Tensor, v: Tensor, factors: Tensor | None = None) -> Tensor | None:
    """sum of 2^(q k) f v over the sum of 2^(q k) f: b h n d, b h m d, b h m d -> b h n d.

    factors: w n m, those of row i of (b h) being in row i mod w; None for ones. Softmax subtracts the largest score of
    each row, lest its exponential overflows, and divides each weight. Here neither is done: the sums of the rows tell
    whether a weight overflowed or all vanished, in which case the answer is None; else they divide the result. None
    also where torch's own attention is at least as quick: other devices, other shapes, longer rows.
    """
    (b, h, n), m = q.shape[:3], k.shape[2]
    if q.device.type != "cpu" or not 0 < m <= KEYS_UP_TO or k.shape[:2] != (b, h) or not q.numel():
        return None
    q, k, v = (x.reshape(b * h, -1, x.shape[-1]) for x in (q, k.to(q.dtype), v))
    step = max(ROOM // (n * m), 1)
    if factors is not None:
        step = max(step // len(factors), 1) * len(factors)
    parts = [_powers(*part, factors) for part in zip(q.split(step), k.split(step), v.split(step), strict=True)]
    out, total = parts[0] if len(parts) == 1 else (torch.cat(x) for x in zip(*parts, strict=True))
    low, high = (x.item() for x in total.aminmax())
    if not (SAFE[0] < low and high < SAFE[1]):
        return None
    return out.div_(total).view(b, h, n, -1)


def _powers(q: Tensor, k: Tensor, v: Tensor, factors: Tensor | None) -> tuple[Tensor, Tensor]:
    weights = torch.bmm(q, k.transpose(1, 2)).exp2_()
    if factors is not None:
        weights.view(-1, *factors.shape).mul_(factors)
    return torch.bmm(weights, v), weights.sum(-1, keepdim=True)


def powered(attention: Attention) -> Attention:
    """The same attention, in place: the scale of its scores has moved into the projection of its queries."""
    kind, q = type(attention.attend), attention.q
    if kind in POWERED and type(q) is nn.Linear:
        scale: Any = attention.attend.scale
        scale = (q.out_features // attention.heads) ** -0.5 if scale is None else scale
        for parameter in q.parameters():
            parameter.mul_(scale / math.log(2))
        attention.attend = POWERED[kind](attention.attend)
    return attention


POWERED: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    Dot: lambda attend: PowerDot(),
    RelativeDot: RelativePowerDot,
}


class PreparedAttention(nn.Module):
    """`Attention` between linear projections, those of one input in one product: `joint` names them."""

    def __init__(self, attention: Attention, product: Product, joint: tuple[str, ...]) -> None:
        super().__init__()
        self.heads, self.attend, self.parts = attention.heads, attention.attend, len(joint)
        linears = [getattr(attention, name) for name in joint]
        self.joint = product(torch.cat([x.weight for x in linears]), torch.cat([x.bias for x in linears]))
        self.q = None if "q" in joint else product(attention.q.weight, attention.q.bias)
        self.out = product(attention.out.weight, attention.out.bias)

    def project(self, x: Tensor, rows: int) -> tuple[Tensor, ...]:
        """b*w n d -> the joint projections, b h (w n) d each, for b = rows."""
        return rearrange(self.joint(x), "(b w) n (p h d) -> p b h (w n) d", b=rows, p=self.parts, h=self.heads).unbind()

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """b m c -> keys and values, b h m d each."""
        k, v = self.project(context, len(context))[-2:]
        return k, v

    def forward(
        self, x: Tensor, keys_values: tuple[Tensor, Tensor] | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """As `Attention.forward`; x of b*w rows, keys and values of b."""
        if keys_values is None:
            q, k, v = self.project(x, len(x))
        else:
            assert self.q is not None
            k, v = keys_values
            q = rearrange(self.q(x), "(b w) n (h d) -> b h (w n) d", b=len(k), h=self.heads)
        return self.joined(self.attend(q, k, v, mask), len(x))

    def joined(self, seen: Tensor, rows: int) -> Tensor:
        """b h (w n) d -> the output, b*w n d."""
        return self.out(rearrange(seen, "b h (w n) d -> (b w) n (h d)", w=rows // len(seen)))

    def glances(self, n: int) -> bool:
        """Whether `glance` may stand for `attend` when n words are read."""
        return n == 1 and self.attend.seen is None and type(self.attend) is PowerDot

    def glance(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """The same as `attend` for few queries: k is b h d m in fp32; bias #b 1 #n m is 0 or, where masked, -inf."""
        b, h = k.shape[:2]
        scale: Any = self.attend.scale
        scores = torch.bmm(q.flatten(0, 1).float() * scale, k.flatten(0, 1))
        if bias is not None:
            rearrange(scores, "(b h) n m -> b h n m", b=b).add_(bias)
        weights = scores.softmax(dim=-1).to(v.dtype)
        return rearrange(torch.bmm(weights, v.flatten(0, 1)), "(b h) n d -> b h n d", h=h)


def turned(x: Tensor) -> Tensor:
    """b h m d -> b h d m, or back; in fp32, and written out in this order, which the product with it wants."""
    return rearrange(x, "b h m d -> b h d m").float().contiguous()
