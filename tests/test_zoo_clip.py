"""CLIP's sizes to the last digit, its weights in two layouts, and what it computes beside transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_clip import TEXT, VISION, lively, rows, theirs
from torch import nn
from torch.nn import functional as F

from tessella.attention import watch
from tessella.errors import InputError
from tessella.heads import AttentionPool
from tessella.models import Encoder, Towers
from tessella.positions import Learned
from tessella.tokens import Tokens
from tessella.trunks.clip_resnet import ClipResNet
from tessella.trunks.convnet import Means
from tessella.weights import translate, untranslate
from tessella.zoo.catalog import CARDS, listing, model_spec
from tessella.zoo.clip import RN, SIZES, VARIANTS, resnet_tower, stack, text_tower, vit_tower
from tessella.zoo.clip_layouts import from_config, rules, to_config
from tessella.zoo.counts import multiply_adds, parameters

COUNTS = {
    "clip_rn50": (102_007_137, 38_316_896, 63_690_241),
    "clip_rn101": (119_688_033, 56_259_936, 63_428_097),
    "clip_vit_b32": (151_277_313, 87_849_216, 63_428_097),
    "clip_vit_b16": (149_620_737, 86_192_640, 63_428_097),
    "clip_vit_l14": (427_616_513, 303_966_208, 123_650_305),
    "clip_vit_l14_336": (427_944_193, 304_293_888, 123_650_305),
}
"""Of all, of the image tower, and of the rest."""
GIGAFLOPS = {"clip_vit_b32": 14.78, "clip_vit_b16": 41.09, "clip_vit_l14": 175.33, "clip_vit_l14_336": 395.22}
"""Of one image and one text, as open_clip counts them."""
LISTED = {
    "openai_CLIP_ViT-B-32": ("clip_vit_b32", "openai"),
    "open_clip_ViT-B-32": ("clip_vit_b32_gelu", "openai"),
    "openai_CLIP_RN50": ("clip_rn50", "openai"),
    "v4_hf_CLIPModel_vit_b32": ("clip_vit_b32", "hf"),
}


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def ours(config, stored) -> tuple[Towers, nn.Module]:
    """Our towers with their weights."""
    spec = from_config(config)
    model = spec.build().eval()
    model.load_state_dict(translate(stored, rules(spec, "hf"), shapes(model)))
    return spec, model


@pytest.mark.parametrize("name", COUNTS)
def test_sizes_are_exact(name):
    spec, (total, image, rest) = VARIANTS[name](), COUNTS[name]
    assert parameters(spec) == total
    assert parameters(spec.image) == image
    assert total - image == rest


@pytest.mark.parametrize("name", GIGAFLOPS)
def test_multiply_adds_are_those_of_open_clip(name):
    spec, side = VARIANTS[name](), CARDS[name].size
    image = multiply_adds(spec.image, (1, 3, side, side))
    text = multiply_adds(spec.text, (1, 77), dtype=torch.long)
    assert 2 * (image + text) / 1e9 == pytest.approx(GIGAFLOPS[name], abs=0.005)


def test_the_catalog_lists_both_towers():
    row = next(listing("clip_vit_b32"))
    assert (row.parameters, row.macs, row.text_macs) == (151_277_313, 4_408_811_520, 2_979_770_368)
    assert row.card.top1 == 63.32 and row.card.licence == "MIT"


CASES = {
    "as published": {},
    "old files, in which id 2 ends texts": {"text": {"eos_token_id": 2}},
    "GELU, another epsilon, grey images": {
        "vision": {"hidden_act": "gelu", "layer_norm_eps": 1e-4, "num_channels": 1},
        "text": {"hidden_act": "gelu"},
    },
    "words behind the end": {"text": {"eos_token_id": 30}},
}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_it_computes_what_transformers_does(case, tmp_path):
    reference, config, stored = theirs(tmp_path, **CASES[case])
    spec, model = ours(config, stored)
    stem = spec.image.stem
    image = torch.randn(4, stem.channels, *stem.size)
    ids = rows(end=30 if "behind" in case else 49)
    said = reference(input_ids=ids, pixel_values=image, return_loss=True)
    for mine, their, features in (
        (model.image(image), said.image_embeds, reference.get_image_features(image)),
        (model.text(ids), said.text_embeds, reference.get_text_features(ids)),
    ):
        features = getattr(features, "pooler_output", features)
        assert features.abs().max() > 0.5
        assert (mine - features).abs().max() < 1e-5
        assert (F.normalize(mine, dim=-1) - their).abs().max() < 1e-5
    logits = model(image, ids)
    assert (logits - said.logits_per_image).abs().max() < 1e-5
    pairs = torch.arange(4)
    loss = (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
    assert abs(loss - said.loss) < 1e-5

    back = untranslate(model.state_dict(), rules(spec, "hf"))
    assert back.keys() == stored.keys()
    assert all(torch.equal(back[name], stored[name]) for name in stored)
    again = from_config(to_config(spec))
    assert again.scale == pytest.approx(spec.scale) and again.replace(scale=spec.scale) == spec


@torch.no_grad()
def test_transformers_reads_what_we_write(tmp_path):
    transformers = pytest.importorskip("transformers")
    spec = from_config({"model_type": "clip", "vision_config": VISION, "text_config": TEXT, "projection_dim": 20})
    model = lively(spec.build())
    (tmp_path / "config.json").write_text(json.dumps(to_config(spec)))
    written = untranslate(model.state_dict(), rules(spec, "hf"))
    save_file({name: t.contiguous() for name, t in written.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    reference, report = transformers.CLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    image, ids = torch.randn(4, 3, 24, 24), rows()
    said = reference.eval()(input_ids=ids, pixel_values=image)
    assert (said.logits_per_text.T - model(image, ids)).abs().max() < 1e-5


def test_older_files_say_where_things_stand(tmp_path):
    _, config, stored = theirs(tmp_path)
    for tower, length in (("vision", 10), ("text", 11)):
        stored[f"{tower}_model.embeddings.position_ids"] = torch.arange(length)[None]
    config["text_config_dict"], config["text_config"] = config["text_config"], {"hidden_size": 7}
    assert ours(config, stored)[0].text.trunk.dim == 24


@pytest.mark.parametrize("listing", LISTED)
def test_our_weights_in_their_layout_and_back(listing):
    """On the meta device, where nothing can be told apart but names and shapes; then with numbers, of a tiny one."""
    path = Path(__file__).parents[2] / "shared" / "keys" / f"{listing}.txt"
    if not path.exists():
        pytest.skip(f"no listing of a published checkpoint at {path.name}")
    lines = (line.split("\t") for line in path.read_text().splitlines())
    name, layout = LISTED[listing]
    spec = VARIANTS[name]()
    with torch.device("meta"):
        ours = spec.build().state_dict()
    written = untranslate(ours, rules(spec, layout))
    assert {name: list(t.shape) for name, t in written.items()} == {line[0]: json.loads(line[1]) for line in lines}
    back = translate(written, rules(spec, layout), {name: t.shape for name, t in ours.items()})
    assert back.keys() == ours.keys()


def tiny_resnet() -> Towers:
    image = resnet_tower(RN((2, 1, 1, 1), (16, 24, 32, 48), 4), 12, image_size=64, channels=3)
    return Towers(image=image, text=text_tower(stack(24, 2, 3), 12, {"vocab": 30, "end": 29}), bias=-10.0)


def test_numbers_of_a_resnet_come_back():
    spec = tiny_resnet()
    model = lively(spec.build())
    state = model.state_dict()
    written = untranslate(state, rules(spec, "openai"))
    assert written["visual.layer1.0.downsample.0.weight"].shape == (16, 64, 1, 1)
    assert written["logit_bias"] == -10
    back = translate(written, rules(spec, "openai"), shapes(model))
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)


class OpenAI:
    """CLIP in torch's functions, from the paper, with the names that OpenAI gives to the weights."""

    def __init__(self, state: dict[str, torch.Tensor], heads: int):
        self.state, self.heads = state, heads

    def norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def linear(self, x, name):
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def blocks(self, x, name, mask=None):
        """n b d."""
        for i in range(sum(key.startswith(f"{name}.resblocks.") and key.endswith("ln_1.bias") for key in self.state)):
            block = f"{name}.resblocks.{i}"
            parts = (self.state[f"{block}.attn.{part}"] for part in ("in_proj_weight", "in_proj_bias"))
            out = (self.state[f"{block}.attn.out_proj.{part}"] for part in ("weight", "bias"))
            y = self.norm(x, f"{block}.ln_1")
            x = x + F.multi_head_attention_forward(
                y, y, y, x.shape[-1], self.heads, *parts, None, None, False, 0.0, *out, False, attn_mask=mask
            )[0]  # fmt: skip
            y = self.linear(self.norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
            x = x + self.linear(y * torch.sigmoid(1.702 * y), f"{block}.mlp.c_proj")
        return x

    def vit(self, image):
        weight = self.state["visual.conv1.weight"]
        x = F.conv2d(image, weight, stride=weight.shape[-1]).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.state["visual.class_embedding"].expand(len(x), 1, -1), x], dim=1)
        x = self.norm(x + self.state["visual.positional_embedding"], "visual.ln_pre").permute(1, 0, 2)
        x = self.blocks(x, "visual.transformer")[0]
        return self.norm(x, "visual.ln_post") @ self.state["visual.proj"]

    def text(self, ids):
        n = ids.shape[1]
        x = self.state["token_embedding.weight"][ids] + self.state["positional_embedding"][:n]
        mask = torch.full((n, n), -torch.inf).triu(1)
        x = self.norm(self.blocks(x.permute(1, 0, 2), "transformer", mask).permute(1, 0, 2), "ln_final")
        return x[torch.arange(len(ids)), ids.argmax(dim=-1)] @ self.state["text_projection"]

    def layer(self, x, place, number, stride=1, names=("conv", "bn")):
        weight = self.state[f"{place}.{names[0]}{number}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var, scale, bias = (
            self.state[f"{place}.{names[1]}{number}.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, scale, bias)

    def resnet(self, image, depths):
        x = image
        for number, stride in ((1, 2), (2, 1), (3, 1)):
            x = self.layer(x, "visual", number, stride).relu()
        x = F.avg_pool2d(x, 2)
        for stage, depth in enumerate(depths, 1):
            for i in range(depth):
                place, stride = f"visual.layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
                y = self.layer(self.layer(x, place, 1).relu(), place, 2).relu()
                y = self.layer(F.avg_pool2d(y, stride), place, 3)
                if i == 0:
                    weight = self.state[f"{place}.downsample.0.weight"]
                    x = F.conv2d(F.avg_pool2d(x, stride), weight)
                    parts = ("running_mean", "running_var", "weight", "bias")
                    x = F.batch_norm(x, *(self.state[f"{place}.downsample.1.{part}"] for part in parts))
                x = (x + y).relu()
        x = x.flatten(2).permute(2, 0, 1)
        x = torch.cat([x.mean(0, keepdim=True), x]) + self.state["visual.attnpool.positional_embedding"][:, None]
        q, k, v, c = (
            (self.state[f"visual.attnpool.{part}_proj.weight"], self.state[f"visual.attnpool.{part}_proj.bias"])
            for part in "qkvc"
        )
        return F.multi_head_attention_forward(
            x[:1], x, x, x.shape[-1], self.heads, None, torch.cat([q[1], k[1], v[1]]), None, None, False, 0.0, *c,
            training=False, use_separate_proj_weight=True, q_proj_weight=q[0], k_proj_weight=k[0], v_proj_weight=v[0],
        )[0][0]  # fmt: skip


@torch.no_grad()
def test_openais_names_mean_what_they_say():
    """The same numbers through its names and torch's functions, and through ours: ViT, ResNet, texts."""
    trunk = {**stack(32, 2, 4), "activation": "quick-gelu"}
    text = text_tower(stack(24, 2, 4), 12, {"vocab": 30, "positions": Learned(length=8), "end": 29})
    pair = Towers(image=vit_tower(trunk, 12, 8, (24, 24), 3), text=text)
    image, ids = torch.randn(3, 3, 24, 24), torch.randint(0, 28, (3, 6))
    ids[torch.arange(3), torch.tensor([5, 2, 3])] = 29
    model = lively(pair.build())
    theirs = OpenAI(untranslate(model.state_dict(), rules(pair, "openai")), heads=4)
    torch.testing.assert_close(model.image(image), theirs.vit(image), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.text(ids), theirs.text(ids), atol=1e-5, rtol=1e-5)

    spec, image = tiny_resnet(), torch.randn(3, 3, 64, 64)
    model = lively(spec.build())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    theirs = OpenAI(untranslate(model.state_dict(), rules(spec, "openai")), heads=4)
    found = model.image(image)
    assert found.std() > 0.05
    torch.testing.assert_close(found, theirs.resnet(image, (2, 1, 1, 1)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_type": "siglip"}, "model_type 'siglip'"),
        ({"projection_dim": 0}, "'projection_dim' must be a whole number from 1"),
        ({"vision_config": 3}, "'vision_config' must be a mapping, got 3"),
        ({"vision_config": {**VISION, "hidden_act": "tanh"}}, "hidden_act 'tanh' is not known"),
        ({"vision_config": {**VISION, "patch_size": [8, 4]}}, "'patch_size' must be a square"),
        ({"vision_config": {**VISION, "image_size": 25}}, "25 x 25 pixels is not tiled"),
        ({"vision_config": {**VISION, "num_attention_heads": 5}}, "not divisible by heads 5"),
        ({"text_config": {**TEXT, "eos_token_id": 50}}, "'eos_token_id' must be a whole number from 0 to 49, got 50"),
        ({"text_config": {**TEXT, "eos_token_id": [2, 49]}}, "'eos_token_id' must be"),
        ({"logit_scale_init_value": 9}, "'logit_scale_init_value' must be from 0 to ln 100, got 9"),
    ],
)
def test_what_is_not_supported_is_named_in_one_line(changes, complaint):
    config = {"model_type": "clip", "vision_config": VISION, "text_config": TEXT, **changes}
    with pytest.raises((InputError, ValueError)) as error:
        from_config(config)
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("name", "layout", "complaint"),
    [
        ("clip_small", "hf", "towers of a 'resnet' have no layout"),
        ("clip_rn50", "hf", "CLIP with a 'clip-resnet' has no layout 'hf'"),
        ("clip_vit_b32", "timm", "has no layout 'timm'"),
    ],
)
def test_layouts_that_there_are_not(name, layout, complaint):
    with pytest.raises(InputError, match=complaint):
        rules(VARIANTS[name](), layout)


def oblong() -> Towers:
    spec = VARIANTS["clip_vit_b32"]()
    return spec.replace(image=spec.image.replace(stem=spec.image.stem.replace(size=(224, 192))))


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (lambda: VARIANTS["clip_rn50"](), "no image tower of 'pixels' and 'clip-resnet'"),
        (lambda: VARIANTS["clip_vit_b32"](bias=-10.0), "needs bias None, but the model has -10.0"),
        (oblong, "needs a square image .224, 224., but the model has .224, 192."),
    ],
)
def test_what_cannot_be_written(model, complaint):
    with pytest.raises(InputError, match=complaint):
        to_config(model())


