"""The convnets of the zoo are the published ones: counted to the last parameter, and the same function of an image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tessella.errors import InputError
from tessella.heads import Classes
from tessella.models import Encoder
from tessella.spec import from_dict, to_dict
from tessella.trunks.convnet import Entry, ResNet
from tessella.weights import translate, untranslate
from tessella.zoo import bit, regnet, resnet, vgg
from tessella.zoo.counts import multiply_adds, parameters

PAGES = (resnet, vgg, bit, regnet)
VARIANTS = {name: make for page in PAGES for name, make in page.VARIANTS.items()}

PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet18_cifar": 11_181_642 - 7_680,  # ten classes; counted with a 7 x 7 entry, 49 - 9 weights more a filter
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "resnetv2_50x1_bit": 25_549_352,
    "resnetv2_101x1_bit": 44_541_480,
    "resnetv2_50x3_bit": 217_319_080,
    "resnetv2_101x3_bit": 387_934_888,
    "resnetv2_152x2_bit": 236_335_208,
    "resnetv2_152x4_bit": 936_533_224,
    "regnety_032": 19_436_338,
    "regnety_040": 20_646_656,
    "regnety_080": 39_180_068,
    "regnety_120": 51_822_544,
    "regnety_160": 83_590_140,
    "regnety_320": 145_046_770,
}
BUFFERS = {
    "resnet18": 9_620,
    "resnet50": 53_173,
    "resnet101": 105_448,
    "resnet152": 151_579,
    "vgg16": 0,
    "vgg16_bn": 8_461,
    "resnetv2_50x1_bit": 0,
    "regnety_160": 122_875,
}
MACS = {
    ("resnet18", 224): 1_814_073_344,
    ("resnet50", 224): 4_089_184_256,
    ("resnet152", 224): 11_513_626_624,
    ("vgg16", 224): 15_470_264_320,
    ("vgg16_bn", 224): 15_470_264_320,
    ("resnetv2_50x1_bit", 224): 4_089_184_256,
    ("resnetv2_152x4_bit", 480): 839_254_016_000,
    ("regnety_160", 224): 15_911_510_272,
}


def empty(spec: Encoder) -> nn.Module:
    """Without values."""
    with torch.device("meta"):
        return spec.build()


def filled(spec: Encoder) -> nn.Module:
    """With random values everywhere, also where a fresh model has zeros and ones; in evaluation."""
    model = empty(spec).to_empty(device="cpu").eval()
    for tensor in model.state_dict().values():
        if not tensor.is_floating_point():
            tensor.fill_(3)
        elif tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5)
        else:
            wide = (3 / tensor[0].numel()) ** 0.5
            tensor.uniform_(-wide, wide)
    return model


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


# Counts


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_counted_to_the_last_one(name):
    spec = VARIANTS[name](classes=10) if "cifar" in name else VARIANTS[name]()
    assert parameters(spec) == PARAMETERS[name]


@pytest.mark.parametrize("name", BUFFERS)
def test_so_are_the_statistics_of_batchnorm(name):
    assert sum(b.numel() for b in empty(VARIANTS[name]()).buffers()) == BUFFERS[name]


@pytest.mark.parametrize(("name", "size"), MACS)
def test_multiply_adds(name, size):
    assert multiply_adds(VARIANTS[name](), (1, 3, size, size)) == pytest.approx(MACS[name, size], rel=0.01)


@pytest.mark.parametrize(("name", "published"), [("resnet20_cifar", 0.27e6), ("resnet56_cifar", 0.85e6)])
def test_the_papers_small_ones_have_its_number_of_parameters(name, published):
    assert round(parameters(VARIANTS[name](classes=10)), -4) == published


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        *((f"resnet{n}", n) for n in (18, 34, 50, 101, 152)),
        *((f"resnet{n}_cifar", n) for n in (20, 56)),
        ("vgg16", 16),
        ("resnetv2_50x1_bit", 50),
    ],
)
def test_the_name_says_how_many_layers_it_is_deep(name, layers):
    """Shortcuts lead around."""
    modules = empty(VARIANTS[name]()).named_modules()
    deep = [n for n, m in modules if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in n]
    assert len(deep) == layers


def test_widths_of_a_regnet_are_a_line_in_steps():
    assert regnet.stages(regnet.SIZES["160"]) == ((2, 4, 11, 1), (224, 448, 1232, 3024))
    for size in regnet.SIZES.values():
        depths, widths = regnet.stages(size)
        assert sum(depths) == size.depth and len(depths) == 4 and list(widths) == sorted(widths)
        assert all(width % size.group == 0 for width in widths)


@pytest.mark.parametrize("name", ["resnet_micro", "resnet_small", "resnet_medium", "resnet20_cifar", "resnet56_cifar"])
def test_small_ones_are_small(name):
    assert 0.25e6 < parameters(VARIANTS[name](classes=10)) < 4e6


# The catalog


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_a_card_and_takes_what_all_take(name):
    page = next(page for page in PAGES if name in page.VARIANTS)
    card = getattr(page, "CARDS", {}).get(name)
    if card and card.top1:
        assert card.source and card.licence and 0 < card.crop <= 1
        assert VARIANTS[name].keywords.get("image_size", 224) == card.size
    spec = VARIANTS[name](classes=7, image_size=64, channels=1)
    assert from_dict(json.loads(json.dumps(to_dict(spec))), Encoder) == spec
    if parameters(spec) < 2e6:
        assert spec.build().eval()(torch.randn(2, 1, 64, 64)).shape == (2, 7)


def test_a_vgg_for_small_images_reads_a_small_raster():
    spec = vgg.vgg(classes=10, image_size=32)
    assert spec.head.grid == (1, 1)
    assert empty(spec).head.first.in_features == 512
    with pytest.raises(InputError, match="one of 16 pixels is too small"):
        vgg.vgg(image_size=16)


# Layouts


@pytest.fixture(scope="session")
def listings() -> Path:
    """Published checkpoints' names and shapes, one text file each."""
    folder = Path(__file__).parents[2] / "shared" / "keys"
    if not folder.is_dir():
        pytest.skip(f"no listings of published checkpoints in {folder}")
    return folder


