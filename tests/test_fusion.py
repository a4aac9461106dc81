"""Fusion: each scheme is its equation written out, whatever is padded, in whatever order the streams come."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tessella.errors import InputError
from tessella.fusion import (
    BottleneckFusion,
    CrossAttention,
    CrossToConcat,
    EarlyConcat,
    EarlySum,
    ManyToOne,
    OneToMany,
    Scheme,
)
from tessella.spec import from_dict, to_dict
from tessella.stems.streams import joined, parted
from tessella.tokens import Tokens
from tessella.trunks.plain import Causal, Plain
from tessella.trunks.recurrent import Recurrent
from tessella.verbs import evened, stretched

DIM, LENGTHS = 8, {"text": 5, "image": 4, "table": 3}
NAMES = tuple(LENGTHS)
SCHEMES = ["early-sum", "early-concat", "many-to-one", "one-to-many", "cross", "cross-to-concat", "bottleneck"]


def scheme(kind: str, names: tuple[str, ...] = NAMES, norm: str = "pre", stretch: str | None = "linear") -> Scheme:
    def stack(depth: int) -> Plain:
        return Plain(dim=DIM, depth=depth, heads=2, hidden=12, dropout=0.0, norm=norm, activation="gelu")

    both = {"dim": DIM, "streams": names}
    return {
        "early-sum": lambda: EarlySum(**both, joint=stack(2), stretch=stretch),
        "early-concat": lambda: EarlyConcat(**both, joint=stack(2)),
        "many-to-one": lambda: ManyToOne(**both, own=stack(1), joint=stack(2)),
        "one-to-many": lambda: OneToMany(**both, own=stack(2), joint=stack(1)),
        "cross": lambda: CrossAttention(**both, own=stack(2)),
        "cross-to-concat": lambda: CrossToConcat(**both, own=stack(2), joint=stack(1)),
        "bottleneck": lambda: BottleneckFusion(**both, own=stack(1), after=stack(3), tokens=2),
    }[kind]()


def built(spec: Scheme):
    """In float64, with weights that hide nothing."""
    model = spec.build().double().eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5) if "weight" in name else torch.nn.init.normal_(
                parameter, 0, 0.3
            )
    return model


def streams(names: tuple[str, ...] = NAMES, rows: int = 3, even: bool = False) -> dict[str, Tokens]:
    """Noise; of the second row only the first tokens are kept, one more a stream."""
    made = {}
    for i, name in enumerate(names):
        n = 5 if even else LENGTHS[name]
        keep = torch.ones(rows, n, dtype=torch.bool)
        keep[1, i + 1 :] = False
        made[name] = Tokens(torch.randn(rows, n, DIM, dtype=torch.float64), keep)
    return made


# The equations, of one row without its padding: a stream is n d, and nothing is masked.


def normed(norm, x: Tensor) -> Tensor:
    if isinstance(norm, torch.nn.Identity):
        return x
    mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(var + norm.eps) * norm.weight + norm.bias


def looked(attn, x: Tensor, at: Tensor) -> Tensor:
    q, k, v = x @ attn.q.weight.T + attn.q.bias, at @ attn.k.weight.T + attn.k.bias, at @ attn.v.weight.T + attn.v.bias
    heads = []
    for h in range(attn.heads):
        cut = slice(h * DIM // attn.heads, (h + 1) * DIM // attn.heads)
        e = torch.exp(q[:, cut] @ k[:, cut].T / math.sqrt(DIM / attn.heads))
        heads.append(e / e.sum(-1, keepdim=True) @ v[:, cut])
    return torch.cat(heads, -1) @ attn.out.weight.T + attn.out.bias


def fed(mlp, x: Tensor) -> Tensor:
    h = x @ mlp.rise.weight.T + mlp.rise.bias
    return (h * (1 + torch.erf(h / math.sqrt(2))) / 2) @ mlp.fall.weight.T + mlp.fall.bias


def step(block, norm: str, x: Tensor, at: Tensor | None = None) -> Tensor:
    """A block; `at` is what is looked at, normed already where norms come first."""
    first, second = block.attn_residual.norm, block.mlp_residual.norm
    if norm == "pre":
        h = normed(first, x)
        x = x + looked(block.attn, h, h if at is None else at)
        return x + fed(block.mlp, normed(second, x))
    x = normed(first, x + looked(block.attn, x, x if at is None else at))
    return normed(second, x + fed(block.mlp, x))


def plain(trunk, norm: str, x: Tensor) -> Tensor:
    for block in trunk.blocks:
        x = step(block, norm, x)
    return normed(trunk.norm, x)


def each(verb, norm: str, z: list[Tensor]) -> list[Tensor]:
    return [plain(trunk, norm, x) for trunk, x in zip(verb.trunks, z, strict=True)]


def cross(verb, norm: str, z: list[Tensor]) -> list[Tensor]:
    for i in range(len(verb.stacks[0])):
        told = [normed(s[i].attn_residual.norm, x) if norm == "pre" else x for s, x in zip(verb.stacks, z, strict=True)]
        others = [torch.cat([t for b, t in enumerate(told) if b != a]) for a in range(len(z))]
        z = [step(s[i], norm, x, at) for s, x, at in zip(verb.stacks, z, others, strict=True)]
    return [normed(end, x) for end, x in zip(verb.norms, z, strict=True)]


def bottleneck(verb, norm: str, z: list[Tensor]) -> list[Tensor]:
    between = verb.between
    for i in range(len(verb.stacks[0])):
        both = [step(s[i], norm, torch.cat([x, between])) for s, x in zip(verb.stacks, z, strict=True)]
        z = [y[: len(x)] for x, y in zip(z, both, strict=True)]
        between = sum(y[len(x) :] for x, y in zip(z, both, strict=True)) / len(z)
    return [normed(end, x) for end, x in zip(verb.norms, z, strict=True)]


def parts(whole: Tensor, z: list[Tensor]) -> list[Tensor]:
    return list(whole.split([len(x) for x in z]))


def drawn_out(x: Tensor, length: int, how: str) -> Tensor:
    """Every place written out."""
    made = []
    for t in range(length):
        place = min(max((t + 0.5) * len(x) / length - 0.5, 0), len(x) - 1)
        low = round(place) if how == "nearest" else math.floor(place)
        share = place - low if how == "linear" else 0
        made.append((1 - share) * x[low] + share * x[min(low + 1, len(x) - 1)])
    return torch.stack(made)


def by_hand(kind: str, verbs, norm: str, z: list[Tensor]) -> Tensor:
    """All streams, one behind the other."""
    if kind == "early-sum":
        longest = max(len(x) for x in z)
        even = [drawn_out(x, longest, verbs[0].stretch or "linear") for x in z]
        return plain(verbs[1].trunks[0], norm, sum(a * x for a, x in zip(verbs[0].weights, even, strict=True)))
    if kind == "early-concat":
        return plain(verbs[1].trunks[0], norm, torch.cat(z))
    if kind == "many-to-one":
        return plain(verbs[2].trunks[0], norm, torch.cat(each(verbs[0], norm, z)))
    if kind == "one-to-many":
        return torch.cat(each(verbs[3], norm, parts(plain(verbs[1].trunks[0], norm, torch.cat(z)), z)))
    if kind == "cross":
        return torch.cat(cross(verbs[0], norm, z))
    if kind == "cross-to-concat":
        return plain(verbs[2].trunks[0], norm, torch.cat(cross(verbs[0], norm, z)))
    return torch.cat(bottleneck(verbs[1], norm, each(verbs[0], norm, z)))


@pytest.mark.parametrize("names", [NAMES[:2], NAMES], ids=["two", "three"])
@pytest.mark.parametrize("norm", ["pre", "post", "post+final"])
@pytest.mark.parametrize("kind", SCHEMES)
@torch.no_grad()
def test_a_scheme_is_its_equation(kind, norm, names):
    model, flow = built(scheme(kind, names, norm)), streams(names)
    found = model(joined(flow))
    assert found.keep is not None
    for row in range(3):
        z = [tokens.x[row][tokens.keep[row]] for tokens in flow.values()]
        expected = by_hand(kind, model.verbs, norm, z)
        near = 1e-6 if kind == "early-sum" else 1e-12  # places are told in float32
        torch.testing.assert_close(found.x[row][found.keep[row]], expected, atol=near, rtol=near)


@pytest.mark.parametrize("kind", SCHEMES)
@torch.no_grad()
def test_without_padding_there_is_no_mask_and_the_same_answer(kind):
    model, flow = built(scheme(kind)), streams()
    whole = {name: tokens.replace(keep=None) for name, tokens in flow.items()}
    kept = {name: tokens.replace(keep=torch.ones_like(tokens.keep)) for name, tokens in flow.items()}
    found, masked = model(joined(whole)), model(joined(kept))
    assert found.keep is None
    torch.testing.assert_close(found.x, masked.x, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("kind", SCHEMES)
def test_spans_say_whose_tokens_come_out(kind):
    model, flow = built(scheme(kind)), streams()
    found = model(joined(flow))
    if kind == "early-sum":
        assert found.spans == () and found.x.shape[1] == 5
        return
    assert found.spans == (("text", 0, 5), ("image", 5, 9), ("table", 9, 12))
    for name, tokens in parted(found).items():
        assert torch.equal(tokens.keep, flow[name].keep)


@torch.no_grad()
def test_equal_lengths_are_added_as_they_are():
    """Padding adds nothing, and a place is kept where any stream has a token."""
    model, flow = built(scheme("early-sum", stretch=None)), streams(even=True)
    found = model(joined(flow))
    x = sum(a * t.x * t.keep[..., None] for a, t in zip(model.verbs[0].weights, flow.values(), strict=True))
    assert torch.equal(found.keep[1], torch.tensor([True, True, True, False, False]))
    expected = plain(model.verbs[1].trunks[0], "pre", x[1, :3])
    torch.testing.assert_close(found.x[1, :3], expected, atol=1e-12, rtol=1e-10)


def test_unequal_lengths_are_refused_with_the_way_out():
    model = built(scheme("early-sum", stretch=None))
    with pytest.raises(InputError, match=r"'text' has 5, 'image' has 4, 'table' has 3 tokens.*trunk\.stretch=linear"):
        model(joined(streams()))


# Where a scheme treats streams alike, their order and their trunks are names only.


def swapped(model, kind: str, order: list[int]) -> None:
    """The trunks and weights of the streams in another order."""
    for verb in model.verbs:
        for field in ("stacks", "norms", "trunks"):
            held = getattr(verb, field, None)
            if held is not None and len(held) == len(order):
                setattr(verb, field, torch.nn.ModuleList(held[i] for i in order))
        if kind == "early-sum" and hasattr(verb, "weights"):
            verb.weights.data = verb.weights.data[order]


@pytest.mark.parametrize("kind", SCHEMES)
@torch.no_grad()
def test_the_order_of_streams_means_nothing(kind):
    order = [2, 0, 1]
    model, flow = built(scheme(kind)), streams()
    before = model(joined(flow))
    swapped(model, kind, order)
    names = tuple(NAMES[i] for i in order)
    model.streams = names
    after = model(joined({name: flow[name] for name in names}))
    if kind == "early-sum":
        torch.testing.assert_close(after.x, before.x, atol=1e-12, rtol=1e-10)
        return
    first, second = parted(before), parted(after)
    assert list(second) == list(names)
    for name in names:
        torch.testing.assert_close(second[name].x, first[name].x, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("kind", ["one-to-many", "cross", "bottleneck"])
@torch.no_grad()
def test_streams_do_learn_of_each_other(kind):
    model, flow = built(scheme(kind)), streams()
    other = {**flow, "table": flow["table"].replace(x=torch.randn_like(flow["table"].x))}
    before, after = (parted(model(joined(f)))["text"].x for f in (flow, other))
    assert (before - after).abs().amax(dim=(1, 2)).min() > 1e-6, "in every row"


# Stretching.


def run(x: Tensor, keep: Tensor | None = None) -> Tokens:
    return Tokens(x, keep)


@settings(max_examples=40, deadline=None)
@given(m=st.integers(1, 7), more=st.integers(0, 3), n=st.integers(1, 9), how=st.sampled_from(["nearest", "linear"]))
def test_stretching(m, more, n, how):
    """Any row alone; equal lengths change nothing, a constant stays one, and padding is never read."""
    x = torch.randn(2, m + more, 3, dtype=torch.float64)
    x[:, m:] = float("nan")
    tokens = run(x, (torch.arange(m + more) < m).expand(2, -1))
    found = stretched(tokens, torch.tensor([n, m]), max(n, m), how)
    assert found.keep.sum(1).tolist() == [n, m]
    torch.testing.assert_close(found.x[0, :n], drawn_out(x[0, :m], n, how), atol=1e-6, rtol=1e-6)
    assert torch.equal(found.x[1, :m], x[1, :m])
    constant = tokens.replace(x=torch.where(x.isnan(), x, x[:, :1]))
    again = stretched(constant, torch.tensor([n, m]), max(n, m), how).x
    torch.testing.assert_close(again, x[:, :1].expand_as(again))


def test_a_line_stays_a_line_between_its_ends():
    line = torch.arange(6.0)[None, :, None]
    found = stretched(run(line), torch.tensor([24]), 24, "linear").x[0, :, 0]
    inside = (found > 0) & (found < 5)
    assert torch.allclose(found.diff()[inside[1:] & inside[:-1]], torch.tensor(0.25))
    assert found[0] == 0 and found[-1] == 5


def test_each_row_is_stretched_to_its_own_longest_stream():
    """So that it does not matter with whom it is batched."""
    flow = list(streams().values())
    together = evened(flow, "linear")
    assert [t.keep.sum(1).tolist() for t in together] == [[5, 3, 5]] * 3
    alone = evened([Tokens(t.x[1:2, : t.keep[1].sum()]) for t in flow], "linear")
    for many, one in zip(together, alone, strict=True):
        assert one.keep is None and torch.equal(many.x[1, :3], one.x[0])


# Specs.


@pytest.mark.parametrize("kind", SCHEMES)
def test_a_scheme_survives_json(kind):
    spec = scheme(kind, norm="post")
    assert from_dict(json.loads(json.dumps(to_dict(spec))), Scheme) == spec


def stack(dim: int = DIM) -> Plain:
    return Plain(dim=dim, depth=1, heads=2, hidden=8)


def test_what_does_not_fit_is_refused():
    two = {"dim": DIM, "streams": ("a", "b")}
    with pytest.raises(ValueError, match=r"joint.dim is 16 but the streams' dim is 8"):
        EarlyConcat(**two, joint=stack(16))
    with pytest.raises(ValueError, match=r"own.dim is 16"):
        ManyToOne(**two, own=stack(16), joint=stack())
    with pytest.raises(ValueError, match=r"after.dim is 16"):
        BottleneckFusion(**two, own=stack(), after=stack(16))
    with pytest.raises(ValueError, match=r"own.width is 16 but"):
        ManyToOne(**two, own=Recurrent(dim=DIM, hidden=8), joint=stack())
    for names in ((), ("a", "a")):
        with pytest.raises(ValueError, match="names of their own"):
            EarlyConcat(dim=DIM, streams=names, joint=stack())
    for kind in ("cross", "cross-to-concat"):
        with pytest.raises(ValueError, match=f"in '{kind}' streams look at each other, so there must be two"):
            scheme(kind, ("text",))


@pytest.mark.parametrize(
    "kind", ["early-concat", "many-to-one", "one-to-many", "cross", "cross-to-concat", "bottleneck"]
)
def test_a_trunk_that_reads_one_way_is_refused_over_several_streams(kind):
    """It would look past the padding of one stream into the next."""
    told = to_dict(scheme(kind))
    part = {"cross": "own", "bottleneck": "after"}.get(kind, "joint")
    told[part] = to_dict(Causal(dim=DIM, depth=1, heads=2, hidden=8))
    with pytest.raises(InputError, match="expected a 'plain', got a 'causal'"):
        from_dict(told, Scheme)
