"""Inference of images: a prepared classifier computes what the plain one does, in every family and type of number."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tessella.attention import Dot, watch
from tessella.heads import Classes, Distilled
from tessella.inference import products
from tessella.inference.attention import PowerDot, powers
from tessella.inference.prepare import prepare
from tessella.models import Encoder
from tessella.stems.patches import Patches, Pixels, Raster
from tessella.trunks.bit import BiT
from tessella.trunks.convnet import Entry, ResNet
from tessella.trunks.cvt import Cvt
from tessella.trunks.plain import Plain
from tessella.trunks.regnet import RegNet
from tessella.trunks.swin import Swin
from tessella.trunks.vgg import VGG

int8 = pytest.param("int8", marks=pytest.mark.skipif(not products.quantises(), reason="needs AVX-512"))


def classifier(stem, trunk, pool="mean"):
    return Encoder(stem=stem, trunk=trunk, head=Classes(dim=trunk.width, classes=7, pool=pool))


def vit(activation="gelu", pool="first"):
    trunk = Plain(dim=32, depth=2, heads=2, hidden=48, dropout=0.0, activation=activation, norm="pre")
    return classifier(Patches(dim=32, patch=8, size=(32, 32)), trunk, pool)


ENTRY = Entry(width=16, size=3, stride=2, pool="max")
FAMILIES = {
    "vit": vit(),
    "vit quick-gelu": vit("quick-gelu", "mean"),
    "deit": Encoder(stem=Patches(dim=32, patch=8, size=(32, 32), special=2), trunk=vit().trunk,
                    head=Distilled(dim=32, classes=7)),
    "swin": classifier(Raster(dim=16), Swin(dim=16, depths=(2, 2), heads=(1, 2), windows=(4, 4))),
    "swin, padded": classifier(Raster(dim=16), Swin(dim=16, depths=(2, 2), heads=(1, 2), windows=(3, 3))),
    "cvt": classifier(Pixels(), Cvt(widths=(16, 32), depths=(1, 2), heads=(1, 2), kernels=(7, 3), strides=(4, 2),
                                    paddings=(2, 1), drop_path=(0.0, 0.0)), "first"),
    "resnet": classifier(Pixels(), ResNet(entry=ENTRY, depths=(1, 2), widths=(16, 32))),
    "resnet, deep": classifier(Pixels(), ResNet(entry=ENTRY, depths=(1, 1), widths=(32, 64), blocks="bottleneck")),
    "resnet, padded": classifier(Pixels(), ResNet(entry=ENTRY, depths=(1, 1), widths=(16, 32), shortcut="padded")),
    "regnet": classifier(Pixels(), RegNet(entry=ENTRY, depths=(1, 1), widths=(16, 32))),
    "bit": classifier(Pixels(), BiT(entry=Entry(width=32, size=3), depths=(1, 1), widths=(128, 256))),
    "vgg": classifier(Pixels(), VGG(depths=(1, 2), widths=(16, 32))),
    "vgg, batch norm": classifier(Pixels(), VGG(depths=(1, 2), widths=(16, 32), norm="batch")),
}  # fmt: skip


def strong(spec):
    """A model whose answers differ and whose norms have seen data."""
    torch.manual_seed(0)
    model = spec.build().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    for name, parameter in model.named_parameters():
        if name.endswith(("table", "scores.weight")):
            nn.init.normal_(parameter, 0, 0.5)
    return model


def images(b=3, size=32):
    return torch.randn(b, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_in_float32_the_answers_are_the_same(family):
    model = strong(FAMILIES[family])
    fast = prepare(copy.deepcopy(model), "float32")
    with torch.inference_mode():
        for size in (32, 64, 32):  # what is kept ready for a size must not be used for another
            expected, found = model(images(size=size)), fast(images(size=size))
            assert (found - expected).abs().max() < 1e-5 * max(1, expected.abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_in_bfloat16_the_error_is_no_larger_than_that_of_plain_bfloat16(family):
    model = strong(FAMILIES[family])
    plain, fast = copy.deepcopy(model).to(torch.bfloat16), prepare(copy.deepcopy(model), "bfloat16")
    x = images(16)
    with torch.inference_mode():
        expected = model(x)
        errors = [(m(x.bfloat16()).float() - expected).pow(2).mean().sqrt() for m in (fast, plain)]
    assert errors[0] < 1.25 * errors[1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.skipif(not products.quantises(), reason="needs AVX-512")
def test_in_int8_the_answers_are_near(family):
    model = strong(FAMILIES[family])
    fast = prepare(copy.deepcopy(model), "int8")
    with torch.inference_mode():
        expected = model(images(8))
        assert (fast(images(8)) - expected).pow(2).mean().sqrt() < 0.1 * expected.std()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", int8])
@pytest.mark.parametrize("family", ["vit", "swin", "swin, padded", "cvt"])
def test_watching_sees_the_same_maps_and_changes_nothing(family, dtype):
    model = strong(FAMILIES[family])
    fast = prepare(copy.deepcopy(model), dtype)
    x = images()
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    with torch.inference_mode():
        with watch(model) as plain:
            model(x)
        before = fast(x.to(kind))
        with watch(fast) as seen:
            during = fast(x.to(kind))
    assert list(plain) == list(seen)
    assert all((plain[name] - seen[name]).abs().max() < (1e-5 if dtype == "float32" else 0.1) for name in plain)
    assert (before - during).abs().max() < (1e-5 if dtype == "float32" else 0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_its_type_of_number_can_be_asked(family):
    """Of what is left of its state, as a classifier does that feeds it."""
    fast = prepare(strong(FAMILIES[family]), "bfloat16")
    assert {t.dtype for t in fast.state_dict().values() if t.is_floating_point()} == {torch.bfloat16}


def test_no_norm_is_left_beside_a_convolution():
    for family in ("cvt", "resnet", "regnet", "vgg, batch norm"):
        fast = prepare(strong(FAMILIES[family]))
        assert not [m for m in fast.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def test_without_the_private_operations_it_is_slower_and_equal(monkeypatch):
    monkeypatch.setattr("tessella.inference.products.packs", lambda weight: False)
    for family in ("vit quick-gelu", "cvt", "resnet"):
        model = strong(FAMILIES[family])
        with torch.inference_mode():
            expected = model(images())
            found = prepare(model)(images())
        assert (found - expected).abs().max() < 1e-5 * max(1, expected.abs().max())


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 9), m=st.integers(1, 9), heads=st.integers(1, 3), w=st.integers(1, 2), room=st.integers(1, 400))
def test_powers_are_softmax(n, m, heads, w, room):
    q, k, v = torch.randn(4, heads, n, 5), torch.randn(4, heads, m, 5), torch.randn(4, heads, m, 5)
    bias = torch.randn(w * heads, n, m)
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) * math.log(2) + bias.view(w, heads, n, m).repeat(4 // w, 1, 1, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tessella.inference.attention.ROOM", room)
        found = powers(q, k, v, bias.exp())
    assert found is not None and torch.allclose(found, scores.softmax(-1) @ v, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [3e2, -3e2])
def test_scores_that_would_overflow_or_vanish_are_computed_as_ever(kind, size):
    q = torch.full((1, 1, 2, 1), 1.0, dtype=kind)
    k = torch.tensor([size, size + 2, size - 6], dtype=kind).view(1, 1, 3, 1)
    v = torch.eye(3, dtype=kind)[None, None]
    assert powers(q, k, v) is None
    expected = Dot(scale=math.log(2))(q.float(), k.float(), v.float())
    assert (PowerDot()(q, k, v).float() - expected).abs().max() < 0.01


@pytest.mark.parametrize(("name", "count"), [("vit", 1), ("deit", 2), ("cvt", 1)])
def test_a_last_block_computes_what_is_read(name, count):
    """Class tokens only; all tokens while somebody watches."""
    model = prepare(strong(FAMILIES[name]))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        few = model.features(images)
        with watch(model):
            all_of_them = model.features(images)
    assert few.x.shape[1] == count and all_of_them.x.shape[1] > count
    torch.testing.assert_close(few.x, all_of_them.x[:, :count], atol=1e-4, rtol=1e-4)


def test_a_mean_needs_every_token():
    with torch.no_grad():
        assert prepare(strong(FAMILIES["vit quick-gelu"])).features(torch.randn(1, 3, 32, 32)).x.shape[1] > 2