# How it begins


def test_weights_begin_as_in_the_papers_code():
    torch.manual_seed(1)
    model = model_spec("clip_micro", {"vocab": 4000}).build()
    text, dim = model.text, 128
    block = text.trunk.blocks[1]
    expected = [
        (text.stem.embedding.weight, 0.02),
        (text.stem.positions.table, 0.01),
        (block.attn.q.weight, dim**-0.5),
        (block.attn.out.weight, dim**-0.5 * (2 * 2) ** -0.5),
        (block.mlp.rise.weight, (2 * dim) ** -0.5),
        (block.mlp.fall.weight, dim**-0.5 * (2 * 2) ** -0.5),
        (text.head.project.weight, dim**-0.5),
    ]
    for weight, std in expected:
        assert weight.std().item() == pytest.approx(std, rel=0.05)
        assert abs(weight.mean().item()) < 0.1 * std
    assert model.scale.item() == pytest.approx(1 / 0.07)
    stem = VARIANTS["clip_vit_b32"]().image.stem.build()
    assert stem.positions.table.std().item() == pytest.approx(768**-0.5, rel=0.05)
    assert stem.special.std().item() == pytest.approx(768**-0.5, rel=0.2)


def test_blocks_of_the_resnet_begin_as_their_shortcuts():
    trunk = ClipResNet(depths=(2, 1), widths=(16, 32)).build().eval()
    block, x = trunk.stages[0][1], torch.randn(2, 16, 8, 8).relu()
    assert torch.equal(block(x), x)


