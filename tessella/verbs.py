"""Verbs: what fusion schemes are spelled with: Sum, Concat, Split, Each, Cross, and the bottleneck."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, Literal, TypeVar

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from tessella.attention import key_mask
from tessella.errors import InputError
from tessella.stems.streams import joined, kept, parted
from tessella.tokens import Tokens
from tessella.trunks.plain import Plain, Trunk

Flow = dict[str, Tokens]
"""Streams by name on their way through a scheme; what has become one stream is called ALL."""
ALL = "all"
Stretch = Literal["nearest", "linear"]
P = TypeVar("P")


class Sum(nn.Module):
    """Z = sum_i a_i Z_i, token by token, with a learned a_i a stream, 1 at first; padding adds nothing.

    stretch: how streams of different lengths become equally long, see `stretched`; None refuses them.
    """

    def __init__(self, streams: int, stretch: Stretch | None = None):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(streams))
        self.stretch: Stretch | None = stretch

    def forward(self, flow: Flow) -> Flow:
        runs = list(flow.values())
        if self.stretch is not None:
            runs = evened(runs, self.stretch)
        elif len({run.x.shape[1] for run in runs}) > 1:
            told = ", ".join(f"'{name}' has {tokens.x.shape[1]}" for name, tokens in flow.items())
            raise InputError(
                f"early summation adds token to token, so streams must be equally long, but {told} tokens (one stands "
                "for a stream left out); stretch them (--set model.trunk.stretch=linear) or choose another scheme"
            )
        parts = (a * _padded_with_zeros(run) for a, run in zip(self.weights, runs, strict=True))
        whole = any(run.keep is None for run in runs)
        keep = None if whole else reduce(torch.logical_or, (kept(run) for run in runs))
        return {ALL: Tokens(reduce(torch.add, parts), keep)}


class Concat(nn.Module):
    """[Z1; Z2; ..]: one stream that remembers whose tokens are whose."""

    def forward(self, flow: Flow) -> Flow:
        return {ALL: joined(flow)}


class Split(nn.Module):
    """The other way: each stream's run of the one."""

    def forward(self, flow: Flow) -> Flow:
        return parted(flow[ALL])


class Each(nn.Module):
    """T_i(Z_i): a trunk of its own for every stream that there is."""

    def __init__(self, streams: int, trunk: Trunk):
        super().__init__()
        self.trunks = nn.ModuleList(trunk.build() for _ in range(streams))

    def forward(self, flow: Flow) -> Flow:
        return {name: trunk(tokens) for trunk, (name, tokens) in zip(self.trunks, flow.items(), strict=True)}


class _Stacks(nn.Module):
    """A stack of blocks and a final norm for every stream."""

    def __init__(self, streams: int, trunk: Plain):
        super().__init__()
        self.stacks = nn.ModuleList(nn.ModuleList(trunk.block(i) for i in range(trunk.depth)) for _ in range(streams))
        self.norms = nn.ModuleList(trunk.final_norm() for _ in range(streams))


class Cross(_Stacks):
    """T_i(Z_i | Z_j): in every block each stream's own queries look at the tokens of all others, and not at its own.

    All streams take a step at once, each from what the others were before it (Lu et al. 2019, ViLBERT, sec. 2.1). With
    pre-norm, keys and values are made of what the others' own norms give.
    """

    def forward(self, flow: Flow) -> Flow:
        xs = [tokens.x for tokens in flow.values()]
        masks = [_mask(_others(list(flow.values()), i)) for i in range(len(xs))]
        for blocks in zip(*self.stacks, strict=True):
            told = [block.attn_residual.reads(x) for block, x in zip(blocks, xs, strict=True)]
            memories = [_along(_others(told, i)) for i in range(len(xs))]
            xs = [_step(*one) for one in zip(blocks, xs, told, memories, masks, strict=True)]
        ends = zip(flow.items(), self.norms, xs, strict=True)
        return {name: tokens.replace(x=norm(x)) for (name, tokens), norm, x in ends}


