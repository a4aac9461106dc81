"""Preprocessors: how transformers and timm write down the preparation of images, read and written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from tessella.data.pixels import Preprocess
from tessella.errors import InputError, did_you_mean
from tessella.spec import from_dict

FILE = "preprocessor_config.json"
FILTERS: dict[Any, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, which transformers writes."""
SQUASHED_FROM = 384
"""Rows from which a ConvNextImageProcessor cuts nothing."""
NEUTRAL: dict[str, Any] = {
    "do_resize": True,
    "do_pad": False,
    "do_flip_channel_order": False,
    "do_grayscale": False,
    "do_reduce_labels": False,
    "rescale_offset": False,
}
"""Switches that change pixels in ways we do not have, and the values at which they do not."""


class Kind(NamedTuple):
    """What an image processor of transformers does where its file leaves a field out."""

    whole: bool
    """A size given as one number is both sides of the picture, not its shorter side."""
    crops: bool = False
    resample: int = 3


KINDS = {
    "ViT": Kind(whole=True, resample=2),
    "DeiT": Kind(whole=True, crops=True),
    "ConvNext": Kind(whole=False),
    "Bit": Kind(whole=False, crops=True),
    "CLIP": Kind(whole=False, crops=True),
}
"""Its name without what follows: ImageProcessor, ImageProcessorFast, or FeatureExtractor in older files."""
USUAL = {
    "vit": "ViT",
    "deit": "DeiT",
    "swin": "ViT",
    "cvt": "ConvNext",
    "resnet": "ConvNext",
    "bit": "Bit",
    "clip": "CLIP",
}
"""model_type -> the kind that transformers takes for files that name none."""


class Read(NamedTuple):
    """What a file says, and what of it we do otherwise (empty if nothing)."""

    image: Preprocess
    note: str = ""


def from_transformers(data: Mapping[str, Any], model_type: str, channels: int = 3) -> Read:
    """The content of preprocessor_config.json. Raises InputError in one line for what we cannot do."""
    kind = _kind(data, model_type)
    for name, neutral in NEUTRAL.items():
        if data.get(name, neutral) not in (neutral, None):
            raise InputError(f"{FILE} sets {name} to {data[name]!r}, which is not supported")
    filtered = data.get("resample", kind.resample)
    if filtered not in FILTERS:
        raise InputError(
            f"{FILE} resizes with Pillow's filter {filtered!r}; only 2 (bilinear) and 3 (bicubic) are known"
        )
    size, shorter = _size(data.get("size"), "size", kind.whole)
    mean, std = _normalisation(data, channels)
    fixed = {"channels": channels, "mean": mean, "std": std, "interpolation": FILTERS[filtered]}
    if not kind.whole and not kind.crops:  # ConvNext: its crop is a share
        if not shorter:
            raise InputError(f"{FILE}: a ConvNextImageProcessor's size needs 'shortest_edge'")
        if size[0] >= SQUASHED_FROM:
            return Read(_checked(size=size, fit="squash", **fixed))
        return Read(_checked(size=size, crop=_share(data.get("crop_pct", 0.875)), **fixed))
    cut = None
    if data.get("do_center_crop", kind.crops):
        cut, _ = _size(data.get("crop_size"), "crop_size", True)
    if shorter and cut is None:
        raise InputError(
            f"{FILE} resizes the shorter side and cuts nothing: sizes would differ, which is not supported"
        )
    if cut is None or (cut == size and not shorter):
        return Read(_checked(size=size, fit="squash", **fixed))
    if cut[0] != cut[1] or size[0] != size[1] or cut > size:
        raise InputError(f"{FILE} cuts {_by(cut)} out of {_by(size)}; only squares out of larger squares are supported")
    made = _checked(size=cut, crop=_crop(cut[0], size[0]), **fixed)
    if shorter:
        return Read(made)
    return Read(made, f"{FILE} squeezes pictures into {_by(size)} before the crop; here, their shorter side is as long")


def to_transformers(image: Preprocess) -> dict[str, Any]:
    """The content of preprocessor_config.json. Raises InputError where no processor of transformers does the same."""
    rows, cols = image.size
    fields: dict[str, Any] = {
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
        "resample": next(number for number, name in FILTERS.items() if name == image.interpolation),
    }
    if image.fit == "squash":
        return {"image_processor_type": "ViTImageProcessor", **fields, "size": {"height": rows, "width": cols}}
    if rows != cols:
        raise InputError(f"transformers cannot cut {_by(image.size)} out of a picture; train with image.fit=squash")
    return {
        "image_processor_type": "BitImageProcessor",
        **fields,
        "size": {"shortest_edge": image.resized[0]},
        "do_center_crop": True,
        "crop_size": {"height": rows, "width": cols},
    }


