"""VGG head: two hidden layers that read a whole raster, and a score for every class."""

from __future__ import annotations

from einops import rearrange
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from tessella.dropout import Dropout
from tessella.heads import Head, class_scores, raster
from tessella.spec import spec
from tessella.tokens import Tokens


@spec("vgg-classes")
class VGGClasses(Head):
    """VGG's classifier: two hidden layers on a whole raster (Simonyan and Zisserman 2015, table 1).

    grid: rows and columns that it reads; a raster of another size is averaged into these.
    """

    dim: int
    classes: int = Field(1000, ge=0)
    grid: tuple[int, int] = (7, 7)
    hidden: int = Field(4096, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)

    def build(self) -> VGGClassesHead:
        return VGGClassesHead(self)


class VGGClassesHead(nn.Module):
    """Tokens -> logits b k."""

    def __init__(self, s: VGGClasses):
        super().__init__()
        self.grid = s.grid
        self.first = hidden_layer(s.dim * s.grid[0] * s.grid[1], s.hidden)
        self.second = hidden_layer(s.hidden, s.hidden)
        self.drop = Dropout(s.dropout)
        self.scores = class_scores(s.hidden, s.classes)

    def forward(self, tokens: Tokens) -> Tensor:
        assert tokens.grid is not None
        x = rearrange(raster(tokens), "b (r c) d -> b d r c", r=tokens.grid[0])
        x = rearrange(F.adaptive_avg_pool2d(x, self.grid), "b d r c -> b (d r c)")
        for layer in (self.first, self.second):
            x = self.drop(F.relu(layer(x)))
        return self.scores(x)

    def each(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """What learns from the labels and what learns from a teacher: here, the same."""
        logits = self(tokens)
        return logits, logits


def hidden_layer(dim: int, hidden: int) -> nn.Linear:
    """A linear layer before a ReLU (weights: He et al. 2015, eq. 10)."""
    linear = nn.Linear(dim, hidden)
    nn.init.normal_(linear.weight, 0, (2 / dim) ** 0.5)
    nn.init.zeros_(linear.bias)
    return linear
