"""Recurrent: LSTM and GRU, an encoder and a decoder, the decoder with or without attention."""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from tessella.attention import Additive, Attend, Attention, Dot, key_mask
from tessella.dropout import Dropout
from tessella.spec import spec
from tessella.state import State
from tessella.tokens import Tokens
from tessella.trunks.plain import Trunk


@spec("recurrent")
class Recurrent(Trunk):
    """Encoder that reads in order, in one or both directions; `hidden` units each way.

    gather: "all" gives a token a word; "last" gives one token a sentence, the states after the last word read: the
    fixed context vector of Sutskever et al. 2014 and Cho et al. 2014.
    """

    dim: int = 256
    hidden: int = 256
    depth: int = 1
    cell: Literal["gru", "lstm"] = "gru"
    directions: Literal[1, 2] = 2
    gather: Literal["all", "last"] = "all"
    dropout: float = 0.1

    @property
    def width(self) -> int:
        return self.hidden * self.directions

    def build(self) -> RecurrentEncoder:
        return RecurrentEncoder(self)


@spec("recurrent-decoder")
class RecurrentDecoder(Trunk):
    """Decoder that writes in order.

    memory: the width of the encoder's tokens. attention: "additive" looks with the state before the word (Bahdanau
    et al. 2015); "dot" and "general" look with the state after it and feed what was seen into the next step (Luong et
    al. 2015, sec. 3.1 and 3.3); "none" has the encoder's single token at every step (Cho et al. 2014).
    """

    dim: int = 256
    hidden: int = 512
    depth: int = 1
    cell: Literal["gru", "lstm"] = "gru"
    memory: int = 512
    attention: Literal["none", "additive", "dot", "general"] = "additive"
    dropout: float = 0.1

    def build(self) -> RecurrentDecoderTrunk:
        return RecurrentDecoderTrunk(self)