class Bottleneck(_Stacks):
    """Attention bottlenecks (Nagrani et al. 2021, MBT, eq. 8 and 9): streams meet in a few tokens only.

    [Z_i; B_i] = T_i([Z_i; B]),   B = mean_i B_i,   block by block
    """

    def __init__(self, streams: int, trunk: Plain, tokens: int):
        super().__init__(streams, trunk)
        self.between = nn.Parameter(torch.empty(tokens, trunk.dim).normal_(0, 0.02))

    def forward(self, flow: Flow) -> Flow:
        xs = [tokens.x for tokens in flow.values()]
        between = repeat(self.between, "m d -> b m d", b=len(xs[0])).to(xs[0].dtype)
        masks = [None if t.keep is None else _and_all(t.keep, between.shape[1]) for t in flow.values()]
        for blocks in zip(*self.stacks, strict=True):
            both = [
                block(torch.cat([x, between], dim=1), partial(block.attn, mask=key_mask(mask)))
                for block, x, mask in zip(blocks, xs, masks, strict=True)
            ]
            xs = [seen[:, : x.shape[1]] for seen, x in zip(both, xs, strict=True)]
            between = torch.stack([seen[:, x.shape[1] :] for seen, x in zip(both, xs, strict=True)]).mean(dim=0)
        ends = zip(flow.items(), self.norms, xs, strict=True)
        return {name: tokens.replace(x=norm(x)) for (name, tokens), norm, x in ends}


def evened(runs: Sequence[Tokens], how: Stretch) -> list[Tokens]:
    """Streams of one length: each row's are stretched to the longest of them, so that padding is no part of any."""
    n = max(run.x.shape[1] for run in runs)
    if all(run.keep is None for run in runs):
        whole = torch.full((len(runs[0].x),), n, device=runs[0].x.device)
        return [run if run.x.shape[1] == n else Tokens(stretched(run, whole, n, how).x) for run in runs]
    lengths = torch.stack([kept(run).sum(dim=1) for run in runs]).amax(dim=0)
    return [stretched(run, lengths, n, how) for run in runs]


def stretched(tokens: Tokens, lengths: Tensor, n: int, how: Stretch) -> Tokens:
    """The kept tokens of each row, which stand in front, drawn out (or together) to `lengths` (long b) of n places.

    Token t is read at place (t + 1/2) m / length - 1/2 of m kept ones: the nearest, or both neighbours, weighed.
    """
    x = tokens.x
    length = rearrange(lengths, "b -> b 1")
    m = kept(tokens).sum(dim=1, keepdim=True)
    t = torch.arange(n, device=x.device)
    place = ((t + 0.5) * m / length - 0.5).clamp(min=0).minimum((m - 1).float())
    low = place.round() if how == "nearest" else place.floor()
    low, share = low.long(), rearrange(place - low, "b t -> b t 1").to(x.dtype)
    read = x.gather(1, repeat(low, "b t -> b t d", d=x.shape[2]))
    if how == "linear":
        above = repeat((low + 1).minimum(m - 1), "b t -> b t d", d=x.shape[2])
        read = torch.lerp(read, x.gather(1, above), share)
    return Tokens(read, t < length)


def _step(block: Any, x: Tensor, told: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
    """A block whose queries are of `told`, which is what its residual reads of x, and keys and values of others."""
    x = block.attn_residual.adds(x, block.attn(told, block.attn.keys_values(memory), mask))
    return block.mlp_residual(x, block.mlp)


def _others(parts: Sequence[P], i: int) -> list[P]:
    """All but the i-th."""
    return [part for j, part in enumerate(parts) if j != i]


def _mask(runs: Sequence[Tokens]) -> Tensor | None:
    """Which tokens of these, one behind the other, may be looked at, b 1 1 m; None where all may."""
    return None if all(run.keep is None for run in runs) else key_mask(_along([kept(run) for run in runs]))


def _padded_with_zeros(run: Tokens) -> Tensor:
    return run.x if run.keep is None else run.x * rearrange(run.keep, "b n -> b n 1")


def _along(parts: Sequence[Tensor]) -> Tensor:
    """One behind the other; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def _and_all(keep: Tensor, more: int) -> Tensor:
    """b n -> b (n + more): what follows is kept."""
    return torch.cat([keep, keep.new_ones(len(keep), more)], dim=1)
