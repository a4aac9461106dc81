"""Augment: each part against its definition, RandAugment's operations against Pillow's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from tessella.data import randaugment
from tessella.data.augment import DEIT, ERASED, Augment, draw_boxes, erase, flip, pad_crop, resized_crop
from tessella.data.mixing import cutmix, mix, mixup
from tessella.data.randaugment import BLENDS, OPERATIONS, TABLES, WARPS, RandAugment, warp
from tessella.errors import InputError
from tessella.spec import from_dict, override, to_dict

FILL = (124, 116, 104)
SHAPES = st.tuples(st.integers(1, 5), st.sampled_from([1, 3]), st.integers(3, 20), st.integers(3, 20))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def picture(draw: np.random.Generator, mode: str = "RGB") -> Image.Image:
    """Something smooth, with light and dark, in proportions unlike a square's."""
    blocks = draw.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((48, 33), Image.Resampling.BICUBIC).convert(mode)


def pillow(name: str, image: Image.Image, strength: float, sign: int) -> Image.Image:
    """What timm's RandAugment calls, with its magnitudes (`increasing`), bilinear."""
    factor, signed, (width, height) = max(0.1, 1 + 0.9 * strength * sign), strength * sign, image.size
    add, threshold = int(strength * 110), 256 - int(strength * 256)
    fill = FILL if image.mode == "RGB" else FILL[0]

    def affine(*six: float) -> Image.Image:
        how = {"resample": Image.Resampling.BILINEAR, "fillcolor": fill}
        return image.transform(image.size, Image.Transform.AFFINE, six, **how)

    table = [min(255, value + add) if value < 128 else value for value in range(256)] * len(image.getbands())
    made = {
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "invert": lambda: ImageOps.invert(image),
        "posterize": lambda: ImageOps.posterize(image, 4 - int(strength * 4)),
        "solarize": lambda: ImageOps.solarize(image, threshold),
        "solarize_add": lambda: image.point(table),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "colour": lambda: ImageEnhance.Color(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "rotate": lambda: image.rotate(30 * signed, resample=Image.Resampling.BILINEAR, fillcolor=fill),
        "shear_x": lambda: affine(1, 0.3 * signed, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, 0.3 * signed, 1, 0),
        "translate_x": lambda: affine(1, 0, 0.45 * signed * width, 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, 0.45 * signed * height),
    }
    return made[name]()


def ours(name: str, images: torch.Tensor, strength: float, sign: int) -> torch.Tensor:
    kinds = ((TABLES, randaugment._look_up), (WARPS, randaugment._warped), (BLENDS, randaugment._blended))
    [apply] = [apply for names, apply in kinds if name in names]
    full = [np.full(len(images), value) for value in (name, strength, strength * sign)]
    return apply(images.clone(), *full, (FILL * 2)[: images.shape[1]])


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_pillows(name, mode) -> None:
    draw = rng()
    for _ in range(20):
        image, strength, sign = picture(draw, mode), float(draw.random()), int(draw.choice((-1, 1)))
        values = np.asarray(image)[..., None] if mode == "L" else np.asarray(image)
        made = ours(name, torch.from_numpy(values.copy()).permute(2, 0, 1)[None], strength, sign)[0]
        wanted = np.asarray(pillow(name, image, strength, sign)).reshape(values.shape).astype(int)
        worst = np.abs(made.permute(1, 2, 0).numpy() - wanted).max()
        # Pillow cuts what it reads between pixels down to a byte, we round; its mean grey is of rounded greys
        assert worst <= (1 if name in (*WARPS, "contrast") else 0)


@pytest.mark.parametrize("name", sorted({*OPERATIONS} - {"autocontrast", "equalize", "invert", "posterize"}))
def test_without_strength_nothing_happens(name) -> None:
    images = noise(4, 3, 9, 7)
    assert torch.equal(ours(name, images, 0.0, 1), images)


@pytest.mark.parametrize("name", OPERATIONS)
def test_flat_and_tiny_pictures_pass(name) -> None:
    for images in (noise(2, 3, 1, 1), torch.full((1, 1, 5, 2), 255, dtype=torch.uint8), noise(3, 4, 2, 9)):
        made = ours(name, images, 0.9, -1)
        assert made.shape == images.shape and made.dtype == torch.uint8


def test_groups_are_as_good_as_one_by_one() -> None:
    """A picture gets the operations it drew, in their order, whoever else is in the batch."""
    images, how = noise(40, 3, 12, 10), RandAugment(number=3, std=2.0)
    made, draw = how(images, rng(3), FILL), rng(3)
    which, done = draw.integers(len(OPERATIONS), size=(3, 40)), draw.random((3, 40)) < how.probability
    strength = draw.normal(how.magnitude, how.std, (3, 40)).clip(0, 10) / 10
    sign = draw.choice((-1, 1), (3, 40))
    for row in range(40):
        one = images[row : row + 1]
        for turn in range(3):
            if done[turn, row]:
                name = OPERATIONS[which[turn, row]]
                one = ours(name, one, float(strength[turn, row]), int(sign[turn, row]))
        assert torch.equal(made[row], one[0])
    assert 0.05 < (made == images).all(1).all(1).all(1).float().mean() < 0.3  # 1/8 and the few that were symmetric


def test_randaugment_of_probability_nothing_is_nothing() -> None:
    images = noise(8, 3, 9, 9)
    before = images.clone()
    assert torch.equal(RandAugment(probability=0)(images, rng(), FILL), images)
    assert not torch.equal(RandAugment(probability=1)(images, rng(), FILL), images)
    assert torch.equal(images, before)


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(0, 5), st.integers(0, 99))
def test_a_pad_crop_is_a_window_of_the_padded_picture(shape, padding, seed) -> None:
    images = noise(*shape)
    made = pad_crop(images, padding, rng(seed))
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    _, _, rows, columns = shape
    places = [(y, x) for y in range(2 * padding + 1) for x in range(2 * padding + 1)]
    for one, whole in zip(made, padded, strict=True):
        assert any(torch.equal(one, whole[:, y : y + rows, x : x + columns]) for y, x in places)
    if padding == 0:
        assert torch.equal(made, images)


