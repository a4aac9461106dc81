"""Tokens: the one value every part takes and gives."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tokens:
    """A batch of token sequences on their way through a model.

    Letters, the same in the whole library: b batch, n tokens, m memory (keys), d width, h heads, v vocabulary,
    r c rows and columns of a raster, w window or hypotheses (beams).
    """

    x: Tensor
    """b n d, the features."""
    keep: Tensor | None = None
    """b n, True where a token is real; None where all are."""
    grid: tuple[int, int] | None = None
    """(rows, cols): the last rows * cols tokens are a raster, row by row."""
    spans: tuple[tuple[str, int, int], ...] = ()
    """(stream, start, stop): which stream gave which run of tokens."""

    def replace(self, **changes) -> Tokens:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)
