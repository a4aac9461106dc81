"""Fusion: streams of tokens in, fused tokens out, by schemes spelled with verbs: six of a survey, and bottlenecks."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, model_validator
from torch import nn

from tessella.errors import InputError
from tessella.spec import Part, spec
from tessella.stems.streams import joined, parted
from tessella.tokens import Tokens
from tessella.trunks.plain import Plain, Trunk
from tessella.verbs import ALL, Bottleneck, Concat, Cross, Each, Split, Stretch, Sum


class Scheme(Trunk):
    """Role: a trunk for Tokens of several streams (Xu, Zhu and Clifton 2023, sec. 3.3); Z_i is stream i, T a trunk.

    streams: the names of the stem's streams, in its order. Trunks over several of them are 'plain': between streams
    there may be padding, which others take for an end.
    """

    streams: tuple[str, ...]

    @model_validator(mode="after")
    def _they_fit(self):
        for part in ("own", "joint", "after"):
            trunk = getattr(self, part, None)
            for side in ("dim", "width") if trunk is not None else ():
                wide = getattr(trunk, side)
                if wide != self.dim:
                    raise InputError(f"{part}.{side} is {wide} but the streams' dim is {self.dim}; they must be equal")
        if not self.streams or len(set(self.streams)) < len(self.streams):
            raise InputError(f"streams need names of their own, got {list(self.streams)}")
        return self

    def verbs(self) -> Sequence[nn.Module]:
        """What is done with the streams, one after the other."""
        raise NotImplementedError

    def build(self) -> SchemeTrunk:
        return SchemeTrunk(self)


@spec("early-sum")
class EarlySum(Scheme):
    """T(a Z1 + b Z2): streams of equal length, or stretched to the longest ("nearest" or "linear")."""

    joint: Part[Trunk]
    stretch: Stretch | None = None

    def verbs(self) -> Sequence[nn.Module]:
        return [Sum(len(self.streams), self.stretch), Each(1, self.joint)]


@spec("early-concat")
class EarlyConcat(Scheme):
    """T([Z1; Z2]): every token looks at the tokens of all streams."""

    joint: Plain

    def verbs(self) -> Sequence[nn.Module]:
        return [Concat(), Each(1, self.joint)]


@spec("many-to-one")
class ManyToOne(Scheme):
    """T([T1(Z1); T2(Z2)]): each stream alone, then all together."""

    own: Part[Trunk]
    joint: Plain

    def verbs(self) -> Sequence[nn.Module]:
        return [Each(len(self.streams), self.own), Concat(), Each(1, self.joint)]


@spec("one-to-many")
class OneToMany(Scheme):
    """Ti(T([Z1; Z2])_i): all together, then each stream alone."""

    joint: Plain
    own: Part[Trunk]

    def verbs(self) -> Sequence[nn.Module]:
        return [Concat(), Each(1, self.joint), Split(), Each(len(self.streams), self.own)]


class Crossing(Scheme):
    """Role: a scheme in which streams look at each other."""

    own: Plain

    @model_validator(mode="after")
    def _two_at_least(self):
        if len(self.streams) < 2:
            raise InputError(f"in '{self.kind}' streams look at each other, so there must be two; there is one")
        return self


@spec("cross")
class CrossAttention(Crossing):
    """T1(Z1 | Z2), T2(Z2 | Z1): each stream asks all others; its queries stay its own."""

    def verbs(self) -> Sequence[nn.Module]:
        return [Cross(len(self.streams), self.own)]


@spec("cross-to-concat")
class CrossToConcat(Crossing):
    """T([T1(Z1 | Z2); T2(Z2 | Z1)]): each stream asks all others, then all together."""

    joint: Plain

    def verbs(self) -> Sequence[nn.Module]:
        return [Cross(len(self.streams), self.own), Concat(), Each(1, self.joint)]


@spec("bottleneck")
class BottleneckFusion(Scheme):
    """Each stream alone (own), then together through a few tokens between them (after); see `Bottleneck`.

    What a stream tells in one block of `after`, the others read in the next: with one block, none hears of another.
    """

    own: Part[Trunk]
    after: Plain
    tokens: int = Field(4, ge=1)

    def verbs(self) -> Sequence[nn.Module]:
        streams = len(self.streams)
        return [Each(streams, self.own), Bottleneck(streams, self.after, self.tokens)]


class SchemeTrunk(nn.Module):
    """Tokens with a span a stream -> Tokens, fused; spans are those of the streams, or of their sum."""

    def __init__(self, s: Scheme):
        super().__init__()
        self.streams = s.streams
        self.verbs = nn.ModuleList(s.verbs())

    def forward(self, tokens: Tokens) -> Tokens:
        assert tuple(name for name, _, _ in tokens.spans) == self.streams, (tokens.spans, self.streams)
        flow = parted(tokens)
        for verb in self.verbs:
            flow = verb(flow)
        return flow[ALL] if list(flow) == [ALL] else joined(flow)
