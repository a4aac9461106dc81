"""Inference: a trained model rewritten for speed on a processor; what it computes stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from tessella.attention import Attention, Dot, causal_mask, key_mask
from tessella.blocks import Block, FeedForward
from tessella.errors import InputError
from tessella.heads import NextWordHead
from tessella.products import FUSED, Packed, Product, Quantised, quantises
from tessella.state import State
from tessella.tokens import Tokens
from tessella.trunks.plain import PlainDecoderTrunk

COLUMNS = 64
"""Columns a sentence's cache has room for at first."""


def prepare(model: nn.Module, dtype: str = "float32") -> nn.Module:
    """The model for inference only, changed in place: weights in this dtype and, on a processor, laid out for it.

    dtype: "float32", "bfloat16", or "int8" (products of bytes, everything else in float32; processors with AVX-512
    only). Load the weights first: what comes back has other names for them and cannot be trained. `watch` sees what
    it saw before. Raises InputError for a dtype that is unknown or that the device cannot multiply.
    """
    if dtype not in DTYPES:
        raise InputError(f"no dtype '{dtype}'; known: {', '.join(DTYPES)}")
    model = model.to(DTYPES[dtype]).eval().requires_grad_(False)
    device = next(model.parameters()).device.type
    if dtype == "int8" and (device != "cpu" or not quantises()):
        raise InputError("int8 needs a processor with AVX-512 and a torch with oneDNN; use dtype bfloat16")
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


def _linear(module: nn.Module, product: Product) -> nn.Module:
    return product(module.weight, module.bias)


def _feed_forward(module: nn.Module, product: Product) -> nn.Module:
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


