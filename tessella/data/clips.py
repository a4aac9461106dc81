"""Clips: one video, animation or folder of frames decoded safely, as a few pictures spread evenly over it."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from tessella.data.albums import natural
from tessella.data.pixels import (
    IMAGENET,
    PIXELS,
    Preprocess,
    Source,
    Unreadable,
    decode,
    eight_bits,
    fitted,
    normalised,
    opened,
    stream,
)
from tessella.errors import InputError
from tessella.spec import Spec, spec

FILE_BYTES = 2**33
SHORT = 600
"""Frames that are decoded one after the other; a longer video is sought through, where it says how long it is."""
SOUGHT = 600
"""Frames decoded behind a place to start from, in search of one place; a sane encoder starts anew far more often."""
LONGEST = 20_000
"""Frames of a video that does not say how long it is, or of an animation."""
MANY = 8
"""Times as many frames as are wanted that are kept of a video of unknown length."""
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
ANIMATIONS = (b"GIF8", b"\x89PNG", b"RIFF")
# Demuxers of files. Others read what a file names, from the disk or the network (playlists), or devices.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,ogg,asf,h264,hevc,m4v,ivf,mxf"


@spec("watching")
class Watching(Spec):
    """How a video becomes what a model sees: ``frames`` of them, each resized and cut in the middle to ``size``."""

    frames: int = Field(8, ge=1, le=1024)
    size: tuple[int, int] = (112, 112)
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET["mean"]
    std: tuple[float, ...] = IMAGENET["std"]

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, size: Any) -> Any:
        return (size, size) if isinstance(size, int) else size

    def model_post_init(self, context: Any) -> None:
        assert self.picture  # refuses what is no way to see a picture

    @property
    def picture(self) -> Preprocess:
        """What is done to each frame."""
        return Preprocess(size=self.size, channels=self.channels, mean=self.mean, std=self.std, crop=1.0)  # pyright: ignore


def watched(source: Source, how: Watching) -> np.ndarray:
    """Frames spread evenly over a video file, the bytes of one, an animated picture, or a folder: uint8 f v r c.

    Frame i of n is from the middle of the ith of n equal parts; f is less than ``how.frames`` where a video has less.
    Of a long video only the surroundings of these places are decoded. Raises Unreadable, an InputError, with a plain
    reason for anything that has no frames.
    """
    where = "the video" if isinstance(source, bytes) else os.fspath(source)
    if not isinstance(source, bytes) and Path(source).is_dir():
        frames = _of_folder(Path(source), how)
    else:
        with stream(source, where, FILE_BYTES) as file:
            start = file.read(12)
            file.seek(0)
            moving = start.startswith(ANIMATIONS) and not (start[:4] == b"RIFF" and start[8:] != b"WEBP")
            frames = _of_animation(source, where, how) if moving else _of_video(file, where, how)
    if not frames:
        raise Unreadable(where, "no frames")
    return np.stack(frames)


def stacked(clips: Sequence[np.ndarray], how: Watching) -> Tensor:
    """Clips f v r c as float32 b f v r c, normalised; whole frames of NaN behind the end of the shorter ones."""
    assert clips
    made = torch.full((len(clips), max(map(len, clips)), *clips[0].shape[1:]), torch.nan)
    for row, clip in zip(made, clips, strict=True):
        row[: len(clip)] = normalised(torch.from_numpy(clip), how.picture)
    return made


def spread(count: int, wanted: int) -> list[int]:
    """Numbers of the frames in the middles of ``wanted`` equal parts of ``count``; each once if there are fewer."""
    return (
        sorted({(2 * i + 1) * count // (2 * wanted) for i in range(wanted)}) if wanted < count else list(range(count))
    )


def _of_folder(folder: Path, how: Watching) -> list[np.ndarray]:
    names = [f for f in folder.iterdir() if f.suffix.lower() in PICTURES and not f.name.startswith(".")]
    files = sorted((f for f in names if f.is_file()), key=lambda f: natural(f.name))
    seen = how.picture
    chosen = (files[i] for i in spread(len(files), how.frames))
    return [fitted(decode(file, seen.channels, wanted=seen.resized), seen) for file in chosen]


def _of_animation(source: Source, where: str, how: Watching) -> list[np.ndarray]:
    made = []
    with opened(source, PIXELS) as image:
        count = getattr(image, "n_frames", 1)
        if count > LONGEST:
            raise Unreadable(where, f"over {LONGEST:,} frames", f"{count:,}")
        for number in spread(count, how.frames):
            image.seek(number)
            made.append(fitted(eight_bits(image, "RGB" if how.channels == 3 else "L"), how.picture))
    return made


def _of_video(file: io.BufferedIOBase, where: str, how: Watching) -> list[np.ndarray]:
    """The one place where a file meets FFmpeg: whatever it says comes out as Unreadable."""
    av, reason = _av(where), "no video of a known kind"
    try:
        with av.open(file, metadata_errors="replace", options={"format_whitelist": CONTAINERS}) as container:
            reason = "broken video"
            if not container.streams.video:
                raise Unreadable(where, "no frames", "it has no video stream")
            video = container.streams.video[0]
            if (video.width or 0) * (video.height or 0) > PIXELS:
                raise Unreadable(where, f"over {PIXELS / 1e6:.3g} megapixels a frame")
            seconds, count = _length(video, container)
            found = _sought(container, video, seconds, how) if count > SHORT else []
            return found or _in_order(container, video, where, how)
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # foreign bytes make PyAV raise much else than errors of FFmpeg
        raise Unreadable(where, reason, str(getattr(error, "strerror", "") or error)[:200]) from None


def _av(where: str) -> ModuleType:
    with contextlib.suppress(ImportError):
        import av

        return av
    raise InputError(f'{where} is a video, and reading those needs PyAV: pip install "tessella[video]"')


def _length(video: Any, container: Any) -> tuple[float, int]:
    """Seconds and number of frames as the file tells them; 0 where it does not."""
    seconds = float(video.duration * video.time_base) if video.duration else (container.duration or 0) / 1e6
    rate = float(video.average_rate or video.guessed_rate or 0)
    return seconds, video.frames or round(seconds * rate)


def _sought(container: Any, video: Any, seconds: float, how: Watching) -> list[np.ndarray]:
    """The frames shown at the middles of equal parts; none if one cannot go there."""
    begin, made, last = float((video.start_time or 0) * video.time_base), [], None
    for i in range(how.frames if seconds else 0):
        place = begin + (2 * i + 1) * seconds / (2 * how.frames)
        container.seek(round(place / video.time_base), stream=video)
        found = None
        for number, frame in enumerate(container.decode(video)):
            if found is None or (frame.time is not None and frame.time <= place):
                found = frame
            if frame.time is None or frame.time >= place or number >= SOUGHT:
                break
        if found is not None and (found.pts is None or found.pts != last):
            made.append(_seen(found, how))
            last = found.pts
    return made


def _in_order(container: Any, video: Any, where: str, how: Watching) -> list[np.ndarray]:
    """All frames decoded; those that are wanted are kept where their number is told.

    Where it is not, so few that they fit in memory, every one, every 2nd, every 4th ..., and at last those of them that
    are nearest.
    """
    container.seek(0)
    exact = set(spread(video.frames, how.frames)) if 0 < video.frames <= SHORT else None
    kept, every, number = [], 1, -1
    for number, frame in enumerate(container.decode(video)):
        if number >= LONGEST:
            raise Unreadable(where, f"over {LONGEST:,} frames and no length told")
        if number % every == 0 if exact is None else number in exact:
            kept.append((number, _seen(frame, how)))
        if len(kept) > MANY * how.frames:
            kept, every = kept[::2], 2 * every
    if exact is not None or not kept:
        return [frame for _, frame in kept]
    numbers = np.asarray([n for n, _ in kept])
    nearest = {int(np.abs(numbers - place).argmin()) for place in spread(number + 1, how.frames)}
    return [kept[i][1] for i in sorted(nearest)]


def _seen(frame: Any, how: Watching) -> np.ndarray:
    image = frame.to_image()
    return fitted(image.rotate(frame.rotation, expand=True) if frame.rotation else image, how.picture)