def listed(path: Path) -> dict[str, tuple[int, ...]]:
    rows = (line.split("\t") for line in path.read_text().splitlines())
    return {row[0]: tuple(json.loads(row[1])) for row in rows}


LISTED = {
    "torchvision_resnet50": ("resnet50", resnet.LAYOUTS["torchvision"]),
    "torchvision_resnet152": ("resnet152", resnet.LAYOUTS["torchvision"]),
    "timm_resnet50": ("resnet50", resnet.LAYOUTS["timm"]),
    "torchvision_vgg16": ("vgg16", vgg.LAYOUTS["torchvision"]),
    "timm_resnetv2_50x1_bit": ("resnetv2_50x1_bit", bit.LAYOUTS["timm"]),
    "timm_regnety_160": ("regnety_160", regnet.LAYOUTS["timm"]),
}


@pytest.mark.parametrize("listing", LISTED)
def test_our_weights_in_their_layout_and_back(listing, listings):
    name, rules = LISTED[listing]
    state = filled(VARIANTS[name]()).state_dict()
    theirs = untranslate(state, rules)
    assert {key: tuple(tensor.shape) for key, tensor in theirs.items()} == listed(listings / f"{listing}.txt")
    back = translate(theirs, rules, {key: tuple(tensor.shape) for key, tensor in state.items()})
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("name", ["resnet18", "resnet20_cifar", "resnet_small", "resnet56_cifar", "vgg16_bn"])
def test_torchvisions_layout_has_a_place_for_the_others(name):
    page = vgg if name.startswith("vgg") else resnet
    state = empty(VARIANTS[name]()).state_dict()
    theirs = untranslate(state, page.LAYOUTS["torchvision"])
    assert len(theirs) == len(state)
    assert (
        translate(theirs, page.LAYOUTS["torchvision"], {k: tuple(t.shape) for k, t in state.items()}).keys()
        == state.keys()
    )


@pytest.mark.parametrize("name", regnet.VARIANTS)
def test_timms_layout_has_a_place_for_every_regnet(name):
    state = empty(VARIANTS[name]()).state_dict()
    assert len(untranslate(state, regnet.LAYOUTS["timm"])) == len(state)


# Parity with transformers

RESNET = {
    "basic": {"embedding_size": 8, "hidden_sizes": [8, 12, 20], "depths": [2, 1, 2], "layer_type": "basic"},
    "bottleneck": {"embedding_size": 8, "hidden_sizes": [16, 24], "depths": [1, 2], "layer_type": "bottleneck"},
    "halving at once": {
        "embedding_size": 8,
        "hidden_sizes": [8, 12],
        "depths": [1, 2],
        "layer_type": "basic",
        "downsample_in_first_stage": True,
    },
}
BIT = {"embedding_size": 32, "hidden_sizes": [128, 256], "depths": [1, 2]}


def theirs(model_type: str, folder: Path, **config):
    """A random classifier of transformers, and its folder as they save it."""
    transformers = pytest.importorskip("transformers")
    kinds = {
        "resnet": (transformers.ResNetConfig, transformers.ResNetForImageClassification),
        "bit": (transformers.BitConfig, transformers.BitForImageClassification),
    }
    make_config, make_model = kinds[model_type]
    model = make_model(make_config(num_labels=7, **config)).eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(("page", "config"), [*((resnet, c) for c in RESNET.values()), (bit, BIT)])
