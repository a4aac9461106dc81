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
AT_ONCE = 64
READS, ORDERS = 1500, 32
"""Times a row is read to share out its score, about; and orders of its parts beyond which more say nothing new."""
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
    shares: dict[str, Tensor]
    """Stream -> what each of its tokens adds to the score; 0 where there is none. See `gather`."""
    orders: int
    """In how many orders parts were added."""
    without: dict[str, Tensor]
    """Stream -> logits k of the row without it; of streams that the row has."""
    glances: list[Glance]
    """Block by block, from first to last."""


@torch.inference_mode()
def gather(
    model: Any,
    source: Mapping[str, Tensor],
    score: Callable[[Tensor], Score],
    parts: Mapping[str, Sequence[Tensor]] | None = None,
) -> Evidence:
    """Reads one row (each tensor of `source` has a first dimension of 1), watches, and reads it again without parts.

    What a part adds to the score depends on what else is known: of two words that say the same, neither seems to matter
    beside the other. So its share is what it adds on average when parts come to be known in random order, its Shapley
    value (Strumbelj and Kononenko 2014, algorithm 1; of streams, Parcalabescu and Frank 2023, MM-SHAP). All shares add
    up to the score of the row less that of a row of which nothing is known. A part that is not known is taken away as
    padding is: nobody looks at it. This asks what the answer rests on, in every scheme alike, which attention does not
    say: what is looked at need not have a say.

    score: the row's logits k -> what is scored. parts: stream -> numbers of tokens that come to be known together, and
    share evenly; every token for itself where there are none.
    """
    if not isinstance(model.trunk, SchemeTrunk):
        raise InputError("only a model that fuses streams by a scheme can be asked what its streams looked at")
    tokens: Tokens = model.stem(source)
    with watch(model) as maps:
        features = model.trunk(tokens)
    logits = model.head(features)[0].float()
    shares, orders = _shares(model, tokens, score(logits), _numbered(tokens, parts or {}))
    there = [name for name, _, _ in tokens.spans if name in source and bool(source.get(name + THERE, AT_HAND).all())]
    without = {
        name: model({**source, name + THERE: torch.zeros(1, dtype=torch.bool, device=tokens.x.device)})[0].float().cpu()
        for name in (there if len(there) > 1 else ())
    }
    glances = list(_glances(model.trunk, {n: m.float().cpu() for n, m in maps.items()}, tokens, features))
    split = {name: shares[a:b] for name, a, b in tokens.spans}
    return Evidence(tokens, logits.cpu(), split, orders, without, glances)


AT_HAND = torch.ones(1, dtype=torch.bool)


def _numbered(tokens: Tokens, parts: Mapping[str, Sequence[Tensor]]) -> list[Tensor]:
    """The parts by numbers of tokens in the whole row, those alone that are kept."""
    keep, made = kept(tokens)[0].cpu(), []
    for name, a, b in tokens.spans:
        each = parts.get(name) or [torch.tensor([number]) for number in range(b - a)]
        made += [a + part[keep[a + part]] for part in each]
    return [part for part in made if len(part)]


def _shares(model: Any, tokens: Tokens, score: Score, parts: Sequence[Tensor]) -> tuple[Tensor, int]:
    """n: the share of each token; and in how many orders its part was added: each order also backwards."""
    drawn, n = torch.Generator().manual_seed(0), tokens.x.shape[1]
    pairs = max(1, min(ORDERS, READS // (len(parts) + 1)) // 2)
    shares = torch.zeros(n)
    for _ in range(pairs):
        order = torch.randperm(len(parts), generator=drawn)
        for way in (order, order.flip(0)):
            known = torch.zeros(len(parts) + 1, n, dtype=torch.bool)
            for place, number in enumerate(way.tolist()):
                known[place + 1 :, parts[number]] = True
            found = torch.cat([
                score(model.head(model.trunk(_knowing(model, tokens, some))).float()).cpu()
                for some in known.to(tokens.x.device).split(AT_ONCE)
            ])  # fmt: skip
            for number, more in zip(way.tolist(), found.diff().tolist(), strict=True):
                shares[parts[number]] += more / len(parts[number]) / (2 * pairs)
    return shares, 2 * pairs


def _knowing(model: Any, tokens: Tokens, known: Tensor) -> Tokens:
    """As many rows as `known` (bool b n), of each what it says is known; a stream without any token is an absent one.

    Where streams are added to each other, a token that is nothing adds nothing, and all others stay where they are.
    """
    x = tokens.x * known[:, :, None]
    keep = kept(tokens).expand(len(known), -1)
    keep = keep.clone() if type(model.trunk.verbs[0]) is Sum else keep & known
    for i, (_, a, b) in enumerate(tokens.spans):
        empty = ~known[:, a:b].any(dim=1)
        x[empty, a] = model.stem.absent[i].to(x.dtype)
        keep[empty, a:b] = torch.arange(b - a, device=x.device) == 0
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