def _block(module: nn.Module, product: Product) -> nn.Module:
    module.attn = PreparedAttention(module.attn, product, ("q", "k", "v"))
    if module.cross is not None:
        module.cross = PreparedAttention(module.cross, product, ("k", "v"))
    module.mlp = _rewritten(module.mlp, product)
    return module


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
        return n == 1 and self.attend.seen is None and type(self.attend) is Dot

    def glance(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """The same as `attend` for few queries: k is b h d m in fp32; bias #b 1 #n m is 0 or, where masked, -inf."""
        scale: Any = q.shape[-1] ** -0.5 if self.attend.scale is None else self.attend.scale
        b, h = k.shape[:2]
        scores = torch.bmm(q.flatten(0, 1).float() * scale, k.flatten(0, 1))
        if bias is not None:
            rearrange(scores, "(b h) n m -> b h n m", b=b).add_(bias)
        weights = scores.softmax(dim=-1).to(v.dtype)
        return rearrange(torch.bmm(weights, v.flatten(0, 1)), "(b h) n d -> b h n d", h=h)


class PreparedDecoder(nn.Module):
    """`PlainDecoderTrunk` with a cache that no search reorders.

    All hypotheses of a sentence write into one cache, a column a word read, and `path` (bool b*w m) says which columns
    led to which hypothesis: reordering hypotheses is reordering rows of `path`, and the keys of a sentence meet all
    its queries in one product. Columns are written in place: of two states made from one, only the later one lives on.
    """

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.crosses, self.blocks, self.norm = trunk.crosses, trunk.blocks, trunk.norm

    def begin(self, memory: Tokens | None) -> State:
        """As `PlainDecoderTrunk.begin`."""
        if memory is None:
            return State()
        held: dict[str, Tensor] = {} if memory.keep is None else {"keep": memory.keep}
        for i, block in enumerate(self.blocks):
            if self.crosses:
                k, v = block.cross.keys_values(memory.x)
                held[f"{i}.k"], held[f"{i}.v"] = _turned(k), v.contiguous()
        return State(memory=held)

    def forward(self, tokens: Tokens, state: State) -> tuple[Tokens, State]:
        x, n = tokens.x, tokens.x.shape[1]
        b = len(next(iter(state.memory.values()))) if state.memory else len(x)
        cache = _Cache(state, b, len(x) // b, n)
        hidden = key_mask(state.memory.get("keep"))
        masks = cache.mask, _bias(cache.mask), hidden, None if hidden is None else _bias(hidden)
        for i, block in enumerate(self.blocks):
            look = partial(self._look, attn=block.attn, cache=cache, name=f"{i}", masks=masks[:2], n=n)
            kv = (cache.memory[f"{i}.k"], cache.memory[f"{i}.v"]) if self.crosses else None
            across = partial(self._look_across, cross=block.cross, kv=kv, masks=masks[2:], n=n)
            x = block(x, look, across)
        return tokens.replace(x=self.norm(x)), State(cache.memory, {"path": cache.path}, state.length + n)

    def _look(self, x: Tensor, attn: nn.Module, cache: _Cache, name: str, masks: tuple, n: int) -> Tensor:
        q, k, v = attn.project(x, cache.sentences)
        k, v = cache.append(name, k, v)
        if attn.glances(n):
            return attn.joined(attn.glance(q, k, v, masks[1]), len(x))
        return attn.joined(attn.attend(q, _turned(k).to(v.dtype), v, masks[0]), len(x))

    def _look_across(self, x: Tensor, cross: nn.Module, kv: tuple[Tensor, Tensor], masks: tuple, n: int) -> Tensor:
        k, v = kv
        if cross.glances(n):
            q = rearrange(cross.q(x), "(b w) n (h d) -> b h (w n) d", b=len(k), h=cross.heads)
            return cross.joined(cross.glance(q, k, v, masks[1]), len(x))
        return cross(x, (_turned(k).to(v.dtype), v), masks[0])


class _Cache:
    """The columns of b sentences with w hypotheses each, of which every row reads n more words in this step."""

    def __init__(self, state: State, b: int, w: int, n: int) -> None:
        self.memory, self.sentences = dict(state.memory), b
        path = state.past.get("path")
        if path is None:
            path = torch.ones(b * w, 0, dtype=torch.bool)
        path = rearrange(path, "(b w) m -> b w m", b=b)
        if path.shape[-1] + w * n > self._room(path.shape[-1]):
            path = self._compacted(path, w * n)
        self.old = path.shape[-1]
        self.new = self.old + w * n
        own = torch.eye(w, dtype=torch.bool)
        before = path[:, :, None].expand(b, w, n, self.old)
        inside = torch.einsum("wv,nm->wnvm", own, causal_mask(n, n, own.device)[0, 0]).flatten(2)
        mask = torch.cat([before, inside[None].expand(b, w, n, w * n)], dim=-1)
        self.mask = rearrange(mask, "b w n m -> b 1 (w n) m")
        self.path = mask[:, :, -1].flatten(0, 1)

    def append(self, name: str, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k and v of this step (b h (w n) d) written; all columns: k as b h d m in fp32, v as b h m d."""
        keys, values = f"{name}.keys", f"{name}.values"
        if keys not in self.memory:
            room = max(COLUMNS, self.new)
            self.memory[keys] = k.new_empty(*k.shape[:2], k.shape[3], room, dtype=torch.float32)
            self.memory[values] = v.new_empty(*v.shape[:2], room, v.shape[3])
        self.memory[keys][..., self.old : self.new] = k.transpose(2, 3)
        self.memory[values][:, :, self.old : self.new] = v
        return self.memory[keys][..., : self.new], self.memory[values][:, :, : self.new]

    def _room(self, used: int) -> int:
        return self.memory["0.values"].shape[2] if used else COLUMNS

    def _compacted(self, path: Tensor, more: int) -> Tensor:
        """Room for more columns: those that lead to no living hypothesis go, and what holds them grows if it must."""
        if not path.shape[-1]:
            return path
        alive = path.any(dim=1)
        kept = int(alive.sum(dim=1).max())
        order = alive.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :kept]
        room = COLUMNS
        while room < 2 * (kept + more):
            room *= 2
        for name, held in self.memory.items():
            if name.endswith((".keys", ".values")):
                dim = 3 if name.endswith(".keys") else 2
                pick = order[:, None, None, :] if dim == 3 else order[:, None, :, None]
                shape = list(held.shape)
                shape[dim] = room
                self.memory[name] = fresh = held.new_empty(shape)
                pick = pick.expand(*[kept if i == dim else size for i, size in enumerate(held.shape)])
                fresh.narrow(dim, 0, kept).copy_(held.gather(dim, pick))
        return path.gather(2, order[:, None].expand(-1, path.shape[1], -1))


def _turned(x: Tensor) -> Tensor:
    """b h m d -> b h d m, or back; in fp32, and written out in this order, which the product with it wants."""
    return rearrange(x, "b h m d -> b h d m").float().contiguous()


def _bias(mask: Tensor) -> Tensor:
    """What is added to scores: 0 where mask is True, else -inf."""
    return torch.zeros(mask.shape).masked_fill_(~mask, float("-inf"))


RULES: dict[type[nn.Module], Callable[[nn.Module, Product], nn.Module]] = {
    nn.Linear: _linear,
    NextWordHead: _linear,
    FeedForward: _feed_forward,
    Block: _block,
    PlainDecoderTrunk: _decoder,
}
"""What is rewritten, by its exact type; everything else stays, and its parts are looked at."""
