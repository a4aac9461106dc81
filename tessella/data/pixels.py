"""Pixels: one image file decoded safely, as RGB or grey of a wanted size."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from einops import rearrange
from PIL import Image, UnidentifiedImageError
from pydantic import field_validator, model_validator

from tessella.errors import InputError
from tessella.spec import Spec, spec

if TYPE_CHECKING:
    from torch import Tensor

# Decoders for pictures as cameras, browsers and scanners write them (MPO comes as JPEG). No others: some that Pillow
# has run programs (EPS) or are hardly ever attacked by anyone but attackers.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
PIXELS = 2**30 // 12  # where Pillow, too, begins to suspect a bomb
FILE_BYTES = 2**28
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""Mean and deviation of ImageNet's training images: DeiT, Swin, CvT and the convnets. ``Preprocess(**IMAGENET)``"""
HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
"""Values from -1 to 1: ViT as its authors published it."""


class Unreadable(InputError):
    """A picture, sound or video that cannot be used; ``reason`` is one for all that fail alike, and can be counted."""

    def __init__(self, where: str, reason: str, detail: str = ""):
        super().__init__(f"{where} is not usable: {reason}{f' ({detail})' if detail else ''}")
        self.reason, self.detail = reason, detail


@spec("preprocess")
class Preprocess(Spec):
    """How a picture becomes what a model reads: ``size`` (rows, columns), channels, crop and normalisation.

    ``crop`` is the share of the resized shorter side that the centre crop keeps (timm's crop_pct); ``fit="squash"``
    resizes to ``size`` and cuts nothing. One number stands for a square. Without mean and std, ImageNet's are taken for
    RGB and 0.5 for grey.
    """

    size: tuple[int, int] = (224, 224)
    channels: Literal[1, 3] = 3
    mean: tuple[float, ...] = IMAGENET["mean"]
    std: tuple[float, ...] = IMAGENET["std"]
    crop: float = 0.875
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fit: Literal["crop", "squash"] = "crop"

    @model_validator(mode="before")
    @classmethod
    def _grey_without_statistics(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("channels") == 1:
            return {"mean": (0.5,), "std": (0.5,), **data}
        return data

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, size: Any) -> Any:
        return (size, size) if isinstance(size, int) else size

    @model_validator(mode="after")
    def _sound(self) -> Preprocess:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise InputError(f"{name} has {len(values)} values for {self.channels} channels; give one a channel")
        if not all(math.isfinite(v) for v in self.mean) or not all(0 < v < math.inf for v in self.std):
            raise InputError(f"mean {self.mean} and std {self.std} must be finite, and std above 0")
        if min(self.size) < 1:
            raise InputError(f"size is {self.size}; rows and columns must be at least 1")
        if not 0 < self.crop <= 1:
            raise InputError(f"crop is {self.crop}; it is a share of the resized side, above 0 and at most 1")
        return self

    @property
    def resized(self) -> tuple[int, int]:
        """What the centre crop is cut from: (rows, columns) that a picture of the same proportions is resized to."""
        rows, cols = self.size
        return math.floor(rows / self.crop), math.floor(cols / self.crop)


class Header(NamedTuple):
    """What a file says of its picture before anything is decoded (rows and columns as stored, not yet turned)."""

    format: str
    mode: str
    rows: int
    cols: int


Source = bytes | str | os.PathLike[str]


def header(source: Source, limit: int = PIXELS) -> Header:
    """Format and size of a picture, without decoding it. Raises Unreadable for what ``decode`` would refuse unseen."""
    with opened(source, limit) as image:
        return Header(image.format or "", image.mode, image.height, image.width)


def decode(
    source: Source, channels: int = 3, limit: int = PIXELS, wanted: tuple[int, int] | None = None
) -> Image.Image:
    """An 8-bit picture, upright, RGB (3 channels) or grey (1), from a path or the bytes of a file.

    The first frame of an animation; transparency on white; 16-bit grey scaled. A file of over ``limit`` pixels is
    refused by its header, before decoding. With ``wanted`` (rows, columns) a JPEG is decoded at 1/2, 1/4 or 1/8 of its
    size as long as both sides stay at least twice as long: quick for photos, and nearly the same once resized.
    Raises Unreadable, an InputError, with a plain reason for anything that is no whole picture.
    """
    with opened(source, limit) as image:
        if wanted is not None:
            side = 2 * max(wanted)
            image.draft("RGB" if channels == 3 else "L", (side, side))  # does nothing unless it is a JPEG
        image.load()
        picture = eight_bits(image, "RGB" if channels == 3 else "L")
        turn = TURNS.get(_orientation(image))
    return picture if turn is None else picture.transpose(turn)