@pytest.mark.parametrize(("rows", "cols"), [(64, 64), (45, 70)])
def test_the_same_logits_as_transformers(page, config, rows, cols, tmp_path):
    peer = theirs(page.__name__.rpartition(".")[2], tmp_path, **config)
    spec = page.from_config(json.loads((tmp_path / "config.json").read_text()))
    model = spec.build().eval()
    state = translate(load_file(tmp_path / "model.safetensors"), page.LAYOUTS["hf"], shapes(model))
    model.load_state_dict(state)
    image = torch.randn(3, 3, rows, cols)
    with torch.no_grad():
        expected = peer(image).logits
        torch.testing.assert_close(model(image), expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.01, "something to compare"


@pytest.mark.parametrize(
    ("page", "config"), [(resnet, RESNET["basic"]), (resnet, RESNET["halving at once"]), (bit, BIT)]
)
def test_transformers_loads_what_we_write(page, config, tmp_path):
    transformers = pytest.importorskip("transformers")
    name = page.__name__.rpartition(".")[2]
    spec = page.from_config({"model_type": name, "num_labels": 5, **config})
    written = page.to_config(spec)
    assert page.from_config(json.loads(json.dumps(written))) == spec
    model = filled(spec)
    (tmp_path / "config.json").write_text(json.dumps(written))
    tensors = {key: tensor.contiguous() for key, tensor in untranslate(model.state_dict(), page.LAYOUTS["hf"]).items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, report = transformers.AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(image), loaded.eval()(image).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet152", "resnetv2_50x1_bit", "resnetv2_152x4_bit"])
def test_published_sizes_can_be_said_in_a_config(name):
    page = bit if "v2" in name else resnet
    spec = VARIANTS[name](classes=11)
    assert page.from_config(page.to_config(spec)) == spec


@pytest.mark.parametrize(
    ("page", "config", "says"),
    [
        (resnet, {"model_type": "vit"}, "model_type 'vit'"),
        (resnet, {"hidden_act": "gelu"}, "hidden_act 'gelu'; models are supported with 'relu'"),
        (resnet, {"downsample_in_bottleneck": True}, "downsample_in_bottleneck True"),
        (resnet, {"layer_type": "bottelneck"}, "layer_type 'bottelneck' is not known.*bottleneck"),
        (resnet, {"depths": [1, 2]}, "one of each for every stage"),
        (resnet, {"depths": [1, 2, 0, 1]}, "'depths' must be a whole number from 1"),
        (resnet, {"depths": 4}, "'depths' must be a list of whole numbers, got 4"),
        (bit, {"layer_type": "bottleneck"}, "layer_type 'bottleneck'"),
        (bit, {"global_padding": "SAME"}, "global_padding 'SAME'"),
        (bit, {"hidden_sizes": "wide"}, "'hidden_sizes' must be a list"),
    ],
)
def test_configs_that_mean_something_else_are_refused(page, config, says):
    with pytest.raises(InputError, match=says) as refused:
        page.from_config({"model_type": page.__name__.rpartition(".")[2], **config})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("page", "spec", "says"),
    [
        (resnet, resnet.resnet("resnet18_cifar"), "first convolution 7, but the model has 3"),
        (resnet, resnet.resnet("resnet20_cifar"), "but the model has"),
        (resnet, bit.bit(), "no ResNet layout"),
        (resnet, resnet.classifier(ResNet(norm="group"), 3), "needs norm 'batch', but the model has 'group'"),
        (resnet, resnet.classifier(ResNet(first=3), 3), "stride of 1 or 2 in the first stage"),
        (bit, resnet.resnet(), "no BiT layout"),
        (bit, bit.bit().replace(trunk=bit.bit().trunk.replace(entry=Entry(width=64))), "needs pool 'max-of-zeros'"),
        (vgg, None, ""),
    ],
)
def test_models_that_a_layout_cannot_say_are_refused(page, spec, says):
    if spec is None:
        assert not hasattr(page, "to_config"), "transformers has no VGG"
        return
    with pytest.raises(InputError, match=says):
        page.to_config(spec)


def test_a_checkpoint_of_another_size_is_refused():
    state = untranslate(empty(VARIANTS["resnet18"]()).state_dict(), resnet.LAYOUTS["torchvision"])
    with pytest.raises(InputError, match="the checkpoint"):
        translate(state, resnet.LAYOUTS["torchvision"], shapes(empty(VARIANTS["resnet50"]())))
    with pytest.raises(InputError, match="7 x 512"):
        translate(state, resnet.LAYOUTS["torchvision"], shapes(empty(VARIANTS["resnet18"](classes=7))))


def test_the_head_reads_the_mean():
    head = resnet.resnet("resnet_micro").head
    assert isinstance(head, Classes) and head.pool == "mean"
