"""Sounds: whatever a file holds, hearing gives finite log-mel frames or one plain reason, and a stem reads them."""

from __future__ import annotations

import io
import math
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella.data.pixels import Unreadable
from tessella.data.sound_augment import SoundAugment, along_bands, along_time, curve, shifted
from tessella.data.sounds import (
    FLOOR,
    LOWEST,
    Hearing,
    filters,
    header,
    heard,
    log_mels,
    mel_edges,
    resampled,
    rows,
    stacked,
    transform,
    tuned,
)
from tessella.errors import InputError
from tessella.heads import Classes
from tessella.models import Encoder
from tessella.positions import TimeAndPlace
from tessella.spec import from_dict, to_dict
from tessella.stems.frames import Frames
from tessella.trunks.plain import Plain

HOW = Hearing(rate=8000, seconds=1.0, mels=32)


def tone(hertz: float, seconds: float, rate: int, loud: float = 0.5) -> np.ndarray:
    return (loud * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def filed(wave: np.ndarray, rate: int = 8000, format: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=format, subtype=subtype)
    return file.getvalue()


def wav_header(samples: int, rate: int = 8000) -> bytes:
    """A header of 16-bit WAV that says how much follows."""
    size = 2 * samples
    return struct.pack(
        "<4sI8sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVEfmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", size
    )


# what the mathematics must obey


def test_filters_are_the_triangles_that_one_computes_by_hand():
    rate, size, mels = 1000, 1000, 3  # bins of 1 Hz
    low, high = 2595 * math.log10(1 + LOWEST / 700), 2595 * math.log10(1 + 500 / 700)
    edges = [700 * (10 ** ((low + (high - low) * i / 4) / 2595) - 1) for i in range(5)]
    np.testing.assert_allclose(mel_edges(rate, mels), edges)
    made = filters(rate, size, mels).double().numpy()
    for i in range(mels):
        left, top, right = edges[i : i + 3]
        wanted = np.zeros(501)
        for hz in range(501):
            if left < hz <= top:
                wanted[hz] = (hz - left) / (top - left)
            elif top < hz < right:
                wanted[hz] = (right - hz) / (right - top)
        np.testing.assert_allclose(made[i], wanted / wanted.sum(), atol=1e-7)


@pytest.mark.parametrize("rate, mels", [(8000, 32), (8000, 128), (16000, 64), (16000, 80), (48000, 256), (1000, 10)])
def test_every_filter_has_bins_of_its_own(rate, mels):
    made = filters(rate, transform(Hearing(rate=rate, mels=mels)), mels)
    assert torch.isfinite(made).all()
    torch.testing.assert_close(made.sum(dim=1), torch.ones(mels))


@pytest.mark.parametrize("hertz", [200.0, 440.0, 1000.0, 3000.0])
def test_a_tone_is_loudest_in_the_band_around_it(hertz):
    values = heard(filed(tone(hertz, 0.5, 8000)), HOW)
    tops = mel_edges(8000, 32)[1:-1]
    assert abs(int(values.mean(axis=0).argmax()) - int(np.abs(tops - hertz).argmin())) <= 1


def test_white_noise_has_its_variance_in_every_band():
    noise = np.random.default_rng(0).normal(0, 0.1, 80_000).astype(np.float32)
    power = np.exp(log_mels(noise, HOW.replace(seconds=10))).mean(axis=0)
    np.testing.assert_allclose(power[2:], 0.01, rtol=0.12)  # the lowest bands lose what lies at 0 Hz
    assert abs(power.mean() - 0.01) < 3e-4


def test_twice_as_loud_is_log_4_more_everywhere():
    wave = np.random.default_rng(1).normal(0, 0.05, 4000).astype(np.float32)
    np.testing.assert_allclose(log_mels(2 * wave, HOW) - log_mels(wave, HOW), math.log(4), atol=1e-4)


def test_an_offset_is_not_heard():
    wave = tone(500, 0.5, 8000, 0.1)
    np.testing.assert_allclose(log_mels(wave + np.float32(0.5), HOW), log_mels(wave, HOW), atol=0.02)


def test_silence_is_the_floor_and_nothing_less():
    np.testing.assert_allclose(heard(filed(np.zeros(4000, np.float32)), HOW), math.log(FLOOR), rtol=1e-6)


def test_rows_cover_every_sample_once_a_hop():
    window, hop = HOW.window, HOW.hop
    assert (window, hop) == (200, 80)
    assert [rows(n, window, hop) for n in (1, 200, 201, 280, 281)] == [1, 1, 2, 2, 3]
    wave = np.random.default_rng(2).normal(0, 0.1, 200 + 7 * 80).astype(np.float32)
    wave -= wave.mean()
    frame, hann = wave[3 * 80 : 3 * 80 + 200].astype(np.float64), np.hanning(201)[:-1]
    power = np.abs(np.fft.rfft(frame * hann, transform(HOW))) ** 2 / (hann**2).sum()
    wanted = np.log(np.maximum(filters(8000, transform(HOW), 32).double().numpy() @ power, FLOOR))
    np.testing.assert_allclose(log_mels(wave, HOW)[3], wanted, atol=1e-3)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 44099])
