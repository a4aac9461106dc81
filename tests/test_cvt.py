"""CvT: what its convolutions see, what its class token does not, and what one writes as the other."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from tessella.attention import watch
from tessella.blocks import QuickGELU
from tessella.dropout import DropPath
from tessella.errors import InputError
from tessella.stems.patches import Pixels
from tessella.trunks.cvt import ConvAttention, Cvt, Nearby

THREE = {"widths": (8, 12, 16), "depths": (1, 1, 2), "heads": (1, 3, 4)}


def lively(module: nn.Module) -> nn.Module:
    """In double precision, with running statistics of a trained model."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 2)
    return module.double().eval()


def trunk(**options) -> nn.Module:
    return lively(Cvt(**{**THREE, **options}).build())


def pixels(image: torch.Tensor):
    return Pixels().build()(image)


@torch.no_grad()
def test_tokens_of_each_stage():
    tokens = trunk()(pixels(torch.randn(2, 3, 64, 96, dtype=torch.float64)))
    assert tokens.grid == (4, 6)
    assert tokens.x.shape == (2, 1 + 24, 16)


@torch.no_grad()
def test_keys_are_a_quarter_of_the_queries():
    """Behind the class token of the last stage, and in the others without one."""
    model = trunk()
    image = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    plain = model(pixels(image)).x
    with watch(model) as seen:
        watched = model(pixels(image)).x
    torch.testing.assert_close(watched, plain, atol=1e-6, rtol=1e-6)
    assert [maps.shape for maps in seen.values()] == [
        (2, 1, 16 * 24, 8 * 12),
        (2, 3, 8 * 12, 4 * 6),
        (2, 4, 1 + 4 * 6, 1 + 2 * 3),
        (2, 4, 1 + 4 * 6, 1 + 2 * 3),
    ]


@torch.no_grad()
def test_scores_are_divided_by_the_root_of_the_whole_width():
    attn = lively(ConvAttention(16, 4, kv_stride=1))
    x = torch.randn(1, 9, 16, dtype=torch.float64)
    with watch(attn) as seen:
        attn(x, (3, 3))
    raster = rearrange(x, "b (r c) d -> b d r c", r=3)
    q = rearrange(attn.inner.q(attn.near_q(raster)), "b n (h d) -> b h n d", h=4)
    k = rearrange(attn.inner.k(attn.near_k(raster)), "b n (h d) -> b h n d", h=4)
    torch.testing.assert_close(seen["inner.attend"], (q @ k.mT / 16**0.5).softmax(-1), atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_a_class_token_is_projected_but_not_convolved():
    """Only its own linear projections differ when it does, and its neighbours in memory do not reach it."""
    attn = lively(ConvAttention(8, 2, kv_stride=2))
    x = torch.randn(1, 1 + 16, 8, dtype=torch.float64)
    changed = x.clone()
    changed[:, 0] += 1
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in ("q", "k", "v")}
    for name, values in kept.items():
        getattr(attn.inner, name).register_forward_hook(lambda _, given, __, values=values: values.append(given[0]))
    for tokens in (x, changed):
        attn(tokens, (4, 4))
    for one, other in kept.values():
        assert torch.equal(one[:, :1], x[:, :1]), "the class token comes as it is"
        assert torch.equal(other[:, :1], changed[:, :1])
        assert torch.equal(one[:, 1:], other[:, 1:]), "and enters no convolution"


def test_a_token_sees_its_neighbours_and_no_more():
    near = lively(Nearby(4))
    raster = torch.randn(1, 4, 9, 9, dtype=torch.float64, requires_grad=True)
    near(raster)[0, 4 * 9 + 5].sum().backward()
    assert raster.grad is not None
    seen = raster.grad[0].abs().sum(0) > 0
    assert seen[3:6, 4:7].all() and seen.sum() == 9


@torch.no_grad()
def test_channels_do_not_mix_before_the_projection():
    near = lively(Nearby(4, stride=2))
    raster = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    changed = raster.clone()
    changed[:, 2] += torch.randn(6, 6)
    differs = (near(raster) != near(changed)).flatten(0, 1).any(0)
    assert differs.tolist() == [False, False, True, False]


@torch.no_grad()
def test_a_linear_layer_on_tokens_is_a_pointwise_convolution():
    """So that "depth-wise, then linear" is the paper's depth-wise separable convolution."""
    near, linear = lively(Nearby(6)), nn.Linear(6, 10).double()
    raster = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    pointwise = F.conv2d(near.conv(raster), _scaled(linear, near), _shifted(linear, near))
    torch.testing.assert_close(linear(near(raster)), rearrange(pointwise, "b d r c -> b (r c) d"))