def test_every_window_is_drawn() -> None:
    images = torch.arange(25, dtype=torch.uint8).reshape(1, 1, 5, 5).expand(2000, 1, 5, 5)
    middles = pad_crop(images, 1, rng())[:, 0, 2, 2]
    values, counts = middles.unique(return_counts=True)
    assert values.tolist() == [6, 7, 8, 11, 12, 13, 16, 17, 18] and counts.min() > 150


@settings(max_examples=30, deadline=None)
@given(SHAPES, st.floats(0, 1))
def test_a_flip_is_its_own_inverse(shape, probability) -> None:
    images = noise(*shape)
    made = flip(images, probability, rng(1))
    assert torch.equal(flip(made, probability, rng(1)), images)
    for one, whole in zip(made, images, strict=True):
        assert torch.equal(one, whole) or torch.equal(one, whole.flip(-1))
    assert torch.equal(flip(images, 0.0, rng()), images) and torch.equal(flip(images, 1.0, rng()), images.flip(-1))


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.tuples(st.floats(0.02, 1), st.floats(0.02, 1)).map(sorted),
    st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)).map(sorted),
)
def test_boxes_lie_within_and_have_the_area_asked_for(size, area, ratio) -> None:
    top, left, height, width = draw_boxes(20, size, tuple(area), tuple(ratio), rng())
    found = height > 0
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= size[0]).all() and (left + width <= size[1]).all()
    pixels, slack = size[0] * size[1], (height + width + 1) / 2  # both sides are rounded
    assert ((height * width + slack >= area[0] * pixels) & (height * width - slack <= area[1] * pixels))[found].all()
    assert ((width + 0.5) >= ratio[0] * (height - 0.5))[found].all()
    assert ((width - 0.5) <= ratio[1] * (height + 0.5))[found].all()


