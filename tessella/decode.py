"""Decode: greedy and beam search over any step function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor

from tessella.errors import InputError
from tessella.repeats import unrepeated
from tessella.spec import Spec, spec
from tessella.state import State

Step = Callable[[Tensor, State], tuple[Tensor, State]]
"""(ids r 1, state of r rows) -> (logits r v of the next word, state). What is behind it is nobody's business here; the
logits are the search's to change."""

Penalty = Callable[[int], float]
"""Length in tokens, end of sentence included -> what the log-probability is divided by."""


HEIGHT = 128
"""Scores in a column, where the largest of a vocabulary are looked for by columns."""
ROWS = 16
"""Rows of scores that a processor normalises at a time."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One answer: ids without start and end, log-probability (nats), and score (log-probability over penalty)."""

    ids: list[int]
    logprob: float
    score: float
    ended: bool
    """False where the length limit cut it off."""


@spec("decoding")
class Decoding(Spec):
    """How answers are searched. The longest answer has ratio * source tokens + extra tokens."""

    beam: int = 5
    nbest: int = 1
    alpha: float = 0.6
    penalty: Literal["gnmt", "power"] = "gnmt"
    """gnmt: ((5 + length) / 6)^alpha (Wu et al. 2016, eq. 14); power: length^alpha."""
    ratio: float = 1.0
    extra: int = 50
    no_repeat: int = Field(0, ge=0)
    """Ids in a row that no answer may have twice (Paulus et al. 2018); 0 for no such rule."""

    @model_validator(mode="after")
    def _sensible(self):
        if self.beam < 1 or not 1 <= self.nbest <= self.beam:
            raise InputError(f"nbest must lie in 1..beam, got nbest {self.nbest} and beam {self.beam}")
        if self.alpha < 0:
            raise InputError(f"alpha must not be negative, got {self.alpha}")
        return self

    def divisor(self, length: int) -> float:
        """The penalty of this length."""
        return ((5 + length) / 6) ** self.alpha if self.penalty == "gnmt" else length**self.alpha

    def limits(self, source_lengths: Tensor) -> Tensor:
        """long b: the most tokens each answer may have, its end included."""
        return (source_lengths * self.ratio).long() + self.extra


def search(
    step: Step, state: State, how: Decoding, *, start: int, end: int, limits: Tensor, forbid: Sequence[int] = ()
) -> list[list[Hypothesis]]:
    """The nbest answers for each sentence, best first. Beam 1 is greedy search."""
    if how.no_repeat:
        step = unrepeated(step, how.no_repeat)
    if how.beam == 1:
        found = greedy(step, state, start=start, end=end, limits=limits, forbid=forbid, penalty=how.divisor)
        return [[one] for one in found]
    return beam(step, state, how.beam, how.nbest, how.divisor, start=start, end=end, limits=limits, forbid=forbid)


@torch.inference_mode()
def greedy(
    step: Step,
    state: State,
    *,
    start: int,
    end: int,
    limits: Tensor,
    forbid: Sequence[int] = (),
    penalty: Penalty = lambda length: 1.0,
) -> list[Hypothesis]:
    """The likeliest next word, again and again; sentences that have ended leave the batch.

    limits: long b, the most tokens of each answer, its end included. forbid: ids never written.
    """
    sentences = torch.arange(len(limits), device=limits.device)
    logprob = torch.zeros(len(limits), device=limits.device)
    words = torch.empty(len(limits), 0, dtype=torch.long, device=limits.device)
    ids = torch.full((len(limits), 1), start, device=limits.device)
    found: list[Hypothesis] = [Hypothesis([], 0.0, 0.0, False)] * len(limits)
    length = 0
    while len(sentences):
        length += 1
        logits, state = step(ids, state)
        best, found_words = top(_forbidden(logits, forbid), 1)
        logprob, word = logprob + best[:, 0], found_words[:, 0]
        words = torch.cat([words, word[:, None]], dim=1)
        ended = word == end
        done = ended | (limits[sentences] <= length)
        if done.any():
            for i in done.nonzero()[:, 0].tolist():
                answer = _answer(words[i], float(logprob[i]), penalty(length), bool(ended[i]))
                found[int(sentences[i])] = answer
            stay = (~done).nonzero()[:, 0]
            sentences, logprob, words, word = sentences[stay], logprob[stay], words[stay], word[stay]
            state = state.select(stay, stay)
        ids = word[:, None]
    return found


