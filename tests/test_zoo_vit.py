"""ViT's and DeiT's weights in the layouts of other libraries: parity, round trips, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import nn

from tessella.errors import InputError
from tessella.positions import NoGrid, SinCosGrid
from tessella.weights import translate, untranslate
from tessella.zoo import deit, vit

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 7,
    "attn_implementation": "eager",
}
LISTED = {
    "v4_hf_ViTForImageClassification_base_patch16_224": (vit, "hf", "vit_base_patch16_224"),
    "timm_vit_base_patch16_224": (vit, "timm", "vit_base_patch16_224"),
    "torchvision_vit_b_16": (vit, "torchvision", "vit_base_patch16_224"),
    "v4_hf_DeiTForImageClassificationWithTeacher_base": (deit, "hf", "deit_base_distilled_patch16_224"),
    "timm_deit_base_distilled_patch16_224": (deit, "timm", "deit_base_distilled_patch16_224"),
}


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def listed(name: str) -> dict[str, list[int]]:
    """Names and shapes of a published checkpoint."""
    path = Path(__file__).parents[2] / "shared" / "keys" / f"{name}.txt"
    if not path.exists():
        pytest.skip(f"no listing of a published checkpoint at {path.name}")
    lines = (line.split("\t") for line in path.read_text().splitlines())
    return {line[0]: json.loads(line[1]) for line in lines}


def theirs(name: str, folder: Path, **changes):
    """A random model of transformers with lively weights, as a folder, and its config.json and tensors."""
    transformers = pytest.importorskip("transformers")
    kind = "DeiTConfig" if name.startswith("DeiT") else "ViTConfig"
    model = getattr(transformers, name)(getattr(transformers, kind)(**{**TINY, **changes})).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.5 if parameter.dim() == 1 else 0.0, 0.3)
    model.save_pretrained(folder)
    return model, json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


def rebuilt(page, config, stored, layout: str = "hf"):
    spec = page.from_config(config)
    model = spec.build().eval()
    model.load_state_dict(translate(stored, page.LAYOUTS[layout], shapes(model)))
    return spec, model


CASES = {
    "ViTForImageClassification": (vit, "hf", {}),
    "ViTForImageClassification, other numbers": (
        vit,
        "hf",
        {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3, "num_channels": 1, "image_size": [16, 40]},
    ),
    "DeiTForImageClassificationWithTeacher": (deit, "hf", {}),
    "DeiTForImageClassification": (deit, "hf-one-head", {}),
}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_are_those_of_transformers(case, tmp_path):
    page, layout, changes = CASES[case]
    reference, config, stored = theirs(case.partition(",")[0], tmp_path, **changes)
    assert any(".encoder.layer.0.attention.attention.query.weight" in name for name in stored), "the published names"
    spec, model = rebuilt(page, config, stored, layout)
    image = torch.randn(3, spec.stem.channels, *spec.stem.size)
    expected = reference(image).logits
    assert expected.abs().max() > 0.5
    assert (model(image) - expected).abs().max() < 1e-5

    back = untranslate(model.state_dict(), page.LAYOUTS[layout])
    assert back.keys() == stored.keys()
    assert all(torch.equal(back[name], stored[name]) for name in stored)
    assert page.from_config({**config, **page.to_config(spec)}) == spec
    assert page.from_config(page.to_config(spec)) == spec


@pytest.mark.parametrize("name", ["ViTForImageClassification", "DeiTForImageClassificationWithTeacher"])
@torch.no_grad()
def test_other_image_sizes_are_those_of_transformers(name, tmp_path):
    reference, config, stored = theirs(name, tmp_path)
    model = rebuilt(deit if name.startswith("DeiT") else vit, config, stored)[1]
    image = torch.randn(2, 3, 48, 24)
    expected = reference(image, interpolate_pos_encoding=True).logits
    assert (model(image) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["ViTForImageClassification", "DeiTForImageClassificationWithTeacher"])
@torch.no_grad()
def test_transformers_reads_what_we_write(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    save_file = pytest.importorskip("safetensors.torch").save_file
    page, make = (deit, deit.deit) if name.startswith("DeiT") else (vit, vit.vit)
    spec = make("micro_32", patch=4, image_size=16, classes=5)
    model = spec.build().eval()
    (tmp_path / "config.json").write_text(json.dumps(page.to_config(spec)))
    written = untranslate(model.state_dict(), page.LAYOUTS["hf"])
    save_file({key: t.contiguous() for key, t in written.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    reference, report = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    image = torch.randn(2, 3, 16, 16)
    assert (reference.eval()(image).logits - model(image)).abs().max() < 1e-5


@pytest.mark.parametrize("listing", LISTED)
def test_our_weights_in_their_layout_and_back(listing):
    """The names and shapes of the whole published checkpoint, without its bytes; then bytes, two blocks deep."""
    page, layout, name = LISTED[listing]
    rules = page.LAYOUTS[layout]
    with torch.device("meta"):
        whole = untranslate(page.VARIANTS[name]().build().state_dict(), rules)
    assert {key: list(t.shape) for key, t in whole.items()} == listed(listing)

    spec = page.VARIANTS[name](image_size=64)
    small = {"dim": 24, "heads": 3}
    heads = spec.head.replace(dim=24, classes=5)
    spec = spec.replace(stem=spec.stem.replace(dim=24), trunk=spec.trunk.replace(**small, depth=2), head=heads)
    model = spec.build()
    ours = model.state_dict()
    back = translate(untranslate(ours, rules), rules, shapes(model))
    assert back.keys() == ours.keys() and all(torch.equal(back[key], ours[key]) for key in ours)


def test_a_pooler_is_dropped_and_strangers_are_not():
    model = vit.vit("micro_32", patch=4, image_size=16, classes=5).build()
    stored = untranslate(model.state_dict(), vit.LAYOUTS["hf"])
    pooled = {**stored, "vit.pooler.dense.weight": torch.zeros(128, 128), "vit.pooler.dense.bias": torch.zeros(128)}
    assert translate(pooled, vit.LAYOUTS["hf"], shapes(model)).keys() == model.state_dict().keys()
    with pytest.raises(InputError, match=r"no rule for the checkpoint's vit\.mask_token"):
        translate({**stored, "vit.mask_token": torch.zeros(1)}, vit.LAYOUTS["hf"], shapes(model))
    del stored["classifier.weight"]
    with pytest.raises(InputError, match=r"head\.scores\.weight"):
        translate(stored, vit.LAYOUTS["hf"], shapes(model))


@torch.no_grad()
def test_googles_arrays():
    """Kernels of Flax hold heads apart, input before output, and pixels before channels."""
    model = vit.vit("micro_32", patch=4, image_size=16, classes=5).build()
    ours = model.state_dict()
    flax: dict[str, torch.Tensor] = {
        "cls": rearrange(ours["stem.special"], "1 d -> 1 1 d"),
        "embedding/kernel": rearrange(ours["stem.patch.weight"], "d v r c -> r c v d"),
        "embedding/bias": ours["stem.patch.bias"],
        "Transformer/posembed_input/pos_embedding": rearrange(ours["stem.positions.table"], "n d -> 1 n d"),
        "Transformer/encoder_norm/scale": ours["trunk.norm.weight"],
        "Transformer/encoder_norm/bias": ours["trunk.norm.bias"],
        "head/kernel": ours["head.scores.weight"].T,
        "head/bias": ours["head.scores.bias"],
    }
    for i in range(6):
        block, mine = f"Transformer/encoderblock_{i}", f"trunk.blocks.{i}"
        for n, part in {0: "attn", 2: "mlp"}.items():
            for a, b in {"scale": "weight", "bias": "bias"}.items():
                flax[f"{block}/LayerNorm_{n}/{a}"] = ours[f"{mine}.{part}_residual.norm.{b}"]
        attn = f"{block}/MultiHeadDotProductAttention_1"
        for a, b in {"query": "q", "key": "k", "value": "v"}.items():
            flax[f"{attn}/{a}/kernel"] = rearrange(ours[f"{mine}.attn.{b}.weight"], "(h e) d -> d h e", h=4)
            flax[f"{attn}/{a}/bias"] = rearrange(ours[f"{mine}.attn.{b}.bias"], "(h e) -> h e", h=4)
        flax[f"{attn}/out/kernel"] = rearrange(ours[f"{mine}.attn.out.weight"], "d (h e) -> h e d", h=4)
        flax[f"{attn}/out/bias"] = ours[f"{mine}.attn.out.bias"]
        for n, part in enumerate(("rise", "fall")):
            flax[f"{block}/MlpBlock_3/Dense_{n}/kernel"] = ours[f"{mine}.mlp.{part}.weight"].T
            flax[f"{block}/MlpBlock_3/Dense_{n}/bias"] = ours[f"{mine}.mlp.{part}.bias"]
    read = translate(flax, vit.LAYOUTS["jax"], shapes(model))
    assert read.keys() == ours.keys() and all(torch.equal(read[name], ours[name]) for name in ours)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"qkv_bias": False}, "qkv_bias False"),
        ({"model_type": "dinov2"}, "model_type 'dinov2'"),
        ({"hidden_act": "mish"}, "hidden_act 'mish' is not known"),
        ({"hidden_act": "gelu_knew"}, "did you mean 'gelu_new'"),
        ({"hidden_size": "wide"}, "'hidden_size' must be a whole number"),
        ({"hidden_size": 25}, "25 is not divisible by heads 3"),
        ({"layer_norm_eps": -1}, "'layer_norm_eps' must be at least 0"),
        ({"image_size": [32, 32, 3]}, "'image_size' must be one whole number or two"),
        ({"image_size": 33}, "not tiled by patches of 8 x 8"),
        ({"id2label": []}, "'id2label' must name the classes"),
    ],
)
def test_configs_that_cannot_be_meant(changes, complaint):
    config = {"model_type": "vit", **TINY, **changes}
    with pytest.raises(ValueError, match=re.escape(complaint)):  # ours, or pydantic's around ours
        vit.from_config(config)


def test_classes_are_those_with_names():
    config = {"model_type": "vit", **TINY, "id2label": {str(i): str(i) for i in range(4)}}
    assert vit.from_config(config).head.classes == 4
    assert vit.from_config({"model_type": "vit"}).head.classes == 2, "as transformers has it"


@pytest.mark.parametrize(
    ("spec", "page", "complaint"),
    [
        (vit.vit("micro_32", pool="mean"), vit, "pool 'first'"),
        (vit.vit("micro_32", positions=SinCosGrid()), vit, "positions 'learned-grid'"),
        (vit.vit("micro_32", positions=NoGrid()), vit, "positions 'learned-grid'"),
        (vit.vit("micro_32"), deit, "special tokens 2"),
        (deit.deit("micro_32"), vit, "one classifier"),
    ],
)
def test_models_that_a_layout_cannot_compute(spec, page, complaint):
    with pytest.raises(InputError, match=complaint):
        page.to_config(spec)
