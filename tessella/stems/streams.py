"""Streams: a row of mixed data in, the Tokens of all its streams out, one run after the other."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import torch
from einops import rearrange, repeat
from pydantic import Field, model_validator
from torch import Tensor, nn

from tessella.errors import InputError
from tessella.spec import Part, spec
from tessella.stems.words import Stem
from tessella.tokens import Tokens

THERE = ".there"
"""What follows a stream's name in the name of the mask (bool b) that says which rows have it."""


@spec("streams")
class Streams(Stem):
    """Several stems side by side, each with a learned token that stands for its stream where a row lacks it.

    stems: by the name of the stream, in the order of their runs of tokens.
    drop: modality dropout (Neverova et al. 2015, ModDrop): how often a stream that is there is taken away in
    training; a row's last one stays.
    """

    dim: int
    stems: dict[str, Part[Stem]]
    drop: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _they_fit(self):
        if not self.stems:
            raise InputError("there is no stream; name one stem at least")
        for name, stem in self.stems.items():
            if stem.dim != self.dim:
                raise InputError(f"the stem of '{name}' has dim {stem.dim}, the streams {self.dim}; they must be equal")
            if name.endswith(THERE):
                raise InputError(f"a stream cannot be called '{name}': names that end in '{THERE}' say where one is")
        return self

    @property
    def streams(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple(self.stems)

    def build(self) -> StreamsStem:
        return StreamsStem(self)


class StreamsStem(nn.Module):
    """{name: what its stem takes, "name.there": bool b} -> Tokens b n d, with a span a stream.

    A name left out is a stream that no row has; "name.there" left out, one that all have. What stands in the place of
    an absent stream has no influence at all: it is overwritten before anything is computed with it, and only the
    stream's learned token is kept. A stream none of whose tokens is kept (an empty text) counts as absent.
    """

    def __init__(self, s: Streams):
        super().__init__()
        self.names, self.rate = s.streams, s.drop
        self.stems = nn.ModuleList(stem.build() for stem in s.stems.values())
        self.absent = nn.Parameter(torch.empty(len(self.names), s.dim).normal_(0, 0.02))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        unknown = inputs.keys() - set(self.names) - {name + THERE for name in self.names}
        given = [inputs[name] for name in self.names if name in inputs]
        if unknown or not given:
            what = f"'{min(unknown)}' is none of the streams" if unknown else "a row has none of the streams"
            raise InputError(f"{what} {', '.join(self.names)}")
        reads = [self._read(i, inputs, given[0]) for i in range(len(self.names))]
        there = self.left(torch.stack([there for _, there in reads], dim=1))
        runs = [self._or_absent(i, tokens, there[:, i]) for i, (tokens, _) in enumerate(reads)]
        return joined(dict(zip(self.names, runs, strict=True)))

    def left(self, there: Tensor) -> Tensor:
        """Bool b s, which streams each row has: in training, less those dropped."""
        if not self.training or not self.rate:
            return there
        luck = torch.rand(there.shape, device=there.device).masked_fill(~there, -1.0)
        last = luck == luck.amax(dim=1, keepdim=True)  # the luckiest stays whatever it drew
        return there & ((luck >= self.rate) | last)

    def _read(self, i: int, inputs: Mapping[str, Tensor], some: Tensor) -> tuple[Tokens | None, Tensor]:
        """A stream's own tokens, or None, and bool b: which rows have any; `some` has as many rows."""
        given = inputs.get(self.names[i])
        whole = torch.ones(len(some), dtype=torch.bool, device=some.device)
        if given is None:
            return None, ~whole
        there = inputs.get(self.names[i] + THERE, whole)
        if not there.all():
            given = torch.where(_along(there, given), given, torch.zeros((), dtype=given.dtype, device=given.device))
        tokens = self.stems[i](given)
        return tokens, there if tokens.keep is None else there & tokens.keep.any(dim=1)

    def _or_absent(self, i: int, tokens: Tokens | None, there: Tensor) -> Tokens:
        """The stream's tokens, or where it is absent its one learned token (bool b: where it is there)."""
        absent = self.absent[i]
        if tokens is None:
            return Tokens(repeat(absent, "d -> b 1 d", b=len(there)))
        x = tokens.x.to(absent.dtype)
        if there.all():
            return tokens.replace(x=x)
        first = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        first[:, 0] = True
        own = torch.ones_like(first) if tokens.keep is None else tokens.keep
        x = torch.where(_along(there, x), x, absent * rearrange(first, "b n -> b n 1"))
        return tokens.replace(x=x, keep=torch.where(_along(there, own), own, first))


def joined(streams: Mapping[str, Tokens]) -> Tokens:
    """Streams one behind the other, as one; `spans` says which tokens are whose."""
    runs = list(streams.values())
    ends = accumulate(run.x.shape[1] for run in runs)
    spans = tuple((name, end - run.x.shape[1], end) for (name, run), end in zip(streams.items(), ends, strict=True))
    keep = None
    if any(run.keep is not None for run in runs):
        keep = torch.cat([kept(run) for run in runs], dim=1)
    return Tokens(torch.cat([run.x for run in runs], dim=1), keep, spans=spans)


def parted(tokens: Tokens) -> dict[str, Tokens]:
    """The other way: each stream as Tokens of its own."""
    return {
        name: Tokens(tokens.x[:, a:b], None if tokens.keep is None else tokens.keep[:, a:b])
        for name, a, b in tokens.spans
    }


def kept(tokens: Tokens) -> Tensor:
    """bool b n: which tokens are real, also where all are."""
    if tokens.keep is not None:
        return tokens.keep
    return torch.ones(tokens.x.shape[:2], dtype=torch.bool, device=tokens.x.device)


def _along(rows: Tensor, x: Tensor) -> Tensor:
    """b -> b 1 1 .., as many dimensions as x has."""
    return rows.view(-1, *[1] * (x.ndim - 1))
