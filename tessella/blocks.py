"""Blocks: attention and feed-forward on a residual stream (post-norm, pre-norm)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from tessella.attention import Attention, projection
from tessella.dropout import Dropout, DropPath

STEEPNESS = 1.702


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), the approximation in OpenAI's CLIP and in CvT."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(STEEPNESS * x) / STEEPNESS  # the same, in kernels that keep and read less


Activation = Literal["relu", "gelu", "gelu-tanh", "quick-gelu", "silu"]
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "gelu-tanh": lambda: nn.GELU(approximate="tanh"),
    "quick-gelu": QuickGELU,
    "silu": nn.SiLU,
}


class FeedForward(nn.Module):
    """W_2 act(W_1 x + b_1) + b_2, the same at every position (Vaswani et al. 2017, eq. 2). b n d -> b n d."""

    def __init__(self, dim: int, hidden: int, activation: str = "relu"):
        super().__init__()
        self.rise = projection(dim, hidden, gain=1.0)
        self.act = ACTIVATIONS[activation]()
        self.fall = projection(hidden, dim, gain=1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.fall(self.act(self.rise(x)))


class PostNorm(nn.Module):
    """LayerNorm(x + Dropout(sublayer(x))): the residual of the paper (Vaswani et al. 2017, sec. 3.1 and 5.4).

    path: how often a sample skips the sublayer (stochastic depth).
    """

    def __init__(self, dim: int, dropout: float = 0.0, eps: float = 1e-5, path: float = 0.0):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps)
        self.drop = Dropout(dropout)
        self.path = DropPath(path)

    def reads(self, x: Tensor) -> Tensor:
        """What the sublayer is given of x."""
        return x

    def adds(self, x: Tensor, given: Tensor) -> Tensor:
        """What becomes of x and of what the sublayer gave."""
        return self.norm(self.drop.add(x, self.path(given)))

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        return self.adds(x, sublayer(self.reads(x)))


class PreNorm(PostNorm):
    """x + Dropout(sublayer(LayerNorm(x))), for deeper stacks (Xiong et al. 2020); these end with a LayerNorm."""

    def reads(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def adds(self, x: Tensor, given: Tensor) -> Tensor:
        return self.drop.add(x, self.path(given))


RESIDUALS: dict[str, type[PostNorm]] = {
    "post": PostNorm,
    "post+final": PostNorm,
    "pre": PreNorm,
    "pre+open": PreNorm,
}


class Block(nn.Module):
    """A layer of the Transformer (Vaswani et al. 2017, figure 1); with `cross`, a layer of its decoder.

    x -> [self-attention] -> [attention to the memory] -> [feed-forward] ->
         each inside its own residual, given as a part
    """

    def __init__(
        self, attn: nn.Module, mlp: nn.Module, residual: Callable[[], nn.Module], cross: Attention | None = None
    ):
        super().__init__()
        self.attn, self.attn_residual = attn, residual()
        self.cross, self.cross_residual = cross, residual() if cross is not None else None
        self.mlp, self.mlp_residual = mlp, residual()

    def forward(
        self, x: Tensor, look: Callable[[Tensor], Tensor], look_across: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """look and look_across are `attn` and `cross` with this call's masks and caches bound to them."""
        x = self.attn_residual(x, look)
        if self.cross_residual is not None:
            assert look_across is not None
            x = self.cross_residual(x, look_across)
        return self.mlp_residual(x, self.mlp)
