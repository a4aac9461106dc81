"""Photo: what an index keeps of a picture's file beside what it shows: bytes, size, and when it was taken."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from tessella.data.pixels import FILE_BYTES, FORMATS, ORIENTATION, Unreadable
from tessella.retrieval.scan import Mark

SIDEWAYS = (5, 6, 7, 8)
"""Orientations of a camera that was held upright."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A picture's file, read once: its path from the folder, its mark, and what its header tells.

    content: hash of the bytes; the same content has the same embedding. width, height: pixels, as one looks at it.
    date: when it was taken (by the camera's clock, or else the file's time, here), without a time zone.
    """

    path: str
    mark: Mark
    content: str
    width: int
    height: int
    date: dt.datetime


def read_photo(folder: Path, path: str, mark: Mark) -> tuple[Photo, bytes]:
    """A file's facts and its bytes. Raises Unreadable for what is no picture by its header."""
    try:
        if not (folder / path).is_file():
            raise Unreadable(path, "no such file" if not (folder / path).exists() else "no regular file")
        if not 0 < mark.size <= FILE_BYTES:
            raise Unreadable(path, "empty file" if mark.size == 0 else f"over {FILE_BYTES >> 20} MiB")
        data = (folder / path).read_bytes()
    except OSError as error:
        raise Unreadable(path, "file cannot be opened", error.strerror or "") from None
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            exif = image.getexif() if image.format in ("JPEG", "TIFF", "WEBP", "PNG", "MPO") else None
            upright = exif is None or exif.get(ORIENTATION) not in SIDEWAYS
            taken = _taken(exif)
    except UnidentifiedImageError:
        raise Unreadable(path, f"no image of a known kind ({', '.join(FORMATS)})") from None
    except MemoryError:
        raise
    except Exception as error:  # decoders of foreign bytes raise nearly everything
        raise Unreadable(path, "broken image", str(error)[:200]) from None
    width, height = (width, height) if upright else (height, width)
    content = hashlib.blake2b(data, digest_size=16).hexdigest()
    return Photo(path, mark, content, width, height, taken or _local(mark.modified)), data


def _taken(exif: Image.Exif | None) -> dt.datetime | None:
    """When the shutter opened, or else what the camera last wrote; None where neither is a date."""
    if not exif:
        return None
    try:
        inner = exif.get_ifd(ExifTags.IFD.Exif)
    except Exception:  # a broken note beside a whole picture
        inner = {}
    for told in (inner.get(ExifTags.Base.DateTimeOriginal), exif.get(ExifTags.Base.DateTime)):
        try:
            found = dt.datetime.strptime(str(told).strip("\0 ")[:19], "%Y:%m:%d %H:%M:%S")
        except ValueError:
            continue
        if found.year >= 1826:  # before, nothing was photographed
            return found
    return None


def _local(modified: int) -> dt.datetime:
    try:
        return dt.datetime.fromtimestamp(modified // 10**6)
    except (ValueError, OverflowError, OSError):  # a time no calendar has
        return dt.datetime(1970, 1, 1)
