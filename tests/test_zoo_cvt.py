"""CvT's sizes to the last digit, and its weights in Microsoft's and in transformers' layouts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tessella.errors import InputError
from tessella.weights import translate, untranslate
from tessella.zoo.counts import multiply_adds, parameters
from tessella.zoo.cvt import CARDS, LAYOUTS, VARIANTS, cvt, from_config, to_config

COUNTS = {
    "cvt_13": (19_997_480, 25_767, 4_566_089_216),
    "cvt_13_384": (19_997_480, 25_767, 16_269_359_616),
    "cvt_21": (31_622_696, 41_919, 7_177_985_024),
    "cvt_21_384": (31_622_696, 41_919, 24_849_091_584),
    "cvt_w24_384": (277_196_392, 134_472, 194_221_654_016),
}
TINY = {
    "embed_dim": [16, 24, 32],
    "num_heads": [1, 3, 4],
    "depth": [1, 2, 3],  # transformers' CvT cannot be built with fewer blocks than the number of the stage
    "num_labels": 7,
}
LISTED = {"ms_CvT13": "microsoft", "v4_hf_CvtForImageClassification_13": "hf"}


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def theirs(folder: Path, **changes):
    """A random model of transformers with lively weights, as a folder, and its config.json and tensors."""
    transformers = pytest.importorskip("transformers")
    model = transformers.CvtForImageClassification(transformers.CvtConfig(**{**TINY, **changes})).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.5 if parameter.dim() == 1 else 0.0, 0.3)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.5)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    model.save_pretrained(folder)
    return model, json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


@pytest.mark.parametrize("name", COUNTS)
def test_sizes_are_exact(name):
    learned, kept, macs = COUNTS[name]
    spec, side = VARIANTS[name](), CARDS[name].size
    assert parameters(spec) == learned
    assert multiply_adds(spec, (1, 3, side, side)) == macs
    with torch.device("meta"):
        assert sum(buffer.numel() for buffer in spec.build().buffers()) == kept


@pytest.mark.parametrize(("name", "side"), [("cvt_nano", 4), ("cvt_micro", 8), ("cvt_small", 8)])
def test_small_ones_are_small_and_keep_the_raster_fine(name, side):
    spec = VARIANTS[name](classes=10)
    assert 3e5 < parameters(spec) < 4.1e6
    assert spec.build().features(torch.zeros(1, 3, 32, 32)).grid == (side, side)


def test_paths_are_dropped_in_the_last_stage():
    assert cvt("13").trunk.drop_path == (0.0, 0.0, 0.1)
    assert cvt("w24").trunk.drop_path == (0.0, 0.0, 0.3)
    assert cvt("13", drop_path=0.0).trunk.drop_path == (0.0, 0.0, 0.0)


CASES = {
    "as published": {},
    "other numbers": {"stride_kv": [1] * 3, "mlp_ratio": [2.0] * 3, "num_channels": 1, "patch_padding": [3, 1, 0]},
}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_are_those_of_transformers_with_its_activation(case, tmp_path):
    reference, config, stored = theirs(tmp_path, **CASES[case])
    spec = from_config(config, activation="gelu")
    model = spec.build().eval()
    model.load_state_dict(translate(stored, LAYOUTS["hf"], shapes(model)))
    image = torch.randn(2, spec.stem.dim, 64, 48)
    expected = reference(image).logits
    assert expected.abs().max() > 0.5
    assert (model(image) - expected).abs().max() < 1e-5

    back = untranslate(model.state_dict(), LAYOUTS["hf"])
    assert back.keys() == stored.keys()
    assert all(torch.equal(back[name], stored[name]) for name in stored)
    assert from_config({**config, **to_config(spec)}) == spec
    assert from_config(to_config(spec)) == spec


@torch.no_grad()
def test_published_weights_get_the_activation_they_were_trained_with(tmp_path):
    """transformers computes another one with them, which is why the logits differ."""
    reference, config, stored = theirs(tmp_path)
    spec = from_config(config)
    assert spec.trunk.activation == "quick-gelu"
    model = spec.build().eval()
    model.load_state_dict(translate(stored, LAYOUTS["hf"], shapes(model)))
    image = torch.randn(2, 3, 64, 64)
    difference = (model(image) - reference(image).logits).abs().max()
    assert 1e-4 < difference < 1
    reference.apply(with_quick_gelu)
    assert (model(image) - reference(image).logits).abs().max() < 1e-5


def with_quick_gelu(module: nn.Module) -> None:
    """Microsoft's activation in a model of transformers."""
    if isinstance(getattr(module, "activation", None), nn.GELU):
        module.activation = Sigmoided()