# Its ResNet


@pytest.mark.parametrize(("side", "grid"), [(64, 2), (94, 2), (95, 3), (32, 1)])
def test_rows_and_columns_are_halved(side, grid):
    image = tiny_resnet().image.build().eval()
    assert image.features(torch.randn(2, 3, side, 64)).grid == (grid, 2)
    assert image(torch.randn(2, 3, side, 64)).shape == (2, 12), "positions are resized"


def test_an_image_that_is_too_small_is_told_so():
    with pytest.raises(InputError, match="the image is too small: 1 x 4 of its pixels are left where 2 x 2"):
        tiny_resnet().image.build()(torch.randn(1, 3, 30, 64))


def test_means_are_of_squares():
    x = torch.arange(20.0).reshape(1, 1, 4, 5)
    assert Means(2)(x).tolist() == [[[[3.0, 5.0], [13.0, 15.0]]]]


def test_a_stride_looks_at_every_pixel():
    """A convolution of 1 x 1 with a stride would look at one of four."""
    block = ClipResNet(depths=(1, 1), widths=(16, 16)).build().eval().stages[1][0].double()
    nn.init.ones_(block.branch[-1].norm.weight)
    for part in (block.branch, block.shortcut):
        x = torch.randn(1, 16, 6, 6, dtype=torch.float64).requires_grad_()
        part(x)[0, :, 1, 1].sum().backward()
        assert (x.grad[0].abs().sum(0) > 0)[2:4, 2:4].all()