def test_warps_read_where_the_map_says() -> None:
    ramp = (4 * torch.arange(20, dtype=torch.uint8)).expand(2, 1, 6, 20).contiguous()
    maps = np.asarray([[[0.5, 0, 3], [0, 1, 0]], [[1, 0, -2], [0, 1, 0]]])
    half, moved = warp(ramp, maps, [200])[:, 0, 2].int()
    assert torch.equal(half, (4 * (0.5 * (torch.arange(20) + 0.5) + 3 - 0.5)).round().int())
    assert moved.tolist() == [200, 200, *range(0, 72, 4)]


def test_resized_crops() -> None:
    square, flat = noise(5, 3, 16, 16), noise(5, 3, 4, 64)
    assert torch.equal(resized_crop(square, (1, 1), (1, 1), rng()), square)
    ramp = torch.arange(64, dtype=torch.uint8).expand(5, 1, 4, 64).contiguous()
    made = resized_crop(ramp, (1, 1), (3 / 4, 4 / 3), rng())[:, 0, 0].int()
    # no box of the whole area has these proportions: the middle, 5 wide and 4 high
    assert made.min() == 29 and made.max() == 33
    assert resized_crop(flat, (0.08, 1), (3 / 4, 4 / 3), rng()).shape == flat.shape
    spans = resized_crop(ramp.expand(5, 1, 4, 64), (0.08, 1.0), (1, 16), rng(1))[:, 0, 0].int()
    assert ((spans[:, -1] - spans[:, 0]) > 0).all() and spans.unique(dim=0).shape[0] > 1


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(0, 99))
def test_erasing_leaves_the_outside_alone(shape, seed) -> None:
    images = torch.full(shape, 7.0)
    made = erase(images.clone(), 1.0, rng(seed))
    for one in made:
        gone = one != 7
        assert torch.equal(gone.any(0).expand_as(gone), gone)  # in all channels alike
        rows, columns = gone[0].any(1).nonzero(), gone[0].any(0).nonzero()
        if len(rows):
            box = gone[0][int(rows.min()) : int(rows.max()) + 1, int(columns.min()) : int(columns.max()) + 1]
            assert box.all() and int(box.sum()) == int(gone[0].sum())
    assert torch.equal(erase(images.clone(), 0.0, rng(seed)), images)


def test_erased_is_noise_of_the_right_size_and_share() -> None:
    made = erase(torch.full((400, 3, 32, 32), 100.0), 0.25, rng())
    gone = made != 100
    share = gone.float().mean((1, 2, 3))
    assert 0.18 < (share > 0).float().mean() < 0.32
    erased = share[share > 0]
    assert erased.min() > 0.5 * ERASED[0] and erased.max() < 1.1 * ERASED[1]
    values = made[gone]
    assert abs(float(values.mean())) < 0.02 and abs(float(values.std()) - 1) < 0.02


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.floats(0, 1))
def test_mixup_is_the_weighted_sum(shape, share) -> None:
    images = torch.randn(shape)
    torch.testing.assert_close(mixup(images, share), share * images + (1 - share) * images.flip(0))


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.floats(0, 1), st.integers(0, 99))
def test_cutmix_takes_each_pixel_from_one_and_says_the_true_share(shape, share, seed) -> None:
    images = torch.arange(float(np.prod(shape))).reshape(shape)  # all values differ
    made, true = cutmix(images, share, rng(seed))
    first, second = made == images, made == images.flip(0)
    assert (first | second).all()
    for row in range(shape[0]):
        if 2 * row + 1 != shape[0]:  # the middle one of an odd batch is its own partner
            assert float(first[row].float().mean()) == pytest.approx(true, abs=1e-6)
    assert true >= share - 1e-9  # a box cut off at the border takes less


