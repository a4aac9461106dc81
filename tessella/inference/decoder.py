"""Decoding prepared: the Transformer's decoder with a cache that no search reorders, a column a word read."""

from __future__ import annotations

from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from tessella.attention import causal_mask, key_mask
from tessella.inference.attention import turned
from tessella.state import State
from tessella.tokens import Tokens

COLUMNS = 64
"""Columns a sentence's cache has room for at first."""


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
                held[f"{i}.k"], held[f"{i}.v"] = turned(k), v.contiguous()
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
        return attn.joined(attn.attend(q, turned(k).to(v.dtype), v, masks[0]), len(x))

    def _look_across(self, x: Tensor, cross: nn.Module, kv: tuple[Tensor, Tensor], masks: tuple, n: int) -> Tensor:
        k, v = kv
        if cross.glances(n):
            q = rearrange(cross.q(x), "(b w) n (h d) -> b h (w n) d", b=len(k), h=cross.heads)
            return cross.joined(cross.glance(q, k, v, masks[1]), len(x))
        return cross(x, (turned(k).to(v.dtype), v), masks[0])


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


def _bias(mask: Tensor) -> Tensor:
    """What is added to scores: 0 where mask is True, else -inf."""
    return torch.zeros(mask.shape).masked_fill_(~mask, float("-inf"))