def test_a_tone_is_the_same_at_any_rate(rate):
    made = resampled(tone(700, 0.5, rate), rate, 8000)
    assert abs(len(made) - 4000) <= 1
    np.testing.assert_allclose(made[200:3800], tone(700, 0.5, 8000)[200:3800], atol=5e-3)


def test_what_the_wanted_rate_cannot_hold_is_filtered_out():
    assert np.abs(resampled(tone(6000, 0.5, 16000), 16000, 8000)[100:-100]).max() < 0.01


# whatever a file holds


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_rates_and_channels(rate, channels):
    wave = np.repeat(tone(440, 0.3, rate)[:, None], channels, axis=1)
    values = heard(filed(wave, rate), HOW)
    assert values.dtype == np.float32 and values.shape[1] == 32
    assert abs(len(values) - rows(2400, HOW.window, HOW.hop)) <= 1
    alone = heard(filed(tone(440, 0.3, rate), rate), HOW)
    np.testing.assert_allclose(values, alone, atol=1e-3)


@pytest.mark.parametrize(
    "format, subtype, atol",
    [
        ("WAV", "PCM_U8", 2.0),
        ("WAV", "PCM_24", 1e-3),
        ("WAV", "PCM_32", 1e-3),
        ("WAV", "FLOAT", 1e-3),
        ("WAV", "DOUBLE", 1e-3),
        ("WAV", "ULAW", 2.0),
        ("FLAC", None, 0.05),
        ("OGG", None, 2.0),
        ("MP3", None, 4.0),
        ("AIFF", None, 0.05),
        ("AU", None, 0.05),
        ("RF64", None, 0.05),
        ("W64", None, 0.05),
    ],
)
def test_formats_and_depths(format, subtype, atol):
    noise = np.random.default_rng(3).normal(0, 0.1, 8000).astype(np.float32)
    wanted = log_mels(noise, HOW)
    values = heard(filed(noise, 8000, format, subtype), HOW)
    lossy = format in ("MP3", "OGG")
    assert np.abs(values.mean() - wanted.mean()) < (0.7 if lossy else 0.1)
    if not lossy:
        np.testing.assert_allclose(values, wanted, atol=atol)


def test_a_path_and_its_bytes_are_heard_alike(tmp_path):
    path = tmp_path / "tone.wav"
    path.write_bytes(filed(tone(440, 0.3, 8000)))
    np.testing.assert_array_equal(heard(path, HOW), heard(path.read_bytes(), HOW))
    np.testing.assert_array_equal(heard(str(path), HOW), heard(path, HOW))


@pytest.mark.parametrize("samples", [1, 2, 199, 200, 201])
def test_sounds_shorter_than_a_window(samples):
    values = heard(filed(np.full(samples, 0.3, np.float32)), HOW)
    assert np.isfinite(values).all() and len(values) == rows(samples, HOW.window, HOW.hop)


def test_the_first_seconds_of_a_longer_sound_are_heard():
    noise = np.random.default_rng(4).normal(0, 0.1, 24_000).astype(np.float32)
    long, short = heard(filed(noise), HOW), heard(filed(noise[:8000]), HOW)
    np.testing.assert_array_equal(long, short)
    assert len(long) == HOW.frames
    assert header(filed(noise)).seconds == 3.0 > HOW.seconds


