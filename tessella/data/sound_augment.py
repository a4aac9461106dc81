"""Sound augment: what is done to the log-mel frames of a sound before training sees them, each part by itself."""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field, model_validator

from tessella.errors import InputError
from tessella.spec import Spec, spec

GRAIN = np.float32(0.25)
"""Deviation of hiss from moment to moment: about one neper of power, where values are standardised."""


@spec("sound-augment")
class SoundAugment(Spec):
    """What is done to training sounds, in this order; 0 leaves a part out, ``SoundAugment()`` does nothing.

    ``tempo``: longer or shorter by a factor, log-uniform up to 1 + tempo either way. ``pitch``: bands moved up or down
    likewise, so that a voice becomes a smaller or larger one's (vocal tract length perturbation: Jaitly and Hinton
    2013). ``shift``: up to so many rows are cut from the beginning, or quiet ones put there. ``gain`` and ``colour``:
    deviations of a sum for all bands, and of a smooth curve over the bands that is added: loudness and microphone.
    ``hiss``: noise up to so far above the quietest value. Then SpecAugment (Park et al. 2019, sec. 2):
    ``mel_masks`` bands of up to ``mel_width`` and ``time_masks`` stretches of up to a share ``time_width`` of the rows
    become 0, which is the mean.
    """

    tempo: float = Field(0.0, ge=0, le=2)
    pitch: float = Field(0.0, ge=0, le=1)
    shift: int = Field(0, ge=0)
    gain: float = Field(0.0, ge=0)
    colour: float = Field(0.0, ge=0)
    hiss: float = Field(0.0, ge=0)
    mel_masks: int = Field(0, ge=0)
    mel_width: int = Field(8, ge=1)
    time_masks: int = Field(0, ge=0)
    time_width: float = Field(0.2, gt=0, le=1)

    @model_validator(mode="after")
    def _finite(self) -> SoundAugment:
        if not all(math.isfinite(value) for value in (self.gain, self.colour, self.hiss)):
            raise InputError("gain, colour and hiss must be finite")
        return self

    def changed(self, sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """float32 t m, standardised, to float32 t' m; every part draws from random numbers of its own."""
        tempo, pitch, shift, level, hiss, masks = rng.spawn(6)
        if self.tempo:
            sound = along_time(sound, factor(self.tempo, tempo))
        if self.pitch:
            sound = along_bands(sound, factor(self.pitch, pitch))
        if self.shift:
            sound = shifted(sound, int(shift.integers(-self.shift, self.shift + 1)))
        if self.gain or self.colour:
            sound = sound + np.float32(level.normal(0, self.gain)) + curve(sound.shape[1], self.colour, level)
        if self.hiss:
            floor = float(sound.min()) + hiss.uniform(0, self.hiss)
            sound = np.maximum(sound, np.float32(floor) + GRAIN * hiss.standard_normal(sound.shape, np.float32))
        return masked(sound, self, masks)


def factor(most: float, rng: np.random.Generator) -> float:
    """From 1 / (1 + most) to 1 + most, log-uniform."""
    return math.exp(rng.uniform(-1, 1) * math.log1p(most))


def curve(bands: int, size: float, rng: np.random.Generator) -> np.ndarray:
    """float32 m: cosines of a half to two periods over the bands, of deviations size, size / 2, size / 3, size / 4."""
    waves = np.arange(1, 5)[:, None]
    places = (np.arange(bands) + 0.5) / bands
    return ((rng.normal(0, size, (4, 1)) / waves) * np.cos(np.pi * waves * places)).sum(axis=0).astype(np.float32)


def along_time(sound: np.ndarray, times: float) -> np.ndarray:
    """t m -> t' m, that many times as long, at least one row; values between two rows are linear."""
    t = max(1, round(len(sound) * times))
    return _between(sound, np.linspace(0, len(sound) - 1, t))


def along_bands(sound: np.ndarray, times: float) -> np.ndarray:
    """t m: band i now holds what band i / times held; above the last there is what the last has."""
    m = sound.shape[1]
    places = np.clip(np.arange(m) / times, 0, m - 1)
    return _between(sound.T, places).T


def shifted(sound: np.ndarray, steps: int) -> np.ndarray:
    """So many rows of the quietest value of each band in front; or, below 0, so many of the first rows cut off."""
    if steps < 0:
        return sound[min(-steps, len(sound) - 1) :]
    quiet = np.broadcast_to(sound.min(axis=0), (steps, sound.shape[1]))
    return np.concatenate([quiet, sound])


def masked(sound: np.ndarray, how: SoundAugment, rng: np.random.Generator) -> np.ndarray:
    """A copy with bands and stretches of time set to 0, the mean."""
    sound = sound.copy()
    t, m = sound.shape
    for _ in range(how.mel_masks):
        width = int(rng.integers(0, min(how.mel_width, m) + 1))
        start = int(rng.integers(0, m - width + 1))
        sound[:, start : start + width] = 0
    for _ in range(how.time_masks):
        width = int(rng.integers(0, int(how.time_width * t) + 1))
        start = int(rng.integers(0, t - width + 1))
        sound[start : start + width] = 0
    return sound


def _between(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """n k at places between its rows."""
    low = np.floor(places).astype(np.int64)
    high = np.minimum(low + 1, len(rows) - 1)
    share = (places - low).astype(np.float32)[:, None]
    return rows[low] * (1 - share) + rows[high] * share