@torch.inference_mode()
def beam(
    step: Step,
    state: State,
    width: int,
    nbest: int,
    penalty: Penalty,
    *,
    start: int,
    end: int,
    limits: Tensor,
    forbid: Sequence[int] = (),
) -> list[list[Hypothesis]]:
    """The likeliest sentences found by keeping `width` unfinished ones at each step (batched; sentences leave early).

    A hypothesis is finished by the end word while among the `width` best candidates. A sentence is done when its pool
    holds `width` finished ones, the worst of them at least as good as the best unfinished at its present length; or
    earlier, when no unfinished one could still enter the nbest, however long it grows.
    """
    pool = _Pool(width, limits, penalty)
    sentences = torch.arange(len(limits), device=limits.device)
    scores = torch.zeros(len(limits), 1, device=limits.device)
    words = torch.empty(len(limits), 1, 0, dtype=torch.long, device=limits.device)
    ids = torch.full((len(limits), 1), start, device=limits.device)
    length = 0
    while len(sentences):
        length += 1
        logits, state = step(ids, state)
        candidates, parents, tokens = _candidates(_forbidden(logits, forbid), scores, 2 * width)
        grown = torch.cat([_pick(words, parents), tokens.unsqueeze(-1)], dim=-1)
        last = limits[sentences] <= length
        ends = tokens == end
        finished = (ends | last[:, None]) & candidates.isfinite()
        finished[:, width:] = False
        if finished.any():
            pool.add(sentences, candidates.masked_fill(~finished, float("-inf")), grown, ends)
        scores, chosen = candidates.masked_fill(ends, float("-inf")).topk(min(width, candidates.shape[1]), dim=1)
        done = last | ~scores[:, 0].isfinite() | pool.settled(sentences, scores[:, 0], length, nbest)
        parents, words = parents.gather(1, chosen), _pick(grown, chosen)
        rows = parents + torch.arange(len(sentences), device=limits.device)[:, None] * (len(ids) // len(sentences))
        stay = (~done).nonzero()[:, 0]
        some_leave = len(stay) < len(sentences)
        if some_leave:
            sentences, scores, words, rows = sentences[stay], scores[stay], words[stay], rows[stay]
        state = state.select(rows.flatten(), stay if some_leave else None)
        ids = rearrange(words[..., -1], "b w -> (b w) 1")
    return pool.best(nbest)


class _Pool:
    """The `width` best finished hypotheses of every sentence."""

    def __init__(self, width: int, limits: Tensor, penalty: Penalty):
        b, longest = len(limits), int(limits.max()) if len(limits) else 0
        self.limits, self.penalty = limits, penalty
        self.scores = torch.full((b, width), float("-inf"), device=limits.device)
        self.logprobs = torch.full((b, width), float("-inf"), device=limits.device)
        self.lengths = torch.zeros(b, width, dtype=torch.long, device=limits.device)
        self.ended = torch.zeros(b, width, dtype=torch.bool, device=limits.device)
        self.words = torch.zeros(b, width, longest, dtype=torch.long, device=limits.device)
        self.ceilings = torch.tensor([penalty(n) for n in limits.tolist()], device=limits.device)

    def add(self, sentences: Tensor, logprobs: Tensor, words: Tensor, ended: Tensor) -> None:
        """Candidates b k (-inf: not finished) with words b k n join; the best stay."""
        n = words.shape[-1]
        wide = torch.zeros(*words.shape[:2], self.words.shape[-1], dtype=torch.long, device=words.device)
        wide[..., :n] = words
        scores = torch.cat([self.scores[sentences], logprobs / self.penalty(n)], dim=1)
        self.scores[sentences], order = scores.topk(self.scores.shape[1], dim=1)
        lengths = torch.full_like(words[..., 0], n)
        for name, new in [("logprobs", logprobs), ("lengths", lengths), ("ended", ended), ("words", wide)]:
            held: Tensor = getattr(self, name)
            held[sentences] = _pick(torch.cat([held[sentences], new], dim=1), order)

    def settled(self, sentences: Tensor, best_live: Tensor, length: int, nbest: int) -> Tensor:
        """bool b: nothing unfinished (best log-probability best_live) can change the answer any more."""
        scores = self.scores[sentences]
        full = scores[:, -1] >= best_live / self.penalty(length)
        return (full & scores[:, -1].isfinite()) | (scores[:, nbest - 1] >= best_live / self.ceilings[sentences])

    def best(self, nbest: int) -> list[list[Hypothesis]]:
        """The answers."""
        found = []
        for scores, logprobs, lengths, ended, words in zip(
            self.scores, self.logprobs, self.lengths, self.ended, self.words, strict=True
        ):
            kept = [i for i in range(nbest) if scores[i].isfinite()]
            found.append(
                [
                    Hypothesis(
                        words[i, : lengths[i] - int(ended[i])].tolist(),
                        float(logprobs[i]),
                        float(scores[i]),
                        bool(ended[i]),
                    )
                    for i in kept
                ]
            )
        return found


def top(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k likeliest words of each row of logits (r v): their log-probabilities in fp32, best first, and their ids."""
    best, words = _largest(logits, k)
    # A few rows at a time: what is computed in passing stays in the cache of a processor.
    blocks = [_normaliser(block) for block in (logits.split(ROWS) if logits.device.type == "cpu" else [logits])]
    return best.float() - torch.cat(blocks), words


def _largest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``x.topk(k)`` of rows r v, quickly.

    The k largest lie in the k columns whose largest are largest, so that only these are sorted. A column is every
    j-th element; the few that fill no column are sorted too.
    """
    wide = x.shape[1] // HEIGHT
    if wide < 4 * k:
        return x.topk(min(k, x.shape[1]), dim=1)
    even = wide * HEIGHT
    columns = rearrange(x[:, :even], "r (i j) -> r i j", j=wide)
    chosen = columns.amax(dim=1).topk(k, dim=1).indices
    ids = chosen[:, None] + wide * torch.arange(HEIGHT, device=x.device)[:, None]
    rest = torch.arange(even, x.shape[1], device=x.device).expand(len(x), -1)
    ids = torch.cat([ids.flatten(1), rest], dim=1)
    values, order = x.gather(1, ids).topk(k, dim=1)
    return values, ids.gather(1, order)


def _normaliser(logits: Tensor) -> Tensor:
    """log sum exp, r 1, in fp32; by powers of two, which are cheaper than those of e."""
    largest = logits.amax(dim=1, keepdim=True).float()
    powers = (logits - largest).mul_(math.log2(math.e)).exp2_()
    return largest + powers.sum(dim=1, keepdim=True).log_().float()


def _candidates(logits: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """logits b*w v, scores b w -> the k likeliest continuations of each sentence: log-probability, parent, word."""
    b, w = scores.shape
    logprobs, word = top(logits, k)
    totals = rearrange(logprobs, "(b w) k -> b w k", w=w) + scores.unsqueeze(-1)
    best, flat = totals.flatten(1).topk(min(k, totals[0].numel()), dim=1)
    words = rearrange(word, "(b w) k -> b (w k)", b=b).gather(1, flat)
    return best, flat // totals.shape[-1], words


def _forbidden(logits: Tensor, forbid: Sequence[int]) -> Tensor:
    """Forbidden words lose their probability to the others."""
    if forbid:
        logits[:, list(forbid)] = float("-inf")
    return logits


def _pick(held: Tensor, order: Tensor) -> Tensor:
    """held b k ..., order b j -> b j ..."""
    return held[torch.arange(len(order), device=order.device)[:, None], order]


def _answer(words: Tensor, logprob: float, divisor: float, ended: bool) -> Hypothesis:
    ids = words.tolist()
    return Hypothesis(ids[:-1] if ended else ids, logprob, logprob / divisor, ended)