def test_the_pool_is_attention_of_the_mean():
    """As torch's own multi-head attention computes it, with the same weights."""
    head = lively(AttentionPool(dim=24, width=10, heads=3, grid=(2, 3)).build())
    x = torch.randn(4, 6, 24)
    with watch(head) as seen:
        pooled = head(Tokens(x, grid=(2, 3)))
    assert seen["attn.attend"].shape == (4, 3, 1, 7)
    torch.testing.assert_close(head(Tokens(x, grid=(2, 3))), pooled)
    tokens = (torch.cat([x.mean(1, keepdim=True), x], 1) + head.positions.table).transpose(0, 1)
    q, k, v, out = (head.attn.q, head.attn.k, head.attn.v, head.attn.out)
    expected, _ = F.multi_head_attention_forward(
        tokens[:1], tokens, tokens, 24, 3, None, torch.cat([q.bias, k.bias, v.bias]), None, None, False, 0.0,
        out.weight, out.bias, training=False, use_separate_proj_weight=True,
        q_proj_weight=q.weight, k_proj_weight=k.weight, v_proj_weight=v.weight,
    )  # fmt: skip
    torch.testing.assert_close(pooled, expected[0])


def test_a_pool_of_heads_that_do_not_divide_is_refused():
    with pytest.raises((InputError, ValueError), match="dim 24 is not divisible by heads 5"):
        AttentionPool(dim=24, heads=5)


def test_every_size_is_named():
    assert {f"clip_{name}" for name in SIZES} <= VARIANTS.keys() == {n for n in CARDS if n.startswith("clip_")}
    assert all(isinstance(make().image, Encoder) for make in VARIANTS.values())