def from_timm(data: Mapping[str, Any]) -> Read:
    """The `pretrained_cfg` of timm's config.json. Raises InputError in one line for what we cannot do."""
    sizes = data.get("input_size")
    if not (isinstance(sizes, Sequence) and len(sizes) == 3 and all(_is_side(n) for n in sizes)):
        raise InputError(f"config.json: 'input_size' must be channels, rows and columns, got {sizes!r}")
    filtered = data.get("interpolation", "bicubic")
    if filtered not in FILTERS.values():
        near = did_you_mean(str(filtered), FILTERS.values())
        raise InputError(f"config.json: interpolation {filtered!r} is not supported{near}")
    mode, crop = data.get("crop_mode") or "center", _share(data.get("crop_pct") or 0.875)
    if mode not in ("center", "squash") or (mode == "squash" and crop < 1):
        raise InputError(f"config.json: crop_mode {mode!r} with crop_pct {crop} is not supported; 'center' is")
    made = _checked(
        size=(sizes[1], sizes[2]),
        channels=sizes[0],
        mean=_numbers(data.get("mean"), "mean", sizes[0]),
        std=_numbers(data.get("std"), "std", sizes[0]),
        crop=crop,
        interpolation=filtered,
        fit="crop" if mode == "center" else "squash",
    )
    return Read(made)


def to_timm(image: Preprocess) -> dict[str, Any]:
    """The fields of timm's `pretrained_cfg` that say how images are prepared."""
    return {
        "input_size": [image.channels, *image.size],
        "interpolation": image.interpolation,
        "crop_pct": image.crop if image.fit == "crop" else 1.0,
        "crop_mode": "center" if image.fit == "crop" else "squash",
        "mean": list(image.mean),
        "std": list(image.std),
    }


def _checked(channels: int, **fields: Any) -> Preprocess:
    """The spec; what it refuses comes out as one line."""
    if channels not in (1, 3):
        raise InputError(f"images of {channels} channels are not supported; 3 (RGB) and 1 (grey) are")
    return from_dict({"channels": channels, **fields}, Preprocess)


def _kind(data: Mapping[str, Any], model_type: str) -> Kind:
    said = data.get("image_processor_type") or data.get("feature_extractor_type")
    name = str(said or USUAL.get(model_type)).removesuffix("Fast").removesuffix("Pil")
    name = name.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if name not in KINDS:
        near = did_you_mean(str(said), [f"{kind}ImageProcessor" for kind in KINDS])
        raise InputError(f"{FILE}: '{said}' is an image processor that is not supported{near}")
    return KINDS[name]


def _size(value: Any, name: str, whole: bool) -> tuple[tuple[int, int], bool]:
    """Rows and columns, and whether they are only the shorter side, of {"height", "width"} or {"shortest_edge"}."""
    sides = dict(value) if isinstance(value, Mapping) else {"side": value}
    if all(map(_is_side, sides.values())):
        match sides:
            case {"shortest_edge": edge, **others} if not others:
                return (edge, edge), True
            case {"height": rows, "width": cols, **others} if not others:
                return (rows, cols), False
            case {"side": side}:
                return (side, side), not whole
    raise InputError(f"{FILE}: '{name}' must be a number, height and width, or shortest_edge, got {value!r}")


def _normalisation(data: Mapping[str, Any], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation for values of 0 to 1, whatever range the file rescales to."""
    factor = 1.0
    if data.get("do_rescale", True):
        (factor,) = _numbers(data.get("rescale_factor", 1 / 255), "rescale_factor", 1)
    if factor <= 0:
        raise InputError(f"{FILE}: 'rescale_factor' must be above 0, got {factor}")
    mean, std = (0.0,) * channels, (1.0,) * channels
    if data.get("do_normalize", True):
        mean = _numbers(data.get("image_mean"), "image_mean", channels)
        std = _numbers(data.get("image_std"), "image_std", channels)
    white = 255 * factor
    if math.isclose(white, 1):
        return mean, std
    return tuple(m / white for m in mean), tuple(s / white for s in std)


def _numbers(value: Any, name: str, count: int) -> tuple[float, ...]:
    values = [value] * count if isinstance(value, int | float) else value
    if (
        not isinstance(values, list | tuple)
        or len(values) != count
        or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values)
    ):
        raise InputError(f"the preparation of images: '{name}' must be {count} numbers, got {value!r}")
    return tuple(map(float, values))


def _crop(cut: int, full: int) -> float:
    """The share that has a side of `full` pixels resized and one of `cut` kept."""
    share = cut / full
    return share if math.floor(cut / share) == full else math.nextafter(share, 0)


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise InputError(f"the preparation of images: 'crop_pct' must be above 0 and at most 1, got {value!r}")
    return float(value)


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10**5


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
