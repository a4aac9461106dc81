"""Where an answer came from: rollout against the paper's matrices, windows against brute force, exact maps."""

from __future__ import annotations

import pytest
import tiny_vision as tiny
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella.data.pixels import Preprocess
from tessella.errors import InputError
from tessella.evidence import Layer, look, on_picture, rollout, spread
from tessella.inference.prepare import prepare
from tessella.windows import tiling

CPU = torch.device("cpu")


def random_layer(grid: tuple[int, int], special: int, heads: int = 2, keys: int | None = None) -> Layer:
    n = grid[0] * grid[1] + special
    return Layer("", torch.randn(1, heads, n, keys or n).softmax(-1), grid)


def windowed(grid: tuple[int, int], window: int, shifted: bool, heads: int = 2) -> Layer:
    made = tiling(grid, window, shifted, CPU)
    windows, n = len(made.tokens) // window**2, window**2
    scores = torch.randn(windows, heads, n, n)
    if made.mask is not None:
        scores = scores.masked_fill(~made.mask, float("-inf"))
    return Layer("", scores.softmax(-1), grid, made)


def full(layer: Layer) -> torch.Tensor:
    """h n n of a layer, query by query."""
    n = layer.special + layer.grid[0] * layer.grid[1]
    return torch.stack([layer.looked(one) for one in torch.eye(n)], dim=1)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 99), special=st.integers(0, 2), depth=st.integers(1, 4))
def test_rollout_is_the_product_of_the_paper(seed, special, depth):
    torch.manual_seed(seed)
    layers = [random_layer((3, 4), special) for _ in range(depth)]
    product = torch.eye(12 + special)
    for layer in layers:
        product = (layer.weights[0].mean(0) + torch.eye(12 + special)) / 2 @ product
    for row in range(12 + special):
        found = rollout(layers, torch.eye(12 + special)[row])
        torch.testing.assert_close(found, on_picture(product[row], (3, 4)))


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 9), cols=st.integers(1, 9), window=st.integers(2, 4), shifted=st.booleans())
def test_windows_look_inside_themselves_only_and_lose_nothing(rows, cols, window, shifted):
    layer = windowed((rows, cols), window, shifted)
    seen = full(layer)
    torch.testing.assert_close(seen.sum(-1), torch.ones(2, rows * cols))
    far = window
    place = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij"), -1).view(-1, 2)
    apart = (place[:, None] - place[None]).abs().amax(-1) >= far
    assert not seen[:, apart].any()