@pytest.mark.parametrize("rate", [11025, 44100, 7999])
def test_no_sound_has_more_rows_than_told(rate):
    how = HOW.replace(seconds=0.4375)
    assert len(heard(filed(tone(440, 2, rate), rate), how)) <= how.frames


def test_two_hours_cost_nothing(tmp_path):
    """The file is sparse: its header and length are real, and nobody reads what follows."""
    path, samples = tmp_path / "long.wav", 7200 * 8000
    with path.open("wb") as file:
        file.write(wav_header(samples))
        file.truncate(44 + 2 * samples)
    tracemalloc.start()
    with pytest.raises(Unreadable, match=r"long\.wav is not usable: over 600 s long \(7,200 s\)") as refused:
        heard(path, HOW)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    assert refused.value.reason == "over 600 s long"
    values = heard(path, HOW.replace(longest=10_000))
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert len(values) == HOW.frames


NAN, INFINITE = np.full(100, np.nan, np.float32), np.full(100, np.inf, np.float32)
BAD = {
    "no samples": filed(np.zeros(0, np.float32)),
    "empty file": b"",
    "not a sound file": b"this is text, renamed to .wav" * 30,
    "samples that are no numbers": filed(NAN, subtype="FLOAT"),
    "samples out of range": filed(np.full(100, 1e30, np.float32), subtype="FLOAT"),
    "truncated sound": filed(tone(440, 1, 8000))[:9000],
    "a rate that no sound has": filed(tone(440, 1, 8000), 10),
    "over 64 channels": filed(np.zeros((10, 65), np.float32)),
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_files_have_one_plain_reason(reason):
    with pytest.raises(Unreadable) as refused:
        heard(BAD[reason], HOW)
    assert refused.value.reason == reason
    assert "\n" not in str(refused.value)


def test_more_bad_files(tmp_path):
    for made in (filed(INFINITE, subtype="FLOAT"), filed(np.stack([NAN, np.zeros_like(NAN)], 1), subtype="FLOAT")):
        with pytest.raises(Unreadable, match="samples that are no numbers"):
            heard(made, HOW)
    with pytest.raises(Unreadable, match="no such file"):
        heard(tmp_path / "absent.wav", HOW)
    with pytest.raises(Unreadable, match="no regular file"):
        heard(tmp_path, HOW)
    noise = np.random.default_rng(5).normal(0, 0.1, 8000).astype(np.float32)
    for format in ("FLAC", "OGG", "AIFF", "AU"):
        whole = filed(noise, format=format)
        with pytest.raises(Unreadable, match=r"truncated sound|broken sound|not a sound file|no samples"):
            heard(whole[: len(whole) // 2], HOW)


def test_a_file_whose_length_was_not_known_when_it_was_begun_is_heard():
    """As programs write that send a sound on while it is made: sizes of 2^32 - 1."""
    made = bytearray(filed(tone(440, 0.3, 8000)))
    wanted = heard(bytes(made), HOW)
    made[4:8] = made[40:44] = b"\xff\xff\xff\xff"
    np.testing.assert_array_equal(heard(bytes(made), HOW), wanted)


FILES = [filed(tone(440, 0.05, 8000), format=format) for format in ("WAV", "FLAC", "OGG", "AIFF")]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FILES), st.data())
def test_damaged_files_are_heard_or_unreadable(whole, data):
    place = data.draw(st.integers(0, len(whole) - 1))
    junk = data.draw(st.binary(max_size=40))
    try:
        values = heard(whole[:place] + junk + whole[place + len(junk) :], HOW)
    except Unreadable:
        return
    assert np.isfinite(values).all() and 1 <= len(values) <= HOW.frames


@pytest.mark.parametrize(
    "field, value, told",
    [
        ("mels", 0, "mels"),
        ("std", 0.0, "std"),
        ("mean", math.nan, "finite"),
        ("hop_ms", 0.01, "less than a sample"),
        ("seconds", 700.0, "longest is 600.0 s"),
        ("rate", 10, "rate"),
    ],
)
def test_what_is_no_way_to_hear_is_refused(field, value, told):
    with pytest.raises(InputError, match=told):
        HOW.replace(**{field: value})


def test_hearing_survives_json():
    assert from_dict(to_dict(HOW)) == HOW


# many sounds


def test_shorter_sounds_are_filled_with_nan():
    made = stacked([np.ones((3, 2), np.float32), np.zeros((5, 2), np.float32)], multiple=4)
    assert made.shape == (2, 8, 2)
    assert made.isnan().all(dim=2).sum(dim=1).tolist() == [5, 3]
    assert made[0, :3].eq(1).all() and made[1, :5].eq(0).all()


def test_tuned_finds_rate_length_and_level():
    rng = np.random.default_rng(6)
    sounds = [filed(rng.normal(0, 0.1, n).astype(np.float32)) for n in (2000, 3000, 4000)]
    how = tuned([*sounds, b"no sound", filed(tone(440, 1, 44100), 44100)], Hearing(mels=32))
    assert how.rate == 8000 and 0.9 < how.seconds <= 1
    assert tuned([filed(tone(440, 1, 44100), 44100)], Hearing()).rate == 16000
    values = np.concatenate([heard(s, tuned(sounds, Hearing(mels=32))) for s in sounds])
    assert abs(values.mean()) < 1e-2 and abs(values.std() - 1) < 1e-2
    with pytest.raises(InputError, match="none of the sounds is readable"):
        tuned([b"no sound"], Hearing())
    assert math.isfinite(tuned([filed(np.zeros(4000, np.float32))], Hearing()).std)


# augmentation


SOUND = np.random.default_rng(7).normal(0, 1, (50, 32)).astype(np.float32)
ALL = SoundAugment(tempo=0.3, pitch=0.2, shift=5, gain=0.5, colour=0.3, hiss=1, mel_masks=2, time_masks=2)


def test_augment_does_nothing_unless_told():
    np.testing.assert_array_equal(SoundAugment().changed(SOUND, np.random.default_rng(0)), SOUND)


def test_augment_is_a_pure_function_of_its_numbers():
    before = SOUND.copy()
    one, two = (ALL.changed(SOUND, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(SOUND, before)
    assert one.dtype == np.float32 and np.isfinite(one).all()
    assert not np.array_equal(one, ALL.changed(SOUND, np.random.default_rng(4))[: len(one)])


@pytest.mark.parametrize("length", [1, 2, 3])
def test_augment_of_the_shortest(length):
    for seed in range(20):
        made = ALL.changed(SOUND[:length], np.random.default_rng(seed))
        assert len(made) >= 1 and made.shape[1] == 32 and np.isfinite(made).all()


def test_stretching_moves_what_is_there():
    np.testing.assert_allclose(along_time(SOUND, 1.0), SOUND, atol=1e-6)
    slope = np.arange(10, dtype=np.float32)[:, None] * np.ones(4, np.float32)
    np.testing.assert_allclose(along_time(slope, 2.0)[:, 0], np.linspace(0, 9, 20), atol=1e-5)
    bands = np.zeros((1, 16), np.float32)
    bands[0, 4] = 1
    assert along_bands(bands, 2.0)[0].argmax() == 8
    assert along_bands(bands, 0.5)[0].argmax() == 2
    np.testing.assert_allclose(along_bands(SOUND, 1.0), SOUND, atol=1e-6)


def test_a_colour_is_smooth_and_as_strong_as_told():
    drawn = np.stack([curve(32, 0.5, np.random.default_rng(seed)) for seed in range(200)])
    wanted = 0.5 * math.sqrt(sum(1 / k**2 for k in range(1, 5)) / 2)
    assert abs(drawn.std() - wanted) < 0.05 and abs(drawn.mean(axis=1)).max() < 1e-6
    assert np.abs(np.diff(drawn, axis=1)).max() < np.ptp(drawn, axis=1).max() / 4
    assert not curve(32, 0.0, np.random.default_rng(0)).any()


def test_shifting_cuts_or_waits():
    np.testing.assert_array_equal(shifted(SOUND, -3), SOUND[3:])
    np.testing.assert_array_equal(shifted(SOUND, 3)[3:], SOUND)
    assert (shifted(SOUND, 3)[:3] == SOUND.min(axis=0)).all()
    assert len(shifted(SOUND, -500)) == 1


def test_masks_are_as_wide_as_allowed():
    how, widths = SoundAugment(mel_masks=1, mel_width=5, time_masks=1, time_width=0.1), set()
    for seed in range(60):
        made = how.changed(SOUND + 10, np.random.default_rng(seed))
        gone = made == 0
        bands, times = int(gone.all(axis=0).sum()), int(gone.all(axis=1).sum())
        assert bands <= 5 and times <= 5
        widths.add((bands > 0, times > 0))
    assert (True, True) in widths


# the stem


def stem(**changes):
    torch.manual_seed(0)
    return Frames(dim=16, mels=32, patch=(4, 8), length=40, **changes).build().eval()


@pytest.mark.parametrize("special", [0, 1])
def test_a_patch_is_a_token(special):
    tokens = stem(special=special)(torch.randn(2, 38, 32))
    assert tokens.x.shape == (2, special + 10 * 4, 16)
    assert tokens.grid == (10, 4) and tokens.keep.all()


def test_a_token_is_its_patch_through_one_layer_and_its_place():
    made, sound = stem(), torch.randn(1, 12, 32)
    changed = sound.clone()
    changed[0, 4:8, 16:24] += 1
    different = (made(changed).x != made(sound).x).any(dim=2)[0].nonzero().flatten().tolist()
    assert different == [1 * 4 + 2]
    patch = sound[0, 4:8, 16:24].flatten()
    alone = made.patch.weight.flatten(1) @ patch + made.patch.bias
    placed = alone + made.positions.time.table[1] + made.positions.place[2]
    torch.testing.assert_close(made(sound).x[0, 6], placed, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("special", [0, 1])
@pytest.mark.parametrize("length", [1, 4, 13, 40])
def test_padding_is_invisible(special, length):
    made, sound = stem(special=special), torch.randn(2, length, 32)
    padded = torch.cat([sound, torch.full((2, 90 - length, 32), torch.nan)], dim=1)
    alone, beside = made(sound), made(padded)
    kept = special + -(-length // 4) * 4
    assert beside.keep.sum(dim=1).tolist() == [kept, kept] and beside.keep[:, :kept].all()
    assert torch.isfinite(beside.x).all()
    torch.testing.assert_close(beside.x[:, :kept], alone.x, atol=1e-6, rtol=1e-6)


def test_padding_is_invisible_to_a_whole_model():
    torch.manual_seed(0)
    model = Encoder(
        stem=Frames(dim=16, mels=32, patch=(4, 8), special=1),
        trunk=Plain(dim=16, depth=2, heads=2, hidden=32),
        head=Classes(dim=16, classes=3),
    )
    assert from_dict(to_dict(model)) == model
    built, sounds = model.build().eval(), [SOUND, SOUND[:7], SOUND[:1]]
    together = built(stacked(sounds, multiple=16))
    for i, sound in enumerate(sounds):
        torch.testing.assert_close(built(stacked([sound]))[0], together[i], atol=1e-5, rtol=1e-5)


def test_nothing_but_padding_keeps_one_token():
    tokens = stem()(torch.full((2, 9, 32), torch.nan))
    assert tokens.keep.sum(dim=1).tolist() == [1, 1] and torch.isfinite(tokens.x).all()
    assert stem()(torch.zeros(2, 0, 32)).keep.sum(dim=1).tolist() == [1, 1]


def test_gradients_are_finite_beside_padding():
    made = stem(special=1)
    made(stacked([SOUND, SOUND[:3]])).x.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in made.parameters())


def test_longer_sounds_than_it_was_made_for_are_welcome():
    assert stem()(torch.randn(1, 4000, 32)).grid == (1000, 4)


def test_a_moment_has_its_place_in_any_length():
    positions = TimeAndPlace().build(8, (5, 3), 1).eval()
    long, short = torch.zeros(1, 1 + 400 * 3, 8), torch.zeros(1, 1 + 2 * 3, 8)
    torch.testing.assert_close(positions(long, (400, 3))[:, :7], positions(short, (2, 3)))
    assert positions(short, (2, 3))[:, 0].eq(0).all()


def test_wrong_shapes_are_refused():
    with pytest.raises(InputError, match="64 mel bands are not tiled by patches of 16 x 10"):
        from_dict({"kind": "frames", "dim": 8, "mels": 64, "patch": [16, 10]})
    with pytest.raises(InputError, match="a sound of 40 mel bands for a model of 32"):
        stem()(torch.zeros(1, 8, 40))