def fitted(image: Image.Image, preprocess: Preprocess) -> np.ndarray:
    """A picture as models are evaluated on it: uint8 ``v r c``, resized and cut as by timm and torchvision."""
    rows, cols = preprocess.size
    if preprocess.fit == "squash":
        return _array(image, preprocess, (rows, cols))
    up, across = preprocess.resized
    if image.height * across <= image.width * up:
        full = (up, image.width * up // image.height)
    else:
        full = (image.height * across // image.width, across)
    top, left = round((full[0] - rows) / 2), round((full[1] - cols) / 2)
    return _array(image, preprocess, full)[:, top : top + rows, left : left + cols].copy()


def random_resized_crop(
    image: Image.Image,
    preprocess: Preprocess,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """A random part of a picture, resized to ``preprocess.size``: uint8 ``v r c``.

    Its area is a share of the picture drawn from ``scale``, its width by height log-uniform in ``ratio``; after ten
    parts that do not fit, the largest central one (Szegedy et al. 2015, section 6, as in DeiT's training).
    """
    width, height = image.size
    shares = rng.uniform(*scale, size=10)
    ratios = np.exp(rng.uniform(*np.log(ratio), size=10))
    corner = rng.random(2)
    for share, wide in zip(shares, ratios, strict=True):
        cols = max(1, round(math.sqrt(share * width * height * wide)))
        rows = max(1, round(math.sqrt(share * width * height / wide)))
        if cols <= width and rows <= height:
            left, top = int(corner[0] * (width - cols + 1)), int(corner[1] * (height - rows + 1))
            break
    else:
        cols, rows = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
        cols, rows = max(1, cols), max(1, rows)
        left, top = (width - cols) // 2, (height - rows) // 2
    return _array(image, preprocess, preprocess.size, (left, top, left + cols, top + rows))


def normalised(images: Tensor, preprocess: Preprocess) -> Tensor:
    """uint8 ``b v r c`` to float32: (value / 255 - mean) / std of each channel, on the images' device."""
    values = images.float()
    mean = rearrange(values.new_tensor(preprocess.mean), "v -> v 1 1")
    std = rearrange(values.new_tensor(preprocess.std), "v -> v 1 1")
    return values.sub(255 * mean).div_(255 * std)


def _array(
    image: Image.Image,
    preprocess: Preprocess,
    size: tuple[int, int],
    box: tuple[int, int, int, int] | None = None,
) -> np.ndarray:
    mode = "RGB" if preprocess.channels == 3 else "L"
    image = image if image.mode == mode else image.convert(mode)
    if box is not None or size != (image.height, image.width):
        image = image.resize((size[1], size[0]), FILTERS[preprocess.interpolation], box=box)
    values = np.asarray(image)
    return (rearrange(values, "r c v -> v r c") if mode == "RGB" else rearrange(values, "r c -> 1 r c")).copy()


@contextmanager
def opened(source: Source, limit: int) -> Iterator[Image.Image]:
    """The one place where a file meets Pillow: whatever its decoders say comes out as Unreadable."""
    where = "the picture" if isinstance(source, bytes) else os.fspath(source)
    with stream(source, where) as file:
        try:
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > limit:
                    raise Image.DecompressionBombError(f"{image.width * image.height} pixels")
                yield image
        except Image.DecompressionBombError as error:
            pixels = re.search(r"(\d+) pixels", str(error))  # Pillow looks too, and speaks of a limit of its own
            told = f"{int(pixels[1]) / 1e6:,.4g} of them" if pixels else str(error)
            raise Unreadable(where, f"over {limit / 1e6:.3g} megapixels", told) from None
        except UnidentifiedImageError:
            raise Unreadable(where, f"no image of a known kind ({', '.join(FORMATS)})") from None
        except MemoryError:
            raise
        except Exception as error:  # decoders of foreign bytes raise nearly everything, from SyntaxError to KeyError
            cut = isinstance(error, EOFError) or "truncated" in str(error).lower()
            raise Unreadable(where, "truncated image" if cut else "broken image", str(error)[:200]) from None


def stream(source: Source, where: str, limit: int = FILE_BYTES) -> io.BufferedIOBase:
    """A regular file of at most ``limit`` bytes, or bytes, to be read. Raises Unreadable, which names it ``where``."""
    if isinstance(source, bytes):
        size = len(source)
        file = io.BytesIO(source)
    else:
        path = Path(source)
        try:
            if not path.is_file():  # a pipe or device would wait for ever
                raise Unreadable(where, "no such file" if not path.exists() else "no regular file")
            size = path.stat().st_size
            file = path.open("rb")
        except OSError as error:
            raise Unreadable(where, "file cannot be opened", error.strerror or "") from None
    if not 0 < size <= limit:
        file.close()
        raise Unreadable(where, "empty file" if size == 0 else f"over {limit >> 20} MiB")
    return file


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken note beside a whole picture; it is then taken as it stands
        return 1


def eight_bits(image: Image.Image, mode: str) -> Image.Image:
    """A picture as Pillow opened it, in RGB or L: 16 bits scaled, what is transparent on white."""
    if image.mode.startswith(("I", "F")):
        image = _scaled(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _scaled(image: Image.Image) -> Image.Image:
    """16 and 32 bits a pixel to 8: by the range that its type or its values tell (1, 255 or 65,535 is white)."""
    values = np.asarray(image).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("values that are no numbers")
    whites = [1.0, 255.0, 65535.0] if image.mode == "F" else [65535.0]
    white = next((w for w in whites if high <= w), high)
    dark = min(low, 0.0)
    return Image.fromarray(np.rint((values - dark) * (255 / (white - dark or 1))).astype(np.uint8))