def test_windows_come_back_to_their_place():
    """Every token looks at its right neighbour, where its window has one: so moves the mass, by brute force."""
    grid, window = (4, 6), 2
    for shifted in (False, True):
        made = tiling(grid, window, shifted, CPU)
        weights = torch.zeros(len(made.tokens) // 4, 1, 4, 4)
        for query in range(4):
            weights[:, :, query, query | 1] = 1
        seen = full(Layer("", weights, grid, made))[0]
        for row in range(4):
            for col in range(6):
                first = (col - shifted) % 2 == 0
                target = col + 1 if first else col
                if target < 6:
                    assert seen[row * 6 + col, row * 6 + target] == 1


@settings(deadline=None, max_examples=50)
@given(rows=st.integers(1, 9), cols=st.integers(1, 9), step=st.integers(1, 4))
def test_keys_of_a_coarser_raster_share_their_mass(rows, cols, step):
    coarse = -(-rows // step), -(-cols // step)
    mass = torch.rand(2, *coarse)
    fine = spread(mass, (rows, cols))
    assert fine.shape == (2, rows, cols)
    torch.testing.assert_close(fine.sum((1, 2)), mass.sum((1, 2)))
    layer = random_layer((rows, cols), 1, keys=coarse[0] * coarse[1] + 1)
    torch.testing.assert_close(full(layer).sum(-1), torch.ones(2, rows * cols + 1))


def test_spreading_over_an_even_raster_is_repeating():
    mass = torch.rand(1, 2, 3)
    repeated = rearrange(mass, "h r c -> h r 1 c 1").expand(1, 2, 2, 3, 2) / 4
    torch.testing.assert_close(spread(mass, (4, 6)), rearrange(repeated, "h r v c w -> h (r v) (c w)"))


@pytest.mark.parametrize("coarse", [(2, 2), (4, 4)])
def test_special_tokens_that_a_stage_does_not_have_are_lost(coarse):
    early, late = random_layer((4, 4), 0), random_layer(coarse, 1)
    first = torch.eye(coarse[0] * coarse[1] + 1)[0]
    found = rollout([early, late], first)
    kept = rollout([late], first).sum()
    assert 0 < found.sum() < 1
    torch.testing.assert_close(found.sum(), kept)


SPECS = {
    "vit": tiny.vit(),
    "vit, mean": tiny.vit(pool="mean"),
    "no class token": tiny.vit(special=0, pool="mean"),
    "two tokens": tiny.vit(special=2),
    "swin": tiny.swin(),
    "swin, odd windows": tiny.swin(windows=(3, 3)),
    "cvt": tiny.cvt(),
    "cvt, stages of one raster": tiny.cvt(strides=(4, 1)),
    "resnet": tiny.resnet(),
}


@pytest.mark.parametrize("name", SPECS)
def test_every_family_is_looked_at(name):
    one = tiny.classifier(SPECS[name])
    found = look(one, tiny.picture())
    assert found.image.shape == (32, 32, 3)
    with torch.no_grad():
        logits = one.logits(rearrange(torch.from_numpy(found.image), "r c v -> 1 v r c"))[0]
    assert found.answers[0][0] == one.classes[int(logits.argmax())]
    for reader in found.readers:
        last, rolled = found.last(reader), found.rolled(reader)
        assert (last >= 0).all()
        assert (last.sum((1, 2)) <= 1 + 1e-5).all()
        assert 0 < rolled.sum() <= 1 + 1e-5
        assert rolled.shape == found.layers[0].grid
    assert bool(found.layers) == (name != "resnet")
    for label, raster in found.activations.items():
        bias = one.model.head.scores.bias[one.classes.index(label)]
        torch.testing.assert_close(raster.mean() + bias, logits[one.classes.index(label)], atol=1e-4, rtol=1e-4)
    assert bool(found.activations) == (SPECS[name].head.pool == "mean")


def test_who_reads():
    assert list(look(tiny.classifier(tiny.vit()), tiny.picture()).readers) == ["class token"]
    two = look(tiny.classifier(tiny.vit(special=2)), tiny.picture())
    assert list(two.readers) == ["class token", "distillation token"]
    (mean,) = look(tiny.classifier(tiny.vit(pool="mean")), tiny.picture()).readers.values()
    assert mean[0] == 0  # the class token is not read
    assert mean.sum() == 1


def test_layers_are_named_by_where_they_stand():
    swin = look(tiny.classifier(tiny.swin()), tiny.picture())
    assert [layer.name for layer in swin.layers][2] == "stage 2, layer 1"
    assert [layer.grid for layer in swin.layers] == [(8, 8), (8, 8), (4, 4), (4, 4)]
    assert [layer.name for layer in look(tiny.classifier(tiny.vit()), tiny.picture()).layers][-1] == "layer 3"


@pytest.mark.parametrize("name", ["vit", "swin", "cvt"])
def test_pictures_need_not_be_square(name):
    one = tiny.classifier(SPECS[name])
    one.image = Preprocess(size=(32, 48), crop=1.0)
    found = look(one, tiny.picture(cols=90))
    grid = found.layers[0].grid
    assert grid[1] * 2 == grid[0] * 3
    for reader in found.readers:
        assert found.rolled(reader).shape == grid


@pytest.mark.parametrize("name", SPECS)
def test_a_prepared_model_shows_the_same(name):
    plain = look(tiny.classifier(SPECS[name]), tiny.picture())
    other = tiny.classifier(SPECS[name])
    other.model = prepare(other.model, "float32")
    ready = look(other, tiny.picture())
    for reader in plain.readers:
        torch.testing.assert_close(plain.rolled(reader), ready.rolled(reader), atol=1e-4, rtol=1e-3)
    for label, raster in plain.activations.items():
        torch.testing.assert_close(raster, ready.activations[label], atol=1e-4, rtol=1e-3)


def test_a_model_without_places_says_so():
    from tessella.zoo.catalog import model_spec

    vgg = model_spec("vgg16", {"classes": 6, "image_size": 32})
    with pytest.raises(InputError, match="no attention"):
        look(tiny.classifier(vgg), tiny.picture())