def _scaled(linear: nn.Linear, near: Nearby) -> torch.Tensor:
    """The weights of a 1 x 1 convolution that also normalises."""
    gain = near.norm.weight / (near.norm.running_var + near.norm.eps).sqrt()
    return rearrange(linear.weight * gain, "o i -> o i 1 1")


def _shifted(linear: nn.Linear, near: Nearby) -> torch.Tensor:
    gain = near.norm.weight / (near.norm.running_var + near.norm.eps).sqrt()
    return linear.bias + linear.weight @ (near.norm.bias - gain * near.norm.running_mean)


def test_batch_norm_over_tokens_is_batch_norm_over_rasters():
    near, plain = Nearby(5, stride=2), nn.BatchNorm2d(5)
    raster = torch.randn(3, 5, 8, 6)
    expected = rearrange(plain(near.conv(raster)), "b d r c -> b (r c) d")
    torch.testing.assert_close(near(raster), expected)
    torch.testing.assert_close(near.norm.running_var, plain.running_var)
    torch.testing.assert_close(near.norm.running_mean, plain.running_mean)


@torch.no_grad()
def test_a_shift_of_the_image_shifts_the_tokens():
    """By 16 pixels and one token of stage 3, away from the borders, as long as no token looks beyond its neighbours.

    Attention looks everywhere, so it is silenced; the convolutional tokens and what blocks make of each remain.
    """
    model = trunk()
    for stage in model.stages:
        for block in stage.blocks:
            nn.init.zeros_(block.attn.inner.out.weight)
    image = torch.randn(1, 3, 160, 160, dtype=torch.float64)
    shifted = image.roll((16, -16), dims=(2, 3))
    before, after = (rearrange(model(pixels(i)).x[:, 1:], "b (r c) d -> b r c d", r=10) for i in (image, shifted))
    torch.testing.assert_close(after[:, 2:-2, 2:-2], before.roll((1, -1), dims=(1, 2))[:, 2:-2, 2:-2])
    assert (after - before).abs().max() > 1e-3


@torch.no_grad()
def test_a_periodic_image_has_periodic_tokens():
    """With attention at work: a pattern of 16 pixels that fills the image gives one token inside, again and again."""
    model = trunk(depths=(1, 1, 1))
    image = torch.randn(1, 3, 16, 16, dtype=torch.float64).repeat(1, 1, 12, 12)
    tokens = rearrange(model(pixels(image)).x[:, 1:], "b (r c) d -> b r c d", r=12)
    inside = tokens[:, 4:-4, 4:-4]
    torch.testing.assert_close(inside, inside[:, :1, :1].expand_as(inside), atol=1e-9, rtol=0)


def test_paths_are_dropped_more_and_more_inside_each_stage():
    model = Cvt(**{**THREE, "depths": (2, 3, 4)}, drop_path=(0.0, 0.2, 0.3)).build()
    rates = [[m.p for m in stage.modules() if isinstance(m, DropPath)] for stage in model.stages]
    assert rates[0] == [0.0] * 4
    assert rates[1] == pytest.approx([0, 0, 0.1, 0.1, 0.2, 0.2])
    assert rates[2] == pytest.approx([0, 0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3])


def test_every_parameter_of_a_stage_learns():
    model = Cvt(**THREE).build()
    model(pixels(torch.randn(4, 3, 64, 64))).x.square().sum().backward()
    deaf = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [n for n in deaf if not n.endswith(".k.bias")], "a bias of all keys moves no softmax"


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch_when_evaluated():
    model = trunk()
    images = torch.randn(3, 3, 32, 48, dtype=torch.float64)
    torch.testing.assert_close(model(pixels(images)).x[1:2], model(pixels(images[1:2])).x)


@torch.no_grad()
def test_quick_gelu():
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    torch.testing.assert_close(QuickGELU()(x), x * torch.sigmoid(1.702 * x))
    assert (QuickGELU()(x) - F.gelu(x)).abs().max() < 0.021


@torch.no_grad()
def test_the_smallest_images():
    model = trunk()
    assert model(pixels(torch.zeros(1, 3, 3, 3, dtype=torch.float64))).grid == (1, 1)
    with pytest.raises(InputError, match="a convolution of 7 x 7 finds only 2 x 9 tokens; use larger images"):
        model(pixels(torch.zeros(1, 3, 2, 9, dtype=torch.float64)))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"depths": (1, 2)}, "depths has 2 stages, but widths has 3"),
        ({"drop_path": (0.1,)}, "drop_path has 1 stages, but widths has 3"),
        ({"heads": (1, 3, 5)}, "a width of 16 is not divisible by 5 heads"),
    ],
)
def test_stages_that_do_not_agree(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        Cvt(**{**THREE, **changes})
