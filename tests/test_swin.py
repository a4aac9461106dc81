"""Swin: windows that tile, shift and hide; the relative index; what one output token sees."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tessella.attention import Attention, watch
from tessella.errors import InputError
from tessella.spec import from_dict, to_dict
from tessella.tokens import Tokens
from tessella.trunks import swin
from tessella.trunks.swin import Merging, Swin
from tessella.windows import RelativeDot, Tiling, offsets, tiling

CPU = torch.device("cpu")
GRIDS = st.tuples(st.integers(1, 17), st.integers(1, 17))
WINDOWS = st.integers(1, 7)


def trunk(dtype=torch.float64, **changes) -> nn.Module:
    fields = {"dim": 6, "depths": (2, 2), "heads": (2, 3), "windows": (3, 3), **changes}
    return Swin(**fields).build().to(dtype).eval()


def some(grid, dim=6, batch=1, dtype=torch.float64) -> Tokens:
    return Tokens(torch.randn(batch, grid[0] * grid[1], dim, dtype=dtype), grid=grid)


def places(grid) -> Tensor:
    """r*c 2: row and column of every token."""
    return torch.stack(torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij"), -1).flatten(0, 1)


@given(GRIDS, WINDOWS, st.booleans())
def test_paste_undoes_cut(grid, window, shifted):
    x = torch.randn(2, grid[0] * grid[1], 3)
    windows = tiling(grid, window, shifted, CPU).cut(x)
    assert windows.shape[1:] == (window**2, 3)
    assert len(windows) == 2 * -(-grid[0] // window) * -(-grid[1] // window)
    assert torch.equal(tiling(grid, window, shifted, CPU).paste(windows), x)


def test_a_window_is_a_square_of_neighbours():
    raster = torch.arange(36.0).view(1, 36, 1)
    assert tiling((6, 6), 3, False, CPU).cut(raster)[1].flatten().tolist() == [3, 4, 5, 9, 10, 11, 15, 16, 17]
    assert tiling((6, 6), 3, True, CPU).cut(raster)[0].flatten().tolist() == [7, 8, 9, 13, 14, 15, 19, 20, 21]
    one_row = tiling((3, 6), 3, True, CPU).cut(raster[:, :18])[0].flatten().tolist()
    assert one_row == [1, 2, 3, 7, 8, 9, 13, 14, 15], "an axis of one window does not roll"


@given(GRIDS, WINDOWS, st.booleans())
def test_the_mask_lets_through_who_are_near_in_the_picture(grid, window, shifted):
    windows = tiling(grid, window, shifted, CPU)
    place = windows.cut(places(grid)[None].float() + 1)
    real = place.amin(-1) > 0
    near = (place[:, :, None] - place[:, None]).abs().amax(-1) < window
    one, other = real[:, :, None], real[:, None]
    expected = (one & other & near) | (~one & ~other)
    assert windows.mask is None or torch.equal(windows.mask[:, 0], expected)
    assert windows.mask is not None or expected.all()


@given(GRIDS, st.integers(1, 5), st.booleans())
@settings(max_examples=30, deadline=None)
def test_windows_are_dense_attention_between_few(grid, window, shifted):
    """Cut, attended, pasted == every token looking at every other under a mask and a bias found by their places."""
    attn = Attention(6, 2, attend=RelativeDot(window, 2)).double()
    x = some(grid, batch=2).x
    windows = tiling(grid, window, shifted, CPU)
    ours = windows.paste(attn(windows.cut(x), mask=windows.mask))

    place = places(grid)
    roll = torch.tensor([window // 2 if shifted and n > window else 0 for n in grid])
    home = torch.where(place < roll, -1, (place - roll).div(window, rounding_mode="floor"))
    together = (home[:, None] == home).all(-1)
    offset = (place[:, None] - place).clamp(1 - window, window - 1) + window - 1
    bias = attn.attend.table[offset[..., 0] * (2 * window - 1) + offset[..., 1]]
    q, k, v = (rearrange(part(x), "b n (h d) -> b h n d", h=2) for part in (attn.q, attn.k, attn.v))
    scores = q @ k.transpose(-1, -2) / 3**0.5 + rearrange(bias, "n m h -> h n m")
    weights = scores.masked_fill(~together, -torch.inf).softmax(-1)
    torch.testing.assert_close(ours, attn.out(rearrange(weights @ v, "b h n d -> b n (h d)")))


@pytest.mark.parametrize("window", range(2, 13))
def test_the_relative_index_against_brute_force(window):
    index = offsets(window)
    side = 2 * window - 1
    for n in range(window**2):
        for m in range(window**2):
            down, right = n // window - m // window, n % window - m % window
            assert index[n, m] == (down + window - 1) * side + right + window - 1
    assert index.unique().tolist() == list(range(side**2))


def test_the_relative_index_of_two_by_two():
    assert offsets(2).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_equal_offsets_share_a_bias():
    attend = RelativeDot(4, heads=2)
    bias = rearrange(attend.bias(), "h (r c) (v w) -> h r c v w", r=4, v=4)
    assert torch.equal(bias[:, 1:, 1:, 1:, 1:], bias[:, :-1, :-1, :-1, :-1])
    assert len(bias[0].unique()) == 49


def reach(depth: int, token=(28, 28)) -> Tensor:
    """56 56: the gradient of one output token in every input token, 1 where there is any."""
    model = trunk(dim=4, depths=(depth,), heads=(1,), windows=(7,))
    tokens = some((56, 56), dim=4)
    x = tokens.x.requires_grad_()
    out = model(tokens).x[0, token[0] * 56 + token[1]]
    grad = torch.autograd.grad((out * torch.randn(4)).sum(), x)[0].norm(dim=-1).view(56, 56)
    return grad > grad.max() * 1e-12


@pytest.mark.parametrize(("depth", "side"), [(1, 7), (2, 14), (4, 28)])
def test_shifted_windows_connect_neighbours(depth, side):
    seen = reach(depth)
    assert seen.sum() == side**2
    assert (seen.any(0).sum(), seen.any(1).sum()) == (side, side), "and they are a square"


def test_at_the_seam_nothing_leaks():
    corner = reach(2, (55, 55))
    assert corner.sum() == 49, "of the last window's four regions only its own, which is one straight window's"
    assert reach(4, (55, 55))[:28].sum() == 0


def test_without_shift_windows_stay_alone(monkeypatch):
    monkeypatch.setattr(swin, "tiling", lambda grid, window, shifted, device: tiling(grid, window, False, device))
    assert reach(4).sum() == 49


def test_without_the_mask_far_corners_leak(monkeypatch):
    def unmasked(*args) -> Tiling:
        return tiling(*args)._replace(mask=None)

    monkeypatch.setattr(swin, "tiling", unmasked)
    seen = reach(2, (55, 55))
    assert seen[0, 0]
    assert seen[0, 55]
    assert seen.sum() == 196


@pytest.mark.parametrize("grid", [(5, 5), (3, 4), (1, 6)])
def test_a_window_larger_than_the_raster_is_one_of_its_size(grid):
    """With padding that nobody sees, only the middle of the table is used."""
    wide = Attention(6, 2, attend=RelativeDot(7, 2)).double()
    small = Attention(6, 2, attend=RelativeDot(6, 2)).double()
    small.load_state_dict(wide.state_dict() | {"attend.table": small.attend.table})
    middle = rearrange(wide.attend.table.detach(), "(r c) h -> r c h", r=13)[1:-1, 1:-1]
    small.attend.table.data = rearrange(middle, "r c h -> (r c) h")
    x = some(grid).x
    results = []
    for attn, window in ((wide, 7), (small, 6)):
        windows = tiling(grid, window, True, CPU)
        results.append(windows.paste(attn(windows.cut(x), mask=windows.mask)))
    torch.testing.assert_close(*results)


def test_merging_takes_four_neighbours_down_then_right():
    x = torch.arange(5 * 3.0).view(1, 15, 1)
    merging = Merging(1)
    merging.norm, merging.reduce = nn.Identity(), nn.Identity()
    merged, grid = merging(x, (5, 3))
    assert grid == (3, 2)
    raster = nn.functional.pad(x.view(5, 3), (0, 1, 0, 1))
    parts = [raster[0::2, 0::2], raster[1::2, 0::2], raster[0::2, 1::2], raster[1::2, 1::2]]
    assert torch.equal(merged[0], torch.stack(parts, -1).flatten(0, 1))


@given(GRIDS)
@settings(max_examples=20, deadline=None)
def test_any_raster_goes_and_no_image_sees_another(grid):
    model = trunk(depths=(2, 2), windows=(4, 3))
    tokens = some(grid, batch=3)
    out = model(tokens)
    assert out.grid == tuple((n + 1) // 2 for n in grid)
    assert out.x.shape == (3, out.grid[0] * out.grid[1], 12)
    torch.testing.assert_close(out.x[1:2], model(tokens.replace(x=tokens.x[1:2])).x)


def test_watched_is_unwatched_and_windows_have_maps():
    model, tokens = trunk(torch.float32), some((6, 5), batch=2, dtype=torch.float32)
    plain = model(tokens).x
    with watch(model) as seen:
        torch.testing.assert_close(model(tokens).x, plain)
    maps = seen["stages.0.blocks.1.attn.attend"]
    assert maps.shape == (2 * 4, 2, 9, 9), "two images of two by two windows, two heads, three by three tokens"
    torch.testing.assert_close(maps.sum(-1), torch.ones(8, 2, 9))
    mask = tiling((6, 5), 3, True, CPU).mask
    assert mask is not None
    assert (maps.view(2, 4, 2, 9, 9)[:, ~mask.expand(-1, 2, -1, -1)] == 0).all()


def test_paths_are_dropped_on_both_branches_ever_more():
    model = Swin(depths=(2, 2, 2), heads=(1, 2, 4), windows=(3, 3, 3), dim=4, drop_path=0.5).build()
    blocks = [block for stage in model.stages for block in stage.blocks]
    for i, block in enumerate(blocks):
        assert block.attn_residual.path.p == block.mlp_residual.path.p == pytest.approx(0.1 * i)


def test_what_is_kept_for_a_size_serves_training_after_inference():
    model, tokens = trunk(torch.float32, windows=(5, 3)), some((11, 13), dtype=torch.float32)
    with torch.inference_mode():
        model(tokens)
    model(tokens).x.sum().backward()
    assert all("offsets" not in name and "mask" not in name for name in model.state_dict())


def test_another_window_resizes_the_table():
    small, large = RelativeDot(7, 3), RelativeDot(12, 3)
    assert large.adapted("table", small.table.detach()).shape == (23**2, 3)
    torch.testing.assert_close(small.adapted("table", small.table.detach()), small.table)
    torch.testing.assert_close(large.adapted("table", torch.full((169, 3), 0.7)), torch.full((529, 3), 0.7))
    raster = rearrange(small.table.detach(), "(r c) h -> r c h", r=13)
    even = rearrange(raster + raster.flip(0, 1), "r c h -> (r c) h")
    resized = rearrange(large.adapted("table", even), "(r c) h -> r c h", r=23)
    torch.testing.assert_close(resized, resized.flip(0, 1)), "what knows no direction still knows none"
    for wrong in (torch.zeros(169, 4), torch.zeros(168, 3), torch.zeros(169), torch.zeros(144, 3)):
        with pytest.raises(InputError, match="cannot be resized"):
            large.adapted("table", wrong)
    with pytest.raises(InputError, match="cannot be resized"):
        large.adapted("offsets", torch.zeros(169, 3))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"heads": (2, 3, 6)}, "a number each a stage, got 2, 3 and 2"),
        ({"heads": (4, 3)}, "dim 6 of a stage is not divisible by its heads 4"),
        ({"windows": (0, 3)}, "at least 1"),
        ({"depths": (), "heads": (), "windows": ()}, "a number each a stage"),
    ],
)
def test_wrong_specs_are_refused(changes, complaint):
    with pytest.raises(InputError, match=complaint):
        Swin(dim=6, depths=(2, 2), heads=(2, 3), windows=(3, 3)).replace(**changes)


def test_the_spec_survives_json():
    spec = Swin(dim=6, depths=(1, 3), heads=(1, 2), windows=(4, 2), drop_path=0.1)
    assert from_dict(to_dict(spec)) == spec
    assert spec.width == 12
