"""Encoded: a stem with a trunk behind it, used as a stem: what a whole encoder saw, as tokens for another."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator
from torch import Tensor, nn

from tessella.errors import InputError
from tessella.spec import Part, spec
from tessella.stems.words import Stem
from tessella.tokens import Tokens
from tessella.trunks.plain import Trunk


@spec("encoded")
class Encoded(Stem):
    """The tokens of an encoder, brought to width `dim` by a linear layer where they have another.

    With it any trunk, fresh or of a trained run, reads one stream of a fusion: a CvT the images, a language model the
    texts.
    """

    dim: int
    stem: Part[Stem]
    trunk: Part[Trunk]

    @model_validator(mode="after")
    def _widths_agree(self):
        if self.stem.dim != self.trunk.dim:
            raise InputError(f"stem.dim is {self.stem.dim} but trunk.dim is {self.trunk.dim}; they must be equal")
        return self

    def build(self) -> EncodedStem:
        return EncodedStem(self)


class EncodedStem(nn.Module):
    """input -> [stem] -> [trunk] -> [linear, where widths differ] -> Tokens b n d."""

    def __init__(self, s: Encoded):
        super().__init__()
        self.stem = s.stem.build()
        self.trunk = s.trunk.build()
        self.fit = nn.Identity() if s.trunk.width == s.dim else nn.Linear(s.trunk.width, s.dim)

    def forward(self, x: Any) -> Tokens:
        """x: whatever the stem takes."""
        tokens = self.stem(x)
        read = tokens if tokens.keep is None else tokens.replace(keep=_never_empty(tokens.keep))
        seen = self.trunk(read)
        return seen.replace(x=self.fit(seen.x), keep=tokens.keep)


def _never_empty(keep: Tensor) -> Tensor:
    """b n: the first token of what has none, so that attention has something to look at."""
    kept = keep.clone()
    kept[:, 0] |= ~keep.any(dim=1)
    return kept
