"""Attention: one score-softmax-sum, its projections, masks, cache, and `watch`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tessella.dot import dot_product_attention


class Attend(nn.Module):
    """softmax(scores(q, k)) v, for whatever scores a subclass defines. No parameter of its own sits here.

    While `watch` looks on, `seen` is a list and every call appends its weights (b h n m) to it.
    """

    seen: list[Tensor] | None = None

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """b h n d, b h m d -> b h n m."""
        raise NotImplementedError

    def forward(
        self,
        q: Float[Tensor, "b h n dk"],
        k: Float[Tensor, "b h m dk"],
        v: Float[Tensor, "b h m dv"],
        mask: Bool[Tensor, "#b #h #n m"] | None = None,
    ) -> Float[Tensor, "b h n dv"]:
        """mask is True where a query may look; a row with no True key is an error of the caller."""
        with torch.autocast(q.device.type, enabled=False):
            scores = self.scores(_wide(q), _wide(k))
            if mask is not None:
                scores = scores.masked_fill(~mask, float("-inf"))
            weights = scores.softmax(dim=-1)
            if self.seen is not None:
                self.seen.append(weights.detach())
            return (weights @ _wide(v)).to(v.dtype)


class Dot(Attend):
    """q k^T / sqrt(d): scaled dot-product attention (Vaswani et al. 2017, eq. 1); scale=1 is Luong's dot score."""

    def __init__(self, scale: float | None = None):
        super().__init__()
        self.scale = scale

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale
        return (q * scale) @ k.transpose(-1, -2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.seen is not None:
            return super().forward(q, k, v, mask)
        return dot_product_attention(q, k, v, mask, self.scale)


class Additive(Attend):
    """w^T tanh(q + k), q = W_s s and k = W_h h being the projections (Bahdanau et al. 2015, appendix A.1.2)."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim).normal_(0, dim**-0.5))

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        together = torch.tanh(rearrange(q, "b h n d -> b h n 1 d") + rearrange(k, "b h m d -> b h 1 m d"))
        return together @ self.weight.to(together.dtype)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, sec. 3.2.2): Concat(head_1 .. head_h) W_O.

    Queries come from x, keys and values from the context (x itself, unless given). Projections and scorer are parts:
    pass other modules for q, k, v, out or attend, and it is another paper's attention.

    One row of context may serve several rows of x: with x of b*w rows and keys of b rows, rows i*w .. i*w + w-1 of x
    (the hypotheses of sentence i) all look at row i.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 1,
        *,
        context_dim: int | None = None,
        attend: Attend | None = None,
        q: nn.Module | None = None,
        k: nn.Module | None = None,
        v: nn.Module | None = None,
        out: nn.Module | None = None,
    ):
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not divisible by heads {heads}")
        self.heads = heads
        self.attend = attend or Dot()
        self.q = q or projection(dim, dim)
        self.k = k or projection(context_dim or dim, dim)
        self.v = v or projection(context_dim or dim, dim)
        self.out = out or projection(dim, dim)

    def keys_values(
        self, context: Float[Tensor, "b m c"], values: Float[Tensor, "b m c"] | None = None
    ) -> tuple[Tensor, Tensor]:
        """What queries look at and what they get: b h m d each. Computed once for a memory, or grown by `append`.

        Both are made of the context, unless what they get has a source of its own.
        """
        return self._split(self.k(context)), self._split(self.v(context if values is None else values))

    def forward(
        self,
        x: Float[Tensor, "bw n d"],
        keys_values: tuple[Tensor, Tensor] | None = None,
        mask: Bool[Tensor, "#b 1 #n m"] | None = None,
    ) -> Float[Tensor, "bw n dout"]:
        """keys_values None: self-attention."""
        k, v = self.keys_values(x) if keys_values is None else keys_values
        b, n, w = k.shape[0], x.shape[1], x.shape[0] // k.shape[0]
        q = rearrange(self.q(x), "(b w) n (h d) -> b h (w n) d", b=b, h=self.heads)
        seen = self.attend(q, k, v, mask)
        return self.out(rearrange(seen, "b h (w n) d -> (b w) n (h d)", w=w, n=n))

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b m (h d) -> b h m d", h=self.heads)


def _wide(x: Tensor) -> Tensor:
    """bf16 and fp16 as fp32: scores are few next to what the projections multiply, and softmax wants the digits."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def projection(width_in: int, width_out: int, gain: float = 0.5**0.5) -> nn.Linear:
    """A linear layer with Xavier-uniform weights and zero bias; the gain treats q, k, v as one 3d x d matrix."""
    linear = nn.Linear(width_in, width_out)
    nn.init.xavier_uniform_(linear.weight, gain=gain)
    nn.init.zeros_(linear.bias)
    return linear


def append(past: dict[str, Tensor], name: str, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values with those of earlier steps (names `name.k`, `name.v`) in front; past is updated in place."""
    if f"{name}.k" in past:
        k = torch.cat([past[f"{name}.k"], k], dim=2)
        v = torch.cat([past[f"{name}.v"], v], dim=2)
    past[f"{name}.k"], past[f"{name}.v"] = k, v
    return k, v


def causal_mask(n: int, m: int, device: torch.device) -> Tensor:
    """1 1 n m: the last n of m positions; each may look at itself and at what came before."""
    return torch.ones(n, m, dtype=torch.bool, device=device).tril(m - n)[None, None]


def key_mask(keep: Tensor | None) -> Tensor | None:
    """b m -> b 1 1 m: padded keys are looked at by nobody."""
    return None if keep is None else rearrange(keep, "b m -> b 1 1 m")


class Maps(Mapping[str, Tensor]):
    """Attention weights by the name of the module that computed them, each b h n m; calls are joined along n."""

    def __init__(self, watched: dict[str, Attend]):
        self._calls: dict[str, list[Tensor]] = {}
        for name, module in watched.items():
            module.seen = self._calls[name] = []

    def __getitem__(self, name: str) -> Tensor:
        if not self._calls[name]:
            raise KeyError(name)
        return torch.cat(self._calls[name], dim=-2)

    def __iter__(self) -> Iterator[str]:
        return (name for name, calls in self._calls.items() if calls)

    def __len__(self) -> int:
        return sum(bool(calls) for calls in self._calls.values())


@contextmanager
def watch(model: nn.Module) -> Iterator[Maps]:
    """See every attention map of any model, without changing what it computes.

    with watch(model) as seen:
        model(source, target)
    seen["decoder.blocks.3.cross.attend"]          # b h n m, rows sum to 1
    """
    watched = {name: module for name, module in model.named_modules() if isinstance(module, Attend)}
    try:
        yield Maps(watched)
    finally:
        for module in watched.values():
            module.seen = None
