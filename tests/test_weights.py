"""Rules between layouts of weights: what moves, what is refused by name, and the way back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tessella.errors import InputError
from tessella.weights import Rule, translate, untranslate
from tessella.zoo.transformer import transformer

QKV = ("q", "k", "v")


def torch_layers(side: str) -> tuple[Rule, ...]:
    """torch.nn.Transformer's names."""
    theirs, ours = f"{side}.layers.{{i}}", f"{side}.blocks.{{i}}"
    kinds = {"self_attn": "attn"} | ({"multihead_attn": "cross"} if side == "decoder" else {})
    norms = ["attn_residual", *(["cross_residual"] if side == "decoder" else []), "mlp_residual"]
    return (
        *(Rule(f"{theirs}.{a}.in_proj_{{p}}", tuple(f"{ours}.{b}.{c}.{{p}}" for c in QKV)) for a, b in kinds.items()),
        *(Rule(f"{theirs}.{a}.out_proj.{{p}}", f"{ours}.{b}.out.{{p}}") for a, b in kinds.items()),
        Rule(f"{theirs}.linear1.{{p}}", f"{ours}.mlp.rise.{{p}}"),
        Rule(f"{theirs}.linear2.{{p}}", f"{ours}.mlp.fall.{{p}}"),
        *(Rule(f"{theirs}.norm{n}.{{p}}", f"{ours}.{name}.norm.{{p}}") for n, name in enumerate(norms, 1)),
        Rule(f"{side}.norm.{{p}}", f"{side}.norm.{{p}}"),
    )


TORCH = (*torch_layers("encoder"), *torch_layers("decoder"))


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def reference(norm: str, dim: int = 16) -> nn.Transformer:
    common = {"dropout": 0.0, "batch_first": True, "norm_first": norm == "pre", "dim_feedforward": 24}
    if norm != "post":
        return nn.Transformer(dim, 2, 2, 2, **common)
    return nn.Transformer(
        dim,
        2,
        custom_encoder=nn.TransformerEncoder(nn.TransformerEncoderLayer(dim, 2, **common), 2, norm=None),
        custom_decoder=nn.TransformerDecoder(nn.TransformerDecoderLayer(dim, 2, **common), 2, norm=None),
        batch_first=True,
    )


@pytest.mark.parametrize("norm", ["post", "post+final", "pre"])
def test_the_stacks_compute_what_torch_nn_transformer_does(norm):
    theirs = reference(norm).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, 0.1 if parameter.dim() == 1 else 0.0, 0.3)
    spec = transformer("tiny", vocab=20, norm=norm, dropout=0.0)
    small = {"dim": 16, "depth": 2, "heads": 2, "hidden": 24}
    spec = spec.replace(
        source=spec.source.replace(dim=16),
        target=spec.target.replace(dim=16),
        encoder=spec.encoder.replace(**small),
        decoder=spec.decoder.replace(**small, memory=16),
    )
    model = spec.build().eval()
    stacks = nn.ModuleDict({"encoder": model.encoder, "decoder": model.decoder})
    stacks.load_state_dict(translate(theirs.state_dict(), TORCH, shapes(stacks)))

    source = torch.tensor([[4, 5, 6, 7, 8], [9, 10, 11, 0, 0]])
    target = torch.tensor([[1, 4, 5, 6], [1, 7, 0, 0]])
    ours = model(source, target)
    x, y = model.source(source).x, model.target(target).x
    pad = source == 0
    expected = theirs(
        x,
        y,
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(4).isinf(),
        src_key_padding_mask=pad,
        memory_key_padding_mask=pad,
    )
    assert (ours - model.head(expected)).abs().max() < 1e-5

    back = untranslate(stacks.state_dict(), TORCH)
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.state_dict().items())


