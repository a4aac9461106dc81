"""ViT and DeiT: sizes to the last digit, images of other sizes, and positions from one grid to another."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella.attention import watch
from tessella.errors import InputError
from tessella.positions import LearnedGridPositions, NoGrid, SinCosGrid, resized
from tessella.zoo import deit, vit
from tessella.zoo.counts import multiply_adds, parameters

VITS = {
    "vit_tiny_patch16_224": (5_717_416, 1_253_683_200),
    "vit_small_patch16_224": (22_050_664, 4_598_882_304),
    "vit_small_patch32_224": (22_878_952, None),
    "vit_base_patch32_224": (88_224_232, 4_409_186_304),
    "vit_base_patch16_224": (86_567_656, 17_563_828_224),
    "vit_base_patch16_384": (86_859_496, 55_484_350_464),
    "vit_large_patch16_224": (304_326_632, 61_554_712_576),
    "vit_large_patch16_384": (304_715_752, 191_066_300_416),
    "vit_large_patch32_224": (306_535_400, None),
    "vit_huge_patch14_224": (632_045_800, 167_295_109_120),
}
DEITS = {
    "deit_tiny_patch16_224": (5_717_416, 1_253_683_200),
    "deit_small_patch16_224": (22_050_664, 4_598_882_304),
    "deit_base_patch16_224": (86_567_656, 17_563_828_224),
    "deit_base_patch16_384": (86_859_496, 55_484_350_464),
    "deit_tiny_distilled_patch16_224": (5_910_800, 1_261_003_776),
    "deit_small_distilled_patch16_224": (22_436_432, 4_624_140_288),
    "deit_base_distilled_patch16_224": (87_338_192, 17_656_811_520),
    "deit_base_distilled_patch16_384": (87_630_032, 55_591_342_080),
}
COUNTS = {**VITS, **DEITS}
MADE = {**vit.VARIANTS, **deit.VARIANTS}
CARDS = {**vit.CARDS, **deit.CARDS}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_exact(name):
    assert parameters(MADE[name]()) == COUNTS[name][0]


@pytest.mark.parametrize("name", [name for name, (_, macs) in COUNTS.items() if macs])
def test_multiply_adds_are_exact(name):
    side = CARDS[name].size
    assert multiply_adds(MADE[name](), (1, 3, side, side)) == COUNTS[name][1]


def test_twice_the_rows_and_columns_are_4_47_times_the_work():
    once, twice = (multiply_adds(vit.vit("base", image_size=n), (1, 3, n, n)) for n in (224, 448))
    assert twice / once == pytest.approx(4.47, abs=0.005)


def test_every_variant_has_a_card_and_its_size():
    assert MADE.keys() == CARDS.keys()
    for name, make in MADE.items():
        assert make().stem.size == (CARDS[name].size,) * 2
        assert (CARDS[name].top1 is None) == (CARDS[name].source == "") == (CARDS[name].licence == "")


@pytest.mark.parametrize("name", [name for name in MADE if name.endswith("_32")])
def test_small_ones_are_small(name):
    assert 3e5 < parameters(MADE[name](classes=10)) < 4.1e6


def tiny(**options):
    """A ViT of the page's function, cut down."""
    spec = vit.vit("micro_32", patch=4, image_size=(16, 24), classes=5, **options)
    return spec.replace(trunk=spec.trunk.replace(depth=2))


@pytest.mark.parametrize("positions", [None, SinCosGrid(), NoGrid()])
@pytest.mark.parametrize("pool", ["first", "mean"])
@torch.no_grad()
def test_images_of_other_sizes(pool, positions):
    model = tiny(pool=pool, positions=positions).build().eval()
    for rows, cols in ((16, 24), (24, 16), (32, 8)):
        tokens = model.features(torch.randn(2, 3, rows, cols))
        assert tokens.grid == (rows // 4, cols // 4)
        assert tokens.x.shape[1] == rows * cols // 16 + (pool == "first")
        assert model.head(tokens).shape == (2, 5)
    with pytest.raises(InputError, match="not tiled by patches of 4 x 4"):
        model(torch.randn(1, 3, 18, 24))


@torch.no_grad()
def test_without_positions_patches_are_a_bag():
    """Swapping the two halves of an image swaps patches: only positions can tell."""
    image = torch.randn(1, 3, 16, 24, dtype=torch.float64)
    swapped = image.roll(12, dims=3)
    bag, placed = (tiny(positions=p).build().double().eval() for p in (NoGrid(), SinCosGrid()))
    torch.testing.assert_close(bag(image), bag(swapped))
    assert (placed(image) - placed(swapped)).abs().max() > 1e-3


@torch.no_grad()
def test_watching_changes_nothing():
    model = tiny().build().eval()
    image = torch.randn(2, 3, 16, 24)
    plain = model(image)
    with watch(model) as seen:
        watched = model(image)
    torch.testing.assert_close(watched, plain, atol=1e-6, rtol=1e-6)
    assert [maps.shape for maps in seen.values()] == [(2, 4, 25, 25)] * 2


@torch.no_grad()
def test_a_distilled_answer_is_the_mean_of_two():
    model = deit.deit("micro_32", patch=4, image_size=16, classes=5).build().eval()
    tokens = model.features(torch.randn(2, 3, 16, 16))
    by_label, by_teacher = model.head.each(tokens)
    assert tokens.x.shape[1] == 2 + 16
    torch.testing.assert_close(model.head(tokens), (by_label + by_teacher) / 2)


@settings(max_examples=25, deadline=None)
@given(st.tuples(st.integers(14, 30), st.integers(14, 30)), st.integers(14, 30), st.integers(0, 2))
def test_a_table_of_another_grid(grid, side, special):
    """From a square: what stands in front stays, a constant stays, and slopes nearly do."""
    module = LearnedGridPositions(2, grid, special)
    rows, cols = (torch.arange(side, dtype=torch.float32) for _ in "rc")
    slopes = torch.stack(torch.meshgrid(rows, cols, indexing="ij"), dim=-1).flatten(0, 1)
    front = torch.randn(special, 2)
    table = module.adapted("table", torch.cat([front, slopes]))
    assert table.shape == module.table.shape
    assert torch.equal(table[:special], front)
    raster = table[special:].unflatten(0, grid)
    for axis, n in enumerate(grid):
        expected = (torch.arange(n) + 0.5) * side / n - 0.5
        line = raster[:, 0, 0] if axis == 0 else raster[0, :, 1]
        inside = slice(3, n - 3)
        torch.testing.assert_close(line[inside], expected[inside], atol=0.1, rtol=0)  # Keys' kernel with a = -0.75
    torch.testing.assert_close(module.adapted("table", torch.ones(special + side**2, 2)), torch.ones_like(table))


def test_a_table_of_a_given_grid():
    module = LearnedGridPositions(3, (4, 5), 1)
    theirs = torch.randn(1 + 6, 3)
    torch.testing.assert_close(module.adapted("table", theirs, (2, 3)), resized(theirs, (2, 3), (4, 5), 1))
    assert torch.equal(module.adapted("table", module.table, (4, 5)), module.table)


@pytest.mark.parametrize("shape", [(1 + 5, 3), (1 + 4, 7), (1, 3), (0, 3), (5,), (1, 5, 3)])
def test_a_table_that_fits_no_grid_is_refused(shape):
    with pytest.raises(InputError, match=r"'table' is .* not 1 tokens and a grid of them, each 3 wide"):
        LearnedGridPositions(3, (4, 5), 1).adapted("table", torch.zeros(shape))