class Sigmoided(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


@torch.no_grad()
def test_transformers_reads_what_we_write(tmp_path):
    transformers = pytest.importorskip("transformers")
    spec = from_config({"model_type": "cvt", **TINY}, activation="gelu")
    model = spec.build().eval()
    (tmp_path / "config.json").write_text(json.dumps(to_config(spec)))
    written = untranslate(model.state_dict(), LAYOUTS["hf"])
    save_file({name: t.contiguous() for name, t in written.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    kind = transformers.CvtForImageClassification
    reference, report = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    image = torch.randn(2, 3, 64, 48)
    assert (reference.eval()(image).logits - model(image)).abs().max() < 1e-5


@pytest.mark.parametrize("listing", LISTED)
def test_our_weights_in_their_layout_and_back(listing):
    path = Path(__file__).parents[2] / "shared" / "keys" / f"{listing}.txt"
    if not path.exists():
        pytest.skip(f"no listing of a published checkpoint at {path.name}")
    lines = (line.split("\t") for line in path.read_text().splitlines())
    rules = LAYOUTS[LISTED[listing]]
    model = cvt("13").build()
    ours = model.state_dict()
    written = untranslate(ours, rules)
    assert {name: list(t.shape) for name, t in written.items()} == {line[0]: json.loads(line[1]) for line in lines}
    back = translate(written, rules, shapes(model))
    assert back.keys() == ours.keys() and all(torch.equal(back[name], ours[name]) for name in ours)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"qkv_projection_method": ["avg"] * 3}, "qkv_projection_method ['avg', 'avg', 'avg']"),
        ({"kernel_qkv": [5, 5, 5]}, "kernel_qkv [5, 5, 5]"),
        ({"cls_token": [True, False, True]}, "cls_token [True, False, True]"),
        ({"stride_kv": [2, 2, 1]}, "'stride_kv' must be the same in every stage, got [2, 2, 1]"),
        ({"mlp_ratio": [4.0, 4.0, 2.5]}, "'mlp_ratio' must be a whole number"),
        ({"embed_dim": 64}, "'embed_dim' must be a list of one value a stage, got 64"),
        ({"embed_dim": [16, 24]}, "cls_token"),
        ({"depth": [1, 2, "ten"]}, "'depth' must be a whole number"),
        ({"depth": [1, 2]}, "depths has 2 stages, but widths has 3"),
        ({"drop_path_rate": [0, 0, 2]}, "'drop_path_rate' must be at least 0 and below 1, got 2"),
        ({"drop_path_rate": 0.1}, "'drop_path_rate' must be a list"),
        ({"cls_token": True}, "cls_token True"),
        ({"model_type": "swin"}, "model_type 'swin'"),
    ],
)
def test_configs_that_cannot_be_meant(changes, complaint):
    config = {"model_type": "cvt", **TINY, "cls_token": [False, False, True], **changes}
    with pytest.raises(ValueError, match=re.escape(complaint)):  # ours, or pydantic's around ours
        from_config(config)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"special": 2}, "special tokens 1"),
        ({"special": 0}, "special tokens 1"),
        ({"eps": 1e-6}, "eps 1e-05"),
        ({"depths": (1, 1, 4)}, "2 blocks or more in stage 2, not 1"),
    ],
)
def test_models_that_the_layout_cannot_compute(changes, complaint):
    spec = cvt("micro")
    with pytest.raises(InputError, match=complaint):
        to_config(spec.replace(trunk=spec.trunk.replace(**changes)))