def test_cut_join_move_drop_tie_and_back():
    rules = (
        Rule("block.{i}.qkv.{p}", ("{i}.q.{p}", "{i}.k.{p}", "{i}.v.{p}")),
        Rule(("old.{i}.a", "old.{i}.b"), "new.{i}"),
        Rule("conv.{i}", "linear.{i}", layout="i o -> o i"),
        Rule("bias", "b", layout="1 v -> v", absent=0.5),
        Rule("table", why="computed"),
        Rule("shared", "source", tied=("head",)),
        Rule("head", copy_of="shared"),
    )
    theirs = {
        "block.0.qkv.weight": torch.randn(12, 5),
        "block.0.qkv.bias": torch.randn(12),
        "old.7.a": torch.randn(2, 3),
        "old.7.b": torch.randn(2, 3),
        "conv.c": torch.randn(4, 6),
        "bias": torch.randn(1, 9),
        "table": torch.randn(3),
        "shared": torch.randn(4, 4),
    }
    theirs["head"] = theirs["shared"].clone()
    want = {f"0.{n}.weight": (4, 5) for n in QKV} | {f"0.{n}.bias": (4,) for n in QKV}
    want |= {"new.7": (4, 3), "linear.c": (6, 4), "b": (9,), "source": (4, 4), "head": (4, 4)}
    ours = translate(theirs, rules, want)
    assert {name: tuple(tensor.shape) for name, tensor in ours.items()} == want
    assert torch.equal(ours["0.k.weight"], theirs["block.0.qkv.weight"][4:8])
    assert torch.equal(ours["new.7"], torch.cat([theirs["old.7.a"], theirs["old.7.b"]]))
    assert torch.equal(ours["linear.c"], theirs["conv.c"].T)
    assert ours["head"] is ours["source"]

    back = untranslate(ours, rules)
    assert back.keys() == theirs.keys() - {"table", "head"}
    assert all(torch.equal(back[name], theirs[name]) for name in back)

    del theirs["bias"]
    assert translate(theirs, rules, want)["b"].tolist() == [0.5] * 9


ONE = (Rule("a.{i}.w", "x.{i}.w"),)


@pytest.mark.parametrize(
    ("theirs", "rules", "ours", "message"),
    [
        ({"a.0.w": 2, "b.1": 2, "b.2": 2}, ONE, {"x.0.w": (2,)}, r"no rule for the checkpoint's b.1, b.2$"),
        ({"a.0.w": 2}, ONE, {"x.0.w": (2,), "x.1.w": (2,)}, r"nothing for our x.1.w$"),
        ({"a.0.w": 2, "a.1.w": 2}, ONE, {"x.0.w": (2,)}, r"the model has no place for x.1.w$"),
        ({"a.0.w": 2}, ONE, {"x.0.w": (3,)}, r"does not fit the model: x.0.w \(2, needs 3\)$"),
        ({"a": 2}, (Rule(("a", "b"), "x"),), {"x": (4,)}, r"the checkpoint has no b$"),
        ({"a": 7}, (Rule("a", ("x", "y")),), {"x": (4,), "y": (4,)}, r"'a' is 7; cut into x, y it needs 8 rows"),
        ({"a": 7}, (Rule("a", "x", layout="i o -> o i"),), {"x": (7,)}, r"'a' is 7, which is not of the form"),
        ({"a": 2, "b": 2}, (Rule("a", "x"), Rule("b", copy_of="a")), {"x": (2,)}, r"'b' and 'a' should be one"),
        ({f"b{i}": 1 for i in range(9)}, ONE, {}, r"b0, b1, b2, b3 and 5 more$"),
    ],
)
def test_strangers_are_refused_by_name(theirs, rules, ours, message):
    with pytest.raises(InputError, match=message) as error:
        translate({name: torch.randn(n) for name, n in theirs.items()}, rules, ours)
    assert "\n" not in str(error.value)


def test_what_a_layout_cannot_hold_is_refused_on_the_way_back():
    with pytest.raises(InputError, match="no place for y"):
        untranslate({"x.0.w": torch.zeros(2), "y": torch.zeros(2)}, ONE)
    with pytest.raises(InputError, match="'h' and 's' must be one matrix"):
        untranslate({"s": torch.zeros(2), "h": torch.ones(2)}, (Rule("t", "s", tied=("h",)),))
