"""Fuse evidence: what of a row of mixed data its answer rests on, and which stream looked at which."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tessella.attention import watch
from tessella.errors import InputError
from tessella.fusion import SchemeTrunk
from tessella.stems.streams import THERE, kept
from tessella.tokens import Tokens
from tessella.verbs import Bottleneck, Concat, Cross, Each, Split, Sum

BETWEEN, SUM = "between", "sum"
"""What the tokens of a bottleneck are called, and those of streams that were added to each other."""
ONE = "the streams' sum"
CALL = re.compile(r"^(?:trunks|stacks)\.(\d+)\.(?:blocks\.)?(\d+)\.attn\.attend$")
"""Which trunk or stack of a verb, and which of its blocks, in the name of an attention."""
AT_ONCE = 32
Score = Callable[[Tensor], Tensor]
"""Logits b k -> b: how much an answer is favoured."""
Places = dict[str, Tensor]
"""Stream -> the numbers of its tokens that are kept, long n."""


@dataclass(frozen=True)
class Glance:
    """One block of a scheme while it read one row, in all streams at once."""

    name: str
    weights: Tensor
    """h n n: where each token looks, in each head; 0 in rows of tokens that are not kept."""
    places: Places

    @property
    def names(self) -> list[str]:
        """Whose tokens there are."""
        return list(self.places)

    def between(self, head: int | None = None) -> Tensor:
        """s s: the share of its attention that a token of one stream (a row) spends on all of another's (a column).

        The mean over the tokens of the row, and over heads unless one is named.
        """
        weights = self.weights.mean(dim=0) if head is None else self.weights[head]
        return torch.stack([
            torch.stack([weights[rows][:, columns].sum(dim=1).mean() for columns in self.places.values()])
            for rows in self.places.values()
        ])  # fmt: skip

    def seen(self, stream: str) -> Tensor:
        """n, as many as the stream has kept tokens: how much each is looked at by tokens of the other streams.

        The mean over those; where none of another stream looks, over the stream's own.
        """
        weights, columns = self.weights.mean(dim=0), self.places[stream]
        others = [rows for name, rows in self.places.items() if name != stream]
        found = weights[torch.cat(others)][:, columns] if others else weights[:0, columns]
        looking = found[found.sum(dim=1) > 0]
        return (looking if len(looking) else weights[columns][:, columns]).mean(dim=0)

    @property
    def mixes(self) -> bool:
        """Whether any stream looks at another."""
        mass = self.between()
        return bool((mass - mass.diag().diag()).sum() > 0)


@dataclass(frozen=True)
class Evidence:
    """What was looked at in one row, and what its answer rests on."""

    tokens: Tokens
    """What the stem made of the row, 1 n d."""
    logits: Tensor
    """k, of the whole row."""
    rests: dict[str, Tensor]
    """Stream -> a number for each of its tokens: what the score loses without it; 0 where there is none."""
    without: dict[str, Tensor]
    """Stream -> logits k of the row without it; of streams that the row has."""
    glances: list[Glance]
    """Block by block, from first to last."""


@torch.inference_mode()
def gather(model: Any, source: Mapping[str, Tensor], score: Callable[[Tensor], Score]) -> Evidence:
    """Reads one row (each tensor of `source` has a first dimension of 1), watches, and reads it again without parts.

    A token is taken away as padding is: nobody looks at it (Zeiler and Fergus 2014, sec. 4.2, hide parts of an image;
    a token that is not there needs nothing in its place). This asks what the answer rests on in every scheme alike,
    which attention does not say: what is looked at need not have a say. score: the row's logits k -> what is scored.
    """
    if not isinstance(model.trunk, SchemeTrunk):
        raise InputError("only a model that fuses streams by a scheme can be asked what its streams looked at")
    tokens: Tokens = model.stem(source)
    with watch(model) as maps:
        features = model.trunk(tokens)
    logits = model.head(features)[0].float()
    rests = _rests(model, tokens, score(logits))
    there = [name for name, a, _ in tokens.spans if bool((source.get(name + THERE, torch.ones(1)) != 0).all())]
    there = [name for name in there if name in source]
    without = {
        name: model({**source, name + THERE: torch.zeros(1, dtype=torch.bool, device=tokens.x.device)})[0].float().cpu()
        for name in (there if len(there) > 1 else ())
    }
    glances = list(_glances(model.trunk, {n: m.float().cpu() for n, m in maps.items()}, tokens, features))
    split = {name: rests[a:b] for name, a, b in tokens.spans}
    return Evidence(tokens, logits.cpu(), split, without, glances)


def _rests(model: Any, tokens: Tokens, score: Score) -> Tensor:
    """n: what the score of the answer loses without each token, each by itself."""
    keep = kept(tokens)[0]
    numbers = keep.nonzero()[:, 0]
    lost, whole = torch.zeros(len(keep)), score(model.head(model.trunk(tokens)).float())
    for some in numbers.split(AT_ONCE):
        found = score(model.head(model.trunk(_without(model, tokens, some))).float())
        lost[some.cpu()] = (whole - found).cpu()
    return lost


def _without(model: Any, tokens: Tokens, numbers: Tensor) -> Tokens:
    """As many rows as numbers, each without one token; a stream without any token is an absent one.

    Where streams are added to each other, a token that is nothing adds nothing, and all others stay where they are.
    """
    rows = torch.arange(len(numbers), device=numbers.device)
    x, keep = tokens.x.repeat(len(rows), 1, 1), kept(tokens).repeat(len(rows), 1)
    x[rows, numbers] = 0
    if type(model.trunk.verbs[0]) is not Sum:
        keep[rows, numbers] = False
    for i, (_, a, b) in enumerate(tokens.spans):
        empty = ~keep[:, a:b].any(dim=1)
        x[empty, a] = model.stem.absent[i].to(x.dtype)
        keep[empty, a] = True
    return tokens.replace(x=x, keep=keep)


def _glances(trunk: SchemeTrunk, maps: Mapping[str, Tensor], tokens: Tokens, features: Tokens) -> Sequence[Glance]:
    """Every block that attends, in order."""
    keep = kept(tokens)[0].cpu()
    places = {name: a + keep[a:b].nonzero()[:, 0] for name, a, b in tokens.spans}
    spans = {name: torch.arange(a, b) for name, a, b in tokens.spans}
    together, made = False, []
    for number, verb in enumerate(trunk.verbs):
        if type(verb) is Sum:
            places = {SUM: kept(features)[0].cpu().nonzero()[:, 0]}
            spans = {SUM: torch.arange(features.x.shape[1])}
        together = {Concat: True, Sum: True, Split: False}.get(type(verb), together)
        if type(verb) not in VERBS:
            continue
        for block, calls in _calls(maps, f"trunk.verbs.{number}.").items():
            what, size = VERBS[type(verb)](list(spans.values()), together, calls)
            all_places, n = dict(places), sum(len(span) for span in spans.values())
            if size:
                all_places[BETWEEN] = torch.arange(n, n + size)
            joint = _joint(n + size, what)
            real = torch.zeros(n + size, dtype=torch.bool).index_fill(0, torch.cat(list(all_places.values())), True)
            told = _told(verb, together, len(spans))
            made.append(Glance(f"{told}, block {block + 1}", joint * real[:, None], all_places))
    return made


Call = tuple[Tensor, Tensor, Tensor]
"""Weights h n m, and the places of its queries and keys."""


def _calls(maps: Mapping[str, Tensor], prefix: str) -> dict[int, dict[int, Tensor]]:
    """Block -> which of the trunks or stacks -> weights h n m of the first row."""
    found: dict[int, dict[int, Tensor]] = {}
    for name, weights in maps.items():
        if name.startswith(prefix) and (call := CALL.match(name.removeprefix(prefix))):
            found.setdefault(int(call[2]), {})[int(call[1])] = weights[0]
    return dict(sorted(found.items()))


def _of_each(spans: list[Tensor], together: bool, calls: dict[int, Tensor]) -> tuple[list[Call], int]:
    if together:
        return [(calls[0], torch.cat(spans), torch.cat(spans))], 0
    return [(weights, spans[i], spans[i]) for i, weights in calls.items()], 0


def _of_cross(spans: list[Tensor], together: bool, calls: dict[int, Tensor]) -> tuple[list[Call], int]:
    others = [torch.cat([span for j, span in enumerate(spans) if j != i]) for i in range(len(spans))]
    return [(weights, spans[i], others[i]) for i, weights in calls.items()], 0


def _of_bottleneck(spans: list[Tensor], together: bool, calls: dict[int, Tensor]) -> tuple[list[Call], int]:
    n, size = sum(len(span) for span in spans), calls[0].shape[-1] - len(spans[0])
    both = [torch.cat([span, torch.arange(n, n + size)]) for span in spans]
    return [(weights, both[i], both[i]) for i, weights in calls.items()], size


VERBS: dict[type[nn.Module], Callable[[list[Tensor], bool, dict[int, Tensor]], tuple[list[Call], int]]] = {
    Each: _of_each,
    Cross: _of_cross,
    Bottleneck: _of_bottleneck,
}
"""Verb -> who looks at whom in a block of it, and how many tokens there are beside those of the streams."""


def _joint(n: int, calls: Sequence[Call]) -> Tensor:
    """h n n of all calls; of tokens that several ask with (those between), the mean."""
    made, asked = torch.zeros(len(calls[0][0]), n, n), torch.zeros(n)
    for weights, rows, columns in calls:
        made[:, rows[:, None], columns] += weights
        asked[rows] += 1
    return made / asked.clamp(min=1)[:, None]


def _told(verb: nn.Module, together: bool, streams: int) -> str:
    if type(verb) is Each:
        return ONE if together and streams == 1 else "all together" if together else "each stream alone"
    return "each looks at the others" if type(verb) is Cross else "through the tokens between"
