"""Convolutions do what is said of them: see so far, move with the image, take one image at a time."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tessella.errors import InputError
from tessella.heads import Classes
from tessella.models import Encoder, Model
from tessella.precision import CopiedWeights
from tessella.spec import from_dict, to_dict
from tessella.stems.patches import Pixels
from tessella.tokens import Tokens
from tessella.trunks.bit import BiT, GroupNormReLU, Preactivated, Standardised
from tessella.trunks.convnet import Convnet, Entry, Layer, Padded, Residual, ResNet, conv, raster, relu, seen
from tessella.trunks.regnet import RegNet, SqueezeExcite
from tessella.trunks.vgg import VGG
from tessella.vgg_head import VGGClasses

SMALL = Entry(width=8, size=3, stride=1, pool="none")
STAGES = {"depths": (2, 1), "widths": (16, 32)}
TRUNKS = {
    "basic": ResNet(entry=SMALL, **STAGES),
    "padded": ResNet(entry=SMALL, shortcut="padded", **STAGES),
    "bottleneck": ResNet(entry=Entry(width=8), blocks="bottleneck", **STAGES),
    "group-norm": ResNet(entry=Entry(width=32, size=3), norm="group", depths=(1, 1), widths=(32, 64)),
    "layer-norm": ResNet(entry=SMALL, norm="layer", **STAGES),
    "bit": BiT(entry=Entry(width=32, pool="max-of-zeros"), depths=(2, 1), widths=(128, 256)),
    "regnet": RegNet(entry=Entry(width=32, size=3, stride=2, pool="none"), group=8, **STAGES),
    "vgg": VGG(depths=(1, 2), widths=(8, 16)),
    "vgg-bn": VGG(depths=(1, 2), widths=(8, 16), norm="batch"),
}
BATCHED = ("basic", "padded", "bottleneck", "regnet", "vgg-bn")
settings.register_profile("few", max_examples=15, deadline=None)
settings.load_profile("few")


def model_of(name: str) -> Encoder:
    trunk = TRUNKS[name]
    if name.startswith("vgg"):
        head = VGGClasses(dim=trunk.width, classes=5, grid=(2, 2), hidden=24)
    else:
        head = Classes(dim=trunk.width, classes=5, pool="mean")
    return Encoder(stem=Pixels(), trunk=trunk, head=head)


@pytest.fixture(params=TRUNKS)
def name(request) -> str:
    return request.param


# What convolutions are


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.integers(1, 6))
def test_a_1x1_convolution_is_a_linear_layer(dim, width, rows, cols):
    one, linear = conv(dim, width, 1).double(), nn.Linear(dim, width, bias=False).double()
    linear.weight.data = one.weight.data[:, :, 0, 0]
    x = torch.randn(2, rows * cols, dim, dtype=torch.float64)
    tokens = Tokens(x, grid=(rows, cols))
    torch.testing.assert_close(seen(tokens, one(raster(tokens))).x, linear(x), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 15, 16])
def test_n_convolutions_of_3x3_see_2n_plus_1_pixels(n):
    """So 16 of them are needed to see across 32 pixels, not 15."""
    stack = nn.Sequential(*(conv(1, 1, 3) for _ in range(n))).double()
    for layer in stack:
        layer.weight.data.abs_()
    image = torch.zeros(1, 1, 41, 41, dtype=torch.float64, requires_grad=True)
    stack(image)[0, 0, 20, 20].backward()
    reached = image.grad[0, 0] != 0
    assert reached.any(0).sum() == reached.any(1).sum() == 2 * n + 1
    assert reached.sum() == (2 * n + 1) ** 2


@given(st.integers(-9, 9), st.integers(-9, 9), st.integers(3, 8), st.integers(3, 8))
def test_circular_convolutions_move_with_the_image_exactly(down, right, rows, cols):
    """Of whole numbers, so that nothing is rounded."""
    circular = partial(conv, of=partial(nn.Conv2d, padding_mode="circular"))
    net = nn.Sequential(
        Layer(circular(2, 4, 3), nn.Identity(), relu()),
        Residual(nn.Sequential(Layer(circular(4, 4, 3), nn.Identity(), relu()), circular(4, 4, 1)), nn.Identity()),
    )
    for p in net.parameters():
        p.data = torch.randint(-2, 3, p.shape).float()
    image = torch.randint(-3, 4, (1, 2, rows, cols)).float()
    move = partial(torch.roll, shifts=(down, right), dims=(2, 3))
    assert torch.equal(net(move(image)), move(net(image)))


def test_zeros_beyond_the_border_are_seen():
    """The borders are where an ordinary convnet knows where it is; the middle moves with the image."""
    model = model_of("basic").build().eval()
    stage = nn.Sequential(model.trunk.entry, model.trunk.stages[0])
    image = torch.randn(1, 3, 24, 24)
    moved, at_rest = stage(image.roll(1, 3)), stage(image).roll(1, 3)
    torch.testing.assert_close(moved[..., 7:-7], at_rest[..., 7:-7], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(moved, at_rest, atol=1e-3)


def test_depth_neither_grows_nor_shrinks_what_flows():
    """He et al. 2015: after many layers of convolution and ReLU the mean square is still of order 1."""
    layers = [m for _ in range(20) for m in (conv(64, 64, 3), relu())]
    out = nn.Sequential(*layers)(torch.randn(4, 64, 16, 16).relu() * 2**0.5)
    assert 0.1 < out.square().mean() < 10


@given(st.floats(0.5, 50), st.floats(-2, 2), st.integers(0, 3))
def test_standardised_filters_ignore_scale_and_shift(scale, shift, which):
    layer = conv(5, 4, 3, of=Standardised).double()
    x = torch.randn(2, 5, 6, 6, dtype=torch.float64)
    before = layer(x)
    layer.weight.data[which] = layer.weight.data[which] * scale + shift
    torch.testing.assert_close(layer(x), before, atol=1e-6, rtol=1e-6)


def test_standardised_filters_have_mean_0_and_variance_1():
    layer = conv(5, 4, 3, of=Standardised).double()
    weight = (layer.weight - layer.weight.mean((1, 2, 3), True)) / layer.weight.std((1, 2, 3), correction=0)[
        :, None, None, None
    ]
    x = torch.randn(2, 5, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), F.conv2d(x, weight, padding=1), atol=1e-6, rtol=1e-6)


# Blocks


def test_a_branch_of_zeros_leaves_the_shortcut():
    x = torch.randn(2, 32, 4, 4)
    nothing = conv(32, 32, 3)
    nothing.weight.data.zero_()
    assert torch.equal(Residual(nothing, nn.Identity())(x), x.relu())
    assert torch.equal(Preactivated(GroupNormReLU(32, 32), nothing, None)(x), x), "an identity mapping"


def test_a_padded_shortcut_learns_nothing_and_keeps_every_second_pixel():
    x = torch.randn(2, 3, 5, 6)
    out = Padded(3, 7, stride=2)(x)
    assert out.shape == (2, 7, 3, 3) and not list(Padded(3, 7, 2).parameters())
    assert torch.equal(out[:, :3], x[:, :, ::2, ::2]) and not out[:, 3:].any()


def test_squeeze_and_excite_weighs_channels_by_their_means():
    part = SqueezeExcite(6, 3)
    x = torch.randn(2, 6, 4, 5)
    factors = part(x) / x
    torch.testing.assert_close(factors, factors[..., :1, :1].expand_as(x))
    shuffled = x.flatten(2)[..., torch.randperm(20)].view_as(x)
    torch.testing.assert_close((part(shuffled) / shuffled)[..., 0, 0], factors[..., 0, 0])
    part.excite.weight.data.zero_()
    torch.testing.assert_close(part(x), x / 2)


def test_stochastic_depth_grows_from_the_first_block_to_the_last():
    trunk = TRUNKS["basic"].replace(depths=(3, 2), drop_path=0.4).build()
    assert [block.path.p for stage in trunk.stages for block in stage] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("pool", ["none", "max", "max-of-zeros"])
def test_pools_differ_only_where_they_say(pool):
    """Where all is negative, zeros beyond the border are the maximum there; nothing is."""
    out = Convnet(TRUNKS["basic"].replace(entry=Entry(width=8, size=3, pool=pool))).pool(-torch.ones(1, 8, 6, 6))
    assert out.shape[2:] == ((6, 6) if pool == "none" else (3, 3))
    assert bool((out[..., 0, :] == 0).all()) == (pool == "max-of-zeros")
    assert (out[..., 1:, 1:] == -1).all()


# Whole trunks


def test_it_survives_json(name):
    spec = model_of(name)
    assert from_dict(json.loads(json.dumps(to_dict(spec))), Model) == spec


def test_every_parameter_learns(name):
    model = model_of(name).build().train()
    F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    deaf = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()]
    assert not deaf


def test_it_learns_in_bf16(name):
    model = model_of(name).build().train()
    weights = CopiedWeights(model)
    with weights.computing(), torch.autocast("cpu", torch.bfloat16):
        F.cross_entropy(model(torch.randn(4, 3, 32, 32)).float(), torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype == torch.float32 for p in model.parameters())
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("rows", "cols"), [(32, 32), (20, 33), (9, 8), (1, 1)])
def test_any_image_has_a_grid(name, rows, cols):
    trunk = TRUNKS[name].build().eval()
    tokens = Pixels().build()(torch.randn(2, 3, rows, cols))
    if name.startswith("vgg"):
        if min(rows, cols) < 4:
            with pytest.raises(InputError, match="1 x 1 pixels is too small to be halved 2 times"):
                trunk(tokens)
            return
        expected = rows // 4, cols // 4
    else:
        halvings = {"basic": 1, "padded": 1, "bottleneck": 3, "group-norm": 3, "layer-norm": 1, "bit": 3, "regnet": 3}[
            name
        ]
        expected = -(-rows // 2**halvings), -(-cols // 2**halvings)
    out = trunk(tokens)
    assert out.grid == expected
    assert out.x.shape == (2, expected[0] * expected[1], TRUNKS[name].width)


def test_tokens_are_the_raster_row_by_row(name):
    model = model_of(name).build().eval()
    image = torch.randn(2, 3, 32, 24)
    out = model.features(image)
    kept = {}
    last = list(model.trunk.children())[-1]
    with last.register_forward_hook(lambda module, given, x: kept.update(x=x)):
        model.features(image)
    assert torch.equal(out.x.view(2, *out.grid, -1), kept["x"].permute(0, 2, 3, 1))


def test_tokens_and_rasters_share_their_numbers():
    """Channels are last from the first convolution on, so that neither way costs a copy."""
    model = model_of("basic").build().eval()
    tokens = model.features(torch.randn(2, 3, 32, 32))
    assert tokens.x.is_contiguous()
    assert raster(tokens).data_ptr() == tokens.x.data_ptr()


def test_in_evaluation_no_image_knows_of_the_others(name):
    model = model_of(name).build().double().eval()
    images = torch.randn(5, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(model(images)[2:3], model(images[2:3]), atol=1e-12, rtol=1e-10)


def test_in_training_only_batchnorm_does(name):
    trunk = TRUNKS[name].build().double().train()
    stem = Pixels().build()
    images = torch.randn(5, 3, 32, 32, dtype=torch.float64)
    together, alone = trunk(stem(images)).x[2:3], trunk(stem(images[2:3])).x
    assert torch.allclose(together, alone, atol=1e-12) == (name not in BATCHED)


def test_the_head_of_vgg_reads_any_raster():
    head = VGGClasses(dim=3, classes=4, grid=(2, 2), hidden=8).build().eval()
    x = torch.randn(1, 4, 3)
    large = x.view(1, 2, 2, 3).repeat_interleave(3, 1).repeat_interleave(3, 2).reshape(1, 36, 3)
    torch.testing.assert_close(head(Tokens(large, grid=(6, 6))), head(Tokens(x, grid=(2, 2))))
    by_label, by_teacher = head.each(Tokens(x, grid=(2, 2)))
    assert torch.equal(by_label, by_teacher)


# What cannot be meant


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: from_dict({"kind": "resnet", "depths": [1, 2]}), "one of each for every stage"),
        (lambda: from_dict({"kind": "resnet", "depths": [], "widths": []}), "one of each for every stage"),
        (lambda: from_dict({"kind": "vgg", "depths": [1, 0], "widths": [4, 4]}), "one of each for every stage"),
        (lambda: from_dict({"kind": "resnet", "entry": {"pool": "min"}}), "pool"),
        (lambda: from_dict({"kind": "resnet", "blocks": "bottle"}), "'basic' or 'bottleneck', got 'bottle'"),
        (lambda: from_dict({"kind": "resnet", "drop_path": 1.0}), "drop_path"),
        (lambda: from_dict({"kind": "regnet", "depths": [1], "widths": [20], "group": 16}), "groups of 16"),
        (lambda: ResNet(norm="group", depths=(1,), widths=(48,)).build(), "divisible by 32, got 48"),
        (lambda: ResNet(shortcut="padded", depths=(1,), widths=(16,)).build(), "from 64 channels to 16"),
    ],
)
def test_nonsense_is_refused_in_one_line(make, says):
    with pytest.raises(InputError, match=says) as refused:
        make()
    assert "\n" not in str(refused.value)
