"""Swin's page: published sizes to the last parameter, and the same logits as transformers' in four layouts' weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tessella.errors import InputError
from tessella.files import read_json, read_tensors
from tessella.models import Encoder
from tessella.spec import from_dict, to_dict
from tessella.trunks import swin as trunk
from tessella.weights import translate, untranslate
from tessella.windows import Tiling, tiling
from tessella.zoo.counts import multiply_adds, parameters
from tessella.zoo.swin import CARDS, LAYOUTS, SIZES, VARIANTS, buffers, from_config, swin, to_config

COUNTS = {
    "swin_tiny_patch4_window7_224": (28_288_354, 4_490_566_656),
    "swin_small_patch4_window7_224": (49_606_258, 8_740_875_264),
    "swin_base_patch4_window7_224": (87_768_224, 15_430_946_816),
    "swin_base_patch4_window12_384": (87_903_584, 47_083_134_976),
    "swin_large_patch4_window7_224": (196_532_476, 34_475_759_616),
    "swin_large_patch4_window12_384": (196_735_516, 103_919_087_616),
}
LISTINGS = {
    "hf": "v4_hf_SwinForImageClassification_tiny_w7",
    "timm": "timm_swin_tiny_patch4_window7_224",
    "torchvision": "torchvision_swin_t",
    "microsoft": "ms_Swin_tiny",
}
TINY = {
    "image_size": 24,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [2, 2, 2],
    "num_heads": [1, 2, 4],
    "window_size": 3,
    "num_labels": 5,
    "drop_path_rate": 0.2,
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes_have_their_parameters_and_multiply_adds(name):
    model, side = VARIANTS[name](), CARDS[name].size
    count, macs = COUNTS[name]
    assert parameters(model) == count
    assert multiply_adds(model, (1, 3, side, side)) == pytest.approx(macs, rel=0.001)


def test_cost_grows_with_the_pixels():
    model = swin("tiny")
    once, twice = (multiply_adds(model, (1, 3, side, side)) for side in (224, 448))
    assert twice / once == pytest.approx(4.0, abs=0.005)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in COUNTS])
def test_small_sizes_classify_small_images(name):
    model = VARIANTS[name]()
    assert 3e5 < parameters(model) < 4e6
    assert from_dict(json.loads(json.dumps(to_dict(model))), Encoder) == model
    built, side = model.build(), int(name.rpartition("_")[2])
    logits = built(torch.randn(2, model.stem.channels, side, side))
    assert logits.shape == (2, 10)
    logits.square().sum().backward()
    deaf = [n for n, p in built.named_parameters() if not p.grad.isfinite().all() or not p.grad.any()]
    assert not [n for n in deaf if not n.endswith(".k.bias")], "keys' bias moves no softmax"


def test_windows_are_no_larger_than_the_raster():
    assert swin("tiny", image_size=160).trunk.windows == (7, 7, 7, 5)
    assert swin("tiny", image_size=(64, 448)).trunk.windows == (7, 7, 4, 2)
    assert swin("nano", image_size=30, window=8, patch=2).trunk.windows == (8, 8, 4)
    with pytest.raises(InputError, match="smaller than a patch"):
        swin("tiny", image_size=3)


@pytest.mark.parametrize("size", [(224, 160), (33, 65), (5, 300)])
def test_any_image_goes(size):
    built = swin("pico", classes=4).build().eval()
    with torch.no_grad():
        assert built(torch.randn(1, 3, *size)).isfinite().all()


def test_a_traced_program_takes_any_batch():
    built, image = swin("pico", image_size=30, window=4, patch=2).build().eval(), torch.randn(3, 3, 30, 34)
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(built, (image,), dynamic_shapes=shapes).module()
    with torch.no_grad():
        for batch in (3, 1):
            torch.testing.assert_close(program(image[:batch]), built(image[:batch]))


@pytest.mark.parametrize("layout", LISTINGS)
def test_a_layout_is_the_listed_one_and_comes_back(layout):
    listing = Path(__file__).parents[2] / "shared" / "keys" / f"{LISTINGS[layout]}.txt"
    if not listing.exists():
        pytest.skip(f"no listing of another library's weights at {listing.name}")
    model = swin("tiny")
    ours = {name: torch.randn(p.shape) for name, p in meta(model).items()}
    theirs = untranslate(ours, LAYOUTS[layout])
    assert not theirs.keys() & buffers(model, layout).keys()
    written = {**theirs, **buffers(model, layout)}
    listed = {}
    for line in listing.read_text().splitlines():
        name, shape, kind, _ = line.split("\t")
        if not name.endswith("attn_mask"):  # made anew for an image size
            listed[name] = (tuple(json.loads(shape)), f"torch.{kind}")
    assert {name: (tuple(t.shape), str(t.dtype)) for name, t in written.items()} == listed
    back = translate(written, LAYOUTS[layout], {name: t.shape for name, t in ours.items()})
    assert all(torch.equal(back[name], ours[name]) for name in ours)


def test_microsofts_masks_are_left_out():
    ours = {name: torch.zeros(p.shape) for name, p in meta(swin("pico")).items()}
    theirs = {**untranslate(ours, LAYOUTS["microsoft"]), "layers.0.blocks.1.attn_mask": torch.zeros(4, 49, 49)}
    assert translate(theirs, LAYOUTS["microsoft"], {name: t.shape for name, t in ours.items()}).keys() == ours.keys()


@pytest.mark.parametrize(
    "changes", [{}, {"mlp_ratio": 2.0, "num_channels": 1}, {"window_size": 2, "depths": [1, 3, 2], "image_size": 16}]
)
def test_logits_are_theirs(tmp_path, changes):
    theirs, config = published(tmp_path, **changes)
    model, ours = imported(tmp_path, config)
    image = torch.randn(2, config["num_channels"], config["image_size"], config["image_size"])
    with torch.no_grad():
        expected = theirs(image).logits
        assert expected.abs().max() > 0.5
        assert (ours(image) - expected).abs().max() < 1e-5

    stored = read_tensors(tmp_path / "model.safetensors")
    back = untranslate(ours.state_dict(), LAYOUTS["hf"])
    assert {n: t for n, t in stored.items() if not n.endswith("relative_position_index")}.keys() == back.keys()
    assert all(torch.equal(back[name], stored[name]) for name in back)
    assert from_config({**config, **to_config(model)}) == model


def test_what_we_export_transformers_reads(tmp_path):
    transformers = pytest.importorskip("transformers")
    from tessella.files import save_tensors

    model = from_config(TINY)
    ours = randomised(model.build()).eval()
    (tmp_path / "config.json").write_text(json.dumps(to_config(model, image_size=24)))
    save_tensors(tmp_path / "model.safetensors", untranslate(ours.state_dict(), LAYOUTS["hf"]))
    theirs = transformers.SwinForImageClassification.from_pretrained(tmp_path).eval()
    image = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        assert (ours(image) - theirs(image).logits).abs().max() < 1e-5


def test_only_the_hidden_padding_sets_us_apart_from_theirs(tmp_path, monkeypatch):
    """Where windows do not tile: their tokens look at the padding and ours do not; that, and nothing else, differs."""
    theirs, config = published(tmp_path)
    _, ours = imported(tmp_path, config)
    image = torch.randn(2, 3, 44, 52)  # rasters of 22 x 26, 11 x 13 and 6 x 7 for windows of 3
    with torch.no_grad():
        expected, hidden = theirs(image).logits, ours(image)

        def seen(grid, window, shifted, device) -> Tiling:
            whole = tuple(-(-n // window) * window for n in grid)
            return tiling(grid, window, shifted, device)._replace(mask=tiling(whole, window, shifted, device).mask)

        monkeypatch.setattr(trunk, "tiling", seen)
        shown = ours(image)
    assert (shown - expected).abs().max() < 1e-5
    assert (hidden - expected).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"use_absolute_embeddings": True}, "use_absolute_embeddings"),
        ({"qkv_bias": False}, "qkv_bias"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"num_heads": [1, 2]}, "a number each a stage"),
        ({"num_heads": [3, 2, 4]}, "not divisible"),
        ({"embed_dim": "wide"}, "embed_dim"),
        ({"depths": 2}, "depths"),
        ({"mlp_ratio": -1}, "ratio"),
        ({"patch_size": [4, 2]}, "patch_size"),
        ({"model_type": "swinv2"}, "model_type"),
    ],
)
def test_configs_that_mean_something_else_are_refused(changes, complaint):
    with pytest.raises(InputError, match=complaint):
        from_config({**TINY, **changes})


def test_models_that_their_swin_cannot_compute_are_refused():
    with pytest.raises(InputError, match="windows of one size"):
        to_config(swin("tiny", image_size=160))
    narrow = swin("pico", window=2)
    with pytest.raises(InputError, match="pool"):
        to_config(narrow.replace(head=narrow.head.replace(pool="first")))


def test_sizes_agree_with_the_paper():
    assert all(dim // heads[0] == 32 for dim, _, heads, _ in list(SIZES.values())[:4])


def meta(model: Encoder) -> dict[str, Tensor]:
    with torch.device("meta"):
        return model.build().state_dict()


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Weights as if trained: theirs begin with zeros in tables and ones in norms."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def published(folder: Path, **changes):
    """A folder as on the Hub, the model in it, and what its config.json says."""
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(**{**TINY, **changes})
    theirs = randomised(transformers.SwinForImageClassification(config)).eval()
    theirs.save_pretrained(folder)
    return theirs, read_json(folder / "config.json")


def imported(folder: Path, config) -> tuple[Encoder, torch.nn.Module]:
    """Our model with the weights of a folder."""
    model = from_config(config)
    built = model.build().eval()
    shapes = {name: t.shape for name, t in built.state_dict().items()}
    built.load_state_dict(translate(read_tensors(folder / "model.safetensors"), LAYOUTS["hf"], shapes))
    return model, built
