"""Sounds: one sound file decoded safely, as log-mel frames in time order."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from pydantic import Field, model_validator
from scipy.signal import resample_poly
from torch import Tensor
from torch.nn import functional as F

from tessella.data.pixels import Source, Unreadable, stream
from tessella.errors import InputError
from tessella.spec import Spec, spec

# Containers that people keep sounds in, as libsndfile names them. RAW needs to be told what it is, and the rest is of
# samplers and matrices.
FORMATS = ("WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "NIST")
FILE_BYTES = 2**31
RATES = (1_000, 768_000)
CHANNELS = 64
BLOCK = 2**16
LOUDEST = 1e6
FLOOR = 1e-8
"""Power below which nothing is heard: 80 dB under white noise of full scale, 20 dB above the rounding of 16 bits."""
LOWEST = 20.0
"""Hz where the first filter begins: what is below is wind, hum and offset."""


@spec("hearing")
class Hearing(Spec):
    """How a sound becomes what a model reads: (log of the power in mel bands - mean) / std, a row every ``hop_ms``.

    Channels are averaged. Of a sound of more than ``seconds`` the first ``seconds`` are heard; one of more than
    ``longest`` is refused by its header. ``window_ms``: the length of the Hann window that one row is about.
    """

    rate: int = Field(16_000, ge=RATES[0], le=192_000)
    """Samples a second that every sound is brought to."""
    seconds: float = Field(10.0, gt=0, le=3600)
    window_ms: float = Field(25.0, gt=0, le=1000)
    hop_ms: float = Field(10.0, gt=0, le=1000)
    mels: int = Field(64, ge=1, le=512)
    mean: float = 0.0
    std: float = Field(1.0, gt=0)
    longest: float = Field(600.0, gt=0)

    @model_validator(mode="after")
    def _sound(self) -> Hearing:
        if not (math.isfinite(self.mean) and math.isfinite(self.std)):
            raise InputError(f"mean {self.mean} and std {self.std} must be finite")
        if min(self.window, self.hop) < 1:
            raise InputError(
                f"a window of {self.window_ms} ms every {self.hop_ms} ms is less than a sample; lengthen it"
            )
        if self.longest < self.seconds:
            raise InputError(f"longest is {self.longest} s, less than the {self.seconds} s that are heard")
        return self

    @property
    def window(self) -> int:
        """Samples of a window."""
        return round(self.rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        """Samples from one window to the next."""
        return round(self.rate * self.hop_ms / 1000)

    @property
    def frames(self) -> int:
        """The most rows that a sound has."""
        return rows(math.ceil(self.rate * self.seconds), self.window, self.hop)


class Header(NamedTuple):
    """What a file says of its sound before anything is decoded."""

    format: str
    rate: int
    channels: int
    samples: int
    """A channel."""

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.samples / self.rate


def header(source: Source) -> Header:
    """Format, rate and length of a sound, without decoding it. Raises Unreadable for what cannot be a sound."""
    with _opened(source) as (_, told):
        return told


def heard(source: Source, how: Hearing) -> np.ndarray:
    """The log-mel frames of a sound file, or of the bytes of one: float32 t m, standardised, t at least 1.

    Raises Unreadable, an InputError, with a plain reason for anything that is no whole sound; what is too long is
    refused by its header, before decoding.
    """
    where = _name(source)
    with _opened(source) as (file, told):
        if told.seconds > how.longest:
            raise Unreadable(where, f"over {how.longest:g} s long", f"{told.seconds:,.0f} s")
        wanted = min(told.samples, math.ceil(how.seconds * told.rate))
        blocks = file.blocks(BLOCK, frames=wanted, dtype="float32", always_2d=True)
        wave = np.concatenate([block.mean(axis=1) for block in blocks] or [np.zeros(0, np.float32)])
    if len(wave) < wanted and (told.format != "MP3" or not len(wave)):  # whose length is sometimes an estimate
        raise Unreadable(where, "truncated sound", f"{len(wave):,} of {wanted:,} samples are there")
    if not np.isfinite(wave).all():
        raise Unreadable(where, "samples that are no numbers")
    if np.abs(wave).max() > LOUDEST:
        raise Unreadable(where, "samples out of range", f"{np.abs(wave).max():.3g}, where 1 is full scale")
    most = math.ceil(how.seconds * how.rate)
    return log_mels(resampled(wave, told.rate, how.rate)[:most], how)


def resampled(wave: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """float32 n at ``rate`` samples a second, at ``wanted`` ones; a polyphase filter, within 1 in a million of it."""
    if rate == wanted:
        return wave
    ratio = Fraction(wanted, rate).limit_denominator(1000)
    return resample_poly(wave, ratio.numerator, ratio.denominator).astype(np.float32)


def log_mels(wave: np.ndarray, how: Hearing) -> np.ndarray:
    """float32 n, full scale 1, at ``how.rate`` -> float32 t m, standardised.

    A window begins every hop; zeros fill the last one. Power is divided by the energy of the window, so that white
    noise has its variance in every bin, whatever the window.
    """
    size, window = transform(how), torch.hann_window(how.window)
    t = rows(len(wave), how.window, how.hop)
    signal = torch.from_numpy(np.ascontiguousarray(wave)).float()
    left = (size - how.window) // 2  # torch puts the window in the middle of what is transformed
    right = (t - 1) * how.hop + how.window - len(signal) + size - how.window - left
    signal = F.pad(signal - signal.mean(), (left, right))
    bins = torch.stft(signal, size, how.hop, how.window, window, center=False, return_complex=True)
    power = bins.abs().square() / window.square().sum()
    values = (filters(how.rate, size, how.mels) @ power).clamp_min(FLOOR).log()
    return ((values - how.mean) / how.std).T.contiguous().numpy()


def rows(samples: int, window: int, hop: int) -> int:
    """How many windows cover that many samples."""
    return 1 + max(0, math.ceil((samples - window) / hop))


def transform(how: Hearing) -> int:
    """Samples that are transformed, a power of two: the window and zeros, until every filter has a bin of its own."""
    edges = mel_edges(how.rate, how.mels)
    finest = float(np.diff(edges).min())
    return 2 ** math.ceil(math.log2(max(how.window, how.rate / finest)))


def mel_edges(rate: int, mels: int) -> np.ndarray:
    """Hz where the triangles begin, have their tops and end: mels + 2 of them, evenly spread in mel.

    mel = 2595 log10(1 + f / 700) (O'Shaughnessy 1987; HTK's book, sec. 5.4).
    """
    low, high = (2595 * np.log10(1 + f / 700) for f in (LOWEST, rate / 2))
    return 700 * (10 ** (np.linspace(low, high, mels + 2) / 2595) - 1)


@lru_cache(8)
def filters(rate: int, size: int, mels: int) -> Tensor:
    """m bins: triangles, 0 at one edge, 1 at the next, 0 at the one after it; each divided by its sum.

    So a band holds the mean power of its bins, and white noise is heard alike in all of them.
    """
    hz = np.arange(size // 2 + 1) * (rate / size)
    edges = mel_edges(rate, mels)[:, None]
    left, top, right = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.clip(np.minimum((hz - left) / (top - left), (right - hz) / (right - top)), 0, None)
    return torch.from_numpy(triangles / triangles.sum(axis=1, keepdims=True)).float()


def stacked(sounds: Sequence[np.ndarray], multiple: int = 1) -> Tensor:
    """Sounds t m as float32 b t m; NaN behind the end of the shorter ones, up to a multiple of rows."""
    assert sounds
    longest = max(len(sound) for sound in sounds)
    made = torch.full((len(sounds), math.ceil(longest / multiple) * multiple, sounds[0].shape[1]), torch.nan)
    for row, sound in zip(made, sounds, strict=True):
        row[: len(sound)] = torch.from_numpy(sound)
    return made


def tuned(sources: Iterable[Source], how: Hearing) -> Hearing:
    """``how`` with the rate, seconds, mean and std of these sounds, which are a sample of those to learn from.

    The rate is what most of them have, at most ``how.rate``; so long is heard that 99 of 100 are heard to their end, at
    most ``how.seconds``. Sounds that are unreadable count for nothing. Raises InputError where none is readable.
    """
    rates, lengths, readable = Counter(), [], []
    for source in sources:
        try:
            told = header(source)
        except Unreadable:
            continue
        rates[told.rate] += 1
        lengths.append(told.seconds)
        readable.append(source)
    if not readable:
        raise InputError("none of the sounds is readable")
    rate = min(max(rates.most_common(1)[0][0], RATES[0]), how.rate)
    seconds = min(math.ceil(100 * float(np.quantile(lengths, 0.99))) / 100, how.seconds)
    plain = how.replace(rate=rate, seconds=max(seconds, how.window_ms / 1000), mean=0.0, std=1.0)
    count = total = squares = 0.0
    for source in readable:
        try:
            values = heard(source, plain).astype(np.float64)
        except Unreadable:
            continue
        count, total, squares = count + values.size, total + values.sum(), squares + np.square(values).sum()
    if not count:
        raise InputError("none of the sounds is readable")
    mean = total / count
    return plain.replace(mean=round(mean, 4), std=round(max(math.sqrt(max(squares / count - mean**2, 0)), 1e-3), 4))


def _name(source: Source) -> str:
    return "the sound" if isinstance(source, bytes) else os.fspath(source)


@contextmanager
def _opened(source: Source) -> Iterator[tuple[soundfile.SoundFile, Header]]:
    """The one place where a file meets libsndfile: whatever it says comes out as Unreadable."""
    where, reason = _name(source), "not a sound file"
    with stream(source, where, FILE_BYTES) as raw:
        try:
            with soundfile.SoundFile(_Seekable(raw)) as file:
                reason = "broken sound"
                yield file, _told(file, where)
        except (soundfile.SoundFileError, soundfile.SoundFileRuntimeError) as error:
            told = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
            raise Unreadable(where, reason, told.strip()[:200]) from None


class _Seekable:
    """A file that stays where it is when a damaged header sends libsndfile before its beginning.

    An error there could not be raised through C, and would be printed.
    """

    def __init__(self, raw: Any):
        self.raw = raw
        self.tell, self.read, self.readinto = raw.tell, raw.read, raw.readinto

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of any file."""
        try:
            return self.raw.seek(offset, whence)
        except (ValueError, OSError):
            return self.raw.tell()


def _told(file: soundfile.SoundFile, where: str) -> Header:
    """The header, checked."""
    if file.format not in FORMATS:
        raise Unreadable(where, "not a sound file of a known kind", file.format)
    if file.frames < 1:
        raise Unreadable(where, "no samples")
    if not RATES[0] <= file.samplerate <= RATES[1]:
        raise Unreadable(where, "a rate that no sound has", f"{file.samplerate:,} samples a second")
    if file.channels > CHANNELS:
        raise Unreadable(where, f"over {CHANNELS} channels", str(file.channels))
    cut = re.search(r"(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", file.extra_info)
    if cut and int(cut[2]) < int(cut[1]) < 2**31 - 2**16:  # above: the length was not known when writing began
        raise Unreadable(where, "truncated sound", f"{int(cut[2]):,} of {int(cut[1]):,} bytes are there")
    return Header(file.format, file.samplerate, file.channels, file.frames)