def gru(x: Tensor, rest: Tensor, hidden: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One GRU update (Cho et al. 2014, eq. 5-8); x and rest are what input and state give to the three gates."""
    (h,) = hidden
    x_r, x_z, x_n = x.chunk(3, dim=-1)
    h_r, h_z, h_n = rest.chunk(3, dim=-1)
    update = torch.sigmoid(x_z + h_z)
    fresh = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
    return (fresh + update * (h - fresh),)


def lstm(x: Tensor, rest: Tensor, hidden: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One LSTM update (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000); hidden is (h, c)."""
    i, f, o, g = (x + rest).chunk(4, dim=-1)
    c = torch.sigmoid(f) * hidden[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


CELLS = {"gru": (gru, 3, 1), "lstm": (lstm, 4, 2)}
"""cell -> (update, number of gates, number of state vectors)."""


class Cell(nn.Module):
    """A recurrent cell for r parallel directions: weights r x in x gates*hidden and r x hidden x gates*hidden."""

    def __init__(self, cell: str, width_in: int, hidden: int, directions: int = 1):
        super().__init__()
        self.update, gates, self.states = CELLS[cell]
        self.hidden = hidden
        self.into = nn.Parameter(torch.empty(directions, width_in, gates * hidden).uniform_(-1, 1) * hidden**-0.5)
        self.back = nn.Parameter(torch.empty(directions, hidden, gates * hidden).uniform_(-1, 1) * hidden**-0.5)
        self.bias = nn.Parameter(torch.zeros(directions, 1, gates * hidden))
        self.back_bias = nn.Parameter(torch.zeros(directions, 1, gates * hidden))

    def gates(self, x: Tensor) -> Tensor:
        """r b in -> r b gates*hidden: what the input gives to the gates, for all steps in one product."""
        return torch.bmm(x, self.into.to(x.dtype)) + self.bias

    def forward(self, gates: Tensor, hidden: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """One step, all directions: r b gates*hidden and the states r b hidden -> the next states."""
        rest = torch.bmm(hidden[0], self.back.to(hidden[0].dtype)) + self.back_bias
        return self.update(gates, rest, hidden)


class RecurrentLayer(nn.Module):
    """b n in -> b n (r hidden) and the last states b (r hidden). Padding holds the state and so is invisible."""

    def __init__(self, cell: str, width_in: int, hidden: int, directions: int):
        super().__init__()
        self.directions = directions
        self.cell = Cell(cell, width_in, hidden, directions)

    def forward(self, x: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        b, n, _ = x.shape
        both = torch.stack([x, x.flip(1)][: self.directions])
        keeps = torch.stack([keep, keep.flip(1)][: self.directions]).unsqueeze(-1)
        gates = rearrange(self.cell.gates(rearrange(both, "r b n d -> r (b n) d")), "r (b n) g -> n r b g", b=b)
        hidden = tuple(gates.new_zeros(self.directions, b, self.cell.hidden) for _ in range(self.cell.states))
        seen = []
        for t in range(n):
            fresh = self.cell(gates[t], hidden)
            hidden = tuple(torch.where(keeps[:, :, t], new, old) for new, old in zip(fresh, hidden, strict=True))
            seen.append(hidden[0])
        out = torch.stack(seen, dim=2)
        out = torch.cat([out[0], *(o.flip(1) for o in out[1:])], dim=-1)
        return out, rearrange(hidden[0], "r b d -> b (r d)")


class RecurrentEncoder(nn.Module):
    """Tokens b n d -> Tokens b n (directions hidden), or b 1 (directions hidden) with gather="last"."""

    def __init__(self, s: Recurrent):
        super().__init__()
        widths = [s.dim] + [s.width] * (s.depth - 1)
        self.layers = nn.ModuleList(RecurrentLayer(s.cell, width, s.hidden, s.directions) for width in widths)
        self.drop = Dropout(s.dropout)
        self.gather = {"all": all_states, "last": last_states}[s.gather]

    def forward(self, tokens: Tokens) -> Tokens:
        x = tokens.x
        keep = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if tokens.keep is None else tokens.keep
        last = x
        for i, layer in enumerate(self.layers):
            x, last = layer(x if i == 0 else self.drop(x), keep)
        return self.gather(tokens, x, last)


def all_states(tokens: Tokens, x: Tensor, last: Tensor) -> Tokens:
    """A token a word."""
    return tokens.replace(x=x)


def last_states(tokens: Tokens, x: Tensor, last: Tensor) -> Tokens:
    """One token a sentence: the fixed context vector."""
    return Tokens(rearrange(last, "b d -> b 1 d"))


class RecurrentDecoderTrunk(nn.Module):
    """Tokens b n d and the State so far -> Tokens b n d and the State after them, one word at a time."""

    def __init__(self, s: RecurrentDecoder):
        super().__init__()
        self.look, context = {
            "none": lambda: (None, s.memory),
            "additive": lambda: (
                LookBefore(s, Additive(s.hidden), nn.Linear(s.memory, s.hidden, bias=False)),
                s.memory,
            ),
            "dot": lambda: (LookAfter(s, Dot(scale=1.0), nn.Identity()), s.hidden),
            "general": lambda: (LookAfter(s, Dot(scale=1.0), nn.Linear(s.memory, s.hidden, bias=False)), s.hidden),
        }[s.attention]()
        self.look = self.look or LookNowhere()
        cells = [Cell(s.cell, s.dim + context, s.hidden)]
        cells += [Cell(s.cell, s.hidden, s.hidden) for _ in range(s.depth - 1)]
        self.cells = nn.ModuleList(cells)
        self.first = nn.Linear(s.memory, s.hidden * s.depth)
        self.drop = Dropout(s.dropout)
        self.readout = nn.Sequential(nn.Linear(s.hidden + context + s.dim, s.dim), nn.Tanh(), Dropout(s.dropout))

    def begin(self, memory: Tokens) -> State:
        """The state before the first word: tanh(W mean of the memory) in every layer."""
        mean = memory.x.mean(1) if memory.keep is None else _kept_mean(memory.x, memory.keep)
        first = torch.tanh(self.first(mean))
        past = {}
        for i, (cell, h) in enumerate(zip(self.cells, first.chunk(len(self.cells), dim=-1), strict=True)):
            past |= {f"{i}.{j}": h if j == 0 else torch.zeros_like(h) for j in range(cell.states)}
        return State(*self.look.begin(memory, past))

    def forward(self, tokens: Tokens, state: State) -> tuple[Tokens, State]:
        past, outs = dict(state.past), []
        for word in tokens.x.unbind(dim=1):
            context = self.look.before(past, state.memory)
            x = torch.cat([word, context], dim=-1)
            for i, cell in enumerate(self.cells):
                hidden = tuple(past[f"{i}.{j}"][None] for j in range(cell.states))
                fresh = cell(cell.gates((x if i == 0 else self.drop(x))[None]), hidden)
                past |= {f"{i}.{j}": value[0] for j, value in enumerate(fresh)}
                x = fresh[0][0]
            outs.append(torch.cat([x, self.look.after(x, context, past, state.memory), word], dim=-1))
        x = self.readout(torch.stack(outs, dim=1))
        return tokens.replace(x=x), state.after(past, tokens.x.shape[1])


class LookNowhere(nn.Module):
    """No attention: the memory's single token is the context of every step."""

    def begin(self, memory: Tokens, past: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What State.memory and State.past hold at first."""
        if memory.x.shape[1] != 1:
            raise ValueError(
                f"a decoder without attention needs one token a sentence, got {memory.x.shape[1]}; "
                'give the encoder gather="last", or the decoder an attention'
            )
        return {"context": memory.x[:, 0]}, past

    def before(self, past: dict[str, Tensor], memory: dict[str, Tensor]) -> Tensor:
        """The context that enters the step: b*w memory."""
        context = memory["context"]
        return context.repeat_interleave(len(past["0.0"]) // len(context), dim=0)

    def after(self, h: Tensor, context: Tensor, past: dict[str, Tensor], memory: dict[str, Tensor]) -> Tensor:
        """The context that goes with the step's output."""
        return context


class LookBefore(nn.Module):
    """Bahdanau et al. 2015, eq. 5 and 6: the state before the word looks; what it sees enters the step."""

    def __init__(self, s: RecurrentDecoder, attend: Attend, key: nn.Module):
        super().__init__()
        query = nn.Identity() if isinstance(key, nn.Identity) else nn.Linear(s.hidden, s.hidden)
        self.attn = Attention(s.hidden, 1, attend=attend, q=query, k=key, v=nn.Identity(), out=nn.Identity())
        self.top = f"{s.depth - 1}.0"

    def begin(self, memory: Tokens, past: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        k, v = self.attn.keys_values(memory.x)
        held = {"k": k, "v": v}
        return held if memory.keep is None else {**held, "keep": memory.keep}, past

    def glance(self, h: Tensor, memory: dict[str, Tensor]) -> Tensor:
        """b*w hidden -> b*w memory."""
        return self.attn(h[:, None], (memory["k"], memory["v"]), key_mask(memory.get("keep")))[:, 0]

    def before(self, past: dict[str, Tensor], memory: dict[str, Tensor]) -> Tensor:
        return self.glance(past[self.top], memory)

    def after(self, h: Tensor, context: Tensor, past: dict[str, Tensor], memory: dict[str, Tensor]) -> Tensor:
        return context


class LookAfter(LookBefore):
    """Luong et al. 2015, eq. 5: the state after the word looks; tanh(W_c [c; h]) is read out and fed on."""

    def __init__(self, s: RecurrentDecoder, attend: Attend, key: nn.Module):
        super().__init__(s, attend, key)
        self.attn.q = nn.Identity()
        self.combine = nn.Linear(s.memory + s.hidden, s.hidden, bias=False)

    def begin(self, memory: Tokens, past: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        held, past = super().begin(memory, past)
        return held, {**past, "fed": torch.zeros_like(past[self.top])}

    def before(self, past: dict[str, Tensor], memory: dict[str, Tensor]) -> Tensor:
        return past["fed"]

    def after(self, h: Tensor, context: Tensor, past: dict[str, Tensor], memory: dict[str, Tensor]) -> Tensor:
        past["fed"] = torch.tanh(self.combine(torch.cat([self.glance(h, memory), h], dim=-1)))
        return past["fed"]


def _kept_mean(x: Tensor, keep: Tensor) -> Tensor:
    real = keep.unsqueeze(-1)
    return (x * real).sum(1) / real.sum(1)
