"""Pixels: whatever a file holds, decoding gives an upright 8-bit picture or one plain reason, and nothing else."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tessella.data.pixels import (
    HALVES,
    IMAGENET,
    Preprocess,
    Unreadable,
    decode,
    fitted,
    header,
    normalised,
    random_resized_crop,
)
from tessella.errors import InputError
from tessella.spec import from_dict, to_dict

RNG = np.random.default_rng(0)


def smooth(rows: int, cols: int, channels: int = 3) -> np.ndarray:
    """Colours that change slowly, so that JPEG keeps them nearly."""
    r, c = np.mgrid[0:rows, 0:cols]
    planes = [r * 255 / max(rows - 1, 1), c * 255 / max(cols - 1, 1), (r + c) * 255 / max(rows + cols - 2, 1)]
    return np.stack(planes[:channels], -1).astype(np.uint8)


def saved(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png_header(rows: int, cols: int) -> bytes:
    """A PNG that claims to be large and holds next to nothing."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", cols, rows, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    made = (struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


PICTURE = Image.fromarray(smooth(24, 40))
FILES = {name: saved(PICTURE, name) for name in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FILES)
def test_every_format_of_the_list(name, channels, tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(FILES[name])
    for source in (FILES[name], file):
        image = decode(source, channels)
        assert (image.mode, image.size) == ("RGB" if channels == 3 else "L", (40, 24))
        expected = PICTURE if channels == 3 else PICTURE.convert("L")
        assert np.abs(np.asarray(image, int) - np.asarray(expected, int)).mean() < 12
    assert header(file)[2:] == (24, 40)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_damaged_files_are_pictures_or_unreadable(name, data):
    file = bytearray(FILES[name])
    for _ in range(data.draw(st.integers(0, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    file = bytes(file[: data.draw(st.integers(0, len(file)))])
    try:
        assert decode(file, limit=10**6).mode == "RGB"
    except Unreadable as error:
        assert error.reason and "\n" not in str(error)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_unreadable(junk):
    with pytest.raises(Unreadable):
        decode(junk)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "empty file"),
        (b"this is no picture\n" * 50, "no image of a known kind"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "no image of a known kind"),
        (FILES["JPEG"][: len(FILES["JPEG"]) // 2], "truncated image"),
        (FILES["PNG"][:80], "truncated image"),
        (png_header(50_000, 50_000), "over 89.5 megapixels"),
        (png_header(1, 2**31 - 1), "over 89.5 megapixels"),
    ],
)
def test_reasons(file, reason, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(file)
    with pytest.raises(Unreadable, match="is not usable") as caught:
        decode(path)
    assert caught.value.reason.startswith(reason)
    if reason.startswith("over"):
        assert re.search(r"over 89\.5 megapixels \(2,(500|147) of them\)$", str(caught.value))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_is_an_argument_and_looks_before_decoding():
    with pytest.raises(Unreadable, match="megapixels"):
        decode(png_header(10_000, 10_000))
    assert decode(FILES["PNG"], limit=24 * 40).size == (40, 24)
    for look in (decode, header):
        with pytest.raises(Unreadable, match=r"over 0\.000959 megapixels"):
            look(FILES["PNG"], limit=24 * 40 - 1)


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for ever
    for name, reason in (("none.jpg", "no such file"), ("pipe.jpg", "no regular file"), (".", "no regular file")):
        with pytest.raises(Unreadable, match=reason):
            decode(tmp_path / name)


def test_sixteen_bits_are_scaled_not_clipped():
    deep = np.linspace(0, 65535, 24 * 40).astype(np.uint16).reshape(24, 40)
    expected = np.rint(deep / 257).astype(np.uint8)
    for name in ("PNG", "TIFF"):
        got = decode(saved(Image.fromarray(deep), name), 1)
        assert np.array_equal(np.asarray(got), expected), name
    dark = deep // 8  # not stretched: a dark picture stays dark
    assert np.asarray(decode(saved(Image.fromarray(dark), "PNG"), 1)).max() == 32
    wide = saved(Image.fromarray(deep.astype(np.int32)), "TIFF")
    assert np.array_equal(np.asarray(decode(wide, 1)), expected)


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_floating_point_greys(white):
    values = np.linspace(0, white, 60, dtype=np.float32).reshape(6, 10)
    got = np.asarray(decode(saved(Image.fromarray(values), "TIFF"), 1), int)
    assert np.abs(got - values * 255 / white).max() <= 0.51
    values[0, 0] = np.nan
    with pytest.raises(Unreadable, match="no numbers"):
        decode(saved(Image.fromarray(values), "TIFF"))


def test_transparency_is_laid_on_white():
    clear = np.zeros((4, 6, 4), np.uint8)
    clear[:, :3] = (200, 0, 0, 255)
    for image in (Image.fromarray(clear), Image.fromarray(clear).convert("LA"), Image.fromarray(clear).quantize(8)):
        got = np.asarray(decode(saved(image, "PNG")))
        assert (got[:, 3:] == 255).all() and (got[:, :3] < 210).all(), image.mode
    keyed = saved(Image.fromarray(clear[..., :3]), "PNG", transparency=(0, 0, 0))
    assert (np.asarray(decode(keyed))[:, 3:] == 255).all()


def test_other_ways_to_store_a_colour():
    for image in (PICTURE.convert("CMYK"), PICTURE.convert("YCbCr")):
        got = np.asarray(decode(saved(image, "JPEG", quality=95)), int)
        assert np.abs(got - np.asarray(PICTURE, int)).mean() < 6, image.mode
    one_bit = decode(saved(PICTURE.convert("1"), "PNG"))
    assert one_bit.mode == "RGB" and set(np.unique(one_bit)) == {0, 255}


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_several(name):
    frames = [Image.new("RGB", (12, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if name == "WEBP" else {}
    got = np.asarray(decode(saved(frames[0], name, save_all=True, append_images=frames[1:], **options)))
    assert (got == (255, 0, 0)).all()


@pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(orientation, name):
    """A camera's note is followed: what Pillow's own function makes of the file, whatever the format."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = saved(PICTURE, name, exif=exif, **({"lossless": True} if name == "WEBP" else {}))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")
    got = decode(file)
    assert got.size == ((40, 24) if orientation < 5 else (24, 40))
    assert np.array_equal(np.asarray(got), np.asarray(expected))


def test_a_broken_note_does_not_spoil_the_picture():
    assert decode(saved(PICTURE, "JPEG", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")).size == (40, 24)


def test_large_photos_are_decoded_smaller_but_never_too_small():
    photo = Image.fromarray(smooth(1200, 1600))
    file = saved(photo, "JPEG", quality=95)
    small = decode(file, wanted=(100, 150))
    assert small.size == (400, 300)
    assert decode(file, wanted=(500, 700)).size == (1600, 1200)
    assert decode(saved(photo, "PNG"), wanted=(10, 10)).size == (1600, 1200)
    how = Preprocess(size=100)
    assert np.abs(fitted(small, how).astype(int) - fitted(photo, how)).max() <= 4


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.floats(0.3, 1),
    st.sampled_from(["crop", "squash"]),
    st.sampled_from([1, 3]),
    st.integers(0, 9),
)
def test_every_picture_fits(size, wanted, crop, fit, channels, seed):
    how = Preprocess(size=wanted, crop=crop, fit=fit, channels=channels)
    plain = Image.new("RGB", size, (90, 90, 90))
    for got in (fitted(plain, how), random_resized_crop(plain, how, np.random.default_rng(seed))):
        assert got.shape == (channels, *wanted) and got.dtype == np.uint8 and got.flags.c_contiguous
        assert (got == 90).all()


def test_nothing_changes_where_nothing_has_to():
    for fit in ("crop", "squash"):
        got = fitted(PICTURE, Preprocess(size=(24, 40), crop=1.0, fit=fit))
        assert np.array_equal(got, np.asarray(PICTURE).transpose(2, 0, 1))


@pytest.mark.parametrize("rows,cols", [(256, 340), (500, 374), (90, 512), (224, 224), (37, 31)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_as_transformers_prepares_them(rows, cols, interpolation):
    clip = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    vit = pytest.importorskip("transformers.models.vit.image_processing_pil_vit")
    image = Image.fromarray(RNG.integers(0, 256, (rows, cols, 3), dtype=np.uint8))
    resample = {"bicubic": 3, "bilinear": 2}[interpolation]
    squash = Preprocess(size=(48, 64), fit="squash", interpolation=interpolation, **HALVES)
    theirs = vit.ViTImageProcessorPil(
        size={"height": 48, "width": 64}, resample=resample, image_mean=HALVES["mean"], image_std=HALVES["std"]
    )
    compare(theirs, image, squash)
    centre = Preprocess(size=64, crop=0.8, interpolation=interpolation, **IMAGENET)
    theirs = clip.CLIPImageProcessorPil(
        size={"shortest_edge": 80},
        crop_size={"height": 64, "width": 64},
        resample=resample,
        image_mean=IMAGENET["mean"],
        image_std=IMAGENET["std"],
    )
    long = 80 * max(rows, cols) // min(rows, cols)
    if (long - 64) % 4 != 3:  # there half a pixel is rounded down, here to even as by torchvision and so timm
        compare(theirs, image, centre)


def compare(processor, image: Image.Image, how: Preprocess) -> None:
    theirs = processor(images=image, return_tensors="pt")["pixel_values"]
    ours = normalised(torch.from_numpy(fitted(image, how))[None], how)
    torch.testing.assert_close(ours, theirs.float(), atol=1e-6, rtol=1e-6)


def test_sizes_before_the_crop_are_those_of_timm():
    """floor(size / crop_pct): 248 at the 0.9 of ViT, 256 at 0.875, 384 at 1."""
    assert Preprocess(crop=0.9).resized == (248, 248)
    assert Preprocess(crop=0.875).resized == (256, 256)
    assert Preprocess(size=384, crop=1.0).resized == (384, 384)


def test_random_crops_have_the_area_and_proportions_asked_for():
    """Red is the row, green the column of a pixel, so that a crop tells where it comes from."""
    image = Image.fromarray(smooth(256, 256))
    how = Preprocess(size=64)
    corners = set()
    for seed in range(40):
        got = random_resized_crop(image, how, np.random.default_rng(seed), (0.25, 0.25), (0.5, 2.0)).astype(int)
        height, width = np.ptp(got[0]) + 4, np.ptp(got[1]) + 4
        assert abs(height * width - 128 * 128) < 0.08 * 128 * 128
        assert 0.45 < width / height < 2.2
        corners.add((got[0].min() // 16, got[1].min() // 16))
    assert len(corners) > 10
    whole = random_resized_crop(image, how, RNG, (1.0, 1.0), (1.0, 1.0))
    assert np.array_equal(whole, fitted(image, how.replace(fit="squash")))
    again = [random_resized_crop(image, how, np.random.default_rng(3)) for _ in range(2)]
    assert np.array_equal(*again)


@pytest.mark.parametrize("size", [(600, 2), (2, 600), (1, 1)])
def test_random_crops_of_strips(size):
    got = random_resized_crop(Image.new("RGB", size, "white"), Preprocess(size=8), np.random.default_rng(0), (0.9, 1.0))
    assert got.shape == (3, 8, 8) and (got == 255).all()


def test_normalisation_is_its_formula_and_leaves_its_input():
    images = torch.from_numpy(RNG.integers(0, 256, (2, 3, 5, 7), dtype=np.uint8))
    before = images.clone()
    how = Preprocess()
    got = normalised(images, how)
    for v in range(3):
        expected = (images[:, v].double() / 255 - how.mean[v]) / how.std[v]
        torch.testing.assert_close(got[:, v].double(), expected, atol=1e-6, rtol=0)
    assert torch.equal(images, before) and got.dtype == torch.float32
    floats = before.float()
    normalised(floats, how)
    assert torch.equal(floats, before.float())


def test_a_preprocess_is_data():
    how = Preprocess(size=96, channels=1, crop=1.0)
    assert how.size == (96, 96) and how.mean == (0.5,)
    assert from_dict(to_dict(how), Preprocess) == how
    assert from_dict(to_dict(Preprocess(**HALVES)), Preprocess).mean == HALVES["mean"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": [0.5]}, "mean has 1 values for 3 channels"),
        ({"std": [1, 1, 0]}, "std above 0"),
        ({"size": 0}, "size is"),
        ({"size": [8, 8, 8]}, "size"),
        ({"crop": 0}, "crop is 0"),
        ({"crop": 1.5}, "crop is 1.5"),
        ({"channels": 4}, "channels"),
        ({"fit": "pad"}, "fit"),
        ({"interpolation": "nearest"}, "interpolation"),
        ({"sise": 8}, "did you mean 'size'"),
    ],
)
def test_a_wrong_preprocess_is_refused(fields, message):
    with pytest.raises(InputError, match=message) as caught:
        from_dict({"kind": "preprocess", **fields})
    assert "\n" not in str(caught.value)