def batch_of(count: int) -> dict[str, torch.Tensor]:
    return {"image": torch.randn(count, 3, 8, 8), "label": torch.arange(count)}


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixed_labels_are_those_of_the_mixed_pictures(alphas) -> None:
    shares = []
    for seed in range(50):
        batch = batch_of(6)
        batch["image"] = batch["label"].float().reshape(6, 1, 1, 1).expand(6, 3, 8, 8)  # a picture is what it shows
        mix(batch, rng(seed), alphas, 0.5)
        share = float(batch["share"][0])
        shares.append(share)
        assert batch["share"].shape == (6,) and (batch["share"] == share).all() and 0 <= share <= 1
        assert batch["label"].tolist() == [*range(6)] and batch["label2"].tolist() == [*reversed(range(6))]
        wanted = batch["share"] * batch["label"] + (1 - batch["share"]) * batch["label2"]
        torch.testing.assert_close(batch["image"].mean((1, 2, 3)), wanted)
    assert min(shares) < 0.5 and max(shares) > 0.8


def test_switch_and_share_of_mixing() -> None:
    def cut(augment: Augment, seed: int) -> bool | None:
        batch = batch_of(2)
        before = batch["image"].clone()
        made = augment.finished(batch, rng(seed))
        assert set(made) == {"image", "label", "label2", "share"}
        if torch.equal(made["image"], before):
            return None
        return bool(((made["image"] == before) | (made["image"] == before.flip(0))).all())

    kinds = [cut(DEIT.replace(erasing=0), seed) for seed in range(200)]
    assert 60 < kinds.count(True) < 140 and 60 < kinds.count(False) < 140
    assert all(cut(DEIT.replace(erasing=0, mix_switch=0), seed) is False for seed in range(20))
    assert all(cut(DEIT.replace(erasing=0, mix_share=0), seed) is None for seed in range(20))
    unmixed = DEIT.replace(erasing=0, mix_share=0).finished(batch_of(4), rng())
    assert unmixed["share"].tolist() == [1, 1, 1, 1]
    assert set(Augment().finished(batch_of(4), rng())) == {"image", "label"}


def test_nothing_is_done_unless_asked() -> None:
    images, batch = noise(4, 3, 9, 9), batch_of(4)
    assert torch.equal(Augment().cropped(images, rng()), images)
    assert torch.equal(Augment().changed(images, rng(), FILL), images)
    assert torch.equal(Augment().finished(dict(batch), rng())["image"], batch["image"])


def test_switching_one_part_leaves_the_others() -> None:
    images = noise(64, 3, 9, 9)
    plain = Augment(flip=0.5).changed(images, rng(), FILL)
    both = Augment(flip=0.5, randaugment=RandAugment()).changed(images, rng(), FILL)
    alike = (plain == both).all(1).all(1).all(1)
    assert 5 < alike.sum() < 40  # those that RandAugment left alone are flipped as before
    erased = Augment(erasing=0.5, mixup=0.8).finished(batch_of(8), rng())
    assert torch.equal(erased["share"], Augment(mixup=0.8).finished(batch_of(8), rng())["share"])


def test_the_recipe_is_data() -> None:
    assert from_dict(to_dict(DEIT), Augment) == DEIT
    assert override(DEIT, "randaugment.magnitude", "5").randaugment == RandAugment(magnitude=5)
    assert override(DEIT, "randaugment", "null").randaugment is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"flip": 1.5}, "flip"),
        ({"crop": "padd"}, "'pad'"),
        ({"scale": (0.5, 0.1)}, "scale is a range"),
        ({"scale": (0.0, 1.0)}, "scale is a range"),
        ({"ratio": (2.0, 1.0)}, "ratio is a range"),
        ({"mixup": -1}, "mixup"),
        ({"repeats": 0}, "repeats"),
        ({"earsing": 0.25}, "did you mean 'erasing'"),
        ({"randaugment": {"magnitude": 11}}, "magnitude"),
    ],
)
def test_unusable_recipes_are_refused_in_one_line(data, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        from_dict(data, Augment)
    assert "\n" not in str(caught.value)
