"""Plain: the Transformer's stacks, encoders and a causal decoder, of one kind of block."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from tessella.attention import Attention, append, causal_mask, key_mask
from tessella.blocks import RESIDUALS, Activation, Block, FeedForward
from tessella.errors import InputError
from tessella.spec import Spec, spec
from tessella.state import State
from tessella.tokens import Tokens


class Trunk(Spec):
    """Role: builds a module Tokens -> Tokens, from width `dim` to width `width`."""

    dim: int

    @property
    def width(self) -> int:
        """Width of what comes out."""
        return self.dim

    def build(self) -> nn.Module:
        """The module."""
        raise NotImplementedError


def rates(last: float, depth: int) -> list[float]:
    """Stochastic depth's rate of each of `depth` blocks: linear from 0 to `last` (Huang et al. 2016, eq. 4)."""
    return [last * i / max(depth - 1, 1) for i in range(depth)]


def scaled(block: Any, width: int, depth: int) -> Any:
    """A block with normal weights, whose branches add up to the same size in a stack of any depth.

    Standard deviations are 1/sqrt(width), before the activation 1/sqrt(2 width), and of what is added to the residual
    1/sqrt(2 depth width) (Radford et al. 2019, sec. 2.3; the code of Radford et al. 2021).
    """
    attentions = [attn for attn in (block.attn, block.cross) if attn is not None]
    for linear in (part for attn in attentions for part in (attn.q, attn.k, attn.v)):
        nn.init.normal_(linear.weight, 0, width**-0.5)
    nn.init.normal_(block.mlp.rise.weight, 0, (2 * width) ** -0.5)
    for linear in (*(attn.out for attn in attentions), block.mlp.fall):
        nn.init.normal_(linear.weight, 0, (2 * depth * width) ** -0.5)
    return block


class Stack(Trunk):
    """What encoder and decoder stacks share (Vaswani et al. 2017, table 3).

    norm: "post" as in the paper; "post+final" adds a LayerNorm after the last block, as torch.nn.Transformer does;
    "pre" normalises inside the residual and after the last block; "pre+open" leaves the latter out, so that how long
    a token's vector is still tells something.
    initial: weights as the parts draw them ("xavier"), or smaller the more of them add up ("scaled").
    """

    dim: int = 512
    depth: int = 6
    heads: int = 8
    hidden: int = 2048
    dropout: float = 0.1
    activation: Activation = "relu"
    norm: Literal["post", "post+final", "pre", "pre+open"] = "post"
    eps: float = 1e-5
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Stochastic depth: how often a sample skips a branch of the last block; less before, and never in the first."""
    initial: Literal["xavier", "scaled"] = "xavier"

    @model_validator(mode="after")
    def _heads_divide(self):
        if self.dim % self.heads:
            raise InputError(f"dim {self.dim} is not divisible by heads {self.heads}")
        return self

    def block(self, number: int, memory: int | None = None) -> Block:
        """Block `number` (from 0); memory is the width of what it cross-attends to, None for no cross-attention."""
        path = rates(self.drop_path, self.depth)[number]
        block = Block(
            Attention(self.dim, self.heads),
            FeedForward(self.dim, self.hidden, self.activation),
            partial(RESIDUALS[self.norm], self.dim, self.dropout, self.eps, path),
            cross=None if memory is None else Attention(self.dim, self.heads, context_dim=memory),
        )
        return block if self.initial == "xavier" else scaled(block, self.dim, self.depth)

    def final_norm(self) -> nn.Module:
        """What follows the last block."""
        bare = self.norm in ("post", "pre+open")
        return nn.Identity() if bare else nn.LayerNorm(self.dim, self.eps)


@spec("plain")
class Plain(Stack):
    """Encoder: every token looks at every kept token."""

    def build(self) -> PlainEncoder:
        return PlainEncoder(self)


@spec("causal")
class Causal(Stack):
    """Encoder of texts that are read once, from left to right: every token looks at itself and earlier ones.

    Padding may only stand at the end. For reading on, word by word, there is `plain-decoder`.
    """

    def build(self) -> CausalEncoder:
        return CausalEncoder(self)


@spec("plain-decoder")
class PlainDecoder(Stack):
    """Decoder: every token looks at itself and earlier ones and, unless memory is None, at the encoder's tokens.

    memory: the width of the encoder's tokens.
    """

    memory: int | None = None

    def build(self) -> PlainDecoderTrunk:
        return PlainDecoderTrunk(self)


class PlainEncoder(nn.Module):
    """Tokens b n d -> Tokens b n d."""

    def __init__(self, s: Stack):
        super().__init__()
        self.blocks = nn.ModuleList(s.block(i) for i in range(s.depth))
        self.norm = s.final_norm()

    def mask(self, tokens: Tokens) -> Tensor | None:
        """Who may look at whom, #b 1 #n m; None where all may."""
        return key_mask(tokens.keep)

    def forward(self, tokens: Tokens) -> Tokens:
        x, mask = tokens.x, self.mask(tokens)
        for block in self.blocks:
            x = block(x, partial(block.attn, mask=mask))
        return tokens.replace(x=self.norm(x))


class CausalEncoder(PlainEncoder):
    """Tokens b n d -> Tokens b n d; token t depends on tokens 0 .. t."""

    def mask(self, tokens: Tokens) -> Tensor:
        n = tokens.x.shape[1]
        return causal_mask(n, n, tokens.x.device)


class PlainDecoderTrunk(nn.Module):
    """Tokens b n d and the State so far -> Tokens b n d and the State after them.

    Reading a sentence at once or token by token are the same call: earlier keys and values come from the state.
    Padding may only stand at the end (later tokens are never looked at, so it needs no mask).
    """

    def __init__(self, s: PlainDecoder):
        super().__init__()
        self.crosses = s.memory is not None
        self.blocks = nn.ModuleList(s.block(i, s.memory) for i in range(s.depth))
        self.norm = s.final_norm()

    def begin(self, memory: Tokens | None) -> State:
        """The state before the first token. Keys and values of the memory are projected here, once."""
        if memory is None:
            return State()
        held: dict[str, Tensor] = {} if memory.keep is None else {"keep": memory.keep}
        for i, block in enumerate(self.blocks):
            if block.cross is not None:
                held[f"{i}.k"], held[f"{i}.v"] = block.cross.keys_values(memory.x)
        return State(memory=held)

    def forward(self, tokens: Tokens, state: State) -> tuple[Tokens, State]:
        x, n = tokens.x, tokens.x.shape[1]
        past = dict(state.past)
        mask = None if n == 1 else causal_mask(n, state.length + n, x.device)
        memory_mask = key_mask(state.memory.get("keep"))
        for i, block in enumerate(self.blocks):

            def look(x: Tensor, attn: Attention = block.attn, name: str = f"{i}") -> Tensor:
                return attn(x, append(past, name, *attn.keys_values(x)), mask)

            across = None
            if self.crosses:
                across = partial(
                    block.cross, keys_values=(state.memory[f"{i}.k"], state.memory[f"{i}.v"]), mask=memory_mask
                )
            x = block(x, look, across)
        return tokens.replace(x=self.norm(x)), state.after(past, n)
